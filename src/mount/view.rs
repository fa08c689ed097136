//! A file as this mount shows it: the replica, over it the bytes of flushes that are not applied yet, over these the
//! bytes that are in no flush.

use std::time::Duration;

use bytes::Bytes;

use super::{Caller, Mount, changes::Changes};
use crate::types::{Attributes, BlockHash, FileKind, Ino, Name};

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

impl Mount {
    /// What stat shows; `None` when there is no such inode.
    pub(super) fn attributes(&self, ino: Ino) -> Option<Attributes> {
        let mut attributes = self.volume().attributes(ino)?;
        if let Some((uid, gid)) = self.config.squash {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        let Some(file) = self.files.get(&ino).filter(|file| file.is_ahead()) else { return Some(attributes) };
        let mut bytes = file.dirty.bytes() as u64;
        for job in file.queue.iter().filter_map(|id| self.jobs.get(id)) {
            let end = job.runs.last().map_or(0, |(offset, last)| offset + last.len() as u64);
            job.changes.show(&mut attributes, end);
            bytes += job.run_bytes as u64;
        }
        file.changes.show(&mut attributes, file.dirty.end());
        // An estimate: what replaces other content will not take more room, and a file has no more than its size.
        attributes.blocks = attributes.blocks.max(bytes.div_ceil(512)).min(attributes.size.div_ceil(512));
        if let Some((uid, gid)) = self.config.squash {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        Some(attributes)
    }

    /// What was done here to the file and is not applied yet.
    pub(super) fn changes_ahead(&self, ino: Ino) -> impl Iterator<Item = &Changes> {
        self.files.get(&ino).into_iter().flat_map(|file| {
            let flushes = file.queue.iter().filter_map(|id| self.jobs.get(id));
            flushes.map(|job| &job.changes).chain([&file.changes])
        })
    }

    /// Bytes of the file, those not flushed included; 0 when there is no such inode.
    pub(super) fn size(&self, ino: Ino) -> u64 {
        self.attributes(ino).map_or(0, |attributes| attributes.size)
    }

    /// What holds the bytes of `from..to`, in order; what lies between is a hole.
    pub(super) fn segments(&self, ino: Ino, from: u64, to: u64) -> Vec<Segment> {
        let mut found: Vec<Segment> = Vec::new();
        let mut open = vec![(from, to)];
        if let Some(file) = self.files.get(&ino) {
            for (begin, end) in open.clone() {
                for (offset, bytes) in file.dirty.parts(begin, end) {
                    found.push(Segment::Bytes { offset, bytes: Bytes::copy_from_slice(bytes) });
                }
            }
            open = below(uncovered(&open, &found), file.changes.cut);
            for job in file.queue.iter().rev().filter_map(|id| self.jobs.get(id)) {
                let mut parts = Vec::new();
                for (begin, end) in &open {
                    for (offset, bytes) in job.runs_in(*begin, *end) {
                        parts.push(Segment::Bytes { offset, bytes });
                    }
                }
                open = below(uncovered(&open, &parts), job.changes.cut);
                found.append(&mut parts);
            }
        }
        for (begin, end) in open {
            for extent in self.volume().extents(ino, begin, end - begin) {
                let offset = extent.offset.max(begin);
                let length = extent.end().min(end) - offset;
                let block_offset = extent.block_offset + (offset - extent.offset);
                // What is only reserved reads as a hole.
                if let Some(block) = extent.block {
                    found.push(Segment::Block { offset, length, block, block_offset });
                }
            }
        }
        found.sort_by_key(Segment::offset);
        found
    }

    /// The first range with content that ends behind `at`: its begin (not before `at`) and an end.
    pub(super) fn data_behind(&self, ino: Ino, at: u64) -> Option<(u64, u64)> {
        let mut found: Option<(u64, u64)> = None;
        let mut offer = |begin: u64, end: u64| {
            let begin = begin.max(at);
            if begin < end && found.is_none_or(|(best, _)| begin < best) {
                found = Some((begin, end));
            }
        };
        // What lies behind a cut is not there for all that came before it.
        let mut limit = u64::MAX;
        if let Some(file) = self.files.get(&ino) {
            if let Some((offset, bytes)) = file.dirty.parts(at, u64::MAX).next() {
                offer(offset, offset + bytes.len() as u64);
            }
            limit = limit.min(file.changes.cut.unwrap_or(u64::MAX));
            for job in file.queue.iter().rev().filter_map(|id| self.jobs.get(id)) {
                if let Some((offset, bytes)) = job.runs_in(at, limit).next() {
                    offer(offset, offset + bytes.len() as u64);
                }
                limit = limit.min(job.changes.cut.unwrap_or(u64::MAX));
            }
        }
        let mut extents = self.volume().extents(ino, at, limit.saturating_sub(at));
        if let Some(extent) = extents.find(|extent| extent.block.is_some()) {
            offer(extent.offset, extent.end().min(limit));
        }
        found
    }

    /// How long the kernel may keep what a name means (docs/protocol.md R1-versions, R3-apply-first).
    pub(super) fn entry_ttl(&mut self, parent: Ino, name: &Name) -> Duration {
        if !self.is_fresh || self.invalidations.is_name_fenced(parent, name) {
            return Duration::ZERO;
        }
        let ttl = self.name_ttl();
        if ttl > Duration::ZERO {
            self.epochs.told.insert(parent, name);
        }
        ttl
    }

    /// How long the kernel may keep the attributes that it is told now, where its version of the inode protects it from a
    /// late reply.
    pub(super) fn attributes_ttl(&mut self, caller: Caller, ino: Ino) -> Duration {
        let is_ahead = self.files.get(&ino).is_some_and(super::file::File::is_ahead);
        let is_elsewhere = self.is_delegated_elsewhere(ino);
        let is_fenced = self.invalidations.is_inode_fenced(ino);
        let is_safe = !is_fenced && self.lookups.is_confirmed(ino);
        let is_file = self.volume().inode(ino).is_some_and(|inode| inode.kind == FileKind::File);
        let is_told = !is_fenced && !is_elsewhere;
        let is_current = !is_file || is_told && self.lookups.may_keep(ino, self.now, caller.pid);
        if let Some(attributes) = self.attributes(ino).filter(|_| is_file) {
            let is_doubtful = is_fenced || self.sizes.is_behind_another(self.lookups.answers(ino));
            self.lookups.told_of(&attributes, self.now, caller.pid, is_doubtful);
        }
        if self.is_fresh && !is_ahead && !is_elsewhere && is_safe && is_current && self.is_watched(ino) {
            self.lookups.gave_attributes(ino, self.now, caller.pid);
            self.config.timing.cache
        } else {
            Duration::ZERO
        }
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
