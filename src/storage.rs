//! What a storage node keeps on its block device: the Raft log, the state's rows, and packs of blocks.
//!
//! ```text
//! DIR/manyfs.toml   whose directory this is; written last, so that a directory has it or is no node's
//! DIR/LOCK          held by the one process that uses the directory
//! DIR/log/          segments of the Raft log (log.rs)
//! DIR/state/        sled: rows of the state, index of blocks, pins (state.rs)
//! DIR/packs/        blocks (packs.rs)
//! DIR/reserve       nothing: space for the next start (space.rs)
//! ```
//!
//! Three threads write: log, state and packs; a fourth compacts packs, a fifth reads everything again now and then. The log syncs before anything is promised. The
//! state follows behind it, content first (state.rs). What is cut from the log is in state and packs, synced: the log's
//! thread holds back what is not. A failed sync ends the store, and the process with it. A full disk does not: whoever
//! has no space waits for it (space.rs), and nothing is acknowledged meanwhile.
//!
//! Failpoints, in builds for tests: `store-log-sync`, `store-pack-sync`, `store-state-flush`; `return` makes the sync fail.

mod check;
mod counters;
mod error;
pub mod file;
mod header;
mod health;
mod identity;
pub mod inspect;
pub mod log;
pub mod packs;
mod private;
mod scrub;
mod space;
mod state;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use bytes::Bytes;
pub use check::{CheckReport, check};
pub use counters::{Counter, Counters};
pub use error::StorageError;
pub use identity::{FORMAT, Identity, inspect_identity};
pub use inspect::{Description, inspect};
pub use log::queue::LogWriter;
pub use packs::Packs;
pub use scrub::{ScrubOptions, Scrubber};
pub use state::StateWriter;

use self::{
    file::{Directory, Disk},
    health::Health,
    identity::{Creation, Lock, sync_directory},
    log::Log,
    packs::{Catalog, PackOptions},
    space::Reserve,
    state::{Meta, Store, database::Database, is_over},
};
use crate::{
    limits,
    namespace::{State, entry::Founding},
    node::{Apart, Ends, Recovered},
    types::{FoundingId, LogIndex, NodeId, Space, Term},
};

/// What the store's threads report.
#[derive(Clone, Debug)]
pub enum StorageEvent {
    /// The `LogBatch` of this number, and all before it, is synced.
    LogPersisted(u64),
    /// State store and packs hold everything up to this entry, synced.
    StatePersisted(LogIndex),
    /// The store cannot go on (a sync failed, a device is gone): the process must end.
    /// Nothing is reported after it.
    Failed(StorageError),
}

/// Called from the store's threads; must not block for long.
pub type OnEvent = Box<dyn Fn(StorageEvent) + Send + Sync>;

/// Sizes, for tests; production uses the defaults.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a preallocated segment of the log; default `limits::LOG_SEGMENT_BYTES`.
    pub log_segment_bytes: u64,
    /// `keep_free_bytes` of it is set by `open` unless it is larger than 0.
    pub packs: PackOptions,
    pub scrub: ScrubOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log_segment_bytes: limits::LOG_SEGMENT_BYTES,
            packs: PackOptions::default(),
            scrub: ScrubOptions::default(),
        }
    }
}

/// Founds the node `node` in a blank or missing directory, with the state that every founding node begins with, at
/// entry 1 of term 1. `membership` is the encoded raft membership of the founding nodes.
///
/// # Errors
/// `AlreadyCreated`, `NotBlank`, `InUse`, `Access`, `ReadOnly`, `Full`, `Io`; the directory is then no node's, and an
/// interrupted creation can be repeated.
pub fn create(dir: &Path, founding: &Founding, node: NodeId, membership: &Bytes) -> Result<(), StorageError> {
    create_with(dir, Options::default(), founding, node, membership)
}

