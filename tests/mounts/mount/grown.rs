//! Files that grow elsewhere while they are open: what the kernel looks up in the size that it believes in, and does not ask.

use std::{
    fs::{self, File},
    io::{IoSlice, IoSliceMut, Seek, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    },
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};
use rustix::{
    fs::{copy_file_range, sendfile},
    io::{ReadWriteFlags, pwritev2},
    mm::{MapFlags, ProtFlags},
};

use super::map::Map;
use crate::support::everywhere;

const PAGE: u64 = 4096;
/// More than travels in an entry of the log: nobody here has these bytes when they are told of.
const LARGE: u64 = 300_000;

fn opened(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("open")
}

/// By how much the file grows, the last time with a mode that nobody has asked for yet.
fn growths(body: impl Fn(&Path, &Path, u64)) {
    everywhere(|here, there| {
        for more in [1, 100, PAGE, PAGE + 1, LARGE] {
            let name = format!("f{more}");
            fs::write(here.join(&name), vec![b'a'; PAGE as usize]).expect("create");
            body(&here.join(&name), &there.join(&name), more);
        }
    });
}

fn grow(path: &Path, from: u64, more: u64) {
    let file = File::options().write(true).open(path).expect("open");
    file.write_all_at(&vec![b'b'; more as usize], from).expect("write");
}

/// What a mapping shows, or `None` where it would end the process with SIGBUS.
fn seen(map: &Map, at: u64) -> Option<u8> {
    let mut byte = [0];
    let remote = RemoteIoVec { base: map.address() + at as usize, len: 1 };
    let read = process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut byte)], &[remote]);
    (read == Ok(1)).then_some(byte[0])
}

#[test]
fn a_mapping_shows_pages_that_are_added_elsewhere() {
    growths(|mine, theirs, more| {
        let file = opened(theirs);
        let map = Map::with(&file, (2 * (PAGE + more)) as usize, ProtFlags::READ, MapFlags::SHARED);
        assert_eq!((seen(&map, 10), seen(&map, PAGE)), (Some(b'a'), None));
        let mut end = PAGE;
        for _ in 0..2 {
            grow(mine, end, more);
            assert_eq!(seen(&map, end), Some(b'b'), "{more} bytes at {end}");
            end += more;
            assert_eq!(seen(&map, end - 1), Some(b'b'), "{more} bytes to {end}");
            grow(mine, 10, 1);
        }
    });
}

#[test]
fn what_is_sent_from_the_old_end_is_what_was_added_elsewhere() {
    growths(|mine, theirs, more| {
        let (file, to) = (opened(theirs), tempfile::tempfile().expect("a file"));
        let copied = theirs.with_extension("copy");
        fs::read(theirs).expect("read");
        grow(mine, PAGE, more);
        let mut from = PAGE;
        let sent = sendfile(&to, &file, Some(&mut from), more as usize).expect("sendfile");
        assert!(sent > 0 && from > PAGE, "{more} bytes");
        grow(mine, PAGE + more, more);
        let (mut from, to) = (PAGE + more, File::create(&copied).expect("create"));
        let sent = copy_file_range(&file, Some(&mut from), &to, None, more as usize).expect("copy_file_range");
        assert_eq!(sent as u64, more);
    });
}

#[test]
fn a_lock_from_the_end_is_from_the_end_of_now() {
    growths(|mine, theirs, more| {
        let file = opened(theirs);
        grow(mine, PAGE, more);
        let lock = |kind: i32, whence: i32, start: u64, len: i64| libc::flock {
            l_type: kind as i16,
            l_whence: whence as i16,
            l_start: start.cast_signed(),
            l_len: len,
            l_pid: 0,
        };
        let from_the_end = lock(libc::F_WRLCK, libc::SEEK_END, 0, 1);
        fcntl(&file, FcntlArg::F_OFD_SETLK(&from_the_end)).expect("nobody has locked it");
        let mut found = lock(libc::F_WRLCK, libc::SEEK_SET, 0, 0);
        fcntl(opened(mine), FcntlArg::F_OFD_GETLK(&mut found)).expect("GETLK");
        assert_eq!((i32::from(found.l_type), found.l_start.cast_unsigned()), (libc::F_WRLCK, PAGE + more));
    });
}

#[test]
fn an_append_lies_behind_what_was_added_elsewhere() {
    growths(|mine, theirs, more| {
        let file = opened(theirs);
        let mut appender = File::options().append(true).open(theirs).expect("open");
        grow(mine, PAGE, more);
        pwritev2(&file, &[IoSlice::new(b"c")], 0, ReadWriteFlags::APPEND).expect("pwritev2");
        drop(opened(mine));
        let bytes = fs::read(mine).expect("read");
        assert_eq!(bytes.len() as u64, PAGE + more + 1);
        assert!(bytes[PAGE as usize..].iter().rev().skip(1).all(|byte| *byte == b'b') && bytes.ends_with(b"c"));
        grow(mine, PAGE + more + 1, more);
        appender.write_all(b"d").expect("append");
        assert_eq!(appender.stream_position().expect("lseek"), PAGE + 2 * more + 2);
    });
}

/// A mode that nobody here has asked for: who asks hears of both.
#[test]
fn a_file_that_got_another_mode_and_grew_is_shown_to_who_asks() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        fs::write(&mine, vec![b'a'; PAGE as usize]).expect("create");
        let file = File::options().read(true).write(true).mode(0o644).open(&theirs).expect("open");
        let map = Map::with(&file, 2 * PAGE as usize, ProtFlags::READ, MapFlags::SHARED);
        assert_eq!(seen(&map, 10), Some(b'a'));
        fs::set_permissions(&mine, fs::Permissions::from_mode(0o600)).expect("chmod");
        grow(&mine, PAGE, PAGE);
        let metadata = file.metadata().expect("fstat");
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.len()), (0o600, 2 * PAGE));
        assert_eq!(seen(&map, PAGE), Some(b'b'));
        assert!(file.as_raw_fd() >= 0);
    });
}
