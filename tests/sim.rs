//! The cluster in the simulator: many seeds, each twice with the same trace. A red seed prints the line that repeats it.
//!
//! `MANYFS_SIM_SEED=17` runs that seed alone and shows what it did (`MANYFS_SIM_LOG=1`: every event of it); `MANYFS_SIM_SEEDS=1000..3000` runs that range.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use manyfs::sim::{self, Options, Report, options::Fault};

/// Seeds of every run of the tests.
const SEEDS: Range<u64> = 0..200;

fn run(seed: u64) -> Report {
    sim::run(seed, Options::from_seed(seed), None)
}

/// Runs the seed twice; a sentence where something is wrong.
fn run_twice(seed: u64) -> Result<Report, String> {
    let sentence = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
    };
    let once = || catch_unwind(AssertUnwindSafe(|| run(seed))).map_err(sentence);
    let (first, second) = (once()?, once()?);
    if first == second { Ok(first) } else { Err(format!("determinism: two runs differ, {first:?} and {second:?}")) }
}

fn wanted() -> Range<u64> {
    let range = std::env::var("MANYFS_SIM_SEEDS").ok().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    range.unwrap_or(SEEDS)
}

#[test]
fn seeds_hold_every_promise_twice_alike() {
    if let Ok(seed) = std::env::var("MANYFS_SIM_SEED") {
        let seed = seed.parse().expect("MANYFS_SIM_SEED is a number");
        println!("{:#?}", Options::from_seed(seed));
        let tell: fn(&str) = |line| println!("{line}");
        let tell = std::env::var("MANYFS_SIM_LOG").ok().map(|_| tell);
        let report = sim::run(seed, Options::from_seed(seed), tell);
        println!("{report:#?}");
        assert_eq!(report, run(seed), "determinism: two runs of the seed differ");
        return;
    }
    let seeds = wanted();
    let (next, count) = (AtomicU64::new(seeds.start), seeds.end - seeds.start);
    let results: Mutex<Vec<(u64, Result<Report, String>)>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let result = run_twice(seed);
                    results.lock().expect("no thread panics with the lock").push((seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no thread panics with the lock");
    results.sort_by_key(|(seed, _)| *seed);
    let mut sum = Report::default();
    let mut red = Vec::new();
    for (seed, result) in &results {
        match result {
            Ok(report) => {
                sum.events += report.events;
                sum.calls += report.calls;
                sum.upcalls += report.upcalls;
                sum.entries += report.entries;
                sum.answers += report.answers;
                sum.sights += report.sights;
                sum.notifications += report.notifications;
                sum.faults += report.faults;
                sum.elections += report.elections;
                sum.snapshots += report.snapshots;
            }
            Err(reason) => {
                let first = reason.lines().next().unwrap_or_default();
                println!(
                    "MANYFS_SIM_SEED={seed} cargo test --test sim    # {}",
                    first.chars().take(300).collect::<String>()
                );
                red.push(*seed);
            }
        }
    }
    println!("{count} seeds, each twice: {sum:?}");
    assert!(red.is_empty(), "{} red seeds: {red:?}", red.len());
    // A simulation in which nothing happens proves nothing.
    assert!(sum.calls > 20 * count && sum.entries > 10 * count && sum.sights > 20 * count, "{sum:?}");
    assert!(sum.faults > count && sum.elections > count && sum.notifications > 10 * count, "{sum:?}");
}

/// Runs a seed that once was red. It was found before disks could be full: without that it runs as it did then.
fn run_again(seed: u64) {
    let mut options = Options::from_seed(seed);
    options.faults.retain(|fault| *fault != Fault::FullDisk);
    let _ = sim::run(seed, options, None);
}

/// A request that came before the mount was ready held a directory's lock; the notification of an entry that the mount
/// caught up with waited for it, its acknowledgement for the notification, the first lease for the acknowledgement, and
/// readiness for the lease.
#[test]
fn early_requests_do_not_hold_up_readiness() {
    for seed in [238, 255, 379, 384] {
        run_again(seed);
    }
}

/// A rename arrived while a notification of one of its names hung on the directory's lock and no acknowledgement waited
/// for it any more: nobody invalidated the name to which the rename then moved what the kernel believed in.
#[test]
fn a_rename_does_not_carry_off_a_name_that_is_yet_to_be_forgotten() {
    for seed in [483, 503] {
        run_again(seed);
    }
}

/// A LOOKUP between INC_EPOCH and the end of a rename that collided with another mount's made the entry fresh that the
/// kernel then moved.
#[test]
fn a_lookup_during_a_rename_does_not_make_fresh_what_is_moved() {
    for seed in [2144, 3898, 4292] {
        run(seed);
    }
}

/// A leader that had been replaced, and did not know, refused a mount for good that was ahead of it.
#[test]
fn a_leader_that_was_replaced_refuses_nobody() {
    run(1879);
}
