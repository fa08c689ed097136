//! What must be true in a run. The entries that the first node applied are carried out once more, on a state of the
//! checker's own. What nodes, mounts and processes show is compared with that, and with nothing that they say
//! themselves.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{kernel::PAGE, stamps::Stamps, syscalls::Sight, world::DEVICE_BYTES};
use crate::{
    mount::Request,
    namespace::{Entry, Founding, Operation, Reply, State, Volume},
    types::{Attributes, BlockHash, Errno, FileKind, Ino, Instant, LogIndex, Name, Sequence, SessionId, Term},
};

/// The volume that every mount shows.
const VOLUME: &str = "main";

/// A thing whose value changes with the log.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Object {
    Name(Ino, Name),
    Attributes(Ino),
    Content(Ino),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    Ino(Option<Ino>),
    Attributes(Box<Attributes>),
    Content(Bytes),
    Gone,
}

/// When a change was complete: for all other mounts, and for the one it came from.
#[derive(Clone, Copy, Debug)]
struct Completion {
    at: Instant,
    by: usize,
    own: Option<Instant>,
}

/// The conditions under which something was seen.
#[derive(Clone, Debug)]
pub(super) struct Glance {
    pub(super) mount: usize,
    pub(super) session: Option<SessionId>,
    pub(super) start: Instant,
    pub(super) end: Instant,
    /// The mount had no lease at some time between: it may show what is old, though never something older than before.
    pub(super) without_lease: bool,
    /// All is quiet: only the newest is right.
    pub(super) is_final: bool,
    /// Directories that the mount was changing itself, or whose names it was still to invalidate because of that.
    pub(super) busy: BTreeSet<Ino>,
    /// Names that a rename of this mount named meanwhile. The rename moves what the kernel believed in
    /// (docs/protocol.md R23-renames). Until the invalidation that follows, while the directory is busy, such a name
    /// may lead where it does not in the log.
    pub(super) renamed: Vec<Name>,
    /// Such names that were still to be invalidated when the call began: it may have met them before.
    pub(super) unsettled: BTreeSet<(Ino, Name)>,
}

/// Bytes whose write() has returned, perhaps before any entry has them.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) mount: usize,
    pub(super) process: usize,
    pub(super) at: Instant,
    pub(super) ino: Ino,
    pub(super) offset: u64,
    pub(super) data: Bytes,
    /// The mount's session, and delegations that the mount had lost by then.
    pub(super) session: Option<SessionId>,
    pub(super) lost: u64,
    /// Something was written over them, or cut away, before anybody looked.
    pub(super) is_doubtful: bool,
}

impl Written {
    fn is_in(&self, content: &[u8]) -> bool {
        let from = usize::try_from(self.offset).unwrap_or(usize::MAX);
        content.get(from..from.saturating_add(self.data.len())) == Some(&self.data[..])
    }
}

/// A request to change the bytes of this range.
#[derive(Debug)]
struct Rewrite {
    /// The mount that was asked, and the request's number there.
    call: (usize, u64),
    /// It was carried out, or refused, by then.
    answered: Option<Instant>,
    ino: Ino,
    from: u64,
    to: u64,
    data: Bytes,
}

impl Rewrite {
    fn is_over(&self, at: Instant) -> bool {
        self.answered.is_some_and(|answered| answered < at)
    }

    fn overlaps(&self, written: &Written) -> bool {
        let end = written.offset + written.data.len() as u64;
        self.ino == written.ino && self.from < end && written.offset < self.to
    }
}

