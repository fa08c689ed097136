//! A store through its facade: founding, restarting, refusing directories that are not its own.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use bytes::Bytes;
use manyfs::{
    message::log::LogBatch,
    storage::{self, Options, StorageError, packs::PackOptions},
    types::{BlockHash, ClusterId, LogIndex, NodeId, SessionId, Term, UploadId},
};
use tempfile::tempdir;

use crate::store::support::{
    FOUNDING, Machine, NODE, VOLUME, content, create, founding, log_batch, log_entry, open, open_with, try_open,
};

#[test]
fn a_founded_node_begins_with_the_founding_state() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (open, recovered) = open(dir.path());
    let (machine, _) = Machine::new();
    assert_eq!(recovered.state.digest(), manyfs::namespace::State::found(&founding()).digest());
    assert_ne!(recovered.state.digest(), machine.state.digest());
    assert_eq!((recovered.state_index, recovered.state_term), (LogIndex(1), Term(1)));
    assert_eq!((recovered.compacted, recovered.entries.len()), ((LogIndex(1), Term(1)), 0));
    assert_eq!((recovered.membership.as_ref(), recovered.hard_state), (&b"membership"[..], None));
    let space = open.storage.space().expect("a file system");
    assert!(0 < space.available && space.available < space.total);
}

/// Files and directories in and of `dir` that others than their owner may touch.
fn open_to_others(dir: &Path) -> Vec<String> {
    let mode = |path: &Path| fs::symlink_metadata(path).expect("readable").permissions().mode();
    let mut found = Vec::new();
    let mut ahead = vec![dir.to_owned()];
    while let Some(path) = ahead.pop() {
        // sled makes files as the process says (`manyfs serve` has an umask), in a directory that nobody else enters.
        let is_of_sled = path.is_file() && path.starts_with(dir.join("state"));
        if mode(&path) & 0o077 != 0 && !is_of_sled {
            found.push(path.display().to_string());
        }
        if path.is_dir() {
            ahead.extend(fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
        }
    }
    found
}

/// Any local user read a wp-config.php of mode 0600 out of a pack.
#[test]
fn a_data_directory_is_its_owners_alone() {
    let above = tempdir().expect("space for a test");
    let dir = above.path().join("volumes/node");
    create(&dir);
    assert_eq!(open_to_others(&dir), [""; 0]);
    let (store, _) = open(&dir);
    let put = store.storage.packs().put(vec![(BlockHash::of(b"secret"), Bytes::from_static(b"secret"))], None);
    put.expect("stored");
    drop(store);
    assert_eq!(open_to_others(&dir), [""; 0]);

    // As a kubelet does it for an fsGroup.
    for path in [dir.clone(), dir.join("packs"), dir.join("state")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2775)).expect("ours");
        for entry in fs::read_dir(&path).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_file() {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).expect("ours");
            }
        }
    }
    assert!(open_to_others(&dir).len() > 5);
    // What a link leads to is not the store's.
    let other = above.path().join("other");
    fs::write(&other, "a friend's").expect("written");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).expect("ours");
    std::os::unix::fs::symlink(&other, dir.join("packs/link")).expect("linked");
    drop(open(&dir));
    fs::remove_file(dir.join("packs/link")).expect("removed");
    assert_eq!(open_to_others(&dir), [""; 0]);
    assert_eq!(fs::metadata(&other).expect("there").permissions().mode() & 0o777, 0o644);
}

