//! Content: which bytes of a file lie in which block. Bytes themselves are not part of the state.
//!
//! fallocate reserves: an extent without a block, which counts like content, so that what is written there later never
//! exceeds a quota, and which the leader counts against the space of the stores.
//!
//! However many pieces a file is in, one entry changes a bounded number of them (`EXTENTS_PER_CALL_MAX`): a copy is shorter
//! then, and of anything else a first part is carried out that is a legal state of the file, `Unfinished`. Asked again it
//! goes on from there.

use super::{attributes::check_time, draft::Draft};
use crate::{
    limits,
    namespace::{AllocateMode, Reply, extent::Extent, inode::Inode},
    types::{ClearSuid, Errno, FileKind, Ino, Piece, Timestamp, XattrName},
};

/// A piece over more extents than this is carried out in parts where it has to; any other is whole or waits.
const EXTENTS_PER_PIECE_MAX: usize = limits::EXTENTS_PER_CALL_MAX / 2;
/// Extents that COLLAPSE_RANGE and INSERT_RANGE move, and that a copy brings or replaces: each is two rows then.
const EXTENTS_MOVED_MAX: usize = limits::EXTENTS_PER_CALL_MAX / 2;

/// What fallocate's COLLAPSE_RANGE and INSERT_RANGE must be aligned to, in bytes.
const ALIGNMENT: u64 = 4096;

impl Draft {
    pub(super) fn write(
        &mut self,
        ino: Ino,
        pieces: &[Piece],
        append: bool,
        mtime: Option<Timestamp>,
        clear_suid: ClearSuid,
    ) -> Result<Reply, Errno> {
        let size = self.file(ino)?;
        if let Some(mtime) = mtime {
            check_time(mtime)?;
        }
        if pieces.len() > limits::PIECES_MAX {
            return Err(Errno::EINVAL);
        }
        let base = if append { size } else { 0 };
        let mut ranges = Vec::with_capacity(pieces.len());
        for piece in pieces {
            ranges.push(check_piece(base, piece)?);
        }
        if clear_suid != ClearSuid::No {
            self.clear_suid(ino, clear_suid);
            self.stamp_attributes(ino);
        }
        let mut done = Vec::with_capacity(ranges.len());
        for (piece, (from, to)) in pieces.iter().zip(&ranges) {
            let end = self.end_of_piece(ino, *from, *to);
            if end > *from {
                self.put_piece(ino, piece, *from, end);
                done.push((*from, end));
            }
            if end < *to {
                break;
            }
        }
        let is_whole = done == ranges;
        let end = done.iter().map(|(_, to)| *to).max().unwrap_or(0).max(size);
        if !done.is_empty() {
            self.content_changed(ino, end, mtime);
            for (from, to) in merged(done) {
                self.tell_content(ino, from, to - from);
            }
        }
        if !is_whole {
            return Ok(Reply::Unfinished);
        }
        let offset = ranges.first().map_or(size, |(from, _)| *from);
        Ok(Reply::Written { offset, size: end })
    }

    /// Part of setattr: shorter cuts, also what is reserved behind the end; longer ends in a hole. The same size changes no
    /// byte, but the times: whoever asks for it has rewritten the file. `Unfinished` where it is cut in part.
    pub(super) fn set_size(&mut self, ino: Ino, size: u64) -> Result<Reply, Errno> {
        let old = self.file(ino)?;
        if size > limits::FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        // From the end: what is left is a file that was cut less.
        let extents = self.inode(ino)?.extents().filter(|_| size <= old);
        let tail = extents.map_or(size, |extents| extents.tail(size, self.extents_left));
        let now = if size <= old { tail.min(old) } else { size };
        if size <= old {
            self.cut(ino, tail, u64::MAX);
        }
        self.content_changed(ino, now, None);
        if now != old {
            self.tell_content(ino, now.min(old), u64::MAX);
        }
        Ok(if tail == size { Reply::Done } else { Reply::Unfinished })
    }

