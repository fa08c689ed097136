//! Bytes: written, flushed, appended, cut, streamed, read back here and elsewhere.

use std::time::Duration;

use bytes::Bytes;

use super::{
    super::{kernel::TAKEN_OVER, *},
    scene::{CALLER, Scene, config, name},
};
use crate::{
    limits::{self, Timing},
    namespace::{AllocateMode, Operation, XattrMode},
    types::{AttributeChanges, ClearSuid, NodeId, TimeChange, Timestamp, XattrName},
};

const MIB: usize = 1 << 20;

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at / 1000) as u8 ^ seed).collect()
}

fn append_request(ino: Ino, fh: u64, offset: u64, data: &[u8]) -> Request {
    let flags = WriteFlags { append: true, ..WriteFlags::default() };
    Request::Write { ino, fh, offset, data: Bytes::copy_from_slice(data), flags }
}

fn appender(scene: &mut Scene, side: usize, ino: Ino) -> u64 {
    scene.open(side, ino, OpenFlags { write: true, append: true, ..OpenFlags::default() }).fh
}

fn truncate(scene: &mut Scene, side: usize, ino: Ino, size: u64) {
    let changes = AttributeChanges { size: Some(size), ..AttributeChanges::default() };
    match scene.call(side, Request::Setattr { ino, changes }) {
        Ok(Response::Attributes { attributes, .. }) => assert_eq!(attributes.size, size),
        other => panic!("truncate: {other:?}"),
    }
}

#[test]
fn a_write_is_local_until_close() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    let before = scene.leader.operations.len();
    scene.write(0, file, fh, 0, b"hello ");
    scene.write(0, file, fh, 6, b"world");
    assert_eq!(scene.leader.operations.len(), before, "nothing travels yet");
    assert_eq!(scene.read(0, file, 0, 100), b"hello world");
    let (attributes, ttl) = scene.getattr(0, file);
    assert_eq!((attributes.size, ttl), (11, Duration::ZERO), "what is ahead of the replica is not cached");
    scene.flush(0, file, fh);
    assert_eq!(scene.leader.operations.len(), before + 1, "one entry carries both writes and gives the file back");
    scene.lookup(1, Ino::ROOT, "a");
    assert_eq!(scene.read(1, file, 0, 100), b"hello world");
    let (after, ttl) = scene.getattr(0, file);
    assert_eq!((after.size, after.mtime), (11, attributes.mtime), "stat does not change by the flush");
    assert_eq!(ttl, Timing::DEFAULT.cache);
}

#[test]
fn what_nobody_closes_is_flushed_at_its_age() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 0, b"one");
    scene.pass(Timing::DEFAULT.flush_age / 2);
    scene.write(0, file, fh, 3, b"two");
    assert_eq!(scene.leader.volume.attributes(file).map(|shown| shown.size), Some(0));
    scene.pass(Timing::DEFAULT.flush_age / 2);
    assert_eq!(scene.leader.volume.attributes(file).map(|shown| shown.size), Some(6), "the oldest byte decides");
    assert_eq!(scene.sides[0].mount.status().dirty_bytes, 0);
}

#[test]
fn a_large_file_goes_through_blocks_that_a_majority_has() {
    let mut scene = Scene::new(2);
    scene.leader.stores.get_mut(&NodeId(2)).expect("a store").is_down = true;
    let content = pattern(5 * MIB + 12_345, 1);
    let file = scene.file(0, "large", &content);
    assert_eq!(scene.lookup(1, Ino::ROOT, "large"), Some(file));
    assert_eq!(scene.getattr(1, file).0.size, content.len() as u64);
    for offset in [0, 3 * MIB - 100, 5 * MIB, MIB + 1] {
        let length = 2 * MIB;
        let end = (offset + length).min(content.len());
        assert_eq!(scene.read(1, file, offset as u64, length as u32), content[offset..end]);
    }
    let writes = scene.leader.operations.iter().filter(|(_, op)| matches!(op, Operation::Flush(_))).count();
    assert_eq!(writes, 1);
}

#[test]
fn a_stream_goes_out_while_it_is_written() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "stream");
    for number in 0..20 {
        scene.write(0, file, fh, (number * MIB) as u64, &pattern(MIB, number as u8));
    }
    let status = scene.sides[0].mount.status();
    assert!(status.dirty_bytes <= 8 * MIB as u64, "{}", status.dirty_bytes);
    assert_eq!(scene.getattr(0, file).0.size, 20 * MIB as u64);
    scene.close(0, file, fh);
    assert_eq!(scene.read(0, file, 7 * MIB as u64, MIB as u32), pattern(MIB, 7));
}

