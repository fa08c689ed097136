//! Machines' clocks: none knows what another shows, and each runs a little too fast or too slow.

use super::dice::Dice;
use crate::types::Instant;

const MILLION: u128 = 1_000_000;

/// CLOCK_BOOTTIME of one machine. By default virtual time itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// What it shows at the beginning of virtual time, nanoseconds.
    start: u64,
    /// Microseconds that it gains in a second; less than nothing where it loses.
    drift: i32,
}

impl Clock {
    /// Shows any time, and drifts by this many parts in a million at most, as often as not by just as many.
    pub(super) fn any(dice: &mut Dice, drift: u32) -> Self {
        let start = dice.roll(30 * 24 * 3600 * 1_000_000_000);
        let most = i32::try_from(drift).unwrap_or(i32::MAX);
        let within = i32::try_from(dice.roll(2 * u64::from(drift) + 1)).unwrap_or(0) - most;
        Self { start, drift: [most, -most, within, within][dice.index(4)] }
    }

    /// What it shows at this virtual time.
    pub(super) fn at(self, time: Instant) -> Instant {
        Instant(self.start.saturating_add(narrow(u128::from(time.0) * self.rate() / MILLION)))
    }

    /// The first virtual time at which it shows this, or more.
    pub(super) fn when(self, shows: Instant) -> Instant {
        let ran = u128::from(shows.0.saturating_sub(self.start));
        Instant(narrow((ran * MILLION).div_ceil(self.rate())))
    }

    /// Microseconds that it counts in a second.
    fn rate(self) -> u128 {
        MILLION.saturating_add_signed(self.drift.into()).max(1)
    }
}

fn narrow(time: u128) -> u64 {
    u64::try_from(time).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_shown_then_and_not_before() {
        let mut dice = Dice::new(7);
        for _ in 0..1000 {
            let (clock, time) = (Clock::any(&mut dice, 100_000), Instant(1 + dice.roll(1 << 40)));
            let shows = Instant(clock.at(Instant(0)).0 + dice.roll(1 << 40));
            let when = clock.when(shows);
            assert!(clock.at(when) >= shows, "{clock:?} {shows:?}");
            assert!(when == Instant(0) || clock.at(Instant(when.0 - 1)) < shows, "{clock:?} {shows:?}");
            assert!(clock.when(clock.at(time)) <= time, "{clock:?} {time:?}");
        }
    }

    #[test]
    fn by_default_it_shows_virtual_time() {
        assert_eq!(Clock::default().at(Instant(12_345)), Instant(12_345));
        assert_eq!(Clock::default().when(Instant(12_345)), Instant(12_345));
    }
}
