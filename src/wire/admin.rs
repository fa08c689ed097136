//! Messages of administration: what a node reports, how a cluster is founded, and the outcome of a change.

use bytes::Bytes;

use super::{
    WireError, cluster_from, founding_from, founding_to_bytes, node_from, proto, required, short_from, wide_from_bytes,
    wide_to_bytes,
};
use crate::{
    limits,
    namespace::{ByteQuota, QuotaChanges, VolumeOptions, entry::Founding},
    node::{AdminAnswer, AdminError, ClockStatus, NodeStatus, PeerStatus, SessionStatus, VolumeStatus},
    replica::Standing,
    types::{ClusterId, LogIndex, NodeId, SessionId, Stamp, Term, VolumeId},
};

/// How far a node is on its way into a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The data directory is blank: the node waits for its founding.
    Blank,
    /// The founding is written and the node waits until all founding nodes have it.
    Prepared { node: NodeId, founding: Founding },
    /// The node takes part.
    Running(Box<NodeStatus>),
}

/// The process that answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    pub pid: u32,
    /// Its data directory, as a path on its machine.
    pub data: String,
    /// The arguments that start it again.
    pub start: Vec<String>,
    /// Version of the program.
    pub version: String,
    /// `host:port` where the node wants peers to find it; `:port` where the host is for the asker to know.
    pub peer_address: String,
    /// Its store waits for a file descriptor.
    pub lacks_descriptors: bool,
    /// Milliseconds since everything on its disk was last read and verified, if it was since the process began.
    pub scrubbed_ms: Option<u64>,
    /// Damaged blocks and records that were found since the process began.
    pub damages: u64,
}

/// A node's answer to `Admin.Status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The cluster of the node's authority.
    pub cluster: ClusterId,
    pub phase: Phase,
    pub process: Process,
}

impl From<Report> for proto::StatusResponse {
    fn from(report: Report) -> Self {
        let (phase, node, founding, status) = match report.phase {
            Phase::Blank => (proto::Phase::Blank, 0, None, None),
            Phase::Prepared { node, founding } => (proto::Phase::Prepared, node.0, Some(founding.into()), None),
            Phase::Running(status) => (proto::Phase::Running, status.id.0, None, Some((*status).into())),
        };
        Self {
            phase: phase.into(),
            cluster: wide_to_bytes(report.cluster.0),
            node,
            founding,
            status,
            process: Some(report.process.into()),
        }
    }
}

impl TryFrom<proto::StatusResponse> for Report {
    type Error = WireError;

    fn try_from(response: proto::StatusResponse) -> Result<Self, WireError> {
        let phase = match response.phase() {
            proto::Phase::Blank => Phase::Blank,
            proto::Phase::Prepared => Phase::Prepared {
                node: node_from("StatusResponse", "node", response.node)?,
                founding: required("StatusResponse", "founding", response.founding)?.try_into()?,
            },
            proto::Phase::Running => {
                Phase::Running(Box::new(required("StatusResponse", "status", response.status)?.try_into()?))
            }
            proto::Phase::Unspecified => {
                return Err(WireError::Value {
                    message: "StatusResponse",
                    field: "phase",
                    expected: "blank, prepared or running",
                    found: response.phase.to_string(),
                });
            }
        };
        Ok(Self {
            cluster: cluster_from("StatusResponse", &response.cluster)?,
            phase,
            process: required("StatusResponse", "process", response.process)?.into(),
        })
    }
}

impl From<Process> for proto::Process {
    fn from(process: Process) -> Self {
        Self {
            pid: process.pid,
            data: process.data,
            start: process.start,
            version: process.version,
            peer_address: process.peer_address,
            lacks_descriptors: process.lacks_descriptors,
            scrubbed_ms: process.scrubbed_ms,
            damages: process.damages,
        }
    }
}

impl From<proto::Process> for Process {
    fn from(process: proto::Process) -> Self {
        Self {
            pid: process.pid,
            data: process.data,
            start: process.start,
            version: process.version,
            peer_address: process.peer_address,
            lacks_descriptors: process.lacks_descriptors,
            scrubbed_ms: process.scrubbed_ms,
            damages: process.damages,
        }
    }
}

