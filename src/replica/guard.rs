//! Reads raft's protobuf messages from bytes that nobody vouches for.
//!
//! The parser of raft's types recurses without bound on groups of unknown fields (RUSTSEC-2024-0437) and raft's getters
//! and `step` panic on values no peer of ours sends. So bytes are scanned against the fields we know before they are
//! parsed: the nesting is that of the tables below and no deeper, groups and unknown fields are refused, enums are in
//! range. `admissible` then checks what `step` takes for granted.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType};

use super::membership;

/// Terms and indices beyond this are not reached in the life of a cluster; they would overflow raft's arithmetic.
pub(super) const NUMBER_MAX: u64 = 1 << 56;

/// What the bytes of a field must be.
enum Shape {
    /// A varint up to this value.
    Varint(u64),
    Bytes,
    /// Varints, packed or one by one.
    Varints,
    Message(&'static [(u64, Shape)]),
}

const ANY: Shape = Shape::Varint(u64::MAX);
const FLAG: Shape = Shape::Varint(1);
const NUMBER: Shape = Shape::Varint(NUMBER_MAX);

const ENTRY: &[(u64, Shape)] =
    &[(1, Shape::Varint(2)), (2, NUMBER), (3, NUMBER), (4, Shape::Bytes), (5, FLAG), (6, Shape::Bytes)];
const CONF_STATE: &[(u64, Shape)] =
    &[(1, Shape::Varints), (2, Shape::Varints), (3, Shape::Varints), (4, Shape::Varints), (5, FLAG)];
const SNAPSHOT_METADATA: &[(u64, Shape)] = &[(1, Shape::Message(CONF_STATE)), (2, NUMBER), (3, NUMBER)];
const SNAPSHOT: &[(u64, Shape)] = &[(1, Shape::Bytes), (2, Shape::Message(SNAPSHOT_METADATA))];
const MESSAGE: &[(u64, Shape)] = &[
    (1, Shape::Varint(18)),
    (2, ANY),
    (3, ANY),
    (4, NUMBER),
    (5, NUMBER),
    (6, NUMBER),
    (7, Shape::Message(ENTRY)),
    (8, NUMBER),
    (9, Shape::Message(SNAPSHOT)),
    (10, FLAG),
    (11, NUMBER),
    (12, Shape::Bytes),
    (13, NUMBER),
    (14, ANY),
    (15, NUMBER),
    (16, ANY),
];
const CONF_CHANGE_SINGLE: &[(u64, Shape)] = &[(1, Shape::Varint(2)), (2, ANY)];
const CONF_CHANGE_V2: &[(u64, Shape)] =
    &[(1, Shape::Varint(2)), (2, Shape::Message(CONF_CHANGE_SINGLE)), (3, Shape::Bytes)];

pub(super) fn message(bytes: &Bytes) -> Result<Message, String> {
    scan(bytes, MESSAGE)?;
    let message = Message::parse_from_carllerche_bytes(bytes).map_err(|error| error.to_string())?;
    message.entries.iter().try_for_each(check_entry)?;
    Ok(message)
}

pub(super) fn entry(bytes: &Bytes) -> Result<Entry, String> {
    scan(bytes, ENTRY)?;
    let entry = Entry::parse_from_carllerche_bytes(bytes).map_err(|error| error.to_string())?;
    check_entry(&entry)?;
    Ok(entry)
}

pub(super) fn conf_state(bytes: &Bytes) -> Result<ConfState, String> {
    scan(bytes, CONF_STATE)?;
    let state = ConfState::parse_from_carllerche_bytes(bytes).map_err(|error| error.to_string())?;
    membership::check(&state)?;
    Ok(state)
}

/// The change of membership in an entry; `None` for other entries.
pub(super) fn conf_change(entry: &Entry) -> Result<Option<ConfChangeV2>, String> {
    match entry.get_entry_type() {
        EntryType::EntryNormal => Ok(None),
        EntryType::EntryConfChange => Err("it is a change of membership in a form that no node writes".to_owned()),
        EntryType::EntryConfChangeV2 => {
            scan(&entry.data, CONF_CHANGE_V2)?;
            ConfChangeV2::parse_from_carllerche_bytes(&entry.data).map(Some).map_err(|error| error.to_string())
        }
    }
}

/// Where this node stands, as far as a message's sense depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) id: u64,
    pub(super) term: u64,
    pub(super) last: u64,
}

