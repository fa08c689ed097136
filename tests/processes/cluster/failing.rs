//! README.md "Durability" on real processes: a sync that fails ends the storage node with a sentence, and all that was
//! acknowledged is there when it starts again. The failures come from failpoints, which only builds for tests have.

use manyfs::types::BlockHash;

use super::Caller;
use crate::support::{Cluster, run, wait_for};

/// A cluster of one node whose syncs of this kind fail, after some that did not.
fn failing(failpoint: &str) -> Cluster {
    let mut cluster = Cluster::founded(1);
    cluster.succeed(&["volume", "create", "before"]);
    assert_eq!(cluster.nodes[0].stop(), Some(0));
    cluster.nodes[0].start_with(&[("FAILPOINTS", failpoint)]);
    cluster
}

/// The node's end: a sentence, and a code that says that it failed.
fn ended(cluster: &mut Cluster) {
    assert_eq!(cluster.nodes[0].ended(), Some(1), "{}", cluster.nodes[0].log());
    let log = cluster.nodes[0].log();
    assert!(log.lines().any(|line| line.starts_with("manyfs: ") && line.contains("could not be synced")), "{log}");
}

/// Makes volumes until the node has ended; those that were acknowledged.
fn acknowledged(cluster: &mut Cluster) -> Vec<String> {
    let mut volumes = vec!["main".to_owned(), "before".to_owned()];
    let servers = cluster.servers();
    wait_for("the node to end", || {
        let name = format!("v{}", volumes.len());
        let made = run(&cluster.arguments(&["volume", "create", &name], &servers));
        if made.status.success() {
            volumes.push(name);
        }
        (!made.status.success() && cluster.nodes[0].has_ended()).then_some(())
    });
    volumes
}

/// Starts the node again, without failpoints: what it has.
fn restarted(cluster: &mut Cluster) -> Vec<String> {
    cluster.nodes[0].start();
    cluster.leader(|_| true);
    cluster.volumes()
}

#[test]
fn a_failed_sync_of_the_log_ends_the_node_and_loses_nothing_acknowledged() {
    let mut cluster = failing("store-log-sync=12*off->return");
    let made = acknowledged(&mut cluster);
    ended(&mut cluster);
    let found = restarted(&mut cluster);
    assert!(found.starts_with(&made), "{found:?} does not begin with {made:?}");
    // What was on its way may have arrived, no more.
    assert!(found.len() <= made.len() + 1, "{found:?} is more than {made:?} and one");
}

#[test]
fn a_failed_sync_of_the_state_ends_the_node_and_loses_nothing_acknowledged() {
    let mut cluster = failing("store-state-flush=1*off->return");
    let made = acknowledged(&mut cluster);
    ended(&mut cluster);
    let found = restarted(&mut cluster);
    assert!(found.starts_with(&made), "{found:?} does not begin with {made:?}");
}

#[test]
fn a_failed_sync_of_a_pack_ends_the_node_and_acknowledges_no_block() {
    let mut cluster = failing("store-pack-sync=2*off->return");
    cluster.leader(|_| true);
    let address = cluster.nodes[0].client.clone();
    let credential = cluster.credential("main", &[]);
    let caller = Caller::new(&credential);
    caller.attach(1, &address).expect("attached");
    let blocks: [&'static [u8]; 3] = [b"first", b"second", b"third"];
    let store = |bytes| caller.store(&address, bytes, BlockHash::of(bytes));
    assert_eq!((store(blocks[0]), store(blocks[1])), (Ok(()), Ok(())));
    assert!(store(blocks[2]).is_err());
    ended(&mut cluster);
    cluster.nodes[0].start();
    cluster.leader(|_| true);
    let caller = Caller::new(&credential);
    wait_for("the blocks", || {
        let fetch = |bytes: &[u8]| caller.fetch(&address, BlockHash::of(bytes));
        (fetch(blocks[0]).ok()? == blocks[0] && fetch(blocks[1]).ok()? == blocks[1]).then_some(())
    });
}
