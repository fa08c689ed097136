//! The hosts of the cores: what a server and a FUSE worker are in production.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    clock::Clock,
    disk::Disk,
    holder::Holder,
    kernel::Kernel,
    syscalls::{Call, Running},
    world::EPOCH,
};
use crate::{
    message::{log::LogEntry, mount::ToMount},
    mount::{Input, Mount},
    node::Node,
    types::{ConnectionId, Ino, Instant, LogIndex, Name, SessionId},
};

/// A storage node: its process, while it runs, and its disk.
#[derive(Debug)]
pub(super) struct NodeHost {
    pub(super) core: Option<Node>,
    pub(super) clock: Clock,
    /// One more at every start: what was on its way to an earlier process is not for this one.
    pub(super) life: u64,
    pub(super) disk: Disk,
    pub(super) wake: Option<Instant>,
    /// The log as this process wrote it, synced or not.
    pub(super) log: BTreeMap<LogIndex, LogEntry>,
    pub(super) applied: LogIndex,
    pub(super) state_sync_due: bool,
    /// Its wall clock runs ahead of virtual time by this many nanoseconds.
    pub(super) skew: u64,
    /// And by so much more since somebody set it.
    pub(super) set_ahead: i64,
    /// How many times slower than usual its disk is.
    pub(super) slowness: u32,
    pub(super) is_full: bool,
    /// When its device was last looked at.
    pub(super) space_told: Instant,
    /// Connections of mounts: its own number, and the world's.
    pub(super) connections: BTreeMap<ConnectionId, u64>,
    pub(super) last_connection: u64,
    pub(super) is_stopping: bool,
    pub(super) started: Instant,
    pub(super) is_forgetful: bool,
}

impl NodeHost {
    /// Nanoseconds since 1970.
    pub(super) fn wall_clock(&self, now: Instant) -> u64 {
        (EPOCH + now.0 + self.skew).saturating_add_signed(self.set_ahead)
    }
}

/// A connection of a mount to a node, as both ends know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) mount: usize,
    pub(super) mount_life: u64,
    pub(super) mount_connection: ConnectionId,
    pub(super) node: crate::types::NodeId,
    pub(super) node_life: u64,
    pub(super) node_connection: ConnectionId,
    pub(super) is_open: bool,
}

/// A process on a mount: one call at a time.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) running: Option<Running>,
    pub(super) started: Instant,
    /// Calls that are to be made next, before the workload is asked.
    pub(super) next: VecDeque<Call>,
    /// The mount's session then, and how far it had applied.
    pub(super) began_as: (Option<SessionId>, LogIndex),
    /// Its mount had no volume any more then, and its kernel had forgotten all of it.
    pub(super) began_without_volume: bool,
    /// No leader answered at some time since.
    pub(super) without_lease: bool,
    /// Its mount had no lease at some time since the call began.
    pub(super) lost_lease: bool,
    /// Names that a rename had moved, and that were still to be invalidated when the call began.
    pub(super) unsettled: BTreeSet<(Ino, Name)>,
}

/// A mount: core, kernel and the processes that use it.
#[derive(Debug)]
pub(super) struct MountHost {
    pub(super) core: Mount,
    /// Of the machine: worker, holder and kernel go by it.
    pub(super) clock: Clock,
    /// Otherwise one that crashed is still to come back.
    pub(super) is_started: bool,
    /// No process comes in the place of the one that has ended.
    pub(super) has_ended: bool,
    pub(super) life: u64,
    pub(super) kernel: Kernel,
    pub(super) wake: Option<Instant>,
    pub(super) processes: Vec<Process>,
    /// The world's number of the connection that the core uses.
    pub(super) link: Option<u64>,
    /// The lease was held when the core was last looked at.
    pub(super) is_fresh: bool,
    /// When a leader last said that the session had ended, or it was seen that a delegation was taken away.
    pub(super) expired: Option<Instant>,
    pub(super) delegations_lost: u64,
    /// Nothing here runs until then.
    pub(super) paused_until: Option<Instant>,
    /// The worker does not run until then; what comes for it meanwhile.
    pub(super) stopped_until: Option<Instant>,
    pub(super) backlog: Vec<Input>,
    /// Until when each thread is busy with the request that it has read, where there are several.
    pub(super) threads: Vec<Instant>,
    /// Requests that were read, and that the core does not have yet.
    pub(super) read: BTreeSet<u64>,
    pub(super) holder: Holder,
    /// Tickets that the core gave out and the kernel is not done with: the names they are about.
    pub(super) tickets: BTreeMap<u64, BTreeSet<(Ino, Name)>>,
    /// Names that renames named, and when they returned.
    pub(super) renamed: Vec<(Name, Instant)>,
    /// When a file was last open for writing here.
    pub(super) written: BTreeMap<Ino, Instant>,
    /// Entries of its own that are complete, and the processes whose calls have to return first.
    pub(super) awaiting: Vec<(LogIndex, Vec<usize>)>,
    /// What it is told only when its kernel has forgotten all it was told to.
    pub(super) withheld: VecDeque<(ConnectionId, ToMount)>,
}

impl MountHost {
    /// The directories in which names that others changed may not be forgotten yet, because this mount is changing them
    /// itself.
    pub(super) fn busy_directories(&self) -> BTreeSet<Ino> {
        let tickets = self.tickets.values().flatten().map(|(directory, _)| *directory);
        self.kernel.directories_being_changed().chain(tickets).collect()
    }

    /// Names that a rename moved and that are still to be invalidated.
    pub(super) fn unsettled(&self) -> BTreeSet<(Ino, Name)> {
        let is_moved = |name: &Name| self.renamed.iter().any(|(moved, _)| moved == name);
        self.tickets.values().flatten().filter(|(_, name)| is_moved(name)).cloned().collect()
    }

    /// Names of renames that were under way at this time or later, or whose invalidation is still to follow.
    pub(super) fn renamed_since(&self, start: Instant) -> Vec<Name> {
        let calls = self.processes.iter().filter_map(|process| process.running.as_ref()).map(|running| &running.call);
        let running = calls.filter_map(|call| match call {
            Call::Rename { from, to, .. } => Some([from.name.clone(), to.name.clone()]),
            _ => None,
        });
        let is_pending = |name: &Name| self.tickets.values().flatten().any(|(_, pending)| pending == name);
        let over =
            self.renamed.iter().filter(|(name, at)| *at >= start || is_pending(name)).map(|(name, _)| name.clone());
        running.flatten().chain(over).collect()
    }
}