#[test]
fn holes_read_as_zeros_and_sizes_go_both_ways() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    scene.lookup(1, Ino::ROOT, "a");
    scene.write(0, file, fh, 10, b"xyz");
    truncate(&mut scene, 0, file, 20);
    let mut expected = vec![0; 20];
    expected[10..13].copy_from_slice(b"xyz");
    assert_eq!(scene.read(0, file, 0, 100), expected);
    assert_eq!(scene.read(1, file, 0, 100), expected);
    truncate(&mut scene, 0, file, 11);
    truncate(&mut scene, 0, file, 14);
    assert_eq!(scene.read(1, file, 8, 100), b"\0\0x\0\0\0");
    scene.write(0, file, fh, 200_000, b"far");
    assert_eq!(scene.read(0, file, 11, 5), b"\0\0\0\0\0");
    assert_eq!(scene.read(0, file, 199_999, 10), b"\0far");
    scene.close(0, file, fh);
    assert_eq!(scene.read(1, file, 199_999, 10), b"\0far");
}

#[test]
fn data_and_holes_are_found_with_and_without_a_flush() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 1000, &[1; 100]);
    for _ in 0..2 {
        let seek = |scene: &mut Scene, data, offset| {
            let request =
                if data { Request::SeekData { ino: file, offset } } else { Request::SeekHole { ino: file, offset } };
            scene.call(0, request)
        };
        assert_eq!(seek(&mut scene, true, 0), Ok(Response::Offset(1000)));
        assert_eq!(seek(&mut scene, true, 1050), Ok(Response::Offset(1050)));
        assert_eq!(seek(&mut scene, false, 0), Ok(Response::Offset(0)));
        assert_eq!(seek(&mut scene, false, 1000), Ok(Response::Offset(1100)));
        assert_eq!(seek(&mut scene, true, 1100), Err(Errno::ENXIO));
        scene.flush(0, file, fh);
    }
    // Two extents side by side are one stretch of data.
    scene.write(0, file, fh, 1100, &[2; 100]);
    assert_eq!(scene.call(0, Request::SeekHole { ino: file, offset: 1000 }), Ok(Response::Offset(1200)));
}

#[test]
fn appends_of_several_mounts_lose_and_interleave_nothing() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "log", b"");
    scene.lookup(1, Ino::ROOT, "log");
    let handles = [appender(&mut scene, 0, file), appender(&mut scene, 1, file)];
    for number in 0..30 {
        // Both kernels believe that the file is empty; both requests are under way at once.
        let lines: Vec<_> = (0..2)
            .map(|side| {
                let line = format!("{side}-{number}\n").repeat(side * 3 + 1);
                scene.post(side, append_request(file, handles[side], 0, line.as_bytes()))
            })
            .collect();
        scene.settle();
        for (side, unique) in lines.iter().enumerate() {
            assert!(matches!(scene.answer(side, *unique), Some(Ok(Response::Written { .. }))));
        }
    }
    let content = scene.read(0, file, 0, 100_000);
    assert_eq!(scene.read(1, file, 0, 100_000), content);
    let text = String::from_utf8(content).expect("lines");
    for number in 0..30 {
        assert!(text.contains(&format!("0-{number}\n")));
        assert!(text.contains(&format!("1-{number}\n").repeat(4)), "a write is in one piece");
    }
    assert_eq!(text.lines().count(), 30 * 5);
}

#[test]
fn an_append_lands_behind_what_the_same_mount_has_not_flushed() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 0, b"first ");
    let append = appender(&mut scene, 0, file);
    let large = pattern(MIB, 3);
    assert!(scene.call(0, append_request(file, append, 0, b"second ")).is_ok());
    assert!(scene.call(0, append_request(file, append, 0, &large)).is_ok());
    assert_eq!(scene.read(0, file, 0, 13), b"first second ");
    assert_eq!(scene.read(0, file, 13, MIB as u32 + 10), large);
}

#[test]
fn an_append_of_a_kernel_that_keeps_pages_makes_it_forget_them() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"0123456789");
    scene.lookup(1, Ino::ROOT, "a");
    // O_APPEND was set after the open, so the kernel wrote through its pages, at an end that is long gone.
    let fh = scene.open(1, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    scene.forget_notified();
    assert!(scene.call(1, append_request(file, fh, 4, b"end")).is_ok());
    assert_eq!(scene.read(1, file, 0, 100), b"0123456789end");
    assert!(scene.sides[1].notified.contains(&Notification::Pages { ino: file, offset: 4, length: 0 }));
}

