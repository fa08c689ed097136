//! Files that are deleted while somebody has them open.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
};

use nix::libc;

use super::support::{errno, everywhere};

#[test]
fn a_deleted_file_lives_on_for_those_who_have_it_open() {
    everywhere(|here, there| {
        for (name, length) in [("small", 5_000), ("large", 3_000_000)] {
            let bytes = vec![b'x'; length];
            fs::write(here.join(name), &bytes).expect("create");
            // Opened by the reader, deleted by the writer, which on two mounts is the other one.
            let mut held = File::open(there.join(name)).expect("open");
            fs::remove_file(here.join(name)).expect("unlink");
            assert_eq!(errno(File::open(there.join(name))), libc::ENOENT);
            assert_eq!(held.metadata().expect("fstat").nlink(), 0);
            let mut found = Vec::new();
            held.read_to_end(&mut found).expect("read");
            assert!(found == bytes, "{name}");
        }
    });
}

#[test]
fn a_deleted_file_is_written_and_read_as_before() {
    everywhere(|here, there| {
        let mut held = File::options().read(true).write(true).create_new(true).open(there.join("f")).expect("create");
        held.write_all(b"before").expect("write");
        fs::remove_file(here.join("f")).expect("unlink");
        held.write_all(b" and after").expect("write");
        held.sync_all().expect("fsync");
        held.seek(SeekFrom::Start(0)).expect("seek");
        let mut text = String::new();
        held.read_to_string(&mut text).expect("read");
        assert_eq!(text, "before and after");
        held.set_len(3).expect("truncate");
        assert_eq!(held.metadata().expect("fstat").len(), 3);
    });
}

#[test]
fn a_name_that_was_deleted_and_made_again_is_another_file() {
    everywhere(|here, there| {
        fs::write(here.join("f"), "first").expect("create");
        let mut first = File::open(there.join("f")).expect("open");
        fs::remove_file(here.join("f")).expect("unlink");
        fs::write(here.join("f"), "second").expect("create");
        assert_ne!(fs::metadata(there.join("f")).expect("stat").ino(), first.metadata().expect("fstat").ino());
        assert_eq!(fs::read(there.join("f")).expect("read"), b"second");
        let mut text = String::new();
        first.read_to_string(&mut text).expect("read");
        assert_eq!(text, "first");
    });
}

#[test]
fn a_removed_directory_is_empty_for_those_inside() {
    everywhere(|here, there| {
        fs::create_dir(here.join("d")).expect("mkdir");
        let held = File::open(there.join("d")).expect("open");
        fs::remove_dir(here.join("d")).expect("rmdir");
        let inside = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        assert_eq!(errno(File::create(format!("{inside}/f"))), libc::ENOENT);
        assert_eq!(fs::read_dir(&inside).map(Iterator::count).unwrap_or(0), 0);
    });
}
