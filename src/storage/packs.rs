//! Blocks on disk: append-only packs of them, their index, and what keeps each block alive.
//!
//! `put` returns when blocks and pins are synced in the pack; the catalog (rows in sled) may lose its newest changes in
//! a crash, so the records behind the last one it knows are read again when the store is opened. Everything needed to
//! read a block is in memory: a read is one read of the pack, verified with BLAKE3.

pub(crate) mod catalog;
mod compaction;
mod ended;
pub(crate) mod index;
pub(crate) mod pack;
pub(crate) mod record;
mod recovery;
pub(crate) mod writer;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use bytes::Bytes;
pub use catalog::{Catalog, CatalogChange};
pub use index::Location;
pub use record::Pin;

use self::{
    compaction::Wanted,
    index::Index,
    recovery::recover,
    writer::{GROUP_BYTES, Request, Writer},
};
use super::{Counters, StorageError, file::Directory, health::Health};
use crate::{
    limits,
    message::log::Unpinned,
    types::{BlockHash, SessionId, UploadId, VolumeId},
};

/// Sizes of packs.
#[derive(Clone, Copy, Debug)]
pub struct PackOptions {
    /// A pack is closed before it gets longer; default `limits::PACK_BYTES`.
    pub pack_bytes: u64,
    /// Space is reserved in steps of this, so that most writes do not change the file's length; default 4 MiB.
    pub reserve_bytes: u64,
    /// Space that uploads leave free for log, state and compaction.
    pub keep_free_bytes: u64,
    /// The pack that is being written is compacted only from this length on; default 8 MiB.
    pub compact_bytes_min: u64,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            pack_bytes: limits::PACK_BYTES,
            reserve_bytes: 4 * 1024 * 1024,
            keep_free_bytes: 0,
            compact_bytes_min: 8 * 1024 * 1024,
        }
    }
}

/// The blocks of a node. Clones are cheap. All calls may wait for the disk: not for async threads.
#[derive(Clone, Debug)]
pub struct Packs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    directory: Arc<dyn Directory>,
    options: PackOptions,
    catalog: Arc<dyn Catalog>,
    index: Mutex<Index>,
    queue: Mutex<Queue>,
    queued: Condvar,
    wanted: Wanted,
    health: Arc<Health>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Request>,
    closing: bool,
}

impl Packs {
    /// Opens the packs in a directory, empty at first. `references` says how many extents name each block. The writer
    /// runs until `close`; compaction runs only when it is asked for.
    ///
    /// # Errors
    /// `Row`, `State`, `Io`, `Access`, `ReadOnly`. Damaged packs are no error: their blocks are missing.
    pub fn open(
        directory: Arc<dyn Directory>,
        options: PackOptions,
        catalog: Arc<dyn Catalog>,
        references: &BTreeMap<BlockHash, u64>,
        on_event: super::OnEvent,
        counters: Arc<Counters>,
    ) -> Result<(Self, JoinHandle<()>), StorageError> {
        Self::open_with(directory, options, catalog, references, Health::new(on_event), counters)
    }

    pub(crate) fn open_with(
        directory: Arc<dyn Directory>,
        options: PackOptions,
        catalog: Arc<dyn Catalog>,
        references: &BTreeMap<BlockHash, u64>,
        health: Arc<Health>,
        counters: Arc<Counters>,
    ) -> Result<(Self, JoinHandle<()>), StorageError> {
        let recovered = recover(&*directory, &*catalog, options.pack_bytes, references, &counters)?;
        let shared = Arc::new(Shared {
            directory,
            options,
            catalog,
            index: Mutex::new(recovered.index),
            queue: Mutex::default(),
            queued: Condvar::new(),
            wanted: Wanted::default(),
            health,
            counters,
        });
        shared.count_usage();
        let writer =
            Writer { shared: Arc::clone(&shared), current: recovered.current, next_number: recovered.next_number };
        let thread = shared.health.spawn("packs", move || writer.run())?;
        let packs = Self { shared };
        packs.want_compaction();
        Ok((packs, thread))
    }