/// Whether `step` can take the message from this peer without panicking or believing nonsense.
pub(super) fn admissible(message: &Message, from: u64, here: Position) -> Result<(), String> {
    use MessageType as Type;
    let kind = message.get_msg_type();
    let refuse = |reason: &str| Err(format!("{kind:?}: {reason}"));
    if message.from != from || message.to != here.id {
        return refuse("it names another sender or receiver than the stream");
    }
    // Term 0 marks messages of a node to itself.
    if message.term == 0 {
        return refuse("it has no term");
    }
    let current = message.term >= here.term;
    if message.has_snapshot() != (kind == Type::MsgSnapshot) {
        return refuse("only a snapshot message names a snapshot, and it must");
    }
    if !message.entries.is_empty() && kind != Type::MsgAppend {
        return refuse("it has entries");
    }
    match kind {
        Type::MsgAppend => check_run(message).or_else(|reason| refuse(&reason)),
        Type::MsgAppendResponse => {
            if message.request_snapshot != 0 {
                return refuse("it requests a snapshot, which no node does");
            }
            if message.term == here.term && (message.index > here.last || message.reject_hint > here.last) {
                return refuse("it names entries that this node's log does not have");
            }
            Ok(())
        }
        Type::MsgHeartbeat if current && message.commit > here.last => {
            refuse("it commits entries that this node's log does not have, though it once acknowledged them")
        }
        Type::MsgHeartbeat | Type::MsgHeartbeatResponse if !message.context.is_empty() => refuse("it has a context"),
        Type::MsgHeartbeat
        | Type::MsgHeartbeatResponse
        | Type::MsgRequestVote
        | Type::MsgRequestVoteResponse
        | Type::MsgRequestPreVote
        | Type::MsgRequestPreVoteResponse
        | Type::MsgTimeoutNow => Ok(()),
        Type::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            if metadata.index == 0 || metadata.term == 0 || metadata.term > message.term {
                return refuse("its snapshot has no sensible position");
            }
            // Its membership is only a hint: what counts comes with the rows.
            membership::check(metadata.get_conf_state()).or_else(|reason| refuse(&reason))
        }
        Type::MsgHup
        | Type::MsgBeat
        | Type::MsgPropose
        | Type::MsgUnreachable
        | Type::MsgSnapStatus
        | Type::MsgCheckQuorum
        | Type::MsgTransferLeader
        | Type::MsgReadIndex
        | Type::MsgReadIndexResp => refuse("no peer sends such"),
    }
}

/// An append's entries follow the position it names, without a gap, in terms that never fall.
fn check_run(message: &Message) -> Result<(), String> {
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in message.get_entries() {
        if entry.index != index + 1 || entry.term < term || entry.term > message.term {
            return Err(format!("entry {} of term {} does not follow {index} of term {term}", entry.index, entry.term));
        }
        (index, term) = (entry.index, entry.term);
    }
    Ok(())
}

fn check_entry(entry: &Entry) -> Result<(), String> {
    if entry.index == 0 || entry.term == 0 {
        return Err("an entry has no position".to_owned());
    }
    conf_change(entry).map(|_| ())
}

