//! What was done and what was seen, with times.

use std::{io, time::Instant};

use nix::libc::ENOENT;

/// Nanoseconds of CLOCK_MONOTONIC since the run began.
pub(crate) type Moment = u64;

/// Something that has one value at any time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Thing {
    /// The inode that a name means, `ABSENT` where it means none.
    Name(usize),
    /// Size in bytes of an inode.
    Size(u64),
    /// What a block of an inode is filled with.
    Block(u64, usize),
}

/// What a name means that does not exist.
pub(crate) const ABSENT: u64 = 0;

/// A system call that gives a thing a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) thing: Thing,
    pub(crate) value: u64,
    pub(crate) mount: usize,
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
}

/// The cache of the kernel that a reading comes from, if it comes from one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Way {
    Names,
    Listing,
    Attributes,
    Pages,
}

/// What a system call saw of a thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reading {
    pub(crate) thing: Thing,
    pub(crate) value: u64,
    pub(crate) way: Way,
    pub(crate) mount: usize,
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
}

/// The ctime that stat showed of an inode, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub(crate) ino: u64,
    pub(crate) ctime: i128,
    pub(crate) mount: usize,
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
}

/// What one thread did and saw.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) changes: Vec<Change>,
    pub(crate) readings: Vec<Reading>,
    pub(crate) stamps: Vec<Stamp>,
    /// System calls that the readings come from.
    pub(crate) reads: u64,
}

impl History {
    pub(crate) fn append(&mut self, mut other: Self) {
        self.changes.append(&mut other.changes);
        self.readings.append(&mut other.readings);
        self.stamps.append(&mut other.stamps);
        self.reads += other.reads;
    }
}

/// The pen of one thread.
pub(crate) struct Recorder {
    pub(crate) history: History,
    mount: usize,
    start: Instant,
}

/// When a call began and when it ended.
pub(crate) type Span = (Moment, Moment);

impl Recorder {
    pub(crate) fn new(mount: usize, start: Instant) -> Self {
        Self { history: History::default(), mount, start }
    }

    /// The call's result, and its times.
    pub(crate) fn timed<T>(&self, call: impl FnOnce() -> T) -> (T, Span) {
        let began = self.now();
        let result = call();
        (result, (began, self.now()))
    }

    pub(crate) fn changed(&mut self, thing: Thing, value: u64, (began, ended): Span) {
        self.history.changes.push(Change { thing, value, mount: self.mount, began, ended });
    }

    pub(crate) fn saw(&mut self, thing: Thing, value: u64, way: Way, (began, ended): Span) {
        self.history.readings.push(Reading { thing, value, way, mount: self.mount, began, ended });
    }

    /// Such an error says that the name means nothing.
    pub(crate) fn is_absent(&mut self, name: usize, error: &io::Error, span: Span) {
        assert_eq!(error.raw_os_error(), Some(ENOENT), "name{name}: {error}");
        self.saw(Thing::Name(name), ABSENT, Way::Names, span);
    }

    pub(crate) fn stamped(&mut self, ino: u64, ctime: i128, (began, ended): Span) {
        self.history.stamps.push(Stamp { ino, ctime, mount: self.mount, began, ended });
    }

    fn now(&self) -> Moment {
        u64::try_from(self.start.elapsed().as_nanos()).expect("no run lasts centuries")
    }
}
