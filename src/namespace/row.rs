//! Rows: the form in which the state is stored, sent as a snapshot and digested. Every thing of the state is one row.
//!
//! Keys, all numbers big-endian so that byte order is natural order:
//! ```text
//! 01 01                                     cluster: identity and counters
//! 01 02 node:u64                            cluster: a storage node
//! 02 volume:u32 01                          volume: name and options
//! 02 volume:u32 02                          volume: counters
//! 02 volume:u32 03 ino:u64                  inode
//! 02 volume:u32 04 directory:u64 name       directory entry
//! 02 volume:u32 05 ino:u64 offset:u64       extent: content, or space that is reserved
//! 02 volume:u32 06 ino:u64 name             extended attribute
//! 02 volume:u32 07 session:u64              session
//! 02 volume:u32 08 session:u64 sequence:u64 reply
//! 02 volume:u32 09 ino:u64                  orphan
//! 02 volume:u32 0a ino:u64                  delegation
//! 02 volume:u32 0b ino:u64 family:u8 session:u64 owner:u64 first:u64
//!                                           lock
//! 02 volume:u32 0c ino:u64 entry:u64        request for a lock that waits
//! ```
//! A value is a version byte and the postcard form of one struct below. Only the canonical form is read: what was read
//! is written back byte for byte, which keeps digests equal.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Reply, VolumeOptions, locks::HeldKey};
use crate::types::{
    BlockHash, CredentialId, Errno, FileKind, FoundingId, Ino, LockFamily, LogIndex, MountId, Name, Sequence,
    SessionId, Stamp, Timestamp, VolumeId, XattrName,
};

/// The version of every value that this program writes.
pub(super) const ROW_VERSION: u8 = 4;

const CLUSTER: u8 = 1;
const VOLUME: u8 = 2;
const CLUSTER_HEADER: u8 = 1;
const CLUSTER_NODE: u8 = 2;
const TABLE_HEADER: u8 = 1;
const TABLE_COUNTERS: u8 = 2;
const TABLE_INODE: u8 = 3;
const TABLE_DIRENT: u8 = 4;
const TABLE_EXTENT: u8 = 5;
const TABLE_XATTR: u8 = 6;
const TABLE_SESSION: u8 = 7;
const TABLE_REPLY: u8 = 8;
const TABLE_ORPHAN: u8 = 9;
const TABLE_DELEGATION: u8 = 10;
const TABLE_LOCK: u8 = 11;
const TABLE_LOCK_REQUEST: u8 = 12;
/// Bytes of a volume row's key before its table.
const VOLUME_PREFIX: usize = 5;

/// Why rows are not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("no row has the key {key}; the store is damaged or a newer manyfs wrote it")]
    Key { key: String },
    #[error("row {key} has version {found}, this program reads version {ROW_VERSION}; another manyfs wrote it")]
    Version { key: String, found: u8 },
    #[error("the value of row {key} is not well-formed: {reason}; the store is damaged")]
    Form { key: String, reason: String },
    #[error("row {key} does not follow the row before it; rows come in the order of their keys, each once")]
    Order { key: String },
    #[error("row {key} belongs to another volume than {expected}")]
    Volume { key: String, expected: VolumeId },
    #[error("the row of {what} is missing; the store is damaged")]
    Missing { what: &'static str },
    #[error("rows contradict each other: {0}; the store is damaged")]
    Contradiction(String),
}

/// Hexadecimal, for errors.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a row of a volume is about. The derived order is the order of the encoded keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum RowKey {
    Header,
    Counters,
    Inode(Ino),
    Dirent(Ino, Name),
    Extent(Ino, u64),
    Xattr(Ino, XattrName),
    Session(SessionId),
    Reply(SessionId, Sequence),
    Orphan(Ino),
    Delegation(Ino),
    Lock(HeldKey),
    LockRequest(Ino, LogIndex),
}

