//! Directories and disks in trouble: no permission, read-only, full, damaged. Each is an error that says what to do, and
//! nothing is lost by it.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use manyfs::{
    message::log::StateBatch,
    namespace::State,
    storage::{
        self, CheckReport, Description, Options, StorageError,
        inspect::{Line, Parts},
        packs::PackOptions,
    },
    types::{BlockHash, LogIndex, Term, UploadId},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{Uid, setfsuid},
};
use tempfile::tempdir;

use crate::{
    require,
    store::support::{
        Machine, NODE, VOLUME, content, create, create_with, founding, log_batch, log_entry, open, open_with, try_open,
    },
};

/// Runs `body` in a thread that touches files as nobody, who has no rights beyond those of anyone.
fn as_nobody(body: impl FnOnce() + Send) {
    if !require::root() {
        return;
    }
    let body = move || {
        setfsuid(Uid::from_raw(65534));
        body();
    };
    thread::scope(|scope| scope.spawn(body).join()).expect("the body says why it failed");
}

/// Runs `body` in a thread that sees a small file system of its own at `at`, as do the threads that it starts.
fn with_small_file_system(at: &Path, megabytes: u32, body: impl FnOnce() + Send) {
    if !require::root() {
        return;
    }
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may");
        let nothing: Option<&str> = None;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("our own namespace");
        let options = format!("size={megabytes}m");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("our own namespace");
        body();
    };
    thread::scope(|scope| scope.spawn(body).join()).expect("the body says why it failed");
}

fn create_error(dir: &Path) -> StorageError {
    storage::create(dir, &founding(), NODE, &Bytes::new()).expect_err("it cannot be made here")
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
}

#[test]
fn a_directory_without_permission_says_who_needs_it() {
    let parent = tempdir().expect("space for a test");
    let dir = parent.path().join("node");
    create(&dir);
    allow(parent.path(), 0o755);
    allow(&dir, 0o000);
    as_nobody(|| {
        for error in [
            storage::inspect_identity(&dir).expect_err("unreadable"),
            try_open(&dir, Options::default()).err().expect("unreadable"),
            create_error(&dir),
        ] {
            assert!(matches!(error, StorageError::Access { .. }), "{error}");
            assert!(error.to_string().contains("give the directory to the user that runs manyfs"), "{error}");
        }
        // One that cannot be made.
        assert!(matches!(create_error(&parent.path().join("another")), StorageError::Access { .. }));
    });
    // Readable but not writable.
    allow(&dir, 0o555);
    allow(&dir.join("manyfs.toml"), 0o644);
    as_nobody(|| {
        assert!(storage::inspect_identity(&dir).expect("readable").is_some());
        let error = try_open(&dir, Options::default()).err().expect("not writable");
        assert!(matches!(&error, StorageError::Access { path, .. } if path.starts_with(&dir)), "{error}");
    });
    allow(&dir, 0o755);
    let (_open, recovered) = open(&dir);
    assert_eq!(recovered.state_index, LogIndex(1), "nothing was changed");
}

#[test]
fn a_read_only_file_system_says_so() {
    let parent = tempdir().expect("space for a test");
    with_small_file_system(parent.path(), 64, || {
        let dir = parent.path().join("node");
        create(&dir);
        let nothing: Option<&str> = None;
        mount(nothing, parent.path(), nothing, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, nothing).expect("ours");
        for error in
            [try_open(&dir, Options::default()).err().expect("read-only"), create_error(&parent.path().join("another"))]
        {
            assert!(matches!(error, StorageError::ReadOnly { .. }), "{error}");
            assert!(error.to_string().contains("mount it writable"), "{error}");
        }
    });
}

