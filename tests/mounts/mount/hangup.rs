//! SIGHUP, which daemons are told with to read their settings again. It ended a storage node at once, and unmounted.

use std::{
    fs::{self, File},
    process::Stdio,
};

use nix::sys::signal::{Signal, kill};

use crate::support::{Cluster, is_mounted, manyfs, wait_for};

#[test]
fn it_changes_the_log_level_and_ends_nothing() {
    let cluster = Cluster::found();
    let config = cluster.path().join("manyfs.toml");
    fs::write(&config, "log = 'info'\nlog-format = 'json'\n").expect("written");
    let mut mount = cluster.mount_with(&["--config", config.to_str().expect("text")]);
    let lines = || -> Vec<serde_json::Value> {
        let log = fs::read_to_string(cluster.path().join("mnt1.log")).expect("a log");
        let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON: {error}: {line}"));
        log.lines().map(line).collect()
    };
    let said = |words: &str| {
        let is_it = |line: &&serde_json::Value| {
            line["fields"]["message"].as_str().is_some_and(|message| message.contains(words))
        };
        lines().iter().filter(is_it).count()
    };
    let changes = [("debug", "the log level is debug"), ("=,=", "everything stays as it is")];
    for (level, sentence) in changes {
        fs::write(&config, format!("log = '{level}'\nlog-format = 'json'\n")).expect("written");
        kill(mount.pid(), Signal::SIGHUP).expect("it runs");
        wait_for(sentence, || (said(sentence) > 0).then_some(()));
    }
    assert!(lines().iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()));

    cluster.signal_node(Signal::SIGHUP);
    let node = || fs::read_to_string(cluster.path().join("node.log")).expect("a log");
    wait_for("the node to say so", || node().contains("SIGHUP: the log level is info").then_some(()));
    fs::write(mount.path.join("f"), "both live").expect("write");
    assert!(is_mounted(&mount.path));
    kill(mount.pid(), Signal::SIGTERM).expect("it runs");
    assert_eq!(mount.ended(), Some(0));
    // Holder and worker are two processes, and one mount.
    assert_eq!(changes.map(|(_, sentence)| said(sentence)), [1, 1]);
}

/// Why a command failed is a line of the log, too.
#[test]
fn a_failure_is_json_where_the_log_is() {
    let directory = tempfile::tempdir().expect("tempdir");
    let log = directory.path().join("log");
    let status = manyfs(["mount", "--log-format=json", "--credential=/nowhere/c.toml", "/nowhere"])
        .stdin(Stdio::null())
        .stderr(File::create(&log).expect("writable"))
        .status()
        .expect("manyfs runs");
    assert_eq!(status.code(), Some(1));
    let text = fs::read_to_string(&log).expect("readable");
    let line: serde_json::Value = serde_json::from_str(&text).expect("one line of JSON");
    assert_eq!(line["level"], "ERROR");
    assert!(line["fields"]["message"].as_str().is_some_and(|message| message.contains("/nowhere/c.toml")), "{text}");
}