#[test]
fn a_durable_write_is_answered_when_all_have_seen_it() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"before");
    let fh = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    scene.lookup(1, Ino::ROOT, "a");
    scene.read(1, file, 0, 10);
    scene.sides[1].is_stalled = true;
    let flags = WriteFlags { sync: true, ..WriteFlags::default() };
    let data = Bytes::from_static(b"durable");
    let unique = scene.send(0, Request::Write { ino: file, fh, offset: 0, data, flags });
    assert_eq!(scene.answer(0, unique), None);
    scene.sides[1].is_stalled = false;
    scene.settle();
    assert_eq!(scene.answer(0, unique), Some(Ok(Response::Written { length: 7 })));
}

#[test]
fn close_waits_for_completion_and_not_for_less() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    scene.lookup(1, Ino::ROOT, "a");
    scene.write(0, file, fh, 0, b"x");
    scene.leader.hears_late = true;
    let unique = scene.send(0, Request::Flush { ino: file, fh, owner: 0 });
    assert_eq!(scene.answer(0, unique), None);
    assert_eq!(scene.read(0, file, 0, 10), b"x", "a read waits for no completion");
    scene.leader.hear();
    scene.settle();
    assert_eq!(scene.answer(0, unique), Some(Ok(Response::Done)));
}

#[test]
fn times_set_after_a_write_stay() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 0, b"unpacked");
    let mtime = Timestamp { seconds: 1_000_000, nanoseconds: 5 };
    let changes = AttributeChanges { mtime: Some(TimeChange::To(mtime)), ..AttributeChanges::default() };
    assert!(scene.call(0, Request::Setattr { ino: file, changes }).is_ok());
    scene.close(0, file, fh);
    scene.lookup(1, Ino::ROOT, "a");
    assert_eq!(scene.getattr(1, file).0.mtime, mtime);
    assert_eq!(scene.read(1, file, 0, 100), b"unpacked");
}

#[test]
fn every_write_moves_mtime() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    let mut last = scene.getattr(0, file).0.mtime;
    for number in 0..4 {
        scene.write(0, file, fh, 0, &[number]);
        let mtime = scene.getattr(0, file).0.mtime;
        assert!(mtime > last, "{mtime:?} after {last:?}");
        last = mtime;
        scene.flush(0, file, fh);
        assert_eq!(scene.getattr(0, file).0.mtime, last);
    }
}

#[test]
fn a_write_clears_setuid_when_the_kernel_asks() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    let changes = AttributeChanges { mode: Some(0o4755), ..AttributeChanges::default() };
    assert!(scene.call(0, Request::Setattr { ino: file, changes }).is_ok());
    let flags = WriteFlags { clear_suid: ClearSuid::ByStranger, ..WriteFlags::default() };
    let data = Bytes::from_static(b"x");
    assert!(scene.call(0, Request::Write { ino: file, fh, offset: 0, data, flags }).is_ok());
    // A chmod behind the write is not undone by the write's flush.
    assert!(scene.call(0, Request::Setattr { ino: file, changes }).is_ok());
    scene.close(0, file, fh);
    assert_eq!(scene.getattr(0, file).0.mode, 0o4755);
}

#[test]
fn allocations_and_copies_by_others_than_root_clear_setuid() {
    let mut scene = Scene::new(2);
    let (from, fh) = scene.create(0, "from");
    scene.write(0, from, fh, 0, b"0123456789");
    let file = scene.file(0, "program", b"text");
    let changes = AttributeChanges { mode: Some(0o6755), ..AttributeChanges::default() };
    let allocate = Request::Allocate { ino: file, fh: 0, mode: AllocateMode::Extend, offset: 0, length: 100 };
    let copy = Request::CopyRange { from, from_offset: 0, to: file, to_offset: 0, length: 5 };
    for (unique, request) in [(900, allocate), (910, copy)] {
        for (number, uid, mode) in [(0, 0, 0o6755), (1, 33, 0o755)] {
            assert!(scene.call(0, Request::Setattr { ino: file, changes }).is_ok());
            scene.send_as(0, unique + number, Caller { uid, ..CALLER }, request.clone());
            scene.pass(TAKEN_OVER);
            assert!(scene.answer(0, unique + number).is_some_and(|answer| answer.is_ok()));
            assert_eq!((scene.getattr(0, file).0.mode, scene.getattr(1, file).0.mode), (mode, mode), "uid {uid}");
        }
    }
}

