//! Random steps. They name things by small numbers that are resolved against the model when a step is taken, so that
//! most of them hit something, and a shrunk list still makes sense.

use bytes::Bytes;
use manyfs::{
    limits,
    namespace::{AllocateMode, Flush, NewNode, Operation, RenameMode, XattrMode},
    types::{
        AttributeChanges, BlockHash, ClearSuid, FileKind, Ino, LockClaim, LockFamily, LockHolder, LockKind, LockRange,
        LogIndex, Name, Piece, TimeChange, Timestamp, UploadId, XattrName,
    },
};
use proptest::{collection::vec, option, prelude::*};

use super::reference::{Blocks, Model};

/// Which inode, and which name.
pub(crate) type Pick = u8;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Make {
        parent: Pick,
        name: Pick,
        node: u8,
        mode: u16,
        uid: u32,
        gid: u32,
        delegate: bool,
    },
    Link {
        ino: Pick,
        parent: Pick,
        name: Pick,
    },
    Unlink {
        parent: Pick,
        name: Pick,
    },
    Rmdir {
        parent: Pick,
        name: Pick,
    },
    Rename {
        from: Pick,
        from_name: Pick,
        to: Pick,
        to_name: Pick,
        mode: RenameMode,
    },
    SetAttributes {
        ino: Pick,
        changes: AttributeChanges,
    },
    Write {
        ino: Pick,
        pieces: Vec<RandomPiece>,
        append: bool,
        mtime: Option<Timestamp>,
        clear_suid: ClearSuid,
    },
    Allocate {
        ino: Pick,
        mode: AllocateMode,
        offset: u64,
        length: u64,
    },
    SetXattr {
        ino: Pick,
        name: u8,
        value: u8,
        mode: XattrMode,
    },
    RemoveXattr {
        ino: Pick,
        name: u8,
    },
    CopyRange {
        from: Pick,
        from_offset: u64,
        to: Pick,
        to_offset: u64,
        length: u64,
    },
    Coalesce {
        ino: Pick,
        offset: u64,
        length: u64,
        is_late: bool,
    },
    Delegate {
        ino: Pick,
    },
    Lock {
        ino: Pick,
        claim: LockClaim,
        waits: bool,
    },
    /// Gives back a range, or all that was asked for through an open file.
    Unlock {
        ino: Pick,
        claim: LockClaim,
        is_close: bool,
    },
    Flush {
        ino: Pick,
        is_late: bool,
        cut: Option<u64>,
        pieces: Vec<RandomPiece>,
        size_min: u64,
        times: (Option<Timestamp>, Option<Timestamp>),
        changes: AttributeChanges,
        give_back: bool,
    },
    /// The hold time of one of the sessions is over.
    EndHolds {
        of_other: bool,
    },
    /// Bytes and inodes that the volume may have from now on, also fewer than it has.
    SetQuotas {
        bytes: Option<Option<u64>>,
        inodes: Option<u64>,
    },
    /// Calls come from the other session from now on.
    Switch,
    /// The call before once more, as after a lost answer.
    Repeat,
    /// A call of a session that there never was.
    Stranger,
    /// Frees about half of the orphans, and tries to free what is none.
    Reap,
    /// The session ends and the mount opens another.
    Reopen,
    /// The mount gets the volume as a snapshot.
    Snapshot,
}

#[derive(Clone, Debug)]
pub(crate) struct RandomPiece {
    offset: u64,
    length: u64,
    /// `None` is a hole. Few seeds, so that blocks are named more than once.
    seed: Option<u8>,
    is_inline: bool,
}

/// Few owners and bytes, so that they meet; some that make no sense.
fn claim() -> impl Strategy<Value = LockClaim> {
    (any::<bool>(), 0..3_u64, any::<bool>(), 0..6_u64, 0..6_u64).prop_map(|(flock, owner, shared, first, last)| {
        let range = LockRange { first, last };
        LockClaim {
            family: if flock { LockFamily::Flock } else { LockFamily::Fcntl },
            owner,
            kind: if shared { LockKind::Shared } else { LockKind::Exclusive },
            range: if flock && first != 5 { LockRange::ALL } else { range },
            pid: 0,
            fh: owner,
        }
    })
}

