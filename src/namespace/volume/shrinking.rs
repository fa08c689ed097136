//! What goes step by step, however much it is: unlinked files, deleted volumes, ended sessions and what they hold. One entry
//! takes away so many rows that applying it is short and the store writes it in one step; the state itself says what is
//! left, so that any leader goes on.

use std::sync::Arc;

use super::{Volume, draft::Draft};
use crate::{
    limits,
    namespace::{
        Change, Reply,
        extent::Extent,
        row::{HeaderRow, RowKey},
    },
    types::{Ino, SessionId, XattrName},
};

impl Volume {
    /// Whether a deleted volume has nothing left but its own two rows.
    pub(in crate::namespace) fn is_bare(&self) -> bool {
        // They go last.
        self.inodes.is_empty()
    }
}

impl Draft {
    /// Frees those of the inodes that are orphans, the first ones where it is too much.
    pub(super) fn reap_orphans(&mut self, inodes: &[Ino]) -> Reply {
        for ino in inodes {
            if !self.volume.orphans.contains_key(ino) {
                continue;
            }
            if !self.empty(*ino) {
                break;
            }
            self.volume.orphans.remove(ino);
            self.touch(RowKey::Orphan(*ino));
            self.remove_inode(*ino);
            self.tell_life(Change::Freed { ino: *ino });
        }
        Reply::Done
    }

    /// Deletes the volume where it is not deleted yet, and takes rows away. What refers goes before what is referred to: a
    /// part of a volume can be loaded.
    pub(super) fn shrink(&mut self) {
        if !self.volume.is_deleted() {
            self.volume.header = Arc::new(HeaderRow { is_deleted: true, ..self.volume.header.as_ref().clone() });
            self.touch(RowKey::Header);
        }
        while self.room() > 0 {
            let Some(ino) = self.volume.locks.files().next() else { break };
            self.end_locks_of_file(ino);
        }
        let delegated: Vec<Ino> = self.volume.delegations.keys().copied().take(self.room()).collect();
        delegated.into_iter().for_each(|ino| self.end_delegation(ino));
        let orphans: Vec<Ino> = self.volume.orphans.keys().copied().take(self.room()).collect();
        for ino in orphans {
            self.volume.orphans.remove(&ino);
            self.touch(RowKey::Orphan(ino));
        }
        let replies: Vec<_> = self.volume.replies.keys().copied().take(self.room()).collect();
        for (session, sequence) in replies {
            self.volume.replies.remove(&(session, sequence));
            self.touch(RowKey::Reply(session, sequence));
        }
        let sessions: Vec<SessionId> = self.volume.sessions.keys().copied().take(self.room()).collect();
        self.close_sessions(&sessions);
        let names: Vec<_> = self.volume.dirents.keys().take(self.room()).cloned().collect();
        for (directory, name) in names {
            if let Some(dirent) = self.volume.dirents.remove(&(directory, name.clone())) {
                self.volume.cookies.remove(&(directory, dirent.cookie));
            }
            self.touch(RowKey::Dirent(directory, name));
        }
        let inodes: Vec<Ino> = self.volume.inodes.keys().copied().take(self.room()).collect();
        for ino in inodes {
            if !self.empty(ino) {
                break;
            }
            self.remove_inode(ino);
        }
    }

    /// Rows that may still be taken away.
    pub(super) fn room(&self) -> usize {
        limits::REAPED_ROWS_MAX.saturating_sub(self.touched())
    }

    /// Takes away what hangs on an inode; false where some of it has to wait for the next entry.
    fn empty(&mut self, ino: Ino) -> bool {
        self.end_delegation(ino);
        self.end_locks_of_file(ino);
        let names: Vec<XattrName> = self.volume.xattrs(ino).map(|(name, _)| name.clone()).take(self.room()).collect();
        for name in names {
            self.drop_xattr(ino, &name);
        }
        let last: Option<Extent> = self.volume.extents(ino, 0, u64::MAX).take(self.room()).last();
        if let Some(last) = last {
            self.cut(ino, 0, last.end());
        }
        self.room() > 0
            && !self.volume.locks.has_file(ino)
            && self.volume.xattrs(ino).next().is_none()
            && self.volume.extents(ino, 0, u64::MAX).next().is_none()
    }
}
