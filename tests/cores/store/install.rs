//! Snapshots that are installed: killed at any moment of it a node comes back, and a log that lost its tail still does not
//! pass for one that a snapshot has overtaken.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use manyfs::{
    message::log::LogBatch,
    node::Recovered,
    storage::{self, Options, StorageError, StorageEvent},
    types::{LogIndex, Term},
};
use tempfile::tempdir;

use crate::store::{
    facade::{copy_all, replace},
    recorder::Dice,
    support::{Machine, Open, TERM, content, create, log_batch, log_entry, open, try_open},
};

/// Tells the test below that it is the process to be killed, and in which directory.
const DIRECTORY: &str = "MANYFS_TEST_STORE_THAT_INSTALLS";
/// Moments at which a process is killed; `MANYFS_TEST_MOMENTS` takes another number.
const MOMENTS: u64 = 40;
/// Files in each snapshot: its rows are several batches of the store's.
const FILES: u64 = 400;
/// Entries from one snapshot to the next.
const DISTANCE: u64 = 1000;
/// Entries that are applied behind every second snapshot.
const FOLLOWING: u64 = 3;

/// The state of snapshot `number`; each has one file that no other has.
fn snapshot_of(number: u64, machine: &mut Machine) {
    machine.index = LogIndex(number * DISTANCE - 1);
    machine.make_file(&format!("snapshot {number}"));
}

fn base() -> Machine {
    let (mut machine, _) = Machine::new();
    for file in 0..FILES {
        machine.make_file(&format!("file {file}"));
    }
    machine
}

fn follow(machine: &mut Machine) -> manyfs::message::log::StateBatch {
    let name = format!("behind {}", machine.index);
    machine.make_file(&name).1
}

fn vote(number: u64) -> Bytes {
    content(number, 40)
}

/// As the replica does where the state lies ahead of the log.
fn begins_anew(recovered: &Recovered) -> bool {
    let last = recovered.entries.last().map_or(recovered.compacted.0, |entry| entry.index);
    last < recovered.state_index
}

fn reset(number: u64, to: LogIndex, hard_state: Option<Bytes>) -> LogBatch {
    LogBatch { number, reset: Some((to, TERM)), hard_state, ..LogBatch::default() }
}

/// Not a test of its own: the process that the test below kills. Without the variable there is nothing to do.
#[test]
fn the_process_that_is_killed() {
    let Some(dir) = env::var_os(DIRECTORY) else { return };
    let (open, recovered) = open(Path::new(&dir));
    let mut batch = 0;
    let mut log = |open: &Open, next: LogBatch| {
        batch += 1;
        open.storage.log().submit(LogBatch { number: batch, ..next });
        open.wait_for_log(batch);
    };
    if begins_anew(&recovered) {
        log(&open, reset(0, recovered.state_index, recovered.hard_state.clone()));
    }
    let base = base();
    for number in recovered.state_index.0 / DISTANCE + 1.. {
        let mut machine = Machine { state: base.state.clone(), ..base };
        snapshot_of(number, &mut machine);
        println!("\nbegins {number}");
        open.storage.state().submit(machine.snapshot());
        open.wait_for_state(machine.index);
        log(&open, reset(0, machine.index, Some(vote(number))));
        println!("\ninstalled {number}");
        for _ in 0..FOLLOWING * (number % 2) {
            log(&open, log_batch(0, vec![log_entry(machine.index.0 + 1, TERM.0, "behind it")]));
            open.storage.state().submit(follow(&mut machine));
        }
    }
}

#[test]
fn a_process_that_is_killed_while_it_installs_a_snapshot_comes_back() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let moments = env::var("MANYFS_TEST_MOMENTS").map_or(MOMENTS, |text| text.parse().expect("a number"));
    let (base, mut dice) = (base(), Dice::new(11));
    let mut installed = 0;
    // How long an installation takes here.
    let mut longest = Duration::from_millis(20);
    let mut apart = 0;
    for moment in 0..moments {
        let mut child = Command::new(env::current_exe().expect("this test"))
            .args(["store::install::the_process_that_is_killed", "--exact", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test runs again");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut next = || {
            lines.by_ref().map(|line| line.expect("text")).find_map(|line| {
                let (word, number) = line.split_once(' ')?;
                Some((word == "installed", number.parse::<u64>().ok()?))
            })
        };
        // Two whole installations, and the kill in the third.
        let mut begun = None;
        let mut count = 0;
        while count < 3 {
            let (ends, number) = next().unwrap_or_else(|| panic!("moment {moment}: the process ended by itself"));
            if ends {
                installed = number;
                longest = longest.max(begun.take().map_or(Duration::ZERO, |begun: Instant| begun.elapsed()));
            } else {
                begun = Some(Instant::now());
                count += 1;
            }
        }
        thread::sleep(longest.mul_f64(dice.below(1000) as f64 / 900.0).saturating_sub(Duration::from_micros(500)));
        child.kill().expect("ours");
        while let Some((ends, number)) = next() {
            installed = if ends { number } else { installed };
        }
        child.wait().expect("ours");

        let (open, recovered) = try_open(dir.path(), Options::default())
            .unwrap_or_else(|error| panic!("moment {moment}, snapshot {installed} was installed: {error}"));
        let (number, behind) = (recovered.state_index.0 / DISTANCE, recovered.state_index.0 % DISTANCE);
        assert!(number >= installed, "moment {moment}: {number}, installed was {installed}");
        let mut machine = Machine { state: base.state.clone(), ..base };
        snapshot_of(number, &mut machine);
        for _ in 0..behind {
            follow(&mut machine);
        }
        assert_eq!(recovered.state.digest(), machine.state.digest(), "moment {moment}: {}", recovered.state_index);
        let votes = [installed, number].map(|number| Some(vote(number)));
        assert!(votes.contains(&recovered.hard_state), "moment {moment}: another vote than that of {installed}");
        apart += u64::from(begins_anew(&recovered));
        drop(open);
        assert!(storage::check(dir.path()).expect("readable").is_whole(), "moment {moment}");
    }
    println!("{moments} moments, at {apart} of them the log lay behind");
    assert!(apart > 0, "no process was killed between the state and the log");
}

