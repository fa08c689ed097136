//! One mount as a pure core: the kernel's requests in, answers out; the volume's replica, dirty bytes, what the
//! kernel may have cached, and the order "apply, publish, invalidate, acknowledge".
//!
//! A request about what is there is answered at once, from the replica with this mount's own unflushed bytes over it.
//! A request that changes something becomes an operation and is answered when that is complete: synced by a majority
//! and invalidated by every mount.
//!
//! State is kept in rooms, whose fields nobody else sees: `kernel` (what the kernel may hold and is being told),
//! `requests` (who waits for what), `files` (what is written here and not in the log), `reading` (blocks, and who waits
//! for them), `owed` (to the leader), `timers`. None of them calls another. `Mount` carries out what concerns several:
//! `apply` turns entries of the log into notifications and acknowledgements (docs/protocol.md R2-telling,
//! R3-apply-first, R8-locked-pages), `collision` keeps those out of the way of requests that hold a kernel lock
//! (R22-collisions, R23-renames), `flush` brings written bytes to the log in the order of each file's changes, `opens`
//! has OPEN, close and RELEASE. `facts` says what is true of each kind of request.

mod apply;
mod caches;
mod collision;
pub mod config;
mod counters;
mod delegation;
pub mod event;
mod facts;
mod files;
mod flush;
mod handles;
mod kernel;
mod leaseless;
mod locks;
mod mapped_writes;
mod opens;
mod owed;
mod read;
mod reading;
mod refills;
mod replica;
pub mod request;
mod requests;
mod session;
mod sizes;
mod stale;
mod submit;
mod timers;
mod tree;
mod turns;
mod view;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use config::{Config, KernelFeatures, MountStatus, Opens, WhenDisconnected};
pub use counters::MountCounters;
pub use event::{Input, Notification, Output, StoreError};
pub use request::{Caller, DirectoryEntry, OpenFlags, OpenedAs, Request, Response, WriteFlags};

use self::{
    files::{Files, StoreRequest},
    handles::Handles,
    kernel::Kernel,
    leaseless::Leaseless,
    owed::Owed,
    reading::{FetchRequest, Reading},
    replica::Replica,
    requests::{FileRange, NewBytes, OpenFile, Pending, ReadRange, Requests, WantedLock},
    timers::{Timer, Timers},
    turns::Turns,
};
use crate::{
    client::{self, Client},
    namespace::Volume,
    types::{Errno, Ino, Instant, LockHolder, SessionId},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// The volume is not here yet; requests wait.
    Starting,
    Running,
    /// Asked to end: what is dirty is being flushed, until then at the latest.
    Stopping {
        deadline: Instant,
    },
    /// There is no volume any more: everything is answered ESTALE.
    Stale,
    Stopped,
}

/// One mount. Driven by a shell: `handle` everything that happens, then take outputs until there are none, then call
/// again at `poll_timeout` at the latest (with `Input::Tick`).
#[derive(Debug)]
pub struct Mount {
    config: Config,
    client: Client,
    replica: Replica,
    life: Life,
    /// The time of the input that is being handled.
    now: Instant,
    /// The lease is held and everything before it is invalidated: the kernel may keep what it is told.
    is_fresh: bool,

    leaseless: Leaseless,
    kernel: Kernel,
    handles: Handles,
    turns: Turns,
    /// Files that were made here without a name and have had none yet.
    unnamed: BTreeSet<Ino>,

    requests: Requests,
    timers: Timers,

    files: Files,
    /// The session whose locks are those of the processes here; kept until they are told that it is over.
    locking_as: Option<SessionId>,

    reading: Reading,
    owed: Owed,

    counters: MountCounters,
    outputs: VecDeque<Output>,
}

