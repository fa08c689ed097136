//! What the kernel is told of itself: notifications.

use crate::mount::Notification;

/// Numbers of notifications (`enum fuse_notify_code`).
const INVAL_INODE: u32 = 2;
const INVAL_ENTRY: u32 = 3;
const STORE: u32 = 4;
const INC_EPOCH: u32 = 8;
/// Bytes of `struct fuse_out_header`.
const HEADER_BYTES: usize = 16;

/// The bytes of the one write that a notification is.
pub(in crate::fuse) fn encode(notification: &Notification) -> Vec<u8> {
    match notification {
        Notification::Name { parent, name } => {
            let name = name.as_bytes();
            let mut message = header(INVAL_ENTRY, 16 + name.len() + 1);
            message.extend(parent.0.to_ne_bytes());
            message.extend((name.len() as u32).to_ne_bytes());
            message.extend(0_u32.to_ne_bytes());
            message.extend(name);
            message.push(0);
            message
        }
        Notification::Attributes { ino } => inode(ino.0, -1, 0),
        Notification::Pages { ino, offset, length } => {
            inode(ino.0, i64::try_from(*offset).unwrap_or(i64::MAX), i64::try_from(*length).unwrap_or(0))
        }
        Notification::AllNames => header(INC_EPOCH, 0),
        Notification::LastByte { ino, offset, byte } => {
            let mut message = header(STORE, 24 + 1);
            message.extend(ino.0.to_ne_bytes());
            message.extend(offset.to_ne_bytes());
            // One byte, and padding.
            message.extend(1_u32.to_ne_bytes());
            message.extend(0_u32.to_ne_bytes());
            message.push(*byte);
            message
        }
    }
}

/// A negative offset leaves pages alone; a length of 0 reaches to the end.
fn inode(ino: u64, offset: i64, length: i64) -> Vec<u8> {
    let mut message = header(INVAL_INODE, 24);
    message.extend(ino.to_ne_bytes());
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
    use crate::types::{Ino, Name};

    #[test]
    fn the_structs_are_the_kernels() {
        let entry = Notification::Name { parent: Ino(7), name: Name::new(b"abc").expect("a name") };
        let bytes = encode(&entry);
        assert_eq!(bytes.len(), 16 + 16 + 4);
        assert_eq!(bytes[..8], [36, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(bytes[16..], [7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c', 0]);
        let attributes = encode(&Notification::Attributes { ino: Ino(7) });
        assert_eq!((attributes.len(), attributes[4], &attributes[24..32]), (40, 2, &[0xff; 8][..]));
        assert_eq!(encode(&Notification::AllNames), [16, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let byte = encode(&Notification::LastByte { ino: Ino(7), offset: 5, byte: b'x' });
        assert_eq!(byte[..8], [41, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(byte[16..], [&[7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 7], b"x"].concat());
        let to_the_end = encode(&Notification::Pages { ino: Ino(1), offset: 4096, length: u64::MAX });
        assert_eq!(to_the_end[32..], [0; 8]);
    }
}
