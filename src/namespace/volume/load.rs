//! A volume from its rows. What the program's own hand wrote is read back byte for byte; anything else is an error
//! that names the row or the contradiction, whatever the bytes are. So a damaged store is found before it is served.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use imbl::OrdMap;

use super::{Volume, attributes};
use crate::{
    limits,
    namespace::{
        Delegation,
        companion::Companions,
        cookie,
        extent::{Extent, Extents},
        inode::{Body, Inode},
        locks::{HeldRow, LockTable, WaitingLock},
        row::{
            BodyRow, CountersRow, DirentRow, ExtentRow, HeaderRow, InodeRow, OrphanRow, ReplyRow, RowError, RowKey,
            SessionRow, decode_value, hex, row_digest,
        },
        session::{Session, SpentCalls},
    },
    types::{FileKind, Ino, Name, SessionId, VolumeId},
};

/// No counter comes near it in the life of a volume, and what is below it can be counted on without running over.
const COUNTER_MAX: u64 = 1 << 62;

impl Volume {
    /// The volume that `rows` listed.
    ///
    /// # Errors
    /// Rows out of order, of another volume, ill-formed, missing, or in contradiction to each other (a name without an
    /// inode, a link count that does not count the names, extents that overlap, a directory outside the tree …).
    pub fn from_rows(rows: impl IntoIterator<Item = (Bytes, Bytes)>) -> Result<Self, RowError> {
        let mut loader = Loader::default();
        for (key, value) in rows {
            loader.add(&key, &value)?;
        }
        loader.finish()
    }
}

/// Gathers rows in key order, then judges them together.
#[derive(Default)]
pub(in crate::namespace) struct Loader {
    id: Option<VolumeId>,
    last_key: Option<Vec<u8>>,
    header: Option<HeaderRow>,
    counters: Option<CountersRow>,
    volume: Option<Volume>,
    /// Of all extents, and of those that are reserved.
    bytes: (u64, u64),
    /// The newest feature level that a row is of.
    level: u16,
}

fn contradiction(what: String) -> RowError {
    RowError::Contradiction(what)
}

impl Loader {
    /// The newest feature level that a row was of.
    pub(in crate::namespace) const fn level(&self) -> u16 {
        self.level
    }

    pub(in crate::namespace) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), RowError> {
        if self.last_key.as_deref().is_some_and(|last| last >= key) {
            return Err(RowError::Order { key: hex(key) });
        }
        let (id, row) = RowKey::decode(key)?;
        let expected = *self.id.get_or_insert(id);
        if id != expected {
            return Err(RowError::Volume { key: hex(key), expected });
        }
        self.last_key = Some(key.to_vec());
        self.level = self.level.max(row.level());
        match &row {
            RowKey::Header => self.header = Some(decode_value(key, value)?),
            RowKey::Counters => {
                let counters: CountersRow = decode_value(key, value)?;
                if counters.next_ino.max(counters.next_session) > COUNTER_MAX {
                    return Err(RowError::Form { key: hex(key), reason: "a counter ran over".to_owned() });
                }
                self.counters = Some(counters);
            }
            _ => {}
        }
        if self.volume.is_none()
            && let (Some(header), Some(counters)) = (&self.header, self.counters)
        {
            // Both come before all others.
            self.volume = Some(empty(id, header.clone(), counters));
        }
        if let Some(volume) = &mut self.volume {
            volume.digest = volume.digest.wrapping_add(row_digest(key, value));
            if matches!(row, RowKey::Counters)
                && let Some(header) = volume.row(&RowKey::Header)
            {
                volume.digest = volume.digest.wrapping_add(row_digest(&RowKey::Header.encode(id), &header));
            }
            let (bytes, reserved) = volume.add_row(key, row, value)?;
            self.bytes = (self.bytes.0.saturating_add(bytes), self.bytes.1.saturating_add(reserved));
            return Ok(());
        }
        match row {
            RowKey::Header => Ok(()),
            _ => Err(RowError::Missing { what: "a volume's name or counters" }),
        }
    }

    pub(in crate::namespace) fn finish(self) -> Result<Volume, RowError> {
        let volume = self.volume.ok_or(RowError::Missing { what: "a volume's name or counters" })?;
        let counted = (volume.counters.bytes_used, volume.counters.reserved_bytes);
        if self.bytes != counted {
            let ((bytes, reserved), (all, of_these)) = (self.bytes, counted);
            return Err(contradiction(format!(
                "{bytes} bytes of extents, {all} counted; {reserved} of them reserved, {of_these} counted"
            )));
        }
        let xattr_bytes =
            volume.xattrs.iter().map(|((_, name), value)| attributes::xattr_bytes(name, value)).sum::<u64>();
        if xattr_bytes != volume.counters.xattr_bytes {
            let counted = volume.counters.xattr_bytes;
            return Err(contradiction(format!("{xattr_bytes} bytes of attributes, {counted} counted")));
        }
        let further = volume.inodes.values().filter_map(|inode| inode.extents()).map(Extents::further).sum::<u64>();
        if further != volume.counters.further_extents {
            let counted = volume.counters.further_extents;
            return Err(contradiction(format!("{further} extents beyond the first of each file, {counted} counted")));
        }
        // Of a deleted volume only a part may be left.
        if volume.is_deleted() {
            return Ok(volume);
        }
        volume.check_files()?;
        volume.check_tree()?;
        volume.check_sessions()?;
        Ok(volume)
    }
}

