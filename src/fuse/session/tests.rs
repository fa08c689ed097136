//! A session driven as the kernel drives it: requests as bytes through a socket in place of /dev/fuse.

use std::{
    os::fd::AsRawFd,
    sync::{
        Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::*;
use crate::{fuse::abi::opcode, types::Name};

const PATIENCE: Duration = Duration::from_secs(10);

type Asked = (u64, Caller, Request, Reply);

struct Asks {
    asked: Sender<Asked>,
    forgotten: Mutex<Vec<(Ino, u64)>>,
    interrupted: Mutex<Vec<u64>>,
}

impl Ask for Asks {
    fn ask(&self, unique: u64, caller: Caller, request: Request, reply: Reply) {
        self.asked.send((unique, caller, request, reply)).expect("the test listens");
    }

    fn forget(&self, inodes: Vec<(Ino, u64)>) {
        self.forgotten.lock().expect("lock").extend(inodes);
    }

    /// Requests above 100 have not arrived.
    fn interrupt(&self, unique: u64) -> bool {
        self.interrupted.lock().expect("lock").push(unique);
        unique <= 100
    }
}

/// The kernel's end, and what the session asked.
struct Kernel {
    device: OwnedFd,
    asked: Receiver<Asked>,
    asks: Arc<Asks>,
    counters: Arc<Counters>,
    session: thread::JoinHandle<io::Result<()>>,
}

fn device() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair")
}

/// Sends a request as user 33, group 34, process 35.
fn tell(device: &OwnedFd, opcode: u32, unique: u64, ino: u64, body: &[u8]) {
    let mut message = Vec::new();
    message.extend((40 + body.len() as u32).to_ne_bytes());
    message.extend(opcode.to_ne_bytes());
    message.extend(unique.to_ne_bytes());
    message.extend(ino.to_ne_bytes());
    for word in [33_u32, 34, 35, 0] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(body);
    assert_eq!(send(device.as_raw_fd(), &message, MsgFlags::empty()), Ok(message.len()));
}

fn init(major: u32, minor: u32) -> Vec<u8> {
    let mut init: Vec<u8> =
        [major, minor, 128 * 1024, u32::MAX, u32::MAX >> 1].iter().flat_map(|word| word.to_ne_bytes()).collect();
    init.resize(64, 0);
    init
}

/// The next reply: its error (negative), the request's number and the body.
fn reply(device: &OwnedFd) -> (i32, u64, Vec<u8>) {
    let mut bytes = vec![0; 1 << 16];
    let length = recv(device.as_raw_fd(), &mut bytes, MsgFlags::empty()).expect("a reply");
    assert_eq!(u32_at(&bytes, 0) as usize, length);
    let unique = u64::from_ne_bytes(bytes[8..16].try_into().expect("eight bytes"));
    (u32_at(&bytes, 4).cast_signed(), unique, bytes[16..length].to_vec())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn begin(end: OwnedFd) -> (io::Result<Session<Asks>>, Receiver<Asked>, Arc<Asks>, Arc<Counters>) {
    let (sender, asked) = mpsc::channel();
    let asks = Arc::new(Asks { asked: sender, forgotten: Mutex::default(), interrupted: Mutex::default() });
    let counters = Arc::new(Counters::default());
    let session = Session::begin(
        end,
        Arc::clone(&asks),
        Arc::clone(&counters),
        Terms { with_acl: true, with_idmap: false, opens_are_told: true },
    );
    (session, asked, asks, counters)
}

impl Kernel {
    fn new() -> Self {
        let (device, end) = device();
        tell(&device, opcode::INIT, 1, 0, &init(7, 45));
        let (session, asked, asks, counters) = begin(end);
        let session = session.expect("INIT is answered");
        assert_eq!(session.version(), (7, 45));
        assert_eq!(reply(&device).2.len(), 64);
        let session = thread::spawn(move || session.serve());
        Self { device, asked, asks, counters, session }
    }

    fn send(&self, opcode: u32, unique: u64, ino: u64, body: &[u8]) {
        tell(&self.device, opcode, unique, ino, body);
    }

    fn asked(&self) -> Asked {
        self.asked.recv_timeout(PATIENCE).expect("the session asks")
    }

    fn receive(&self) -> (i32, u64, Vec<u8>) {
        reply(&self.device)
    }
}

#[test]
fn a_request_is_handed_on_and_its_answer_goes_back() {
    let kernel = Kernel::new();
    // Sent again after a successor took over: the same request.
    kernel.send(opcode::LOOKUP, 6 | 1 << 63, 1, b"absent\0");
    let (unique, caller, request, reply) = kernel.asked();
    assert_eq!((unique, caller), (6, Caller { uid: 33, gid: 34, pid: 35 }));
    assert_eq!(request, Request::Lookup { parent: Ino(1), name: Name::new(b"absent").expect("a name") });
    reply.answer(Err(Errno::ESTALE));
    assert_eq!(kernel.receive(), (-libc::ESTALE, 6 | 1 << 63, Vec::new()));
}

#[test]
fn parts_of_a_read_follow_one_another() {
    let kernel = Kernel::new();
    kernel.send(opcode::READ, 10, 9, &[0; 40]);
    let reply = kernel.asked().3;
    // From another thread than the one that reads.
    reply.answer(Ok(Response::Data(vec!["one".into(), "two".into()])));
    assert_eq!(kernel.receive(), (0, 10, b"onetwo".to_vec()));
}

#[test]
fn what_needs_no_core_is_answered_at_once() {
    let kernel = Kernel::new();
    kernel.send(opcode::OPENDIR, 16, 1, &[0; 8]);
    assert_eq!(kernel.receive(), (-libc::ENOSYS, 16, Vec::new()));
    kernel.send(opcode::LOOKUP, 20, 1, &[&[b'x'; 256][..], b"\0"].concat());
    assert_eq!(kernel.receive().0, -libc::ENAMETOOLONG);
    kernel.send(opcode::RELEASEDIR, 22, 1, &[0; 24]);
    assert_eq!(kernel.receive(), (0, 22, Vec::new()));
    assert!(kernel.asked.try_recv().is_err());
    assert_eq!(kernel.counters.to_json()["upcalls"]["opendir"].as_u64(), Some(1));
}

#[test]
fn what_makes_no_sense_is_eio_and_counted() {
    let kernel = Kernel::new();
    kernel.send(opcode::WRITE, 24, 1, b"short");
    assert_eq!(kernel.receive(), (-libc::EIO, 24, Vec::new()));
    kernel.send(opcode::INIT, 26, 0, &init(7, 45));
    assert_eq!(kernel.receive().0, -libc::EIO, "a session begins once");
    kernel.send(4711, 28, 1, b"");
    assert_eq!(kernel.receive().0, -libc::ENOSYS, "of a newer kernel");
    send(kernel.device.as_raw_fd(), b"less", MsgFlags::empty()).expect("the session reads");
    // Answered by nobody; the next one is.
    kernel.send(opcode::ACCESS, 30, 1, &[0; 8]);
    assert_eq!(kernel.receive().1, 30);
    assert_eq!(kernel.counters.to_json()["malformed"].as_u64(), Some(2));
}

#[test]
fn forgets_have_no_reply() {
    let kernel = Kernel::new();
    kernel.send(opcode::FORGET, 0, 9, &3_u64.to_ne_bytes());
    let batch: Vec<u8> = [1_u64, 5, 2].iter().flat_map(|word| word.to_ne_bytes()).collect();
    kernel.send(opcode::BATCH_FORGET, 0, 0, &batch);
    kernel.send(opcode::ACCESS, 32, 1, &[0; 8]);
    assert_eq!(kernel.receive().1, 32);
    assert_eq!(*kernel.asks.forgotten.lock().expect("lock"), [(Ino(9), 3), (Ino(5), 2)]);
}

#[test]
fn an_interrupt_that_overtook_its_request_is_to_be_sent_again() {
    let kernel = Kernel::new();
    // The kernel numbers an interrupt by its request, with the lowest bit set.
    kernel.send(opcode::INTERRUPT, 41, 0, &40_u64.to_ne_bytes());
    kernel.send(opcode::INTERRUPT, 201, 0, &200_u64.to_ne_bytes());
    assert_eq!(kernel.receive(), (-libc::EAGAIN, 201, Vec::new()), "the first one has no reply");
    assert_eq!(*kernel.asks.interrupted.lock().expect("lock"), [40, 200]);
}

#[test]
fn a_session_ends_with_its_mount() {
    let kernel = Kernel::new();
    drop(kernel.device);
    kernel.session.join().expect("no panic").expect("an unmount is no error");
}

#[test]
fn versions_are_agreed_upon_or_refused() {
    let (kernel, end) = device();
    tell(&kernel, opcode::INIT, 1, 0, &init(8, 1));
    tell(&kernel, opcode::INIT, 3, 0, &init(7, 31));
    let session = begin(end).0.expect("the second one is ours");
    assert_eq!(session.version(), (7, 31));
    let (error, unique, body) = reply(&kernel);
    assert_eq!((error, unique, u32_at(&body, 0)), (0, 1, 7), "our major version");
    assert_eq!(reply(&kernel).1, 3);

    for (opcode, body, kind) in [
        (opcode::INIT, init(7, 30), io::ErrorKind::Unsupported),
        (opcode::STATFS, Vec::new(), io::ErrorKind::InvalidData),
    ] {
        let (kernel, end) = device();
        tell(&kernel, opcode, 1, 0, &body);
        assert_eq!(begin(end).0.err().map(|error| error.kind()), Some(kind));
    }
}
