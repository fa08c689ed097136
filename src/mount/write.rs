//! WRITE: into the dirty bytes of the file, or through to the log where the caller must know where it landed (appends)
//! or that it is durable (O_SYNC). Beyond the bound on dirty bytes a WRITE waits; one that writes a mapping back never
//! does (PROTOCOL R26).

use bytes::Bytes;

use super::{
    Caller, Mount, Response, Timer, WriteFlags,
    flush::Overlay,
    waiting::{Kind, Waiting},
};
use crate::{
    limits,
    namespace::Operation,
    types::{BlockHash, Errno, FileKind, Ino, Instant, Piece, Timestamp},
};

/// Dirty bytes of one file that are sent on their way without waiting for close or age.
const STREAM_BYTES: usize = 8 * limits::BLOCK_BYTES_MAX;
/// Bytes of a page of the page cache, to be on the safe side.
const LARGE_PAGE_BYTES: u64 = 64 * 1024;

impl Mount {
    pub(super) fn write(
        &mut self,
        now: Instant,
        unique: u64,
        caller: Caller,
        (ino, fh): (Ino, u64),
        (offset, data): (u64, Bytes),
        flags: WriteFlags,
    ) {
        if let Err(errno) = self.may_write(ino, offset, &data, flags) {
            return self.respond(unique, Err(errno));
        }
        let length = data.len() as u32;
        if length == 0 {
            return self.respond(unique, Ok(Response::Written { length }));
        }
        if self.handles.has_lost_lock(fh) {
            return self.respond(unique, Err(Errno::EIO));
        }
        if !flags.write_back
            && let Some(errno) = self.files.get_mut(&ino).and_then(|file| file.error.take())
        {
            self.tidy(ino);
            return self.respond(unique, Err(errno));
        }
        if flags.append && !flags.write_back {
            return self.append(now, unique, caller, (ino, fh), (offset, data), flags);
        }
        if !flags.write_back && (!self.blocked.is_empty() || !self.has_room(data.len())) {
            let deadline = self.deadline(now);
            let mut waiting = Waiting::new(caller, deadline, Kind::Write { ino, offset, data, flags });
            let (begin, end) = locked_by(offset, length);
            waiting.pages = Some((ino, begin, end));
            self.wait(now, unique, waiting);
            self.blocked.push_back(unique);
            return self.flush_everything(now);
        }
        self.take_write(now, ino, offset, &data, flags);
        if flags.sync && !flags.write_back {
            let pages = (!self.handles.is_direct(fh)).then(|| locked_by(offset, length));
            return self.complete_file(now, unique, caller, ino, (Response::Written { length }, pages));
        }
        self.respond(unique, Ok(Response::Written { length }));
    }

    /// WRITEs that waited go on, in their order, as far as there is room.
    pub(super) fn unblock_writes(&mut self, now: Instant) {
        while let Some(unique) = self.blocked.front().copied() {
            let Some(Kind::Write { ino, offset, data, flags }) = self.waiting.get(unique).map(|waiting| &waiting.kind)
            else {
                self.blocked.pop_front();
                continue;
            };
            if !self.has_room(data.len()) {
                return;
            }
            let (ino, offset, data, flags) = (*ino, *offset, data.clone(), *flags);
            self.blocked.pop_front();
            let length = data.len() as u32;
            if self.volume().inode(ino).is_none() {
                self.answer(now, unique, Err(Errno::ESTALE));
                continue;
            }
            self.take_write(now, ino, offset, &data, flags);
            if flags.sync {
                self.flush(now, ino);
                self.watch_file(now, unique, ino, Response::Written { length });
            } else {
                self.answer(now, unique, Ok(Response::Written { length }));
            }
        }
    }

    /// The last handle's release is nobody's to wait for; what is dirty goes on its way.
    pub(super) fn release(&mut self, now: Instant, fh: u64) {
        let Some(ino) = self.handles.release(fh) else { return };
        self.flush(now, ino);
        self.abandon_late_jobs(now, ino);
        if let Some(file) = self.files.get_mut(&ino) {
            file.error = None;
        }
        self.tidy(ino);
        self.release_orphan(ino);
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.dirty_bytes + self.flushing_bytes + bytes <= limits::DIRTY_BYTES_MAX
    }

    fn may_write(&self, ino: Ino, offset: u64, data: &Bytes, flags: WriteFlags) -> Result<(), Errno> {
        match self.volume().inode(ino).map(|inode| inode.kind) {
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

    fn take_write(&mut self, now: Instant, ino: Ino, offset: u64, data: &[u8], flags: WriteFlags) {
        let mtime = self.write_time(now, ino);
        let fence = self.fence(ino);
        let file = self.files.entry(ino).or_default();
        let before = file.dirty.bytes();
        file.dirty.write(offset, data);
        file.fence = file.fence.or(fence);
        file.mtime = Some(mtime);
        file.clear_suid |= flags.kill_suid;
        let bytes = file.dirty.bytes();
        let is_due = file.due.is_some();
        self.dirty_bytes = self.dirty_bytes - before + bytes;
        if bytes >= STREAM_BYTES {
            self.flush(now, ino);
        } else if !is_due {
            let due = now.after(self.config.timing.flush_age);
            if let Some(file) = self.files.get_mut(&ino) {
                file.due = Some(due);
            }
            self.timers.insert((due, Timer::Age(ino)));
        }
    }

    /// Cluster time of a write, later than what the file shows now (DESIGN P9).
    fn write_time(&self, now: Instant, ino: Ino) -> Timestamp {
        let shown = self.attributes(ino).map_or(Timestamp::default(), |attributes| attributes.mtime.next());
        let stamp = self.client.cluster_time(now).unwrap_or(self.volume().last_stamp());
        shown.max(Timestamp::from(stamp))
    }

    /// One operation whose place apply chooses; answered when it is complete (PROTOCOL R13).
    fn append(
        &mut self,
        now: Instant,
        unique: u64,
        caller: Caller,
        (ino, fh): (Ino, u64),
        (offset, data): (u64, Bytes),
        flags: WriteFlags,
    ) {
        self.flush(now, ino);
        let length = data.len() as u32;
        let hash = BlockHash::of(&data);
        let is_inline = data.len() <= self.client.inline_bytes_max();
        let content = is_inline.then(|| data.clone());
        let blocks = if is_inline { Vec::new() } else { vec![(hash, data)] };
        let piece = Piece { offset: 0, length: u64::from(length), block: Some(hash), content };
        let operation = Operation::Write {
            ino,
            pieces: vec![piece],
            append: true,
            mtime: None,
            clear_suid: flags.kill_suid,
            uploads: Vec::new(),
            fence: self.fence(ino),
        };
        // O_APPEND that was set after the open goes through the page cache, to a place of the kernel's choice.
        let is_direct = self.handles.is_direct(fh);
        let mut waiting = Waiting::new(caller, self.deadline(now), Kind::Append { ino, offset, length, is_direct });
        if !is_direct {
            let (begin, end) = locked_by(offset, length);
            waiting.pages = Some((ino, begin, end));
        }
        self.wait(now, unique, waiting);
        self.enqueue(now, vec![ino], operation, blocks, Overlay::default(), Some(unique));
    }
}

/// What a WRITE through the page cache may keep locked until it is answered: its pages, whose size only the kernel
/// knows (large ones hold as much as a small write).
const fn locked_by(offset: u64, length: u32) -> (u64, u64) {
    let end = offset.saturating_add(length as u64);
    (offset - offset % LARGE_PAGE_BYTES, end.saturating_add(LARGE_PAGE_BYTES - 1) / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES)
}
