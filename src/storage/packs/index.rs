//! Which blocks there are, where they are, and what keeps them: the packs' tables in memory. No I/O.
//!
//! A block is live while an extent names it, a pin or a hold keeps it, or its bytes wait to be written. What is not
//! live may go with its pack at any time.

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map, hash_map::Entry};

use bytes::Bytes;

use super::{
    ended::EndedUploads,
    pack::Pack,
    record::{Pin, block_record_bytes},
};
use crate::{
    message::log::Unpinned,
    storage::{StorageError, header::HEADER_BYTES},
    types::{BlockHash, SessionId, UploadId, VolumeId},
};

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// The number of the pack.
    pub pack: u32,
    /// Where its record begins, in bytes.
    pub offset: u32,
    /// Bytes of the block; its record has a header before it.
    pub length: u32,
}

#[derive(Default, Debug)]
struct Block {
    location: Option<Location>,
    /// Extents that name it.
    references: u64,
    /// Uploads that pin it, and calls that are about to.
    pins: u32,
    /// The first volume that named or pinned it; 0: none yet.
    volume: VolumeId,
}

/// A pack and how much of it is needed.
#[derive(Debug)]
pub(crate) struct PackUse {
    pub(crate) pack: Pack,
    /// Where its records end, in bytes.
    pub(crate) end: u64,
    /// Bytes of records of live blocks.
    pub(crate) live: u64,
}

impl PackUse {
    pub(crate) const fn dead(&self) -> u64 {
        self.end.saturating_sub(HEADER_BYTES).saturating_sub(self.live)
    }
}

#[derive(Default, Debug)]
pub(crate) struct Index {
    blocks: HashMap<BlockHash, Block>,
    /// The other volumes that named or pinned a block: few blocks have any.
    shared: HashMap<BlockHash, BTreeSet<VolumeId>>,
    /// Named by extents and in no pack.
    missing: BTreeSet<BlockHash>,
    pins: BTreeMap<Pin, BTreeSet<BlockHash>>,
    /// How many of them each session has.
    pins_by_session: BTreeMap<(VolumeId, SessionId), usize>,
    pin_count: usize,
    ended: BTreeMap<(VolumeId, SessionId), EndedUploads>,
    /// Bytes that came with entries and are not in a pack yet, and how many batches bring them.
    waiting: HashMap<BlockHash, (Bytes, u32)>,
    pub(crate) packs: BTreeMap<u32, PackUse>,
    /// The pack that is being written.
    pub(crate) current: Option<u32>,
}

impl Index {
    /// Where the block is; `None` also where its pack is gone.
    pub(crate) fn location(&self, hash: &BlockHash) -> Option<Location> {
        let location = self.blocks.get(hash)?.location?;
        self.packs.contains_key(&location.pack).then_some(location)
    }

    pub(crate) fn waiting(&self, hash: &BlockHash) -> Option<&Bytes> {
        self.waiting.get(hash).map(|(bytes, _)| bytes)
    }

    pub(crate) fn is_live(&self, hash: &BlockHash) -> bool {
        self.blocks.get(hash).is_some_and(|block| block.is_live())
    }

    pub(crate) fn references(&self, hash: &BlockHash) -> u64 {
        self.blocks.get(hash).map_or(0, |block| block.references)
    }

    pub(crate) fn has_pin(&self, pin: &Pin, hash: &BlockHash) -> bool {
        self.pins.get(pin).is_some_and(|hashes| hashes.contains(hash))
    }

    pub(crate) fn pins(&self) -> impl Iterator<Item = (&Pin, &BTreeSet<BlockHash>)> {
        self.pins.iter()
    }