    pub(super) fn allocate(
        &mut self,
        ino: Ino,
        mode: AllocateMode,
        (offset, length): (u64, u64),
        at_most: u64,
    ) -> Result<Reply, Errno> {
        let size = match self.inode(ino)?.kind {
            FileKind::File => self.file(ino)?,
            FileKind::Directory => return Err(Errno::EISDIR),
            FileKind::Fifo => return Err(Errno::ESPIPE),
            _ => return Err(Errno::ENODEV),
        };
        let end = range_end(offset, length)?;
        if let AllocateMode::Extend | AllocateMode::KeepSize | AllocateMode::Zero { .. } = mode
            && !self.reserve(ino, (offset, end), at_most)?
        {
            self.stamp_attributes(ino);
            return Ok(Reply::Unfinished);
        }
        if let AllocateMode::Punch | AllocateMode::Zero { .. } = mode {
            let reach = self.reach(ino, offset, end, self.extents_left);
            if reach < end {
                self.zero(ino, mode, offset, reach);
                self.content_changed(ino, size, None);
                self.tell_content(ino, offset, reach - offset);
                return Ok(Reply::Unfinished);
            }
        }
        let aligned = offset.is_multiple_of(ALIGNMENT) && length.is_multiple_of(ALIGNMENT);
        match mode {
            AllocateMode::KeepSize => self.stamp_attributes(ino),
            AllocateMode::Extend if end > size => {
                self.content_changed(ino, end, None);
                self.tell_content(ino, size, u64::MAX);
            }
            AllocateMode::Extend => self.stamp_attributes(ino),
            AllocateMode::Punch | AllocateMode::Zero { keep_size: true } => {
                self.zero(ino, mode, offset, end);
                self.content_changed(ino, size, None);
                self.tell_content(ino, offset, length);
            }
            AllocateMode::Zero { keep_size: false } => {
                self.zero(ino, mode, offset, end);
                self.content_changed(ino, end.max(size), None);
                self.tell_content(ino, offset.min(size), if end > size { u64::MAX } else { length });
            }
            AllocateMode::Collapse if !aligned || end >= size => return Err(Errno::EINVAL),
            // They cannot be moved in parts.
            AllocateMode::Collapse | AllocateMode::Insert
                if self.reach(ino, offset, u64::MAX, EXTENTS_MOVED_MAX) < u64::MAX =>
            {
                return Err(Errno::EOPNOTSUPP);
            }
            AllocateMode::Collapse => {
                self.cut(ino, offset, end);
                self.shift(ino, end, length, true);
                self.content_changed(ino, size - length, None);
                self.tell_content(ino, offset, u64::MAX);
            }
            AllocateMode::Insert if !aligned || offset >= size => return Err(Errno::EINVAL),
            AllocateMode::Insert if self.end(ino, size).saturating_add(length) > limits::FILE_BYTES_MAX => {
                return Err(Errno::EFBIG);
            }
            AllocateMode::Insert => {
                self.split(ino, offset);
                self.shift(ino, offset, length, false);
                self.content_changed(ino, size + length, None);
                self.tell_content(ino, offset, u64::MAX);
            }
        }
        Ok(Reply::Done)
    }

    /// The extents of the source, cut to the range and moved; its holes become holes.
    pub(super) fn copy_range(
        &mut self,
        (from, from_offset): (Ino, u64),
        (to, to_offset): (Ino, u64),
        length: u64,
    ) -> Result<Reply, Errno> {
        let from_size = self.file(from)?;
        let to_size = self.file(to)?;
        let length = length.min(from_size.saturating_sub(from_offset));
        if length == 0 {
            return Ok(Reply::Copied { length });
        }
        let (from_end, to_end) = (range_end(from_offset, length)?, range_end(to_offset, length)?);
        if from == to && from_offset < to_end && to_offset < from_end {
            return Err(Errno::EINVAL);
        }
        let (from_reach, to_reach) = (
            self.reach(from, from_offset, from_end, EXTENTS_MOVED_MAX),
            self.reach(to, to_offset, to_end, EXTENTS_MOVED_MAX),
        );
        let length = (from_reach - from_offset).min(to_reach - to_offset);
        let (from_end, to_end) = (from_offset + length, to_offset + length);
        let extents = self.inode(from)?.extents().into_iter();
        let parts: Vec<Extent> = extents.flat_map(|extents| extents.parts(from_offset, from_end)).collect();
        self.cut(to, to_offset, to_end);
        // What is only reserved in the source is a hole in the copy.
        for part in parts.into_iter().filter(|part| part.block.is_some()) {
            self.fill(to, Extent { offset: part.offset - from_offset + to_offset, ..part });
        }
        self.content_changed(to, to_end.max(to_size), None);
        self.tell_content(to, to_offset, length);
        Ok(Reply::Copied { length })
    }

