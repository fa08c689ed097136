//! What a cluster's state comes to: one true sentence, and what is wrong.

use std::{collections::BTreeSet, fmt::Display};

use serde::Serialize;

use super::report::{NodeState, NodeView};
use crate::{limits, node::NodeStatus, replica::Standing, types::NodeId};

/// Changes that a node may miss and still count as a whole one: a busy cluster's nodes always miss a few.
const MISSING_MAX: u64 = 1000;

/// How a cluster does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum Health {
    Healthy,
    /// All voters take part, and something wants a person's eye.
    Warning,
    /// It serves, with fewer voters than it has.
    Degraded,
    /// It takes no changes, or its nodes differ.
    Down,
}

/// The cluster's health, for people.
#[derive(Debug, Clone, Serialize)]
pub(in crate::cli) struct Headline {
    pub(in crate::cli) health: Health,
    #[serde(rename = "headline")]
    pub(in crate::cli) sentence: String,
    /// What is wrong, a sentence each.
    pub(in crate::cli) problems: Vec<String>,
    /// What is good to know and no problem.
    pub(in crate::cli) notes: Vec<String>,
}

/// Those whose majority decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Voters {
    total: usize,
    /// Reached by the leader, or answering where none leads; and taking part.
    present: usize,
}

impl Voters {
    /// What the nodes that run say of their number; `None` where none runs.
    pub(in crate::cli) fn of(running: &[&NodeStatus], leading: Option<&NodeStatus>) -> Option<Self> {
        let reference = leading.or_else(|| running.iter().copied().max_by_key(|status| status.applied))?;
        let voters = || reference.peers.iter().filter(|peer| peer.voter);
        // Several answer as one node where a copy of it was started.
        let answers = |id: NodeId| running.iter().filter(move |status| status.id == id);
        let takes_part = |id| answers(id).any(|status| status.standing == Standing::TakesPart);
        let present = voters().filter(|peer| match leading {
            Some(leading) => {
                let is_reached = peer.node.id == leading.id || peer.reachable != Some(false);
                is_reached && (takes_part(peer.node.id) || answers(peer.node.id).next().is_none())
            }
            None => takes_part(peer.node.id),
        });
        Some(Self { total: voters().count(), present: present.count() })
    }

    pub(in crate::cli) const fn is_majority(self) -> bool {
        self.present >= self.majority()
    }

    const fn majority(self) -> usize {
        self.total / 2 + 1
    }
}

impl Headline {
    /// What these nodes come to; `leader` is the node that leads.
    pub(in crate::cli) fn of(nodes: &[NodeView], voters: Option<&Voters>, leader: Option<NodeId>) -> Self {
        let differing = differing(nodes);
        let mut problems: Vec<_> = differing.iter().cloned().collect();
        let has_quorum = leader.is_some() && voters.is_some_and(|voters| voters.is_majority());
        let refill = voters.map_or("", |voters| refill_of(nodes, *voters, has_quorum));
        problems.extend(nodes.iter().flat_map(|node| problems_of(node, voters.is_some(), refill)));
        let (health, sentence) = match voters {
            _ if differing.is_some() => (
                Health::Down,
                "NODES DIFFER: their states are not the same; stop the mounts and keep all data".to_owned(),
            ),
            None => (Health::Down, not_running(nodes)),
            Some(voters) => match leader {
                Some(leader) if voters.is_majority() => with_quorum(nodes, *voters, leader, !problems.is_empty()),
                leader => (Health::Down, without_quorum(nodes, *voters, leader)),
            },
        };
        Self { health, sentence, problems, notes: notes_of(nodes) }
    }
}

/// No node takes part.
fn not_running(nodes: &[NodeView]) -> String {
    let count = |state| nodes.iter().filter(|node| node.state == state).count();
    let (total, blank, prepared) = (nodes.len(), count(NodeState::Blank), count(NodeState::Prepared));
    let answering = total - count(NodeState::Silent);
    match (answering, prepared) {
        (0, _) => format!("NO ANSWER: none of {} answers", nodes_of(total)),
        (_, 0) if blank < total => format!("NOT FOUNDED, as far as {answering} of {} can say", nodes_of(total)),
        (_, 0) => format!("NOT FOUNDED: {} for `manyfs cluster init`", wait(total)),
        _ => format!("NOT FOUNDED: {prepared} of {} prepared; repeat `manyfs cluster init`", nodes_of(total)),
    }
}