impl From<Founding> for proto::Founding {
    fn from(founding: Founding) -> Self {
        Self {
            founding: founding_to_bytes(founding.id),
            nodes: founding.nodes.into_iter().map(Into::into).collect(),
            stamp: founding.stamp.0,
            main: Some(founding.main.into()),
        }
    }
}

impl TryFrom<proto::Founding> for Founding {
    type Error = WireError;

    fn try_from(founding: proto::Founding) -> Result<Self, WireError> {
        Ok(Self {
            id: founding_from("Founding", &founding.founding)?,
            nodes: founding.nodes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            stamp: Stamp(founding.stamp),
            main: required("Founding", "main", founding.main)?.try_into()?,
        })
    }
}

/// The request that changes quotas; whose founding it is for is added by who sends it.
impl From<QuotaChanges> for proto::SetQuotasRequest {
    fn from(changes: QuotaChanges) -> Self {
        let quota = changes.bytes.map(|bytes| match bytes {
            ByteQuota::Unlimited => proto::set_quotas_request::Quota::Unlimited(proto::Unlimited {}),
            ByteQuota::Bytes(bytes) => proto::set_quotas_request::Quota::QuotaBytes(bytes),
        });
        Self { quota, quota_inodes: changes.inodes, ..Self::default() }
    }
}

impl TryFrom<&proto::SetQuotasRequest> for QuotaChanges {
    type Error = WireError;

    fn try_from(request: &proto::SetQuotasRequest) -> Result<Self, WireError> {
        if let Some(found) = request.quota_inodes.filter(|inodes| !(1..=limits::INODES_MAX).contains(inodes)) {
            return Err(WireError::Value {
                message: "SetQuotasRequest",
                field: "quota_inodes",
                expected: "a number of inodes from 1 to 2097152",
                found: found.to_string(),
            });
        }
        let bytes = request.quota.as_ref().map(|quota| match quota {
            proto::set_quotas_request::Quota::Unlimited(proto::Unlimited {}) => ByteQuota::Unlimited,
            proto::set_quotas_request::Quota::QuotaBytes(bytes) => ByteQuota::Bytes(*bytes),
        });
        Ok(Self { bytes, inodes: request.quota_inodes })
    }
}

impl From<VolumeOptions> for proto::VolumeOptions {
    fn from(options: VolumeOptions) -> Self {
        let VolumeOptions { uid, gid, mode, quota_bytes, quota_inodes } = options;
        Self { uid, gid, mode: mode.into(), quota_bytes, quota_inodes }
    }
}

impl TryFrom<proto::VolumeOptions> for VolumeOptions {
    type Error = WireError;

    fn try_from(options: proto::VolumeOptions) -> Result<Self, WireError> {
        let mode = short_from("VolumeOptions", "mode", options.mode)?;
        if mode > 0o7777 {
            return Err(WireError::Value {
                message: "VolumeOptions",
                field: "mode",
                expected: "permission bits, at most 7777 octal",
                found: format!("{mode:o}"),
            });
        }
        let proto::VolumeOptions { uid, gid, quota_bytes, quota_inodes, .. } = options;
        Ok(Self { uid, gid, mode, quota_bytes, quota_inodes })
    }
}

impl From<NodeStatus> for proto::NodeStatus {
    fn from(status: NodeStatus) -> Self {
        Self {
            id: status.id.0,
            leader: status.leader.map(|leader| leader.0),
            term: status.term.0,
            applied: status.applied.0,
            committed: status.committed.0,
            digest: digest_to(status.digest),
            peers: status.peers.into_iter().map(Into::into).collect(),
            volumes: status.volumes.into_iter().map(Into::into).collect(),
            sessions: status.sessions.into_iter().map(Into::into).collect(),
            short_of_space: status.short_of_space,
            founding: founding_to_bytes(status.founding),
            clock_jumps: status.clock.jumps,
            clock_ahead_ms: status.clock.ahead_ms,
            standing: match status.standing {
                Standing::TakesPart => proto::Standing::TakesPart,
                Standing::Waits => proto::Standing::Waits,
                Standing::Rival => proto::Standing::Rival,
                Standing::Forgetful => proto::Standing::Forgetful,
            }
            .into(),
            space: status.space.map(Into::into),
            leaderless_ms: status.leaderless_ms,
        }
    }
}

