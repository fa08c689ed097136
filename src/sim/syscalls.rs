//! System calls of a process, as the kernel carries them out.
//!
//! Each call is straight-line code that is run again from its beginning whenever something it waits for has come: what
//! it learned so far stands in its journal, so that the steps before are not taken twice.

mod counting;
mod listing;
mod mapping;
mod reading;
mod reserving;
mod stripes;
mod tail;

use std::time::Duration;

use bytes::Bytes;

pub(super) use self::{
    counting::{Guard, number_in},
    mapping::MAPPED_BYTES,
    reserving::Reservation,
    stripes::Round,
};
use super::kernel::{Cached, Context, Hold, Kernel, Owner, PAGE};
use crate::{
    mount::{OpenFlags, OpenedAs, Request, Response, WriteFlags},
    namespace::{NewNode, RenameMode},
    types::{AttributeChanges, Attributes, Errno, Ino, Instant, LockClaim, Name},
};

/// Where a name stands: a directory below the root, and a name in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Path {
    pub(super) directory: Name,
    pub(super) name: Name,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Call {
    /// mkdir of a directory below the root.
    Mkdir {
        directory: Name,
    },
    Stat {
        path: Path,
    },
    /// open, read all, close.
    Read {
        path: Path,
    },
    /// open(O_CREAT | O_EXCL), write, close.
    Create {
        path: Path,
        data: Bytes,
    },
    /// open, pwrite, close.
    Overwrite {
        path: Path,
        offset: u64,
        data: Bytes,
    },
    /// open(O_CREAT | O_APPEND), write, close.
    Append {
        path: Path,
        data: Bytes,
    },
    /// open(O_PATH), wait, fstat, open by /proc/self/fd, close both.
    Pin {
        path: Path,
        pause: Duration,
    },
    /// open, and by a mapping look at what is there up to its end behind each of these pauses, close.
    Tail {
        path: Path,
        pauses: Vec<Duration>,
    },
    /// open, fallocate, write into what was reserved, give it back or not, close.
    Reserve {
        path: Path,
        reservation: Reservation,
    },
    Truncate {
        path: Path,
        size: u64,
    },
    Chmod {
        path: Path,
        mode: u16,
    },
    /// stat of the directory, `Create`, and utimes that gives the directory its mtime again, as programs do that copy trees.
    Rewind {
        path: Path,
        data: Bytes,
    },
    Unlink {
        path: Path,
    },
    Rename {
        from: Path,
        to: Path,
        mode: RenameMode,
    },
    List {
        directory: Name,
    },
    /// open(O_CREAT), lock, read a number, write the next one, unlock or not, close.
    Count {
        path: Path,
        guard: Guard,
    },
    /// open(O_CREAT), write to a shared mapping, wait, munmap, close.
    Map {
        path: Path,
        offset: u64,
        data: Bytes,
        pause: Duration,
    },
    /// open(O_CREAT), write a part that is nobody else's and read it back, again and again, close.
    Stripe {
        path: Path,
        /// Which part.
        stripe: u64,
        rounds: Vec<Round>,
    },
}

/// What a process saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Sight {
    Name {
        parent: Ino,
        name: Name,
        ino: Option<Ino>,
    },
    Attributes(Attributes),
    /// By which the kernel lets a process in: what it believes once it has asked, and not what it was answered.
    Mode {
        ino: Ino,
        mode: u16,
    },
    Content {
        ino: Ino,
        bytes: Bytes,
    },
    /// How long the kernel believes the file to be at that time, by its mount's clock, and what a mapping shows of it.
    Mapped {
        at: Instant,
        attributes: Attributes,
        bytes: Bytes,
    },
    Listing {
        directory: Ino,
        entries: Vec<(Bytes, Ino)>,
    },
}

/// Something has to happen first.
#[derive(Debug)]
pub(super) struct Blocked;

type Flow<T> = Result<T, Blocked>;
/// A call's own outcome within the flow.
type Answer<T> = Flow<Result<T, Errno>>;

#[derive(Clone, Debug)]
enum Note {
    Answer(Result<Response, Errno>),
    Cached(Cached),
    Attributes(Option<Attributes>),
    Pages(Option<Bytes>),
    Listing(Option<Vec<(Bytes, Ino)>>),
    Number(u64),
    Locked(Vec<u64>),
    Done,
}

