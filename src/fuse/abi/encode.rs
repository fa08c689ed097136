//! Replies: a header, and the struct or the bytes that the request asks for.

use std::{io::IoSlice, time::Duration};

use bytes::Bytes;
use fuser::FopenFlags;
use nix::libc;

use super::values;
use crate::{
    limits,
    mount::{DirectoryEntry, OpenedAs, Response},
    types::{Attributes, Errno, FileKind, LockClaim, LockKind, LockRange, VolumeSpace},
};

/// Bytes of `struct fuse_out_header`.
const HEADER_BYTES: usize = 16;
/// Room for the header and the largest struct of a fixed size (that of CREATE).
const STRUCT_BYTES: usize = HEADER_BYTES + 128 + 16;
/// What stat(2) calls the best size of a read or write, in bytes; also the unit of the figures of statfs(2).
const BLOCK_BYTES: u32 = 4096;
/// The kernel takes error numbers below this one.
const ERRNO_END: u16 = 512;

/// A reply as it is written: in one piece, or with content of files behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Encoded {
    head: Vec<u8>,
    parts: Vec<Bytes>,
}

impl Encoded {
    /// The answer to the request with this number, to the bit.
    pub(in crate::fuse) fn new(unique: u64, result: Result<Response, Errno>) -> Self {
        let mut out = Out(Vec::with_capacity(STRUCT_BYTES));
        let parts = match result {
            Ok(response) => {
                out.header(0, unique);
                out.response(response)
            }
            Err(errno) => {
                // The kernel leaves the request unanswered where it does not like the number.
                let errno = if (1..ERRNO_END).contains(&errno.0) { errno } else { Errno::EIO };
                out.header(-i32::from(errno.0), unique);
                Vec::new()
            }
        };
        Self::finish(out.0, parts)
    }

    /// A reply with a struct that no request of the mount core has.
    pub(in crate::fuse) fn with_body(unique: u64, body: &[u8]) -> Self {
        let mut out = Out(Vec::with_capacity(HEADER_BYTES + body.len()));
        out.header(0, unique);
        out.bytes(body);
        Self::finish(out.0, Vec::new())
    }

    /// All bytes of it, in order.
    pub(in crate::fuse) fn slices(&self) -> Vec<IoSlice<'_>> {
        [&self.head[..]].into_iter().chain(self.parts.iter().map(|part| &part[..])).map(IoSlice::new).collect()
    }

    fn finish(mut head: Vec<u8>, parts: Vec<Bytes>) -> Self {
        let length = head.len() + parts.iter().map(Bytes::len).sum::<usize>();
        // Nothing that the kernel asks for is as large as 4 GiB.
        head[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        Self { head, parts }
    }
}

/// Puts one field behind the other.
struct Out(Vec<u8>);

impl Out {
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_ne_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn zeros(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }

    /// The length is filled in at the end.
    fn header(&mut self, error: i32, unique: u64) {
        self.u32(0);
        self.u32(error.cast_unsigned());
        self.u64(unique);
    }

    /// What follows the header; content of files is handed on as it is.
    fn response(&mut self, response: Response) -> Vec<Bytes> {
        match response {
            Response::Done => {}
            Response::Entry { attributes, entry_ttl, attributes_ttl } => {
                self.entry(&attributes, entry_ttl, attributes_ttl);
            }
            // An entry of inode 0: the kernel remembers it.
            Response::Missing { ttl } => {
                self.zeros(16);
                self.u64(ttl.as_secs());
                self.u64(0);
                self.u32(ttl.subsec_nanos());
                self.zeros(4 + 88);
            }
            Response::Attributes { attributes, ttl } => {
                self.u64(ttl.as_secs());
                self.u32(ttl.subsec_nanos());
                self.u32(0);
                self.attributes(&attributes);
            }
            Response::Opened(opened) => self.opened(opened),
            Response::Created { attributes, entry_ttl, attributes_ttl, opened } => {
                self.entry(&attributes, entry_ttl, attributes_ttl);
                self.opened(opened);
            }
            Response::Data(parts) => return parts,
            Response::Written { length: size } | Response::Size(size) => {
                self.u32(size);
                self.u32(0);
            }
            Response::Directory(entries) => entries.iter().for_each(|entry| self.directory_entry(entry)),
            Response::Offset(offset) => self.u64(offset),
            Response::Lock(lock) => self.lock(lock),
            Response::Statfs(space) => self.statfs(space),
        }
        Vec::new()
    }

