//! Requests that change the tree or a file and go to the leader: they are submitted as operations and answered when
//! these are complete, from the state that includes them. (`files.rs` has what is buffered instead.)

use std::time::Duration;

use super::{
    Caller, Mount, OpenFlags, Request, Response,
    files::NewJob,
    requests::{Awaited, FileRange, Pending, Purpose},
    timers::Timer,
};
use crate::{
    limits::{self, Timing},
    namespace::{NewNode, Operation, Reply},
    types::{AttributeChanges, Attributes, ClearSuid, Errno, FileKind, Ino, Instant, Name, TimeChange, XattrName},
};

/// How often a create is tried that finds its name taken, and then gone.
const CREATE_ATTEMPTS: u32 = 3;

impl Mount {
    pub(super) fn change(&mut self, now: Instant, unique: u64, caller: Caller, request: Request) {
        let deadline = self.deadline(now);
        let locks: Vec<Ino> = request.facts().locks.into_iter().flatten().collect();
        let (uid, gid) = self.config.squash.unwrap_or((caller.uid, caller.gid));
        let plain = || Pending::new(caller, deadline, Awaited::Plain);
        match request {
            Request::Make { parent, name, node, mode, umask } => {
                let kind = Awaited::Make { parent, name: name.clone(), made: None };
                let waiting = Pending::new(caller, deadline, kind).locking(locks, vec![(parent, name.clone())]);
                self.call(
                    now,
                    unique,
                    waiting,
                    Operation::Make { parent, name, node, mode, uid, gid, delegate: false, umask },
                );
            }
            Request::Create { parent, name, mode, umask, flags } => {
                let kind =
                    Awaited::Create { parent, name: name.clone(), mode: (mode, umask), flags, made: None, attempts: 1 };
                let waiting = Pending::new(caller, deadline, kind).locking(locks, vec![(parent, name.clone())]);
                let (node, delegate) = (NewNode::File, flags.write);
                self.call(
                    now,
                    unique,
                    waiting,
                    Operation::Make { parent, name, node, mode, uid, gid, delegate, umask },
                );
            }
            Request::MakeUnnamed { parent, mode, umask, flags } => {
                let kind = Awaited::MakeUnnamed { flags, made: None };
                let waiting = Pending::new(caller, deadline, kind).locking(locks, Vec::new());
                self.call(now, unique, waiting, Operation::MakeUnnamed { parent, mode, uid, gid, umask });
            }
            Request::Link { ino, parent, name } => {
                let kind = Awaited::Make { parent, name: name.clone(), made: None };
                let waiting = Pending::new(caller, deadline, kind).locking(locks, vec![(parent, name.clone())]);
                let operation = if self.unnamed.contains(&ino) {
                    Operation::LinkUnnamed { ino, parent, name }
                } else {
                    Operation::Link { ino, parent, name }
                };
                self.call(now, unique, waiting, operation);
            }
            Request::Unlink { parent, name } => {
                let waiting = plain().locking(locks, vec![(parent, name.clone())]);
                self.call(now, unique, waiting, Operation::Unlink { parent, name });
            }
            Request::Rmdir { parent, name } => {
                let locks = locks.into_iter().chain(self.directory_named(parent, &name)).collect();
                let waiting = plain().locking(locks, vec![(parent, name.clone())]);
                self.call(now, unique, waiting, Operation::Rmdir { parent, name });
            }
            Request::Rename { from, from_name, to, to_name, mode } => {
                let victims =
                    self.directory_named(from, &from_name).into_iter().chain(self.directory_named(to, &to_name));
                let mut locks: Vec<Ino> = locks.into_iter().chain(victims).collect();
                locks.sort_unstable();
                locks.dedup();
                let mut waiting = plain().locking(locks, vec![(from, from_name.clone()), (to, to_name.clone())]);
                waiting.is_rename = true;
                self.call(now, unique, waiting, Operation::Rename { from, from_name, to, to_name, mode });
            }
            Request::Setxattr { ino, name, value, mode, clear_sgid } => {
                self.change_inode(
                    now,
                    unique,
                    plain(),
                    ino,
                    Operation::SetXattr { ino, name, value, mode, clear_sgid },
                );
            }
            Request::Removexattr { ino, name } => {
                self.change_inode(now, unique, plain(), ino, Operation::RemoveXattr { ino, name });
            }
            Request::Setattr { ino, changes } if self.may_be_undone(ino, &changes) => {
                self.set_behind_stores(now, unique, caller, ino, changes);
            }
            Request::Setattr { ino, changes } => self.setattr(now, unique, caller, ino, changes),
            Request::Allocate { ino, mode, offset, length, .. } => {
                self.wait(now, unique, plain());
                self.flush(now, ino);
                self.clear_suid_for(now, caller, ino);
                let operation = Operation::Allocate { ino, mode, offset, length, at_most: u64::MAX };
                self.enqueue(now, NewJob::of(ino, operation).answering(unique));
            }
            Request::CopyRange { from, from_offset, to, to_offset, length } => {
                self.wait(now, unique, Pending::new(caller, deadline, Awaited::CopyRange));
                self.flush(now, from);
                self.flush(now, to);
                self.clear_suid_for(now, caller, to);
                let length = length.min(limits::COPY_RANGE_BYTES_MAX);
                let operation = Operation::CopyRange { from, from_offset, to, to_offset, length };
                let inodes = if from == to { vec![from] } else { vec![from, to] };
                self.enqueue(now, NewJob::of_all(inodes, operation).answering(unique));
            }
            // All others are dispatched before they come here.
            _ => self.respond(unique, Err(Errno::ENOSYS)),
        }
    }