#[derive(Debug)]
pub(super) struct Oracle {
    state: State,
    next: LogIndex,
    stamps: Stamps,
    /// What stands in the log, by index; the same on all nodes.
    committed: BTreeMap<LogIndex, (Term, Bytes)>,
    digests: BTreeMap<LogIndex, u128>,
    volume_digests: BTreeMap<LogIndex, u128>,
    history: BTreeMap<Object, Vec<(LogIndex, Value)>>,
    data_versions: BTreeMap<Ino, u64>,
    blocks: BTreeMap<BlockHash, Bytes>,
    calls: BTreeMap<(SessionId, Sequence), (LogIndex, Result<Reply, Errno>)>,
    complete: BTreeMap<LogIndex, Completion>,
    /// Names in these directories were changed by entries that are complete while the mount was changing the directory
    /// itself, and could not make its kernel forget them yet (README.md "Not yet"; D3-one-directory).
    late: BTreeMap<(usize, Ino), BTreeSet<LogIndex>>,
    /// When such a mount had made up for it.
    made_up: BTreeMap<(usize, Ino, LogIndex), Instant>,
    /// By mount and object: up to which version it had certainly come, and when that was seen.
    progress: BTreeMap<(usize, Object), Vec<(Instant, LogIndex)>>,
    /// By object: the same of all mounts together.
    shown: BTreeMap<Object, Vec<(Instant, LogIndex)>>,
    written: Vec<Written>,
    /// Requests that change content: when they were made, of what and where, and what a write brings.
    rewrites: Vec<Rewrite>,
    /// The last entry that took locks and all from the session.
    holds_ended: BTreeMap<SessionId, LogIndex>,
    pub(super) checked: u64,
    /// How often a call saw something older than another mount had shown to a call that was over before.
    /// R19-either-state allows this while the change has not returned, linearizability does not.
    pub(super) behind: u64,
    pub(super) sessions_ended: u64,
}

impl Oracle {
    pub(super) fn new(founding: &Founding) -> Self {
        let state = State::found(founding);
        let mut oracle = Self {
            digests: BTreeMap::from([(LogIndex(1), state.digest())]),
            volume_digests: BTreeMap::new(),
            state,
            next: LogIndex(2),
            stamps: Stamps::new(founding.stamp, founding.nodes.len()),
            committed: BTreeMap::new(),
            history: BTreeMap::new(),
            data_versions: BTreeMap::new(),
            blocks: BTreeMap::new(),
            calls: BTreeMap::new(),
            complete: BTreeMap::new(),
            late: BTreeMap::new(),
            made_up: BTreeMap::new(),
            progress: BTreeMap::new(),
            shown: BTreeMap::new(),
            written: Vec::new(),
            rewrites: Vec::new(),
            holds_ended: BTreeMap::new(),
            checked: 0,
            behind: 0,
            sessions_ended: 0,
        };
        oracle.note_history(LogIndex(1), &[Ino::ROOT]);
        oracle
    }

    /// The next entry that no node had applied before.
    pub(super) fn next(&self) -> LogIndex {
        self.next
    }

    pub(super) fn term_of(&self, index: LogIndex) -> Option<Term> {
        self.committed.get(&index).map(|(term, _)| *term)
    }

    fn volume(&self) -> Option<&Volume> {
        self.state.volume_named(VOLUME)
    }

    /// A node has applied this entry: the first, which is carried out here, or one more, which must be the same.
    pub(super) fn committed(&mut self, now: Instant, index: LogIndex, term: Term, data: &Bytes) {
        if let Some(first) = self.committed.get(&index) {
            assert_eq!(*first, (term, data.clone()), "log agreement: two nodes applied different entries at {index}");
            return;
        }
        assert_eq!(index, self.next, "nodes apply in order, without gaps");
        self.next = index.next();
        self.committed.insert(index, (term, data.clone()));
        if !data.is_empty() {
            let entry = Entry::decode(data).expect("what was committed is an entry");
            self.stamps.check(now, index, entry.header.stamp);
            self.carry_out(index, &entry);
        }
        self.digests.insert(index, self.state.digest());
    }

