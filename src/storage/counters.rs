//! What the store has done since it was opened, for metrics: plain counters that only grow.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::WAITS_FOR_DESCRIPTOR;

/// One number that only grows (or, for a gauge, is set).
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one open store.
#[derive(Debug, Default)]
pub struct Counters {
    /// Syncs of log segments, of sled's file, of packs, and of directories.
    pub log_syncs: Counter,
    pub state_syncs: Counter,
    pub pack_syncs: Counter,
    pub directory_syncs: Counter,
    /// Bytes written, headers and padding included.
    pub log_bytes: Counter,
    pub pack_bytes: Counter,
    /// Bytes of keys and values given to sled, which writes more.
    pub state_bytes: Counter,
    /// `LogBatch`es and entries written to the log; batches per `log_syncs` is the gain of group commit.
    pub log_batches: Counter,
    pub log_entries: Counter,
    /// `StateBatch`es and rows written to the state store.
    pub state_batches: Counter,
    pub state_rows: Counter,
    /// Blocks and their bytes that were new to the packs.
    pub blocks_stored: Counter,
    pub block_bytes_stored: Counter,
    /// Blocks and their bytes that were read, verified.
    pub blocks_read: Counter,
    pub block_bytes_read: Counter,
    /// Packs given back, and bytes of live blocks copied for that.
    pub packs_compacted: Counter,
    pub compaction_bytes_copied: Counter,
    /// Damage found: blocks whose bytes do not hash to their name, records that do not match their checksum.
    pub damages: Counter,
    /// Whole passes of the scrub, and bytes that it read.
    pub scrubs: Counter,
    pub scrub_bytes: Counter,
    /// Gauges: 1 while the log, or the state store, waits for space on a full disk, 2 while it waits for a descriptor.
    pub log_waits: Counter,
    pub state_waits: Counter,
    /// Gauges: bytes of blocks in packs that something names or pins, and that nothing does.
    pub pack_live_bytes: Counter,
    pub pack_dead_bytes: Counter,
}

impl Counters {
    /// Log or state wait for a file descriptor.
    #[must_use]
    pub fn lacks_descriptors(&self) -> bool {
        [&self.log_waits, &self.state_waits].iter().any(|waits| waits.get() == WAITS_FOR_DESCRIPTOR)
    }
}
