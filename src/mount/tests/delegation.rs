//! Write delegations: what is buffered here is seen elsewhere, costs few entries, and is fenced when it is taken away
//! (docs/protocol.md R9-application, R11-delegation, R12-fencing, R13-appends, R26-mappings).

use std::time::Duration;

use bytes::Bytes;

use super::{
    super::*,
    scene::{Scene, WRITER, name},
};
use crate::{
    limits::Timing,
    namespace::Operation,
    types::{AttributeChanges, MountId, TimeChange, Timestamp},
};

fn is_written(answer: Option<Result<Response, Errno>>) -> bool {
    matches!(answer, Some(Ok(Response::Written { .. })))
}

impl Scene {
    /// Operations proposed since the scene had `before` of them.
    fn proposed(&self, before: usize) -> &[(usize, Operation)] {
        &self.leader.operations[before..]
    }
}

#[test]
fn bytes_between_write_and_close_are_seen_elsewhere() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    scene.lookup(1, Ino::ROOT, "a");
    for text in ["one", "two", "three"] {
        let before = scene.leader.operations.len();
        scene.write(0, file, fh, 0, text.as_bytes());
        assert_eq!(scene.getattr(1, file).0.size, scene.getattr(0, file).0.size);
        assert_eq!(scene.read(1, file, 0, text.len() as u32), text.as_bytes());
        let last = scene.proposed(before).last().map(|(side, operation)| (*side, operation.clone()));
        assert!(matches!(&last, Some((0, Operation::Flush(flush))) if flush.give_back), "{last:?}");
        scene.pass(Duration::from_secs(5));
    }
    scene.close(0, file, fh);
}

#[test]
fn a_new_file_is_two_entries_whatever_is_set_before_its_close() {
    let mut scene = Scene::new(2);
    let before = scene.leader.operations.len();
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 0, b"content");
    let time = Timestamp { seconds: 1_000_000, nanoseconds: 7 };
    let sets = [
        AttributeChanges { uid: Some(5), gid: Some(6), ..AttributeChanges::default() },
        AttributeChanges { mode: Some(0o751), ..AttributeChanges::default() },
        AttributeChanges {
            mtime: Some(TimeChange::To(time)),
            atime: Some(TimeChange::Now),
            ..AttributeChanges::default()
        },
        AttributeChanges { size: Some(4), mtime: Some(TimeChange::Now), ..AttributeChanges::default() },
        AttributeChanges { mtime: Some(TimeChange::To(time)), ..AttributeChanges::default() },
    ];
    for changes in sets {
        assert!(matches!(scene.call(0, Request::Setattr { ino: file, changes }), Ok(Response::Attributes { .. })));
    }
    let (shown, _) = scene.getattr(0, file);
    assert_eq!((shown.size, shown.mode, shown.uid, shown.gid, shown.mtime), (4, 0o751, 5, 6, time));
    scene.close(0, file, fh);
    assert_eq!(scene.proposed(before).len(), 2, "{:?}", scene.proposed(before));
    assert_eq!(scene.getattr(0, file).0, shown, "stat is the same before and after");
    scene.lookup(1, Ino::ROOT, "a");
    assert_eq!(scene.getattr(1, file).0, shown);
    assert_eq!(scene.read(1, file, 0, 10), b"cont");
    assert_eq!(scene.leader.recalls, 0);
}

#[test]
fn a_truncating_open_with_its_writes_is_two_entries() {
    let mut scene = Scene::new(1);
    let file = scene.file(0, "a", b"before");
    let before = scene.leader.operations.len();
    let fh = scene.open(0, file, OpenFlags { truncate: true, ..WRITER }).fh;
    assert_eq!(scene.getattr(0, file).0.size, 0);
    scene.write(0, file, fh, 0, b"now");
    scene.close(0, file, fh);
    assert_eq!(scene.read(0, file, 0, 10), b"now");
    assert_eq!(scene.proposed(before).len(), 2, "{:?}", scene.proposed(before));
}

#[test]
fn lookups_and_listings_neither_wait_nor_recall() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 0, b"buffered");
    match scene.call(1, Request::Lookup { parent: Ino::ROOT, name: name("a") }) {
        Ok(Response::Entry { attributes, attributes_ttl, .. }) => {
            assert_eq!((attributes.ino, attributes_ttl), (file, Duration::ZERO));
        }
        other => panic!("{other:?}"),
    }
    assert!(scene.call(1, Request::Readdir { ino: Ino::ROOT, offset: 0, length: 4096 }).is_ok());
    assert_eq!(scene.leader.recalls, 0);
}

#[test]
fn a_grant_makes_other_kernels_forget_the_file_before_anything_is_buffered() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"old");
    scene.lookup(1, Ino::ROOT, "a");
    assert_eq!(scene.read(1, file, 0, 10), b"old");
    let fh = scene.open(0, file, WRITER).fh;
    scene.forget_notified();
    scene.sides[1].is_stalled = true;
    let write = scene.send(0, Scene::write_request(file, fh, 0, b"new"));
    assert_eq!(scene.answer(0, write), None, "the other kernel still has the old bytes");
    scene.sides[1].is_stalled = false;
    scene.settle();
    assert!(is_written(scene.answer(0, write)));
    assert!(scene.sides[1].notified.contains(&Notification::Pages { ino: file, offset: 0, length: 0 }));
    assert_eq!(scene.read(1, file, 0, 10), b"new");
}

