//! A number in a file that only a lock guards: read, wait, write the next one. Whoever is let in beside a holder, reads
//! what is old under a lock, or writes after his lock was lost, makes a number come twice. Where the number is in a shared
//! mapping, whose bytes go back at munmap() and not before the lock does, it takes one mount at a time, too.

use std::time::Duration;

use super::{Answer, Context, Flow, Note, OpenFlags, OpenedAs, Path, Request, Step, mapping::MAPPED_BYTES, try_call};
use crate::types::{Errno, Ino, LockClaim, LockFamily, LockKind, LockRange};

/// How the number is guarded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::sim) struct Guard {
    pub(in crate::sim) family: LockFamily,
    /// Whoever shares it only reads.
    pub(in crate::sim) kind: LockKind,
    pub(in crate::sim) waits: bool,
    /// Otherwise the lock ends with close().
    pub(in crate::sim) unlocks: bool,
    /// The number is read and written in memory, by way of a mapping.
    pub(in crate::sim) is_mapped: bool,
    /// Between reading and writing.
    pub(in crate::sim) pause: Duration,
    /// Behind the call's beginning the process is killed.
    pub(in crate::sim) dies: Option<Duration>,
}

/// What stands in the file, or in its first bytes; 0 where nobody has counted yet.
pub(in crate::sim) fn number_in(content: &[u8]) -> u64 {
    let digits = content.get(..8).unwrap_or(content);
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The kernel's number for the process: what it holds with fcntl ends when it closes the file.
pub(super) fn owner_of(process: usize) -> u64 {
    process as u64 + 1
}

impl Step<'_> {
    pub(super) fn count(&mut self, path: &Path, guard: &Guard) -> Answer<()> {
        let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
        let (ino, opened) = try_call!(self.open_or_create(path, flags));
        let errors = self.note(|kernel| Some(Note::Number(kernel.inode(ino).write_errors)))?;
        let mut counted = self.count_under_lock(ino, opened, guard)?;
        self.running.lock = None;
        if guard.is_mapped {
            counted = counted.and(self.write_back(ino, opened)?);
            // What msync() tells: also of bytes that went back because the kernel was told to forget the page.
            let is_told = self.note(|kernel| {
                let is_same = matches!(errors, Note::Number(errors) if kernel.inode(ino).write_errors == errors);
                Some(Note::Number(u64::from(!is_same)))
            })?;
            if matches!(is_told, Note::Number(1)) {
                counted = Err(Errno::EIO);
            }
        }
        let closed = self.close(ino, opened)?;
        self.running.writes = None;
        Ok(counted.and(closed))
    }

    fn count_under_lock(&mut self, ino: Ino, opened: OpenedAs, guard: &Guard) -> Answer<()> {
        let owner = match guard.family {
            LockFamily::Flock | LockFamily::Open => 1 << 32 | opened.fh,
            LockFamily::Fcntl => owner_of(self.process),
        };
        let range = match guard.family {
            LockFamily::Flock | LockFamily::Open => LockRange::ALL,
            LockFamily::Fcntl => LockRange { first: 100, last: 109 },
        };
        let claim = LockClaim { family: guard.family, owner, kind: guard.kind, range, pid: 0, fh: opened.fh };
        let waits = guard.waits;
        try_call!(self.request(|_| (Request::SetLock { ino, claim, waits }, Context::Plain)));
        self.running.lock = Some((ino, claim));
        if self.is_killed()? {
            return Ok(Err(Errno::EINTR));
        }
        if guard.is_mapped {
            try_call!(self.lengthen(ino, MAPPED_BYTES));
        }
        let content = try_call!(self.read_all(ino, opened));
        self.sleep(guard.pause)?;
        if self.is_killed()? {
            return Ok(Err(Errno::EINTR));
        }
        if guard.kind == LockKind::Exclusive {
            let before = number_in(&content);
            let data = format!("{:08}", before + 1).into_bytes().into();
            if guard.is_mapped {
                self.write_to_memory(ino, opened, &content, (0, &data))?;
            } else {
                try_call!(self.write(ino, opened, 0, &data, false));
            }
            self.running.counted = Some(before + 1);
        }
        if guard.unlocks {
            self.running.lock = None;
            try_call!(self.request(|_| (Request::Unlock { ino, claim }, Context::Plain)));
        }
        Ok(Ok(()))
    }

    fn is_killed(&mut self) -> Flow<bool> {
        let is_killed = self.running.is_killed;
        let note = self.note(|_| Some(Note::Number(u64::from(is_killed))))?;
        Ok(matches!(note, Note::Number(1)))
    }

    pub(super) fn sleep(&mut self, time: Duration) -> Flow<()> {
        let began = self.note(|kernel| Some(Note::Number(kernel.now.0)))?;
        let Note::Number(began) = began else { return Ok(()) };
        let (end, is_killed) = (crate::types::Instant(began).after(time), self.running.is_killed);
        self.running.sleeps_until = Some(end);
        self.note(|kernel| (is_killed || kernel.now >= end).then_some(Note::Done))?;
        self.running.sleeps_until = None;
        Ok(())
    }
}
