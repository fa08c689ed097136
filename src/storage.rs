//! What a storage node keeps on its block device: the Raft log, the state's rows, and packs of blocks.
//!
//! ```text
//! DIR/manyfs.toml   whose directory this is; written last, so that a directory has it or is no node's
//! DIR/LOCK          held by the one process that uses the directory
//! DIR/log/          segments of the Raft log (log.rs)
//! DIR/state/        sled: rows of the state, index of blocks, pins (state.rs)
//! DIR/packs/        blocks (packs.rs)
//! ```

mod counters;
mod error;
mod identity;

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;

pub use counters::{Counter, Counters};
pub use error::StorageError;
pub use identity::{Identity, inspect_identity};

use crate::{
    namespace::entry::Founding,
    node::{LogBatch, Recovered, StateBatch},
    types::{BlockHash, ClusterId, LogIndex, NodeId, SessionId, Term, UploadId, VolumeId, message::Space},
};

/// What the store's threads report.
#[derive(Clone, Debug)]
pub enum StorageEvent {
    /// The `LogBatch` of this number, and all before it, is synced.
    LogPersisted(u64),
    /// State store and packs hold everything up to this entry, synced.
    StatePersisted(LogIndex),
    /// The store cannot go on (P8: a sync failed, the disk is full under the log or the state): the process must end.
    /// Nothing is reported after it.
    Failed(StorageError),
}

/// Called from the store's threads; must not block for long.
pub type OnEvent = Box<dyn Fn(StorageEvent) + Send + Sync>;

/// Founds the node `node` in a blank or missing directory, with the state that every founding node begins with, at
/// entry 1 of term 1. `membership` is the encoded raft membership of the founding nodes.
///
/// # Errors
/// `AlreadyCreated`, `NotBlank`, `InUse`, `Access`, `ReadOnly`, `Full`, `Io`; the directory is then no node's, and an
/// interrupted creation can be repeated.
pub fn create(dir: &Path, founding: &Founding, node: NodeId, membership: &Bytes) -> Result<(), StorageError> {
    let _ = (dir, founding, node, membership);
    Err(StorageError::Closed)
}

/// Prepares a blank or missing directory for a node that will receive a snapshot: no state, an empty log.
///
/// # Errors
/// As `create`.
pub fn create_empty(dir: &Path, cluster: ClusterId, node: NodeId) -> Result<(), StorageError> {
    let _ = (dir, cluster, node);
    Err(StorageError::Closed)
}

/// Opens the node in `dir` and gives what its disk holds. The directory is locked until `Storage` is dropped.
///
/// # Errors
/// `NotCreated`, `NotBlank`, `InUse`, `Format`, `Access`, `ReadOnly`, `Damaged`, `Row`, `State`, `LogBehindState`,
/// `StateBehindLog`, `Io`. Nothing is lost by any of them.
pub fn open(dir: &Path, on_event: OnEvent) -> Result<(Storage, Recovered), StorageError> {
    let _ = (dir, on_event);
    Err(StorageError::Closed)
}

/// An open data directory. Dropping it writes and syncs what was submitted and ends its threads.
pub struct Storage {
    log: LogWriter,
    state: StateWriter,
    packs: Packs,
    counters: Arc<Counters>,
}

impl Storage {
    /// Clones are cheap and write to the same log.
    #[must_use]
    pub const fn log(&self) -> &LogWriter {
        &self.log
    }

    #[must_use]
    pub const fn state(&self) -> &StateWriter {
        &self.state
    }

    #[must_use]
    pub const fn packs(&self) -> &Packs {
        &self.packs
    }

    /// Space of the file system that holds the directory. What is kept back for log, state and compaction is not
    /// available.
    ///
    /// # Errors
    /// `Io`, `Access` where the file system does not answer.
    pub fn space(&self) -> Result<Space, StorageError> {
        Err(StorageError::Closed)
    }

    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").finish_non_exhaustive()
    }
}

/// The way into the Raft log.
#[derive(Clone, Debug)]
pub struct LogWriter;

impl LogWriter {
    /// Queues the batch and returns. All batches that wait are written together and synced once; then `LogPersisted`.
    pub fn submit(&self, batch: LogBatch) {
        let _ = batch;
    }

    /// Entries up to `through` may be deleted; whole segments are. What state and packs have not synced yet is kept
    /// until they have.
    pub fn compact(&self, through: LogIndex, term: Term) {
        let _ = (through, term);
    }
}

/// The way into the state store.
#[derive(Clone, Debug)]
pub struct StateWriter;

impl StateWriter {
    /// Queues the batch; its content can be read from the packs at once. It is written and synced in the background;
    /// then `StatePersisted`. Blocks while too many bytes wait.
    pub fn submit(&self, batch: StateBatch) {
        let _ = batch;
    }
}

/// The blocks of a node. Clones are cheap. All calls may wait for the disk: not for async threads.
#[derive(Clone, Debug)]
pub struct Packs;

impl Packs {
    /// Stores blocks and pins them for an upload. When it returns they, and the pins, are synced. A block that is
    /// there already is pinned and not stored twice. Without a pin a block that no extent names may be dropped at any
    /// time. Concurrent calls share syncs.
    ///
    /// # Errors
    /// `WrongHash`, `BlockSize`, `Full` (nothing was stored), or what made the store fail.
    pub fn put(
        &self,
        blocks: Vec<(BlockHash, Bytes)>,
        pin: Option<(VolumeId, SessionId, UploadId)>,
    ) -> Result<(), StorageError> {
        let _ = (blocks, pin);
        Err(StorageError::Closed)
    }

    /// The block's bytes, verified; `None` where it is not here.
    ///
    /// # Errors
    /// `Damaged` where the bytes are not the block's any more, `Io` where they cannot be read.
    pub fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StorageError> {
        let _ = hash;
        Err(StorageError::Closed)
    }

    /// Whether the block is here. Only a pin keeps it here: see `put`.
    #[must_use]
    pub fn contains(&self, hash: &BlockHash) -> bool {
        let _ = hash;
        false
    }

    /// Blocks that extents name and that are not here, up to `count` of them, in the order of their hashes, behind
    /// `after`: to be fetched from peers and `put` without a pin.
    #[must_use]
    pub fn missing(&self, after: Option<BlockHash>, count: usize) -> Vec<BlockHash> {
        let _ = (after, count);
        Vec::new()
    }
}