    fn carry_out(&mut self, index: LogIndex, entry: &Entry) {
        let pieces = match &entry.command {
            crate::namespace::Command::Operation(Operation::Write { pieces, .. }) => Some(pieces),
            crate::namespace::Command::Operation(Operation::Flush(flush)) => Some(&flush.pieces),
            _ => None,
        };
        if let Some(pieces) = pieces {
            for piece in pieces {
                if let (Some(hash), Some(content)) = (piece.block, &piece.content) {
                    self.blocks.insert(hash, content.clone());
                }
            }
        }
        if let crate::namespace::Command::CloseSessions { sessions } = &entry.command {
            self.sessions_ended += sessions.len() as u64;
            self.holds_ended.extend(sessions.iter().map(|session| (*session, index)));
        }
        if let crate::namespace::Command::EndHolds { session } = entry.command {
            self.holds_ended.insert(session, index);
        }
        let applied = self.state.apply(index, entry);
        self.check_space(index);
        let header = &entry.header;
        let is_mine = self.volume().is_some_and(|volume| volume.id() == header.volume);
        if !is_mine {
            return;
        }
        if header.session != SessionId(0) {
            let call = (header.session, header.sequence);
            if applied.repeated {
                let first = self.calls.get(&call).map(|(_, outcome)| *outcome);
                assert_eq!(first, Some(applied.outcome), "exactly once: a repeated call has another outcome, {call:?}");
            } else {
                let before = self.calls.insert(call, (index, applied.outcome));
                // A session that ended has no reply table: then nothing was done the second time.
                assert!(
                    before.is_none() || applied.outcome.is_err(),
                    "exactly once: {call:?} was carried out at {before:?} and again at {index}"
                );
            }
        }
        let touched: Vec<Ino> = applied
            .effects
            .changes
            .iter()
            .flat_map(|change| {
                use crate::namespace::Change;
                match change {
                    Change::Name { parent, before, now, .. } => vec![Some(*parent), *before, *now],
                    Change::Attributes { ino }
                    | Change::Rewound { ino }
                    | Change::Content { ino, .. }
                    | Change::Orphaned { ino }
                    | Change::Freed { ino }
                    | Change::Delegated { ino, .. } => vec![Some(*ino)],
                    Change::LockGranted { .. } | Change::LocksLost { .. } => Vec::new(),
                }
            })
            .flatten()
            .collect();
        self.note_history(index, &touched);
        if let Some(volume) = self.volume() {
            let (applied, digest) = (volume.applied(), volume.digest());
            self.volume_digests.insert(applied, digest);
        }
    }

    /// What is reserved is there when it is written, on every device.
    fn check_space(&mut self, index: LogIndex) {
        let (reserved, content) = (self.state.reserved_bytes(), self.state.content_bytes());
        let is_there = reserved == 0 || reserved + content <= DEVICE_BYTES;
        assert!(is_there, "space: entry {index} leaves {reserved} bytes reserved beside {content}, of {DEVICE_BYTES}");
    }

    /// Notes what has another value than before: of everything known, not only of what the entry says it changed.
    fn note_history(&mut self, index: LogIndex, touched: &[Ino]) {
        let Some(volume) = self.volume().cloned() else { return };
        let mut inodes: Vec<Ino> = self
            .history
            .iter()
            .filter_map(|(object, versions)| match object {
                Object::Attributes(ino) if versions.last().is_some_and(|(_, value)| *value != Value::Gone) => {
                    Some(*ino)
                }
                _ => None,
            })
            .chain(touched.iter().copied())
            .collect();
        inodes.sort_unstable();
        inodes.dedup();
        for ino in inodes {
            let Some(attributes) = volume.attributes(ino) else {
                if self.history.contains_key(&Object::Attributes(ino)) {
                    self.note(index, Object::Attributes(ino), Value::Gone);
                }
                continue;
            };
            self.note(index, Object::Attributes(ino), Value::Attributes(Box::new(attributes)));
            match attributes.kind {
                FileKind::Directory => self.note_directory(index, &volume, ino),
                FileKind::File => self.note_content(index, &volume, ino, attributes.size),
                _ => {}
            }
        }
    }

    fn note_directory(&mut self, index: LogIndex, volume: &Volume, directory: Ino) {
        let listing: Vec<(Name, Ino)> =
            volume.entries_after(directory, 0).map(|(_, name, ino, _)| (name.clone(), ino)).collect();
        let gone: Vec<Object> = self
            .history
            .range(Object::Name(directory, least_name())..)
            .take_while(|(object, _)| matches!(object, Object::Name(parent, _) if *parent == directory))
            .filter(|(object, _)| {
                matches!(object, Object::Name(_, name) if listing.iter().all(|(listed, _)| listed != name))
            })
            .map(|(object, _)| object.clone())
            .collect();
        for object in gone {
            self.note(index, object, Value::Ino(None));
        }
        for (name, ino) in listing {
            let object = Object::Name(directory, name);
            if !self.history.contains_key(&object) {
                self.history.insert(object.clone(), vec![(LogIndex(0), Value::Ino(None))]);
            }
            self.note(index, object, Value::Ino(Some(ino)));
        }
    }

