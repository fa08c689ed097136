//! A model of one kernel's side of FUSE: what it caches, which locks it holds while it waits for an answer, and how
//! notifications meet them. Sources: Linux 6.18 `fs/fuse/dir.c`, `inode.c`, `file.c`, `readdir.c`; the
//! executions that go wrong with it are in docs/protocol.md.
//!
//! - A dentry is valid until its TTL ends or the epoch moves on; a negative one likewise.
//! - GETATTR and revalidating LOOKUP store attributes only if nothing touched the inode since they were sent; CREATE,
//!   SETATTR and the first LOOKUP store theirs whatever happened meanwhile.
//! - A request that changes a directory holds its lock until the answer, LOOKUP and READDIR hold it shared; INVAL_ENTRY
//!   waits for it. Locks are granted in order, so a waiting writer holds up later readers.
//! - WRITE and SETATTR hold the file's lock; UNLINK and RENAME take it below the directory's.
//! - READ and the last partial page of a WRITE keep pages locked until the answer; INVAL_INODE of pages waits for them.
//! - Pages that are up to date have the bytes of a WRITE, and are free, before it is sent: what drops one then leaves it to a
//!   READ to fill it from before.
//! - RENAME moves the dentry that the kernel believed in, with its TTL.
//! - An answer is worked on in the caller's context: a notification sent after it may overtake it.

mod tickets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use self::tickets::Ticket;
use super::options::Options;
use crate::{
    mount::{Request, Response},
    types::{Attributes, Errno, Ino, Instant, Name},
};

pub(super) const PAGE: u64 = 4096;

/// Who holds or waits for a lock: a process's call, or a ticket of notifications.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Owner {
    Process(usize),
    Ticket(u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hold {
    Shared,
    Exclusive,
}

/// A cached name.
#[derive(Clone, Debug)]
struct Dentry {
    /// One that was dropped and made again is another.
    identity: u64,
    ino: Option<Ino>,
    until: Instant,
    epoch: u64,
}

/// What the cache says of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cached {
    Known(Option<Ino>),
    /// The name was known and is to be asked for again, without the directory's lock.
    Expired {
        identity: u64,
        ino: Ino,
    },
    Unknown,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) lookups: u64,
    pub(super) attributes: Option<Attributes>,
    until: Instant,
    version: u64,
    pub(super) pages: BTreeMap<u64, Bytes>,
    locked: BTreeMap<u64, u64>,
    /// Names and where they lead, with the directory's mtime they were read at.
    pub(super) listing: Option<(Vec<(Bytes, Ino)>, crate::types::Timestamp)>,
    /// Moves on when the kernel itself changes the directory: what is being read then is not kept (`inode_inc_iversion`).
    pub(super) listing_version: u64,
    /// Moves on when the listing's pages are dropped: only what has been put into them is gone (`fuse_add_dirent_to_cache`).
    pub(super) listing_drops: u64,
    pub(super) opens: u64,
    /// How often what was written to a mapping did not get back to the file (lib/errseq.c).
    pub(super) write_errors: u64,
}

#[derive(Debug, Default)]
struct LockQueue {
    held: Vec<(Owner, Hold)>,
    waiting: VecDeque<(Owner, Hold)>,
}

impl LockQueue {
    fn grant(&mut self) -> bool {
        let mut granted = false;
        while let Some((owner, hold)) = self.waiting.front().copied() {
            let is_free = match hold {
                Hold::Exclusive => self.held.is_empty(),
                Hold::Shared => self.held.iter().all(|(_, other)| *other == Hold::Shared),
            };
            if !is_free {
                break;
            }
            self.waiting.pop_front();
            self.held.push((owner, hold));
            granted = true;
        }
        granted
    }
}

/// What an answer changes in the caches, noted when the request is sent.
#[derive(Clone, Debug)]
pub(super) enum Context {
    Lookup {
        parent: Ino,
        name: Name,
        epoch: u64,
        version: u64,
        revalidates: Option<u64>,
    },
    Getattr {
        ino: Ino,
        version: u64,
    },
    Setattr {
        ino: Ino,
    },
    /// CREATE, MKDIR, LINK: a new name.
    New {
        parent: Ino,
        name: Name,
        epoch: u64,
    },
    Remove {
        parent: Ino,
        name: Name,
    },
    Rename {
        from: (Ino, Name),
        to: (Ino, Name),
        exchange: bool,
    },
    Open {
        ino: Ino,
    },
    Read {
        ino: Ino,
        pages: (u64, u64),
        is_direct: bool,
    },
    /// `locked`: pages that are not up to date.
    Write {
        ino: Ino,
        offset: u64,
        length: u64,
        is_direct: bool,
        locked: Vec<u64>,
    },
    /// The page of a mapping, by the process that ends it.
    WriteBack {
        ino: Ino,
    },
    /// The same by a notification that is to drop the page.
    Launder {
        ino: Ino,
    },
    Plain,
}