#[test]
fn a_full_disk_refuses_uploads_and_goes_on_with_everything_else() {
    let parent = tempdir().expect("space for a test");
    with_small_file_system(parent.path(), 96, || {
        let dir = parent.path().join("node");
        create(&dir);
        let options =
            Options { packs: PackOptions { pack_bytes: 8 << 20, ..PackOptions::default() }, ..Options::default() };
        let (open, _) = open_with(&dir, options);
        let (mut machine, batch) = Machine::new();
        let storage = &open.storage;
        storage.state().submit(batch);
        let pin = |machine: &Machine, upload| Some((VOLUME, machine.session, UploadId(upload)));
        let block = |number| (BlockHash::of(&content(number, 1 << 20)), content(number, 1 << 20));
        let mut stored = 0;
        let refused = loop {
            match storage.packs().put(vec![block(stored)], pin(&machine, stored)) {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, StorageError::Full { .. }), "{refused}");
        assert!((20..96).contains(&stored), "{stored} MiB fitted");
        assert!(storage.space().expect("answers").available < 2 << 20, "{:?}", storage.space());

        // Log, state and what entries carry have space left.
        let mut number = 0;
        let mut submit = |batch: StateBatch| {
            number += 1;
            storage.log().submit(log_batch(number, vec![log_entry(batch.index.0, 1, "entry")]));
            storage.state().submit(batch);
        };
        submit(Machine::new().1);
        let (ino, batch) = machine.make_file("large");
        submit(batch);
        for upload in 0..stored {
            submit(machine.write(ino, &content(upload, 1 << 20), Some(UploadId(upload))));
        }
        let inline = content(1 << 40, 60_000);
        let (small, batch) = machine.make_file("small");
        submit(batch);
        submit(machine.write(small, &inline, None));
        // All uploads but the last were overwritten by the next: their space comes back by itself.
        open.wait_for_state(machine.index);
        assert_eq!(storage.packs().get(&BlockHash::of(&inline)).expect("whole"), Some(inline));
        storage.packs().compact().expect("what lives fits into what is kept free");
        assert!(storage.space().expect("answers").available > (stored - 12) << 20, "{:?}", storage.space());
        storage.packs().put(vec![block(5000)], pin(&machine, 5000)).expect("space again");
        let last = content(stored - 1, 1 << 20);
        assert_eq!(storage.packs().get(&BlockHash::of(&last)).expect("whole"), Some(last));
    });
}