    /// Blocks in some pack.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (&BlockHash, Location)> {
        self.blocks.iter().filter_map(|(hash, block)| Some((hash, block.location?)))
    }

    /// Blocks that extents name and that are in no pack, in order.
    pub(crate) fn missing(&self, after: Option<BlockHash>) -> impl Iterator<Item = BlockHash> + '_ {
        let bound = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range = self.missing.range((bound, std::ops::Bound::Unbounded));
        range.filter(|hash| !self.waiting.contains_key(hash)).copied()
    }

    pub(crate) fn set_location(&mut self, hash: &BlockHash, location: Option<Location>) {
        self.change(hash, |block| block.location = location);
    }

    /// Changes how many extents name the block.
    ///
    /// # Errors
    /// `Misuse` where that would be less than none: then the counts are wrong and blocks might be dropped too early.
    pub(crate) fn add_references(&mut self, hash: &BlockHash, change: i64) -> Result<(), StorageError> {
        let before = self.references(hash);
        let Some(after) = before.checked_add_signed(change) else {
            return Err(StorageError::Misuse {
                found: format!("block {hash} has {before} references, {change} were to be added"),
            });
        };
        self.change(hash, |block| block.references = after);
        Ok(())
    }

    /// Counts all references anew.
    pub(crate) fn replace_references(&mut self, references: &BTreeMap<BlockHash, u64>) {
        let counted: Vec<_> =
            self.blocks.iter().filter(|(_, block)| block.references > 0).map(|(hash, _)| *hash).collect();
        for hash in counted.iter().filter(|hash| !references.contains_key(hash)) {
            self.change(hash, |block| block.references = 0);
        }
        for (hash, &count) in references {
            self.change(hash, |block| block.references = count);
        }
    }

    /// Returns whether the pin is new.
    pub(crate) fn add_pin(&mut self, pin: Pin, hash: &BlockHash) -> bool {
        let new = self.pins.entry(pin).or_default().insert(*hash);
        if new {
            self.pin_count += 1;
            *self.pins_by_session.entry((pin.volume, pin.session)).or_default() += 1;
            self.change(hash, |block| block.pins += 1);
            self.name(pin.volume, hash);
        }
        new
    }

    /// The volume may read the block for as long as it is known here.
    pub(crate) fn name(&mut self, volume: VolumeId, hash: &BlockHash) {
        let Some(block) = self.blocks.get_mut(hash) else { return };
        if block.volume == VolumeId(0) {
            block.volume = volume;
        } else if block.volume != volume {
            self.shared.entry(*hash).or_default().insert(volume);
        }
    }

    pub(crate) fn is_named(&self, volume: VolumeId, hash: &BlockHash) -> bool {
        let is_first = self.blocks.get(hash).is_some_and(|block| block.volume == volume);
        is_first || self.shared.get(hash).is_some_and(|others| others.contains(&volume))
    }

    pub(crate) fn remove_pin(&mut self, pin: &Pin, hash: &BlockHash) {
        let Some(hashes) = self.pins.get_mut(pin) else { return };
        let removed = hashes.remove(hash);
        if hashes.is_empty() {
            self.pins.remove(pin);
        }
        if removed {
            self.pin_count -= 1;
            if let btree_map::Entry::Occupied(mut of_session) = self.pins_by_session.entry((pin.volume, pin.session)) {
                *of_session.get_mut() -= 1;
                if *of_session.get() == 0 {
                    of_session.remove();
                }
            }
            self.change(hash, |block| block.pins -= 1);
        }
    }

    /// Whether the upload has ended, as far as is known.
    pub(crate) fn has_ended(&self, pin: &Pin) -> bool {
        self.ended.get(&(pin.volume, pin.session)).is_some_and(|ended| ended.contains(pin.upload))
    }

    /// Forgets which uploads of ended sessions have ended.
    pub(crate) fn forget_sessions(&mut self, is_over: impl Fn(VolumeId, SessionId) -> bool) {
        self.ended.retain(|(volume, session), _| !is_over(*volume, *session));
    }

    /// How many pins the session has, and all sessions.
    pub(crate) fn pin_counts(&self, volume: VolumeId, session: SessionId) -> (usize, usize) {
        (self.pins_by_session.get(&(volume, session)).copied().unwrap_or(0), self.pin_count)
    }

    /// Keeps the block until `release`, without a pin.
    pub(crate) fn hold(&mut self, hash: &BlockHash) {
        self.change(hash, |block| block.pins += 1);
    }

    pub(crate) fn release(&mut self, hash: &BlockHash) {
        self.change(hash, |block| block.pins = block.pins.saturating_sub(1));
    }

    /// Bytes that can be read from here on and will be put into a pack soon; kept until `content_stored`.
    pub(crate) fn content_waits(&mut self, hash: &BlockHash, bytes: &Bytes) {
        self.waiting.entry(*hash).or_insert_with(|| (bytes.clone(), 0)).1 += 1;
        self.hold(hash);
    }

    /// The bytes are in a pack, and the references of their batch are counted.
    pub(crate) fn content_stored(&mut self, hash: &BlockHash) {
        if let Entry::Occupied(mut entry) = self.waiting.entry(*hash) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
            self.release(hash);
        }
    }

    /// The pins that end with these uploads, which can have no further ones.
    pub(crate) fn end(&mut self, unpinned: &Unpinned) -> Vec<(Pin, BlockHash)> {
        let pin = |volume, session, upload| Pin { volume, session, upload };
        let (least, most) = (UploadId(0), UploadId(u64::MAX));
        let (from, to, only) = match unpinned {
            Unpinned::Uploads { volume, session, uploads } => {
                let ended = self.ended.entry((*volume, *session)).or_default();
                uploads.iter().for_each(|upload| ended.insert(*upload));
                (pin(*volume, *session, least), pin(*volume, *session, most), Some(uploads))
            }
            Unpinned::Session { volume, session } => {
                self.ended.remove(&(*volume, *session));
                (pin(*volume, *session, least), pin(*volume, *session, most), None)
            }
            Unpinned::Volume { volume } => {
                self.ended.retain(|(of, _), _| of != volume);
                (pin(*volume, SessionId(0), least), pin(*volume, SessionId(u64::MAX), most), None)
            }
        };
        let pins = self.pins.range(from..=to).filter(|(pin, _)| only.is_none_or(|only| only.contains(&pin.upload)));
        pins.flat_map(|(pin, hashes)| hashes.iter().map(|hash| (*pin, *hash))).collect()
    }

    /// Every block in this pack, and whether it is live.
    pub(crate) fn in_pack(&self, pack: u32) -> Vec<(BlockHash, Location, bool)> {
        let located = |(hash, block): (&BlockHash, &Block)| {
            block.location.filter(|location| location.pack == pack).map(|location| (*hash, location, block.is_live()))
        };
        self.blocks.iter().filter_map(located).collect()
    }

    /// Packs of which more than one part in `parts` and one is dead, so that 1 means most of it; the current one only
    /// when it has at least `current_bytes_min` bytes; none with more than `live_bytes_max` to copy. Those with the least
    /// to copy first.
    pub(crate) fn worth_compacting(&self, parts: u64, current_bytes_min: u64, live_bytes_max: u64) -> Vec<u32> {
        let worth = |number: u32, pack: &PackUse| {
            let is_dead = pack.dead().saturating_mul(parts) > pack.live && pack.live <= live_bytes_max;
            is_dead && (Some(number) != self.current || pack.end >= current_bytes_min)
        };
        let mut packs: Vec<_> = self.packs.iter().filter(|(number, pack)| worth(**number, pack)).collect();
        packs.sort_by_key(|(_, pack)| pack.live);
        packs.into_iter().map(|(&number, _)| number).collect()
    }

    /// Bytes of live and of dead records, over all packs.
    pub(crate) fn usage(&self) -> (u64, u64) {
        self.packs.values().fold((0, 0), |(live, dead), pack| (live + pack.live, dead + pack.dead()))
    }

    /// Carries out one change of a block and keeps all sums in step with it.
    fn change(&mut self, hash: &BlockHash, change: impl FnOnce(&mut Block)) {
        let block = self.blocks.entry(*hash).or_default();
        let before = (block.is_live(), block.location);
        change(block);
        let after = (block.is_live(), block.location);
        let is_missing = block.references > 0 && block.location.is_none();
        if !after.0 && after.1.is_none() {
            self.blocks.remove(hash);
            self.shared.remove(hash);
        }
        if is_missing {
            self.missing.insert(*hash);
        } else {
            self.missing.remove(hash);
        }
        if before == after {
            return;
        }
        for ((live, location), adds) in [(before, false), (after, true)] {
            if let Some((location, pack)) =
                location.filter(|_| live).and_then(|location| Some((location, self.packs.get_mut(&location.pack)?)))
            {
                let bytes = block_record_bytes(location.length);
                pack.live = if adds { pack.live + bytes } else { pack.live.saturating_sub(bytes) };
            }
        }
    }
}

