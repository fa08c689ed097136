//! The whole cluster in one thread: storage nodes, mounts, kernels and processes as pure cores and models, on virtual
//! time, from one seed.
//!
//! A run founds a cluster, lets processes collide on few names while things go wrong, ends the faults, and waits for
//! quiet. `options` are what the seed chose. Outside the cores stand the checkers (`oracle`, `workload`):
//!
//! - log agreement: the same entry at the same index on all nodes;
//! - equal digests of nodes and mounts at equal index, also after restarts;
//! - durability: what is acknowledged is on the disks of a majority, and stays;
//! - exactly once: no call is carried out twice, however often it is sent;
//! - coherence (docs/protocol.md R19-either-state): nobody sees what is older than a change that had returned, on warm
//!   kernel caches;
//! - no mount goes back;
//! - stamps are what time it is, whatever clock is set, and no ctime runs backwards;
//! - availability: no call fails for a fault's sake;
//! - liveness: when the faults are over, every call returns in time (also a search for cycles of kernel locks).
//!
//! Two runs of one seed have the same trace.

mod clock;
mod dice;
mod disk;
mod holder;
mod host;
mod kernel;
mod network;
pub mod options;
mod oracle;
mod packs;
mod stamps;
mod syscalls;
mod workload;
mod world;

pub use options::{Breach, Options};

/// What a run did: no checker is worth much where nothing happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Equal for equal seeds.
    pub trace: u64,
    pub events: u64,
    /// System calls that returned.
    pub calls: u64,
    /// Of them, requests that the kernel had to ask the mount for.
    pub upcalls: u64,
    /// Entries that the nodes applied.
    pub entries: u64,
    /// Answers that leaders gave to mounts' changes.
    pub answers: u64,
    /// Things that processes saw and that were compared with the log.
    pub sights: u64,
    /// Of them, those that full linearizability would not allow: another mount had shown what is newer, of a change that had
    /// not returned (R19-either-state).
    pub behind: u64,
    pub notifications: u64,
    pub faults: u64,
    pub elections: u64,
    /// Leases that mounts lost.
    pub leases_lost: u64,
    /// Sessions that the cluster ended because nobody heard of them.
    pub sessions_ended: u64,
    /// Crashes that left a part of a log batch on the disk.
    pub torn_writes: u64,
    /// States that nodes took over whole.
    pub snapshots: u64,
    /// Snapshots that mounts were sent though they had a state.
    pub reloads: u64,
    /// Numbers that processes wrote under locks.
    pub counts: u64,
    /// Sessions that lost what they held because nobody heard of them.
    pub holds_ended: u64,
    /// How often a holder made a kernel forget because its worker had not.
    pub holders_acted: u64,
    /// Disks that went back to an older copy, and copies that were begun beside their original.
    pub restores: u64,
    pub twins: u64,
    /// Nodes that found that they had forgotten what they promised.
    pub forgetful: u64,
    /// Calls that were told EIO, because what they rested on was taken from their mount.
    pub calls_lost: u64,
    /// Reservations of space that were given, and that were refused because there was too little.
    pub reservations: u64,
    pub reservations_refused: u64,
    /// Mounts that were told that their volume is gone.
    pub mounts_without_volume: u64,
}

impl Report {
    /// What two runs did together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            trace: self.trace ^ other.trace,
            events: self.events + other.events,
            calls: self.calls + other.calls,
            mounts_without_volume: self.mounts_without_volume + other.mounts_without_volume,
            reservations: self.reservations + other.reservations,
            reservations_refused: self.reservations_refused + other.reservations_refused,
            upcalls: self.upcalls + other.upcalls,
            entries: self.entries + other.entries,
            answers: self.answers + other.answers,
            sights: self.sights + other.sights,
            behind: self.behind + other.behind,
            notifications: self.notifications + other.notifications,
            faults: self.faults + other.faults,
            elections: self.elections + other.elections,
            leases_lost: self.leases_lost + other.leases_lost,
            sessions_ended: self.sessions_ended + other.sessions_ended,
            torn_writes: self.torn_writes + other.torn_writes,
            snapshots: self.snapshots + other.snapshots,
            reloads: self.reloads + other.reloads,
            counts: self.counts + other.counts,
            holds_ended: self.holds_ended + other.holds_ended,
            holders_acted: self.holders_acted + other.holders_acted,
            restores: self.restores + other.restores,
            twins: self.twins + other.twins,
            forgetful: self.forgetful + other.forgetful,
            calls_lost: self.calls_lost + other.calls_lost,
        }
    }
}

/// One run. `tell` is told every event, for those who look for a fault.
///
/// # Panics
/// Where a checker finds something wrong; the message says what.
#[must_use]
pub fn run(seed: u64, options: Options, tell: Option<fn(&str)>) -> Report {
    world::World::new(seed, options, tell).run()
}
