//! Fifos, sockets and device numbers.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::{UnixListener, UnixStream},
    },
    thread,
};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::support::everywhere;

#[test]
fn a_fifo_connects_processes_of_one_mount() {
    everywhere(|here, there| {
        mknod(&here.join("fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0).expect("mkfifo");
        assert!(fs::metadata(there.join("fifo")).expect("stat").file_type().is_fifo());
        let path = there.join("fifo");
        let writer = {
            let path = path.clone();
            thread::spawn(move || fs::File::options().write(true).open(path).expect("open").write_all(b"through"))
        };
        let mut text = String::new();
        fs::File::open(&path).expect("open").read_to_string(&mut text).expect("read");
        writer.join().expect("no panic").expect("write");
        assert_eq!(text, "through");
    });
}

#[test]
fn a_socket_is_bound_and_found() {
    everywhere(|here, there| {
        let listener = UnixListener::bind(here.join("s")).expect("bind");
        assert!(fs::metadata(there.join("s")).expect("stat").file_type().is_socket());
        let client = UnixStream::connect(here.join("s")).expect("connect");
        drop((listener.accept().expect("accept"), client));
    });
}

#[test]
fn device_numbers_are_kept() {
    everywhere(|here, there| {
        for (name, kind, major, minor) in [("c", SFlag::S_IFCHR, 1, 3), ("b", SFlag::S_IFBLK, 259, 70_000)] {
            let device = makedev(major, minor);
            mknod(&here.join(name), kind, Mode::from_bits_truncate(0o660), device).expect("mknod");
            let about = fs::metadata(there.join(name)).expect("stat");
            assert_eq!((about.rdev(), about.mode()), (device, kind.bits() | (0o660 & !umask())));
        }
    });
}

/// This process's umask, which the kernel takes off.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).expect("since Linux 4.7");
    u32::from_str_radix(line.trim(), 8).expect("octal")
}