    fn note_content(&mut self, index: LogIndex, volume: &Volume, ino: Ino, size: u64) {
        let Some(version) = volume.inode(ino).map(|inode| inode.data_version) else { return };
        if self.data_versions.insert(ino, version) == Some(version) {
            return;
        }
        let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
        for extent in volume.extents(ino, 0, size) {
            // What is reserved reads as zeros.
            let Some(hash) = extent.block else { continue };
            let block = self.blocks.get(&hash).expect("a block that an entry names came with it or was stored");
            for at in 0..extent.length {
                let (to, from) = (extent.offset + at, extent.block_offset + at);
                if let (Ok(to), Ok(from)) = (usize::try_from(to), usize::try_from(from))
                    && to < content.len()
                {
                    content[to] = block[from];
                }
            }
        }
        self.note(index, Object::Content(ino), Value::Content(content.into()));
    }

    fn note(&mut self, index: LogIndex, object: Object, value: Value) {
        let versions = self.history.entry(object).or_default();
        if let (Value::Attributes(now), Some((_, Value::Attributes(before)))) = (&value, versions.last()) {
            assert!(now.ctime >= before.ctime, "stamps: a ctime runs backwards at {index}, {before:?} and {now:?}");
        }
        if versions.last().is_none_or(|(_, last)| *last != value) {
            versions.push((index, value));
        }
    }

    /// A mount stored a block: its content, should an entry name it.
    pub(super) fn stored(&mut self, hash: BlockHash, bytes: Bytes) {
        self.blocks.insert(hash, bytes);
    }

    pub(super) fn check_node(&self, node: crate::types::NodeId, applied: LogIndex, digest: u128) {
        if let Some(expected) = self.digests.get(&applied) {
            assert_eq!(*expected, digest, "equal digests: node {node} has another state at {applied}");
        }
    }

    pub(super) fn check_mount(&self, mount: usize, applied: LogIndex, digest: u128) {
        if let Some(expected) = self.volume_digests.get(&applied) {
            assert_eq!(*expected, digest, "equal digests: mount {mount} has another state at {applied}");
        }
    }

    /// A leader told a mount that its call is done; says where in the log it stands.
    pub(super) fn answered(
        &self,
        session: SessionId,
        sequence: Sequence,
        index: LogIndex,
        outcome: Result<Reply, Errno>,
    ) -> Option<LogIndex> {
        if index == LogIndex(0) {
            assert!(outcome.is_err(), "a call that succeeded stands in the log");
            return None;
        }
        let found = self.calls.get(&(session, sequence));
        assert_eq!(
            found.map(|(_, outcome)| *outcome),
            Some(outcome),
            "acknowledged means present: {session} {sequence} at {index}"
        );
        found.map(|(index, _)| *index)
    }

    /// From now on every mount but the caller's shows the change. The caller's shows it when the calls that run now
    /// have returned. A mount shows it later in directories in which it is `busy`.
    pub(super) fn completed(&mut self, index: LogIndex, at: Instant, by: usize, busy: &[(usize, BTreeSet<Ino>)]) {
        if self.complete.contains_key(&index) {
            return;
        }
        self.complete.insert(index, Completion { at, by, own: None });
        let renamed_in = |directory: &Ino| {
            self.history
                .range(Object::Name(*directory, least_name())..)
                .take_while(|(object, _)| matches!(object, Object::Name(parent, _) if parent == directory))
                .any(|(_, versions)| versions.iter().rev().any(|(version, _)| *version == index))
        };
        for (mount, directories) in busy.iter().filter(|(mount, _)| *mount != by) {
            for directory in directories.iter().filter(|directory| renamed_in(directory)) {
                self.late.entry((*mount, *directory)).or_default().insert(index);
            }
        }
    }

    /// The mount is through with what it could not do before in those directories that are not `busy`.
    pub(super) fn make_up(&mut self, mount: usize, at: Instant, is_busy: impl Fn(Ino) -> bool) {
        let quiet: Vec<Ino> = self
            .late
            .range((mount, Ino(0))..(mount + 1, Ino(0)))
            .map(|((_, ino), _)| *ino)
            .filter(|ino| !is_busy(*ino))
            .collect();
        for directory in quiet {
            for index in self.late.remove(&(mount, directory)).unwrap_or_default() {
                self.made_up.insert((mount, directory, index), at);
            }
        }
    }

