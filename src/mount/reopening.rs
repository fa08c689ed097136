//! Opens that lose a race against the end of their file. The kernel answers ESTALE to an OPEN by looking the path up
//! again, once; a second ESTALE is the caller's. So for a while after a first one, what a LOOKUP finds counts as open
//! here, so that it is kept until its OPEN has come, whatever becomes of its name meanwhile.

use std::collections::BTreeSet;

use super::{Mount, Timer};
use crate::types::{Ino, Instant};

#[derive(Debug, Default)]
pub(crate) struct Reopening {
    until: Option<Instant>,
    expected: BTreeSet<Ino>,
}

impl Reopening {
    /// The kernel may be about to open this.
    pub(crate) fn is_expected(&self, ino: Ino) -> bool {
        self.expected.contains(&ino)
    }
}

impl Mount {
    /// ESTALE to an OPEN.
    pub(super) fn expect_another_try(&mut self, now: Instant) {
        self.reopening.until = Some(now.after(self.config.timing.lease));
    }

    /// A LOOKUP found this file.
    pub(super) fn file_found(&mut self, ino: Ino) {
        if self.reopening.until.is_some_and(|until| self.now < until) && self.reopening.expected.insert(ino) {
            self.timers.insert((self.now.after(self.config.timing.lease), Timer::Reopening(ino)));
        }
    }

    /// Its OPEN has come, or never will.
    pub(super) fn reopening_is_over(&mut self, ino: Ino) {
        self.reopening.expected.remove(&ino);
        self.release_orphan(ino);
    }
}
