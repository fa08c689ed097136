//! Files that one mount at a time may have open.

use std::time::Duration;

use super::{super::*, scene::*};
use crate::{
    limits::Timing,
    namespace::Companion,
    types::{LockClaim, LockFamily, LockKind, LockRange, MountId},
};

const T: Timing = Timing::DEFAULT;
/// Two mounts; the first has made shared memory, and has it open.
fn shared_memory() -> (Scene, Ino, u64) {
    let mut scene = Scene::new(2);
    let (ino, fh) = scene.create(0, "db-shm");
    assert_eq!(scene.lookup(1, Ino::ROOT, "db-shm"), Some(ino));
    (scene, ino, fh)
}

fn write_back(ino: Ino, fh: u64, data: &'static [u8]) -> Request {
    let flags = WriteFlags { write_back: true, ..WriteFlags::default() };
    Request::Write { ino, fh, offset: 0, data: data.into(), flags }
}

impl Scene {
    fn ask(&mut self, side: usize, ino: Ino) -> u64 {
        self.send(side, Request::Open { ino, flags: WRITER })
    }

    fn opened(&self, side: usize, unique: u64) -> Option<u64> {
        match self.answer(side, unique)? {
            Ok(Response::Opened(opened)) => Some(opened.fh),
            other => panic!("the open of mount {side} was answered {other:?}"),
        }
    }

    /// A snapshot brings what the call made before its answer. It is not the session's first lock.
    fn create_by_snapshot(&mut self, name: &str) -> u64 {
        let (other, fh) = self.create(0, "other-shm");
        self.close(0, other, fh);
        self.leader.delays = true;
        let created = self.send(0, Self::create_request(name));
        self.cut_off(0);
        self.leader.propose_delayed();
        (self.leader.sends_snapshots, self.leader.answers_nothing) = (true, true);
        self.sides[0].is_cut_off = false;
        created
    }

    fn is_anybodys_turn(&self, ino: Ino) -> bool {
        self.leader.volume.locks().has_file(ino)
    }
}

#[test]
fn an_open_waits_for_the_last_close_elsewhere_and_sees_what_was_mapped_there() {
    let (mut scene, ino, fh) = shared_memory();
    let second = scene.ask(0, ino);
    let second = scene.opened(0, second).expect("a mount shares it with itself");
    let waiting = scene.ask(1, ino);
    let reader = scene.send(1, Request::Open { ino, flags: OpenFlags::default() });
    scene.call(0, write_back(ino, fh, b"memory")).expect("taken");
    scene.close(0, ino, fh);
    assert_eq!((scene.answer(1, waiting), scene.answer(1, reader)), (None, None));
    // What is written back at munmap() comes behind close().
    scene.call(0, write_back(ino, second, b"MEMORY")).expect("taken");
    scene.call(0, Request::Release { ino, fh: second }).expect("released");
    let fh = scene.opened(1, waiting).expect("its turn");
    scene.opened(1, reader).expect("and that of all who waited there");
    assert_eq!(scene.read(1, ino, 0, 9), b"MEMORY");
    scene.write(1, ino, fh, 0, b"mine");
}

#[test]
fn a_create_that_comes_second_is_looked_up_again_and_waits_as_an_open() {
    let (mut scene, ino, fh) = shared_memory();
    assert_eq!(scene.call(1, Scene::create_request("db-shm")), Err(Errno::ESTALE), "it holds the directory's lock");
    let waiting = scene.ask(1, ino);
    assert_eq!(scene.call(0, Request::Unlink { parent: Ino::ROOT, name: name("db-shm") }), Ok(Response::Done));
    scene.close(0, ino, fh);
    assert_eq!(scene.answer(1, waiting), Some(Err(Errno::ESTALE)), "it was deleted meanwhile");
    let (other, fh) = scene.create(1, "db-shm");
    assert!(other != ino && scene.is_anybodys_turn(other));
    scene.close(1, other, fh);
    assert!(!scene.is_anybodys_turn(other));
}

