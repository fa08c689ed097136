//! What the answers of a cluster's nodes say together.

use std::path::PathBuf;

use serde::Serialize;

use super::headline::{Headline, Voters};
use crate::{
    cli::{Failure, admin::Answer, demo::Layout, mount_state::MountReport},
    node::NodeStatus,
    replica::Standing,
    types::{FoundingId, NodeId},
    wire::admin::{Phase, Report},
};

/// A cluster as `status` shows it.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct ClusterView {
    #[serde(flatten)]
    pub(in crate::cli) headline: Headline,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) cluster: Option<String>,
    /// The leader reaches more than half of the voters, itself among them, and these take part.
    pub(in crate::cli) quorum: bool,
    /// The node that leads.
    pub(in crate::cli) leader: Option<String>,
    pub(in crate::cli) term: u64,
    pub(in crate::cli) mounts: Vec<MountView>,
    pub(in crate::cli) nodes: Vec<NodeView>,
    pub(in crate::cli) volumes: Vec<VolumeView>,
    pub(in crate::cli) sessions: Vec<SessionView>,
}

/// A storage node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct NodeView {
    pub(in crate::cli) id: String,
    /// `None`: the process is dead, or does not answer.
    pub(in crate::cli) pid: Option<u32>,
    pub(in crate::cli) addr: String,
    pub(in crate::cli) data: Option<String>,
    pub(in crate::cli) leader: bool,
    /// The arguments that start it again.
    pub(in crate::cli) start: Vec<String>,
    pub(in crate::cli) state: NodeState,
    /// Log indexes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) applied: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) committed: Option<u64>,
    /// Changes that the leader knows to be committed and that this node has not applied yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) missing: Option<u64>,
    /// Of the whole state at `applied`: equal on nodes that are equally far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) digest: Option<String>,
    /// Its disk is so full that it takes no entries as long as a majority does without it.
    pub(in crate::cli) short_of_space: bool,
    /// Its store waits for a file descriptor.
    pub(in crate::cli) lacks_descriptors: bool,
    /// Of which founding it is: the number that `cluster init` drew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) founding: Option<String>,
    /// Times that its wall clock was set by a second or more since its process began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) clock_jumps: Option<u64>,
    /// Milliseconds by which it is ahead of the median of the voters' clocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) clock_ahead_ms: Option<i64>,
    /// Bytes of its disk, and those of them that content may still take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) space_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) space_available: Option<u64>,
    /// Milliseconds since its process had verified everything on the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) scrubbed_ms: Option<u64>,
    /// Damaged blocks and records that its process found on the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) damages: Option<u64>,
    /// Milliseconds since it last knew a leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) leaderless_ms: Option<u64>,
    /// Of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) version: Option<String>,
    /// The leader reaches it, as the leader says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) reached: Option<bool>,
    /// Why it does not answer, or is none of this cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) problem: Option<String>,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum NodeState {
    Leader,
    Follower,
    /// Knows no leader.
    Alone,
    /// Takes no part yet: no majority of the others has greeted it.
    Waiting,
    /// Takes no part: another process of the same node is alive.
    Rival,
    /// Takes no part: its data is older than what it had promised, and a leader has to refill it.
    Forgetful,
    Prepared,
    Blank,
    Silent,
    /// Of another founding with the same authority.
    Foreign,
}

/// A mount of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct MountView {
    pub(in crate::cli) path: PathBuf,
    /// `None`: the process is dead.
    pub(in crate::cli) pid: Option<u32>,
    pub(in crate::cli) worker_pid: Option<u32>,
    /// The arguments that start it again.
    pub(in crate::cli) start: Vec<String>,
    /// What it says of itself, where it was asked and answered.
    #[serde(flatten)]
    pub(in crate::cli) report: Option<MountReport>,
}

#[derive(Debug, Clone, Serialize)]
pub(in crate::cli) struct VolumeView {
    pub(in crate::cli) id: u32,
    pub(in crate::cli) name: String,
    pub(in crate::cli) inodes: u64,
    pub(in crate::cli) bytes: u64,
    pub(in crate::cli) quota_bytes: Option<u64>,
    pub(in crate::cli) quota_inodes: u64,
    pub(in crate::cli) digest: String,
}

/// A mount as the leader knows it.
#[derive(Debug, Clone, Serialize)]
pub(in crate::cli) struct SessionView {
    pub(in crate::cli) session: u64,
    pub(in crate::cli) volume: u32,
    pub(in crate::cli) volume_name: Option<String>,
    pub(in crate::cli) connected: bool,
    /// Changes wait for its acknowledgements.
    pub(in crate::cli) in_roster: bool,
    pub(in crate::cli) unacknowledged: u64,
    /// Where it is mounted, by its own word; `None` where the leader has not heard it.
    pub(in crate::cli) host: Option<String>,
    pub(in crate::cli) path: Option<String>,
    pub(in crate::cli) access: Option<AccessView>,
    /// Milliseconds since the session was opened.
    pub(in crate::cli) age_ms: u64,
}

