//! O_TMPFILE: files without a name, and linkat(2), which gives them one.

use std::{
    fs::{self, File},
    io::Write,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::Path,
};

use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    libc,
    unistd::linkat,
};

use crate::support::{errno, everywhere, wait_for};

fn open(directory: &Path, flags: i32) -> std::io::Result<File> {
    File::options().read(true).write(true).mode(0o666).custom_flags(libc::O_TMPFILE | flags).open(directory)
}

fn link(file: &File, to: &Path) -> std::io::Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(AT_FDCWD, path.as_str(), AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW)?)
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).expect("readdir").next().is_none()
}

#[test]
fn a_file_without_a_name_is_written_and_then_named() {
    everywhere(|here, there| {
        let bytes = vec![b'x'; 200_000];
        let mut file = open(here, 0).expect("O_TMPFILE");
        file.write_all(&bytes).expect("write");
        let about = file.metadata().expect("fstat");
        assert_eq!((about.nlink(), about.len(), about.permissions().mode() & 0o777), (0, 200_000, 0o644));
        assert!(is_empty(there), "nobody sees it");
        file.sync_all().expect("fsync");
        link(&file, &here.join("name")).expect("linkat");
        assert!(fs::read(there.join("name")).expect("read") == bytes);
        let named = fs::metadata(there.join("name")).expect("stat");
        assert_eq!((named.ino(), named.nlink()), (about.ino(), 1));
        assert_eq!(errno(link(&file, &here.join("name"))), libc::EEXIST);
        link(&file, &here.join("second")).expect("like any file now");
        assert_eq!(fs::metadata(there.join("second")).expect("stat").nlink(), 2);
        fs::remove_file(there.join("name")).expect("unlink");
        fs::remove_file(there.join("second")).expect("unlink");
        assert_eq!(errno(link(&file, &here.join("again"))), libc::ENOENT, "its names are gone for good");
        let mut found = vec![0; 200_000];
        file.read_exact_at(&mut found, 0).expect("still open");
        assert!(found == bytes);
    });
}

#[test]
fn a_name_that_is_taken_is_no_end() {
    everywhere(|here, there| {
        fs::write(here.join("taken"), "old").expect("create");
        let mut file = open(there, 0).expect("O_TMPFILE");
        file.write_all(b"new").expect("write");
        assert_eq!(errno(link(&file, &there.join("taken"))), libc::EEXIST);
        link(&file, &there.join("free")).expect("linkat");
        fs::rename(there.join("free"), there.join("taken")).expect("rename");
        drop(file);
        assert_eq!(fs::read(here.join("taken")).expect("read"), b"new");
    });
}

#[test]
fn without_a_name_it_goes_with_its_last_descriptor() {
    let cluster = crate::support::Cluster::found();
    let mount = cluster.mount();
    let inodes = || mount.report()["inodes"].as_u64().expect("a number");
    let before = inodes();
    let mut file = open(&mount.path, libc::O_EXCL).expect("O_TMPFILE");
    file.write_all(b"never seen").expect("write");
    file.sync_all().expect("fsync");
    assert_eq!(inodes(), before + 1);
    assert_eq!(errno(link(&file, &mount.path.join("name"))), libc::ENOENT, "O_EXCL: never to have a name");
    let again = file.try_clone().expect("dup");
    drop(file);
    let mut found = [0; 10];
    again.read_exact_at(&mut found, 0).expect("open still");
    assert_eq!(&found, b"never seen");
    drop(again);
    wait_for("the inode to go", || (inodes() == before).then_some(()));
}