impl RowKey {
    pub(super) fn encode(&self, volume: VolumeId) -> Bytes {
        let mut key = Vec::with_capacity(32);
        key.push(VOLUME);
        key.extend_from_slice(&volume.0.to_be_bytes());
        let mut put = |table: u8, first: u64, rest: &[u8]| {
            key.push(table);
            key.extend_from_slice(&first.to_be_bytes());
            key.extend_from_slice(rest);
        };
        match self {
            Self::Header => key.push(TABLE_HEADER),
            Self::Counters => key.push(TABLE_COUNTERS),
            Self::Inode(ino) => put(TABLE_INODE, ino.0, &[]),
            Self::Dirent(directory, name) => put(TABLE_DIRENT, directory.0, name.as_bytes()),
            Self::Extent(ino, offset) => put(TABLE_EXTENT, ino.0, &offset.to_be_bytes()),
            Self::Xattr(ino, name) => put(TABLE_XATTR, ino.0, name.as_bytes()),
            Self::Session(session) => put(TABLE_SESSION, session.0, &[]),
            Self::Reply(session, sequence) => put(TABLE_REPLY, session.0, &sequence.0.to_be_bytes()),
            Self::Orphan(ino) => put(TABLE_ORPHAN, ino.0, &[]),
            Self::Delegation(ino) => put(TABLE_DELEGATION, ino.0, &[]),
            Self::Lock(HeldKey { ino, family, session, owner, first }) => {
                let mut rest = vec![family_byte(*family)];
                rest.extend([session.0, *owner, *first].into_iter().flat_map(u64::to_be_bytes));
                put(TABLE_LOCK, ino.0, &rest);
            }
            Self::LockRequest(ino, since) => put(TABLE_LOCK_REQUEST, ino.0, &since.0.to_be_bytes()),
        }
        key.into()
    }

    pub(super) fn decode(key: &[u8]) -> Result<(VolumeId, Self), RowError> {
        let parsed = match Place::of(key) {
            Place::Volume { volume, table, rest } => Self::decode_table(table, rest).map(|row| (volume, row)),
            _ => None,
        };
        parsed.ok_or_else(|| RowError::Key { key: hex(key) })
    }

    /// A key at or before all keys of volume rows that lie behind `table` and `rest`, close to them where these are of
    /// a key. `None` where nothing lies behind.
    pub(super) fn at_or_before(table: u8, rest: &[u8]) -> Option<Self> {
        if let Some(key) = Self::decode_table(table, rest) {
            return Some(key);
        }
        let first = padded(rest);
        let second = rest.get(8..).map_or(0, padded);
        match table {
            0 | TABLE_HEADER => Some(Self::Header),
            TABLE_COUNTERS => Some(Self::Counters),
            TABLE_INODE => Some(Self::Inode(Ino(first))),
            TABLE_DIRENT => Some(Self::Dirent(Ino(first), smallest_name())),
            TABLE_EXTENT => Some(Self::Extent(Ino(first), second)),
            TABLE_XATTR => Some(Self::Xattr(Ino(first), smallest_xattr_name())),
            TABLE_SESSION => Some(Self::Session(SessionId(first))),
            TABLE_REPLY => Some(Self::Reply(SessionId(first), Sequence(second))),
            TABLE_ORPHAN => Some(Self::Orphan(Ino(first))),
            TABLE_DELEGATION => Some(Self::Delegation(Ino(first))),
            TABLE_LOCK => Some(Self::Lock(HeldKey::first_of(Ino(first)))),
            TABLE_LOCK_REQUEST => Some(Self::LockRequest(Ino(first), LogIndex(second))),
            _ => None,
        }
    }

    /// Where rows of the table that begins with `first` begin when only those at or behind `self` are wanted; `pick`
    /// takes the table's own key apart. `None` where all of the table lies before `self`.
    pub(super) fn within<K>(&self, first: Self, pick: impl Fn(&Self) -> Option<K>) -> Option<K> {
        pick(self.max(&first))
    }

    pub(super) fn first_dirent() -> Self {
        Self::Dirent(Ino(0), smallest_name())
    }

    pub(super) fn first_xattr() -> Self {
        Self::Xattr(Ino(0), smallest_xattr_name())
    }

    pub(super) const fn first_session() -> Self {
        Self::Session(SessionId(0))
    }

    pub(super) const fn first_reply() -> Self {
        Self::Reply(SessionId(0), Sequence(0))
    }

