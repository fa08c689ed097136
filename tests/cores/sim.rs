//! The cluster in the simulator: many seeds, each twice with the same trace. A red seed prints the line that repeats it.
//!
//! `MANYFS_SIM_SEED=17` runs that seed alone and shows what it did (`MANYFS_SIM_LOG=1`: every event of it);
//! `MANYFS_SIM_SEEDS=1000..3000` runs that range, each seed once.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use manyfs::{
    limits::{Retention, SessionBounds, Timing},
    sim::{self, Breach, Options, Report, options::Fault},
};

/// Seeds of every run of the tests.
const SEEDS: Range<u64> = 0..200;

fn run(seed: u64) -> Report {
    sim::run(seed, Options::from_seed(seed), None)
}

/// What the run did; a sentence where something is wrong.
fn judged(run: impl FnOnce() -> Report) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
    })
}

/// Runs the seed, twice if wanted.
fn judge(seed: u64, twice: bool) -> Result<Report, String> {
    let first = judged(|| run(seed))?;
    let second = if twice { judged(|| run(seed))? } else { first };
    if first == second { Ok(first) } else { Err(format!("determinism: two runs differ, {first:?} and {second:?}")) }
}

/// Other seeds than those of every run.
fn wanted() -> Option<Range<u64>> {
    let text = std::env::var("MANYFS_SIM_SEEDS").ok()?;
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
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
    let twice = wanted().is_none();
    let seeds = wanted().unwrap_or(SEEDS);
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
                    let result = judge(seed, twice);
                    if let Err(reason) = &result {
                        let first = reason.lines().next().unwrap_or_default();
                        let shown: String = first.chars().take(300).collect();
                        println!("MANYFS_SIM_SEED={seed} cargo test --test cores seeds    # {shown}");
                    }
                    results.lock().expect("no thread panics with the lock").push((seed, result));
                }
            });
        }
    });
    let results = results.into_inner().expect("no thread panics with the lock");
    let sum = results.iter().flat_map(|(_, result)| result).fold(Report::default(), |sum, report| sum.and(*report));
    let mut red: Vec<u64> = results.iter().filter(|(_, result)| result.is_err()).map(|(seed, _)| *seed).collect();
    red.sort_unstable();
    println!("{count} seeds: {sum:?}");
    assert!(red.is_empty(), "{} red seeds: {red:?}", red.len());
    // A simulation in which nothing happens proves nothing.
    assert!(sum.calls > 20 * count && sum.entries > 10 * count && sum.sights > 20 * count, "{sum:?}");
    assert!(sum.faults > count && sum.elections > count && sum.notifications > 10 * count, "{sum:?}");
    assert!(sum.leases_lost > 0 && sum.sessions_ended > 0 && sum.torn_writes > 0, "{sum:?}");
    assert!(sum.snapshots > 0 && sum.reloads > 0, "{sum:?}");
    assert!(sum.counts > 5 * count && sum.holds_ended > 0, "{sum:?}");
    assert!(sum.holders_acted > 0 && sum.calls_lost > 0, "{sum:?}");
    assert!(sum.restores > 0 && sum.twins > 0 && sum.forgetful > 0, "{sum:?}");
}

/// A seed as it was before disks were full, reads waited, logs were cut, sessions ended, mounts only looked, clocks
/// drifted and were set, kernels differed, files were mapped, processes hid their numbers and wrote side by side, and mounts
/// had several threads.
fn of_old(seed: u64) -> Options {
    let from_seed = Options::from_seed(seed);
    let faults = from_seed
        .faults
        .iter()
        .copied()
        .filter(|fault| !matches!(fault, Fault::FullDisk | Fault::PauseMount | Fault::StopWorker | Fault::SetClock))
        .filter(|fault| !matches!(fault, Fault::Restore | Fault::Twin))
        .collect();
    let (retention, timing) = (Retention::DEFAULT, Timing::DEFAULT);
    Options {
        faults,
        block: false,
        strangers: 0,
        lookers: 0,
        counts: 0,
        maps: 0,
        shares: 0,
        stripes: 0,
        pins: 0,
        tails: 0,
        reserves: 0,
        rewinds: 0,
        threads: 1,
        hides_pids: false,
        retention,
        timing,
        drift: 0,
        inval_entry: true,
        ..from_seed
    }
}

