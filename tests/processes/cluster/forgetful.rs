//! A node with an older copy of its own data: restored from a backup, or begun beside the original.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::support::{Cluster, Node, get, path, run, wait_for};

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", path(from), path(to)]).status().expect("cp is there");
    assert!(copied.success());
}

/// A cluster of three, one of which does not lead and was copied before the others went on.
fn copied() -> (Cluster, usize) {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader(|_| true);
    let victim = (leader + 1) % 3;
    cluster.succeed(&["volume", "create", "before"]);
    cluster.agreed();
    cluster.nodes[victim].stop();
    copy(&cluster.nodes[victim].data, &cluster.dir.path().join("backup"));
    cluster.nodes[victim].start();
    wait_for("the node to follow again", || {
        cluster.status().filter(|status| status["nodes"][victim]["state"] == "follower")
    });
    for at in 0..5 {
        cluster.succeed(&["volume", "create", &format!("later-{at}")]);
    }
    cluster.agreed();
    (cluster, victim)
}

fn warnings<'a>(log: &'a str, what: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains("WARN") && line.contains(what)).collect()
}

/// It took its place as if nothing had happened, or the leader refused it with ten lines a second until another led.
#[test]
fn a_node_that_is_restored_from_a_backup_says_so_and_is_refilled() {
    let (mut cluster, victim) = copied();
    let other = (victim + 1) % 3;
    cluster.nodes[victim].kill();
    fs::remove_dir_all(&cluster.nodes[victim].data).expect("deleted");
    copy(&cluster.dir.path().join("backup"), &cluster.nodes[victim].data);
    // One of the others knows; alone it cannot refill anybody.
    cluster.nodes[other].kill();
    let lines = cluster.nodes[victim].log().lines().count();
    cluster.nodes[victim].start();
    wait_for("the restored node to be forgetful", || {
        cluster.status().filter(|status| status["nodes"][victim]["state"] == "forgetful")
    });
    let ready = get(&cluster.nodes[victim].http, "/readyz").expect("it listens");
    assert!(ready.contains("503") && ready.contains("older than what it had promised"), "{ready}");
    // Whoever led steps down when it has heard nobody for as long as an election takes.
    wait_for("the leader to step down", || cluster.status().filter(|status| status["leader"].is_null()));
    for _ in 0..20 {
        let status = cluster.status().expect("answers");
        assert_eq!(status["nodes"][victim]["state"], "forgetful");
        assert_eq!(status["leader"], Value::Null, "nobody leads with the vote of a node that forgot its last one");
    }
    let log = cluster.nodes[victim].log();
    assert_eq!(warnings(&log, "older than what it had promised").len(), 1, "{log}");
    assert!(log.lines().count() < lines + 60, "it says too much: {log}");

    cluster.nodes[other].start();
    wait_for("the restored node to follow", || {
        cluster.status().filter(|status| status["nodes"][victim]["state"] == "follower")
    });
    cluster.agreed();
    wait_for("the restored node to be ready", || {
        get(&cluster.nodes[victim].http, "/readyz").filter(|ready| ready.contains("200 OK"))
    });
    // From here on it counts like any other.
    cluster.nodes[other].kill();
    wait_for("the other two to lead", || cluster.status().filter(|status| status["quorum"] == true));
    cluster.succeed(&["volume", "create", "last"]);
    assert_eq!(cluster.volumes().len(), 8);
}

#[test]
fn a_copy_that_is_begun_beside_its_original_is_not_let_in() {
    let (mut cluster, victim) = copied();
    let leader = cluster.leader(|_| true);
    let mut twin = Node::new(cluster.dir.path(), "twin", &cluster.authority);
    copy(&cluster.dir.path().join("backup"), &twin.data);
    twin.start();
    wait_for("the leader to notice", || {
        (!warnings(&cluster.nodes[leader].log(), "a second process says").is_empty()).then_some(())
    });
    let state = |client: &str| {
        let output = run(&cluster.arguments(&["status", "--json"], client));
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        status["nodes"][0]["state"].as_str().map(str::to_owned)
    };
    assert_eq!(state(&twin.client).as_deref(), Some("waiting"));
    let ready = get(&twin.http, "/readyz").expect("it listens");
    assert!(ready.contains("503") && ready.contains("greeted"), "{ready}");
    for at in 0..5 {
        cluster.succeed(&["volume", "create", &format!("beside-{at}")]);
        let status = cluster.status().expect("answers");
        assert_eq!(status["nodes"][victim]["state"], "follower", "the original is not disturbed");
    }
    assert_eq!(state(&twin.client).as_deref(), Some("waiting"));
    assert_eq!(warnings(&cluster.nodes[leader].log(), "a second process says").len(), 1);
    twin.kill();
    cluster.agreed();
    assert_eq!(cluster.nodes[victim].stop(), Some(0));
}
