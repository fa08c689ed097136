//! Messages between a mount and the leader.

use bytes::Bytes;

use super::{
    WireError, indexes_from, level_from, mount_from, node_from, proto, protocol_from, required, rows_from, rows_to,
    short_from, wide_to_bytes,
};
use crate::{
    limits,
    message::mount::{Hello, MountPlace, Refusal, StoreAddress, ToLeader, ToMount, Welcome},
    namespace::{DecodeError, Operation, Reply, entry::ENTRY_VERSION},
    types::{Errno, Generation, Ino, Label, LogIndex, Sequence, SessionId, Space, Stamp, VolumeId},
};

impl From<ToLeader> for proto::ToLeader {
    fn from(message: ToLeader) -> Self {
        use proto::to_leader::Message;
        let message = match message {
            ToLeader::Hello(hello) => Message::Hello(hello.into()),
            ToLeader::Operation { sequence, answered, operation } => Message::Operation(proto::Operation {
                sequence: sequence.0,
                answered: answered.into_iter().map(|sequence| sequence.0).collect(),
                operation: operation_to_bytes(&operation),
            }),
            ToLeader::Acknowledge { entries, referenced } => Message::Acknowledge(proto::Acknowledge {
                entries: entries.into_iter().map(|index| index.0).collect(),
                referenced: inodes_to(referenced),
            }),
            ToLeader::Released { orphans } => Message::Released(proto::Released { orphans: inodes_to(orphans) }),
            ToLeader::Renew { number } => Message::Renew(proto::Renew { number }),
            ToLeader::Leave => Message::Leave(proto::Leave {}),
            ToLeader::PieceReceived => Message::PieceReceived(proto::PieceReceived {}),
            ToLeader::Recall { ino } => Message::Recall(proto::Wanted { ino: ino.0 }),
            ToLeader::ReadIndex { number } => Message::ReadIndex(proto::ReadIndexWanted { number }),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<proto::ToLeader> for ToLeader {
    type Error = WireError;

    fn try_from(message: proto::ToLeader) -> Result<Self, WireError> {
        use proto::to_leader::Message;
        Ok(match required("ToLeader", "message", message.message)? {
            Message::Hello(hello) => Self::Hello(hello.try_into()?),
            Message::Operation(call) => Self::Operation {
                sequence: sequence_from("Operation", call.sequence)?,
                answered: call.answered.into_iter().map(Sequence).collect(),
                operation: operation_from_bytes(&call.operation)?,
            },
            Message::Acknowledge(acknowledge) => Self::Acknowledge {
                entries: indexes_from(acknowledge.entries),
                referenced: inodes_from(acknowledge.referenced),
            },
            Message::Released(released) => Self::Released { orphans: inodes_from(released.orphans) },
            Message::Renew(renew) => Self::Renew { number: renew.number },
            Message::Leave(proto::Leave {}) => Self::Leave,
            Message::PieceReceived(proto::PieceReceived {}) => Self::PieceReceived,
            Message::Recall(wanted) => Self::Recall { ino: Ino(wanted.ino) },
            Message::ReadIndex(wanted) => Self::ReadIndex { number: wanted.number },
        })
    }
}

impl From<Hello> for proto::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            protocol_min: hello.protocol.min.into(),
            protocol_max: hello.protocol.max.into(),
            features: hello.features,
            level_max: hello.level_max.into(),
            mount: wide_to_bytes(hello.mount.0),
            session: hello.session.map(|session| session.0),
            generation: hello.generation.0,
            applied: hello.applied.0,
            orphans: inodes_to(hello.orphans),
            place: Some(hello.place.into()),
        }
    }
}

impl TryFrom<proto::Hello> for Hello {
    type Error = WireError;

    fn try_from(hello: proto::Hello) -> Result<Self, WireError> {
        Ok(Self {
            protocol: protocol_from("Hello", hello.protocol_min, hello.protocol_max)?,
            features: hello.features,
            level_max: level_from("Hello", hello.level_max)?,
            mount: mount_from("Hello", &hello.mount)?,
            session: hello.session.map(SessionId),
            generation: Generation(hello.generation),
            applied: LogIndex(hello.applied),
            orphans: inodes_from(hello.orphans),
            place: hello.place.map(Into::into).unwrap_or_default(),
        })
    }
}

impl From<MountPlace> for proto::MountPlace {
    fn from(place: MountPlace) -> Self {
        let MountPlace { host, path, read_only } = place;
        Self { host: host.to_string(), path: path.to_string(), read_only }
    }
}

