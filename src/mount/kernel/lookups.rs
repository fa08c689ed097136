//! What the kernel holds of each inode: how often it was looked up and not forgotten, whether it keeps attributes or
//! pages, and which size and mode it believes in. ARCHITECTURE.md "What a kernel may keep" has the cases.
//!
//! This is memory alone. `apply.rs` decides what the kernel is told to forget, `sizes.rs` beside it what size it is told.

use std::{collections::BTreeMap, time::Duration};

use crate::types::{Attributes, Ino, Instant, LogIndex};

/// How long after an answer the kernel has surely taken it over: the caller's thread only has to run.
pub(crate) const TAKEN_OVER: Duration = Duration::from_millis(50);
/// The same where nothing proves it earlier: callers in a container with process numbers of its own have no number
/// here. A change is told so much later then.
pub(crate) const TAKEN_OVER_UNSEEN: Duration = Duration::from_millis(10);

/// A file's mode, owner and group.
type Access = (u16, u32, u32);

const fn access_of(attributes: &Attributes) -> Access {
    (attributes.mode, attributes.uid, attributes.gid)
}

#[derive(Clone, Copy, Debug)]
struct Known {
    count: u64,
    /// The kernel has used the inode since the reply that made it known: it has surely processed that reply, and
    /// compares versions from then on (docs/protocol.md R1-versions).
    confirmed: bool,
    /// Attributes were given that the kernel may answer from, access control lists among them, since it was last told to
    /// forget them.
    has_attributes: bool,
    /// The same of pages.
    has_pages: bool,
    belief: Belief,
    /// Who may use a file, as the kernel believes whatever answer was overtaken (`None`: nobody knows), and how long
    /// the file is, at the least.
    believed: Option<Access>,
    least_size: u64,
    /// What it was told of both last, when, and which thread, as long as it may not have taken that over.
    told: Option<(Access, u64, Instant, u32)>,
    /// How often it was told of it, or to forget it.
    answers: u64,
    /// Until when requests may come that were sent before the kernel was last told something of the inode.
    late_until: Instant,
    /// The last entry that changed the inode.
    changed_by: LogIndex,
    /// Attributes that may be kept were given last at this time, and lately to this thread alone.
    given: Option<(Instant, Option<u32>)>,
    /// Entries of the directory were given last.
    listed: Option<Instant>,
}

/// What the kernel believes of a file: how long it is, and who may use it. The kernel asks before it reads or lets a
/// process in. If an invalidation overtakes the answer, it goes by what it believed before (`fuse_change_attributes_i`,
/// fs/fuse/inode.c). So whenever an invalidation may come, the belief must not be older than the last complete change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Belief {
    /// It was told after the last change elsewhere, and has taken that over.
    Current,
    /// The inode changed elsewhere, and nobody asked since. `is_behind`: the kernel did not know the state before that
    /// change either, though that state was complete.
    Old { is_behind: bool },
    /// It was told the first time since then at this moment, in an answer to this thread (0: nobody knows which).
    Told { at: Instant, to: u32 },
}

impl Known {
    const fn new(belief: Belief) -> Self {
        Self {
            count: 0,
            confirmed: false,
            has_attributes: false,
            has_pages: false,
            belief,
            believed: None,
            least_size: 0,
            told: None,
            answers: 0,
            late_until: Instant(0),
            changed_by: LogIndex(0),
            given: None,
            listed: None,
        }
    }
}

impl Known {
    /// Another change has come.
    fn overtaken(&mut self, now: Instant) {
        self.belief = self.belief.overtaken(now);
    }

    /// The kernel was told something. The thread asks for more, and so has taken over what it was told.
    fn settle(&mut self, now: Instant, thread: u32) {
        if let Some((access, size, at, to)) = self.told
            && (now >= taken_over(at, to) || thread != 0 && thread == to)
        {
            (self.believed, self.least_size, self.told) = (Some(access), size, None);
        }
    }

    /// The kernel drops what it has not taken over.
    fn drops_answers(&mut self, now: Instant) {
        self.settle(now, 0);
        self.answers += 1;
        if let Some((access, size, ..)) = self.told.take() {
            self.believed = self.believed.filter(|believed| *believed == access);
            self.least_size = self.least_size.min(size);
        }
    }
}

impl Belief {
    /// Another change has come.
    fn overtaken(self, now: Instant) -> Self {
        match self {
            Self::Told { at, to } if now < taken_over(at, to) => Self::Old { is_behind: true },
            Self::Current | Self::Told { .. } => Self::Old { is_behind: false },
            old @ Self::Old { .. } => old,
        }
    }
}

