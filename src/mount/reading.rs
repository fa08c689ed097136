//! Where the bytes of a READ come from if they are not this mount's own: blocks that are kept here, blocks that are on
//! their way, and who waits for which of these. What a file consists of is not known here.

mod content;
mod fetch;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

pub(crate) use self::fetch::FetchRequest;
use self::{content::Content, fetch::Fetches};
use super::StoreError;
use crate::{
    message::mount::StoreAddress,
    types::{BlockHash, Instant},
};

/// A READ that waits for blocks.
#[derive(Debug, Default)]
struct Reader {
    /// Blocks that came, kept so that a small cache cannot starve it.
    kept: BTreeMap<BlockHash, Bytes>,
    missing: Vec<BlockHash>,
}

/// Blocks here and on their way.
#[derive(Debug)]
pub(crate) struct Reading {
    content: Content,
    fetches: Fetches,
    /// READs by their numbers.
    readers: BTreeMap<u64, Reader>,
    /// Which of them wait for each block.
    by_block: BTreeMap<BlockHash, BTreeSet<u64>>,
}

impl Reading {
    /// `capacity`: bytes of content that are kept; `patience`: for how long one store is asked alone.
    pub(crate) const fn new(capacity: usize, patience: Duration) -> Self {
        Self {
            content: Content::new(capacity),
            fetches: Fetches::new(patience),
            readers: BTreeMap::new(),
            by_block: BTreeMap::new(),
        }
    }

    /// The block, where it is here.
    pub(crate) fn block(&mut self, hash: &BlockHash) -> Option<Bytes> {
        self.content.get(hash)
    }

    /// The same for a READ that waits, which has some of its own.
    pub(crate) fn block_for(&mut self, reader: u64, hash: &BlockHash) -> Option<Bytes> {
        let kept = self.readers.get(&reader).and_then(|reader| reader.kept.get(hash)).cloned();
        kept.or_else(|| self.content.get(hash))
    }

    pub(crate) fn has(&self, hash: &BlockHash) -> bool {
        self.content.contains(hash)
    }

    /// Keeps a block that is here anyway.
    pub(crate) fn keep(&mut self, hash: BlockHash, bytes: Bytes) {
        self.content.insert(hash, bytes);
    }

    /// Bytes of content in memory, and how many there may be.
    pub(crate) const fn bytes(&self) -> usize {
        self.content.bytes()
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.content.capacity()
    }

    /// Blocks on their way.
    pub(crate) fn fetches_running(&self) -> usize {
        self.fetches.len()
    }

    /// The READ waits for the missing blocks, until then. Of those that it has it keeps what it needs.
    pub(crate) fn wait(
        &mut self,
        now: Instant,
        unique: u64,
        missing: Vec<BlockHash>,
        needs: impl Fn(&BlockHash) -> bool,
        until: Instant,
        stores: &[StoreAddress],
    ) {
        let mut reader = self.end(unique).unwrap_or_default();
        reader.kept.retain(|hash, _| needs(hash));
        for hash in &missing {
            self.by_block.entry(*hash).or_default().insert(unique);
            self.fetches.want(now, *hash, until, stores);
        }
        self.readers.insert(unique, Reader { missing, ..reader });
    }

    /// The READ waits no longer.
    pub(crate) fn ended(&mut self, unique: u64) {
        self.end(unique);
    }

    /// Fetches blocks that somebody will want.
    pub(crate) fn fetch_ahead(
        &mut self,
        now: Instant,
        blocks: Vec<BlockHash>,
        until: Instant,
        stores: &[StoreAddress],
    ) {
        for hash in blocks {
            self.fetches.want(now, hash, until, stores);
        }
    }

    /// A store answered. READs that may go on, in the order of their numbers.
    pub(crate) fn fetched(
        &mut self,
        now: Instant,
        ticket: u64,
        result: Result<Bytes, StoreError>,
        stores: &[StoreAddress],
    ) -> BTreeSet<u64> {
        let Some((hash, bytes)) = self.fetches.fetched(now, ticket, result, stores) else { return BTreeSet::new() };
        let readers = self.by_block.get(&hash).cloned().unwrap_or_default();
        for unique in &readers {
            if let Some(reader) = self.readers.get_mut(unique) {
                reader.kept.insert(hash, bytes.clone());
            }
        }
        self.content.insert(hash, bytes);
        readers
    }

    /// The stores are these now, or time has passed.
    pub(crate) fn tick(&mut self, now: Instant, stores: &[StoreAddress]) {
        self.fetches.tick(now, stores);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.fetches.poll_timeout()
    }

    /// What the stores are to be asked.
    pub(crate) fn take_requests(&mut self) -> Vec<FetchRequest> {
        self.fetches.take_requests()
    }

    fn end(&mut self, unique: u64) -> Option<Reader> {
        let reader = self.readers.remove(&unique)?;
        for hash in &reader.missing {
            if let Some(waiting) = self.by_block.get_mut(hash) {
                waiting.remove(&unique);
                if waiting.is_empty() {
                    self.by_block.remove(hash);
                }
            }
        }
        Some(reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn block(seed: u8) -> (BlockHash, Bytes) {
        let bytes = Bytes::from(vec![seed; 10]);
        (BlockHash::of(&bytes), bytes)
    }

    #[test]
    fn a_block_goes_to_those_who_wait_for_it_and_to_no_others() {
        let stores = [StoreAddress { node: NodeId(1), address: "s1".to_owned() }];
        // Too small to keep anything itself.
        let mut reading = Reading::new(0, Duration::from_millis(50));
        let ((one, bytes), (two, _)) = (block(1), block(2));
        let until = Instant(1_000_000_000);
        reading.wait(Instant(0), 7, vec![one], |_| true, until, &stores);
        reading.wait(Instant(0), 8, vec![one, two], |_| true, until, &stores);
        reading.wait(Instant(0), 9, vec![two], |_| true, until, &stores);
        let ticket = reading.take_requests().iter().find(|request| request.hash == one).map(|request| request.ticket);
        let ticket = ticket.expect("it is asked for");
        assert_eq!(reading.fetched(Instant(1), ticket, Ok(bytes.clone()), &stores), BTreeSet::from([7, 8]));
        assert_eq!((reading.block_for(7, &one), reading.block_for(9, &one)), (Some(bytes.clone()), None));
        reading.wait(Instant(1), 8, vec![two], |hash| *hash == two, until, &stores);
        assert_eq!(reading.block_for(8, &one), None, "it has no use for it any more");
        for unique in [7, 8, 9] {
            reading.ended(unique);
        }
        assert!(reading.readers.is_empty() && reading.by_block.is_empty());
    }
}
