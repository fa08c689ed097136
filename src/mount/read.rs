//! READ: answered at once from what is here, else when the missing blocks have come. It waits for nothing but blocks,
//! never for the completion of a change (docs/protocol.md R9-application), because invalidations wait for the pages
//! that it keeps locked. (`leaseless.rs` is about every request that looks, without a lease.)

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};

use super::{
    Caller, Mount, Response,
    files::Segment,
    requests::{Awaited, FileRange, Pending, ReadRange},
};
use crate::{
    limits,
    types::{BlockHash, Errno, FileKind, Ino, Instant},
};

/// Bytes fetched ahead of a sequential reader.
const AHEAD_BYTES: u64 = 2 * limits::BLOCK_BYTES_MAX as u64;
/// Blocks on their way beyond which nobody reads ahead.
const FETCHES_AHEAD_MAX: usize = 8;
/// Parts of an answer; more are joined into one, so that the reply needs no endless vector.
const PARTS_MAX: usize = 64;
/// What the kernel locks at a time.
const PAGE_BYTES: u64 = 4096;

/// Where holes are read from.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl Mount {
    pub(super) fn read(&mut self, now: Instant, unique: u64, caller: Caller, range: ReadRange) {
        let ReadRange { ino, offset, length } = range;
        match self.volume().inode(ino).map(|inode| inode.kind) {
            Some(FileKind::File) => {}
            Some(FileKind::Directory) => return self.respond(unique, Err(Errno::EISDIR)),
            Some(_) => return self.respond(unique, Err(Errno::EINVAL)),
            None => return self.respond(unique, Err(Errno::ESTALE)),
        }
        self.read_ahead(now, ino, offset, length);
        match self.assemble(unique, ino, offset, length) {
            Ok(parts) => {
                self.counters.content_hits += 1;
                self.kernel.gave_pages(ino, caller.pid);
                self.respond(unique, Ok(Response::Data(parts)));
            }
            Err(Absent::Damaged) => self.respond(unique, Err(Errno::EIO)),
            Err(Absent::Blocks(missing)) => {
                self.counters.content_misses += 1;
                let deadline = self.deadline(now);
                let pages = FileRange::of_pages(ino, offset, length, PAGE_BYTES);
                let waiting = Pending::new(caller, deadline, Awaited::Read(range)).locking_pages(Some(pages));
                self.wait(now, unique, waiting);
                self.reading.wait(now, unique, missing, |_| false, deadline, self.client.stores());
            }
        }
    }

    /// Blocks are here for which these READs waited.
    pub(super) fn go_on_with_reads(&mut self, now: Instant, readers: BTreeSet<u64>) {
        for unique in readers {
            self.retry_read(now, unique);
        }
    }

    /// The content of these files changed: waiting READs look again.
    pub(super) fn read_again(&mut self, now: Instant, is_concerned: impl Fn(Ino) -> bool) {
        let readers: Vec<u64> =
            self.requests.reads().filter(|(_, ino)| is_concerned(*ino)).map(|(unique, _)| unique).collect();
        for unique in readers {
            self.retry_read(now, unique);
        }
    }

    fn retry_read(&mut self, now: Instant, unique: u64) {
        let Some(waiting) = self.requests.get(unique) else { return };
        let (deadline, caller) = (waiting.deadline, waiting.caller);
        let Awaited::Read(ReadRange { ino, offset, length }) = waiting.need else { return };
        match self.assemble(unique, ino, offset, length) {
            Ok(parts) => {
                self.kernel.gave_pages(ino, caller.pid);
                self.answer(now, unique, Ok(Response::Data(parts)));
            }
            Err(Absent::Damaged) => self.answer(now, unique, Err(Errno::EIO)),
            Err(Absent::Blocks(missing)) => {
                let needed = self.blocks_of(ino, offset, length);
                self.reading.wait(now, unique, missing, |hash| needed.contains(hash), deadline, self.client.stores());
            }
        }
    }

    fn blocks_of(&self, ino: Ino, offset: u64, length: u32) -> Vec<BlockHash> {
        let segments = self.segments(ino, offset, offset.saturating_add(u64::from(length)));
        segments
            .iter()
            .filter_map(|segment| match segment {
                Segment::Block { block, .. } => Some(*block),
                Segment::Bytes { .. } => None,
            })
            .collect()
    }

    /// The bytes of the range up to the end of the file, or the blocks that are not here.
    fn assemble(&mut self, reader: u64, ino: Ino, offset: u64, length: u32) -> Result<Vec<Bytes>, Absent> {
        let end = offset.saturating_add(u64::from(length)).min(self.size(ino));
        if offset >= end {
            return Ok(Vec::new());
        }
        let mut parts = Vec::new();
        let mut missing = Vec::new();
        let mut at = offset;
        for segment in self.segments(ino, offset, end) {
            zeros(&mut parts, segment.offset() - at);
            at = segment.offset() + segment.length();
            match segment {
                Segment::Bytes { bytes, .. } => parts.push(bytes),
                Segment::Block { length, block, block_offset, .. } => {
                    let Some(bytes) = self.reading.block_for(reader, &block) else {
                        missing.push(block);
                        continue;
                    };
                    let range = usize::try_from(block_offset).ok().zip(usize::try_from(block_offset + length).ok());
                    // A block is verified by its name; one shorter than an extent says was named wrongly.
                    let (from, to) = range.filter(|(_, to)| *to <= bytes.len()).ok_or(Absent::Damaged)?;
                    parts.push(bytes.slice(from..to));
                }
            }
        }
        if !missing.is_empty() {
            return Err(Absent::Blocks(missing));
        }
        zeros(&mut parts, end - at);
        Ok(if parts.len() > PARTS_MAX { vec![joined(&parts)] } else { parts })
    }

    /// Fetches what a sequential reader will ask for next.
    fn read_ahead(&mut self, now: Instant, ino: Ino, offset: u64, length: u32) {
        let end = offset.saturating_add(u64::from(length));
        // Without a handle nobody would clear this away.
        if !self.handles.is_open(ino) {
            return;
        }
        if !self.handles.ends_are_told() && end >= self.size(ino) {
            // Nor does anybody when no close is told; nothing follows the end.
            return self.files.tidy(ino);
        }
        let is_sequential = self.files.is_sequential(ino, offset, end);
        let room = self.reading.capacity() >= 2 * limits::BLOCK_BYTES_MAX + AHEAD_BYTES as usize;
        if !is_sequential || !room || self.reading.fetches_running() >= FETCHES_AHEAD_MAX {
            return;
        }
        let until = now.after(self.config.timing.lease);
        let ahead: Vec<BlockHash> = self
            .volume()
            .extents(ino, end, AHEAD_BYTES)
            .filter_map(|extent| extent.block)
            .filter(|block| !self.reading.has(block))
            .take(FETCHES_AHEAD_MAX)
            .collect();
        self.reading.fetch_ahead(now, ahead, until, self.client.stores());
    }
}

/// Why a range cannot be shown now.
enum Absent {
    Blocks(Vec<BlockHash>),
    Damaged,
}

fn zeros(parts: &mut Vec<Bytes>, mut length: u64) {
    while length > 0 {
        let part = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
        parts.push(Bytes::from_static(&ZEROS[..part]));
        length -= part as u64;
    }
}

fn joined(parts: &[Bytes]) -> Bytes {
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    for part in parts {
        all.extend_from_slice(part);
    }
    all.freeze()
}
