//! Mounts, their kernels' locks, the leader and the stores, driven to rest after every step.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use super::{
    super::{kernel::TAKEN_OVER, *},
    leader::Leader,
};
use crate::{
    limits::Timing,
    message::mount::ToLeader,
    namespace::NewNode,
    types::{BlockHash, ClearSuid, ConnectionId, LogIndex, MountId, Name},
};

pub(super) const WRITER: OpenFlags = OpenFlags {
    read: false,
    write: true,
    append: false,
    truncate: false,
    exclusive: false,
    sync: false,
    clear_suid: ClearSuid::No,
};
pub(super) const CALLER: Caller = Caller { uid: 33, gid: 33, pid: 100 };

/// One mount and its kernel.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) mount: Mount,
    pub(super) connection: Option<ConnectionId>,
    unanswered: BTreeMap<u64, Request>,
    pub(super) answers: BTreeMap<u64, Result<Response, Errno>>,
    /// Tickets whose notifications are not all carried out.
    tickets: BTreeMap<u64, VecDeque<Notification>>,
    /// Everything the kernel was told to forget, in order.
    pub(super) notified: Vec<Notification>,
    /// The kernel carries out no notification at all.
    pub(super) is_stalled: bool,
    /// No connection of this mount is made or kept.
    pub(super) is_cut_off: bool,
    pub(super) is_ready: bool,
    pub(super) is_stopped: bool,
    pub(super) notices: Vec<String>,
    pub(super) fatal: Option<String>,
    pub(super) stale: Option<String>,
    pub(super) fetches: u64,
    /// What the holder was told.
    pub(super) watched: BTreeMap<u32, (Ino, bool)>,
    pub(super) deadline: Option<Instant>,
}

/// What happened, in order, for tests that care about the order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Told(usize, Notification),
    Answered(usize, u64),
    Acknowledged(usize, LogIndex),
}

#[derive(Debug)]
pub(super) struct Scene {
    pub(super) now: Instant,
    pub(super) journal: Vec<Step>,
    pub(super) leader: Leader,
    pub(super) sides: Vec<Side>,
    next_unique: u64,
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

pub(super) fn config(number: u128) -> Config {
    let kernel = KernelFeatures { inc_epoch: false, inval_entry: true };
    Config { kernel, ..Config::new(vec!["leader".to_owned()], MountId(number + 100)) }
}

impl Scene {
    /// Mounts that are ready and hold the lease.
    pub(super) fn new(mounts: usize) -> Self {
        Self::with((0..mounts).map(|number| config(number as u128)).collect())
    }

    pub(super) fn with_epoch(mounts: usize) -> Self {
        let kernel = KernelFeatures { inc_epoch: true, inval_entry: true };
        Self::with((0..mounts).map(|number| Config { kernel, ..config(number as u128) }).collect())
    }

    pub(super) fn with(configs: Vec<Config>) -> Self {
        let now = Instant(1_000_000_000);
        let sides = configs
            .into_iter()
            .map(|config| Side {
                mount: Mount::new(now, config),
                connection: None,
                unanswered: BTreeMap::new(),
                answers: BTreeMap::new(),
                tickets: BTreeMap::new(),
                notified: Vec::new(),
                is_stalled: false,
                is_cut_off: false,
                is_ready: false,
                is_stopped: false,
                notices: Vec::new(),
                fatal: None,
                stale: None,
                fetches: 0,
                watched: BTreeMap::new(),
                deadline: None,
            })
            .collect();
        let mut scene = Self { now, journal: Vec::new(), leader: Leader::new(), sides, next_unique: 1 };
        scene.settle();
        scene.pass(Timing::DEFAULT.heartbeat * 3);
        for side in &scene.sides {
            assert!(side.is_ready && side.mount.status().lease_held, "{:?}", side.mount.status());
        }
        scene
    }

    /// Sends a request of the kernel and carries everything on until nothing moves.
    pub(super) fn send(&mut self, side: usize, request: Request) -> u64 {
        let unique = self.next_unique;
        self.next_unique += 1;
        self.send_as(side, unique, CALLER, request)
    }

    pub(super) fn send_as(&mut self, side: usize, unique: u64, caller: Caller, request: Request) -> u64 {
        self.sides[side].unanswered.insert(unique, request.clone());
        self.sides[side].mount.handle(self.now, Input::Request { unique, caller, request });
        self.settle();
        unique
    }

