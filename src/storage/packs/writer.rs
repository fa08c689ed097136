//! The one thread that writes packs: everything that waits goes into one write and one sync.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, mpsc::SyncSender},
};

use bytes::Bytes;

use super::{
    PackOptions, Shared,
    catalog::CatalogChange,
    index::{Location, PackUse},
    pack::Pack,
    record::{Pin, RecordHead},
};
use crate::{
    storage::{StorageError, header::HEADER_BYTES},
    types::BlockHash,
};

/// Bytes that are written and synced as one group at most, unless one request alone has more.
pub(crate) const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// What the writer is asked to do. All are answered once they are synced.
#[derive(Debug)]
pub(crate) enum Request {
    /// Stores blocks, verified by the caller. `may_fill`: may use the space that is kept back.
    Put { blocks: Vec<(BlockHash, Bytes)>, pin: Option<Pin>, may_fill: bool, done: Done },
    /// Stores live blocks once more, away from where they are.
    Move { blocks: Vec<(BlockHash, Bytes, Location)>, done: Done },
    /// Writes no more to this pack.
    Close { pack: u32, done: Done },
    /// Forgets a pack without live blocks; false where it still has one. `damaged` blocks are forgotten with it.
    Forget { pack: u32, damaged: Vec<BlockHash>, done: Done },
}

pub(crate) type Done = SyncSender<Result<bool, StorageError>>;

impl Request {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Put { blocks, .. } => blocks.iter().map(|(_, bytes)| bytes.len()).sum(),
            Self::Move { blocks, .. } => blocks.iter().map(|(_, bytes, _)| bytes.len()).sum(),
            Self::Close { .. } | Self::Forget { .. } => 0,
        }
    }

    /// Whether others may share its group.
    pub(crate) const fn is_write(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Move { .. })
    }

    fn answer(&self, result: Result<bool, StorageError>) {
        let (Self::Put { done, .. } | Self::Move { done, .. } | Self::Close { done, .. } | Self::Forget { done, .. }) =
            self;
        // Whoever asked may have gone.
        let _ = done.send(result);
    }
}

/// The pack that is being written.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) pack: Pack,
    /// Where the next record goes.
    pub(crate) position: u64,
    /// Where reserved space ends.
    pub(crate) reserved: u64,
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) current: Option<Current>,
    pub(crate) next_number: u32,
}

/// Records that a group will append.
#[derive(Default)]
struct Plan {
    records: Vec<(RecordHead, Bytes)>,
    /// Blocks that are there and were about to be pinned: kept until they are.
    held: Vec<BlockHash>,
}

impl Writer {
    /// The body of the thread. Ends when the store is closed and nothing waits.
    pub(crate) fn run(mut self) -> Result<(), StorageError> {
        loop {
            let requests = self.shared.next_requests();
            if requests.is_empty() {
                return Ok(());
            }
            let requests = self.refuse_without_space(requests)?;
            let result = self.shared.health.check().and_then(|()| self.execute(&requests));
            let fatal = result.as_ref().is_err_and(|error| !error.is_shortage());
            if let (true, Err(error)) = (fatal, &result) {
                self.shared.health.fail(error.clone());
            }
            for request in &requests {
                request.answer(result.clone());
            }
            if fatal {
                self.shared.close();
                // What still waits is told the same.
                loop {
                    let rest = self.shared.next_requests();
                    if rest.is_empty() {
                        return Ok(());
                    }
                    for request in &rest {
                        request.answer(result.clone());
                    }
                }
            }
        }
    }

    fn execute(&mut self, requests: &[Request]) -> Result<bool, StorageError> {
        match requests {
            [Request::Close { pack, .. }] => self.close(*pack).map(|()| true),
            [Request::Forget { pack, damaged, .. }] => self.forget(*pack, damaged),
            _ => self.write_group(requests).map(|()| true),
        }
    }

    fn write_group(&mut self, requests: &[Request]) -> Result<(), StorageError> {
        let plan = self.plan(requests);
        let written = if plan.records.is_empty() { Ok(()) } else { self.write_records(&plan) };
        let mut index = self.shared.index();
        for hash in &plan.held {
            index.release(hash);
        }
        written
    }