/// As `create`, with other sizes.
///
/// # Errors
/// As `create`.
pub fn create_with(
    dir: &Path,
    options: Options,
    founding: &Founding,
    node: NodeId,
    membership: &Bytes,
) -> Result<(), StorageError> {
    let state = State::found(founding);
    let (index, term, digest) = (LogIndex(1), Term(1), state.digest());
    let meta = Meta { index, term, digest, membership: membership.clone(), is_installed: false };
    create_node(dir, options, Identity { founding: founding.id, node }, Some(&state), &meta)
}

/// Prepares a blank or missing directory for a node that will receive a snapshot: no state, an empty log.
///
/// # Errors
/// As `create`.
pub fn create_empty(dir: &Path, founding: FoundingId, node: NodeId) -> Result<(), StorageError> {
    create_node(dir, Options::default(), Identity { founding, node }, None, &Meta::default())
}

fn create_node(
    dir: &Path,
    options: Options,
    identity: Identity,
    state: Option<&State>,
    meta: &Meta,
) -> Result<(), StorageError> {
    let creation = Creation::begin(dir, identity)?;
    let counters = Arc::new(Counters::default());
    let (database, _) = Database::open(&dir.join("state"), Arc::clone(&counters))?;
    database.replace(state.into_iter().flat_map(State::rows), meta, &[])?;
    drop(database);
    sync_all(&dir.join("state"))?;
    let log: Arc<dyn Directory> = Arc::new(Disk::new(dir.join("log")));
    let reserve = Reserve::new(dir, options.packs.keep_free_bytes)?;
    let segment_bytes = reserve.segment_bytes(options.log_segment_bytes)?;
    Log::create(log, segment_bytes, (meta.index, meta.term), counters)?;
    for part in ["log", "packs"] {
        sync_directory(&dir.join(part))?;
    }
    // Of what sled makes, too.
    identity::narrow(dir)?;
    creation.finish()
}

/// Syncs a directory with all files in it.
fn sync_all(dir: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(dir).map_err(|error| StorageError::io("read", dir, error))? {
        let path = entry.map_err(|error| StorageError::io("read", dir, error))?.path();
        let synced = fs::File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|error| StorageError::io("synced", &path, error))?;
    }
    sync_directory(dir)
}

/// Opens the node in `dir` and gives what its disk holds. The directory is locked until `Storage` is dropped.
///
/// # Errors
/// `NotCreated`, `NotBlank`, `InUse`, `Format`, `Access`, `ReadOnly`, `Damaged`, `Row`, `State`, `LogBehindState`,
/// `StateBehindLog`, `LogUnlikeState`, `Io`. Nothing is lost by any of them.
pub fn open(dir: &Path, on_event: OnEvent) -> Result<(Storage, Recovered), StorageError> {
    open_with(dir, Options::default(), on_event)
}

