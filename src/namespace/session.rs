//! A mount's session: who it is, and which of its calls are spent.

use crate::{
    limits,
    types::{CredentialId, LogIndex, MountId, Sequence, Stamp},
};

/// A mount's registered identity with exactly-once replies.
#[derive(Clone, Debug)]
pub struct Session {
    pub mount: MountId,
    /// The entry that opened it.
    pub opened: LogIndex,
    pub opened_at: Stamp,
    /// The entry that last took its holds (locks) away, at first the one that opened it: fences what was done under
    /// earlier ones (docs/protocol.md R12-fencing).
    pub holds_since: LogIndex,
    /// Whose it is: sessions are bounded by credential.
    pub credential: CredentialId,
    /// The newest feature level that the mount's program understands.
    pub level_max: u16,
    /// Calls that are never carried out from here on. Those of them whose answers the mount may still ask for have a
    /// row in the reply table.
    pub(super) spent: SpentCalls,
    /// Rows that the session has in the reply table.
    pub(super) held: usize,
}

/// A set of sequences as ascending ranges, both ends inclusive, that neither overlap nor touch: calls that were carried
/// out, and calls that the mount has given up. It outlives the rows of the reply table: a call that arrives once more
/// after its answer was confirmed is recognised and refused.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SpentCalls(Vec<(Sequence, Sequence)>);

impl SpentCalls {
    /// `None` where the ranges are not ascending and apart, or too many.
    pub(super) fn from_ranges(ranges: Vec<(Sequence, Sequence)>) -> Option<Self> {
        let ordered = ranges.iter().all(|(first, last)| first <= last);
        let apart = ranges.windows(2).all(|pair| pair[0].1.0 < pair[1].0.0 && pair[1].0.0 - pair[0].1.0 > 1);
        (ordered && apart && ranges.len() <= limits::SESSION_SPENT_RANGES_MAX).then_some(Self(ranges))
    }

    pub(super) fn ranges(&self) -> &[(Sequence, Sequence)] {
        &self.0
    }

    pub(super) fn contains(&self, sequence: Sequence) -> bool {
        let behind = self.0.partition_point(|(first, _)| *first <= sequence);
        behind > 0 && sequence <= self.0[behind - 1].1
    }

    pub(super) fn insert(&mut self, sequence: Sequence) {
        if self.contains(sequence) {
            return;
        }
        let at = self.0.partition_point(|(first, _)| *first < sequence);
        let joins_before = at > 0 && self.0[at - 1].1.0.checked_add(1) == Some(sequence.0);
        let joins_after = at < self.0.len() && sequence.0.checked_add(1) == Some(self.0[at].0.0);
        match (joins_before, joins_after) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = sequence,
            (false, true) => self.0[at].0 = sequence,
            (false, false) => self.0.insert(at, (sequence, sequence)),
        }
        // Bounded: the oldest gap is closed. That only refuses calls, and takes no answer away: what was carried out lies in no
        // gap.
        if self.0.len() > limits::SESSION_SPENT_RANGES_MAX {
            self.0[1].0 = self.0[0].0;
            self.0.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(sequences: &[u64]) -> SpentCalls {
        let mut calls = SpentCalls::default();
        sequences.iter().for_each(|&sequence| calls.insert(Sequence(sequence)));
        calls
    }

    #[test]
    fn ranges_join_at_both_ends() {
        let calls = calls(&[1, 3, 2, 7, 6, 6, u64::MAX, 0]);
        let expected = [(0, 3), (6, 7), (u64::MAX, u64::MAX)].map(|(first, last)| (Sequence(first), Sequence(last)));
        assert_eq!(calls.ranges(), expected);
        assert!(calls.contains(Sequence(2)) && !calls.contains(Sequence(4)) && !calls.contains(Sequence(8)));
        assert_eq!(SpentCalls::from_ranges(calls.ranges().to_vec()), Some(calls));
    }

    #[test]
    fn many_gaps_close_from_the_oldest() {
        let sparse: Vec<u64> = (0..2 * limits::SESSION_SPENT_RANGES_MAX as u64).map(|n| n * 2).collect();
        let calls = calls(&sparse);
        assert_eq!(calls.ranges().len(), limits::SESSION_SPENT_RANGES_MAX);
        assert!(calls.contains(Sequence(1)), "the oldest gap is closed");
        assert!(!calls.contains(Sequence(sparse[sparse.len() - 1] - 1)), "the newest is not");
    }

    #[test]
    fn ranges_that_touch_or_run_backwards_are_refused() {
        for ranges in [vec![(2, 1)], vec![(1, 2), (3, 4)], vec![(5, 6), (1, 2)]] {
            let ranges = ranges.into_iter().map(|(first, last)| (Sequence(first), Sequence(last))).collect();
            assert_eq!(SpentCalls::from_ranges(ranges), None);
        }
    }
}
