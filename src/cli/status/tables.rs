//! A cluster for people, in 80 columns.

use super::{
    headline::{age, plural},
    report::{AccessView, ClusterView, MountView, NodeState, NodeView, SessionView},
};
use crate::cli::{
    report::{bullets, sentence, size, table},
    volume::volumes,
};

/// The headline, what is wrong, and tables of nodes, volumes and mounts.
pub(super) fn text(view: &ClusterView) -> String {
    let mut head = vec![sentence(&view.headline.sentence)];
    for list in [&view.headline.problems, &view.headline.notes] {
        if !list.is_empty() {
            head.push(bullets(list));
        }
    }
    let mut parts = vec![head.join("\n")];
    if let Some(cluster) = &view.cluster {
        parts.push(format!("cluster {cluster}, term {}", view.term));
    }
    parts.push(nodes(&view.nodes));
    if !view.volumes.is_empty() {
        parts.push(volumes(&view.volumes));
    }
    if !view.sessions.is_empty() {
        parts.push(sessions(&view.sessions));
    }
    if !view.mounts.is_empty() {
        parts.push(mounts(&view.mounts));
    }
    parts.join("\n\n")
}

fn nodes(nodes: &[NodeView]) -> String {
    table(
        ["NODE", "ADDRESS", "STATE", "MISSES", "CLOCK", "FREE", "VERIFIED", "VERSION"],
        nodes.iter().map(|node| {
            [
                if node.id.is_empty() { "?".to_owned() } else { node.id.clone() },
                node.addr.clone(),
                node_word(node).to_owned(),
                node.missing.map_or_else(unknown, changes),
                node.clock_ahead_ms.map_or_else(unknown, offset),
                node.space_available.map_or_else(unknown, size),
                verified(node),
                node.version.clone().unwrap_or_else(unknown),
            ]
        }),
    )
}

fn sessions(sessions: &[SessionView]) -> String {
    table(
        ["MOUNTED ON", "AT", "VOLUME", "ACCESS", "AGE", "STATE"],
        sessions.iter().map(|session| {
            [
                session.host.clone().unwrap_or_else(|| format!("session {}", session.session)),
                session.path.clone().unwrap_or_else(unknown),
                session.volume_name.clone().unwrap_or_else(|| session.volume.to_string()),
                session.access.map_or_else(unknown, access),
                age(session.age_ms),
                session_words(session),
            ]
        }),
    )
}

/// Those of this machine.
fn mounts(mounts: &[MountView]) -> String {
    table(
        ["MOUNTED HERE", "STATE", "KERNEL", "PID"],
        mounts.iter().map(|mount| {
            [
                mount.path.display().to_string(),
                mount_word(mount).to_owned(),
                kernel_words(mount),
                mount.pid.map_or_else(unknown, |pid| pid.to_string()),
            ]
        }),
    )
}

/// The problems say more.
const fn node_word(node: &NodeView) -> &'static str {
    match node.state {
        NodeState::Leader => "leads",
        NodeState::Follower => "follows",
        NodeState::Alone => "no leader",
        NodeState::Waiting => "waits",
        NodeState::Rival | NodeState::Forgetful => "no part",
        NodeState::Prepared => "prepared",
        NodeState::Blank => "blank",
        NodeState::Foreign => "foreign",
        NodeState::Silent => "no answer",
    }
}

fn access(access: AccessView) -> String {
    match access {
        AccessView::ReadOnly => "read-only".to_owned(),
        AccessView::ReadWrite => "read-write".to_owned(),
    }
}

fn session_words(session: &SessionView) -> String {
    match (session.connected, session.in_roster, session.unacknowledged) {
        (true, true, 0) => "connected".to_owned(),
        (true, true, sent) => format!("connected, {} on the way to it", changes(sent)),
        (true, false, _) => "connected, not up to date yet".to_owned(),
        (false, true, _) => "gone; changes wait for it a little".to_owned(),
        (false, false, _) => "gone".to_owned(),
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

/// The kernel's FUSE, as far as it decides whether names are kept.
fn kernel_words(mount: &MountView) -> String {
    let Some(report) = &mount.report else { return unknown() };
    let abi = report.kernel.abi.as_deref().unwrap_or("?");
    let names = if report.kernel.inval_entry { "" } else { ", keeps no names" };
    format!("FUSE {abi}{names}")
}

fn changes(count: u64) -> String {
    if count == 0 { "nothing".to_owned() } else { plural(count, "change", "changes") }
}

/// How far a clock is from the cluster's.
fn offset(ahead_ms: i64) -> String {
    if ahead_ms.unsigned_abs() < 10_000 { format!("{ahead_ms:+} ms") } else { format!("{:+} s", ahead_ms / 1000) }
}

/// When everything on its disk was last read and verified.
fn verified(node: &NodeView) -> String {
    match (node.scrubbed_ms, node.applied) {
        (Some(ms), _) => format!("{} ago", age(ms)),
        (None, Some(_)) => "not yet".to_owned(),
        (None, None) => unknown(),
    }
}

fn unknown() -> String {
    "-".to_owned()
}
