//! What is due at a time. Set and stopped by name: nobody who stops a timer has to remember for when it was set.

use std::collections::{BTreeMap, BTreeSet};

use super::files::JobId;
use crate::types::{Ino, Instant};

/// Something that is due at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// The request has waited for the write timeout.
    Request(u64),
    /// What its answer must not overtake has arrived.
    Answer(u64),
    /// The flush has been tried for the write timeout.
    Job(JobId),
    /// The file's oldest unflushed byte has come of age.
    Age(Ino),
    /// Acknowledgements wait for INC_EPOCH.
    Epoch,
    /// The file's delegation is still wanted back, perhaps.
    Recall(Ino),
    /// The kernel has taken over what it was told of the file.
    HeldBack(Ino),
    /// An OPEN has let other mounts go first for long enough.
    Turn(Ino),
}

impl Timer {
    /// Several things of one name may be due, each at a time of its own. Such a timer is not stopped: whoever it wakes
    /// looks whether there is something to do.
    const fn is_shared(self) -> bool {
        match self {
            Self::Recall(_) | Self::HeldBack(_) | Self::Turn(_) => true,
            Self::Request(_) | Self::Answer(_) | Self::Job(_) | Self::Age(_) | Self::Epoch => false,
        }
    }
}

/// All timers of a mount.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
    /// When each is due that is due once at most.
    single: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// It is due then, and not at an earlier time that it was set for; a shared one is due at both.
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        if !timer.is_shared()
            && let Some(before) = self.single.insert(timer, at)
        {
            self.due.remove(&(before, timer));
        }
        self.due.insert((at, timer));
    }

    /// It is not due any more; whether it was. A shared one goes on.
    pub(crate) fn stop(&mut self, timer: Timer) -> bool {
        let at = self.single.remove(&timer);
        at.is_some_and(|at| self.due.remove(&(at, timer)))
    }

    /// Whether it is yet to come. Of a shared one nobody knows.
    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.single.contains_key(&timer)
    }

    /// When the next is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next that is due by now; it is set no more.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, timer));
        self.single.remove(&timer);
        Some(timer)
    }

    pub(crate) fn clear(&mut self) {
        self.due.clear();
        self.single.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(timers: &mut Timers, now: u64) -> Vec<Timer> {
        std::iter::from_fn(|| timers.take_due(Instant(now))).collect()
    }

    #[test]
    fn a_timer_is_moved_and_stopped_by_its_name() {
        let mut timers = Timers::default();
        timers.set(Timer::Request(7), Instant(10));
        timers.set(Timer::Request(7), Instant(20));
        timers.set(Timer::Epoch, Instant(15));
        assert_eq!((timers.next(), timers.is_set(Timer::Request(7))), (Some(Instant(15)), true));
        assert_eq!(rung(&mut timers, 19), [Timer::Epoch]);
        assert!(timers.stop(Timer::Request(7)) && !timers.stop(Timer::Request(7)) && !timers.stop(Timer::Epoch));
        assert_eq!((timers.next(), rung(&mut timers, 30)), (None, vec![]));
    }

    #[test]
    fn a_shared_timer_rings_at_each_of_its_times() {
        let mut timers = Timers::default();
        for at in [30, 10, 20, 10] {
            timers.set(Timer::HeldBack(Ino(2)), Instant(at));
        }
        assert!(!timers.stop(Timer::HeldBack(Ino(2))));
        assert_eq!(rung(&mut timers, 20), [Timer::HeldBack(Ino(2)); 2]);
        assert_eq!(rung(&mut timers, 30), [Timer::HeldBack(Ino(2))]);
    }
}
