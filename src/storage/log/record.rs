//! A record of the log, byte by byte.
//!
//! ```text
//!  0  4  magic
//!  4  1  version of the format
//!  5  1  kind
//!  6  1  flags: bit 0, the last record of its group
//!  7  1  0
//!  8  4  length: bytes of the payload
//! 12  4  CRC32 of the segment's salt and number, the record's offset, the other header bytes, and the payload
//! 16  8  group: grows by one with every sync
//! 24     payload, then zeros up to a multiple of 8
//! ```
//! Payloads: an entry is its index and term (8 bytes each) and the encoded raft entry; a hard state is itself; a
//! truncation is the index of the first entry that is void; a reset and a compaction are an index and a term.
//! All numbers are little-endian.

use bytes::Bytes;

use crate::{
    message::log::LogEntry,
    storage::header::{FileHeader, aligned, u32_at, u64_at},
    types::{LogIndex, Term},
};

/// Bytes of a record without its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 24;
pub(crate) const MAGIC: [u8; 4] = *b"mflr";
const VERSION: u8 = 1;
const LAST_OF_GROUP: u8 = 1;

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_TRUNCATE: u8 = 3;
const KIND_RESET: u8 = 4;
const KIND_COMPACTED: u8 = 5;

/// What one record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    Entry(LogEntry),
    HardState(Bytes),
    /// This entry and all behind it are void.
    Truncate(LogIndex),
    /// All entries are void; the next one follows this position.
    Reset(LogIndex, Term),
    /// Entries up to this one are not needed any more.
    Compacted(LogIndex, Term),
}

/// A record and its place in its group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Framed {
    pub(crate) record: Record,
    pub(crate) group: u64,
    pub(crate) last_of_group: bool,
    /// Bytes in the segment, padding included.
    pub(crate) bytes: u64,
}

impl Record {
    const fn kind(&self) -> u8 {
        match self {
            Self::Entry(_) => KIND_ENTRY,
            Self::HardState(_) => KIND_HARD_STATE,
            Self::Truncate(_) => KIND_TRUNCATE,
            Self::Reset(..) => KIND_RESET,
            Self::Compacted(..) => KIND_COMPACTED,
        }
    }

    /// Bytes that `append_to` adds.
    pub(crate) fn encoded_bytes(&self) -> u64 {
        let payload = match self {
            Self::Entry(entry) => 16 + entry.bytes.len(),
            Self::HardState(bytes) => bytes.len(),
            Self::Truncate(_) => 8,
            Self::Reset(..) | Self::Compacted(..) => 16,
        };
        aligned((RECORD_HEADER_BYTES + payload) as u64)
    }

