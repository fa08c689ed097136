//! How a value stands in sled: with a checksum over its key and itself, and in pieces when it is large.
//!
//! ```text
//! any value       version:u8  crc:u32  body           the CRC32 covers key and body
//! body of a row   00 value                            up to 4 KiB
//!                 01 bytes:u32 pieces:u16 crc:u32     the value is in pieces; CRC32 of the whole
//! body of a piece the bytes of it
//! ```
//! Pieces, because sled keeps large pages in files of their own that it never syncs. All numbers are little-endian.

use crate::storage::header::u32_at;

const VERSION: u8 = 1;
const SEAL_BYTES: usize = 5;
/// Bytes of a value, or of one piece of it.
pub(crate) const PIECE_BYTES: usize = 4096;
const WHOLE: u8 = 0;
const IN_PIECES: u8 = 1;

/// What stands under a row's own key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RowBody<'a> {
    Whole(&'a [u8]),
    InPieces { bytes: u32, pieces: u16, crc: u32 },
}

/// The value that is stored for `body` under `key`.
pub(crate) fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(SEAL_BYTES + body.len());
    value.push(VERSION);
    value.extend_from_slice(&checksum(key, body).to_le_bytes());
    value.extend_from_slice(body);
    value
}

/// The body that was stored; says what was found where it is not intact.
pub(crate) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    let Some((seal, body)) = value.split_at_checked(SEAL_BYTES) else {
        return Err(format!("the value has {} bytes, its checksum alone has {SEAL_BYTES}", value.len()));
    };
    if seal[0] != VERSION {
        return Err(format!("version {}, this program reads version {VERSION}", seal[0]));
    }
    if u32_at(seal, 1) != checksum(key, body) {
        return Err("the value does not match its checksum".to_owned());
    }
    Ok(body)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// How many pieces a value is stored in; 0 when it is stored whole.
pub(crate) fn pieces_of(value: &[u8]) -> u16 {
    if value.len() <= PIECE_BYTES {
        return 0;
    }
    u16::try_from(value.len().div_ceil(PIECE_BYTES)).expect("a row is far below 256 MiB")
}

/// The body of the row; its pieces, if any, are stored beside it.
pub(crate) fn row_body(value: &[u8]) -> Vec<u8> {
    let pieces = pieces_of(value);
    let mut body = Vec::with_capacity(1 + value.len().min(PIECE_BYTES));
    if pieces == 0 {
        body.push(WHOLE);
        body.extend_from_slice(value);
    } else {
        body.push(IN_PIECES);
        body.extend_from_slice(&u32::try_from(value.len()).expect("checked by pieces_of").to_le_bytes());
        body.extend_from_slice(&pieces.to_le_bytes());
        body.extend_from_slice(&crc32fast::hash(value).to_le_bytes());
    }
    body
}

pub(crate) fn read_row_body(body: &[u8]) -> Result<RowBody<'_>, String> {
    match body {
        [WHOLE, value @ ..] => Ok(RowBody::Whole(value)),
        [IN_PIECES, rest @ ..] if rest.len() == 10 => Ok(RowBody::InPieces {
            bytes: u32_at(rest, 0),
            pieces: u16::from_le_bytes([rest[4], rest[5]]),
            crc: u32_at(rest, 6),
        }),
        _ => Err(format!("a row of {} bytes that is neither whole nor in pieces", body.len())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_flipped_bit_of_a_value_or_its_key_is_noticed() {
        let value = seal(b"key", b"some body");
        assert_eq!(unseal(b"key", &value), Ok(&b"some body"[..]));
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(b"key", &flipped).is_err(), "bit {bit}");
        }
        assert!(unseal(b"kez", &value).is_err(), "the value of another row");
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(key: Vec<u8>, mut value: Vec<u8>, sealed: bool) {
            if sealed {
                value = seal(&key, &value);
            }
            if let Ok(body) = unseal(&key, &value) {
                let _ = read_row_body(body);
            }
        }
    }
}
