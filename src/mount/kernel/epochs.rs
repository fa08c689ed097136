//! INC_EPOCH because of collisions: when the last was sent, which names the kernel was told since, and who waits for the
//! next (docs/protocol.md R22-collisions).

use super::told_names::ToldNames;
use crate::types::{Ino, Instant, LogIndex, Name};

#[derive(Debug)]
pub(super) struct Epochs {
    pub(super) last: Option<Instant>,
    /// Names that the kernel was told since, and may keep.
    told: ToldNames,
    /// Entries whose acknowledgement waits for the next one.
    waiting: Vec<LogIndex>,
}

impl Epochs {
    pub(super) fn new() -> Self {
        Self { last: None, told: ToldNames::new(), waiting: Vec::new() }
    }

    /// The kernel may keep the name.
    pub(super) fn told(&mut self, parent: Ino, name: &Name) {
        self.told.insert(parent, name);
    }

    pub(super) fn may_have_told(&self, parent: Ino, name: &Name) -> bool {
        self.told.may_have(parent, name)
    }

    /// Another epoch begins: the kernel will ask about every name again.
    pub(super) fn begin(&mut self) {
        self.told.clear();
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn wait(&mut self, entry: LogIndex) {
        self.waiting.push(entry);
    }

    pub(super) fn take_waiting(&mut self) -> Vec<LogIndex> {
        std::mem::take(&mut self.waiting)
    }
}
