//! One pack, and how its records are read without an index.

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::{
    index::Location,
    record::{MAGIC, RECORD_HEADER_BYTES, RecordHead},
};
use crate::{
    storage::{
        StorageError,
        file::{Directory, RandomFile},
        header::{ALIGNMENT, FileHeader, FileKind, HEADER_BYTES},
    },
    types::BlockHash,
};

pub(crate) const PACK: FileKind = FileKind { magic: *b"manyfspk", suffix: ".pack", noun: "pack" };

/// Bytes that are looked through at a time for the next record behind a damaged one.
const SEARCH_BYTES: usize = 1 << 20;

/// An open pack. Stays readable after its file was removed.
#[derive(Clone, Debug)]
pub(crate) struct Pack {
    pub(crate) number: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn RandomFile>,
    pub(crate) header: FileHeader,
}

/// A record where it was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    pub(crate) head: RecordHead,
}

/// Bytes between records that should have been one.
#[derive(Clone, Debug)]
pub(crate) struct Gap {
    pub(crate) offset: u64,
    pub(crate) found: String,
}

/// Reads the records of a pack one by one.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    pack: &'a Pack,
    at: u64,
    length: u64,
    /// Records that are not intact but have an intact one behind them.
    pub(crate) gaps: Vec<Gap>,
    /// Behind the last intact record.
    pub(crate) end: u64,
    verify: bool,
}

impl Pack {
    pub(crate) fn open(directory: &dyn Directory, number: u32) -> Result<Self, StorageError> {
        let (file, header) = PACK.open(directory, u64::from(number))?;
        Ok(Self { number, path: PACK.path(directory, u64::from(number)), file, header })
    }

    pub(crate) fn create(directory: &dyn Directory, number: u32, reserved: u64) -> Result<Self, StorageError> {
        let header = FileHeader::new(u64::from(number), [0, 0]);
        let file = PACK.create(directory, &header, reserved.max(HEADER_BYTES))?;
        Ok(Self { number, path: PACK.path(directory, u64::from(number)), file, header })
    }

    pub(crate) fn length(&self) -> Result<u64, StorageError> {
        self.file.length().map_err(|error| StorageError::io("read", &self.path, error))
    }

    /// Reads the block at `location`, which must hash to `hash`.
    pub(crate) fn read(&self, hash: &BlockHash, location: Location) -> Result<Bytes, StorageError> {
        let mut bytes = vec![0; location.length as usize];
        let damaged =
            |found| StorageError::Damaged { path: self.path.clone(), offset: u64::from(location.offset), found };
        match self.file.read_at(u64::from(location.offset) + RECORD_HEADER_BYTES as u64, &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged(format!("the pack ends before block {hash} does")));
            }
            // A sector that the disk has lost is damage like any other, not a reason to stop.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => {
                return Err(damaged(format!("block {hash} cannot be read: {error}")));
            }
            Err(error) => return Err(StorageError::io("read", &self.path, error)),
            Ok(()) => {}
        }
        let found = BlockHash::of(&bytes);
        if found != *hash {
            return Err(damaged(format!("the bytes of block {hash} hash to {found}")));
        }
        Ok(bytes.into())
    }

    /// The records from `offset` on. With `verify` a block counts as intact only if its bytes hash to its name.
    pub(crate) fn records(&self, offset: u64, verify: bool) -> Result<Records<'_>, StorageError> {
        let at = offset.max(HEADER_BYTES);
        Ok(Records { pack: self, at, length: self.length()?, gaps: Vec::new(), end: at, verify })
    }
}

impl Records<'_> {
    /// The next intact record; `None` where no more follow.
    ///
    /// # Errors
    /// `Io` where the file cannot be read. Damage is skipped and noted in `gaps`.
    pub(crate) fn next(&mut self) -> Result<Option<Found>, StorageError> {
        match self.record_at(self.at)? {
            Ok(found) => {
                self.at += found.head.record_bytes();
                self.end = self.at;
                Ok(Some(found))
            }
            Err(text) => {
                let begin = self.at;
                let Some(found) = self.search(begin + ALIGNMENT)? else { return Ok(None) };
                self.gaps.push(Gap { offset: begin, found: text });
                self.at = found.offset + found.head.record_bytes();
                self.end = self.at;
                Ok(Some(found))
            }
        }
    }

    fn record_at(&self, offset: u64) -> Result<Result<Found, String>, StorageError> {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        let left = self.length.saturating_sub(offset).min(RECORD_HEADER_BYTES as u64) as usize;
        self.read(offset, &mut bytes[..left])?;
        let head = match RecordHead::decode(&bytes[..left], &self.pack.header, offset) {
            Ok(head) => head,
            Err(text) => return Ok(Err(text)),
        };
        if offset + head.record_bytes() > self.length {
            return Ok(Err("the file ends before the record does".to_owned()));
        }
        if let Some(length) = head.length.filter(|_| self.verify) {
            let location = Location { pack: self.pack.number, offset: offset as u32, length };
            match self.pack.read(&head.hash, location) {
                Ok(_) => {}
                Err(StorageError::Damaged { found, .. }) => return Ok(Err(found)),
                Err(error) => return Err(error),
            }
        }
        Ok(Ok(Found { offset, head }))
    }

    /// The first intact record at or behind `from`.
    fn search(&self, from: u64) -> Result<Option<Found>, StorageError> {
        let mut window = vec![0; SEARCH_BYTES];
        let mut base = from;
        while base < self.length {
            let left = (self.length - base).min(SEARCH_BYTES as u64) as usize;
            self.read(base, &mut window[..left])?;
            for at in (0..left.saturating_sub(MAGIC.len())).step_by(ALIGNMENT as usize) {
                if window[at..at + MAGIC.len()] == MAGIC
                    && let Ok(found) = self.record_at(base + at as u64)?
                {
                    return Ok(Some(found));
                }
            }
            base += SEARCH_BYTES as u64;
        }
        Ok(None)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.pack.file.read_at(offset, buffer).map_err(|error| StorageError::io("read", &self.pack.path, error))
    }
}
