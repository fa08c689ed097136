//! `manyfs status`: how a cluster is, from whichever nodes answer.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    Failure,
    admin::{Administrator, Answer, Target},
    demo::Layout,
    mount_state::MountReport,
    report::{Format, table},
    runtime,
    volume::volumes,
};
use crate::{
    limits,
    node::{NodeStatus, Standing},
    pki::Authority,
    types::{FoundingId, NodeId},
    wire::admin::{Phase, Report},
};

/// Show a cluster: its nodes, who leads, volumes and mounts.
///
/// Works with any node that answers, with and without a quorum. Without any flag it shows the demo in ./manyfs-demo, if
/// there is one.
///
/// Example: manyfs status --authority authority.toml --servers node1,node2,node3
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

/// A cluster as `status` shows it.
#[derive(Debug, Serialize)]
pub(super) struct ClusterView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<String>,
    /// More than half of the voters reach the leader.
    pub(super) quorum: bool,
    /// The node that leads.
    pub(super) leader: Option<String>,
    pub(super) term: u64,
    pub(super) mounts: Vec<MountView>,
    pub(super) nodes: Vec<NodeView>,
    pub(super) volumes: Vec<VolumeView>,
    pub(super) sessions: Vec<SessionView>,
}

/// A storage node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NodeView {
    pub(super) id: String,
    /// `None`: the process is dead, or does not answer.
    pub(super) pid: Option<u32>,
    pub(super) addr: String,
    pub(super) data: Option<String>,
    pub(super) leader: bool,
    /// The arguments that start it again.
    pub(super) start: Vec<String>,
    pub(super) state: NodeState,
    /// Log indexes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) applied: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) committed: Option<u64>,
    /// Of the whole state at `applied`: equal on nodes that are equally far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<String>,
    /// Its disk is so full that it takes no entries as long as a majority does without it.
    pub(super) short_of_space: bool,
    /// Its store waits for a file descriptor.
    pub(super) lacks_descriptors: bool,
    /// Of which founding it is: the number that `cluster init` drew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) founding: Option<String>,
    /// Times that its wall clock was set by a second or more since its process began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clock_jumps: Option<u64>,
    /// Milliseconds by which it is ahead of the median of the voters' clocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clock_ahead_ms: Option<i64>,
    /// Why it does not answer, or is none of this cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum NodeState {
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
pub(super) struct MountView {
    pub(super) path: PathBuf,
    /// `None`: the process is dead.
    pub(super) pid: Option<u32>,
    pub(super) worker_pid: Option<u32>,
    /// The arguments that start it again.
    pub(super) start: Vec<String>,
    /// What it says of itself, where it was asked and answered.
    #[serde(flatten)]
    pub(super) report: Option<MountReport>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct VolumeView {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) inodes: u64,
    pub(super) bytes: u64,
    pub(super) quota_bytes: Option<u64>,
    pub(super) quota_inodes: u64,
    pub(super) digest: String,
}

/// A mount as the leader knows it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SessionView {
    pub(super) session: u64,
    pub(super) volume: u32,
    pub(super) connected: bool,
    /// Changes wait for its acknowledgements.
    pub(super) in_roster: bool,
    pub(super) unacknowledged: u64,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let layout = self.target.layout()?;
        let view = runtime()?.block_on(async {
            let administrator = self.target.administrator()?;
            Ok::<_, Failure>(ClusterView::of(&administrator.ask_all().await, layout.as_ref()))
        })?;
        self.format.print(&view, text)?;
        // A demo can be looked at while all of it is dead; elsewhere silence is a failure.
        if layout.is_none() && view.is_silent() { Err(view.silence()) } else { Ok(()) }
    }
}

impl Target {
    /// The demo that is meant, if one is.
    pub(super) fn layout(&self) -> Result<Option<Layout>, Failure> {
        match &self.dir {
            Some(dir) => Layout::load(dir).map(Some),
            None if self.authority.is_none() && self.servers.is_empty() => Layout::beside_us(),
            None => Ok(None),
        }
    }

    /// The way to the cluster that is meant.
    pub(super) fn administrator(&self) -> Result<Administrator, Failure> {
        if let Some(layout) = self.layout()? {
            return Administrator::new(&Authority::load(&layout.authority())?, layout.addresses());
        }
        match (&self.authority, self.servers.as_slice()) {
            (Some(authority), [_, ..]) => Administrator::new(&Authority::load(authority)?, self.servers.clone()),
            _ => Err("which cluster? Give --authority FILE and --servers HOSTS, or --dir DIR of a demo".into()),
        }
    }
}

