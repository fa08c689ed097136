//! What a storage node's core hands to its disk: batches of the log and of the state.

use bytes::Bytes;

use crate::{
    namespace::RowChange,
    types::{BlockHash, LogIndex, SessionId, Term, UploadId, VolumeId},
};

/// An entry of the Raft log as the log file keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    pub index: LogIndex,
    pub term: Term,
    /// The whole raft entry, encoded (type, context and data included).
    pub bytes: Bytes,
}

/// A write to the log: all of it is synced, in this order of batches, before `LogPersisted` says so.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogBatch {
    /// Grows by one with every batch.
    pub number: u64,
    /// Raft's hard state, and what else the replica must not forget; its own encoding.
    pub hard_state: Option<Bytes>,
    /// Entries to append. Where the first has an index the log already has, that and all behind it are replaced.
    pub entries: Vec<LogEntry>,
    /// The log begins anew behind this position (a snapshot was installed); earlier entries are void. The store holds
    /// the batch back until the `StateBatch` of that snapshot is synced, so that the log never runs ahead of the state:
    /// emit that one without waiting for this.
    pub reset: Option<(LogIndex, Term)>,
}

/// Rows and content that applied entries brought, to be written in order; the index goes into the same batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateBatch {
    /// Index and term of the last entry in it.
    pub index: LogIndex,
    pub term: Term,
    /// `State::digest` at `index`: rows that a store lost without a trace are noticed by it at the next start.
    pub digest: u128,
    /// Encoded raft membership, where it changed.
    pub membership: Option<Bytes>,
    /// A snapshot was installed: `rows` are all rows of the state and replace what the store held, at once. The store
    /// counts references anew from them.
    pub reset: bool,
    pub rows: Vec<RowChange>,
    /// Inline content for packs.
    pub content: Vec<(BlockHash, Bytes)>,
    /// Changes of how many extents name a block, over all volumes.
    pub references: Vec<(BlockHash, i64)>,
    /// Volumes that name a block in more extents than before: their mounts may read it. Empty with `reset`, as above.
    pub named: Vec<(VolumeId, BlockHash)>,
    /// Pins that end with the entries of this batch, after its references were counted (R18-pins).
    pub unpinned: Vec<Unpinned>,
}

/// Uploads that are over: from here on their blocks live only while extents name them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unpinned {
    /// An entry named these uploads (`Operation::uploads`), and its call does not come again.
    Uploads { volume: VolumeId, session: SessionId, uploads: Vec<UploadId> },
    /// The session ended (`Command::CloseSessions`).
    Session { volume: VolumeId, session: SessionId },
    /// The volume is gone (`Command::DeleteVolume`).
    Volume { volume: VolumeId },
}