/// Takes all space that is left, as somebody else's file would.
fn fill(file: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(file).expect("ours");
    for size in [1 << 20, 4096] {
        let bytes = vec![7; size];
        while file.write_all(&bytes).is_ok() {}
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn log_and_state_wait_on_a_disk_that_others_have_filled_and_go_on_by_themselves() {
    let parent = tempdir().expect("space for a test");
    with_small_file_system(parent.path(), 96, || {
        let (dir, foreign) = (parent.path().join("node"), parent.path().join("foreign"));
        let options = Options { log_segment_bytes: 64 * 1024, ..Options::default() };
        create_with(&dir, options);
        let (open, _) = open_with(&dir, options);
        let (mut machine, batch) = Machine::new();
        open.storage.state().submit(batch);
        let (ino, batch) = machine.make_file("a");
        open.storage.state().submit(batch);
        open.storage.log().submit(log_batch(1, vec![log_entry(2, 1, "a"), log_entry(3, 1, "b")]));
        open.wait_for_log(1);
        open.wait_for_state(machine.index);

        fill(&foreign);
        let counters = std::sync::Arc::clone(open.storage.counters());
        let large = content(7, 60_000);
        open.storage.log().submit(log_batch(2, vec![log_entry(4, 1, large.clone()), log_entry(5, 1, large.clone())]));
        open.storage.state().submit(machine.write(ino, &large, None));
        wait_until("both wait", || counters.log_waits_for_space.get() + counters.state_waits_for_space.get() == 2);
        assert!(open.storage.is_short_of_space(false).expect("answers"));
        // What waits can be read.
        assert_eq!(open.storage.packs().get(&BlockHash::of(&large)).expect("whole"), Some(large.clone()));
        // Nothing of it was acknowledged, so nobody misses it when the process ends; and the store opens.
        drop(open.storage);
        assert_eq!(open.events.try_iter().map(|event| format!("{event:?}")).collect::<Vec<_>>(), [""; 0]);

        let (open, recovered) = open_with(&dir, options);
        assert_eq!((recovered.state_index, recovered.entries.len()), (LogIndex(3), 2));
        let counters = std::sync::Arc::clone(open.storage.counters());
        open.storage.log().submit(log_batch(1, vec![log_entry(4, 1, large.clone()), log_entry(5, 1, large.clone())]));
        let batch = {
            let mut again = Machine::new().0;
            let (ino, _) = again.make_file("a");
            again.write(ino, &large, None)
        };
        open.storage.state().submit(batch);
        wait_until("both wait again", || {
            counters.log_waits_for_space.get() + counters.state_waits_for_space.get() == 2
        });
        fs::remove_file(&foreign).expect("ours");
        open.wait_for_log(1);
        open.wait_for_state(LogIndex(4));
        assert_eq!((counters.log_waits_for_space.get(), counters.state_waits_for_space.get()), (0, 0));
        assert!(!open.storage.is_short_of_space(true).expect("answers"));
        drop(open);
        let (_open, recovered) = open_with(&dir, options);
        assert_eq!((recovered.state_index, recovered.entries.len()), (LogIndex(4), 4));
    });
}

/// A state that waited for space could never take what gives some back.
#[test]
fn the_log_leaves_space_for_the_content_that_its_entries_bring() {
    let parent = tempdir().expect("space for a test");
    with_small_file_system(parent.path(), 96, || {
        let dir = parent.path().join("node");
        create(&dir);
        let (open, _) = open(&dir);
        let (mut machine, batch) = Machine::new();
        open.storage.state().submit(batch);
        open.wait_for_state(machine.index);
        let (ino, batch) = machine.make_file("a");
        let mut behind = vec![batch];
        let entries: Vec<_> = (2..=machine.index.0).map(|index| log_entry(index, 1, "small")).collect();
        let mut written = entries.len() as u64;
        open.storage.log().submit(log_batch(1, entries));
        let counters = std::sync::Arc::clone(open.storage.counters());
        while counters.log_waits_for_space.get() == 0 {
            written += 1;
            assert!(written < 1700, "100 MB fitted into 96");
            let bytes = content(written, 60_000);
            behind.push(machine.write(ino, &bytes, None));
            open.storage.log().submit(log_batch(written, vec![log_entry(machine.index.0, 1, bytes)]));
            wait_until("the log has it or waits", || {
                counters.log_entries.get() == written || counters.log_waits_for_space.get() == 1
            });
        }
        assert!(written > 300, "{written} entries of 60 kB fitted into 96 MB");
        let last = machine.index;
        for batch in behind {
            open.storage.state().submit(batch);
        }
        open.wait_for_state(last);
    });
}

#[test]
fn compaction_gives_the_log_the_space_that_it_waits_for() {
    let parent = tempdir().expect("space for a test");
    with_small_file_system(parent.path(), 96, || {
        let (dir, foreign) = (parent.path().join("node"), parent.path().join("foreign"));
        let options = Options { log_segment_bytes: 4 << 20, ..Options::default() };
        create_with(&dir, options);
        let (open, _) = open_with(&dir, options);
        // Six segments of entries that the state has: nothing but the log says that they are needed.
        let (machine, batch) = Machine::new();
        open.storage.state().submit(batch);
        open.wait_for_state(machine.index);
        let entry = |index| log_entry(index, 1, content(index, 1 << 20));
        for index in 2..20 {
            open.storage.log().submit(log_batch(index, vec![entry(index)]));
        }
        open.wait_for_log(19);
        fill(&foreign);
        for index in 20..26 {
            open.storage.log().submit(log_batch(index, vec![entry(index)]));
        }
        let counters = open.storage.counters();
        wait_until("the log waits", || counters.log_waits_for_space.get() == 1);
        drop(open);
        // As after a restart: the state goes on to where the log may be cut.
        let (open, recovered) = open_with(&dir, options);
        let last = recovered.entries.last().expect("most are there").index.0;
        assert!((19..25).contains(&last), "{last}");
        let mut machine = machine;
        while machine.index < LogIndex(18) {
            machine.make_file(&format!("file {}", machine.index));
        }
        let snapshot = machine.snapshot();
        fs::remove_file(&foreign).expect("ours");
        open.storage.state().submit(snapshot);
        open.wait_for_state(LogIndex(18));
        fill(&foreign);
        let next = last + 1;
        open.storage.log().submit(log_batch(next, vec![entry(next)]));
        let counters = open.storage.counters();
        wait_until("the log waits", || counters.log_waits_for_space.get() == 1);
        open.storage.log().compact(LogIndex(18), Term(1));
        open.wait_for_log(next);
    });
}

/// What makes the node below.
fn small_batches() -> (Machine, Vec<StateBatch>) {
    let (mut machine, first) = Machine::new();
    let mut batches = vec![first];
    for name in ["a", "b"] {
        let (ino, batch) = machine.make_file(name);
        batches.push(batch);
        batches.push(machine.write(ino, &content(machine.index.0, 30_000), None));
        batches.push(machine.set_xattr(ino, "user.large", content(1, 10_000)));
    }
    (machine, batches)
}

/// A node with two files, its log and state both at the same entry.
fn small_node(dir: &Path) -> Machine {
    create(dir);
    let (open, _) = open(dir);
    let (machine, batches) = small_batches();
    for batch in batches {
        open.storage.log().submit(log_batch(batch.index.0, vec![log_entry(batch.index.0, 1, "entry")]));
        open.wait_for_log(batch.index.0);
        open.storage.state().submit(batch);
    }
    open.wait_for_state(machine.index);
    machine
}

fn lines(dir: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    let row = |key: &[u8], _: &[u8]| Some(format!("row of {} bytes", key.len()));
    let description = Description { row: &row, ..Description::default() };
    storage::inspect(dir, Parts::default(), description, &mut |line| lines.push(line)).expect("a whole node");
    lines
}

#[test]
fn inspect_shows_all_there_is_in_both_forms() {
    let dir = tempdir().expect("space for a test");
    let machine = small_node(dir.path());
    let lines = lines(dir.path());
    let count = |is_it: fn(&Line) -> bool| lines.iter().filter(|line| is_it(line)).count();
    assert_eq!(count(|line| matches!(line, Line::Identity { node: 1, .. })), 1);
    let entries = count(|line| matches!(line, Line::Record { record: "entry", bytes: 5, term: Some(1), .. }));
    assert_eq!(entries as u64, machine.index.0 - 1);
    assert!(lines.contains(&Line::State {
        index: machine.index.0,
        term: 1,
        membership: "6d656d62657273686970".into()
    }));
    assert_eq!(count(|line| matches!(line, Line::Row { description: Some(_), .. })), machine.state.rows().count());
    assert_eq!(count(|line| matches!(line, Line::Block { bytes: 30_000, indexed: true, .. })), 2);
    assert_eq!(count(|line| matches!(line, Line::Damage { .. })), 0);
    for line in &lines {
        let json = serde_json::to_value(line).expect("plain");
        assert!(json["what"].is_string() && !line.to_string().is_empty(), "{json}");
    }
}

/// The file that `part` of the node consists of, for the most part.
fn file_in(dir: &Path, part: &str) -> PathBuf {
    match part {
        "state" => dir.join("state/db"),
        part => fs::read_dir(dir.join(part)).expect("ours").next().expect("one").expect("ours").path(),
    }
}

fn report(dir: &Path) -> CheckReport {
    storage::check(dir).expect("damage is not an error")
}

#[test]
fn check_finds_damage_in_log_and_packs_and_names_file_and_offset() {
    let dir = tempdir().expect("space for a test");
    let machine = small_node(dir.path());
    let whole = report(dir.path());
    assert!(whole.is_whole() && whole.log_torn.is_none(), "{whole:?}");
    assert_eq!((whole.log_begin, whole.log_end, whole.state_index), (1, machine.index.0, machine.index.0));
    assert_eq!(whole.state_digest, Some(format!("{:032x}", machine.state.digest())));
    assert_eq!((whole.packs, whole.blocks, whole.block_bytes, whole.pins), (1, 2, 60_000, 0));
    for (part, at, missing) in [("log", 120, 0), ("packs", 1000, 1), ("packs", 31_000, 1), ("packs", 10, 2)] {
        let path = file_in(dir.path(), part);
        let before = fs::read(&path).expect("ours");
        let mut bytes = before.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).expect("ours");
        let report = report(dir.path());
        assert!(!report.is_whole(), "{part} {at}");
        let name = path.display().to_string();
        assert!(report.damages.iter().any(|damage| damage.contains(&name) && damage.contains("offset")), "{report:?}");
        assert_eq!(report.missing.len(), missing, "{part} {at}: {report:?}");
        let damages = lines(dir.path()).iter().filter(|line| matches!(line, Line::Damage { .. })).count();
        assert!(damages > 0 || part == "packs" && at > 100, "inspect does not read blocks: {part} {at}");
        fs::write(&path, before).expect("ours");
    }
    // A pack that is gone.
    fs::remove_file(file_in(dir.path(), "packs")).expect("ours");
    let report = report(dir.path());
    assert_eq!((report.missing.len(), report.damages.len()), (2, 2), "{report:?}");
}

#[test]
fn a_damaged_row_is_an_error_that_names_it() {
    let dir = tempdir().expect("space for a test");
    small_node(dir.path());
    let sled = sled::open(dir.path().join("state")).expect("closed");
    for kind in [b"s", b"c", b"m"] {
        let (key, value) = sled.scan_prefix(kind).next().expect("rows").expect("readable");
        let mut bytes = value.to_vec();
        *bytes.last_mut().expect("not empty") ^= 1;
        sled.insert(&key, bytes).expect("works");
        sled.flush().expect("works");
    }
    drop(sled);
    let error = try_open(dir.path(), Options::default()).err().expect("damaged");
    assert!(matches!(&error, StorageError::Row { key, .. } if key == "6d"), "{error}");
    assert!(!report(dir.path()).is_whole());
}

#[test]
fn damage_anywhere_in_sled_is_noticed_or_gives_an_older_state_and_never_ends_the_process() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    // sled may take damage for the end of its file: an older state is fine, the log goes on from it.
    let mut digests = BTreeMap::from([(1, State::found(&founding()).digest())]);
    {
        let (open, _) = open(dir.path());
        let (mut machine, first) = Machine::new();
        let mut submit = |batch: StateBatch| {
            digests.insert(batch.index.0, batch.digest);
            open.storage.log().submit(log_batch(batch.index.0, vec![log_entry(batch.index.0, 1, "entry")]));
            open.storage.state().submit(batch);
        };
        submit(first);
        let files: Vec<_> = (0..60)
            .map(|number| {
                let (ino, batch) = machine.make_file(&format!("file {number}"));
                submit(batch);
                ino
            })
            .collect();
        // Rewritten, so that what is live lies scattered over the file.
        for round in 0..20 {
            for &ino in &files {
                submit(machine.set_xattr(ino, "user.x", content(round * 1000 + ino.0, 3900)));
            }
            if round % 5 == 4 {
                open.wait_for_state(machine.index);
            }
        }
    }
    let state = dir.path().join("state");
    let path = state.join("db");
    let before = fs::read(&path).expect("ours");
    let end = before.iter().rposition(|&byte| byte != 0).expect("not empty");
    assert!(end > 2 << 20, "more than a few of sled's segments: {end}");
    let (mut noticed, mut older, mut unharmed) = (0, 0, 0);
    for at in (1000..=end).step_by(end / 60) {
        let mut bytes = before.clone();
        bytes[at] ^= 0x11;
        fs::write(&path, bytes).expect("ours");
        match storage::check(dir.path()) {
            Ok(report) if report.is_whole() => {
                let digest = digests.get(&report.state_index).map(|digest| format!("{digest:032x}"));
                assert_eq!(report.state_digest, digest, "byte {at}: the state of no entry");
                let newest = *digests.last_key_value().expect("many").0;
                *(if report.state_index == newest { &mut unharmed } else { &mut older }) += 1;
            }
            Ok(_) | Err(_) => noticed += 1,
        }
        // sled writes when it opens: everything is put back.
        for entry in fs::read_dir(&state).expect("ours") {
            let path = entry.expect("ours").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
                fs::remove_file(path).expect("ours");
            }
        }
        fs::write(&path, &before).expect("ours");
    }
    println!("{noticed} noticed, {older} older states, {unharmed} unharmed");
    assert!(noticed + older > 0, "no byte has a meaning");
}