#[test]
fn a_recall_does_not_wait_for_the_completion_of_the_grant() {
    let mut scene = Scene::new(3);
    let file = scene.file(0, "a", b"old");
    for side in 1..3 {
        scene.lookup(side, Ino::ROOT, "a");
        scene.read(side, file, 0, 10);
    }
    let fh = scene.open(0, file, WRITER).fh;
    scene.sides[2].is_stalled = true;
    let write = scene.send(0, Scene::write_request(file, fh, 0, b"new"));
    let read = scene.send(1, Request::Read { ino: file, fh: 0, offset: 0, length: 10 });
    assert_eq!(scene.answer(0, write), None);
    assert!(matches!(scene.answer(1, read), Some(Ok(Response::Data(_)))), "given back unused");
    scene.sides[2].is_stalled = false;
    scene.settle();
    assert!(is_written(scene.answer(0, write)), "asked for once more");
    assert_eq!(scene.read(1, file, 0, 10), b"new");
}

#[test]
fn what_was_buffered_under_a_delegation_that_was_taken_away_is_never_applied() {
    let mut scene = Scene::new(2);
    let file = scene.file(1, "a", b"before");
    scene.lookup(0, Ino::ROOT, "a");
    let fh = scene.open(0, file, WRITER).fh;
    scene.write(0, file, fh, 0, b"buffered");
    scene.cut_off(0);
    let flush = scene.send(0, Request::Fsync { ino: file, fh });
    let read = scene.send(1, Request::Read { ino: file, fh: 0, offset: 0, length: 100 });
    scene.pass(Duration::from_secs(5));
    assert_eq!(scene.answer(1, read), None, "the holder may come back");
    scene.leader.end_holds(MountId(100));
    scene.settle();
    assert!(matches!(scene.answer(1, read), Some(Ok(Response::Data(_)))));
    let other = scene.open(1, file, WRITER).fh;
    scene.write(1, file, other, 0, b"after!");
    scene.close(1, file, other);
    scene.sides[0].is_cut_off = false;
    scene.pass(Duration::from_secs(3));
    assert_eq!(scene.answer(0, flush), Some(Err(Errno::EIO)));
    assert_eq!(scene.read(0, file, 0, 100), b"after!");
    assert_eq!(scene.read(1, file, 0, 100), b"after!");
    assert!(scene.sides[0].notified.contains(&Notification::Pages { ino: file, offset: 0, length: 0 }));
    assert_eq!(scene.sides[0].mount.status().counters.delegations_lost, 1);
    scene.write(0, file, fh, 0, b"anew");
    scene.close(0, file, fh);
    assert_eq!(scene.read(1, file, 0, 100), b"anewr!");
}

#[test]
fn a_file_that_two_mounts_write_in_turn_is_written_through() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"");
    scene.lookup(1, Ino::ROOT, "a");
    let handles = [0, 1].map(|side| scene.open(side, file, WRITER).fh);
    let mut expected = Vec::new();
    for number in 0..20_usize {
        let side = number % 2;
        let line = format!("{number:>3}\n");
        scene.write(side, file, handles[side], expected.len() as u64, line.as_bytes());
        expected.extend_from_slice(line.as_bytes());
        scene.pass(Duration::from_millis(10));
    }
    let grants = |scene: &Scene| {
        scene.leader.operations.iter().filter(|(_, operation)| matches!(operation, Operation::Delegate { .. })).count()
    };
    assert!(grants(&scene) <= 6, "{} grants for 20 writes", grants(&scene));
    let through: u64 = scene.sides.iter().map(|side| side.mount.status().counters.writes_through).sum();
    assert!(through >= 10, "{through}");
    assert_eq!(scene.read(1, file, 0, 1000), expected);
    // Left alone, the file is buffered again.
    scene.pass(Duration::from_secs(10));
    let before = scene.leader.operations.len();
    for number in 0..5 {
        scene.write(0, file, handles[0], number, b"x");
    }
    assert!(matches!(scene.proposed(before), [(0, Operation::Delegate { .. })]), "{:?}", scene.proposed(before));
}