/// What a mount may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum AccessView {
    ReadOnly,
    ReadWrite,
}

impl ClusterView {
    /// What these answers say together. With a layout of a demo its nodes and mounts are shown, dead or alive.
    pub(in crate::cli) fn of(answers: &[Answer], layout: Option<&Layout>) -> Self {
        let founding = main_founding(answers);
        let reports = || answers.iter().filter_map(|answer| answer.report.as_ref().ok());
        let running = || {
            reports().filter_map(|report| match &report.phase {
                Phase::Running(status) if Some(status.founding) == founding => Some(&**status),
                _ => None,
            })
        };
        // A leader that was cut off does not know it yet: the one of the latest term is right.
        let leading = running().filter(|status| status.leader == Some(status.id)).max_by_key(|status| status.term);
        let leading = leading.filter(|leading| running().all(|status| status.term <= leading.term));
        let furthest = leading.or_else(|| running().max_by_key(|status| status.applied));
        let shown = answers.iter().enumerate().filter(|(at, _)| twin(*at, answers).is_none());
        let mut nodes: Vec<_> = shown.map(|(_, answer)| NodeView::of(answer, answers, founding, leading)).collect();
        if let Some(layout) = layout {
            layout.complete(&mut nodes);
        }
        nodes.sort_by_key(|node| (node.id.parse::<u64>().unwrap_or(u64::MAX), node.addr.clone()));
        let running: Vec<_> = running().collect();
        let voters = Voters::of(&running, leading);
        let mut headline = Headline::of(&nodes, voters.as_ref(), leading.map(|status| status.id));
        headline.notes.extend(answers.iter().enumerate().filter_map(|(at, answer)| {
            let other = twin(at, answers)?;
            Some(format!("{} and {} lead to the same node", other.address, answer.address))
        }));
        Self {
            headline,
            cluster: reports().next().map(|report| report.cluster.to_string()),
            quorum: leading.is_some() && voters.is_some_and(|voters| voters.is_majority()),
            leader: leading.map(|status| status.id.to_string()),
            term: running.iter().map(|status| status.term.0).max().unwrap_or(0),
            mounts: layout.map(Layout::mounts_asked).unwrap_or_default(),
            nodes,
            volumes: furthest.map(volumes_of).unwrap_or_default(),
            sessions: leading.map(sessions_of).unwrap_or_default(),
        }
    }

    /// The node that leads.
    pub(in crate::cli) fn leader_id(&self) -> Option<NodeId> {
        self.leader.as_ref()?.parse().ok().map(NodeId)
    }

    /// Why no node answers.
    pub(in crate::cli) fn silence(&self) -> Failure {
        let reasons: Vec<_> = self.nodes.iter().filter_map(|node| node.problem.clone()).collect();
        format!("no storage node answers: {}", reasons.join("; ")).into()
    }

    /// Whether no node answered at all.
    pub(in crate::cli) fn is_silent(&self) -> bool {
        self.nodes.iter().all(|node| node.state == NodeState::Silent)
    }
}

impl NodeView {
    fn of(answer: &Answer, answers: &[Answer], founding: Option<FoundingId>, leading: Option<&NodeStatus>) -> Self {
        let meant = id_by_address(&answer.address, answers);
        let astray = astray(answer, answers);
        let id = if astray.is_some() { meant } else { answer.node().or(meant) };
        let mut view = Self {
            id: id.map_or_else(String::new, |id| id.to_string()),
            pid: None,
            addr: answer.address.clone(),
            data: None,
            leader: false,
            start: Vec::new(),
            state: NodeState::Silent,
            applied: None,
            committed: None,
            missing: None,
            digest: None,
            short_of_space: false,
            founding: answer.founding().map(|founding| founding.number.to_string()),
            clock_jumps: None,
            clock_ahead_ms: None,
            lacks_descriptors: false,
            space_total: None,
            space_available: None,
            scrubbed_ms: None,
            damages: None,
            leaderless_ms: None,
            version: None,
            reached: None,
            problem: None,
        };
        let peers = leading.iter().flat_map(|leading| &leading.peers);
        view.reached = peers.filter(|peer| peer.node.id.to_string() == view.id).find_map(|peer| peer.reachable);
        if let Some(other) = astray {
            view.problem = Some(format!("its address {} answers as node {other}", answer.address));
            return view;
        }
        match &answer.report {
            Ok(report) => view.fill(report, leading),
            Err(problem) => view.problem = Some(problem.clone()),
        }
        if let Some(other) = answer.founding().filter(|other| Some(*other) != founding) {
            view.state = NodeState::Foreign;
            view.leader = false;
            view.problem = Some(format!("is of another founding, {}: a cluster of its own", other.number));
        }
        view
    }

