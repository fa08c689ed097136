//! Time in raft's ticks: how many make a heartbeat and an election, and when a node of a cluster campaigns.

use std::time::Duration;

use crate::{limits::Timing, types::NodeId};

/// Ticks of one heartbeat.
const HEARTBEAT_TICKS: usize = 5;
/// A tick is never shorter: below it, shells wake for nothing.
const TICK_MIN: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pace {
    pub(super) tick: Duration,
    pub(super) heartbeat: usize,
    /// E in ticks, rounded up: never shorter than the promise that voters count by the clock.
    pub(super) election: usize,
    slot: usize,
}

impl Pace {
    pub(super) fn new(timing: &Timing) -> Self {
        let tick = (timing.heartbeat / u32::try_from(HEARTBEAT_TICKS).unwrap_or(1)).max(TICK_MIN);
        let ticks = |time: Duration| usize::try_from(time.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(usize::MAX);
        Self {
            tick,
            heartbeat: ticks(timing.heartbeat).max(1),
            election: ticks(timing.election).max(2 * HEARTBEAT_TICKS),
            slot: ticks(timing.election_slot).max(1),
        }
    }

    /// Above every timeout of `timeout`.
    pub(super) fn timeout_max(&self) -> usize {
        self.election + (crate::limits::VOTERS_MAX * 2 + 3) * self.slot
    }

    /// Ticks without a leader after which the voter of this rank (0 is the lowest id) among `voters` campaigns. Slots
    /// differ within a term, begin one slot behind E (so that the others' promises are over) and move on with the term.
    pub(super) fn timeout(&self, seed: u64, node: NodeId, rank: usize, voters: usize, term: u64) -> usize {
        self.election + (1 + place(rank, voters, term)) * self.slot + self.jitter(seed, node, term)
    }

    /// Ticks after which a candidate that was not elected tries again; grows with the tries, to E at most.
    pub(super) fn retry(&self, rank: usize, voters: usize, term: u64, tries: u32) -> usize {
        let slots = 2 + place(rank, voters, term);
        let factor = usize::try_from(1 + tries / 2).unwrap_or(usize::MAX).min(8);
        (slots * self.slot * factor).clamp(2, self.election)
    }

    fn jitter(&self, seed: u64, node: NodeId, term: u64) -> usize {
        let mixed = mix(seed ^ mix(node.0 ^ mix(term)));
        usize::try_from(mixed).unwrap_or(0) % (self.slot / 2).max(1)
    }
}

fn place(rank: usize, voters: usize, term: u64) -> usize {
    let voters = voters.max(1);
    (rank + usize::try_from(term % voters as u64).unwrap_or(0)) % voters
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn production_ticks_fit_the_times() {
        let pace = Pace::new(&Timing::DEFAULT);
        assert_eq!(pace.tick, Duration::from_millis(20));
        assert_eq!((pace.heartbeat, pace.election, pace.slot), (5, 35, 2));
    }

    #[test]
    fn voters_of_a_term_have_slots_of_their_own() {
        for percent in [10, 50, 100, 300] {
            let timing = Timing::DEFAULT.scaled(percent);
            let pace = Pace::new(&timing);
            for voters in 1..=crate::limits::VOTERS_MAX {
                for term in 1..20 {
                    let mut timeouts: Vec<usize> =
                        (0..voters).map(|rank| pace.timeout(7, NodeId(rank as u64 + 1), rank, voters, term)).collect();
                    timeouts.sort_unstable();
                    assert!(timeouts.windows(2).all(|pair| pair[1] - pair[0] >= pace.slot.div_ceil(2)), "{timeouts:?}");
                    assert!(timeouts[0] > pace.election && timeouts[voters - 1] < pace.timeout_max());
                    assert!(pace.retry(voters - 1, voters, term, 30) < timeouts[0]);
                }
            }
        }
    }
}