    /// `struct fuse_entry_out`.
    fn entry(&mut self, attributes: &Attributes, entry_ttl: Duration, attributes_ttl: Duration) {
        self.u64(attributes.ino.0);
        // Inode numbers are never used again, so that no generation has to tell them apart.
        self.u64(0);
        self.u64(entry_ttl.as_secs());
        self.u64(attributes_ttl.as_secs());
        self.u32(entry_ttl.subsec_nanos());
        self.u32(attributes_ttl.subsec_nanos());
        self.attributes(attributes);
    }

    /// `struct fuse_attr`.
    fn attributes(&mut self, of: &Attributes) {
        for number in [of.ino.0, of.size, of.blocks] {
            self.u64(number);
        }
        for time in [of.atime, of.mtime, of.ctime] {
            self.u64(time.seconds.cast_unsigned());
        }
        for time in [of.atime, of.mtime, of.ctime] {
            self.u32(time.nanoseconds);
        }
        let mode = values::file_type(of.kind) | u32::from(of.mode & 0o7777);
        for number in [mode, of.nlink, of.uid, of.gid, of.rdev, BLOCK_BYTES, 0] {
            self.u32(number);
        }
    }

    /// `struct fuse_open_out`.
    fn opened(&mut self, opened: OpenedAs) {
        let mut flags = FopenFlags::empty();
        flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
        flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
        flags.set(FopenFlags::FOPEN_CACHE_DIR, opened.cache_dir);
        flags.set(FopenFlags::FOPEN_NOFLUSH, opened.no_flush);
        self.u64(opened.fh);
        self.u32(flags.bits());
        self.u32(0);
    }

    /// `struct fuse_dirent`, its name filled up to eight bytes.
    fn directory_entry(&mut self, entry: &DirectoryEntry) {
        self.u64(entry.ino.0);
        self.u64(entry.cookie);
        // A name has 255 bytes at most.
        self.u32(entry.name.len() as u32);
        self.u32(directory_type(entry.kind));
        self.bytes(&entry.name);
        self.zeros(entry.name.len().next_multiple_of(8) - entry.name.len());
    }

    /// `struct fuse_lk_out`.
    fn lock(&mut self, lock: Option<LockClaim>) {
        let (range, kind, pid) = match lock {
            None => (LockRange::ALL, libc::F_UNLCK, 0),
            Some(LockClaim { range, kind: LockKind::Shared, pid, .. }) => (range, libc::F_RDLCK, pid),
            Some(LockClaim { range, kind: LockKind::Exclusive, pid, .. }) => (range, libc::F_WRLCK, pid),
        };
        self.u64(range.first);
        // OFFSET_MAX stands for the end of the file.
        self.u64(range.last.min(i64::MAX as u64));
        self.u32(kind.cast_unsigned());
        self.u32(pid);
    }

    /// `struct fuse_statfs_out`.
    fn statfs(&mut self, VolumeSpace { bytes, inodes, inodes_free }: VolumeSpace) {
        let block = u64::from(BLOCK_BYTES);
        let available = bytes.available / block;
        for number in [bytes.total / block, available, available, inodes, inodes_free] {
            self.u64(number);
        }
        for number in [BLOCK_BYTES, limits::NAME_BYTES_MAX as u32, BLOCK_BYTES] {
            self.u32(number);
        }
        self.zeros(4 + 24);
    }
}

