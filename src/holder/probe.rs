//! What only the running kernel can say about itself: whether FUSE_NOTIFY_INVAL_ENTRY can be relied on. Linux 6.19, until
//! the revert of `start_removing_noperm` in fs/fuse/dir.c, looks the name up without the directory's lock, answers ENOENT for
//! a cached *missing* name and keeps it: a file made on another mount would stay invisible (docs/protocol.md
//! R2-telling). So the mount itself is asked, before anybody is told of it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::Weak,
};

use nix::libc;

use super::notification;
use crate::types::{Ino, Name};

/// The kernel may drop a cached name at any moment, and then there is nothing to end.
const ATTEMPTS: u32 = 3;

/// Whether the kernel of this mount forgets a missing name when it is told to. Waits for the worker's answers, and does
/// not keep the device meanwhile.
///
/// # Errors
/// As lstat(2) of a name at the mount's root, and write(2) to the device.
pub(super) fn inval_entry_works(directory: &Path, device: &Weak<File>) -> io::Result<bool> {
    for attempt in 0..ATTEMPTS {
        let name = format!(".manyfs-probe-{}-{attempt}", std::process::id());
        match fs::symlink_metadata(directory.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            // Somebody has made it.
            Ok(_) => continue,
        }
        let name = Name::new(name.as_bytes()).map_err(io::Error::other)?;
        let message = notification::inval_entry(Ino::ROOT, &name);
        let device = device.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        match (&*device).write_all(&message) {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