#[test]
fn a_node_that_waits_for_a_snapshot_begins_with_nothing() {
    let dir = tempdir().expect("space for a test");
    storage::create_empty(dir.path(), FOUNDING, NODE).expect("blank");
    let (open, recovered) = open(dir.path());
    assert_eq!((recovered.state_index, recovered.compacted), (LogIndex(0), (LogIndex(0), Term(0))));
    // The snapshot: state and log begin anew behind it, in whatever order they are submitted.
    let (mut machine, _) = Machine::new();
    let (ino, _) = machine.make_file("x");
    machine.write(ino, &content(1, 1000), None);
    let at = (machine.index, Term(1));
    open.storage.log().submit(LogBatch { number: 1, reset: Some(at), ..LogBatch::default() });
    open.storage.state().submit(machine.snapshot());
    open.wait_for_log(1);
    drop(open);
    let (open, recovered) = self::open(dir.path());
    assert_eq!(recovered.state.digest(), machine.state.digest());
    assert_eq!((recovered.state_index, recovered.compacted), (machine.index, at));
    assert_eq!(recovered.membership.as_ref(), b"of the snapshot");
    // Its content has to come from peers.
    assert_eq!(open.storage.packs().missing(None, 10), [BlockHash::of(&content(1, 1000))]);
}

#[test]
fn a_reset_of_the_log_waits_for_its_state() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (open, _) = open(dir.path());
    let (machine, _) = Machine::new();
    open.storage.log().submit(log_batch(1, vec![log_entry(2, 1, "two")]));
    open.wait_for_log(1);
    let reset = LogBatch { number: 2, reset: Some((machine.index, Term(1))), ..LogBatch::default() };
    open.storage.log().submit(reset);
    // The process ends before the state came: the log must not begin behind the state then.
    drop(open);
    let (_open, recovered) = self::open(dir.path());
    assert_eq!((recovered.state_index, recovered.entries.len()), (LogIndex(1), 1));
}

#[test]
fn entries_and_hard_state_come_back() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (open, _) = open(dir.path());
    let log = open.storage.log();
    let hard_state = Some(Bytes::from_static(b"vote"));
    log.submit(LogBatch { number: 1, hard_state, entries: vec![log_entry(2, 1, "two")], reset: None });
    log.submit(log_batch(2, (3..1000).map(|index| log_entry(index, 1, content(index, 100))).collect()));
    log.submit(log_batch(3, vec![log_entry(998, 2, "another 998")]));
    open.wait_for_log(3);
    drop(open);
    let (_open, recovered) = self::open(dir.path());
    let mut expected = vec![log_entry(2, 1, "two")];
    expected.extend((3..998).map(|index| log_entry(index, 1, content(index, 100))));
    expected.push(log_entry(998, 2, "another 998"));
    assert_eq!(recovered.entries, expected);
    assert_eq!(recovered.hard_state.as_deref(), Some(&b"vote"[..]));
}

#[test]
fn state_and_content_come_back() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (open, _) = open(dir.path());
    let (mut machine, first) = Machine::new();
    let state = open.storage.state();
    state.submit(first);
    let mut contents = Vec::new();
    for number in 0..50 {
        let (ino, batch) = machine.make_file(&format!("file {number}"));
        state.submit(batch);
        let bytes = content(number, 100 + number as usize * 1000);
        let batch = machine.write(ino, &bytes, None);
        open.storage.log().submit(log_batch(number, (1..machine.index.0).map(|at| log_entry(at + 1, 1, "")).collect()));
        state.submit(batch);
        // Readable at once, before it is anywhere on the disk.
        assert_eq!(open.storage.packs().get(&BlockHash::of(&bytes)).expect("whole"), Some(bytes.clone()));
        contents.push(bytes);
    }
    open.wait_for_state(machine.index);
    drop(open);
    let (open, recovered) = self::open(dir.path());
    assert_eq!((recovered.state_index, recovered.state.digest()), (machine.index, machine.state.digest()));
    for bytes in contents {
        assert_eq!(open.storage.packs().get(&BlockHash::of(&bytes)).expect("whole"), Some(bytes));
    }
    assert_eq!(open.storage.packs().missing(None, 1), []);
    let report = {
        drop(open);
        storage::check(dir.path()).expect("readable")
    };
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.blocks, report.state_index), (50, machine.index.0));
}

