//! The state's rows on disk, and the thread that writes them behind the log.
//!
//! Order is everything here. Content is synced in packs before the rows that name it go into sled, because sled may
//! write those to the disk whenever it likes. Rows and the applied index are one batch. References are counted after
//! the rows are written, pins lifted after that. Only what was flushed and synced is reported.

mod ahead;
pub(crate) mod database;
pub(crate) mod value;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub(crate) use database::Meta;

use self::database::Database;
use bytes::Bytes;

use super::{Catalog, Counters, LogWriter, Packs, StorageError, StorageEvent, health::Health, space::Reserve};
use crate::{
    limits,
    message::log::{StateBatch, Unpinned},
    namespace::State,
    types::{BlockHash, SessionId, VolumeId},
};

/// Bytes that are written at once.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// How long a batch waits for others: what they bring shares one sync of the packs.
const GATHER: Duration = Duration::from_millis(50);
/// Bytes that do not wait for others.
const GATHER_BYTES: usize = 1024 * 1024;
/// How long written rows wait for their flush.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// How often what failed for want of space or descriptors is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The way into the state store. Clones are cheap and write to the same store.
#[derive(Clone, Debug)]
pub struct StateWriter {
    shared: Arc<Shared>,
    packs: Packs,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something was submitted, or the end has come.
    submitted: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<StateBatch>,
    bytes: usize,
    closing: bool,
}

impl StateWriter {
    pub(crate) fn new(packs: Packs) -> Self {
        Self { shared: Arc::default(), packs }
    }

    /// Queues the batch; its content can be read from the packs at once. It is written and synced in the background;
    /// then `StatePersisted`. Never waits: the node's core bounds how much is on its way (`STATE_BACKLOG_BYTES_MAX`).
    pub fn submit(&self, batch: StateBatch) {
        self.packs.content_waits(&batch.content);
        // Mounts that were sent these entries may ask for it from now on.
        self.packs.name(batch.named.iter().copied());
        let mut queue = self.lock();
        if !queue.closing {
            queue.bytes += bytes_of(&batch);
            queue.batches.push_back(batch);
            self.shared.submitted.notify_one();
        }
    }

    /// The thread ends when it has written and synced what was submitted.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.shared.submitted.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A queue is whole whatever a thread was doing with it.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for batches, or until `deadline`. Nothing at the end of both.
    fn next(&self, deadline: Option<Instant>) -> Vec<StateBatch> {
        let idle = |queue: &mut Queue| queue.batches.is_empty() && !queue.closing;
        let queue = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => self.shared.submitted.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner),
            Some(left) => {
                let waited = self.shared.submitted.wait_timeout_while(self.lock(), left, idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if queue.batches.is_empty() {
            return Vec::new();
        }
        let few = |queue: &mut Queue| queue.bytes < GATHER_BYTES && !queue.closing;
        let waited = self.shared.submitted.wait_timeout_while(queue, GATHER, few);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let mut group: Vec<StateBatch> = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = queue.batches.front() {
            // A snapshot is a group of its own.
            let joins = !batch.reset && !group.iter().any(|batch| batch.reset);
            let more = bytes_of(batch);
            if !group.is_empty() && (!joins || bytes + more > GROUP_BYTES) {
                break;
            }
            bytes += more;
            group.extend(queue.batches.pop_front());
        }
        queue.bytes -= bytes;
        group
    }

    fn is_closing(&self) -> bool {
        self.lock().closing
    }

    /// The body of the thread.
    pub(crate) fn run(&self, store: &Store, log: &LogWriter, health: &Health) -> Result<(), StorageError> {
        let ended = self.write_all(store, log, health);
        // Nothing piles up behind a thread that has ended.
        self.close();
        ended
    }

    fn write_all(&self, store: &Store, log: &LogWriter, health: &Health) -> Result<(), StorageError> {
        let mut meta = store.meta.clone();
        let mut unflushed: Option<Instant> = None;
        loop {
            // A mark is looked at again as often as rows are flushed.
            let since = unflushed.or_else(|| meta.is_installed.then(Instant::now));
            let group = self.next(since.map(|since| since + FLUSH_EVERY));
            if health.has_failed() {
                return Ok(());
            }
            let mut ends = group.is_empty() && self.is_closing();
            let mut flush = ends;
            if !group.is_empty() {
                store.counters.state_batches.add(group.len() as u64);
                let steps = Gathered::steps_of(group);
                flush |= steps.iter().any(|step| step.reset);
                if self.store_content(store, &steps)? {
                    for step in steps {
                        store.write(&self.packs, step, &mut meta)?;
                    }
                    unflushed.get_or_insert_with(Instant::now);
                } else {
                    (ends, flush) = (true, true);
                }
            }
            if meta.is_installed && log.begins_behind(meta.index) {
                meta.is_installed = false;
                store.database.write(&BTreeMap::new(), &meta, &[])?;
                unflushed.get_or_insert_with(Instant::now);
            }
            if unflushed.is_some_and(|since| flush || since.elapsed() >= FLUSH_EVERY) {
                store.database.flush()?;
                unflushed = None;
                log.state_persisted(meta.index);
                health.report(StorageEvent::StatePersisted(meta.index));
            }
            if ends {
                return Ok(());
            }
        }
    }
}

impl StateWriter {
    /// Puts the group's content into packs, and sees to it that there is space for its rows: sled cannot go on once it
    /// has met the end of the disk. Waits for space as long as there is none; false where the end came first. The log
    /// has all that was submitted, so nothing is lost then.
    fn store_content(&self, store: &Store, group: &[Gathered]) -> Result<bool, StorageError> {
        let content: Vec<_> = group.iter().flat_map(|step| &step.content).cloned().collect();
        let bytes: u64 = group.iter().map(|step| step.bytes).sum();
        let mut waits = false;
        loop {
            // What brings no content may give space back, and must get through.
            let reserve = &store.reserve;
            let kept = if content.is_empty() { reserve.for_start() } else { reserve.for_log() };
            let needed = bytes + kept;
            let stored = if store.reserve.available()? < needed {
                Err(StorageError::Full { path: store.database.path().to_owned(), needed })
            } else {
                self.packs.put_committed(content.clone())
            };
            match stored {
                Err(error) if error.is_shortage() => {
                    if !waits {
                        tracing::warn!("the state waits, the log keeps what it lacks: {error}");
                    }
                    waits = true;
                    store.counters.state_waits_for_space.set(error.wait_code());
                }
                stored => {
                    stored?;
                    if waits {
                        store.counters.state_waits_for_space.set(0);
                        tracing::info!("the state goes on");
                    }
                    return Ok(true);
                }
            }
            let idle = |queue: &mut Queue| !queue.closing;
            let waited = self.shared.submitted.wait_timeout_while(self.lock(), RETRY, idle);
            if waited.unwrap_or_else(PoisonError::into_inner).0.closing {
                return Ok(false);
            }
        }
    }
}

/// Batches that are written in one step.
#[derive(Debug, Default)]
struct Gathered {
    last: Meta,
    membership: Option<Bytes>,
    reset: bool,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    content: Vec<(BlockHash, Bytes)>,
    references: Vec<(BlockHash, i64)>,
    named: Vec<(VolumeId, BlockHash)>,
    unpinned: Vec<Unpinned>,
    /// What all of it weighs.
    bytes: u64,
}

impl Gathered {
    /// The batches of a group in as few steps as their rows allow. One batch is never parted.
    fn steps_of(group: Vec<StateBatch>) -> Vec<Self> {
        let mut steps: Vec<Self> = Vec::new();
        for batch in group {
            match steps.last_mut().filter(|step| step.rows.len() + batch.rows.len() <= limits::STATE_STEP_ROWS) {
                Some(step) => step.add(batch),
                None => {
                    let mut step = Self::default();
                    step.add(batch);
                    steps.push(step);
                }
            }
        }
        steps
    }

