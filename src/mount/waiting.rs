//! Requests of the kernel that have no answer yet: what each waits for, what is needed to answer it, and which of the
//! kernel's locks it holds until then.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Caller, OpenFlags, Request, Response, WriteFlags, files::JobId};
use crate::types::{Attributes, Errno, Ino, Instant, LockClaim, LogIndex, Name, Sequence};

/// What a request waits for, and what is needed to answer it then.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Blocks that are on their way.
    Read {
        ino: Ino,
        offset: u64,
        length: u32,
    },
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
        ino: Ino,
        claim: LockClaim,
        waits: bool,
        is_queued: bool,
    },
    /// FLUSH, FSYNC, or a write that is durable before it returns: `response` once these jobs are complete. `through`: the
    /// open file that is told if bytes are lost.
    Flush {
        jobs: BTreeSet<JobId>,
        through: Option<(Ino, u64)>,
        response: Response,
    },
    /// A WRITE on its way into the dirty bytes.
    Write {
        ino: Ino,
        fh: u64,
        offset: u64,
        data: Bytes,
        flags: WriteFlags,
    },
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
pub(crate) struct Waiting {
    pub(crate) caller: Caller,
    /// `late` is answered then.
    pub(crate) deadline: Instant,
    pub(crate) late: Errno,
    pub(crate) kind: Kind,
    /// The call that carries it, once it is submitted; or the job that will submit it.
    pub(crate) sequence: Option<Sequence>,
    pub(crate) job: Option<JobId>,
    /// Its entry has been applied.
    pub(crate) is_applied: bool,
    /// Directories whose lock the kernel holds until the answer (docs/protocol.md R22-collisions).
    pub(crate) locks: Vec<Ino>,
    /// Names that it changes.
    pub(crate) names: Vec<(Ino, Name)>,
    pub(crate) is_rename: bool,
    /// Pages that the kernel keeps locked until the answer: inode, begin and end.
    pub(crate) pages: Option<(Ino, u64, u64)>,
    /// Bytes that a WRITE puts into a file: inode, begin and end.
    pub(crate) written: Option<(Ino, u64, u64)>,
    /// A foreign change of one of its names was applied meanwhile: the kernel will believe something that is not so.
    pub(crate) collided: bool,
    /// Foreign entries that are acknowledged only when its names were invalidated after its answer (R23-renames).
    pub(crate) held: Vec<LogIndex>,
    /// Tickets that must be done before its answer.
    pub(crate) tickets: BTreeSet<u64>,
    /// Files that lose a name by it: its answer makes the kernel drop attributes of them that are on their way.
    pub(crate) unnamed: Vec<Ino>,
    /// The answer, while tickets, or what is on its way, hold it back.
    pub(crate) verdict: Option<Result<Response, Errno>>,
}

impl Waiting {
    pub(crate) const fn new(caller: Caller, deadline: Instant, kind: Kind) -> Self {
        Self {
            caller,
            deadline,
            late: Errno::EIO,
            kind,
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
}

/// All requests without an answer, by their unique number.
#[derive(Debug, Default)]
pub(crate) struct WaitingTable {
    requests: BTreeMap<u64, Waiting>,
    /// Who holds which directory's lock.
    locks: BTreeMap<Ino, BTreeSet<u64>>,
    /// Who keeps pages of which inode locked.
    pages: BTreeMap<Ino, BTreeSet<u64>>,
}

impl WaitingTable {
    pub(crate) fn insert(&mut self, unique: u64, waiting: Waiting) {
        for ino in &waiting.locks {
            self.locks.entry(*ino).or_default().insert(unique);
        }
        if let Some((ino, ..)) = waiting.pages {
            self.pages.entry(ino).or_default().insert(unique);
        }
        self.requests.insert(unique, waiting);
    }

    pub(crate) fn remove(&mut self, unique: u64) -> Option<Waiting> {
        let waiting = self.requests.remove(&unique)?;
        for ino in &waiting.locks {
            drop_from(&mut self.locks, *ino, unique);
        }
        if let Some((ino, ..)) = waiting.pages {
            drop_from(&mut self.pages, ino, unique);
        }
        Some(waiting)
    }

    pub(crate) fn get(&self, unique: u64) -> Option<&Waiting> {
        self.requests.get(&unique)
    }

    pub(crate) fn get_mut(&mut self, unique: u64) -> Option<&mut Waiting> {
        self.requests.get_mut(&unique)
    }

    /// Requests for which the kernel holds this directory's lock.
    pub(crate) fn lockers(&self, directory: Ino) -> Vec<u64> {
        self.locks.get(&directory).map(|uniques| uniques.iter().copied().collect()).unwrap_or_default()
    }

    pub(crate) fn is_locked(&self, directory: Ino) -> bool {
        self.locks.contains_key(&directory)
    }

    /// Ranges of the inode's pages that the kernel keeps locked, in order.
    pub(crate) fn locked_pages(&self, ino: Ino) -> Vec<(u64, u64)> {
        let uniques = self.pages.get(&ino).into_iter().flatten();
        let mut ranges: Vec<(u64, u64)> =
            uniques.filter_map(|unique| self.requests.get(unique)?.pages).map(|(_, begin, end)| (begin, end)).collect();
        ranges.sort_unstable();
        ranges
    }

    /// READs that wait for blocks, in the order of their numbers.
    pub(crate) fn reads(&self) -> impl Iterator<Item = (u64, Ino)> + '_ {
        self.requests.iter().filter_map(|(unique, waiting)| match waiting.kind {
            Kind::Read { ino, .. } => Some((*unique, ino)),
            _ => None,
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Waiting)> + '_ {
        self.requests.iter().map(|(unique, waiting)| (*unique, waiting))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

fn drop_from(table: &mut BTreeMap<Ino, BTreeSet<u64>>, ino: Ino, unique: u64) {
    if let Some(uniques) = table.get_mut(&ino) {
        uniques.remove(&unique);
        if uniques.is_empty() {
            table.remove(&ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_stand_from_arrival_to_answer() {
        let mut table = WaitingTable::default();
        let waiting =
            || Waiting::new(Caller::default(), Instant(0), Kind::Plain).locking(vec![Ino(1), Ino(2)], Vec::new());
        table.insert(7, waiting());
        table.insert(8, waiting());
        assert_eq!(table.lockers(Ino(2)), [7, 8]);
        table.remove(7);
        assert_eq!(table.lockers(Ino(2)), [8]);
        table.remove(8);
        assert!(!table.is_locked(Ino(1)) && !table.is_locked(Ino(2)) && table.is_empty());
    }
}
