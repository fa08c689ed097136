//! What a FUSE worker and its kernel do around a mount's core, and the processes that use it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::Hash,
    time::Duration,
};

use bytes::Bytes;

use super::{
    Event, World,
    breaches::{is_of_refills, is_told_again},
    node_at,
    stops::{is_told, is_workers, wait_for_all_pages},
};
use crate::{
    message::mount::{Refusal, ToMount},
    mount::{
        Caller, Config, Input, KernelFeatures, Mount, Notification, Output, Request, Response, StoreError,
        WhenDisconnected,
    },
    sim::{
        holder::Holder,
        host::{MountHost, Process},
        kernel::Kernel,
        network::{Place, Stream},
        options::Breach,
        oracle::{Glance, Written},
        packs::Upload,
        syscalls::{Call, Running},
    },
    types::{BlockHash, ConnectionId, Errno, Instant, MountId, NodeId},
};

/// Nanoseconds by which times of a mount's clock may be wrong.
const ROUNDING: u64 = 1000;

impl World {
    pub(super) fn add_mount(&mut self) {
        let number = self.mounts.len();
        let config = self.mount_config(number, 1);
        let clock = self.new_clock();
        let core = Mount::new(clock.at(self.now), config);
        self.mounts.push(MountHost {
            core,
            clock,
            is_started: true,
            has_ended: false,
            life: 1,
            kernel: Kernel::new(&self.options),
            wake: None,
            processes: (0..self.options.processes).map(|_| Process::default()).collect(),
            link: None,
            is_fresh: false,
            expired: None,
            delegations_lost: 0,
            paused_until: None,
            stopped_until: None,
            backlog: Vec::new(),
            threads: vec![Instant(0); self.options.threads],
            read: BTreeSet::new(),
            holder: Holder::default(),
            tickets: BTreeMap::new(),
            renamed: Vec::new(),
            written: BTreeMap::new(),
            awaiting: Vec::new(),
            withheld: VecDeque::new(),
        });
        self.drain_mount(number);
    }

    fn mount_config(&self, number: usize, life: u64) -> Config {
        let servers = self.founding.nodes.iter().map(|node| node.client_address.clone()).collect();
        let mount = MountId(((number as u128 + 1) << 64) | u128::from(life));
        Config {
            seed: 100 * (number as u64 + 1) + life,
            timing: self.options.timing,
            content_cache_bytes: 256 * 1024,
            kernel: KernelFeatures {
                inc_epoch: self.options.inc_epoch,
                inval_entry: self.options.inval_entry || self.options.breach == Some(Breach::Probe),
            },
            when_disconnected: if self.options.block { WhenDisconnected::Block } else { WhenDisconnected::Serve },
            ..Config::new(servers, mount)
        }
    }

    /// The process and its kernel end; whoever made a call is told nothing.
    pub(super) fn crash_mount(&mut self, number: usize) {
        self.end_mount(number);
        let (life, time) = (self.mounts[number].life, self.dice.micros(10_000, 1_000_000));
        self.after(time, Event::MountStart { mount: number, life });
    }

    pub(super) fn end_mount(&mut self, number: usize) {
        let host = &mut self.mounts[number];
        host.life += 1;
        let (life, link) = (host.life, host.link.take());
        host.kernel = Kernel::new(&self.options);
        (host.wake, host.written, host.tickets) = (None, BTreeMap::new(), BTreeMap::new());
        (host.is_fresh, host.expired) = (false, None);
        (host.delegations_lost, host.paused_until, host.stopped_until) = (0, None, None);
        (host.backlog, host.withheld, host.holder) = (Vec::new(), VecDeque::new(), Holder::default());
        host.read.clear();
        for process in &mut host.processes {
            if let Some(running) = process.running.take() {
                self.workload.returned(&running.call, None);
            }
        }
        for (index, _) in std::mem::take(&mut self.mounts[number].awaiting) {
            self.oracle.completed_own(index, self.now);
        }
        if let Some(link) = link {
            self.break_link(link);
        }
        let config = self.mount_config(number, life);
        // What stands here until the new one starts is told nothing.
        self.mounts[number].is_started = false;
        self.mounts[number].core = Mount::new(self.mounts[number].clock.at(self.now), config);
    }

