//! What the kernel may hold, what it is being told to forget, and which entries wait for that (docs/protocol.md
//! R1-versions, R2-telling, R3-apply-first). No other code knows what a kernel believes. What a file or a directory is,
//! and what requests wait for, is not known here.

mod epochs;
mod invalidation;
mod lookups;
mod missing;
mod refills;
mod sizes;
mod told_names;
mod watched;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::{
    epochs::Epochs, invalidation::Invalidations, lookups::Lookups, missing::Missing, refills::Refills, sizes::Sizes,
    watched::Watched,
};
pub(crate) use self::{
    invalidation::{Gathering, Ranges},
    refills::Range,
    sizes::{Answer, Content},
    watched::SlotChange,
};
#[cfg(test)]
pub(crate) use lookups::{TAKEN_OVER, TAKEN_OVER_UNSEEN};

use super::Notification;
use crate::types::{Attributes, Ino, Instant, LogIndex, Name};

/// Names that may be made to ask again within a second.
const NAMES_PER_SECOND: u32 = 20_000;

/// What follows when the kernel has carried a ticket out.
#[derive(Debug)]
pub(crate) struct Notified {
    /// Answers that waited for it.
    pub(crate) answers: Vec<(u64, Answer)>,
    /// The change of times that waited until what is mapped was written back.
    pub(crate) written_back: Option<u64>,
    /// The file whose stale pages are gone.
    pub(crate) dropped: Option<Ino>,
}

/// How the kernel is to be told of an inode that changed elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Telling {
    /// It is among what was gathered, or the kernel has nothing of it.
    Gathered,
    /// Perhaps of its size, and of nothing else.
    Size,
    /// Then: it has not taken over an answer about it yet.
    At(Instant),
}

/// An answer with the attributes of an inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttributeReply {
    pub(crate) now: Instant,
    /// To which it goes; 0: nobody knows.
    pub(crate) thread: u32,
    pub(crate) is_file: bool,
    /// Another mount may be changing the file.
    pub(crate) is_elsewhere: bool,
    /// Nothing else speaks against it that the kernel keeps them.
    pub(crate) may_keep: bool,
}