    fn fill(&mut self, report: &Report, leading: Option<&NodeStatus>) {
        self.pid = Some(report.process.pid);
        self.data = Some(report.process.data.clone());
        self.start.clone_from(&report.process.start);
        self.scrubbed_ms = report.process.scrubbed_ms;
        self.damages = Some(report.process.damages);
        self.version = Some(report.process.version.clone());
        self.lacks_descriptors = report.process.lacks_descriptors;
        self.state = match &report.phase {
            Phase::Blank => NodeState::Blank,
            Phase::Prepared { .. } => NodeState::Prepared,
            Phase::Running(status) => {
                self.applied = Some(status.applied.0);
                self.committed = Some(status.committed.0);
                self.missing = leading.map(|leading| leading.committed.0.saturating_sub(status.applied.0));
                self.digest = Some(format!("{:032x}", status.digest));
                self.short_of_space = status.short_of_space;
                self.space_total = status.space.map(|space| space.total);
                self.space_available = status.space.map(|space| space.available);
                self.leaderless_ms = status.leaderless_ms;
                self.clock_jumps = Some(status.clock.jumps);
                self.clock_ahead_ms = status.clock.ahead_ms;
                match leading {
                    _ if status.standing == Standing::Waits => NodeState::Waiting,
                    _ if status.standing == Standing::Rival => NodeState::Rival,
                    _ if status.standing == Standing::Forgetful => NodeState::Forgetful,
                    Some(leading) if leading.id == status.id => NodeState::Leader,
                    Some(leading) if status.leader == Some(leading.id) => NodeState::Follower,
                    _ => NodeState::Alone,
                }
            }
        };
        self.leader = self.state == NodeState::Leader;
    }
}

/// The founding of most of the nodes that answered, the first ones' where there are equally many.
fn main_founding(answers: &[Answer]) -> Option<FoundingId> {
    let foundings = || answers.iter().filter_map(Answer::founding);
    let count = |founding: &FoundingId| foundings().filter(|other| other == founding).count();
    // `max_by_key` gives the last of equal ones.
    foundings().collect::<Vec<_>>().into_iter().rev().max_by_key(count)
}

/// The node that answered where the cluster has another one of its nodes.
fn astray(answer: &Answer, answers: &[Answer]) -> Option<NodeId> {
    let other = answer.node()?;
    let mut same = answers.iter().filter(|from| from.founding() == answer.founding());
    let meant = same.find_map(|from| from.node_at(&answer.address))?;
    (meant != other).then_some(other)
}

/// An earlier answer of the very same process, at another address.
fn twin(at: usize, answers: &[Answer]) -> Option<&Answer> {
    let answer = &answers[at];
    let of = |answer: &Answer| {
        let (report, status) = (answer.report.as_ref().ok()?, answer.running()?);
        // A copy that was started elsewhere stands otherwise.
        let process = (report.process.pid, report.process.data.clone(), report.process.peer_address.clone());
        Some((status.founding, status.id, status.standing, process))
    };
    let this = of(answer)?;
    if astray(answer, answers).is_some() {
        return None;
    }
    let mut earlier = answers[..at].iter().filter(|other| astray(other, answers).is_none());
    earlier.find(|other| of(other).as_ref() == Some(&this))
}

/// A node that does not answer is known to those that do.
fn id_by_address(address: &str, answers: &[Answer]) -> Option<NodeId> {
    answers.iter().find_map(|answer| answer.node_at(address))
}

fn volumes_of(status: &NodeStatus) -> Vec<VolumeView> {
    let view = |volume: &crate::node::VolumeStatus| VolumeView {
        id: volume.id.0,
        name: volume.name.clone(),
        inodes: volume.inodes,
        bytes: volume.bytes,
        quota_bytes: volume.quota_bytes,
        quota_inodes: volume.quota_inodes,
        digest: format!("{:032x}", volume.digest),
    };
    status.volumes.iter().map(view).collect()
}

fn sessions_of(status: &NodeStatus) -> Vec<SessionView> {
    let view = |session: &crate::node::SessionStatus| SessionView {
        session: session.session.0,
        volume: session.volume.0,
        volume_name: status.volumes.iter().find(|volume| volume.id == session.volume).map(|volume| volume.name.clone()),
        connected: session.connected,
        in_roster: session.in_roster,
        unacknowledged: session.unacknowledged,
        host: session.place.as_ref().map(|place| place.host.to_string()),
        path: session.place.as_ref().map(|place| place.path.to_string()),
        access: session.place.as_ref().map(|place| match place.read_only {
            true => AccessView::ReadOnly,
            false => AccessView::ReadWrite,
        }),
        age_ms: session.age_ms,
    };
    status.sessions.iter().map(view).collect()
}
