//! The directory below a mount, closed to all but root for as long as a mount is meant to be there: what a program writes
//! while nothing is mounted would be hidden as soon as something is. Its mode is 0 from the start of the mount's process.
//! The mode that it had is kept in an attribute of the directory itself, so that it is known whatever becomes of the process.

use std::{
    fs::{File, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::{
    fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr},
    io::Errno,
};

use crate::pki;

/// Only root sees attributes of this kind. The value is the mode in octal, and who sealed last: `755 1f…`.
const ATTRIBUTE: &str = "trusted.manyfs.sealed";
const ATTRIBUTE_BYTES_MAX: usize = 64;
/// What of a mode is permissions, set-id and sticky bits included.
const MODE_BITS: u32 = 0o7777;

/// A directory that is sealed. This keeps hold of what is below the mount, not of its name.
pub(super) struct Seal {
    directory: File,
    mode: u32,
    /// Where the file system keeps attributes: a process that comes after this one has a number of its own.
    number: Option<String>,
}

impl Seal {
    /// Seals a directory that nothing is mounted on. `None` where that cannot be, which is logged and no failure: on a file
    /// system that is read-only nobody writes anyway.
    pub(super) fn put(path: &Path) -> Option<Self> {
        let sealed = Self::try_put(path);
        sealed
            .inspect_err(|error| {
                let place = path.display();
                tracing::warn!("whoever writes to {place} while nothing is mounted will not be stopped: {error}");
            })
            .ok()
    }

    fn try_put(path: &Path) -> io::Result<Self> {
        let directory = File::open(path)?;
        let mode = match mode_of(&directory)? {
            0 => kept(&directory).map_or(0, |(mode, _)| mode),
            mode => mode,
        };
        let number = format!("{:032x}", pki::random().map_err(io::Error::other)?);
        let value = format!("{mode:o} {number}");
        let number = match fsetxattr(&directory, ATTRIBUTE, value.as_bytes(), XattrFlags::empty()) {
            Ok(()) => Some(number),
            Err(error) => {
                let place = path.display();
                tracing::warn!(
                    "{place} keeps no attributes ({error}): should this process be killed, its mode stays 0"
                );
                None
            }
        };
        set_mode(&directory, 0)?;
        Ok(Self { directory, mode, number })
    }

    /// Gives the directory its mode back, unless somebody else has sealed it or given it another one since.
    pub(super) fn lift(self) {
        let kept = kept(&self.directory).map(|(_, number)| number);
        if kept != self.number {
            return;
        }
        if let Err(error) = open(&self.directory, self.mode) {
            tracing::warn!("the directory below the mount keeps the mode 0: {error}");
        }
    }
}

/// Gives a directory its mode back that a mount sealed and left so. Whether there was one.
///
/// # Errors
/// As open(2) and fchmod(2).
pub(super) fn break_seal(path: &Path) -> io::Result<bool> {
    let directory = File::open(path)?;
    match kept(&directory) {
        Some((mode, _)) => open(&directory, mode).map(|()| true),
        None => Ok(false),
    }
}

fn open(directory: &File, mode: u32) -> io::Result<()> {
    if mode_of(directory)? == 0 {
        set_mode(directory, mode)?;
    }
    match fremovexattr(directory, ATTRIBUTE) {
        // None was kept.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(()),
        removed => Ok(removed?),
    }
}

fn mode_of(directory: &File) -> io::Result<u32> {
    Ok(directory.metadata()?.mode() & MODE_BITS)
}

fn set_mode(directory: &File, mode: u32) -> io::Result<()> {
    directory.set_permissions(Permissions::from_mode(mode))
}

/// What whoever sealed the directory last left there.
fn kept(directory: &File) -> Option<(u32, String)> {
    let mut value = [0; ATTRIBUTE_BYTES_MAX];
    let length = fgetxattr(directory, ATTRIBUTE, &mut value[..]).ok()?;
    let (mode, number) = std::str::from_utf8(&value[..length]).ok()?.split_once(' ')?;
    let mode = u32::from_str_radix(mode, 8).ok()?;
    Some((mode & MODE_BITS, number.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("stat").mode() & MODE_BITS
    }

    #[test]
    fn a_seal_outlives_its_process_and_gives_back_what_was_found() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path();
        set_mode(&File::open(path).expect("open"), 0o2750).expect("chmod");
        let killed = Seal::put(path).expect("sealed");
        assert_eq!(mode(path), 0);
        let next = Seal::put(path).expect("sealed again");
        killed.lift();
        assert_eq!(mode(path), 0, "it is the next one's by now");
        next.lift();
        assert_eq!(mode(path), 0o2750);
        assert!(!break_seal(path).expect("looked at"), "no trace is left");

        drop(Seal::put(path));
        assert!(break_seal(path).expect("opened"));
        assert_eq!(mode(path), 0o2750);

        let seal = Seal::put(path).expect("sealed");
        set_mode(&File::open(path).expect("open"), 0o700).expect("chmod");
        seal.lift();
        assert_eq!(mode(path), 0o700, "what somebody else has set meanwhile stays");
    }
}