#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) now: Instant,
    inodes: BTreeMap<Ino, Inode>,
    dentries: BTreeMap<(Ino, Name), Dentry>,
    locks: BTreeMap<Ino, LockQueue>,
    tickets: BTreeMap<u64, Ticket>,
    pending: BTreeMap<u64, (usize, Context)>,
    pub(super) epoch: u64,
    /// First pages of files that were written to by a mapping, and through which open file they go back.
    dirty: BTreeMap<Ino, (u64, Vec<u8>)>,
    attribute_version: u64,
    serial: u64,
    /// Requests for the mount, in order.
    pub(super) sent: Vec<(u64, usize, Request)>,
    /// OPENDIR was refused with ENOSYS: it is never sent again, listings are kept.
    pub(super) no_opendir: bool,
    /// FUSE_NOTIFY_INVAL_ENTRY is that of Linux 6.19: it looks the name up without the directory's lock, and does
    /// nothing if there is no file of that name (docs/protocol.md R2-telling).
    inval_entry_fails: bool,
    /// Files whose size the mount cannot tell it before it asks.
    pub(super) untold: BTreeSet<Ino>,
    /// A lock or page was given back: whoever waits may look again.
    pub(super) stirred: bool,
}

impl Kernel {
    pub(super) fn new(options: &Options) -> Self {
        Self { inval_entry_fails: !options.inval_entry, ..Self::default() }
    }

    pub(super) fn inode(&mut self, ino: Ino) -> &mut Inode {
        self.inodes.entry(ino).or_default()
    }

    pub(super) fn send(&mut self, process: usize, request: Request, context: Context) -> u64 {
        self.serial += 1;
        self.pending.insert(self.serial, (process, context));
        self.sent.push((self.serial, process, request));
        self.serial
    }

    pub(super) fn cached(&self, parent: Ino, name: &Name) -> Cached {
        match self.dentries.get(&(parent, name.clone())) {
            Some(dentry) if self.now < dentry.until && dentry.epoch == self.epoch => Cached::Known(dentry.ino),
            Some(Dentry { identity, ino: Some(ino), .. }) => Cached::Expired { identity: *identity, ino: *ino },
            _ => Cached::Unknown,
        }
    }

    /// Attributes that may be shown without asking.
    pub(super) fn fresh_attributes(&self, ino: Ino) -> Option<Attributes> {
        let inode = self.inodes.get(&ino)?;
        inode.attributes.filter(|_| self.now < inode.until)
    }

    /// What the inode looked like when its attributes were last told and taken over, valid or not.
    pub(super) fn believed_attributes(&self, ino: Ino) -> Option<Attributes> {
        self.inodes.get(&ino)?.attributes
    }

    /// The kernel's i_size.
    pub(super) fn known_size(&self, ino: Ino) -> u64 {
        self.believed_attributes(ino).map_or(0, |attributes| attributes.size)
    }

    /// A READ got fewer bytes than it asked for: the file ends here, unless something overtook the answer
    /// (fuse_read_update_size). (Linux shows the new size beside the old times, until it is told of the change that is
    /// under way.)
    pub(super) fn read_short(&mut self, ino: Ino, end: u64, since: u64) {
        let is_told = self.inode(ino).version > since || self.fresh_attributes(ino).is_some();
        if let Some(attributes) = self.inode(ino).attributes.as_mut().filter(|_| !is_told) {
            attributes.size = attributes.size.min(end);
        }
    }

    /// What a request notes before it is sent, to see later whether its answer was overtaken.
    pub(super) fn version(&self) -> u64 {
        self.attribute_version
    }

