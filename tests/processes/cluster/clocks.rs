//! README.md "Times" on real processes: wall clocks that are set while the nodes run, by a failpoint which only builds
//! for tests have.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, time::SystemTime};

use super::mounted::{Mounted, apart};
use crate::support::{Cluster, get, path, wait_for};

const DAYS_30: i64 = 30 * 24 * 3600;

/// A cluster each of whose clocks is ahead by the seconds in a file, and these files.
fn cluster(count: usize) -> (Cluster, Vec<PathBuf>) {
    let mut cluster = Cluster::founded(count);
    let mut files = Vec::new();
    for at in 0..count {
        let file = cluster.dir.path().join(format!("clock{at}"));
        fs::write(&file, "0").expect("written");
        let failpoint = format!("wall-clock-ahead=return({})", path(&file));
        cluster.nodes[at].kill();
        cluster.nodes[at].start_with(&[("FAILPOINTS", &failpoint)]);
        cluster.leader(|_| true);
        files.push(file);
    }
    cluster.agreed();
    (cluster, files)
}

fn set(clock: &PathBuf, ahead: i64) {
    // Never half written.
    let new = clock.with_extension("new");
    fs::write(&new, ahead.to_string()).expect("written");
    fs::rename(new, clock).expect("renamed");
}

fn jumps(cluster: &Cluster, node: usize) -> u64 {
    let status = cluster.status().expect("answers");
    status["nodes"][node]["clock_jumps"].as_u64().unwrap_or(0)
}

/// Makes a directory, and a file that the mount stamps itself; by how many seconds they are off.
fn stamped(mounted: &Mounted, name: &str) -> Vec<i64> {
    let directory = mounted.path.join(name);
    fs::create_dir(&directory).expect("mkdir");
    fs::write(directory.join("file"), name).expect("written");
    let truth = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("this century").as_secs();
    let off = |seconds: i64| seconds - i64::try_from(truth).expect("this century");
    let of = |path: PathBuf| fs::metadata(path).map(|about| [off(about.mtime()), off(about.ctime())]).expect("stat");
    [of(directory.clone()), of(directory.join("file"))].concat()
}

#[test]
fn files_have_the_right_times_though_one_clock_is_wrong() {
    apart(|| {
        let (cluster, clocks) = cluster(3);
        let mounted = Mounted::new(&cluster);
        let leader = cluster.leader(|_| true);
        let mut steps = Vec::new();
        for victim in [leader, (leader + 1) % 3] {
            for ahead in [DAYS_30, 0, -DAYS_30, 0] {
                steps.push((victim, ahead));
            }
        }
        for (number, (victim, ahead)) in steps.into_iter().enumerate() {
            let before = jumps(&cluster, victim);
            set(&clocks[victim], ahead);
            let off = stamped(&mounted, &format!("at once {number}"));
            assert!(off.iter().all(|off| off.abs() < 60), "{off:?} s, node {victim} is {ahead} s ahead");
            wait_for("the node to notice", || (jumps(&cluster, victim) > before).then_some(()));
            let off = stamped(&mounted, &format!("then {number}"));
            assert!(off.iter().all(|off| off.abs() < 60), "{off:?} s, node {victim} is {ahead} s ahead");
        }
    });
}

#[test]
fn a_leader_whose_clock_is_set_says_so_and_gives_leadership_to_a_better_clock() {
    let (cluster, clocks) = cluster(3);
    let wrong = cluster.leader(|_| true);
    set(&clocks[wrong], DAYS_30);
    wait_for("status to count the jump", || (jumps(&cluster, wrong) == 1).then_some(()));
    let better = cluster.leader(|leader| leader != wrong);
    let log = cluster.nodes[wrong].log();
    let said = |sentence: &str| log.lines().filter(|line| line.contains("WARN") && line.contains(sentence)).count();
    assert_eq!(said("the clock of this node was set 2592000."), 1, "{log}");
    assert_eq!(said("the clock of this node is wrong"), 1, "{log}");
    let status = cluster.status().expect("answers");
    let ahead = status["nodes"][wrong]["clock_ahead_ms"].as_i64().expect("a number") / 1000;
    assert!((ahead - DAYS_30).abs() <= 1, "{status}");
    assert!(cluster.succeed(&["status"]).contains("clock was set once"));
    let metrics = get(&cluster.nodes[wrong].http, "/metrics").expect("answers");
    assert!(metrics.contains("manyfs_clock_jumps_total 1"), "{metrics}");

    set(&clocks[wrong], 0);
    wait_for("status to count the way back", || (jumps(&cluster, wrong) == 2).then_some(()));
    wait_for("the log to say so", || cluster.nodes[wrong].log().contains("is right again").then_some(()));
    assert_eq!(cluster.leader(|_| true), better);
}

#[test]
fn a_node_that_is_alone_says_each_jump_of_its_clock() {
    let (cluster, clocks) = cluster(1);
    for (count, ahead) in [(1, -DAYS_30), (2, 0)] {
        set(&clocks[0], ahead);
        wait_for("status to count the jump", || (jumps(&cluster, 0) == count).then_some(()));
    }
    let log = cluster.nodes[0].log();
    assert_eq!(log.matches("this node is the only voter, so files are stamped by it").count(), 2, "{log}");
}
