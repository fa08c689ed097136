//! A request of the kernel that has no answer yet: what it waits for, what is needed to answer it, and which of the
//! kernel's locks it holds until then.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::{
    mount::{Caller, OpenFlags, Request, Response, WriteFlags, files::JobId},
    types::{Attributes, Errno, Ino, Instant, LockClaim, LogIndex, Name, Sequence},
};

/// A file, through one of its open files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OpenFile {
    pub(crate) ino: Ino,
    pub(crate) fh: u64,
}

/// Bytes of a file; `end` is `u64::MAX` if there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileRange {
    pub(crate) ino: Ino,
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

impl FileRange {
    /// `length` bytes behind `offset`, as whole pages of `page` bytes.
    pub(crate) const fn of_pages(ino: Ino, offset: u64, length: u32, page: u64) -> Self {
        let end = offset.saturating_add(length as u64).saturating_add(page - 1);
        Self { ino, begin: offset - offset % page, end: end - end % page }
    }
}

/// What a READ asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReadRange {
    pub(crate) ino: Ino,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// What a WRITE brings.
#[derive(Clone, Debug)]
pub(crate) struct NewBytes {
    pub(crate) file: OpenFile,
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    pub(crate) flags: WriteFlags,
}

/// A lock that somebody asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedLock {
    pub(crate) ino: Ino,
    pub(crate) claim: LockClaim,
    /// Whoever asks waits until he gets it.
    pub(crate) waits: bool,
}

/// What a request waits for, and what is needed to answer it then.
#[derive(Debug)]
pub(crate) enum Awaited {
    /// Blocks that are on their way.
    Read(ReadRange),
    /// mknod, mkdir, symlink, link. `made`: as it was right after its entry was applied.
    Make {
        parent: Ino,
        name: Name,
        made: Option<Attributes>,
    },
    Create {
        parent: Ino,
        name: Name,
        /// Mode and umask.
        mode: (u16, u16),
        flags: OpenFlags,
        made: Option<(Attributes, u64)>,
        attempts: u32,
    },
    MakeUnnamed {
        flags: OpenFlags,
        made: Option<(Attributes, u64)>,
    },
    /// An OPEN that waits for this mount's turn.
    Opening {
        ino: Ino,
        flags: OpenFlags,
    },
    /// The truncation of an open that found an existing file.
    OpenTruncate {
        ino: Ino,
        flags: OpenFlags,
        fh: u64,
        created: Option<(Ino, Name)>,
    },
    /// A change that is answered with success alone.
    Plain,
    Setattr {
        ino: Ino,
    },
    /// `is_direct`: the kernel keeps no pages of it.
    Append {
        ino: Ino,
        offset: u64,
        length: u32,
        is_direct: bool,
    },
    CopyRange,
    /// `is_queued`: it stands in the queue of the state.
    Lock {
        wanted: WantedLock,
        is_queued: bool,
    },
    /// FLUSH, FSYNC, or a write that is durable before it returns: `response` once these jobs are complete. `through`: the
    /// open file that is told if bytes are lost.
    Flush {
        jobs: BTreeSet<JobId>,
        through: Option<OpenFile>,
        response: Response,
    },
    /// A WRITE on its way into the dirty bytes.
    Write(NewBytes),
    /// A WRITE that is complete before it is answered.
    Through {
        length: u32,
    },
    /// It looks at a file that another mount has delegated.
    Parked {
        request: Request,
    },
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) caller: Caller,
    /// `late` is answered then.
    pub(crate) deadline: Instant,
    pub(crate) late: Errno,
    pub(crate) need: Awaited,
    /// The call that carries it, once it is submitted; or the job that will submit it.
    pub(crate) sequence: Option<Sequence>,
    pub(crate) job: Option<JobId>,
    /// Its entry has been applied.
    pub(crate) is_applied: bool,
    /// Directories whose lock the kernel holds until the answer (docs/protocol.md R22-collisions).
    pub(super) locks: Vec<Ino>,
    /// Names that it changes.
    pub(crate) names: Vec<(Ino, Name)>,
    pub(crate) is_rename: bool,
    /// Pages that the kernel keeps locked until the answer.
    pub(super) pages: Option<FileRange>,
    /// Bytes that a WRITE puts into a file.
    pub(crate) written: Option<FileRange>,
    /// A foreign change of one of its names was applied meanwhile: the kernel will believe something that is not so.
    pub(crate) collided: bool,
    /// Foreign entries that are acknowledged only when its names were invalidated after its answer (R23-renames).
    pub(crate) held: Vec<LogIndex>,
    /// Tickets that must be done before its answer.
    pub(super) tickets: BTreeSet<u64>,
    /// Files that lose a name by it: its answer makes the kernel drop attributes of them that are on their way.
    pub(crate) unnamed: Vec<Ino>,
    /// The answer, while tickets, or what is on its way, hold it back.
    pub(super) verdict: Option<Result<Response, Errno>>,
}

impl Pending {
    pub(crate) const fn new(caller: Caller, deadline: Instant, need: Awaited) -> Self {
        Self {
            caller,
            deadline,
            late: Errno::EIO,
            need,
            sequence: None,
            job: None,
            is_applied: false,
            locks: Vec::new(),
            names: Vec::new(),
            is_rename: false,
            pages: None,
            written: None,
            collided: false,
            held: Vec::new(),
            tickets: BTreeSet::new(),
            unnamed: Vec::new(),
            verdict: None,
        }
    }

    /// The kernel holds these directories' locks, for a change of these names.
    pub(crate) fn locking(mut self, locks: Vec<Ino>, names: Vec<(Ino, Name)>) -> Self {
        self.locks = locks;
        self.names = names;
        self
    }

    /// The kernel keeps these pages locked until the answer.
    pub(crate) fn locking_pages(mut self, pages: Option<FileRange>) -> Self {
        self.pages = pages;
        self
    }

    pub(crate) fn locks(&self) -> &[Ino] {
        &self.locks
    }

    pub(crate) const fn pages(&self) -> Option<FileRange> {
        self.pages
    }

    /// Tickets that must be done before its answer are still running.
    pub(crate) fn waits_for_tickets(&mut self, is_running: impl Fn(u64) -> bool) -> bool {
        self.tickets.retain(|ticket| is_running(*ticket));
        !self.tickets.is_empty()
    }

    /// The answer is known, and must wait.
    pub(crate) fn withhold(&mut self, verdict: Result<Response, Errno>) {
        self.verdict = Some(verdict);
    }

    /// The answer is known.
    pub(crate) const fn is_decided(&self) -> bool {
        self.verdict.is_some()
    }
}