    /// The operation is over; its request is answered from the state that includes it.
    pub(super) fn complete(&mut self, now: Instant, unique: u64, outcome: Result<Reply, Errno>) {
        let Some(waiting) = self.requests.get_mut(unique) else { return };
        let caller = waiting.caller;
        match (&mut waiting.need, outcome) {
            (Awaited::Create { parent, name, mode, flags, made, attempts }, outcome) => {
                let (parent, name, mode, flags) = (*parent, name.clone(), *mode, *flags);
                let (made, attempts) = (made.take(), *attempts);
                match outcome {
                    Ok(_) => self.created(now, unique, (parent, &name), made, outcome, flags),
                    Err(Errno::EEXIST) if !flags.exclusive => {
                        self.open_existing(now, unique, caller, (parent, name, mode), flags, attempts);
                    }
                    Err(errno) => self.answer(now, unique, Err(errno)),
                }
            }
            (Awaited::MakeUnnamed { flags, made }, Ok(_)) => {
                let (flags, made) = (*flags, made.take());
                self.made_unnamed(now, unique, made, flags);
            }
            (Awaited::OpenTruncate { ino, flags, fh, created }, outcome) => {
                let (ino, flags, fh, created) = (*ino, *flags, *fh, created.clone());
                let result = match outcome {
                    Err(errno) => Err(errno),
                    Ok(_) => match created {
                        None => Ok(Response::Opened(self.opened_as(ino, fh, flags))),
                        Some((parent, name)) => self.created_as(ino, (parent, &name), fh, flags, None),
                    },
                };
                if result.is_err() {
                    self.release(now, fh);
                }
                self.answer(now, unique, result);
            }
            (_, Err(errno)) => self.answer(now, unique, Err(errno)),
            (Awaited::Make { parent, name, made }, Ok(reply)) => {
                let (parent, name, made) = (*parent, name.clone(), made.take());
                let result = self.made(parent, &name, made, reply);
                self.answer(now, unique, result);
            }
            (Awaited::Setattr { ino }, Ok(_)) => {
                let ino = *ino;
                // The kernel stores these without comparing versions (docs/protocol.md R1-versions).
                let shown = self.attributes(ino).ok_or(Errno::ENOENT);
                if let Ok(attributes) = &shown {
                    self.kernel.told_surely(attributes, now, caller.pid);
                }
                let result = shown.map(|attributes| Response::Attributes { attributes, ttl: Duration::ZERO });
                self.answer(now, unique, result);
            }
            (Awaited::Append { ino, offset, length, is_direct }, Ok(reply)) => {
                let (ino, offset, length, is_direct) = (*ino, *offset, *length, *is_direct);
                if let Reply::Written { size, .. } = reply {
                    waiting.written = Some(FileRange { ino, begin: size.saturating_sub(length.into()), end: size });
                }
                self.answer(now, unique, Ok(Response::Written { length }));
                if !is_direct {
                    // The kernel keeps the bytes where it believed the end to be.
                    self.drop_pages(ino, (offset, u64::MAX));
                }
            }
            // Its turn comes by an entry of another.
            (Awaited::Lock { .. }, Ok(Reply::Queued)) => self.lock_is_queued(now, unique),
            (Awaited::Lock { .. }, Ok(_)) => self.answer_lock(now, unique),
            (Awaited::Through { length }, Ok(_)) => {
                let length = *length;
                self.answer(now, unique, Ok(Response::Written { length }));
            }
            (Awaited::CopyRange, Ok(Reply::Copied { length })) => {
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                self.answer(now, unique, Ok(Response::Written { length }));
            }
            (_, Ok(_)) => self.answer(now, unique, Ok(Response::Done)),
        }
    }