/// Small sizes, page-aligned ones, and one beyond all files.
fn size() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..120_u64, 3 => (0..4_u64).prop_map(|page| page * 4096), 1 => Just(limits::FILE_BYTES_MAX + 1)]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 1..80_u64, 4 => (1..4_u64).prop_map(|page| page * 4096), 1 => Just(0)]
}

/// Half of them aligned, as some modes of fallocate ask.
fn range() -> impl Strategy<Value = (u64, u64)> {
    let page = |page: u64| page * 4096;
    prop_oneof![(size(), length()), (0..3_u64, 1..3_u64).prop_map(move |(offset, length)| (page(offset), page(length)))]
}

fn time() -> impl Strategy<Value = Timestamp> {
    // The model's clock starts at 1,000 s: before it, about it, and far behind.
    let seconds = prop_oneof![-5..5_i64, 1000..1002_i64, Just(4_000_000_000)];
    (seconds, 0..1_000_000_000_u32).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
}

fn changes() -> impl Strategy<Value = AttributeChanges> {
    let time_change = || option::of(prop_oneof![Just(TimeChange::Now), time().prop_map(TimeChange::To)]);
    (
        option::of(any::<u16>()),
        option::of(0..3_u32),
        option::of(0..3_u32),
        option::of(size()),
        time_change(),
        time_change(),
        clear_suid(),
    )
        .prop_map(|(mode, uid, gid, size, atime, mtime, clear_suid)| AttributeChanges {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            clear_suid,
        })
}

fn clear_suid() -> impl Strategy<Value = ClearSuid> {
    prop_oneof![2 => Just(ClearSuid::No), 1 => Just(ClearSuid::ByMember), 1 => Just(ClearSuid::ByStranger)]
}

fn piece() -> impl Strategy<Value = RandomPiece> {
    (size(), length(), option::weighted(0.85, 0..6_u8), any::<bool>())
        .prop_map(|(offset, length, seed, is_inline)| RandomPiece { offset, length, seed, is_inline })
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let pick = any::<Pick>;
    let rename = prop_oneof![
        4 => Just(RenameMode::Replace), 1 => Just(RenameMode::NoReplace), 2 => Just(RenameMode::Exchange)
    ];
    let allocate = prop_oneof![
        1 => Just(AllocateMode::Extend),
        1 => Just(AllocateMode::KeepSize),
        1 => Just(AllocateMode::Punch),
        1 => any::<bool>().prop_map(|keep_size| AllocateMode::Zero { keep_size }),
        2 => Just(AllocateMode::Collapse),
        2 => Just(AllocateMode::Insert),
    ];
    let xattr = prop_oneof![Just(XattrMode::Set), Just(XattrMode::Create), Just(XattrMode::Replace)];
    prop_oneof![
        20 => (pick(), pick(), 0..12_u8, any::<u16>(), 0..3_u32, 0..3_u32, any::<bool>()).prop_map(
            |(parent, name, node, mode, uid, gid, delegate)|
                Step::Make { parent, name, node, mode, uid, gid, delegate }),
        5 => (pick(), pick(), pick()).prop_map(|(ino, parent, name)| Step::Link { ino, parent, name }),
        6 => (pick(), pick()).prop_map(|(parent, name)| Step::Unlink { parent, name }),
        4 => (pick(), pick()).prop_map(|(parent, name)| Step::Rmdir { parent, name }),
        14 => (pick(), pick(), pick(), pick(), rename).prop_map(
            |(from, from_name, to, to_name, mode)| Step::Rename { from, from_name, to, to_name, mode }),
        6 => (pick(), changes()).prop_map(|(ino, changes)| Step::SetAttributes { ino, changes }),
        16 => (pick(), vec(piece(), 0..4), any::<bool>(), option::of(time()), clear_suid()).prop_map(
            |(ino, pieces, append, mtime, clear_suid)| Step::Write { ino, pieces, append, mtime, clear_suid }),
        9 => (pick(), allocate, range()).prop_map(
            |(ino, mode, (offset, length))| Step::Allocate { ino, mode, offset, length }),
        5 => (pick(), any::<u8>(), any::<u8>(), xattr).prop_map(
            |(ino, name, value, mode)| Step::SetXattr { ino, name, value, mode }),
        3 => (pick(), any::<u8>()).prop_map(|(ino, name)| Step::RemoveXattr { ino, name }),
        6 => (pick(), size(), pick(), size(), length()).prop_map(
            |(from, from_offset, to, to_offset, length)| Step::CopyRange { from, from_offset, to, to_offset, length }),
        3 => (pick(), 0..120_u64, length(), any::<bool>()).prop_map(
            |(ino, offset, length, is_late)| Step::Coalesce { ino, offset, length, is_late }),
        6 => pick().prop_map(|ino| Step::Delegate { ino }),
        6 => (pick(), claim(), any::<bool>()).prop_map(|(ino, claim, waits)| Step::Lock { ino, claim, waits }),
        3 => (pick(), claim(), any::<bool>()).prop_map(|(ino, claim, is_close)| Step::Unlock { ino, claim, is_close }),
        14 => flush(),
        1 => any::<bool>().prop_map(|of_other| Step::EndHolds { of_other }),
        1 => (option::of(option::of(0..9000_u64)), option::of(1..20_u64))
            .prop_map(|(bytes, inodes)| Step::SetQuotas { bytes, inodes }),
        4 => Just(Step::Switch),
        3 => Just(Step::Repeat),
        1 => Just(Step::Stranger),
        3 => Just(Step::Reap),
        1 => Just(Step::Reopen),
        1 => Just(Step::Snapshot),
    ]
}

