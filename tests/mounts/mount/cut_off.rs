//! A mount whose cluster is gone for a while.

use std::{
    fs::{self, File},
    io::Write,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::signal::{Signal, kill},
};

use crate::support::{Cluster, errno, is_mounted, wait_for};

#[test]
fn reads_go_on_and_changes_fail_after_their_time_and_go_on_by_themselves() {
    let cluster = Cluster::found();
    let mount = cluster.mount_with(&["--write-timeout", "2"]);
    fs::write(mount.path.join("f"), "before").expect("write");
    cluster.kill_node();
    let begun = Instant::now();
    assert_eq!(errno(fs::create_dir(mount.path.join("d"))), libc::EIO);
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(10), "{waited:?}");
    assert_eq!(fs::read(mount.path.join("f")).expect("read"), b"before");
    assert_eq!(fs::read_dir(&mount.path).expect("readdir").count(), 1);
    assert_eq!(errno(fs::metadata(mount.path.join("none"))), libc::ENOENT);
    let mut file = File::options().append(true).open(mount.path.join("f")).expect("open");
    let written = file.write_all(b"lost").and_then(|()| file.sync_all());
    assert_eq!(errno(written), libc::EIO, "what is not synced does not look so");
    cluster.start_node();
    wait_for("changes to go on", || fs::create_dir(mount.path.join("again")).ok());
    assert!(mount.path.join("again").is_dir());
}

#[test]
fn a_mount_without_its_cluster_ends_in_order() {
    let cluster = Cluster::found();
    let mut mount = cluster.mount();
    fs::write(mount.path.join("f"), "synced").expect("write");
    cluster.kill_node();
    kill(mount.pid(), Signal::SIGTERM).expect("it runs");
    assert_eq!(mount.ended(), Some(0), "nothing was left to flush");
    assert!(!is_mounted(&mount.path));
}

#[test]
fn a_change_that_waits_does_not_keep_the_mount() {
    let cluster = Cluster::found();
    let mut mount = cluster.mount_with(&["--write-timeout", "3"]);
    cluster.kill_node();
    let path = mount.path.join("d");
    let waiting = std::thread::spawn(move || errno(fs::create_dir(path)));
    wait_for("the change to wait", || (mount.report()["requests_unanswered"] == 1).then_some(()));
    kill(mount.pid(), Signal::SIGTERM).expect("it runs");
    mount.ended();
    assert!(!is_mounted(&mount.path));
    let errno = waiting.join().expect("no panic");
    assert!([libc::EIO, libc::ENOTCONN, libc::ECONNABORTED].contains(&errno), "{errno}");
}

#[test]
fn a_mount_that_never_found_its_cluster_mounts_nothing() {
    let cluster = Cluster::found();
    let point = cluster.mount_point();
    cluster.kill_node();
    let mut process = crate::support::manyfs(["mount", "--credential"])
        .arg(cluster.path().join("main.toml"))
        .arg(&point)
        .stdin(std::process::Stdio::null())
        .spawn()
        .expect("the mount process starts");
    let pid = nix::unistd::Pid::from_raw(process.id().cast_signed());
    // The worker is there, and looks for the cluster.
    let children = format!("/proc/{pid}/task/{pid}/children");
    wait_for("the worker", || fs::read_to_string(&children).ok().filter(|text| !text.is_empty()));
    assert!(!is_mounted(&point));
    fs::read_dir(&point).expect("nobody hangs");
    kill(pid, Signal::SIGTERM).expect("it runs");
    let status = wait_for("the mount process to end", || process.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(143));
    assert!(!is_mounted(&point));
}

/// README.md "Availability": with `--when-disconnected=block` reads wait.
#[test]
fn reads_of_a_mount_that_blocks_wait_until_its_cluster_is_back() {
    let cluster = Cluster::found();
    let mount = cluster.mount_with(&["--when-disconnected", "block"]);
    fs::write(mount.path.join("f"), "content").expect("write");
    cluster.kill_node();
    wait_for("the mount to be cut off", || (mount.report()["cut_off"] == true).then_some(()));
    let (path, (seen, sight)) = (mount.path.join("f"), std::sync::mpsc::channel());
    let reader = std::thread::spawn(move || seen.send(fs::read(path).expect("read")));
    assert!(sight.recv_timeout(Duration::from_millis(500)).is_err(), "it waits");
    cluster.start_node();
    assert_eq!(sight.recv_timeout(Duration::from_secs(60)).expect("it goes on"), b"content");
    reader.join().expect("no panic").expect("somebody listens");
}
