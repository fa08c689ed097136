//! WRITE: into the dirty bytes of the file where this mount has its delegation, which it asks for first; or through to the
//! log: appends without it (where they land is apply's to say), what must be durable (O_SYNC), and files that several
//! mounts write in turn. Beyond the bound on dirty bytes a WRITE waits; one that writes a mapping back never does
//! (docs/protocol.md R26-mappings).

use super::{
    Caller, Mount, Response, WriteFlags,
    files::{ChangeTimes, NewJob, Right},
    requests::{Awaited, FileRange, NewBytes, OpenFile, Pending},
    timers::Timer,
};
use crate::{
    limits,
    namespace::Operation,
    types::{AttributeChanges, BlockHash, Errno, FileKind, Ino, Instant, Piece, Timestamp, mtime_behind},
};

/// Dirty bytes of one file that are sent on their way without waiting for close or age.
const STREAM_BYTES: usize = 8 * limits::BLOCK_BYTES_MAX;
/// Bytes of a page of the page cache, to be on the safe side.
const LARGE_PAGE_BYTES: u64 = 64 * 1024;

/// How a change of a file goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Here, and with a later flush into the log.
    Buffer,
    /// Into the log at once.
    Through,
    /// The delegation is asked for first.
    Ask,
    /// It will show: a grant, or an earlier change of the file is on its way.
    Wait,
}

impl Mount {
    pub(super) fn write(&mut self, now: Instant, unique: u64, caller: Caller, new: NewBytes) {
        let NewBytes { file: OpenFile { ino, fh }, offset, flags, .. } = new;
        if let Err(errno) = self.may_write(&new) {
            return self.respond(unique, Err(errno));
        }
        let length = new.data.len() as u32;
        if length == 0 {
            return self.respond(unique, Ok(Response::Written { length }));
        }
        if !self.handles.is_direct(fh) {
            // The kernel keeps the bytes in its pages.
            // Who writes a mapping back is not who was told of the file.
            self.kernel.gave_pages(ino, if flags.write_back { 0 } else { caller.pid });
        }
        if self.handles.has_lost_lock(fh) {
            return self.respond(unique, Err(Errno::EIO));
        }
        if flags.write_back {
            self.take_write(now, ino, offset, &new.data, flags);
            return self.respond(unique, Ok(Response::Written { length }));
        }
        if let Some(errno) = self.handles.refuse_write(ino, fh) {
            return self.respond(unique, Err(errno));
        }
        let is_direct = self.handles.is_direct(fh);
        let mut waiting = Pending::new(caller, self.deadline(now), Awaited::Write(new));
        waiting.written = Some(FileRange { ino, begin: offset, end: offset.saturating_add(length.into()) });
        // Through the page cache: pages whose size only the kernel knows (large ones hold as much as a small write).
        let pages = (!is_direct).then(|| FileRange::of_pages(ino, offset, length, LARGE_PAGE_BYTES));
        self.wait(now, unique, waiting.locking_pages(pages));
        self.go_on_writing(now, unique);
    }

    /// A request that changes a file takes its next step.
    pub(super) fn go_on_writing(&mut self, now: Instant, unique: u64) {
        let Some(waiting) = self.requests.get(unique) else { return };
        match &waiting.need {
            Awaited::Write(new) => {
                let (caller, mut new) = (waiting.caller, new.clone());
                new.flags.clear_suid = self.clearing(caller, new.file.ino, new.flags.clear_suid);
                // It may have waited for a delegation, and its lock been lost meanwhile.
                if self.handles.has_lost_lock(new.file.fh) {
                    return self.answer(now, unique, Err(Errno::EIO));
                }
                self.attempt_write(now, unique, new);
            }
            Awaited::OpenTruncate { ino, flags, .. } => {
                let (ino, writes) = (*ino, flags.write);
                let clear_suid = self.clearing(waiting.caller, ino, flags.clear_suid);
                let changes = AttributeChanges { size: Some(0), clear_suid, ..AttributeChanges::default() };
                self.truncate_for_open(now, unique, ino, changes, writes);
            }
            _ => {}
        }
    }

    /// `asks`: buffering is worth an entry that asks for it.
    pub(super) fn way(&self, now: Instant, ino: Ino, asks: bool) -> Way {
        match self.files.right(ino) {
            Right::Held(_) if self.files.has_ordered_jobs(ino) => Way::Wait,
            Right::Held(_) => Way::Buffer,
            Right::Asked(_) => Way::Wait,
            Right::None | Right::Returning if asks && !self.files.is_contended(now, ino) => Way::Ask,
            Right::None | Right::Returning => Way::Through,
        }
    }

    /// WRITEs that waited for room go on, in their order, as far as there is some.
    pub(super) fn unblock_writes(&mut self, now: Instant) {
        while let Some(unique) = self.files.first_blocked() {
            match self.requests.get(unique).map(|waiting| &waiting.need) {
                Some(Awaited::Write(new)) if !self.files.has_room(new.data.len()) => return,
                _ => {}
            }
            // It keeps its place in front while it goes on, and has it no more when it went.
            self.go_on_writing(now, unique);
            self.files.unblock(unique);
        }
    }

