//! What is said while no leader answers: why, for each server, once a change.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// An election, or servers of which some are down, are passed in silence.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was said since a leader last answered.
#[derive(Debug, Default)]
pub(super) struct Waits {
    since: Option<Instant>,
    said: BTreeMap<String, String>,
}

impl Waits {
    /// What is to be said now; `troubles` is `None` while a leader answers.
    pub(super) fn look(&mut self, now: Instant, troubles: Option<BTreeMap<String, String>>) -> Vec<String> {
        let Some(troubles) = troubles else {
            *self = Self::default();
            return Vec::new();
        };
        if now.duration_since(*self.since.get_or_insert(now)) < PATIENCE {
            return Vec::new();
        }
        let is_new = |(address, sentence): &(&String, &String)| self.said.get(*address) != Some(sentence);
        let news = troubles.iter().filter(is_new).map(|(_, sentence)| sentence.clone()).collect();
        // A server that did as it should, or moved, may come to the same trouble again.
        self.said = troubles;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn troubles(of: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
        Some(of.iter().map(|(address, sentence)| ((*address).to_owned(), (*sentence).to_owned())).collect())
    }

    #[test]
    fn each_change_is_said_once() {
        let mut waits = Waits::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(waits.look(at(0), troubles(&[("a", "a is dead")])).is_empty(), "it may be an election");
        assert_eq!(waits.look(at(1), troubles(&[("a", "a is dead")])), ["a is dead"]);
        assert!(waits.look(at(2), troubles(&[("a", "a is dead")])).is_empty());
        assert_eq!(waits.look(at(3), troubles(&[("a", "a is dead"), ("b", "b is blank")])), ["b is blank"]);
        assert_eq!(waits.look(at(4), troubles(&[("a", "a is slow"), ("b", "b is blank")])), ["a is slow"]);
        assert!(waits.look(at(5), None).is_empty());
        assert!(waits.look(at(6), troubles(&[("a", "a is slow")])).is_empty(), "the next time begins anew");
        assert_eq!(waits.look(at(7), troubles(&[("a", "a is slow")])), ["a is slow"]);
    }
}
