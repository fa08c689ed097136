//! /dev/fuse, and the mount that belongs to it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::{getegid, geteuid},
};

use super::HolderError;

/// The type of our mounts in the kernel's list.
pub const KIND: &str = "fuse.manyfs";
/// How long an orderly unmount may take before the mount is detached.
const UNMOUNT_WAIT: Duration = Duration::from_secs(3);

/// Where and how a volume is mounted.
#[derive(Clone, Debug)]
pub struct Place {
    /// Absolute, and checked by whoever gives it.
    pub directory: PathBuf,
    /// What the kernel lists as the mount's source; `None` is `manyfs:VOLUME`.
    pub source: Option<String>,
    /// Flags of mount(2).
    pub flags: MsFlags,
}

/// The device and its mount; the mount ends with this value, whatever the reason.
#[derive(Debug)]
pub struct Device {
    file: Arc<File>,
    /// Where it is mounted, as long as it is.
    directory: Option<PathBuf>,
}

impl Device {
    /// Opens /dev/fuse and mounts it.
    ///
    /// # Errors
    /// `Device` or `Mount`; then nothing is mounted.
    pub fn mount(place: &Place, volume: &str, read_only: bool) -> Result<Self, HolderError> {
        let file = open()?;
        let (fd, user, group) = (file.as_raw_fd(), geteuid(), getegid());
        let options = format!("fd={fd},rootmode=40000,user_id={user},group_id={group},default_permissions,allow_other");
        let mut flags = place.flags;
        if read_only {
            flags |= MsFlags::MS_RDONLY;
        }
        let source = place.source.clone().unwrap_or_else(|| format!("manyfs:{volume}"));
        let directory = place.directory.clone();
        mount(Some(source.as_str()), &directory, Some(KIND), flags, Some(options.as_str()))
            .map_err(|error| HolderError::Mount { directory: directory.clone(), error: error.into() })?;
        Ok(Self { file: Arc::new(file), directory: Some(directory) })
    }

    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// For those who use it as long as it is there.
    pub(super) fn weak(&self) -> Weak<File> {
        Arc::downgrade(&self.file)
    }

    /// Somebody else has unmounted it.
    pub fn forget(&mut self) {
        self.directory = None;
    }

    /// Ends the mount: at once where nothing is open on it, else its name only; what is open stays until it is closed
    /// or the device is. Says whether something was still open.
    ///
    /// # Errors
    /// As umount2(2).
    pub fn unmount(&mut self) -> io::Result<bool> {
        let Some(directory) = &self.directory else { return Ok(false) };
        let busy = match unmount(directory) {
            Err(error) if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::TimedOut) => {
                detach(directory)?;
                true
            }
            ended => ended.map(|()| false)?,
        };
        self.directory = None;
        Ok(busy)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            // By force: the requests under way end with an error, for nobody will answer them, and a thread that hangs
            // behind one of them would keep the device for ever. Nothing is left to report to; the kernel refuses only
            // what is not mounted.
            umount2(directory, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).ok();
        }
    }
}

/// Opens the kernel's FUSE device.
///
/// # Errors
/// `Device`, with what to do about it.
pub fn open() -> Result<File, HolderError> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "load the kernel module (modprobe fuse), or give the container the device",
            io::ErrorKind::PermissionDenied => "run as root, and allow the container the device",
            _ => "look whether the kernel module fuse is loaded",
        };
        HolderError::Device { error, advice }
    })
}

/// Takes the mount at `directory` away.
///
/// # Errors
/// As umount2(2): `ResourceBusy` while something is open on it; `TimedOut` when the kernel waits for a worker that does
/// not answer.
pub fn unmount(directory: &Path) -> io::Result<()> {
    let (done, result) = mpsc::channel();
    let owned = directory.to_owned();
    thread::spawn(move || done.send(umount2(&owned, MntFlags::UMOUNT_NOFOLLOW)));
    let ended = result.recv_timeout(UNMOUNT_WAIT).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    Ok(ended?)
}

/// Takes the name of a mount away without asking its file system anything.
///
/// # Errors
/// As umount2(2).
pub fn detach(directory: &Path) -> io::Result<()> {
    Ok(umount2(directory, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
}
