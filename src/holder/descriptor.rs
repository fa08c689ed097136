//! Descriptors that the kernel hands over as bare numbers.
//!
//! Invariant: `own` is called once for each number that `recvmsg` (SCM_RIGHTS) or `accept4` has just returned. Such a
//! number is new in this process and nobody else closes it.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes the descriptor that a system call has just opened for this process.
pub(super) fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the file's invariant.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