    /// Hands the request over and does nothing more: others may come before it gets anywhere.
    pub(super) fn post(&mut self, side: usize, request: Request) -> u64 {
        let unique = self.next_unique;
        self.next_unique += 1;
        self.sides[side].unanswered.insert(unique, request.clone());
        self.sides[side].mount.handle(self.now, Input::Request { unique, caller: CALLER, request });
        unique
    }

    pub(super) fn forget(&mut self, side: usize, ino: Ino, count: u64) {
        let request = Request::Forget { inodes: vec![(ino, count)] };
        self.sides[side].mount.handle(self.now, Input::Request { unique: 0, caller: CALLER, request });
        self.settle();
    }

    pub(super) fn answer(&self, side: usize, unique: u64) -> Option<Result<Response, Errno>> {
        self.sides[side].answers.get(&unique).cloned()
    }

    /// The answer to a request that needs no time to pass, but for what another kernel takes to take over an answer.
    pub(super) fn call(&mut self, side: usize, request: Request) -> Result<Response, Errno> {
        let unique = self.send(side, request.clone());
        if self.answer(side, unique).is_none() {
            self.pass(TAKEN_OVER);
        }
        self.answer(side, unique).unwrap_or_else(|| panic!("{request:?} is not answered"))
    }

    pub(super) fn interrupt(&mut self, side: usize, unique: u64) {
        self.sides[side].mount.handle(self.now, Input::Interrupt { unique });
        self.settle();
    }

    pub(super) fn stop(&mut self, side: usize) {
        self.sides[side].mount.handle(self.now, Input::Stop);
        self.settle();
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            let due = self.sides.iter().filter_map(|side| side.mount.poll_timeout()).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            for side in 0..self.sides.len() {
                if self.sides[side].mount.poll_timeout().is_some_and(|due| due <= self.now) {
                    self.sides[side].mount.handle(self.now, Input::Tick);
                    let again = self.sides[side].mount.poll_timeout();
                    assert!(
                        again.is_none_or(|again| again > self.now),
                        "a timeout that is due stays due: it would spin"
                    );
                }
            }
            self.settle();
        }
        self.now = end;
    }

    /// Ends the mount's connection; it will dial again.
    pub(super) fn disconnect(&mut self, side: usize) {
        self.leader.detached(side);
        if let Some(connection) = self.sides[side].connection.take() {
            let gone = Input::Disconnected { connection, reason: "reset".to_owned() };
            self.sides[side].mount.handle(self.now, gone);
        }
        self.settle();
    }

    pub(super) fn cut_off(&mut self, side: usize) {
        self.sides[side].is_cut_off = true;
        self.disconnect(side);
    }

