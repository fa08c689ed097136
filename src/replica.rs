//! Consensus of the storage nodes as a pure core over `raft::RawNode`.

pub mod event;

use bytes::Bytes;
pub use event::{CommittedEntry, Config, DropReason, Input, Output, Peer, ReplicaError, ReplicaStatus, Restart};

use crate::types::{Instant, LogIndex, NodeId, Term};

/// One member of the group.
#[derive(Debug)]
pub struct Replica {
    config: Config,
    outputs: std::collections::VecDeque<Output>,
}

impl Replica {
    /// Starts from what the disk holds. `Restart::applied` may lie ahead of the log: a snapshot was installed and the
    /// process ended before the log was reset.
    ///
    /// # Errors
    /// `ReplicaError` where log, state and membership contradict each other or cannot be read.
    pub fn open(_now: Instant, config: Config, _restart: Restart) -> Result<Self, ReplicaError> {
        Ok(Self { config, outputs: std::collections::VecDeque::new() })
    }

    /// The encoded membership of a cluster that begins with these voters.
    #[must_use]
    pub fn membership_of(_voters: &[NodeId]) -> Bytes {
        Bytes::new()
    }

    /// Takes what happened. Never blocks, never fails.
    pub fn handle(&mut self, _now: Instant, _input: Input) {}

    /// What is to be done next. Several inputs handled before a poll share one batch of the log.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle` wants `Tick`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            leader: None,
            term: Term(0),
            leading: false,
            committed: LogIndex(0),
            last: LogIndex(0),
            peers: Vec::new(),
        }
    }

    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// The encoded membership as of the last entry that was applied; goes with snapshots of the state.
    #[must_use]
    pub fn membership(&self) -> Bytes {
        Bytes::new()
    }

    /// Entries in memory behind `after` up to `through`, in order; `None` when some of them were compacted.
    #[must_use]
    pub fn entries(
        &self,
        _after: LogIndex,
        _through: LogIndex,
    ) -> Option<impl Iterator<Item = (LogIndex, Term, Bytes)> + '_> {
        None::<std::iter::Empty<(LogIndex, Term, Bytes)>>
    }

    /// Up to where the log may be cut now that the state up to `state_persisted` is synced: `LOG_RETAINED_BYTES` stay
    /// for those that lag. `None`: nothing worth cutting.
    #[must_use]
    pub fn compaction_point(&self, _state_persisted: LogIndex) -> Option<(LogIndex, Term)> {
        None
    }
}