/// A call on its way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) call: Call,
    journal: Vec<Note>,
    /// The step of the journal that a sent request is to fill.
    awaited: Option<usize>,
    /// Locks of directories that are held.
    held: Vec<Ino>,
    pub(super) sights: Vec<Sight>,
    /// An inode that is open for writing: what this mount shows of it may be ahead of the log.
    pub(super) writes: Option<Ino>,
    /// It read something else than it had just written: where, and what.
    pub(super) misread: Option<(Ino, u64, Bytes)>,
    /// A write() that has returned: where, and what.
    pub(super) wrote: Option<(Ino, u64, Bytes)>,
    has_told: bool,
    pub(super) has_opened: bool,
    /// It does nothing until then.
    pub(super) sleeps_until: Option<Instant>,
    /// The request that is not answered yet.
    pub(super) unique: Option<u64>,
    /// The process believes that it holds this lock.
    pub(super) lock: Option<(Ino, LockClaim)>,
    /// What it wrote under its lock.
    pub(super) counted: Option<u64>,
    pub(super) is_killed: bool,
    /// Whether it got the space that it asked for.
    pub(super) reserved: Option<bool>,
}

impl Running {
    pub(super) fn new(call: Call) -> Self {
        Self {
            call,
            journal: Vec::new(),
            awaited: None,
            held: Vec::new(),
            sights: Vec::new(),
            writes: None,
            misread: None,
            wrote: None,
            has_told: false,
            has_opened: false,
            sleeps_until: None,
            unique: None,
            lock: None,
            counted: None,
            is_killed: false,
            reserved: None,
        }
    }

    pub(super) fn answer(&mut self, result: Result<Response, Errno>) {
        self.unique = None;
        if self.awaited.take().is_some() {
            self.journal.push(Note::Answer(result));
        }
    }

    /// Goes as far as it can. Locks are given back at its end.
    pub(super) fn go_on(&mut self, process: usize, kernel: &mut Kernel) -> Answer<()> {
        if self.awaited.is_some() {
            return Err(Blocked);
        }
        let call = self.call.clone();
        self.sights.clear();
        (self.lock, self.counted, self.sleeps_until) = (None, None, None);
        let mut step = Step { at: 0, process, running: self, kernel };
        let outcome = step.run(&call)?;
        for directory in std::mem::take(&mut self.held) {
            kernel.unlock(Owner::Process(process), directory);
        }
        Ok(outcome)
    }
}

/// One run through a call's code.
struct Step<'a> {
    at: usize,
    process: usize,
    running: &'a mut Running,
    kernel: &'a mut Kernel,
}

/// `?` for a call's own errors within `Answer`.
macro_rules! try_call {
    ($outcome:expr) => {
        match $outcome? {
            Ok(value) => value,
            Err(errno) => return Ok(Err(errno)),
        }
    };
}
use try_call;

