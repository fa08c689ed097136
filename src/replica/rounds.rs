//! The leader's heartbeat rounds, which leases rest on (docs/protocol.md R5-lease, R6-promise).
//!
//! A round is one `Heartbeat` to every member. A voter that acknowledges round r promised, after r began, not to vote
//! for E. So when a quorum has acknowledged r, whatever was asked before r began is covered: no other leader can be
//! elected until E after the asking. No clock of the leader enters.

use std::collections::{BTreeMap, VecDeque};

use crate::types::{Instant, NodeId};

#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// The newest round of this node's leadership; grows for ever, so that a late answer is never taken for a new one.
    number: u64,
    /// The newest round that each member acknowledged, and when.
    acknowledged: BTreeMap<NodeId, (u64, Instant)>,
    /// Tickets that wait for a round of this number or a later one, both growing.
    tickets: VecDeque<(u64, u64)>,
    /// When the next round begins at the latest.
    pub(super) next_at: Instant,
    /// Leadership was offered to another in this term: nothing is confirmed any more.
    revoked: bool,
}

impl Rounds {
    /// A leadership begins (or ends): what was asked and acknowledged before is void.
    pub(super) fn reset(&mut self, now: Instant) {
        self.acknowledged.clear();
        self.tickets.clear();
        self.next_at = now;
        self.revoked = false;
    }

    pub(super) fn revoke(&mut self) {
        self.revoked = true;
        self.tickets.clear();
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// Asks for a round that begins from here on.
    pub(super) fn ask(&mut self, ticket: u64) {
        if !self.revoked {
            self.tickets.push_back((ticket, self.number + 1));
        }
    }

    /// Begins a round and says its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(super) fn acknowledge(&mut self, now: Instant, from: NodeId, round: u64) {
        if round <= self.number {
            let newest = self.acknowledged.entry(from).or_insert((round, now));
            *newest = (newest.0.max(round), now);
        }
    }

    pub(super) fn acknowledged_at(&self, peer: NodeId) -> Option<Instant> {
        self.acknowledged.get(&peer).map(|(_, at)| *at)
    }

    /// The newest round that this node `id`, which knows its own rounds at once, and a quorum have acknowledged.
    fn confirmed(&self, id: NodeId, is_quorum: impl Fn(&[NodeId]) -> bool) -> u64 {
        let mut rounds: Vec<u64> = self.acknowledged.values().map(|(round, _)| *round).collect();
        rounds.push(self.number);
        rounds.sort_unstable();
        rounds.dedup();
        let reached = |round: u64| {
            let peers = self.acknowledged.iter().filter(|(_, (newest, _))| *newest >= round).map(|(peer, _)| *peer);
            is_quorum(&peers.chain([id]).collect::<Vec<_>>())
        };
        rounds.into_iter().rev().find(|round| reached(*round)).unwrap_or(0)
    }

    /// The newest ticket that is confirmed, which is then no longer waited for; and whether a round is to begin now,
    /// because some ticket's has not and the one before it is done.
    pub(super) fn confirm(&mut self, id: NodeId, is_quorum: impl Fn(&[NodeId]) -> bool) -> (Option<u64>, bool) {
        let confirmed = self.confirmed(id, is_quorum);
        let mut newest = None;
        while let Some((ticket, _)) = self.tickets.front().copied().filter(|(_, round)| *round <= confirmed) {
            self.tickets.pop_front();
            newest = Some(ticket);
        }
        let waiting = self.tickets.back().is_some_and(|(_, round)| *round > self.number);
        (newest, waiting && confirmed == self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const AT: Instant = Instant(0);

    fn majority_of_three(nodes: &[NodeId]) -> bool {
        nodes.len() >= 2
    }

    #[test]
    fn a_ticket_is_confirmed_by_a_round_that_began_after_it() {
        let mut rounds = Rounds::default();
        rounds.reset(AT);
        let first = rounds.begin();
        rounds.ask(7);
        rounds.acknowledge(AT, NodeId(2), first);
        // The round that ran when it was asked does not count, but its end lets the next begin.
        assert_eq!(rounds.confirm(ME, majority_of_three), (None, true));
        let second = rounds.begin();
        rounds.ask(8);
        assert_eq!(rounds.confirm(ME, majority_of_three), (None, false));
        rounds.acknowledge(AT, NodeId(3), second);
        assert_eq!(rounds.confirm(ME, majority_of_three), (Some(7), true));
    }

    #[test]
    fn answers_to_rounds_that_never_were_count_for_nothing() {
        let mut rounds = Rounds::default();
        rounds.reset(AT);
        rounds.ask(1);
        rounds.begin();
        rounds.acknowledge(AT, NodeId(2), 99);
        assert_eq!(rounds.confirm(ME, majority_of_three), (None, false));
    }

    #[test]
    fn nothing_is_confirmed_after_leadership_was_offered() {
        let mut rounds = Rounds::default();
        rounds.reset(AT);
        rounds.ask(1);
        let round = rounds.begin();
        rounds.revoke();
        rounds.ask(2);
        rounds.acknowledge(AT, NodeId(2), round);
        assert_eq!(rounds.confirm(ME, majority_of_three), (None, false));
    }
}