#[test]
fn many_batches_share_few_syncs() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (open, _) = open(dir.path());
    let before = open.storage.counters().log_syncs.get();
    // The first is being synced while the others are submitted: they become one group, or a few.
    for number in 1..=1000 {
        open.storage.log().submit(log_batch(number, vec![log_entry(number + 1, 1, "entry")]));
    }
    open.wait_for_log(1000);
    let counters = open.storage.counters();
    assert_eq!((counters.log_batches.get(), counters.log_entries.get()), (1000, 1000));
    let syncs = counters.log_syncs.get() - before;
    assert!(syncs < 500, "{syncs} syncs for 1000 batches");
}

#[test]
fn a_large_row_is_stored_in_pieces_and_leaves_none_behind() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (mut machine, first) = Machine::new();
    let mut batches = vec![first];
    let (ino, batch) = machine.make_file("x");
    batches.push(batch);
    for (name, length) in [("user.a", 65_536), ("user.b", 4097), ("user.c", 60_000), ("user.d", 4000)] {
        batches.push(machine.set_xattr(ino, name, content(length as u64, length)));
        if name == "user.a" {
            batches.push(machine.set_xattr(ino, name, content(9, 5000)));
        }
        if name == "user.c" {
            batches.push(machine.remove_xattr(ino, name));
        }
    }
    let mut number = 0;
    // Each in a life of its own: what a later one overwrites has to be found on the disk.
    for batch in batches {
        let (open, _) = open(dir.path());
        number += 1;
        let entries = (1..batch.index.0).map(|at| log_entry(at + 1, 1, "")).collect();
        open.storage.log().submit(log_batch(number, entries));
        let index = batch.index;
        open.storage.state().submit(batch);
        open.wait_for_state(index);
    }
    let (_open, recovered) = open(dir.path());
    assert_eq!(recovered.state.digest(), machine.state.digest());
    drop(_open);
    let sled = sled::open(dir.path().join("state")).expect("closed");
    let pieces = sled.scan_prefix(b"c").count();
    assert_eq!(pieces, 2 + 2, "two of user.a (65,536 bytes before), two of user.b, none of user.c");
}

#[test]
fn a_directory_in_use_is_refused_with_the_process_that_uses_it() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (_open, _) = open(dir.path());
    let error = try_open(dir.path(), Options::default()).err().expect("in use");
    assert!(matches!(error, StorageError::InUse { process: Some(pid), .. } if pid == std::process::id()), "{error}");
    assert!(
        storage::check(dir.path()).is_err() && storage::create(dir.path(), &founding(), NODE, &Bytes::new()).is_err()
    );
}

#[test]
fn a_used_directory_is_refused_and_left_as_it_was() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let again = storage::create(dir.path(), &founding(), NodeId(2), &Bytes::new()).expect_err("used");
    assert!(matches!(again, StorageError::AlreadyCreated { found, .. } if found.node == NODE), "{again}");
    let identity = storage::inspect_identity(dir.path()).expect("readable").expect("a node");
    assert_eq!((identity.founding, identity.node), (FOUNDING, NODE));
    let other = identity.expect(dir.path(), Some(ClusterId(5)), None).expect_err("another");
    assert!(other.to_string().contains("choose the directory of that cluster"), "{other}");
    let other = identity.expect(dir.path(), Some(FOUNDING.cluster), Some(NodeId(2))).expect_err("another");
    assert!(other.to_string().contains("choose the directory of that node"), "{other}");
    assert!(identity.expect(dir.path(), Some(FOUNDING.cluster), Some(NODE)).is_ok());
}

#[test]
fn a_directory_with_other_things_in_it_is_refused_and_left_as_it_was() {
    let dir = tempdir().expect("space for a test");
    fs::write(dir.path().join("thesis.txt"), "mine").expect("writable");
    for error in [
        storage::create(dir.path(), &founding(), NODE, &Bytes::new()).expect_err("not blank"),
        storage::inspect_identity(dir.path()).expect_err("not blank"),
        try_open(dir.path(), Options::default()).err().expect("not blank"),
    ] {
        assert!(matches!(&error, StorageError::NotBlank { found, .. } if found == "thesis.txt"), "{error}");
    }
    assert_eq!(names(dir.path()), ["thesis.txt"]);
}

