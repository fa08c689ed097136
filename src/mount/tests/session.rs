//! Leaders that go, answers that get lost, sessions that end: exactly once, or EIO.

use std::time::Duration;

use bytes::Bytes;

use super::{
    super::*,
    scene::{Scene, config, name},
};
use crate::{
    limits::{self, Timing},
    namespace::{NewNode, Operation},
    types::MountId,
};

const TIMEOUT: Duration = Timing::DEFAULT.write_timeout;
const LEASE: Duration = Timing::DEFAULT.lease;

fn mkdir_request(text: &str) -> Request {
    Request::Make { parent: Ino::ROOT, name: name(text), node: NewNode::Directory, mode: 0o755, umask: 0 }
}

fn is_entry(answer: Option<Result<Response, Errno>>) -> bool {
    matches!(answer, Some(Ok(Response::Entry { .. })))
}

#[test]
fn a_call_whose_answer_was_lost_is_answered_by_the_next_leader_and_done_once() {
    let mut scene = Scene::new(1);
    let file = scene.file(0, "log", b"");
    let fh = scene.open(0, file, OpenFlags { write: true, append: true, ..OpenFlags::default() }).fh;
    scene.leader.answers_nothing = true;
    let made = scene.send(0, mkdir_request("d"));
    let flags = WriteFlags { append: true, ..WriteFlags::default() };
    let append = Request::Write { ino: file, fh, offset: 0, data: Bytes::from_static(b"line\n"), flags };
    let appended = scene.send(0, append);
    assert_eq!((scene.answer(0, made), scene.answer(0, appended)), (None, None));
    assert_eq!(scene.read(0, file, 0, 100), b"line\n", "applied, and not answered");
    scene.leader.answers_nothing = false;
    scene.disconnect(0);
    scene.pass(Duration::from_secs(1));
    assert!(is_entry(scene.answer(0, made)), "not EEXIST for its own directory");
    assert_eq!(scene.answer(0, appended), Some(Ok(Response::Written { length: 5 })));
    assert_eq!(scene.read(0, file, 0, 100), b"line\n", "not twice");
}

#[test]
fn a_call_that_never_reached_the_log_is_carried_out_by_the_next_leader() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.leader.proposes_nothing = true;
    let made = scene.send(0, mkdir_request("d"));
    scene.write(0, file, fh, 0, b"bytes");
    let flushed = scene.send(0, Request::Flush { ino: file, fh, owner: 0 });
    scene.leader.is_up = false;
    scene.disconnect(0);
    scene.pass(Duration::from_secs(5));
    assert_eq!((scene.answer(0, made), scene.answer(0, flushed)), (None, None));
    assert_eq!(scene.read(0, file, 0, 10), b"bytes", "reads do not pause");
    scene.leader.is_up = true;
    scene.leader.proposes_nothing = false;
    scene.pass(Duration::from_secs(2));
    assert!(is_entry(scene.answer(0, made)));
    assert_eq!(scene.answer(0, flushed), Some(Ok(Response::Done)));
}

#[test]
fn what_finds_no_leader_fails_after_the_write_timeout_and_is_not_done_later() {
    let mut scene = Scene::new(1);
    scene.leader.is_up = false;
    scene.disconnect(0);
    let unique = scene.send(0, mkdir_request("d"));
    scene.pass(TIMEOUT - Duration::from_millis(1));
    assert_eq!(scene.answer(0, unique), None);
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.answer(0, unique), Some(Err(Errno::EIO)));
    scene.leader.is_up = true;
    scene.pass(Duration::from_secs(3));
    assert_eq!(scene.lookup(0, Ino::ROOT, "d"), None);
    assert!(is_entry(Some(scene.call(0, mkdir_request("d")))), "and the mount goes on");
}

#[test]
fn written_bytes_outlive_the_timeout_of_their_flush_while_the_file_is_open() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    scene.lookup(1, Ino::ROOT, "a");
    scene.write(0, file, fh, 0, b"kept");
    scene.leader.is_up = false;
    for side in 0..2 {
        scene.disconnect(side);
    }
    let unique = scene.send(0, Request::Fsync { ino: file, fh });
    scene.pass(TIMEOUT);
    assert_eq!(scene.answer(0, unique), Some(Err(Errno::EIO)));
    assert_eq!(scene.read(0, file, 0, 10), b"kept");
    scene.leader.is_up = true;
    scene.pass(Duration::from_secs(3));
    assert_eq!(scene.read(1, file, 0, 10), b"kept");
    assert_eq!(scene.call(0, Request::Fsync { ino: file, fh }), Ok(Response::Done));
}