impl Mount {
    /// A mount that knows nothing yet; its first output dials a server.
    #[must_use]
    pub fn new(now: Instant, config: Config) -> Self {
        let client = Client::new(
            now,
            client::Config {
                servers: config.servers.clone(),
                mount: config.mount,
                seed: config.seed,
                timing: config.timing,
                place: config.place.clone(),
            },
        );
        let mut mount = Self {
            client,
            replica: Replica::new(),
            life: Life::Starting,
            now,
            is_fresh: false,
            leaseless: Leaseless::default(),
            kernel: Kernel::new(),
            handles: Handles::new(config.opens),
            turns: Turns::default(),
            unnamed: BTreeSet::new(),
            requests: Requests::default(),
            timers: Timers::default(),
            files: Files::new(config.timing.heartbeat),
            locking_as: None,
            // R25-one-by-one says 50 ms, which is half a heartbeat at every scale of time.
            reading: Reading::new(config.content_cache_bytes, config.timing.heartbeat / 2),
            owed: Owed::default(),
            counters: MountCounters::default(),
            outputs: VecDeque::new(),
            config,
        };
        mount.settle(now);
        mount.tell_holder();
        mount
    }

    /// Takes notice of something. Never blocks, never fails.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.now = now;
        if self.life == Life::Stale {
            return self.handle_stale(input);
        }
        self.watch_lease(now);
        match input {
            Input::Request { unique, caller, request } if self.life == Life::Starting => {
                self.requests.keep_early(unique, caller, request);
            }
            Input::Request { unique, caller, request } => {
                if let Request::Getattr { ino, .. } = request {
                    self.kernel.asked_attributes(now, unique, ino, self.is_fresh);
                }
                if let Some((caller, request)) = self.keep_read(now, unique, caller, request) {
                    self.request(now, unique, caller, request);
                }
            }
            Input::Interrupt { unique } => self.interrupt(now, unique),
            Input::Notified { ticket } => self.notified(now, ticket),
            Input::Connected { connection } => {
                let orphans = self.orphans_in_use();
                self.client.connected(now, connection, self.replica.applied(), orphans);
            }
            Input::Disconnected { connection, reason } => self.client.disconnected(now, connection, &reason),
            Input::Message { connection, message } => self.client.message(now, connection, message),
            Input::BlockStored { ticket, result, .. } => {
                self.counters.blocks_stored += u64::from(result.is_ok());
                self.files.block_stored(now, ticket, result, self.client.stores());
            }
            Input::BlockFetched { ticket, result, .. } => {
                self.counters.blocks_fetched += u64::from(result.is_ok());
                let readers = self.reading.fetched(now, ticket, result, self.client.stores());
                self.go_on_with_reads(now, readers);
            }
            Input::Probed { inval_entry } => self.config.kernel.inval_entry = inval_entry,
            Input::Stop => self.stop(now),
            Input::Tick => {}
        }
        self.run_timers(now);
        self.settle(now);
        self.tell_holder();
    }

    /// What is to be carried out next, in this order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle` must be called again even if nothing happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.life == Life::Stale {
            return None;
        }
        let lease = self.caches_until().filter(|_| self.is_fresh);
        let stop = match self.life {
            Life::Stopping { deadline } => Some(deadline),
            _ => None,
        };
        let all = [
            self.client.poll_timeout(),
            lease,
            self.timers.next(),
            stop,
            self.reading.poll_timeout(),
            self.files.poll_timeout(),
            self.reads_timeout(),
        ];
        all.into_iter().flatten().min()
    }

    #[must_use]
    pub fn status(&self) -> MountStatus {
        let volume = self.replica.volume();
        MountStatus {
            session: self.client.session(),
            volume: self.replica.is_loaded().then(|| volume.id()),
            leader: self.client.leader().map(str::to_owned),
            lease_held: self.is_fresh,
            cut_off: self.is_cut_off(),
            kernel: self.config.kernel,
            applied: self.replica.applied(),
            digest: volume.digest(),
            inodes: volume.inode_count(),
            space: self.client.space(),
            dirty_bytes: self.files.unapplied_bytes() as u64,
            cached_bytes: self.reading.bytes() as u64,
            calls_unanswered: self.client.calls_unanswered() as u64,
            locks_queued: (self.queued().len() + self.turns.waiting()) as u64,
            handles: self.handles.len() as u64,
            inodes_looked_up: self.kernel.inode_count() as u64,
            invalidations_running: self.kernel.ticket_count() as u64,
            counters: MountCounters { connections: self.client.connections(), ..self.counters },
        }
    }

    /// Why none of the servers is the leader that this mount looks for, by address; `None` while it has one.
    #[must_use]
    pub fn troubles(&self) -> Option<&BTreeMap<String, String>> {
        (!self.client.is_attached() && !self.is_stale()).then(|| self.client.troubles())
    }

    /// The replica's tree. Requests see it only after the first snapshot.
    fn volume(&self) -> &Volume {
        self.replica.volume()
    }

    /// Requests go on from here once the volume is there.
    fn request(&mut self, now: Instant, unique: u64, caller: Caller, request: Request) {
        self.counters.requests += 1;
        let facts = request.facts();
        if let Some(ino) = facts.subject {
            self.kernel.confirm(ino);
        }
        self.watch_refills(now, caller, &request);
        if self.config.read_only && facts.changes {
            return self.respond(unique, Err(Errno::EROFS));
        }
        self.dispatch(now, unique, caller, request);
    }

    fn dispatch(&mut self, now: Instant, unique: u64, caller: Caller, request: Request) {
        self.kernel.look_at(unique);
        if self.config.opens == Opens::Untracked && request.facts().tells_of_opens {
            // The kernel never asks again.
            return self.respond(unique, Err(Errno::ENOSYS));
        }
        if self.is_out_of_turn(&request) {
            return self.respond(unique, Err(Errno::EOPNOTSUPP));
        }
        // Whoever has the turn gives the file back with it.
        let waits_for_turn = matches!(&request, Request::Open { ino, .. } if self.needs_turn(*ino));
        if let Some(ino) = self.must_recall(&request).filter(|_| !waits_for_turn) {
            return self.park(now, unique, caller, ino, request);
        }
        if let Some(ino) = self.waits_for_pages(&request) {
            return self.set_aside(now, unique, caller, ino, request);
        }
        match request {
            Request::Forget { inodes } => self.forget(&inodes),
            Request::Read { ino, offset, length, .. } => {
                self.read(now, unique, caller, ReadRange { ino, offset, length })
            }
            Request::Write { ino, fh, offset, data, flags } => {
                let file = OpenFile { ino, fh };
                self.write(now, unique, caller, NewBytes { file, offset, data, flags });
            }
            Request::GetLock { ino, .. } if self.is_releasing_locks(ino) => {
                self.set_aside(now, unique, caller, ino, request);
            }
            Request::GetLock { ino, claim } => {
                let lock = self.get_lock(ino, &claim);
                self.respond(unique, Ok(lock));
            }
            Request::SetLock { ino, claim, waits } => {
                self.set_lock(now, unique, caller, WantedLock { ino, claim, waits });
            }
            Request::Unlock { ino, claim } => self.unlock(now, unique, caller, ino, &claim),
            Request::Flush { ino, fh, owner } => {
                self.release_locks(now, ino, LockHolder::Owner(owner));
                self.close(now, unique, caller, OpenFile { ino, fh });
            }
            Request::Fsync { ino, fh } => self.complete_file(now, unique, caller, OpenFile { ino, fh }),
            Request::Release { ino, fh } => {
                self.release_locks(now, ino, LockHolder::Handle(fh));
                self.release(now, fh);
                self.respond(unique, Ok(Response::Done));
            }
            Request::Open { ino, flags } => self.open(now, unique, caller, ino, flags),
            request if request.facts().changes => self.change(now, unique, caller, request),
            request => {
                let result = self.look(caller, request);
                self.respond(unique, result);
            }
        }
    }

    /// Keeps the request until `answer`, or until the write timeout.
    fn wait(&mut self, now: Instant, unique: u64, waiting: Pending) {
        self.timers.set(Timer::Request(unique), waiting.deadline);
        let (locks, pages) = (!waiting.locks().is_empty(), waiting.pages());
        self.requests.insert(unique, waiting);
        if locks {
            self.make_way_for_locks(now, unique);
        }
        if let Some(FileRange { ino, begin, end }) = pages {
            self.make_way_for_pages(ino, begin, end);
        }
    }

    fn deadline(&self, now: Instant) -> Instant {
        now.after(self.config.timing.write_timeout)
    }

    /// The answer to a request that waited; it goes out once the tickets that must come first are done, and what it would
    /// overtake has arrived.
    fn answer(&mut self, now: Instant, unique: u64, result: Result<Response, Errno>) {
        let kernel = &self.kernel;
        let Some(waiting) = self.requests.get_mut(unique) else { return };
        if waiting.waits_for_tickets(|ticket| kernel.is_running(ticket)) {
            return waiting.withhold(result);
        }
        if let Some(until) = kernel.told_until(&waiting.unnamed, now, waiting.caller.pid) {
            waiting.withhold(result);
            self.timers.set(Timer::Answer(unique), until);
            return;
        }
        self.finish(now, unique, result);
    }

    /// The answer, at once; and what was put off because of the request.
    fn finish(&mut self, now: Instant, unique: u64, result: Result<Response, Errno>) {
        let Some(waiting) = self.requests.remove(unique) else { return };
        self.timers.stop(Timer::Request(unique));
        self.counters.operations_failed += u64::from(result.is_err());
        for ino in &waiting.unnamed {
            self.kernel.overtaken(now, *ino);
        }
        let written = waiting.written.filter(|_| result.is_ok());
        self.respond(unique, result);
        if let Some(FileRange { ino, begin, end }) = written {
            self.drop_refilled(waiting.caller.pid, ino, (begin, end));
        }
        self.reading.ended(unique);
        self.create_ended(now, &waiting.need);
        self.make_up(now, waiting);
    }

    fn run_timers(&mut self, now: Instant) {
        self.end_interrupted_reads(now);
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Request(unique) => {
                    let late = self.requests.get(unique).map_or(Errno::EIO, |waiting| waiting.late);
                    // Without a lease nobody knows whether another mount has its turn.
                    let late = if late == Errno::EBUSY && !self.is_fresh { Errno::EIO } else { late };
                    self.give_up(now, unique, late);
                }
                Timer::Answer(unique) => {
                    if let Some(verdict) = self.requests.take_verdict(unique) {
                        self.answer(now, unique, verdict);
                    }
                }
                Timer::Job(job) => self.job_is_late(now, job),
                Timer::Age(ino) => self.come_of_age(now, ino),
                Timer::Epoch => self.send_late_epoch(now),
                Timer::Recall(ino) => self.recall_again(now, ino),
                Timer::HeldBack(ino) => self.tell_held_back(now, ino),
                Timer::Turn(ino) => self.next_turn(now, ino),
            }
        }
        self.client.tick(now);
        self.reading.tick(now, self.client.stores());
        self.files.tick(now, self.client.stores());
    }

    /// Carries on until nothing follows from anything.
    fn settle(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.client.poll_event() {
                self.client_event(now, event);
            }
            if self.life == Life::Stale {
                return;
            }
            for (upload, result) in self.files.take_finished_uploads() {
                self.uploaded(now, upload, result);
            }
            self.unblock_writes(now);
            self.acknowledge();
            self.watch_lease(now);
            self.go_on_reading(now);
            self.end_if_done(now);
            let Some(event) = self.client.poll_event() else { break };
            self.client_event(now, event);
        }
        for request in self.reading.take_requests() {
            let FetchRequest { ticket, store, address, hash } = request;
            self.outputs.push_back(Output::FetchBlock { ticket, store, address, hash });
        }
        for request in self.files.take_requests() {
            let StoreRequest { ticket, store, address, hash, bytes, upload } = request;
            self.outputs.push_back(Output::StoreBlock { ticket, store, address, hash, bytes, upload });
        }
    }
}

#[cfg(test)]
mod tests;