/// The kernel says of a truncation, and of an open that truncates, that it may end setgid, but not whether the caller is of
/// the file's group.
#[test]
fn setgid_without_group_execution_ends_with_a_change_by_a_stranger_alone() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "shared", b"text");
    let owner = AttributeChanges { gid: Some(50), ..AttributeChanges::default() };
    assert!(scene.call(0, Request::Setattr { ino: file, changes: owner }).is_ok());
    let clear_suid = ClearSuid::ByStranger;
    let open = OpenFlags { write: true, truncate: true, clear_suid, ..OpenFlags::default() };
    let cut = AttributeChanges { size: Some(1), clear_suid, ..AttributeChanges::default() };
    let flags = WriteFlags { clear_suid, ..WriteFlags::default() };
    let data = Bytes::from_static(b"x");
    let requests = [
        Request::Open { ino: file, flags: open },
        Request::Setattr { ino: file, changes: cut },
        Request::Write { ino: file, fh: 0, offset: 0, data, flags },
    ];
    for (unique, request) in (900..).step_by(10).zip(requests) {
        for (number, gid, left) in [(0, 50, 0o2666), (1, 51, 0o666)] {
            let changes = AttributeChanges { mode: Some(0o6666), ..AttributeChanges::default() };
            assert!(scene.call(0, Request::Setattr { ino: file, changes }).is_ok());
            scene.send_as(0, unique + number, Caller { uid: 33, gid, ..CALLER }, request.clone());
            scene.pass(TAKEN_OVER);
            assert!(scene.answer(0, unique + number).is_some_and(|answer| answer.is_ok()));
            let modes = (scene.getattr(0, file).0.mode, scene.getattr(1, file).0.mode);
            assert_eq!(modes, (left, left), "group {gid}, {request:?}");
        }
    }
}

#[test]
fn space_is_punched_and_ranges_are_copied() {
    let mut scene = Scene::new(2);
    let (from, fh) = scene.create(0, "from");
    let (to, _) = scene.create(0, "to");
    scene.lookup(1, Ino::ROOT, "to");
    scene.write(0, from, fh, 0, b"0123456789");
    let copy = Request::CopyRange { from, from_offset: 2, to, to_offset: 1, length: 5 };
    assert_eq!(scene.call(0, copy), Ok(Response::Written { length: 5 }));
    assert_eq!(scene.read(1, to, 0, 100), b"\x0023456");
    let punch = Request::Allocate { ino: to, fh: 0, mode: AllocateMode::Punch, offset: 2, length: 2 };
    assert_eq!(scene.call(0, punch), Ok(Response::Done));
    assert_eq!(scene.read(1, to, 0, 100), b"\x002\0\x0056");
    let grow = Request::Allocate { ino: to, fh: 0, mode: AllocateMode::Extend, offset: 0, length: 10 };
    assert_eq!(scene.call(0, grow), Ok(Response::Done));
    assert_eq!(scene.getattr(1, to).0.size, 10);
}

/// What one entry cannot change at once is asked for again until all of it is done; each caller sees the end only.
#[test]
fn a_file_in_many_pieces_is_cut_punched_and_written_over_to_the_end() {
    const PIECES: u64 = 2300;
    fn scattered(scene: &mut Scene, name: &str) -> (Ino, u64) {
        let (file, fh) = scene.create(0, name);
        (0..PIECES).for_each(|number| scene.write(0, file, fh, 2 * number, b"x"));
        scene.flush(0, file, fh);
        assert_eq!(scene.leader.volume.extents(file, 0, u64::MAX).count() as u64, PIECES);
        scene.lookup(1, Ino::ROOT, name);
        (file, fh)
    }
    let steps = |scene: &Scene, before: usize| scene.leader.operations.len() - before;
    let mut scene = Scene::new(2);

    let (file, _) = scattered(&mut scene, "cut");
    let before = scene.leader.operations.len();
    truncate(&mut scene, 1, file, 3);
    assert!(steps(&scene, before) >= 3);
    assert_eq!((scene.read(0, file, 0, 100), scene.read(1, file, 0, 100)), (b"x\0x".to_vec(), b"x\0x".to_vec()));

    let (file, _) = scattered(&mut scene, "punched");
    let before = scene.leader.operations.len();
    let punch = Request::Allocate { ino: file, fh: 0, mode: AllocateMode::Punch, offset: 2, length: 1 << 20 };
    assert_eq!(scene.call(0, punch), Ok(Response::Done));
    assert!(steps(&scene, before) >= 3);
    let mut expected = vec![0; 2 * PIECES as usize - 1];
    expected[0] = b'x';
    assert_eq!(scene.read(1, file, 0, 1 << 20), expected);

    let (file, fh) = scattered(&mut scene, "written");
    let before = scene.leader.operations.len();
    let content = pattern(MIB, 3);
    scene.write(0, file, fh, 0, &content);
    scene.flush(0, file, fh);
    assert!(steps(&scene, before) >= 3);
    assert_eq!(scene.read(1, file, 0, MIB as u32), content);
    assert_eq!(scene.leader.volume.extents(file, 0, u64::MAX).count(), 1);

    let (file, fh) = scattered(&mut scene, "replaced");
    let fh = {
        scene.close(0, file, fh);
        scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh
    };
    truncate(&mut scene, 0, file, 0);
    scene.write(0, file, fh, 0, b"new");
    scene.flush(0, file, fh);
    assert_eq!((scene.read(1, file, 0, 100), scene.getattr(1, file).0.size), (b"new".to_vec(), 3));
    assert_eq!(scene.leader.volume.further_extents(), 1, "of the file that was cut");
}

