//! Who may use how much of the file system. The fuller it gets, the fewer may write: first uploads stop, so that log and
//! state never meet the end of it in ordinary use; then the node takes no more from its leader; and only where others use
//! the file system too, the state waits, and the log last.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{StorageError, file::RandomFile, private};
use crate::types::Space;

/// Space that uploads leave free: a sixteenth of the file system, within these bounds. The least is what the log may
/// still grow by, what the state store needs to rewrite itself, and what compaction copies.
const KEEP_FREE_BYTES_MIN: u64 = 96 * 1024 * 1024;
const KEEP_FREE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The file that holds space for the next start: sled writes when it is opened, and a node that cannot even start would
/// be started again and again.
pub(crate) const FILE: &str = "reserve";
/// Bytes of it that are worth having.
const FILE_BYTES_MIN: u64 = 256 * 1024;

/// The file system of a data directory, and what of it is kept back.
#[derive(Clone, Debug)]
pub(crate) struct Reserve {
    dir: PathBuf,
    /// Bytes that uploads leave free.
    pub(crate) keep_free: u64,
}

impl Reserve {
    /// `keep_free` in bytes; 0: as the size of the file system suggests.
    pub(crate) fn new(dir: &Path, keep_free: u64) -> Result<Self, StorageError> {
        let keep_free = match keep_free {
            0 => keep_free_of(file_system(dir)?.0),
            bytes => bytes,
        };
        Ok(Self { dir: dir.to_owned(), keep_free })
    }

    /// What log and state, and content that was committed, leave free.
    pub(crate) const fn for_log(&self) -> u64 {
        self.keep_free / 8
    }

    /// Enough to open the store again.
    pub(crate) const fn for_start(&self) -> u64 {
        self.keep_free / 16
    }

    /// Gives the reserved file back where there is hardly any other space.
    pub(crate) fn release_for_start(&self) -> Result<(), StorageError> {
        let path = self.dir.join(FILE);
        if self.available()? >= self.for_log() {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::io("removed", &path, error)),
            _ => Ok(()),
        }
    }

    /// Reserves the file, as much of it as there is space for, unless it is there. A full disk is no error.
    pub(crate) fn reserve_for_start(&self) -> Result<(), StorageError> {
        let path = self.dir.join(FILE);
        let bytes = self.for_start().min(self.available()? / 4 * 3);
        if bytes < FILE_BYTES_MIN || fs::metadata(&path).is_ok_and(|file| file.len() >= bytes) {
            return Ok(());
        }
        let made = private::options().write(true).create(true).truncate(false).open(&path);
        match made.and_then(|file| RandomFile::reserve(&file, 0, bytes)) {
            Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(StorageError::io("created", &path, error)),
            _ => Ok(()),
        }
    }

    /// Segments of the log are smaller on a small file system, so that a new one is a small part of what is kept back.
    pub(crate) fn segment_bytes(&self, most: u64) -> Result<u64, StorageError> {
        let (total, _) = file_system(&self.dir)?;
        Ok(most.min((total / 64).min(self.keep_free / 16).max(1024 * 1024)))
    }

    /// Packs are smaller on a small file system: one that is compacted needs space for what lives in it.
    pub(crate) fn pack_bytes(&self, most: u64) -> Result<u64, StorageError> {
        let (total, _) = file_system(&self.dir)?;
        Ok(most.min((total / 16).max(8 * 1024 * 1024)))
    }

    /// As users see it: what is kept back is not available.
    pub(crate) fn space(&self) -> Result<Space, StorageError> {
        let (total, available) = file_system(&self.dir)?;
        Ok(Space { total, available: available.saturating_sub(self.keep_free) })
    }

    /// Whether half of what is kept back is gone. Whoever `was_short` is so until a little more is there again.
    pub(crate) fn is_short(&self, was_short: bool) -> Result<bool, StorageError> {
        let enough = if was_short { self.keep_free / 8 * 5 } else { self.keep_free / 2 };
        Ok(self.available()? < enough)
    }

    /// Bytes that can still be written.
    pub(crate) fn available(&self) -> Result<u64, StorageError> {
        Ok(file_system(&self.dir)?.1)
    }
}

fn keep_free_of(total: u64) -> u64 {
    (total / 16).clamp(KEEP_FREE_BYTES_MIN.min(total / 4), KEEP_FREE_BYTES_MAX)
}

/// Bytes of the file system, and those that can still be written.
fn file_system(dir: &Path) -> Result<(u64, u64), StorageError> {
    let statistics = nix::sys::statvfs::statvfs(dir).map_err(|errno| StorageError::io("read", dir, errno.into()))?;
    let unit = statistics.fragment_size();
    Ok((statistics.blocks().saturating_mul(unit), statistics.blocks_available().saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_kept_back_of_a_larger_file_system_up_to_a_bound() {
        let megabytes = |total: u64| keep_free_of(total << 20) >> 20;
        assert_eq!([64, 256, 1024, 2048, 1 << 20].map(megabytes), [16, 64, 96, 128, 256]);
    }
}
