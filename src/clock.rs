//! The clocks of this machine, for shells: cores are told the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::types::Instant;

/// Two clocks that are read within this were read at once.
const READING_MAX: Duration = Duration::from_millis(1);

/// Now, by CLOCK_BOOTTIME: it goes on while the machine sleeps, so that a lease ends though nobody was awake.
#[must_use]
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has CLOCK_BOOTTIME");
    // Time since boot is never negative and fits in 64 bits of nanoseconds for 584 years.
    Instant(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Wall clock, nanoseconds since 1970; 0 before that.
#[must_use]
pub fn wall() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let shown = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
    // By the seconds that stand in a file: so tests set the clock of a process that runs.
    fail::fail_point!("wall-clock-ahead", |file| {
        let text = file.and_then(|file: String| std::fs::read_to_string(file).ok());
        let seconds: i64 = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        shown.saturating_add_signed(seconds.saturating_mul(1_000_000_000))
    });
    shown
}

/// Both, of the same moment: a thread that is put aside between the two readings would see a clock that jumps.
#[must_use]
pub fn now_and_wall() -> (Instant, u64) {
    let mut both = (now(), wall());
    for _ in 0..8 {
        if now().since(both.0) < READING_MAX {
            break;
        }
        both = (now(), wall());
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_forward() {
        let first = now();
        assert!(first > Instant(0));
        assert!(now() >= first);
        // 2020.
        assert!(wall() > 1_577_836_800_000_000_000);
    }
}