    pub(super) fn start_mount(&mut self, number: usize, life: u64) {
        if !self.is_current(number, life) {
            return;
        }
        let config = self.mount_config(number, life);
        self.mounts[number].core = Mount::new(self.mounts[number].clock.at(self.now), config);
        (self.mounts[number].is_started, self.mounts[number].has_ended) = (true, false);
        self.oracle.mount_is_new(number);
        self.drain_mount(number);
        for process in 0..self.options.processes {
            self.after(Duration::ZERO, Event::NextCall { mount: number, life, process });
        }
    }

    pub(super) fn is_current(&self, number: usize, life: u64) -> bool {
        self.mounts[number].life == life
    }

    pub(super) fn tell_mount(&mut self, number: usize, input: Input) {
        let host = &mut self.mounts[number];
        if !host.is_started {
            return;
        }
        if host.stopped_until.is_some() {
            return host.backlog.push(input);
        }
        host.core.handle(host.clock.at(self.now), input);
        self.drain_mount(number);
    }

    fn drain_mount(&mut self, number: usize) {
        while let Some(output) = self.mounts[number].core.poll_output() {
            self.carry_out_mount(number, output);
        }
        let host = &mut self.mounts[number];
        host.kernel.untold = host.core.sizes_untold().collect();
        let status = host.core.status();
        self.report.leases_lost += u64::from(host.is_fresh && !status.lease_held);
        host.is_fresh = status.lease_held;
        if status.counters.delegations_lost > host.delegations_lost {
            (host.delegations_lost, host.expired) = (status.counters.delegations_lost, Some(self.now));
        }
        if !status.lease_held {
            host.processes.iter_mut().for_each(|process| process.lost_lease = true);
        }
        if status.cut_off && !self.options.block {
            host.processes.iter_mut().for_each(|process| process.without_lease = true);
        }
        self.oracle.check_mount(number, status.applied, status.digest);
        let host = &mut self.mounts[number];
        let wake = host.core.poll_timeout().map(|at| host.clock.when(at).max(Instant(self.now.0 + 1)));
        if wake != host.wake {
            host.wake = wake;
            let life = host.life;
            if let Some(wake) = wake {
                self.at(wake, Event::MountWake { mount: number, life });
            }
        }
    }

    pub(super) fn mount_woke(&mut self, number: usize, life: u64) {
        if self.is_current(number, life) && self.mounts[number].wake == Some(self.now) {
            self.mounts[number].wake = None;
            self.tell_mount(number, Input::Tick);
        }
    }