    /// Stores blocks and pins them for an upload. When it returns they, and the pins, are synced. A block that is
    /// there already is pinned and not stored twice. Without a pin a block that no extent names may be dropped at any
    /// time. Concurrent calls share syncs.
    ///
    /// # Errors
    /// `WrongHash`, `BlockSize`, `Full` (what had been stored before stays as it was), `Closed`, or what made the store
    /// fail.
    pub fn put(
        &self,
        blocks: Vec<(BlockHash, Bytes)>,
        pin: Option<(VolumeId, SessionId, UploadId)>,
    ) -> Result<(), StorageError> {
        let pin = pin.map(|(volume, session, upload)| Pin { volume, session, upload });
        self.put_all(blocks, pin, false)
    }

    /// As `put`, for content that the log has already promised: uses the space that is kept back too.
    pub(crate) fn put_committed(&self, blocks: Vec<(BlockHash, Bytes)>) -> Result<(), StorageError> {
        self.put_all(blocks, None, true)
    }

    fn put_all(&self, blocks: Vec<(BlockHash, Bytes)>, pin: Option<Pin>, may_fill: bool) -> Result<(), StorageError> {
        for (claimed, bytes) in &blocks {
            if bytes.is_empty() || bytes.len() > limits::BLOCK_BYTES_MAX {
                return Err(StorageError::BlockSize { found: bytes.len() });
            }
            let found = BlockHash::of(bytes);
            if found != *claimed {
                return Err(StorageError::WrongHash { claimed: *claimed, found, bytes: bytes.len() });
            }
        }
        let mut part = Vec::new();
        let mut part_bytes = 0;
        for block in blocks {
            part_bytes += block.1.len();
            part.push(block);
            if part_bytes >= GROUP_BYTES {
                let blocks = std::mem::take(&mut part);
                self.shared.ask(|done| Request::Put { blocks, pin, may_fill, done })?;
                part_bytes = 0;
            }
        }
        if part.is_empty() {
            return Ok(());
        }
        self.shared.ask(|done| Request::Put { blocks: part, pin, may_fill, done }).map(|_| ())
    }

