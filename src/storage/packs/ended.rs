//! Which uploads of a session have ended. A block of one that comes later is pinned no more: nothing would lift the pin before
//! the session ends.

use std::collections::BTreeMap;

use crate::types::UploadId;

/// Ranges of one session: a mount counts its uploads up and ends nearly all of them, so that they are few. Of one that
/// leaves many gaps the oldest are forgotten.
const RANGES_MAX: usize = 256;

/// A set of uploads as ranges, by their first: both ends inclusive, apart from each other.
#[derive(Debug, Default)]
pub(super) struct EndedUploads(BTreeMap<u64, u64>);

impl EndedUploads {
    pub(super) fn contains(&self, upload: UploadId) -> bool {
        self.0.range(..=upload.0).next_back().is_some_and(|(_, last)| upload.0 <= *last)
    }

    pub(super) fn insert(&mut self, upload: UploadId) {
        if self.contains(upload) {
            return;
        }
        let (mut first, mut last) = (upload.0, upload.0);
        if let Some((&begin, &end)) = self.0.range(..upload.0).next_back()
            && end.checked_add(1) == Some(upload.0)
        {
            first = begin;
        }
        if let Some(end) = upload.0.checked_add(1).and_then(|next| self.0.remove(&next)) {
            last = end;
        }
        self.0.insert(first, last);
        if self.0.len() > RANGES_MAX {
            self.0.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_at_both_ends_and_the_oldest_are_forgotten() {
        let mut ended = EndedUploads::default();
        for upload in [1, 3, 2, 7, 6, 6, u64::MAX, 0] {
            ended.insert(UploadId(upload));
        }
        assert_eq!(ended.0, BTreeMap::from([(0, 3), (6, 7), (u64::MAX, u64::MAX)]));
        let contains = |upload| ended.contains(UploadId(upload));
        assert!(contains(0) && contains(3) && contains(7) && !contains(4) && !contains(5) && !contains(8));
        let mut sparse = EndedUploads::default();
        (0..=RANGES_MAX as u64).for_each(|upload| sparse.insert(UploadId(2 * upload)));
        assert!(!sparse.contains(UploadId(0)) && sparse.contains(UploadId(2)) && sparse.0.len() == RANGES_MAX);
    }
}