/// A node had its state and not yet its log when it was killed, and never started again: "segments of the log are missing".
#[test]
fn a_state_that_was_installed_may_lie_ahead_of_the_log_until_the_log_begins_behind_it() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (open, _) = self::open(dir.path());
    let mut machine = base();
    open.storage.log().submit(LogBatch { hard_state: Some(vote(1)), ..log_batch(1, vec![log_entry(2, 1, "two")]) });
    open.wait_for_log(1);
    open.storage.state().submit(machine.snapshot());
    open.wait_for_state(machine.index);
    drop(open);
    let before = dir.path().join("log before");
    copy_all(&dir.path().join("log"), &before);

    // As often as it is killed then.
    for _ in 0..2 {
        let (_open, recovered) = self::open(dir.path());
        assert_eq!((recovered.state_index, recovered.state.digest()), (machine.index, machine.state.digest()));
        assert_eq!((recovered.entries.len(), recovered.hard_state), (1, Some(vote(1))));
    }
    assert!(storage::check(dir.path()).expect("readable").is_whole());

    // Once they have met, the same log is one that lost its tail: a vote may be gone with it.
    let (open, _) = self::open(dir.path());
    open.storage.log().submit(reset(1, machine.index, Some(vote(2))));
    open.wait_for_log(1);
    drop(open);
    let (open, _) = self::open(dir.path());
    drop(open);
    let after = dir.path().join("log after");
    copy_all(&dir.path().join("log"), &after);
    refuses(dir.path(), &before, &after);

    // Also where an entry was applied behind it, and nothing was opened since.
    let (open, _) = self::open(dir.path());
    machine.index = LogIndex(machine.index.0 + DISTANCE);
    open.storage.state().submit(machine.snapshot());
    open.storage.log().submit(reset(1, machine.index, Some(vote(3))));
    open.storage.log().submit(log_batch(2, vec![log_entry(machine.index.0 + 1, 1, "behind it")]));
    open.wait_for_log(2);
    let batch = follow(&mut machine);
    open.storage.state().submit(batch);
    open.wait_for_state(machine.index);
    drop(open);
    let meanwhile = dir.path().join("log meanwhile");
    copy_all(&dir.path().join("log"), &meanwhile);
    refuses(dir.path(), &after, &meanwhile);
}

/// The mark goes when the log has begun behind the state, also where nothing is applied for long.
#[test]
fn an_installed_state_that_the_log_has_met_is_marked_no_more() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let before = dir.path().join("log before");
    copy_all(&dir.path().join("log"), &before);
    let (open, _) = self::open(dir.path());
    let machine = base();
    open.storage.state().submit(machine.snapshot());
    open.storage.log().submit(reset(1, machine.index, Some(vote(1))));
    // It is reported once as installed, and once more without its mark.
    for _ in 0..2 {
        while !matches!(open.events.recv().expect("the store lives"), StorageEvent::StatePersisted(_)) {}
    }
    drop(open);
    let after = dir.path().join("log after");
    copy_all(&dir.path().join("log"), &after);
    refuses(dir.path(), &before, &after);
}

/// What the log says of an entry and what the state says of it belong together.
#[test]
fn a_log_with_another_entry_than_the_states_is_noticed() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (open, _) = self::open(dir.path());
    let (machine, batch) = Machine::new();
    open.storage.log().submit(log_batch(1, vec![log_entry(2, 7, "two"), log_entry(3, 7, "three")]));
    open.wait_for_log(1);
    open.storage.state().submit(batch);
    open.wait_for_state(machine.index);
    drop(open);
    let error = try_open(dir.path(), Options::default()).err().expect("the entry is of another term");
    assert!(matches!(error, StorageError::LogUnlikeState { log: Term(7), state: TERM, .. }), "{error}");
}

/// The node does not start with the log `before`, and does with the one `after`.
fn refuses(dir: &Path, before: &Path, after: &Path) {
    let log = dir.join("log");
    replace(before, &log);
    let error = try_open(dir, Options::default()).err().expect("the log is older than the state");
    assert!(matches!(error, StorageError::LogBehindState { .. }), "{error}");
    fs::remove_dir_all(&log).expect("ours");
    copy_all(after, &log);
    let _ = self::open(dir);
}