/// DT_* of getdents(2): the file type bits of a mode, moved down.
const fn directory_type(kind: FileKind) -> u32 {
    values::file_type(kind) >> 12
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Ino, Space, Timestamp};

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    /// The body of a success.
    fn body(response: Response) -> Vec<u8> {
        let encoded = Encoded::new(7, Ok(response));
        let bytes: Vec<u8> = encoded.slices().iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!((u32_at(&bytes, 0) as usize, u32_at(&bytes, 4), u64_at(&bytes, 8)), (bytes.len(), 0, 7));
        bytes[16..].to_vec()
    }

    fn attributes() -> Attributes {
        let time = |seconds| Timestamp { seconds, nanoseconds: 5 };
        Attributes {
            ino: Ino(9),
            kind: FileKind::File,
            mode: 0o4644,
            nlink: 2,
            uid: 33,
            gid: 34,
            rdev: 0,
            size: 12_345,
            blocks: 25,
            atime: time(-1),
            mtime: time(i64::MIN),
            ctime: time(i64::MAX),
        }
    }

    #[test]
    fn an_entry_carries_both_times_to_live() {
        let (entry_ttl, attributes_ttl) = (Duration::from_secs(60), Duration::from_nanos(7));
        let entry = body(Response::Entry { attributes: attributes(), entry_ttl, attributes_ttl });
        assert_eq!((entry.len(), u64_at(&entry, 0), u64_at(&entry, 8)), (128, 9, 0));
        assert_eq!((u64_at(&entry, 16), u64_at(&entry, 24)), (60, 0));
        assert_eq!((u32_at(&entry, 32), u32_at(&entry, 36)), (0, 7));
        // struct fuse_attr: ino, size, blocks, three times, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags.
        let attr = &entry[40..];
        assert_eq!((u64_at(attr, 0), u64_at(attr, 8), u64_at(attr, 16)), (9, 12_345, 25));
        let times = [24, 32, 40].map(|at| u64_at(attr, at).cast_signed());
        assert_eq!((times, u32_at(attr, 48)), ([-1, i64::MIN, i64::MAX], 5));
        let rest: Vec<u32> = (60..88).step_by(4).map(|at| u32_at(attr, at)).collect();
        assert_eq!(rest, [0o104_644, 2, 33, 34, 0, 4096, 0]);
    }

    #[test]
    fn a_missing_name_is_an_entry_of_inode_0() {
        let entry = body(Response::Missing { ttl: Duration::new(60, 8) });
        assert_eq!((entry.len(), u64_at(&entry, 0), u64_at(&entry, 16), u32_at(&entry, 32)), (128, 0, 60, 8));
    }

    #[test]
    fn created_is_an_entry_and_an_open() {
        let opened = OpenedAs { fh: 5, keep_cache: true, no_flush: true, ..OpenedAs::default() };
        let (entry_ttl, attributes_ttl) = (Duration::from_secs(60), Duration::ZERO);
        let created = body(Response::Created { attributes: attributes(), entry_ttl, attributes_ttl, opened });
        assert_eq!((created.len(), u64_at(&created, 16), u64_at(&created, 24)), (144, 60, 0));
        assert_eq!((u64_at(&created, 128), u32_at(&created, 136)), (5, 0b10_0010));
        let direct = OpenedAs { direct_io: true, cache_dir: true, ..OpenedAs::default() };
        assert_eq!(u32_at(&body(Response::Opened(direct)), 8), 0b1001);
    }

    #[test]
    fn entries_of_a_directory_are_filled_up_to_eight_bytes() {
        let entry = |name: &'static [u8], kind| DirectoryEntry { ino: Ino(3), cookie: 4, kind, name: name.into() };
        let listing = body(Response::Directory(vec![
            entry(b"12345678", FileKind::Directory),
            entry(b"a", FileKind::Fifo),
            entry(b"b", FileKind::File),
        ]));
        assert_eq!(listing.len(), 3 * 32);
        assert_eq!((u64_at(&listing, 0), u64_at(&listing, 8), u32_at(&listing, 16)), (3, 4, 8));
        assert_eq!([20, 52, 84].map(|at| u32_at(&listing, at)), [4, 1, 8], "DT_DIR, DT_FIFO, DT_REG");
        assert_eq!(listing[56..64], *b"a\0\0\0\0\0\0\0");
    }

    #[test]
    fn sizes_of_the_other_structs_are_the_kernels() {
        let attributes = Response::Attributes { attributes: attributes(), ttl: Duration::from_secs(3) };
        assert_eq!(body(attributes).len(), 104);
        assert_eq!(body(Response::Done).len(), 0);
        assert_eq!(body(Response::Size(9)), [9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(body(Response::Offset(9)).len(), 8);
        let bytes = Space { total: 8192, available: 4096 };
        let statfs = body(Response::Statfs(VolumeSpace { bytes, inodes: 7, inodes_free: 4 }));
        let numbers: Vec<u64> = (0..40).step_by(8).map(|at| u64_at(&statfs, at)).collect();
        assert_eq!((statfs.len(), numbers), (80, vec![2, 1, 1, 7, 4]));
        assert_eq!([40, 44, 48].map(|at| u32_at(&statfs, at)), [4096, 255, 4096]);
        assert_eq!(body(Response::Data(vec!["one".into(), "two".into()])), b"onetwo");
    }

    #[test]
    fn an_error_is_a_header_with_a_number_that_the_kernel_takes() {
        for (errno, number) in [(Errno::EINTR, -4), (Errno(0), -5), (Errno(512), -5), (Errno(511), -511)] {
            let encoded = Encoded::new(1 << 63, Err(errno));
            let [head] = &encoded.slices()[..] else { panic!("one slice") };
            assert_eq!((head.len(), u32_at(head, 0), u32_at(head, 4).cast_signed()), (16, 16, number));
            assert_eq!(u64_at(head, 8), 1 << 63);
        }
    }
}
