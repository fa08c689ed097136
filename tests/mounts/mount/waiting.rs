//! A mount whose cluster does not answer says why, and can be ended.

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    process::{Command, Stdio},
};

use manyfs::pki::{Authority, Credential};
use nix::sys::signal::{Signal, kill};

use crate::support::{Cluster, PROGRAM, is_mounted, manyfs, wait_for};

/// A credential of `cluster` that names other servers.
fn credential(cluster: &Cluster, servers: &[String]) -> std::path::PathBuf {
    let path = cluster.path().join("elsewhere.toml");
    let own = Credential::load(&cluster.path().join("main.toml")).expect("a credential");
    let authority = Authority::load(&cluster.path().join("authority.toml")).expect("an authority");
    authority.issue_mount(own.grant, servers.to_vec()).expect("issued").save(&path).expect("written");
    path
}

#[test]
fn it_says_why_for_each_server_and_once() {
    let (cluster, other) = (Cluster::found(), Cluster::found());
    let servers = [
        "no-such-host.invalid:7440".to_owned(),
        format!("{}:1", cluster.address),
        format!("{}:7440", other.address),
        format!("{}:7442", other.address),
    ];
    let point = cluster.mount_point();
    let log = cluster.path().join("waiting.log");
    let mut mount = manyfs(["mount", "--credential"])
        .arg(credential(&cluster, &servers))
        .arg(&point)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("writable"))
        .spawn()
        .expect("manyfs starts");
    let said = |words: &str| {
        let text = fs::read_to_string(&log).expect("readable");
        text.lines().filter(|line| line.contains("nothing is mounted yet") && line.contains(words)).count()
    };
    let reasons = ["cannot be resolved", "nothing listens at", "belongs to another cluster", "does not speak TLS"];
    for reason in reasons {
        wait_for(reason, || (said(reason) > 0).then_some(()));
    }
    kill(nix::unistd::Pid::from_raw(mount.id().cast_signed()), Signal::SIGINT).expect("it runs");
    let ended = wait_for("the mount to end", || mount.try_wait().expect("a child"));
    // It was 0, and a script went on without its files.
    assert_eq!(ended.code(), Some(130), "as a shell has it for SIGINT");
    for reason in reasons {
        assert_eq!(said(reason), 1, "{reason}: {}", fs::read_to_string(&log).expect("readable"));
    }
    assert!(!is_mounted(&point));
}

/// A name server that does not answer takes longer than a mount waits for a server.
#[test]
fn a_name_that_is_slow_to_resolve_is_said_to_be() {
    let cluster = Cluster::found();
    let _deaf = UdpSocket::bind((cluster.address, 53)).expect("an address of our own");
    let resolver = cluster.path().join("resolv.conf");
    fs::write(&resolver, format!("nameserver {}\n", cluster.address)).expect("written");
    let point = cluster.mount_point();
    let log = cluster.path().join("waiting.log");
    let script = format!(
        "mount --bind {} /etc/resolv.conf && exec {PROGRAM} mount --credential {} {}",
        resolver.display(),
        credential(&cluster, &["slow.example:7440".to_owned()]).display(),
        point.display()
    );
    let mut mount = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("writable"))
        .spawn()
        .expect("unshare starts");
    let said = |what| fs::read_to_string(&log).expect("readable").contains(what);
    wait_for("the reason", || said("its name is still being resolved").then_some(()));
    kill(nix::unistd::Pid::from_raw(mount.id().cast_signed()), Signal::SIGTERM).expect("it runs");
    let ended = wait_for("the mount to end", || mount.try_wait().expect("a child"));
    assert_eq!(ended.code(), Some(143), "as a shell has it for SIGTERM");
    assert!(!said("reads are answered"), "nothing was mounted that could be read");
}

/// A mount that has lost its cluster says why in its log, and nothing while it is well.
#[test]
fn a_mount_that_is_cut_off_says_why() {
    let cluster = Cluster::found();
    let mount = cluster.mount();
    let log = |mount: &Path| {
        let name = mount.file_name().expect("a name").to_str().expect("text");
        fs::read_to_string(cluster.path().join(format!("{name}.log"))).expect("readable")
    };
    assert!(!log(&mount.path).contains("no leader answers"));
    cluster.kill_node();
    wait_for("the reason", || log(&mount.path).contains("no leader answers: nothing listens at").then_some(()));
    cluster.start_node();
    mount.wait_for_lease();
    mount.stop();
}
