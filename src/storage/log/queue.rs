//! The thread that writes the log, and the way into it.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use super::Log;
use crate::{
    message::log::LogBatch,
    storage::{OnEvent, StorageError, StorageEvent, health::Health},
    types::{LogIndex, Term},
};

/// Bytes of entries that are written as one group at most, unless one batch alone has more.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// How often what failed for want of space or descriptors is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The way into the Raft log. Clones are cheap and write to the same log.
#[derive(Clone, Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<LogBatch>,
    compact: Option<(LogIndex, Term)>,
    /// What state and packs have synced: nothing behind it is deleted, and no reset goes beyond it.
    state_persisted: LogIndex,
    /// Where the last reset that is synced lets the log begin.
    reset_to: LogIndex,
    closing: bool,
}

/// What the thread does next.
enum Work {
    Append(Vec<LogBatch>),
    Compact(LogIndex, Term),
    End,
}

impl LogWriter {
    pub(crate) fn new(state_persisted: LogIndex) -> Self {
        let queue = Queue { state_persisted, ..Queue::default() };
        Self { shared: Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new() }) }
    }

    /// Starts a thread that writes to `log` until it fails or the process ends, apart from any state.
    ///
    /// # Errors
    /// `Io` where there can be no thread.
    pub fn start(log: Log, on_event: OnEvent) -> Result<(Self, JoinHandle<()>), StorageError> {
        let writer = Self::new(LogIndex(u64::MAX));
        let health = Health::new(on_event);
        let (own, shared) = (writer.clone(), Arc::clone(&health));
        let thread = health.spawn("log", move || own.run(log, &shared))?;
        Ok((writer, thread))
    }

    /// Queues the batch and returns. All batches that wait are written together and synced once; then `LogPersisted`.
    pub fn submit(&self, batch: LogBatch) {
        self.lock().batches.push_back(batch);
        self.shared.changed.notify_one();
    }

    /// Entries up to `through` may be deleted; whole segments are. What state and packs have not synced yet is kept
    /// until they have.
    pub fn compact(&self, through: LogIndex, term: Term) {
        self.lock().compact = Some((through, term));
        self.shared.changed.notify_one();
    }

    /// State and packs hold everything up to `index`, synced.
    pub(crate) fn state_persisted(&self, index: LogIndex) {
        self.lock().state_persisted = index;
        self.shared.changed.notify_one();
    }

    /// Whether the log was seen to begin anew behind this entry, synced.
    pub(crate) fn begins_behind(&self, index: LogIndex) -> bool {
        self.lock().reset_to == index
    }

    /// The thread ends when it has written what was submitted.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.shared.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A queue is whole whatever a thread was doing with it.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of the thread.
    pub(crate) fn run(&self, mut log: Log, health: &Health) -> Result<(), StorageError> {
        loop {
            match self.next() {
                Work::Append(batches) => {
                    if !self.append(&mut log, &batches)? {
                        return Ok(());
                    }
                    if let Some((index, _)) = batches.iter().rev().find_map(|batch| batch.reset) {
                        self.lock().reset_to = index;
                    }
                    let number = batches.last().expect("work has a batch").number;
                    health.report(StorageEvent::LogPersisted(number));
                }
                Work::Compact(through, term) => compact(&mut log, through, term)?,
                Work::End => return Ok(()),
            }
            if health.has_failed() {
                return Ok(());
            }
        }
    }

    /// Appends the batches; where space or a descriptor is missing, again and again until there is one. False where the end came
    /// first: then they are not in the log, and nobody was told they were.
    fn append(&self, log: &mut Log, batches: &[LogBatch]) -> Result<bool, StorageError> {
        let mut waits = false;
        loop {
            log.settle(self.lock().state_persisted);
            match log.append(batches) {
                Err(error) if error.is_shortage() && !log.has_failed() => {
                    if !waits {
                        tracing::warn!("the log waits, this node acknowledges nothing until then: {error}");
                    }
                    waits = true;
                    log.counters().log_waits_for_space.set(error.wait_code());
                }
                appended => {
                    appended?;
                    if waits {
                        log.counters().log_waits_for_space.set(0);
                        tracing::info!("the log goes on");
                    }
                    return Ok(true);
                }
            }
            // What compaction deletes may be all the space that is missing.
            if let Some((through, term)) = self.lock().due_compaction(batches) {
                compact(log, through, term)?;
                continue;
            }
            let idle = |queue: &mut Queue| !queue.closing;
            let (queue, _) = self
                .shared
                .changed
                .wait_timeout_while(self.lock(), RETRY, idle)
                .unwrap_or_else(PoisonError::into_inner);
            if queue.closing {
                return Ok(false);
            }
        }
    }

    fn next(&self) -> Work {
        let mut queue = self.lock();
        loop {
            if let Some((through, term)) = queue.due_compaction(&[]) {
                return Work::Compact(through, term);
            }
            let batches = queue.take_group();
            if !batches.is_empty() {
                return Work::Append(batches);
            }
            if queue.closing {
                return Work::End;
            }
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A shortage only puts it off: the next compaction makes up for it.
fn compact(log: &mut Log, through: LogIndex, term: Term) -> Result<(), StorageError> {
    match log.compact(through, term) {
        Err(error) if error.is_shortage() && !log.has_failed() => Ok(()),
        compacted => compacted,
    }
}

impl Queue {
    /// The compaction that may be carried out before what waits, `taken` and the queue, is written. Not behind a reset:
    /// the position may belong to the log that it begins.
    fn due_compaction(&mut self, taken: &[LogBatch]) -> Option<(LogIndex, Term)> {
        let synced = self.state_persisted;
        let has_reset = taken.iter().chain(&self.batches).any(|batch| batch.reset.is_some());
        if has_reset { None } else { self.compact.take_if(|(through, _)| *through <= synced) }
    }

    /// The batches at the front that may be written now. A reset has to wait for the state it belongs to: otherwise a
    /// crash would leave a log that begins behind the state.
    fn take_group(&mut self) -> Vec<LogBatch> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = self.batches.front() {
            let waits = batch.reset.is_some_and(|(index, _)| index > self.state_persisted);
            let more: usize = batch.entries.iter().map(|entry| entry.bytes.len()).sum();
            if waits || (!group.is_empty() && bytes + more > GROUP_BYTES) {
                break;
            }
            bytes += more;
            group.extend(self.batches.pop_front());
        }
        group
    }
}