    /// The bytes stay as they are, so neither times nor `data_version` change and nobody needs to be told.
    pub(super) fn coalesce(&mut self, ino: Ino, data_version: u64, piece: &Piece) -> Result<Reply, Errno> {
        let size = self.file(ino)?;
        if self.inode(ino)?.data_version != data_version {
            return Err(Errno::ESTALE);
        }
        let (from, to) = check_piece(0, piece)?;
        if piece.block.is_none() || to > size {
            return Err(Errno::EINVAL);
        }
        let end = self.end_of_piece(ino, from, to);
        self.put_piece(ino, piece, from, end);
        Ok(Reply::Done)
    }

    /// Reserves what is a hole in the range, as many holes as one entry may; whether that was all. EDQUOT or EAGAIN, and
    /// nothing is reserved, where the whole is too much for the quota, or more than the leader has found space for.
    fn reserve(&mut self, ino: Ino, (from, to): (u64, u64), at_most: u64) -> Result<bool, Errno> {
        let extents = self.inode(ino)?.extents().ok_or(Errno::EINVAL)?;
        let missing: u64 = extents.holes(from, to).map(|(begin, end)| end - begin).sum();
        let quota = self.volume.options().quota_bytes.unwrap_or(u64::MAX);
        if missing > 0 && self.volume.bytes_used().saturating_add(missing) > quota {
            return Err(Errno::EDQUOT);
        }
        if missing > at_most {
            return Err(Errno::EAGAIN);
        }
        let mut holes: Vec<(u64, u64)> = extents.holes(from, to).take(self.extents_left + 1).collect();
        let is_whole = holes.len() <= self.extents_left;
        holes.truncate(self.extents_left);
        self.extents_left -= holes.len();
        for (begin, end) in holes {
            self.fill(ino, Extent::reserved(begin, end));
        }
        Ok(is_whole)
    }

    /// Makes the range zeros: a hole, or what is reserved, as the mode says.
    fn zero(&mut self, ino: Ino, mode: AllocateMode, from: u64, to: u64) {
        self.cut(ino, from, to);
        if from < to && matches!(mode, AllocateMode::Zero { .. }) {
            self.fill(ino, Extent::reserved(from, to));
        }
    }

    /// Where the file and what is reserved behind it end.
    fn end(&self, ino: Ino, size: u64) -> u64 {
        self.inode(ino).ok().and_then(Inode::extents).map_or(size, |extents| extents.end().max(size))
    }

    /// How far a change of the range comes that concerns so many of its extents.
    fn reach(&self, ino: Ino, from: u64, to: u64, extents: usize) -> u64 {
        self.volume.extents(ino, from, to - from).nth(extents).map_or(to, |extent| extent.offset.max(from))
    }

    /// How far this entry comes with a piece: to its end, or not at all where the next will. Only what is too much for any
    /// entry is carried out in parts.
    fn end_of_piece(&self, ino: Ino, from: u64, to: u64) -> u64 {
        let end = self.reach(ino, from, to, self.extents_left);
        let may_wait = || self.reach(ino, from, to, EXTENTS_PER_PIECE_MAX) == to;
        if end < to && may_wait() { from } else { end }
    }

