//! Rows and entries in words, for `manyfs inspect`.

use bytes::Bytes;

use super::{
    Delegation, Entry, NodeInfo,
    locks::{HeldRow, WaitingLock},
    row::{
        ClusterKey, ClusterRow, CountersRow, DirentRow, ExtentRow, HeaderRow, InodeRow, OrphanRow, ReplyRow, RowError,
        RowKey, SessionRow, decode_value,
    },
};
use crate::types::{LockClaim, SessionId};

/// What a row of the state says; `None` where it is none of ours, or damaged.
#[must_use]
pub fn describe_row(key: &[u8], value: &[u8]) -> Option<String> {
    if let Some(cluster) = ClusterKey::decode(key) {
        return match cluster {
            ClusterKey::Header => decode_value::<ClusterRow>(key, value).map(|row| format!("cluster {row:?}")),
            ClusterKey::Node(id) => decode_value::<NodeInfo>(key, value)
                .map(|node| format!("node {id}: peers {}, clients {}", node.peer_address, node.client_address)),
        }
        .ok();
    }
    let (volume, row) = RowKey::decode(key).ok()?;
    let text = describe_volume_row(&row, key, value).ok()?;
    Some(format!("volume {volume}, {text}"))
}

/// What an entry of the log does; `None` where it is none of ours. Raft's own entries have no data.
#[must_use]
pub fn describe_entry(data: &[u8]) -> Option<String> {
    let Entry { header, command } = Entry::decode(data).ok()?;
    let mut text = format!("{command:?}");
    // Inline content is long, and shown by `--part packs` as what it is.
    if text.len() > LONG {
        let end = (0..=LONG).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    Some(format!(
        "volume {}, session {}, sequence {}, stamp {}: {text}",
        header.volume, header.session, header.sequence, header.stamp.0
    ))
}

/// Characters of a command that are shown.
const LONG: usize = 400;

fn describe_volume_row(row: &RowKey, key: &[u8], value: &[u8]) -> Result<String, RowError> {
    Ok(match row {
        RowKey::Header => {
            let HeaderRow { name, options, created, is_deleted } = decode_value(key, value)?;
            let deleted = if is_deleted { ", deleted" } else { "" };
            format!("named {name}: {options:?}, created at {}{deleted}", created.0)
        }
        RowKey::Counters => format!("{:?}", decode_value::<CountersRow>(key, value)?),
        RowKey::Inode(ino) => {
            let row: InodeRow = decode_value(key, value)?;
            format!(
                "inode {ino}: {:?} {:o} owner {}:{} links {} size {} mtime {}.{:09} version {}",
                row.kind,
                row.mode,
                row.uid,
                row.gid,
                row.nlink,
                row.size,
                row.mtime.seconds,
                row.mtime.nanoseconds,
                row.data_version
            )
        }
        RowKey::Dirent(directory, name) => {
            let row: DirentRow = decode_value(key, value)?;
            format!("directory {directory}, name {name}: inode {}, {:?}, cookie {}", row.ino, row.kind, row.cookie)
        }
        RowKey::Extent(ino, offset) => {
            let row: ExtentRow = decode_value(key, value)?;
            match row.block {
                Some(block) => {
                    format!("inode {ino}, bytes {offset} + {}: block {block} from {}", row.length, row.block_offset)
                }
                None => format!("inode {ino}, bytes {offset} + {}: reserved", row.length),
            }
        }
        RowKey::Xattr(ino, name) => {
            let value: Bytes = decode_value(key, value)?;
            format!("inode {ino}, attribute {name}: {}", value.escape_ascii())
        }
        RowKey::Session(session) => {
            let row: SessionRow = decode_value(key, value)?;
            format!("session {session} of mount {}, opened by entry {}", row.mount, row.opened)
        }
        RowKey::Reply(session, sequence) => {
            let row: ReplyRow = decode_value(key, value)?;
            format!("session {session}, call {sequence}: {:?} by entry {}", row.outcome, row.index)
        }
        RowKey::Orphan(ino) => {
            let row: OrphanRow = decode_value(key, value)?;
            format!("inode {ino} has no name since entry {}", row.since)
        }
        RowKey::Delegation(ino) => {
            let row: Delegation = decode_value(key, value)?;
            format!("inode {ino} is delegated to session {} by entry {}", row.session, row.grant)
        }
        RowKey::Lock(of) => {
            let held = of.lock(decode_value::<HeldRow>(key, value)?);
            format!("inode {}, {}, by entry {}", of.ino, what(held.session, &held.claim), held.grant)
        }
        RowKey::LockRequest(ino, since) => {
            let row: WaitingLock = decode_value(key, value)?;
            format!("inode {ino}, waits since entry {since}: {}", what(row.session, &row.claim))
        }
    })
}

fn what(session: SessionId, claim: &LockClaim) -> String {
    let LockClaim { family, kind, range, owner, .. } = claim;
    format!("{family:?} {kind:?} {}..={} of session {session} owner {owner:x}", range.first, range.last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        namespace::{Command, EntryHeader, Founding, NewNode, Operation, State, VolumeOptions},
        types::{FoundingId, Ino, LogIndex, Name, NodeId, Sequence, SessionId, Stamp, VolumeId},
    };

    #[test]
    fn every_row_of_a_state_is_described_and_garbage_is_not() {
        let node = NodeInfo {
            id: NodeId(1),
            peer_address: "a:7441".to_owned(),
            client_address: "a:7440".to_owned(),
            level_max: 1,
        };
        let founding =
            Founding { id: FoundingId::default(), nodes: vec![node], stamp: Stamp(1), main: VolumeOptions::default() };
        let mut state = State::found(&founding);
        let header = EntryHeader {
            feature_level: 1,
            volume: VolumeId(1),
            session: SessionId(0),
            sequence: Sequence(0),
            answered: Vec::new(),
            stamp: Stamp(2),
        };
        let open =
            Command::OpenSession { mount: crate::types::MountId(9), credential: Default::default(), level_max: 1 };
        let session = state.apply(LogIndex(2), &Entry { header: header.clone(), command: open }).session;
        let make = Operation::Make {
            parent: Ino::ROOT,
            name: Name::new(b"file").expect("a name"),
            node: NewNode::File,
            mode: 0o644,
            uid: 1,
            gid: 1,
            delegate: true,
            umask: 0,
        };
        let header =
            EntryHeader { session: session.expect("a session"), sequence: Sequence(1), stamp: Stamp(3), ..header };
        let entry = Entry { header, command: Command::Operation(make) };
        state.apply(LogIndex(3), &entry).outcome.expect("made");

        let described: Vec<_> = state
            .rows()
            .map(|(key, value)| describe_row(&key, &value).unwrap_or_else(|| panic!("no words for row {key:?}")))
            .collect();
        assert!(described.iter().any(|text| text.contains("name file: inode 2")), "{described:#?}");
        assert_eq!(describe_row(b"nonsense", b""), None);
        assert_eq!(describe_row(&[], &[]), None);
        assert!(describe_entry(&entry.encode()).is_some_and(|text| text.contains("Make")));
        assert_eq!(describe_entry(b""), None);
    }
}