    fn carry_out_mount(&mut self, number: usize, output: Output) {
        let life = self.mounts[number].life;
        match output {
            Output::Answer { unique, mut result } => {
                self.break_answer(&mut result);
                let time = self.dice.micros(5, if self.dice.clone().chance(100) { 3000 } else { 60 });
                self.after(time, Event::Answer { mount: number, life, unique, result });
            }
            Output::Notify { ticket, notifications } => {
                let names = notifications.iter().filter_map(|notification| match notification {
                    Notification::Name { parent, name } => Some((*parent, name.clone())),
                    _ => None,
                });
                self.mounts[number].tickets.insert(ticket, names.collect());
                let is_kept_back = match self.options.breach {
                    Some(Breach::Refills) => is_of_refills(&notifications),
                    Some(Breach::Rewinding) => is_told_again(&notifications, &self.oracle),
                    _ => false,
                };
                if is_kept_back {
                    self.mounts[number].tickets.remove(&ticket);
                    return self.after(Duration::ZERO, Event::Notified { mount: number, life, ticket });
                }
                let mut time = self.dice.micros(5, if self.dice.clone().chance(100) { 3000 } else { 60 });
                if self.options.breach == Some(Breach::Acknowledgement) {
                    self.after(time, Event::Notified { mount: number, life, ticket });
                    time *= 5000;
                }
                self.after(time, Event::Notify { mount: number, life, ticket, notifications });
            }
            // A connection costs no more here when it was not prepared.
            Output::Prepare { .. } => {}
            Output::Connect { connection, address } => {
                if let Some(link) = self.mounts[number].link.take() {
                    self.break_link(link);
                }
                let time = self.dice.micros(self.options.delay.0, 2 * self.options.delay.1);
                let node = node_at(&address);
                self.after(time, Event::Dialled { mount: number, life, connection, node });
            }
            Output::Send { connection, message } => {
                let link = self.mounts[number].link;
                let link = link.filter(|link| {
                    self.links.get(link).is_some_and(|link| link.mount_connection == connection && link.is_open)
                });
                if let Some(link) = link {
                    self.break_at_sending(link, &message);
                    let at = self.network.arrival(self.now, Stream::ToNode { connection: link });
                    self.at(at, Event::ToNode { link, message: Box::new(message) });
                }
            }
            Output::StoreBlock { ticket, store, hash, bytes, upload, .. } => {
                self.oracle.stored(hash, bytes.clone());
                let at = self.network.arrival(self.now, Stream::Block);
                let session = self.mounts[number].core.status().session;
                let pin = session.map(|session| (session, upload));
                let upload = Box::new(Upload { ticket, hash, bytes, pin });
                self.at(at, Event::Store { mount: number, life, node: store, upload });
            }
            Output::FetchBlock { ticket, store, hash, .. } => {
                let at = self.network.arrival(self.now, Stream::Block);
                self.at(at, Event::Fetch { mount: number, life, ticket, node: store, hash });
            }
            Output::Watch { slot, inode } => self.mounts[number].holder.watch(slot, inode),
            Output::Deadline(deadline) => {
                self.mounts[number].holder.set_deadline(deadline);
                if let Some(deadline) = deadline {
                    let at = self.mounts[number].clock.when(deadline);
                    self.at(at, Event::HolderDue { mount: number, life });
                }
            }
            Output::Ready | Output::Notice(_) | Output::Stopped => {}
            Output::Stale(reason) => self.has_no_volume(number, &reason),
            Output::Fatal(reason) => {
                self.has_no_volume(number, &reason);
                self.after(Duration::ZERO, Event::MountEnds { mount: number, life });
            }
        }
    }

    pub(super) fn dialled(&mut self, number: usize, life: u64, connection: ConnectionId, node: Option<NodeId>) {
        if !self.is_current(number, life) {
            return;
        }
        let reached = node.filter(|node| {
            let (here, there) = (Place::Mount(number), Place::Node(*node));
            self.network.reaches(here, there) && self.network.reaches(there, here)
        });
        if reached.is_some_and(|node| self.is_strangers_turn(node)) {
            return self.open_to_stranger(number, connection);
        }
        match reached.and_then(|node| self.open_link(number, connection, node)) {
            Some(link) => {
                let at = self.network.arrival(self.now, Stream::ToMount { connection: link });
                self.at(at, Event::DialAnswered { link });
            }
            None => {
                let time = self.dice.micros(500, 300_000);
                self.after(time, Event::ClosedAtMount { mount: number, life, connection });
            }
        }
    }

    pub(super) fn dial_answered(&mut self, number: u64) {
        let Some(link) = self.links.get(&number).copied() else { return };
        if link.is_open && self.is_current(link.mount, link.mount_life) {
            self.mounts[link.mount].link = Some(number);
            self.tell_mount(link.mount, Input::Connected { connection: link.mount_connection });
        }
    }

