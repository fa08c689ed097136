//! An entry being applied: the volume as it was, the volume as it becomes, and which rows may differ.
//!
//! Effects are read off the difference of the two at the end, so that rows, references and digest cannot disagree with
//! what was done; a refusal puts the volume of before back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::Volume;
use crate::{
    limits,
    namespace::{
        ByteQuota, Change, Command, Effects, Entry, QuotaChanges, Reply, RowChange, cookie,
        extent::{Extent, Extents},
        inode::{Body, Inode},
        row::{DirentRow, RowKey, row_digest},
    },
    types::{BlockHash, Errno, FileKind, Ino, LogIndex, Name, SessionId, Stamp, Timestamp, mtime_behind},
};

/// More changes, of a nanosecond each, than a mount buffers of one file.
const BUFFERED_CHANGES: Duration = Duration::from_millis(1);

pub(super) struct Draft {
    before: Volume,
    pub(super) volume: Volume,
    pub(super) index: LogIndex,
    pub(super) stamp: Stamp,
    pub(super) now: Timestamp,
    touched: BTreeSet<RowKey>,
    /// Extents that may still be taken away, cut or moved.
    pub(super) extents_left: usize,
    /// Inline content of the entry.
    pub(super) content: Vec<(BlockHash, Bytes)>,
    names: Vec<Change>,
    contents: Vec<Change>,
    lives: Vec<Change>,
    holders: Vec<Change>,
}

/// What the caller is told.
pub(super) struct Verdict {
    pub(super) outcome: Result<Reply, Errno>,
    pub(super) session: Option<SessionId>,
    pub(super) repeated: bool,
}

impl Verdict {
    pub(super) const fn of(outcome: Result<Reply, Errno>) -> Self {
        Self { outcome, session: None, repeated: false }
    }
}

impl Draft {
    pub(super) fn new(volume: &Volume, index: LogIndex, stamp: Stamp) -> Self {
        Self {
            before: volume.clone(),
            volume: volume.clone(),
            index,
            stamp,
            now: stamp.into(),
            touched: BTreeSet::new(),
            extents_left: limits::EXTENTS_PER_CALL_MAX,
            content: Vec::new(),
            names: Vec::new(),
            contents: Vec::new(),
            lives: Vec::new(),
            holders: Vec::new(),
        }
    }

    pub(super) fn carry_out(&mut self, entry: &Entry) -> Verdict {
        match &entry.command {
            Command::Operation(operation) => self.call(&entry.header, operation),
            Command::OpenSession { mount, credential, level_max } => self.open_session(*mount, *credential, *level_max),
            Command::CloseSessions { sessions } => Verdict::of(Ok(self.close_sessions(sessions))),
            Command::ReapOrphans { inodes } => Verdict::of(Ok(self.reap_orphans(inodes))),
            Command::EndHolds { session } => Verdict::of(Ok(self.end_holds(*session))),
            Command::SetQuotas(changes) => Verdict::of(Ok(self.set_quotas(*changes))),
            Command::Noop => Verdict::of(Ok(Reply::Done)),
            Command::SetNode(_)
            | Command::RemoveNode(_)
            | Command::CreateVolume { .. }
            | Command::DeleteVolume { .. }
            | Command::RaiseFeatureLevel(_)
            | Command::ShrinkVolume => Verdict::of(Err(Errno::EINVAL)),
        }
    }

    /// Carries `change` out whole or not at all.
    pub(super) fn whole(&mut self, change: impl FnOnce(&mut Self) -> Result<Reply, Errno>) -> Result<Reply, Errno> {
        let saved = self.volume.clone();
        let outcome = change(self).and_then(|reply| self.check_quota(&saved).map(|()| reply));
        if outcome.is_err() {
            // Rows touched meanwhile stay listed: they are found unchanged.
            self.volume = saved;
            self.content.clear();
            self.names.clear();
            self.contents.clear();
            self.lives.clear();
            self.holders.clear();
        }
        outcome
    }

