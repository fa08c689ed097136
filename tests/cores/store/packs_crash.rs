//! Packs after a power cut at every moment, after damage, on a full disk, and when the disk fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use bytes::Bytes;
use manyfs::{
    storage::{
        Counters, Packs, StorageError, StorageEvent,
        packs::{Catalog, CatalogChange, PackOptions, Pin},
    },
    types::{BlockHash, SessionId, UploadId},
};

use crate::store::{
    recorder::{Dice, Image, Recorder},
    support::{VOLUME, content},
};

/// Small, so that a short history fills many packs.
const OPTIONS: PackOptions =
    PackOptions { pack_bytes: 8192, reserve_bytes: 4096, keep_free_bytes: 0, compact_bytes_min: 2048 };

/// What references the state had, as of a batch of the catalog: they live in the same store.
type References = BTreeMap<BlockHash, u64>;

/// A catalog in memory that may lose the newest batches, as sled may.
#[derive(Clone, Debug, Default)]
struct MemoryCatalog {
    log: Arc<Mutex<CatalogLog>>,
}

#[derive(Clone, Debug, Default)]
struct CatalogLog {
    batches: Vec<(Vec<CatalogChange>, References)>,
    flushed: usize,
    references: References,
}

impl Catalog for MemoryCatalog {
    fn load(&self, row: &mut dyn FnMut(CatalogChange)) -> Result<(), StorageError> {
        let log = self.log.lock().expect("not poisoned");
        for change in log.batches.iter().flat_map(|(changes, _)| changes) {
            row(*change);
        }
        Ok(())
    }

    fn apply(&self, changes: &[CatalogChange]) -> Result<(), StorageError> {
        let mut log = self.log.lock().expect("not poisoned");
        let references = log.references.clone();
        // Each by itself: a crash may fall between any two.
        log.batches.extend(changes.iter().map(|change| (vec![*change], references.clone())));
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        let mut log = self.log.lock().expect("not poisoned");
        log.flushed = log.batches.len();
        Ok(())
    }
}

impl MemoryCatalog {
    /// What is left when only the first `count` batches arrived.
    fn cut(log: &CatalogLog, count: usize) -> Self {
        let batches = log.batches[..count].to_vec();
        let references = batches.last().map(|(_, references)| references.clone()).unwrap_or_default();
        let log = CatalogLog { flushed: count, batches, references };
        Self { log: Arc::new(Mutex::new(log)) }
    }

    fn references(&self) -> References {
        self.log.lock().expect("not poisoned").references.clone()
    }
}