    pub(super) fn closed_at_mount(&mut self, number: usize, life: u64, connection: ConnectionId) {
        if self.is_current(number, life) {
            let is_it = |link: &u64| self.links.get(link).is_some_and(|link| link.mount_connection == connection);
            if let Some(link) = self.mounts[number].link.filter(is_it) {
                self.mounts[number].link = None;
                if let Some(link) = self.links.get_mut(&link) {
                    link.is_open = false;
                }
            }
            self.tell_mount(number, Input::Disconnected { connection, reason: "the stream ended".to_owned() });
        }
    }

    pub(super) fn reach_mount(&mut self, number: u64, mut message: ToMount) {
        let Some(link) = self.links.get(&number).copied() else { return };
        let is_current = self.is_current(link.mount, link.mount_life) && self.mounts[link.mount].link == Some(number);
        if !link.is_open || !is_current {
            return;
        }
        if !self.network.reaches(Place::Node(link.node), Place::Mount(link.mount)) {
            self.break_link(number);
            return;
        }
        std::mem::discriminant(&message).hash(&mut self.trace);
        if let ToMount::Answer { sequence, index, outcome } = &message {
            self.call_answered(link.mount, *sequence, *index, *outcome);
        }
        self.break_for_mount(&mut message);
        if matches!(&message, ToMount::Refused { refusal: Refusal::SessionExpired, .. }) {
            self.mounts[link.mount].expired = Some(self.now);
        }
        let is_reload = matches!(&message, ToMount::SnapshotPiece { first: true, .. });
        self.report.reloads += u64::from(is_reload && self.mounts[link.mount].core.status().applied.0 > 0);
        if self.options.breach == Some(Breach::Applying) {
            self.mounts[link.mount].withheld.push_back((link.mount_connection, message));
            return self.deliver_withheld(link.mount);
        }
        self.tell_mount(link.mount, Input::Message { connection: link.mount_connection, message });
    }

    fn deliver_withheld(&mut self, number: usize) {
        while self.mounts[number].tickets.is_empty()
            && let Some((connection, message)) = self.mounts[number].withheld.pop_front()
        {
            self.tell_mount(number, Input::Message { connection, message });
        }
    }

    /// A message that nobody sent.
    pub(super) fn forged(&mut self, number: usize, life: u64, connection: ConnectionId, message: ToMount) {
        if self.is_current(number, life) {
            self.tell_mount(number, Input::Message { connection, message });
        }
    }

    fn call_answered(
        &mut self,
        number: usize,
        sequence: crate::types::Sequence,
        index: crate::types::LogIndex,
        outcome: Result<crate::namespace::Reply, Errno>,
    ) {
        let Some(session) = self.mounts[number].core.status().session else { return };
        self.report.answers += 1;
        let Some(index) = self.oracle.answered(session, sequence, index, outcome) else { return };
        let busy: Vec<_> =
            self.mounts.iter().enumerate().map(|(mount, host)| (mount, host.busy_directories())).collect();
        self.oracle.completed(index, self.now, number, &busy);
        let running: Vec<usize> = self.mounts[number]
            .processes
            .iter()
            .enumerate()
            .filter(|(_, process)| process.running.is_some())
            .map(|(process, _)| process)
            .collect();
        if running.is_empty() {
            self.oracle.completed_own(index, self.now);
        } else {
            self.mounts[number].awaiting.push((index, running));
        }
    }

    pub(super) fn store(&mut self, number: usize, life: u64, id: NodeId, upload: Upload) {
        let Upload { ticket, hash, bytes, pin } = upload;
        let reaches = self.network.reaches(Place::Mount(number), Place::Node(id));
        let result = match self.nodes.get_mut(&id).filter(|host| host.core.is_some() && reaches) {
            Some(host) => {
                match self.options.breach {
                    Some(Breach::Stores) => {}
                    Some(Breach::Pins) => host.disk.put_block(hash, bytes, None),
                    _ => host.disk.put_block(hash, bytes, pin),
                }
                Ok(())
            }
            None => Err(StoreError::Unreachable("nobody answers".to_owned())),
        };
        let at = self.network.arrival(self.now, Stream::Block);
        self.at(at, Event::Stored { mount: number, life, ticket, node: id, result });
    }

