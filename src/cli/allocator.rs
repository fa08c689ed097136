//! What the C library's allocator is told at the start of a process.

// One call of mallopt(3), which is not in `nix`. Invariant: it is called before the process has a second thread, as the
// manual asks; it only takes numbers.
#![allow(unsafe_code)]

use nix::libc;

/// Bytes from which a piece of memory is mapped by itself, and so goes back to the kernel when it is freed.
const MAPPED_FROM: libc::c_int = 128 * 1024;
/// Heaps between which threads are spread.
const HEAPS: libc::c_int = 2;

/// Has freed memory go back to the kernel: blocks of content are mapped one by one, for good. Left to itself the
/// library takes the size of the largest block that was freed as the new threshold, keeps all blocks in eight heaps for
/// each processor, and a sidecar that once wrote a large file stays at three times its size. Call it first in `main`.
pub(super) fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: as above.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}