impl Step<'_> {
    fn run(&mut self, call: &Call) -> Answer<()> {
        match call {
            Call::Mkdir { directory } => self.mkdir(directory),
            Call::Stat { path } => self.stat(path),
            Call::Read { path } => self.read(path),
            Call::Create { path, data } => self.create(path, data),
            Call::Rewind { path, data } => self.rewind(path, data),
            Call::Overwrite { path, offset, data } => self.overwrite(path, *offset, data),
            Call::Append { path, data } => self.append(path, data),
            Call::Pin { path, pause } => self.pin(path, *pause),
            Call::Tail { path, pauses } => self.tail(path, pauses),
            Call::Reserve { path, reservation } => self.reserve(path, reservation),
            Call::Truncate { path, size } => {
                let changes = AttributeChanges { size: Some(*size), ..AttributeChanges::default() };
                self.setattr(path, changes)
            }
            Call::Chmod { path, mode } => {
                let changes = AttributeChanges { mode: Some(*mode), ..AttributeChanges::default() };
                self.setattr(path, changes)
            }
            Call::Unlink { path } => self.unlink(path),
            Call::Rename { from, to, mode } => self.rename(from, to, *mode),
            Call::List { directory } => self.list(directory),
            Call::Count { path, guard } => self.count(path, guard),
            Call::Map { path, offset, data, pause } => self.map(path, (*offset, data), *pause),
            Call::Stripe { path, stripe, rounds } => self.stripe(path, *stripe, rounds),
        }
    }

    /// Takes the step now, unless the journal has it.
    fn note(&mut self, take: impl FnOnce(&mut Kernel) -> Option<Note>) -> Flow<Note> {
        let at = self.at;
        self.at += 1;
        if let Some(note) = self.running.journal.get(at) {
            return Ok(note.clone());
        }
        let note = take(self.kernel).ok_or(Blocked)?;
        self.running.journal.push(note.clone());
        Ok(note)
    }

    fn request(&mut self, make: impl FnOnce(&mut Kernel) -> (Request, Context)) -> Answer<Response> {
        let at = self.at;
        self.at += 1;
        if let Some(note) = self.running.journal.get(at) {
            let Note::Answer(result) = note else { return Ok(Err(Errno::EIO)) };
            return Ok(result.clone());
        }
        let (request, context) = make(self.kernel);
        self.running.unique = Some(self.kernel.send(self.process, request, context));
        self.running.awaited = Some(at);
        Err(Blocked)
    }

    fn lock(&mut self, directory: Ino, hold: Hold) -> Flow<()> {
        let owner = Owner::Process(self.process);
        self.note(|kernel| kernel.lock(owner, directory, hold).then_some(Note::Done))?;
        if !self.running.held.contains(&directory) {
            self.running.held.push(directory);
        }
        Ok(())
    }

    fn unlock(&mut self, directory: Ino) -> Flow<()> {
        let owner = Owner::Process(self.process);
        self.note(|kernel| {
            kernel.unlock(owner, directory);
            Some(Note::Done)
        })?;
        self.running.held.retain(|held| *held != directory);
        Ok(())
    }

    /// Where a name leads. `is_locked`: this call holds the directory's lock already.
    fn look_up(&mut self, parent: Ino, name: &Name, is_locked: bool, asks_anew: bool) -> Answer<Option<Ino>> {
        let cached = self.note(|kernel| Some(Note::Cached(kernel.cached(parent, name))))?;
        let Note::Cached(mut cached) = cached else { return Ok(Err(Errno::EIO)) };
        if asks_anew {
            cached = Cached::Unknown;
        }
        if let Cached::Known(ino) = cached {
            return Ok(Ok(ino));
        }
        if let Cached::Expired { identity, ino } = cached {
            let answer = self.request(|kernel| lookup(kernel, parent, name, Some(identity)))?;
            if matches!(answer, Ok(Response::Entry { attributes, .. }) if attributes.ino == ino) {
                return Ok(Ok(Some(ino)));
            }
        }
        if !is_locked {
            self.lock(parent, Hold::Shared)?;
        }
        let answer = self.request(|kernel| lookup(kernel, parent, name, None))?;
        if !is_locked {
            self.unlock(parent)?;
        }
        Ok(match answer {
            Ok(Response::Entry { attributes, .. }) => Ok(Some(attributes.ino)),
            Ok(Response::Missing { .. }) | Err(Errno::ENOENT) => Ok(None),
            Ok(_) => Err(Errno::EIO),
            Err(errno) => Err(errno),
        })
    }

    fn directory(&mut self, name: &Name) -> Answer<Ino> {
        let found = try_call!(self.look_up(Ino::ROOT, name, false, false));
        Ok(found.ok_or(Errno::ENOENT))
    }

    fn see_name(&mut self, parent: Ino, name: &Name, ino: Option<Ino>) {
        self.running.sights.push(Sight::Name { parent, name: name.clone(), ino });
    }

    fn attributes(&mut self, ino: Ino) -> Answer<Attributes> {
        self.attributes_for(ino, false)
    }

    /// `for_read`: the call is to read, and shows nothing of them.
    fn attributes_for(&mut self, ino: Ino, for_read: bool) -> Answer<Attributes> {
        let fresh = self.note(|kernel| Some(Note::Attributes(kernel.fresh_attributes(ino))))?;
        if let Note::Attributes(Some(attributes)) = fresh {
            return Ok(Ok(attributes));
        }
        let answer = self.request(|kernel| {
            (Request::Getattr { ino, for_read }, Context::Getattr { ino, version: kernel.version() })
        })?;
        Ok(answer.and_then(|response| match response {
            Response::Attributes { attributes, .. } => Ok(attributes),
            _ => Err(Errno::EIO),
        }))
    }

    /// The directory that the path names, and what the path leads to, which must be there.
    fn find(&mut self, path: &Path) -> Answer<(Ino, Ino)> {
        let parent = try_call!(self.directory(&path.directory));
        let found = try_call!(self.look_up(parent, &path.name, false, false));
        let Some(ino) = found else {
            self.see_name(parent, &path.name, None);
            return Ok(Err(Errno::ENOENT));
        };
        Ok(Ok((parent, ino)))
    }

    fn stat(&mut self, path: &Path) -> Answer<()> {
        let (parent, ino) = try_call!(self.find(path));
        let attributes = try_call!(self.attributes(ino));
        self.see_name(parent, &path.name, Some(ino));
        self.running.sights.push(Sight::Attributes(attributes));
        let believed = self.note(|kernel| Some(Note::Attributes(kernel.believed_attributes(ino))))?;
        if let Note::Attributes(Some(Attributes { mode, .. })) = believed {
            self.running.sights.push(Sight::Mode { ino, mode });
        }
        Ok(Ok(()))
    }

    /// A descriptor that the mount is not told of.
    fn pin(&mut self, path: &Path, pause: Duration) -> Answer<()> {
        let (_, ino) = try_call!(self.find(path));
        self.opened(ino, false)?;
        self.sleep(pause)?;
        let used = self.use_pinned(ino)?;
        self.closed(ino)?;
        Ok(used)
    }

    fn use_pinned(&mut self, ino: Ino) -> Answer<()> {
        // What is held is there, whatever became of its name.
        try_call!(Ok(self.attributes(ino)?.map_err(|errno| if errno == Errno::ENOENT {
            Errno::ESTALE
        } else {
            errno
        })));
        let opened = try_call!(self.open_inode(ino, OpenFlags::default()));
        self.close(ino, opened)
    }

    /// Opens what the path leads to; ESTALE makes the kernel walk once more, asking for every name.
    fn open(&mut self, path: &Path, flags: OpenFlags) -> Answer<(Ino, OpenedAs)> {
        let parent = try_call!(self.directory(&path.directory));
        for asks_anew in [false, true] {
            let found = try_call!(self.look_up(parent, &path.name, false, asks_anew));
            let Some(ino) = found else {
                self.see_name(parent, &path.name, None);
                return Ok(Err(Errno::ENOENT));
            };
            match self.open_inode(ino, flags)? {
                Err(Errno::ESTALE) if !asks_anew => {}
                Err(errno) => return Ok(Err(errno)),
                Ok(opened) => {
                    self.see_name(parent, &path.name, Some(ino));
                    return Ok(Ok((ino, opened)));
                }
            }
        }
        Ok(Err(Errno::ESTALE))
    }

    fn open_inode(&mut self, ino: Ino, flags: OpenFlags) -> Answer<OpenedAs> {
        let answer = self.request(|_| (Request::Open { ino, flags }, Context::Open { ino }))?;
        match answer {
            Ok(Response::Opened(opened)) => {
                self.opened(ino, flags.write)?;
                Ok(Ok(opened))
            }
            Ok(_) => Ok(Err(Errno::EIO)),
            Err(errno) => Ok(Err(errno)),
        }
    }

    fn opened(&mut self, ino: Ino, writes: bool) -> Flow<()> {
        self.note(|kernel| {
            kernel.inode(ino).opens += 1;
            Some(Note::Done)
        })?;
        self.running.has_opened = true;
        if writes {
            self.running.writes = Some(ino);
        }
        Ok(())
    }

    /// FLUSH, whose error is close()'s, and RELEASE behind it.
    fn close(&mut self, ino: Ino, opened: OpenedAs) -> Answer<()> {
        let fh = opened.fh;
        let flushed = if opened.no_flush {
            Ok(Response::Done)
        } else {
            let owner = counting::owner_of(self.process);
            self.request(|_| (Request::Flush { ino, fh, owner }, Context::Plain))?
        };
        self.closed(ino)?;
        let _ = self.request(|_| (Request::Release { ino, fh }, Context::Plain))?;
        Ok(flushed.map(|_| ()))
    }

    fn closed(&mut self, ino: Ino) -> Flow<()> {
        self.note(|kernel| {
            let inode = kernel.inode(ino);
            inode.opens = inode.opens.saturating_sub(1);
            Some(Note::Done)
        })?;
        Ok(())
    }

    fn mkdir(&mut self, directory: &Name) -> Answer<()> {
        self.lock(Ino::ROOT, Hold::Exclusive)?;
        let found = try_call!(self.look_up(Ino::ROOT, directory, true, false));
        if found.is_some() {
            return Ok(Err(Errno::EEXIST));
        }
        let name = directory.clone();
        let answer = self.request(|kernel| {
            let request = Request::Make {
                parent: Ino::ROOT,
                name: name.clone(),
                node: NewNode::Directory,
                mode: 0o755,
                umask: 0,
            };
            (request, Context::New { parent: Ino::ROOT, name, epoch: kernel.epoch })
        })?;
        Ok(answer.map(|_| ()))
    }

    /// open with O_CREAT: the file that is there, or a new one, made under the directory's lock.
    fn open_or_create(&mut self, path: &Path, flags: OpenFlags) -> Answer<(Ino, OpenedAs)> {
        let parent = try_call!(self.directory(&path.directory));
        self.lock(parent, Hold::Exclusive)?;
        let found = try_call!(self.look_up(parent, &path.name, true, false));
        if let Some(ino) = found {
            if flags.exclusive {
                self.see_name(parent, &path.name, Some(ino));
                return Ok(Err(Errno::EEXIST));
            }
            self.unlock(parent)?;
            return match self.open_inode(ino, flags)? {
                Err(Errno::ESTALE) => self.open(path, flags),
                opened => Ok(opened.map(|opened| (ino, opened))),
            };
        }
        let name = path.name.clone();
        let answer = self.request(|kernel| {
            let request = Request::Create { parent, name: name.clone(), mode: 0o644, umask: 0, flags };
            (request, Context::New { parent, name, epoch: kernel.epoch })
        })?;
        self.unlock(parent)?;
        match answer {
            Ok(Response::Created { attributes, opened, .. }) => {
                self.opened(attributes.ino, true)?;
                Ok(Ok((attributes.ino, opened)))
            }
            Ok(_) => Ok(Err(Errno::EIO)),
            Err(Errno::ESTALE) => self.open(path, flags),
            Err(errno) => Ok(Err(errno)),
        }
    }

    fn create(&mut self, path: &Path, data: &Bytes) -> Answer<()> {
        let flags = OpenFlags { write: true, exclusive: true, ..OpenFlags::default() };
        let (ino, opened) = try_call!(self.open_or_create(path, flags));
        self.write_and_close(ino, opened, 0, data, false)
    }

    fn overwrite(&mut self, path: &Path, offset: u64, data: &Bytes) -> Answer<()> {
        let (ino, opened) = try_call!(self.open(path, OpenFlags { write: true, ..OpenFlags::default() }));
        self.write_and_close(ino, opened, offset, data, false)
    }

    fn append(&mut self, path: &Path, data: &Bytes) -> Answer<()> {
        let flags = OpenFlags { write: true, append: true, ..OpenFlags::default() };
        let (ino, opened) = try_call!(self.open_or_create(path, flags));
        let end = self.note(|kernel| Some(Note::Number(kernel.known_size(ino))))?;
        let Note::Number(end) = end else { return Ok(Err(Errno::EIO)) };
        self.write_and_close(ino, opened, end, data, true)
    }

    fn write_and_close(&mut self, ino: Ino, opened: OpenedAs, offset: u64, data: &Bytes, append: bool) -> Answer<()> {
        let written = self.write(ino, opened, offset, data, append)?;
        if written.is_ok() {
            // Where an append lands only apply knows.
            // Told once: when this is run again, others may have written over it.
            if !append && !std::mem::replace(&mut self.running.has_told, true) {
                self.running.wrote = Some((ino, offset, data.clone()));
            }
            self.linger(data.len())?;
        }
        let closed = self.close(ino, opened)?;
        self.running.writes = None;
        Ok(written.and(closed))
    }

    /// Some processes take their time between write() and close().
    fn linger(&mut self, length: usize) -> Flow<()> {
        let micros = if length.is_multiple_of(3) { (length as u64 % 40) * 1000 } else { 0 };
        let until = self.note(|kernel| Some(Note::Number(kernel.now.0 + micros * 1000)))?;
        match until {
            Note::Number(until) if self.kernel.now.0 < until => {
                self.running.sleeps_until = Some(Instant(until));
                Err(Blocked)
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, ino: Ino, opened: OpenedAs, offset: u64, data: &Bytes, append: bool) -> Answer<()> {
        self.write_slowly(ino, opened, (offset, data), append, Duration::ZERO)
    }

    /// `pause`: how long the process is not let run once it has copied its bytes.
    fn write_slowly(
        &mut self,
        ino: Ino,
        opened: OpenedAs,
        (offset, data): (u64, &Bytes),
        append: bool,
        pause: Duration,
    ) -> Answer<()> {
        let (fh, is_direct, length) = (opened.fh, opened.direct_io, data.len() as u64);
        self.lock(ino, Hold::Exclusive)?;
        let copied = self.note(|kernel| kernel.copy(ino, offset, data, is_direct).map(Note::Locked))?;
        let Note::Locked(locked) = copied else { return Ok(Err(Errno::EIO)) };
        if pause > Duration::ZERO {
            self.sleep(pause)?;
        }
        let answer = self.request(|_| {
            let flags = WriteFlags { append, ..WriteFlags::default() };
            let request = Request::Write { ino, fh, offset, data: data.clone(), flags };
            (request, Context::Write { ino, offset, length, is_direct, locked })
        })?;
        self.unlock(ino)?;
        Ok(match answer {
            Ok(Response::Written { length }) if length as usize == data.len() => Ok(()),
            Ok(_) => Err(Errno::EIO),
            Err(errno) => Err(errno),
        })
    }

    fn setattr(&mut self, path: &Path, changes: AttributeChanges) -> Answer<()> {
        let (_, ino) = try_call!(self.find(path));
        self.lock(ino, Hold::Exclusive)?;
        let answer = self.request(|_| (Request::Setattr { ino, changes }, Context::Setattr { ino }))?;
        Ok(answer.map(|_| ()))
    }

    fn unlink(&mut self, path: &Path) -> Answer<()> {
        let parent = try_call!(self.directory(&path.directory));
        self.lock(parent, Hold::Exclusive)?;
        let found = try_call!(self.look_up(parent, &path.name, true, false));
        let Some(victim) = found else {
            self.see_name(parent, &path.name, None);
            return Ok(Err(Errno::ENOENT));
        };
        self.lock(victim, Hold::Exclusive)?;
        let name = path.name.clone();
        let answer =
            self.request(|_| (Request::Unlink { parent, name: name.clone() }, Context::Remove { parent, name }))?;
        Ok(answer.map(|_| ()))
    }

    fn rename(&mut self, from: &Path, to: &Path, mode: RenameMode) -> Answer<()> {
        let from_parent = try_call!(self.directory(&from.directory));
        let to_parent = try_call!(self.directory(&to.directory));
        for parent in [from_parent.min(to_parent), from_parent.max(to_parent)] {
            self.lock(parent, Hold::Exclusive)?;
        }
        let source = try_call!(self.look_up(from_parent, &from.name, true, false));
        let target = try_call!(self.look_up(to_parent, &to.name, true, false));
        let refusal = match (source, target, mode) {
            (None, _, _) | (_, None, RenameMode::Exchange) => Some(Errno::ENOENT),
            (_, Some(_), RenameMode::NoReplace) => Some(Errno::EEXIST),
            // Two names of one file: nothing to do.
            (Some(source), Some(target), _) if source == target => None,
            _ => {
                // vfs_rename: both files, in the order of their addresses.
                let files = [source.min(target), source.max(target)];
                for file in files.into_iter().flatten() {
                    self.lock(file, Hold::Exclusive)?;
                }
                let answer = self.request(|_| {
                    let request = Request::Rename {
                        from: from_parent,
                        from_name: from.name.clone(),
                        to: to_parent,
                        to_name: to.name.clone(),
                        mode,
                    };
                    let context = Context::Rename {
                        from: (from_parent, from.name.clone()),
                        to: (to_parent, to.name.clone()),
                        exchange: mode == RenameMode::Exchange,
                    };
                    (request, context)
                })?;
                return Ok(answer.map(|_| ()));
            }
        };
        if source.is_none() {
            self.see_name(from_parent, &from.name, None);
        }
        Ok(refusal.map_or(Ok(()), Err))
    }
}

fn lookup(kernel: &Kernel, parent: Ino, name: &Name, revalidates: Option<u64>) -> (Request, Context) {
    let context =
        Context::Lookup { parent, name: name.clone(), epoch: kernel.epoch, version: kernel.version(), revalidates };
    (Request::Lookup { parent, name: name.clone() }, context)
}

fn data_of(answer: Result<Response, Errno>) -> Result<Bytes, Errno> {
    match answer? {
        Response::Data(parts) => Ok(parts.concat().into()),
        _ => Err(Errno::EIO),
    }
}