#[test]
fn a_blank_directory_is_no_node() {
    let dir = tempdir().expect("space for a test");
    fs::create_dir(dir.path().join("lost+found")).expect("as on a fresh file system");
    let missing = dir.path().join("missing/deep");
    for path in [dir.path(), &missing] {
        assert_eq!(storage::inspect_identity(path).expect("blank"), None);
        let error = try_open(path, Options::default()).err().expect("blank");
        assert!(error.to_string().contains("cluster init"), "{error}");
    }
    assert!(!missing.exists());
    create(dir.path());
    create(&missing);
    open(&missing);
}

#[test]
fn an_interrupted_creation_is_repeated() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    // As a crash before the last step leaves it.
    fs::rename(dir.path().join("manyfs.toml"), dir.path().join("manyfs.toml.unfinished")).expect("ours");
    assert_eq!(storage::inspect_identity(dir.path()).expect("unfinished"), None);
    assert!(matches!(try_open(dir.path(), Options::default()), Err(StorageError::NotCreated { .. })));
    create(dir.path());
    open(dir.path());
    assert!(!dir.path().join("manyfs.toml.unfinished").exists());
}

#[test]
fn an_identity_that_makes_no_sense_is_an_error_that_says_where() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let path = dir.path().join("manyfs.toml");
    let text = fs::read_to_string(&path).expect("text");
    for (from, to, part) in [
        ("format = 2", "format = 3", "start the newer manyfs"),
        ("format = 2", "format = 2\nfoo = 3", "foo"),
        ("node = 1", "node = 0", "no node id"),
        ("cluster = \"", "cluster = \"zz", "no cluster id"),
        ("founding = \"", "founding = \"zz", "no founding id"),
        ("format = 2", "format = 1", "before any release"),
        ("format", "=", "manyfs.toml"),
    ] {
        fs::write(&path, text.replace(from, to)).expect("writable");
        let error = storage::inspect_identity(dir.path()).expect_err("nonsense").to_string();
        assert!(error.contains(part) && error.contains("manyfs.toml"), "{error}");
    }
}

#[test]
fn a_log_that_is_older_than_the_state_is_noticed() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let copy = dir.path().join("log before");
    copy_all(&dir.path().join("log"), &copy);
    let (open, _) = open(dir.path());
    let (machine, batch) = Machine::new();
    open.storage.log().submit(log_batch(1, vec![log_entry(2, 1, "two"), log_entry(3, 1, "three")]));
    open.wait_for_log(1);
    open.storage.state().submit(batch);
    open.wait_for_state(machine.index);
    drop(open);
    replace(&copy, &dir.path().join("log"));
    let error = try_open(dir.path(), Options::default()).err().expect("the log is older than the state");
    assert!(matches!(error, StorageError::LogBehindState { .. }), "{error}");
    assert!(!storage::check(dir.path()).expect("readable").is_whole());
}

pub(crate) fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).expect("writable");
    for name in names(from) {
        if from.join(&name).is_file() {
            fs::copy(from.join(&name), to.join(&name)).expect("readable");
        }
    }
}