    /// The block's bytes, verified; `None` where it is not here. Who may have them is for the caller to know: see
    /// `is_named`.
    ///
    /// # Errors
    /// `Damaged` where the bytes are not the block's any more: from then on the block is missing, and a `put` of it
    /// stores it anew. `Io` where they cannot be read.
    pub fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StorageError> {
        loop {
            let index = self.shared.index();
            if let Some(bytes) = index.waiting(hash) {
                return Ok(Some(bytes.clone()));
            }
            let Some(location) = index.location(hash) else { return Ok(None) };
            let Some(pack) = index.packs.get(&location.pack).map(|pack| pack.pack.clone()) else { return Ok(None) };
            drop(index);
            match pack.read(hash, location) {
                Ok(bytes) => {
                    self.shared.counters.blocks_read.add(1);
                    self.shared.counters.block_bytes_read.add(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Err(error) => {
                    if error.is_damage() && !self.shared.block_is_damaged(hash, location, &error) {
                        // It was moved meanwhile.
                        continue;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Whether the volume may read the block: its files name it, an upload of one of its sessions pins it, or that was so
    /// since the store was opened and the block is still here, as mounts that are behind need it.
    #[must_use]
    pub fn is_named(&self, volume: VolumeId, hash: &BlockHash) -> bool {
        self.shared.index().is_named(volume, hash)
    }

    /// How many blocks the session has pinned, and all sessions.
    #[must_use]
    pub fn pin_counts(&self, volume: VolumeId, session: SessionId) -> (usize, usize) {
        self.shared.index().pin_counts(volume, session)
    }

    /// From now on these volumes may read these blocks, as far as the packs know of them.
    pub(crate) fn name(&self, named: impl Iterator<Item = (VolumeId, BlockHash)>) {
        let mut index = self.shared.index();
        for (volume, hash) in named {
            index.name(volume, &hash);
        }
    }

    /// Whether the block is here. Only a pin or an extent keeps it here: see `put`.
    #[must_use]
    pub fn contains(&self, hash: &BlockHash) -> bool {
        let index = self.shared.index();
        index.location(hash).is_some() || index.waiting(hash).is_some()
    }

    /// Whether the store waits for a file descriptor.
    #[must_use]
    pub fn lacks_descriptors(&self) -> bool {
        self.shared.counters.lacks_descriptors()
    }

    /// Damaged blocks and records of the log that were found since the store was opened.
    #[must_use]
    pub fn damages(&self) -> u64 {
        self.shared.counters.damages.get()
    }

    /// The numbers of all packs, ascending.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.shared.index().packs.keys().copied().collect()
    }

    /// The living blocks of a pack, in the order in which they lie there.
    pub(crate) fn living_in(&self, pack: u32) -> Vec<(BlockHash, Location)> {
        let mut blocks: Vec<_> = self.shared.index().in_pack(pack);
        blocks.sort_unstable_by_key(|(_, location, _)| location.offset);
        blocks.into_iter().filter(|(_, _, live)| *live).map(|(hash, location, _)| (hash, location)).collect()
    }

    /// Reads the block from the disk, not from the system's memory. One that is damaged is missing from then on.
    pub(crate) fn verify(&self, hash: &BlockHash, location: Location) {
        let Some(pack) = self.shared.index().packs.get(&location.pack).map(|pack| pack.pack.clone()) else { return };
        pack.file.forget(u64::from(location.offset), record::block_record_bytes(location.length));
        match pack.read(hash, location) {
            Ok(_) => {}
            Err(error) if error.is_damage() => {
                self.shared.block_is_damaged(hash, location, &error);
            }
            Err(error) => tracing::warn!("block {hash} could not be verified: {error}"),
        }
    }

    /// Blocks that extents name and that are not here, up to `count` of them, in the order of their hashes, behind
    /// `after`: to be fetched from peers and `put` without a pin.
    #[must_use]
    pub fn missing(&self, after: Option<BlockHash>, count: usize) -> Vec<BlockHash> {
        self.shared.index().missing(after).take(count).collect()
    }

    /// All blocks in packs, with their places and how many extents name them.
    #[must_use]
    pub fn blocks(&self) -> Vec<(BlockHash, Location, u64)> {
        let index = self.shared.index();
        index.blocks().map(|(hash, location)| (*hash, location, index.references(hash))).collect()
    }

    /// All pins that hold.
    #[must_use]
    pub fn pins(&self) -> Vec<(Pin, BlockHash)> {
        let index = self.shared.index();
        index.pins().flat_map(|(pin, hashes)| hashes.iter().map(|hash| (*pin, *hash))).collect()
    }

    /// These blocks can be read from here on; they are put into a pack later (`content_stored`).
    pub(crate) fn content_waits(&self, content: &[(BlockHash, Bytes)]) {
        let mut index = self.shared.index();
        for (hash, bytes) in content {
            index.content_waits(hash, bytes);
        }
    }

    /// Ends these uploads: what that removes from the catalog.
    pub(crate) fn end(&self, unpinned: &[Unpinned]) -> Vec<(Pin, BlockHash)> {
        let mut index = self.shared.index();
        unpinned.iter().flat_map(|unpinned| index.end(unpinned)).collect()
    }

    /// Pins of sessions of which `is_over` is true.
    pub(crate) fn pins_of_ended(&self, is_over: impl Fn(VolumeId, SessionId) -> bool) -> Vec<(Pin, BlockHash)> {
        self.pins().into_iter().filter(|(pin, _)| is_over(pin.volume, pin.session)).collect()
    }

    /// Lifts pins of sessions of which `is_over` is true, for good; how many. Blocks without a name go with their packs.
    ///
    /// # Errors
    /// Of the catalog.
    pub(crate) fn lift_ended(&self, is_over: impl Fn(VolumeId, SessionId) -> bool) -> Result<usize, StorageError> {
        let ended = self.pins_of_ended(&is_over);
        self.shared.index().forget_sessions(is_over);
        if ended.is_empty() {
            return Ok(0);
        }
        let changes: Vec<_> = ended.iter().map(|(pin, hash)| CatalogChange::Pin(*pin, *hash, false)).collect();
        self.shared.catalog.apply(&changes)?;
        self.apply_references(&[], &ended, &[])?;
        Ok(ended.len())
    }

    /// Counts what a batch of entries changed, in this order: references, then the pins that ended, then what waited
    /// is let go.
    ///
    /// # Errors
    /// `Misuse` where a block would be named less than zero times.
    pub fn apply_references(
        &self,
        references: &[(BlockHash, i64)],
        ended: &[(Pin, BlockHash)],
        stored: &[(BlockHash, Bytes)],
    ) -> Result<(), StorageError> {
        let mut sums: BTreeMap<&BlockHash, i64> = BTreeMap::new();
        for (hash, change) in references {
            *sums.entry(hash).or_default() += change;
        }
        let mut index = self.shared.index();
        for (hash, change) in sums {
            index.add_references(hash, change)?;
        }
        for (pin, hash) in ended {
            index.remove_pin(pin, hash);
        }
        for (hash, _) in stored {
            index.content_stored(hash);
        }
        drop(index);
        self.want_compaction();
        Ok(())
    }

    /// Counts all references anew.
    pub(crate) fn replace_references(&self, references: &BTreeMap<BlockHash, u64>) {
        self.shared.index().replace_references(references);
        self.want_compaction();
    }

    fn want_compaction(&self) {
        self.shared.count_usage();
        if !self.shared.worth_compacting().is_empty() {
            self.shared.wanted.want();
        }
    }

    /// Bytes that uploads may still take.
    ///
    /// # Errors
    /// `Io`, `Access` where the file system does not answer.
    pub fn free_for_uploads(&self) -> Result<u64, StorageError> {
        Ok(self.shared.available()?.saturating_sub(self.shared.options.keep_free_bytes))
    }

    /// The threads end when they have done what was submitted; later calls get `Closed`.
    pub fn close(&self) {
        self.shared.wanted.close();
        self.shared.close();
    }
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Its tables change only together; a panic between is caught by the thread's guard and ends the store.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).closing = true;
        self.queued.notify_all();
    }

    fn submit(&self, request: Request) -> Result<(), StorageError> {
        self.health.check()?;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.closing {
            return Err(StorageError::Closed);
        }
        queue.requests.push_back(request);
        self.queued.notify_one();
        Ok(())
    }

    /// Waits for work: writes that can share a group, or one other request. Nothing at the end.
    fn next_requests(&self) -> Vec<Request> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |queue: &mut Queue| queue.requests.is_empty() && !queue.closing;
        let mut queue = self.queued.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
        let mut group: Vec<Request> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = queue.requests.front() {
            let joins = next.is_write() && bytes + next.bytes() <= GROUP_BYTES && group.iter().all(Request::is_write);
            if !group.is_empty() && !joins {
                break;
            }
            bytes += next.bytes();
            group.extend(queue.requests.pop_front());
        }
        group
    }

    /// The block is missing from here on, unless it is elsewhere by now: then false.
    fn block_is_damaged(&self, hash: &BlockHash, location: Location, error: &StorageError) -> bool {
        let mut index = self.index();
        match index.location(hash) {
            Some(now) if now != location => return false,
            Some(_) => index.set_location(hash, None),
            None => {}
        }
        drop(index);
        self.counters.damages.add(1);
        tracing::error!("{error}; the block is missing here until a peer gives it");
        true
    }

    /// Bytes of the file system that can still be written.
    fn available(&self) -> Result<u64, StorageError> {
        self.directory.available().map_err(|error| StorageError::io("read", self.directory.path(), error))
    }

    /// Packs to compact, those with the least to copy first: the mostly dead ones, and where uploads find no space any
    /// more, all that give back a fifth and more.
    fn worth_compacting(&self) -> Vec<u32> {
        let PackOptions { compact_bytes_min, keep_free_bytes, reserve_bytes, .. } = self.options;
        // Where the file system does not answer, its next write says so.
        let available = self.available().unwrap_or(u64::MAX);
        if available >= keep_free_bytes + reserve_bytes {
            return self.index().worth_compacting(1, compact_bytes_min, u64::MAX);
        }
        self.index().worth_compacting(4, compact_bytes_min / 8, available.saturating_sub(keep_free_bytes / 8))
    }

    fn count_usage(&self) {
        let (live, dead) = self.index().usage();
        self.counters.pack_live_bytes.set(live);
        self.counters.pack_dead_bytes.set(dead);
    }
}
