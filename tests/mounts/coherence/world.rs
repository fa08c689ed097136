//! The few names that everybody works on, and what is known of them.
//!
//! Free names are changed by anyone at any time. Guarded names are changed by one thread of the test at a time, so that
//! their order is known exactly, and what they mean: they are moved, exchanged, cut and appended to.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use super::history::{ABSENT, Change, Thing};

/// Bytes that are filled with one number.
pub(crate) const BLOCK: usize = 1024;
/// Three pages.
pub(crate) const BLOCKS_MAX: usize = 12;

pub(crate) const FREE: Range<usize> = 0..4;
pub(crate) const GUARDED: Range<usize> = 4..10;
/// Directories and the names in them.
pub(crate) const DIRECTORIES: [(&str, Range<usize>); 3] = [("free", FREE), ("left", 4..7), ("right", 7..10)];

/// The file that a guarded name means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    pub(crate) ino: u64,
    pub(crate) blocks: usize,
}

pub(crate) struct World {
    pub(crate) start: Instant,
    guarded: Vec<Mutex<Option<File>>>,
    next: AtomicU64,
}

impl World {
    pub(crate) fn new() -> Self {
        let guarded = GUARDED.map(|_| Mutex::new(None)).collect();
        Self { start: Instant::now(), guarded, next: AtomicU64::new(1) }
    }

    /// No name means anything yet.
    pub(crate) fn beginning() -> Vec<Change> {
        let absent = |name| Change { thing: Thing::Name(name), value: ABSENT, mount: 0, began: 0, ended: 0 };
        (FREE.start..GUARDED.end).map(absent).collect()
    }

    /// A number that nobody has had.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    pub(crate) fn guarded(&self, name: usize) -> &Mutex<Option<File>> {
        &self.guarded[name - GUARDED.start]
    }
}

/// Where the mount at `root` shows the name.
pub(crate) fn path(root: &Path, name: usize) -> PathBuf {
    directory(root, name).join(format!("name{name}"))
}

/// The directory that the name is in.
pub(crate) fn directory(root: &Path, name: usize) -> PathBuf {
    let (directory, _) = DIRECTORIES.iter().find(|(_, names)| names.contains(&name)).expect("every name is in one");
    root.join(directory)
}
