//! How a mount ends.

use std::fs::{self, File};

use nix::{
    libc,
    sys::signal::{Signal, kill},
};

use crate::support::{Cluster, errno, is_mounted, manyfs, succeed, wait_for};

#[test]
fn sigterm_and_ctrl_c_end_it_in_order() {
    let cluster = Cluster::found();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut mount = cluster.mount();
        fs::write(mount.path.join("f"), signal.as_str()).expect("write");
        kill(mount.pid(), signal).expect("it runs");
        assert_eq!(mount.ended(), Some(0));
        assert!(!is_mounted(&mount.path));
        assert!(kill(mount.worker(), None).is_err(), "the worker is gone too");
        assert!(!cluster.path().join("mnt1.json").exists(), "the run file went with it");
    }
    let mount = cluster.mount();
    assert_eq!(fs::read_to_string(mount.path.join("f")).expect("read"), "SIGINT", "nothing was lost");
    mount.stop();
}

#[test]
fn unmount_ends_the_processes_and_loses_nothing() {
    let cluster = Cluster::found();
    let mut mount = cluster.mount();
    let mut file = File::create(mount.path.join("f")).expect("create");
    std::io::Write::write_all(&mut file, b"not synced").expect("write");
    let refused = manyfs(["unmount"]).arg(&mount.path).output().expect("manyfs runs");
    assert!(!refused.status.success());
    let sentence = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(sentence.contains("are open"), "{sentence}");
    assert!(is_mounted(&mount.path));
    drop(file);
    succeed(manyfs(["unmount"]).arg(&mount.path));
    assert!(!is_mounted(&mount.path));
    assert_eq!(mount.ended(), Some(0));
    let again = cluster.mount();
    assert_eq!(fs::read(again.path.join("f")).expect("read"), b"not synced");
}

/// It said that files were open.
#[test]
fn a_mount_inside_is_named_and_nothing_changes() {
    let cluster = Cluster::found();
    let mut mount = cluster.mount();
    let inside = mount.path.join("cache");
    fs::create_dir(&inside).expect("mkdir");
    nix::mount::mount(Some("x"), &inside, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).expect("a tmpfs");
    let refused = manyfs(["unmount"]).arg(&mount.path).output().expect("manyfs runs");
    let sentence = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(sentence.contains(&format!("tmpfs is mounted at {}", inside.display())), "{sentence}");
    assert!(is_mounted(&mount.path) && is_mounted(&inside));
    nix::mount::umount(&inside).expect("umount");
    succeed(manyfs(["unmount"]).arg(&mount.path));
    assert_eq!(mount.ended(), Some(0));
}

#[test]
fn umount_by_others_ends_it_too() {
    let cluster = Cluster::found();
    let mut mount = cluster.mount();
    fs::write(mount.path.join("f"), "x").expect("write");
    nix::mount::umount(&mount.path).expect("umount");
    assert_eq!(mount.ended(), Some(0));
}

#[test]
fn files_that_are_open_do_not_keep_the_processes() {
    let cluster = Cluster::found();
    let mut mount = cluster.mount();
    let mut file = File::create(mount.path.join("f")).expect("create");
    std::io::Write::write_all(&mut file, b"written before the end").expect("write");
    kill(mount.pid(), Signal::SIGTERM).expect("it runs");
    assert_eq!(mount.ended(), Some(0));
    assert!(!is_mounted(&mount.path));
    assert_eq!(errno(file.sync_all()), libc::ENOTCONN);
    drop(file);
    let again = cluster.mount();
    assert_eq!(fs::read(again.path.join("f")).expect("read"), b"written before the end");
}

#[test]
fn a_dead_mount_left_by_a_crash_is_detached_and_mounted_again() {
    let cluster = Cluster::found();
    let mut mount = cluster.mount();
    fs::write(mount.path.join("f"), "survives").expect("write");
    // Both at once, so that neither can clean up after the other.
    kill(mount.pid(), Signal::SIGSTOP).expect("it runs");
    kill(mount.worker(), Signal::SIGKILL).expect("it runs");
    kill(mount.pid(), Signal::SIGKILL).expect("it runs");
    assert_eq!(mount.ended(), None, "by a signal");
    assert!(is_mounted(&mount.path));
    wait_for("the mount to be dead", || (errno_of_statfs(&mount.path) == Some(libc::ENOTCONN)).then_some(()));
    let again = cluster.mount_at(&mount.path, &cluster.path().join("main.toml"), &[]);
    assert_eq!(fs::read(again.path.join("f")).expect("read"), b"survives");
    again.stop();
}

#[test]
fn dead_mounts_are_swept_away_and_living_ones_left() {
    let cluster = Cluster::found();
    let (mut dead, alive, stopped) = (cluster.mount(), cluster.mount(), cluster.mount());
    kill(stopped.worker(), Signal::SIGSTOP).expect("it runs");
    kill(dead.pid(), Signal::SIGSTOP).expect("it runs");
    kill(dead.worker(), Signal::SIGKILL).expect("it runs");
    kill(dead.pid(), Signal::SIGKILL).expect("it runs");
    assert_eq!(dead.ended(), None, "by a signal");
    wait_for("the mount to be dead", || (errno_of_statfs(&dead.path) == Some(libc::ENOTCONN)).then_some(()));
    succeed(manyfs(["unmount", "--dead"]).arg(cluster.path()));
    assert!(!is_mounted(&dead.path));
    assert!(is_mounted(&alive.path) && is_mounted(&stopped.path));
    kill(stopped.worker(), Signal::SIGCONT).expect("it runs");
    fs::write(stopped.path.join("f"), "both live on").expect("write");
    assert_eq!(fs::read_to_string(alive.path.join("f")).expect("read"), "both live on");
    // Nothing to do is no error; a place that is not there is.
    succeed(manyfs(["unmount", "--dead"]).arg(cluster.path()));
    assert!(!manyfs(["unmount", "--dead"]).arg(cluster.path().join("none")).output().expect("runs").status.success());
}

#[test]
fn a_worker_that_is_killed_takes_the_mount_away_with_a_sentence() {
    let cluster = Cluster::found();
    let mut mount = cluster.mount();
    kill(mount.worker(), Signal::SIGKILL).expect("it runs");
    assert_eq!(mount.ended(), Some(1));
    assert!(!is_mounted(&mount.path));
    let log = fs::read_to_string(cluster.path().join("mnt1.log")).expect("a log");
    assert!(log.contains("the worker ended"), "{log}");
}

#[test]
fn a_holder_that_is_killed_leaves_no_worker() {
    let cluster = Cluster::found();
    let mut mount = cluster.mount();
    fs::write(mount.path.join("f"), "x").expect("write");
    kill(mount.pid(), Signal::SIGKILL).expect("it runs");
    assert_eq!(mount.ended(), None, "by a signal");
    wait_for("the worker to end", || kill(mount.worker(), None).is_err().then_some(()));
}

fn errno_of_statfs(path: &std::path::Path) -> Option<i32> {
    nix::sys::statfs::statfs(path).err().map(|errno| errno as i32)
}