/// When an answer that was given then to this thread has surely been taken over.
fn taken_over(given: Instant, thread: u32) -> Instant {
    given.after(if thread == 0 { TAKEN_OVER_UNSEEN } else { TAKEN_OVER })
}

/// The kernel's references. The root has one that is never forgotten.
#[derive(Debug)]
pub(crate) struct Lookups {
    known: BTreeMap<Ino, Known>,
    /// Inodes that became known, or are so no longer, since `take_changed`.
    changed: Vec<Ino>,
}

impl Lookups {
    pub(crate) fn new() -> Self {
        let root = Known { confirmed: true, ..Known::new(Belief::Current) };
        Self { known: BTreeMap::from([(Ino::ROOT, Known { count: 1, ..root })]), changed: vec![Ino::ROOT] }
    }

    /// The kernel may have cached things about this inode.
    pub(crate) fn is_known(&self, ino: Ino) -> bool {
        self.known.contains_key(&ino)
    }

    /// The kernel has the inode for certain, so that it refuses an attribute reply that an invalidation overtook.
    pub(crate) fn is_confirmed(&self, ino: Ino) -> bool {
        self.known.get(&ino).is_some_and(|known| known.confirmed)
    }

    /// A reply hands the inode to the kernel once more. `is_behind`: its attributes are older than what has completed.
    pub(crate) fn replied(&mut self, attributes: &Attributes, is_behind: bool) {
        let ino = attributes.ino;
        let belief = if is_behind { Belief::Old { is_behind } } else { Belief::Current };
        let known = self.known.entry(ino).or_insert(Known::new(belief));
        if known.count == 0 {
            self.changed.push(ino);
            (known.believed, known.least_size) = (Some(access_of(attributes)), attributes.size);
        }
        known.count += 1;
    }

