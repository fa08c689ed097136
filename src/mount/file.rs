//! What this mount knows of a file beyond the replica: bytes on their way, and how it is read.

use std::collections::{BTreeSet, VecDeque};

use super::{changes::Changes, delegation::Right, flush::JobId, runs::Runs};
use crate::types::LogIndex;

/// A file that is open or being written here.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// Written and in no job yet.
    pub(crate) dirty: Runs,
    /// What else was changed and is in no job yet.
    pub(crate) changes: Changes,
    /// Whether changes may be buffered.
    pub(crate) right: Right,
    /// Requests that wait for that, or for the changes before them, in their order.
    pub(crate) writers: Vec<u64>,
    /// The dirty bytes were written under a lock, held since this entry at the latest.
    pub(crate) fence: Option<LogIndex>,
    /// Changes of this file that are not applied yet, in the order in which they must be.
    pub(crate) queue: VecDeque<JobId>,
    /// Changes that are not complete yet; those of `queue` among them.
    pub(crate) unanswered: BTreeSet<JobId>,
    /// Where the last read ended: the next that begins there is a sequential one.
    pub(crate) read_end: u64,
    /// Small writes since the extents were last looked at.
    pub(crate) small_writes: u32,
}

impl File {
    /// Something is in no job yet.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.changes.is_empty()
    }

    /// True while the replica does not show the file as its writers here see it.
    pub(crate) fn is_ahead(&self) -> bool {
        self.is_dirty() || !self.queue.is_empty()
    }

    /// Nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        let is_settled = self.right == Right::None && self.writers.is_empty();
        is_settled && !self.is_ahead() && self.unanswered.is_empty()
    }
}
