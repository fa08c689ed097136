//! Content: which bytes of a file lie in which block. Bytes themselves are not part of the state.

use super::{attributes::check_time, draft::Draft};
use crate::{
    limits,
    namespace::{AllocateMode, Reply, extent::Extent},
    types::{ClearSuid, Errno, FileKind, Ino, Piece, Timestamp, XattrName},
};

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
        for (piece, (from, to)) in pieces.iter().zip(&ranges) {
            self.put_piece(ino, piece, *from, *to);
        }
        let end = ranges.iter().map(|(_, to)| *to).max().unwrap_or(0).max(size);
        if !pieces.is_empty() {
            self.content_changed(ino, end, mtime);
            for (from, to) in merged(ranges.clone()) {
                self.tell_content(ino, from, to - from);
            }
        }
        let offset = ranges.first().map_or(size, |(from, _)| *from);
        Ok(Reply::Written { offset, size: end })
    }

    /// Part of setattr: shorter cuts, longer ends in a hole. The same size changes no byte, but the times: whoever asks for
    /// it has rewritten the file.
    pub(super) fn set_size(&mut self, ino: Ino, size: u64) -> Result<(), Errno> {
        let old = self.file(ino)?;
        if size > limits::FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        self.cut(ino, size, u64::MAX);
        self.content_changed(ino, size, None);
        if size != old {
            self.tell_content(ino, size.min(old), u64::MAX);
        }
        Ok(())
    }

    pub(super) fn allocate(&mut self, ino: Ino, mode: AllocateMode, offset: u64, length: u64) -> Result<Reply, Errno> {
        let size = match self.inode(ino)?.kind {
            FileKind::File => self.file(ino)?,
            FileKind::Directory => return Err(Errno::EISDIR),
            FileKind::Fifo => return Err(Errno::ESPIPE),
            _ => return Err(Errno::ENODEV),
        };
        let end = range_end(offset, length)?;
        let aligned = offset.is_multiple_of(ALIGNMENT) && length.is_multiple_of(ALIGNMENT);
        match mode {
            AllocateMode::KeepSize => self.stamp_attributes(ino),
            AllocateMode::Extend if end > size => {
                self.content_changed(ino, end, None);
                self.tell_content(ino, size, u64::MAX);
            }
            AllocateMode::Extend => self.stamp_attributes(ino),
            AllocateMode::Punch | AllocateMode::Zero { keep_size: true } => {
                self.cut(ino, offset, end);
                self.content_changed(ino, size, None);
                self.tell_content(ino, offset, length);
            }
            AllocateMode::Zero { keep_size: false } => {
                self.cut(ino, offset, end);
                self.content_changed(ino, end.max(size), None);
                self.tell_content(ino, offset.min(size), if end > size { u64::MAX } else { length });
            }
            AllocateMode::Collapse if !aligned || end >= size => return Err(Errno::EINVAL),
            AllocateMode::Collapse => {
                self.cut(ino, offset, end);
                self.shift(ino, end, length, true);
                self.content_changed(ino, size - length, None);
                self.tell_content(ino, offset, u64::MAX);
            }
            AllocateMode::Insert if !aligned || offset >= size => return Err(Errno::EINVAL),
            AllocateMode::Insert if size.saturating_add(length) > limits::FILE_BYTES_MAX => return Err(Errno::EFBIG),
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
        let extents = self.inode(from)?.extents().into_iter();
        let parts: Vec<Extent> = extents.flat_map(|extents| extents.parts(from_offset, from_end)).collect();
        self.cut(to, to_offset, to_end);
        for part in parts {
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
        self.put_piece(ino, piece, from, to);
        Ok(Reply::Done)
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

    fn put_piece(&mut self, ino: Ino, piece: &Piece, from: u64, to: u64) {
        self.cut(ino, from, to);
        if let Some(block) = piece.block {
            self.fill(ino, Extent { offset: from, length: to - from, block, block_offset: 0 });
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
