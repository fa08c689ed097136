//! README.md "Bounds" on real processes: file systems of a few hundred megabytes run full below a mounted cluster.

use std::{fs, io};

use nix::mount::{MsFlags, mount};

use super::mounted::{Mounted, apart};
use crate::support::{self, Cluster, wait_for};

/// A cluster whose nodes have file systems of these sizes, in megabytes.
fn founded_on(sizes: &[u32]) -> Cluster {
    Cluster::founded_on(sizes.len(), |node, data| {
        fs::create_dir(data).expect("made");
        let options = format!("size={}m", sizes[node]);
        mount(Some("tmpfs"), data, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("our own namespace");
    })
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

fn short_of_space(cluster: &Cluster) -> Option<Vec<bool>> {
    let status = cluster.status()?;
    status["nodes"].as_array()?.iter().map(|node| node["short_of_space"].as_bool()).collect()
}

fn has_metric(http: &str, line: &str) -> bool {
    support::get(http, "/metrics").is_some_and(|page| page.contains(&format!("\nmanyfs_{line}\n")))
}

const LARGE: usize = 4 << 20;
/// Travels in its entry.
const SMALL: usize = 60_000;

/// "One full node stops no write."
#[test]
fn one_full_node_stops_no_write_and_comes_back_when_files_are_deleted() {
    apart(|| {
        let mut cluster = founded_on(&[160, 400, 400]);
        let mounted = Mounted::new(&cluster);
        // The small one leads: it has to give that up.
        cluster.succeed(&["cluster", "transfer-leader", "--to", "1"]);
        cluster.leader(|leader| leader == 0);
        let large = 44;
        for number in 0..large {
            mounted.write(&format!("large {number}"), number, LARGE).expect("two nodes have space");
        }
        // Uploads stop by themselves; what travels in entries goes on until the node takes no more.
        let mut small = 0;
        while short_of_space(&cluster).as_deref() != Some(&[true, false, false]) {
            for number in small..small + 50 {
                mounted.write(&format!("small {number}"), 1000 + number, SMALL).expect("two nodes have space");
            }
            small += 50;
            assert!(small < 1500, "90 MB of small files do not fit beside {large} large ones: {:?}", cluster.status());
        }
        assert!(has_metric(&cluster.nodes[0].http, "node_short_of_space 1"));
        assert!(cluster.nodes[0].log().contains("short of space"), "{}", cluster.nodes[0].log());
        cluster.leader(|leader| leader != 0);
        for number in 0..20 {
            mounted.write(&format!("late {number}"), 2000 + number, SMALL).expect("two nodes have space");
            mounted.write(&format!("late large {number}"), 3000 + number, 100_000).expect("two nodes have space");
        }
        // It lives, and does so after a restart too.
        cluster.nodes[0].kill();
        cluster.nodes[0].start();
        wait_for("the full node to follow", || {
            cluster.status().filter(|status| status["nodes"][0]["state"] == "follower")
        });
        for number in 0..large {
            fs::remove_file(mounted.path.join(format!("large {number}"))).expect("deleted");
        }
        wait_for("the node to have space again", || (short_of_space(&cluster)? == [false, false, false]).then_some(()));
        cluster.agreed();
        for node in &cluster.nodes {
            // What was not uploaded to it came from its peers.
            wait_for("all blocks", || has_metric(&node.http, "blocks_missing 0").then_some(()));
        }
        assert!(mounted.holds("small 0", 1000, SMALL) && mounted.holds("late large 19", 3019, 100_000));
    });
}

/// "A majority of full disks is ENOSPC, and leaves the tree as it was"; and a full file system can be emptied.
#[test]
fn a_full_majority_refuses_content_and_can_be_emptied() {
    apart(|| {
        let cluster = founded_on(&[192, 192, 192]);
        let mounted = Mounted::new(&cluster);
        let mut stored = 0;
        let refused = loop {
            match mounted.write(&format!("large {stored}"), stored, LARGE) {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(is_full(&refused), "{refused}");
        assert!((10..48).contains(&stored), "{stored} files of 4 MiB in 192 MiB");
        let refused = wait_for("small content to be refused", || {
            mounted.write("small", 1, SMALL).err().map(|error| (is_full(&error), error))
        });
        assert!(refused.0, "{}", refused.1);
        let refused = fs::create_dir(mounted.path.join("directory")).expect_err("no space for a name either");
        assert!(is_full(&refused), "{refused}");
        // The tree is as it was.
        assert!(!mounted.path.join("directory").exists());
        assert!(
            mounted.holds("large 0", 0, LARGE) && mounted.holds(&format!("large {}", stored - 1), stored - 1, LARGE)
        );
        cluster.agreed();
        // And it can be emptied, in every way there is.
        let file = fs::File::options().write(true).open(mounted.path.join("large 0")).expect("there");
        file.set_len(1000).expect("it gives space back");
        fs::rename(mounted.path.join("large 1"), mounted.path.join("large 2")).expect("it gives space back");
        for number in 2..stored {
            fs::remove_file(mounted.path.join(format!("large {number}"))).expect("it gives space back");
        }
        wait_for("space", || {
            let written = mounted.write("again", 7, LARGE);
            assert!(written.as_ref().err().is_none_or(is_full), "{written:?}");
            written.ok()
        });
        assert!(mounted.holds("again", 7, LARGE));
        cluster.agreed();
    });
}
