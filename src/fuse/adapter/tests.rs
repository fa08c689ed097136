//! The adapter driven as the kernel drives it: requests as bytes through a socket in place of /dev/fuse.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use fuser::InitFlags;
use nix::{
    libc,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair},
};

use super::*;
use crate::{
    mount::{OpenedAs, Response},
    types::{Attributes, Errno, FileKind, Name, Timestamp},
};

const LOOKUP: u32 = 1;
const SETATTR: u32 = 4;
const READ: u32 = 15;
const WRITE: u32 = 16;
const SETXATTR: u32 = 21;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const CREATE: u32 = 35;

type Asked = (u64, Caller, Request, Reply);

struct Asks(Sender<Asked>);

impl Ask for Asks {
    fn ask(&self, unique: u64, caller: Caller, request: Request, reply: Reply) {
        self.0.send((unique, caller, request, reply)).expect("the test listens");
    }

    fn forget(&self, _ino: Ino, _lookups: u64) {}
}

/// The kernel's end, and what the adapter asked.
struct Kernel {
    device: OwnedFd,
    asked: Receiver<Asked>,
    init: Vec<u8>,
    abi: Arc<OnceLock<(u32, u32)>>,
    counters: Arc<Counters>,
}

impl Kernel {
    fn new() -> Self {
        let (device, end) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
        let (asks, asked) = mpsc::channel();
        let (abi, counters) = (Arc::new(OnceLock::new()), Arc::new(Counters::default()));
        let adapter = Adapter::new(Arc::new(Asks(asks)), Arc::clone(&counters), Arc::clone(&abi));
        let mut kernel = Self { device, asked, init: Vec::new(), abi, counters };
        let mut init = Vec::new();
        for word in [7_u32, 45, 128 * 1024, u32::MAX, u32::MAX >> 1] {
            init.extend(word.to_ne_bytes());
        }
        init.resize(64, 0);
        kernel.send(INIT, 1, 0, &init);
        let mut config = fuser::Config::default();
        config.acl = fuser::SessionACL::All;
        let session = fuser::Session::from_fd(adapter, end, fuser::SessionACL::All, config).expect("INIT is read");
        kernel.init = kernel.receive().1;
        // It ends with its socket.
        thread::spawn(move || session.run());
        kernel
    }

    /// Sends a request as user 33, group 34, process 35.
    fn send(&self, opcode: u32, unique: u64, ino: u64, body: &[u8]) {
        let mut message = Vec::new();
        message.extend((40 + body.len() as u32).to_ne_bytes());
        message.extend(opcode.to_ne_bytes());
        message.extend(unique.to_ne_bytes());
        message.extend(ino.to_ne_bytes());
        for word in [33_u32, 34, 35, 0] {
            message.extend(word.to_ne_bytes());
        }
        message.extend(body);
        let sent = send(self.device.as_raw_fd(), &message, MsgFlags::empty()).expect("the adapter reads");
        assert_eq!(sent, message.len());
    }

    fn asked(&self) -> Asked {
        self.asked.recv_timeout(Duration::from_secs(10)).expect("the adapter asks")
    }

