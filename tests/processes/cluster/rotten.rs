//! README.md "Integrity" on real processes: a block that rots on one node's disk is found by the scrub and comes back
//! from the peers.

use std::{fs, os::unix::fs::FileExt};

use super::mounted::{Mounted, apart, content};
use crate::support::{self, Cluster, wait_for};

fn metric(cluster: &Cluster, node: usize, name: &str) -> Option<u64> {
    let page = support::get(&cluster.nodes[node].http, "/metrics")?;
    page.lines().find_map(|line| line.strip_prefix(&format!("manyfs_{name}_total ")))?.trim().parse().ok()
}

#[test]
fn a_rotten_block_is_found_and_fetched_from_a_peer() {
    apart(|| {
        let cluster = Cluster::founded(3);
        let mounted = Mounted::new(&cluster);
        // In an entry, so that every node has it and something names it.
        mounted.write("file", 1, 5000).expect("written");
        let bytes = content(1, 5000);
        let victim = (cluster.leader(|_| true) + 1) % 3;
        let find = || {
            let dir = fs::read_dir(cluster.nodes[victim].data.join("packs")).expect("readable");
            dir.map(|entry| entry.expect("readable").path()).find_map(|path| {
                let pack = fs::read(&path).expect("readable");
                let at = pack.windows(bytes.len()).position(|window| window == bytes)?;
                Some((path, at as u64))
            })
        };
        let (pack, at) = wait_for("the block in a pack", find);
        let file = fs::File::options().write(true).open(&pack).expect("ours");
        file.write_all_at(&[!bytes[0]], at).expect("written");
        file.sync_all().expect("synced");
        assert_eq!(metric(&cluster, victim, "damages"), Some(0), "nobody has looked yet");

        cluster.succeed(&["scrub"]);
        wait_for("the damage to be found", || (metric(&cluster, victim, "damages")? == 1).then_some(()));
        wait_for("the block to be fetched", || (metric(&cluster, victim, "blocks_filled")? == 1).then_some(()));
        assert!(find().is_some(), "the block is not whole in any pack");
        assert!(cluster.nodes[victim].log().contains("the block is missing here"), "{}", cluster.nodes[victim].log());
        wait_for("all passes to end", || (0..3).all(|node| metric(&cluster, node, "scrubs") == Some(1)).then_some(()));
        // It is whole now.
        cluster.succeed(&["scrub"]);
        wait_for("another pass", || (metric(&cluster, victim, "scrubs")? == 2).then_some(()));
        assert_eq!(metric(&cluster, victim, "damages"), Some(1));
        let status = cluster.status().expect("answers");
        let node = &status["nodes"][victim];
        assert!(node["damages"] == 1 && node["scrubbed_ms"].is_u64() && node["space_available"].is_u64(), "{status}");
        let problem = format!("node {} found 1 damaged block or record", victim + 1);
        assert!(cluster.succeed(&["status"]).contains(&problem) && status["health"] == "warning", "{status}");
    });
}
