//! What goes into a storage node's core and what comes out of it.

use bytes::Bytes;

use crate::{
    message::{
        log::{LogBatch, LogEntry, StateBatch},
        mount::{MountPlace, ToLeader, ToMount},
        peer::PeerMessage,
    },
    namespace::{NodeInfo, QuotaChanges, State, VolumeOptions},
    replica::Standing,
    types::{ConnectionId, CredentialId, FoundingId, Grant, LogIndex, NodeId, SessionId, Space, Term, VolumeId},
};

/// What the disk holds of the log, and the state as of its applied index, when a node starts.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// What `LogBatch::hard_state` last was, where one was ever written.
    pub hard_state: Option<Bytes>,
    /// Encoded raft membership as of `state_index`.
    pub membership: Bytes,
    /// The state and the index and term of the last entry in it; rows and packs hold all of it.
    pub state: State,
    pub state_index: LogIndex,
    pub state_term: Term,
    /// Entries that follow `compacted`, without a gap.
    pub entries: Vec<LogEntry>,
    /// Index and term of the entry before the first of `entries`.
    pub compacted: (LogIndex, Term),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminRequest {
    Status,
    CreateVolume {
        name: String,
        options: VolumeOptions,
    },
    /// `force`: though there are mounts of it.
    DeleteVolume {
        name: String,
        force: bool,
    },
    SetQuotas {
        name: String,
        changes: QuotaChanges,
    },
    TransferLeader {
        to: Option<NodeId>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminAnswer {
    Done,
    Status(Box<NodeStatus>),
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdminError {
    #[error("this node does not lead; ask {}", .leader.as_deref().unwrap_or("again once a leader is elected"))]
    NotLeader { leader: Option<String> },
    #[error("{0}")]
    Refused(String),
    #[error("the cluster has no quorum: nothing was changed for certain, look again once nodes are back")]
    TimedOut,
}

/// What `status` shows of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    pub founding: FoundingId,
    pub id: NodeId,
    pub leader: Option<NodeId>,
    pub term: Term,
    pub applied: LogIndex,
    pub committed: LogIndex,
    /// Digest of the whole state at `applied`.
    pub digest: u128,
    pub peers: Vec<PeerStatus>,
    pub volumes: Vec<VolumeStatus>,
    /// Known at the leader only.
    pub sessions: Vec<SessionStatus>,
    /// The node's disk is so full that it takes no entries as long as a majority does without it.
    pub short_of_space: bool,
    pub clock: ClockStatus,
    /// Whether the node takes part in votes and acknowledgements.
    pub standing: Standing,
    /// Of its own disk.
    pub space: Option<Space>,
    /// Milliseconds since it last knew a leader, or since its process began; `None` while it knows one.
    pub leaderless_ms: Option<u64>,
}

/// A node's wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockStatus {
    /// Times that it was set by a second or more since the process began.
    pub jumps: u64,
    /// Milliseconds by which it is ahead of cluster time; less than nothing where it is behind, `None` while cluster time
    /// is not known.
    pub ahead_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    pub node: NodeInfo,
    pub voter: bool,
    /// Last entry known to be on the peer's disk; at the leader only.
    pub matched: Option<LogIndex>,
    /// The peer answered within the last election timeout; at the leader only.
    pub reachable: Option<bool>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeStatus {
    pub id: VolumeId,
    pub name: String,
    pub inodes: u64,
    pub bytes: u64,
    pub quota_bytes: Option<u64>,
    pub quota_inodes: u64,
    pub digest: u128,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionStatus {
    pub session: SessionId,
    pub volume: VolumeId,
    pub connected: bool,
    pub in_roster: bool,
    /// Entries sent and not acknowledged yet.
    pub unacknowledged: u64,
    /// Milliseconds since it was opened: since the mount began, but for one that was away for longer than a session lasts.
    pub age_ms: u64,
    /// As the mount says; `None` where it has not attached to this leader.
    pub place: Option<MountPlace>,
}

#[derive(Clone, Debug)]
pub enum Input {
    /// The batch of this number, and all before it, is on the disk.
    LogPersisted {
        number: u64,
    },
    /// State store and packs hold everything up to this entry, synced: the log may be cut below it.
    StatePersisted {
        index: LogIndex,
    },
    Peer {
        from: NodeId,
        message: PeerMessage,
    },
    /// A message to the peer was lost or could not be sent.
    PeerLost {
        peer: NodeId,
    },
    /// A mount has connected; its certificate says what it may.
    MountOpened {
        connection: ConnectionId,
        grant: Grant,
        credential: CredentialId,
    },
    Mount {
        connection: ConnectionId,
        message: ToLeader,
    },
    MountClosed {
        connection: ConnectionId,
    },
    Admin {
        ticket: u64,
        request: AdminRequest,
    },
    /// Space of this node's own device, less what log and state need for themselves; at start and every few seconds.
    Space(Space),
    /// Whether so much of what log and state need for themselves is used up that this node should take no more as long as
    /// a majority can do without it; told with `Space`.
    ShortOfSpace(bool),
    /// This machine's wall clock, nanoseconds since 1970; given now and then and before each handling of mount messages.
    WallClock(u64),
    /// Orderly stop: hand leadership over if possible; `Output::Stopped` follows.
    Stop,
    /// Nothing happened but time.
    Tick,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    PersistLog(LogBatch),
    PersistState(StateBatch),
    /// Entries up to this one may be cut from the log.
    CompactLog {
        through: LogIndex,
        term: Term,
    },
    Peer {
        to: NodeId,
        message: PeerMessage,
    },
    /// Address of a peer as the state knows it now; sent at start and at changes.
    PeerAddress(NodeInfo),
    Mount {
        connection: ConnectionId,
        message: ToMount,
    },
    CloseMount {
        connection: ConnectionId,
    },
    Admin {
        ticket: u64,
        answer: Result<AdminAnswer, AdminError>,
    },
    /// For logs, metrics and `status`.
    Leadership {
        leader: Option<NodeId>,
        term: Term,
    },
    /// A sentence for the log that an operator should see.
    Notice(String),
    /// The same, of what an operator should do something about.
    Warning(String),
    Stopped,
    /// The node cannot go on (an entry of a newer feature level, a log that contradicts itself): stop the process.
    Fatal(String),
}