    /// Nobody waits for the request any more, or its time is over.
    pub(super) fn give_up(&mut self, now: Instant, unique: u64, errno: Errno) {
        if let Some(verdict) = self.requests.take_verdict(unique) {
            // It is complete; only notifications hang, and their entries are not acknowledged.
            return self.finish(now, unique, verdict);
        }
        let Some(waiting) = self.requests.get_mut(unique) else { return };
        let handle = match &waiting.need {
            Awaited::Create { made: Some((_, fh)), .. }
            | Awaited::MakeUnnamed { made: Some((_, fh)), .. }
            | Awaited::OpenTruncate { fh, .. } => Some(*fh),
            _ => None,
        };
        // The kernel will believe that nothing happened.
        waiting.collided |= waiting.is_applied;
        let (sequence, job) = (waiting.sequence, waiting.job);
        let lock = match &waiting.need {
            Awaited::Lock { wanted, .. } => sequence.map(|call| (call, *wanted)),
            _ => None,
        };
        let opening = if let Awaited::Opening { ino, .. } = waiting.need { Some(ino) } else { None };
        self.finish(now, unique, Err(errno));
        if let Some(job) = job {
            self.abandon_job(now, job, errno);
        } else if let Some(sequence) = sequence {
            self.client.give_up(sequence);
            self.requests.take_purpose(sequence);
        }
        if let Some((call, lock)) = lock {
            self.take_lock_back(now, call, lock);
        }
        if let Some(ino) = opening {
            self.turn_given_up(now, ino, unique);
        }
        if let Some(fh) = handle {
            self.release(now, fh);
        }
    }

    /// The caller was hit by a signal, one that it handles or one that ends it: the kernel does not say which. No local
    /// file system ends a call for the former, and none keeps a process from dying for long. So the call may last as
    /// long as a change of leader takes and no longer, counted from its beginning; then it ends with EINTR, and may
    /// still take effect, at most once (README.md "Availability").
    pub(super) fn interrupt(&mut self, now: Instant, unique: u64) {
        if self.interrupt_read(unique) {
            return;
        }
        let Some(waiting) = self.requests.get_mut(unique) else {
            if self.requests.remove_early(unique) {
                self.respond(unique, Err(Errno::EINTR));
            }
            return;
        };
        if waiting.late == Errno::EINTR {
            return;
        }
        // Its turn may be long in coming. What is on its way to the leader is nearly there.
        if matches!(waiting.need, Awaited::Lock { is_queued: true, .. }) {
            return self.give_up(now, unique, Errno::EINTR);
        }
        let Timing { write_timeout, lease, .. } = self.config.timing;
        let left = write_timeout.saturating_sub(lease);
        let patience = waiting.deadline.since(now).saturating_sub(left);
        waiting.late = Errno::EINTR;
        waiting.deadline = waiting.deadline.min(now.after(patience));
        self.timers.set(Timer::Request(unique), waiting.deadline);
    }

