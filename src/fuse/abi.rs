//! The kernel's protocol, byte by byte: what /dev/fuse hands out and takes. Nothing here knows a descriptor or a thread.
//! Source: Linux `include/uapi/linux/fuse.h`, 7.31 to 7.45; all integers are the machine's own. What the kernel sends is
//! trusted no further than its length: a message that ends early or contradicts itself is refused.

pub(super) mod decode;
pub(super) mod encode;
pub(super) mod init;

mod reader;
mod values;

pub(super) use self::reader::Malformed;
use self::reader::Reader;
use crate::mount::Caller;

/// The top bit of a request's number says that it was sent again; the request is the same.
const RESENT: u64 = 1 << 63;

macro_rules! opcodes {
    ($($name:ident = $number:literal),* $(,)?) => {
        /// Numbers of requests (`enum fuse_opcode`).
        pub(super) mod opcode {
            $(pub(in crate::fuse) const $name: u32 = $number;)*
        }
    };
}

opcodes! {
    LOOKUP = 1, FORGET = 2, GETATTR = 3, SETATTR = 4, READLINK = 5, SYMLINK = 6, MKNOD = 8, MKDIR = 9, UNLINK = 10,
    RMDIR = 11, RENAME = 12, LINK = 13, OPEN = 14, READ = 15, WRITE = 16, STATFS = 17, RELEASE = 18, FSYNC = 20,
    SETXATTR = 21, GETXATTR = 22, LISTXATTR = 23, REMOVEXATTR = 24, FLUSH = 25, INIT = 26, OPENDIR = 27, READDIR = 28,
    RELEASEDIR = 29, FSYNCDIR = 30, GETLK = 31, SETLK = 32, SETLKW = 33, ACCESS = 34, CREATE = 35, INTERRUPT = 36, DESTROY = 38, IOCTL = 39,
    NOTIFY_REPLY = 41, BATCH_FORGET = 42, FALLOCATE = 43, RENAME2 = 45, LSEEK = 46, COPY_FILE_RANGE = 47,
    TMPFILE = 51,
}

/// What stands before every message of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) opcode: u32,
    /// Names the request until its reply, which repeats it to the bit.
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) caller: Caller,
}

impl Header {
    /// The header of a message, and what follows it. `None` for bytes that no reply could answer.
    pub(super) fn parse(message: &[u8]) -> Option<(Self, Body<'_>)> {
        let mut reader = Reader::new(message);
        let (length, header) = Self::read(&mut reader).ok()?;
        let is_whole = length as usize == message.len();
        Some((header, Body { reader, is_whole }))
    }

    /// The length of the message, and the header.
    fn read(reader: &mut Reader<'_>) -> Result<(u32, Self), Malformed> {
        let (length, opcode) = (reader.u32()?, reader.u32()?);
        let (unique, node) = (reader.u64()?, reader.u64()?);
        let caller = Caller { uid: reader.u32()?, gid: reader.u32()?, pid: reader.u32()? };
        // Length of extensions, which nobody asked for, and padding.
        reader.skip(4)?;
        Ok((length, Self { opcode, unique, node, caller }))
    }

    /// Its number for the mount core, which does not care how often the kernel has to ask.
    pub(super) const fn request(&self) -> u64 {
        unresent(self.unique)
    }
}

/// What follows the header.
pub(super) struct Body<'a> {
    reader: Reader<'a>,
    /// The header gives the message's true length.
    is_whole: bool,
}

impl<'a> Body<'a> {
    fn reader(self) -> Result<Reader<'a>, Malformed> {
        if self.is_whole { Ok(self.reader) } else { Err(Malformed) }
    }
}

const fn unresent(unique: u64) -> u64 {
    unique & !RESENT
}
