//! Arbitrary messages that mostly make sense: numbers are small, so that they are those of inodes, calls and owners that
//! there are, and some of them are any number at all. What only the state knows (grants, versions, the next call) is put
//! in when the message is sent. Large payloads are said by their size, so that a failure can be read.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    limits,
    message::mount::ToLeader,
    namespace::{AllocateMode, Flush, NewNode, Operation, RenameMode, Volume, XattrMode},
    types::{
        AttributeChanges, BlockHash, ClearSuid, Ino, LockClaim, LockFamily, LockHolder, LockKind, LockRange, LogIndex,
        Name, Piece, Sequence, SessionId, TimeChange, Timestamp, UploadId, XattrName,
    },
    wire::strategies,
};

/// Which number a call has, counted from the next free one of its sender.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pick {
    Next,
    Skip(u64),
    Again(u64),
    Any(u64),
}

/// Which calls it says to have answers of.
#[derive(Clone, Debug)]
pub(super) enum Answered {
    None,
    All,
    /// So many, from so far before the next call on, with this distance.
    Run {
        back: u64,
        distance: u64,
        count: u64,
    },
    Any(Vec<u64>),
}

/// A call, before it is known what is there.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) pick: Pick,
    pub(super) answered: Answered,
    operation: Operation,
    /// Grants, fences, versions and the calls of others are those that stand.
    is_grounded: bool,
    /// Bytes of its payload.
    payload: Option<usize>,
}

impl Draft {
    /// It tells of no answers and has a small payload.
    pub(super) fn bare(&self) -> Self {
        Self { answered: Answered::None, payload: None, ..self.clone() }
    }

    pub(super) fn operation(&self, volume: &Volume, session: Option<SessionId>) -> Operation {
        let mut operation = self.operation.clone();
        if let Some(bytes) = self.payload {
            fill(&mut operation, bytes);
        }
        if self.is_grounded {
            ground(&mut operation, volume, session);
        }
        operation
    }
}

fn ground(operation: &mut Operation, volume: &Volume, session: Option<SessionId>) {
    let since = session.and_then(|session| volume.session(session)).map(|session| session.holds_since);
    match operation {
        Operation::Flush(flush) => {
            flush.grant = volume.delegation(flush.ino).map_or(flush.grant, |delegation| delegation.grant);
            flush.fence = flush.fence.and(since);
        }
        Operation::Write { fence, .. } => *fence = fence.and(since),
        Operation::Coalesce { ino, data_version, .. } => {
            *data_version = volume.inode(*ino).map_or(*data_version, |inode| inode.data_version);
        }
        Operation::CancelLock { ino, call, claim, .. } => {
            let waiting = volume.locks().queue(*ino).next();
            if let Some(waiting) = waiting {
                (*call, *claim) = (waiting.call, waiting.claim);
            }
        }
        _ => {}
    }
}

/// Gives what has a payload one of this size.
fn fill(operation: &mut Operation, bytes: usize) {
    let content = Bytes::from(vec![7; bytes]);
    match operation {
        Operation::Make { node: NewNode::Symlink { target }, .. } => *target = content,
        Operation::SetXattr { value, .. } => *value = content,
        Operation::Write { pieces, uploads, .. } if pieces.is_empty() => {
            *uploads = vec![UploadId(u64::MAX); bytes / 10]
        }
        Operation::Write { pieces, .. } => fill_piece(&mut pieces[0], content),
        Operation::Flush(flush) if flush.pieces.is_empty() => flush.uploads = vec![UploadId(u64::MAX); bytes / 10],
        Operation::Flush(flush) => fill_piece(&mut flush.pieces[0], content),
        Operation::Coalesce { piece, .. } => fill_piece(piece, content),
        _ => {}
    }
}

fn fill_piece(piece: &mut Piece, content: Bytes) {
    piece.length = content.len() as u64;
    piece.block = Some(BlockHash::of(&content));
    piece.content = Some(content);
}