    /// The kernel asks about the inode by its number.
    pub(crate) fn confirm(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.confirmed = true;
        }
    }

    /// The kernel was given pages that it may answer from. The thread that asked for them (0: nobody knows which) has taken
    /// over what it was told before.
    pub(crate) fn gave_pages(&mut self, ino: Ino, thread: u32) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.has_pages = true;
            if matches!(known.belief, Belief::Told { to, .. } if to != 0 && to == thread) {
                known.belief = Belief::Current;
            }
        }
    }

    /// The kernel was given access control lists, or that there is none; it keeps that as long as attributes.
    pub(crate) fn gave_lists(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.has_attributes = true;
        }
    }

    /// The kernel was given attributes that it may answer from, in an answer to this thread (0: nobody knows which).
    pub(crate) fn gave_attributes(&mut self, ino: Ino, now: Instant, thread: u32) {
        let is_alone = thread != 0 && !self.is_on_its_way(ino, now, thread);
        if let Some(known) = self.known.get_mut(&ino) {
            known.has_attributes = true;
            known.given = Some((now, is_alone.then_some(thread)));
        }
    }

    /// Whether attributes that may be kept could still be on their way to another thread than this one. This one asks
    /// for more, so it has surely taken over what it was told before.
    pub(crate) fn is_on_its_way(&self, ino: Ino, now: Instant, thread: u32) -> bool {
        let given = self.known.get(&ino).and_then(|known| known.given);
        given.is_some_and(|(at, to)| now < at.after(TAKEN_OVER) && (thread == 0 || to != Some(thread)))
    }

    /// The kernel was given entries of the directory.
    pub(crate) fn gave_entries(&mut self, ino: Ino, now: Instant) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.listed = Some(now);
        }
    }

    /// Until when entries that the kernel was given may be on their way into the listing that it keeps.
    pub(crate) fn listed_until(&self, ino: Ino, now: Instant) -> Option<Instant> {
        let until = self.known.get(&ino)?.listed?.after(TAKEN_OVER);
        (now < until).then_some(until)
    }

    /// Whether the kernel may answer anything about the inode by itself.
    pub(crate) fn is_cached(&self, ino: Ino) -> bool {
        self.known.get(&ino).is_some_and(|known| known.has_attributes || known.has_pages)
    }

    pub(crate) fn has_pages(&self, ino: Ino) -> bool {
        self.known.get(&ino).is_some_and(|known| known.has_pages)
    }

    /// Nothing will overtake what the kernel was told last.
    pub(crate) fn will_take_over(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.belief = Belief::Current;
        }
    }

    /// The kernel is told who may use a file and how long it is, in an answer to this thread (0: nobody knows which).
    /// `is_doubtful`: it may drop the answer.
    pub(crate) fn told_of(&mut self, attributes: &Attributes, now: Instant, thread: u32, is_doubtful: bool) {
        let Some(known) = self.known.get_mut(&attributes.ino) else { return };
        known.settle(now, thread);
        known.answers += 1;
        let told = (access_of(attributes), attributes.size, now, thread);
        // What is on its way to another thread may come behind this.
        let doubtful = if is_doubtful || now < known.late_until { Some(told) } else { known.told.replace(told) };
        if let Some((access, size, ..)) = doubtful {
            known.believed = known.believed.filter(|believed| *believed == access);
            known.least_size = known.least_size.min(size);
        }
    }

    /// How often the kernel was told of the inode, or to forget it.
    pub(crate) fn answers(&self, ino: Ino) -> u64 {
        self.known.get(&ino).map_or(0, |known| known.answers)
    }

    /// The kernel was told something of the inode.
    pub(crate) fn notified(&mut self, ino: Ino, now: Instant) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.late_until = now.after(TAKEN_OVER_UNSEEN);
        }
    }

    /// The kernel is told that the file is no shorter than that.
    pub(crate) fn told_size(&mut self, ino: Ino, size: u64, now: Instant) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.drops_answers(now);
            known.least_size = known.least_size.max(size);
        }
    }

    /// Whether the kernel goes by the present mode and owner even if it drops answers that are on their way. This
    /// thread has taken over what it was told.
    pub(crate) fn is_access_believed(&mut self, attributes: &Attributes, now: Instant, thread: u32) -> bool {
        let Some(known) = self.known.get_mut(&attributes.ino) else { return false };
        known.settle(now, thread);
        let access = access_of(attributes);
        known.believed == Some(access) && known.told.is_none_or(|(told, ..)| told == access)
    }

    /// The kernel may believe the file shorter than that, and this thread did not just hear of it.
    pub(crate) fn is_too_short(&mut self, ino: Ino, size: u64, now: Instant, thread: u32) -> bool {
        let Some(known) = self.known.get_mut(&ino) else { return false };
        known.settle(now, thread);
        known.least_size < size
    }

    /// The entry changed the inode. `is_settled`: the kernel is not being told of an earlier change, which so is complete.
    pub(crate) fn changed(&mut self, ino: Ino, now: Instant, index: LogIndex, is_settled: bool) {
        let Some(known) = self.known.get_mut(&ino).filter(|known| known.changed_by != index) else { return };
        known.changed_by = index;
        match known.belief {
            Belief::Old { is_behind } => known.belief = Belief::Old { is_behind: is_behind || is_settled },
            Belief::Current | Belief::Told { .. } => known.overtaken(now),
        }
        // What the kernel could have kept is overtaken.
        known.given = None;
    }

    /// Until when an answer that makes the kernel believe something new may be on its way to another thread than this one.
    pub(crate) fn told_until(&self, ino: Ino, now: Instant, thread: u32) -> Option<Instant> {
        let Belief::Told { at, to } = self.known.get(&ino)?.belief else { return None };
        let until = taken_over(at, to);
        (now < until && (thread == 0 || to != thread)).then_some(until)
    }

    /// The kernel was not told of the last change, or may not have taken that over.
    pub(crate) fn is_belief_old(&self, ino: Ino) -> bool {
        self.known.get(&ino).is_some_and(|known| known.belief != Belief::Current)
    }

    /// What the kernel believes may be older than what had completed before the last change.
    pub(crate) fn is_behind(&self, ino: Ino) -> bool {
        self.known.get(&ino).is_some_and(|known| known.belief == Belief::Old { is_behind: true })
    }

    /// The kernel is being told to forget attributes, and perhaps all pages.
    pub(crate) fn forgotten(&mut self, ino: Ino, now: Instant, pages: bool) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.overtaken(now);
            known.drops_answers(now);
            known.given = None;
            known.has_attributes = false;
            known.has_pages &= !pages;
        }
    }

    /// The kernel is about to be told the inode's attributes: whether it may keep them. Not the first time since an
    /// invalidation, nor shortly after that. No change is told of what the kernel does not keep. So nothing overtakes
    /// the answer that makes it believe something new. `thread`: to which the answer goes; 0: nobody knows.
    pub(crate) fn may_keep(&mut self, ino: Ino, now: Instant, thread: u32) -> bool {
        let Some(known) = self.known.get_mut(&ino) else { return false };
        match known.belief {
            Belief::Current => {}
            Belief::Old { .. } => known.belief = Belief::Told { at: now, to: thread },
            Belief::Told { at, to } if now < taken_over(at, to) => {}
            Belief::Told { .. } => known.belief = Belief::Current,
        }
        known.belief == Belief::Current
    }

    /// The kernel dropped `count` references. True when it holds none any more.
    pub(crate) fn forget(&mut self, ino: Ino, count: u64) -> bool {
        if ino == Ino::ROOT {
            return false;
        }
        let Some(known) = self.known.get_mut(&ino) else { return false };
        // FORGET means that the kernel's inode went away; what it was told since belongs to a new one.
        known.confirmed = false;
        known.count = known.count.saturating_sub(count);
        if known.count > 0 {
            return false;
        }
        self.known.remove(&ino);
        self.changed.push(ino);
        true
    }

    pub(crate) fn take_changed(&mut self) -> Vec<Ino> {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Ino> + '_ {
        self.known.keys().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{FileKind, Timestamp};

    fn attributes(ino: Ino) -> Attributes {
        let time = Timestamp::default();
        Attributes {
            ino,
            kind: FileKind::File,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 10,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    #[test]
    fn what_is_believed_of_mode_and_size_is_what_was_taken_over() {
        let (mut lookups, ino) = (Lookups::new(), Ino(5));
        let old = attributes(ino);
        let new = Attributes { mode: 0o600, size: 20, ..old };
        let (at, later) = (Instant(1_000_000_000), Instant(1_000_000_000).after(TAKEN_OVER));
        lookups.replied(&old, false);
        assert!(lookups.is_access_believed(&old, at, 1) && !lookups.is_access_believed(&new, at, 1));
        assert!(lookups.is_too_short(ino, 20, at, 1) && !lookups.is_too_short(ino, 10, at, 1));
        lookups.told_of(&new, at, 1, false);
        for one in [old, new] {
            assert!(!lookups.is_access_believed(&one, at, 2), "the answer may yet be dropped");
        }
        assert!(lookups.is_access_believed(&new, at, 1), "the thread asks for more");
        assert!(!lookups.is_too_short(ino, 20, at, 2));
        lookups.told_of(&old, at, 1, false);
        lookups.forgotten(ino, at, false);
        assert!(!lookups.is_access_believed(&old, later, 1), "it may have been dropped");
        lookups.told_of(&old, at, 1, false);
        assert!(lookups.is_access_believed(&old, later, 2));
        lookups.told_size(ino, 30, later);
        assert!(!lookups.is_too_short(ino, 30, later, 1));
    }

    #[test]
    fn an_inode_is_known_from_its_first_reply_to_its_last_forget() {
        let mut lookups = Lookups::new();
        let ino = Ino(5);
        lookups.replied(&attributes(ino), false);
        lookups.replied(&attributes(ino), false);
        assert!(!lookups.forget(ino, 1));
        assert!(lookups.is_known(ino));
        assert!(lookups.forget(ino, 1));
        assert!(!lookups.is_known(ino));
    }

    #[test]
    fn it_is_confirmed_by_use_and_not_by_a_second_reply() {
        let mut lookups = Lookups::new();
        let ino = Ino(5);
        lookups.replied(&attributes(ino), false);
        lookups.replied(&attributes(ino), false);
        assert!(!lookups.is_confirmed(ino));
        lookups.confirm(ino);
        assert!(lookups.is_confirmed(ino));
        lookups.forget(ino, 1);
        assert!(!lookups.is_confirmed(ino), "the kernel's inode is another one now");
    }

    #[test]
    fn an_answer_is_on_its_way_to_other_threads_for_a_while() {
        let (mut lookups, ino) = (Lookups::new(), Ino(5));
        lookups.replied(&attributes(ino), false);
        let (given, later) = (Instant(1_000_000_000), Instant(1_000_000_000).after(TAKEN_OVER));
        assert!(!lookups.is_on_its_way(ino, given, 8));
        lookups.gave_attributes(ino, given, 7);
        assert!(!lookups.is_on_its_way(ino, given, 7) && lookups.is_on_its_way(ino, given, 8));
        assert!(lookups.is_on_its_way(ino, given, 0), "a thread without a number may be any");
        assert!(!lookups.is_on_its_way(ino, later, 8));
        lookups.gave_attributes(ino, given, 8);
        assert!(lookups.is_on_its_way(ino, given, 7) && lookups.is_on_its_way(ino, given, 8));
        lookups.gave_attributes(ino, later, 8);
        assert!(!lookups.is_on_its_way(ino, later, 8));
    }

    #[test]
    fn the_root_is_never_forgotten() {
        let mut lookups = Lookups::new();
        assert!(!lookups.forget(Ino::ROOT, 100));
        assert!(lookups.is_known(Ino::ROOT));
    }
}