    fn call(&mut self, now: Instant, unique: u64, waiting: Pending, operation: Operation) {
        self.wait(now, unique, waiting);
        self.submit(unique, operation);
    }

    fn submit(&mut self, unique: u64, operation: Operation) {
        self.counters.operations_proposed += 1;
        let sequence = self.client.submit(operation);
        self.requests.submitted(sequence, Purpose::Request(unique), Some(unique));
    }

    pub(super) fn setattr(
        &mut self,
        now: Instant,
        unique: u64,
        caller: Caller,
        ino: Ino,
        mut changes: AttributeChanges,
    ) {
        if self.config.squash.is_some() {
            (changes.uid, changes.gid) = (None, None);
        }
        let Some(kind) = self.volume().inode(ino).map(|inode| inode.kind) else {
            return self.respond(unique, Err(Errno::ENOENT));
        };
        changes.clear_suid = self.clearing(caller, ino, changes.clear_suid);
        if changes == AttributeChanges::default() {
            let shown = self.attributes(ino).ok_or(Errno::ENOENT);
            let result = shown.map(|attributes| Response::Attributes { attributes, ttl: Duration::ZERO });
            return self.respond(unique, result);
        }
        if kind == FileKind::File && self.may_change_here(ino, &changes) {
            self.change_here(now, ino, &changes);
            let shown = self.attributes(ino).ok_or(Errno::ENOENT);
            let result = shown.map(|attributes| Response::Attributes { attributes, ttl: Duration::ZERO });
            return self.respond(unique, result);
        }
        let waiting = Pending::new(caller, self.deadline(now), Awaited::Setattr { ino });
        self.change_inode(now, unique, waiting, ino, Operation::SetAttributes { ino, changes });
    }

    /// The kernel leaves it to us (FUSE_HANDLE_KILLPRIV_V2), and says nothing of it in FALLOCATE and COPY_FILE_RANGE: who
    /// is not root takes setuid away from the file that he changes (`file_modified`, fs/inode.c).
    fn clear_suid_for(&mut self, now: Instant, caller: Caller, ino: Ino) {
        let clear_suid = self.clearing(caller, ino, ClearSuid::of(caller.uid));
        if self.attributes(ino).is_some_and(|shown| clear_suid.clear(shown.mode) != shown.mode) {
            let changes = AttributeChanges { clear_suid, ..AttributeChanges::default() };
            let operation = Operation::SetAttributes { ino, changes };
            self.enqueue(now, NewJob::of(ino, operation));
        }
    }

    /// What of the caller's change ends setuid or setgid, where the kernel does not say whether he is of the file's
    /// group. We know only his first group. Where he is of the file's group by another one, he counts as a stranger.
    pub(super) fn clearing(&self, caller: Caller, ino: Ino, clear: ClearSuid) -> ClearSuid {
        let is_member = || self.attributes(ino).is_some_and(|shown| shown.gid == caller.gid);
        if clear == ClearSuid::ByStranger && is_member() { ClearSuid::ByMember } else { clear }
    }

    /// A change of an inode by itself: a file's has its place among the file's other changes.
    fn change_inode(&mut self, now: Instant, unique: u64, waiting: Pending, ino: Ino, operation: Operation) {
        let waiting = waiting.locking(self.own_lock(ino), Vec::new());
        if self.volume().inode(ino).is_none_or(|inode| inode.kind != FileKind::File) {
            return self.call(now, unique, waiting, operation);
        }
        self.wait(now, unique, waiting);
        self.flush(now, ino);
        self.enqueue(now, NewJob::of(ino, operation).answering(unique));
    }