fn flush() -> impl Strategy<Value = Step> {
    let size_min = prop_oneof![Just(0), size()];
    let change = option::weighted(0.3, changes()).prop_map(Option::unwrap_or_default);
    let times = (option::of(time()), option::of(time()));
    (
        any::<Pick>(),
        prop::bool::weighted(0.1),
        option::of(size()),
        vec(piece(), 0..3),
        size_min,
        times,
        change,
        any::<bool>(),
    )
        .prop_map(|(ino, is_late, cut, pieces, size_min, times, changes, give_back)| {
            // A size has no place among them; now and then there is one all the same.
            let size = changes.size.filter(|size| size % 8 == 0);
            let changes = AttributeChanges { size, ..changes };
            Step::Flush { ino, is_late, cut, pieces, size_min, times, changes, give_back }
        })
}

impl Step {
    /// The operation that the step asks for, where it asks for one. Blocks that it names are added to `blocks`.
    pub(crate) fn operation(&self, model: &Model, blocks: &mut Blocks) -> Option<Operation> {
        let directory = |pick: Pick| resolve(model, pick, Some(FileKind::Directory));
        let file = |pick: Pick| resolve(model, pick, Some(FileKind::File));
        let any = |pick: Pick| resolve(model, pick, None);
        Some(match self.clone() {
            Self::Make { parent, name: pick, node, mode, uid, gid, delegate } => {
                let node = match node {
                    0..=4 => NewNode::File,
                    5..=8 => NewNode::Directory,
                    9 => NewNode::Symlink { target: Bytes::from_static(b"over/there") },
                    10 => NewNode::Fifo,
                    _ if mode % 4 == 0 => NewNode::Symlink { target: Bytes::new() },
                    _ if mode % 4 == 1 => NewNode::Socket,
                    _ if mode % 4 == 2 => NewNode::CharDevice { rdev: 0x103 },
                    _ => NewNode::BlockDevice { rdev: 0x801 },
                };
                let umask = mode.rotate_right(5);
                if node == NewNode::File && mode % 8 == 0 {
                    return Some(Operation::MakeUnnamed { parent: directory(parent), mode, uid, gid, umask });
                }
                Operation::Make { parent: directory(parent), name: name(pick), node, mode, uid, gid, delegate, umask }
            }
            Self::Link { ino, parent, name: pick } => {
                let (ino, parent, name) = (any(ino), directory(parent), name(pick));
                let has_none = model.nodes.get(&ino).is_some_and(|node| node.nlink == 0);
                if has_none {
                    Operation::LinkUnnamed { ino, parent, name }
                } else {
                    Operation::Link { ino, parent, name }
                }
            }
            Self::Unlink { parent, name: pick } => {
                let (parent, name) = known_name(model, parent, pick);
                Operation::Unlink { parent, name }
            }
            Self::Rmdir { parent, name: pick } => {
                let (parent, name) = known_name(model, parent, pick);
                Operation::Rmdir { parent, name }
            }
            Self::Rename { from, from_name, to, to_name, mode } => {
                let (from, from_name) = known_name(model, from, from_name);
                Operation::Rename { from, from_name, to: directory(to), to_name: name(to_name), mode }
            }
            Self::SetAttributes { ino, changes } => Operation::SetAttributes { ino: any(ino), changes },
            Self::Write { ino, pieces, append, mtime, clear_suid } => {
                let pieces = pieces.iter().map(|piece| piece.resolve(blocks)).collect();
                let uploads = vec![UploadId(7)];
                Operation::Write { ino: file(ino), pieces, append, mtime, clear_suid, uploads, fence: None }
            }
            Self::Allocate { ino, mode, offset, length } => {
                Operation::Allocate { ino: file(ino), mode, offset, length, at_most: u64::MAX }
            }
            Self::SetXattr { ino, name, value, mode } => {
                let length = if value == 255 { limits::XATTR_VALUE_BYTES_MAX + 1 } else { usize::from(value) };
                let value = vec![value; length].into();
                Operation::SetXattr { ino: any(ino), name: xattr_name(name), value, mode, clear_sgid: false }
            }
            Self::RemoveXattr { ino, name } => Operation::RemoveXattr { ino: any(ino), name: xattr_name(name) },
            Self::CopyRange { from, from_offset, to, to_offset, length } => {
                Operation::CopyRange { from: file(from), from_offset, to: file(to), to_offset, length }
            }
            Self::Coalesce { ino, offset, length, is_late } => {
                let ino = file(ino);
                let node = model.nodes.get(&ino);
                let (version, content) = node.map_or((0, &[][..]), |node| (node.version, &node.content));
                let start = usize::try_from(offset).unwrap_or(0).min(content.len());
                let end = start + usize::try_from(length).unwrap_or(0).min(content.len() - start);
                let bytes: Vec<u8> = content[start..end].iter().map(|byte| byte.unwrap_or(0)).collect();
                // Past the end the piece is refused, whatever it holds.
                let piece_length = if bytes.is_empty() { length } else { bytes.len() as u64 };
                let piece = piece_of(offset, piece_length, bytes, true, blocks);
                Operation::Coalesce { ino, data_version: version + u64::from(is_late), piece }
            }
            Self::Delegate { ino } => Operation::Delegate { ino: file(ino) },
            Self::Lock { ino, claim, waits } => Operation::Lock { ino: file(ino), claim, waits },
            Self::Unlock { ino, claim, is_close: true } => {
                Operation::ReleaseLocks { ino: file(ino), holder: LockHolder::Handle(claim.fh) }
            }
            Self::Unlock { ino, claim: LockClaim { family, owner, range, .. }, .. } => {
                Operation::Unlock { ino: file(ino), family, owner, range }
            }
            Self::Flush { ino, is_late, cut, pieces, size_min, times, changes, give_back } => {
                // Mostly of a file that somebody has.
                let held: Vec<Ino> = model.holders.keys().copied().collect();
                let ino = if held.is_empty() { file(ino) } else { held[usize::from(ino) % held.len()] };
                let grant = model.holders.get(&ino).map_or(LogIndex(1), |(_, grant)| *grant);
                Operation::Flush(Box::new(Flush {
                    ino,
                    grant: LogIndex(grant.0 - u64::from(is_late)),
                    cut,
                    pieces: pieces.iter().map(|piece| piece.resolve(blocks)).collect(),
                    size_min,
                    written_at: times.0,
                    changed_at: times.1,
                    changes,
                    uploads: Vec::new(),
                    give_back,
                    fence: None,
                }))
            }
            Self::EndHolds { .. }
            | Self::SetQuotas { .. }
            | Self::Switch
            | Self::Repeat
            | Self::Stranger
            | Self::Reap
            | Self::Reopen
            | Self::Snapshot => return None,
        })
    }
}

