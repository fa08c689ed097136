//! sled, and which rows are in it. One batch carries rows, the applied index and the catalog's changes together.
//!
//! ```text
//! 'm'                                          generation, index, term, digest, mark and membership of the state
//! 's' generation:u32 row key                   a row of the state
//! 'c' generation:u32 number:u16 row key        a piece of its value
//! 'b' hash                                     where a block is
//! 'p' volume:u32 session:u64 upload:u64 hash   a pin
//! 'x'                                          up to where the packs are in the catalog
//! 'w' number:u32                               a piece of rows that are being written
//! ```
//! Numbers in keys are big-endian, in values little-endian. A snapshot is written as a new generation beside the old
//! one, and 'm' switches to it: an interrupted one leaves the old state as it was.
//!
//! sled keeps a copy of a part of its tree for each row of a batch, until the batch is done and the memory was collected
//! (`collect`). So no batch has more than `STATE_STEP_ROWS` rows. Rows that belong together and are more are written
//! ahead first ('w'); then 'm' says that they count, in one batch with whatever else does; then they go where they belong,
//! step by step. A start goes on with that.

use std::{
    collections::BTreeMap,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    ahead,
    value::{PIECE_BYTES, RowBody, pieces_of, read_row_body, row_body, seal, unseal},
};
use crate::{
    limits,
    storage::{
        Counters, StorageError,
        header::{u32_at, u64_at},
        packs::{Catalog, CatalogChange, Location, Pin},
    },
    types::{BlockHash, LogIndex, SessionId, Term, UploadId, VolumeId},
};

/// Bytes of sled's page cache. Rows are read at start only, so it is for writing.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// sled collects garbage in the same thread, so this must not be switched off; and syncs its file each time, idle or
/// not. Measured over 12 rewrites of 10,000 rows in a store of 250,000: at 500 ms 53 MB and 0.55 % of a CPU when idle,
/// at 2,000 ms 59 MB and 0.05 %. What is to last is flushed by `flush`, whatever this is.
const FLUSH_EVERY_MS: u64 = 2000;
/// How long sled's own lock is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Bytes that one batch writes, about.
const BATCH_BYTES: u64 = 1024 * 1024;
/// What one `flush` of the collector frees at least, in pieces of memory: eight of its bags with 64 each, of which some are
/// not full.
const COLLECTED: usize = 128;
/// Flushes after which memory that a batch has let go of is old enough to be freed: the collector's epoch must have passed
/// twice.
const EPOCHS: usize = 3;

/// Bytes of the meta row before the membership.
const META_BYTES: usize = 41;

const META: u8 = b'm';
const ROW: u8 = b's';
const PIECE: u8 = b'c';
const BLOCK: u8 = b'b';
const PIN: u8 = b'p';
const SCANNED: u8 = b'x';
const AHEAD: u8 = b'w';

/// What the rows are the state of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Meta {
    /// Index and term of the last entry in the rows.
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// Of the state that the rows are.
    pub(crate) digest: u128,
    /// Encoded raft membership.
    pub(crate) membership: Bytes,
    /// The rows are a snapshot's, and the log was not seen to begin behind it (node/ends.rs).
    pub(crate) is_installed: bool,
}

#[derive(Debug)]
pub(crate) struct Database {
    sled: sled::Db,
    /// sled's only file of data, to be synced: its own flush does not.
    file: File,
    path: PathBuf,
    counters: Arc<Counters>,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    generation: u32,
    /// Rows that are stored in pieces, and in how many, so that overwriting one needs no read.
    in_pieces: BTreeMap<Bytes, u16>,
}