    pub(super) fn stored(
        &mut self,
        number: usize,
        life: u64,
        ticket: u64,
        store: NodeId,
        result: Result<(), StoreError>,
    ) {
        if self.is_current(number, life) {
            self.tell_mount(number, Input::BlockStored { ticket, store, result });
        }
    }

    pub(super) fn fetch(&mut self, number: usize, life: u64, ticket: u64, id: NodeId, hash: BlockHash) {
        let reaches = self.network.reaches(Place::Mount(number), Place::Node(id));
        let result = match self.nodes.get(&id).filter(|host| host.core.is_some() && reaches) {
            Some(host) => host.disk.block(&hash).ok_or(StoreError::Missing),
            None => Err(StoreError::Unreachable("nobody answers".to_owned())),
        };
        let at = self.network.arrival(self.now, Stream::Block);
        self.at(at, Event::Fetched { mount: number, life, ticket, node: id, result });
    }

    pub(super) fn fetched(
        &mut self,
        number: usize,
        life: u64,
        ticket: u64,
        store: NodeId,
        result: Result<Bytes, StoreError>,
    ) {
        if self.is_current(number, life) {
            self.tell_mount(number, Input::BlockFetched { ticket, store, result });
        }
    }

    pub(super) fn kernel_answered(&mut self, number: usize, life: u64, unique: u64, result: Result<Response, Errno>) {
        if !self.is_current(number, life) {
            return;
        }
        self.oracle.request_answered(self.now, (number, unique));
        let host = &mut self.mounts[number];
        host.kernel.now = host.clock.at(self.now);
        if self.options.breach == Some(Breach::Beliefs)
            && let Ok(Response::Attributes { attributes, .. }) = &result
        {
            host.kernel.forget_attributes(attributes.ino);
        }
        let process = host.kernel.answered(unique, &result);
        result.is_ok().hash(&mut self.trace);
        if let Some(running) = process.and_then(|process| self.mounts[number].processes[process].running.as_mut()) {
            running.answer(result);
        }
        self.run_kernel(number, process);
    }

    pub(super) fn notify(&mut self, number: usize, life: u64, ticket: u64, mut notifications: Vec<Notification>) {
        if self.is_current(number, life) {
            let breach = self.options.breach;
            notifications.retain(|notification| is_told(notification, breach));
            if breach == Some(Breach::Deletion) && self.mounts[number].core.is_stale() {
                notifications.clear();
            }
            if breach == Some(Breach::LockedPages) {
                notifications.iter_mut().for_each(wait_for_all_pages);
            }
            self.report.notifications += notifications.len() as u64;
            let host = &mut self.mounts[number];
            host.kernel.now = host.clock.at(self.now);
            host.kernel.notify(ticket, notifications);
            self.run_kernel(number, None);
        }
    }

    pub(super) fn notified(&mut self, number: usize, life: u64, ticket: u64) {
        if self.is_current(number, life) {
            self.tell_mount(number, Input::Notified { ticket });
            self.deliver_withheld(number);
        }
    }

