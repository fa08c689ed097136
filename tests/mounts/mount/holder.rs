//! A holder in a container of its own, and a worker that connects to it.

use std::{fs, process::Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Cluster, Mount, is_mounted, manyfs, wait_for};

#[test]
fn a_worker_connects_to_its_holder() {
    let cluster = Cluster::found();
    let point = cluster.mount_point();
    let socket = cluster.path().join("holder.sock");
    let holder = manyfs(["hold", "--json", "--socket"])
        .arg(&socket)
        .arg("--mount")
        .arg(&point)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the holder starts");
    wait_for("the holder to listen", || socket.exists().then_some(()));
    assert!(!is_mounted(&point), "nothing is mounted that nobody answers");
    let mut worker = manyfs(["mount", "--credential"])
        .arg(cluster.path().join("main.toml"))
        .arg("--holder")
        .arg(&socket)
        .stdin(Stdio::null())
        .spawn()
        .expect("the worker starts");
    let mut mount = Mount::ready(&point, holder, || {});
    assert_eq!(mount.worker(), Pid::from_raw(worker.id().cast_signed()));
    fs::write(point.join("f"), "through both").expect("write");
    let other = cluster.mount();
    assert_eq!(fs::read(other.path.join("f")).expect("read"), b"through both");
    kill(mount.pid(), Signal::SIGTERM).expect("it runs");
    assert_eq!(mount.ended(), Some(0));
    assert_eq!(wait_for("the worker to end", || worker.try_wait().expect("a child")).code(), Some(0));
    assert!(!is_mounted(&point) && !socket.exists());
}
