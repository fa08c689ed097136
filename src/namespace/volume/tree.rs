//! Names: making, linking, removing and renaming. The order of checks is that of Linux (fs/namei.c), which the kernel
//! has gone through already with what it had cached; here it is gone through with the truth.

use super::draft::Draft;
use crate::{
    limits,
    namespace::{
        Change, NewNode, RenameMode, Reply, acl,
        extent::Extents,
        inode::{Body, DIRECTORY_SIZE, Inode},
        row::{DirentRow, RowKey},
    },
    types::{Errno, FileKind, Ino, Name},
};

/// Kept free in the root of every volume.
const SNAPSHOTS: &[u8] = b".snapshots";

impl Draft {
    /// Mode, umask, uid and gid as asked for. A setgid parent overrides the gid and hands its setgid bit on to a
    /// directory; a parent's default ACL limits the mode in the umask's place and is handed on.
    pub(super) fn make(
        &mut self,
        parent: Ino,
        name: &Name,
        node: &NewNode,
        (mode, umask, uid, gid): (u16, u16, u32, u32),
    ) -> Result<Reply, Errno> {
        self.directory(parent)?;
        self.free_name(parent, name)?;
        let (ino, kind) = self.make_inode(parent, node, (mode, umask, uid, gid))?;
        self.put_name(parent, name, ino, kind);
        if kind == FileKind::Directory {
            self.change(parent, |parent| parent.nlink += 1);
        }
        self.stamp_content(parent, None);
        Ok(Reply::Made { ino })
    }

    /// A file that nobody can find: mode and owner as in `make`.
    pub(super) fn make_unnamed(&mut self, parent: Ino, asked: (u16, u16, u32, u32)) -> Result<Reply, Errno> {
        let (ino, _) = self.make_inode(parent, &NewNode::File, asked)?;
        self.change(ino, |inode| inode.nlink = 0);
        self.is_orphaned(ino);
        Ok(Reply::Made { ino })
    }

    /// An inode with all that it inherits from the directory, and without a name.
    fn make_inode(
        &mut self,
        parent: Ino,
        node: &NewNode,
        (mode, umask, uid, gid): (u16, u16, u32, u32),
    ) -> Result<(Ino, FileKind), Errno> {
        let (parent_mode, parent_gid) = self.directory(parent).map(|directory| (directory.mode, directory.gid))?;
        let ino = self.new_ino()?;
        let now = self.now;
        let (kind, size, rdev, body) = match node {
            NewNode::File => (FileKind::File, 0, 0, Body::File { extents: Extents::None, bytes: 0 }),
            NewNode::Directory => (FileKind::Directory, DIRECTORY_SIZE, 0, Body::Directory { parent }),
            NewNode::Symlink { target } => {
                check_target(target)?;
                (FileKind::Symlink, target.len() as u64, 0, Body::Symlink { target: target.clone() })
            }
            NewNode::Fifo => (FileKind::Fifo, 0, 0, Body::Special),
            NewNode::Socket => (FileKind::Socket, 0, 0, Body::Special),
            NewNode::CharDevice { rdev } => (FileKind::CharDevice, 0, *rdev, Body::Special),
            NewNode::BlockDevice { rdev } => (FileKind::BlockDevice, 0, *rdev, Body::Special),
        };
        let is_directory = kind == FileKind::Directory;
        let mut mode = if kind == FileKind::Symlink { 0o777 } else { mode & 0o7777 };
        let gid = if parent_mode & 0o2000 == 0 { gid } else { parent_gid };
        if is_directory && parent_mode & 0o2000 != 0 {
            mode |= 0o2000;
        }
        let inherited = if kind == FileKind::Symlink { None } else { self.default_acl(parent) };
        let mut access = None;
        match &inherited {
            Some(default) => (mode, access) = default.inherit(mode),
            None if kind != FileKind::Symlink => mode &= !(umask & 0o777),
            None => {}
        }
        let nlink = if is_directory { 2 } else { 1 };
        let (atime, mtime, ctime) = (now, now, now);
        self.put_inode(
            ino,
            Inode { kind, mode, uid, gid, nlink, rdev, size, atime, mtime, ctime, data_version: 0, body },
        );
        if let Some(access) = access {
            self.put_xattr(ino, acl::access_name(), access.encode());
        }
        if let (true, Some(default)) = (is_directory, inherited) {
            self.put_xattr(ino, acl::default_name(), default.encode());
        }
        Ok((ino, kind))
    }

    /// `may_be_unnamed`: what has no name may get one.
    pub(super) fn link(&mut self, ino: Ino, parent: Ino, name: &Name, may_be_unnamed: bool) -> Result<Reply, Errno> {
        let inode = self.inode(ino)?;
        let (kind, nlink) = (inode.kind, inode.nlink);
        self.directory(parent)?;
        self.free_name(parent, name)?;
        match (kind, nlink) {
            (FileKind::Directory, _) => return Err(Errno::EPERM),
            (_, 0) if !may_be_unnamed => return Err(Errno::ENOENT),
            (_, nlink) if nlink >= limits::LINKS_MAX => return Err(Errno::EMLINK),
            _ => {}
        }
        if self.volume.orphans.remove(&ino).is_some() {
            self.touch(RowKey::Orphan(ino));
        }
        self.put_name(parent, name, ino, kind);
        self.change(ino, |inode| inode.nlink += 1);
        self.stamp_attributes(ino);
        self.stamp_content(parent, None);
        Ok(Reply::Made { ino })
    }

