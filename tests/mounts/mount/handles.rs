//! File handles (name_to_handle_at(2)), as an NFS server has them: they outlive what the kernel remembers.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    fs::{self, File},
    io::{Error, Read, Result},
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::libc;

use crate::support::everywhere;

const PATIENCE: Duration = Duration::from_secs(60);

/// `struct file_handle` of open_by_handle_at(2), with the most bytes that a handle may have.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; libc::MAX_HANDLE_SZ as usize],
}

fn handle_of(path: &Path) -> Handle {
    let mut handle = Handle { bytes: libc::MAX_HANDLE_SZ as u32, kind: 0, handle: [0; libc::MAX_HANDLE_SZ as usize] };
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
    let mut mount = 0;
    // SAFETY: `handle` has room for as many bytes as it says, and all three live until the call returns.
    let result =
        unsafe { libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), (&raw mut handle).cast(), &raw mut mount, 0) };
    assert_eq!(result, 0, "{}", Error::last_os_error());
    handle
}

fn open(mount: &File, handle: &mut Handle) -> Result<File> {
    // SAFETY: `handle` is as the kernel filled it, and lives until the call returns.
    let descriptor = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut *handle).cast(), libc::O_RDONLY) };
    // SAFETY: the kernel has just opened it for nobody else.
    if descriptor < 0 { Err(Error::last_os_error()) } else { Ok(unsafe { File::from_raw_fd(descriptor) }) }
}

/// Names and inodes that nobody uses.
fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "2").expect("drop_caches");
}

#[test]
fn a_handle_outlives_what_the_kernel_remembers_and_not_its_file() {
    everywhere(|here, there| {
        fs::create_dir_all(here.join("d/e")).expect("mkdir");
        fs::write(here.join("d/e/f"), "content").expect("write");
        let mount = File::open(here).expect("open the root");
        let (mut file, mut directory) = (handle_of(&here.join("d/e/f")), handle_of(&here.join("d/e")));
        drop_caches();
        let mut text = String::new();
        open(&mount, &mut file).and_then(|mut file| file.read_to_string(&mut text)).expect("by its handle");
        assert_eq!(text, "content");
        // The kernel has to find the way up to the root.
        drop_caches();
        let found = open(&mount, &mut directory).expect("by its handle").metadata().expect("stat");
        assert_eq!(found.ino(), fs::metadata(there.join("d/e")).expect("stat").ino());
        fs::rename(there.join("d/e/f"), there.join("g")).expect("rename");
        drop_caches();
        assert!(open(&mount, &mut file).is_ok(), "it has another name");
        fs::remove_file(there.join("g")).expect("unlink");
        // It is there for as long as a kernel refers to it.
        let until = Instant::now() + PATIENCE;
        loop {
            drop_caches();
            match open(&mount, &mut file).map_err(|error| error.raw_os_error()) {
                Err(errno) => break assert_eq!(errno, Some(libc::ESTALE)),
                Ok(_) => assert!(Instant::now() < until, "its handle is still good"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
}