    /// Whether the change may be buffered under the delegation. What apply might refuse is left to apply, and so is a
    /// mode that would change an access list.
    fn may_change_here(&self, ino: Ino, changes: &AttributeChanges) -> bool {
        let is_time = |change: Option<TimeChange>| match change {
            Some(TimeChange::To(time)) => time.nanoseconds < 1_000_000_000,
            _ => true,
        };
        let is_valid = is_time(changes.atime)
            && is_time(changes.mtime)
            && changes.size.is_none_or(|size| size <= limits::FILE_BYTES_MAX);
        let list = XattrName::new(b"system.posix_acl_access");
        let has_list = changes.mode.is_some() && list.is_ok_and(|name| self.volume().xattr(ino, &name).is_some());
        is_valid && !has_list && self.may_buffer(ino) && !self.files.has_ordered_jobs(ino)
    }

    /// Changes attributes or size of a file under its delegation: no entry of its own.
    pub(super) fn change_here(&mut self, now: Instant, ino: Ino, changes: &AttributeChanges) {
        let Some(shown) = self.attributes(ino) else { return };
        let times = self.times_of_change(now, ino);
        let clock = self.client.cluster_time(now).unwrap_or(self.volume().last_stamp());
        self.files.set_attributes(ino, shown.size, changes, clock.into(), times);
        self.flush_in_time(now, ino);
    }

    /// The reply to mknod, mkdir, symlink and link.
    fn made(&mut self, parent: Ino, name: &Name, made: Option<Attributes>, reply: Reply) -> Result<Response, Errno> {
        let ino = match (reply, made) {
            (Reply::Made { ino }, _) => ino,
            (_, Some(made)) => made.ino,
            (_, None) => return Err(Errno::EIO),
        };
        self.unnamed.remove(&ino);
        // Removed again by another mount already: it was there, and the kernel will ask again at once.
        let attributes = self.attributes(ino).or(made).ok_or(Errno::ENOENT)?;
        let entry_ttl = self.ttl_of_entry(parent, name, ino);
        self.hand_out(&attributes);
        Ok(Response::Entry { attributes, entry_ttl, attributes_ttl: Duration::ZERO })
    }

    fn created(
        &mut self,
        now: Instant,
        unique: u64,
        (parent, name): (Ino, &Name),
        made: Option<(Attributes, u64)>,
        outcome: Result<Reply, Errno>,
        flags: OpenFlags,
    ) {
        let (attributes, ino, fh) = match (made, outcome) {
            (Some((attributes, fh)), _) => (Some(attributes), attributes.ino, fh),
            // A snapshot brought the file, its entry was never seen here.
            (None, Ok(Reply::Made { ino })) => (None, ino, self.open_handle(ino, flags)),
            (None, _) => return self.answer(now, unique, Err(Errno::EIO)),
        };
        let result = self.created_as(ino, (parent, name), fh, flags, attributes);
        if result.is_err() {
            self.release(now, fh);
        } else if flags.write {
            self.take_right(now, ino);
        }
        self.answer(now, unique, result);
    }

    /// The reply to O_TMPFILE.
    fn made_unnamed(&mut self, now: Instant, unique: u64, made: Option<(Attributes, u64)>, flags: OpenFlags) {
        // A snapshot brought it, its entry was never seen here: nobody has kept it for us.
        let Some((attributes, fh)) = made else { return self.answer(now, unique, Err(Errno::EIO)) };
        let opened = self.opened_as(attributes.ino, fh, flags);
        self.unnamed.insert(attributes.ino);
        self.hand_out(&attributes);
        let (entry_ttl, attributes_ttl) = (Duration::ZERO, Duration::ZERO);
        self.answer(now, unique, Ok(Response::Created { attributes, entry_ttl, attributes_ttl, opened }));
    }

