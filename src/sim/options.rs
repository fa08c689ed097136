//! What a seed chooses: how large the cluster is and what goes wrong how often. Faults that never happen together in
//! one run happen together in another ("swarm testing").

use std::time::Duration;

use super::dice::Dice;

/// One run's conditions. Chances are per mille.
#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: u64,
    pub mounts: u64,
    /// Processes that call at the same time on each mount.
    pub processes: usize,
    /// Names in each of the directories.
    pub names: u64,
    pub directories: u64,
    /// How long faults go on.
    pub chaos: Duration,
    /// Microseconds that a message takes.
    pub delay: (u64, u64),
    /// Microseconds that a sync of the log takes.
    pub sync: (u64, u64),
    /// Microseconds between two calls of a process.
    pub think: (u64, u64),
    /// Microseconds between two faults.
    pub fault_pause: (u64, u64),
    /// Kinds of faults that may happen; none of them in a quiet run.
    pub faults: Vec<Fault>,
    /// Chance that the kernel forgets an inode when it looks something up.
    pub forget: u64,
    /// The kernels know FUSE_NOTIFY_INC_EPOCH.
    pub inc_epoch: bool,
    /// Reads of a mount that no leader answers wait, so that the oracle forgives it nothing.
    pub block: bool,
    /// Chance that a write is too large to travel in its entry.
    pub large: u64,
}

/// What may go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A node's process ends and starts again a little later.
    Crash,
    /// All of them at once.
    CrashAll,
    /// One node hears and is heard of nobody.
    Partition,
    /// One node is not heard, or does not hear.
    OneWay,
    /// A stream between two nodes breaks; what was on its way may arrive late or twice.
    BreakPeer,
    /// A mount's connection breaks.
    BreakMount,
    /// A mount reaches no node for a while.
    CutMount,
    /// A mount's process and kernel end; a new one comes.
    CrashMount,
    /// Leadership is handed over on request.
    Transfer,
    /// A node stops in an orderly way and starts again.
    Stop,
    /// A disk takes its time.
    SlowDisk,
    /// A node is short of space for a while, one at a time.
    FullDisk,
}

const FAULTS: [Fault; 11] = [
    Fault::Crash,
    Fault::CrashAll,
    Fault::Partition,
    Fault::OneWay,
    Fault::BreakPeer,
    Fault::BreakMount,
    Fault::CutMount,
    Fault::CrashMount,
    Fault::Transfer,
    Fault::Stop,
    Fault::SlowDisk,
];

impl Options {
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut dice = Dice::new(seed).split();
        let slow = 1 + dice.roll(20) * dice.roll(2);
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| dice.chance(450)).collect();
        if dice.chance(80) {
            faults.clear();
        }
        let mut options = Self {
            nodes: [1, 3, 3, 3, 3, 5][dice.index(6)],
            mounts: 1 + dice.roll(3),
            processes: 1 + dice.index(3),
            names: 2 + dice.roll(4),
            directories: 1 + dice.roll(2),
            chaos: Duration::from_millis(2500 + dice.roll(3000)),
            delay: (100, 300 + 1000 * slow),
            sync: (150, 500 + dice.roll(10_000)),
            think: (500, 2000 + dice.roll(60_000)),
            fault_pause: (50_000, 100_000 + dice.roll(1_500_000)),
            faults,
            forget: dice.roll(2) * dice.roll(100),
            inc_epoch: dice.chance(500),
            // Of its own dice: the other choices of a seed stay as they were.
            block: Dice::new(seed ^ 0x626c_6f63_6b).chance(400),
            large: dice.roll(2) * dice.roll(50),
        };
        // Rolled last: seeds without it run as they did before there was this fault.
        if !options.faults.is_empty() && dice.chance(350) {
            options.faults.push(Fault::FullDisk);
        }
        options
    }
}
