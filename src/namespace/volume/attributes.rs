//! setattr and extended attributes. Who may is the kernel's business; here only what can be.

use bytes::Bytes;

use super::draft::Draft;
use crate::{
    limits,
    namespace::{
        Reply, XattrMode,
        acl::{self, Acl, AclKind},
        row::RowKey,
    },
    types::{AttributeChanges, ClearSuid, Errno, FileKind, Ino, TimeChange, Timestamp, XattrName},
};

const NANOSECONDS: u32 = 1_000_000_000;

impl Draft {
    /// All of the changes or none, or `Unfinished` with a part of the cut alone. ctime always changes, as chown(2) with
    /// nothing to change asks for.
    pub(super) fn set_attributes(&mut self, ino: Ino, changes: &AttributeChanges) -> Result<Reply, Errno> {
        let kind = self.inode(ino)?.kind;
        for time in [changes.atime, changes.mtime].into_iter().flatten() {
            if let TimeChange::To(time) = time {
                check_time(time)?;
            }
        }
        if changes.mode.is_some() && kind == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(size) = changes.size
            && self.set_size(ino, size)? == Reply::Unfinished
        {
            return Ok(Reply::Unfinished);
        }
        if let Some(mode) = changes.mode {
            self.change(ino, |inode| inode.mode = mode & 0o7777);
            self.follow_chmod(ino, mode);
        }
        self.clear_suid(ino, changes.clear_suid);
        let now = self.now;
        self.change(ino, |inode| {
            inode.uid = changes.uid.unwrap_or(inode.uid);
            inode.gid = changes.gid.unwrap_or(inode.gid);
            let given = |change: TimeChange| match change {
                TimeChange::Now => now,
                TimeChange::To(time) => time,
            };
            if let Some(atime) = changes.atime {
                inode.atime = given(atime);
            }
            match changes.mtime {
                // With a size it is the kernel's word for "content changed", which has moved mtime already.
                Some(TimeChange::Now) if changes.size.is_some() => {}
                Some(mtime) => inode.mtime = given(mtime),
                None => {}
            }
        });
        self.stamp_attributes(ino);
        Ok(Reply::Done)
    }

    pub(super) fn set_xattr(
        &mut self,
        ino: Ino,
        name: &XattrName,
        value: &Bytes,
        mode: XattrMode,
        clear_sgid: bool,
    ) -> Result<Reply, Errno> {
        let kind = self.inode(ino)?.kind;
        check_name(name, kind)?;
        if value.len() > limits::XATTR_VALUE_BYTES_MAX {
            return Err(Errno::E2BIG);
        }
        match (mode, self.volume.xattr(ino, name).is_some()) {
            (XattrMode::Create, true) => return Err(Errno::EEXIST),
            (XattrMode::Replace, false) => return Err(Errno::ENODATA),
            _ => {}
        }
        match AclKind::of(name) {
            Some(list) => self.set_acl(ino, (list, name), value, clear_sgid)?,
            None => self.put_xattr(ino, name.clone(), value.clone()),
        }
        let names = self.volume.xattrs(ino).map(|(name, _)| name.as_bytes().len() + 1).sum::<usize>();
        let bytes = self.volume.xattrs(ino).map(|(name, value)| xattr_bytes(name, value)).sum::<u64>();
        if names > limits::XATTR_LIST_BYTES_MAX || bytes > limits::XATTR_INODE_BYTES_MAX {
            return Err(Errno::ENOSPC);
        }
        self.stamp_attributes(ino);
        Ok(Reply::Done)
    }

    pub(super) fn remove_xattr(&mut self, ino: Ino, name: &XattrName) -> Result<Reply, Errno> {
        let kind = self.inode(ino)?.kind;
        check_name(name, kind)?;
        match (self.volume.xattr(ino, name).is_some(), AclKind::of(name)) {
            (true, _) => self.drop_xattr(ino, name),
            // Where there is no list there is nothing to take away; local file systems call that success.
            (false, Some(_)) => return Ok(Reply::Done),
            (false, None) => return Err(Errno::ENODATA),
        }
        self.stamp_attributes(ino);
        Ok(Reply::Done)
    }