/// Runs a seed that once was red, as it ran then.
fn run_again(seed: u64) {
    let _ = sim::run(seed, of_old(seed), None);
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
    for seed in [2144, 3898] {
        run_again(seed);
    }
}

/// A seed without what other tests are about: few sessions, strangers, shared memory, stripes, several threads.
fn among_friends(seed: u64) -> Options {
    let sessions = SessionBounds::DEFAULT;
    let from_seed = Options::from_seed(seed);
    let mut options = Options {
        sessions,
        shares: 0,
        strangers: 0,
        threads: 1,
        stripes: 0,
        tails: 0,
        reserves: 0,
        rewinds: 0,
        ..from_seed
    };
    options.faults.retain(|fault| !matches!(fault, Fault::SetClock | Fault::Restore | Fault::Twin));
    options
}

/// A seed as it was before files were mapped, too.
fn before_mappings(seed: u64) -> Options {
    Options { maps: 0, hides_pids: false, ..among_friends(seed) }
}

/// A seed as it was before some kernels were those of Linux 6.19, too.
fn on_one_kernel(seed: u64) -> Options {
    Options { inval_entry: true, ..before_mappings(seed) }
}

/// A seed as it was before clocks drifted, too.
fn on_one_clock(seed: u64) -> Options {
    Options { drift: 0, ..on_one_kernel(seed) }
}

/// A seed as it was before workers were stopped, too.
fn before_stops(seed: u64) -> Options {
    let from_seed = on_one_clock(seed);
    let faults = from_seed.faults.iter().copied().filter(|fault| *fault != Fault::StopWorker).collect();
    Options { faults, ..from_seed }
}

/// One disk had space again and another ran full: a leader that heard of the second first answered ENOSPC.
#[test]
fn one_full_disk_after_another_is_no_full_cluster() {
    for seed in [215, 241, 639, 1126, 1361] {
        let _ = sim::run(seed, Options { counts: 0, ..before_stops(seed) }, None);
    }
}

/// The entry that gave a lock's call its place in the queue and the one that granted the lock came in one snapshot, before
/// the answer: the call waited for ever.
#[test]
fn a_lock_that_a_snapshot_granted_is_answered() {
    let _ = sim::run(724, before_stops(724), None);
}

/// A call that waited when its session ended was proposed again before the next session began: no grant was its own.
#[test]
fn a_lock_that_is_asked_for_again_is_that_of_the_new_session() {
    let _ = sim::run(1229, before_stops(1229), None);
}

/// A lock lost its place in the queue with all that its session held, and was asked for again; a late answer to the first
/// call counted for the second, which was then asked for a third time: what came of the second nobody ever gave back.
#[test]
fn a_late_answer_of_a_call_that_lost_its_place_counts_for_no_other() {
    let _ = sim::run(34379, before_mappings(34379), None);
}

/// The checker asked too much: a write that had come and gone while another ran lay over it (3172); what a delegation
/// carried was judged lost only when its mount heard of that, not when the log took it (1646, 2858).
#[test]
fn what_the_log_takes_from_a_mount_is_no_fault() {
    for seed in [1646, 2858, 3172] {
        let _ = sim::run(seed, before_stops(seed), None);
    }
}

/// A mount told its kernel to forget what the kernel did not have: the new size was on its way in an answer, which the
/// notification overtook, and a read that another mount's flush had answered ended where the file had ended before.
#[test]
fn a_read_beside_a_flush_elsewhere_shows_all_of_it() {
    for seed in [256, 351, 1043, 2881] {
        let _ = sim::run(seed, on_one_clock(seed), None);
    }
}