pub(super) fn draft() -> BoxedStrategy<Draft> {
    let pick = prop_oneof![
        20 => Just(Pick::Next),
        4 => (1..600_u64).prop_map(Pick::Skip),
        2 => (1..20_u64).prop_map(Pick::Again),
        1 => (1..=u64::MAX).prop_map(Pick::Any),
    ];
    let run = (0..40_u64, 1..4_u64, 1..=1024_u64);
    let answered = prop_oneof![
        10 => Just(Answered::None),
        6 => Just(Answered::All),
        2 => run.prop_map(|(back, distance, count)| Answered::Run { back, distance, count }),
        1 => vec(any::<u64>(), 0..4).prop_map(Answered::Any),
        1 => vec(0..30_u64, 0..1030).prop_map(Answered::Any),
    ];
    let entry = limits::ENTRY_BYTES_MAX;
    let payload = prop_oneof![
        4 => select(vec![1, 4095, 4096, 65_535, 65_536, 65_537]),
        1 => select(vec![200_000, entry - 10_300, entry - 3_000]),
        3 => entry - 64..=entry,
    ];
    (pick, answered, operation(), any::<bool>(), prop_oneof![9 => Just(None), 1 => payload.prop_map(Some)])
        .prop_map(|(pick, answered, operation, is_grounded, payload)| Draft {
            pick,
            answered,
            operation,
            is_grounded,
            payload,
        })
        .boxed()
}

/// Any message but `Hello` and calls.
pub(super) fn word() -> BoxedStrategy<ToLeader> {
    prop_oneof![
        3 => vec(ino(), 0..12).prop_map(|orphans| ToLeader::Released { orphans }),
        4 => (vec((1..80_u64).prop_map(LogIndex), 0..12), vec(ino(), 0..12))
            .prop_map(|(entries, referenced)| ToLeader::Acknowledge { entries, referenced }),
        3 => (1..20_u64).prop_map(|number| ToLeader::Renew { number }),
        2 => ino().prop_map(|ino| ToLeader::Recall { ino }),
        1 => Just(ToLeader::PieceReceived),
        1 => Just(ToLeader::Leave),
        2 => strategies::to_leader().boxed(),
    ]
    .boxed()
}

pub(super) fn ino() -> BoxedStrategy<Ino> {
    prop_oneof![4 => Just(1_u64), 12 => 2..20_u64, 1 => any::<u64>()].prop_map(Ino).boxed()
}

fn name() -> BoxedStrategy<Name> {
    let long = [b'n'; limits::NAME_BYTES_MAX];
    let names = [&b"a"[..], b"b", b"c", b"d", b"e", b".snapshots", b"\xff", &long[..]];
    select(names.map(|name| Name::new(name).expect("a good name")).to_vec()).boxed()
}

fn node() -> BoxedStrategy<NewNode> {
    prop_oneof![
        6 => Just(NewNode::File),
        4 => Just(NewNode::Directory),
        2 => vec(any::<u8>(), 0..20).prop_map(|target| NewNode::Symlink { target: target.into() }),
        1 => Just(NewNode::Fifo),
        1 => any::<u32>().prop_map(|rdev| NewNode::CharDevice { rdev }),
    ]
    .boxed()
}

fn names() -> BoxedStrategy<Operation> {
    let rename = select(vec![RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]);
    let modes = || (prop_oneof![Just(0o755_u16), any::<u16>()], select(vec![0_u16, 0o22]), any::<u32>(), any::<u32>());
    prop_oneof![
        8 => (ino(), name(), node(), modes(), any::<bool>()).prop_map(
            |(parent, name, node, (mode, umask, uid, gid), delegate)| {
                Operation::Make { parent, name, node, mode, uid, gid, delegate, umask }
            }
        ),
        1 => (ino(), modes())
            .prop_map(|(parent, (mode, umask, uid, gid))| Operation::MakeUnnamed { parent, mode, uid, gid, umask }),
        1 => (ino(), ino(), name()).prop_map(|(ino, parent, name)| Operation::Link { ino, parent, name }),
        1 => (ino(), ino(), name()).prop_map(|(ino, parent, name)| Operation::LinkUnnamed { ino, parent, name }),
        2 => (ino(), name()).prop_map(|(parent, name)| Operation::Unlink { parent, name }),
        1 => (ino(), name()).prop_map(|(parent, name)| Operation::Rmdir { parent, name }),
        4 => (ino(), name(), ino(), name(), rename).prop_map(|(from, from_name, to, to_name, mode)| {
            Operation::Rename { from, from_name, to, to_name, mode }
        }),
    ]
    .boxed()
}