    fn created_as(
        &mut self,
        ino: Ino,
        (parent, name): (Ino, &Name),
        fh: u64,
        flags: OpenFlags,
        made: Option<Attributes>,
    ) -> Result<Response, Errno> {
        let attributes = self.attributes(ino).or(made).ok_or(Errno::ESTALE)?;
        let entry_ttl = self.ttl_of_entry(parent, name, ino);
        let opened = self.opened_as(ino, fh, flags);
        self.hand_out(&attributes);
        Ok(Response::Created { attributes, entry_ttl, attributes_ttl: Duration::ZERO, opened })
    }

    /// Another mount was faster. The kernel has not checked permissions of a file that it believed to be new: where the
    /// caller is not its owner, ESTALE makes it look the path up again and check.
    fn open_existing(
        &mut self,
        now: Instant,
        unique: u64,
        caller: Caller,
        (parent, name, (mode, umask)): (Ino, Name, (u16, u16)),
        flags: OpenFlags,
        attempts: u32,
    ) {
        let Some(attributes) = self.volume().lookup(parent, &name).and_then(|ino| self.attributes(ino)) else {
            if attempts >= CREATE_ATTEMPTS {
                return self.answer(now, unique, Err(Errno::ESTALE));
            }
            if let Some(waiting) = self.requests.get_mut(unique) {
                waiting.is_applied = false;
                if let Awaited::Create { attempts, .. } = &mut waiting.need {
                    *attempts += 1;
                }
            }
            let (uid, gid) = self.config.squash.unwrap_or((caller.uid, caller.gid));
            let (node, delegate) = (NewNode::File, flags.write);
            return self.submit(unique, Operation::Make { parent, name, node, mode, uid, gid, delegate, umask });
        };
        let ino = attributes.ino;
        if attributes.kind != FileKind::File || !may_access(caller, &attributes, flags.write || flags.truncate) {
            return self.answer(now, unique, Err(Errno::ESTALE));
        }
        if self.needs_turn(ino) {
            // Not while the kernel holds the directory's lock.
            return self.answer(now, unique, Err(Errno::ESTALE));
        }
        let fh = self.open_handle(ino, flags);
        if flags.truncate {
            if let Some(waiting) = self.requests.get_mut(unique) {
                waiting.sequence = None;
                waiting.is_applied = false;
                waiting.need = Awaited::OpenTruncate { ino, flags, fh, created: Some((parent, name)) };
            }
            return self.go_on_writing(now, unique);
        }
        let result = self.created_as(ino, (parent, &name), fh, flags, None);
        self.answer(now, unique, result);
    }

    fn ttl_of_entry(&mut self, parent: Ino, name: &Name, ino: Ino) -> Duration {
        if self.volume().lookup(parent, name) == Some(ino) { self.entry_ttl(parent, name) } else { Duration::ZERO }
    }

    fn directory_named(&self, parent: Ino, name: &Name) -> Option<Ino> {
        let ino = self.volume().lookup(parent, name)?;
        self.volume().inode(ino).filter(|inode| inode.kind == FileKind::Directory).map(|_| ino)
    }

    /// What the kernel locks for a change of the inode itself: only a directory's lock is in a notification's way.
    fn own_lock(&self, ino: Ino) -> Vec<Ino> {
        let is_directory = self.volume().inode(ino).is_some_and(|inode| inode.kind == FileKind::Directory);
        if is_directory { vec![ino] } else { Vec::new() }
    }
}

/// Whether the caller may read (and write) as the file's owner. Groups, ACLs and capabilities are the kernel's to judge.
const fn may_access(caller: Caller, attributes: &Attributes, write: bool) -> bool {
    let wanted = if write { 0o600 } else { 0o400 };
    caller.uid == attributes.uid && attributes.mode & wanted == wanted
}