    fn decode_table(table: u8, rest: &[u8]) -> Option<Self> {
        match table {
            TABLE_HEADER if rest.is_empty() => return Some(Self::Header),
            TABLE_COUNTERS if rest.is_empty() => return Some(Self::Counters),
            _ => {}
        }
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let first = u64::from_be_bytes(*first);
        let second = || rest.try_into().ok().map(u64::from_be_bytes);
        match table {
            TABLE_INODE if rest.is_empty() => Some(Self::Inode(Ino(first))),
            TABLE_DIRENT => Name::new(rest).ok().map(|name| Self::Dirent(Ino(first), name)),
            TABLE_EXTENT => second().map(|offset| Self::Extent(Ino(first), offset)),
            TABLE_XATTR => XattrName::new(rest).ok().map(|name| Self::Xattr(Ino(first), name)),
            TABLE_SESSION if rest.is_empty() => Some(Self::Session(SessionId(first))),
            TABLE_REPLY => second().map(|sequence| Self::Reply(SessionId(first), Sequence(sequence))),
            TABLE_ORPHAN if rest.is_empty() => Some(Self::Orphan(Ino(first))),
            TABLE_DELEGATION if rest.is_empty() => Some(Self::Delegation(Ino(first))),
            TABLE_LOCK => lock_key(Ino(first), rest).map(Self::Lock),
            TABLE_LOCK_REQUEST => second().map(|since| Self::LockRequest(Ino(first), LogIndex(since))),
            _ => None,
        }
    }
}

const fn family_byte(family: LockFamily) -> u8 {
    match family {
        LockFamily::Flock => 1,
        LockFamily::Fcntl => 2,
        LockFamily::Open => 3,
    }
}

fn lock_key(ino: Ino, rest: &[u8]) -> Option<HeldKey> {
    let (&family, rest) = rest.split_first()?;
    let family = [LockFamily::Flock, LockFamily::Fcntl, LockFamily::Open]
        .into_iter()
        .find(|known| family_byte(*known) == family)?;
    let (session, rest) = rest.split_first_chunk::<8>()?;
    let (owner, rest) = rest.split_first_chunk::<8>()?;
    let [session, owner, first] = [*session, *owner, rest.try_into().ok()?].map(u64::from_be_bytes);
    Some(HeldKey { ino, family, session: SessionId(session), owner, first })
}

/// The first eight bytes as a number, zeros behind where there are fewer.
fn padded(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    for (to, from) in number.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_be_bytes(number)
}

/// No name sorts before it.
pub(super) fn smallest_name() -> Name {
    Name::new(&[1]).expect("one byte that is neither zero, '/' nor '.' is a name")
}

/// No attribute's name sorts before it.
pub(super) fn smallest_xattr_name() -> XattrName {
    XattrName::new(&[1]).expect("one byte that is not zero is an attribute's name")
}

/// What a row of the cluster part is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum ClusterKey {
    Header,
    Node(crate::types::NodeId),
}

impl ClusterKey {
    pub(super) fn encode(self) -> Bytes {
        let mut key = vec![CLUSTER];
        match self {
            Self::Header => key.push(CLUSTER_HEADER),
            Self::Node(node) => {
                key.push(CLUSTER_NODE);
                key.extend_from_slice(&node.0.to_be_bytes());
            }
        }
        key.into()
    }

    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        match key.strip_prefix(&[CLUSTER])? {
            [CLUSTER_HEADER] => Some(Self::Header),
            [CLUSTER_NODE, node @ ..] => {
                node.try_into().ok().map(|node| Self::Node(crate::types::NodeId(u64::from_be_bytes(node))))
            }
            _ => None,
        }
    }
}

/// Where any key, well-formed or not, lies among the rows of a state.
pub(super) enum Place<'a> {
    /// Before all rows of volumes; the cluster part's own, or before them.
    Cluster,
    Volume {
        volume: VolumeId,
        table: u8,
        rest: &'a [u8],
    },
    /// Between the rows of this volume and of the one before.
    Before(VolumeId),
    /// Behind all rows.
    End,
}

impl<'a> Place<'a> {
    pub(super) fn of(key: &'a [u8]) -> Self {
        match key.first() {
            None => Self::Cluster,
            Some(&first) if first < VOLUME => Self::Cluster,
            Some(&VOLUME) => {
                if let Some((prefix, [table, rest @ ..])) = key.split_at_checked(VOLUME_PREFIX) {
                    let volume = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
                    return Self::Volume { volume: VolumeId(volume), table: *table, rest };
                }
                let mut volume = [0; 4];
                for (to, from) in volume.iter_mut().zip(&key[1..]) {
                    *to = *from;
                }
                Self::Before(VolumeId(u32::from_be_bytes(volume)))
            }
            Some(_) => Self::End,
        }
    }
}

