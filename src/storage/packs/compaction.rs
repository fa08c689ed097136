//! Gives back the space of packs that are mostly dead: what lives in them is copied to the current pack, synced and
//! entered in the catalog, the catalog is flushed, and only then the file goes.

use std::{
    sync::{Condvar, Mutex, PoisonError, mpsc::sync_channel},
    time::Duration,
};

use super::{
    Packs, Shared,
    pack::PACK,
    writer::{Done, GROUP_BYTES, Request},
};
use crate::storage::StorageError;

/// How long the thread waits for more to die before it copies what lives.
const DELAY: Duration = Duration::from_secs(1);
/// How long it waits before it tries again on a full disk.
const RETRY: Duration = Duration::from_secs(30);

/// Wakes the thread.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    state: Mutex<State>,
    changed: Condvar,
    /// Held while packs are compacted.
    running: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    closing: bool,
}

impl Wanted {
    pub(crate) fn want(&self) {
        self.change(|state| state.wanted = true);
    }

    pub(crate) fn close(&self) {
        self.change(|state| state.closing = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits until compaction is wanted, and `delay` longer; false at the end.
    fn wait(&self, delay: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |state: &mut State| !state.wanted && !state.closing;
        let state = self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let open = |state: &mut State| !state.closing;
        let (mut state, _) =
            self.changed.wait_timeout_while(state, delay, open).unwrap_or_else(PoisonError::into_inner);
        state.wanted = false;
        !state.closing
    }
}

impl Packs {
    /// Gives back the space of packs that are mostly dead, now. The store does so by itself, a second or more after
    /// blocks died.
    ///
    /// # Errors
    /// `Full` where what lives cannot be copied; what made the store fail.
    pub fn compact(&self) -> Result<(), StorageError> {
        let shared = &self.shared;
        let _running = shared.wanted.running.lock().unwrap_or_else(PoisonError::into_inner);
        for pack in shared.worth_compacting() {
            shared.compact_pack(pack)?;
        }
        shared.count_usage();
        Ok(())
    }

    /// The body of the thread.
    pub(crate) fn run_compaction(&self) -> Result<(), StorageError> {
        let mut delay = DELAY;
        while self.shared.wanted.wait(delay) {
            delay = match self.compact() {
                Ok(()) => DELAY,
                Err(StorageError::Closed) => return Ok(()),
                Err(error) if error.is_shortage() => {
                    tracing::warn!("packs cannot be compacted: {error}");
                    self.shared.wanted.want();
                    RETRY
                }
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

impl Shared {
    fn compact_pack(&self, number: u32) -> Result<(), StorageError> {
        self.ask(|done| Request::Close { pack: number, done })?;
        let mut damaged = Vec::new();
        loop {
            let index = self.index();
            let Some(pack) = index.packs.get(&number).map(|pack| pack.pack.clone()) else { return Ok(()) };
            let live: Vec<_> = index.in_pack(number).into_iter().filter(|(_, _, live)| *live).collect();
            drop(index);
            let mut blocks = Vec::new();
            let mut bytes = 0;
            for (hash, location, _) in live {
                match pack.read(&hash, location) {
                    Ok(content) => {
                        bytes += content.len();
                        blocks.push((hash, content, location));
                    }
                    Err(error @ StorageError::Damaged { .. }) => {
                        self.block_is_damaged(&hash, location, &error);
                        damaged.push(hash);
                    }
                    Err(error) => return Err(error),
                }
                if bytes >= GROUP_BYTES / 2 {
                    self.move_blocks(&mut blocks)?;
                    bytes = 0;
                }
            }
            self.move_blocks(&mut blocks)?;
            let listed = damaged.clone();
            if self.ask(|done| Request::Forget { pack: number, damaged: listed, done })? {
                break;
            }
        }
        // The catalog must not name the pack any more when it is gone.
        self.catalog.flush()?;
        let name = PACK.name(u64::from(number));
        let path = self.directory.path().join(&name);
        self.directory.remove(&name).map_err(|error| StorageError::io("removed", &path, error))?;
        self.counters.directory_syncs.add(1);
        self.directory.sync().map_err(|error| StorageError::unsynced(self.directory.path(), error))?;
        self.counters.packs_compacted.add(1);
        Ok(())
    }

    fn move_blocks(
        &self,
        blocks: &mut Vec<(crate::types::BlockHash, bytes::Bytes, super::Location)>,
    ) -> Result<(), StorageError> {
        if blocks.is_empty() {
            return Ok(());
        }
        let blocks = std::mem::take(blocks);
        self.counters.compaction_bytes.add(blocks.iter().map(|(_, bytes, _)| bytes.len() as u64).sum());
        self.ask(|done| Request::Move { blocks, done }).map(|_| ())
    }

    /// Has the writer do something and waits for its answer.
    pub(crate) fn ask(&self, request: impl FnOnce(Done) -> Request) -> Result<bool, StorageError> {
        let (done, answer) = sync_channel(1);
        self.submit(request(done))?;
        answer.recv().unwrap_or_else(|_| {
            self.health.check()?;
            Err(StorageError::Closed)
        })
    }
}