/// Bytes were lost with a delegation, another process's close was told, and the writer's own close was not.
#[test]
fn lost_bytes_are_told_through_every_open_file() {
    let _ = sim::run(3782, on_one_clock(3782), None);
}

/// A stat's answer was still on its way to one process while another of the same mount linked the file: the kernel took
/// over the older attributes last, and kept the ctime of before.
#[test]
fn attributes_on_their_way_do_not_outlive_an_own_change() {
    for seed in [4831, 5995] {
        let _ = sim::run(seed, on_one_clock(seed), None);
    }
}

/// A file grew elsewhere, or got another mode, and an answer that would have told the kernel so was overtaken by what it was
/// told to forget because of a second change: a read ended where the file had ended before, and processes were let in by
/// the mode of before.
#[test]
fn what_a_kernel_believes_is_not_older_than_what_has_completed() {
    for seed in [3856, 11524, 12112, 14893] {
        let _ = sim::run(seed, before_mappings(seed), None);
    }
}

/// A mount that caught up acknowledged the last entry by itself while an earlier one waited: the leader took it for all of
/// them, and freed a file that was open there.
#[test]
fn a_mount_that_catches_up_acknowledges_the_last_entry_last() {
    let _ = sim::run(2328, on_one_kernel(2328), None);
}

/// A leader that had been replaced, and did not know, refused a mount for good that was ahead of it.
#[test]
fn a_leader_that_was_replaced_refuses_nobody() {
    run_again(1879);
}

/// The checker asked too much: a call met a name that a rename had moved and whose invalidation, which R23-renames
/// wants only before the foreign change is acknowledged, came while the call ran.
#[test]
fn a_name_that_a_rename_moved_may_be_met_until_it_is_invalidated() {
    let retention = Retention { log_bytes: 1254, piece_bytes: 1836 };
    let _ = sim::run(1425, Options { retention, ..of_old(1425) }, None);
}

/// Seeds within which a broken rule must be seen.
const SEEDS_TO_SEE: Range<u64> = 0..50;

/// Breaks the rule in one seed after the other until a checker of this name sees it.
fn is_seen(breach: Breach, checkers: &[&str]) {
    is_seen_under(breach, checkers, Options::from_seed);
}

/// The same under conditions in which the rule is needed often.
fn is_seen_under(breach: Breach, checkers: &[&str], options: impl Fn(u64) -> Options) {
    is_seen_within(SEEDS_TO_SEE, breach, checkers, options);
}

fn is_seen_within(seeds: Range<u64>, breach: Breach, checkers: &[&str], options: impl Fn(u64) -> Options) {
    let run = |seed| sim::run(seed, Options { breach: Some(breach), ..options(seed) }, None);
    let seen = seeds.into_iter().find_map(|seed| {
        let reason = judged(|| run(seed)).err()?;
        checkers.iter().any(|checker| reason.starts_with(checker)).then_some(seed)
    });
    assert!(seen.is_some(), "nobody sees that {breach:?} is broken");
    println!("{breach:?}: seen in seed {seen:?}");
}

#[test]
fn changes_that_complete_before_mounts_have_forgotten_are_seen() {
    is_seen(Breach::Completion, &["stale read"]);
}

#[test]
fn an_acknowledgement_before_the_kernel_has_forgotten_is_seen() {
    is_seen(Breach::Acknowledgement, &["stale read"]);
}

#[test]
fn kernels_that_are_not_told_of_what_changed_are_seen() {
    let colliding =
        |seed| Options { mounts: 3, lookers: 1, processes: 3, names: 2, directories: 1, ..among_friends(seed) };
    for breach in [Breach::Names, Breach::Attributes, Breach::Pages] {
        is_seen_under(breach, &["stale read", "a mount went back"], colliding);
    }
}

#[test]
fn replies_that_the_kernel_keeps_while_a_change_is_under_way_are_seen() {
    is_seen(Breach::Fences, &["stale read", "a mount went back", "between write and close"]);
}

