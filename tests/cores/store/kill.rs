//! A process that uses its store in every way at once is killed (SIGKILL) again and again; each time the directory is
//! looked at, and the next process goes on from what it gives.
//!
//! The process does what a node does. Every entry follows from its index alone, so whoever looks knows what state and
//! log must be, whatever index they reached.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use manyfs::{
    message::log::StateBatch,
    storage::{self, Options, ScrubOptions, StorageEvent, packs::PackOptions},
    types::{BlockHash, LogIndex, Name, UploadId},
};
use tempfile::tempdir;

use crate::store::{
    recorder::Dice,
    support::{Machine, TERM, VOLUME, content, create_with, log_batch, log_entry, open_with},
};

/// Tells the test below that it is the process to be killed, and in which directory.
const DIRECTORY: &str = "MANYFS_TEST_STORE_TO_KILL";
const ROUNDS: u64 = 8;
/// Disks differ in what they get through in a round: rounds go on until enough was done to say something.
const ROUNDS_MAX: u64 = 40;
const ENTRIES_MIN: u64 = 300;
/// Entries that are in the log's queue at a time.
const WINDOW: u64 = 8;

/// Small files, so that segments and packs come and go.
const OPTIONS: Options = Options {
    log_segment_bytes: 64 * 1024,
    packs: PackOptions {
        pack_bytes: 512 * 1024,
        reserve_bytes: 64 * 1024,
        keep_free_bytes: 1,
        compact_bytes_min: 128 * 1024,
    },
    scrub: ScrubOptions::DEFAULT,
};

/// Entries come in fours: a file is made, written inline, written with a block that was uploaded, and an older file is
/// removed.
fn upload_of(index: u64) -> Option<Bytes> {
    (index % 4 == 1 && index > 4).then(|| content(index, 1000 + (index % 50) as usize * 1000))
}

fn step(machine: &mut Machine) -> StateBatch {
    let index = machine.index.0 + 1;
    let made = |index: u64| format!("file {}", index - index % 4);
    let ino = |machine: &Machine, name: &str| {
        let name = Name::new(name.as_bytes()).expect("a name");
        machine.state.volume(VOLUME).expect("main").lookup(manyfs::types::Ino::ROOT, &name)
    };
    match index % 4 {
        3 => match ino(machine, &made(index.saturating_sub(40))) {
            Some(_) => machine.unlink(&made(index - 40)),
            None => machine.make_file(&format!("early {index}")).1,
        },
        0 => machine.make_file(&made(index)).1,
        remainder => match (ino(machine, &made(index)), upload_of(index)) {
            (None, _) => machine.make_file(&format!("early {index}")).1,
            (Some(ino), Some(bytes)) => machine.write(ino, &bytes, Some(UploadId(index))),
            (Some(ino), None) if remainder == 2 => {
                machine.write(ino, &content(index, 700 + index as usize % 300), None)
            }
            (Some(ino), None) => machine.set_xattr(ino, "user.large", content(index, 6000)),
        },
    }
}

fn raft_bytes(index: u64) -> Bytes {
    content(index, (index % 700) as usize)
}

/// The state at `index`, made anew.
fn machine_at(index: LogIndex) -> Machine {
    let (mut machine, _) = Machine::new();
    while machine.index < index {
        step(&mut machine);
    }
    machine
}

/// Not a test of its own: the process that the test below kills. Without the variable there is nothing to do.
#[test]
fn the_process_that_is_killed() {
    let Some(dir) = env::var_os(DIRECTORY) else { return };
    let (open, recovered) = open_with(Path::new(&dir), OPTIONS);
    // Index 1 is the founding, 2 opens the session.
    let mut machine = if recovered.state_index < LogIndex(2) {
        let (machine, batch) = Machine::new();
        open.storage.state().submit(batch);
        machine
    } else {
        machine_at(recovered.state_index)
    };
    // A process that never reached the compaction below must not leave the log whole for ever.
    if recovered.state_index > LogIndex(20) {
        open.storage.log().compact(LogIndex(recovered.state_index.0 - 10), TERM);
    }
    let mut logged = recovered.entries.last().map_or(recovered.compacted.0.0, |entry| entry.index.0);
    let (mut persisted, mut state_persisted) = (logged, 0);
    loop {
        let next = machine.index.0 + 1;
        while logged < next + WINDOW {
            logged += 1;
            if let Some(bytes) = upload_of(logged) {
                let pin = Some((VOLUME, machine.session, UploadId(logged)));
                open.storage.packs().put(vec![(BlockHash::of(&bytes), bytes)], pin).expect("space");
                println!("\nstored {logged}");
            }
            open.storage.log().submit(log_batch(logged, vec![log_entry(logged, TERM.0, raft_bytes(logged))]));
        }
        while persisted < next {
            match open.events.recv().expect("the store lives") {
                StorageEvent::LogPersisted(index) => {
                    println!("\nlogged {index}");
                    persisted = index;
                }
                StorageEvent::StatePersisted(index) => {
                    println!("\napplied {index}");
                    state_persisted = index.0;
                }
                StorageEvent::Failed(error) => panic!("{error}"),
            }
        }
        open.storage.state().submit(step(&mut machine));
        if next % 64 == 0 && state_persisted > 20 {
            open.storage.log().compact(LogIndex(state_persisted - 10), TERM);
        }
    }
}

