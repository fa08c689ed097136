//! The log after a power cut at every moment, after damage at every byte, and when the disk fails.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use manyfs::{
    message::log::LogBatch,
    storage::{
        Counters, StorageError, StorageEvent,
        file::Directory,
        log::{Log, LogContents},
    },
    types::{LogIndex, Term},
};

use crate::store::{
    recorder::{Dice, Image, Recorder},
    support::{content, log_batch, log_entry},
};

/// Small, so that a short history fills many segments.
const SEGMENT_BYTES: u64 = 4096;

fn directory(recorder: &Recorder) -> Arc<dyn Directory> {
    Arc::new(recorder.clone())
}

fn create(recorder: &Recorder) -> Log {
    Log::create(directory(recorder), SEGMENT_BYTES, (LogIndex(1), Term(1)), Arc::new(Counters::default()))
        .expect("an empty directory")
}

fn open(image: Image) -> Result<(Recorder, Log, LogContents), StorageError> {
    let recorder = Recorder::new(image);
    let (log, contents) = Log::open(directory(&recorder), SEGMENT_BYTES, Arc::new(Counters::default()))?;
    Ok((recorder, log, contents))
}

/// One call of the log.
#[derive(Clone, Debug)]
enum Act {
    Append(Vec<LogBatch>),
    Compact(LogIndex, Term),
}

/// What the log should hold, on plain maps.
#[derive(Clone, Debug, Default)]
struct Model {
    hard_state: Option<Bytes>,
    compacted: (u64, u64),
    entries: BTreeMap<u64, (u64, Bytes)>,
}

impl Model {
    fn last(&self) -> u64 {
        self.entries.last_key_value().map_or(self.compacted.0, |(&index, _)| index)
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Compact(index, term) => self.compacted = (index.0, term.0),
            Act::Append(batches) => {
                for batch in batches {
                    if let Some((index, term)) = batch.reset {
                        self.entries.clear();
                        self.compacted = (index.0, term.0);
                    }
                    for entry in &batch.entries {
                        self.entries.split_off(&entry.index.0);
                        self.entries.insert(entry.index.0, (entry.term.0, entry.bytes.clone()));
                    }
                    if let Some(hard_state) = &batch.hard_state {
                        self.hard_state = Some(hard_state.clone());
                    }
                }
            }
        }
    }

    /// Whether `contents` is this log, or this log with less of it compacted.
    fn explains(&self, contents: &LogContents) -> bool {
        let (index, term) = (contents.compacted.0.0, contents.compacted.1.0);
        let position_is_ours = (index, term) == self.compacted
            || index < self.compacted.0 && self.entries.get(&index).is_none_or(|(known, _)| *known == term);
        let known: Vec<_> = self.entries.range(index + 1..).map(|(&at, (term, bytes))| (at, *term, bytes)).collect();
        let found: Vec<_> = contents.entries.iter().map(|entry| (entry.index.0, entry.term.0, &entry.bytes)).collect();
        position_is_ours && contents.hard_state == self.hard_state && known == found
    }
}

/// Acts as a replica would have them: entries replaced by newer terms, hard states, snapshots, compaction.
fn acts(dice: &mut Dice, count: u64) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut model = Model { compacted: (1, 1), ..Model::default() };
    let mut term = 1;
    let mut number = 0;
    for _ in 0..count {
        let act = if dice.one_in(6) && model.last() > model.compacted.0 {
            let through = model.compacted.0 + 1 + dice.below(model.last() - model.compacted.0);
            match model.entries.get(&through) {
                Some((term, _)) => Act::Compact(LogIndex(through), Term(*term)),
                None => continue,
            }
        } else {
            let batches = 1 + dice.below(3);
            let mut group = Vec::new();
            let mut last = model.last();
            let mut compacted = model.compacted.0;
            for _ in 0..batches {
                number += 1;
                let mut batch = LogBatch { number, ..LogBatch::default() };
                if dice.one_in(12) {
                    last += 1 + dice.below(20);
                    compacted = last;
                    batch.reset = Some((LogIndex(last), Term(term)));
                }
                if dice.one_in(5) {
                    term += 1;
                    last = compacted + dice.below(last - compacted + 1);
                }
                for _ in 0..dice.below(4) {
                    last += 1;
                    let length = if dice.one_in(20) { 6000 } else { dice.below(700) };
                    batch.entries.push(log_entry(last, term, content(dice.next(), length as usize)));
                }
                if dice.one_in(3) {
                    batch.hard_state = Some(content(dice.next(), 20));
                }
                group.push(batch);
            }
            Act::Append(group)
        };
        model.act(&act);
        acts.push(act);
    }
    acts
}