#[test]
fn a_row_that_is_gone_without_a_trace_is_noticed() {
    let dir = tempdir().expect("space for a test");
    small_node(dir.path());
    let state = || sled::open(dir.path().join("state")).expect("closed");
    let rows: Vec<_> = state().iter().filter_map(Result::ok).filter(|(key, _)| key.first() == Some(&b's')).collect();
    // Without some, the others make a state nevertheless.
    let mut known_by_digest = 0;
    for (key, row) in rows {
        state().remove(&key).expect("works");
        let error = try_open(dir.path(), Options::default()).err().expect("incomplete");
        assert!(matches!(error, StorageError::State { .. }), "without {key:?}: {error}");
        assert!(!report(dir.path()).is_whole(), "without {key:?}");
        known_by_digest += usize::from(error.to_string().contains("rows were lost"));
        state().insert(&key, row).expect("works");
    }
    assert!(known_by_digest > 0);
    assert!(report(dir.path()).is_whole());
}

#[test]
fn a_log_that_begins_behind_the_state_is_an_error() {
    let dir = tempdir().expect("space for a test");
    let options = Options { log_segment_bytes: 4096, ..Options::default() };
    create_with(dir.path(), options);
    let copy = dir.path().join("old state");
    fs::create_dir(&copy).expect("ours");
    for entry in fs::read_dir(dir.path().join("state")).expect("ours") {
        let path = entry.expect("ours").path();
        if path.is_file() {
            fs::copy(&path, copy.join(path.file_name().expect("a file"))).expect("ours");
        }
    }
    let (open, _) = open_with(dir.path(), options);
    let (machine, batch) = Machine::new();
    let entries = (2..40).map(|index| log_entry(index, 1, content(index, 1000)));
    for (number, entry) in (1..).zip(entries) {
        open.storage.log().submit(log_batch(number, vec![entry]));
        open.wait_for_log(number);
    }
    open.storage.state().submit(StateBatch { index: LogIndex(39), ..batch });
    open.wait_for_state(LogIndex(39));
    open.storage.log().compact(LogIndex(39), Term(1));
    drop((open, machine));
    fs::remove_dir_all(dir.path().join("state")).expect("ours");
    fs::rename(&copy, dir.path().join("state")).expect("ours");
    let error = try_open(dir.path(), options).err().expect("the state is older than the log");
    assert!(matches!(error, StorageError::StateBehindLog { log: LogIndex(39), state: LogIndex(1), .. }), "{error}");
    assert!(!report(dir.path()).is_whole());
}

#[test]
fn a_large_log_is_read_again_in_time() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (open, _) = open(dir.path());
    for number in 0..64 {
        let entries = (0..32).map(|at| log_entry(number * 32 + at + 2, 1, content(at, 16_000)));
        open.storage.log().submit(log_batch(number + 1, entries.collect()));
    }
    open.wait_for_log(64);
    drop(open);
    let begin = std::time::Instant::now();
    let (_open, recovered) = self::open(dir.path());
    assert_eq!(recovered.entries.len(), 2048);
    assert!(recovered.entries.iter().all(|entry| entry.bytes == content((entry.index.0 - 2) % 32, 16_000)));
    assert!(begin.elapsed().as_secs() < 30, "32 MiB of log took {:?}", begin.elapsed());
}
