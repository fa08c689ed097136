//! One volume's part of the state: a tree, its content's extents, its sessions and their replies.

use std::{collections::BTreeSet, fmt, sync::Arc};

use bytes::Bytes;
use imbl::OrdMap;

use super::{
    Applied, Companion, Delegation, Effects, Entry, Reply, VolumeOptions,
    companion::Companions,
    extent::Extent,
    inode::{Body, DIRECTORY_SIZE, Inode},
    locks::LockTable,
    row::{self, CountersRow, DirentRow, HeaderRow, ReplyRow},
    session::Session,
};
use crate::{
    limits,
    types::{
        Attributes, Errno, FileKind, Ino, LogIndex, MountId, Name, Sequence, SessionId, Space, Stamp, VolumeId,
        VolumeSpace, XattrName,
    },
};

mod attributes;
mod calls;
mod content;
mod delegation;
mod draft;
mod load;
mod locking;
mod rows;
mod shrinking;
mod tree;

pub(super) use load::Loader;

/// One tree with its own root, quota and sessions, as a value: a clone is O(1) and stays as it was.
#[derive(Clone)]
pub struct Volume {
    id: VolumeId,
    header: Arc<HeaderRow>,
    counters: CountersRow,
    inodes: OrdMap<Ino, Arc<Inode>>,
    dirents: OrdMap<(Ino, Name), DirentRow>,
    /// The names of each directory in the order of their cookies.
    cookies: OrdMap<(Ino, u64), Name>,
    companions: Companions,
    xattrs: OrdMap<(Ino, XattrName), Bytes>,
    sessions: OrdMap<SessionId, Arc<Session>>,
    mounts: OrdMap<MountId, SessionId>,
    replies: OrdMap<(SessionId, Sequence), ReplyRow>,
    orphans: OrdMap<Ino, LogIndex>,
    delegations: OrdMap<Ino, Delegation>,
    locks: LockTable,
    digest: u128,
}

impl Volume {
    /// An empty tree, made by the entry with this stamp.
    #[must_use]
    pub fn new(id: VolumeId, name: String, options: VolumeOptions, stamp: Stamp) -> Self {
        let now = stamp.into();
        let root = Inode {
            kind: FileKind::Directory,
            mode: options.mode & 0o7777,
            uid: options.uid,
            gid: options.gid,
            nlink: 2,
            rdev: 0,
            size: DIRECTORY_SIZE,
            atime: now,
            mtime: now,
            ctime: now,
            data_version: 0,
            body: Body::Directory { parent: Ino::ROOT },
        };
        let mut volume = Self {
            id,
            header: Arc::new(HeaderRow { name, options, created: stamp, is_deleted: false }),
            counters: CountersRow {
                applied: LogIndex(0),
                stamp,
                next_ino: Ino::ROOT.0 + 1,
                next_session: 1,
                bytes_used: 0,
                reserved_bytes: 0,
                xattr_bytes: 0,
                further_extents: 0,
            },
            inodes: OrdMap::unit(Ino::ROOT, Arc::new(root)),
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
        };
        volume.digest =
            volume.rows().fold(0, |digest: u128, (key, value)| digest.wrapping_add(row::row_digest(&key, &value)));
        volume
    }

    /// Carries the entry out. Total: a refusal is an errno in the outcome and leaves the tree as it was.
    ///
    /// The counters' row (applied index, stamp) changes with every entry, also with a refused or repeated one; apart
    /// from it and from pruned replies a repeated call has no effects. Entries of the cluster part are EINVAL here,
    /// entries of another volume ENODEV.
    pub fn apply(&mut self, index: LogIndex, entry: &Entry) -> Applied {
        if entry.header.volume != self.id {
            return Applied::refused(Errno::ENODEV);
        }
        let mut draft = draft::Draft::new(self, index, entry.header.stamp);
        let verdict = draft.carry_out(entry);
        let (volume, effects) = draft.finish();
        *self = volume;
        Applied { outcome: verdict.outcome, session: verdict.session, repeated: verdict.repeated, effects }
    }

    /// Takes away the next rows of a volume that is deleted, or deletes it and takes the first. Where nothing `is_bare`
    /// of, the volume has no more than its own two rows.
    pub(super) fn shrink(&mut self, index: LogIndex, stamp: Stamp) -> Effects {
        let mut draft = draft::Draft::new(self, index, stamp);
        draft.shrink();
        let (volume, effects) = draft.finish();
        *self = volume;
        effects
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.header.is_deleted
    }

    #[must_use]
    pub const fn id(&self) -> VolumeId {
        self.id
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.header.name
    }

    #[must_use]
    pub fn options(&self) -> &VolumeOptions {
        &self.header.options
    }