    /// What users write leaves the space which log, state and compaction need. Those that do not are answered; the
    /// rest is given back.
    fn refuse_without_space(&self, mut requests: Vec<Request>) -> Result<Vec<Request>, StorageError> {
        let limited = |request: &Request| matches!(request, Request::Put { may_fill: false, .. });
        let needed: usize = requests.iter().filter(|request| limited(request)).map(Request::bytes).sum();
        if needed == 0 || self.shared.available()? >= needed as u64 + self.shared.options.keep_free_bytes {
            return Ok(requests);
        }
        let path = self.shared.directory.path();
        for request in requests.extract_if(.., |request| limited(request)) {
            let needed = request.bytes() as u64;
            request.answer(Err(StorageError::Full { path: path.to_owned(), needed }));
        }
        Ok(requests)
    }

    fn plan(&self, requests: &[Request]) -> Plan {
        let mut plan = Plan::default();
        let mut fresh = HashSet::new();
        let mut pinned = HashSet::new();
        let mut index = self.shared.index();
        for request in requests {
            match request {
                Request::Put { blocks, pin, .. } => {
                    for (hash, bytes) in blocks {
                        let is_new = |pin: &Pin| !index.has_ended(pin) && !index.has_pin(pin, hash);
                        let pin = pin.filter(|pin| is_new(pin) && pinned.insert((*pin, *hash)));
                        if index.location(hash).is_none() && fresh.insert(*hash) {
                            let length = Some(block_length(bytes));
                            plan.records.push((RecordHead { hash: *hash, length, pin }, bytes.clone()));
                        } else if pin.is_some() {
                            plan.records.push((RecordHead { hash: *hash, length: None, pin }, Bytes::new()));
                            index.hold(hash);
                            plan.held.push(*hash);
                        }
                    }
                }
                Request::Move { blocks, .. } => {
                    for (hash, bytes, from) in blocks {
                        if index.location(hash) == Some(*from) && index.is_live(hash) && fresh.insert(*hash) {
                            let length = Some(block_length(bytes));
                            plan.records.push((RecordHead { hash: *hash, length, pin: None }, bytes.clone()));
                        }
                    }
                }
                Request::Close { .. } | Request::Forget { .. } => {}
            }
        }
        plan
    }

