//! Requests that look and change nothing: answered at once, from the replica and this mount's own unflushed bytes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{Caller, DirectoryEntry, Mount, OpenedAs, Request, Response};
use crate::types::{Attributes, Errno, FileKind, Ino, Name, XattrName};

/// How the names of POSIX access control lists begin (acl(5)).
const ACL_PREFIX: &[u8] = b"system.posix_acl_";

impl Mount {
    pub(super) fn look(&mut self, caller: Caller, request: Request) -> Result<Response, Errno> {
        match request {
            Request::Lookup { parent, name } => self.lookup(caller, parent, &name),
            Request::ByHandle { ino } => self.by_number(caller, ino),
            Request::Parent { ino } => {
                let parent = self.volume().parent(ino).ok_or(Errno::ENOENT)?;
                self.by_number(caller, parent)
            }
            Request::Getattr { ino, for_read } => {
                let mut attributes = self.attributes(ino).ok_or(Errno::ENOENT)?;
                let ttl = self.attributes_ttl(caller, ino);
                if for_read && ttl == Duration::ZERO {
                    attributes.mtime = self.mtime_for_read(ino, attributes.mtime);
                }
                Ok(Response::Attributes { attributes, ttl })
            }
            Request::Readlink { ino } => {
                let inode = self.volume().inode(ino).ok_or(Errno::ENOENT)?;
                let target = inode.symlink_target().ok_or(Errno::EINVAL)?;
                Ok(Response::Data(vec![target.clone()]))
            }
            Request::Opendir { ino } => self.opendir(ino),
            Request::Releasedir { .. } | Request::Fsyncdir { .. } => Ok(Response::Done),
            Request::Readdir { ino, offset, length } => self.readdir(ino, offset, length),
            Request::Statfs => Ok(Response::Statfs(self.volume().space(self.client.space()))),
            Request::Getxattr { ino, name, length } => self.getxattr(ino, &name, length),
            Request::Listxattr { ino, length } => self.listxattr(ino, length),
            Request::SeekData { ino, offset } => {
                let size = self.seekable(ino, offset)?;
                let (begin, _) =
                    self.data_behind(ino, offset).filter(|(begin, _)| *begin < size).ok_or(Errno::ENXIO)?;
                Ok(Response::Offset(begin))
            }
            Request::SeekHole { ino, offset } => {
                let size = self.seekable(ino, offset)?;
                let mut at = offset;
                while let Some((begin, end)) = self.data_behind(ino, at)
                    && begin == at
                    && at < size
                {
                    at = end;
                }
                Ok(Response::Offset(at.min(size)))
            }
            // All others are dispatched before they come here.
            _ => Err(Errno::ENOSYS),
        }
    }

    /// A reply gives the kernel the inode.
    pub(super) fn hand_out(&mut self, attributes: &Attributes) {
        let is_behind = self.is_delegated_elsewhere(attributes.ino);
        self.kernel.hand_out(attributes, is_behind);
        if attributes.kind == FileKind::File {
            self.handles.file_known(attributes.ino);
        }
    }

    pub(super) fn forget(&mut self, inodes: &[(Ino, u64)]) {
        for (ino, count) in inodes {
            if self.kernel.forget(*ino, *count) {
                if self.handles.file_forgotten(*ino) {
                    self.tidy(*ino);
                }
                self.release_orphan(*ino);
            }
        }
    }

    /// Whether this mount still needs an inode that has no name any more. One that the kernel has not forgotten may be
    /// a working directory, a bind mount or an O_PATH descriptor: the kernel tells of none of these. A file that is
    /// being created is open before the kernel knows it.
    pub(super) fn is_in_use(&self, ino: Ino) -> bool {
        self.volume().inode(ino).is_some() && (self.kernel.is_known(ino) || self.handles.is_open(ino))
    }

    fn lookup(&mut self, caller: Caller, parent: Ino, name: &Name) -> Result<Response, Errno> {
        let directory = self.volume().inode(parent).ok_or(Errno::ENOENT)?;
        if directory.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let entry_ttl = self.entry_ttl(parent, name);
        let found = self.volume().lookup(parent, name);
        let Some(attributes) = found.and_then(|ino| self.attributes(ino)) else {
            let is_remembered = entry_ttl > Duration::ZERO
                && (self.config.kernel.inc_epoch || self.kernel.remember_missing(parent, name));
            return Ok(Response::Missing { ttl: if is_remembered { entry_ttl } else { Duration::ZERO } });
        };
        let attributes_ttl = self.attributes_ttl(caller, attributes.ino);
        self.hand_out(&attributes);
        Ok(Response::Entry { attributes, entry_ttl, attributes_ttl })
    }

