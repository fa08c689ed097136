//! Lines that would be logged again and again: said at once, and from then on gathered, with growing pauses and a count. It
//! does not log itself, and has no clock.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use crate::limits::LOG_REPEATS_MAX;

/// Between two lines that say the same: at first, and where it does not end.
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// What was heard last and is so long ago is how things are: it is said, whatever the pause.
const SETTLED: Duration = Duration::from_secs(60);

/// What was said, by what it was about.
#[derive(Debug)]
pub struct Repeats<K> {
    said: BTreeMap<K, Said>,
}

#[derive(Debug)]
struct Said {
    pause: Duration,
    /// When a line was last written.
    at: Instant,
    /// When it was last heard, and how often since that line.
    heard: Instant,
    unsaid: u64,
}

/// What is to become of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// It is to be written.
    Say(Again),
    /// It counts for a later one.
    Gathered,
    /// There is no room to remember it: so many different ones come at the same time.
    Full,
}

/// How often something was heard without a line of its own, and since when; nothing where it was not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Again {
    times: u64,
    within: Duration,
}

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Self { said: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Repeats<K> {
    /// `key` happens at `now`.
    pub fn hear(&mut self, now: Instant, key: &K) -> Heard {
        self.forget(now);
        if let Some(said) = self.said.get_mut(key) {
            (said.heard, said.unsaid) = (now, said.unsaid + 1);
            return if now >= said.at + said.pause { Heard::Say(said.say(now)) } else { Heard::Gathered };
        }
        if self.said.len() >= LOG_REPEATS_MAX {
            return Heard::Full;
        }
        self.said.insert(key.clone(), Said { pause: PAUSE_MIN, at: now, heard: now, unsaid: 0 });
        Heard::Say(Again::default())
    }

    /// What was gathered and is to be said now, what happened last at the end.
    pub fn due(&mut self, now: Instant) -> Vec<(K, Again)> {
        self.forget(now);
        let is_due = |said: &Said| said.unsaid > 0 && (now >= said.at + said.pause || now >= said.heard + SETTLED);
        let mut due: Vec<_> = self.said.iter_mut().filter(|(_, said)| is_due(said)).collect();
        due.sort_by_key(|(_, said)| said.heard);
        due.into_iter().map(|(key, said)| (key.clone(), said.say(now))).collect()
    }

    /// What was not heard for so long that the next time is a new one.
    fn forget(&mut self, now: Instant) {
        self.said.retain(|_, said| said.unsaid > 0 || now < said.heard + said.pause + PAUSE_MIN);
    }
}

impl Said {
    fn say(&mut self, now: Instant) -> Again {
        let again = Again { times: self.unsaid, within: now - self.at };
        (self.at, self.unsaid, self.pause) = (now, 0, (self.pause * 2).min(PAUSE_MAX));
        again
    }
}

/// Stands behind the line.
impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.times {
            0 | 1 => Ok(()),
            times => write!(f, " ({times} times in {} s)", self.within.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// A mount that lost its lease every 11 s wrote 267 lines in 8 minutes.
    #[test]
    fn what_comes_again_and_again_is_gathered() {
        let (begin, mut repeats) = (Instant::now(), Repeats::default());
        let mut lines = Vec::new();
        for second in 0..480 {
            let now = begin + seconds(second);
            for (offset, key) in [(0, "lost"), (5, "back")] {
                if second % 11 == offset
                    && let Heard::Say(again) = repeats.hear(now, &key)
                {
                    lines.push((key, again));
                }
            }
            lines.extend(repeats.due(now));
        }
        assert_eq!(lines.len(), 8, "{lines:?}");
        assert_eq!((lines[0], lines[1]), (("lost", Again::default()), ("back", Again::default())));
        assert_eq!(lines[2].1.to_string(), " (5 times in 60 s)");
        // Its end is told, though the pause is long by now.
        let end = repeats.due(begin + seconds(480 + 60));
        assert_eq!(end.iter().map(|(key, _)| *key).collect::<Vec<_>>(), ["lost", "back"], "the last one last");
        assert!(repeats.due(begin + seconds(5000)).is_empty());
    }

    #[test]
    fn what_comes_seldom_is_said_each_time() {
        let (begin, mut repeats) = (Instant::now(), Repeats::default());
        for hour in 0..10 {
            let now = begin + seconds(3600 * hour);
            assert_eq!(repeats.hear(now, &"probe"), Heard::Say(Again::default()));
            assert!(repeats.due(now + seconds(1)).is_empty());
        }
    }

    #[test]
    fn strangers_take_no_memory() {
        let (now, mut repeats) = (Instant::now(), Repeats::default());
        for stranger in 0..LOG_REPEATS_MAX {
            assert_eq!(repeats.hear(now, &stranger), Heard::Say(Again::default()));
        }
        assert_eq!(repeats.hear(now, &LOG_REPEATS_MAX), Heard::Full);
        assert_eq!(repeats.hear(now, &0), Heard::Gathered);
        assert_eq!(repeats.hear(now + seconds(7200), &LOG_REPEATS_MAX), Heard::Say(Again::default()));
    }
}
