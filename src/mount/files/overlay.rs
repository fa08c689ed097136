//! What lies over the replica's files: the bytes and changes of jobs that are not applied yet, and over these what is in
//! no job.

use bytes::Bytes;

use super::{Buffered, Files};
use crate::types::{Attributes, BlockHash, Ino};

/// A range of a file and where its bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Segment {
    /// Here, not yet in the log.
    Bytes {
        offset: u64,
        bytes: Bytes,
    },
    Block {
        offset: u64,
        length: u64,
        block: BlockHash,
        block_offset: u64,
    },
}

impl Segment {
    pub(crate) const fn offset(&self) -> u64 {
        match self {
            Self::Bytes { offset, .. } | Self::Block { offset, .. } => *offset,
        }
    }

    pub(crate) const fn length(&self) -> u64 {
        match self {
            Self::Bytes { bytes, .. } => bytes.len() as u64,
            Self::Block { length, .. } => *length,
        }
    }
}

impl Files {
    /// Puts what was done here over a file's attributes as the replica has them.
    pub(crate) fn show(&self, attributes: &mut Attributes) {
        let Some(file) = self.files.get(&attributes.ino).filter(|file| file.is_ahead()) else { return };
        let mut bytes = file.dirty.bytes() as u64;
        for job in self.queued_jobs(attributes.ino) {
            job.buffered.show(attributes, job.end());
            bytes += job.run_bytes as u64;
        }
        file.buffered.show(attributes, file.dirty.end());
        // An estimate: what replaces other content will not take more room, and a file has no more than its size.
        attributes.blocks = attributes.blocks.max(bytes.div_ceil(512)).min(attributes.size.div_ceil(512));
    }

    /// What was written here, and is not applied yet, ends capabilities.
    pub(crate) fn ends_capabilities(&self, ino: Ino) -> bool {
        let dirty = self.files.get(&ino).map(|file| &file.buffered);
        self.queued_jobs(ino).map(|job| &job.buffered).chain(dirty).any(Buffered::ends_capabilities)
    }

    /// The bytes of `from..to` that are here, and the ranges in order for which the replica is to be asked.
    pub(crate) fn segments(&self, ino: Ino, from: u64, to: u64) -> (Vec<Segment>, Vec<(u64, u64)>) {
        let mut found: Vec<Segment> = Vec::new();
        let mut open = vec![(from, to)];
        if let Some(file) = self.files.get(&ino) {
            for (offset, bytes) in file.dirty.parts(from, to) {
                found.push(Segment::Bytes { offset, bytes: Bytes::copy_from_slice(bytes) });
            }
            open = below(uncovered(&open, &found), file.buffered.cut);
            for job in self.queued_jobs(ino).rev() {
                let mut parts = Vec::new();
                for (begin, end) in &open {
                    for (offset, bytes) in job.runs_in(*begin, *end) {
                        parts.push(Segment::Bytes { offset, bytes });
                    }
                }
                open = below(uncovered(&open, &parts), job.buffered.cut);
                found.append(&mut parts);
            }
        }
        (found, open)
    }

    /// Ranges with bytes that are here and end behind `at`, the first of each job; and where the replica's content ends,
    /// since it was cut there.
    pub(crate) fn data_behind(&self, ino: Ino, at: u64) -> (Vec<(u64, u64)>, u64) {
        let mut found = Vec::new();
        // What lies behind a cut is not there for all that came before it.
        let mut limit = u64::MAX;
        if let Some(file) = self.files.get(&ino) {
            if let Some((offset, bytes)) = file.dirty.parts(at, u64::MAX).next() {
                found.push((offset, offset + bytes.len() as u64));
            }
            limit = limit.min(file.buffered.cut.unwrap_or(u64::MAX));
            for job in self.queued_jobs(ino).rev() {
                if let Some((offset, bytes)) = job.runs_in(at, limit).next() {
                    found.push((offset, offset + bytes.len() as u64));
                }
                limit = limit.min(job.buffered.cut.unwrap_or(u64::MAX));
            }
        }
        (found, limit)
    }
}

/// The ranges as far as they lie below a cut.
fn below(ranges: Vec<(u64, u64)>, cut: Option<u64>) -> Vec<(u64, u64)> {
    let Some(cut) = cut else { return ranges };
    ranges.into_iter().filter(|(begin, _)| *begin < cut).map(|(begin, end)| (begin, end.min(cut))).collect()
}

/// What of the ranges the segments leave open. Both are in order.
fn uncovered(ranges: &[(u64, u64)], segments: &[Segment]) -> Vec<(u64, u64)> {
    let mut open = Vec::new();
    let mut segments = segments.iter().peekable();
    for (begin, end) in ranges {
        let mut at = *begin;
        while let Some(segment) = segments.next_if(|segment| segment.offset() < *end) {
            if segment.offset() > at {
                open.push((at, segment.offset()));
            }
            at = at.max(segment.offset() + segment.length());
        }
        if at < *end {
            open.push((at, *end));
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_segments_leave_open() {
        let segment = |offset, length| Segment::Bytes { offset, bytes: Bytes::from(vec![0; length]) };
        assert_eq!(uncovered(&[(0, 10)], &[]), [(0, 10)]);
        assert_eq!(uncovered(&[(0, 10)], &[segment(0, 10)]), []);
        assert_eq!(uncovered(&[(0, 10), (20, 30)], &[segment(2, 3), segment(20, 4)]), [(0, 2), (5, 10), (24, 30)]);
    }
}