    pub(super) fn completed_own(&mut self, index: LogIndex, at: Instant) {
        if let Some(completion) = self.complete.get_mut(&index) {
            completion.own.get_or_insert(at);
        }
    }

    /// R19-either-state: what a process saw was true at some time between the last change that was complete before its
    /// call began and its call's end; and its mount did not go back.
    pub(super) fn check_sight(&mut self, glance: &Glance, sight: &Sight) {
        match sight {
            Sight::Listing { directory, entries } => return self.check_listing(glance, *directory, entries),
            Sight::Mode { .. } => return self.check_mode(glance, sight),
            Sight::Mapped { at, attributes, bytes } => {
                let glance = Glance { start: *at, ..glance.clone() };
                return self.check_mapped(&glance, attributes, bytes);
            }
            Sight::Name { .. } | Sight::Attributes(_) | Sight::Content { .. } => {}
        }
        self.check_value(glance, sight, true);
    }

    /// The mode by which the kernel let a process in must be one since the last complete change. It may be older than
    /// what stat() has shown, because stat() goes by the answer even if the kernel drops it. Files that lose their last
    /// name meanwhile are left out: their mount's own unlink makes the kernel drop what it asked for
    /// (fuse_entry_unlinked).
    fn check_mode(&mut self, glance: &Glance, sight: &Sight) {
        let object = object_of(sight);
        let Some(versions) = self.history.get(&object) else { return };
        let allowed = &versions[self.floor(glance, &object, versions)..];
        let has_gone =
            allowed.iter().any(|(_, value)| !matches!(value, Value::Attributes(attributes) if attributes.nlink > 0));
        let is_right =
            has_gone || self.is_ahead(glance, &object) || allowed.iter().any(|(_, value)| fits(sight, value));
        assert!(is_right, "permission: {glance:?} went by {sight:?}, not by one of {allowed:?}");
        self.checked += 1;
    }

    /// R29-sizes: a kernel believes an open file no shorter than it is since the last complete change, and a mapping
    /// shows its bytes. That it believes in too much does no harm.
    fn check_mapped(&mut self, glance: &Glance, believed: &Attributes, bytes: &Bytes) {
        let (object, content) = (Object::Attributes(believed.ino), Object::Content(believed.ino));
        let Some(versions) = self.history.get(&object) else { return };
        let allowed = &versions[self.floor(glance, &object, versions)..];
        let attributes: Vec<&Attributes> = allowed
            .iter()
            .filter_map(|(_, value)| if let Value::Attributes(attributes) = value { Some(&**attributes) } else { None })
            .collect();
        if attributes.len() < allowed.len() || glance.without_lease || self.is_ahead(glance, &object) {
            return;
        }
        let is_right = attributes.iter().any(|attributes| believed.size >= attributes.size);
        assert!(is_right, "size: {glance:?} believes in {believed:?}, no longer than one of {attributes:?}");
        self.checked += 1;
        let Some(contents) = self.history.get(&content) else { return };
        let allowed = &contents[self.floor(glance, &content, contents)..];
        let sight = Sight::Content { ino: believed.ino, bytes: bytes.clone() };
        let is_as_long = |value: &Value| matches!(value, Value::Content(content) if content.len() == bytes.len());
        if allowed.iter().any(|(_, value)| is_as_long(value)) {
            let is_right = allowed.iter().any(|(_, value)| fits(&sight, value)) || is_mixed(&sight, allowed);
            assert!(is_right, "stale read: {glance:?} saw {sight:?} by a mapping, not one of {allowed:?}");
        }
    }