impl Block {
    const fn is_live(&self) -> bool {
        self.references > 0 || self.pins > 0
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::*;
    use crate::storage::header::FileHeader;

    fn index() -> Index {
        let file = std::fs::File::open("/dev/null").expect("exists");
        let header = FileHeader { sequence: 1, salt: 0, own: [0, 0] };
        let pack = Pack { number: 1, path: PathBuf::new(), file: Arc::new(file), header };
        let packs = BTreeMap::from([(1, PackUse { pack, end: HEADER_BYTES + 1000, live: 0 })]);
        Index { packs, ..Index::default() }
    }

    fn at(offset: u32) -> Option<Location> {
        Some(Location { pack: 1, offset, length: 100 })
    }

    fn pin(session: u64, upload: u64) -> Pin {
        Pin { volume: VolumeId(1), session: SessionId(session), upload: UploadId(upload) }
    }

    #[test]
    fn a_block_lives_while_something_names_or_pins_it() {
        let mut index = index();
        let hash = BlockHash::of(b"a");
        let live = |index: &Index| index.packs[&1].live;
        index.set_location(&hash, at(48));
        assert_eq!(live(&index), 0, "nothing needs it");
        assert!(index.add_pin(pin(1, 1), &hash));
        assert!(!index.add_pin(pin(1, 1), &hash), "a repeated upload pins once");
        assert_eq!(live(&index), block_record_bytes(100));
        index.add_references(&hash, 2).expect("adds");
        for (ended, block) in index.end(&Unpinned::Session { volume: VolumeId(1), session: SessionId(1) }) {
            index.remove_pin(&ended, &block);
        }
        assert_eq!(live(&index), block_record_bytes(100), "extents name it");
        index.add_references(&hash, -2).expect("removes");
        assert_eq!(live(&index), 0);
        assert!(index.add_references(&hash, -1).is_err(), "counts that contradict each other are an error");
        assert_eq!(index.location(&hash), at(48), "it stays until its pack goes");
    }

    #[test]
    fn a_volume_reads_what_it_named_or_pinned_while_the_block_is_known() {
        let mut index = index();
        let hash = BlockHash::of(b"a");
        let readers = |index: &Index| (1..=4).filter(|volume| index.is_named(VolumeId(*volume), &hash)).count();
        index.name(VolumeId(1), &hash);
        assert_eq!(readers(&index), 0, "nothing is known of the block");
        index.set_location(&hash, at(48));
        assert!(index.add_pin(pin(1, 1), &hash) && index.is_named(VolumeId(1), &hash));
        index.name(VolumeId(3), &hash);
        index.name(VolumeId(1), &hash);
        assert!(index.is_named(VolumeId(3), &hash) && readers(&index) == 2);
        index.remove_pin(&pin(1, 1), &hash);
        assert_eq!(readers(&index), 2, "it is dead, and mounts that are behind still ask for it");
        index.set_location(&hash, None);
        assert_eq!((readers(&index), index.shared.len()), (0, 0), "compaction took it");
    }

    #[test]
    fn missing_is_what_extents_name_and_no_pack_has() {
        let mut index = index();
        let (a, b) = (BlockHash([1; 32]), BlockHash([2; 32]));
        index.add_references(&a, 1).expect("adds");
        index.add_references(&b, 1).expect("adds");
        assert_eq!(index.missing(None).collect::<Vec<_>>(), [a, b]);
        assert_eq!(index.missing(Some(a)).collect::<Vec<_>>(), [b]);
        index.set_location(&a, at(48));
        index.content_waits(&b, &Bytes::from_static(b"b"));
        assert_eq!(index.missing(None).count(), 0, "one is in a pack, one will be");
        index.replace_references(&BTreeMap::from([(b, 3)]));
        assert!(!index.is_live(&a) && index.references(&b) == 3);
    }

    #[test]
    fn content_is_kept_until_every_batch_that_brought_it_is_written() {
        let mut index = index();
        let hash = BlockHash::of(b"a");
        index.content_waits(&hash, &Bytes::from_static(b"a"));
        index.content_waits(&hash, &Bytes::from_static(b"a"));
        index.content_stored(&hash);
        assert!(index.waiting(&hash).is_some() && index.is_live(&hash));
        index.content_stored(&hash);
        assert!(index.waiting(&hash).is_none() && !index.is_live(&hash));
    }

    #[test]
    fn uploads_end_one_by_one_with_their_session_or_with_the_volume() {
        let mut index = index();
        let hash = BlockHash::of(b"a");
        for (session, upload) in [(1, 1), (1, 2), (2, 1)] {
            index.add_pin(pin(session, upload), &hash);
        }
        let (volume, session) = (VolumeId(1), SessionId(1));
        assert_eq!(index.pin_counts(volume, session), (2, 3));
        let uploads = vec![UploadId(2)];
        assert_eq!(index.end(&Unpinned::Uploads { volume, session, uploads }), [(pin(1, 2), hash)]);
        assert_eq!(index.end(&Unpinned::Session { volume, session }).len(), 2);
        assert_eq!(index.end(&Unpinned::Volume { volume }).len(), 3);
        assert_eq!(index.end(&Unpinned::Volume { volume: VolumeId(2) }), []);
        for (pin, hash) in index.end(&Unpinned::Session { volume, session }) {
            index.remove_pin(&pin, &hash);
        }
        assert_eq!((index.pin_counts(volume, session), index.pins_by_session.len()), ((0, 1), 1));
    }

    #[test]
    fn a_pack_is_mostly_dead_when_more_than_half_is() {
        let mut index = index();
        let hashes = [[1; 32], [2; 32], [3; 32], [4; 32], [5; 32]].map(BlockHash);
        for (number, hash) in hashes.iter().enumerate() {
            index.set_location(hash, at(48 + 176 * number as u32));
            index.add_references(hash, 1).expect("adds");
        }
        assert!(index.worth_compacting(1, 0, u64::MAX).is_empty());
        for hash in &hashes[..3] {
            index.add_references(hash, -1).expect("removes");
        }
        assert_eq!(index.worth_compacting(1, 0, u64::MAX), [1]);
        assert!(index.worth_compacting(1, 0, 2 * 176 - 1).is_empty(), "more to copy than there is space for");
        index.current = Some(1);
        assert!(index.worth_compacting(1, u64::MAX, u64::MAX).is_empty(), "the current pack has to be worth it");
        assert_eq!(index.worth_compacting(1, 1000, u64::MAX), [1]);
    }
}
