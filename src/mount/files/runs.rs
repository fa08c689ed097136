//! Written bytes that no operation carries yet: runs of a file that neither overlap nor split a write request.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::limits;

/// Bytes of a run at most; it becomes one piece of an operation.
const RUN_BYTES_MAX: usize = limits::BLOCK_BYTES_MAX;

/// Dirty bytes of one file. A run is one or more whole write requests (or what later ones left of them), so that cutting
/// between runs tears none (docs/protocol.md R13-appends).
#[derive(Debug, Default)]
pub(crate) struct Runs {
    runs: BTreeMap<u64, BytesMut>,
    bytes: usize,
}

impl Runs {
    /// Puts the bytes over what was there.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u64;
        // Rewriting bytes inside a run, as programs do with a header.
        if let Some((start, run)) = self.runs.range_mut(..=offset).next_back()
            && *start + run.len() as u64 >= end
        {
            let at = index(offset - start);
            run[at..at + data.len()].copy_from_slice(data);
            return;
        }
        self.cut(offset, end);
        if let Some((start, run)) = self.runs.range_mut(..offset).next_back()
            && *start + run.len() as u64 == offset
            && run.len() + data.len() <= RUN_BYTES_MAX
        {
            run.extend_from_slice(data);
        } else {
            self.runs.insert(offset, BytesMut::from(data));
        }
        self.bytes += data.len();
    }

    /// Takes away what lies behind `size`.
    pub(crate) fn truncate(&mut self, size: u64) {
        self.cut(size, u64::MAX);
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The end of the last byte; 0 when there is none.
    pub(crate) fn end(&self) -> u64 {
        self.runs.last_key_value().map_or(0, |(start, run)| start + run.len() as u64)
    }

    /// All runs, in order; none is left.
    pub(crate) fn take(&mut self) -> Vec<(u64, Bytes)> {
        self.bytes = 0;
        std::mem::take(&mut self.runs).into_iter().map(|(start, run)| (start, run.freeze())).collect()
    }

    /// The bytes inside `from..to`, in order, each with its place in the file.
    pub(crate) fn parts(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &[u8])> + '_ {
        let first = self.runs.range(..from).next_back();
        first.into_iter().chain(self.runs.range(from..to.max(from))).filter_map(move |(start, run)| {
            let begin = from.max(*start);
            let end = to.min(*start + run.len() as u64);
            (begin < end).then(|| (begin, &run[index(begin - start)..index(end - start)]))
        })
    }

    /// Takes away what lies in `from..to`.
    fn cut(&mut self, from: u64, to: u64) {
        if let Some((start, run)) = self.runs.range_mut(..from).next_back()
            && *start + run.len() as u64 > from
        {
            let tail = run.split_off(index(from - start));
            self.runs.insert(from, tail);
        }
        if let Some((start, run)) = self.runs.range_mut(..to).next_back()
            && *start + run.len() as u64 > to
        {
            let tail = run.split_off(index(to - start));
            self.runs.insert(to, tail);
        }
        let inside: Vec<u64> = self.runs.range(from..to).map(|(start, _)| *start).collect();
        for start in inside {
            if let Some(run) = self.runs.remove(&start) {
                self.bytes -= run.len();
            }
        }
    }
}

/// A distance inside a run, which is in memory and so fits.
fn index(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listing(runs: &Runs) -> Vec<(u64, Vec<u8>)> {
        runs.parts(0, u64::MAX).map(|(at, bytes)| (at, bytes.to_vec())).collect()
    }

    #[test]
    fn writes_that_follow_one_another_are_one_run() {
        let mut runs = Runs::default();
        runs.write(10, b"abc");
        runs.write(13, b"def");
        assert_eq!(listing(&runs), [(10, b"abcdef".to_vec())]);
        assert_eq!((runs.end(), runs.bytes()), (16, 6));
    }

    #[test]
    fn a_run_ends_at_a_write_and_never_inside_one() {
        let mut runs = Runs::default();
        let piece = vec![7; 700 * 1024];
        runs.write(0, &piece);
        runs.write(piece.len() as u64, &piece);
        let starts: Vec<u64> = runs.parts(0, u64::MAX).map(|(at, _)| at).collect();
        assert_eq!(starts, [0, piece.len() as u64]);
    }

    #[test]
    fn a_later_write_lies_over_earlier_ones() {
        let mut runs = Runs::default();
        runs.write(0, b"aaaa");
        runs.write(6, b"bbbb");
        runs.write(2, b"cccccc");
        assert_eq!(listing(&runs).concat_bytes(), b"aaccccccbb");
        runs.write(3, b"D");
        assert_eq!(listing(&runs).concat_bytes(), b"aacDccccbb");
        assert_eq!(runs.bytes(), 10);
    }

    trait ConcatBytes {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl ConcatBytes for Vec<(u64, Vec<u8>)> {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
        }
    }

    proptest! {
        #[test]
        fn runs_are_what_a_plain_array_of_bytes_would_be(
            writes in proptest::collection::vec((0u64..200, 1usize..60, any::<u8>()), 1..60),
            window in (0u64..250, 0u64..250),
        ) {
            let mut runs = Runs::default();
            let mut model: Vec<Option<u8>> = vec![None; 300];
            for (offset, length, byte) in writes {
                runs.write(offset, &vec![byte; length]);
                model[offset as usize..offset as usize + length].fill(Some(byte));
            }
            let mut shown: Vec<Option<u8>> = vec![None; 300];
            for (at, bytes) in runs.parts(window.0, window.1) {
                for (distance, byte) in bytes.iter().enumerate() {
                    shown[at as usize + distance] = Some(*byte);
                }
            }
            for (at, byte) in model.iter().enumerate() {
                let inside = window.0 <= at as u64 && (at as u64) < window.1;
                prop_assert_eq!(shown[at], if inside { *byte } else { None });
            }
            prop_assert_eq!(runs.bytes(), model.iter().flatten().count());
            let taken: usize = runs.take().iter().map(|(_, bytes)| bytes.len()).sum();
            prop_assert_eq!(taken, model.iter().flatten().count());
            prop_assert!(runs.is_empty());
        }
    }
}