    /// `binds`: what is seen here is the least that may be seen from now on. A listing does not bind. It may show a
    /// name before the invalidation of that name is done, while a lookup of the name is still answered from before.
    fn check_value(&mut self, glance: &Glance, sight: &Sight, binds: bool) {
        let object = object_of(sight);
        self.checked += 1;
        let versions = match self.history.get(&object) {
            Some(versions) => versions.clone(),
            // A name that never was.
            None => vec![(LogIndex(0), Value::Ino(None))],
        };
        let floor = self.floor(glance, &object, &versions);
        let fitting: Vec<LogIndex> =
            versions[floor..].iter().filter(|(_, value)| fits(sight, value)).map(|(index, _)| *index).collect();
        let is_busy = matches!(&object, Object::Name(directory, _) if glance.busy.contains(directory));
        let is_moved = matches!(&object, Object::Name(directory, name)
            if is_busy && glance.renamed.contains(name) || glance.unsettled.contains(&(*directory, name.clone())));
        let is_excepted = || is_moved || is_mixed(sight, &versions[floor..]) || self.is_ahead(glance, &object);
        if fitting.is_empty() && !glance.is_final && is_excepted() {
            return;
        }
        assert!(
            !fitting.is_empty(),
            "stale read: {glance:?} saw {sight:?}; from version {floor} on it was {:?}, all: {:?}",
            &versions[floor..],
            versions.iter().map(|(index, _)| index.0).collect::<Vec<_>>(),
        );
        let shown = self.shown.entry(object.clone()).or_default();
        let seen = self.progress.entry((glance.mount, object)).or_default();
        let reached = |seen: &[(Instant, LogIndex)]| {
            seen.iter().rfind(|(at, _)| *at < glance.start).map_or(LogIndex(0), |(_, index)| *index)
        };
        let (first, last, before) = (fitting[0], fitting[fitting.len() - 1], reached(seen));
        assert!(last >= before || is_busy, "a mount went back: {glance:?} saw {sight:?} of {last}, after {before}");
        if binds && !is_busy {
            self.behind += u64::from(!glance.without_lease && last < reached(shown));
            for seen in [seen, shown] {
                if seen.last().is_none_or(|(_, index)| *index < first) {
                    seen.push((glance.end, first));
                }
            }
        }
    }

    /// The mount has the file's delegation: what it changed there and did not flush yet is seen on it alone.
    fn is_ahead(&self, glance: &Glance, object: &Object) -> bool {
        let (Object::Attributes(ino) | Object::Content(ino)) = object else { return false };
        self.delegated_to(*ino).is_some_and(|holder| Some(holder) == glance.session)
    }

    /// A listing is read in parts, and what is renamed meanwhile may show up twice: each name is looked at for itself.
    fn check_listing(&mut self, glance: &Glance, directory: Ino, entries: &[(Bytes, Ino)]) {
        let names: Vec<Name> = self
            .history
            .range(Object::Name(directory, least_name())..)
            .map_while(|(object, _)| match object {
                Object::Name(parent, name) if *parent == directory => Some(name.clone()),
                _ => None,
            })
            .collect();
        for (shown, _) in entries {
            let is_known = names.iter().any(|name| name.as_bytes() == shown.as_ref());
            assert!(is_known, "{glance:?} saw the name {shown:?} in {directory}, which was never there");
        }
        for name in names {
            let shown: Vec<Ino> =
                entries.iter().filter(|(found, _)| found.as_ref() == name.as_bytes()).map(|(_, ino)| *ino).collect();
            let object = Object::Name(directory, name.clone());
            let versions = self.history.get(&object).cloned().unwrap_or_default();
            let is_moving = versions.len() - self.floor(glance, &object, &versions) > 1;
            if shown.is_empty() && !is_moving {
                let absent = Sight::Name { parent: directory, name: name.clone(), ino: None };
                self.check_value(glance, &absent, false);
            }
            for ino in shown {
                let present = Sight::Name { parent: directory, name: name.clone(), ino: Some(ino) };
                self.check_value(glance, &present, false);
            }
        }
    }

    /// The first of the object's versions that may still be seen.
    fn floor(&self, glance: &Glance, object: &Object, versions: &[(LogIndex, Value)]) -> usize {
        let is_complete = |index: LogIndex| {
            if let Object::Name(directory, _) = object {
                let is_late = self.late.get(&(glance.mount, *directory)).is_some_and(|late| late.contains(&index));
                let made_up = self.made_up.get(&(glance.mount, *directory, index));
                if is_late || made_up.is_some_and(|at| *at >= glance.start) {
                    return false;
                }
            }
            self.complete.get(&index).is_some_and(|completion| {
                let at = if completion.by == glance.mount { completion.own } else { Some(completion.at) };
                at.is_some_and(|at| at < glance.start)
            })
        };
        match (glance.is_final, glance.without_lease) {
            (true, _) => versions.len() - 1,
            (false, true) => 0,
            (false, false) => versions.iter().rposition(|(index, _)| is_complete(*index)).unwrap_or(0),
        }
    }