impl RandomPiece {
    fn resolve(&self, blocks: &mut Blocks) -> Piece {
        let Some(seed) = self.seed else {
            return Piece { offset: self.offset, length: self.length, block: None, content: None };
        };
        let bytes = (0..self.length).map(|at| (at as u8).wrapping_mul(seed).wrapping_add(seed)).collect();
        piece_of(self.offset, self.length, bytes, self.is_inline, blocks)
    }
}

fn piece_of(offset: u64, length: u64, bytes: Vec<u8>, is_inline: bool, blocks: &mut Blocks) -> Piece {
    let block = BlockHash::of(&bytes);
    let content = is_inline.then(|| Bytes::from(bytes.clone()));
    blocks.insert(block, bytes);
    Piece { offset, length, block: Some(block), content }
}

/// Mostly one of the wanted kind; now and then anything, also what is gone or never was.
fn resolve(model: &Model, pick: Pick, kind: Option<FileKind>) -> Ino {
    if pick % 16 == 15 {
        return Ino(1 + u64::from(pick / 16) % model.next);
    }
    let wanted = model.nodes.iter().filter(|(_, node)| kind.is_none_or(|kind| node.kind == kind));
    let inodes: Vec<Ino> = wanted.map(|(ino, _)| *ino).collect();
    let at = usize::from(pick);
    if inodes.is_empty() { Ino::ROOT } else { inodes[at % inodes.len()] }
}

