//! The content cache: blocks by their hash, bounded in bytes, the longest unused first to go.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::types::BlockHash;

/// What a block costs besides its bytes, so that very small ones are not free.
const OVERHEAD_BYTES: usize = 128;
/// Up to here a block is copied when it is kept: it may be a piece of a buffer of the network's that is many times larger.
const COPY_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Content {
    capacity: usize,
    bytes: usize,
    blocks: BTreeMap<BlockHash, (Bytes, u64)>,
    /// Blocks by when they were last used.
    order: BTreeMap<u64, BlockHash>,
    clock: u64,
}

impl Content {
    pub(crate) const fn new(capacity: usize) -> Self {
        Self { capacity, bytes: 0, blocks: BTreeMap::new(), order: BTreeMap::new(), clock: 0 }
    }

    /// The block's bytes, where they are here; they count as just used.
    pub(crate) fn get(&mut self, hash: &BlockHash) -> Option<Bytes> {
        let (bytes, used) = self.blocks.get_mut(hash)?;
        self.order.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.order.insert(self.clock, *hash);
        Some(bytes.clone())
    }

    pub(crate) fn contains(&self, hash: &BlockHash) -> bool {
        self.blocks.contains_key(hash)
    }

    /// Keeps the block, at the cost of those unused for longest. One larger than the whole cache is not kept.
    pub(crate) fn insert(&mut self, hash: BlockHash, bytes: Bytes) {
        let cost = bytes.len() + OVERHEAD_BYTES;
        if cost > self.capacity || self.get(&hash).is_some() {
            return;
        }
        while self.bytes + cost > self.capacity {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((bytes, _)) = self.blocks.remove(&oldest) {
                self.bytes -= bytes.len() + OVERHEAD_BYTES;
            }
        }
        self.clock += 1;
        self.order.insert(self.clock, hash);
        let bytes = if bytes.len() <= COPY_BYTES_MAX { Bytes::copy_from_slice(&bytes) } else { bytes };
        self.blocks.insert(hash, (bytes, self.clock));
        self.bytes += cost;
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(seed: u8, length: usize) -> (BlockHash, Bytes) {
        let bytes = Bytes::from(vec![seed; length]);
        (BlockHash::of(&bytes), bytes)
    }

    #[test]
    fn the_longest_unused_goes_first_and_the_bound_holds() {
        let mut content = Content::new(3 * (1000 + OVERHEAD_BYTES));
        let blocks: Vec<_> = (0..4).map(|seed| block(seed, 1000)).collect();
        for (hash, bytes) in &blocks[..3] {
            content.insert(*hash, bytes.clone());
        }
        assert!(content.get(&blocks[0].0).is_some());
        content.insert(blocks[3].0, blocks[3].1.clone());
        let kept: Vec<bool> = blocks.iter().map(|(hash, _)| content.contains(hash)).collect();
        assert_eq!(kept, [true, false, true, true]);
        assert!(content.bytes() <= content.capacity());
    }

    #[test]
    fn a_block_larger_than_the_cache_drives_nothing_out() {
        let mut content = Content::new(2000);
        let (small, bytes) = block(1, 100);
        content.insert(small, bytes);
        let (large, bytes) = block(2, 3000);
        content.insert(large, bytes);
        assert!(content.contains(&small) && !content.contains(&large));
    }

    /// 100,000 small files that were read kept 570 MiB of a cache of 64 MiB alive, each a whole buffer.
    #[test]
    fn a_small_block_does_not_keep_the_buffer_it_came_in() {
        let mut content = Content::new(1_000_000);
        let buffer = Bytes::from(vec![7; 16 * 1024]);
        let piece = buffer.slice(100..200);
        let hash = BlockHash::of(&piece);
        content.insert(hash, piece);
        assert!(buffer.is_unique(), "the cache holds on to the buffer");
        assert_eq!(content.get(&hash).as_deref(), Some(&buffer[100..200]));
    }

    #[test]
    fn inserting_twice_counts_once() {
        let mut content = Content::new(10_000);
        let (hash, bytes) = block(1, 100);
        content.insert(hash, bytes.clone());
        let before = content.bytes();
        content.insert(hash, bytes);
        assert_eq!(content.bytes(), before);
    }
}