/// Leadership goes from one node to the next all the time, and mounts follow as fast as they can.
fn handed_over_often(seed: u64) -> Options {
    Options {
        nodes: 3,
        mounts: 3,
        lookers: 2,
        faults: vec![Fault::Transfer, Fault::BreakMount],
        fault_pause: (100_000, 800_000),
        ..among_friends(seed)
    }
}

#[test]
fn a_successor_that_is_not_told_of_leases_is_seen() {
    for seed in SEEDS_TO_SEE {
        let _ = sim::run(seed, handed_over_often(seed), None);
    }
    is_seen_under(Breach::Leases, &["stale read", "a mount went back"], handed_over_often);
}

#[test]
fn calls_that_are_carried_out_again_are_seen() {
    is_seen(Breach::Retries, &["exactly once", "availability"]);
}

#[test]
fn answers_before_a_majority_has_synced_are_seen() {
    is_seen(Breach::Sync, &["durability"]);
}

/// Disks go back to what they were, while nodes come and go.
fn restored_often(seed: u64) -> Options {
    Options {
        nodes: [3, 3, 5][usize::try_from(seed % 3).unwrap_or(0)],
        mounts: 2,
        large: 0,
        think: (500, 5000),
        chaos: Duration::from_secs(8),
        faults: vec![Fault::Restore, Fault::Restore, Fault::Twin, Fault::Crash],
        fault_pause: (200_000, 900_000),
        ..among_friends(seed)
    }
}

/// Nobody led, so that nobody heard of a follower for a moment: the hello of its copy was found forgetful, and no message of
/// the follower itself was taken ever after.
#[test]
fn a_copy_that_is_not_welcome_does_not_shut_its_original_out() {
    let _ = sim::run(55, Options::from_seed(55), None);
}

#[test]
fn nodes_that_forgot_what_they_promised_are_seen_and_harmless() {
    let runs = (0..30).map(|seed| sim::run(seed, restored_often(seed), None));
    let sum = runs.fold(Report::default(), Report::and);
    println!("{sum:?}");
    assert!(sum.restores > 10 && sum.twins > 5 && sum.forgetful > 10, "{sum:?}");
    // A leader takes what the node once acknowledged for granted, and never sends it again.
    let checkers = ["log agreement", "durability", "equal digests", "node", "liveness"];
    is_seen_under(Breach::Forgetting, &checkers, restored_often);
}

/// Mounts count, and are now and then not heard of for longer than what they hold is held for them.
fn cut_off_for_long(seed: u64) -> Options {
    let timing = Timing { hold: Duration::from_secs(1), session: Duration::from_secs(20), ..Timing::DEFAULT };
    Options {
        nodes: 3,
        mounts: 3,
        lookers: 0,
        processes: 2,
        directories: 1,
        counts: 900,
        think: (500, 5000),
        chaos: Duration::from_secs(8),
        faults: vec![Fault::CutMount],
        fault_pause: (100_000, 1_500_000),
        timing,
        ..among_friends(seed)
    }
}

/// Mounts count in shared memory, and are now and then not heard of for longer than it is held for them.
fn sharing_memory(seed: u64) -> Options {
    Options { counts: 0, shares: 900, ..cut_off_for_long(seed) }
}

#[test]
fn mounts_that_take_turns_with_shared_memory_lose_no_count() {
    let runs = 30;
    let sum = (0..runs).map(|seed| sim::run(seed, sharing_memory(seed), None)).fold(Report::default(), Report::and);
    assert!(sum.counts > 20 * runs && sum.holds_ended > 0, "{sum:?}");
}

#[test]
fn shared_memory_that_is_open_on_two_mounts_is_seen() {
    is_seen_under(Breach::Turns, &["mutual exclusion"], sharing_memory);
}

