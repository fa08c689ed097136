//! OPEN, FLUSH and RELEASE: a file is opened here, a descriptor of it is closed, and the last one is gone. (CREATE, which
//! changes the tree, is in `submit.rs`; `handles.rs` has what is open.)

use super::{
    Caller, Mount, OpenFlags, OpenedAs, Response,
    files::NewJob,
    requests::{Awaited, OpenFile, Pending},
    write::Way,
};
use crate::{
    namespace::{Operation, Reply},
    types::{AttributeChanges, Errno, FileKind, Ino, Instant},
};

impl Mount {
    /// OPEN. Nothing but a truncation, and a file that one mount at a time may have open, needs the leader.
    pub(super) fn open(&mut self, now: Instant, unique: u64, caller: Caller, ino: Ino, flags: OpenFlags) {
        if let Err(errno) = self.may_open(ino) {
            return self.respond(unique, Err(errno));
        }
        if self.needs_turn(ino) {
            return self.wait_for_turn(now, unique, caller, ino, flags);
        }
        let fh = self.open_handle(ino, flags);
        if !flags.truncate {
            let opened = Ok(Response::Opened(self.opened_as(ino, fh, flags)));
            return match self.tell_opener(ino, caller.pid) {
                Some(ticket) => self.kernel.answer_behind(ticket, unique, opened),
                None => self.respond(unique, opened),
            };
        }
        let kind = Awaited::OpenTruncate { ino, flags, fh, created: None };
        let waiting = Pending::new(caller, self.deadline(now), kind);
        self.wait(now, unique, waiting);
        self.go_on_writing(now, unique);
    }

    /// The truncation that an open asked for. It goes under the delegation, which an open that `writes` asks for now
    /// and not with its first write, or it becomes an entry of its own.
    pub(super) fn truncate_for_open(
        &mut self,
        now: Instant,
        unique: u64,
        ino: Ino,
        changes: AttributeChanges,
        writes: bool,
    ) {
        match self.way(now, ino, writes) {
            Way::Buffer if self.is_fresh => {
                self.change_here(now, ino, &changes);
                return self.complete(now, unique, Ok(Reply::Done));
            }
            Way::Ask => return self.ask_for_right(now, ino, unique),
            Way::Wait => return self.files.wait_for_right(ino, unique),
            Way::Buffer | Way::Through => {}
        }
        self.flush(now, ino);
        let truncate = Operation::SetAttributes { ino, changes };
        self.enqueue(now, NewJob::of(ino, truncate).answering(unique));
    }

    pub(super) fn may_open(&self, ino: Ino) -> Result<(), Errno> {
        let inode = self.volume().inode(ino).ok_or(Errno::ESTALE)?;
        match inode.kind {
            // Its last name is gone and the leader was told that nobody here has it: it may be freed at any time.
            FileKind::File if inode.nlink == 0 && !self.is_in_use(ino) => Err(Errno::ESTALE),
            FileKind::File => Ok(()),
            FileKind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn opened_as(&self, ino: Ino, fh: u64, flags: OpenFlags) -> OpenedAs {
        OpenedAs {
            fh,
            // Pages are in step with the replica but for those whose invalidation is under way (docs/protocol.md
            // R3-apply-first).
            keep_cache: !flags.append && !self.kernel.is_inode_uncacheable(ino) && !self.is_delegated_elsewhere(ino),
            direct_io: flags.append,
            no_flush: !flags.write && !self.has_fcntl_locks(ino) || !self.handles.ends_are_told(),
            cache_dir: false,
        }
    }

    /// A file is opened that may have grown while it was not open here, and the thread that opens it has not just asked
    /// how long it is.
    pub(super) fn tell_opener(&mut self, ino: Ino, thread: u32) -> Option<u64> {
        let size = self.size(ino);
        if !self.kernel.is_too_short(ino, size, self.now, thread) {
            return None;
        }
        if !self.is_access_believed(ino, thread) {
            self.kernel.file_opened(ino, size);
            self.kernel.size_untold(ino);
            return None;
        }
        let size = self.size_of(ino, size).ok()?;
        let is_uncacheable = self.kernel.is_inode_uncacheable(ino);
        Some(if is_uncacheable { self.issue_behind_pages(ino, size) } else { self.issue(vec![size], Vec::new()) })
    }

    /// FLUSH: close(2) of one descriptor. The last one that may write gives the delegation back with what is dirty. If
    /// nothing is dirty, nobody waits for that.
    pub(super) fn close(&mut self, now: Instant, unique: u64, caller: Caller, file: OpenFile) {
        let ino = file.ino;
        let gives_back = self.handles.writers(ino) <= 1;
        if gives_back && self.files.is_dirty(ino) {
            self.send_on(now, ino, true);
        }
        self.complete_file(now, unique, caller, file);
        if gives_back {
            self.send_on(now, ino, true);
        }
    }

    /// The last release of a writer gives the delegation back; the last of all is nobody's to wait for.
    pub(super) fn release(&mut self, now: Instant, fh: u64) {
        let Some(ino) = self.handles.release(fh) else { return };
        if self.handles.writers(ino) == 0 {
            if self.handles.ends_are_told() {
                self.kernel.forget_readers(ino);
            }
            self.send_on(now, ino, true);
        }
        self.handle_released(now, ino, fh);
        if !self.handles.is_open(ino) {
            self.abandon_late_jobs(now, ino);
            self.tidy(ino);
            self.release_orphan(ino);
        }
    }
}