fn empty(id: VolumeId, header: HeaderRow, counters: CountersRow) -> Volume {
    Volume {
        id,
        header: Arc::new(header),
        counters,
        inodes: OrdMap::new(),
        dirents: OrdMap::new(),
        cookies: OrdMap::new(),
        companions: Companions::default(),
        xattrs: OrdMap::new(),
        sessions: OrdMap::new(),
        mounts: OrdMap::new(),
        replies: OrdMap::new(),
        orphans: OrdMap::new(),
        delegations: OrdMap::new(),
        locks: LockTable::default(),
        digest: 0,
    }
}

impl Volume {
    /// Takes the row in and returns the bytes of the extent it stands for, and as many again where these are reserved.
    fn add_row(&mut self, key: &[u8], row: RowKey, value: &[u8]) -> Result<(u64, u64), RowError> {
        let form = |reason: &str| RowError::Form { key: hex(key), reason: reason.to_owned() };
        match row {
            RowKey::Header | RowKey::Counters => {}
            RowKey::Inode(ino) => {
                let inode = inode_of(decode_value(key, value)?).map_err(form)?;
                self.inodes.insert(ino, Arc::new(inode));
            }
            RowKey::Dirent(directory, name) => {
                let dirent: DirentRow = decode_value(key, value)?;
                if self.cookies.insert((directory, dirent.cookie), name.clone()).is_some() {
                    return Err(form("another name of the directory has its cookie"));
                }
                self.companions.add(dirent.ino, &name);
                self.dirents.insert((directory, name), dirent);
            }
            RowKey::Extent(ino, offset) => {
                let ExtentRow { length, block, block_offset } = decode_value(key, value)?;
                return self.add_extent(ino, Extent { offset, length, block, block_offset }).map_err(form);
            }
            RowKey::Xattr(ino, name) => {
                let bytes: Bytes = decode_value(key, value)?;
                if bytes.len() > limits::XATTR_VALUE_BYTES_MAX {
                    return Err(form("an attribute's value has at most 64 KiB"));
                }
                if !self.inodes.contains_key(&ino) {
                    return Err(form("there is no such inode"));
                }
                self.xattrs.insert((ino, name), bytes);
            }
            RowKey::Session(session) => {
                let SessionRow { mount, opened, opened_at, spent, holds_since, credential, level_max } =
                    decode_value(key, value)?;
                let spent =
                    SpentCalls::from_ranges(spent).ok_or_else(|| form("spent calls overlap, or in too many ranges"))?;
                let row = Session { mount, opened, opened_at, holds_since, credential, level_max, spent, held: 0 };
                self.sessions.insert(session, Arc::new(row));
                if self.mounts.insert(mount, session).is_some() {
                    return Err(form("its mount has another session"));
                }
            }
            RowKey::Reply(session, sequence) => {
                let reply: ReplyRow = decode_value(key, value)?;
                let of = self.sessions.get_mut(&session).ok_or_else(|| form("there is no such session"))?;
                if !of.spent.contains(sequence) {
                    return Err(form("its session has not made the call"));
                }
                if of.held == limits::SESSION_REPLIES_MAX {
                    return Err(form("its session has too many"));
                }
                Arc::make_mut(of).held += 1;
                self.replies.insert((session, sequence), reply);
            }
            RowKey::Orphan(ino) => {
                let OrphanRow { since } = decode_value(key, value)?;
                self.orphans.insert(ino, since);
            }
            RowKey::Delegation(ino) => {
                let delegation: Delegation = decode_value(key, value)?;
                self.delegations.insert(ino, delegation);
            }
            RowKey::Lock(of) => {
                let held = of.lock(decode_value::<HeldRow>(key, value)?);
                self.check_locker(of.ino, of.session).map_err(form)?;
                self.locks.add_held(of, held).map_err(form)?;
            }
            RowKey::LockRequest(ino, since) => {
                let waiting: WaitingLock = decode_value(key, value)?;
                self.check_locker(ino, waiting.session).map_err(form)?;
                self.locks.add_request(ino, since, waiting).map_err(form)?;
            }
        }
        Ok((0, 0))
    }