/// What was written under a lock that was lost counts for nothing, however late it comes.
#[test]
fn mounts_that_are_cut_off_for_long_lose_their_locks_and_no_count() {
    let lost: u64 = SEEDS_TO_SEE.map(|seed| sim::run(seed, cut_off_for_long(seed), None).holds_ended).sum();
    assert!(lost > SEEDS_TO_SEE.end, "{lost}");
}

#[test]
fn writes_that_come_after_their_lock_was_lost_are_seen() {
    is_seen_under(Breach::LateWrites, &["mutual exclusion"], cut_off_for_long);
}

/// The worker of the first mount is stopped, now and then, for longer than its mount may hold anything; what the others
/// do meanwhile ends when that time is over, and theirs is what counts.
fn stopped_for_long(seed: u64) -> Options {
    let timing = Timing { hold: Duration::from_secs(2), session: Duration::from_secs(60), ..Timing::DEFAULT };
    Options {
        nodes: 3,
        mounts: 3,
        lookers: 1,
        processes: 3,
        names: 2,
        directories: 1,
        counts: 0,
        shares: 0,
        block: true,
        think: (1000, 20_000),
        chaos: Duration::from_secs(10),
        faults: vec![Fault::StopFirst],
        fault_pause: (9_000_000, 10_000_000),
        timing,
        others_wait: Some(timing.hold + 2 * timing.lease),
        ..among_friends(seed)
    }
}

#[test]
fn nobody_waits_longer_than_the_hold_time_for_a_worker_that_is_stopped() {
    let runs = 25;
    let sum = (0..runs).map(|seed| sim::run(seed, stopped_for_long(seed), None)).fold(Report::default(), Report::and);
    // The stopped mount lost what it held, was told so, and its holder had made its kernel forget.
    assert!(sum.faults >= runs && sum.holds_ended > 0 && sum.calls_lost > 0, "{sum:?}");
    assert!(sum.holders_acted >= runs && sum.sights > 100 * runs, "{sum:?}");
}

#[test]
fn a_wait_that_only_the_stopped_worker_ends_is_seen() {
    is_seen_under(Breach::Holds, &["pause"], stopped_for_long);
}

/// Workers are stopped, and connections cut, for longer than a lease; the other processes look all the time.
fn out_of_reach(seed: u64, fault: Fault) -> Options {
    Options {
        nodes: 3,
        mounts: 3,
        lookers: 1,
        processes: 3,
        names: 2,
        directories: 1,
        counts: 0,
        shares: 0,
        block: true,
        think: (500, 3000),
        chaos: Duration::from_secs(8),
        faults: vec![fault],
        fault_pause: (100_000, 2_000_000),
        ..among_friends(seed)
    }
}

#[test]
fn a_kernel_that_nobody_makes_forget_while_its_worker_is_stopped_is_seen() {
    // So many that some have still asked for nothing when the lease is over.
    let stopped = |seed| Options { processes: 15, think: (1000, 1_500_000), ..out_of_reach(seed, Fault::StopWorker) };
    let runs = 25;
    let acted: u64 = (0..runs).map(|seed| sim::run(seed, stopped(seed), None).holders_acted).sum();
    assert!(acted > runs, "{acted}");
    is_seen_under(Breach::Holder, &["stale read"], stopped);
}

#[test]
fn a_leader_that_does_not_wait_for_leases_is_seen() {
    is_seen_under(Breach::Waiting, &["stale read"], |seed| out_of_reach(seed, Fault::CutMount));
}

#[test]
fn a_lease_that_counts_from_a_renewal_that_nobody_answered_is_seen() {
    is_seen_under(Breach::Renewals, &["stale read"], |seed| out_of_reach(seed, Fault::CutMount));
}

/// Leaders are cut off from the other nodes, and mounts from all nodes.
#[test]
fn a_lease_that_a_replaced_leader_renews_is_seen() {
    let replaced = |seed| {
        let faults = vec![Fault::Partition, Fault::Partition, Fault::CutMount, Fault::BreakMount];
        Options { faults, fault_pause: (50_000, 700_000), ..out_of_reach(seed, Fault::Partition) }
    };
    is_seen_under(Breach::Rounds, &["stale read", "a mount went back"], replaced);
}