    /// Appends the record to a buffer that will be written at offset `base` of the segment.
    pub(crate) fn append_to(&self, buffer: &mut Vec<u8>, header: &FileHeader, base: u64, group: u64, last: bool) {
        let start = buffer.len();
        buffer.extend_from_slice(&MAGIC);
        buffer.extend_from_slice(&[VERSION, self.kind(), if last { LAST_OF_GROUP } else { 0 }, 0]);
        buffer.extend_from_slice(&[0; 8]);
        buffer.extend_from_slice(&group.to_le_bytes());
        match self {
            Self::Entry(entry) => {
                buffer.extend_from_slice(&entry.index.0.to_le_bytes());
                buffer.extend_from_slice(&entry.term.0.to_le_bytes());
                buffer.extend_from_slice(&entry.bytes);
            }
            Self::HardState(bytes) => buffer.extend_from_slice(bytes),
            Self::Truncate(index) => buffer.extend_from_slice(&index.0.to_le_bytes()),
            Self::Reset(index, term) | Self::Compacted(index, term) => {
                buffer.extend_from_slice(&index.0.to_le_bytes());
                buffer.extend_from_slice(&term.0.to_le_bytes());
            }
        }
        let payload = buffer.len() - start - RECORD_HEADER_BYTES;
        let length = u32::try_from(payload).expect("an entry is far below 4 GiB");
        buffer[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
        let crc = checksum(header, base + start as u64, &buffer[start..]);
        buffer[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
        buffer.resize(start + aligned((RECORD_HEADER_BYTES + payload) as u64) as usize, 0);
    }

    /// Reads the record at `offset` of a segment's bytes; says what was found where there is no intact one.
    pub(crate) fn decode(segment: &[u8], header: &FileHeader, offset: u64) -> Result<Framed, String> {
        let rest = usize::try_from(offset).ok().and_then(|offset| segment.get(offset..)).unwrap_or(&[]);
        let Some(head) = rest.get(..RECORD_HEADER_BYTES) else {
            return Err(format!("{} bytes are left, a record has {RECORD_HEADER_BYTES} at least", rest.len()));
        };
        if head[..4] != MAGIC {
            return Err("no record begins here".to_owned());
        }
        let length = u32_at(head, 8) as usize;
        let Some(bytes) = rest.get(..RECORD_HEADER_BYTES + length) else {
            return Err(format!("the record claims {length} bytes, {} are left in the file", rest.len()));
        };
        if u32_at(head, 12) != checksum(header, offset, bytes) {
            return Err("the record does not match its checksum".to_owned());
        }
        if head[4] != VERSION {
            return Err(format!("a record of version {}, this program reads version {VERSION}", head[4]));
        }
        let payload = &bytes[RECORD_HEADER_BYTES..];
        let position = |payload: &[u8]| (LogIndex(u64_at(payload, 0)), Term(u64_at(payload, 8)));
        let record = match (head[5], length) {
            (KIND_ENTRY, 16..) => {
                let (index, term) = position(payload);
                Self::Entry(LogEntry { index, term, bytes: Bytes::copy_from_slice(&payload[16..]) })
            }
            (KIND_HARD_STATE, _) => Self::HardState(Bytes::copy_from_slice(payload)),
            (KIND_TRUNCATE, 8) => Self::Truncate(LogIndex(u64_at(payload, 0))),
            (KIND_RESET, 16) => {
                let (index, term) = position(payload);
                Self::Reset(index, term)
            }
            (KIND_COMPACTED, 16) => {
                let (index, term) = position(payload);
                Self::Compacted(index, term)
            }
            (kind, length) => return Err(format!("a record of kind {kind} with {length} bytes")),
        };
        Ok(Framed {
            record,
            group: u64_at(head, 16),
            last_of_group: head[6] & LAST_OF_GROUP != 0,
            bytes: aligned(bytes.len() as u64),
        })
    }
}

/// Binds the record to its place, so that what an earlier use of the disk left there never counts.
fn checksum(header: &FileHeader, offset: u64, record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header.salt.to_le_bytes());
    hasher.update(&header.sequence.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&record[..12]);
    hasher.update(&record[16..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> FileHeader {
        FileHeader { sequence: 3, salt: 0x1234_5678_9abc_def0, own: [0, 0] }
    }

    fn records() -> Vec<Record> {
        vec![
            Record::Entry(LogEntry { index: LogIndex(5), term: Term(2), bytes: Bytes::from_static(b"content") }),
            Record::Entry(LogEntry { index: LogIndex(6), term: Term(2), bytes: Bytes::new() }),
            Record::HardState(Bytes::from_static(b"hard")),
            Record::Truncate(LogIndex(4)),
            Record::Reset(LogIndex(9), Term(3)),
            Record::Compacted(LogIndex(10), Term(4)),
        ]
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for record in records() {
            let mut buffer = vec![0xee; 48];
            record.append_to(&mut buffer, &header(), 0, 7, true);
            assert_eq!(buffer.len() as u64, 48 + record.encoded_bytes());
            let framed = Record::decode(&buffer, &header(), 48).expect("intact");
            let bytes = record.encoded_bytes();
            assert_eq!(framed, Framed { record, group: 7, last_of_group: true, bytes });
        }
    }

    #[test]
    fn a_record_counts_only_in_its_own_place() {
        let mut buffer = Vec::new();
        records()[0].append_to(&mut buffer, &header(), 0, 7, true);
        let mut moved = vec![0; 8];
        moved.extend_from_slice(&buffer);
        assert!(Record::decode(&moved, &header(), 8).is_err(), "another offset");
        let other = FileHeader { salt: 1, ..header() };
        assert!(Record::decode(&buffer, &other, 0).is_err(), "an older use of the file");
        let other = FileHeader { sequence: 4, ..header() };
        assert!(Record::decode(&buffer, &other, 0).is_err(), "another file");
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let mut buffer = Vec::new();
        records()[0].append_to(&mut buffer, &header(), 0, 7, true);
        let covered = RECORD_HEADER_BYTES + 16 + b"content".len();
        for bit in 0..covered * 8 {
            let mut flipped = buffer.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&flipped, &header(), 0).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0u8..8,
            length in 0u32..200,
            offset in 0u64..300,
            sealed: bool,
        ) {
            if bytes.len() >= RECORD_HEADER_BYTES {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4] = VERSION;
                bytes[5] = kind;
                bytes[8..12].copy_from_slice(&length.to_le_bytes());
                let end = RECORD_HEADER_BYTES + length as usize;
                if sealed && end <= bytes.len() {
                    // Even a record with a right checksum may hold nonsense.
                    let crc = checksum(&header(), 0, &bytes[..end]);
                    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
                }
            }
            let _ = Record::decode(&bytes, &header(), 0);
            let _ = Record::decode(&bytes, &header(), offset);
        }
    }
}