    /// The kernel keeps no name of it (`fuse_get_dentry`, fs/fuse/inode.c), and takes ENOENT for a stale handle.
    fn by_number(&mut self, caller: Caller, ino: Ino) -> Result<Response, Errno> {
        // The leader may have been told that one without a name is not in use here any more.
        let is_kept = |attributes: &Attributes| attributes.nlink > 0 || self.is_in_use(ino);
        let attributes = self.attributes(ino).filter(is_kept).ok_or(Errno::ENOENT)?;
        let attributes_ttl = self.attributes_ttl(caller, ino);
        self.hand_out(&attributes);
        Ok(Response::Entry { attributes, entry_ttl: Duration::ZERO, attributes_ttl })
    }

    fn opendir(&self, ino: Ino) -> Result<Response, Errno> {
        match self.volume().inode(ino).map(|inode| inode.kind) {
            Some(FileKind::Directory) => {
                let is_current = !self.kernel.is_inode_uncacheable(ino);
                Ok(Response::Opened(OpenedAs {
                    keep_cache: is_current,
                    cache_dir: is_current && self.is_fresh,
                    ..OpenedAs::default()
                }))
            }
            Some(_) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn readdir(&mut self, ino: Ino, offset: u64, length: u32) -> Result<Response, Errno> {
        let volume = self.volume();
        let inode = volume.inode(ino).ok_or(Errno::ENOENT)?;
        if inode.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let parent = volume.parent(ino).unwrap_or(ino);
        let dot = |cookie, name: &'static [u8], ino| (cookie, Bytes::from_static(name), ino, FileKind::Directory);
        let dots = [dot(1, b".", ino), dot(2, b"..", parent)].into_iter().filter(|(cookie, ..)| *cookie > offset);
        let entries = volume
            .entries_after(ino, offset.max(2))
            .map(|(cookie, name, ino, kind)| (cookie, Bytes::copy_from_slice(name.as_bytes()), ino, kind));
        let mut room = length as usize;
        let mut listed = Vec::new();
        for (cookie, name, ino, kind) in dots.chain(entries) {
            let Some(left) = room.checked_sub(entry_bytes(&name)) else { break };
            room = left;
            listed.push(DirectoryEntry { ino, cookie, kind, name });
        }
        self.kernel.gave_entries(ino, self.now);
        Ok(Response::Directory(listed))
    }

    fn getxattr(&mut self, ino: Ino, name: &XattrName, length: u32) -> Result<Response, Errno> {
        if name.as_bytes().starts_with(ACL_PREFIX) {
            // The kernel keeps lists, and that there is none, until it is told to forget attributes.
            self.kernel.gave_lists(ino);
        }
        if self.volume().inode(ino).is_none() {
            return Err(Errno::ENOENT);
        }
        let value = self.volume().xattr(ino, name).filter(|_| self.shows_xattr(ino, name)).ok_or(Errno::ENODATA)?;
        sized(value.clone(), length)
    }

    /// No capabilities where what was written is yet to be applied.
    fn shows_xattr(&self, ino: Ino, name: &XattrName) -> bool {
        !(name.is_capability() && self.files.ends_capabilities(ino))
    }

    fn listxattr(&self, ino: Ino, length: u32) -> Result<Response, Errno> {
        if self.volume().inode(ino).is_none() {
            return Err(Errno::ENOENT);
        }
        let mut names = BytesMut::new();
        for (name, _) in self.volume().xattrs(ino).filter(|(name, _)| self.shows_xattr(ino, name)) {
            names.extend_from_slice(name.as_bytes());
            names.extend_from_slice(&[0]);
        }
        sized(names.freeze(), length)
    }

    /// The size of a file in which `offset` lies.
    fn seekable(&self, ino: Ino, offset: u64) -> Result<u64, Errno> {
        match self.volume().inode(ino).map(|inode| inode.kind) {
            Some(FileKind::File) => {}
            Some(_) => return Err(Errno::EINVAL),
            None => return Err(Errno::ESTALE),
        }
        let size = self.size(ino);
        if offset < size { Ok(size) } else { Err(Errno::ENXIO) }
    }
}

/// Bytes of an entry in the reply to READDIR (FUSE_DIRENT_SIZE in `fuse.h`).
fn entry_bytes(name: &Bytes) -> usize {
    (24 + name.len()).next_multiple_of(8)
}

/// The answer to getxattr and listxattr: the size alone when `length` is 0, ERANGE when there is less room than needed.
fn sized(data: Bytes, length: u32) -> Result<Response, Errno> {
    let size = u32::try_from(data.len()).map_err(|_| Errno::E2BIG)?;
    match length {
        0 => Ok(Response::Size(size)),
        room if room < size => Err(Errno::ERANGE),
        _ => Ok(Response::Data(vec![data])),
    }
}