fn carry_out(log: &mut Log, act: &Act) -> Result<(), StorageError> {
    match act {
        Act::Append(batches) => log.append(batches),
        Act::Compact(through, term) => log.compact(*through, *term),
    }
}

/// What of the unsynced things arrives: nothing, everything, and some by chance.
fn cuts(image: &Image, dice: &mut Dice) -> Vec<Image> {
    let mut cuts = vec![image.after_power_cut(&mut || false), image.after_power_cut(&mut || true), image.after_kill()];
    for odds in [2, 2, 8] {
        cuts.push(image.after_power_cut(&mut || dice.one_in(odds)));
    }
    cuts
}

#[test]
fn after_a_power_cut_at_any_moment_what_was_acknowledged_is_there_and_nothing_else() {
    let mut images = 0;
    for seed in 0..12 {
        let mut dice = Dice::new(seed);
        let acts = acts(&mut dice, 40);
        let recorder = Recorder::new(Image::default());
        let mut log = create(&recorder);
        let acknowledged = Arc::new(AtomicU64::new(0));
        let note = Arc::clone(&acknowledged);
        recorder.record(move || note.load(Ordering::SeqCst));
        let mut models = vec![Model { compacted: (1, 1), ..Model::default() }];
        for act in &acts {
            carry_out(&mut log, act).expect("a disk in order");
            let mut model = models.last().expect("one").clone();
            model.act(act);
            models.push(model);
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        let mut moments = recorder.take_moments();
        moments.push(recorder.now(acts.len() as u64));
        for (at, moment) in moments.iter().enumerate() {
            let before = &models[moment.note as usize];
            // The act that was going on may be there whole.
            let after = models.get(moment.note as usize + 1);
            for (cut, image) in cuts(&moment.image, &mut dice).into_iter().enumerate() {
                images += 1;
                let place = format!("seed {seed}, moment {at}, cut {cut}");
                let (second, mut log, contents) = open(image).unwrap_or_else(|error| panic!("{place}: {error}"));
                let model = [Some(before), after].into_iter().flatten().find(|model| model.explains(&contents));
                let Some(model) = model else { panic!("{place}: found {contents:?}, expected {before:?}") };
                // What was given once is on the disk: a second power cut takes nothing of it.
                let again = second.now(0).image.after_power_cut(&mut || false);
                let (_, _, twice) = open(again).unwrap_or_else(|error| panic!("{place}, again: {error}"));
                assert_eq!(twice, contents, "{place}");
                // And it can be gone on with.
                let mut model = model.clone();
                let next = Act::Append(vec![log_batch(1, vec![log_entry(model.last() + 1, 99, "next")])]);
                carry_out(&mut log, &next).expect("a disk in order");
                model.act(&next);
                let image = second.now(0).image.after_power_cut(&mut || dice.one_in(2));
                let (_, _, contents) = open(image).unwrap_or_else(|error| panic!("{place}, gone on: {error}"));
                assert!(model.explains(&contents), "{place}, gone on: {contents:?}");
            }
        }
    }
    assert!(images > 10_000, "only {images} images were looked at");
}

/// A log of a few groups in one segment, and the model after each.
fn short_log() -> (Image, Vec<LogContents>) {
    let recorder = Recorder::new(Image::default());
    let mut log = create(&recorder);
    let mut contents = Vec::new();
    for number in 0..6 {
        let batch = LogBatch {
            hard_state: Some(content(100 + number, 20)),
            ..log_batch(
                number,
                vec![log_entry(2 * number + 2, 1, content(number, 90)), log_entry(2 * number + 3, 1, "")],
            )
        };
        log.append(&[batch]).expect("a disk in order");
        contents.push(open(recorder.now(0).image).expect("whole").2);
    }
    (recorder.now(0).image, contents)
}

/// The only segment's name and bytes, and where its records end.
fn only_segment(image: &Image) -> (String, Vec<u8>, usize) {
    let (name, bytes) = image.contents().pop_first().expect("one");
    let end = bytes.iter().rposition(|&byte| byte != 0).expect("not empty") + 1;
    (name, bytes, end)
}

#[test]
fn a_tail_that_was_cut_off_anywhere_is_cut_back_to_the_last_whole_group() {
    let (image, contents) = short_log();
    let (name, bytes, end) = only_segment(&image);
    let second_last = contents.len() - 2;
    let mut seen = vec![0; contents.len()];
    for cut in (48..=end.next_multiple_of(8)).rev() {
        for zeros in [true, false] {
            let mut bytes = bytes.clone();
            if zeros {
                bytes[cut..].fill(0);
            } else {
                bytes.truncate(cut);
            }
            let image = Image::of(BTreeMap::from([(name.clone(), bytes)]));
            let (_, _, found) = open(image).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
            match contents.iter().position(|contents| *contents == found) {
                Some(whole) => seen[whole] += 1,
                // Not even the first group, which says where the log begins, is whole.
                None => assert!(found.entries.is_empty() && found.hard_state.is_none(), "cut at {cut}: {found:?}"),
            }
        }
    }
    assert!(seen.iter().all(|&times| times > 0), "{seen:?}");
    assert!(seen[second_last] > 100, "every byte of the last group was tried: {seen:?}");
}

#[test]
fn a_flipped_bit_before_the_last_group_is_an_error_with_file_and_offset() {
    let (image, contents) = short_log();
    let (name, bytes, end) = only_segment(&image);
    let mut errors = 0;
    for at in 0..end {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        match open(Image::of(BTreeMap::from([(name.clone(), bytes)]))) {
            Err(StorageError::Damaged { path, offset, .. }) => {
                assert!(path.ends_with(&name) && offset <= at as u64 && at as u64 - offset < 200, "{at}: {offset}");
                errors += 1;
            }
            Err(error) => panic!("byte {at}: {error}"),
            // Padding, or the last group: a torn tail as far as anyone can tell.
            Ok((_, _, found)) => {
                let whole = contents.iter().position(|contents| *contents == found);
                assert!(whole >= Some(contents.len() - 2), "byte {at}: {found:?}");
            }
        }
    }
    assert!(errors > end * 3 / 4, "{errors} of {end} bytes");
}

#[test]
fn a_missing_segment_is_an_error() {
    let recorder = Recorder::new(Image::default());
    let mut log = create(&recorder);
    for number in 0..30 {
        log.append(&[log_batch(number, vec![log_entry(number + 2, 1, content(number, 900))])]).expect("works");
    }
    let segments = recorder.now(0).image.contents();
    assert!(segments.len() > 4);
    let names: Vec<_> = segments.keys().cloned().collect();
    for name in &names[..names.len() - 1] {
        let mut left = segments.clone();
        left.remove(name);
        let error = open(Image::of(left)).err().unwrap_or_else(|| panic!("{name} is missing and nobody noticed"));
        assert!(error.to_string().contains("segment is missing"), "{error}");
    }
    assert!(open(Image::default()).is_err(), "no segments at all");
}

#[test]
fn compaction_gives_segments_back_and_keeps_the_rest() {
    let recorder = Recorder::new(Image::default());
    let mut log = create(&recorder);
    let hard_state = Some(Bytes::from_static(b"said once, long ago"));
    log.append(&[LogBatch { number: 0, hard_state: hard_state.clone(), ..LogBatch::default() }]).expect("works");
    for number in 0..200 {
        log.append(&[log_batch(number, vec![log_entry(number + 2, 1, content(number, 500))])]).expect("works");
    }
    let before = log.segments();
    log.compact(LogIndex(190), Term(1)).expect("works");
    assert!(log.segments() <= 4 && before > 20, "{before} segments, then {}", log.segments());
    assert!(recorder.bytes() <= 4 * SEGMENT_BYTES);
    let (_, _, contents) = open(recorder.now(0).image).expect("whole");
    assert_eq!((contents.compacted, contents.last()), ((LogIndex(190), Term(1)), LogIndex(201)));
    assert_eq!(contents.entries.len(), 11);
    assert_eq!(contents.hard_state, hard_state);
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_the_log_usable() {
    let recorder = Recorder::new(Image::default());
    let mut log = create(&recorder);
    log.append(&[log_batch(1, vec![log_entry(2, 1, "two")])]).expect("works");
    for batch in [
        log_batch(2, vec![log_entry(4, 1, "a gap")]),
        log_batch(2, vec![log_entry(3, 1, "three"), log_entry(5, 1, "a gap")]),
        log_batch(2, vec![log_entry(1, 1, "before the beginning")]),
    ] {
        assert!(matches!(log.append(&[batch]), Err(StorageError::Misuse { .. })));
    }
    assert!(matches!(log.compact(LogIndex(3), Term(1)), Err(StorageError::Misuse { .. })));
    log.append(&[log_batch(2, vec![log_entry(3, 1, "three")])]).expect("works");
    let (_, _, contents) = open(recorder.now(0).image).expect("whole");
    assert_eq!(contents.entries, [log_entry(2, 1, "two"), log_entry(3, 1, "three")]);
}

#[test]
fn a_failed_sync_is_reported_once_and_ends_the_log() {
    let recorder = Recorder::new(Image::default());
    let log = create(&recorder);
    let (sender, events) = mpsc::channel();
    let on_event = move |event| sender.send(event).expect("the test listens");
    let (writer, thread) = manyfs::storage::LogWriter::start(log, Box::new(on_event)).expect("a thread");
    writer.submit(log_batch(1, vec![log_entry(2, 1, "two")]));
    let wait = || events.recv_timeout(Duration::from_secs(60)).expect("in time");
    assert!(matches!(wait(), StorageEvent::LogPersisted(1)));
    recorder.fail_syncs();
    writer.submit(log_batch(2, vec![log_entry(3, 1, "three")]));
    let event = wait();
    let StorageEvent::Failed(error) = &event else { panic!("{event:?}") };
    assert!(error.to_string().contains("could not be synced"), "{error}");
    writer.submit(log_batch(3, vec![log_entry(4, 1, "four")]));
    thread.join().expect("the thread ends by itself");
    drop(writer);
    assert!(events.recv().is_err(), "nothing is reported behind a failure");
}

/// Connections of strangers had taken all descriptors: the log found none for its next segment, and the store ended.
#[test]
fn a_log_without_a_descriptor_for_its_next_segment_waits_and_goes_on() {
    let recorder = Recorder::new(Image::default());
    let log = create(&recorder);
    let counters = Arc::clone(log.counters());
    let (sender, events) = mpsc::channel();
    let on_event = move |event| sender.send(event).expect("the test listens");
    let (writer, _thread) = manyfs::storage::LogWriter::start(log, Box::new(on_event)).expect("a thread");
    recorder.lack_descriptors(true);
    // Each fills a segment.
    for number in 1..=3 {
        writer.submit(log_batch(number, vec![log_entry(number + 1, 1, content(number, SEGMENT_BYTES as usize - 200))]));
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !counters.lacks_descriptors() {
        assert!(std::time::Instant::now() < deadline, "the log never said that it waits");
        std::thread::yield_now();
    }
    recorder.lack_descriptors(false);
    loop {
        match events.recv_timeout(Duration::from_secs(60)).expect("in time") {
            StorageEvent::LogPersisted(3) => break,
            StorageEvent::LogPersisted(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(!counters.lacks_descriptors());
    let (_, _, contents) = open(recorder.now(0).image).expect("whole");
    assert_eq!(contents.entries.len(), 3);
}

#[test]
fn what_a_first_power_cut_left_is_never_mixed_with_what_a_second_one_left() {
    // The second entry begins with a sector, so that each can arrive without the other.
    let group = |first: u64| {
        let first_entry = log_entry(2, 1, content(first, 896));
        vec![log_batch(1, vec![first_entry, log_entry(3, 1, content(first + 1, 900))])]
    };
    let recorder = Recorder::new(Image::default());
    let mut log = create(&recorder);
    recorder.record(|| 0);
    log.append(&group(10)).expect("works");
    // All but the first sector of the group arrives.
    let moment = recorder.take_moments().pop().expect("before the sync");
    let mut sector = 0;
    let image = moment.image.after_power_cut(&mut || {
        sector += 1;
        sector != 1
    });
    let (recorder, mut log, contents) = open(image).expect("torn");
    assert_eq!(contents.entries, []);
    recorder.record(|| 0);
    log.append(&group(20)).expect("works");
    // The first entry arrives, the second does not: the old one must not take its place.
    let moment = recorder.take_moments().pop().expect("before the sync");
    let mut sector = 0;
    let image = moment.image.after_power_cut(&mut || {
        sector += 1;
        sector <= 2
    });
    let (_, _, contents) = open(image).expect("torn");
    assert_eq!(contents.entries, []);
}