    /// True once the owner holds the lock; it waits in line until then.
    pub(super) fn lock(&mut self, owner: Owner, directory: Ino, hold: Hold) -> bool {
        let queue = self.locks.entry(directory).or_default();
        if queue.held.iter().any(|(holder, _)| *holder == owner) {
            return true;
        }
        if !queue.waiting.iter().any(|(waiter, _)| *waiter == owner) {
            queue.waiting.push_back((owner, hold));
        }
        queue.grant();
        queue.held.iter().any(|(holder, _)| *holder == owner)
    }

    pub(super) fn unlock(&mut self, owner: Owner, directory: Ino) {
        if let Some(queue) = self.locks.get_mut(&directory) {
            queue.held.retain(|(holder, _)| *holder != owner);
            queue.waiting.retain(|(waiter, _)| *waiter != owner);
            queue.grant();
            self.stirred = true;
        }
    }

    /// Whether a call is changing the directory.
    pub(super) fn is_being_changed(&self, directory: Ino) -> bool {
        let is_change = |(owner, hold): &(Owner, Hold)| matches!((owner, hold), (Owner::Process(_), Hold::Exclusive));
        self.locks.get(&directory).is_some_and(|queue| queue.held.iter().any(is_change))
    }

    pub(super) fn directories_being_changed(&self) -> impl Iterator<Item = Ino> + '_ {
        self.locks.keys().copied().filter(|directory| self.is_being_changed(*directory))
    }

    pub(super) fn are_locked(&self, ino: Ino, first: u64, last: u64) -> bool {
        self.inodes.get(&ino).is_some_and(|inode| inode.locked.range(first..=last).next().is_some())
    }

    pub(super) fn lock_pages(&mut self, ino: Ino, first: u64, last: u64) {
        let inode = self.inode(ino);
        for page in first..=last {
            *inode.locked.entry(page).or_insert(0) += 1;
        }
    }

    /// A process writes to memory. `content` is what it had read.
    pub(super) fn write_mapped(&mut self, ino: Ino, fh: u64, content: &[u8], (offset, data): (u64, &[u8])) {
        let kept = self.inode(ino).pages.get(&0).map(|page| page.to_vec());
        let mut page = kept.unwrap_or_else(|| content.to_vec());
        page.resize(PAGE as usize, 0);
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        page[at..][..data.len()].copy_from_slice(data);
        self.inode(ino).pages.insert(0, page.clone().into());
        self.dirty.insert(ino, (fh, page));
    }

    /// What of a mapping is to go back to the file: locked until it is answered.
    pub(super) fn begin_write_back(&mut self, ino: Ino) -> Option<(u64, Bytes)> {
        let (fh, mut page) = self.dirty.remove(&ino)?;
        page.truncate(usize::try_from(self.known_size(ino)).unwrap_or(usize::MAX));
        if page.is_empty() {
            return None;
        }
        self.lock_pages(ino, 0, 0);
        Some((fh, page.into()))
    }

    fn unlock_pages(&mut self, ino: Ino, pages: impl Iterator<Item = u64>) {
        let inode = self.inode(ino);
        for page in pages {
            inode.locked.remove(&page);
        }
        self.stirred = true;
    }

    /// Drops names and inodes that nothing uses, as memory pressure does; says what was forgotten.
    pub(super) fn evict(&mut self, ino: Ino) {
        let is_used = self.inodes.get(&ino).is_none_or(|inode| inode.opens > 0 || !inode.locked.is_empty())
            || !self.pending.is_empty()
            || !self.tickets.is_empty()
            || ino == Ino::ROOT;
        let has_children = self.dentries.keys().any(|(parent, _)| *parent == ino);
        if is_used || has_children {
            return;
        }
        self.dentries.retain(|_, dentry| dentry.ino != Some(ino));
        if let Some(inode) = self.inodes.remove(&ino).filter(|inode| inode.lookups > 0) {
            self.forget(ino, inode.lookups);
        }
    }

    fn forget(&mut self, ino: Ino, lookups: u64) {
        self.serial += 1;
        self.sent.push((self.serial, 0, Request::Forget { inodes: vec![(ino, lookups)] }));
    }

    pub(super) fn inodes_known(&self) -> Vec<Ino> {
        self.inodes.keys().copied().collect()
    }

    /// The caller works on the answer; says whose call it is.
    pub(super) fn answered(&mut self, unique: u64, result: &Result<Response, Errno>) -> Option<usize> {
        let (process, context) = self.pending.remove(&unique)?;
        let is_call = !matches!(context, Context::Launder { .. });
        self.absorb(context, result);
        is_call.then_some(process)
    }

    fn absorb(&mut self, context: Context, result: &Result<Response, Errno>) {
        match (context, result) {
            (Context::Lookup { parent, name, epoch, version, revalidates }, Ok(response)) => {
                self.looked_up(parent, name, epoch, version, revalidates, response);
            }
            (Context::Lookup { parent, name, revalidates: Some(_), .. }, Err(_)) => {
                self.dentries.remove(&(parent, name));
            }
            (Context::Getattr { ino, version }, Ok(Response::Attributes { attributes, ttl })) => {
                let until = self.now.after(*ttl);
                self.store(ino, *attributes, until, Some(version));
            }
            (Context::Setattr { ino }, Ok(Response::Attributes { attributes, ttl })) => {
                let until = self.now.after(*ttl);
                let size = attributes.size;
                self.store(ino, *attributes, until, None);
                self.cut_pages(ino, size);
            }
            (
                Context::New { parent, name, epoch },
                Ok(
                    Response::Entry { attributes, entry_ttl, attributes_ttl }
                    | Response::Created { attributes, entry_ttl, attributes_ttl, .. },
                ),
            ) => {
                let ino = attributes.ino;
                self.inode(ino).lookups += 1;
                let until = self.now.after(*attributes_ttl);
                self.store(ino, *attributes, until, None);
                let until = self.now.after(*entry_ttl);
                self.remember(parent, name, Some(ino), until, epoch);
                self.directory_changed(parent);
            }
            (Context::Remove { parent, name }, Ok(_)) => {
                if let Some(ino) = self.dentries.remove(&(parent, name)).and_then(|dentry| dentry.ino) {
                    self.touched(ino);
                }
                self.directory_changed(parent);
            }
            (Context::Rename { from, to, exchange }, Ok(_)) => self.renamed(from, to, exchange),
            (Context::Open { ino }, Ok(Response::Opened(opened))) if !opened.keep_cache && !opened.direct_io => {
                self.drop_clean_pages(ino);
            }
            (Context::Read { ino, pages: (first, last), is_direct }, result) => {
                if is_direct {
                    return;
                }
                if let Ok(Response::Data(parts)) = result {
                    let data = parts.concat();
                    for page in first..=last {
                        let begin = usize::try_from((page - first) * PAGE).unwrap_or(usize::MAX).min(data.len());
                        let end = (begin + PAGE as usize).min(data.len());
                        let mut content = data[begin..end].to_vec();
                        content.resize(PAGE as usize, 0);
                        self.inode(ino).pages.insert(page, content.into());
                    }
                }
                self.unlock_pages(ino, first..=last);
            }
            (Context::Write { ino, offset, length, is_direct, locked }, result) => {
                if result.is_ok() {
                    let inode = self.inode(ino);
                    if let Some(attributes) = &mut inode.attributes {
                        attributes.size = attributes.size.max(offset + length);
                    }
                    inode.until = Instant(0);
                    self.touched(ino);
                } else if !is_direct {
                    self.drop_pages(ino, offset, offset + length);
                }
                self.unlock_pages(ino, locked.into_iter());
            }
            (Context::WriteBack { ino } | Context::Launder { ino }, result) => {
                self.inode(ino).write_errors += u64::from(result.is_err());
                // fuse_writepage_end: times are not known any more.
                self.inode(ino).until = Instant(0);
                self.unlock_pages(ino, 0..=0);
            }
            _ => {}
        }
    }

    fn looked_up(
        &mut self,
        parent: Ino,
        name: Name,
        epoch: u64,
        version: u64,
        revalidates: Option<u64>,
        response: &Response,
    ) {
        let is_living = |kernel: &Self, identity: u64| {
            kernel.dentries.get(&(parent, name.clone())).is_some_and(|dentry| dentry.identity == identity)
        };
        // fuse_dentry_revalidate: a name that leads elsewhere now is dropped and looked up under the directory's lock.
        if let (Some(identity), Response::Entry { attributes, .. }) = (revalidates, response)
            && self.dentries.get(&(parent, name.clone())).is_none_or(|dentry| dentry.ino != Some(attributes.ino))
        {
            if is_living(self, identity) {
                self.dentries.remove(&(parent, name));
            }
            self.forget(attributes.ino, 1);
            return;
        }
        match response {
            Response::Entry { attributes, entry_ttl, attributes_ttl } => {
                let (ino, until) = (attributes.ino, self.now.after(*attributes_ttl));
                let is_new = !self.inodes.contains_key(&ino);
                self.inode(ino).lookups += 1;
                self.store(ino, *attributes, until, (!is_new).then_some(version));
                let until = self.now.after(*entry_ttl);
                match revalidates {
                    // What was dropped meanwhile stays dropped.
                    Some(identity) if !is_living(self, identity) => {}
                    _ => self.remember(parent, name, Some(ino), until, epoch),
                }
            }
            Response::Missing { ttl } => {
                let until = self.now.after(*ttl);
                match revalidates {
                    Some(identity) if !is_living(self, identity) => {}
                    // A revalidation that finds nothing drops the name; the lookup that follows may cache it.
                    Some(_) => {
                        self.dentries.remove(&(parent, name));
                    }
                    None => self.remember(parent, name, None, until, epoch),
                }
            }
            _ => {}
        }
    }

    fn remember(&mut self, parent: Ino, name: Name, ino: Option<Ino>, until: Instant, epoch: u64) {
        self.serial += 1;
        self.dentries.insert((parent, name), Dentry { identity: self.serial, ino, until, epoch });
    }

    /// `since`: stored only if the inode was not touched after this version.
    fn store(&mut self, ino: Ino, attributes: Attributes, until: Instant, since: Option<u64>) {
        if since.is_some_and(|since| self.inode(ino).version > since) {
            return;
        }
        let is_changed = |old: &Attributes| old.mtime != attributes.mtime || old.size != attributes.size;
        let drops_pages = since.is_some() && self.inode(ino).attributes.as_ref().is_some_and(is_changed);
        self.touched(ino);
        let inode = self.inode(ino);
        (inode.attributes, inode.until) = (Some(attributes), until);
        // FUSE_AUTO_INVAL_DATA.
        if drops_pages {
            self.drop_clean_pages(ino);
        }
    }

    /// What is dirty stays: Linux writes it back first, and waits.
    fn drop_clean_pages(&mut self, ino: Ino) {
        let is_dirty = self.dirty.contains_key(&ino);
        self.inode(ino).pages.retain(|page, _| is_dirty && *page == 0);
    }

    fn touched(&mut self, ino: Ino) {
        self.attribute_version += 1;
        let version = self.attribute_version;
        self.inode(ino).version = version;
    }

    /// FUSE_NOTIFY_INVAL_INODE, as far as it is done at once.
    pub(super) fn forget_attributes(&mut self, ino: Ino) {
        if self.inodes.contains_key(&ino) {
            self.touched(ino);
            self.inode(ino).until = Instant(0);
        }
    }

    /// Answers under way count as before (fuse_dir_changed): only a notification of the inode itself overtakes them.
    fn directory_changed(&mut self, directory: Ino) {
        let inode = self.inode(directory);
        inode.until = Instant(0);
        inode.listing = None;
        inode.listing_version += 1;
    }

    fn renamed(&mut self, from: (Ino, Name), to: (Ino, Name), exchange: bool) {
        let (moved, replaced) = (self.dentries.remove(&from), self.dentries.remove(&to));
        let ino_of = |dentry: &Option<Dentry>| dentry.as_ref().and_then(|dentry| dentry.ino);
        // The change time of what was moved (fuse_update_ctime); the link count of what was replaced, which overtakes
        // answers (fuse_entry_unlinked).
        for ino in [ino_of(&moved), ino_of(&replaced)].into_iter().flatten() {
            self.inode(ino).until = Instant(0);
        }
        if let Some(ino) = ino_of(&replaced).filter(|_| !exchange) {
            self.forget_attributes(ino);
        }
        self.directory_changed(from.0);
        self.directory_changed(to.0);
        if let Some(moved) = moved {
            self.dentries.insert(to, moved);
        }
        if let Some(replaced) = replaced.filter(|_| exchange) {
            self.dentries.insert(from, replaced);
        }
    }

    fn cut_pages(&mut self, ino: Ino, size: u64) {
        let inode = self.inode(ino);
        inode.pages.retain(|page, _| page * PAGE < size);
        if let Some(content) = inode.pages.get_mut(&(size / PAGE)) {
            let mut cut = content[..usize::try_from(size % PAGE).unwrap_or(0)].to_vec();
            cut.resize(PAGE as usize, 0);
            *content = cut.into();
        }
    }

    /// What write(2) does before its WRITE is sent: pages take the bytes. Those that are not up to date are locked until the
    /// answer (docs/protocol.md R8-locked-pages): says which. A direct write drops the pages below it instead. `None`:
    /// a page is locked already.
    pub(super) fn copy(&mut self, ino: Ino, offset: u64, data: &[u8], is_direct: bool) -> Option<Vec<u64>> {
        let end = offset + data.len() as u64;
        let (first, last) = (offset / PAGE, (end - 1) / PAGE);
        if self.are_locked(ino, first, last) {
            return None;
        }
        if is_direct {
            self.drop_pages(ino, offset, end);
            return Some(Vec::new());
        }
        self.written(ino, offset, data);
        let unread: Vec<u64> = (first..=last).filter(|page| !self.inode(ino).pages.contains_key(page)).collect();
        unread.iter().for_each(|page| self.lock_pages(ino, *page, *page));
        Some(unread)
    }

    fn drop_pages(&mut self, ino: Ino, begin: u64, end: u64) {
        self.inode(ino).pages.retain(|page, _| (page + 1) * PAGE <= begin || page * PAGE >= end);
    }

    /// Pages that were whole or up to date take the bytes; the others stay unread.
    fn written(&mut self, ino: Ino, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let (begin, finish) = ((page * PAGE).max(offset), ((page + 1) * PAGE).min(end));
            let is_whole = finish - begin == PAGE;
            let inode = self.inode(ino);
            let old = match inode.pages.get(&page) {
                Some(old) => old.to_vec(),
                None if is_whole => vec![0; PAGE as usize],
                None => continue,
            };
            let mut content = old;
            let at = |position: u64, base: u64| usize::try_from(position - base).unwrap_or(0);
            content[at(begin, page * PAGE)..at(finish, page * PAGE)]
                .copy_from_slice(&data[at(begin, offset)..at(finish, offset)]);
            inode.pages.insert(page, content.into());
        }
    }

    /// What tickets and calls wait for, in words: for the report of a hang.
    pub(super) fn waits(&self) -> Vec<String> {
        let tickets = self
            .tickets
            .iter()
            .map(|(ticket, running)| format!("ticket {ticket} hangs at {:?}", running.notifications.front()));
        let locks = self
            .locks
            .iter()
            .filter(|(_, queue)| !queue.held.is_empty())
            .map(|(ino, queue)| format!("lock of {ino}: held by {:?}, waiting {:?}", queue.held, queue.waiting));
        let calls = self.pending.iter().map(|(unique, (process, context))| {
            format!("request {unique} of process {process} unanswered: {context:?}")
        });
        tickets.chain(locks).chain(calls).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mount::Notification;
    use crate::types::{FileKind, Timestamp};

    const DIRECTORY: Ino = Ino(2);
    const FILE: Ino = Ino(3);
    const LONG: Duration = Duration::from_secs(1000);

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    fn attributes(size: u64) -> Attributes {
        let time = Timestamp::default();
        Attributes {
            ino: FILE,
            kind: FileKind::File,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    fn entry(size: u64) -> Result<Response, Errno> {
        Ok(Response::Entry { attributes: attributes(size), entry_ttl: LONG, attributes_ttl: LONG })
    }

    /// Sends the request of process 0 and says its number.
    fn ask(kernel: &mut Kernel, context: Context) -> u64 {
        kernel.send(0, Request::Getattr { ino: FILE, for_read: false }, context);
        kernel.sent.last().expect("it was just sent").0
    }

    fn lookup(kernel: &Kernel, revalidates: Option<u64>) -> Context {
        let (epoch, version) = (kernel.epoch, kernel.version());
        Context::Lookup { parent: DIRECTORY, name: name("x"), epoch, version, revalidates }
    }

    fn with_name() -> Kernel {
        let mut kernel = Kernel::default();
        kernel.inode(DIRECTORY);
        let context = lookup(&kernel, None);
        let unique = ask(&mut kernel, context);
        kernel.answered(unique, &entry(1));
        kernel
    }

    #[test]
    fn a_name_is_forgotten_only_when_nobody_holds_its_directory() {
        let mut kernel = with_name();
        assert!(kernel.lock(Owner::Process(0), DIRECTORY, Hold::Exclusive));
        kernel.notify(1, vec![Notification::Name { parent: DIRECTORY, name: name("x") }]);
        assert!(kernel.run_tickets().is_empty());
        // Locks go in order: a reader behind the waiting notification waits as well.
        assert!(!kernel.lock(Owner::Process(1), DIRECTORY, Hold::Shared));
        assert_eq!(kernel.cached(DIRECTORY, &name("x")), Cached::Known(Some(FILE)));
        kernel.unlock(Owner::Process(0), DIRECTORY);
        assert_eq!(kernel.run_tickets(), [1]);
        assert_eq!(kernel.cached(DIRECTORY, &name("x")), Cached::Unknown);
        assert!(kernel.lock(Owner::Process(1), DIRECTORY, Hold::Shared));
    }

    #[test]
    fn the_epoch_and_attributes_need_no_lock() {
        let mut kernel = with_name();
        kernel.lock(Owner::Process(0), DIRECTORY, Hold::Exclusive);
        kernel.lock_pages(FILE, 0, 0);
        kernel.notify(1, vec![Notification::AllNames, Notification::Attributes { ino: FILE }]);
        assert_eq!(kernel.run_tickets(), [1]);
        assert!(matches!(kernel.cached(DIRECTORY, &name("x")), Cached::Expired { .. }));
        assert_eq!(kernel.fresh_attributes(FILE), None);
    }

    #[test]
    fn pages_that_a_request_has_locked_are_waited_for() {
        let mut kernel = with_name();
        kernel.lock_pages(FILE, 0, 0);
        let read = ask(&mut kernel, Context::Read { ino: FILE, pages: (0, 0), is_direct: false });
        kernel.notify(1, vec![Notification::Pages { ino: FILE, offset: 0, length: 0 }]);
        assert!(kernel.run_tickets().is_empty());
        kernel.answered(read, &Ok(Response::Data(vec![Bytes::from_static(b"old")])));
        assert_eq!(kernel.run_tickets(), [1]);
        assert!(kernel.inode(FILE).pages.is_empty());
    }

    #[test]
    fn attributes_that_were_overtaken_are_kept_only_where_linux_keeps_them() {
        let mut kernel = with_name();
        let version = kernel.version();
        let getattr = ask(&mut kernel, Context::Getattr { ino: FILE, version });
        let setattr = ask(&mut kernel, Context::Setattr { ino: FILE });
        kernel.notify(1, vec![Notification::Attributes { ino: FILE }]);
        kernel.run_tickets();
        kernel.answered(getattr, &Ok(Response::Attributes { attributes: attributes(7), ttl: LONG }));
        assert_eq!(kernel.fresh_attributes(FILE), None);
        kernel.answered(setattr, &Ok(Response::Attributes { attributes: attributes(8), ttl: LONG }));
        assert_eq!(kernel.fresh_attributes(FILE).map(|found| found.size), Some(8));
    }

    #[test]
    fn a_name_that_was_dropped_while_it_was_asked_for_again_stays_dropped() {
        let mut kernel = with_name();
        kernel.epoch += 1;
        let Cached::Expired { identity, .. } = kernel.cached(DIRECTORY, &name("x")) else { panic!("it expired") };
        let context = lookup(&kernel, Some(identity));
        let unique = ask(&mut kernel, context);
        kernel.notify(1, vec![Notification::Name { parent: DIRECTORY, name: name("x") }]);
        kernel.run_tickets();
        kernel.answered(unique, &entry(1));
        assert_eq!(kernel.cached(DIRECTORY, &name("x")), Cached::Unknown);
    }

    #[test]
    fn a_rename_moves_what_the_kernel_believed() {
        let mut kernel = with_name();
        let (from, to) = ((DIRECTORY, name("x")), (DIRECTORY, name("y")));
        let unique = ask(&mut kernel, Context::Rename { from, to, exchange: false });
        kernel.answered(unique, &Ok(Response::Done));
        assert_eq!(kernel.cached(DIRECTORY, &name("y")), Cached::Known(Some(FILE)));
        assert_eq!(kernel.cached(DIRECTORY, &name("x")), Cached::Unknown);
    }
}