/// As `open`, with other sizes.
///
/// # Errors
/// As `open`.
pub fn open_with(dir: &Path, options: Options, on_event: OnEvent) -> Result<(Storage, Recovered), StorageError> {
    let (_, lock) = lock_node(dir)?;
    identity::narrow(dir)?;
    let counters = Arc::new(Counters::default());
    let reserve = Reserve::new(dir, options.packs.keep_free_bytes)?;
    reserve.release_for_start()?;
    let (database, mut meta) = Database::open(&dir.join("state"), Arc::clone(&counters))?;
    let database = Arc::new(database);
    let state = read_state(&database, &meta)?;

    let log_directory: Arc<dyn Directory> = Arc::new(Disk::new(dir.join("log")));
    let segment_bytes = reserve.segment_bytes(options.log_segment_bytes)?;
    let (log, contents) = Log::open(Arc::clone(&log_directory), segment_bytes, Arc::clone(&counters))?;
    let log = log.keeping_free(reserve.for_log());
    if check_ends(&dir.join("log"), &contents, &meta)?.meet() && meta.is_installed {
        meta.is_installed = false;
        database.write(&BTreeMap::new(), &meta, &[])?;
    }

    let health = Health::new(on_event);
    let directory: Arc<dyn Directory> = Arc::new(Disk::new(dir.join("packs")));
    let pack_bytes = reserve.pack_bytes(options.packs.pack_bytes)?;
    let pack_options = PackOptions { keep_free_bytes: reserve.keep_free, pack_bytes, ..options.packs };
    let catalog: Arc<dyn Catalog> = Arc::clone(&database) as Arc<dyn Catalog>;
    let references = state.references();
    let (packs, pack_thread) =
        Packs::open_with(directory, pack_options, catalog, &references, Arc::clone(&health), Arc::clone(&counters))?;
    packs.name(state.names());
    let mut storage = Storage {
        dir: dir.to_owned(),
        reserve: reserve.clone(),
        log: LogWriter::new(meta.index),
        state: StateWriter::new(packs.clone()),
        packs,
        scrubber: Scrubber::default(),
        counters: Arc::clone(&counters),
        threads: Threads { packs: Some(pack_thread), ..Threads::default() },
        lock,
    };
    // Lifts that were lost with a snapshot the node was given, or came before their pins.
    let over = storage.packs.pins_of_ended(|volume, session| is_over(&state, volume, session));
    if !over.is_empty() {
        database.write(&BTreeMap::new(), &meta, &over)?;
        storage.packs.apply_references(&[], &over, &[])?;
    }
    reserve.reserve_for_start()?;
    storage.start_scrubber(&health, options.scrub, log_directory)?;
    storage.start(&health, log, Store { database, counters, reserve, meta: meta.clone() })?;
    let recovered = Recovered {
        hard_state: contents.hard_state,
        membership: meta.membership,
        state,
        state_index: meta.index,
        state_term: meta.term,
        entries: contents.entries,
        compacted: contents.compacted,
    };
    Ok((storage, recovered))
}

/// Takes the lock of a directory that holds a node.
fn lock_node(dir: &Path) -> Result<(Identity, Lock), StorageError> {
    if inspect_identity(dir)?.is_none() {
        return Err(StorageError::NotCreated { dir: dir.to_owned() });
    }
    let lock = Lock::take(dir)?;
    // Once more under the lock: it might have been made anew.
    let identity = inspect_identity(dir)?.ok_or_else(|| StorageError::NotCreated { dir: dir.to_owned() })?;
    Ok((identity, lock))
}

/// The state that the rows are; none at all is the state of a node that waits for a snapshot.
fn read_state(database: &Database, meta: &Meta) -> Result<State, StorageError> {
    if meta.index == LogIndex(0) {
        return Ok(State::default());
    }
    let mut error = None;
    let state = State::from_rows(database.rows(&mut error));
    if let Some(error) = error {
        return Err(error);
    }
    let damaged = |found| StorageError::State { path: database.path().to_owned(), found };
    let state = state.map_err(|error| damaged(error.to_string()))?;
    check_digest(&state, meta).map_err(damaged)?;
    Ok(state)
}

/// That no row was lost without a trace: sled takes some damage for the end of its file.
fn check_digest(state: &State, meta: &Meta) -> Result<(), String> {
    if state.digest() == meta.digest {
        return Ok(());
    }
    Err(format!("the rows' digest is {:032x}, written was {:032x}: rows were lost", state.digest(), meta.digest))
}

/// That log and state belong together; where they end.
fn check_ends(path: &Path, contents: &log::LogContents, meta: &Meta) -> Result<Ends, StorageError> {
    let ends = Ends {
        log_begin: contents.compacted.0,
        log_end: contents.last(),
        state: (meta.index, meta.term),
        term_in_log: contents.term_of(meta.index),
        is_installed: meta.is_installed,
    };
    let path = path.to_owned();
    match ends.check() {
        Ok(()) => Ok(ends),
        Err(Apart::StateBehindLog { log, state }) => Err(StorageError::StateBehindLog { path, log, state }),
        Err(Apart::LogBehindState { log, state }) => Err(StorageError::LogBehindState { path, log, state }),
        Err(Apart::Terms { index, log, state }) => Err(StorageError::LogUnlikeState { path, index, log, state }),
    }
}

