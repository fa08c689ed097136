//! A cluster for people, in the columns of their terminal, 80 where there is none.

use super::{
    headline::{age, plural},
    report::{AccessView, ClusterView, MountView, NodeState, NodeView, SessionView},
};
use crate::cli::{
    report::{bullets, columns, sentence, size, table},
    volume::volumes,
};

/// Characters of a volume's name that a row of another table has room for.
const VOLUME_MAX: usize = 16;
/// Bytes of an address that a row has room for.
const ADDRESS_MAX: usize = 24;

/// The headline, what is wrong, and tables of nodes, volumes and mounts, as wide as the terminal.
pub(super) fn text(view: &ClusterView) -> String {
    text_in(columns(), view)
}

/// The same in so many columns.
pub(super) fn text_in(width: u16, view: &ClusterView) -> String {
    let mut head = vec![sentence(width, &view.headline.sentence)];
    for list in [&view.headline.problems, &view.headline.notes] {
        if !list.is_empty() {
            head.push(bullets(width, list));
        }
    }
    let mut parts = vec![head.join("\n")];
    if let Some(cluster) = &view.cluster {
        parts.push(format!("cluster {cluster}, term {}", view.term));
    }
    parts.push(nodes(width, &view.nodes));
    if !view.volumes.is_empty() {
        parts.push(volumes(width, &view.volumes));
    }
    if !view.sessions.is_empty() {
        parts.push(sessions(width, &view.sessions));
    } else if view.leader.is_none() && !view.volumes.is_empty() {
        parts.push(sentence(width, "Mounts are not listed: the leader knows them, and there is none."));
    }
    if !view.mounts.is_empty() {
        parts.push(mounts(width, &view.mounts));
    }
    parts.join("\n\n")
}

fn nodes(width: u16, nodes: &[NodeView]) -> String {
    let ending = common_ending(nodes);
    let drawn = table(
        width,
        ["NODE", "ADDRESS", "STATE", "MISSES", "CLOCK", "FREE", "VERIFIED", "VERSION"],
        nodes.iter().map(|node| {
            [
                if node.id.is_empty() { "?".to_owned() } else { node.id.clone() },
                ending.and_then(|ending| node.addr.strip_suffix(ending)).unwrap_or(&node.addr).to_owned(),
                node_word(node).to_owned(),
                node.missing.map_or_else(unknown, changes),
                node.clock_ahead_ms.map_or_else(unknown, offset),
                node.space_available.map_or_else(unknown, size),
                verified(node),
                node.version.clone().unwrap_or_else(unknown),
            ]
        }),
    );
    match ending {
        Some(ending) => format!("{}\n{drawn}", sentence(width, &format!("all addresses end in {ending}"))),
        None => drawn,
    }
}

/// The domain that all nodes are in, with their port, where it is so long that a table has no room for it in each row.
fn common_ending(nodes: &[NodeView]) -> Option<&str> {
    let longest = nodes.iter().map(|node| node.addr.len()).max()?;
    let (host, domain) = nodes.first()?.addr.split_once('.')?;
    let ending = &nodes.first()?.addr[host.len()..];
    let is_name = domain.contains(|c: char| c.is_ascii_alphabetic()) && !domain.contains(['[', ']']);
    let is_common = nodes.iter().all(|node| node.addr.split_once('.').is_some_and(|(_, of)| of == domain));
    (longest > ADDRESS_MAX && nodes.len() > 1 && is_name && is_common).then_some(ending)
}

fn sessions(width: u16, sessions: &[SessionView]) -> String {
    table(
        width,
        ["MOUNTED ON", "AT", "VOLUME", "ACCESS", "AGE", "STATE"],
        sessions.iter().map(|session| {
            [
                session.host.clone().unwrap_or_else(|| format!("session {}", session.session)),
                session.path.clone().unwrap_or_else(unknown),
                session.volume_name.as_deref().map_or_else(|| session.volume.to_string(), shortened),
                session.access.map_or_else(unknown, access),
                age(session.age_ms),
                session_words(session),
            ]
        }),
    )
}

/// A volume's name as far as a row has room for it; the volumes' own table has it whole.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(VOLUME_MAX) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    }
}

/// Those of this machine.
fn mounts(width: u16, mounts: &[MountView]) -> String {
    table(
        width,
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
        (true, true, sent) => format!("connected, misses {sent}"),
        (true, false, _) => "catches up".to_owned(),
        (false, true, _) => "gone, waited for".to_owned(),
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
