//! README.md "Coherence" on real mounts (docs/protocol.md R19-either-state): three mounts of one volume, whose kernels
//! answer from warm caches, work on the same few names; every call is recorded with the times at which it began and
//! ended, and a judge looks at all of them.
//!
//! `MANYFS_COHERENCE_SECONDS` is how long each run lasts (15).

pub(crate) mod dice;
pub(crate) mod ground;
pub(crate) mod history;
pub(crate) mod judge;
pub(crate) mod reader;
pub(crate) mod run;
pub(crate) mod world;
pub(crate) mod writer;

use std::time::Duration;

use self::{ground::Ground, run::Run};

/// A run in CI takes this long, and as long again for cluster, mounts and judgement on a slow machine.
const SECONDS: u64 = 15;

fn seconds() -> Duration {
    let wanted = std::env::var("MANYFS_COHERENCE_SECONDS").ok();
    let seconds = wanted.map_or(SECONDS, |text| text.parse().expect("MANYFS_COHERENCE_SECONDS is a number"));
    Duration::from_secs(seconds)
}

#[test]
fn no_mount_ever_answers_with_what_was() {
    let ground = Ground::new(&[]);
    let verdict = Run::new(&ground).last(seconds(), || ());
    ground.tell();
    verdict.must_be_good();
}

#[test]
fn no_mount_ever_answers_with_what_was_while_leaders_are_killed() {
    let mut ground = Ground::new(&[]);
    let run = Run::new(&ground);
    let verdict = run.last(seconds(), || ground.kill_the_leader());
    ground.tell();
    verdict.must_be_good();
    assert!(ground.kills > 0);
}

/// `--opens=untracked` gives up nothing of what is seen where.
#[test]
fn a_mount_that_is_not_told_of_opens_never_answers_with_what_was() {
    let ground = Ground::new(&[("MANYFS_OPENS", "untracked")]);
    let verdict = Run::new(&ground).last(seconds(), || ());
    ground.tell();
    verdict.must_be_good();
}

/// The judge can see: one mount's kernel is never told to forget anything.
#[test]
fn a_mount_that_does_not_make_its_kernel_forget_is_found_out() {
    let ground = Ground::new(&[("FAILPOINTS", "mount-forget-nothing=return")]);
    let verdict = Run::new(&ground).only_reading_at(ground.last_mount()).last(Duration::from_secs(5), || ());
    verdict.must_be_bad_at(ground.last_mount());
}
