//! A volume as rows, in the order of their keys.

use bytes::Bytes;

use super::Volume;
use crate::{
    namespace::{
        extent::Extent,
        inode::{Body, Inode},
        locks::HeldKey,
        row::{BodyRow, ExtentRow, InodeRow, OrphanRow, Place, RowKey, SessionRow, encode_value},
        session::Session,
    },
    types::{FileKind, Ino, LogIndex},
};

impl Volume {
    /// All rows in key order, encoded one by one as they are taken: for snapshots and stores.
    pub fn rows(&self) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        self.keys_from(RowKey::Header).filter_map(|key| Some((key.encode(self.id), self.row(&key)?)))
    }

    /// The rows whose keys are larger than `key`, which need not be the key of a row: a snapshot goes on there.
    pub fn rows_after<'a>(&'a self, key: &[u8]) -> impl Iterator<Item = (Bytes, Bytes)> + use<'a> {
        let start = match Place::of(key) {
            Place::Cluster => Some(RowKey::Header),
            Place::Before(volume) if volume <= self.id => Some(RowKey::Header),
            Place::Volume { volume, .. } if volume < self.id => Some(RowKey::Header),
            Place::Volume { volume, table, rest } if volume == self.id => RowKey::at_or_before(table, rest),
            Place::Before(_) | Place::Volume { .. } | Place::End => None,
        };
        let key = key.to_vec();
        start
            .into_iter()
            .flat_map(|start| self.keys_from(start))
            .map(|row| (row.encode(self.id), row))
            .skip_while(move |(encoded, _)| encoded.as_ref() <= key.as_slice())
            .filter_map(|(encoded, row)| Some((encoded, self.row(&row)?)))
    }

    /// The value of the row, where there is one.
    pub(super) fn row(&self, key: &RowKey) -> Option<Bytes> {
        match key {
            RowKey::Header => Some(encode_value(self.header.as_ref())),
            RowKey::Counters => Some(encode_value(&self.counters)),
            RowKey::Inode(ino) => self.inode(*ino).map(|inode| encode_value(&inode_row(inode))),
            RowKey::Dirent(directory, name) => self.dirents.get(&(*directory, name.clone())).map(encode_value),
            RowKey::Extent(ino, offset) => self.extent_at(*ino, *offset).map(|extent| {
                let Extent { length, block, block_offset, .. } = extent;
                encode_value(&ExtentRow { length, block, block_offset })
            }),
            RowKey::Xattr(ino, name) => self.xattrs.get(&(*ino, name.clone())).map(encode_value),
            RowKey::Session(session) => self.sessions.get(session).map(|session| encode_value(&session_row(session))),
            RowKey::Reply(session, sequence) => self.replies.get(&(*session, *sequence)).map(encode_value),
            RowKey::Orphan(ino) => self.orphans.get(ino).map(|since| encode_value(&OrphanRow { since: *since })),
            RowKey::Delegation(ino) => self.delegations.get(ino).map(encode_value),
            RowKey::Lock(key) => self.locks.held(key).map(|held| encode_value(&held.row())),
            RowKey::LockRequest(ino, since) => self.locks.request(*ino, *since).map(encode_value),
        }
    }

    /// The extent that begins exactly there.
    pub(super) fn extent_at(&self, ino: Ino, offset: u64) -> Option<Extent> {
        self.inode(ino).and_then(Inode::extents).and_then(|extents| extents.get(offset))
    }

    /// The keys of all rows at or behind `from`, in order.
    fn keys_from(&self, from: RowKey) -> impl Iterator<Item = RowKey> + '_ {
        let inode = from.within(RowKey::Inode(Ino(0)), |key| match key {
            RowKey::Inode(ino) => Some(*ino),
            _ => None,
        });
        let dirent = from.within(RowKey::first_dirent(), |key| match key {
            RowKey::Dirent(directory, name) => Some((*directory, name.clone())),
            _ => None,
        });
        let extent = from.within(RowKey::Extent(Ino(0), 0), |key| match key {
            RowKey::Extent(ino, offset) => Some((*ino, *offset)),
            _ => None,
        });
        let xattr = from.within(RowKey::first_xattr(), |key| match key {
            RowKey::Xattr(ino, name) => Some((*ino, name.clone())),
            _ => None,
        });
        let session = from.within(RowKey::first_session(), |key| match key {
            RowKey::Session(session) => Some(*session),
            _ => None,
        });
        let reply = from.within(RowKey::first_reply(), |key| match key {
            RowKey::Reply(session, sequence) => Some((*session, *sequence)),
            _ => None,
        });
        let orphan = from.within(RowKey::Orphan(Ino(0)), |key| match key {
            RowKey::Orphan(ino) => Some(*ino),
            _ => None,
        });
        let delegation = from.within(RowKey::Delegation(Ino(0)), |key| match key {
            RowKey::Delegation(ino) => Some(*ino),
            _ => None,
        });
        let lock = from.within(RowKey::Lock(HeldKey::first_of(Ino(0))), |key| match key {
            RowKey::Lock(key) => Some(*key),
            _ => None,
        });
        let request = from.within(RowKey::LockRequest(Ino(0), LogIndex(0)), |key| match key {
            RowKey::LockRequest(ino, since) => Some((*ino, *since)),
            _ => None,
        });
        let inodes = inode.into_iter().flat_map(|at| self.inodes.range(at..));
        let dirents = dirent.into_iter().flat_map(|at| self.dirents.range(at..));
        let xattrs = xattr.into_iter().flat_map(|at| self.xattrs.range(at..));
        let sessions = session.into_iter().flat_map(|at| self.sessions.range(at..));
        let replies = reply.into_iter().flat_map(|at| self.replies.range(at..));
        let orphans = orphan.into_iter().flat_map(|at| self.orphans.range(at..));
        let requests = request.into_iter().flat_map(|(ino, since)| self.locks.requests_from(ino, since));
        let delegations = delegation.into_iter().flat_map(|at| self.delegations.range(at..));
        [RowKey::Header, RowKey::Counters]
            .into_iter()
            .filter(move |key| *key >= from)
            .chain(inodes.map(|(ino, _)| RowKey::Inode(*ino)))
            .chain(dirents.map(|((directory, name), _)| RowKey::Dirent(*directory, name.clone())))
            .chain(extent.into_iter().flat_map(|(ino, offset)| self.extent_keys_from(ino, offset)))
            .chain(xattrs.map(|((ino, name), _)| RowKey::Xattr(*ino, name.clone())))
            .chain(sessions.map(|(session, _)| RowKey::Session(*session)))
            .chain(replies.map(|((session, sequence), _)| RowKey::Reply(*session, *sequence)))
            .chain(orphans.map(|(ino, _)| RowKey::Orphan(*ino)))
            .chain(delegations.map(|(ino, _)| RowKey::Delegation(*ino)))
            .chain(lock.into_iter().flat_map(|at| self.locks.held_from(at)).map(RowKey::Lock))
            .chain(requests.map(|(ino, since)| RowKey::LockRequest(ino, since)))
    }

    fn extent_keys_from(&self, from: Ino, offset: u64) -> impl Iterator<Item = RowKey> + '_ {
        let files = self.inodes.range(from..).filter(|(_, inode)| inode.kind == FileKind::File);
        files.flat_map(move |(ino, inode)| {
            let start = if *ino == from { offset } else { 0 };
            let extents = inode.extents().into_iter().flat_map(move |extents| extents.overlapping(start, u64::MAX));
            extents.filter(move |extent| extent.offset >= start).map(|extent| RowKey::Extent(*ino, extent.offset))
        })
    }
}

fn inode_row(inode: &Inode) -> InodeRow {
    InodeRow {
        kind: inode.kind,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        nlink: inode.nlink,
        rdev: inode.rdev,
        size: inode.size,
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        data_version: inode.data_version,
        body: match &inode.body {
            Body::File { .. } => BodyRow::File,
            Body::Directory { parent } => BodyRow::Directory { parent: *parent },
            Body::Symlink { target } => BodyRow::Symlink { target: target.clone() },
            Body::Special => BodyRow::Special,
        },
    }
}

fn session_row(session: &Session) -> SessionRow {
    SessionRow {
        mount: session.mount,
        opened: session.opened,
        opened_at: session.opened_at,
        spent: session.spent.ranges().to_vec(),
        holds_since: session.holds_since,
        credential: session.credential,
        level_max: session.level_max,
    }
}