#[test]
fn written_bytes_of_a_closed_file_are_dropped_when_close_has_failed() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 0, b"lost");
    scene.leader.is_up = false;
    scene.disconnect(0);
    let unique = scene.send(0, Request::Flush { ino: file, fh, owner: 0 });
    scene.pass(TIMEOUT);
    assert_eq!(scene.answer(0, unique), Some(Err(Errno::EIO)));
    assert_eq!(scene.call(0, Request::Release { ino: file, fh }), Ok(Response::Done));
    assert_eq!(scene.sides[0].mount.status().dirty_bytes, 0);
    scene.leader.is_up = true;
    scene.pass(Duration::from_secs(3));
    assert_eq!(scene.read(0, file, 0, 10), b"");
}

#[test]
fn a_signal_ends_a_call_no_earlier_than_a_change_of_leader_would() {
    let mut scene = Scene::new(1);
    scene.leader.proposes_nothing = true;
    let young = scene.send(0, mkdir_request("a"));
    scene.interrupt(0, young);
    scene.pass(LEASE - Duration::from_millis(1));
    // A second signal does not hasten it.
    scene.interrupt(0, young);
    assert_eq!(scene.answer(0, young), None);
    scene.leader.is_up = false;
    scene.disconnect(0);
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.answer(0, young), Some(Err(Errno::EINTR)));
    let old = scene.send(0, mkdir_request("b"));
    scene.pass(LEASE);
    assert_eq!(scene.answer(0, old), None);
    scene.interrupt(0, old);
    assert_eq!(scene.answer(0, old), Some(Err(Errno::EINTR)), "it has waited long enough");
    scene.leader.is_up = true;
    scene.leader.proposes_nothing = false;
    scene.pass(Duration::from_secs(2));
    assert!(scene.lookup(0, Ino::ROOT, "b").is_none(), "it never left this mount");
}

#[test]
fn a_signal_changes_nothing_where_the_answer_comes() {
    let mut scene = Scene::new(1);
    scene.leader.proposes_nothing = true;
    let made = scene.send(0, mkdir_request("a"));
    scene.interrupt(0, made);
    scene.leader.is_up = false;
    scene.disconnect(0);
    scene.leader.is_up = true;
    scene.leader.proposes_nothing = false;
    scene.pass(LEASE - Duration::from_millis(1));
    assert!(is_entry(scene.answer(0, made)), "the next leader carried it out");
    scene.pass(TIMEOUT);
    assert!(is_entry(scene.answer(0, made)), "and its patience ended with it");
}

#[test]
fn what_was_written_outlives_the_interrupted_fsync() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.leader.is_up = false;
    scene.disconnect(0);
    scene.write(0, file, fh, 0, b"kept");
    let fsync = scene.send(0, Request::Fsync { ino: file, fh });
    scene.interrupt(0, fsync);
    scene.pass(LEASE);
    assert_eq!(scene.answer(0, fsync), Some(Err(Errno::EINTR)));
    scene.leader.is_up = true;
    scene.pass(Duration::from_secs(3));
    assert_eq!(scene.call(0, Request::Fsync { ino: file, fh }), Ok(Response::Done));
    assert_eq!(scene.sides[0].mount.status().dirty_bytes, 0);
    assert_eq!(scene.read(0, file, 0, 10), b"kept");
}

#[test]
fn the_end_of_a_session_fails_what_it_left_open_and_another_begins() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    scene.leader.proposes_nothing = true;
    scene.write(0, file, fh, 0, b"in a call");
    let flushed = scene.send(0, Request::Fsync { ino: file, fh });
    let made = scene.send(0, mkdir_request("d"));
    scene.write(0, file, fh, 20, b"not in a call");
    let session = scene.sides[0].mount.status().session;
    scene.leader.close_session(MountId(100));
    scene.leader.proposes_nothing = false;
    scene.disconnect(0);
    scene.pass(Duration::from_secs(2));
    assert_eq!(scene.answer(0, made), Some(Err(Errno::EIO)));
    assert_eq!(scene.answer(0, flushed), Some(Err(Errno::EIO)));
    assert_eq!(scene.lookup(0, Ino::ROOT, "d"), None, "never a second try under another session");
    assert_ne!(scene.sides[0].mount.status().session, session);
    assert!(scene.sides[0].mount.status().lease_held);
    // The delegation ended with the session: what was buffered under it is never flushed (docs/protocol.md
    // R12-fencing).
    assert!(scene.sides[0].notices.iter().any(|notice| notice.contains("13 buffered bytes are dropped")));
    assert_eq!(scene.call(0, Request::Fsync { ino: file, fh }), Err(Errno::EIO), "told once");
    scene.write(0, file, fh, 3, b"anew");
    scene.close(0, file, fh);
    scene.lookup(1, Ino::ROOT, "a");
    assert_eq!(scene.read(1, file, 0, 100), b"\0\0\0anew");
}