#[test]
fn new_opens_of_a_mount_that_is_asked_wait_behind_the_one_that_asks() {
    let (mut scene, ino, fh) = shared_memory();
    let waiting = scene.ask(1, ino);
    let later = scene.ask(0, ino);
    assert_eq!((scene.answer(1, waiting), scene.answer(0, later)), (None, None));
    scene.close(0, ino, fh);
    let fh = scene.opened(1, waiting).expect("its turn");
    assert_eq!(scene.answer(0, later), None);
    scene.close(1, ino, fh);
    scene.opened(0, later).expect("its turn again");
}

/// Whoever has the file open may be waiting for a process that is about to open it.
#[test]
fn new_opens_wait_for_others_for_a_while_only() {
    let (mut scene, ino, _) = shared_memory();
    let waiting = scene.ask(1, ino);
    let later = scene.ask(0, ino);
    scene.pass(T.turn_patience());
    scene.opened(0, later).expect("it has waited long enough");
    scene.pass(T.write_timeout);
    assert_eq!(scene.answer(1, waiting), Some(Err(Errno::EBUSY)));
    let last = scene.ask(0, ino);
    scene.opened(0, last).expect("nobody else waits any more");
}

#[test]
fn who_is_killed_while_he_waits_gives_his_place_up() {
    let (mut scene, ino, _) = shared_memory();
    let waiting = scene.ask(1, ino);
    scene.interrupt(1, waiting);
    scene.pass(T.lease);
    assert_eq!(scene.answer(1, waiting), Some(Err(Errno::EINTR)));
    let other = scene.ask(0, ino);
    scene.opened(0, other).expect("nobody waits");
}

#[test]
fn a_cut_off_mount_loses_its_turn_and_writes_neither_there_nor_to_the_log_beside_it() {
    let (mut scene, ino, fh) = shared_memory();
    let (log, log_fh) = scene.create(0, "db-wal");
    scene.write(0, log, log_fh, 0, b"committed");
    scene.call(0, Request::Fsync { ino: log, fh: log_fh }).expect("synced");
    let waiting = scene.ask(1, ino);
    scene.cut_off(0);
    scene.pass(T.lease);
    scene.call(0, write_back(ino, fh, b"late")).expect("taken");
    let late = scene.send(0, Scene::write_request(log, log_fh, 0, b"late commit"));
    scene.leader.end_holds(MountId(100));
    scene.settle();
    let there = scene.opened(1, waiting).expect("its turn");
    assert_eq!(scene.read(1, log, 0, 99), b"committed");
    scene.sides[0].is_cut_off = false;
    scene.pass(T.write_timeout / 2);
    assert_eq!(scene.answer(0, late), Some(Err(Errno::EIO)));
    for request in [Scene::write_request(log, log_fh, 0, b"x"), write_back(ino, fh, b"x")] {
        assert_eq!(scene.call(0, request), Err(Errno::EIO));
    }
    let range = LockRange { first: 120, last: 120 };
    let claim = LockClaim { family: LockFamily::Fcntl, owner: 5, kind: LockKind::Shared, range, pid: 100, fh };
    assert_eq!(scene.call(0, Request::SetLock { ino, claim, waits: true }), Err(Errno::EIO));
    assert_eq!((scene.read(1, log, 0, 99), scene.read(1, ino, 0, 99)), (b"committed".to_vec(), Vec::new()));
    scene.close(1, ino, there);
    let fresh = scene.ask(0, ino);
    assert_eq!(scene.answer(0, fresh), None, "its kernel may have pages of before");
    scene.call(0, Request::Release { ino, fh }).expect("released");
    scene.opened(0, fresh).expect("its turn");
}

/// Nobody waits for the create any more when it is carried out.
#[test]
fn the_turn_of_a_create_that_was_given_up_is_given_back() {
    let mut scene = Scene::new(2);
    scene.leader.delays = true;
    let given_up = scene.send(0, Scene::create_request("db-shm"));
    scene.pass(T.write_timeout);
    assert_eq!(scene.answer(0, given_up), Some(Err(Errno::EIO)));
    scene.leader.delays = false;
    scene.leader.propose_delayed();
    scene.settle();
    let ino = scene.lookup(1, Ino::ROOT, "db-shm").expect("made all the same");
    let other = scene.ask(1, ino);
    scene.opened(1, other).expect("nobody has it open");
}

