//! What the store has done since it was opened, for metrics: plain counters that only grow.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::WAITS_FOR_DESCRIPTOR;
use crate::types::counters;

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

counters! {
    /// Of one open store.
    #[derive(Debug, Default)]
    pub struct Counters of Counter {
        Total log_syncs: "Syncs of the log",
        Total state_syncs: "Syncs of the state store",
        Total pack_syncs: "Syncs of packs",
        Total directory_syncs: "Syncs of directories",
        Total log_entries: "Entries written to the log",
        Total log_batches: "Batches written to the log; per sync of the log, the gain of group commit",
        Total log_bytes: "Bytes written to the log, headers and padding included",
        Total state_batches: "Batches written to the state store",
        Total state_rows: "Rows written to the state store",
        Total state_bytes: "Bytes of keys and values given to the state store, which writes more",
        Total pack_bytes: "Bytes written to packs",
        Total blocks_stored: "Blocks that were new to the packs",
        Total block_bytes_stored: "Bytes of blocks that were new to the packs",
        Total blocks_read: "Blocks read from the packs and verified",
        Total block_bytes_read: "Bytes of blocks read from the packs",
        Total packs_compacted: "Packs whose space was given back",
        Total compaction_bytes: "Bytes of live blocks copied to give packs back",
        Total scrubs: "Whole passes over everything on the disk",
        Total scrub_bytes: "Bytes that were read only to verify them",
        Total damages: "Damaged blocks and records that were found",
        Gauge log_waits_for_space: "1 while the log waits for space on a full disk, 2 while it waits for a file descriptor",
        Gauge state_waits_for_space: "1 while the state waits for space on a full disk, 2 while it waits for a file descriptor",
        Gauge pack_live_bytes: "Bytes of blocks that something names or pins",
        Gauge pack_dead_bytes: "Bytes of blocks that nothing names, until compaction",
    }
}

impl Counters {
    /// Log or state wait for a file descriptor.
    #[must_use]
    pub fn lacks_descriptors(&self) -> bool {
        [&self.log_waits_for_space, &self.state_waits_for_space].iter().any(|waits| waits.get() == WAITS_FOR_DESCRIPTOR)
    }
}