#[derive(Debug)]
pub(crate) struct Kernel {
    lookups: Lookups,
    missing: Missing,
    invalidations: Invalidations,
    /// Names whose invalidation waits until the kernel's lock of their directory is free; uncacheable meanwhile.
    deferred: BTreeMap<Ino, BTreeSet<Name>>,
    epochs: Epochs,
    /// Entries whose change of a file the kernel is told only when it has taken over an answer about that file.
    held_back: BTreeMap<Ino, Vec<(LogIndex, Instant)>>,
    /// Changes of times that wait for these tickets.
    writing_back: BTreeMap<u64, u64>,
    sizes: Sizes,
    refills: Refills,
    watched: Watched,
    /// When its holder makes the kernel forget, as the holder was told.
    deadline: Option<Instant>,
    /// Tickets after which the kernel has forgotten everything.
    forgetting: BTreeSet<u64>,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        Self {
            lookups: Lookups::new(),
            missing: Missing::default(),
            invalidations: Invalidations::default(),
            deferred: BTreeMap::new(),
            epochs: Epochs::new(),
            held_back: BTreeMap::new(),
            writing_back: BTreeMap::new(),
            sizes: Sizes::default(),
            refills: Refills::default(),
            watched: Watched::default(),
            deadline: None,
            forgetting: BTreeSet::new(),
        }
    }

    // What it has.

    /// The kernel may have cached things about this inode.
    pub(crate) fn is_known(&self, ino: Ino) -> bool {
        self.lookups.is_known(ino)
    }

    pub(crate) fn inodes(&self) -> impl Iterator<Item = Ino> + '_ {
        self.lookups.iter()
    }

    pub(crate) fn inode_count(&self) -> usize {
        self.lookups.len()
    }

    /// Inodes that became known, or are so no longer, since this was asked last.
    pub(crate) fn take_changed(&mut self) -> Vec<Ino> {
        self.lookups.take_changed()
    }

    /// It asks about the inode by its number.
    pub(crate) fn confirm(&mut self, ino: Ino) {
        self.lookups.confirm(ino);
    }

    /// A reply hands the inode to it once more. `is_behind`: its attributes are older than what has completed.
    pub(crate) fn hand_out(&mut self, attributes: &Attributes, is_behind: bool) {
        self.lookups.replied(attributes, is_behind);
    }

    /// It dropped `count` references. True when it holds none any more.
    pub(crate) fn forget(&mut self, ino: Ino, count: u64) -> bool {
        let is_last = self.lookups.forget(ino, count);
        if is_last {
            self.missing.forget_directory(ino);
            self.refills.forget(ino);
        }
        is_last
    }

    /// It may answer about the inode by itself, or will have forgotten what it may only in a moment.
    pub(crate) fn may_answer(&self, ino: Ino, is_file: bool) -> bool {
        self.lookups.is_known(ino)
            && (!is_file || self.lookups.is_cached(ino) || self.invalidations.is_inode_uncacheable(ino))
    }

    pub(crate) fn has_pages(&self, ino: Ino) -> bool {
        self.lookups.has_pages(ino)
    }

    /// It was given pages that it may answer from; the thread (0: nobody knows which) has taken over what it was told.
    pub(crate) fn gave_pages(&mut self, ino: Ino, thread: u32) {
        self.lookups.gave_pages(ino, thread);
    }

    /// It was given access control lists, or that there is none; it keeps that as long as attributes.
    pub(crate) fn gave_lists(&mut self, ino: Ino) {
        self.lookups.gave_lists(ino);
    }

    /// It was given entries of the directory.
    pub(crate) fn gave_entries(&mut self, ino: Ino, now: Instant) {
        self.lookups.gave_entries(ino, now);
    }

    /// It was told that the name means something, and may keep that.
    pub(crate) fn told_name(&mut self, parent: Ino, name: &Name) {
        self.epochs.told(parent, name);
    }

    /// It will remember that there is no such name. False when there is no room: then it must not.
    pub(crate) fn remember_missing(&mut self, parent: Ino, name: &Name) -> bool {
        self.missing.remember(parent, name)
    }

    /// The name may exist now.
    pub(crate) fn forget_missing(&mut self, parent: Ino, name: &Name) {
        self.missing.forget(parent, name);
    }

    /// Names that it was told do not exist; none is remembered afterwards.
    pub(crate) fn take_missing(&mut self) -> BTreeMap<Ino, BTreeSet<Name>> {
        self.missing.take()
    }

    // Attributes: what it asks, and what it is told.

    /// A request for attributes has arrived.
    pub(crate) fn asked_attributes(&mut self, now: Instant, unique: u64, ino: Ino, is_fresh: bool) {
        let is_overtaken = self.sizes.is_overtaken(now, ino) && self.lookups.is_belief_old(ino);
        let is_behind = !is_fresh || self.lookups.is_behind(ino);
        let is_uncacheable = is_behind && self.invalidations.is_inode_uncacheable(ino);
        self.sizes.asked(now, unique, ino, is_overtaken || is_uncacheable, self.lookups.answers(ino));
    }

    /// This request is looked at from now on.
    pub(crate) const fn look_at(&mut self, unique: u64) {
        self.sizes.look_at(unique);
    }

    /// It is told the inode's attributes; `shown`: those of a file. Whether it may keep them.
    pub(crate) fn tell_attributes(&mut self, ino: Ino, shown: Option<&Attributes>, reply: AttributeReply) -> bool {
        let AttributeReply { now, thread, is_file, is_elsewhere, may_keep } = reply;
        let is_uncacheable = self.invalidations.is_inode_uncacheable(ino);
        let is_safe = !is_uncacheable && self.lookups.is_confirmed(ino);
        let is_told = !is_uncacheable && !is_elsewhere;
        let is_current = !is_file || is_told && self.lookups.may_keep(ino, now, thread);
        if let Some(attributes) = shown {
            let is_doubtful = is_uncacheable || self.sizes.is_behind_another(self.lookups.answers(ino));
            self.lookups.told_of(attributes, now, thread, is_doubtful);
        }
        let keeps = may_keep && !is_elsewhere && is_safe && is_current;
        if keeps {
            self.lookups.gave_attributes(ino, now, thread);
        }
        keeps
    }

    /// It is told attributes that it stores without comparing versions.
    pub(crate) fn told_surely(&mut self, attributes: &Attributes, now: Instant, thread: u32) {
        self.lookups.told_of(attributes, now, thread, false);
    }

    /// It goes by the present mode and owner even if it drops answers that are on their way.
    pub(crate) fn is_access_believed(&mut self, attributes: &Attributes, now: Instant, thread: u32) -> bool {
        self.lookups.is_access_believed(attributes, now, thread)
    }

    /// It may believe the file shorter than that, and this thread did not just hear of it.
    pub(crate) fn is_too_short(&mut self, ino: Ino, size: u64, now: Instant, thread: u32) -> bool {
        self.lookups.is_too_short(ino, size, now, thread)
    }

    /// What it believes may be older than what had completed before the last change.
    #[cfg(test)]
    pub(crate) fn is_behind(&self, ino: Ino) -> bool {
        self.lookups.is_behind(ino)
    }

    /// Attributes that it may keep could still be on their way to another thread than this one.
    pub(crate) fn is_on_its_way(&self, ino: Ino, now: Instant, thread: u32) -> bool {
        self.lookups.is_on_its_way(ino, now, thread)
    }

    /// Until when answers about these files may be on their way to other threads that make it believe something new.
    pub(crate) fn told_until(&self, inodes: &[Ino], now: Instant, thread: u32) -> Option<Instant> {
        inodes.iter().filter_map(|ino| self.lookups.told_until(*ino, now, thread)).max()
    }

    // What must not be kept now.

    pub(crate) fn is_name_uncacheable(&self, parent: Ino, name: &Name) -> bool {
        self.invalidations.is_name_uncacheable(parent, name)
    }

    pub(crate) fn is_inode_uncacheable(&self, ino: Ino) -> bool {
        self.invalidations.is_inode_uncacheable(ino)
    }

    // Tickets, and entries that wait for them.

    /// A ticket for a kernel that was told nothing yet and so has nothing to forget: it is carried out at once.
    pub(crate) fn issue_to_nobody(&mut self, notifications: Vec<Notification>, entries: Vec<LogIndex>) -> u64 {
        let ticket = self.invalidations.issue(notifications, entries);
        self.invalidations.notified(ticket);
        ticket
    }

    /// It is told these things in one ticket; the entries wait for that. `is_fresh`: nothing completes without this mount.
    pub(crate) fn issue(
        &mut self,
        now: Instant,
        notifications: Vec<Notification>,
        entries: Vec<LogIndex>,
        is_fresh: bool,
    ) -> u64 {
        for notification in &notifications {
            match notification {
                Notification::Attributes { ino } => self.lookups.forgotten(*ino, now, false),
                Notification::Pages { ino, offset, length } => {
                    self.lookups.forgotten(*ino, now, (*offset, *length) == (0, 0));
                }
                Notification::Size { ino, size, .. } => self.lookups.told_size(*ino, *size, now),
                // Answers that are on their way are of the epoch in which they were asked for.
                Notification::AllNames => self.epochs.begin(),
                Notification::Name { .. } => {}
            }
            // While this mount has a lease, nothing completes without it. So what the kernel was told last is what is
            // complete.
            if let Notification::Attributes { ino } | Notification::Pages { ino, .. } = notification
                && (!is_fresh || self.lookups.is_behind(*ino))
            {
                self.sizes.forgotten(*ino);
            }
        }
        self.invalidations.issue(notifications, entries)
    }

    /// It has carried the ticket out.
    pub(crate) fn notified(&mut self, now: Instant, ticket: u64) -> Notified {
        for ino in self.invalidations.notified(ticket) {
            self.lookups.notified(ino, now);
        }
        Notified {
            answers: self.sizes.notified(ticket),
            written_back: self.writing_back.remove(&ticket),
            dropped: self.refills.notified(ticket),
        }
    }

    pub(crate) fn is_running(&self, ticket: u64) -> bool {
        self.invalidations.is_running(ticket)
    }

    /// Those that it has not finished.
    pub(crate) fn tickets(&self) -> impl Iterator<Item = u64> + '_ {
        self.invalidations.tickets()
    }

    pub(crate) fn ticket_count(&self) -> usize {
        self.invalidations.running()
    }

    /// Some unfinished ticket has a notification of this kind.
    pub(crate) fn is_being_told(&self, is_concerned: impl Fn(&Notification) -> bool) -> bool {
        self.invalidations.any(is_concerned)
    }

    /// Takes the entries off the tickets that concern `is_concerned`; the caller releases each when it is provided for.
    pub(crate) fn excuse(
        &mut self,
        is_concerned: impl Fn(&Notification) -> bool,
    ) -> Vec<(Vec<LogIndex>, Vec<Notification>)> {
        self.invalidations.excuse(is_concerned)
    }

    /// The entry is applied and is acknowledged once everything that it waits for is released.
    pub(crate) fn require(&mut self, entry: LogIndex) {
        self.invalidations.require(entry);
    }

    /// One of these things is done.
    pub(crate) fn release(&mut self, entry: LogIndex) {
        self.invalidations.release(entry);
    }

    pub(crate) fn release_all(&mut self, entries: impl IntoIterator<Item = LogIndex>) {
        for entry in entries {
            self.release(entry);
        }
    }

    /// The entry is applied but its acknowledgement still waits for something.
    pub(crate) fn is_awaited(&self, entry: LogIndex) -> bool {
        self.invalidations.is_awaited(entry)
    }

    /// The first entry that is applied and not acknowledged.
    pub(crate) fn first_awaited(&self) -> Option<LogIndex> {
        self.invalidations.first_awaited()
    }

    /// Entries that may be acknowledged now.
    pub(crate) fn take_done(&mut self) -> Vec<LogIndex> {
        self.invalidations.take_done()
    }

    // Changes elsewhere.

    /// The entry changed the inode.
    pub(crate) fn inode_changed(&mut self, now: Instant, ino: Ino, index: LogIndex) {
        let is_settled = !self.invalidations.is_inode_uncacheable(ino);
        self.lookups.changed(ino, now, index, is_settled);
    }

    /// An inode changed elsewhere. Of a file it is told to forget everything, though perhaps only a range or the mode
    /// changed. What it does not have, it need not be told again: if it were, it would drop an answer that it is waiting
    /// for (`lookups.rs`). The kernel itself drops all pages when it learns of a new mtime (FUSE_AUTO_INVAL_DATA).
    pub(crate) fn gather_inode(
        &mut self,
        now: Instant,
        ino: Ino,
        index: LogIndex,
        (is_file, is_content): (bool, bool),
        gathering: &mut Gathering,
    ) -> Telling {
        let is_held_back = self.held_back.contains_key(&ino);
        let on_its_way = self.lookups.told_until(ino, now, 0).filter(|_| is_file && self.lookups.is_cached(ino));
        if on_its_way.is_some() {
            self.lookups.will_take_over(ino);
        }
        self.inode_changed(now, ino, index);
        if is_held_back || on_its_way.is_some() {
            return Telling::At(self.hold_back(ino, index, on_its_way.unwrap_or(now)));
        }
        if !self.may_answer(ino, is_file) {
            return Telling::Size;
        }
        // It has nothing but what it is being told to forget.
        if is_file && !self.lookups.is_cached(ino) && self.invalidations.join(ino, index) {
            return Telling::Size;
        }
        if is_file && (is_content || self.lookups.has_pages(ino)) {
            gathering.all_pages(ino, index);
        }
        if !is_content {
            gathering.inodes.insert(ino);
            gathering.entries.push(index);
        }
        Telling::Gathered
    }

    /// The directory's mtime went back. A kernel puts entries that are on their way into its listing even after it was
    /// told to forget the listing, and keeps it under the mtime that the directory had when it asked
    /// (`fuse_readdir_cached`, fs/fuse/readdir.c). That mtime may come again now. So it is told once more, behind those
    /// entries: then.
    pub(crate) fn directory_rewound(&mut self, now: Instant, index: LogIndex, ino: Ino) -> Option<Instant> {
        self.lookups.listed_until(ino, now).map(|until| self.hold_back(ino, index, until))
    }

    /// It is told of the change when it has taken over what it was told last, and in the order of the changes: then.
    fn hold_back(&mut self, ino: Ino, index: LogIndex, until: Instant) -> Instant {
        self.invalidations.require(index);
        let entries = self.held_back.entry(ino).or_default();
        let last = entries.last().map(|(_, until)| *until);
        if last.is_none() {
            self.invalidations.forbid_inode(ino);
        }
        let until = last.map_or(until, |last| last.max(until));
        entries.push((index, until));
        until
    }

    /// Held back entries of the file that it may be told of now; `None`: nothing of it is held back.
    pub(crate) fn take_held_back(&mut self, now: Instant, ino: Ino) -> Option<Vec<LogIndex>> {
        let entries = self.held_back.get_mut(&ino)?;
        let due = entries.iter().take_while(|(_, until)| *until <= now).count();
        Some(entries.drain(..due).map(|(index, _)| index).collect())
    }

    /// These are being told.
    pub(crate) fn told_held_back(&mut self, ino: Ino, entries: Vec<LogIndex>) {
        if self.held_back.get(&ino).is_some_and(Vec::is_empty) {
            self.held_back.remove(&ino);
            self.invalidations.allow_inode(ino);
        }
        self.release_all(entries);
    }

    /// Everything may have been forgotten: its holder may have told it so.
    pub(crate) fn all_forgotten(&mut self, now: Instant) {
        self.sizes.all_forgotten(now);
    }

    // Names behind a directory's lock.

    /// Tells of the name when the directory's lock is free; until then nothing said about it is kept.
    pub(crate) fn defer(&mut self, parent: Ino, name: &Name) {
        if self.deferred.entry(parent).or_default().insert(name.clone()) {
            self.invalidations.forbid_name(parent, name);
        }
    }

    /// The names that were deferred; the caller allows each when it is being told.
    pub(crate) fn take_deferred(&mut self, parent: Ino) -> BTreeSet<Name> {
        self.deferred.remove(&parent).unwrap_or_default()
    }

    pub(crate) fn allow_name(&mut self, parent: Ino, name: &Name) {
        self.invalidations.allow_name(parent, name);
    }

    // Epochs.

    /// It was told the name in this epoch, perhaps.
    pub(crate) fn may_have_told(&self, parent: Ino, name: &Name) -> bool {
        self.epochs.may_have_told(parent, name)
    }

    /// Whether an epoch may be sent now; it counts as sent.
    pub(crate) fn send_epoch(&mut self, now: Instant, heartbeat: Duration) -> bool {
        let may = !self.epochs.has_waiting() && self.epoch_due(heartbeat).is_none_or(|due| due <= now);
        if may {
            self.epochs.last = Some(now);
        }
        may
    }

    /// The entry is acknowledged behind the next epoch. When that is due, for the first that waits.
    pub(crate) fn wait_for_epoch(&mut self, now: Instant, entry: LogIndex, heartbeat: Duration) -> Option<Instant> {
        self.invalidations.require(entry);
        let is_first = !self.epochs.has_waiting();
        let due = is_first.then(|| self.epoch_due(heartbeat).unwrap_or(now));
        self.epochs.wait(entry);
        due
    }

    /// An epoch is sent: the entries that waited for it. The caller releases each.
    pub(crate) fn take_epoch(&mut self, now: Instant) -> Vec<LogIndex> {
        self.epochs.last = Some(now);
        self.epochs.take_waiting()
    }

    /// When the next one may be sent. Whoever waits for it is not put out of the roster.
    fn epoch_due(&self, heartbeat: Duration) -> Option<Instant> {
        let asked_again = Duration::from_secs(1).saturating_mul(u32::try_from(self.lookups.len()).unwrap_or(u32::MAX));
        let pause = asked_again / NAMES_PER_SECOND;
        self.epochs.last.map(|last| last.after(pause.min(heartbeat * 2)))
    }

    // Sizes.

    /// The size in an answer that it would drop.
    pub(crate) fn size_dropped(&mut self, unique: u64, answer: &Answer) -> Option<(Ino, u64)> {
        self.sizes.dropped(unique, answer)
    }

    /// The ticket by which it was told of this content last, if it was.
    pub(crate) fn content_told_by(&self, ino: Ino, content: Content) -> Option<u64> {
        self.sizes.told_by(ino, content)
    }

    /// It is told of this content by the ticket.
    pub(crate) fn tells_content(&mut self, ino: Ino, content: Content, ticket: u64) {
        self.sizes.tells(ino, content, ticket);
    }

    /// The answer waits until it has carried the ticket out.
    pub(crate) fn answer_behind(&mut self, ticket: u64, unique: u64, answer: Answer) {
        self.sizes.wait_for(ticket, unique, answer);
    }

    /// Whether answers wait for the ticket.
    pub(crate) fn has_answers_behind(&self, ticket: u64) -> bool {
        self.sizes.is_telling(ticket)
    }

    /// It is given an answer that makes it drop attributes of the file which it asked for before.
    pub(crate) fn overtaken(&mut self, now: Instant, ino: Ino) {
        self.sizes.overtaken(now, ino);
    }

    /// The file is open here, and so long.
    pub(crate) fn file_opened(&mut self, ino: Ino, size: u64) {
        self.sizes.opened(ino, size);
    }

    /// It is not open any more.
    pub(crate) fn file_closed(&mut self, ino: Ino) {
        self.sizes.closed(ino);
    }

    /// The file's content changed, and it is so long now.
    pub(crate) fn size_changed(&mut self, ino: Ino, size: u64, is_elsewhere: bool) {
        self.sizes.changed(ino, size, is_elsewhere);
    }

    /// It may believe the open file shorter than it is.
    pub(crate) fn size_untold(&mut self, ino: Ino) {
        self.sizes.is_untold(ino);
    }

    pub(crate) fn has_grown(&self, ino: Ino) -> bool {
        self.sizes.has_grown(ino)
    }

    /// The same; it is told now.
    pub(crate) fn take_growth(&mut self, ino: Ino) -> bool {
        self.sizes.take_growth(ino)
    }

    pub(crate) fn sizes_untold(&self) -> impl Iterator<Item = Ino> + '_ {
        self.sizes.untold()
    }

    // Pages that a READ may have filled too early.

    /// It fills these pages for the thread.
    pub(crate) fn reads(&mut self, now: Instant, ino: Ino, thread: u32, range: Range) {
        self.refills.read(now, ino, thread, range);
    }

    /// The thread is not inside write(2) on the file.
    pub(crate) fn thread_asks(&mut self, ino: Ino, thread: u32) {
        self.refills.asked(ino, thread);
    }

    /// A WRITE of the thread has taken effect. The pages of it that may have been filled from before it.
    pub(crate) fn written(&mut self, ino: Ino, thread: u32, range: Range) -> Option<Range> {
        self.refills.written(ino, thread, range)
    }

    /// The ticket, if it runs, makes it forget pages that whoever reads waits for.
    pub(crate) fn drops_pages(&mut self, ticket: u64, ino: Ino) {
        if self.is_running(ticket) {
            self.refills.drops(ticket, ino);
        }
    }

    pub(crate) fn is_dropping_pages(&self, ino: Ino) -> bool {
        self.refills.is_dropping(ino)
    }

    /// Nobody writes the file any more.
    pub(crate) fn forget_readers(&mut self, ino: Ino) {
        self.refills.forget(ino);
    }

    /// The change of times waits for the ticket.
    pub(crate) fn write_back(&mut self, ticket: u64, unique: u64) {
        self.writing_back.insert(ticket, unique);
    }

    // What its holder can make it forget.

    pub(crate) fn is_watched(&self, ino: Ino) -> bool {
        self.watched.contains(ino)
    }

    pub(crate) fn watched_count(&self) -> usize {
        self.watched.len()
    }

    /// Has the inode in the holder's list: as an open file, as a directory, or not at all. What changes there.
    pub(crate) fn watch(&mut self, ino: Ino, is_open_file: Option<bool>) -> Option<SlotChange> {
        self.watched.set(ino, is_open_file)
    }

    /// The holder's list.
    pub(crate) fn watch_list(&self) -> impl Iterator<Item = SlotChange> + '_ {
        self.watched.iter()
    }

    /// When the holder is to make it forget, as the holder was told.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// It has forgotten everything when these tickets are done.
    pub(crate) fn forgets_by(&mut self, tickets: impl IntoIterator<Item = u64>) {
        self.forgetting.extend(tickets);
    }

    /// The holder's deadline, if it is another than the holder was told; `lease`: by the lease, while that is held.
    pub(crate) fn move_deadline(&mut self, lease: Option<Option<Instant>>) -> Option<Option<Instant>> {
        let invalidations = &self.invalidations;
        self.forgetting.retain(|ticket| invalidations.is_running(*ticket));
        let deadline = match lease {
            Some(deadline) => deadline,
            None if self.forgetting.is_empty() => None,
            None => self.deadline,
        };
        (deadline != self.deadline).then(|| {
            self.deadline = deadline;
            deadline
        })
    }
}