    /// A write() that began then has returned. From now on all mounts show it, unless another change of the range was
    /// under way meanwhile, which may come to lie over it.
    pub(super) fn wrote(&mut self, began: Instant, mut written: Written) {
        // The call's code runs again with every step.
        let is_known = |known: &Written| known.ino == written.ino && known.data == written.data;
        if !self.written.iter().any(is_known) {
            let is_other =
                |other: &Rewrite| !other.is_over(began) && other.data != written.data && other.overlaps(&written);
            written.is_doubtful |= self.rewrites.iter().any(is_other);
            self.written.push(written);
        }
    }

    /// A request that changes content: what was written there before may never be in the log for itself.
    pub(super) fn doubt(&mut self, call: (usize, u64), request: &Request) {
        let (ino, from, to, data) = match request {
            Request::Write { ino, offset, data, .. } => (*ino, *offset, offset + data.len() as u64, data.clone()),
            Request::Setattr { ino, changes } if changes.size.is_some() => (*ino, 0, u64::MAX, Bytes::new()),
            Request::Open { ino, flags } if flags.truncate => (*ino, 0, u64::MAX, Bytes::new()),
            _ => return,
        };
        let rewrite = Rewrite { call, answered: None, ino, from, to, data };
        for written in &mut self.written {
            written.is_doubtful |= rewrite.overlaps(written);
        }
        self.rewrites.push(rewrite);
    }

    pub(super) fn request_answered(&mut self, now: Instant, call: (usize, u64)) {
        if let Some(rewrite) = self.rewrites.iter_mut().rfind(|rewrite| rewrite.call == call) {
            rewrite.answered.get_or_insert(now);
        }
    }

    /// R11-delegation: who reads on another mount after a write() returned sees its bytes, closed or not. `lost`: how
    /// often each mount lost a delegation; what rested on one is gone (R12-fencing).
    pub(super) fn check_written(&mut self, glance: &Glance, sight: &Sight, lost: &[u64]) {
        let Sight::Content { ino, bytes } = sight else { return };
        if glance.without_lease {
            return;
        }
        let mut checked = 0;
        for written in self.written.iter().filter(|written| written.ino == *ino && self.is_certain(written, lost)) {
            if written.mount == glance.mount || written.at >= glance.start {
                continue;
            }
            assert!(written.is_in(bytes), "between write and close: {glance:?} does not see {written:?}");
            checked += 1;
        }
        self.checked += checked;
    }

    /// README.md "Durability": close() has returned without an error to a process that wrote since then: the log has
    /// its bytes.
    pub(super) fn check_closed(&mut self, mount: usize, process: usize, since: Instant, lost: &[u64]) {
        let is_own = |written: &&Written| (written.mount, written.process) == (mount, process) && written.at >= since;
        let mut checked = 0;
        for written in self.written.iter().filter(is_own).filter(|written| self.is_certain(written, lost)) {
            let versions = self.history.get(&Object::Content(written.ino));
            let was_there = versions.is_none_or(|versions| {
                // It may have been written over since.
                versions.iter().any(|(_, value)| matches!(value, Value::Content(content) if written.is_in(content)))
            });
            assert!(was_there, "durability: closed, and the log does not have {written:?}");
            checked += 1;
        }
        self.checked += checked;
    }

    /// Nothing lies over these bytes, and no entry has taken away the right to write them. (An entry may do that before
    /// the mount hears of it.)
    fn is_certain(&self, written: &Written, lost: &[u64]) -> bool {
        let has_holds = written.session.is_none_or(|session| !self.holds_ended.contains_key(&session));
        !written.is_doubtful && has_holds && lost[written.mount] == written.lost
    }

    /// The mount is not heard of for longer than it may hold anything: what it has written may never get into the log.
    pub(super) fn doubt_written_by(&mut self, mount: usize) {
        self.written.retain(|written| written.mount != mount);
    }