    /// The volume as it is now, and how it differs from before.
    pub(super) fn finish(mut self) -> (Volume, Effects) {
        self.volume.counters.applied = self.index;
        self.volume.counters.stamp = self.stamp;
        self.touched.insert(RowKey::Counters);
        let touched = std::mem::take(&mut self.touched);
        let mut rows = Vec::with_capacity(touched.len());
        let mut references: BTreeMap<BlockHash, i64> = BTreeMap::new();
        let mut attributes = BTreeSet::new();
        let mut named = BTreeSet::new();
        for key in &touched {
            let (old, new) = (self.before.row(key), self.volume.row(key));
            match key {
                RowKey::Extent(ino, offset) => {
                    if let Some(block) = self.before.extent_at(*ino, *offset).and_then(|extent| extent.block) {
                        *references.entry(block).or_default() -= 1;
                    }
                    if let Some(block) = self.volume.extent_at(*ino, *offset).and_then(|extent| extent.block) {
                        *references.entry(block).or_default() += 1;
                        named.insert(block);
                    }
                }
                RowKey::Inode(ino) | RowKey::Xattr(ino, _) => {
                    attributes.insert(*ino);
                }
                _ => {}
            }
            if old == new {
                continue;
            }
            let key = key.encode(self.volume.id);
            if let Some(old) = &old {
                self.volume.digest = self.volume.digest.wrapping_sub(row_digest(&key, old));
            }
            if let Some(new) = &new {
                self.volume.digest = self.volume.digest.wrapping_add(row_digest(&key, new));
            }
            rows.push(RowChange { key, value: new });
        }
        references.retain(|_, count| *count != 0);
        // A piece that a later one of the same entry covered leaves nothing that names its block.
        let mut content = std::mem::take(&mut self.content);
        content.retain(|(block, _)| named.remove(block));
        let effects =
            Effects { rows, content, references: references.into_iter().collect(), changes: self.changes(&attributes) };
        (self.volume, effects)
    }

    /// Names first, then content, then attributes, then directories whose mtime went back, then births and deaths of
    /// inodes, then delegations.
    fn changes(&mut self, attributes: &BTreeSet<Ino>) -> Vec<Change> {
        let mut told: BTreeSet<Ino> = BTreeSet::new();
        for change in &self.names {
            if let Change::Name { parent, .. } = change {
                told.insert(*parent);
            }
        }
        for change in &self.contents {
            if let Change::Content { ino, .. } = change {
                // Size and times go with the content; anything else is told as well.
                if self.same_but_for_content(*ino) {
                    told.insert(*ino);
                }
            }
        }
        let mut changes = std::mem::take(&mut self.names);
        changes.append(&mut self.contents);
        let differs = |ino: &&Ino| {
            let (before, now) = (self.before.attributes(**ino), self.volume.attributes(**ino));
            before.is_some() && now.is_some() && before != now
        };
        let untold = attributes.iter().filter(|ino| !told.contains(ino)).filter(differs);
        changes.extend(untold.map(|ino| Change::Attributes { ino: *ino }));
        let is_rewound = |ino: &&Ino| match (self.before.inode(**ino), self.volume.inode(**ino)) {
            (Some(before), Some(now)) => now.is_rewound_from(before),
            _ => false,
        };
        changes.extend(attributes.iter().filter(is_rewound).map(|ino| Change::Rewound { ino: *ino }));
        changes.append(&mut self.lives);
        changes.append(&mut self.holders);
        changes
    }

    fn same_but_for_content(&self, ino: Ino) -> bool {
        match (self.before.inode(ino), self.volume.inode(ino)) {
            (Some(old), Some(new)) => {
                (old.mode, old.uid, old.gid, old.nlink, old.atime) == (new.mode, new.uid, new.gid, new.nlink, new.atime)
            }
            _ => false,
        }
    }

    /// Also below what is used.
    fn set_quotas(&mut self, QuotaChanges { bytes, inodes }: QuotaChanges) -> Reply {
        let options = &mut Arc::make_mut(&mut self.volume.header).options;
        match bytes {
            Some(ByteQuota::Unlimited) => options.quota_bytes = None,
            Some(ByteQuota::Bytes(quota)) => options.quota_bytes = Some(quota),
            None => {}
        }
        options.quota_inodes = inodes.unwrap_or(options.quota_inodes);
        self.touch(RowKey::Header);
        Reply::Done
    }