    pub(super) fn unlink(&mut self, parent: Ino, name: &Name) -> Result<Reply, Errno> {
        self.directory(parent)?;
        let dirent = self.dirent(parent, name).ok_or(Errno::ENOENT)?;
        if dirent.kind == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        self.remove_name(parent, name);
        self.stamp_content(parent, None);
        self.drop_link(dirent);
        Ok(Reply::Done)
    }

    pub(super) fn rmdir(&mut self, parent: Ino, name: &Name) -> Result<Reply, Errno> {
        self.directory(parent)?;
        let dirent = self.dirent(parent, name).ok_or(Errno::ENOENT)?;
        if dirent.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if !self.volume.is_empty_directory(dirent.ino) {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove_name(parent, name);
        self.change(parent, |parent| parent.nlink -= 1);
        self.stamp_content(parent, None);
        self.drop_link(dirent);
        Ok(Reply::Done)
    }

    pub(super) fn rename(
        &mut self,
        (from, from_name): (Ino, &Name),
        (to, to_name): (Ino, &Name),
        mode: RenameMode,
    ) -> Result<Reply, Errno> {
        self.directory(from)?;
        self.directory(to)?;
        let moved = self.dirent(from, from_name).ok_or(Errno::ENOENT)?;
        let target = self.dirent(to, to_name);
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT),
            (_, None) if is_reserved(to, to_name) => return Err(Errno::EPERM),
            _ => {}
        }
        let moves_directory = moved.kind == FileKind::Directory;
        if moves_directory && self.is_within(to, moved.ino) {
            return Err(Errno::EINVAL);
        }
        let over_directory = target.is_some_and(|target| target.kind == FileKind::Directory);
        if let Some(target) = target {
            if over_directory && self.is_within(from, target.ino) {
                let exchange = mode == RenameMode::Exchange;
                return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
            }
            // Two names of one inode: POSIX asks for nothing to be done.
            if target.ino == moved.ino {
                return Ok(Reply::Done);
            }
        }
        match (mode, target) {
            (RenameMode::Exchange, Some(target)) => {
                self.put_name(from, from_name, target.ino, target.kind);
                self.put_name(to, to_name, moved.ino, moved.kind);
                self.change_parent(target, to, from);
            }
            (_, target) => {
                if let Some(target) = target {
                    match (moves_directory, over_directory) {
                        (true, false) => return Err(Errno::ENOTDIR),
                        (false, true) => return Err(Errno::EISDIR),
                        (true, true) if !self.volume.is_empty_directory(target.ino) => return Err(Errno::ENOTEMPTY),
                        _ => {}
                    }
                }
                self.remove_name(from, from_name);
                self.put_name(to, to_name, moved.ino, moved.kind);
                if over_directory {
                    self.change(to, |to| to.nlink -= 1);
                }
            }
        }
        self.change_parent(moved, from, to);
        self.stamp_content(from, None);
        if from != to {
            self.stamp_content(to, None);
        }
        self.stamp_attributes(moved.ino);
        match (mode, target) {
            (RenameMode::Exchange, Some(target)) => self.stamp_attributes(target.ino),
            (_, Some(target)) => self.drop_link(target),
            (_, None) => {}
        }
        Ok(Reply::Done)
    }

    /// EEXIST where the name is taken, EPERM where it is kept free.
    fn free_name(&self, parent: Ino, name: &Name) -> Result<(), Errno> {
        if self.dirent(parent, name).is_some() {
            return Err(Errno::EEXIST);
        }
        if is_reserved(parent, name) { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn new_ino(&mut self) -> Result<Ino, Errno> {
        let ino = self.volume.counters.next_ino;
        if ino >> Ino::LIVE_BITS != 0 {
            return Err(Errno::ENOSPC);
        }
        self.volume.counters.next_ino += 1;
        Ok(Ino(ino))
    }

    /// Whether the directory is `ancestor` or lies below it.
    fn is_within(&self, directory: Ino, ancestor: Ino) -> bool {
        let mut at = directory;
        loop {
            if at == ancestor {
                return true;
            }
            match self.volume.parent(at) {
                Some(parent) if parent != at => at = parent,
                _ => return false,
            }
        }
    }

    /// A directory's `..` and the link counts that follow from it.
    fn change_parent(&mut self, moved: DirentRow, from: Ino, to: Ino) {
        if moved.kind != FileKind::Directory || from == to {
            return;
        }
        self.change(from, |from| from.nlink -= 1);
        self.change(to, |to| to.nlink += 1);
        self.change(moved.ino, |inode| {
            if let Body::Directory { parent } = &mut inode.body {
                *parent = to;
            }
        });
    }

    /// A name of the inode is gone; with the last one it becomes an orphan. An empty directory has no last but one.
    fn drop_link(&mut self, dirent: DirentRow) {
        let is_directory = dirent.kind == FileKind::Directory;
        let mut nlink = 0;
        self.change(dirent.ino, |inode| {
            inode.nlink = if is_directory { 0 } else { inode.nlink - 1 };
            nlink = inode.nlink;
        });
        self.stamp_attributes(dirent.ino);
        if nlink == 0 {
            self.is_orphaned(dirent.ino);
        }
    }

    fn is_orphaned(&mut self, ino: Ino) {
        self.touch(RowKey::Orphan(ino));
        self.volume.orphans.insert(ino, self.index);
        self.tell_life(Change::Orphaned { ino });
    }
}

fn is_reserved(parent: Ino, name: &Name) -> bool {
    parent == Ino::ROOT && name.as_bytes() == SNAPSHOTS
}

fn check_target(target: &[u8]) -> Result<(), Errno> {
    match target {
        [] => Err(Errno::ENOENT),
        target if target.len() > limits::SYMLINK_BYTES_MAX => Err(Errno::ENAMETOOLONG),
        target if target.contains(&0) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}