#[test]
fn appends_under_a_delegation_and_elsewhere_lose_nothing() {
    let mut scene = Scene::new(2);
    let flags = WriteFlags { append: true, ..WriteFlags::default() };
    let append = |ino, fh, text: &str| Request::Write {
        ino,
        fh,
        offset: 0,
        data: Bytes::copy_from_slice(text.as_bytes()),
        flags,
    };
    let create = Request::Create {
        parent: Ino::ROOT,
        name: name("log"),
        mode: 0o644,
        umask: 0,
        flags: OpenFlags { append: true, ..WRITER },
    };
    let Ok(Response::Created { attributes, opened, .. }) = scene.call(0, create) else { panic!("no file") };
    let file = attributes.ino;
    let before = scene.leader.operations.len();
    for text in ["a1 ", "a2 "] {
        assert!(is_written(Some(scene.call(0, append(file, opened.fh, text)))));
    }
    assert_eq!(scene.proposed(before), [], "its creator buffers");
    scene.lookup(1, Ino::ROOT, "log");
    let other = scene.open(1, file, OpenFlags { append: true, ..WRITER }).fh;
    assert!(is_written(Some(scene.call(1, append(file, other, "b1 ")))));
    assert!(is_written(Some(scene.call(0, append(file, opened.fh, "a3 ")))));
    assert_eq!(scene.read(1, file, 0, 100), b"a1 a2 b1 a3 ");
    assert_eq!(scene.read(0, file, 0, 100), b"a1 a2 b1 a3 ");
}

#[test]
fn a_mount_without_a_lease_buffers_nothing_and_answers_from_what_it_has() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    let (held, held_fh) = scene.create(1, "b");
    scene.lookup(0, Ino::ROOT, "b");
    scene.write(1, held, held_fh, 0, b"elsewhere");
    scene.cut_off(0);
    let read = scene.send(0, Request::Read { ino: held, fh: 0, offset: 0, length: 10 });
    assert_eq!(scene.answer(0, read), None, "as long as the lease lasts");
    scene.pass(Timing::DEFAULT.write_timeout / 3);
    assert!(scene.sides[0].mount.status().cut_off);
    assert!(scene.answer(0, read).is_some_and(|answer| answer.is_ok()));
    assert_eq!(scene.read(0, held, 0, 10), b"");
    let write = scene.send(0, Scene::write_request(file, fh, 0, b"later"));
    assert_eq!(scene.answer(0, write), None, "answered when it is in the log");
    scene.sides[0].is_cut_off = false;
    scene.pass(Duration::from_secs(3));
    assert!(is_written(scene.answer(0, write)));
    assert_eq!(scene.read(0, held, 0, 10), b"elsewhere");
    scene.lookup(1, Ino::ROOT, "a");
    assert_eq!(scene.read(1, file, 0, 10), b"later");
}

/// A read index says how far the log is, not what another mount has buffered.
#[test]
fn a_mount_that_lost_its_lease_and_reaches_the_leader_recalls() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    scene.lookup(1, Ino::ROOT, "a");
    scene.leader.grants_leases = false;
    scene.pass(Timing::DEFAULT.lease);
    assert!(!scene.sides[1].mount.status().lease_held);
    scene.cut_off(0);
    scene.leader.confirms_reads = true;
    let read = scene.send(1, Request::Read { ino: file, fh: 0, offset: 0, length: 10 });
    scene.pass(Timing::DEFAULT.lease * 3);
    assert_eq!(scene.answer(1, read), None, "the holder may have more, and the leader answers");
    scene.sides[0].is_cut_off = false;
    scene.send(0, Scene::write_request(file, fh, 0, b"bytes"));
    scene.pass(Duration::from_secs(3));
    assert!(matches!(scene.answer(1, read), Some(Ok(Response::Data(_)))));
    assert_eq!(scene.read(1, file, 0, 10), b"bytes");
}

#[test]
fn write_back_of_a_mapping_waits_for_nobody() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"0123456789");
    scene.lookup(1, Ino::ROOT, "a");
    let fh = scene.open(0, file, WRITER).fh;
    let other = scene.open(1, file, WRITER).fh;
    scene.write(1, file, other, 0, b"B");
    scene.cut_off(1);
    let flags = WriteFlags { write_back: true, ..WriteFlags::default() };
    let request = Request::Write { ino: file, fh, offset: 4, data: Bytes::from_static(b"mmap"), flags };
    assert!(is_written(Some(scene.call(0, request))), "though another mount has the file, and is gone");
    scene.sides[1].is_cut_off = false;
    scene.pass(Duration::from_secs(5));
    for side in 0..2 {
        assert_eq!(scene.read(side, file, 0, 100), b"B123mmap89");
    }
}

#[test]
fn an_interrupted_writer_leaves_nothing_behind_and_the_file_is_given_back() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"old");
    scene.lookup(1, Ino::ROOT, "a");
    scene.read(1, file, 0, 10);
    let fh = scene.open(0, file, WRITER).fh;
    scene.sides[1].is_stalled = true;
    let write = scene.send(0, Scene::write_request(file, fh, 0, b"new"));
    scene.interrupt(0, write);
    scene.pass(Timing::DEFAULT.lease);
    assert_eq!(scene.answer(0, write), Some(Err(Errno::EINTR)));
    scene.sides[1].is_stalled = false;
    scene.settle();
    scene.close(0, file, fh);
    assert_eq!(scene.read(1, file, 0, 10), b"old");
    assert_eq!(scene.leader.volume.delegation(file), None);
}