/// Half of the runs of `seeds_hold_every_promise_twice_alike` have clocks that drift as much as leases allow for.
#[test]
fn clocks_that_drift_by_more_than_leases_allow_for_are_seen() {
    is_seen_under(Breach::Clocks, &["stale read"], |seed| out_of_reach(seed, Fault::CutMount));
}

#[test]
fn a_read_without_a_lease_that_does_not_wait_for_what_it_lacks_is_seen() {
    is_seen_under(Breach::ReadIndexes, &["stale read", "a mount went back"], |seed| {
        out_of_reach(seed, Fault::CutMount)
    });
}

#[test]
fn a_store_that_does_not_keep_what_it_says_is_seen() {
    is_seen_under(Breach::Stores, &["availability", "liveness"], |seed| Options { large: 300, ..among_friends(seed) });
}

#[test]
fn a_block_that_goes_before_an_entry_names_it_is_seen() {
    is_seen_under(Breach::Pins, &["availability", "liveness"], |seed| Options { large: 300, ..among_friends(seed) });
}

#[test]
fn bytes_that_nobody_is_asked_for_are_seen() {
    is_seen(Breach::Recalls, &["between write and close"]);
}

#[test]
fn appends_that_a_kernel_places_are_seen() {
    is_seen(Breach::Appends, &["exactly once"]);
}

#[test]
fn bytes_that_a_close_does_not_bring_to_the_log_are_seen() {
    is_seen(Breach::Closes, &["durability"]);
}

/// Several mounts reserve more than there is.
fn short_of_space(seed: u64) -> Options {
    Options { mounts: 3, lookers: 0, processes: 3, directories: 2, reserves: 300, ..among_friends(seed) }
}

#[test]
fn space_that_is_reserved_and_not_there_is_seen() {
    let runs = (0..20).map(|seed| sim::run(seed, short_of_space(seed), None));
    let sum = runs.fold(Report::default(), Report::and);
    println!("{sum:?}");
    assert!(sum.reservations > 100 && sum.reservations_refused > 20, "{sum:?}");
    is_seen_under(Breach::Devices, &["space"], short_of_space);
}

/// The volume is deleted in the middle of everything.
fn deleted(seed: u64) -> Options {
    Options { deletes: Some(Duration::from_millis(500 + 37 * (seed % 50))), ..Options::from_seed(seed) }
}

#[test]
fn a_volume_that_is_deleted_under_its_mounts_ends_them_with_estale() {
    let sum = (0..60).map(|seed| sim::run(seed, deleted(seed), None)).fold(Report::default(), Report::and);
    println!("{sum:?}");
    assert!(sum.mounts_without_volume > 60, "{sum:?}");
    is_seen_under(Breach::Deletion, &["deletion"], deleted);
}

/// Files grow while others have them open and go by the size that their kernel believes in.
fn watched(seed: u64) -> Options {
    Options {
        mounts: 3,
        lookers: 0,
        processes: 3,
        names: 2,
        directories: 1,
        tails: 300,
        large: 100,
        hides_pids: false,
        ..among_friends(seed)
    }
}

#[test]
fn a_kernel_that_is_not_told_that_an_open_file_has_grown_is_seen() {
    for threads in [1, 4] {
        for seed in SEEDS_TO_SEE {
            let _ = sim::run(seed, Options { threads, ..watched(seed) }, None);
        }
    }
    is_seen_under(Breach::Sizes, &["size"], watched);
}

/// Files are unlinked and replaced while others have them open.
fn open_and_unlinked(seed: u64) -> Options {
    Options { mounts: 3, lookers: 0, processes: 3, names: 1, directories: 1, think: (500, 5000), ..among_friends(seed) }
}