    /// Only what grows is refused: a volume that is over a limit can be brought below it again.
    fn check_quota(&self, before: &Volume) -> Result<(), Errno> {
        let (now, options) = (&self.volume, self.volume.options());
        let grows_beyond = |what: fn(&Volume) -> u64, most: u64| what(now) > what(before) && what(now) > most;
        if grows_beyond(Volume::bytes_used, options.quota_bytes.unwrap_or(u64::MAX))
            || grows_beyond(Volume::inode_count, options.quota_inodes)
        {
            return Err(Errno::EDQUOT);
        }
        let xattr_bytes = |volume: &Volume| volume.counters.xattr_bytes;
        if grows_beyond(Volume::inode_count, now.inodes_max())
            || grows_beyond(xattr_bytes, limits::XATTR_VOLUME_BYTES_MAX)
            || grows_beyond(Volume::further_extents, limits::EXTENTS_PER_VOLUME_MAX)
        {
            return Err(Errno::ENOSPC);
        }
        let extents = |volume: &Volume, ino| volume.inode(ino).and_then(Inode::extents).map_or(0, Extents::further);
        let inodes = self.touched.range(RowKey::Inode(Ino(0))..=RowKey::Inode(Ino(u64::MAX)));
        let is_too_many = |key: &RowKey| {
            let RowKey::Inode(ino) = *key else { return false };
            extents(now, ino) > limits::EXTENTS_PER_FILE_MAX && extents(now, ino) > extents(before, ino)
        };
        if inodes.into_iter().any(is_too_many) { Err(Errno::EFBIG) } else { Ok(()) }
    }

    // Looking things up.

