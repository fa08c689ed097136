//! Messages between storage nodes. Raft's own travel as opaque bytes; `replica` alone reads them.

use super::{
    WireError, founding_from, founding_to_bytes, node_from, proto, protocol_from, required, rows_from, rows_to,
};
use crate::{
    message::peer::{Greeting, Hello, Life, Mark, Measured, PeerMessage, Recollection, Verdict},
    node::PeerHello,
    types::{LogIndex, SessionId, Stamp, Term, VolumeId},
};

/// What a peer stream carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerFrame {
    Hello(PeerHello),
    Message(PeerMessage),
}

impl From<PeerFrame> for proto::PeerMessage {
    fn from(frame: PeerFrame) -> Self {
        use proto::peer_message::Message;
        let message = match frame {
            PeerFrame::Hello(hello) => Message::Hello(proto::PeerHello {
                founding: founding_to_bytes(hello.founding),
                from: hello.from.0,
                to: hello.to.0,
                protocol_min: hello.protocol.min.into(),
                protocol_max: hello.protocol.max.into(),
            }),
            PeerFrame::Message(PeerMessage::Raft(bytes)) => Message::Raft(bytes),
            PeerFrame::Message(PeerMessage::Heartbeat { term, round, stamp, marks, alive }) => {
                let marks = marks.into_iter().map(Into::into).collect();
                let alive = alive.into_iter().map(|node| node.0).collect();
                Message::Heartbeat(proto::Heartbeat {
                    term: term.0,
                    round,
                    stamp: stamp.map(|stamp| stamp.0),
                    marks,
                    alive,
                })
            }
            PeerFrame::Message(PeerMessage::Hello { hello, node }) => Message::NodeHello(proto::NodeHello {
                boot: hello.life.boot,
                nonce: hello.life.nonce,
                term: hello.term.0,
                last: hello.last.0,
                recollection: match hello.recollection {
                    Recollection::Whole => proto::Recollection::Whole,
                    Recollection::Lost => proto::Recollection::Lost,
                    Recollection::Refilled => proto::Recollection::Refilled,
                }
                .into(),
                node: node.map(Into::into),
            }),
            PeerFrame::Message(PeerMessage::Greeting(greeting)) => Message::NodeGreeting(greeting.into()),
            PeerFrame::Message(PeerMessage::HeartbeatAcknowledged { term, round, wall_clock }) => {
                Message::HeartbeatAcknowledged(proto::HeartbeatAcknowledged { term: term.0, round, wall_clock })
            }
            PeerFrame::Message(PeerMessage::SnapshotRequest { index, after }) => {
                Message::SnapshotRequest(proto::SnapshotRequest { index: index.0, after })
            }
            PeerFrame::Message(PeerMessage::SnapshotPiece { index, term, membership, rows, last }) => {
                Message::SnapshotPiece(proto::SnapshotPiece {
                    index: index.0,
                    term: term.0,
                    membership,
                    rows: rows_to(rows),
                    last,
                })
            }
            PeerFrame::Message(PeerMessage::Report { node, measured, content_bytes }) => {
                let (space, measured_content_bytes) = measured.map(|m| (m.space.into(), m.content)).unzip();
                Message::Report(proto::NodeReport {
                    node: node.map(Into::into),
                    space,
                    content_bytes,
                    measured_content_bytes: measured_content_bytes.unwrap_or(0),
                })
            }
            PeerFrame::Message(PeerMessage::HandOver { term, leased }) => {
                let leased = leased.into_iter();
                let leased =
                    leased.map(|(volume, session)| proto::LeasedSession { volume: volume.0, session: session.0 });
                Message::HandOver(proto::HandOver { term: term.0, leased: leased.collect() })
            }
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<proto::PeerMessage> for PeerFrame {
    type Error = WireError;

    fn try_from(message: proto::PeerMessage) -> Result<Self, WireError> {
        use proto::peer_message::Message;
        let message = match required("PeerMessage", "message", message.message)? {
            Message::Hello(hello) => {
                return Ok(Self::Hello(PeerHello {
                    founding: founding_from("PeerHello", &hello.founding)?,
                    from: node_from("PeerHello", "from", hello.from)?,
                    to: node_from("PeerHello", "to", hello.to)?,
                    protocol: protocol_from("PeerHello", hello.protocol_min, hello.protocol_max)?,
                }));
            }
            Message::Raft(bytes) => PeerMessage::Raft(bytes),
            Message::Heartbeat(beat) => PeerMessage::Heartbeat {
                term: Term(beat.term),
                round: beat.round,
                stamp: beat.stamp.map(Stamp),
                marks: beat.marks.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                alive: beat
                    .alive
                    .into_iter()
                    .map(|node| node_from("Heartbeat", "alive", node))
                    .collect::<Result<_, _>>()?,
            },
            Message::NodeHello(hello) => PeerMessage::Hello {
                hello: Hello {
                    life: Life { boot: hello.boot, nonce: hello.nonce },
                    term: Term(hello.term),
                    last: LogIndex(hello.last),
                    recollection: match proto::Recollection::try_from(hello.recollection) {
                        Ok(proto::Recollection::Whole) => Recollection::Whole,
                        Ok(proto::Recollection::Lost) => Recollection::Lost,
                        Ok(proto::Recollection::Refilled) => Recollection::Refilled,
                        _ => {
                            return Err(WireError::Value {
                                message: "NodeHello",
                                field: "recollection",
                                expected: "one that is known here",
                                found: hello.recollection.to_string(),
                            });
                        }
                    },
                },
                node: hello.node.map(TryInto::try_into).transpose()?,
            },
            Message::NodeGreeting(greeting) => PeerMessage::Greeting(greeting.try_into()?),
            Message::HeartbeatAcknowledged(beat) => PeerMessage::HeartbeatAcknowledged {
                term: Term(beat.term),
                round: beat.round,
                wall_clock: beat.wall_clock,
            },
            Message::SnapshotRequest(request) => {
                PeerMessage::SnapshotRequest { index: LogIndex(request.index), after: request.after }
            }
            Message::SnapshotPiece(piece) => PeerMessage::SnapshotPiece {
                index: LogIndex(piece.index),
                term: Term(piece.term),
                membership: piece.membership,
                rows: rows_from(piece.rows),
                last: piece.last,
            },
            Message::Report(report) => PeerMessage::Report {
                node: report.node.map(TryInto::try_into).transpose()?,
                measured: report
                    .space
                    .map(|space| Measured { space: space.into(), content: report.measured_content_bytes }),
                content_bytes: report.content_bytes,
            },
            Message::HandOver(hand_over) => PeerMessage::HandOver {
                term: Term(hand_over.term),
                leased: hand_over
                    .leased
                    .into_iter()
                    .map(|leased| (VolumeId(leased.volume), SessionId(leased.session)))
                    .collect(),
            },
        };
        Ok(Self::Message(message))
    }
}

impl From<Mark> for proto::NodeMark {
    fn from(mark: Mark) -> Self {
        Self {
            node: mark.node.0,
            boot: mark.life.boot,
            nonce: mark.life.nonce,
            term: mark.term.0,
            acknowledged_term: mark.acknowledged.0.0,
            acknowledged: mark.acknowledged.1.0,
        }
    }
}

impl TryFrom<proto::NodeMark> for Mark {
    type Error = WireError;

    fn try_from(mark: proto::NodeMark) -> Result<Self, WireError> {
        Ok(Self {
            node: node_from("NodeMark", "node", mark.node)?,
            life: Life { boot: mark.boot, nonce: mark.nonce },
            term: Term(mark.term),
            acknowledged: (Term(mark.acknowledged_term), LogIndex(mark.acknowledged)),
        })
    }
}

impl From<Greeting> for proto::NodeGreeting {
    fn from(greeting: Greeting) -> Self {
        use proto::node_greeting::Verdict as Sent;
        let verdict = match greeting.verdict {
            Verdict::Welcome => Sent::Welcome(proto::Welcomed {}),
            Verdict::Forgetful { boot } => Sent::Forgetful(proto::Forgetful { boot }),
            Verdict::Refill { through, term } => Sent::Refill(proto::Refill { through: through.0, term: term.0 }),
            Verdict::Rival => Sent::Rival(proto::Rival {}),
        };
        Self {
            boot: greeting.life.boot,
            nonce: greeting.life.nonce,
            by_boot: greeting.by.boot,
            by_nonce: greeting.by.nonce,
            verdict: Some(verdict),
        }
    }
}

impl TryFrom<proto::NodeGreeting> for Greeting {
    type Error = WireError;

    fn try_from(greeting: proto::NodeGreeting) -> Result<Self, WireError> {
        use proto::node_greeting::Verdict as Sent;
        let verdict = match required("NodeGreeting", "verdict", greeting.verdict)? {
            Sent::Welcome(_) => Verdict::Welcome,
            Sent::Forgetful(forgetful) => Verdict::Forgetful { boot: forgetful.boot },
            Sent::Refill(refill) => Verdict::Refill { through: LogIndex(refill.through), term: Term(refill.term) },
            Sent::Rival(_) => Verdict::Rival,
        };
        Ok(Self {
            life: Life { boot: greeting.boot, nonce: greeting.nonce },
            by: Life { boot: greeting.by_boot, nonce: greeting.by_nonce },
            verdict,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::{types::FoundingId, wire::strategies};

    proptest! {
        #[test]
        fn a_peer_frame_survives_the_wire(frame in strategies::peer_frame()) {
            let bytes = proto::PeerMessage::from(frame.clone()).encode_to_vec();
            let back = PeerFrame::try_from(proto::PeerMessage::decode(bytes.as_slice())?)?;
            prop_assert_eq!(back, frame);
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in strategies::garbage()) {
            let _ = proto::PeerMessage::decode(bytes.as_slice()).map(PeerFrame::try_from);
        }

        #[test]
        fn a_damaged_frame_is_refused_or_another_and_never_panics(
            frame in strategies::peer_frame(),
            damage in strategies::damage(),
        ) {
            let bytes = damage.apply(proto::PeerMessage::from(frame).encode_to_vec());
            let _ = proto::PeerMessage::decode(bytes.as_slice()).map(PeerFrame::try_from);
        }
    }

    #[test]
    fn a_stream_from_nobody_is_refused() {
        let founding = founding_to_bytes(FoundingId::default());
        let hello = proto::PeerHello { founding, from: 0, to: 2, protocol_min: 1, protocol_max: 1 };
        let frame = proto::PeerMessage { message: Some(proto::peer_message::Message::Hello(hello)) };
        assert!(matches!(PeerFrame::try_from(frame), Err(WireError::Value { field: "from", .. })));
    }
}