impl ClusterView {
    /// What these answers say together. With a layout of a demo its nodes and mounts are shown, dead or alive.
    pub(super) fn of(answers: &[Answer], layout: Option<&Layout>) -> Self {
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
        let mut nodes: Vec<_> = answers.iter().map(|answer| NodeView::of(answer, answers, founding, leading)).collect();
        if let Some(layout) = layout {
            layout.complete(&mut nodes);
        }
        nodes.sort_by_key(|node| (node.id.parse::<u64>().unwrap_or(u64::MAX), node.addr.clone()));
        Self {
            cluster: reports().next().map(|report| report.cluster.to_string()),
            quorum: leading.is_some_and(reaches_majority),
            leader: leading.map(|status| status.id.to_string()),
            term: running().map(|status| status.term.0).max().unwrap_or(0),
            mounts: layout.map(Layout::mounts_asked).unwrap_or_default(),
            nodes,
            volumes: furthest.map(volumes_of).unwrap_or_default(),
            sessions: leading.map(sessions_of).unwrap_or_default(),
        }
    }

    /// The node that leads.
    pub(super) fn leader_id(&self) -> Option<NodeId> {
        self.leader.as_ref()?.parse().ok().map(NodeId)
    }

    /// Whether no node answered at all.
    pub(super) fn is_silent(&self) -> bool {
        self.nodes.iter().all(|node| node.state == NodeState::Silent)
    }

    /// Why not.
    pub(super) fn silence(&self) -> Failure {
        let reasons: Vec<_> = self.nodes.iter().filter_map(|node| node.problem.clone()).collect();
        format!("no storage node answers: {}", reasons.join("; ")).into()
    }
}