/// A snapshot brought the file and its turn, and the answer came later: meanwhile the turn was given back as nobody's.
#[test]
fn the_turn_of_a_create_that_a_snapshot_brings_waits_for_its_answer() {
    let mut scene = Scene::new(1);
    let created = scene.create_by_snapshot("db-shm");
    scene.pass(Duration::from_millis(500));
    scene.leader.answers_nothing = false;
    scene.disconnect(0);
    scene.pass(Duration::from_secs(1));
    let Some(Ok(Response::Created { attributes, opened, .. })) = scene.answer(0, created) else { panic!("no file") };
    assert!(scene.is_anybodys_turn(attributes.ino));
    scene.call(0, write_back(attributes.ino, opened.fh, b"memory")).expect("its turn");
    scene.pass(Duration::from_secs(1));
    scene.call(0, write_back(attributes.ino, opened.fh, b"memory")).expect("its turn still");
    assert_eq!(scene.sides[0].mount.status().counters.locks_lost, 0);
    scene.close(0, attributes.ino, opened.fh);
    assert!(!scene.is_anybodys_turn(attributes.ino));
}

#[test]
fn the_turn_of_a_create_that_a_snapshot_brought_and_nobody_answered_is_given_back() {
    let mut scene = Scene::new(1);
    let created = scene.create_by_snapshot("db-shm");
    scene.pass(T.write_timeout);
    assert_eq!(scene.answer(0, created), Some(Err(Errno::EIO)));
    scene.disconnect(0);
    scene.leader.answers_nothing = false;
    scene.pass(T.write_timeout);
    let ino = scene.lookup(0, Ino::ROOT, "db-shm").expect("made all the same");
    assert!(!scene.is_anybodys_turn(ino));
}

#[test]
fn a_file_is_guarded_as_long_as_one_of_its_names_ends_so() {
    let mut scene = Scene::new(1);
    let ino = scene.file(0, "f", b"");
    let is_guarded = |scene: &Scene| {
        let reloaded = Volume::from_rows(scene.leader.volume.rows()).expect("what was written is read");
        let is_guarded = reloaded.is_companion(ino, Companion::SharedMemory);
        assert_eq!(is_guarded, scene.leader.volume.is_companion(ino, Companion::SharedMemory));
        is_guarded
    };
    let rename = |scene: &mut Scene, from, to| {
        let (from, from_name, to, to_name) = (Ino::ROOT, name(from), Ino::ROOT, name(to));
        let request = Request::Rename { from, from_name, to, to_name, mode: crate::namespace::RenameMode::Replace };
        scene.call(0, request).expect("renamed");
    };
    assert!(!is_guarded(&scene));
    rename(&mut scene, "f", "a-shm");
    scene.call(0, Request::Link { ino, parent: Ino::ROOT, name: name("b-shm") }).expect("linked");
    scene.call(0, Request::Unlink { parent: Ino::ROOT, name: name("a-shm") }).expect("unlinked");
    assert!(is_guarded(&scene));
    scene.file(0, "g", b"");
    rename(&mut scene, "g", "b-shm");
    assert!(!is_guarded(&scene));
}

/// Its kernel tells of no close: nobody would know when the turn is over.
#[test]
fn an_untracked_mount_writes_no_shared_memory() {
    let mut scene = Scene::with(vec![Config { opens: Opens::Untracked, ..config(0) }, config(1)]);
    assert_eq!(scene.call(0, Scene::create_request("db-shm")), Err(Errno::EOPNOTSUPP));
    let ino = scene.file(1, "db-shm", b"memory");
    scene.lookup(0, Ino::ROOT, "db-shm");
    let changes = crate::types::AttributeChanges { size: Some(3), ..Default::default() };
    for request in [Request::Setattr { ino, changes }, Scene::write_request(ino, 0, 0, b"x"), write_back(ino, 0, b"x")]
    {
        assert_eq!(scene.call(0, request), Err(Errno::EOPNOTSUPP));
    }
    assert_eq!(scene.read(0, ino, 0, 9), b"memory");
    assert_eq!(scene.call(0, Request::Unlink { parent: Ino::ROOT, name: name("db-shm") }), Ok(Response::Done));
}
