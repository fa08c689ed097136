//! What goes into the coordinator and what comes out of it.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;

use crate::{
    limits::{Retention, SessionBounds, Timing},
    message::mount::{MountPlace, ToLeader, ToMount},
    namespace::{Command, Entry, Reply},
    types::{ConnectionId, CredentialId, Errno, FoundingId, Grant, LogIndex, NodeId, SessionId, Space, Term, VolumeId},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    pub founding: FoundingId,
    pub timing: Timing,
    pub retention: Retention,
    pub sessions: SessionBounds,
}

/// An entry that the state now includes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppliedEntry {
    pub index: LogIndex,
    pub entry: Entry,
    /// The entry as it stands in the log: what mounts are sent.
    pub bytes: Bytes,
    pub outcome: Result<Reply, Errno>,
    /// The session that `OpenSession` opened or found.
    pub session: Option<SessionId>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A mount has connected; its certificate says what it may.
    Opened {
        connection: ConnectionId,
        grant: Grant,
        credential: CredentialId,
    },
    Message {
        connection: ConnectionId,
        message: ToLeader,
    },
    Closed {
        connection: ConnectionId,
    },
    /// Who leads now. `attach_grace` counts from now (docs/protocol.md R4-new-leader).
    Leadership {
        leader: Option<NodeId>,
        term: Term,
        leading: bool,
        attach_grace: Duration,
    },
    /// The state that is given beside this input includes these entries (in log order) and everything else up to an
    /// entry of this term. Entries without data are left out.
    Applied {
        term: Term,
        entries: Vec<AppliedEntry>,
    },
    /// The state was replaced by a peer's.
    Replaced,
    /// Where a proposal stands in the log, should it be committed under this leader.
    Proposed {
        token: u64,
        index: LogIndex,
    },
    /// A proposal was not taken and has no effect.
    Dropped {
        token: u64,
    },
    /// A majority acknowledged a heartbeat that began after every `Output::ConfirmLease` up to this ticket.
    LeaseConfirmed {
        ticket: u64,
    },
    /// A change of the cluster part (0) or of a volume. With a ticket, `Output::Carried` or `Output::Lost` follows.
    Command {
        ticket: Option<u64>,
        volume: VolumeId,
        command: Command,
    },
    /// Hand leadership over as soon as no lease stands that the successor would wait for in vain: `Output::HandOver`
    /// follows, at the latest when all leases of today have ended, or leadership is lost before.
    HandOver {
        to: Option<NodeId>,
        /// The most likely successor, where none is named: mounts connect to it meanwhile.
        likely: Option<NodeId>,
    },
    /// The leader of this term grants none any more: no session but these may have a lease of its or before.
    Inherited {
        term: Term,
        leased: BTreeSet<(VolumeId, SessionId)>,
    },
    /// Whether calls have to wait: the state store is too far behind.
    Hold(bool),
    /// Cluster time, nanoseconds since 1970. Nothing is proposed before it was told once.
    Clock(u64),
    /// Space of a majority of stores, and bytes of content that their states named by then at the least.
    Space {
        space: Space,
        content: u64,
    },
    /// Nothing happened but time.
    Tick,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// `Input::Proposed` or `Input::Dropped` with the token follows.
    Propose {
        token: u64,
        data: Bytes,
    },
    /// Asks for a heartbeat round that begins now or later; tickets grow.
    ConfirmLease {
        ticket: u64,
    },
    Send {
        connection: ConnectionId,
        message: ToMount,
    },
    /// Ends the connection behind what was sent on it; `Input::Closed` is not needed any more.
    Close {
        connection: ConnectionId,
    },
    /// The command of this ticket was applied.
    Carried {
        ticket: u64,
        outcome: Result<Reply, Errno>,
    },
    /// Leadership was lost: whether the command of this ticket takes effect is open.
    Lost {
        ticket: u64,
    },
    /// Leadership goes to another now, as `Input::HandOver` said. In this term no lease is granted any
    /// more, and no session but these may have one; `None` where this leader did not get to know them.
    HandOver {
        to: Option<NodeId>,
        likely: Option<NodeId>,
        leased: Option<(Term, BTreeSet<(VolumeId, SessionId)>)>,
    },
}

/// What `status` shows of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionReport {
    pub volume: VolumeId,
    pub session: SessionId,
    pub connected: bool,
    pub in_roster: bool,
    pub unacknowledged: u64,
    /// Milliseconds since it was opened.
    pub age_ms: u64,
    /// As the mount said when it attached to this leader; `None` where it has not.
    pub place: Option<MountPlace>,
}