/// Files are unlinked and replaced while others hold them by descriptors that no mount is told of.
#[test]
fn files_that_are_held_and_not_open_are_there_without_a_name() {
    let held = |seed| Options { pins: 300, forget: 0, ..open_and_unlinked(seed) };
    for seed in SEEDS_TO_SEE {
        let _ = sim::run(seed, held(seed), None);
    }
    is_seen_under(Breach::Orphans, &["availability", "stale read"], held);
}

#[test]
fn open_files_without_a_name_that_go_are_seen() {
    is_seen_under(Breach::Orphans, &["availability", "stale read"], open_and_unlinked);
}

/// Processes of each mount write to the same files side by side, and read at once what they wrote.
fn side_by_side(seed: u64) -> Options {
    Options {
        mounts: 1 + seed % 2,
        lookers: 0,
        processes: 4,
        names: 1,
        directories: 1,
        stripes: 900,
        large: 0,
        think: (50, 3000),
        chaos: Duration::from_millis(600),
        faults: Vec::new(),
        ..among_friends(seed)
    }
}

/// A serving thread hands a WRITE on behind another one that has read a later READ.
#[test]
fn a_read_that_overtakes_a_write_is_seen() {
    let several = |seed| Options { threads: 4, ..side_by_side(seed) };
    for seed in 0..25 {
        let _ = sim::run(seed, several(seed), None);
    }
    is_seen_under(Breach::Refills, &["own write"], several);
}

/// The kernel lets go of a page with a writer's bytes before it sends them.
#[test]
fn a_read_between_a_writers_copy_and_its_write_is_seen() {
    let one = |seed| Options { threads: 1, ..side_by_side(seed) };
    for seed in 0..25 {
        let _ = sim::run(seed, one(seed), None);
    }
    is_seen_under(Breach::Refills, &["own write"], one);
}

/// One mount makes files and gives their directory the time again that it had, the other one lists it.
fn directories_with_old_times(seed: u64) -> Options {
    Options {
        nodes: 1,
        mounts: 2,
        lookers: 1,
        processes: 3,
        names: 300,
        directories: 1,
        rewinds: 900,
        counts: 0,
        maps: 0,
        large: 0,
        forget: 0,
        delay: (20, 60),
        sync: (10, 50),
        think: (200, 3000),
        chaos: Duration::from_millis(1500),
        faults: Vec::new(),
        ..among_friends(seed)
    }
}

/// A READDIR's answer filled a listing that the kernel had been told to forget; when the directory had the mtime again with
/// which the listing was begun, the kernel showed it.
#[test]
fn listings_from_before_a_time_that_comes_again_are_seen() {
    for seed in 0..5 {
        let _ = sim::run(seed, directories_with_old_times(seed), None);
    }
    is_seen_under(Breach::Rewinding, &["stale read", "a mount went back"], directories_with_old_times);
}

#[test]
fn names_that_no_epoch_ends_are_seen() {
    let changed_at_once = |seed| Options {
        mounts: 3,
        lookers: 0,
        processes: 4,
        names: 2,
        pins: 0,
        inc_epoch: true,
        ..among_friends(seed)
    };
    is_seen_under(Breach::Epochs, &["stale read", "a mount went back"], changed_at_once);
}

/// Nothing goes wrong, everybody works on the same two files, and no call takes as long as a lease.
fn at_once(seed: u64) -> Options {
    Options {
        nodes: 3,
        mounts: 3,
        lookers: 0,
        processes: 3,
        names: 2,
        directories: 1,
        counts: 0,
        shares: 0,
        // Their calls take as long as they hold a file.
        pins: 0,
        maps: 300,
        large: 0,
        forget: 0,
        delay: (100, 1000),
        sync: (150, 2000),
        think: (500, 5000),
        faults: Vec::new(),
        others_wait: Some(Timing::DEFAULT.lease),
        ..among_friends(seed)
    }
}

#[test]
fn nobody_waits_for_a_lease_where_all_is_well() {
    for seed in SEEDS_TO_SEE {
        let _ = sim::run(seed, at_once(seed), None);
    }
}