    /// The last entry of this volume that was applied.
    #[must_use]
    pub const fn applied(&self) -> LogIndex {
        self.counters.applied
    }

    /// The stamp of the volume's last entry.
    #[must_use]
    pub const fn last_stamp(&self) -> Stamp {
        self.counters.stamp
    }

    /// The same on every replica at every index, also on one that was made from rows.
    #[must_use]
    pub const fn digest(&self) -> u128 {
        self.digest
    }

    /// Living inodes and orphans.
    #[must_use]
    pub fn inode_count(&self) -> u64 {
        self.inodes.len() as u64
    }

    /// What counts for the quota: bytes of all files' content, where a block that several extents name counts for each, what
    /// is reserved for content, and all extended attributes.
    #[must_use]
    pub const fn bytes_used(&self) -> u64 {
        self.counters.bytes_used + self.counters.xattr_bytes
    }

    /// Bytes that are reserved for content to come.
    #[must_use]
    pub const fn reserved_bytes(&self) -> u64 {
        self.counters.reserved_bytes
    }

    /// Extents of all files, but the first of each: what `limits::EXTENTS_PER_VOLUME_MAX` bounds.
    #[must_use]
    pub const fn further_extents(&self) -> u64 {
        self.counters.further_extents
    }

    /// Inodes that the volume may have.
    #[must_use]
    pub fn inodes_max(&self) -> u64 {
        self.options().quota_inodes.min(limits::INODES_MAX)
    }

    /// Inodes and bytes as statfs(2) shows them of a volume on stores with this space: what it uses itself and what it can
    /// still have. What others have on the same disks is not its own, and so no part of its size.
    #[must_use]
    pub fn space(&self, stores: Space) -> VolumeSpace {
        let used = self.bytes_used();
        let left = self.options().quota_bytes.map_or(u64::MAX, |quota| quota.saturating_sub(used));
        let available = stores.available.min(left);
        let bytes = Space { total: used.saturating_add(available), available };
        let inodes_free = self.inodes_max().saturating_sub(self.inode_count());
        let inodes_free = inodes_free.min(stores.available / limits::INODE_BYTES);
        VolumeSpace { bytes, inodes: self.inode_count() + inodes_free, inodes_free }
    }

