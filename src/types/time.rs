//! Three kinds of time: where we are on this machine's clock, what the cluster stamps, what a file's times say.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on the local clock, in nanoseconds. Shells take it from CLOCK_BOOTTIME (it counts while a machine sleeps),
/// the simulator from its virtual clock. Never compared between machines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Instant(pub u64);

impl Instant {
    /// This point and `duration` more, at most the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to this point; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Cluster time of an entry: nanoseconds since 1970 by the median of the voters' wall clocks. Grows from entry to entry,
/// except where that median was set back by more than `limits::STAMP_AHEAD_MAX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Stamp(pub u64);

/// A file's time as `struct timespec` has it. Seconds may be negative (before 1970), nanoseconds are 0 to 999,999,999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Timestamp {
    /// The next representable time; the last one stays as it is.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.nanoseconds < 999_999_999 {
            return Self { seconds: self.seconds, nanoseconds: self.nanoseconds + 1 };
        }
        match self.seconds.checked_add(1) {
            Some(seconds) => Self { seconds, nanoseconds: 0 },
            None => self,
        }
    }
}

impl Timestamp {
    /// This time and `duration` more, at most the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let nanoseconds = self.nanoseconds.saturating_add(duration.subsec_nanos());
        let carried = i64::from(nanoseconds / 1_000_000_000);
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX).saturating_add(carried);
        Self { seconds: self.seconds.saturating_add(seconds), nanoseconds: nanoseconds % 1_000_000_000 }
    }
}

impl From<Stamp> for Timestamp {
    fn from(stamp: Stamp) -> Self {
        Self {
            // A u64 of nanoseconds is at most 18.4e9 seconds and the remainder below 1e9: neither cast loses a bit.
            seconds: (stamp.0 / 1_000_000_000) as i64,
            nanoseconds: (stamp.0 % 1_000_000_000) as u32,
        }
    }
}
