//! Files that SQLite keeps beside a database `X` in WAL mode (sqlite.org/walformat.html). SQLite cannot tell that its
//! mapping of such a file is shared with nobody on another mount, and would lose what was committed there. So these
//! files are known by the ends of their names, and guarded.

use imbl::OrdMap;

use crate::types::{Ino, Name};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Companion {
    /// `X-shm`: mapped, shared and writable, by all who have the database open. One mount at a time may have it open.
    SharedMemory,
    /// `X-wal`: written by whoever holds locks of `X-shm`.
    Log,
}

impl Companion {
    #[must_use]
    pub fn of(name: &Name) -> Option<Self> {
        match name.as_bytes() {
            bytes if bytes.ends_with(b"-shm") => Some(Self::SharedMemory),
            bytes if bytes.ends_with(b"-wal") => Some(Self::Log),
            _ => None,
        }
    }
}

/// How many such names each inode has: follows from the names of a volume, and is no row of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Companions(OrdMap<(Ino, Companion), u32>);

impl Companions {
    pub(super) fn contains(&self, ino: Ino, companion: Companion) -> bool {
        !self.0.is_empty() && self.0.contains_key(&(ino, companion))
    }

    /// The inode got this name.
    pub(super) fn add(&mut self, ino: Ino, name: &Name) {
        if let Some(companion) = Companion::of(name) {
            *self.0.entry((ino, companion)).or_insert(0) += 1;
        }
    }

    /// The inode lost this name.
    pub(super) fn remove(&mut self, ino: Ino, name: &Name) {
        let Some(key) = Companion::of(name).map(|companion| (ino, companion)) else { return };
        match self.0.get(&key).copied() {
            Some(count) if count > 1 => self.0.insert(key, count - 1),
            _ => self.0.remove(&key),
        };
    }
}
