//! The messages between a mount and the leader, both ways, on one ordered stream. `wire/` alone turns them into
//! protobuf; ARCHITECTURE.md has the table of all messages.

use bytes::Bytes;

use crate::{
    namespace::{Operation, Reply},
    types::{Errno, Generation, Ino, Label, LogIndex, MountId, NodeId, Sequence, SessionId, Space, Stamp, VolumeId},
};

/// Versions of the protocol that an end speaks, both inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtocolRange {
    pub min: u16,
    pub max: u16,
}

/// A mount's first message on a connection. Of which founding and volume it is, its certificate has said before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    pub protocol: ProtocolRange,
    /// Bits of what this end can do; both ends use what both have.
    pub features: u64,
    /// The newest feature level that the mount's program understands.
    pub level_max: u16,
    pub mount: MountId,
    /// The session to go on with; `None` asks for a new one.
    pub session: Option<SessionId>,
    /// One more at every connection of this mount.
    pub generation: Generation,
    /// The last entry the mount has applied; 0 when it has nothing and wants a snapshot.
    pub applied: LogIndex,
    /// Unlinked inodes that this mount still has in use.
    pub orphans: Vec<Ino>,
    pub place: MountPlace,
}

/// Where a mount is and what it may, as it says itself: for people, and for nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountPlace {
    pub host: Label,
    pub path: Label,
    /// It refuses changes, whatever its credential would let it do.
    pub read_only: bool,
}

/// From a mount to the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToLeader {
    Hello(Hello),
    /// A call that changes something. Sent again with the same sequence until it is answered.
    Operation {
        sequence: Sequence,
        /// Sequences whose answers have arrived: their rows in the reply table may go.
        answered: Vec<Sequence>,
        operation: Operation,
    },
    /// These entries are applied here and this kernel can no longer answer from before them. Each entry is named on
    /// its own, in any order (docs/protocol.md R25-one-by-one), with one exception: naming `Welcome::caught_up_at`
    /// stands for it and all before it, those of earlier connections included. It is sent once per connection, also
    /// when nothing was missing, and only then is a lease granted.
    Acknowledge {
        entries: Vec<LogIndex>,
        /// Of the inodes which these entries left without a name: those that are open at this mount. With
        /// `caught_up_at`: all such inodes that are open at this mount.
        referenced: Vec<Ino>,
    },
    /// One piece of a snapshot has arrived. A few are on their way at a time; the next follows this.
    PieceReceived,
    /// These unlinked inodes were closed here for the last time.
    Released {
        orphans: Vec<Ino>,
    },
    /// Asks for the lease; `number` grows with every renewal of this connection.
    Renew {
        number: u64,
    },
    /// An orderly end: nothing is open, the session may be forgotten.
    Leave,
    /// Somebody here wants to see this file, which another session has delegated. Said again until it is given back.
    Recall {
        ino: Ino,
    },
    /// Asks up to where the log must be applied before a read is answered that begins now (R10-read-index,
    /// R16-cut-off); `number` grows with every one of this connection.
    ReadIndex {
        number: u64,
    },
}

/// A storage node as mounts need to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreAddress {
    pub node: NodeId,
    /// `host:port` of the node's client service (port 7440).
    pub address: String,
}

/// The leader's answer to `Hello`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    pub protocol: u16,
    pub features: u64,
    pub volume: VolumeId,
    pub session: SessionId,
    /// The mount is caught up once it has applied this entry; a snapshot at this index, or the entries that it lacks,
    /// follow, or nothing. It says so with `Acknowledge`.
    pub caught_up_at: LogIndex,
    /// Cluster time now.
    pub stamp: Stamp,
    pub stores: Vec<StoreAddress>,
    /// Bytes of content that may travel in one entry.
    pub inline_bytes_max: u32,
    pub space: Space,
}

/// From the leader to a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToMount {
    Welcome(Welcome),
    /// This node does not lead; `leader` is the client address of the one that does, where known.
    NotLeader {
        leader: Option<String>,
    },
    /// The connection cannot be: wrong cluster, no common version, old generation, unknown or expired session.
    Refused {
        refusal: Refusal,
        reason: String,
    },
    /// Rows of the volume's part at `index`, in key order. The first piece resets what was received before.
    SnapshotPiece {
        index: LogIndex,
        first: bool,
        last: bool,
        rows: Vec<(Bytes, Bytes)>,
    },
    /// Encoded entries of this volume, in log order.
    Entries {
        entries: Vec<(LogIndex, Bytes)>,
    },
    /// The answer to an operation, sent when it is complete: synced by a majority and acknowledged by every session in
    /// the roster. The entry itself was sent before.
    Answer {
        sequence: Sequence,
        /// The entry that carried the operation out; 0 when the leader refused it without one.
        index: LogIndex,
        outcome: Result<Reply, Errno>,
    },
    /// The lease runs from the moment `Renew { number }` was *sent*.
    Lease {
        number: u64,
        stamp: Stamp,
        space: Space,
        stores: Vec<StoreAddress>,
    },
    /// Another mount wants to see this file: flush it and give the delegation of this number back.
    Recall {
        ino: Ino,
        grant: LogIndex,
    },
    /// Whatever had completed when `ReadIndex { number }` arrived is in the entries up to this one, which were sent before.
    ReadIndex {
        number: u64,
        index: LogIndex,
    },
    /// Leadership is about to go to the node with this client address: whoever connects there now finds it sooner
    /// (R27-handover).
    Prepare {
        leader: String,
    },
}

/// Why a connection was refused, and so what the mount can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No common version, a volume that is gone: trying again changes nothing.
    Permanent,
    /// The node is of another founding: its word is none of the mount's cluster, whose nodes are elsewhere.
    Foreign,
    /// The session has expired: its calls get EIO, a new one may be opened.
    SessionExpired,
    /// There is no room for a session of this mount now: the same may be tried again after a pause.
    Busy,
    /// A newer connection of this mount exists, or the mount sent what makes no sense.
    Protocol,
}