    /// A living inode or an orphan.
    #[must_use]
    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(&ino).map(Arc::as_ref)
    }

    #[must_use]
    pub fn attributes(&self, ino: Ino) -> Option<Attributes> {
        self.inode(ino).map(|inode| inode.attributes(ino))
    }

    #[must_use]
    pub fn lookup(&self, parent: Ino, name: &Name) -> Option<Ino> {
        self.dirents.get(&(parent, name.clone())).map(|dirent| dirent.ino)
    }

    /// The directory that names this one; the root names itself. `None` for what is no directory, and for an orphan
    /// whose parent is gone.
    #[must_use]
    pub fn parent(&self, directory: Ino) -> Option<Ino> {
        match self.inode(directory)?.body {
            Body::Directory { parent, .. } => Some(parent).filter(|parent| self.inodes.contains_key(parent)),
            _ => None,
        }
    }

    /// The entries behind the cookie (0: all), in the order of their cookies, without `.` and `..`, which have the
    /// cookies 1 and 2. An entry keeps its cookie while its name lives, and the name has it again when it comes again.
    pub fn entries_after(&self, directory: Ino, cookie: u64) -> impl Iterator<Item = (u64, &Name, Ino, FileKind)> + '_ {
        let from = (directory, cookie.saturating_add(1));
        self.cookies.range(from..=(directory, u64::MAX)).filter_map(move |((directory, cookie), name)| {
            let dirent = self.dirents.get(&(*directory, name.clone()))?;
            Some((*cookie, name, dirent.ino, dirent.kind))
        })
    }

    /// Whether a name of the inode ends so.
    #[must_use]
    pub fn is_companion(&self, ino: Ino, companion: Companion) -> bool {
        self.companions.contains(ino, companion)
    }

    /// The extents that share a byte with the range, in order, uncut; also those for which space is only reserved.
    pub fn extents(&self, ino: Ino, offset: u64, length: u64) -> impl Iterator<Item = Extent> + '_ {
        let extents = self.inode(ino).and_then(Inode::extents);
        extents.into_iter().flat_map(move |extents| extents.overlapping(offset, offset.saturating_add(length)))
    }

    /// Bytes of the range that are a hole: what fallocate(2) would have to reserve.
    #[must_use]
    pub fn holes(&self, ino: Ino, offset: u64, length: u64) -> u64 {
        let extents = self.inode(ino).and_then(Inode::extents);
        let holes = extents.into_iter().flat_map(|extents| extents.holes(offset, offset.saturating_add(length)));
        holes.map(|(from, to)| to - from).sum()
    }

    /// Bytes of the range that are reserved.
    #[must_use]
    pub fn reserved_in(&self, ino: Ino, offset: u64, length: u64) -> u64 {
        if self.reserved_bytes() == 0 {
            return 0;
        }
        let extents = self.inode(ino).and_then(Inode::extents);
        let parts = extents.into_iter().flat_map(|extents| extents.parts(offset, offset.saturating_add(length)));
        parts.filter(|part| part.block.is_none()).map(|part| part.length).sum()
    }

    #[must_use]
    pub fn xattr(&self, ino: Ino, name: &XattrName) -> Option<&Bytes> {
        self.xattrs.get(&(ino, name.clone()))
    }

    /// In the order of the names.
    pub fn xattrs(&self, ino: Ino) -> impl Iterator<Item = (&XattrName, &Bytes)> + '_ {
        self.xattrs
            .range((ino, row::smallest_xattr_name())..)
            .take_while(move |((of, _), _)| *of == ino)
            .map(|((_, name), value)| (name, value))
    }

    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> + '_ {
        self.sessions.iter().map(|(id, session)| (*id, session.as_ref()))
    }

    /// Whether the session was ever opened; it may have ended.
    #[must_use]
    pub const fn has_opened(&self, session: SessionId) -> bool {
        session.0 < self.counters.next_session
    }

    #[must_use]
    pub fn session_of(&self, mount: MountId) -> Option<SessionId> {
        self.mounts.get(&mount).copied()
    }

    /// The reply table: which entry carried the call out, and what it was answered.
    #[must_use]
    pub fn reply(&self, session: SessionId, sequence: Sequence) -> Option<(LogIndex, Result<Reply, Errno>)> {
        self.replies.get(&(session, sequence)).map(|reply| (reply.index, reply.outcome))
    }

    #[must_use]
    pub fn is_orphan(&self, ino: Ino) -> bool {
        self.orphans.contains_key(&ino)
    }

    /// Inodes without a name, and the entry that took the last one.
    pub fn orphans(&self) -> impl Iterator<Item = (Ino, LogIndex)> + '_ {
        self.orphans.iter().map(|(ino, since)| (*ino, *since))
    }

    /// Who may buffer changes of the file.
    #[must_use]
    pub fn delegation(&self, ino: Ino) -> Option<Delegation> {
        if self.delegations.is_empty() { None } else { self.delegations.get(&ino).copied() }
    }

    pub fn delegations(&self) -> impl Iterator<Item = (Ino, Delegation)> + '_ {
        self.delegations.iter().map(|(ino, delegation)| (*ino, *delegation))
    }

    /// Sessions that hold anything which ends with their hold time.
    #[must_use]
    pub fn holders(&self) -> BTreeSet<SessionId> {
        self.delegations.values().map(|delegation| delegation.session).chain(self.locks.sessions()).collect()
    }

    /// Whether the session has something still that its holds' end has not come to: what it did under that is refused
    /// already (`Draft::end_holds`).
    #[must_use]
    pub fn has_remnants(&self, session: SessionId) -> bool {
        let Some(since) = self.session(session).map(|session| session.holds_since) else { return false };
        let is_older = |delegation: &Delegation| delegation.session == session && delegation.grant <= since;
        self.delegations.values().any(is_older) || self.locks.has_older(session, since)
    }

    /// flock and fcntl locks, whose turn it is to have a file open, and who waits for these.
    #[must_use]
    pub const fn locks(&self) -> &LockTable {
        &self.locks
    }

    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<&Session> {
        self.sessions.get(&session).map(Arc::as_ref)
    }

    /// The extents of all files.
    pub(super) fn all_extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.inodes.values().filter_map(|inode| inode.extents()).flat_map(super::extent::Extents::iter)
    }

    fn is_empty_directory(&self, directory: Ino) -> bool {
        self.cookies.range((directory, 0)..=(directory, u64::MAX)).next().is_none()
    }
}

/// Short: a volume may have millions of rows.
impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume")
            .field("id", &self.id)
            .field("name", &self.header.name)
            .field("applied", &self.counters.applied)
            .field("inodes", &self.inodes.len())
            .field("digest", &format_args!("{:032x}", self.digest))
            .finish_non_exhaustive()
    }
}

impl Applied {
    /// A refusal that changed nothing at all.
    pub(super) fn refused(errno: Errno) -> Self {
        Self { outcome: Err(errno), session: None, repeated: false, effects: Effects::default() }
    }
}