struct Open {
    packs: Packs,
    thread: Option<JoinHandle<()>>,
    events: mpsc::Receiver<StorageEvent>,
    counters: Arc<Counters>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.packs.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(recorder: &Recorder, catalog: &MemoryCatalog, options: PackOptions) -> Open {
    let (sender, events) = mpsc::channel();
    let on_event = move |event| {
        let _ = sender.send(event);
    };
    let counters = Arc::new(Counters::default());
    let (packs, thread) = Packs::open(
        Arc::new(recorder.clone()),
        options,
        Arc::new(catalog.clone()),
        &catalog.references(),
        Box::new(on_event),
        Arc::clone(&counters),
    )
    .expect("packs open whatever is in them");
    Open { packs, thread: Some(thread), events, counters }
}

fn pin(upload: u64) -> Pin {
    Pin { volume: VOLUME, session: SessionId(1), upload: UploadId(upload) }
}

fn block(number: u64) -> (BlockHash, Bytes) {
    let bytes = content(number, 200 + (number * 37 % 1500) as usize);
    (BlockHash::of(&bytes), bytes)
}

fn put(packs: &Packs, numbers: &[u64], upload: Option<u64>) -> Result<(), StorageError> {
    let pin = upload.map(pin).map(|pin| (pin.volume, pin.session, pin.upload));
    packs.put(numbers.iter().map(|&number| block(number)).collect(), pin)
}

/// What acknowledged calls have promised.
#[derive(Clone, Debug, Default)]
struct Promise {
    pinned: BTreeSet<(Pin, BlockHash)>,
    /// Lifts may be lost with the newest batches of the catalog.
    lifted: BTreeSet<(Pin, BlockHash)>,
}

/// Changes references and lifts pins, in the order in which the state store does.
fn entry(packs: &Packs, catalog: &MemoryCatalog, references: &[(BlockHash, i64)], lifted: &[(Pin, BlockHash)]) {
    {
        let mut log = catalog.log.lock().expect("not poisoned");
        for (hash, change) in references {
            let count = log.references.entry(*hash).or_default();
            *count = count.checked_add_signed(*change).expect("the test counts right");
            if *count == 0 {
                log.references.remove(hash);
            }
        }
    }
    let changes: Vec<_> = lifted.iter().map(|(pin, hash)| CatalogChange::Pin(*pin, *hash, false)).collect();
    catalog.apply(&changes).expect("memory");
    packs.apply_references(references, lifted, &[]).expect("counts that agree");
}

#[test]
fn after_a_power_cut_at_any_moment_what_is_named_or_pinned_is_there_and_nothing_else() {
    let mut images = 0;
    for seed in 0..6 {
        let mut dice = Dice::new(1000 + seed);
        let recorder = Recorder::new(Image::default());
        let catalog = MemoryCatalog::default();
        let store = open(&recorder, &catalog, OPTIONS);
        let promises = Arc::new(Mutex::new(vec![Promise::default()]));
        let catalogs = Arc::new(Mutex::new(Vec::new()));
        let (note_promises, note_catalogs, log) =
            (Arc::clone(&promises), Arc::clone(&catalogs), Arc::clone(&catalog.log));
        let count = AtomicU64::new(0);
        recorder.record(move || {
            let log = log.lock().expect("not poisoned").clone();
            let promise = note_promises.lock().expect("not poisoned").last().expect("one").clone();
            note_catalogs.lock().expect("not poisoned").push((log, promise));
            count.fetch_add(1, Ordering::SeqCst)
        });
        let promise = |change: &dyn Fn(&mut Promise)| {
            let mut promises = promises.lock().expect("not poisoned");
            let mut next = promises.last().expect("one").clone();
            change(&mut next);
            promises.push(next);
        };
        for upload in 0..40 {
            let numbers: Vec<_> = (0..1 + dice.below(4)).map(|_| dice.below(60)).collect();
            put(&store.packs, &numbers, Some(upload)).expect("space");
            let pinned: Vec<_> = numbers.iter().map(|&number| (pin(upload), block(number).0)).collect();
            promise(&|promise| promise.pinned.extend(pinned.iter().copied()));
            // An entry names some of them and ends the upload; another one gives up blocks of older ones.
            if dice.below(4) > 0 {
                let named: BTreeSet<_> = pinned.iter().map(|(_, hash)| (*hash, 1)).collect();
                promise(&|promise| promise.lifted.extend(pinned.iter().copied()));
                entry(&store.packs, &catalog, &Vec::from_iter(named), &pinned);
            }
            if dice.below(3) > 0 {
                let given_up: Vec<_> =
                    catalog.references().keys().filter(|_| dice.one_in(3)).map(|hash| (*hash, -1)).collect();
                entry(&store.packs, &catalog, &given_up, &[]);
            }
            if dice.one_in(3) {
                store.packs.compact().expect("space");
            }
            if dice.one_in(5) {
                catalog.flush().expect("memory");
            }
        }
        assert!(store.counters.packs_compacted.get() > 3, "seed {seed}: compaction has to happen");
        drop(store);
        let moments = recorder.take_moments();
        let catalogs = std::mem::take(&mut *catalogs.lock().expect("not poisoned"));
        assert_eq!(moments.len(), catalogs.len());
        for moment in moments {
            let (log, promise) = &catalogs[moment.note as usize];
            for odds in [0, 1, 2, 2] {
                images += 1;
                let keep = |dice: &mut Dice| odds == 1 || odds > 1 && dice.one_in(odds);
                let lost = log.batches.len() - log.flushed;
                let kept = match odds {
                    0 => log.flushed,
                    1 => log.batches.len(),
                    _ => log.flushed + dice.below(lost as u64 + 1) as usize,
                };
                let image = moment.image.after_power_cut(&mut || keep(&mut dice));
                let place = format!("seed {seed}, moment {}, {kept} of {} batches", moment.note, log.batches.len());
                judge(image, MemoryCatalog::cut(log, kept), promise, &place);
            }
            images += 1;
            let place = format!("seed {seed}, moment {}, killed", moment.note);
            kill_then_power_cut(&moment.image, MemoryCatalog::cut(log, log.batches.len()), &place);
        }
    }
    assert!(images > 3000, "only {images} images were looked at");
}

/// The process is killed, a new one stores what the old one may have left unsynced, then the power is cut.
fn kill_then_power_cut(image: &Image, catalog: MemoryCatalog, place: &str) {
    let recorder = Recorder::new(image.after_kill());
    let store = open(&recorder, &catalog, OPTIONS);
    put(&store.packs, &Vec::from_iter(0..60), Some(2000)).expect("space");
    let cut = recorder.now(0).image.after_power_cut(&mut || false);
    drop(store);
    let store = open(&Recorder::new(cut), &catalog, OPTIONS);
    for (hash, bytes) in (0..60).map(block) {
        let found = store.packs.get(&hash).unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(found, Some(bytes), "{place}");
    }
}

fn judge(image: Image, catalog: MemoryCatalog, promise: &Promise, place: &str) {
    let recorder = Recorder::new(image);
    let references = catalog.references();
    let store = open(&recorder, &catalog, OPTIONS);
    let check = |when: &str| {
        let whole = |hash: &BlockHash| {
            let bytes = store.packs.get(hash).unwrap_or_else(|error| panic!("{place}, {when}: {error}"));
            bytes.is_some_and(|bytes| BlockHash::of(&bytes) == *hash)
        };
        for hash in references.keys() {
            assert!(whole(hash), "{place}, {when}: an extent names {hash}");
        }
        for (pin, hash) in promise.pinned.difference(&promise.lifted) {
            assert!(whole(hash), "{place}, {when}: {pin:?} pins {hash}");
            assert!(store.packs.pins().contains(&(*pin, *hash)), "{place}, {when}: {pin:?} was forgotten");
        }
        for (hash, ..) in store.packs.blocks() {
            assert!(whole(&hash), "{place}, {when}: {hash} is in the index");
        }
        assert_eq!(store.packs.missing(None, 1), [], "{place}, {when}");
    };
    check("opened");
    put(&store.packs, &[100, 101], Some(1000)).expect("space");
    store.packs.compact().expect("space");
    check("gone on");
    assert!(store.packs.contains(&block(100).0) && store.packs.contains(&block(101).0), "{place}");
}

/// Three blocks in one pack that the catalog knows or not, all named.
fn three_blocks(known: bool) -> (BTreeMap<String, Vec<u8>>, MemoryCatalog) {
    let recorder = Recorder::new(Image::default());
    let catalog = MemoryCatalog::default();
    let store = open(&recorder, &catalog, OPTIONS);
    for number in 1..=3 {
        put(&store.packs, &[number], None).expect("space");
    }
    drop(store);
    let references: References = (1..=3).map(|number| (block(number).0, 1)).collect();
    let mut log = if known { catalog.log.lock().expect("not poisoned").clone() } else { CatalogLog::default() };
    log.references = references;
    (recorder.now(0).image.contents(), MemoryCatalog { log: Arc::new(Mutex::new(log)) })
}

#[test]
fn damage_is_never_served_but_missing_until_a_peer_gives_the_block() {
    for known in [true, false] {
        let (files, catalog) = three_blocks(known);
        let (name, bytes) = files.first_key_value().expect("one pack");
        let end = bytes.iter().rposition(|&byte| byte != 0).expect("not empty");
        let mut hit = BTreeSet::new();
        for at in (0..=end).step_by(5) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x20;
            let recorder = Recorder::new(Image::of(BTreeMap::from([(name.clone(), bytes)])));
            // A copy: putting a block changes the catalog.
            let catalog = MemoryCatalog { log: Arc::new(Mutex::new(catalog.log.lock().expect("whole").clone())) };
            let store = open(&recorder, &catalog, OPTIONS);
            for number in 1..=3 {
                let (hash, whole) = block(number);
                match store.packs.get(&hash) {
                    Ok(Some(found)) => assert_eq!(found, whole, "byte {at}"),
                    Ok(None) => {
                        assert!(store.packs.missing(None, 9).contains(&hash), "byte {at}");
                        hit.insert(number);
                    }
                    Err(StorageError::Damaged { path, offset, .. }) => {
                        assert!(path.ends_with(name) && offset <= at as u64, "byte {at}: {offset}");
                        assert_eq!(store.packs.get(&hash).expect("missing from now on"), None);
                        assert!(store.packs.missing(None, 9).contains(&hash));
                        assert!(store.counters.damages.get() > 0);
                        hit.insert(number);
                    }
                    Err(error) => panic!("byte {at}: {error}"),
                }
                put(&store.packs, &[number], None).expect("space");
                assert_eq!(store.packs.get(&hash).expect("whole"), Some(whole), "byte {at}: a peer gave it");
            }
            assert_eq!(store.packs.missing(None, 9), [], "byte {at}");
        }
        assert_eq!(hit, BTreeSet::from([1, 2, 3]), "each block was hit");
    }
}

