//! Memory that cannot be read: what is written from there reaches the kernel as an address, and no byte of it does.
//!
//! Invariant: the range was mapped without access for this value alone, nobody else is told where, and it is never unmapped;
//! a page that is asked for there is refused with EFAULT.
#![allow(unsafe_code)]

use std::{fs::File, io, os::fd::AsRawFd, ptr};

use nix::libc;

pub(super) struct Unreadable {
    start: usize,
    bytes: usize,
}

impl Unreadable {
    /// Takes addresses and no memory. Fails where no addresses are left.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses aliases nothing.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { start: start as usize, bytes })
        }
    }

    /// One write of `head` and of `length` bytes that cannot be read.
    pub(super) fn write_behind(&self, device: &File, head: &[u8], length: usize) -> io::Result<usize> {
        if length > self.bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{length} bytes of {}", self.bytes)));
        }
        let parts = [
            libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() },
            libc::iovec { iov_base: self.start as *mut libc::c_void, iov_len: length },
        ];
        // SAFETY: the kernel reads `head`, which is borrowed, and nothing of this value's range (the file's invariant).
        let written = unsafe { libc::writev(device.as_raw_fd(), parts.as_ptr(), 2) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_refused_behind_what_can() {
        let unreadable = Unreadable::new(8192).expect("room");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let device = File::from(std::os::fd::OwnedFd::from(writer));
        // A pipe takes what it can get.
        let written = unreadable.write_behind(&device, b"head", 8192);
        assert!(matches!(written, Ok(4)) || written.is_err_and(|error| error.raw_os_error() == Some(libc::EFAULT)));
        assert!(
            unreadable.write_behind(&device, b"", 1).is_err_and(|error| error.raw_os_error() == Some(libc::EFAULT))
        );
        assert!(unreadable.write_behind(&device, b"", 8193).is_err());
        drop(device);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert!(b"head".starts_with(&read));
    }
}