impl Database {
    /// Opens the store in `path`, or makes one where there is none. Rows of other generations are removed.
    pub(crate) fn open(path: &Path, counters: Arc<Counters>) -> Result<(Self, Meta), StorageError> {
        let unreadable = |found: String| StorageError::State { path: path.to_owned(), found };
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_EVERY_MS));
        let begin = Instant::now();
        let sled = loop {
            // sled panics on some damage.
            let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
                .map_err(|_| unreadable("it made sled panic, see above".to_owned()))?;
            match opened {
                // Threads of a store that was just dropped in this process may still hold its file; of other processes
                // there are none, the directory is locked.
                Err(sled::Error::Io(error))
                    if error.to_string().starts_with("could not acquire lock") && begin.elapsed() < LOCK_WAIT =>
                {
                    thread::sleep(Duration::from_millis(5));
                }
                opened => break opened.map_err(|error| sled_error(path, error))?,
            }
        };
        let name = path.join("db");
        let file = File::open(&name).map_err(|error| StorageError::io("read", &name, error))?;
        let database = Self { sled, file, path: path.to_owned(), counters, current: Mutex::default() };
        let mut meta = Meta::default();
        if let Some(value) = database.get(&[META])? {
            let (generation, ahead, stored) = decode_meta(&value).map_err(|found| row_error(&[META], found))?;
            database.current().generation = generation;
            meta = stored;
            if ahead > 0 {
                database.finish_writing(ahead, &meta)?;
            }
        }
        database.remove_range(&[AHEAD], &[AHEAD + 1])?;
        database.remove_other_generations()?;
        Ok((database, meta))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Every row of the state in key order, verified. Ends at the first error, which is left in `error`.
    pub(crate) fn rows<'a>(&'a self, error: &'a mut Option<StorageError>) -> impl Iterator<Item = (Bytes, Bytes)> + 'a {
        let generation = self.current().generation;
        let mut rows = self.sled.scan_prefix(row_key(ROW, generation, &[]));
        std::iter::from_fn(move || {
            if error.is_some() {
                return None;
            }
            let row = rows.next()?.map_err(|error| sled_error(&self.path, error));
            match row.and_then(|(key, value)| self.read_row(generation, &key, &value)) {
                Ok(row) => Some(row),
                Err(found) => {
                    *error = Some(found);
                    None
                }
            }
        })
    }

    /// All rows one by one, damaged ones as errors.
    pub(crate) fn rows_or_errors(&self) -> impl Iterator<Item = Result<(Bytes, Bytes), StorageError>> + '_ {
        let generation = self.current().generation;
        self.sled.scan_prefix(row_key(ROW, generation, &[])).map(move |row| {
            let (key, value) = row.map_err(|error| sled_error(&self.path, error))?;
            self.read_row(generation, &key, &value)
        })
    }

    fn read_row(&self, generation: u32, key: &[u8], value: &[u8]) -> Result<(Bytes, Bytes), StorageError> {
        let row = key.get(5..).unwrap_or(&[]);
        let broken = |found| row_error(row, found);
        let body = unseal(key, value).map_err(broken)?;
        let (bytes, pieces, crc) = match read_row_body(body).map_err(broken)? {
            RowBody::Whole(value) => return Ok((Bytes::copy_from_slice(row), Bytes::copy_from_slice(value))),
            RowBody::InPieces { bytes, pieces, crc } => (bytes as usize, pieces, crc),
        };
        let mut whole = Vec::new();
        for number in 0..pieces {
            let key = piece_key(generation, number, row);
            let Some(value) = self.get(&key)? else {
                return Err(broken(format!("piece {number} of {pieces} is missing")));
            };
            whole.extend_from_slice(unseal(&key, &value).map_err(broken)?);
        }
        if whole.len() != bytes || crc32fast::hash(&whole) != crc {
            return Err(broken(format!("its {pieces} pieces are not the {bytes} bytes that were stored")));
        }
        let row = Bytes::copy_from_slice(row);
        self.current().in_pieces.insert(row.clone(), pieces);
        Ok((row, whole.into()))
    }

    /// Sets (or with `None` removes) rows and moves the state to `meta`, all or nothing. Pins are lifted with that where they
    /// are few, else behind it in steps: what a crash leaves of them goes with the next start, or with their session.
    pub(crate) fn write(
        &self,
        rows: &BTreeMap<Bytes, Option<Bytes>>,
        meta: &Meta,
        lifted: &[(Pin, BlockHash)],
    ) -> Result<(), StorageError> {
        let mut current = self.current();
        let mut batch = Batch::default();
        let (with_rows, behind) =
            lifted.split_at(if lifted.len() > limits::STATE_STEP_ROWS { 0 } else { lifted.len() });
        for &(pin, hash) in with_rows {
            batch.change(&CatalogChange::Pin(pin, hash, false));
        }
        self.counters.state_rows.add(rows.len() as u64);
        if Batch::fits(rows) {
            for (row, value) in rows {
                batch.set_row(&mut current, row, value.as_ref());
            }
            batch.insert(vec![META], &encode_meta(current.generation, 0, meta));
            self.apply_batch(batch)?;
        } else {
            let pieces = self.write_ahead(rows)?;
            batch.insert(vec![META], &encode_meta(current.generation, pieces, meta));
            self.apply_batch(batch)?;
            self.write_in_steps(&mut current, rows, meta)?;
        }
        self.lift(behind)
    }

    /// Lifts pins step by step.
    fn lift(&self, pins: &[(Pin, BlockHash)]) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        for &(pin, hash) in pins {
            batch.change(&CatalogChange::Pin(pin, hash, false));
            self.apply_if_full(&mut batch)?;
        }
        self.apply_batch(batch)
    }

    /// Writes the rows down where nothing reads them yet; in how many pieces.
    fn write_ahead(&self, rows: &BTreeMap<Bytes, Option<Bytes>>) -> Result<u32, StorageError> {
        let mut batch = Batch::default();
        let mut pieces = 0;
        for piece in ahead::encode(rows).chunks(PIECE_BYTES) {
            batch.insert(ahead_key(pieces), piece);
            pieces += 1;
            self.apply_if_full(&mut batch)?;
        }
        self.apply_batch(batch)?;
        Ok(pieces)
    }

    /// Puts rows that were written ahead where they belong.
    fn write_in_steps(
        &self,
        current: &mut Current,
        rows: &BTreeMap<Bytes, Option<Bytes>>,
        meta: &Meta,
    ) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        for (row, value) in rows {
            batch.set_row(current, row, value.as_ref());
            self.apply_if_full(&mut batch)?;
        }
        batch.insert(vec![META], &encode_meta(current.generation, 0, meta));
        self.apply_batch(batch)?;
        self.remove_range(&[AHEAD], &[AHEAD + 1])
    }

    /// Goes on where a process ended between writing rows ahead and having them all where they belong.
    fn finish_writing(&self, pieces: u32, meta: &Meta) -> Result<(), StorageError> {
        let mut encoded = Vec::new();
        for number in 0..pieces {
            let key = ahead_key(number);
            let value = self.get(&key)?.ok_or_else(|| row_error(&key, "it is missing".to_owned()))?;
            encoded.extend_from_slice(unseal(&key, &value).map_err(|found| row_error(&key, found))?);
        }
        let rows = ahead::decode(&encoded).map_err(|found| row_error(&[AHEAD], found))?;
        let mut current = self.current();
        for row in rows.keys() {
            let key = row_key(ROW, current.generation, row);
            if let Some(value) = self.get(&key)?
                && let Ok(RowBody::InPieces { pieces, .. }) = unseal(&key, &value).and_then(read_row_body)
            {
                current.in_pieces.insert(row.clone(), pieces);
            }
        }
        self.write_in_steps(&mut current, &rows, meta)
    }

    /// Puts these rows in the place of all others, all or nothing, and flushes them. Pins are lifted behind that, as in
    /// `write`.
    pub(crate) fn replace(
        &self,
        rows: impl IntoIterator<Item = (Bytes, Bytes)>,
        meta: &Meta,
        lifted: &[(Pin, BlockHash)],
    ) -> Result<(), StorageError> {
        let mut next = Current { generation: self.current().generation.wrapping_add(1), in_pieces: BTreeMap::new() };
        let mut batch = Batch::default();
        let mut count = 0;
        for (row, value) in rows {
            batch.set_row(&mut next, &row, Some(&value));
            count += 1;
            self.apply_if_full(&mut batch)?;
        }
        batch.insert(vec![META], &encode_meta(next.generation, 0, meta));
        self.apply_batch(batch)?;
        self.counters.state_rows.add(count);
        self.flush()?;
        *self.current() = next;
        self.lift(lifted)?;
        self.remove_other_generations()
    }

    /// Removes what a snapshot replaced, and what an interrupted one left.
    fn remove_other_generations(&self) -> Result<(), StorageError> {
        let generation = self.current().generation;
        for kind in [ROW, PIECE] {
            self.remove_range(&[kind], &row_key(kind, generation, &[]))?;
            if let Some(next) = generation.checked_add(1) {
                self.remove_range(&row_key(kind, next, &[]), &[kind + 1])?;
            }
        }
        Ok(())
    }

    fn remove_range(&self, from: &[u8], to: &[u8]) -> Result<(), StorageError> {
        loop {
            let mut batch = Batch::default();
            for key in self.sled.range(from..to).keys().take(limits::STATE_STEP_ROWS) {
                batch.remove(key.map_err(|error| sled_error(&self.path, error))?.to_vec());
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.apply_batch(batch)?;
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, StorageError> {
        self.sled.get(key).map_err(|error| sled_error(&self.path, error))
    }

    fn apply_batch(&self, batch: Batch) -> Result<(), StorageError> {
        self.counters.state_bytes.add(batch.bytes);
        self.sled.apply_batch(batch.sled).map_err(|error| sled_error(&self.path, error))?;
        collect(batch.changes);
        Ok(())
    }

    fn apply_if_full(&self, batch: &mut Batch) -> Result<(), StorageError> {
        if batch.changes < limits::STATE_STEP_ROWS && batch.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.apply_batch(std::mem::take(batch))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // Only what was read or written whole is in it.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog for Database {
    fn load(&self, row: &mut dyn FnMut(CatalogChange)) -> Result<(), StorageError> {
        for kind in [BLOCK, PIN, SCANNED] {
            for entry in self.sled.scan_prefix([kind]) {
                let (key, value) = entry.map_err(|error| sled_error(&self.path, error))?;
                row(decode_catalog(&key, &value).map_err(|found| row_error(&key, found))?);
            }
        }
        Ok(())
    }

    fn apply(&self, changes: &[CatalogChange]) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        for change in changes {
            batch.change(change);
            self.apply_if_full(&mut batch)?;
        }
        self.apply_batch(batch)
    }

    /// `sled::Db::flush` waits until the kernel has written the pages, but no cache of the disk is flushed and the
    /// file's length is not synced (sled issue 1452): that is done here.
    fn flush(&self) -> Result<(), StorageError> {
        fail::fail_point!("store-state-flush", |_| Err(StorageError::unsynced(
            &self.path,
            std::io::Error::other("a failpoint")
        )));
        self.sled.flush().map_err(|error| sled_error(&self.path, error))?;
        self.counters.state_syncs.add(1);
        self.file.sync_data().map_err(|error| StorageError::unsynced(&self.path, error))
    }
}

/// Frees what sled's trees let go of in a batch of so many changes. Left alone the collector does so by itself, a few
/// hundred pieces each 128 calls of sled: what a thousand rows leave behind would wait for calls that may never come.
fn collect(changes: usize) {
    for _ in 0..EPOCHS + changes.div_ceil(COLLECTED) {
        crossbeam_epoch::pin().flush();
    }
}

/// Changes that happen together or not at all.
#[derive(Default)]
struct Batch {
    sled: sled::Batch,
    /// Of sled's own rows.
    changes: usize,
    bytes: u64,
}

impl Batch {
    /// Whether these rows may be one batch.
    fn fits(rows: &BTreeMap<Bytes, Option<Bytes>>) -> bool {
        let values = rows.values().flatten();
        let (pieces, bytes) = values.fold((0, 0), |(pieces, bytes), value| {
            (pieces + usize::from(pieces_of(value)), bytes + value.len() as u64)
        });
        rows.len() + pieces <= 2 * limits::STATE_STEP_ROWS && bytes <= 2 * BATCH_BYTES
    }

    const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn insert(&mut self, key: Vec<u8>, body: &[u8]) {
        let value = seal(&key, body);
        self.changes += 1;
        self.bytes += (key.len() + value.len()) as u64;
        self.sled.insert(key, value);
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.changes += 1;
        self.bytes += key.len() as u64;
        self.sled.remove(key);
    }

    fn set_row(&mut self, current: &mut Current, row: &Bytes, value: Option<&Bytes>) {
        let before = current.in_pieces.remove(row).unwrap_or(0);
        let now = value.map_or(0, |value| pieces_of(value));
        let generation = current.generation;
        for number in now..before {
            self.remove(piece_key(generation, number, row));
        }
        let key = row_key(ROW, generation, row);
        let Some(value) = value else { return self.remove(key) };
        self.insert(key, &row_body(value));
        if now > 0 {
            for (number, piece) in (0..now).zip(value.chunks(PIECE_BYTES)) {
                self.insert(piece_key(generation, number, row), piece);
            }
            current.in_pieces.insert(row.clone(), now);
        }
    }

    fn change(&mut self, change: &CatalogChange) {
        match change {
            CatalogChange::Block(hash, Some(location)) => {
                let mut body = [0; 12];
                body[..4].copy_from_slice(&location.pack.to_le_bytes());
                body[4..8].copy_from_slice(&location.offset.to_le_bytes());
                body[8..].copy_from_slice(&location.length.to_le_bytes());
                self.insert(block_key(hash), &body);
            }
            CatalogChange::Block(hash, None) => self.remove(block_key(hash)),
            CatalogChange::Pin(pin, hash, true) => self.insert(pin_key(pin, hash), &[]),
            CatalogChange::Pin(pin, hash, false) => self.remove(pin_key(pin, hash)),
            CatalogChange::Scanned(pack, offset) => {
                let mut body = [0; 12];
                body[..4].copy_from_slice(&pack.to_le_bytes());
                body[4..].copy_from_slice(&offset.to_le_bytes());
                self.insert(vec![SCANNED], &body);
            }
        }
    }
}

fn row_key(kind: u8, generation: u32, row: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + row.len());
    key.push(kind);
    key.extend_from_slice(&generation.to_be_bytes());
    key.extend_from_slice(row);
    key
}

fn piece_key(generation: u32, number: u16, row: &[u8]) -> Vec<u8> {
    let mut key = row_key(PIECE, generation, &number.to_be_bytes());
    key.extend_from_slice(row);
    key
}

fn ahead_key(number: u32) -> Vec<u8> {
    let mut key = vec![AHEAD];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn block_key(hash: &BlockHash) -> Vec<u8> {
    let mut key = vec![BLOCK];
    key.extend_from_slice(&hash.0);
    key
}

fn pin_key(pin: &Pin, hash: &BlockHash) -> Vec<u8> {
    let mut key = vec![PIN];
    key.extend_from_slice(&pin.volume.0.to_be_bytes());
    key.extend_from_slice(&pin.session.0.to_be_bytes());
    key.extend_from_slice(&pin.upload.0.to_be_bytes());
    key.extend_from_slice(&hash.0);
    key
}

fn decode_catalog(key: &[u8], value: &[u8]) -> Result<CatalogChange, String> {
    let body = unseal(key, value)?;
    let hash = |bytes: &[u8]| bytes.try_into().map(BlockHash).map_err(|_| "its key is no hash".to_owned());
    match (key.split_first(), body.len()) {
        (Some((&BLOCK, rest)), 12) => {
            let location = Location { pack: u32_at(body, 0), offset: u32_at(body, 4), length: u32_at(body, 8) };
            if location.length as usize > crate::limits::BLOCK_BYTES_MAX {
                return Err(format!("a block of {} bytes", location.length));
            }
            Ok(CatalogChange::Block(hash(rest)?, Some(location)))
        }
        (Some((&PIN, rest)), 0) if rest.len() == 52 => {
            let number = |at: usize| u64::from_be_bytes(rest[at..at + 8].try_into().expect("eight bytes"));
            let volume = VolumeId(u32::from_be_bytes(rest[..4].try_into().expect("four bytes")));
            let pin = Pin { volume, session: SessionId(number(4)), upload: UploadId(number(12)) };
            Ok(CatalogChange::Pin(pin, hash(&rest[20..])?, true))
        }
        (Some((&SCANNED, [])), 12) => Ok(CatalogChange::Scanned(u32_at(body, 0), u64_at(body, 4))),
        (_, length) => Err(format!("a row of the catalog with {length} bytes that is of no known kind")),
    }
}

/// `ahead`: pieces of rows that count and may not be where they belong.
fn encode_meta(generation: u32, ahead: u32, meta: &Meta) -> Vec<u8> {
    let mut body = Vec::with_capacity(META_BYTES + meta.membership.len());
    body.extend_from_slice(&generation.to_le_bytes());
    body.extend_from_slice(&ahead.to_le_bytes());
    body.extend_from_slice(&meta.index.0.to_le_bytes());
    body.extend_from_slice(&meta.term.0.to_le_bytes());
    body.extend_from_slice(&meta.digest.to_le_bytes());
    body.push(u8::from(meta.is_installed));
    body.extend_from_slice(&meta.membership);
    body
}

fn decode_meta(value: &[u8]) -> Result<(u32, u32, Meta), String> {
    let body = unseal(&[META], value)?;
    let Some((head, membership)) = body.split_at_checked(META_BYTES) else {
        return Err(format!("it has {} bytes, {META_BYTES} are needed at least", body.len()));
    };
    let digest = u128::from_le_bytes(head[24..40].try_into().expect("sixteen bytes"));
    let meta = Meta {
        index: LogIndex(u64_at(head, 8)),
        term: Term(u64_at(head, 16)),
        digest,
        membership: Bytes::copy_from_slice(membership),
        is_installed: head[40] != 0,
    };
    Ok((u32_at(head, 0), u32_at(head, 4), meta))
}

fn row_error(key: &[u8], found: String) -> StorageError {
    StorageError::Row { key: key.iter().map(|byte| format!("{byte:02x}")).collect(), found }
}

fn sled_error(path: &Path, error: sled::Error) -> StorageError {
    match error {
        sled::Error::Io(error) => StorageError::io("written", path, error),
        error => StorageError::State { path: path.to_owned(), found: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change() -> impl Strategy<Value = CatalogChange> {
        let hash = any::<[u8; 32]>().prop_map(BlockHash);
        let location = (any::<u32>(), any::<u32>(), 0..=crate::limits::BLOCK_BYTES_MAX as u32);
        let pin = (any::<u32>(), any::<u64>(), any::<u64>());
        prop_oneof![
            (hash.clone(), location).prop_map(|(hash, (pack, offset, length))| {
                CatalogChange::Block(hash, Some(Location { pack, offset, length }))
            }),
            (hash, pin).prop_map(|(hash, (volume, session, upload))| {
                let pin = Pin { volume: VolumeId(volume), session: SessionId(session), upload: UploadId(upload) };
                CatalogChange::Pin(pin, hash, true)
            }),
            (any::<u32>(), any::<u64>()).prop_map(|(pack, offset)| CatalogChange::Scanned(pack, offset)),
        ]
    }

    /// More rows than one batch takes, every tenth of them in pieces.
    fn many_rows(salt: u8) -> BTreeMap<Bytes, Option<Bytes>> {
        let value = |number: usize| vec![salt; if number.is_multiple_of(10) { 3 * PIECE_BYTES } else { 40 }];
        let row = |number: usize| {
            let is_set = !(number + usize::from(salt)).is_multiple_of(3);
            (Bytes::from(format!("row {number:05}")), is_set.then(|| value(number).into()))
        };
        (0..3 * limits::STATE_STEP_ROWS).map(row).collect()
    }

    fn rows_of(database: &Database) -> BTreeMap<Bytes, Option<Bytes>> {
        let mut error = None;
        let rows = database.rows(&mut error).map(|(key, value)| (key, Some(value))).collect();
        assert!(error.is_none(), "{error:?}");
        rows
    }

    fn meta(index: u64) -> Meta {
        Meta { index: LogIndex(index), term: Term(1), digest: 7, membership: "m".into(), is_installed: false }
    }

    #[test]
    fn rows_that_are_too_many_for_one_batch_are_all_there_or_none_wherever_it_was_interrupted() {
        let (first, second) = (many_rows(1), many_rows(2));
        let before: BTreeMap<_, _> = first.clone().into_iter().filter(|(_, value)| value.is_some()).collect();
        let mut after = first.clone();
        after.extend(second.clone());
        after.retain(|_, value| value.is_some());
        // Written ahead only; said to count; in part, and all where they belong.
        for interrupted in 0..4 {
            let dir = tempfile::tempdir().expect("space for a test");
            let (database, _) = Database::open(dir.path(), Arc::default()).expect("blank");
            database.write(&first, &meta(1), &[]).expect("works");
            assert_eq!(rows_of(&database), before);
            let pieces = database.write_ahead(&second).expect("works");
            if interrupted > 0 {
                let mut batch = Batch::default();
                batch.insert(vec![META], &encode_meta(0, pieces, &meta(2)));
                database.apply_batch(batch).expect("works");
            }
            let some = second.len() * (interrupted.max(1) - 1) / 2;
            let mut batch = Batch::default();
            for (row, value) in second.iter().take(some) {
                batch.set_row(&mut database.current(), row, value.as_ref());
            }
            database.apply_batch(batch).expect("works");
            drop(database);
            for _ in 0..2 {
                let (database, found) = Database::open(dir.path(), Arc::default()).expect("whole");
                let expected = if interrupted == 0 { (&before, 1) } else { (&after, 2) };
                assert_eq!((&rows_of(&database), found), (expected.0, meta(expected.1)), "{interrupted}");
                assert_eq!(database.sled.scan_prefix([AHEAD]).count(), 0);
                let pieces = database.sled.scan_prefix([PIECE]).count();
                let large = expected.0.values().flatten().filter(|value| value.len() > PIECE_BYTES).count();
                assert_eq!(pieces, 3 * large, "{interrupted}: pieces of no row are left");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_catalog_comes_back_as_it_was_written(changes in proptest::collection::vec(change(), 1..20)) {
            let dir = tempfile::tempdir().expect("space for a test");
            let (database, _) = Database::open(dir.path(), Arc::default()).expect("blank");
            Catalog::apply(&database, &changes).expect("works");
            let mut found = Vec::new();
            database.load(&mut |row| found.push(row)).expect("whole");
            // Random hashes differ; only the one row of its kind is overwritten.
            let is_scanned = |change: &&CatalogChange| matches!(change, CatalogChange::Scanned(..));
            let last = changes.iter().rfind(is_scanned);
            let mut expected: Vec<_> =
                changes.iter().filter(|change| !is_scanned(change)).chain(last).map(|change| format!("{change:?}")).collect();
            let mut found: Vec<_> = found.iter().map(|change| format!("{change:?}")).collect();
            expected.sort();
            found.sort();
            prop_assert_eq!(found, expected);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(key: Vec<u8>, kind in 0u8..8, mut value: Vec<u8>, sealed: bool) {
            let kinds = [META, ROW, PIECE, BLOCK, PIN, SCANNED, 0, 255];
            let mut whole_key = vec![kinds[kind as usize]];
            whole_key.extend_from_slice(&key);
            if sealed {
                value = seal(&whole_key, &value);
            }
            let _ = decode_catalog(&whole_key, &value);
            let _ = decode_meta(&value);
        }
    }
}