    fn write_records(&mut self, plan: &Plan) -> Result<(), StorageError> {
        let needed = plan.records.iter().map(|(head, _)| head.record_bytes()).sum();
        let shared = Arc::clone(&self.shared);
        let current = self.room_for(needed)?;
        let number = current.pack.number;
        let mut buffer = Vec::with_capacity(needed as usize);
        let mut changes = Vec::new();
        for (head, bytes) in &plan.records {
            let offset = current.position + buffer.len() as u64;
            let end = buffer.len() + head.record_bytes() as usize;
            buffer.extend_from_slice(&head.encode(&current.pack.header, offset));
            buffer.extend_from_slice(bytes);
            buffer.resize(end, 0);
            if let Some(length) = head.length {
                let offset = u32::try_from(offset).expect("packs are closed far below 4 GiB");
                changes.push(CatalogChange::Block(head.hash, Some(Location { pack: number, offset, length })));
            }
            changes.extend(head.pin.map(|pin| CatalogChange::Pin(pin, head.hash, true)));
        }
        let path = &current.pack.path;
        match current.pack.file.write_at(current.position, &buffer) {
            // Not every file system keeps what it reserved. What was written lies behind the last record that counts.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(StorageError::Full { path: path.clone(), needed });
            }
            written => written.map_err(|error| StorageError::io("written", path, error))?,
        }
        fail::fail_point!("store-pack-sync", |_| Err(StorageError::unsynced(
            path,
            std::io::Error::other("a failpoint")
        )));
        shared.counters.pack_syncs.add(1);
        current.pack.file.sync().map_err(|error| StorageError::unsynced(path, error))?;
        current.position += buffer.len() as u64;
        shared.counters.pack_bytes.add(buffer.len() as u64);
        changes.push(CatalogChange::Scanned(number, current.position));
        // Only now: the catalog never names what is not synced.
        shared.catalog.apply(&changes)?;
        let position = current.position;
        let mut index = shared.index();
        if let Some(pack) = index.packs.get_mut(&number) {
            pack.end = position;
        }
        for (head, bytes) in &plan.records {
            if head.length.is_some() {
                shared.counters.blocks_stored.add(1);
                shared.counters.block_bytes_stored.add(bytes.len() as u64);
            }
        }
        let mut late = Vec::new();
        for change in changes {
            match change {
                CatalogChange::Block(hash, location) => index.set_location(&hash, location),
                // Its upload has ended while it was written.
                CatalogChange::Pin(pin, hash, _) if index.has_ended(&pin) => {
                    late.push(CatalogChange::Pin(pin, hash, false));
                }
                CatalogChange::Pin(pin, hash, _) => {
                    index.add_pin(pin, &hash);
                }
                CatalogChange::Scanned(..) => {}
            }
        }
        drop(index);
        if late.is_empty() { Ok(()) } else { shared.catalog.apply(&late) }
    }

    /// The current pack, with space reserved behind its last record; a new one where that would get too long.
    fn room_for(&mut self, bytes: u64) -> Result<&mut Current, StorageError> {
        let PackOptions { pack_bytes, reserve_bytes, .. } = self.shared.options;
        if let Some(current) =
            self.current.take_if(|current| current.position > HEADER_BYTES && current.position + bytes > pack_bytes)
        {
            self.end_pack(&current)?;
        }
        if self.current.is_none() {
            self.current = Some(self.begin_pack(bytes)?);
        }
        let current = self.current.as_mut().expect("set above");
        let end = current.position + bytes;
        if end > current.reserved {
            let path = &current.pack.path;
            let reserve = |end| current.pack.file.reserve(current.reserved, end - current.reserved).map(|()| end);
            let reserved = reserve(end.next_multiple_of(reserve_bytes)).or_else(|error| match error.kind() {
                io::ErrorKind::StorageFull => reserve(end),
                _ => Err(error),
            });
            current.reserved = reserved.map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull => StorageError::Full { path: path.clone(), needed: bytes },
                _ => StorageError::io("written", path, error),
            })?;
        }
        Ok(current)
    }

    fn begin_pack(&mut self, bytes: u64) -> Result<Current, StorageError> {
        let number = self.next_number;
        let reserved = (HEADER_BYTES + bytes).min(self.shared.options.reserve_bytes);
        let pack = Pack::create(&*self.shared.directory, number, reserved)?;
        self.next_number += 1;
        self.shared.counters.pack_syncs.add(1);
        self.shared.counters.directory_syncs.add(1);
        let mut index = self.shared.index();
        index.packs.insert(number, PackUse { pack: pack.clone(), end: HEADER_BYTES, live: 0 });
        index.current = Some(number);
        Ok(Current { pack, position: HEADER_BYTES, reserved })
    }

    /// Gives back what was reserved and not used.
    fn end_pack(&self, current: &Current) -> Result<(), StorageError> {
        self.shared.index().current = None;
        current
            .pack
            .file
            .truncate(current.position)
            .map_err(|error| StorageError::io("written", &current.pack.path, error))
    }

    fn close(&mut self, pack: u32) -> Result<(), StorageError> {
        match self.current.take_if(|current| current.pack.number == pack) {
            Some(current) => self.end_pack(&current),
            None => Ok(()),
        }
    }

    /// Here, because only this thread gives blocks a place: nothing can come between the look and the change.
    fn forget(&mut self, pack: u32, damaged: &[BlockHash]) -> Result<bool, StorageError> {
        let mut changes = Vec::new();
        let mut index = self.shared.index();
        let blocks = index.in_pack(pack);
        if index.current == Some(pack) || blocks.iter().any(|(_, _, live)| *live) {
            return Ok(false);
        }
        index.packs.remove(&pack);
        for (hash, ..) in blocks {
            index.set_location(&hash, None);
            changes.push(CatalogChange::Block(hash, None));
        }
        for hash in damaged.iter().filter(|hash| index.location(hash).is_none()) {
            changes.push(CatalogChange::Block(*hash, None));
        }
        drop(index);
        self.shared.catalog.apply(&changes)?;
        Ok(true)
    }
}

fn block_length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).expect("a block is at most a mebibyte")
}