#[test]
fn a_killed_process_comes_back_with_everything_that_was_acknowledged() {
    let dir = tempdir().expect("space for a test");
    create_with(dir.path(), OPTIONS);
    let mut dice = Dice::new(7);
    let (mut logged, mut applied, mut stored) = (1, 1, BTreeSet::new());
    let first_segment = dir.path().join("log/0000000000000001.segment");
    for round in 0.. {
        if round >= ROUNDS && applied > ENTRIES_MIN && !first_segment.exists() {
            break;
        }
        assert!(
            round < ROUNDS_MAX,
            "{applied} entries; {} is there: {}",
            first_segment.display(),
            first_segment.exists()
        );
        let mut child = Command::new(env::current_exe().expect("this test"))
            .args(["store::kill::the_process_that_is_killed", "--exact", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test runs again");
        let lines = 20 + dice.below(1500);
        // Every second process lives until the state was written behind it, which is done in the background.
        let (mut seen, mut written_behind) = (0, round % 2 == 0);
        for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
            let line = line.expect("text");
            let mut words = line.split(' ');
            let (word, number) = (words.next(), words.next().and_then(|number| number.parse::<u64>().ok()));
            match (word, number) {
                (Some("logged"), Some(number)) => logged = logged.max(number),
                (Some("applied"), Some(number)) => {
                    applied = applied.max(number);
                    written_behind = true;
                }
                (Some("stored"), Some(number)) => {
                    stored.insert(number);
                }
                _ => continue,
            }
            seen += u64::from(written_behind);
            if seen == lines {
                // Once; what it still prints on its way out counts too.
                child.kill().expect("ours");
            }
        }
        child.wait().expect("ours");
        assert!(seen >= lines, "round {round}: the process ended by itself after {seen} lines");

        let (open, recovered) = open_with(dir.path(), OPTIONS);
        let last = recovered.entries.last().map_or(recovered.compacted.0.0, |entry| entry.index.0);
        assert!(last >= logged, "round {round}: entry {logged} was acknowledged, the log ends at {last}");
        for entry in &recovered.entries {
            assert_eq!((&entry.bytes, entry.term), (&raft_bytes(entry.index.0), TERM), "entry {}", entry.index);
        }
        assert!(recovered.state_index.0 >= applied, "round {round}: {applied} was reported");
        let machine = machine_at(recovered.state_index);
        if recovered.state_index > LogIndex(1) {
            assert_eq!(recovered.state.digest(), machine.state.digest(), "round {round}");
        }
        let packs = open.storage.packs();
        assert_eq!(packs.missing(None, 1), [], "round {round}");
        for hash in recovered.state.references().keys() {
            let bytes = packs.get(hash).expect("whole").expect("an extent names it");
            assert_eq!(BlockHash::of(&bytes), *hash);
        }
        // Uploads whose entries the state does not have yet are pinned.
        let pinned: BTreeSet<_> = packs.pins().into_iter().map(|(pin, _)| pin.upload.0).collect();
        for index in stored.range(recovered.state_index.0 + 1..) {
            let bytes = upload_of(*index).expect("it was stored");
            assert!(pinned.contains(index), "round {round}: upload {index} of {pinned:?}");
            assert_eq!(packs.get(&BlockHash::of(&bytes)).expect("whole"), Some(bytes), "round {round}");
        }
        let stale = pinned.range(..=recovered.state_index.0).next();
        assert_eq!(stale, None, "round {round}: the state has its entry");
    }
    let report = storage::check(dir.path()).expect("readable");
    assert!(report.is_whole(), "{report:?}");
}