    /// The size of a regular file.
    fn file(&self, ino: Ino) -> Result<u64, Errno> {
        let inode = self.inode(ino)?;
        match inode.kind {
            FileKind::File => Ok(inode.size),
            FileKind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The piece, or its first part: up to `to`.
    fn put_piece(&mut self, ino: Ino, piece: &Piece, from: u64, to: u64) {
        self.cut(ino, from, to);
        if let Some(block) = piece.block {
            self.fill(ino, Extent { offset: from, length: to - from, block: Some(block), block_offset: 0 });
            if let Some(content) = &piece.content {
                self.content.push((block, content.clone()));
            }
        }
    }

    fn content_changed(&mut self, ino: Ino, size: u64, mtime: Option<Timestamp>) {
        self.change(ino, |inode| {
            inode.size = size;
            inode.data_version += 1;
        });
        self.stamp_content(ino, mtime);
        self.drop_xattr(ino, &XattrName::capability());
    }
}

/// Where the range ends. EINVAL when it is empty, EFBIG beyond the largest file.
fn range_end(offset: u64, length: u64) -> Result<u64, Errno> {
    if length == 0 {
        return Err(Errno::EINVAL);
    }
    offset.checked_add(length).filter(|end| *end <= limits::FILE_BYTES_MAX).ok_or(Errno::EFBIG)
}

fn check_piece(base: u64, piece: &Piece) -> Result<(u64, u64), Errno> {
    if piece.block.is_some() && piece.length > limits::BLOCK_BYTES_MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let from = base.checked_add(piece.offset).ok_or(Errno::EFBIG)?;
    range_end(from, piece.length).map(|to| (from, to))
}

/// The ranges in order, those that overlap or touch as one.
fn merged(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match merged.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => merged.push((from, to)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        namespace::{
            Command, Entry, EntryHeader, NewNode, Operation, Volume, VolumeOptions, extent::Extents, inode::Body,
        },
        types::{AttributeChanges, BlockHash, ClearSuid, LogIndex, Name, Sequence, SessionId, Stamp, VolumeId},
    };

    const BLOCK: BlockHash = BlockHash([7; 32]);

    struct Bench {
        volume: Volume,
        index: u64,
    }

    impl Bench {
        fn ask(&mut self, operation: Operation) -> Result<Reply, Errno> {
            self.index += 1;
            let header = EntryHeader {
                feature_level: 1,
                volume: VolumeId(1),
                session: SessionId(0),
                sequence: Sequence(0),
                answered: Vec::new(),
                stamp: Stamp(self.index),
            };
            let entry = Entry { header, command: Command::Operation(operation) };
            self.volume.apply(LogIndex(self.index), &entry).outcome
        }

        /// A file with a byte at every second place.
        fn file(&mut self, name: &str, extents: u64) -> Ino {
            let made = Operation::Make {
                parent: Ino::ROOT,
                name: Name::new(name.as_bytes()).expect("a good name"),
                node: NewNode::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                delegate: false,
                umask: 0,
            };
            let Ok(Reply::Made { ino }) = self.ask(made) else { panic!("not made") };
            let extent = |number| Extent { offset: 2 * number, length: 1, block: Some(BLOCK), block_offset: 0 };
            let all = Extents::Many((0..extents).map(|number| (2 * number, extent(number))).collect());
            self.volume.counters.further_extents += all.further();
            self.volume.counters.bytes_used += extents;
            let inode = self.volume.inodes.get_mut(&ino).map(Arc::make_mut).expect("just made");
            (inode.size, inode.body) = (2 * extents, Body::File { extents: all, bytes: extents });
            ino
        }

        fn write(&mut self, ino: Ino, offset: u64) -> Result<Reply, Errno> {
            let pieces = vec![Piece { offset, length: 1, block: Some(BLOCK), content: None }];
            let uploads = Vec::new();
            self.ask(Operation::Write {
                ino,
                pieces,
                append: false,
                mtime: None,
                clear_suid: ClearSuid::No,
                uploads,
                fence: None,
            })
        }
    }

    /// Nodes and mounts keep every extent in memory; what takes some away is never refused.
    #[test]
    fn extents_are_bounded_by_file_and_by_volume() {
        let volume = Volume::new(VolumeId(1), "main".to_owned(), VolumeOptions::default(), Stamp(1));
        let mut bench = Bench { volume, index: 1 };
        let (most, end) = (limits::EXTENTS_PER_FILE_MAX, 2 * limits::EXTENTS_PER_FILE_MAX);
        let full = bench.file("full", most + 1);
        assert_eq!(bench.write(full, end + 9), Err(Errno::EFBIG));
        let punch = Operation::Allocate { ino: full, mode: AllocateMode::Punch, offset: 0, length: 1, at_most: 0 };
        assert_eq!(bench.ask(punch), Ok(Reply::Done));
        bench.write(full, end + 9).expect("there is a place");
        let other = bench.file("other", limits::EXTENTS_PER_VOLUME_MAX - most + 1);
        assert_eq!(bench.volume.further_extents(), limits::EXTENTS_PER_VOLUME_MAX);
        let small = bench.file("small", 2);
        assert_eq!(bench.write(small, 9), Err(Errno::ENOSPC));
        let plain = bench.file("plain", 0);
        bench.write(plain, 0).expect("a file in one piece needs no place");
        let changes = AttributeChanges { size: Some(1), ..AttributeChanges::default() };
        while bench.ask(Operation::SetAttributes { ino: other, changes }).expect("cut") == Reply::Unfinished {}
        bench.write(small, 9).expect("there is a place");
    }
}
