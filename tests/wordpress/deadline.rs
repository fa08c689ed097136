//! Waiting with an end: every wait of this test says what it waits for and gives up.

use std::time::{Duration, Instant};

/// Between two looks at a condition; a look is cheap and nothing is measured with it.
const POLL: Duration = Duration::from_millis(20);

/// Looks until `look` answers, at most `limit`.
///
/// # Panics
/// With "what" and the limit when the time is up.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {} s for {what}, in vain", limit.as_secs());
        std::thread::sleep(POLL);
    }
}

/// As [`wait_for`], for places that must not panic (cleaning up): `false` when the time is up.
pub(crate) fn wait_quietly(limit: Duration, mut look: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if look() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(POLL);
    }
}