#[test]
fn a_pack_that_is_gone_costs_its_blocks_and_nothing_else() {
    let (_, catalog) = three_blocks(true);
    let recorder = Recorder::new(Image::default());
    let store = open(&recorder, &catalog, OPTIONS);
    assert_eq!(store.packs.missing(None, 9).len(), 3);
    assert!(!store.packs.contains(&block(1).0));
    put(&store.packs, &[1, 2, 3], None).expect("space");
    assert_eq!(store.packs.missing(None, 9), []);
}

#[test]
fn a_full_disk_is_an_error_that_leaves_everything_as_it_was() {
    let recorder = Recorder::new(Image::default());
    let catalog = MemoryCatalog::default();
    let options = PackOptions { keep_free_bytes: 10_000, ..OPTIONS };
    let store = open(&recorder, &catalog, options);
    put(&store.packs, &[1], Some(1)).expect("space");
    let (files, pins) = (recorder.now(0).image.contents(), store.packs.pins());
    // Uploads leave what is kept free.
    recorder.limit_space(Some(recorder.bytes() + 10_001));
    let refused = put(&store.packs, &[2, 3], Some(2)).expect_err("no space");
    assert!(
        matches!(refused, StorageError::Full { .. }) && refused.to_string().contains("nothing was stored"),
        "{refused}"
    );
    // Nor is there space without that.
    recorder.limit_space(Some(recorder.bytes()));
    assert!(matches!(put(&store.packs, &[2, 3], Some(2)), Err(StorageError::Full { .. })));
    let hash = BlockHash::of(&content(9, 900_000));
    let large = (0..6).map(|_| (hash, content(9, 900_000))).collect();
    assert!(matches!(store.packs.put(large, None), Err(StorageError::Full { .. })));
    assert_eq!((recorder.now(0).image.contents(), store.packs.pins()), (files, pins));
    assert!(!store.packs.contains(&block(2).0) && store.events.try_recv().is_err(), "the store lives");
    recorder.limit_space(None);
    put(&store.packs, &[2, 3], Some(2)).expect("space again");
    for number in 1..=3 {
        let (hash, bytes) = block(number);
        assert_eq!(store.packs.get(&hash).expect("whole"), Some(bytes));
    }
}

