//! Which inodes the kernel holds: its lookup counts, as replies raised and FORGET lowered them.

use std::collections::BTreeMap;

use std::time::Duration;

use crate::types::{Ino, Instant};

/// How long after an answer the kernel has surely taken it over: the caller's thread only has to run.
pub(crate) const TAKEN_OVER: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
struct Known {
    count: u64,
    /// The kernel has used the inode since the reply that made it known: it has surely processed that reply, and
    /// compares versions from then on (PROTOCOL R1).
    confirmed: bool,
    /// Attributes or pages were given that the kernel may answer from, since it was last told to forget all of them.
    is_cached: bool,
    size: Size,
    /// Attributes that may be kept were given last at this time, and lately to this thread alone.
    given: Option<(Instant, Option<u32>)>,
}

/// How well the kernel knows how long a file is. It reads pages up to the size it believes in, asks for the size before,
/// and drops the answer if an invalidation overtakes it (`fuse_change_attributes_i`, fs/fuse/inode.c): then it believes
/// what it did before, and the read ends there. So what it believes must not be older than the last complete change
/// whenever a change may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Size {
    /// It was told after the last change elsewhere, and has taken that over.
    Current,
    /// The file changed elsewhere, and nobody asked since.
    Old,
    /// It was told the first time since then at this moment, and since then this thread alone.
    Told { at: Instant, to: Option<u32> },
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
        let root = Known { count: 1, confirmed: true, is_cached: false, size: Size::Current, given: None };
        Self { known: BTreeMap::from([(Ino::ROOT, root)]), changed: vec![Ino::ROOT] }
    }

    /// The kernel may have cached things about this inode.
    pub(crate) fn is_known(&self, ino: Ino) -> bool {
        self.known.contains_key(&ino)
    }

    /// The kernel has the inode for certain, so that it refuses an attribute reply that an invalidation overtook.
    pub(crate) fn is_confirmed(&self, ino: Ino) -> bool {
        self.known.get(&ino).is_some_and(|known| known.confirmed)
    }

    /// A reply hands the inode to the kernel once more.
    pub(crate) fn replied(&mut self, ino: Ino) {
        let known = self.known.entry(ino).or_insert(Known {
            count: 0,
            confirmed: false,
            is_cached: false,
            size: Size::Current,
            given: None,
        });
        if known.count == 0 {
            self.changed.push(ino);
        }
        known.count += 1;
    }

    /// The kernel asks about the inode by its number.
    pub(crate) fn confirm(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.confirmed = true;
        }
    }

    /// The kernel was given pages, or attributes, of the inode that it may answer from.
    pub(crate) fn gave(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.is_cached = true;
        }
    }

    /// As `gave`: attributes, in an answer to this thread (0: nobody knows which).
    pub(crate) fn gave_attributes(&mut self, ino: Ino, now: Instant, thread: u32) {
        self.gave(ino);
        let is_alone = thread != 0 && !self.is_on_its_way(ino, now, thread);
        if let Some(known) = self.known.get_mut(&ino) {
            known.given = Some((now, is_alone.then_some(thread)));
        }
    }

    /// Whether attributes that may be kept could still be on their way to another thread than this one, which has surely
    /// taken over what it was told before it asked for more.
    pub(crate) fn is_on_its_way(&self, ino: Ino, now: Instant, thread: u32) -> bool {
        let given = self.known.get(&ino).and_then(|known| known.given);
        given.is_some_and(|(at, to)| now < at.after(TAKEN_OVER) && (thread == 0 || to != Some(thread)))
    }

    /// Whether the kernel may answer anything about the inode by itself.
    pub(crate) fn is_cached(&self, ino: Ino) -> bool {
        self.known.get(&ino).is_some_and(|known| known.is_cached)
    }

    /// What the kernel believes of the inode's size may be old now.
    pub(crate) fn changed(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.size = Size::Old;
            // What the kernel could have kept is overtaken.
            known.given = None;
        }
    }

    /// Until when an answer that makes the kernel believe in a new size may be on its way to another thread than this one.
    pub(crate) fn told_until(&self, ino: Ino, now: Instant, thread: u32) -> Option<Instant> {
        let Size::Told { at, to } = self.known.get(&ino)?.size else { return None };
        let until = at.after(TAKEN_OVER);
        (now < until && (thread == 0 || to != Some(thread))).then_some(until)
    }

    /// What the kernel believes of the inode's size may be older than what has completed.
    pub(crate) fn is_size_old(&self, ino: Ino) -> bool {
        self.known.get(&ino).is_some_and(|known| known.size != Size::Current)
    }

    /// The kernel is being told to forget attributes and all pages of the inode.
    pub(crate) fn forgotten(&mut self, ino: Ino) {
        self.changed(ino);
        if let Some(known) = self.known.get_mut(&ino) {
            known.is_cached = false;
        }
    }

    /// The kernel is told the inode's attributes now: whether it may keep them. Not if this is the first time since an
    /// invalidation, nor shortly after it: nothing is told of a change to what it does not keep, so that nothing
    /// overtakes the answer that makes it believe in a new size.
    /// `thread`: to which the answer goes; 0: nobody knows.
    pub(crate) fn may_keep(&mut self, ino: Ino, now: Instant, thread: u32) -> bool {
        let Some(known) = self.known.get_mut(&ino) else { return false };
        match known.size {
            Size::Current => {}
            Size::Old => known.size = Size::Told { at: now, to: (thread != 0).then_some(thread) },
            Size::Told { at, to } if now < at.after(TAKEN_OVER) => {
                known.size = Size::Told { at, to: to.filter(|to| *to == thread) };
            }
            Size::Told { .. } => known.size = Size::Current,
        }
        known.size == Size::Current
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

    #[test]
    fn an_inode_is_known_from_its_first_reply_to_its_last_forget() {
        let mut lookups = Lookups::new();
        let ino = Ino(5);
        lookups.replied(ino);
        lookups.replied(ino);
        assert!(!lookups.forget(ino, 1));
        assert!(lookups.is_known(ino));
        assert!(lookups.forget(ino, 1));
        assert!(!lookups.is_known(ino));
    }

    #[test]
    fn it_is_confirmed_by_use_and_not_by_a_second_reply() {
        let mut lookups = Lookups::new();
        let ino = Ino(5);
        lookups.replied(ino);
        lookups.replied(ino);
        assert!(!lookups.is_confirmed(ino));
        lookups.confirm(ino);
        assert!(lookups.is_confirmed(ino));
        lookups.forget(ino, 1);
        assert!(!lookups.is_confirmed(ino), "the kernel's inode is another one now");
    }

    #[test]
    fn an_answer_is_on_its_way_to_other_threads_for_a_while() {
        let (mut lookups, ino) = (Lookups::new(), Ino(5));
        lookups.replied(ino);
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