    /// Lets the process, and whoever waited for what it gave back, go on as far as they can.
    pub(super) fn run_kernel(&mut self, number: usize, process: Option<usize>) {
        let host = &mut self.mounts[number];
        host.kernel.now = host.clock.at(self.now);
        let life = host.life;
        if let Some(process) = process {
            self.run_process(number, process);
        }
        loop {
            let host = &mut self.mounts[number];
            let is_stirred = std::mem::take(&mut host.kernel.stirred);
            let done = host.kernel.run_tickets();
            for ticket in done.into_iter().filter(|ticket| is_workers(*ticket)) {
                self.mounts[number].tickets.remove(&ticket);
                let time = self.dice.micros(5, 200);
                self.after(time, Event::Notified { mount: number, life, ticket });
            }
            if !is_stirred {
                break;
            }
            for process in 0..self.mounts[number].processes.len() {
                self.run_process(number, process);
            }
        }
        let busy = self.mounts[number].busy_directories();
        self.oracle.make_up(number, self.now, |directory| busy.contains(&directory));
        for (unique, process, mut request) in std::mem::take(&mut self.mounts[number].kernel.sent) {
            self.break_request(&mut request);
            self.tell(|| format!("mount {number} is asked {unique} {request:?}"));
            let pid = if self.options.hides_pids { 0 } else { 1 + process as u32 };
            let caller = Caller { uid: 33, gid: 33, pid };
            self.report.upcalls += 1;
            self.oracle.doubt((number, unique), &request);
            match self.answer_in_its_place(number, &request) {
                Some(result) => self.at(self.now, Event::Answer { mount: number, life, unique, result }),
                None => self.read_request(number, unique, caller, request),
            }
        }
    }

    /// A thread of the worker has read the request, and takes its time to hand it to the core.
    fn read_request(&mut self, number: usize, unique: u64, caller: Caller, request: Request) {
        if self.options.threads == 1 {
            return self.tell_mount(number, Input::Request { unique, caller, request });
        }
        let time = self.thread_dice.micros(0, if self.thread_dice.clone().chance(50) { 2000 } else { 30 });
        let (now, host) = (self.now, &mut self.mounts[number]);
        host.read.insert(unique);
        let life = host.life;
        let Some(thread) = host.threads.iter_mut().min() else { return };
        *thread = now.max(*thread).after(time);
        let at = *thread;
        self.at(at, Event::Asked { mount: number, life, unique, caller, request: Box::new(request) });
    }

    pub(super) fn asked(&mut self, number: usize, life: u64, unique: u64, caller: Caller, request: Request) {
        if self.is_current(number, life) {
            self.mounts[number].read.remove(&unique);
            self.tell_mount(number, Input::Request { unique, caller, request });
        }
    }

    fn run_process(&mut self, number: usize, process: usize) {
        let host = &mut self.mounts[number];
        let Some(mut running) = host.processes[process].running.take() else { return };
        let outcome = running.go_on(process, &mut host.kernel);
        if let Some(ino) = running.writes {
            host.written.insert(ino, self.now);
        }
        if let Some((ino, offset, content)) = running.misread.take() {
            assert!(
                self.may_lose_bytes(number, process),
                "own write: process {process} of mount {number} reads {content:?} at {offset} of {ino} in {:?}",
                running.call
            );
        }
        let host = &self.mounts[number];
        let (lost, session) = (host.core.status().counters.delegations_lost, host.core.status().session);
        if let Some((ino, offset, data)) = running.wrote.take() {
            // What others have under way may come to lie over it, and is not to be told apart from here.
            let changes = |other: &Process| {
                let call = other.running.as_ref().map(|running| &running.call);
                matches!(call, Some(Call::Create { .. } | Call::Overwrite { .. } | Call::Truncate { .. }))
            };
            let is_doubtful = self.mounts.iter().flat_map(|host| &host.processes).any(changes);
            let began = self.mounts[number].processes[process].started;
            self.oracle.wrote(
                began,
                Written { mount: number, process, at: self.now, ino, offset, data, session, lost, is_doubtful },
            );
        }
        if let Some(until) = running.sleeps_until.take() {
            let life = self.mounts[number].life;
            self.at(self.mounts[number].clock.when(until), Event::NextCall { mount: number, life, process });
        }
        match outcome {
            Err(_) => {
                self.check_lock(number, process, &running);
                self.mounts[number].processes[process].running = Some(running);
            }
            Ok(outcome) => self.returned(number, process, running, outcome),
        }
    }