impl TryFrom<proto::NodeStatus> for NodeStatus {
    type Error = WireError;

    fn try_from(status: proto::NodeStatus) -> Result<Self, WireError> {
        Ok(Self {
            founding: founding_from("NodeStatus", &status.founding)?,
            id: node_from("NodeStatus", "id", status.id)?,
            leader: status.leader.map(|leader| node_from("NodeStatus", "leader", leader)).transpose()?,
            term: Term(status.term),
            applied: LogIndex(status.applied),
            committed: LogIndex(status.committed),
            digest: wide_from_bytes("NodeStatus", "digest", &status.digest)?,
            peers: status.peers.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            volumes: status.volumes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            sessions: status.sessions.into_iter().map(Into::into).collect(),
            short_of_space: status.short_of_space,
            clock: ClockStatus { jumps: status.clock_jumps, ahead_ms: status.clock_ahead_ms },
            space: status.space.map(Into::into),
            leaderless_ms: status.leaderless_ms,
            standing: match proto::Standing::try_from(status.standing) {
                Ok(proto::Standing::TakesPart) => Standing::TakesPart,
                Ok(proto::Standing::Waits) => Standing::Waits,
                Ok(proto::Standing::Rival) => Standing::Rival,
                Ok(proto::Standing::Forgetful) => Standing::Forgetful,
                _ => {
                    return Err(WireError::Value {
                        message: "NodeStatus",
                        field: "standing",
                        expected: "one that is known here",
                        found: status.standing.to_string(),
                    });
                }
            },
        })
    }
}

impl From<PeerStatus> for proto::PeerStatus {
    fn from(peer: PeerStatus) -> Self {
        Self {
            node: Some(peer.node.into()),
            voter: peer.voter,
            matched: peer.matched.map(|index| index.0),
            reachable: peer.reachable,
        }
    }
}

impl TryFrom<proto::PeerStatus> for PeerStatus {
    type Error = WireError;

    fn try_from(peer: proto::PeerStatus) -> Result<Self, WireError> {
        Ok(Self {
            node: required("PeerStatus", "node", peer.node)?.try_into()?,
            voter: peer.voter,
            matched: peer.matched.map(LogIndex),
            reachable: peer.reachable,
        })
    }
}

impl From<VolumeStatus> for proto::VolumeStatus {
    fn from(volume: VolumeStatus) -> Self {
        Self {
            id: volume.id.0,
            name: volume.name,
            inodes: volume.inodes,
            bytes: volume.bytes,
            quota_bytes: volume.quota_bytes,
            quota_inodes: volume.quota_inodes,
            digest: digest_to(volume.digest),
        }
    }
}

impl TryFrom<proto::VolumeStatus> for VolumeStatus {
    type Error = WireError;

    fn try_from(volume: proto::VolumeStatus) -> Result<Self, WireError> {
        Ok(Self {
            id: VolumeId(volume.id),
            name: volume.name,
            inodes: volume.inodes,
            bytes: volume.bytes,
            quota_bytes: volume.quota_bytes,
            quota_inodes: volume.quota_inodes,
            digest: wide_from_bytes("VolumeStatus", "digest", &volume.digest)?,
        })
    }
}

impl From<SessionStatus> for proto::SessionStatus {
    fn from(session: SessionStatus) -> Self {
        Self {
            session: session.session.0,
            volume: session.volume.0,
            connected: session.connected,
            in_roster: session.in_roster,
            unacknowledged: session.unacknowledged,
            age_ms: session.age_ms,
            place: session.place.map(Into::into),
        }
    }
}

impl From<proto::SessionStatus> for SessionStatus {
    fn from(session: proto::SessionStatus) -> Self {
        Self {
            session: SessionId(session.session),
            volume: VolumeId(session.volume),
            connected: session.connected,
            in_roster: session.in_roster,
            unacknowledged: session.unacknowledged,
            age_ms: session.age_ms,
            place: session.place.map(Into::into),
        }
    }
}