fn with_quorum(nodes: &[NodeView], voters: Voters, leader: NodeId, has_problems: bool) -> (Health, String) {
    let Voters { total, present } = voters;
    let is_behind = |node: &&NodeView| node.missing.is_some_and(|missing| missing > MISSING_MAX);
    let behind = nodes.iter().filter(|node| node.state == NodeState::Follower).filter(is_behind).count();
    let losses = present.saturating_sub(behind).saturating_sub(voters.majority());
    let of = format!("{present} of {}", nodes_of(total));
    let catches_up = if behind > 0 { format!(" ({behind} catching up)") } else { String::new() };
    if present < total || behind > 0 {
        return (Health::Degraded, format!("DEGRADED: {of}{catches_up}, {}", tolerated(losses, "further ")));
    }
    let (health, word) = if has_problems { (Health::Warning, "WARNING") } else { (Health::Healthy, "HEALTHY") };
    (health, format!("{word}: {of}, node {leader} leads, {}", tolerated(losses, "")))
}

fn without_quorum(nodes: &[NodeView], voters: Voters, leader: Option<NodeId>) -> String {
    let Voters { total, present } = voters;
    let (of, long) = (format!("{present} of {}", nodes_of(total)), leaderless(nodes));
    match leader {
        Some(leader) => {
            format!("NO QUORUM: node {leader} leads but has {of}, {} needed: no changes", are(voters.majority()))
        }
        None if voters.is_majority() => format!("NO LEADER{long}: {of}, none of which leads yet: changes wait"),
        None => format!("NO QUORUM{long}: {of}, {} needed: changes wait", are(voters.majority())),
    }
}

/// How long no node that answers has known a leader; nothing where one does.
fn leaderless(nodes: &[NodeView]) -> String {
    let running = nodes.iter().filter(|node| node.applied.is_some() && node.state != NodeState::Foreign);
    let shortest = running.map(|node| node.leaderless_ms).min().flatten();
    shortest.map_or_else(String::new, |ms| format!(" for {}", age(ms)))
}

/// A time span for people, in its largest unit.
pub(super) fn age(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86400),
    }
}

/// Nodes that applied the same changes have the same state; a sentence where they have not.
fn differing(nodes: &[NodeView]) -> Option<String> {
    let mut founded = nodes.iter().filter(|node| node.state != NodeState::Foreign);
    founded.find_map(|node| {
        let other = nodes.iter().find(|other| {
            let is_same = node.applied == other.applied && node.founding == other.founding;
            is_same && node.digest.is_some() && other.digest.is_some() && node.digest != other.digest
        })?;
        let applied = node.applied.unwrap_or(0);
        Some(format!("nodes {} and {} have different states after the same {applied} changes", node.id, other.id))
    })
}

/// What becomes of nodes whose data is older than what they promised: a leader makes them whole, and has to be elected by
/// a majority of all that has forgotten nothing.
fn refill_of(nodes: &[NodeView], voters: Voters, has_quorum: bool) -> &'static str {
    let forgetful: BTreeSet<_> =
        nodes.iter().filter(|node| node.state == NodeState::Forgetful).map(|node| &node.id).collect();
    if has_quorum {
        "the leader refills it"
    } else if voters.total.saturating_sub(forgetful.len()) >= voters.majority() {
        "a leader refills it, once a majority of other nodes runs: start those that do not"
    } else {
        "no leader can be elected to refill it, as too many have forgotten: put back the disks that they had, or found \
         a new cluster and restore its files from a backup"
    }
}

