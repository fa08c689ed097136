//! A record of a pack, byte by byte.
//!
//! ```text
//!  0  4  magic
//!  4  1  version of the format
//!  5  1  kind: 1 a block, 2 a pin of a block that is elsewhere
//!  6  1  flags: bit 0, volume, session and upload are set and pin the block
//!  7  1  0
//!  8  4  length: bytes of the block; 0 of a pin
//! 12  4  CRC32 of the pack's salt and number, the record's offset, and the other bytes of this header
//! 16 32  hash: the block's name, which is also its checksum
//! 48  4  volume
//! 52  4  0
//! 56  8  session
//! 64  8  upload
//! 72     the block, then zeros up to a multiple of 8
//! ```
//! All numbers are little-endian.

use crate::{
    limits,
    storage::header::{FileHeader, aligned, u32_at, u64_at},
    types::{BlockHash, SessionId, UploadId, VolumeId},
};

/// Bytes of a record without its block.
pub(crate) const RECORD_HEADER_BYTES: usize = 72;
pub(crate) const MAGIC: [u8; 4] = *b"mfpr";
const VERSION: u8 = 1;
const KIND_BLOCK: u8 = 1;
const KIND_PIN: u8 = 2;
const PINNED: u8 = 1;

/// The upload that keeps a block which no extent names yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pin {
    pub volume: VolumeId,
    pub session: SessionId,
    pub upload: UploadId,
}

/// The header of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHead {
    pub(crate) hash: BlockHash,
    /// Bytes of the block; `None` in a record that only pins.
    pub(crate) length: Option<u32>,
    pub(crate) pin: Option<Pin>,
}

/// Bytes that the record of a block takes in a pack.
pub(crate) const fn block_record_bytes(length: u32) -> u64 {
    aligned(RECORD_HEADER_BYTES as u64 + length as u64)
}

impl RecordHead {
    pub(crate) const fn record_bytes(&self) -> u64 {
        match self.length {
            Some(length) => block_record_bytes(length),
            None => block_record_bytes(0),
        }
    }

    /// The header as it stands at `offset` of the pack.
    pub(crate) fn encode(&self, header: &FileHeader, offset: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = if self.length.is_some() { KIND_BLOCK } else { KIND_PIN };
        bytes[8..12].copy_from_slice(&self.length.unwrap_or(0).to_le_bytes());
        bytes[16..48].copy_from_slice(&self.hash.0);
        if let Some(pin) = &self.pin {
            bytes[6] = PINNED;
            bytes[48..52].copy_from_slice(&pin.volume.0.to_le_bytes());
            bytes[56..64].copy_from_slice(&pin.session.0.to_le_bytes());
            bytes[64..72].copy_from_slice(&pin.upload.0.to_le_bytes());
        }
        let crc = checksum(header, offset, &bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; says what was found where there is no intact one.
    pub(crate) fn decode(bytes: &[u8], header: &FileHeader, offset: u64) -> Result<Self, String> {
        let Some(bytes) = bytes.get(..RECORD_HEADER_BYTES) else {
            return Err(format!("{} bytes are left, a record has {RECORD_HEADER_BYTES} at least", bytes.len()));
        };
        if bytes[..4] != MAGIC {
            return Err("no record begins here".to_owned());
        }
        if u32_at(bytes, 12) != checksum(header, offset, bytes) {
            return Err("the record's header does not match its checksum".to_owned());
        }
        if bytes[4] != VERSION {
            return Err(format!("a record of version {}, this program reads version {VERSION}", bytes[4]));
        }
        let pin = (bytes[6] & PINNED != 0).then(|| Pin {
            volume: VolumeId(u32_at(bytes, 48)),
            session: SessionId(u64_at(bytes, 56)),
            upload: UploadId(u64_at(bytes, 64)),
        });
        let hash = BlockHash(bytes[16..48].try_into().expect("32 bytes"));
        match (bytes[5], u32_at(bytes, 8)) {
            (KIND_BLOCK, length) if (1..=limits::BLOCK_BYTES_MAX).contains(&(length as usize)) => {
                Ok(Self { hash, length: Some(length), pin })
            }
            (KIND_PIN, 0) if pin.is_some() => Ok(Self { hash, length: None, pin }),
            (kind, length) => Err(format!("a record of kind {kind} with {length} bytes")),
        }
    }
}

/// Binds the header to its place, so that what an earlier use of the disk left there never counts.
fn checksum(header: &FileHeader, offset: u64, record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header.salt.to_le_bytes());
    hasher.update(&header.sequence.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&record[..12]);
    hasher.update(&record[16..RECORD_HEADER_BYTES]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: FileHeader = FileHeader { sequence: 2, salt: 77, own: [0, 0] };
    const PIN: Pin = Pin { volume: VolumeId(1), session: SessionId(2), upload: UploadId(3) };

    #[test]
    fn a_header_is_read_as_it_was_written_and_only_there() {
        let hash = BlockHash::of(b"block");
        for (length, pin) in [(Some(5), None), (Some(5), Some(PIN)), (None, Some(PIN))] {
            let head = RecordHead { hash, length, pin };
            let bytes = head.encode(&HEADER, 48);
            assert_eq!(RecordHead::decode(&bytes, &HEADER, 48), Ok(head));
            assert!(RecordHead::decode(&bytes, &HEADER, 56).is_err());
            assert!(RecordHead::decode(&bytes, &FileHeader { salt: 78, ..HEADER }, 48).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let bytes = RecordHead { hash: BlockHash::of(b"x"), length: Some(1), pin: Some(PIN) }.encode(&HEADER, 48);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordHead::decode(&flipped, &HEADER, 48).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..100),
            kind in 0u8..4,
            length: u32,
            sealed: bool,
        ) {
            if sealed && bytes.len() >= RECORD_HEADER_BYTES {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4] = VERSION;
                bytes[5] = kind;
                bytes[8..12].copy_from_slice(&length.to_le_bytes());
                let crc = checksum(&HEADER, 48, &bytes);
                bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            }
            if let Ok(head) = RecordHead::decode(&bytes, &HEADER, 48) {
                prop_assert!(head.length.is_none_or(|length| length as usize <= limits::BLOCK_BYTES_MAX));
            }
        }
    }
}
