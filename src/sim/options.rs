//! What a seed chooses: how large the cluster is and what goes wrong how often. Faults that never happen together in
//! one run happen together in another ("swarm testing").

use std::time::Duration;

use super::dice::Dice;
use crate::limits::{Retention, SessionBounds, Timing};

/// One run's conditions. Chances are per mille.
#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: u64,
    pub mounts: u64,
    /// Threads of each mount that take requests of its kernel: what one has read, another may overtake.
    pub threads: usize,
    /// Processes that call at the same time on each mount.
    pub processes: usize,
    /// Mounts whose processes change nothing. On the others, while they are cut off, all soon wait for a change.
    pub lookers: u64,
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
    /// Their FUSE_NOTIFY_INVAL_ENTRY ends missing names and waits for LOOKUPs; otherwise it is that of Linux 6.19.
    pub inval_entry: bool,
    /// Reads of a mount that no leader answers wait, so that the oracle forgives it nothing.
    pub block: bool,
    /// Chance that a write is too large to travel in its entry.
    pub large: u64,
    /// Chance that a process counts in a file that a lock guards.
    pub counts: u64,
    /// Chance that a process writes by a mapping.
    pub maps: u64,
    /// Chance that a process counts, or writes, in shared memory that one mount at a time may have open.
    pub shares: u64,
    /// Chance that a process writes to its own part of a file and reads it back.
    pub stripes: u64,
    /// Chance that a process holds a file by a descriptor that its mount is not told of.
    pub pins: u64,
    /// Chance that a process watches the end of a file that it has open, and asks nobody.
    pub tails: u64,
    /// Chance that a process reserves space before it writes.
    pub reserves: u64,
    /// Chance that a process gives a directory the mtime again that it had.
    pub rewinds: u64,
    /// Processes have no numbers that their mount could tell them apart by: each pod's containers have their own.
    pub hides_pids: bool,
    /// Where it is little, who lags needs a snapshot, of several pieces.
    pub retention: Retention,
    /// Where there are few, mounts that start again find no room, and wait.
    pub sessions: SessionBounds,
    /// Where sessions are short, those of mounts that crashed or are cut off end within the run.
    pub timing: Timing,
    /// Parts in a million by which each machine's clock may run too fast or too slow; 0: all show virtual time.
    pub drift: u32,
    /// Chance that a mount which dials the last node reaches one of another founding with the same authority.
    pub strangers: u64,
    /// No call of another mount than the first takes longer.
    pub others_wait: Option<Duration>,
    /// When the volume is deleted, whoever has it mounted.
    pub deletes: Option<Duration>,
    /// No seed chooses one.
    pub breach: Option<Breach>,
}