/// Refuses what is not a message of these fields.
fn scan(mut bytes: &[u8], fields: &[(u64, Shape)]) -> Result<(), String> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let (number, wire_type) = (key >> 3, key & 7);
        let Some((_, shape)) = fields.iter().find(|(known, _)| *known == number) else {
            return Err(format!("field {number} is not known here"));
        };
        match (shape, wire_type) {
            (Shape::Varint(max), 0) => {
                let value = varint(&mut bytes)?;
                if value > *max {
                    return Err(format!("field {number} is {value}, {max} at most"));
                }
            }
            (Shape::Varints, 0) => {
                varint(&mut bytes)?;
            }
            (Shape::Varints, 2) => {
                let mut packed = delimited(&mut bytes)?;
                while !packed.is_empty() {
                    varint(&mut packed)?;
                }
            }
            (Shape::Bytes, 2) => {
                delimited(&mut bytes)?;
            }
            // Depth is that of the constant tables: three.
            (Shape::Message(inner), 2) => scan(delimited(&mut bytes)?, inner)?,
            _ => return Err(format!("field {number} has wire type {wire_type}")),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or("it ends within a number")?;
        *bytes = rest;
        if shift == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number has more than 64 bits".to_owned())
}

fn delimited<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = varint(bytes)?;
    let length = usize::try_from(length).map_err(|_| "a length has no sense")?;
    let (inner, rest) = bytes.split_at_checked(length).ok_or("it ends within a field")?;
    *bytes = rest;
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: Position = Position { id: 1, term: 5, last: 10 };

    fn append() -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.to, message.from, message.term) = (1, 2, 5);
        (message.index, message.log_term, message.commit) = (3, 4, 3);
        for index in 4..6 {
            let mut entry = Entry::default();
            (entry.index, entry.term) = (index, 5);
            entry.data = Bytes::from_static(b"data");
            message.mut_entries().push(entry);
        }
        message
    }

    fn encoded(message: &Message) -> Bytes {
        message.write_to_bytes().expect("test messages encode").into()
    }

    #[test]
    fn what_raft_writes_is_read_back() {
        let sent = append();
        let read = message(&encoded(&sent)).expect("a good message");
        assert_eq!(read, sent);
        assert_eq!(admissible(&read, 2, HERE), Ok(()));
    }

    #[test]
    fn nested_groups_are_refused_before_they_are_parsed() {
        // Field 100 as a group in a group in a group: parsed, each costs a frame of the stack.
        let bytes: Bytes = [0xa3, 0x06].repeat(200_000).into();
        assert!(message(&bytes).is_err());
        // A group hides as well in a field that is known.
        assert!(message(&Bytes::from_static(&[0x0b, 0x0c])).is_err());
    }

    #[test]
    fn values_that_raft_panics_on_are_refused() {
        assert!(message(&Bytes::from_static(&[0x08, 19])).is_err(), "message type 19");
        let mut gap = append();
        gap.mut_entries()[1].index = 9;
        assert!(admissible(&gap, 2, HERE).is_err(), "entries with a gap");
        let mut local = append();
        local.term = 0;
        assert!(admissible(&local, 2, HERE).is_err(), "a message to itself");
        let mut other = append();
        other.from = 3;
        assert!(admissible(&other, 2, HERE).is_err(), "another's name");
        let mut beyond = Message::default();
        beyond.set_msg_type(MessageType::MsgHeartbeat);
        (beyond.to, beyond.from, beyond.term, beyond.commit) = (1, 2, 5, 11);
        assert!(admissible(&beyond, 2, HERE).is_err(), "commit beyond the log");
        for kind in [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgTransferLeader] {
            let mut inner = Message::default();
            inner.set_msg_type(kind);
            (inner.to, inner.from, inner.term) = (1, 2, 5);
            assert!(admissible(&inner, 2, HERE).is_err(), "{kind:?}");
        }
        let mut change = append();
        change.mut_entries()[0].set_entry_type(EntryType::EntryConfChangeV2);
        assert!(message(&encoded(&change)).is_err(), "a change of membership that is none");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = message(&bytes);
            let _ = entry(&bytes);
            let _ = conf_state(&bytes);
        }

        #[test]
        fn no_changed_byte_makes_it_panic(at in 0_usize..60, byte in any::<u8>()) {
            let mut bytes = encoded(&append()).to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(read) = message(&bytes.into()) {
                let _ = admissible(&read, 2, HERE);
            }
        }
    }
}
