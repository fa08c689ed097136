//! A mapping of a file.
#![allow(unsafe_code)]

use std::{ffi::c_void, fs, ptr::null_mut};

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// A mapping of the first bytes of a file, for this test's thread alone.
pub(crate) struct Map(*mut c_void, usize);

impl Map {
    pub(crate) fn new(file: &fs::File, length: usize, write: bool) -> Self {
        let mut protection = ProtFlags::READ;
        protection.set(ProtFlags::WRITE, write);
        Self::with(file, length, protection, MapFlags::SHARED)
    }

    pub(crate) fn private(file: &fs::File, length: usize) -> Self {
        Self::with(file, length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }

    pub(crate) fn with(file: &fs::File, length: usize, protection: ProtFlags, flags: MapFlags) -> Self {
        // SAFETY: a new mapping at an address that the kernel chooses aliases nothing.
        let address = unsafe { mmap(null_mut(), length, protection, flags, file, 0) }.expect("mmap");
        Self(address, length)
    }

    pub(crate) fn address(&self) -> usize {
        self.0 as usize
    }

    /// Copies the bytes out, one by one: the file may change under the mapping.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let start = self.0.cast::<u8>();
        // SAFETY: the mapping is `self.1` bytes long and lives as long as `self`.
        (0..self.1).map(|at| unsafe { start.add(at).read_volatile() }).collect()
    }

    pub(crate) fn store(&self, byte: u8) {
        let start = self.0.cast::<u8>();
        for at in 0..self.1 {
            // SAFETY: as in `bytes`; the mapping was made writable.
            unsafe { start.add(at).write_volatile(byte) };
        }
    }

    pub(crate) fn fill(&self, byte: u8) {
        self.store(byte);
        // SAFETY: the range is the mapping's.
        unsafe { msync(self.0, self.1, MsyncFlags::SYNC) }.expect("msync");
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, which nobody can use any more.
        unsafe { munmap(self.0, self.1) }.expect("munmap");
    }
}