#[test]
fn a_wait_for_pages_that_a_request_has_locked_is_seen() {
    is_seen_under(Breach::LockedPages, &["pause", "liveness"], at_once);
}

#[test]
fn entries_that_wait_for_a_kernel_are_seen() {
    is_seen_under(Breach::Applying, &["pause", "liveness"], at_once);
}

#[test]
fn beliefs_that_are_never_brought_up_to_date_are_seen() {
    is_seen(Breach::Beliefs, &["permission", "stale read", "between write and close"]);
}

/// A node that was founded a second time with the cluster's authority answers at an address of the first.
#[test]
fn a_second_founding_that_mounts_do_not_tell_from_the_first_is_seen() {
    let among_strangers = |seed| Options {
        nodes: 3,
        strangers: 500,
        faults: vec![Fault::BreakMount, Fault::Transfer],
        fault_pause: (100_000, 800_000),
        ..among_friends(seed)
    };
    for seed in 0..20 {
        let _ = sim::run(seed, among_strangers(seed), None);
    }
    is_seen_under(Breach::Foundings, &["mount", "stale read", "availability", "liveness"], among_strangers);
}

/// Linux 6.19, and mounts that have not asked it.
#[test]
fn missing_names_that_a_kernel_keeps_are_seen() {
    let of_one_release = |seed| Options { inval_entry: false, names: 4, ..among_friends(seed) };
    is_seen_under(Breach::Probe, &["stale read", "a mount went back"], of_one_release);
}

/// The wall clock of one of three nodes is set 30 days ahead or back, and right again, all the time, whoever leads.
fn set_often(seed: u64) -> Options {
    Options {
        nodes: 3,
        faults: vec![Fault::SetClock, Fault::SetClock, Fault::Transfer, Fault::Crash, Fault::CrashAll],
        fault_pause: (20_000, 500_000),
        ..among_friends(seed)
    }
}

#[test]
fn a_wall_clock_that_is_wrong_stamps_nothing() {
    for seed in SEEDS_TO_SEE {
        let _ = sim::run(seed, set_often(seed), None);
    }
}

#[test]
fn leaders_that_stamp_by_their_own_clock_are_seen() {
    is_seen_under(Breach::WallClocks, &["stamps"], set_often);
}

#[test]
fn who_is_let_in_before_his_turn_is_seen() {
    is_seen(Breach::Queue, &["mutual exclusion"]);
}

#[test]
fn locks_that_outlive_their_mount_are_seen() {
    is_seen(Breach::Holds, &["liveness"]);
}

/// Logs reach back so little, and nodes end so often, that some end between a snapshot's state and its log.
fn behind_the_log(seed: u64) -> Options {
    Options {
        nodes: 3,
        retention: Retention { log_bytes: 300, piece_bytes: 400 },
        chaos: Duration::from_secs(8),
        faults: vec![Fault::Crash, Fault::Partition],
        fault_pause: (50_000, 400_000),
        ..among_friends(seed)
    }
}

/// A node that ended between the state of a snapshot and the log that begins behind it did not start again.
#[test]
fn nodes_that_end_while_they_install_a_snapshot_come_back() {
    let installed: u64 = SEEDS_TO_SEE.map(|seed| sim::run(seed, behind_the_log(seed), None).snapshots).sum();
    assert!(installed > SEEDS_TO_SEE.end, "{installed}");
}

/// A snapshot brought shared memory that was being made here, and its turn was given back before the answer came.
#[test]
fn shared_memory_behind_the_log_has_its_turn() {
    for seed in SEEDS_TO_SEE {
        let _ = sim::run(seed, Options { shares: 150, ..behind_the_log(seed) }, None);
    }
}

#[test]
fn a_state_that_was_installed_and_is_not_marked_is_seen() {
    // It takes a node that ends in the one moment between two syncs.
    is_seen_within(0..400, Breach::Marks, &["log and state"], behind_the_log);
}