    fn add(&mut self, mut batch: StateBatch) {
        self.bytes += bytes_of(&batch) as u64;
        let Meta { index, term, digest, .. } = &mut self.last;
        (*index, *term, *digest) = (batch.index, batch.term, batch.digest);
        self.membership = batch.membership.take().or(self.membership.take());
        self.reset |= batch.reset;
        self.rows.extend(batch.rows.into_iter().map(|row| (row.key, row.value)));
        self.content.append(&mut batch.content);
        self.references.append(&mut batch.references);
        self.named.append(&mut batch.named);
        self.unpinned.append(&mut batch.unpinned);
    }
}

/// What the thread writes to.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) database: Arc<Database>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) reserve: Reserve,
    /// What the rows were the state of when the store was opened.
    pub(crate) meta: Meta,
}

impl Store {
    /// Its content is in packs, synced.
    fn write(&self, packs: &Packs, group: Gathered, meta: &mut Meta) -> Result<(), StorageError> {
        let Gathered { last, membership, reset, rows, content, references, named, unpinned, .. } = group;
        let membership = membership.unwrap_or_else(|| meta.membership.clone());
        // An entry is applied only when the log has it, behind what it began anew with.
        *meta = Meta { membership, is_installed: reset, ..last };
        let mut lifted = packs.end(&unpinned);
        if !reset {
            self.database.write(&rows, meta, &lifted)?;
            packs.apply_references(&references, &lifted, &content)?;
            // Once more: what comes from peers is known to the packs only since it is counted.
            packs.name(named.into_iter());
            return Ok(());
        }
        let rows: BTreeMap<_, _> = rows.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let state = State::from_rows(rows.iter().map(|(key, value)| (key.clone(), value.clone())));
        let state =
            state.map_err(|error| StorageError::Misuse { found: format!("a snapshot is no state: {error}") })?;
        lifted.extend(packs.pins_of_ended(|volume, session| is_over(&state, volume, session)));
        self.database.replace(rows, meta, &lifted)?;
        packs.replace_references(&state.references());
        packs.name(state.names());
        packs.apply_references(&[], &lifted, &content)
    }
}

/// Whether the session has ended as far as this state knows: it was given out, and is not there any more. One that was not
/// may be opened by an entry that the state does not include yet.
pub(crate) fn is_over(state: &State, volume: VolumeId, session: SessionId) -> bool {
    match state.volume(volume) {
        Some(volume) => volume.has_opened(session) && volume.session(session).is_none(),
        None => state.has_made(volume),
    }
}

/// What a batch weighs while it waits.
fn bytes_of(batch: &StateBatch) -> usize {
    let content: usize = batch.content.iter().map(|(_, bytes)| bytes.len()).sum();
    let rows: usize =
        batch.rows.iter().map(|row| row.key.len() + row.value.as_ref().map_or(0, |value| value.len())).sum();
    content + rows + 64 * (batch.rows.len() + batch.references.len() + batch.named.len()) + 64
}