/// An open data directory. Dropping it writes and syncs what was submitted and ends its threads.
pub struct Storage {
    dir: PathBuf,
    reserve: Reserve,
    log: LogWriter,
    state: StateWriter,
    packs: Packs,
    scrubber: Scrubber,
    counters: Arc<Counters>,
    threads: Threads,
    #[allow(dead_code, reason = "held, never read; dropped last")]
    lock: Lock,
}

#[derive(Default)]
struct Threads {
    log: Option<JoinHandle<()>>,
    state: Option<JoinHandle<()>>,
    packs: Option<JoinHandle<()>>,
    compaction: Option<JoinHandle<()>>,
    scrub: Option<JoinHandle<()>>,
}

impl Storage {
    fn start(&mut self, health: &Arc<Health>, log: Log, store: Store) -> Result<(), StorageError> {
        let (writer, shared) = (self.log.clone(), Arc::clone(health));
        self.threads.log = Some(health.spawn("log", move || writer.run(log, &shared))?);
        let (writer, log, shared) = (self.state.clone(), self.log.clone(), Arc::clone(health));
        self.threads.state = Some(health.spawn("state", move || writer.run(&store, &log, &shared))?);
        let packs = self.packs.clone();
        self.threads.compaction = Some(health.spawn("compaction", move || packs.run_compaction())?);
        Ok(())
    }

    fn start_scrubber(
        &mut self,
        health: &Arc<Health>,
        options: ScrubOptions,
        log: Arc<dyn Directory>,
    ) -> Result<(), StorageError> {
        let (scrubber, packs, counters) = (self.scrubber.clone(), self.packs.clone(), Arc::clone(&self.counters));
        let body = move || {
            scrubber.run(options, &packs, &*log, &counters);
            Ok(())
        };
        self.threads.scrub = Some(health.spawn("scrub", body)?);
        Ok(())
    }

    /// Lifts the pins of sessions that have ended as far as this state knows, to be called now and then: an upload that was
    /// let in while its session was there may come to its end behind the session's. How many there were.
    ///
    /// # Errors
    /// Of the catalog.
    pub fn lift_ended_pins(&self, state: &State) -> Result<usize, StorageError> {
        self.packs.lift_ended(|volume, session| is_over(state, volume, session))
    }

    /// Clones are cheap and write to the same log.
    #[must_use]
    pub const fn log(&self) -> &LogWriter {
        &self.log
    }

    #[must_use]
    pub const fn state(&self) -> &StateWriter {
        &self.state
    }

    #[must_use]
    pub const fn packs(&self) -> &Packs {
        &self.packs
    }

    #[must_use]
    pub const fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    /// Reserves again what the last start used up, where there is space; to be called now and then.
    ///
    /// # Errors
    /// `Io`, `Access` where the file system does not answer.
    pub fn reserve_for_start(&self) -> Result<(), StorageError> {
        self.reserve.reserve_for_start()
    }

    /// Space of the file system that holds the directory. What is kept back for log, state and compaction is not
    /// available.
    ///
    /// # Errors
    /// `Io`, `Access` where the file system does not answer.
    pub fn space(&self) -> Result<Space, StorageError> {
        self.reserve.space()
    }

    /// Whether so much of what is kept back is used that the node should take no more entries as long as others can.
    /// Whoever `was_short` is so until a little more is free again.
    ///
    /// # Errors
    /// As `space`.
    pub fn is_short_of_space(&self, was_short: bool) -> Result<bool, StorageError> {
        self.reserve.is_short(was_short)
    }

    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let join = |thread: &mut Option<JoinHandle<()>>| {
            // A panic was reported by the thread itself.
            thread.take().map(JoinHandle::join)
        };
        self.scrubber.close();
        join(&mut self.threads.scrub);
        // The state first: it needs the packs, and the log may wait for it.
        self.state.close();
        join(&mut self.threads.state);
        self.log.close();
        join(&mut self.threads.log);
        self.packs.close();
        join(&mut self.threads.compaction);
        join(&mut self.threads.packs);
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("dir", &self.dir).finish_non_exhaustive()
    }
}