#[test]
fn blocks_are_stored_again_under_a_new_session() {
    let mut scene = Scene::new(1);
    let file = scene.file(0, "a", b"");
    let fh = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    for store in scene.leader.stores.values_mut() {
        store.is_down = true;
    }
    // Written through, so that no delegation ends with the session.
    let flags = WriteFlags { sync: true, ..WriteFlags::default() };
    let flushed = scene.send(0, Request::Write { ino: file, fh, offset: 0, data: vec![5; 1 << 20].into(), flags });
    scene.leader.close_session(MountId(100));
    scene.disconnect(0);
    scene.pass(Duration::from_secs(2));
    for store in scene.leader.stores.values_mut() {
        store.is_down = false;
    }
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.answer(0, flushed), Some(Ok(Response::Written { length: 1 << 20 })), "it was in no call yet");
    let uploads = scene.leader.operations.iter().rev().find_map(|(_, operation)| match operation {
        Operation::Write { uploads, .. } => Some(uploads.len()),
        _ => None,
    });
    assert_eq!(uploads, Some(1));
}

#[test]
fn more_calls_than_a_session_may_have_wait_for_their_turn() {
    let mut scene = Scene::new(1);
    scene.leader.answers_nothing = true;
    let count = limits::SESSION_CALLS_MAX + 20;
    let uniques: Vec<u64> = (0..count).map(|number| scene.send(0, mkdir_request(&number.to_string()))).collect();
    assert_eq!(scene.leader.operations.len(), limits::SESSION_CALLS_MAX);
    scene.leader.answers_nothing = false;
    scene.disconnect(0);
    scene.pass(Duration::from_secs(2));
    assert!(uniques.iter().all(|unique| is_entry(scene.answer(0, *unique))));
}

#[test]
fn answers_that_come_behind_a_snapshot_are_understood() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 0, b"bytes");
    scene.leader.answers_nothing = true;
    scene.cut_off(0);
    scene.leader.sends_snapshots = true;
    scene.sides[0].is_cut_off = false;
    let flushed = scene.send(0, Request::Flush { ino: file, fh, owner: 0 });
    let created = scene.send(0, Scene::create_request("b"));
    scene.pass(Duration::from_millis(500));
    scene.leader.answers_nothing = false;
    scene.disconnect(0);
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.answer(0, flushed), Some(Ok(Response::Done)));
    let Some(Ok(Response::Created { attributes, opened, .. })) = scene.answer(0, created) else { panic!("no file") };
    scene.write(0, attributes.ino, opened.fh, 0, b"more");
    scene.close(0, attributes.ino, opened.fh);
    assert_eq!(scene.read(0, file, 0, 10), b"bytes");
    assert_eq!(scene.leader.volume.digest(), scene.sides[0].mount.status().digest);
}

#[test]
fn an_orderly_end_flushes_and_takes_leave() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    scene.lookup(1, Ino::ROOT, "a");
    scene.write(0, file, fh, 0, b"last words");
    scene.leader.hears_late = true;
    scene.stop(0);
    assert!(!scene.sides[0].is_stopped, "the flush is not complete");
    scene.leader.hear();
    scene.settle();
    assert!(scene.sides[0].is_stopped);
    assert!(scene.leader.left.contains(&0));
    assert_eq!(scene.read(1, file, 0, 100), b"last words");
}

#[test]
fn an_end_without_a_leader_takes_no_longer_than_the_write_timeout_and_says_what_is_lost() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 0, b"lost");
    scene.leader.is_up = false;
    scene.disconnect(0);
    scene.stop(0);
    scene.pass(TIMEOUT);
    assert!(scene.sides[0].is_stopped);
    assert!(scene.sides[0].notices.iter().any(|notice| notice.contains("4 written bytes")));
}

#[test]
fn a_leader_that_falls_silent_is_left_for_another() {
    let mut scene = Scene::new(1);
    let before = scene.sides[0].mount.status().counters.connections;
    scene.leader.grants_leases = false;
    scene.pass(Timing::DEFAULT.election + Timing::DEFAULT.heartbeat);
    assert!(scene.sides[0].mount.status().counters.connections > before);
}

#[test]
fn the_same_seed_and_inputs_give_the_same_outputs() {
    let run = || {
        let mut scene = Scene::with(vec![config(0), config(1)]);
        scene.file(0, "a", &vec![3; 300_000]);
        scene.lookup(1, Ino::ROOT, "a");
        scene.disconnect(1);
        scene.pass(Duration::from_secs(3));
        format!("{:?} {:?}", scene.journal, scene.sides[1].mount.status())
    };
    assert_eq!(run(), run());
}