    pub(super) fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the scene never comes to rest");
            let mut moved = false;
            while let Some((side, connection, message)) = self.leader.take_message() {
                moved = true;
                if self.sides[side].connection == Some(connection) {
                    self.sides[side].mount.handle(self.now, Input::Message { connection, message });
                }
            }
            for side in 0..self.sides.len() {
                while let Some(output) = self.sides[side].mount.poll_output() {
                    moved = true;
                    self.output(side, output);
                }
                moved |= self.run_tickets(side);
            }
            if !moved {
                break;
            }
        }
    }

    fn output(&mut self, index: usize, output: Output) {
        let now = self.now;
        let side = &mut self.sides[index];
        match output {
            Output::Answer { unique, result } => {
                assert!(side.unanswered.remove(&unique).is_some(), "{unique} is answered twice, or was never asked");
                side.answers.insert(unique, result);
                self.journal.push(Step::Answered(index, unique));
            }
            Output::Notify { ticket, notifications } => {
                side.tickets.insert(ticket, notifications.into());
            }
            Output::Prepare { .. } => {}
            Output::Connect { connection, .. } => {
                self.leader.detached(index);
                let input = if self.leader.is_up && !side.is_cut_off {
                    side.connection = Some(connection);
                    Input::Connected { connection }
                } else {
                    side.connection = None;
                    Input::Disconnected { connection, reason: "refused".to_owned() }
                };
                side.mount.handle(now, input);
            }
            Output::Send { connection, message } => {
                if side.connection == Some(connection) {
                    let is_end = message == ToLeader::Leave;
                    if let ToLeader::Acknowledge { entries, .. } = &message {
                        self.journal.extend(entries.iter().map(|entry| Step::Acknowledged(index, *entry)));
                    }
                    self.leader.message(index, connection, message);
                    if is_end {
                        side.connection = None;
                    }
                }
            }
            Output::StoreBlock { ticket, store, hash, bytes, .. } => {
                let place = self.leader.stores.get_mut(&store).expect("a store that exists");
                let result = match (place.is_down || side.is_cut_off, place.is_full) {
                    (true, _) => Err(StoreError::Unreachable("down".to_owned())),
                    (_, true) => Err(StoreError::Full),
                    _ => {
                        assert_eq!(BlockHash::of(&bytes), hash);
                        place.blocks.insert(hash, bytes);
                        Ok(())
                    }
                };
                if !place.hangs {
                    side.mount.handle(now, Input::BlockStored { ticket, store, result });
                }
            }
            Output::FetchBlock { ticket, store, hash, .. } => {
                side.fetches += 1;
                let place = &self.leader.stores[&store];
                let result = match (place.is_down || side.is_cut_off, place.blocks.get(&hash)) {
                    (true, _) => Err(StoreError::Unreachable("down".to_owned())),
                    (_, None) => Err(StoreError::Missing),
                    (_, Some(bytes)) => Ok(bytes.clone()),
                };
                if !place.hangs {
                    side.mount.handle(now, Input::BlockFetched { ticket, store, result });
                }
            }
            Output::Ready => {
                assert!(side.mount.status().lease_held, "without the lease changes complete behind the mount's back");
                side.is_ready = true;
            }
            Output::Fatal(sentence) => side.fatal = Some(sentence),
            Output::Stale(sentence) => side.stale = Some(sentence),
            Output::Notice(sentence) => side.notices.push(sentence),
            Output::Stopped => side.is_stopped = true,
            Output::Watch { slot, inode: Some(inode) } => drop(side.watched.insert(slot, inode)),
            Output::Watch { slot, inode: None } => drop(side.watched.remove(&slot)),
            Output::Deadline(deadline) => side.deadline = deadline,
        }
    }

    /// Carries out notifications as far as the kernel's locks let them.
    fn run_tickets(&mut self, index: usize) -> bool {
        let now = self.now;
        let side = &mut self.sides[index];
        if side.is_stalled {
            return false;
        }
        let mut moved = false;
        let tickets: Vec<u64> = side.tickets.keys().copied().collect();
        for ticket in tickets {
            let Some(mut queue) = side.tickets.remove(&ticket) else { continue };
            while let Some(notification) = queue.pop_front() {
                if side.unanswered.values().any(|request| stops(request, &notification)) {
                    queue.push_front(notification);
                    break;
                }
                self.journal.push(Step::Told(index, notification.clone()));
                side.notified.push(notification);
            }
            if queue.is_empty() {
                side.mount.handle(now, Input::Notified { ticket });
                moved = true;
            } else {
                side.tickets.insert(ticket, queue);
            }
        }
        moved
    }

    // Short forms of what many tests do.

    pub(super) fn lookup(&mut self, side: usize, parent: Ino, text: &str) -> Option<Ino> {
        match self.call(side, Request::Lookup { parent, name: name(text) }) {
            Ok(Response::Entry { attributes, .. }) => Some(attributes.ino),
            Ok(Response::Missing { .. }) => None,
            other => panic!("lookup of {text}: {other:?}"),
        }
    }

    pub(super) fn create_request(text: &str) -> Request {
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        Request::Create { parent: Ino::ROOT, name: name(text), mode: 0o644, umask: 0, flags }
    }

    pub(super) fn create(&mut self, side: usize, text: &str) -> (Ino, u64) {
        match self.call(side, Self::create_request(text)) {
            Ok(Response::Created { attributes, opened, .. }) => (attributes.ino, opened.fh),
            other => panic!("create of {text}: {other:?}"),
        }
    }

    pub(super) fn mkdir(&mut self, side: usize, parent: Ino, text: &str) -> Ino {
        let request = Request::Make { parent, name: name(text), node: NewNode::Directory, mode: 0o755, umask: 0 };
        match self.call(side, request) {
            Ok(Response::Entry { attributes, .. }) => attributes.ino,
            other => panic!("mkdir of {text}: {other:?}"),
        }
    }

    pub(super) fn open(&mut self, side: usize, ino: Ino, flags: OpenFlags) -> OpenedAs {
        match self.call(side, Request::Open { ino, flags }) {
            Ok(Response::Opened(opened)) => opened,
            other => panic!("open of {ino}: {other:?}"),
        }
    }

    pub(super) fn write_request(ino: Ino, fh: u64, offset: u64, data: &[u8]) -> Request {
        let data = Bytes::copy_from_slice(data);
        Request::Write { ino, fh, offset, data, flags: WriteFlags::default() }
    }

    pub(super) fn write(&mut self, side: usize, ino: Ino, fh: u64, offset: u64, data: &[u8]) {
        let answer = self.call(side, Self::write_request(ino, fh, offset, data));
        assert_eq!(answer, Ok(Response::Written { length: data.len() as u32 }));
    }

    pub(super) fn read(&mut self, side: usize, ino: Ino, offset: u64, length: u32) -> Vec<u8> {
        match self.call(side, Request::Read { ino, fh: 0, offset, length }) {
            Ok(Response::Data(parts)) => parts.concat(),
            other => panic!("read of {ino}: {other:?}"),
        }
    }

    pub(super) fn getattr(&mut self, side: usize, ino: Ino) -> (crate::types::Attributes, Duration) {
        match self.call(side, Request::Getattr { ino, for_read: false }) {
            Ok(Response::Attributes { attributes, ttl }) => (attributes, ttl),
            other => panic!("getattr of {ino}: {other:?}"),
        }
    }

    pub(super) fn flush(&mut self, side: usize, ino: Ino, fh: u64) {
        assert_eq!(self.call(side, Request::Flush { ino, fh, owner: 0 }), Ok(Response::Done));
    }

    pub(super) fn close(&mut self, side: usize, ino: Ino, fh: u64) {
        self.flush(side, ino, fh);
        assert_eq!(self.call(side, Request::Release { ino, fh }), Ok(Response::Done));
    }

    /// A file with this content, closed.
    pub(super) fn file(&mut self, side: usize, text: &str, content: &[u8]) -> Ino {
        let (ino, fh) = self.create(side, text);
        for (number, part) in content.chunks(1 << 20).enumerate() {
            self.write(side, ino, fh, (number as u64) << 20, part);
        }
        self.close(side, ino, fh);
        ino
    }

    pub(super) fn acknowledged(&self, side: usize) -> BTreeSet<LogIndex> {
        self.leader.acknowledged.iter().filter(|(of, _)| *of == side).map(|(_, entry)| *entry).collect()
    }

    /// Tickets that hang on a lock, or that a stalled kernel has not begun.
    pub(super) fn hanging(&self, side: usize) -> usize {
        self.sides[side].tickets.len()
    }

    /// Where in the journal the step is.
    pub(super) fn position(&self, step: &Step) -> usize {
        self.journal.iter().position(|done| done == step).unwrap_or_else(|| panic!("{step:?} never happened"))
    }

    pub(super) fn forget_notified(&mut self) {
        self.journal.clear();
        for side in &mut self.sides {
            side.notified.clear();
        }
    }
}