#[test]
fn a_copy_goes_behind_what_both_files_have_on_the_way() {
    let mut scene = Scene::new(1);
    let from = scene.file(0, "from", b"source");
    let (to, fh) = scene.create(0, "to");
    for store in scene.leader.stores.values_mut() {
        store.is_down = true;
    }
    let content = pattern(MIB, 4);
    scene.write(0, to, fh, 0, &content);
    let copy = scene.send(0, Request::CopyRange { from, from_offset: 0, to, to_offset: 10, length: 6 });
    assert_eq!(scene.answer(0, copy), None);
    for store in scene.leader.stores.values_mut() {
        store.is_down = false;
    }
    scene.pass(Duration::from_millis(500));
    assert_eq!(scene.answer(0, copy), Some(Ok(Response::Written { length: 6 })));
    let mut expected = content;
    expected[10..16].copy_from_slice(b"source");
    assert_eq!(scene.read(0, to, 0, MIB as u32), expected);
}

#[test]
fn many_small_appends_do_not_leave_many_extents() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "log", b"");
    let fh = appender(&mut scene, 0, file);
    let mut expected = Vec::new();
    for number in 0..600 {
        let line = format!("line {number} of a log\n");
        expected.extend_from_slice(line.as_bytes());
        assert!(scene.call(0, append_request(file, fh, 0, line.as_bytes())).is_ok());
    }
    let extents = scene.leader.volume.extents(file, 0, u64::MAX).count();
    assert!(extents < 100, "{extents} extents");
    scene.lookup(1, Ino::ROOT, "log");
    assert_eq!(scene.read(1, file, 0, 1 << 20), expected);
}

#[test]
fn full_stores_are_told_once_and_the_kernel_forgets_what_was_lost() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    for node in [1, 2] {
        scene.leader.stores.get_mut(&NodeId(node)).expect("a store").is_full = true;
    }
    scene.write(0, file, fh, 0, &pattern(MIB, 1));
    scene.forget_notified();
    assert_eq!(scene.call(0, Request::Flush { ino: file, fh, owner: 0 }), Err(Errno::ENOSPC));
    let pages = Notification::Pages { ino: file, offset: 0, length: 0 };
    assert!(scene.sides[0].notified.contains(&pages));
    assert_eq!(scene.call(0, Request::Flush { ino: file, fh, owner: 0 }), Ok(Response::Done), "once");
    assert_eq!(scene.getattr(0, file).0.size, 0);
    // In the background nobody waits: the next who asks is told.
    scene.write(0, file, fh, 0, &pattern(MIB, 1));
    scene.pass(Timing::DEFAULT.flush_age);
    assert_eq!(scene.call(0, Scene::write_request(file, fh, 0, b"more")), Err(Errno::ENOSPC));
    scene.write(0, file, fh, 0, b"small is inline");
    // A WRITE may be a part of a write(2), whose caller then sees a short count and no error.
    assert_eq!(scene.call(0, Request::Flush { ino: file, fh, owner: 0 }), Err(Errno::ENOSPC));
    scene.close(0, file, fh);
}