pub(crate) fn replace(from: &Path, to: &Path) {
    fs::remove_dir_all(to).expect("ours");
    fs::rename(from, to).expect("ours");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn uploads_pin_blocks_until_an_entry_names_them() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let options =
        Options { packs: PackOptions { compact_bytes_min: 1, ..PackOptions::default() }, ..Options::default() };
    let (open, _) = open_with(dir.path(), options);
    let (mut machine, first) = Machine::new();
    open.storage.state().submit(first);
    let (ino, batch) = machine.make_file("x");
    open.storage.state().submit(batch);
    let (used, unused) = (content(1, 500_000), content(2, 500_000));
    let session = machine.session;
    let pin = |session: SessionId, upload| Some((VOLUME, session, UploadId(upload)));
    let blocks = |bytes: &Bytes| vec![(BlockHash::of(bytes), bytes.clone())];
    open.storage.packs().put(blocks(&used), pin(session, 1)).expect("stored");
    open.storage.packs().put(blocks(&unused), pin(session, 2)).expect("stored");
    open.storage.log().submit(log_batch(1, (2..100).map(|index| log_entry(index, 1, "")).collect()));
    open.wait_for_log(1);
    open.storage.state().submit(machine.write(ino, &used, Some(UploadId(1))));
    open.wait_for_state(machine.index);
    assert_eq!(open.storage.packs().pins().len(), 1, "the entry lifted the pin of its upload");
    // A store that was slower than the majority is given a block of the upload behind its end.
    open.storage.packs().put(blocks(&content(3, 500_000)), pin(session, 1)).expect("stored");
    open.storage.packs().put(blocks(&used), pin(session, 1)).expect("stored");
    assert_eq!(open.storage.packs().pins().len(), 1, "nothing would lift these");
    drop(open);

    // Neither is lost by a restart: one is named, the upload of the other is not over.
    let (open, _) = open_with(dir.path(), options);
    assert_eq!(open.storage.packs().pins().len(), 1);
    open.storage.packs().compact().expect("works");
    for bytes in [&used, &unused] {
        assert_eq!(open.storage.packs().get(&BlockHash::of(bytes)).expect("whole").as_ref(), Some(bytes));
    }
    // The session ends, and the file goes: nothing keeps them.
    let sessions = vec![session];
    open.storage.state().submit(machine.unlink("x"));
    let batch = machine.apply(VOLUME, manyfs::namespace::Command::CloseSessions { sessions });
    open.storage.state().submit(batch);
    let batch = machine.reap(ino);
    open.storage.state().submit(batch);
    open.wait_for_state(machine.index);
    assert_eq!(open.storage.packs().pins(), []);
    open.storage.packs().compact().expect("works");
    for bytes in [&used, &unused] {
        assert_eq!(open.storage.packs().get(&BlockHash::of(bytes)).expect("whole"), None);
    }
    let packs: u64 = names(&dir.path().join("packs"))
        .iter()
        .map(|name| fs::metadata(dir.path().join("packs").join(name)).expect("there").len())
        .sum();
    assert!(packs < 100_000, "{packs} bytes of packs are left");
}

/// An upload that was let in while its session was there ended behind the session: its pin was never lifted.
#[test]
fn a_pin_that_comes_behind_the_end_of_its_session_is_lifted() {
    let dir = tempdir().expect("space for a test");
    create(dir.path());
    let (open, _) = open(dir.path());
    let (mut machine, first) = Machine::new();
    open.storage.state().submit(first);
    let (session, next) = (machine.session, SessionId(machine.session.0 + 1));
    let blocks = |number| vec![(BlockHash::of(&content(number, 1000)), content(number, 1000))];
    let pin = |session| Some((VOLUME, session, UploadId(1)));
    open.storage.log().submit(log_batch(1, (2..10).map(|index| log_entry(index, 1, "")).collect()));
    open.wait_for_log(1);
    open.storage.packs().put(blocks(1), pin(session)).expect("stored");
    assert_eq!(open.storage.lift_ended_pins(&machine.state).expect("works"), 0, "its session is there");
    let sessions = vec![session];
    open.storage.state().submit(machine.apply(VOLUME, manyfs::namespace::Command::CloseSessions { sessions }));
    open.wait_for_state(machine.index);
    assert_eq!(open.storage.packs().pins(), []);
    open.storage.packs().put(blocks(1), pin(session)).expect("stored");
    // Of one that this state may not know yet.
    open.storage.packs().put(blocks(2), pin(next)).expect("stored");
    assert_eq!(open.storage.lift_ended_pins(&machine.state).expect("works"), 1);
    let pins: Vec<_> = open.storage.packs().pins().into_iter().map(|(pin, _)| pin.session).collect();
    assert_eq!(pins, [next]);
    drop(open);
    let (open, _) = self::open(dir.path());
    assert_eq!(open.storage.packs().pins().len(), 1, "for good");
}