impl From<proto::MountPlace> for MountPlace {
    /// Whatever is said is fit to be kept and shown afterwards.
    fn from(place: proto::MountPlace) -> Self {
        Self { host: Label::new(&place.host), path: Label::new(&place.path), read_only: place.read_only }
    }
}

impl From<ToMount> for proto::ToMount {
    fn from(message: ToMount) -> Self {
        use proto::to_mount::Message;
        let message = match message {
            ToMount::Welcome(welcome) => Message::Welcome(welcome.into()),
            ToMount::NotLeader { leader } => Message::NotLeader(proto::NotLeader { leader }),
            ToMount::Refused { refusal, reason } => Message::Refused(proto::Refused {
                refusal: match refusal {
                    Refusal::Permanent => proto::Refusal::Permanent,
                    Refusal::Foreign => proto::Refusal::Foreign,
                    Refusal::SessionExpired => proto::Refusal::SessionExpired,
                    Refusal::Busy => proto::Refusal::Busy,
                    Refusal::Protocol => proto::Refusal::Protocol,
                }
                .into(),
                reason,
            }),
            ToMount::SnapshotPiece { index, first, last, rows } => {
                Message::SnapshotPiece(proto::VolumePiece { index: index.0, first, last, rows: rows_to(rows) })
            }
            ToMount::Entries { entries } => Message::Entries(proto::Entries {
                entries: entries
                    .into_iter()
                    .map(|(index, entry)| proto::VolumeEntry { index: index.0, entry })
                    .collect(),
            }),
            ToMount::Answer { sequence, index, outcome } => {
                use proto::answer::Outcome;
                Message::Answer(proto::Answer {
                    sequence: sequence.0,
                    index: index.0,
                    outcome: Some(match outcome {
                        Ok(reply) => Outcome::Reply(reply.into()),
                        Err(errno) => Outcome::Errno(errno.0.into()),
                    }),
                })
            }
            ToMount::Lease { number, stamp, space, stores } => Message::Lease(proto::Lease {
                number,
                stamp: stamp.0,
                space: Some(space.into()),
                stores: stores_to(stores),
            }),
            ToMount::Recall { ino, grant } => Message::Recall(proto::Recall { ino: ino.0, grant: grant.0 }),
            ToMount::ReadIndex { number, index } => Message::ReadIndex(proto::ReadIndex { number, index: index.0 }),
            ToMount::Prepare { leader } => Message::Prepare(proto::Prepare { leader }),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<proto::ToMount> for ToMount {
    type Error = WireError;

    fn try_from(message: proto::ToMount) -> Result<Self, WireError> {
        use proto::to_mount::Message;
        Ok(match required("ToMount", "message", message.message)? {
            Message::Welcome(welcome) => Self::Welcome(welcome.try_into()?),
            Message::NotLeader(not_leader) => Self::NotLeader { leader: not_leader.leader },
            Message::Refused(refused) => {
                let refusal = match refused.refusal() {
                    proto::Refusal::Permanent => Refusal::Permanent,
                    proto::Refusal::Foreign => Refusal::Foreign,
                    proto::Refusal::SessionExpired => Refusal::SessionExpired,
                    proto::Refusal::Busy => Refusal::Busy,
                    // A reason that a newer node has and we do not know: the connection is over in any case.
                    proto::Refusal::Protocol | proto::Refusal::Unspecified => Refusal::Protocol,
                };
                Self::Refused { refusal, reason: refused.reason }
            }
            Message::SnapshotPiece(piece) => Self::SnapshotPiece {
                index: LogIndex(piece.index),
                first: piece.first,
                last: piece.last,
                rows: rows_from(piece.rows),
            },
            Message::Entries(entries) => Self::Entries {
                entries: entries.entries.into_iter().map(|entry| (LogIndex(entry.index), entry.entry)).collect(),
            },
            Message::Answer(answer) => {
                use proto::answer::Outcome;
                Self::Answer {
                    sequence: sequence_from("Answer", answer.sequence)?,
                    index: LogIndex(answer.index),
                    outcome: match required("Answer", "outcome", answer.outcome)? {
                        Outcome::Reply(reply) => Ok(reply.try_into()?),
                        Outcome::Errno(errno) => Err(errno_from(errno)?),
                    },
                }
            }
            Message::Lease(lease) => Self::Lease {
                number: lease.number,
                stamp: Stamp(lease.stamp),
                space: required("Lease", "space", lease.space)?.into(),
                stores: stores_from(lease.stores)?,
            },
            Message::Recall(recall) => Self::Recall { ino: Ino(recall.ino), grant: LogIndex(recall.grant) },
            Message::ReadIndex(read) => Self::ReadIndex { number: read.number, index: LogIndex(read.index) },
            Message::Prepare(prepare) => Self::Prepare { leader: prepare.leader },
        })
    }
}

impl From<Welcome> for proto::Welcome {
    fn from(welcome: Welcome) -> Self {
        Self {
            protocol: welcome.protocol.into(),
            features: welcome.features,
            volume: welcome.volume.0,
            session: welcome.session.0,
            caught_up_at: welcome.caught_up_at.0,
            stamp: welcome.stamp.0,
            stores: stores_to(welcome.stores),
            inline_bytes_max: welcome.inline_bytes_max,
            space: Some(welcome.space.into()),
        }
    }
}

impl TryFrom<proto::Welcome> for Welcome {
    type Error = WireError;

    fn try_from(welcome: proto::Welcome) -> Result<Self, WireError> {
        Ok(Self {
            protocol: short_from("Welcome", "protocol", welcome.protocol)?,
            features: welcome.features,
            volume: VolumeId(welcome.volume),
            session: SessionId(welcome.session),
            caught_up_at: LogIndex(welcome.caught_up_at),
            stamp: Stamp(welcome.stamp),
            stores: stores_from(welcome.stores)?,
            inline_bytes_max: welcome.inline_bytes_max,
            space: required("Welcome", "space", welcome.space)?.into(),
        })
    }
}

impl From<Reply> for proto::Reply {
    fn from(reply: Reply) -> Self {
        use proto::reply::Reply as Wire;
        let reply = match reply {
            Reply::Done => Wire::Done(proto::Done {}),
            Reply::Made { ino } => Wire::Made(proto::Made { ino: ino.0 }),
            Reply::Written { offset, size } => Wire::Written(proto::Written { offset, size }),
            Reply::Copied { length } => Wire::Copied(proto::Copied { length }),
            Reply::Locked => Wire::Locked(proto::Done {}),
            Reply::Queued => Wire::Queued(proto::Done {}),
            Reply::Unfinished => Wire::Unfinished(proto::Done {}),
        };
        Self { reply: Some(reply) }
    }
}

impl TryFrom<proto::Reply> for Reply {
    type Error = WireError;

    fn try_from(reply: proto::Reply) -> Result<Self, WireError> {
        use proto::reply::Reply as Wire;
        Ok(match required("Reply", "reply", reply.reply)? {
            Wire::Done(proto::Done {}) => Self::Done,
            Wire::Made(made) => Self::Made { ino: Ino(made.ino) },
            Wire::Written(written) => Self::Written { offset: written.offset, size: written.size },
            Wire::Copied(copied) => Self::Copied { length: copied.length },
            Wire::Locked(proto::Done {}) => Self::Locked,
            Wire::Queued(proto::Done {}) => Self::Queued,
            Wire::Unfinished(proto::Done {}) => Self::Unfinished,
        })
    }
}

impl From<Space> for proto::Space {
    fn from(space: Space) -> Self {
        Self { total: space.total, available: space.available }
    }
}

impl From<proto::Space> for Space {
    fn from(space: proto::Space) -> Self {
        Self { total: space.total, available: space.available }
    }
}

/// An operation in the encoding of log entries: version byte, then postcard.
fn operation_to_bytes(operation: &Operation) -> Bytes {
    postcard::to_extend(operation, vec![ENTRY_VERSION])
        .expect("an operation has a defined encoding and memory suffices")
        .into()
}

fn operation_from_bytes(bytes: &[u8]) -> Result<Operation, DecodeError> {
    if bytes.len() > limits::ENTRY_BYTES_MAX {
        return Err(DecodeError::Size { found: bytes.len() });
    }
    let (&version, body) = bytes.split_first().ok_or_else(|| DecodeError::Form("it has no bytes".to_owned()))?;
    if version != ENTRY_VERSION {
        return Err(DecodeError::Version { found: version });
    }
    let (operation, rest) = postcard::take_from_bytes(body).map_err(|error| DecodeError::Form(error.to_string()))?;
    if !rest.is_empty() {
        return Err(DecodeError::Form(format!("{} bytes follow its end", rest.len())));
    }
    Ok(operation)
}

fn sequence_from(message: &'static str, sequence: u64) -> Result<Sequence, WireError> {
    if sequence == 0 {
        return Err(WireError::Value {
            message,
            field: "sequence",
            expected: "a call, counted from 1",
            found: "0".to_owned(),
        });
    }
    Ok(Sequence(sequence))
}

fn errno_from(errno: u32) -> Result<Errno, WireError> {
    match u16::try_from(errno) {
        Ok(errno) if errno != 0 => Ok(Errno(errno)),
        _ => Err(WireError::Value {
            message: "Answer",
            field: "errno",
            expected: "an error number, 1 to 65535",
            found: errno.to_string(),
        }),
    }
}

fn inodes_to(inodes: Vec<Ino>) -> Vec<u64> {
    inodes.into_iter().map(|ino| ino.0).collect()
}

fn inodes_from(inodes: Vec<u64>) -> Vec<Ino> {
    inodes.into_iter().map(Ino).collect()
}

fn stores_to(stores: Vec<StoreAddress>) -> Vec<proto::StoreAddress> {
    stores.into_iter().map(|store| proto::StoreAddress { node: store.node.0, address: store.address }).collect()
}

fn stores_from(stores: Vec<proto::StoreAddress>) -> Result<Vec<StoreAddress>, WireError> {
    stores
        .into_iter()
        .map(|store| Ok(StoreAddress { node: node_from("StoreAddress", "node", store.node)?, address: store.address }))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::wire::strategies;

    proptest! {
        #[test]
        fn a_message_to_the_leader_survives_the_wire(message in strategies::to_leader()) {
            let bytes = proto::ToLeader::from(message.clone()).encode_to_vec();
            let back = ToLeader::try_from(proto::ToLeader::decode(bytes.as_slice())?)?;
            prop_assert_eq!(back, message);
        }

        #[test]
        fn a_message_to_a_mount_survives_the_wire(message in strategies::to_mount()) {
            let bytes = proto::ToMount::from(message.clone()).encode_to_vec();
            let back = ToMount::try_from(proto::ToMount::decode(bytes.as_slice())?)?;
            prop_assert_eq!(back, message);
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in strategies::garbage()) {
            let _ = proto::ToLeader::decode(bytes.as_slice()).map(ToLeader::try_from);
            let _ = proto::ToMount::decode(bytes.as_slice()).map(ToMount::try_from);
            let _ = operation_from_bytes(&bytes);
        }

        #[test]
        fn a_damaged_message_is_refused_or_another_and_never_panics(
            message in strategies::to_leader(),
            down in strategies::to_mount(),
            damage in strategies::damage(),
        ) {
            let bytes = damage.apply(proto::ToLeader::from(message).encode_to_vec());
            let _ = proto::ToLeader::decode(bytes.as_slice()).map(ToLeader::try_from);
            let bytes = damage.apply(proto::ToMount::from(down).encode_to_vec());
            let _ = proto::ToMount::decode(bytes.as_slice()).map(ToMount::try_from);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_field_it_is_in() {
        let hello = |change: fn(&mut proto::Hello)| {
            let mut hello = proto::Hello {
                protocol_min: 1,
                protocol_max: 1,
                mount: wide_to_bytes(9),
                level_max: 1,
                ..Default::default()
            };
            change(&mut hello);
            Hello::try_from(hello).map_err(|error| error.to_string())
        };
        assert!(hello(|_| ()).is_ok());
        assert!(hello(|hello| hello.mount = Bytes::new()).is_err_and(|text| text.contains("mount")));
        assert!(hello(|hello| hello.protocol_min = 0).is_err_and(|text| text.contains("protocol")));
        assert!(hello(|hello| hello.protocol_max = 70_000).is_err_and(|text| text.contains("protocol_max")));
        assert!(hello(|hello| hello.level_max = 0).is_err_and(|text| text.contains("level_max")));

        // Of what is only shown, what is unfit to be shown goes.
        let place = |host: &str| proto::MountPlace { host: host.to_owned(), path: "/\n".repeat(999), read_only: false };
        for host in ["\x1b[2J", "\u{202e}", "x\0"] {
            let place = MountPlace::from(place(host));
            assert!(place.host.as_str().ends_with(['?', 'J']) && !place.host.as_str().contains(char::is_control));
            assert!(place.path.as_str().len() <= crate::limits::LABEL_BYTES_MAX);
        }

        let empty = ToLeader::try_from(proto::ToLeader { message: None });
        assert_eq!(empty, Err(WireError::Missing { message: "ToLeader", field: "message" }));
        assert_eq!(operation_from_bytes(&[]), Err(DecodeError::Form("it has no bytes".to_owned())));
        assert_eq!(operation_from_bytes(&[9, 0]), Err(DecodeError::Version { found: 9 }));
        assert!(matches!(errno_from(0), Err(WireError::Value { field: "errno", .. })));
    }
}