#[test]
fn writes_beyond_the_bound_wait_until_there_is_room() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.leader.proposes_nothing = true;
    let count = limits::DIRTY_BYTES_MAX / MIB;
    let data = pattern(MIB, 0);
    for number in 0..count {
        scene.write(0, file, fh, (number * MIB) as u64, &data);
    }
    let blocked: Vec<u64> = (count..count + 3)
        .map(|number| scene.send(0, Scene::write_request(file, fh, (number * MIB) as u64, &data)))
        .collect();
    assert!(blocked.iter().all(|unique| scene.answer(0, *unique).is_none()));
    // The write-back of a mapping never waits.
    let flags = WriteFlags { write_back: true, ..WriteFlags::default() };
    let request = Request::Write { ino: file, fh, offset: 0, data: Bytes::from_static(b"mapped"), flags };
    assert_eq!(scene.call(0, request), Ok(Response::Written { length: 6 }));
    scene.interrupt(0, blocked[2]);
    scene.pass(Timing::DEFAULT.lease);
    assert_eq!(scene.answer(0, blocked[2]), Some(Err(Errno::EINTR)));
    scene.leader.proposes_nothing = false;
    scene.disconnect(0);
    scene.pass(Duration::from_secs(1));
    for unique in &blocked[..2] {
        assert_eq!(scene.answer(0, *unique), Some(Ok(Response::Written { length: MIB as u32 })));
    }
    scene.close(0, file, fh);
    assert_eq!(scene.getattr(0, file).0.size, ((count + 2) * MIB) as u64);
    assert_eq!(scene.read(0, file, 0, 6), b"mapped");
}

#[test]
fn a_write_that_finds_no_room_fails_in_the_end() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.leader.proposes_nothing = true;
    for number in 0..limits::DIRTY_BYTES_MAX / MIB {
        scene.write(0, file, fh, (number * MIB) as u64, &pattern(MIB, 0));
    }
    let unique = scene.send(0, Scene::write_request(file, fh, 0, b"x"));
    scene.pass(Timing::DEFAULT.write_timeout);
    assert_eq!(scene.answer(0, unique), Some(Err(Errno::EIO)));
}

/// A file of so many pieces that a cut takes several entries.
fn scattered_file(scene: &mut Scene, text: &str) -> Ino {
    let (file, fh) = scene.create(0, text);
    for round in 0..4 * limits::EXTENTS_PER_CALL_MAX / limits::PIECES_MAX {
        for piece in 0..limits::PIECES_MAX {
            scene.write(0, file, fh, 2 * (round * limits::PIECES_MAX + piece) as u64, b"x");
        }
        scene.flush(0, file, fh);
    }
    scene.close(0, file, fh);
    file
}

/// What the leader has taken goes into the log; what comes then has to wait in its turn.
fn carry_delayed_out(scene: &mut Scene) {
    scene.leader.propose_delayed();
    scene.leader.delays = true;
    scene.settle();
}

/// A truncation of a large file of very many pieces failed with EIO behind the write timeout, though each of its parts was
/// carried out within it.
#[test]
fn a_change_that_is_carried_out_in_parts_is_not_late_while_it_gets_on() {
    let part = Timing::DEFAULT.write_timeout * 2 / 3;
    let mut scene = Scene::new(1);
    let file = scattered_file(&mut scene, "a");
    let changes = AttributeChanges { size: Some(0), ..AttributeChanges::default() };
    scene.leader.delays = true;
    let cut = scene.send(0, Request::Setattr { ino: file, changes });
    let behind = scene.send(
        0,
        Request::Setxattr {
            ino: file,
            name: XattrName::new(b"user.a").expect("a good name"),
            value: Bytes::new(),
            mode: XattrMode::Set,
            clear_sgid: false,
        },
    );
    let mut parts = 0;
    while scene.answer(0, cut).is_none() {
        scene.pass(part);
        parts += 1;
        carry_delayed_out(&mut scene);
    }
    assert!(parts > 3, "{parts}");
    assert!(matches!(scene.answer(0, cut), Some(Ok(Response::Attributes { .. }))), "{:?}", scene.answer(0, cut));
    carry_delayed_out(&mut scene);
    assert_eq!(scene.answer(0, behind), Some(Ok(Response::Done)));

    // Under a delegation the cut goes with a flush; fsync waits for it.
    scene.leader.delays = false;
    let file = scattered_file(&mut scene, "b");
    let fh = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    scene.write(0, file, fh, 0, b"y");
    truncate(&mut scene, 0, file, 0);
    scene.leader.delays = true;
    let synced = scene.send(0, Request::Fsync { ino: file, fh });
    for _ in 0..parts {
        scene.pass(part);
        carry_delayed_out(&mut scene);
    }
    assert_eq!(scene.answer(0, synced), Some(Ok(Response::Done)));

    // What gets nowhere is late as before, and so is who was hit by a signal.
    scene.leader.delays = false;
    let file = scattered_file(&mut scene, "c");
    scene.leader.delays = true;
    let cut = scene.send(0, Request::Setattr { ino: file, changes });
    scene.pass(part);
    carry_delayed_out(&mut scene);
    scene.pass(Timing::DEFAULT.write_timeout - Duration::from_millis(1));
    assert_eq!(scene.answer(0, cut), None);
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.answer(0, cut), Some(Err(Errno::EIO)));
    scene.leader.delays = false;
    let file = scattered_file(&mut scene, "d");
    scene.leader.delays = true;
    let cut = scene.send(0, Request::Setattr { ino: file, changes });
    scene.interrupt(0, cut);
    carry_delayed_out(&mut scene);
    scene.pass(Timing::DEFAULT.lease);
    assert_eq!(scene.answer(0, cut), Some(Err(Errno::EINTR)));
}