fn attributes() -> BoxedStrategy<Operation> {
    let mode = || select(vec![XattrMode::Set, XattrMode::Create, XattrMode::Replace]);
    prop_oneof![
        2 => (ino(), changes()).prop_map(|(ino, changes)| Operation::SetAttributes { ino, changes }),
        3 => (ino(), xattr(), mode(), any::<bool>()).prop_map(|(ino, (name, value), mode, clear_sgid)| {
            Operation::SetXattr { ino, name, value, mode, clear_sgid }
        }),
        1 => (ino(), xattr()).prop_map(|(ino, (name, _))| Operation::RemoveXattr { ino, name }),
    ]
    .boxed()
}

fn content() -> BoxedStrategy<Operation> {
    let allocate = select(vec![
        AllocateMode::Extend,
        AllocateMode::KeepSize,
        AllocateMode::Punch,
        AllocateMode::Zero { keep_size: true },
        AllocateMode::Zero { keep_size: false },
        AllocateMode::Collapse,
        AllocateMode::Insert,
    ]);
    let pieces = || prop_oneof![9 => vec(piece(), 0..4), 1 => vec(piece(), 250..258)];
    let uploads = || vec(any::<u64>().prop_map(UploadId), 0..3);
    let fence = || option::of((0..40_u64).prop_map(LogIndex));
    let write = (ino(), pieces(), any::<bool>(), option::of(timestamp()), clear_suid(), uploads(), fence());
    let flush = (
        (ino(), (0..60_u64).prop_map(LogIndex), option::of(offset()), pieces(), prop_oneof![Just(0), offset()]),
        (option::of(timestamp()), option::of(timestamp()), changes(), uploads(), any::<bool>(), fence()),
    );
    prop_oneof![
        4 => write.prop_map(|(ino, pieces, append, mtime, clear_suid, uploads, fence)| Operation::Write {
            ino,
            pieces,
            append,
            mtime,
            clear_suid,
            uploads,
            fence,
        }),
        3 => flush.prop_map(
            |((ino, grant, cut, pieces, size_min), (written_at, changed_at, changes, uploads, give_back, fence))| {
                let changes = AttributeChanges { size: None, ..changes };
                Operation::Flush(Box::new(Flush {
                    cut,
                    pieces,
                    size_min,
                    written_at,
                    changed_at,
                    changes,
                    uploads,
                    give_back,
                    fence,
                    ..Flush::of(ino, grant)
                }))
            }
        ),
        2 => ino().prop_map(|ino| Operation::Delegate { ino }),
        2 => (ino(), allocate, offset(), offset())
            .prop_map(|(ino, mode, offset, length)| Operation::Allocate { ino, mode, offset, length, at_most: length / 2 }),
        2 => (ino(), offset(), ino(), offset(), offset()).prop_map(|(from, from_offset, to, to_offset, length)| {
            Operation::CopyRange { from, from_offset, to, to_offset, length }
        }),
        1 => (ino(), 0..9_u64, piece())
            .prop_map(|(ino, data_version, piece)| Operation::Coalesce { ino, data_version, piece }),
    ]
    .boxed()
}

fn locks() -> BoxedStrategy<Operation> {
    let holder = (0..4_u64, any::<bool>())
        .prop_map(|(number, is_owner)| if is_owner { LockHolder::Owner(number) } else { LockHolder::Handle(number) });
    prop_oneof![
        6 => (ino(), claim(), any::<bool>()).prop_map(|(ino, claim, waits)| Operation::Lock { ino, claim, waits }),
        3 => (ino(), claim()).prop_map(|(ino, LockClaim { family, owner, range, .. })| Operation::Unlock {
            ino,
            family,
            owner,
            range
        }),
        3 => (ino(), (1..40_u64).prop_map(Sequence), claim(), any::<bool>())
            .prop_map(|(ino, call, claim, undo)| Operation::CancelLock { ino, call, claim, undo }),
        1 => (ino(), holder).prop_map(|(ino, holder)| Operation::ReleaseLocks { ino, holder }),
    ]
    .boxed()
}

fn operation() -> BoxedStrategy<Operation> {
    prop_oneof![5 => names(), 2 => attributes(), 4 => content(), 3 => locks()].boxed()
}