    /// Since the process's call began, or shortly before, its mount lost what it had not brought to the log.
    fn may_lose_bytes(&self, number: usize, process: usize) -> bool {
        let host = &self.mounts[number];
        let pardon = |at: Instant| at.after(2 * self.options.timing.flush_age) >= host.processes[process].started;
        host.expired.is_some_and(pardon) || self.has_lost_holds(number, process)
    }

    fn returned(&mut self, number: usize, process: usize, running: Running, outcome: Result<(), Errno>) {
        use crate::sim::syscalls::Sight;
        self.tell(|| {
            format!("mount {number} process {process} {:?} -> {outcome:?} {:?}", running.call, running.sights)
        });
        outcome.is_ok().hash(&mut self.trace);
        self.report.calls += 1;
        self.report.calls_lost += u64::from(outcome == Err(Errno::EIO));
        self.report.reservations += u64::from(running.reserved == Some(true));
        self.report.reservations_refused += u64::from(running.reserved == Some(false));
        if let Some(bound) = self.options.others_wait.filter(|_| number != 0) {
            let waited = self.now.since(self.mounts[number].processes[process].started);
            assert!(waited <= bound, "pause: {:?} of mount {number} took {waited:?}", running.call);
        }
        // README.md "Availability": no fault within these runs may make a call fail; what is left are honest refusals.
        // A session that ended takes with it what was not answered (docs/protocol.md R17-exactly-once), and bytes that
        // were not yet flushed.
        let is_honest = match outcome {
            Ok(()) | Err(Errno::ENOENT | Errno::EEXIST) => true,
            // What is open stays.
            Err(Errno::ESTALE) if !running.has_opened => true,
            Err(Errno::EIO | Errno::ESTALE) => self.may_lose_bytes(number, process),
            Err(_) => false,
        };
        let is_honest = self.check_without_volume(number, process, &running.call, outcome) || is_honest;
        let is_honest = is_honest || running.is_killed || self.is_honest_of_locks(number, &running, outcome);
        assert!(is_honest, "availability: mount {number} answered {:?} with {outcome:?}", running.call);
        if let (Call::Count { path, .. }, Some(counted), Ok(()), false) =
            (&running.call, running.counted, outcome, running.is_killed)
        {
            self.workload.counted(path, counted);
        }
        let host = &mut self.mounts[number];
        let glance = Glance {
            mount: number,
            session: host.core.status().session,
            start: host.processes[process].started,
            end: self.now,
            without_lease: host.processes[process].without_lease,
            is_final: self.is_final,
            busy: host.busy_directories(),
            renamed: host.renamed_since(host.processes[process].started),
            unsettled: std::mem::take(&mut host.processes[process].unsettled),
        };
        let lost: Vec<u64> = self.mounts.iter().map(|host| host.core.status().counters.delegations_lost).collect();
        if outcome.is_ok() {
            self.oracle.check_closed(number, process, glance.start, &lost);
        }
        let mut running = running;
        let clock = &self.mounts[number].clock;
        for sight in &mut running.sights {
            if let Sight::Mapped { at, .. } = sight {
                *at = Instant(clock.when(*at).0.saturating_sub(ROUNDING)).max(glance.start);
            }
        }
        for sight in &running.sights {
            let ino = match sight {
                Sight::Attributes(attributes) => Some(attributes.ino),
                Sight::Mode { .. } if self.mounts[number].processes[process].lost_lease => continue,
                Sight::Mode { ino, .. } => Some(*ino),
                Sight::Mapped { .. } if self.mounts[number].processes[process].lost_lease => continue,
                Sight::Mapped { attributes, .. } => Some(attributes.ino),
                Sight::Content { ino, .. } => Some(*ino),
                _ => None,
            };
            // Bytes that are written here and not yet in the log are seen here and nowhere else.
            let is_ahead = ino.is_some_and(|ino| {
                let is_open = |other: &Process| other.running.as_ref().is_some_and(|other| other.writes == Some(ino));
                let host = &self.mounts[number];
                host.processes.iter().any(is_open) || host.written.get(&ino).is_some_and(|at| *at >= glance.start)
            });
            if !is_ahead || self.is_final {
                self.oracle.check_written(&glance, sight, &lost);
                self.oracle.check_sight(&glance, sight);
            }
        }
        self.workload.returned(&running.call, Some(outcome.is_ok()));
        let host = &mut self.mounts[number];
        if let Call::Rename { from, to, .. } = &running.call {
            host.renamed.extend([(from.name.clone(), self.now), (to.name.clone(), self.now)]);
        }
        let mut over = Vec::new();
        host.awaiting.retain_mut(|(index, running)| {
            running.retain(|other| *other != process);
            if running.is_empty() {
                over.push(*index);
            }
            !running.is_empty()
        });
        for index in over {
            self.oracle.completed_own(index, self.now);
        }
        let life = self.mounts[number].life;
        let time = self.dice.micros(self.options.think.0, self.options.think.1);
        self.after(time, Event::NextCall { mount: number, life, process });
    }