/// fsync of a file that takes many entries failed with EIO behind the write timeout, however steadily they were applied.
/// So did a WRITE that waited for room.
#[test]
fn who_waits_for_many_changes_is_not_late_while_they_get_on() {
    let part = Timing::DEFAULT.write_timeout * 2 / 3;
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    for piece in 0..4 * limits::PIECES_MAX as u64 {
        scene.write(0, file, fh, 2 * piece, b"x");
    }
    scene.leader.delays = true;
    let synced = scene.send(0, Request::Fsync { ino: file, fh });
    let mut parts = 0;
    while scene.answer(0, synced).is_none() {
        scene.pass(part);
        carry_delayed_out(&mut scene);
        parts += 1;
    }
    assert!(parts > 2, "{parts}");
    assert_eq!(scene.answer(0, synced), Some(Ok(Response::Done)));

    let more = 24;
    let writes: Vec<u64> = (0..limits::DIRTY_BYTES_MAX / MIB + more)
        .map(|number| scene.send(0, Scene::write_request(file, fh, (number * MIB) as u64, &pattern(MIB, 0))))
        .collect();
    let last = writes[writes.len() - 1];
    let mut parts = 0;
    while scene.answer(0, last).is_none() {
        scene.pass(part);
        carry_delayed_out(&mut scene);
        parts += 1;
    }
    assert!(parts > 1, "{parts}");
    for write in writes {
        assert!(matches!(scene.answer(0, write), Some(Ok(Response::Written { .. }))), "{:?}", scene.answer(0, write));
    }

    // Where nothing is applied it is late.
    scene.leader.propose_delayed();
    scene.settle();
    scene.leader.delays = true;
    scene.write(0, file, fh, 0, b"y");
    let synced = scene.send(0, Request::Fsync { ino: file, fh });
    scene.pass(Timing::DEFAULT.write_timeout);
    assert_eq!(scene.answer(0, synced), Some(Err(Errno::EIO)));
}

#[test]
fn writes_of_two_mounts_stand_in_the_order_of_their_calls() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"aaaaaaaaaa");
    scene.lookup(1, Ino::ROOT, "a");
    let fh = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    let other = scene.open(1, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    scene.write(0, file, fh, 2, b"XX");
    scene.write(1, file, other, 0, b"bbbbb");
    scene.flush(1, file, other);
    assert_eq!(scene.read(0, file, 0, 100), b"bbbbbaaaaa");
    scene.write(0, file, fh, 2, b"XX");
    assert_eq!(scene.read(1, file, 0, 100), b"bbXXbaaaaa", "only the bytes that were written");
    scene.flush(0, file, fh);
}

#[test]
fn a_cache_smaller_than_one_read_starves_nobody() {
    let mut scene = Scene::with(vec![config(0), Config { content_cache_bytes: 10_000, ..config(1) }]);
    let (file, fh) = scene.create(0, "a");
    let content = pattern(40 * 8192, 9);
    for (number, part) in content.chunks(8192).enumerate() {
        scene.write(0, file, fh, (number * 8192) as u64, part);
        scene.flush(0, file, fh);
    }
    assert!(scene.leader.volume.extents(file, 0, u64::MAX).count() >= 40);
    scene.lookup(1, Ino::ROOT, "a");
    assert_eq!(scene.read(1, file, 0, content.len() as u32), content);
    assert!(scene.sides[1].mount.status().cached_bytes <= 10_000);
}

