//! A point of the local clock to wake at.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use crate::{clock::now, types::Instant};

/// A point in time to wake at; setting it is cheap and wakes nobody unless it is earlier than before.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct AlarmState {
    at: Option<Instant>,
    ended: bool,
}

impl Alarm {
    pub(super) fn set(&self, at: Option<Instant>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = at.is_some_and(|at| state.at.is_none_or(|before| at < before));
        state.at = at;
        drop(state);
        if earlier {
            self.changed.notify_one();
        }
    }

    pub(super) fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.changed.notify_one();
    }

    /// Waits for the point that was set, and forgets it; `false` after the end.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.ended {
                return false;
            }
            let wait = match state.at {
                None => Duration::MAX,
                Some(at) => match at.since(now()) {
                    Duration::ZERO => {
                        state.at = None;
                        return true;
                    }
                    wait => wait,
                },
            };
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn an_earlier_point_wakes_the_one_who_waits() {
        let alarm = Arc::new(Alarm::default());
        alarm.set(Some(now().after(Duration::from_secs(3600))));
        let waiting = Arc::clone(&alarm);
        let thread = thread::spawn(move || (waiting.wait(), now()));
        let at = now().after(Duration::from_millis(5));
        alarm.set(Some(at));
        let (rang, when) = thread.join().expect("no panic");
        assert!(rang && when >= at);
    }

    #[test]
    fn the_end_is_not_slept_through() {
        let alarm = Arc::new(Alarm::default());
        let waiting = Arc::clone(&alarm);
        let thread = thread::spawn(move || waiting.wait());
        alarm.end();
        assert!(!thread.join().expect("no panic"));
    }
}