fn name(pick: Pick) -> Name {
    let names: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"\xff\xfe", b"a long name, to be sure of it"];
    let reserved = pick % 32 == 31;
    Name::new(if reserved { b".snapshots" } else { names[usize::from(pick) % names.len()] }).expect("a name")
}

/// Mostly a name that exists.
fn known_name(model: &Model, parent: Pick, pick: Pick) -> (Ino, Name) {
    let known: Vec<(Ino, &Name)> =
        model.nodes.iter().flat_map(|(directory, node)| node.entries.keys().map(|name| (*directory, name))).collect();
    if known.is_empty() || pick % 8 == 7 {
        return (resolve(model, parent, Some(FileKind::Directory)), name(pick));
    }
    let (directory, name) = known[(usize::from(parent) + usize::from(pick)) % known.len()];
    (directory, name.clone())
}

fn xattr_name(pick: u8) -> XattrName {
    let bad: [&[u8]; 3] = [b"user.", b"system.nonsense", b"nonsense"];
    let good: [&[u8]; 4] = [b"user.a", b"user.b", b"trusted.a", b"security.selinux"];
    let at = usize::from(pick);
    XattrName::new(if pick % 8 == 7 { bad[at / 8 % 3] } else { good[at % 4] }).expect("a name")
}

/// A few files and directories to begin with.
pub(crate) fn beginnings() -> Vec<Step> {
    let make = |parent, name, node| Step::Make { parent, name, node, mode: 0o775, uid: 1, gid: 1, delegate: false };
    // Directories 2 and 3 below the root, 4 below 2; picks count directories in the order of their numbers.
    vec![make(0, 0, 5), make(0, 1, 5), make(1, 0, 5), make(0, 2, 0), make(1, 3, 0), make(2, 3, 0), make(3, 3, 0)]
}
