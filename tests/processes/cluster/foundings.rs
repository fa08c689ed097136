//! Several `cluster init` of the same blank nodes at the same moment: two people, or a job that is started twice.

use std::{env, process::Stdio};

use crate::support::{Cluster, manyfs, path, run, text, wait_for};

/// Rounds of each kind; `MANYFS_TEST_ROUNDS` takes another number.
const ROUNDS: u64 = 2;

/// Two that named the nodes in different orders each prepared the first of its own: both failed, and no third got on before a
/// person had wiped a node.
#[test]
fn two_foundings_at_once_make_one_cluster() {
    let rounds = env::var("MANYFS_TEST_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number"));
    let (mut first, mut later) = (0, 0);
    for round in 0..2 * rounds {
        let cluster = Cluster::blank(3);
        let forward = cluster.servers();
        let mut nodes: Vec<&str> = forward.split(',').collect();
        if round % 2 == 0 {
            nodes.reverse();
        }
        let orders = [forward.clone(), nodes.join(",")];
        let init = |order| ["cluster", "init", "--authority", path(&cluster.authority), "--nodes", order];
        let started = orders.each_ref().map(|order| {
            let mut command = manyfs(&init(order));
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
        });
        for child in started {
            let output = child.wait_with_output().expect("waited for");
            let said = text(&output.stderr);
            assert!(output.status.success() || said.lines().any(|line| line.starts_with("manyfs: ")), "{said}");
            first += u32::from(output.status.success());
        }
        // Whoever comes again finds what is founded, or founds it.
        let again = orders.each_ref().map(|order| run(&init(order)));
        let said = again.each_ref().map(|output| text(&output.stderr));
        assert!(again.iter().any(|output| output.status.success()), "round {round}: {said:?}");
        later += again.iter().filter(|output| output.status.success()).count();
        wait_for("three nodes of one cluster", || {
            let status = cluster.status()?;
            let takes_part = |node: &serde_json::Value| node["digest"].is_string();
            status["nodes"].as_array()?.iter().all(takes_part).then_some(())
        });
        cluster.leader(|_| true);
        // The founding is a part of it.
        cluster.agreed();
        assert_eq!(cluster.volumes(), ["main"]);
    }
    println!("of {} at once {first} founded, of as many behind them {later}", 4 * rounds);
}

/// Three nodes that know of each other became three clusters of one authority: each was founded alone, at the same moment.
#[test]
fn nodes_that_know_of_each_other_are_founded_together_or_not_at_all() {
    let cluster = Cluster::blank(3);
    let all = cluster.servers();
    let nodes: Vec<&str> = all.split(',').collect();
    let init = |nodes: &str| run(&["cluster", "init", "--authority", path(&cluster.authority), "--nodes", nodes]);
    for part in [nodes[0], nodes[2]] {
        let output = init(part);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains("which the founding leaves out"), "{part}: {said}");
    }
    // Who knows of fewer takes no part in more.
    let mut cluster = cluster;
    let last = &mut cluster.nodes[2];
    last.stop();
    last.peers = nodes[1..].join(",");
    last.start();
    let init = |nodes: &str| run(&["cluster", "init", "--authority", path(&cluster.authority), "--nodes", nodes]);
    let said = wait_for("the node to answer", || {
        let said = text(&init(&all).stderr);
        said.contains("was not told with --peers").then_some(said)
    });
    assert!(said.contains(nodes[0]), "{said}");
}
