//! What can be wrong with a data directory, in sentences that say what to do.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::errno::Errno;

use super::Identity;
use crate::types::{BlockHash, ClusterId, LogIndex, NodeId, Term};

/// An error of the store. Cheap to clone: after a failed sync every later call gets the first error again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    #[error(
        "{} is in use by another process{}; stop that one first or choose another directory", .dir.display(),
        .process.map(|process| format!(" ({process})")).unwrap_or_default()
    )]
    InUse { dir: PathBuf, process: Option<u32> },
    #[error(
        "{} holds {found}, which is not ManyFS's; choose an empty directory, nothing was changed", .dir.display()
    )]
    NotBlank { dir: PathBuf, found: String },
    #[error(
        "{} already holds {found}; start it with `serve`, or choose an empty directory for a new one", .dir.display()
    )]
    AlreadyCreated { dir: PathBuf, found: Identity },
    #[error("{} holds no node yet; found a cluster with `cluster init`, or choose the right directory", .dir.display())]
    NotCreated { dir: PathBuf },
    #[error(
        "{} belongs to cluster {found}, this node was told to serve cluster {expected}; choose the directory of that \
         cluster", .dir.display()
    )]
    OtherCluster { dir: PathBuf, expected: ClusterId, found: ClusterId },
    #[error(
        "{} belongs to node {found}, this process was told to be node {expected}; choose the directory of that node",
        .dir.display()
    )]
    OtherNode { dir: PathBuf, expected: NodeId, found: NodeId },
    #[error(
        "{} was written in format {found}, this program reads format {known}: {}", .path.display(),
        if .found > .known { "start the newer manyfs" } else { "it is of a build before any release, and is not read any more" }
    )]
    Format { path: PathBuf, known: u32, found: u32 },
    #[error("{} may not be {action} by this user: {source}; give the directory to the user that runs manyfs", .path.display())]
    Access { path: PathBuf, action: &'static str, source: Arc<io::Error> },
    #[error("{} is on a read-only file system; mount it writable or choose another directory", .path.display())]
    ReadOnly { path: PathBuf },
    #[error("no space for {needed} bytes in {}; add space or delete files, nothing was stored", .path.display())]
    Full { path: PathBuf, needed: u64 },
    #[error(
        "no file descriptor was left for {}: {source}; give this process more (ulimit -n, LimitNOFILE=), nothing was \
         stored", .path.display()
    )]
    NoDescriptor { path: PathBuf, source: Arc<io::Error> },
    #[error("{}, offset {offset}: {found}; the disk has damaged it: replace this node, its peers have the data", .path.display())]
    Damaged { path: PathBuf, offset: u64, found: String },
    #[error("state row {key}: {found}; the disk has damaged it: replace this node, its peers have the data")]
    Row { key: String, found: String },
    #[error("the state store in {} cannot be read: {found}; replace this node, its peers have the data", .path.display())]
    State { path: PathBuf, found: String },
    #[error(
        "the log in {} ends at entry {log} but the state holds entry {state}: segments of the log are missing; \
         restore them or replace this node", .path.display()
    )]
    LogBehindState { path: PathBuf, log: LogIndex, state: LogIndex },
    #[error(
        "the log in {} begins behind entry {log} but the state ends at entry {state}: the state store is older than \
         the log; restore it or replace this node", .path.display()
    )]
    StateBehindLog { path: PathBuf, log: LogIndex, state: LogIndex },
    #[error(
        "entry {index} is of term {log} in the log in {} and of term {state} in the state: they are not of one node; \
         restore both as they were or replace this node", .path.display()
    )]
    LogUnlikeState { path: PathBuf, index: LogIndex, log: Term, state: Term },
    #[error(
        "a block of {bytes} bytes was called {claimed} but is {found}; whoever sent it is broken, nothing was stored"
    )]
    WrongHash { claimed: BlockHash, found: BlockHash, bytes: usize },
    #[error("a block has 1 to {max} bytes, this one has {found}; nothing was stored", max = crate::limits::BLOCK_BYTES_MAX)]
    BlockSize { found: usize },
    #[error("{found}: the caller of the store is broken, please report it; nothing was written")]
    Misuse { found: String },
    #[error("thread {thread} of the store ended by a panic, please report it: {found}")]
    Panicked { thread: &'static str, found: String },
    #[error("{} could not be {action}: {source}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("the store was closed")]
    Closed,
}

impl StorageError {
    /// Sorts an error of the system by what a person can do about it. `action` completes "could not be …": "read",
    /// "written", "synced", "created", "removed".
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Access { path, action, source: Arc::new(source) },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, needed: 0 },
            _ if is_descriptor_shortage(&source) => Self::NoDescriptor { path, source: Arc::new(source) },
            _ => Self::Io { action, path, source: Arc::new(source) },
        }
    }

    /// A failed sync: whatever the system calls it, nothing is known about what was written before. Never `Full`,
    /// after which one may go on.
    pub(crate) fn unsynced(path: &Path, source: io::Error) -> Self {
        Self::Io { action: "synced", path: path.to_owned(), source: Arc::new(source) }
    }

    /// Whether it passes when others give back what they use, space or file descriptors: nothing was stored, and the same
    /// may be tried again.
    #[must_use]
    pub const fn is_shortage(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoDescriptor { .. })
    }

    /// What a gauge says of a thread that waits because of it: 1 for space, 2 for a file descriptor.
    pub(crate) const fn wait_code(&self) -> u64 {
        match self {
            Self::NoDescriptor { .. } => WAITS_FOR_DESCRIPTOR,
            _ => 1,
        }
    }

    /// Whether the disk is to blame: such errors are counted and repaired from peers where that is possible.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Row { .. } | Self::State { .. })
    }
}

/// The gauge of a thread that waits for a file descriptor.
pub(crate) const WAITS_FOR_DESCRIPTOR: u64 = 2;

/// This process, or the whole system, has as many files open as it may.
fn is_descriptor_shortage(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_says_what_to_do() {
        let path = Path::new("/data/log");
        let sentence = |code: i32| StorageError::io("written", path, io::Error::from_raw_os_error(code)).to_string();
        assert!(sentence(13).starts_with("/data/log may not be written by this user"), "{}", sentence(13));
        assert!(sentence(30).contains("read-only file system; mount it writable"), "{}", sentence(30));
        assert!(sentence(28).contains("add space"), "{}", sentence(28));
        assert!(sentence(24).contains("ulimit -n") && sentence(23).contains("ulimit -n"), "{}", sentence(24));
        assert!(sentence(5).starts_with("/data/log could not be written: "), "{}", sentence(5));
    }

    /// A file system that finds a place for data only when it syncs may say ENOSPC then; going on would trust what was
    /// never written.
    #[test]
    fn a_sync_that_failed_for_want_of_space_is_a_failed_sync() {
        let error = StorageError::unsynced(Path::new("/data/log"), io::Error::from_raw_os_error(28));
        assert!(matches!(error, StorageError::Io { action: "synced", .. }), "{error}");
    }
}
