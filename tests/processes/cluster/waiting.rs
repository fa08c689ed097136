//! A mount of a cluster that has lost its majority.

use std::{fs, process::Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Cluster, manyfs, path, wait_for};

#[test]
fn a_mount_says_that_there_is_no_leader() {
    let mut cluster = Cluster::founded(3);
    let (credential, at) = (cluster.dir.path().join("main.toml"), cluster.dir.path().join("mnt"));
    cluster.succeed(&["credential", "create", "--out", path(&credential)]);
    fs::create_dir(&at).expect("made");
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    let (log, last) = (cluster.dir.path().join("mnt.log"), cluster.nodes[2].client.clone());
    let mut command = manyfs(&["mount", "--credential", path(&credential), path(&at)]);
    let log_file = fs::File::create(&log).expect("a log");
    let mut mount = command.stdout(Stdio::null()).stderr(log_file).spawn().expect("the program starts");
    let said = |words: &str| {
        let text = fs::read_to_string(&log).expect("readable");
        text.lines().filter(|line| line.contains("nothing is mounted yet: ") && line.contains(words)).count()
    };
    let no_leader = format!("{last} knows no leader: more than half of the storage nodes have to run");
    wait_for("the reasons", || (said(&no_leader) > 0 && said("nothing listens at") >= 2).then_some(()));
    kill(Pid::from_raw(mount.id().cast_signed()), Signal::SIGTERM).expect("it runs");
    let ended = wait_for("the mount to end", || mount.try_wait().expect("a child"));
    assert_eq!(ended.code(), Some(143), "as a shell has it for SIGTERM");
    assert_eq!((said(&no_leader), said("nothing listens at")), (1, 2), "once each");
}
