//! Every request as the kernel builds it (fs/fuse/*.c), and messages that no kernel sends.

use proptest::prelude::*;

use super::*;
use crate::{
    mount::Caller,
    namespace::{AllocateMode, RenameMode, XattrMode},
    types::{ClearSuid, Name, XattrName},
};

/// A struct of the kernel in the making.
#[derive(Default)]
struct Struct(Vec<u8>);

impl Struct {
    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

fn s() -> Struct {
    Struct::default()
}

/// A message of user 33, group 34, process 35, about inode 9.
fn message(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    let header = s().u32(40 + body.len() as u32).u32(opcode).u64(unique).u64(9).u32(33).u32(34).u32(35).u32(0);
    header.bytes(body).0
}

fn agreement(flags: InitFlags) -> Agreement {
    let flags = (flags | InitFlags::FUSE_INIT_EXT).bits();
    let init = s().u32(7).u32(45).u32(0).u32(flags as u32).u32((flags >> 32) as u32);
    let message = message(opcode::INIT, 2, &init.0);
    let (header, body) = Header::parse(&message).expect("a header");
    match decode(&header, body, Agreement::NONE) {
        Ok(Message::Init(offer)) => Agreement::with(
            offer,
            crate::fuse::abi::init::Terms { with_acl: true, with_idmap: false, opens_are_told: true },
        ),
        other => panic!("{other:?}"),
    }
}

fn decoded_with(flags: InitFlags, opcode: u32, body: Struct) -> Result<Message, Fault> {
    let message = message(opcode, 8, &body.0);
    let (header, rest) = Header::parse(&message).expect("a header");
    assert_eq!(header.caller, Caller { uid: 33, gid: 34, pid: 35 });
    let result = decode(&header, rest, agreement(flags));
    // What is cut short is refused; only what ends in bytes of any number may seem whole.
    for length in 40..message.len() {
        let mut cut = message[..length].to_vec();
        cut[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        let (header, rest) = Header::parse(&cut).expect("a header");
        let cut = decode(&header, rest, agreement(flags));
        assert!(cut == Err(Fault::Malformed) || cut == result, "{opcode}: {length} bytes give {cut:?}");
    }
    result
}

fn decoded(opcode: u32, body: Struct) -> Result<Message, Fault> {
    decoded_with(InitFlags::all(), opcode, body)
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn xattr(text: &str) -> XattrName {
    XattrName::new(text.as_bytes()).expect("a name")
}

const INO: Ino = Ino(9);

/// `struct fuse_lk_in`.
fn lk_in(first: u64, last: u64, kind: i32, flags: u32) -> Struct {
    Struct::default().u64(77).u64(5).u64(first).u64(last).u32(kind.cast_unsigned()).u32(9).u32(flags).u32(0)
}

#[test]
fn locks_say_whose_they_are_and_of_which_family() {
    let (end, eof) = (u64::MAX, i64::MAX as u64);
    let claim = LockClaim {
        family: LockFamily::Fcntl,
        owner: 5,
        kind: LockKind::Exclusive,
        range: LockRange { first: 10, last: end },
        pid: 9,
        fh: 77,
    };
    let shared = LockClaim { kind: LockKind::Shared, range: LockRange { first: 1, last: 2 }, ..claim };
    let flock = LockClaim { family: LockFamily::Flock, range: LockRange::ALL, ..claim };
    for (opcode, body, request) in [
        (opcode::GETLK, lk_in(10, eof, libc::F_WRLCK, 0), Request::GetLock { ino: INO, claim }),
        (opcode::SETLK, lk_in(1, 2, libc::F_RDLCK, 0), Request::SetLock { ino: INO, claim: shared, waits: false }),
        (opcode::SETLKW, lk_in(0, eof, libc::F_WRLCK, 1), Request::SetLock { ino: INO, claim: flock, waits: true }),
        (opcode::SETLK, lk_in(1, 2, libc::F_UNLCK, 0), Request::Unlock { ino: INO, claim: shared }),
    ] {
        assert_eq!(decoded(opcode, body), Ok(Message::Request(request)), "{opcode}");
    }
    assert_eq!(decoded(opcode::SETLK, lk_in(1, 2, 7, 0)), Err(Fault::Refused(Errno::EINVAL)));
}

#[test]
fn requests_about_names() {
    let make = |node, mode, umask| Request::Make { parent: INO, name: name("n"), node, mode, umask };
    let target = Bytes::from_static(b"to/there");
    let clear_suid = ClearSuid::ByStranger;
    let open = OpenFlags { read: true, write: true, exclusive: true, clear_suid, ..OpenFlags::default() };
    let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).cast_unsigned();
    let create = Request::Create { parent: INO, name: name("n"), mode: 0o644, umask: 0o22, flags: open };
    let rename = |mode| Request::Rename { from: INO, from_name: name("a"), to: Ino(5), to_name: name("b"), mode };
    for (opcode, body, request) in [
        (opcode::LOOKUP, s().bytes(b"n\0"), Request::Lookup { parent: INO, name: name("n") }),
        (opcode::LOOKUP, s().bytes(b".\0"), Request::ByHandle { ino: INO }),
        (opcode::LOOKUP, s().bytes(b"..\0"), Request::Parent { ino: INO }),
        (
            opcode::MKNOD,
            s().u32(libc::S_IFCHR | 0o660).u32(0x103).u32(0o27).u32(0).bytes(b"n\0"),
            make(NewNode::CharDevice { rdev: 0x103 }, 0o660, 0o27),
        ),
        (opcode::MKDIR, s().u32(0o1777).u32(0o77).bytes(b"n\0"), make(NewNode::Directory, 0o1777, 0o77)),
        (opcode::SYMLINK, s().bytes(b"n\0to/there\0"), make(NewNode::Symlink { target }, 0o777, 0)),
        (opcode::CREATE, s().u32(flags).u32(libc::S_IFREG | 0o644).u32(0o22).u32(1).bytes(b"n\0"), create),
        (opcode::UNLINK, s().bytes(b"n\0"), Request::Unlink { parent: INO, name: name("n") }),
        (opcode::RMDIR, s().bytes(b"n\0"), Request::Rmdir { parent: INO, name: name("n") }),
        (opcode::RENAME, s().u64(5).bytes(b"a\0b\0"), rename(RenameMode::Replace)),
        (opcode::RENAME2, s().u64(5).u32(2).u32(0).bytes(b"a\0b\0"), rename(RenameMode::Exchange)),
        (opcode::LINK, s().u64(7).bytes(b"n\0"), Request::Link { ino: Ino(7), parent: INO, name: name("n") }),
    ] {
        assert_eq!(decoded(opcode, body), Ok(Message::Request(request)), "{opcode}");
    }
}

#[test]
fn requests_about_files() {
    let flags = (libc::O_WRONLY | libc::O_TRUNC).cast_unsigned();
    let open = OpenFlags { write: true, truncate: true, clear_suid: ClearSuid::ByStranger, ..OpenFlags::default() };
    let of_file = (libc::O_WRONLY | libc::O_APPEND | libc::O_DSYNC).cast_unsigned();
    let write = s().u64(77).u64(4096).u32(5).u32(0b101).u64(3).u32(of_file).u32(0).bytes(b"hello");
    let write_flags = WriteFlags { write_back: true, clear_suid: ClearSuid::ByStranger, append: true, sync: true };
    let data = Bytes::from_static(b"hello");
    let copy = s().u64(1).u64(10).u64(5).u64(2).u64(20).u64(u64::MAX).u64(0);
    let punch = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE).cast_unsigned();
    for (opcode, body, request) in [
        (opcode::OPEN, s().u32(flags).u32(1), Request::Open { ino: INO, flags: open }),
        (
            opcode::READ,
            s().u64(77).u64(3).u32(100).u32(2).u64(1).u32(0).u32(0),
            Request::Read { ino: INO, fh: 77, offset: 3, length: 100 },
        ),
        (opcode::WRITE, write, Request::Write { ino: INO, fh: 77, offset: 4096, data, flags: write_flags }),
        (opcode::FLUSH, s().u64(77).u64(0).u64(3), Request::Flush { ino: INO, fh: 77, owner: 3 }),
        (opcode::RELEASE, s().u64(77).u32(0).u32(2).u64(3), Request::Release { ino: INO, fh: 77 }),
        (opcode::FSYNC, s().u64(77).u32(1).u32(0), Request::Fsync { ino: INO, fh: 77 }),
        (
            opcode::FALLOCATE,
            s().u64(77).u64(1).u64(2).u32(punch).u32(0),
            Request::Allocate { ino: INO, fh: 77, mode: AllocateMode::Punch, offset: 1, length: 2 },
        ),
        (opcode::LSEEK, s().u64(77).u64(5).u32(3).u32(0), Request::SeekData { ino: INO, offset: 5 }),
        (opcode::LSEEK, s().u64(77).u64(5).u32(4).u32(0), Request::SeekHole { ino: INO, offset: 5 }),
        (
            opcode::COPY_FILE_RANGE,
            copy,
            Request::CopyRange {
                from: INO,
                from_offset: 10,
                to: Ino(5),
                to_offset: 20,
                length: crate::limits::COPY_RANGE_BYTES_MAX,
            },
        ),
    ] {
        assert_eq!(decoded(opcode, body), Ok(Message::Request(request)), "{opcode}");
    }
}

#[test]
fn requests_about_inodes() {
    let name = xattr("user.a");
    let (value, mode) = (Bytes::from_static(b"value"), XattrMode::Create);
    for (opcode, body, request) in [
        (opcode::GETATTR, s().u32(0).u32(0).u64(0), Request::Getattr { ino: INO, for_read: false }),
        (opcode::GETATTR, s().u32(1).u32(0).u64(7), Request::Getattr { ino: INO, for_read: true }),
        (opcode::READLINK, s(), Request::Readlink { ino: INO }),
        (opcode::STATFS, s(), Request::Statfs),
        (
            opcode::READDIR,
            s().u64(0).u64(3).u32(4096).u32(0).u64(0).u32(0).u32(0),
            Request::Readdir { ino: INO, offset: 3, length: 4096 },
        ),
        (opcode::FSYNCDIR, s().u64(0).u32(0).u32(0), Request::Fsyncdir { ino: INO }),
        (
            opcode::SETXATTR,
            s().u32(5).u32(1).u32(1).u32(0).bytes(b"user.a\0value"),
            Request::Setxattr { ino: INO, name: name.clone(), value, mode, clear_sgid: true },
        ),
        (
            opcode::GETXATTR,
            s().u32(100).u32(0).bytes(b"user.a\0"),
            Request::Getxattr { ino: INO, name: name.clone(), length: 100 },
        ),
        (opcode::LISTXATTR, s().u32(100).u32(0), Request::Listxattr { ino: INO, length: 100 }),
        (opcode::REMOVEXATTR, s().bytes(b"user.a\0"), Request::Removexattr { ino: INO, name }),
    ] {
        assert_eq!(decoded(opcode, body), Ok(Message::Request(request)), "{opcode}");
    }
}

/// `valid`, size, atime and mtime with 999 nanoseconds each, mode, uid and gid.
fn setattr(valid: u32, size: u64, times: [i64; 2], numbers: [u32; 3]) -> Struct {
    let [atime, mtime] = times.map(i64::cast_unsigned);
    let [mode, uid, gid] = numbers;
    let begin = s().u32(valid).u32(0).u64(0).u64(size).u64(0).u64(atime).u64(mtime).u64(0);
    begin.u32(999).u32(999).u32(0).u32(mode).u32(0).u32(uid).u32(gid).u32(0)
}

#[test]
fn setattr_changes_what_is_marked_as_valid() {
    let changes = |flags, valid| {
        let body = setattr(valid, 5, [-3, i64::MIN], [0o104_755, 1, 2]);
        match decoded_with(flags, opcode::SETATTR, body) {
            Ok(Message::Request(Request::Setattr { ino: INO, changes })) => changes,
            other => panic!("{other:?}"),
        }
    };
    let all = InitFlags::all();
    let none = AttributeChanges::default();
    assert_eq!(changes(all, 0), none);
    assert_eq!(changes(all, valid::MODE), AttributeChanges { mode: Some(0o4755), ..none });
    assert_eq!(changes(all, valid::UID), AttributeChanges { uid: Some(1), clear_suid: ClearSuid::ByStranger, ..none });
    assert_eq!(changes(all, valid::GID), AttributeChanges { gid: Some(2), clear_suid: ClearSuid::ByStranger, ..none });
    assert_eq!(changes(all, valid::SIZE), AttributeChanges { size: Some(5), ..none });
    let kill = AttributeChanges { size: Some(5), clear_suid: ClearSuid::ByStranger, ..none };
    assert_eq!(changes(all, valid::SIZE | valid::KILL_SUIDGID), kill);
    // A kernel that cannot say so: the caller is not root.
    assert_eq!(changes(InitFlags::FUSE_HANDLE_KILLPRIV, valid::SIZE), kill);
    let to = |seconds| Some(TimeChange::To(Timestamp { seconds, nanoseconds: 999 }));
    let times = AttributeChanges { atime: to(-3), mtime: to(i64::MIN), ..none };
    assert_eq!(changes(all, valid::ATIME | valid::MTIME), times);
    let now = valid::ATIME | valid::ATIME_NOW | valid::MTIME | valid::MTIME_NOW;
    let times = AttributeChanges { atime: Some(TimeChange::Now), mtime: Some(TimeChange::Now), ..none };
    assert_eq!(changes(all, now), times);
}

#[test]
fn what_the_session_itself_deals_with() {
    assert_eq!(decoded(opcode::FORGET, s().u64(3)), Ok(Message::Forget(vec![(INO, 3)])));
    let batch = s().u32(2).u32(0).u64(5).u64(1).u64(6).u64(2);
    assert_eq!(decoded(opcode::BATCH_FORGET, batch), Ok(Message::Forget(vec![(Ino(5), 1), (Ino(6), 2)])));
    assert_eq!(decoded(opcode::INTERRUPT, s().u64(8 | 1 << 63)), Ok(Message::Interrupt { unique: 8 }));
    assert_eq!(decoded(opcode::RELEASEDIR, s().u64(0).u64(0).u64(0)), Ok(Message::Acknowledge));
    assert_eq!(decoded(opcode::DESTROY, s()), Ok(Message::Acknowledge));
    for (opcode, errno) in
        [(opcode::OPENDIR, Errno::ENOSYS), (opcode::ACCESS, Errno::ENOSYS), (opcode::IOCTL, Errno::ENOTTY)]
    {
        assert_eq!(decoded(opcode, s()), Err(Fault::Refused(errno)));
    }
    assert_eq!(decoded(9999, s()), Err(Fault::Refused(Errno::ENOSYS)), "what a newer kernel may bring");
}

#[test]
fn what_depends_on_the_agreement() {
    let short = || s().u32(1).u32(0).bytes(b"system.posix_acl_access\0x");
    assert_eq!(decoded_with(InitFlags::empty(), opcode::SETXATTR, short()), Err(Fault::Refused(Errno::EOPNOTSUPP)));
    match decoded_with(InitFlags::FUSE_POSIX_ACL, opcode::SETXATTR, short()) {
        Ok(Message::Request(Request::Setxattr { clear_sgid: false, .. })) => {}
        other => panic!("{other:?}"),
    }
    let write = || s().u64(1).u64(0).u32(0).u32(0).u64(0).u32(0).u32(0);
    for (flags, clears) in
        [(InitFlags::empty(), ClearSuid::ByStranger), (InitFlags::FUSE_HANDLE_KILLPRIV_V2, ClearSuid::No)]
    {
        match decoded_with(flags, opcode::WRITE, write()) {
            Ok(Message::Request(Request::Write { flags, .. })) => assert_eq!(flags.clear_suid, clears),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_request_that_was_sent_again_has_its_number() {
    let again = message(opcode::READLINK, 6 | 1 << 63, &[]);
    let (header, _) = Header::parse(&again).expect("a header");
    assert_eq!((header.request(), header.unique), (6, 6 | 1 << 63), "the reply repeats the kernel's");
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    assert!(Header::parse(&message(opcode::STATFS, 2, &[])[..39]).is_none());
    let mut wrong = message(opcode::STATFS, 2, &[]);
    wrong[0] += 1;
    let (header, body) = Header::parse(&wrong).expect("a header");
    assert_eq!(decode(&header, body, agreement(InitFlags::empty())), Err(Fault::Malformed));
    let forgets = s().u32(u32::MAX).u32(0).u64(1).u64(1);
    assert_eq!(decoded(opcode::BATCH_FORGET, forgets), Err(Fault::Malformed));
    let write = s().u64(1).u64(0).u32(u32::MAX).u32(0).u64(0).u32(0).u32(0).bytes(b"few");
    assert_eq!(decoded(opcode::WRITE, write), Err(Fault::Malformed));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(opcode in 0_u32..60, flags: u64, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let message = message(opcode, 2, &body);
        let (header, body) = Header::parse(&message).expect("a header");
        let _ = decode(&header, body, agreement(InitFlags::from_bits_retain(flags)));
    }

    #[test]
    fn no_message_makes_it_panic(message in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Some((header, body)) = Header::parse(&message) {
            let _ = decode(&header, body, Agreement::NONE);
        }
    }
}
