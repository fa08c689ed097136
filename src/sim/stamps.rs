//! Checks what entries are stamped with against what time it really is. No more than a minority of the voters' clocks
//! is ever wrong in a run, so no stamp may show it.

use std::time::Duration;

use crate::types::{Instant, LogIndex, Stamp};

/// Clocks that are right differ by less, and an estimate of them is wrong by less.
const TOLERANCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Stamps {
    /// What the wall clocks show at the beginning of virtual time.
    epoch: u64,
    /// The latest of all.
    latest: Stamp,
    /// Stamps are those of a single clock, which may be any.
    is_alone: bool,
}

impl Stamps {
    pub(super) const fn new(epoch: Stamp, voters: usize) -> Self {
        Self { epoch: epoch.0, latest: epoch, is_alone: voters == 1 }
    }

    /// The entry is committed at this time.
    pub(super) fn check(&mut self, now: Instant, index: LogIndex, stamp: Stamp) {
        if self.is_alone {
            return;
        }
        let tolerance = TOLERANCE.as_nanos() as u64;
        let seconds = |earlier: u64, later: u64| (later - earlier) / 1_000_000_000;
        let truth = self.epoch + now.0;
        assert!(stamp.0 <= truth + tolerance, "stamps: entry {index} is {} s ahead", seconds(truth, stamp.0));
        let latest = self.latest.0;
        assert!(
            stamp.0 + tolerance >= latest,
            "stamps: entry {index} is {} s behind another",
            seconds(stamp.0, latest)
        );
        self.latest = self.latest.max(stamp);
    }
}
