//! A model of a storage node's blocks. A block that nothing keeps any more is dropped at once: a real store may do so
//! at any time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    message::log::{StateBatch, Unpinned},
    types::{BlockHash, SessionId, UploadId},
};

/// What pins a block. There is one volume.
pub(super) type Pin = (SessionId, UploadId);

/// A block on its way to a store.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) ticket: u64,
    pub(super) hash: BlockHash,
    pub(super) bytes: Bytes,
    pub(super) pin: Option<Pin>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Packs {
    blocks: BTreeMap<BlockHash, Bytes>,
    pins: BTreeMap<Pin, BTreeSet<BlockHash>>,
    /// How many extents name a block, here or not.
    references: BTreeMap<BlockHash, i64>,
}

impl Packs {
    pub(super) fn get(&self, hash: &BlockHash) -> Option<&Bytes> {
        self.blocks.get(hash)
    }

    pub(super) fn content_bytes(&self) -> u64 {
        self.blocks.values().map(|block| block.len() as u64).sum()
    }

    pub(super) fn put(&mut self, hash: BlockHash, bytes: Bytes, pin: Option<Pin>) {
        self.blocks.insert(hash, bytes);
        match pin {
            Some(pin) => drop(self.pins.entry(pin).or_default().insert(hash)),
            None => self.drop_unless_kept(&hash),
        }
    }

    /// The batch is synced: what it names is named, and then what it unpins is unpinned.
    pub(super) fn take(&mut self, batch: &StateBatch) {
        self.blocks.extend(batch.content.iter().cloned());
        for (hash, change) in &batch.references {
            *self.references.entry(*hash).or_default() += change;
        }
        for unpinned in &batch.unpinned {
            self.lift(unpinned);
        }
    }

    /// The state is another one, which names these. Nothing goes: a node fetches from others what it lacks then.
    pub(super) fn name(&mut self, references: BTreeMap<BlockHash, u64>) {
        self.references = references.into_iter().map(|(hash, count)| (hash, count as i64)).collect();
    }

    fn lift(&mut self, unpinned: &Unpinned) {
        let pins: Vec<Pin> = match unpinned {
            Unpinned::Uploads { session, uploads, .. } => uploads.iter().map(|upload| (*session, *upload)).collect(),
            Unpinned::Session { session, .. } => {
                self.pins.range((*session, UploadId(0))..=(*session, UploadId(u64::MAX))).map(|(pin, _)| *pin).collect()
            }
            Unpinned::Volume { .. } => self.pins.keys().copied().collect(),
        };
        let lifted: Vec<BlockHash> = pins.iter().filter_map(|pin| self.pins.remove(pin)).flatten().collect();
        lifted.iter().for_each(|hash| self.drop_unless_kept(hash));
    }

    fn drop_unless_kept(&mut self, hash: &BlockHash) {
        let is_named = self.references.get(hash).is_some_and(|count| *count > 0);
        if !is_named && !self.pins.values().any(|hashes| hashes.contains(hash)) {
            self.blocks.remove(hash);
        }
    }
}
