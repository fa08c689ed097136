//! A log entry: who asks for what, at what cluster time. Encoded with postcard behind a version byte; fields and
//! variants are only ever added at the end, and only used above the feature level that brought them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::{
    limits,
    types::{CredentialId, FoundingId, Ino, MountId, NodeId, Sequence, SessionId, Stamp, VolumeId},
};

/// The version of the encoding that this program writes.
pub const ENTRY_VERSION: u8 = 3;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntryHeader {
    /// Lowest feature level that understands the entry; a program below it stops rather than guess.
    pub feature_level: u16,
    /// 0: the cluster part.
    pub volume: VolumeId,
    /// 0: the leader itself; then `sequence` is 0 too.
    pub session: SessionId,
    pub sequence: Sequence,
    /// Calls of this session whose answers have arrived: their rows leave the reply table.
    pub answered: Vec<Sequence>,
    /// Cluster time; strictly larger than that of the entry before.
    pub stamp: Stamp,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub header: EntryHeader,
    pub command: Command,
}

/// A storage node as the state knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    pub id: NodeId,
    /// `host:port` for peers (7441).
    pub peer_address: String,
    /// `host:port` for mounts and administration (7440).
    pub client_address: String,
    /// The newest feature level that its program understands, as it said when it last began.
    pub level_max: u16,
}

/// How a volume begins; `Command::SetQuotas` changes the quotas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeOptions {
    pub uid: u32,
    pub gid: u32,
    pub mode: u16,
    /// Bytes of content and of extended attributes, names included; `None` is no limit.
    pub quota_bytes: Option<u64>,
    /// Inodes, the root included; `limits::INODES_MAX` at most. In the entry, so that nodes of any version agree on it.
    pub quota_inodes: u64,
}

impl Default for VolumeOptions {
    /// Root of the tree owned by Debian's www-data.
    fn default() -> Self {
        Self { uid: 33, gid: 33, mode: 0o755, quota_bytes: None, quota_inodes: limits::INODES_DEFAULT }
    }
}

/// What of a volume's quotas changes; `None` stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct QuotaChanges {
    pub bytes: Option<ByteQuota>,
    /// `limits::INODES_MAX` at most, as far as apply goes by it.
    pub inodes: Option<u64>,
}

/// How many bytes a volume may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ByteQuota {
    Unlimited,
    Bytes(u64),
}

/// What an entry does. Variants are only ever added at the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// A new leader's first entry, so that it can complete those of its predecessors.
    Noop,
    /// Cluster part: the node's addresses are these.
    SetNode(NodeInfo),
    /// Cluster part: the node is gone for good.
    RemoveNode(NodeId),
    /// Cluster part: a new empty volume; EEXIST when the name is taken.
    CreateVolume { name: String, options: VolumeOptions },
    /// Cluster part: the volume and all in it is gone; ENOENT when there is none, EBUSY when it has sessions, unless by
    /// `force`. What it leaves goes with `ShrinkVolume`.
    DeleteVolume { name: String, force: bool },
    /// Cluster part: entries up to this level may be used from here on. EINVAL when it is lower than before, EOPNOTSUPP
    /// while a node or a session does not understand it (docs/protocol.md R73-levels).
    RaiseFeatureLevel(u16),
    /// Volume part: a session for this mount, which understands levels up to `level_max`; the one it has if it has one.
    OpenSession { mount: MountId, credential: CredentialId, level_max: u16 },
    /// Volume part: these sessions end, with their reply tables, delegations and locks.
    CloseSessions { sessions: Vec<SessionId> },
    /// Volume part: nobody has these unlinked inodes open any more; their space is given back, in order, as much as one
    /// entry may. Those that it does not get to stay orphans.
    ReapOrphans { inodes: Vec<Ino> },
    /// Volume part: a mount's change.
    Operation(Operation),
    /// Volume part: this session was not heard of for the hold time and loses all delegations and locks. It stays a
    /// session.
    EndHolds { session: SessionId },
    /// Volume part, of a volume that was deleted: its next rows go; ENODEV where there are none.
    ShrinkVolume,
    /// Volume part: its quotas. They may be less than what is used: then nothing grows until it is less again.
    SetQuotas(QuotaChanges),
}

/// How a cluster begins: the same on every founding node, at log index 1.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Founding {
    pub id: FoundingId,
    pub nodes: Vec<NodeInfo>,
    pub stamp: Stamp,
    pub main: VolumeOptions,
}

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a log entry has at most {max} bytes, this one has {found}", max = limits::ENTRY_BYTES_MAX)]
    Size { found: usize },
    #[error(
        "this program reads entries of version {ENTRY_VERSION}, found version {found}: {}",
        if *found > ENTRY_VERSION { "start the newer manyfs" } else { "it is of a build before any release, and is not read any more" }
    )]
    Version { found: u8 },
    #[error("this program knows feature level {known}, the entry needs {found}; upgrade this node", known = limits::FEATURE_LEVEL)]
    FeatureLevel { found: u16 },
    #[error("the entry is not well-formed: {0}")]
    Form(String),
}

impl Entry {
    /// The bytes that go into the log and to mounts.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let buffer = vec![ENTRY_VERSION];
        let encoded = postcard::to_extend(self, buffer).expect("an entry has a defined encoding and memory suffices");
        encoded.into()
    }

    /// Reads what `encode` wrote.
    ///
    /// # Errors
    /// `Size`, `Version`, `FeatureLevel` or `Form`; never panics, whatever the bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > limits::ENTRY_BYTES_MAX {
            return Err(DecodeError::Size { found: bytes.len() });
        }
        let (&version, body) = bytes.split_first().ok_or_else(|| DecodeError::Form("it has no bytes".to_owned()))?;
        if version != ENTRY_VERSION {
            return Err(DecodeError::Version { found: version });
        }
        // The header comes first, so that an entry of a later level is recognised before its command is read.
        let (header, _): (EntryHeader, _) = postcard::take_from_bytes(body).map_err(form)?;
        if header.feature_level > limits::FEATURE_LEVEL {
            return Err(DecodeError::FeatureLevel { found: header.feature_level });
        }
        let (entry, rest): (Self, _) = postcard::take_from_bytes(body).map_err(form)?;
        if !rest.is_empty() {
            return Err(DecodeError::Form(format!("{} bytes follow its end", rest.len())));
        }
        Ok(entry)
    }
}

fn form(error: postcard::Error) -> DecodeError {
    DecodeError::Form(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1: deletions without `force`, reservations without `at_most`. Their fields would be taken for one another.
    #[test]
    fn entries_of_an_earlier_encoding_are_refused_and_not_misread() {
        let header = EntryHeader {
            feature_level: limits::FEATURE_LEVEL,
            volume: VolumeId(0),
            session: SessionId(0),
            sequence: Sequence(0),
            answered: Vec::new(),
            stamp: Stamp(1),
        };
        let entry = Entry { header, command: Command::DeleteVolume { name: "main".to_owned(), force: false } };
        let mut bytes = entry.encode().to_vec();
        assert_eq!(Entry::decode(&bytes), Ok(entry));
        for (version, advice) in [(1, "before any release"), (ENTRY_VERSION + 1, "start the newer manyfs")] {
            bytes[0] = version;
            let error = Entry::decode(&bytes).expect_err("it is of another version");
            assert_eq!(error, DecodeError::Version { found: version });
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
}
