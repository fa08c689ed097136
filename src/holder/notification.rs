//! What a kernel is told: one write to the device each (Linux `include/uapi/linux/fuse.h`; integers are the machine's own).

use crate::types::{Ino, Name};

/// Numbers of notifications (`enum fuse_notify_code`).
const INVAL_INODE: u32 = 2;
const INVAL_ENTRY: u32 = 3;
const STORE: u32 = 4;
const INC_EPOCH: u32 = 8;
/// Bytes of `struct fuse_out_header`.
const HEADER_BYTES: usize = 16;

/// The name leads nowhere any more. Takes the directory's lock.
#[must_use]
pub fn inval_entry(parent: Ino, name: &Name) -> Vec<u8> {
    let name = name.as_bytes();
    let mut message = header(INVAL_ENTRY, 16 + name.len() + 1);
    message.extend(parent.0.to_ne_bytes());
    message.extend((name.len() as u32).to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(name);
    message.push(0);
    message
}

/// Attributes are not known any more. Takes no lock.
#[must_use]
pub fn inval_attributes(ino: Ino) -> Vec<u8> {
    // A negative offset leaves pages alone.
    inval_inode(ino, -1, 0)
}

/// Nor are these pages; `length` 0 reaches to the end. Waits for pages that requests have locked.
#[must_use]
pub fn inval_pages(ino: Ino, offset: u64, length: u64) -> Vec<u8> {
    inval_inode(ino, i64::try_from(offset).unwrap_or(i64::MAX), i64::try_from(length).unwrap_or(0))
}

/// The `length` bytes that are to follow this are part of the file, which so is no shorter than where they end.
#[must_use]
pub fn store(ino: Ino, offset: u64, length: u32) -> Vec<u8> {
    let mut message = header(STORE, 24 + length as usize);
    message.extend(ino.0.to_ne_bytes());
    message.extend(offset.to_ne_bytes());
    message.extend(length.to_ne_bytes());
    // Padding.
    message.extend(0_u32.to_ne_bytes());
    message
}

/// Every name is to be asked for again. Takes no lock. Linux 6.16.
#[must_use]
pub fn inc_epoch() -> Vec<u8> {
    header(INC_EPOCH, 0)
}

fn inval_inode(ino: Ino, offset: i64, length: i64) -> Vec<u8> {
    let mut message = header(INVAL_INODE, 24);
    message.extend(ino.0.to_ne_bytes());
    message.extend(offset.to_ne_bytes());
    message.extend(length.to_ne_bytes());
    message
}

/// `struct fuse_out_header` of a notification: its code where a reply has the error, 0 where a reply has the request.
fn header(code: u32, body_bytes: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_BYTES + body_bytes);
    message.extend(((HEADER_BYTES + body_bytes) as u32).to_ne_bytes());
    message.extend(code.to_ne_bytes());
    message.extend(0_u64.to_ne_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_are_the_kernels() {
        let entry = inval_entry(Ino(7), &Name::new(b"abc").expect("a name"));
        assert_eq!(entry.len(), 16 + 16 + 4);
        assert_eq!(entry[..8], [36, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(entry[16..], [7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c', 0]);
        let attributes = inval_attributes(Ino(7));
        assert_eq!((attributes.len(), attributes[4], attributes[16], &attributes[24..32]), (40, 2, 7, &[0xff; 8][..]));
        assert_eq!(inc_epoch(), [16, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let store = store(Ino(7), 5, 1);
        assert_eq!((store.len(), &store[..8]), (40, &[41, 0, 0, 0, 4, 0, 0, 0][..]));
        assert_eq!(store[16..], [&[7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 7]].concat());
        let to_the_end = inval_pages(Ino(1), 4096, u64::MAX);
        assert_eq!(to_the_end[32..], [0; 8]);
    }
}