    pub(super) fn next_call(&mut self, number: usize, life: u64, process: usize) {
        if !self.is_current(number, life) {
            return;
        }
        if self.mounts[number].processes[process].running.is_some() {
            // It has slept.
            return self.run_kernel(number, Some(process));
        }
        let call = match self.mounts[number].processes[process].next.pop_front() {
            Some(call) => call,
            None if self.is_busy && (number as u64) < self.options.mounts - self.options.lookers => {
                self.workload.next_call((number * self.options.processes + process) as u64)
            }
            None if self.is_busy => self.workload.next_look(),
            None => return,
        };
        if self.dice.chance(self.options.forget) {
            let known = self.mounts[number].kernel.inodes_known();
            if let Some(ino) = self.dice.pick(&known) {
                self.mounts[number].kernel.evict(*ino);
            }
        }
        let unsettled = self.mounts[number].unsettled();
        let status = self.mounts[number].core.status();
        let without_lease = status.cut_off && !self.options.block;
        let began_as = (status.session, status.applied);
        let began_without_volume = self.mounts[number].core.is_stale() && self.mounts[number].tickets.is_empty();
        if let Call::Count { guard, .. } = &call
            && let Some(time) = guard.dies
        {
            self.after(time, Event::Killed { mount: number, life, process, started: self.now });
        }
        let host = &mut self.mounts[number].processes[process];
        host.unsettled = unsettled;
        (host.started, host.without_lease, host.lost_lease) = (self.now, without_lease, !status.lease_held);
        (host.began_as, host.began_without_volume) = (began_as, began_without_volume);
        host.running = Some(Running::new(call));
        self.run_kernel(number, Some(process));
    }

    pub(super) fn make_directories(&mut self) {
        let calls: Vec<Call> =
            self.workload.directories().into_iter().map(|directory| Call::Mkdir { directory }).collect();
        self.give_calls(0, calls);
    }

    pub(super) fn start_processes(&mut self) {
        for number in 0..self.mounts.len() {
            for process in 0..self.options.processes {
                let (life, time) = (self.mounts[number].life, self.dice.micros(0, self.options.think.1));
                self.after(time, Event::NextCall { mount: number, life, process });
            }
        }
    }

    /// Every name, file and listing, on every mount.
    pub(super) fn look_at_everything(&mut self) {
        for number in 0..self.mounts.len() {
            if self.mounts[number].has_ended {
                continue;
            }
            let mut calls = Vec::new();
            for path in self.workload.paths() {
                calls.push(Call::Stat { path: path.clone() });
                calls.push(Call::Read { path });
            }
            for directory in self.workload.directories() {
                calls.push(Call::List { directory });
            }
            self.give_calls(number, calls);
        }
    }

    fn give_calls(&mut self, number: usize, calls: Vec<Call>) {
        self.mounts[number].processes[0].next.extend(calls);
        let life = self.mounts[number].life;
        self.after(Duration::ZERO, Event::NextCall { mount: number, life, process: 0 });
    }
}
