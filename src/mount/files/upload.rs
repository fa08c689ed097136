//! Putting blocks into the stores before an operation names them: to all stores, done when a majority has synced each.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    message::mount::StoreAddress,
    mount::StoreError,
    types::{BlockHash, Errno, Instant, NodeId, UploadId},
};

/// Blocks on their way at a time.
const BLOCKS_AT_A_TIME: usize = 16;

/// One request to one store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoreRequest {
    pub(crate) ticket: u64,
    pub(crate) store: NodeId,
    pub(crate) address: String,
    pub(crate) hash: BlockHash,
    pub(crate) bytes: Bytes,
    pub(crate) upload: UploadId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Copy {
    Asked,
    Synced,
    Full { again: Instant },
    Failed { again: Instant },
}

#[derive(Debug)]
struct Block {
    bytes: Bytes,
    copies: BTreeMap<NodeId, Copy>,
    stored: bool,
}

#[derive(Debug)]
struct Upload {
    blocks: BTreeMap<BlockHash, Block>,
}

/// How an upload ended.
pub(crate) type Finished = (UploadId, Result<(), Errno>);

/// The uploads of this mount that are under way.
#[derive(Debug)]
pub(crate) struct Uploads {
    /// The pause before a store that failed is asked again.
    pause: Duration,
    uploads: BTreeMap<UploadId, Upload>,
    last_upload: u64,
    tickets: BTreeMap<u64, (UploadId, BlockHash, NodeId)>,
    last_ticket: u64,
    requests: Vec<StoreRequest>,
    finished: Vec<Finished>,
}

impl Uploads {
    pub(crate) const fn new(pause: Duration) -> Self {
        Self {
            pause,
            uploads: BTreeMap::new(),
            last_upload: 0,
            tickets: BTreeMap::new(),
            last_ticket: 0,
            requests: Vec::new(),
            finished: Vec::new(),
        }
    }

    /// Begins to store the blocks; `take_finished` tells the end.
    pub(crate) fn begin(
        &mut self,
        now: Instant,
        blocks: impl IntoIterator<Item = (BlockHash, Bytes)>,
        stores: &[StoreAddress],
    ) -> UploadId {
        self.last_upload += 1;
        let id = UploadId(self.last_upload);
        let blocks = blocks
            .into_iter()
            .map(|(hash, bytes)| (hash, Block { bytes, copies: BTreeMap::new(), stored: false }))
            .collect();
        self.uploads.insert(id, Upload { blocks });
        self.tick(now, stores);
        id
    }

    /// Nobody needs the upload any more.
    pub(crate) fn abandon(&mut self, upload: UploadId) {
        self.uploads.remove(&upload);
    }

    pub(crate) fn stored(
        &mut self,
        now: Instant,
        ticket: u64,
        result: Result<(), StoreError>,
        stores: &[StoreAddress],
    ) {
        let Some((upload, hash, store)) = self.tickets.remove(&ticket) else { return };
        if let Some(block) = self.uploads.get_mut(&upload).and_then(|upload| upload.blocks.get_mut(&hash)) {
            let again = now.after(self.pause);
            let copy = match result {
                Ok(()) => Copy::Synced,
                Err(StoreError::Full) => Copy::Full { again },
                Err(StoreError::Missing | StoreError::Unreachable(_)) => Copy::Failed { again },
            };
            block.copies.insert(store, copy);
        }
        self.tick(now, stores);
    }

    /// Judges every upload by the stores there are now, and asks those that must be asked (again).
    pub(crate) fn tick(&mut self, now: Instant, stores: &[StoreAddress]) {
        let majority = stores.len() / 2 + 1;
        let mut under_way = 0;
        let mut finished = Vec::new();
        for (id, upload) in &mut self.uploads {
            for (hash, block) in &mut upload.blocks {
                if block.stored {
                    continue;
                }
                // A store that left the cluster counts no more and is not asked again.
                block.copies.retain(|node, _| stores.iter().any(|store| store.node == *node));
                let count = |wanted: fn(&Copy) -> bool| {
                    stores.iter().filter(|store| block.copies.get(&store.node).is_some_and(wanted)).count()
                };
                if count(|copy| *copy == Copy::Synced) >= majority {
                    block.stored = true;
                    // The bytes are where they belong; what is still on its way holds its own reference.
                    block.bytes = Bytes::new();
                    continue;
                }
                let full = count(|copy| matches!(copy, Copy::Full { .. }));
                if !stores.is_empty() && full > stores.len() - majority {
                    finished.push((*id, Err(Errno::ENOSPC)));
                    break;
                }
                if under_way >= BLOCKS_AT_A_TIME {
                    continue;
                }
                under_way += 1;
                for store in stores {
                    let due = match block.copies.get(&store.node) {
                        None => true,
                        Some(Copy::Asked | Copy::Synced) => false,
                        Some(Copy::Full { again } | Copy::Failed { again }) => *again <= now,
                    };
                    if due {
                        block.copies.insert(store.node, Copy::Asked);
                        self.last_ticket += 1;
                        self.tickets.insert(self.last_ticket, (*id, *hash, store.node));
                        self.requests.push(StoreRequest {
                            ticket: self.last_ticket,
                            store: store.node,
                            address: store.address.clone(),
                            hash: *hash,
                            bytes: block.bytes.clone(),
                            upload: *id,
                        });
                    }
                }
            }
            if upload.blocks.values().all(|block| block.stored) {
                finished.push((*id, Ok(())));
            }
        }
        for (id, _) in &finished {
            self.uploads.remove(id);
        }
        self.finished.extend(finished);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let blocks = self.uploads.values().flat_map(|upload| upload.blocks.values()).filter(|block| !block.stored);
        blocks
            .flat_map(|block| block.copies.values())
            .filter_map(|copy| match copy {
                Copy::Full { again } | Copy::Failed { again } => Some(*again),
                Copy::Asked | Copy::Synced => None,
            })
            .min()
    }