    pub(super) fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.volume.inode(ino).ok_or(Errno::ESTALE)
    }

    /// The directory in which a name is to be made, changed or removed. One without a name of its own takes no entries
    /// and has none.
    pub(super) fn directory(&self, ino: Ino) -> Result<&Inode, Errno> {
        let inode = self.volume.inode(ino).ok_or(Errno::ENOENT)?;
        match (inode.is_directory(), inode.nlink) {
            (false, _) => Err(Errno::ENOTDIR),
            (true, 0) => Err(Errno::ENOENT),
            (true, _) => Ok(inode),
        }
    }

    pub(super) fn dirent(&self, directory: Ino, name: &Name) -> Option<DirentRow> {
        self.volume.dirents.get(&(directory, name.clone())).copied()
    }

    // Changing them. All changes of the tree go through these, so that every touched row is known.

    pub(super) fn touch(&mut self, key: RowKey) {
        self.touched.insert(key);
    }

    /// Rows that may differ.
    pub(super) fn touched(&self) -> usize {
        self.touched.len()
    }

    /// Changes an inode that exists.
    pub(super) fn change(&mut self, ino: Ino, change: impl FnOnce(&mut Inode)) {
        self.touched.insert(RowKey::Inode(ino));
        if let Some(inode) = self.volume.inodes.get_mut(&ino) {
            change(Arc::make_mut(inode));
        }
    }

    pub(super) fn put_inode(&mut self, ino: Ino, inode: Inode) {
        self.touched.insert(RowKey::Inode(ino));
        self.volume.inodes.insert(ino, Arc::new(inode));
    }

    pub(super) fn remove_inode(&mut self, ino: Ino) {
        self.touched.insert(RowKey::Inode(ino));
        self.volume.inodes.remove(&ino);
    }

    /// Marks a change of attributes: ctime never runs backwards and never stands still. Several of one entry count as
    /// one.
    pub(super) fn stamp_attributes(&mut self, ino: Ino) {
        self.stamp_attributes_at(ino, self.now);
    }

    /// The same for a change that was made at another time.
    pub(super) fn stamp_attributes_at(&mut self, ino: Ino, at: Timestamp) {
        let at = self.stamped(ino, at);
        let ctime = self.before.inode(ino).map_or(at, |inode| at.max(inode.ctime.next()));
        self.change(ino, |inode| inode.ctime = ctime);
    }

    /// Marks a change of content or entries: mtime changes, and ctime with it, which is never earlier. `at`: when it was
    /// made, where that is known.
    pub(super) fn stamp_content(&mut self, ino: Ino, at: Option<Timestamp>) {
        let at = self.stamped(ino, at.unwrap_or(self.now));
        let mtime = self.before.inode(ino).map_or(at, |inode| mtime_behind(inode.mtime, inode.ctime, at));
        self.change(ino, |inode| inode.mtime = mtime);
        self.stamp_attributes_at(ino, mtime.max(self.now));
    }

    /// What counts of the time that a mount stamped: its clock, if it is ahead, must not leave one which that of the cluster
    /// reaches in years only. Where the inode has such a time, each change that was buffered was a nanosecond later.
    fn stamped(&self, ino: Ino, at: Timestamp) -> Timestamp {
        let own = self.before.inode(ino).map_or(self.now, |inode| inode.ctime.after(BUFFERED_CHANGES));
        at.min(own.max(self.now.after(limits::STAMP_LEAD_MAX)))
    }

    /// Makes the name mean the inode. A name that exists keeps its cookie.
    pub(super) fn put_name(&mut self, directory: Ino, name: &Name, ino: Ino, kind: FileKind) {
        let before = self.dirent(directory, name);
        let cookie = before.map_or_else(|| self.new_cookie(directory, name), |dirent| dirent.cookie);
        self.touched.insert(RowKey::Dirent(directory, name.clone()));
        self.volume.dirents.insert((directory, name.clone()), DirentRow { ino, cookie, kind });
        if let Some(dirent) = before {
            self.volume.companions.remove(dirent.ino, name);
        }
        self.volume.companions.add(ino, name);
        self.tell_name(directory, name, before.map(|dirent| dirent.ino), Some(ino));
    }

    pub(super) fn remove_name(&mut self, directory: Ino, name: &Name) {
        self.touched.insert(RowKey::Dirent(directory, name.clone()));
        if let Some(dirent) = self.volume.dirents.remove(&(directory, name.clone())) {
            self.volume.cookies.remove(&(directory, dirent.cookie));
            self.volume.companions.remove(dirent.ino, name);
            self.tell_name(directory, name, Some(dirent.ino), None);
        }
    }

    pub(super) fn tell_content(&mut self, ino: Ino, offset: u64, length: u64) {
        self.contents.push(Change::Content { ino, offset, length });
    }

    pub(super) fn tell_life(&mut self, change: Change) {
        self.lives.push(change);
    }

    pub(super) fn tell_holder(&mut self, change: Change) {
        self.holders.push(change);
    }

    /// Makes a range of a file a hole.
    pub(super) fn cut(&mut self, ino: Ino, from: u64, to: u64) {
        let mut taken = 0;
        self.change_extents(ino, |extents, offsets| {
            extents.cut(from, to, offsets);
            taken = offsets.len();
        });
        self.extents_left = self.extents_left.saturating_sub(taken);
    }

    /// Gives a range of a file, which must be a hole, content, or reserves it.
    pub(super) fn fill(&mut self, ino: Ino, extent: Extent) {
        self.change_extents(ino, |extents, offsets| extents.join(extent, offsets));
    }

    /// Moves what lies behind `from` (nothing straddles it) to the front or to the end.
    pub(super) fn shift(&mut self, ino: Ino, from: u64, distance: u64, to_front: bool) {
        self.change_extents(ino, |extents, offsets| extents.shift(from, distance, to_front, offsets));
    }

    /// Makes an extent end at `at` and another begin there, where one straddles it.
    pub(super) fn split(&mut self, ino: Ino, at: u64) {
        self.change_extents(ino, |extents, offsets| extents.split(at, offsets));
    }

    /// Changes a file's extents; `change` lists the offsets of those that may differ. What they count for follows.
    fn change_extents(&mut self, ino: Ino, change: impl FnOnce(&mut Extents, &mut BTreeSet<u64>)) {
        let mut offsets = BTreeSet::new();
        let counters = &mut self.volume.counters;
        if let Some(inode) = self.volume.inodes.get_mut(&ino)
            && let Body::File { extents, bytes } = &mut Arc::make_mut(inode).body
        {
            let before = extents.clone();
            change(extents, &mut offsets);
            let ((old, old_reserved), (new, new_reserved)) = (before.bytes_at(&offsets), extents.bytes_at(&offsets));
            *bytes = *bytes - old + new;
            counters.bytes_used = counters.bytes_used - old + new;
            counters.reserved_bytes = counters.reserved_bytes - old_reserved + new_reserved;
            counters.further_extents = counters.further_extents - before.further() + extents.further();
        }
        self.touch(RowKey::Inode(ino));
        self.touched.extend(offsets.into_iter().map(|offset| RowKey::Extent(ino, offset)));
    }

    fn tell_name(&mut self, parent: Ino, name: &Name, before: Option<Ino>, now: Option<Ino>) {
        self.names.push(Change::Name { parent, name: name.clone(), before, now });
    }

    fn new_cookie(&mut self, directory: Ino, name: &Name) -> u64 {
        let cookie = cookie::place(name, |cookie| self.volume.cookies.contains_key(&(directory, cookie)));
        self.volume.cookies.insert((directory, cookie), name.clone());
        cookie
    }
}