#[test]
fn packs_without_a_descriptor_refuse_and_go_on() {
    let recorder = Recorder::new(Image::default());
    let store = open(&recorder, &MemoryCatalog::default(), OPTIONS);
    recorder.lack_descriptors(true);
    let refused = put(&store.packs, &[1], Some(1)).expect_err("no file for a pack");
    assert!(matches!(refused, StorageError::NoDescriptor { .. }) && refused.is_shortage(), "{refused}");
    assert!(store.events.try_recv().is_err(), "the store lives");
    recorder.lack_descriptors(false);
    put(&store.packs, &[1], Some(1)).expect("a file again");
    assert_eq!(store.packs.get(&block(1).0).expect("whole"), Some(block(1).1));
}

#[test]
fn a_failed_sync_is_an_error_to_the_caller_and_ends_the_store() {
    let recorder = Recorder::new(Image::default());
    let store = open(&recorder, &MemoryCatalog::default(), OPTIONS);
    put(&store.packs, &[1], Some(1)).expect("space");
    recorder.fail_syncs();
    let error = put(&store.packs, &[2], Some(1)).expect_err("the sync failed");
    assert!(error.to_string().contains("could not be synced"), "{error}");
    assert!(matches!(store.events.recv().expect("reported"), StorageEvent::Failed(_)));
    assert!(!store.packs.contains(&block(2).0), "what was not synced is not there");
    assert_eq!(put(&store.packs, &[3], None).expect_err("for good").to_string(), error.to_string());
    assert!(store.events.try_recv().is_err(), "reported once");
}

#[test]
fn what_is_not_the_block_it_is_called_is_refused() {
    let recorder = Recorder::new(Image::default());
    let store = open(&recorder, &MemoryCatalog::default(), OPTIONS);
    let (hash, _) = block(1);
    let wrong = store.packs.put(vec![block(2), (hash, content(3, 10))], None);
    assert!(matches!(wrong, Err(StorageError::WrongHash { claimed, .. }) if claimed == hash));
    for bytes in [Bytes::new(), Bytes::from(vec![0; 1024 * 1024 + 1])] {
        let refused = store.packs.put(vec![(BlockHash::of(&bytes), bytes)], None);
        assert!(matches!(refused, Err(StorageError::BlockSize { .. })));
    }
    assert!(store.packs.blocks().is_empty());
}

#[test]
fn calls_at_the_same_time_share_syncs_and_store_a_block_once() {
    let recorder = Recorder::new(Image::default());
    let store = open(&recorder, &MemoryCatalog::default(), PackOptions::default());
    let before = store.counters.pack_syncs.get();
    std::thread::scope(|scope| {
        for upload in 0..16 {
            let packs = store.packs.clone();
            scope.spawn(move || {
                for number in 0..50 {
                    put(&packs, &[number, 1000 + upload * 100 + number], Some(upload)).expect("space");
                }
            });
        }
    });
    assert_eq!(store.packs.blocks().len(), 50 + 16 * 50);
    assert_eq!(store.packs.pins().len(), 2 * 16 * 50);
    assert_eq!(store.counters.blocks_stored.get(), 50 + 16 * 50);
    let syncs = store.counters.pack_syncs.get() - before;
    assert!(syncs <= 16 * 50, "{syncs} syncs for {} calls", 16 * 50);
}
