//! What the C library's allocator is told at the start of a process.

// Calls of mallopt(3) and malloc_trim(3), which are not in `nix`. Invariant: mallopt is called before the process has a second
// thread, as the manual asks, malloc_trim at any time; both only take numbers.
#![allow(unsafe_code)]

use std::{io, thread, time::Duration};

use nix::libc;

/// Bytes from which a piece of memory is mapped by itself, and so goes back to the kernel when it is freed.
const MAPPED_FROM: libc::c_int = 128 * 1024;
/// Heaps between which threads are spread.
const HEAPS: libc::c_int = 2;

/// What lies free between what is in use is given back so often.
const TRIM_PERIOD: Duration = Duration::from_secs(20);

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

/// Has what is free in the middle of the heaps go back, too, from a thread of its own: by itself the library gives back their
/// ends alone. A minute after 200,000 small writes nodes had 108 to 115 MiB, and 68 to 87 with an allocator (jemalloc) that
/// gives such memory back.
///
/// # Errors
/// Where no thread can be had.
pub(super) fn keep_trimming() -> io::Result<()> {
    let trim_now_and_then = || loop {
        thread::sleep(TRIM_PERIOD);
        trim();
    };
    thread::Builder::new().name("trim".to_owned()).spawn(trim_now_and_then).map(drop)
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: as above.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_bytes() -> u64 {
        let pages = std::fs::read_to_string("/proc/self/statm").expect("statm");
        pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
    }

    #[test]
    fn what_lies_free_between_what_is_in_use_goes_back() {
        const PIECE: usize = 32 * 1024;
        let mut pieces: Vec<Vec<u8>> = (0..4096).map(|_| vec![1; PIECE]).collect();
        // Each fourth one stays, so that no end of a heap becomes free.
        let mut number = 0;
        pieces.retain(|_| {
            number += 1;
            number % 4 == 0
        });
        let before = resident_bytes();
        trim();
        let after = resident_bytes();
        let freed = 3 * 1024 * PIECE as u64;
        assert!(before.saturating_sub(after) > freed / 2, "{before} bytes before, {after} behind");
        assert_eq!(pieces.len(), 1024);
    }
}