    fn may_write(&self, new: &NewBytes) -> Result<(), Errno> {
        let NewBytes { file: OpenFile { ino, .. }, offset, data, flags } = new;
        match self.volume().inode(*ino).map(|inode| inode.kind) {
            Some(FileKind::File) => {}
            Some(_) => return Err(Errno::EINVAL),
            None => return Err(Errno::ESTALE),
        }
        if data.len() > limits::BLOCK_BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        // Where an append lands is for apply to check.
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        if end > limits::FILE_BYTES_MAX && !flags.append { Err(Errno::EFBIG) } else { Ok(()) }
    }

    fn attempt_write(&mut self, now: Instant, unique: u64, new: NewBytes) {
        let NewBytes { file, offset, flags, .. } = new;
        let OpenFile { ino, fh } = file;
        if self.volume().inode(ino).is_none() {
            return self.answer(now, unique, Err(Errno::ESTALE));
        }
        match self.way(now, ino, !flags.append && !flags.sync) {
            Way::Ask => return self.ask_for_right(now, ino, unique),
            Way::Wait => return self.files.wait_for_right(ino, unique),
            Way::Through => return self.write_through(now, unique, new),
            Way::Buffer => {}
        }
        let is_next = self.files.first_blocked().is_none_or(|first| first == unique);
        if !is_next || !self.files.has_room(new.data.len()) {
            self.files.block(unique);
            return self.flush_everything(now);
        }
        let length = new.data.len() as u32;
        let place = if flags.append { self.size(ino) } else { offset };
        if place.saturating_add(new.data.len() as u64) > limits::FILE_BYTES_MAX {
            return self.answer(now, unique, Err(Errno::EFBIG));
        }
        self.take_write(now, ino, place, &new.data, flags);
        if let Some(waiting) = self.requests.get_mut(unique) {
            waiting.written = Some(FileRange { ino, begin: place, end: place + u64::from(length) });
        }
        // A mount that may be cut off collects nothing that it may lose.
        if flags.sync || !self.is_fresh {
            self.flush(now, ino);
            self.watch_file(now, unique, file, Response::Written { length });
        } else {
            self.answer(now, unique, Ok(Response::Written { length }));
        }
        if place != offset && !self.handles.is_direct(fh) {
            // The kernel keeps the bytes where it believed the end to be.
            self.drop_pages(ino, (offset.min(place), u64::MAX));
        }
    }

    fn take_write(&mut self, now: Instant, ino: Ino, offset: u64, data: &[u8], flags: WriteFlags) {
        let times = self.times_of_change(now, ino);
        let fence = self.fence(ino);
        let bytes = self.files.write(ino, offset, data, times, flags.clear_suid, fence);
        if bytes >= STREAM_BYTES {
            self.flush(now, ino);
        } else {
            self.flush_in_time(now, ino);
        }
    }

    /// What is dirty goes on its way when it has come of age.
    pub(super) fn flush_in_time(&mut self, now: Instant, ino: Ino) {
        let due = now.after(self.config.timing.flush_age);
        if self.files.has(ino) && !self.timers.is_set(Timer::Age(ino)) {
            self.timers.set(Timer::Age(ino), due);
        }
    }

    /// Cluster time of a change made here, for mtime and ctime each: behind what the file shows, and behind what the
    /// replica has, so that apply keeps it (README.md "Times").
    pub(super) fn times_of_change(&self, now: Instant, ino: Ino) -> ChangeTimes {
        let clock = Timestamp::from(self.client.cluster_time(now).unwrap_or(self.volume().last_stamp()));
        let known = [self.attributes(ino), self.volume().attributes(ino)];
        let (mtime, ctime) = known.iter().flatten().fold((clock, clock), |(mtime, ctime), shown| {
            (mtime_behind(shown.mtime, shown.ctime, mtime), ctime.max(shown.ctime.next()))
        });
        ChangeTimes { mtime, ctime: ctime.max(mtime) }
    }

    /// One operation, answered when it is complete. Where an append lands, apply says (R13-appends).
    fn write_through(&mut self, now: Instant, unique: u64, new: NewBytes) {
        let NewBytes { file: OpenFile { ino, fh }, offset, data, flags } = new;
        self.flush(now, ino);
        let length = data.len() as u32;
        let hash = BlockHash::of(&data);
        let is_inline = data.len() <= self.client.inline_bytes_max();
        let content = is_inline.then(|| data.clone());
        let blocks = if is_inline { Vec::new() } else { vec![(hash, data)] };
        let piece = Piece {
            offset: if flags.append { 0 } else { offset },
            length: u64::from(length),
            block: Some(hash),
            content,
        };
        let operation = Operation::Write {
            ino,
            pieces: vec![piece],
            append: flags.append,
            mtime: None,
            clear_suid: flags.clear_suid,
            uploads: Vec::new(),
            fence: self.fence(ino),
        };
        if let Some(waiting) = self.requests.get_mut(unique) {
            // O_APPEND that was set after the open goes through the page cache, to a place of the kernel's choice.
            let is_direct = self.handles.is_direct(fh);
            waiting.need = if flags.append {
                Awaited::Append { ino, offset, length, is_direct }
            } else {
                Awaited::Through { length }
            };
        }
        self.counters.writes_through += 1;
        self.enqueue(now, NewJob { blocks, ..NewJob::of(ino, operation).answering(unique) });
    }
}