impl NodeView {
    fn of(answer: &Answer, answers: &[Answer], founding: Option<FoundingId>, leading: Option<&NodeStatus>) -> Self {
        let mut view = Self {
            id: answer
                .node()
                .or_else(|| id_by_address(&answer.address, answers))
                .map_or_else(String::new, |id| id.to_string()),
            pid: None,
            addr: answer.address.clone(),
            data: None,
            leader: false,
            start: Vec::new(),
            state: NodeState::Silent,
            applied: None,
            committed: None,
            digest: None,
            short_of_space: false,
            founding: answer.founding().map(|founding| founding.number.to_string()),
            clock_jumps: None,
            clock_ahead_ms: None,
            lacks_descriptors: false,
            problem: None,
        };
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
        self.lacks_descriptors = report.process.lacks_descriptors;
        self.state = match &report.phase {
            Phase::Blank => NodeState::Blank,
            Phase::Prepared { .. } => NodeState::Prepared,
            Phase::Running(status) => {
                self.applied = Some(status.applied.0);
                self.committed = Some(status.committed.0);
                self.digest = Some(format!("{:032x}", status.digest));
                self.short_of_space = status.short_of_space;
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

/// A node that does not answer is known to those that do.
fn id_by_address(address: &str, answers: &[Answer]) -> Option<NodeId> {
    answers.iter().find_map(|answer| match &answer.report.as_ref().ok()?.phase {
        Phase::Running(status) => {
            status.peers.iter().find(|peer| peer.node.client_address == address).map(|peer| peer.node.id)
        }
        Phase::Prepared { founding, .. } => {
            founding.nodes.iter().find(|node| node.client_address == address).map(|node| node.id)
        }
        Phase::Blank => None,
    })
}

fn reaches_majority(leading: &NodeStatus) -> bool {
    let voters = leading.peers.iter().filter(|peer| peer.voter);
    let reached = voters.clone().filter(|peer| peer.node.id == leading.id || peer.reachable != Some(false)).count();
    2 * reached > voters.count()
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
        connected: session.connected,
        in_roster: session.in_roster,
        unacknowledged: session.unacknowledged,
    };
    status.sessions.iter().map(view).collect()
}

fn text(view: &ClusterView) -> String {
    let cluster = view.cluster.as_deref().unwrap_or("(unknown: no node answers)");
    let leads = match (&view.leader, view.quorum) {
        (Some(leader), true) => format!("node {leader} leads in term {}", view.term),
        (Some(leader), false) => format!("node {leader} leads in term {} but reaches no majority", view.term),
        (None, _) => "no leader: changes wait until more than half of the nodes reach each other".to_owned(),
    };
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let nodes = table(
        ["NODE", "ADDRESS", "STATE", "APPLIED", "PID", "DATA"],
        view.nodes.iter().map(|node| {
            [
                if node.id.is_empty() { "?".to_owned() } else { node.id.clone() },
                node.addr.clone(),
                state_words(node),
                number(node.applied),
                number(node.pid.map(u64::from)),
                node.data.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        }),
    );
    let mut parts = vec![format!("cluster {cluster}: {leads}"), nodes];
    if !view.volumes.is_empty() {
        parts.push(volumes(&view.volumes));
    }
    if !view.sessions.is_empty() {
        parts.push(table(
            ["SESSION", "VOLUME", "CONNECTED", "AWAITED", "BEHIND"],
            view.sessions.iter().map(|session| {
                [
                    session.session.to_string(),
                    session.volume.to_string(),
                    yes(session.connected),
                    yes(session.in_roster),
                    session.unacknowledged.to_string(),
                ]
            }),
        ));
    }
    if !view.mounts.is_empty() {
        parts.push(table(
            ["MOUNT", "STATE", "KERNEL", "PID", "WORKER"],
            view.mounts.iter().map(|mount| {
                [
                    mount.path.display().to_string(),
                    mount_word(mount).to_owned(),
                    kernel_word(mount),
                    number(mount.pid.map(u64::from)),
                    number(mount.worker_pid.map(u64::from)),
                ]
            }),
        ));
    }
    parts.join("\n\n")
}

fn state_words(node: &NodeView) -> String {
    let troubles = [(node.short_of_space, ", short of space"), (node.lacks_descriptors, ", out of file descriptors")];
    let mut words =
        troubles.into_iter().filter(|(is_so, _)| *is_so).fold(state_word(node), |words, (_, trouble)| words + trouble);
    let wrong = limits::CLOCK_WRONG_MIN.as_millis();
    if let Some(ahead) = node.clock_ahead_ms.filter(|ahead| u128::from(ahead.unsigned_abs()) >= wrong) {
        let side = if ahead < 0 { "behind" } else { "ahead" };
        words.push_str(&format!(", clock {} s {side}", ahead.unsigned_abs() / 1000));
    }
    match node.clock_jumps {
        None | Some(0) => {}
        Some(1) => words.push_str(", clock was set once"),
        Some(jumps) => words.push_str(&format!(", clock was set {jumps} times")),
    }
    words
}

fn state_word(node: &NodeView) -> String {
    match node.state {
        NodeState::Leader => "leads".to_owned(),
        NodeState::Follower => "follows".to_owned(),
        NodeState::Alone => "knows no leader".to_owned(),
        NodeState::Waiting => "waits for a majority of the others".to_owned(),
        NodeState::Rival => "takes no part: another process of this node is alive".to_owned(),
        NodeState::Forgetful => "takes no part: its data is older than what it promised, and is refilled".to_owned(),
        NodeState::Prepared => "prepared, waits for the others".to_owned(),
        NodeState::Blank => "blank, waits to be founded".to_owned(),
        NodeState::Foreign => node.problem.clone().unwrap_or_else(|| "of another cluster".to_owned()),
        NodeState::Silent => node.problem.clone().unwrap_or_else(|| "dead".to_owned()),
    }
}

fn mount_word(mount: &MountView) -> &'static str {
    match (&mount.report, mount.worker_pid) {
        (Some(report), _) if report.cut_off => "cut off from the cluster",
        (Some(_), _) => "connected",
        (None, Some(_)) => "does not answer",
        (None, None) => "dead",
    }
}

/// The kernel's FUSE, as far as it decides how names are invalidated.
fn kernel_word(mount: &MountView) -> String {
    let Some(report) = &mount.report else { return "-".to_owned() };
    let abi = report.kernel.abi.as_deref().unwrap_or("?");
    let epochs = if report.kernel.inc_epoch { "with" } else { "without" };
    let names = if report.kernel.inval_entry { "" } else { ", keeps no names" };
    format!("FUSE {abi}, {epochs} inc_epoch{names}")
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}
