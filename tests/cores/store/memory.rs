//! What the store costs in memory while it writes much: in a process of its own, so that nothing else counts.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use manyfs::{
    message::log::{StateBatch, Unpinned},
    namespace::RowChange,
    storage::Packs,
    types::{BlockHash, LogIndex, SessionId, UploadId},
};
use tempfile::tempdir;

use crate::store::support::{TERM, VOLUME, create, log_batch, log_entry, open};

/// Tells the test below that it is the process to be measured, and in which directory.
const DIRECTORY: &str = "MANYFS_TEST_STORE_TO_MEASURE";
const ROWS: u64 = 100_000;
const BLOCKS: u64 = 50_000;
const PINS: u64 = 60_000;
/// What all of it may cost at the peak: the rows and the index of blocks are some 60 MiB of it. Where sled got all rows in
/// one batch it kept 8 KiB for each, a gibibyte and more.
const PEAK_BYTES_MAX: u64 = 256 << 20;
/// The same of so many pins that end at once: in one batch they cost 240 MiB.
const PINS_BYTES_MAX: u64 = 128 << 20;

fn own_bytes(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with(field)).expect("Linux has it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") * 1024
}

fn batch(index: u64, rows: impl Iterator<Item = (u64, bool)>, content: Vec<(BlockHash, Bytes)>) -> StateBatch {
    let row = |(number, is_set): (u64, bool)| RowChange {
        key: Bytes::copy_from_slice(&[&[2, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0, 7][..], &number.to_be_bytes()].concat()),
        value: is_set.then(|| Bytes::copy_from_slice(&[7; 40])),
    };
    StateBatch {
        index: LogIndex(index),
        term: TERM,
        digest: 0,
        membership: None,
        reset: false,
        rows: rows.map(row).collect(),
        content,
        references: Vec::new(),
        named: Vec::new(),
        unpinned: Vec::new(),
    }
}

/// Runs another test of this file in a process of its own, in this directory.
fn measure(test: &str, dir: &Path) {
    let output = Command::new(env::current_exe().expect("this test"))
        .args([&format!("memory::{test}"), "--exact", "--nocapture"])
        .env(DIRECTORY, dir)
        .stderr(Stdio::inherit())
        .output()
        .expect("this test runs again");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success());
}

fn assert_peak(before: u64, most: u64) {
    let (peak, now) = (own_bytes("VmHWM:"), own_bytes("VmRSS:"));
    println!("\n{} MiB before, {} at the peak, {} now", before >> 20, peak >> 20, now >> 20);
    assert!(peak - before < most, "{} MiB at the peak", peak >> 20);
}

/// Not a test of its own: the process that a test below measures. Without the variable there is nothing to do.
#[test]
fn the_process_that_is_measured() {
    let Some(dir) = env::var_os(DIRECTORY) else { return };
    let before = own_bytes("VmRSS:");
    let (open, _) = open(Path::new(&dir));
    open.storage.log().submit(log_batch(1, (2..=4).map(|index| log_entry(index, 1, "")).collect()));
    open.wait_for_log(1);
    open.storage.state().submit(batch(2, (0..ROWS).map(|row| (row, true)), Vec::new()));
    open.wait_for_state(LogIndex(2));
    let blocks = (0..BLOCKS).map(|block| Bytes::copy_from_slice(&block.to_le_bytes()));
    let blocks = blocks.map(|block| (BlockHash::of(&block), block)).collect();
    open.storage.state().submit(batch(3, std::iter::empty(), blocks));
    open.wait_for_state(LogIndex(3));
    open.storage.state().submit(batch(4, (0..ROWS).map(|row| (row, false)), Vec::new()));
    open.wait_for_state(LogIndex(4));
    assert_peak(before, PEAK_BYTES_MAX);
}

/// The same: a session that has ended had very many blocks pinned. First its end is written, then it is made up for at a
/// start.
#[test]
fn the_process_that_lifts_pins() {
    let Some(dir) = env::var_os(DIRECTORY) else { return };
    let before = own_bytes("VmRSS:");
    let (open, recovered) = open(Path::new(&dir));
    assert!(open.storage.packs().pins().is_empty(), "those of an ended session are lifted at the start");
    if recovered.state_index < LogIndex(2) {
        pin(open.storage.packs());
        open.storage.log().submit(log_batch(1, vec![log_entry(2, 1, "")]));
        open.wait_for_log(1);
        let ended = Unpinned::Session { volume: VOLUME, session: SessionId(0) };
        let digest = recovered.state.digest();
        open.storage.state().submit(StateBatch {
            digest,
            unpinned: vec![ended],
            ..batch(2, std::iter::empty(), Vec::new())
        });
        open.wait_for_state(LogIndex(2));
        assert!(open.storage.packs().pins().is_empty());
    }
    assert_peak(before, PINS_BYTES_MAX);
}

/// Session 0 was never there.
fn pin(packs: &Packs) {
    for upload in 0..PINS / 1000 {
        let blocks = (0..1000_u64).map(|block| Bytes::copy_from_slice(&block.to_le_bytes()));
        let blocks = blocks.map(|block| (BlockHash::of(&block), block)).collect();
        packs.put(blocks, Some((VOLUME, SessionId(0), UploadId(upload)))).expect("there is space");
    }
}

#[test]
fn pins_of_an_ended_session_cost_no_more_than_themselves() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    measure("the_process_that_lifts_pins", dir.path());
    // Their lifting was lost.
    let (open, _) = open(dir.path());
    pin(open.storage.packs());
    drop(open);
    measure("the_process_that_lifts_pins", dir.path());
}

#[test]
fn what_one_entry_touches_costs_no_more_than_its_rows() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    measure("the_process_that_is_measured", dir.path());
}