/// The outcome of a change, for the wire. A status is no answer to a change and becomes a refusal that says so.
#[must_use]
pub fn change_response(outcome: Result<AdminAnswer, AdminError>) -> proto::ChangeResponse {
    use proto::change_response::Outcome;
    let outcome = match outcome {
        Ok(AdminAnswer::Done) => Outcome::Done(proto::Changed {}),
        Ok(AdminAnswer::Status(_)) => Outcome::Refused("the node answered a change with its status".to_owned()),
        Err(AdminError::NotLeader { leader }) => Outcome::NotLeader(proto::AdminNotLeader { leader }),
        Err(AdminError::Refused(reason)) => Outcome::Refused(reason),
        Err(AdminError::TimedOut) => Outcome::TimedOut(proto::ChangeTimedOut {}),
    };
    proto::ChangeResponse { outcome: Some(outcome) }
}

/// The outcome of a change, from the wire.
///
/// # Errors
/// `Missing` where the response says nothing.
pub fn change_outcome(response: proto::ChangeResponse) -> Result<Result<(), AdminError>, WireError> {
    use proto::change_response::Outcome;
    Ok(match required("ChangeResponse", "outcome", response.outcome)? {
        Outcome::Done(proto::Changed {}) => Ok(()),
        Outcome::NotLeader(not_leader) => Err(AdminError::NotLeader { leader: not_leader.leader }),
        Outcome::Refused(reason) => Err(AdminError::Refused(reason)),
        Outcome::TimedOut(proto::ChangeTimedOut {}) => Err(AdminError::TimedOut),
    })
}

fn digest_to(digest: u128) -> Bytes {
    wide_to_bytes(digest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::wire::strategies;

    proptest! {
        #[test]
        fn a_report_survives_the_wire(report in strategies::report()) {
            let bytes = proto::StatusResponse::from(report.clone()).encode_to_vec();
            let back = Report::try_from(proto::StatusResponse::decode(bytes.as_slice())?)?;
            prop_assert_eq!(back, report);
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in strategies::garbage()) {
            let _ = proto::StatusResponse::decode(bytes.as_slice()).map(Report::try_from);
            let _ = proto::Founding::decode(bytes.as_slice()).map(Founding::try_from);
            let _ = proto::ChangeResponse::decode(bytes.as_slice()).map(change_outcome);
        }

        #[test]
        fn a_damaged_report_is_refused_or_another_and_never_panics(
            report in strategies::report(),
            damage in strategies::damage(),
        ) {
            let bytes = damage.apply(proto::StatusResponse::from(report).encode_to_vec());
            let _ = proto::StatusResponse::decode(bytes.as_slice()).map(Report::try_from);
        }
    }

    #[test]
    fn quotas_survive_the_wire_and_senseless_ones_do_not() {
        for bytes in [None, Some(ByteQuota::Unlimited), Some(ByteQuota::Bytes(0)), Some(ByteQuota::Bytes(u64::MAX))] {
            for inodes in [None, Some(1), Some(limits::INODES_MAX)] {
                let changes = QuotaChanges { bytes, inodes };
                let request = proto::SetQuotasRequest::from(changes);
                assert_eq!(QuotaChanges::try_from(&request), Ok(changes));
            }
        }
        for inodes in [0, limits::INODES_MAX + 1] {
            let request = proto::SetQuotasRequest { quota_inodes: Some(inodes), ..Default::default() };
            assert!(QuotaChanges::try_from(&request).is_err());
        }
    }

    #[test]
    fn an_outcome_survives_the_wire() {
        let not_leader = AdminError::NotLeader { leader: Some("b:7440".to_owned()) };
        for error in [not_leader, AdminError::Refused("no".to_owned()), AdminError::TimedOut] {
            assert_eq!(change_outcome(change_response(Err(error.clone()))), Ok(Err(error)));
        }
        assert_eq!(change_outcome(change_response(Ok(AdminAnswer::Done))), Ok(Ok(())));
    }

    #[test]
    fn a_mode_with_type_bits_is_refused() {
        let options = proto::VolumeOptions { uid: 0, gid: 0, mode: 0o100_644, ..Default::default() };
        assert!(matches!(VolumeOptions::try_from(options), Err(WireError::Value { field: "mode", .. })));
    }
}