#[test]
fn a_sequential_reader_finds_the_next_block_here() {
    let mut scene = Scene::new(2);
    let content = pattern(6 * MIB, 2);
    let file = scene.file(0, "a", &content);
    scene.lookup(1, Ino::ROOT, "a");
    scene.open(1, file, OpenFlags::default());
    for number in 0..4 {
        scene.read(1, file, (number * 128 * 1024) as u64, 128 * 1024);
    }
    let before = scene.sides[1].mount.status().counters.content_misses;
    assert_eq!(scene.read(1, file, MIB as u64, 4096), content[MIB..MIB + 4096]);
    assert_eq!(scene.sides[1].mount.status().counters.content_misses, before);
}

#[test]
fn a_slow_store_is_passed_by_and_dead_ones_end_in_eio() {
    let mut scene = Scene::new(2);
    let content = pattern(MIB, 2);
    let file = scene.file(0, "a", &content);
    scene.lookup(1, Ino::ROOT, "a");
    for node in [1, 2] {
        scene.leader.stores.get_mut(&NodeId(node)).expect("a store").hangs = true;
    }
    let read = Request::Read { ino: file, fh: 0, offset: 0, length: 100 };
    let unique = scene.send(1, read.clone());
    scene.pass(Duration::from_millis(101));
    assert_eq!(scene.answer(1, unique), Some(Ok(Response::Data(vec![Bytes::copy_from_slice(&content[..100])]))));
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", &content);
    scene.lookup(1, Ino::ROOT, "a");
    for store in scene.leader.stores.values_mut() {
        store.is_down = true;
    }
    let unique = scene.send(1, read);
    scene.pass(Timing::DEFAULT.write_timeout / 2);
    assert_eq!(scene.answer(1, unique), None, "some store may come back");
    scene.pass(Timing::DEFAULT.write_timeout / 2);
    assert_eq!(scene.answer(1, unique), Some(Err(Errno::EIO)));
    assert!(scene.lookup(1, Ino::ROOT, "a") == Some(file));
}

#[test]
fn a_reader_sees_what_was_applied_while_its_block_was_on_the_way() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", &pattern(MIB, 2));
    scene.lookup(1, Ino::ROOT, "a");
    for store in scene.leader.stores.values_mut() {
        store.hangs = true;
    }
    let unique = scene.send(1, Request::Read { ino: file, fh: 0, offset: 0, length: 10 });
    assert_eq!(scene.answer(1, unique), None);
    let fh = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    scene.write(0, file, fh, 0, b"newer data");
    scene.flush(0, file, fh);
    assert_eq!(scene.answer(1, unique), Some(Ok(Response::Data(vec![Bytes::from_static(b"newer data")]))));
}

#[test]
fn bad_writes_are_refused() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    let directory = scene.mkdir(0, Ino::ROOT, "d");
    let write = |ino, offset| Scene::write_request(ino, fh, offset, b"x");
    assert_eq!(scene.call(0, write(file, limits::FILE_BYTES_MAX)), Err(Errno::EFBIG));
    assert_eq!(scene.call(0, write(file, u64::MAX)), Err(Errno::EFBIG));
    assert_eq!(scene.call(0, write(directory, 0)), Err(Errno::EINVAL));
    assert_eq!(scene.call(0, write(Ino(999), 0)), Err(Errno::ESTALE));
    let read = Request::Read { ino: directory, fh: 0, offset: 0, length: 1 };
    assert_eq!(scene.call(0, read), Err(Errno::EISDIR));
    let read = Request::Read { ino: file, fh: 0, offset: u64::MAX, length: u32::MAX };
    assert_eq!(scene.call(0, read), Ok(Response::Data(vec![])));
}

#[test]
fn an_open_that_truncates_is_answered_when_the_file_is_cut() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"content");
    scene.lookup(1, Ino::ROOT, "a");
    let flags = OpenFlags { write: true, truncate: true, ..OpenFlags::default() };
    let opened = scene.open(1, file, flags);
    assert_eq!(scene.getattr(0, file).0.size, 0);
    scene.write(1, file, opened.fh, 0, b"new");
    scene.close(1, file, opened.fh);
    assert_eq!(scene.read(0, file, 0, 100), b"new");
    let unique = scene.send_as(0, 7_777, CALLER, Request::Unlink { parent: Ino::ROOT, name: name("a") });
    assert_eq!(scene.answer(0, unique), Some(Ok(Response::Done)));
    scene.forget(1, file, u64::MAX);
    assert_eq!(scene.call(1, Request::Open { ino: file, flags }), Err(Errno::ESTALE));
}
