//! The newest committed entries of each volume, for mounts that attach or lag. Every node keeps it, so that one that
//! becomes leader can serve mounts at once.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::types::{LogIndex, VolumeId};

/// What an entry costs beside its bytes, roughly: two queue elements and the allocation's own header.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// Entries of all volumes within one bound of bytes; the oldest go first, whatever volume they are of.
#[derive(Debug, Default)]
pub(super) struct History {
    tracks: BTreeMap<VolumeId, Track>,
    /// Every entry held, in log order.
    order: VecDeque<(LogIndex, VolumeId)>,
    bytes: usize,
}

#[derive(Debug)]
struct Track {
    /// Everything of the volume behind this entry is held.
    floor: LogIndex,
    entries: VecDeque<(LogIndex, Bytes)>,
}

impl History {
    /// Everything of the volume up to `floor` is not here; what follows will be pushed.
    pub(super) fn begin(&mut self, volume: VolumeId, floor: LogIndex) {
        self.tracks.entry(volume).or_insert_with(|| Track { floor, entries: VecDeque::new() });
    }

    /// The next entry of the volume, in log order over all volumes.
    pub(super) fn push(&mut self, volume: VolumeId, index: LogIndex, bytes: Bytes) {
        // A volume not begun was created by an entry since then, so this is the first that concerns it.
        let floor = LogIndex(index.0.saturating_sub(1));
        let track = self.tracks.entry(volume).or_insert_with(|| Track { floor, entries: VecDeque::new() });
        self.bytes += bytes.len() + ENTRY_OVERHEAD_BYTES;
        track.entries.push_back((index, bytes));
        self.order.push_back((index, volume));
    }

    /// Drops the oldest entries until at most `bytes_max` are held.
    pub(super) fn trim(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some((index, volume)) = self.order.pop_front() else { break };
            let Some(track) = self.tracks.get_mut(&volume) else { continue };
            // The volume may have been forgotten and its id begun anew: then this element is stale.
            if track.entries.front().is_some_and(|(front, _)| *front == index)
                && let Some((index, bytes)) = track.entries.pop_front()
            {
                track.floor = index;
                self.bytes -= bytes.len() + ENTRY_OVERHEAD_BYTES;
            }
        }
    }

    /// The volume is gone.
    pub(super) fn forget(&mut self, volume: VolumeId) {
        if let Some(track) = self.tracks.remove(&volume) {
            self.bytes -= track.entries.iter().map(|(_, bytes)| bytes.len() + ENTRY_OVERHEAD_BYTES).sum::<usize>();
            self.order.retain(|(_, of)| *of != volume);
        }
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = VolumeId> + '_ {
        self.tracks.keys().copied()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether all entries of the volume behind `after` are held.
    pub(super) fn reaches(&self, volume: VolumeId, after: LogIndex) -> bool {
        self.tracks.get(&volume).is_some_and(|track| track.floor <= after)
    }

    /// The entries of the volume behind `after`, in order.
    pub(super) fn after(
        &self,
        volume: VolumeId,
        after: LogIndex,
    ) -> impl Iterator<Item = &(LogIndex, Bytes)> + use<'_> {
        self.tracks.get(&volume).into_iter().flat_map(move |track| {
            let first = track.entries.partition_point(|(index, _)| *index <= after);
            track.entries.range(first..)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: VolumeId = VolumeId(1);
    const B: VolumeId = VolumeId(2);

    fn indexes(history: &History, volume: VolumeId, after: u64) -> Vec<u64> {
        history.after(volume, LogIndex(after)).map(|(index, _)| index.0).collect()
    }

    fn filled() -> History {
        let mut history = History::default();
        history.begin(A, LogIndex(3));
        history.begin(B, LogIndex(0));
        for index in 4..=9 {
            let volume = if index % 2 == 0 { A } else { B };
            history.push(volume, LogIndex(index), Bytes::from(vec![0; 100]));
        }
        history
    }

    #[test]
    fn gives_what_follows_a_mounts_last_entry() {
        let history = filled();
        assert_eq!(indexes(&history, A, 3), [4, 6, 8]);
        assert_eq!(indexes(&history, A, 6), [8]);
        assert_eq!(indexes(&history, A, 8), [0; 0]);
        assert!(history.reaches(A, LogIndex(3)) && !history.reaches(A, LogIndex(2)));
        assert!(history.reaches(B, LogIndex(0)));
    }

    #[test]
    fn the_oldest_of_all_volumes_go_first_and_raise_the_floor() {
        let mut history = filled();
        history.trim(4 * (100 + ENTRY_OVERHEAD_BYTES));
        assert_eq!((indexes(&history, A, 0), indexes(&history, B, 0)), (vec![6, 8], vec![7, 9]));
        assert!(!history.reaches(A, LogIndex(3)) && history.reaches(A, LogIndex(4)));
        assert!(!history.reaches(B, LogIndex(4)) && history.reaches(B, LogIndex(5)));
    }

    #[test]
    fn a_forgotten_volume_gives_its_bytes_back() {
        let mut history = filled();
        history.forget(A);
        history.forget(B);
        assert_eq!((history.bytes, history.order.len()), (0, 0));
        assert!(!history.reaches(A, LogIndex(100)));
    }

    #[test]
    fn a_volume_created_since_begins_with_its_first_entry() {
        let mut history = History::default();
        history.push(A, LogIndex(7), Bytes::from_static(b"x"));
        assert!(history.reaches(A, LogIndex(6)) && !history.reaches(A, LogIndex(5)));
    }
}