fn claim() -> BoxedStrategy<LockClaim> {
    let range = prop_oneof![
        4 => Just((0, u64::MAX)),
        4 => (0..12_u64, 0..12_u64),
        1 => Just((u64::MAX, u64::MAX)),
        1 => any::<(u64, u64)>(),
    ];
    let family = select(vec![LockFamily::Flock, LockFamily::Fcntl, LockFamily::Open]);
    let kind = select(vec![LockKind::Shared, LockKind::Exclusive]);
    (family, 0..3_u64, kind, range, 0..3_u32, 0..4_u64)
        .prop_map(|(family, owner, kind, (first, last), pid, fh)| LockClaim {
            family,
            owner,
            kind,
            range: LockRange { first, last },
            pid,
            fh,
        })
        .boxed()
}

fn clear_suid() -> BoxedStrategy<ClearSuid> {
    prop_oneof![2 => Just(ClearSuid::No), 1 => Just(ClearSuid::ByMember), 1 => Just(ClearSuid::ByStranger)].boxed()
}

fn changes() -> BoxedStrategy<AttributeChanges> {
    let time = || option::of(prop_oneof![Just(TimeChange::Now), timestamp().prop_map(TimeChange::To)]);
    let id = || option::of(any::<u32>());
    (option::of(any::<u16>()), id(), id(), option::of(offset()), time(), time(), clear_suid())
        .prop_map(|(mode, uid, gid, size, atime, mtime, clear_suid)| AttributeChanges {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            clear_suid,
        })
        .boxed()
}

fn piece() -> BoxedStrategy<Piece> {
    let content = vec(any::<u8>(), 1..20).prop_map(Bytes::from);
    prop_oneof![
        6 => (offset(), content, 1..20_u64).prop_map(|(offset, content, length)| Piece {
            offset,
            length: length.min(content.len() as u64),
            block: Some(BlockHash::of(&content)),
            content: Some(content),
        }),
        2 => (offset(), offset(), any::<u8>()).prop_map(|(offset, length, block)| Piece {
            offset,
            length,
            block: Some(BlockHash([block; 32])),
            content: None,
        }),
        1 => (offset(), offset()).prop_map(|(offset, length)| Piece { offset, length, block: None, content: None }),
    ]
    .boxed()
}

/// A place in a file, or a length.
fn offset() -> BoxedStrategy<u64> {
    prop_oneof![
        8 => 0..20_u64,
        4 => (0..5_u64).prop_map(|pages| pages * 4096),
        2 => select(vec![1 << 20, (1 << 20) + 1, limits::FILE_BYTES_MAX - 1, limits::FILE_BYTES_MAX]),
        1 => any::<u64>(),
    ]
    .boxed()
}

fn timestamp() -> BoxedStrategy<Timestamp> {
    let seconds = prop_oneof![
        4 => 1_699_999_000..1_700_001_000_i64,
        1 => select(vec![i64::MIN, -1, 0, 1_702_592_000, i64::MAX]),
        1 => any::<i64>(),
    ];
    let nanoseconds = prop_oneof![6 => 0..1_000_000_000_u32, 1 => Just(999_999_999), 1 => any::<u32>()];
    (seconds, nanoseconds).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds }).boxed()
}

/// An extended attribute and a value; access control lists among them.
fn xattr() -> BoxedStrategy<(XattrName, Bytes)> {
    let names = ["user.a", "user.b", "trusted.c", "security.capability", "user.", "nothing"];
    let plain = (select(names.to_vec()), vec(any::<u8>(), 0..40));
    let lists = ["system.posix_acl_access", "system.posix_acl_default"];
    let minimal: &[(u16, u16)] = &[(0x01, 7), (0x04, 5), (0x20, 0)];
    let extended: &[(u16, u16)] = &[(0x01, 6), (0x02, 7), (0x04, 5), (0x10, 7), (0x20, 4)];
    let list = (select(lists.to_vec()), select(vec![&[][..], minimal, extended]).prop_map(encoded_list));
    prop_oneof![plain, list]
        .prop_map(|(name, value)| (XattrName::new(name.as_bytes()).expect("a good name"), value.into()))
        .boxed()
}

fn encoded_list(entries: &[(u16, u16)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&1000_u32.to_le_bytes());
    }
    value
}
