//! The slow look at everything that lies still: every living block of the packs and every closed segment of the log is
//! read from the disk again and held against its checksum, at a bounded rate (README.md "Integrity"). A damaged block
//! is missing from then on, and fetched from peers like any other that is missing. Damage in the log is counted and
//! told.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Counters, Packs,
    file::Directory,
    log::{recovery::verify_segment, segment::SEGMENT},
};

/// When and how fast.
#[derive(Clone, Copy, Debug)]
pub struct ScrubOptions {
    /// From the end of one pass to the begin of the next; default seven days. The first one begins after an hour, or
    /// after this where it is less.
    pub every: Duration,
    /// Bytes read in a second; default 8 MiB, so that 100 GiB take three and a half hours.
    pub bytes_per_second: u64,
}

impl ScrubOptions {
    pub const DEFAULT: Self = Self { every: Duration::from_secs(7 * 24 * 3600), bytes_per_second: 8 * 1024 * 1024 };
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How long a node runs before its first pass: what a restart has to do comes first.
const FIRST_AFTER: Duration = Duration::from_secs(3600);

/// The way to the thread that scrubs. Clones are cheap and lead to the same one.
#[derive(Clone, Debug, Default)]
pub struct Scrubber {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    closing: bool,
    /// When the last whole pass ended.
    passed_at: Option<Instant>,
}

impl Scrubber {
    /// Begins a pass now. While one is under way another follows it.
    pub fn begin(&self) {
        self.lock().wanted = true;
        self.shared.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.shared.changed.notify_all();
    }

    /// Time since the last whole pass of this process ended.
    #[must_use]
    pub fn since_last_pass(&self) -> Option<Duration> {
        self.lock().passed_at.map(|at| at.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Flags and a time are whole at any time.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of the thread.
    pub(crate) fn run(&self, options: ScrubOptions, packs: &Packs, log: &dyn Directory, counters: &Counters) {
        let mut wait = options.every.min(FIRST_AFTER);
        loop {
            let idle = |state: &mut State| !state.wanted && !state.closing;
            let (mut state, _) =
                self.shared.changed.wait_timeout_while(self.lock(), wait, idle).unwrap_or_else(PoisonError::into_inner);
            if state.closing {
                return;
            }
            state.wanted = false;
            drop(state);
            let before = counters.damages.get();
            if !self.pass(options, packs, log, counters) {
                return;
            }
            counters.scrubs.add(1);
            self.lock().passed_at = Some(Instant::now());
            let damages = counters.damages.get() - before;
            tracing::info!(damages, "everything on the disk was read and verified");
            wait = options.every;
        }
    }

    /// False where the end came first.
    fn pass(&self, options: ScrubOptions, packs: &Packs, log: &dyn Directory, counters: &Counters) -> bool {
        for pack in packs.numbers() {
            for (hash, location) in packs.living_in(pack) {
                packs.verify(&hash, location);
                if !self.pace(options, u64::from(location.length), counters) {
                    return false;
                }
            }
        }
        // The last one is being written.
        let segments = SEGMENT.list(log).unwrap_or_else(|error| {
            tracing::warn!("the log could not be verified: {error}");
            Vec::new()
        });
        for pair in segments.windows(2).filter(|pair| pair[0] + 1 == pair[1]) {
            match verify_segment(log, pair[0], pair[1]) {
                Ok(bytes) if !self.pace(options, bytes, counters) => return false,
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    counters.damages.add(1);
                    tracing::error!("{error}");
                }
                // It may have been deleted since.
                Err(error) => tracing::debug!("a segment of the log was not verified: {error}"),
            }
        }
        true
    }

    /// Waits for as long as reading so much may take; false at the end.
    fn pace(&self, options: ScrubOptions, bytes: u64, counters: &Counters) -> bool {
        counters.scrub_bytes.add(bytes);
        let time = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / options.bytes_per_second.max(1));
        let open = |state: &mut State| !state.closing;
        let (state, _) =
            self.shared.changed.wait_timeout_while(self.lock(), time, open).unwrap_or_else(PoisonError::into_inner);
        !state.closing
    }
}