    pub(crate) fn take_requests(&mut self) -> Vec<StoreRequest> {
        std::mem::take(&mut self.requests)
    }

    pub(crate) fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// The uploads under way, for a new session: pins belong to the session that made them.
    pub(crate) fn running(&self) -> BTreeSet<UploadId> {
        self.uploads.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    fn stores(count: u64) -> Vec<StoreAddress> {
        (1..=count).map(|id| StoreAddress { node: NodeId(id), address: format!("s{id}") }).collect()
    }

    fn block(seed: u8) -> (BlockHash, Bytes) {
        let bytes = Bytes::from(vec![seed; 10]);
        (BlockHash::of(&bytes), bytes)
    }

    fn down() -> Result<(), StoreError> {
        Err(StoreError::Unreachable("down".to_owned()))
    }

    #[test]
    fn it_goes_to_all_stores_and_is_done_at_a_majority() {
        let mut uploads = Uploads::new(PAUSE);
        let id = uploads.begin(Instant(0), [block(1)], &stores(3));
        let asked: Vec<u64> = uploads.take_requests().iter().map(|request| request.store.0).collect();
        assert_eq!(asked, [1, 2, 3]);
        uploads.stored(Instant(1), 1, Ok(()), &stores(3));
        assert_eq!(uploads.take_finished(), []);
        uploads.stored(Instant(2), 3, Ok(()), &stores(3));
        assert_eq!(uploads.take_finished(), [(id, Ok(()))]);
        uploads.stored(Instant(3), 2, down(), &stores(3));
        assert_eq!(uploads.take_finished(), []);
        assert_eq!(uploads.poll_timeout(), None);
    }

    #[test]
    fn a_store_that_failed_is_asked_again_after_a_pause() {
        let mut uploads = Uploads::new(PAUSE);
        uploads.begin(Instant(0), [block(1)], &stores(3));
        uploads.take_requests();
        uploads.stored(Instant(0), 1, down(), &stores(3));
        uploads.stored(Instant(0), 2, down(), &stores(3));
        assert_eq!(uploads.take_requests(), []);
        let due = uploads.poll_timeout().expect("it tries again");
        assert_eq!(due, Instant(0).after(PAUSE));
        uploads.tick(due, &stores(3));
        assert_eq!(uploads.take_requests().len(), 2);
    }

    #[test]
    fn one_full_store_stops_nothing_and_a_majority_of_them_is_enospc() {
        let mut uploads = Uploads::new(PAUSE);
        let id = uploads.begin(Instant(0), [block(1)], &stores(3));
        uploads.stored(Instant(0), 1, Err(StoreError::Full), &stores(3));
        assert_eq!(uploads.take_finished(), []);
        uploads.stored(Instant(0), 2, Err(StoreError::Full), &stores(3));
        assert_eq!(uploads.take_finished(), [(id, Err(Errno::ENOSPC))]);
    }

    #[test]
    fn all_blocks_must_be_stored_and_only_so_many_go_at_a_time() {
        let mut uploads = Uploads::new(PAUSE);
        let id = uploads.begin(Instant(0), (0..20).map(block), &stores(1));
        let mut finished = Vec::new();
        let mut rounds = 0;
        loop {
            let requests = uploads.take_requests();
            if requests.is_empty() {
                break;
            }
            rounds += 1;
            assert!(requests.len() <= BLOCKS_AT_A_TIME);
            for request in requests {
                uploads.stored(Instant(0), request.ticket, Ok(()), &stores(1));
            }
            finished.extend(uploads.take_finished());
        }
        assert!(rounds >= 2);
        assert_eq!(finished, [(id, Ok(()))]);
    }

    #[test]
    fn it_waits_while_no_store_is_known() {
        let mut uploads = Uploads::new(PAUSE);
        uploads.begin(Instant(0), [block(1)], &[]);
        assert_eq!(uploads.take_finished(), []);
        uploads.tick(Instant(1), &stores(1));
        assert_eq!(uploads.take_requests().len(), 1);
    }
}