/// A rule of docs/protocol.md that is broken on purpose, by the world around the cores: the checkers have to see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breach {
    /// R3-apply-first, R19-either-state: the leader is told that every mount has acknowledged what it was sent.
    Completion,
    /// R3-apply-first: a mount acknowledges a change that its kernel is yet to be told of.
    Acknowledgement,
    /// R2-telling: kernels are told of no names.
    Names,
    /// R2-telling: kernels are told of no attributes, those of directories included.
    Attributes,
    /// R2-telling: mounts believe that their kernels forget missing names, and these do not.
    Probe,
    /// R19-either-state: kernels are told to forget each file that they have just asked about, and go by what they
    /// believed before.
    Beliefs,
    /// R2-telling: kernels are not told of a directory again whose mtime went back while a listing was on its way.
    Rewinding,
    /// R24-pages: kernels are told of no pages.
    Pages,
    /// R1-versions, R3-apply-first: every reply may be kept for as long as any.
    Fences,
    /// R17-exactly-once: a call that is sent again is taken for another one.
    Retries,
    /// R101-synced: a node calls its log synced that is only written.
    Sync,
    /// R102-installed: a state that was installed is not marked on the disk (`node/ends.rs`).
    Marks,
    /// R12-fencing: what is written under a lock does not name since when its session holds it.
    LateWrites,
    /// R103-locks: whoever waits for a lock is told that he has it.
    Queue,
    /// R103-locks: locks of mounts that nobody hears of never end.
    Holds,
    /// R4-new-leader, R5-lease: leaders wait for silent mounts half as long as these may answer from caches.
    Waiting,
    /// R5-lease: a mount takes its lease for granted when it has sent the renewal.
    Renewals,
    /// R5-lease: whoever is asked renews a lease, without a round of heartbeats.
    Rounds,
    /// R7-forgetting: a worker that is stopped is all there is to make the kernel forget.
    Holder,
    /// R29-sizes: kernels are not told that files have grown.
    Sizes,
    /// R8-locked-pages: what makes a kernel forget a file waits for all its pages, also those that a request keeps
    /// locked.
    LockedPages,
    /// R9-application: a mount applies nothing while its kernel is being told to forget something.
    Applying,
    /// R10-read-index, R16-cut-off: a mount without a lease answers reads without the entries that it lacks.
    ReadIndexes,
    /// R18-pins: stores say that they have a block, and do not.
    Stores,
    /// R18-pins: stores drop a block that no extent names, whatever upload it belongs to.
    Pins,
    /// R22-collisions, R23-renames: kernels know no epochs, and their mounts believe that they do.
    Epochs,
    /// R27-handover: a leader that gives leadership away says that no mount has a lease.
    Leases,
    /// R5-lease: clocks drift apart by more than leases allow for.
    Clocks,
    /// R11-delegation: who looks at a file that another mount has delegated is answered from the log, and nobody is
    /// asked for it.
    Recalls,
    /// R13-appends: a kernel says where an append lands, by the size that it believes in.
    Appends,
    /// R14-closes: kernels are told that no close is to be told.
    Closes,
    /// R67-foundings: nobody compares foundings.
    Foundings,
    /// R15-orphans: mounts do not say which files without a name are in use there.
    Orphans,
    /// R105-clock: a leader takes its own wall clock for everybody's.
    WallClocks,
    /// R12-fencing: a turn to have shared memory open is taken for one of several.
    Turns,
    /// R24-pages: kernels are not told of pages that a READ may have filled from before a WRITE.
    Refills,
    /// R104-space: stores say that more is free than is.
    Devices,
    /// R106-deletion: kernels of mounts whose volume is gone are told nothing, neither by their workers nor by holders.
    Deletion,
    /// R71-forgetful: whoever says hello is welcome, whatever it has forgotten.
    Forgetting,
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
    /// A mount's machine stands still for a while.
    PauseMount,
    /// A mount's worker is stopped for a while; its kernel and its holder go on.
    StopWorker,
    /// The same of the first mount, for longer than it may hold anything.
    StopFirst,
    /// Leadership is handed over on request.
    Transfer,
    /// A node stops in an orderly way and starts again.
    Stop,
    /// A disk takes its time.
    SlowDisk,
    /// A node is short of space for a while, one at a time.
    FullDisk,
    /// A node's wall clock is set 30 days ahead or back, and right again a little later: always that of the same one.
    SetClock,
    /// A node's disk is copied, or goes back to the copy: its process ends, and begins with older data.
    Restore,
    /// The same copy is begun beside the node that it is of.
    Twin,
}

impl Fault {
    /// Whether it takes a node, or its disk, from the others.
    pub(super) const fn hits_nodes(self) -> bool {
        matches!(
            self,
            Self::Crash
                | Self::CrashAll
                | Self::Partition
                | Self::OneWay
                | Self::Stop
                | Self::SlowDisk
                | Self::FullDisk
                | Self::Restore
                | Self::Twin
        )
    }
}

