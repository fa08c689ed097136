//! One file of the log, and how to tell a crash from damage in it.
//!
//! A group of records is written at once and synced before the next group is written. So when a record cannot be read:
//! - an intact record of a *later group* behind it proves that it had been synced: the disk damaged it, an error;
//! - intact records of its own group prove nothing, pages of one write reach the disk in any order: a crash, cut off.
//!
//! Where a segment has a successor its end is known from there, and all of it must be intact.

use std::path::Path;

use super::record::{Framed, MAGIC, Record};
use crate::storage::{
    StorageError,
    header::{ALIGNMENT, FileHeader, FileKind, HEADER_BYTES},
};

pub(crate) const SEGMENT: FileKind = FileKind { magic: *b"manyfslg", suffix: ".segment", noun: "segment of the log" };

/// What a segment's header adds to the common one.
pub(crate) trait SegmentHeader {
    fn segment(sequence: u64, first_group: u64, previous_end: u64) -> Self;
    /// The group that the segment begins with.
    fn first_group(&self) -> u64;
    /// Where the records of the segment before this one end; what follows there is void.
    fn previous_end(&self) -> u64;
}

impl SegmentHeader for FileHeader {
    fn segment(sequence: u64, first_group: u64, previous_end: u64) -> Self {
        Self::new(sequence, [first_group, previous_end])
    }

    fn first_group(&self) -> u64 {
        self.own[0]
    }

    fn previous_end(&self) -> u64 {
        self.own[1]
    }
}

/// The records of a segment.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Records of complete groups, with their offsets.
    pub(crate) records: Vec<(u64, Framed)>,
    /// Where the last complete group ends.
    pub(crate) end: u64,
    pub(crate) next_group: u64,
    /// A crash left something behind `end`: what it looks like.
    pub(crate) torn: Option<String>,
}

/// Reads the records in the bytes of a segment. `end` is where they end, known from the segment's successor.
pub(crate) fn scan(path: &Path, bytes: &[u8], header: &FileHeader, end: Option<u64>) -> Result<Scan, StorageError> {
    let damaged = |offset, found| Err(StorageError::Damaged { path: path.to_owned(), offset, found });
    let mut scan = Scan { records: Vec::new(), end: HEADER_BYTES, next_group: header.first_group(), torn: None };
    // Records of the group that is being read.
    let mut open_group = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        if open_group.is_empty() && Some(at) == end {
            return Ok(scan);
        }
        let found = match Record::decode(bytes, header, at) {
            Ok(framed) if framed.group != scan.next_group => {
                format!("a record of group {}, group {} was expected", framed.group, scan.next_group)
            }
            Ok(framed) if end.is_some_and(|end| at + framed.bytes > end) => {
                "the record reaches beyond the end of the segment's records".to_owned()
            }
            Ok(framed) => {
                let last = framed.last_of_group;
                let offset = at;
                at += framed.bytes;
                open_group.push((offset, framed));
                if last {
                    scan.records.append(&mut open_group);
                    scan.end = at;
                    scan.next_group += 1;
                }
                continue;
            }
            Err(found) => found,
        };
        if let Some(end) = end {
            return damaged(at, format!("{found}; records are known to follow up to offset {end}"));
        }
        let rest = bytes.get(at as usize..).unwrap_or(&[]);
        if open_group.is_empty() && rest.iter().all(|&byte| byte == 0) {
            return Ok(scan);
        }
        if let Some(later) = later_group(bytes, header, at, scan.next_group) {
            return damaged(at, format!("{found}; an intact record of a later sync follows at offset {later}"));
        }
        scan.torn = Some(found);
        return Ok(scan);
    }
}

/// The offset of an intact record behind `at` that belongs to a group after `group`.
fn later_group(bytes: &[u8], header: &FileHeader, at: u64, group: u64) -> Option<u64> {
    let mut candidate = at + ALIGNMENT;
    while let Some(start) = bytes.get(candidate as usize..).and_then(|rest| rest.get(..MAGIC.len())) {
        if start == MAGIC
            && let Ok(framed) = Record::decode(bytes, header, candidate)
            && framed.group > group
        {
            return Some(candidate);
        }
        candidate += ALIGNMENT;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LogIndex;

    /// A segment of three groups with two records each, and zeros behind them.
    fn segment() -> (FileHeader, Vec<u8>, Vec<u64>) {
        let header = FileHeader { sequence: 1, salt: 99, own: [5, 0] };
        let mut bytes = header.encode(SEGMENT).to_vec();
        let mut offsets = Vec::new();
        for number in 0..6 {
            offsets.push(bytes.len() as u64);
            Record::Truncate(LogIndex(number)).append_to(&mut bytes, &header, 0, 5 + number / 2, number % 2 == 1);
        }
        offsets.push(bytes.len() as u64);
        bytes.resize(bytes.len() + 256, 0);
        (header, bytes, offsets)
    }

    fn scanned(bytes: &[u8], header: &FileHeader, end: Option<u64>) -> Result<Scan, StorageError> {
        scan(Path::new("/log/1"), bytes, header, end)
    }

    #[test]
    fn a_clean_segment_is_read_to_its_end() {
        let (header, bytes, offsets) = segment();
        let scan = scanned(&bytes, &header, None).expect("clean");
        assert_eq!((scan.records.len(), scan.end, scan.next_group, scan.torn), (6, offsets[6], 8, None));
    }

    #[test]
    fn damage_in_the_last_group_is_a_torn_tail_and_takes_the_whole_group() {
        let (header, bytes, offsets) = segment();
        for at in offsets[4]..offsets[6] {
            let mut torn = bytes.clone();
            torn[at as usize] ^= 0x55;
            let scan = scanned(&torn, &header, None).expect("torn, not damaged");
            assert_eq!((scan.records.len(), scan.end), (4, offsets[4]), "byte {at}");
            assert!(scan.torn.is_some(), "byte {at}");
        }
    }

    #[test]
    fn damage_before_the_last_group_is_an_error_that_names_the_record() {
        let (header, bytes, offsets) = segment();
        for at in offsets[0]..offsets[4] {
            let mut rotten = bytes.clone();
            rotten[at as usize] ^= 0x55;
            let record = *offsets.iter().rev().find(|&&offset| offset <= at).expect("in a record");
            match scanned(&rotten, &header, None) {
                Err(StorageError::Damaged { path, offset, .. }) => {
                    assert_eq!((path.as_path(), offset), (Path::new("/log/1"), record), "byte {at}");
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_segment_with_a_known_end_has_no_torn_tail() {
        let (header, mut bytes, offsets) = segment();
        assert!(scanned(&bytes, &header, Some(offsets[6])).is_ok());
        // The end lies before: what follows was cut off by an earlier recovery.
        assert_eq!(scanned(&bytes, &header, Some(offsets[4])).expect("cut").records.len(), 4);
        bytes[offsets[5] as usize] ^= 1;
        assert!(scanned(&bytes, &header, Some(offsets[6])).is_err());
    }

    #[test]
    fn an_incomplete_group_before_zeros_is_cut() {
        let (header, mut bytes, offsets) = segment();
        bytes[offsets[5] as usize..].fill(0);
        let scan = scanned(&bytes, &header, None).expect("torn");
        assert_eq!((scan.end, scan.torn.is_some()), (offsets[4], true));
    }
}
