//! The clocks of this machine, for shells: cores are told the time.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::types::Instant;

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
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
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
