//! A data directory is its owner's alone: what users keep secret in a volume (mode 0600) lies in packs and rows, and the
//! modes of those decide who on this machine can read it.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::StorageError;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What group and others may do.
const OPEN_TO_OTHERS: u32 = 0o077;

/// How a file of the store is opened that may be made by that.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE_MODE);
    options
}

/// Makes a directory whose parent exists.
///
/// # Errors
/// As mkdir(2); `AlreadyExists` too.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY_MODE).create(path)
}

/// Takes from group and others what they may do with these files of a data directory and all that is in them: a kubelet's
/// fsGroup gives it to them, and so did programs before this one. Says so in one line of the log.
///
/// # Errors
/// `Io`, `Access` where the directory cannot be read.
pub(crate) fn narrow(dir: &Path, names: &[&str]) -> Result<(), StorageError> {
    let mut modes = Modes::default();
    modes.narrow_one(dir)?;
    for name in names {
        modes.narrow_all(&dir.join(name))?;
    }
    if modes.narrowed > 0 {
        tracing::info!(
            "{} files and directories in {} were open to other users and are their owner's alone now",
            modes.narrowed,
            dir.display()
        );
    }
    if let Some(path) = modes.refused {
        tracing::warn!(
            "{} is open to other users and belongs to another one: give {} to the user that runs manyfs",
            path.display(),
            dir.display()
        );
    }
    Ok(())
}

#[derive(Default)]
struct Modes {
    narrowed: usize,
    /// One that is not this user's.
    refused: Option<PathBuf>,
}

impl Modes {
    fn narrow_all(&mut self, path: &Path) -> Result<(), StorageError> {
        if !self.narrow_one(path)? {
            return Ok(());
        }
        for entry in fs::read_dir(path).map_err(|error| StorageError::io("read", path, error))? {
            self.narrow_all(&entry.map_err(|error| StorageError::io("read", path, error))?.path())?;
        }
        Ok(())
    }

    /// Whether it is a directory. What is gone meanwhile needs nothing, and links lead elsewhere.
    fn narrow_one(&mut self, path: &Path) -> Result<bool, StorageError> {
        let about = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            about => about.map_err(|error| StorageError::io("read", path, error))?,
        };
        if about.permissions().mode() & OPEN_TO_OTHERS != 0 && !about.is_symlink() {
            let mode = if about.is_dir() { DIRECTORY_MODE } else { FILE_MODE };
            match fs::set_permissions(path, Permissions::from_mode(mode)) {
                Ok(()) => self.narrowed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => drop(self.refused.get_or_insert_with(|| path.to_owned())),
            }
        }
        Ok(about.is_dir())
    }
}