/// What is wrong with a node, a sentence each.
fn problems_of(node: &NodeView, is_founded: bool, refill: &str) -> Vec<String> {
    let name = name_of(node);
    let why = || node.problem.clone().unwrap_or_else(|| "does not answer".to_owned());
    let mut problems = Vec::new();
    match node.state {
        NodeState::Follower if node.reached == Some(false) => {
            problems.push(format!("{name} answers here, but the leader does not reach it"));
        }
        NodeState::Leader | NodeState::Follower => {}
        NodeState::Alone => problems.push(format!("{name} knows no leader")),
        NodeState::Waiting => problems.push(format!("{name} takes no part yet: no majority of the others greets it")),
        NodeState::Rival => problems.push(format!("{name} takes no part: another process of the same node is alive")),
        NodeState::Forgetful => {
            problems.push(format!("{name} takes no part: its data is older than what it promised; {refill}"));
        }
        NodeState::Prepared | NodeState::Blank if !is_founded => {}
        NodeState::Prepared => problems.push(format!("{name} is prepared, and waits for the others")),
        NodeState::Blank => problems.push(format!("{name} is blank: it is of no cluster yet")),
        NodeState::Foreign => problems.push(format!("{name} {}", why())),
        NodeState::Silent => {
            let reached = if node.reached == Some(true) { "; the leader reaches it" } else { "" };
            problems.push(format!("{name}: {}{reached}", why()));
        }
    }
    if let Some(missing) = node.missing.filter(|missing| *missing > MISSING_MAX) {
        problems.push(format!("{name} misses {missing} changes and catches up"));
    }
    if node.short_of_space {
        problems
            .push(format!("{name} is short of space: as long as a majority does without it, it stores nothing new"));
    }
    if let Some(damages) = node.damages.filter(|damages| *damages > 0) {
        let what = plural(damages, "damaged block or record", "damaged blocks or records");
        problems.push(format!("{name} found {what} on its disk since its process began; its log names them"));
    }
    if node.lacks_descriptors {
        problems.push(format!("{name} is out of file descriptors: its process has as many files open as it may"));
    }
    let wrong = limits::CLOCK_WRONG_MIN.as_millis();
    if let Some(ahead) = node.clock_ahead_ms.filter(|ahead| u128::from(ahead.unsigned_abs()) >= wrong) {
        let side = if ahead < 0 { "behind" } else { "ahead of" };
        problems.push(format!("{name}'s clock is {} s {side} the cluster's: set it", ahead.unsigned_abs() / 1000));
    }
    problems
}

fn notes_of(nodes: &[NodeView]) -> Vec<String> {
    let mut notes: Vec<_> = nodes
        .iter()
        .filter_map(|node| match node.clock_jumps? {
            0 => None,
            1 => Some(format!("{}'s clock was set once since its process began", name_of(node))),
            jumps => Some(format!("{}'s clock was set {jumps} times since its process began", name_of(node))),
        })
        .collect();
    let versions: BTreeSet<_> = nodes.iter().filter_map(|node| node.version.as_deref()).collect();
    if versions.len() > 1 {
        let versions: Vec<_> = versions.into_iter().collect();
        notes.push(format!("the nodes run different versions: {}", versions.join(", ")));
    }
    notes
}

fn name_of(node: &NodeView) -> String {
    if node.id.is_empty() { format!("the node at {}", node.addr) } else { format!("node {}", node.id) }
}

fn nodes_of(count: usize) -> String {
    plural(count, "node", "nodes")
}

fn tolerated(losses: usize, further: &str) -> String {
    match losses {
        0 => format!("no {further}loss is tolerated"),
        1 => format!("1 {further}loss is tolerated"),
        _ => format!("{losses} {further}losses are tolerated"),
    }
}

fn wait(nodes: usize) -> String {
    plural(nodes, "node waits", "nodes wait")
}

fn are(count: usize) -> String {
    plural(count, "is", "are")
}

/// `count` with the word that goes with it.
pub(super) fn plural<N: Display + PartialEq + From<u8>>(count: N, one: &str, many: &str) -> String {
    let word = if count == N::from(1) { one } else { many };
    format!("{count} {word}")
}