/// The version byte and the postcard form of `value`.
pub(super) fn encode_value<T: Serialize>(value: &T) -> Bytes {
    let mut buffer = Vec::with_capacity(64);
    buffer.push(ROW_VERSION);
    postcard::to_extend(value, buffer).expect("a row has a defined encoding and memory suffices").into()
}

/// Reads what `encode_value` wrote, and nothing else.
pub(super) fn decode_value<'a, T: Serialize + Deserialize<'a>>(key: &[u8], value: &'a [u8]) -> Result<T, RowError> {
    let form = |reason: String| RowError::Form { key: hex(key), reason };
    let (&version, body) = value.split_first().ok_or_else(|| form("it has no bytes".to_owned()))?;
    if version != ROW_VERSION {
        return Err(RowError::Version { key: hex(key), found: version });
    }
    let row: T = postcard::from_bytes(body).map_err(|error| form(error.to_string()))?;
    if encode_value(&row) != value {
        return Err(form("it is not in canonical form".to_owned()));
    }
    Ok(row)
}

/// What a row adds to the digest of its part: 128 bits of BLAKE3 over key and value. Sums of them do not depend on
/// the order of rows, and change in O(1) with a row.
pub(super) fn row_digest(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(value);
    let mut prefix = [0; 16];
    prefix.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_be_bytes(prefix)
}

#[derive(Clone, Copy, Serialize, Deserialize, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterRow {
    pub(super) founding: FoundingId,
    pub(super) feature_level: u16,
    /// The next volume's id; ids are never used again.
    pub(super) next_volume: u32,
    /// The last entry of the cluster part.
    pub(super) applied: LogIndex,
    pub(super) stamp: Stamp,
}

#[derive(Clone, Serialize, Deserialize, Debug)]
pub(super) struct HeaderRow {
    pub(super) name: String,
    pub(super) options: VolumeOptions,
    pub(super) created: Stamp,
    /// It has no name any more, nobody sees it, and its rows go step by step.
    pub(super) is_deleted: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
pub(super) struct CountersRow {
    /// The last entry of this volume.
    pub(super) applied: LogIndex,
    pub(super) stamp: Stamp,
    pub(super) next_ino: u64,
    pub(super) next_session: u64,
    /// Sum of the lengths of all extents.
    pub(super) bytes_used: u64,
    /// The same of those without a block.
    pub(super) reserved_bytes: u64,
    /// Bytes of all extended attributes, names and values.
    pub(super) xattr_bytes: u64,
    /// Extents of all files, but the first of each.
    pub(super) further_extents: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct InodeRow {
    pub(super) kind: FileKind,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) rdev: u32,
    pub(super) size: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) data_version: u64,
    pub(super) body: BodyRow,
}

#[derive(Serialize, Deserialize)]
pub(super) enum BodyRow {
    File,
    Directory { parent: Ino },
    Symlink { target: Bytes },
    Special,
}

#[derive(Clone, Copy, Serialize, Deserialize, Debug, PartialEq, Eq)]
pub(super) struct DirentRow {
    pub(super) ino: Ino,
    pub(super) cookie: u64,
    pub(super) kind: FileKind,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ExtentRow {
    pub(super) length: u64,
    pub(super) block: Option<BlockHash>,
    pub(super) block_offset: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SessionRow {
    pub(super) mount: MountId,
    pub(super) opened: LogIndex,
    pub(super) opened_at: Stamp,
    pub(super) spent: Vec<(Sequence, Sequence)>,
    pub(super) holds_since: LogIndex,
    pub(super) credential: CredentialId,
    pub(super) level_max: u16,
}

#[derive(Clone, Copy, Serialize, Deserialize, Debug, PartialEq, Eq)]
pub(super) struct ReplyRow {
    /// The entry that carried the call out.
    pub(super) index: LogIndex,
    pub(super) outcome: Result<Reply, Errno>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct OrphanRow {
    /// The entry that took the last name.
    pub(super) since: LogIndex,
}
