//! Rows as they are written ahead.
//!
//! ```text
//! key length:u16  key  00                      the row goes
//! key length:u16  key  01  length:u32  value   the row is set
//! ```
//! One after the other, in key order; numbers are little-endian. Checksums are those of the pieces it is stored in.

use std::collections::BTreeMap;

use bytes::Bytes;

const GOES: u8 = 0;
const IS_SET: u8 = 1;

pub(super) fn encode(rows: &BTreeMap<Bytes, Option<Bytes>>) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (key, value) in rows {
        let length = u16::try_from(key.len()).expect("a row's key is far below 64 KiB");
        encoded.extend_from_slice(&length.to_le_bytes());
        encoded.extend_from_slice(key);
        match value {
            None => encoded.push(GOES),
            Some(value) => {
                encoded.push(IS_SET);
                let length = u32::try_from(value.len()).expect("a row is far below 4 GiB");
                encoded.extend_from_slice(&length.to_le_bytes());
                encoded.extend_from_slice(value);
            }
        }
    }
    encoded
}

/// Says what is wrong where it is nothing that `encode` wrote.
pub(super) fn decode(encoded: &[u8]) -> Result<BTreeMap<Bytes, Option<Bytes>>, String> {
    let mut rows = BTreeMap::new();
    let mut rest = encoded;
    while !rest.is_empty() {
        let [low, high] = *take(&mut rest, 2)? else { return Err(short(2, 0)) };
        let key = Bytes::copy_from_slice(take(&mut rest, usize::from(u16::from_le_bytes([low, high])))?);
        let value = match take(&mut rest, 1)? {
            [GOES] => None,
            [IS_SET] => {
                let [a, b, c, d] = *take(&mut rest, 4)? else { return Err(short(4, 0)) };
                Some(Bytes::copy_from_slice(take(&mut rest, u32::from_le_bytes([a, b, c, d]) as usize)?))
            }
            other => return Err(format!("a row written ahead begins with {other:02x?}, 00 or 01 was expected")),
        };
        rows.insert(key, value);
    }
    Ok(rows)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (taken, behind) = rest.split_at_checked(length).ok_or_else(|| short(length, rest.len()))?;
    *rest = behind;
    Ok(taken)
}

fn short(expected: usize, found: usize) -> String {
    format!("rows written ahead end early: {expected} bytes were expected, {found} found")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_and_garbage_never_panics(
            rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>, garbage: Vec<u8>, cut: prop::sample::Index,
        ) {
            let rows: BTreeMap<Bytes, Option<Bytes>> =
                rows.into_iter().map(|(key, value)| (key.into(), value.map(Bytes::from))).collect();
            let encoded = encode(&rows);
            prop_assert_eq!(decode(&encoded), Ok(rows));
            let _ = decode(&encoded[..cut.index(encoded.len() + 1)]);
            let _ = decode(&garbage);
        }
    }
}