/// Two clocks that are wrong by this, in parts in a million, drift apart by what `Timing::drift_margin` is made for.
pub const DRIFT_MAX: u32 = 9_900;

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
            threads: 1,
            processes: 1 + dice.index(3),
            lookers: 0,
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
            inval_entry: Dice::new(seed ^ 0x0069_6e76_616c).chance(850),
            // Of its own dice: the other choices of a seed stay as they were.
            block: Dice::new(seed ^ 0x0062_6c6f_636b).chance(400),
            large: dice.roll(2) * dice.roll(50),
            counts: 0,
            maps: 0,
            shares: 0,
            stripes: 0,
            pins: 0,
            tails: 0,
            reserves: 0,
            rewinds: 0,
            hides_pids: Dice::new(seed ^ 0x0068_6964_6573).chance(200),
            retention: Retention::DEFAULT,
            sessions: SessionBounds::DEFAULT,
            timing: Timing::DEFAULT,
            drift: if Dice::new(seed ^ 0x0064_7269_6674).chance(500) { DRIFT_MAX } else { 0 },
            strangers: 0,
            others_wait: None,
            deletes: None,
            breach: None,
        };
        // Rolled last: seeds without it run as they did before there was this fault.
        if !options.faults.is_empty() && dice.chance(350) {
            options.faults.push(Fault::FullDisk);
        }
        if Dice::new(seed ^ 0x0070_6175_7365).chance(150) {
            options.faults.push(Fault::PauseMount);
        }
        if Dice::new(seed ^ 0x0073_746f_7070).chance(200) {
            options.faults.push(Fault::StopWorker);
        }
        if !options.faults.is_empty() && Dice::new(seed ^ 0x7365_7463_6c6f).chance(250) {
            options.faults.push(Fault::SetClock);
        }
        let mut dice = Dice::new(seed ^ 0x0066_6f75_6e64);
        if !options.faults.is_empty() && dice.chance(300) {
            options.strangers = 50 + dice.roll(350);
        }
        // What a disk forgets of large writes nobody else may have: whoever uploaded them was told that two disks do.
        if options.nodes > 1 && options.large == 0 && !options.faults.is_empty() {
            let mut dice = Dice::new(seed ^ 0x7265_7374_6f72_6564);
            options.faults.extend([Fault::Restore, Fault::Twin].into_iter().filter(|_| dice.chance(250)));
        }
        options.choose_scarcity(&mut Dice::new(seed ^ 0x7363_6172_6365));
        let mut dice = Dice::new(seed ^ 0x006c_6f63_6b73);
        options.counts = dice.roll(3).min(1) * (50 + dice.roll(400));
        let mut dice = Dice::new(seed ^ 0x006d_6d61_7073);
        options.maps = dice.roll(2).min(1) * (20 + dice.roll(150));
        let mut dice = Dice::new(seed ^ 0x7368_6172_6573);
        options.shares = dice.roll(3).min(1) * (20 + dice.roll(150));
        let mut dice = Dice::new(seed ^ 0x7374_7269_7065);
        options.stripes = dice.roll(2).min(1) * (50 + dice.roll(200));
        options.threads = [1, 1, 2, 4][dice.index(4)];
        let mut dice = Dice::new(seed ^ 0x7265_7769_6e64);
        options.rewinds = dice.roll(2).min(1) * (10 + dice.roll(60));
        let mut dice = Dice::new(seed ^ 0x7069_6e73);
        options.pins = dice.roll(2).min(1) * (20 + dice.roll(100));
        let mut dice = Dice::new(seed ^ 0x0074_6169_6c73);
        // Who has no number may open what has just grown before its mount knows that it was told the mode.
        options.tails = dice.roll(2).min(1) * (20 + dice.roll(100)) * u64::from(!options.hides_pids);
        let mut dice = Dice::new(seed ^ 0x7265_7365_7276);
        options.reserves = dice.roll(3).min(1) * (20 + dice.roll(100));
        options
    }

    /// What is short in this run: logs, sessions, changes. Of its own dice: the other choices of a seed stay as they were.
    fn choose_scarcity(&mut self, dice: &mut Dice) {
        if dice.chance(500) {
            self.retention = Retention { log_bytes: 300 + dice.index(4000), piece_bytes: 200 + dice.index(2000) };
        }
        if dice.chance(300) {
            self.timing = Timing { hold: Duration::from_secs(1), session: Duration::from_secs(2), ..Timing::DEFAULT };
        }
        self.lookers = dice.roll(2).min(self.mounts - 1);
        // Only where what a mount left behind is not missed for long: the others would not all be back before the end.
        if self.timing.hold < Timing::DEFAULT.hold && dice.chance(500) {
            let few = usize::try_from(self.mounts).unwrap_or(usize::MAX) + dice.index(2);
            let many = SessionBounds::DEFAULT;
            self.sessions = match dice.chance(500) {
                true => SessionBounds { per_credential: few, ..many },
                false => SessionBounds { total: few, ..many },
            };
        }
    }
}
