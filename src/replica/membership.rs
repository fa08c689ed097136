//! Who votes and who only listens, and how that changes.
//!
//! Whatever changes voters goes through a joint configuration, also where raft would take a simple step: quorums of
//! three simple steps in a row need not meet, and leases rest on quorums that meet (docs/protocol.md R6-promise). For
//! the same reason the joint configuration is kept for one election promise before it is left.

use std::collections::BTreeSet;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};

use crate::{limits, types::NodeId};

/// Members of a configuration, learners included.
pub(super) const MEMBERS_MAX: usize = 4 * limits::VOTERS_MAX;

pub(super) fn encode(state: &ConfState) -> Bytes {
    state.write_to_bytes().expect("a membership has a defined encoding and memory suffices").into()
}

pub(super) fn of_voters(voters: &[NodeId]) -> ConfState {
    let mut state = ConfState::default();
    state.set_voters(voters.iter().map(|voter| voter.0).collect());
    state
}

pub(super) fn is_joint(state: &ConfState) -> bool {
    !state.get_voters_outgoing().is_empty()
}

/// Voters of both configurations, in order.
pub(super) fn voters(state: &ConfState) -> BTreeSet<u64> {
    state.get_voters().iter().chain(state.get_voters_outgoing()).copied().collect()
}

pub(super) fn members(state: &ConfState) -> BTreeSet<u64> {
    let learners = state.get_learners().iter().chain(state.get_learners_next());
    voters(state).into_iter().chain(learners.copied()).collect()
}

pub(super) fn has(state: &ConfState, id: u64) -> bool {
    members(state).contains(&id)
}

/// Whether raft can take up this configuration (it panics on one that contradicts itself).
pub(super) fn check(state: &ConfState) -> Result<(), String> {
    let sets = [state.get_voters(), state.get_learners(), state.get_voters_outgoing(), state.get_learners_next()];
    for set in sets {
        let distinct: BTreeSet<_> = set.iter().collect();
        if distinct.len() != set.len() || distinct.contains(&0) || set.len() > MEMBERS_MAX {
            return Err("a membership names a node twice, or node 0, or too many".to_owned());
        }
    }
    let [incoming, learners, outgoing, next] = sets;
    if incoming.is_empty() || incoming.len() > limits::VOTERS_MAX || outgoing.len() > limits::VOTERS_MAX {
        return Err(format!("a cluster has 1 to {} voters", limits::VOTERS_MAX));
    }
    if learners.iter().any(|learner| incoming.contains(learner) || outgoing.contains(learner)) {
        return Err("a node is voter and learner at once".to_owned());
    }
    if next.iter().any(|learner| !outgoing.contains(learner) || incoming.contains(learner)) {
        return Err("a node becomes a learner that is no outgoing voter".to_owned());
    }
    if outgoing.is_empty() && state.auto_leave {
        return Err("a membership leaves a joint configuration that it has not".to_owned());
    }
    Ok(())
}

/// The change as raft takes it; `None` where it makes no sense in this configuration.
pub(super) fn change(
    state: &ConfState,
    add_learners: &[NodeId],
    promote: &[NodeId],
    remove: &[NodeId],
) -> Option<ConfChangeV2> {
    let (learners, voting) = (state.get_learners(), state.get_voters());
    let named: Vec<u64> = [add_learners, promote, remove].concat().iter().map(|node| node.0).collect();
    let distinct: BTreeSet<_> = named.iter().collect();
    let known = |node: &NodeId| learners.contains(&node.0) || voting.contains(&node.0);
    if is_joint(state)
        || named.is_empty()
        || distinct.len() != named.len()
        || distinct.contains(&0)
        || add_learners.iter().any(known)
        || promote.iter().any(|node| !learners.contains(&node.0))
        || !remove.iter().all(known)
    {
        return None;
    }
    let removed_voters = remove.iter().filter(|node| voting.contains(&node.0)).count();
    let voters_after = voting.len() + promote.len() - removed_voters;
    if voters_after == 0 || voters_after > limits::VOTERS_MAX || members(state).len() + named.len() > MEMBERS_MAX {
        return None;
    }
    let mut change = ConfChangeV2::default();
    for (nodes, kind) in [
        (add_learners, ConfChangeType::AddLearnerNode),
        (promote, ConfChangeType::AddNode),
        (remove, ConfChangeType::RemoveNode),
    ] {
        for node in nodes {
            let mut single = ConfChangeSingle { node_id: node.0, ..ConfChangeSingle::default() };
            single.set_change_type(kind);
            change.mut_changes().push(single);
        }
    }
    if named.len() > 1 || !promote.is_empty() || removed_voters > 0 {
        // Explicit: this core leaves the joint configuration, when it is safe for leases.
        change.set_transition(ConfChangeTransition::Explicit);
    }
    Some(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: fn(u64) -> NodeId = NodeId;

    #[test]
    fn contradictions_are_found() {
        assert_eq!(check(&of_voters(&[N(1), N(2), N(3)])), Ok(()));
        assert!(check(&of_voters(&[])).is_err());
        assert!(check(&of_voters(&[N(1), N(1)])).is_err());
        assert!(check(&of_voters(&[N(0)])).is_err());
        let mut both = of_voters(&[N(1)]);
        both.set_learners(vec![1]);
        assert!(check(&both).is_err());
        let mut left = of_voters(&[N(1)]);
        left.auto_leave = true;
        assert!(check(&left).is_err());
    }

    #[test]
    fn voters_change_jointly_and_a_learner_alone_simply() {
        let mut state = of_voters(&[N(1)]);
        let learner = change(&state, &[N(2)], &[], &[]).expect("a new learner");
        assert_eq!(learner.get_transition(), ConfChangeTransition::Auto);
        state.set_learners(vec![2, 3]);
        let voters = change(&state, &[], &[N(2)], &[]).expect("a new voter");
        assert_eq!(voters.get_transition(), ConfChangeTransition::Explicit);
        assert!(change(&state, &[], &[N(4)], &[]).is_none(), "an unknown node is not promoted");
        assert!(change(&state, &[], &[], &[N(1)]).is_none(), "the last voter stays");
        assert!(change(&state, &[N(1)], &[], &[]).is_none(), "a voter is not added as a learner");
        assert!(change(&state, &[], &[], &[]).is_none(), "no change");
        state.set_voters_outgoing(vec![1]);
        assert!(change(&state, &[], &[N(2)], &[]).is_none(), "one change at a time");
    }
}