/// Whether the kernel carries the notification out only when the request is answered (fs/fuse/dir.c, inode.c): a name
/// needs its directory's lock, pages those that a READ, or a WRITE through the page cache, has locked.
fn stops(request: &Request, notification: &Notification) -> bool {
    match notification {
        Notification::Name { parent, .. } => match request {
            Request::Make { parent: locked, .. }
            | Request::Create { parent: locked, .. }
            | Request::Unlink { parent: locked, .. }
            | Request::Rmdir { parent: locked, .. }
            | Request::Link { parent: locked, .. } => locked == parent,
            Request::Rename { from, to, .. } => from == parent || to == parent,
            Request::Setattr { ino, .. } | Request::Setxattr { ino, .. } | Request::Removexattr { ino, .. } => {
                ino == parent
            }
            _ => false,
        },
        Notification::Pages { ino, offset, length } => {
            let end = if *length == 0 { u64::MAX } else { offset + length };
            let (of, begin, size) = match request {
                Request::Read { ino, offset, length, .. } => (ino, *offset, u64::from(*length)),
                Request::Write { ino, offset, data, flags, .. } if !flags.append => (ino, *offset, data.len() as u64),
                _ => return false,
            };
            let (first, last) = (begin / 4096 * 4096, (begin + size).next_multiple_of(4096));
            of == ino && first < end && *offset < last
        }
        Notification::Attributes { .. } | Notification::AllNames | Notification::Size { .. } => false,
    }
}