    pub(super) fn put_xattr(&mut self, ino: Ino, name: XattrName, value: Bytes) {
        self.drop_xattr(ino, &name);
        self.touch(RowKey::Xattr(ino, name.clone()));
        self.volume.counters.xattr_bytes += xattr_bytes(&name, &value);
        self.volume.xattrs.insert((ino, name), value);
    }

    /// What chown does, and a write or truncate by another than root: setuid, setgid and capabilities go.
    pub(super) fn clear_suid(&mut self, ino: Ino, clear: ClearSuid) {
        if clear != ClearSuid::No && self.inode(ino).is_ok_and(|inode| !inode.is_directory()) {
            self.change(ino, |inode| inode.mode = clear.clear(inode.mode));
            self.drop_xattr(ino, &XattrName::capability());
        }
    }

    /// The default list of a directory, if it has one.
    pub(super) fn default_acl(&self, directory: Ino) -> Option<Acl> {
        // The value was checked when it was set; one that is no list would be no reason to refuse names.
        self.volume.xattr(directory, &acl::default_name()).and_then(|value| Acl::decode(value).ok().flatten())
    }

    fn set_acl(
        &mut self,
        ino: Ino,
        (kind, name): (AclKind, &XattrName),
        value: &Bytes,
        clear_sgid: bool,
    ) -> Result<(), Errno> {
        let list = Acl::decode(value)?;
        if kind == AclKind::Default && list.is_some() && !self.inode(ino)?.is_directory() {
            return Err(Errno::EACCES);
        }
        match (kind, list) {
            (_, None) => self.drop_xattr(ino, name),
            (AclKind::Default, Some(_)) => self.put_xattr(ino, name.clone(), value.clone()),
            (AclKind::Access, Some(list)) => {
                let cleared = if clear_sgid { 0o2000 } else { 0 };
                self.change(ino, |inode| inode.mode = list.mode(inode.mode) & !cleared);
                if list.is_minimal() {
                    self.drop_xattr(ino, name);
                } else {
                    self.put_xattr(ino, name.clone(), value.clone());
                }
            }
        }
        Ok(())
    }

    fn follow_chmod(&mut self, ino: Ino, mode: u16) {
        let name = acl::access_name();
        let list = self.volume.xattr(ino, &name).and_then(|value| Acl::decode(value).ok().flatten());
        if let Some(list) = list {
            self.put_xattr(ino, name, list.after_chmod(mode).encode());
        }
    }

    pub(super) fn drop_xattr(&mut self, ino: Ino, name: &XattrName) {
        if let Some(value) = self.volume.xattrs.remove(&(ino, name.clone())) {
            self.touch(RowKey::Xattr(ino, name.clone()));
            self.volume.counters.xattr_bytes -= xattr_bytes(name, &value);
        }
    }
}

/// What an attribute counts for limits and quotas.
pub(super) fn xattr_bytes(name: &XattrName, value: &Bytes) -> u64 {
    (name.as_bytes().len() + value.len()) as u64
}

/// EINVAL for nanoseconds that are none.
pub(super) const fn check_time(time: Timestamp) -> Result<(), Errno> {
    if time.nanoseconds < NANOSECONDS { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Which names there are, and on what: as fs/xattr.c and the file systems of Linux have it.
fn check_name(name: &XattrName, kind: FileKind) -> Result<(), Errno> {
    if AclKind::of(name).is_some() {
        return if kind == FileKind::Symlink { Err(Errno::EOPNOTSUPP) } else { Ok(()) };
    }
    let name = name.as_bytes();
    let in_namespace = |prefix: &[u8]| name.strip_prefix(prefix);
    if let Some(rest) = in_namespace(b"user.") {
        return match (rest, kind) {
            ([], _) => Err(Errno::EINVAL),
            (_, FileKind::File | FileKind::Directory) => Ok(()),
            _ => Err(Errno::EPERM),
        };
    }
    match in_namespace(b"trusted.").or_else(|| in_namespace(b"security.")) {
        None => Err(Errno::EOPNOTSUPP),
        Some([]) => Err(Errno::EINVAL),
        Some(_) => Ok(()),
    }
}