    fn check_locker(&self, ino: Ino, session: SessionId) -> Result<(), &'static str> {
        if !self.sessions.contains_key(&session) {
            return Err("there is no such session");
        }
        let is_file = self.inode(ino).is_some_and(|inode| inode.kind == FileKind::File);
        is_file.then_some(()).ok_or("there is no such file")
    }

    fn add_extent(&mut self, ino: Ino, extent: Extent) -> Result<(u64, u64), &'static str> {
        let inode = self.inodes.get_mut(&ino).ok_or("there is no such inode")?;
        let inode = Arc::make_mut(inode);
        let Body::File { extents, bytes } = &mut inode.body else {
            return Err("the inode is no file");
        };
        let end = extent.offset.checked_add(extent.length).ok_or("it ends beyond all files")?;
        let block_end = extent.block_offset.checked_add(extent.length).ok_or("it ends beyond all blocks")?;
        let ends = match extent.block {
            Some(_) => end <= inode.size && block_end <= limits::BLOCK_BYTES_MAX as u64,
            None => end <= limits::FILE_BYTES_MAX && extent.block_offset == 0,
        };
        if extent.length == 0 || !ends {
            return Err("it is empty, or ends behind its file or its block");
        }
        if extents.overlapping(extent.offset, end).next().is_some() {
            return Err("it overlaps the one before");
        }
        extents.insert(extent, &mut std::collections::BTreeSet::new());
        *bytes += extent.length;
        Ok((extent.length, if extent.block.is_none() { extent.length } else { 0 }))
    }

    /// Every inode by itself, and the orphans.
    fn check_files(&self) -> Result<(), RowError> {
        for (ino, inode) in &self.inodes {
            if ino.0 == 0 || ino.0 >= self.counters.next_ino {
                return Err(contradiction(format!("inode {ino} was never given out")));
            }
            if (inode.nlink == 0) != self.orphans.contains_key(ino) {
                return Err(contradiction(format!(
                    "inode {ino} has {} names and is no orphan, or is one",
                    inode.nlink
                )));
            }
            if inode.size > limits::FILE_BYTES_MAX {
                return Err(contradiction(format!("inode {ino} has {} bytes, more than any file", inode.size)));
            }
        }
        match self.orphans.keys().find(|ino| !self.inodes.contains_key(*ino)) {
            Some(ino) => Err(contradiction(format!("orphan {ino} is no inode"))),
            None => Ok(()),
        }
    }

    /// Names and inodes: every name means an inode of its kind, link counts count names, directories form one tree.
    fn check_tree(&self) -> Result<(), RowError> {
        let mut links: BTreeMap<Ino, u32> = BTreeMap::new();
        for ((directory, name), dirent) in &self.dirents {
            self.check_name(*directory, name, dirent)?;
            let counted = links.get(&dirent.ino).copied().unwrap_or(0).saturating_add(1);
            links.insert(dirent.ino, counted);
            if dirent.kind == FileKind::Directory {
                let counted = links.get(directory).copied().unwrap_or(0).saturating_add(1);
                links.insert(*directory, counted);
            }
        }
        for (ino, inode) in &self.inodes {
            // `.` of a directory with a name; the root has no name but is its own `..`.
            let dots = match inode.body {
                Body::Directory { .. } if *ino == Ino::ROOT => 2,
                Body::Directory { .. } if inode.nlink > 0 => 1,
                _ => 0,
            };
            let counted = links.get(ino).copied().unwrap_or(0).saturating_add(dots);
            if counted != inode.nlink {
                return Err(contradiction(format!("inode {ino} has {counted} links, {} noted", inode.nlink)));
            }
        }
        self.check_reach()
    }

    fn check_name(&self, directory: Ino, name: &Name, dirent: &DirentRow) -> Result<(), RowError> {
        let wrong = |what: &str| Err(contradiction(format!("name {name} in directory {directory} {what}")));
        if !self.inodes.get(&directory).is_some_and(|inode| inode.is_directory()) {
            return wrong("is in no directory");
        }
        let Some(inode) = self.inodes.get(&dirent.ino) else {
            return wrong("means no inode");
        };
        if inode.kind != dirent.kind {
            return wrong("means an inode of another kind");
        }
        if !cookie::may_be(name, dirent.cookie) {
            return wrong("has a cookie that no name like it is given");
        }
        match inode.body {
            Body::Directory { parent, .. } if parent != directory || dirent.ino == Ino::ROOT => {
                wrong("means a directory that lies elsewhere")
            }
            _ => Ok(()),
        }
    }

    /// Every directory with a name is reached from the root: there is no ring.
    fn check_reach(&self) -> Result<(), RowError> {
        match self.inode(Ino::ROOT).map(|root| &root.body) {
            Some(Body::Directory { parent: Ino::ROOT, .. }) => {}
            _ => return Err(RowError::Missing { what: "the root directory" }),
        }
        let mut reached = 0_usize;
        let mut waiting = vec![Ino::ROOT];
        while let Some(directory) = waiting.pop() {
            reached += 1;
            let entries = self.entries_after(directory, 0);
            // A directory has one name only (its parent is that name's), so none is visited twice.
            waiting.extend(entries.filter(|entry| entry.3 == FileKind::Directory).map(|entry| entry.2));
        }
        let named = self.inodes.values().filter(|inode| inode.is_directory() && inode.nlink > 0).count();
        if named == reached {
            Ok(())
        } else {
            Err(contradiction(format!("{reached} of {named} directories are reached from the root")))
        }
    }

    fn check_sessions(&self) -> Result<(), RowError> {
        for (ino, Delegation { session, .. }) in &self.delegations {
            let is_file = self.inode(*ino).is_some_and(|inode| inode.kind == FileKind::File);
            if !is_file || !self.sessions.contains_key(session) {
                return Err(contradiction(format!("inode {ino} is no file that session {session} may have delegated")));
            }
        }
        match self.sessions.keys().find(|session| session.0 == 0 || session.0 >= self.counters.next_session) {
            Some(session) => Err(contradiction(format!("session {session} was never given out"))),
            None => Ok(()),
        }
    }
}

fn inode_of(row: InodeRow) -> Result<Inode, &'static str> {
    let body = match (row.kind, row.body) {
        (FileKind::File, BodyRow::File) => Body::File { extents: Default::default(), bytes: 0 },
        (FileKind::Directory, BodyRow::Directory { parent }) => Body::Directory { parent },
        (FileKind::Symlink, BodyRow::Symlink { target }) => Body::Symlink { target },
        (FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice, BodyRow::Special) => {
            Body::Special
        }
        _ => return Err("the inode has the body of another kind"),
    };
    if row.data_version > COUNTER_MAX {
        return Err("a counter ran over");
    }
    if [row.atime, row.mtime, row.ctime].iter().any(|time| time.nanoseconds > 999_999_999) {
        return Err("a second has a billion nanoseconds");
    }
    if row.mode > 0o7777 {
        return Err("a mode has twelve bits");
    }
    Ok(Inode {
        kind: row.kind,
        mode: row.mode,
        uid: row.uid,
        gid: row.gid,
        nlink: row.nlink,
        rdev: row.rdev,
        size: row.size,
        atime: row.atime,
        mtime: row.mtime,
        ctime: row.ctime,
        data_version: row.data_version,
        body,
    })
}
