//! The space of the stores, and who may have it. What is reserved (fallocate) is there when it is written: all volumes'
//! reservations together, and what takes space besides, never exceed what the stores have.
//!
//! The leader alone decides, before an entry is proposed, and counts what is on its way: two mounts never reserve the same
//! space. Apply knows nothing of stores.

use crate::{
    namespace::State,
    types::{Errno, Space},
};

/// What an operation takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Bytes for which no space is reserved.
    pub(super) space: u64,
    /// The same where what is reserved now is given back before the operation is applied.
    pub(super) at_most: u64,
    /// Bytes that are written when it is applied.
    pub(super) at_once: u64,
    /// It takes space for what is to come.
    pub(super) reserves: bool,
}

#[derive(Debug, Default)]
pub(super) struct Stores {
    /// As a majority has it.
    space: Space,
    /// Bytes of content that the states of that majority named by then.
    content: u64,
}

impl Stores {
    pub(super) const fn told(&mut self, space: Space, content: u64) {
        (self.space, self.content) = (space, content);
    }

    /// What mounts are told: what is reserved is taken.
    pub(super) fn shown(&self, state: &State) -> Space {
        Space { available: self.space.available.saturating_sub(state.reserved_bytes()), ..self.space }
    }

    /// `on_the_way`: bytes that operations take at most which are proposed and not applied.
    ///
    /// # Errors
    ///
    /// ENOSPC; EAGAIN for a reservation while no majority of stores has said what it has, which is for a second behind the
    /// start of all of them. Everything else is let in then: nothing is known to be full.
    pub(super) fn check(&self, state: &State, needs: Needs, on_the_way: u64) -> Result<(), Errno> {
        if self.space.total == 0 {
            return if needs.reserves { Err(Errno::EAGAIN) } else { Ok(()) };
        }
        if needs.at_once > self.space.available {
            return Err(Errno::ENOSPC);
        }
        let reserved = state.reserved_bytes();
        if needs.space == 0 || reserved == 0 && !needs.reserves {
            return Ok(());
        }
        // What was written since is not known to be missing.
        let written = state.content_bytes().saturating_sub(self.content);
        let taken = [written, on_the_way, needs.space].into_iter().fold(reserved, u64::saturating_add);
        if taken <= self.space.available { Ok(()) } else { Err(Errno::ENOSPC) }
    }
}
