//! What this mount knows of a file beyond the replica: bytes on their way, and how it is read.

use std::collections::{BTreeSet, VecDeque};

use super::{buffered::Buffered, job::JobId, runs::Runs};
use crate::types::LogIndex;

/// This mount's right to buffer changes of one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Right {
    #[default]
    None,
    /// This job asks for it; writers wait for its completion.
    Asked(JobId),
    Held(LogIndex),
    /// A flush that gives it back is on its way.
    Returning,
}

/// A file that is open or being written here.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Written and in no job yet.
    pub(super) dirty: Runs,
    /// What else was changed and is in no job yet.
    pub(super) buffered: Buffered,
    /// Whether changes may be buffered.
    pub(super) right: Right,
    /// Requests that wait for that, or for the changes before them, in their order.
    pub(super) writers: Vec<u64>,
    /// The dirty bytes were written under a lock, held since this entry at the latest.
    pub(super) fence: Option<LogIndex>,
    /// Changes of this file that are not applied yet, in the order in which they must be.
    pub(super) queue: VecDeque<JobId>,
    /// Changes that are not complete yet; those of `queue` among them.
    pub(super) unanswered: BTreeSet<JobId>,
    /// Where the last READ ended: the next that begins there is a sequential one.
    pub(super) read_end: u64,
    /// Small writes since the extents were last looked at.
    pub(super) small_writes: u32,
}

impl File {
    /// Something is in no job yet.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.buffered.is_empty()
    }

    /// True while the replica does not show the file as its writers here see it.
    pub(super) fn is_ahead(&self) -> bool {
        self.is_dirty() || !self.queue.is_empty()
    }

    /// Nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        let is_settled = self.right == Right::None && self.writers.is_empty();
        is_settled && !self.is_ahead() && self.unanswered.is_empty()
    }

    /// Forgets what is in no job; how many bytes that was.
    pub(super) fn drop_dirty(&mut self) -> usize {
        let bytes = self.dirty.bytes();
        self.dirty.take();
        self.buffered = Buffered::default();
        bytes
    }
}