    /// Forgets how far a mount had come: a new one stands in its place.
    pub(super) fn mount_is_new(&mut self, mount: usize) {
        // What it had asked for may still be carried out.
        self.written.clear();
        self.progress.retain(|(of, _), _| *of != mount);
        self.late.retain(|(of, _), _| *of != mount);
    }

    pub(super) fn content_at(&self, directory: &Name, name: &Name) -> Option<Bytes> {
        let volume = self.volume()?;
        let ino = volume.lookup(volume.lookup(Ino::ROOT, directory)?, name)?;
        self.content(ino)
    }

    /// The session that may buffer changes of the file.
    pub(super) fn delegated_to(&self, ino: Ino) -> Option<SessionId> {
        self.volume()?.delegation(ino).map(|delegation| delegation.session)
    }

    pub(super) fn attributes(&self, ino: Ino) -> Option<Attributes> {
        self.volume()?.attributes(ino)
    }

    pub(super) fn content(&self, ino: Ino) -> Option<Bytes> {
        match self.history.get(&Object::Content(ino))?.last()? {
            (_, Value::Content(content)) => Some(content.clone()),
            _ => None,
        }
    }

    /// The last entry that took from the session what it held.
    pub(super) fn holds_ended(&self, session: SessionId) -> Option<LogIndex> {
        self.holds_ended.get(&session).copied()
    }

    /// How often sessions lost what they held.
    pub(super) fn sessions_without_holds(&self) -> u64 {
        self.holds_ended.len() as u64
    }

    /// Nobody holds a lock, or waits for one.
    pub(super) fn is_unlocked(&self) -> bool {
        self.volume().is_none_or(|volume| volume.locks().sessions().next().is_none())
    }

    pub(super) fn is_directory(&self, ino: Ino) -> bool {
        let inode = self.volume().and_then(|volume| volume.inode(ino));
        inode.is_some_and(|inode| inode.kind == FileKind::Directory)
    }

    pub(super) fn has_volume(&self) -> bool {
        self.volume().is_some()
    }

    /// The last entry of the volume.
    pub(super) fn volume_applied(&self) -> LogIndex {
        self.volume().map_or(LogIndex(0), Volume::applied)
    }
}

fn object_of(sight: &Sight) -> Object {
    match sight {
        Sight::Name { parent, name, .. } => Object::Name(*parent, name.clone()),
        Sight::Attributes(attributes) => Object::Attributes(attributes.ino),
        Sight::Mode { ino, .. } => Object::Attributes(*ino),
        Sight::Content { ino, .. } => Object::Content(*ino),
        Sight::Mapped { attributes, .. } => Object::Content(attributes.ino),
        Sight::Listing { directory, .. } => Object::Attributes(*directory),
    }
}

fn fits(sight: &Sight, value: &Value) -> bool {
    match (sight, value) {
        (Sight::Name { ino, .. }, Value::Ino(found)) => ino == found,
        (Sight::Attributes(attributes), Value::Attributes(found)) => *attributes == **found,
        (Sight::Mode { mode, .. }, Value::Attributes(found)) => *mode == found.mode,
        (Sight::Content { bytes, .. }, Value::Content(found)) => bytes == found,
        _ => false,
    }
}

/// While changes are under way, the size that a kernel believes in and each page may be of different versions. Each
/// must be of a version that is allowed.
fn is_mixed(sight: &Sight, versions: &[(LogIndex, Value)]) -> bool {
    let Sight::Content { bytes, .. } = sight else { return false };
    let contents: Vec<&Bytes> = versions
        .iter()
        .filter_map(|(_, value)| if let Value::Content(content) = value { Some(content) } else { None })
        .collect();
    let has_size = contents.iter().any(|content| content.len() == bytes.len());
    let page = usize::try_from(PAGE).unwrap_or(usize::MAX);
    let is_known = |at: usize, shown: &[u8]| {
        contents.iter().any(|content| {
            (0..shown.len()).all(|offset| shown[offset] == content.get(at + offset).copied().unwrap_or(0))
        })
    };
    has_size
        && contents.len() > 1
        && bytes.chunks(page).enumerate().all(|(number, shown)| is_known(number * page, shown))
}

fn least_name() -> Name {
    Name::new(&[1]).expect("a byte that is no slash is a name")
}