    /// The next reply: its error (negative) and its body.
    fn receive(&self) -> (i32, Vec<u8>) {
        let mut bytes = vec![0; 1 << 16];
        let length = recv(self.device.as_raw_fd(), &mut bytes, MsgFlags::empty()).expect("a reply");
        assert_eq!(u32_at(&bytes, 0) as usize, length);
        (u32_at(&bytes, 4).cast_signed(), bytes[16..length].to_vec())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn body(words: &[u64], rest: &[u8]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).chain(rest.iter().copied()).collect()
}

fn attributes() -> Attributes {
    let time = Timestamp { seconds: -1, nanoseconds: 5 };
    Attributes {
        ino: Ino(9),
        kind: FileKind::File,
        mode: 0o4644,
        nlink: 2,
        uid: 33,
        gid: 34,
        rdev: 0,
        size: 12_345,
        blocks: 25,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

#[test]
fn init_asks_for_what_we_want_and_for_nothing_else() {
    let kernel = Kernel::new();
    assert_eq!(kernel.abi.get(), Some(&(7, 45)));
    let flags =
        InitFlags::from_bits_retain(u64::from(u32_at(&kernel.init, 12)) | u64::from(u32_at(&kernel.init, 32)) << 32);
    let wanted: InitFlags = WANTED.iter().copied().collect();
    assert_eq!(flags - InitFlags::FUSE_INIT_EXT, wanted);
    for unwanted in [
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_WRITEBACK_CACHE,
        InitFlags::FUSE_POSIX_LOCKS,
        InitFlags::FUSE_FLOCK_LOCKS,
    ] {
        assert!(!flags.contains(unwanted), "{unwanted:?}");
    }
    let background = u16::from_ne_bytes(kernel.init[16..18].try_into().expect("two bytes"));
    assert_eq!(background, limits::FUSE_BACKGROUND_MAX);
    assert_eq!((u32_at(&kernel.init, 20), u32_at(&kernel.init, 24)), (limits::FUSE_WRITE_BYTES_MAX, 1));
}

#[test]
fn a_missing_name_is_an_entry_of_inode_0() {
    let kernel = Kernel::new();
    kernel.send(LOOKUP, 4, 1, b"absent\0");
    let (unique, caller, request, reply) = kernel.asked();
    assert_eq!((unique, caller), (4, Caller { uid: 33, gid: 34, pid: 35 }));
    assert_eq!(request, Request::Lookup { parent: Ino(1), name: Name::new(b"absent").expect("a name") });
    reply.answer(Ok(Response::Missing { ttl: Duration::from_secs(60) }));
    let (error, entry) = kernel.receive();
    assert_eq!((error, u64_at(&entry, 0), u64_at(&entry, 16)), (0, 0, 60));
}

#[test]
fn an_entry_carries_both_times_to_live() {
    let kernel = Kernel::new();
    // Sent again after a successor took over: the same request.
    kernel.send(LOOKUP, 6 | 1 << 63, 1, b"there\0");
    let (unique, _, _, reply) = kernel.asked();
    assert_eq!(unique, 6);
    let (entry_ttl, attributes_ttl) = (Duration::from_secs(60), Duration::from_nanos(7));
    reply.answer(Ok(Response::Entry { attributes: attributes(), entry_ttl, attributes_ttl }));
    let (error, entry) = kernel.receive();
    assert_eq!((error, u64_at(&entry, 0)), (0, 9));
    assert_eq!((u64_at(&entry, 16), u64_at(&entry, 24), u32_at(&entry, 36)), (60, 0, 7));
    // struct fuse_attr follows: ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode …
    let attr = &entry[40..];
    assert_eq!((u64_at(attr, 0), u64_at(attr, 8), u64_at(attr, 16)), (9, 12_345, 25));
    assert_eq!((u64_at(attr, 24).cast_signed(), u32_at(attr, 48)), (-1, 5));
    assert_eq!((u32_at(attr, 60), u32_at(attr, 64)), (libc::S_IFREG | 0o4644, 2));
}

#[test]
fn a_write_says_what_stands_on_its_file() {
    let kernel = Kernel::new();
    let flags = (libc::O_WRONLY | libc::O_APPEND) as u64;
    // fh, offset, size and write flags, lock owner, open flags, data.
    const KILL_SUIDGID: u64 = 1 << 2;
    kernel.send(WRITE, 8, 9, &body(&[77, 4096, 5 | KILL_SUIDGID << 32, 0, flags], b"hello"));
    let (_, _, request, reply) = kernel.asked();
    let Request::Write { ino, fh, offset, data, flags } = request else { panic!("{request:?}") };
    assert_eq!((ino, fh, offset, &data[..]), (Ino(9), 77, 4096, &b"hello"[..]));
    assert!(flags.append && flags.kill_suid && !flags.write_back && !flags.sync);
    reply.answer(Ok(Response::Written { length: 5 }));
    assert_eq!(u32_at(&kernel.receive().1, 0), 5);
}

#[test]
fn parts_of_a_read_follow_one_another() {
    let kernel = Kernel::new();
    kernel.send(READ, 10, 9, &body(&[77, 3, 100, 0, 0], b""));
    let (_, _, request, reply) = kernel.asked();
    assert_eq!(request, Request::Read { ino: Ino(9), fh: 77, offset: 3, length: 100 });
    reply.answer(Ok(Response::Data(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")])));
    assert_eq!(kernel.receive(), (0, b"onetwo".to_vec()));
}

#[test]
fn created_takes_the_shorter_time_to_live() {
    let kernel = Kernel::new();
    let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) as u64;
    kernel.send(CREATE, 12, 1, &body(&[flags | 0o644 << 32, 0], b"new\0"));
    let (_, _, request, reply) = kernel.asked();
    let Request::Create { name, mode, flags, .. } = request else { panic!("{request:?}") };
    assert_eq!((name.as_bytes(), mode, flags.exclusive, flags.write), (&b"new"[..], 0o644, true, true));
    let opened = OpenedAs { fh: 5, keep_cache: true, ..OpenedAs::default() };
    let (entry_ttl, attributes_ttl) = (Duration::from_secs(60), Duration::ZERO);
    reply.answer(Ok(Response::Created { attributes: attributes(), entry_ttl, attributes_ttl, opened }));
    let (_, created) = kernel.receive();
    assert_eq!((u64_at(&created, 16), u64_at(&created, 24)), (0, 0));
    assert_eq!((u64_at(&created, 128), u32_at(&created, 136)), (5, 2));
}

#[test]
fn times_before_1970_arrive_as_they_were_sent() {
    let kernel = Kernel::new();
    let mtime = 1 << 5;
    // valid, fh, size, lock owner, atime, mtime, ctime, then nanoseconds of atime and mtime …
    let mut setattr = body(&[mtime, 0, 0, 0, 0, (-3_i64).cast_unsigned(), 0], &[]);
    for word in [0_u32, 999, 0, 0, 0, 0, 0, 0] {
        setattr.extend(word.to_ne_bytes());
    }
    kernel.send(SETATTR, 14, 9, &setattr);
    let (_, _, request, reply) = kernel.asked();
    let Request::Setattr { changes, .. } = request else { panic!("{request:?}") };
    assert_eq!(changes.mtime, Some(crate::types::TimeChange::To(Timestamp { seconds: -3, nanoseconds: 999 })));
    reply.answer(Err(Errno::EROFS));
    assert_eq!(kernel.receive().0, -libc::EROFS);
}

#[test]
fn what_needs_no_core_is_answered_at_once() {
    let kernel = Kernel::new();
    kernel.send(OPENDIR, 16, 1, &body(&[0], b""));
    assert_eq!(kernel.receive().0, -libc::ENOSYS);
    kernel.send(SETXATTR, 18, 9, &body(&[2], b"system.posix_acl_access\0\x02\0"));
    assert_eq!(kernel.receive().0, -libc::EOPNOTSUPP);
    let mut long = vec![b'x'; 256];
    long.push(0);
    kernel.send(LOOKUP, 20, 1, &long);
    assert_eq!(kernel.receive().0, -libc::ENAMETOOLONG);
    assert!(kernel.asked.try_recv().is_err());
    assert_eq!(kernel.counters.to_json()["upcalls"]["opendir"].as_u64(), Some(1));
}

#[test]
fn an_answer_that_does_not_fit_is_eio_and_not_silence() {
    let kernel = Kernel::new();
    kernel.send(READ, 22, 9, &body(&[77, 0, 100, 0, 0], b""));
    kernel.asked().3.answer(Ok(Response::Written { length: 1 }));
    assert_eq!(kernel.receive().0, -libc::EIO);
}
