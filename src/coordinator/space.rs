//! The space of the stores, and who may have it. What is reserved (fallocate) is there when it is written: all volumes'
//! reservations together, and what takes space besides, never exceed what the stores have.
//!
//! The leader alone decides, before an entry is proposed, and counts what is on its way: two mounts never reserve the same
//! space. Apply knows nothing of stores.

use crate::{
    limits::Timing,
    namespace::State,
    types::{Instant, message::Space},
};

/// What stores say is older than what the state says, by less than so many heartbeats: the device is looked at, and reports are
/// sent, once in half as many.
const REPORT_HEARTBEATS: u32 = 20;

/// What an operation takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Bytes for which no space is reserved.
    pub(super) space: u64,
    /// Bytes that are written when it is applied.
    pub(super) at_once: u64,
    /// It takes space for what is to come.
    pub(super) reserves: bool,
}

#[derive(Debug, Default)]
pub(super) struct Stores {
    /// As a majority has it.
    space: Space,
    /// Bytes of content in the state at two moments, the older of which is before the device was looked at.
    content: (u64, u64),
    noted_at: Instant,
}

impl Stores {
    pub(super) fn told(&mut self, now: Instant, space: Space, state: &State, timing: &Timing) {
        let content = state.content_bytes();
        if self.space.total == 0 {
            (self.content, self.noted_at) = ((content, content), now);
        } else if now >= self.noted_at.after(REPORT_HEARTBEATS * timing.heartbeat) {
            (self.content, self.noted_at) = ((self.content.1, content), now);
        }
        self.space = space;
    }

    /// What mounts are told: what is reserved is taken.
    pub(super) fn shown(&self, state: &State) -> Space {
        Space { available: self.space.available.saturating_sub(state.reserved_bytes()), ..self.space }
    }

    /// `on_the_way`: bytes that operations take which are proposed and not applied.
    pub(super) fn can_take(&self, state: &State, needs: Needs, on_the_way: u64) -> bool {
        // As long as no majority of stores has said what it has, nothing is known to be full.
        if self.space.total == 0 {
            return true;
        }
        if needs.at_once > self.space.available {
            return false;
        }
        let reserved = state.reserved_bytes();
        if needs.space == 0 || reserved == 0 && !needs.reserves {
            return true;
        }
        // What was written since is not known to be missing.
        let written = state.content_bytes().saturating_sub(self.content.0);
        let taken = [written, on_the_way, needs.space].into_iter().fold(reserved, u64::saturating_add);
        taken <= self.space.available
    }
}
