//! What `status` says of a whole cluster, of one that has lost nodes and of one that was never founded.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Cluster, manyfs, run, text, wait_for};

/// The first line and the exit code of `status --check`.
fn check(cluster: &Cluster) -> (String, Option<i32>) {
    let output = run(&cluster.arguments(&["status", "--check"], &cluster.servers()));
    let text = text(&output.stdout);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    (text.lines().next().unwrap_or_default().to_owned(), output.status.code())
}

/// Waits until `--check` ends with `code` and a headline that has these words.
fn wait_until(cluster: &Cluster, code: i32, words: &str) {
    wait_for(words, || {
        let (headline, found) = check(cluster);
        (headline.contains(words) && found == Some(code)).then_some(())
    });
}

#[test]
fn the_headline_and_the_exit_code_say_how_a_cluster_does() {
    let blank = Cluster::blank(1);
    wait_until(&blank, 4, "NOT FOUNDED: 1 node waits");
    drop(blank);
    let mut cluster = Cluster::founded(3);
    wait_until(&cluster, 0, "HEALTHY: 3 of 3 nodes");
    cluster.nodes[0].kill();
    wait_until(&cluster, 3, "DEGRADED: 2 of 3 nodes, no further loss is tolerated");
    cluster.nodes[1].kill();
    wait_until(&cluster, 4, "NO QUORUM for ");
    cluster.nodes[2].kill();
    wait_until(&cluster, 4, "NO ANSWER");
}

#[test]
fn watch_looks_again_and_again_and_ends_with_0() {
    let cluster = Cluster::founded(1);
    let servers = cluster.servers();
    let arguments = cluster.arguments(&["status", "--watch"], &servers);
    let mut watch = manyfs(&arguments).stdout(Stdio::piped()).spawn().expect("the program starts");
    let lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines().map(|line| line.expect("text"));
    let headlines = lines.filter(|line| line.starts_with("HEALTHY")).take(2);
    assert_eq!(headlines.count(), 2);
    // The pipe was closed: the next look has no reader.
    assert!(watch.wait().expect("waited for").success());

    let mut watch = manyfs(&arguments).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut first = String::new();
    let mut output = BufReader::new(watch.stdout.take().expect("a pipe"));
    output.read_line(&mut first).expect("text");
    assert!(!first.contains('\u{1b}'), "{first}");
    kill(Pid::from_raw(watch.id().try_into().expect("a pid")), Signal::SIGINT).expect("sent");
    assert_eq!(watch.wait().expect("waited for").code(), Some(0));
}
