//! What a kernel believes of a file's size and mode: the answers that teach it so are not overtaken by what it is told to
//! forget (`lookups.rs`, `sizes.rs`).

use std::time::Duration;

use super::{
    super::{
        kernel::{TAKEN_OVER, TAKEN_OVER_UNSEEN},
        *,
    },
    scene::{CALLER, Scene, Step},
};
use crate::types::AttributeChanges;

fn chmod(ino: Ino, mode: u16) -> Request {
    Request::Setattr { ino, changes: AttributeChanges { mode: Some(mode), ..AttributeChanges::default() } }
}

/// A file of the first mount that the second has looked up and read.
fn read_elsewhere() -> (Scene, Ino) {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "f", b"content");
    scene.lookup(1, Ino::ROOT, "f");
    scene.getattr(1, file);
    scene.read(1, file, 0, 100);
    scene.pass(TAKEN_OVER);
    scene.forget_notified();
    (scene, file)
}

#[test]
fn what_the_kernel_has_forgotten_is_not_told_again() {
    let (mut scene, file) = read_elsewhere();
    assert!(scene.call(0, chmod(file, 0o600)).is_ok());
    let all = [Notification::Attributes { ino: file }, Notification::Pages { ino: file, offset: 0, length: 0 }];
    assert!(all.iter().all(|one| scene.sides[1].notified.contains(one)), "{:?}", scene.sides[1].notified);
    scene.forget_notified();
    assert!(scene.call(0, chmod(file, 0o640)).is_ok());
    assert_eq!(scene.sides[1].notified, [], "an answer that is under way would be overtaken for nothing");
    assert_eq!(scene.getattr(1, file).0.mode, 0o640);
}

#[test]
fn an_answer_is_taken_over_before_the_next_change_is_told() {
    let (mut scene, file) = read_elsewhere();
    assert!(scene.call(0, chmod(file, 0o600)).is_ok());
    let other = Caller { pid: CALLER.pid + 1, ..CALLER };
    scene.getattr(1, file);
    scene.send_as(1, 900, other, Request::Read { ino: file, fh: 0, offset: 0, length: 100 });
    scene.forget_notified();
    let changed = scene.send(0, chmod(file, 0o640));
    scene.pass(TAKEN_OVER - Duration::from_millis(1));
    assert_eq!((scene.answer(0, changed), &scene.sides[1].notified[..]), (None, &[][..]));
    assert_eq!(scene.getattr(1, file).1, Duration::ZERO, "what is about to be forgotten is not kept");
    scene.pass(Duration::from_millis(1));
    assert!(scene.answer(0, changed).is_some_and(|answer| answer.is_ok()));
    assert!(scene.sides[1].notified.contains(&Notification::Attributes { ino: file }));
}

/// Callers in a container with process numbers of its own: nothing proves that an answer was taken over, and it is waited
/// for a shorter time.
#[test]
fn callers_without_numbers_hold_up_a_change_for_a_moment_only() {
    let (mut scene, file) = read_elsewhere();
    let unseen = Caller { pid: 0, ..CALLER };
    assert!(scene.call(0, chmod(file, 0o600)).is_ok());
    scene.send_as(1, 900, unseen, Request::Getattr { ino: file, for_read: false });
    scene.send_as(1, 901, unseen, Request::Read { ino: file, fh: 0, offset: 0, length: 100 });
    let changed = scene.send(0, chmod(file, 0o640));
    scene.pass(TAKEN_OVER_UNSEEN - Duration::from_millis(1));
    assert_eq!(scene.answer(0, changed), None, "any thread may have sent the read");
    scene.pass(Duration::from_millis(1));
    assert!(scene.answer(0, changed).is_some_and(|answer| answer.is_ok()));
}

/// Linux sends what a mapping wrote from whatever thread wants its pages.
#[test]
fn writing_a_mapping_back_proves_nothing_of_what_a_thread_was_told() {
    let (mut scene, file) = read_elsewhere();
    let fh = scene.open(1, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    assert!(scene.call(0, chmod(file, 0o600)).is_ok());
    scene.getattr(1, file);
    let flags = WriteFlags { write_back: true, ..WriteFlags::default() };
    scene.send(1, Request::Write { ino: file, fh, offset: 0, data: bytes::Bytes::from_static(b"C"), flags });
    let changed = scene.send(0, chmod(file, 0o640));
    assert_eq!(scene.answer(0, changed), None);
    scene.pass(TAKEN_OVER);
    assert!(scene.answer(0, changed).is_some_and(|answer| answer.is_ok()));
}

#[test]
fn a_change_waits_for_what_is_being_told_and_needs_nothing_of_its_own() {
    let (mut scene, file) = read_elsewhere();
    scene.sides[1].is_stalled = true;
    let first = scene.send(0, chmod(file, 0o600));
    let told = scene.sides[1].mount.status().counters.notifications;
    let second = scene.send(0, chmod(file, 0o640));
    assert_eq!(scene.sides[1].mount.status().counters.notifications, told);
    assert_eq!((scene.answer(0, first), scene.answer(0, second)), (None, None));
    scene.sides[1].is_stalled = false;
    scene.settle();
    assert!(scene.answer(0, first).is_some() && scene.answer(0, second).is_some());
}

/// The second mount has an answer that waits until its kernel, which stands still, was told the size of a file.
pub(super) fn answered_behind_a_size() -> (Scene, Ino, u64) {
    let (mut scene, file) = read_elsewhere();
    let here = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    let there = scene.open(1, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    scene.write(0, file, here, 0, b"much longer!");
    scene.close(0, file, here);
    // Bytes in the middle: the kernel believes in the size of before, and keeps pages.
    scene.write(1, file, there, 0, b"M");
    scene.flush(1, file, there);
    scene.sides[1].is_stalled = true;
    scene.send(0, chmod(file, 0o600));
    let asked = scene.send(1, Request::Getattr { ino: file, for_read: false });
    assert_eq!(scene.answer(1, asked), None, "the kernel would drop the size");
    (scene, file, asked)
}

#[test]
fn a_size_that_the_kernel_would_not_take_over_is_told_first() {
    let (mut scene, file, asked) = answered_behind_a_size();
    scene.sides[1].is_stalled = false;
    scene.settle();
    let stored = scene.position(&Step::Told(1, Notification::Size { ino: file, from: 0, size: 12 }));
    assert!(stored < scene.position(&Step::Answered(1, asked)), "{:?}", scene.journal);
}

#[test]
fn a_name_of_a_file_that_is_being_written_elsewhere_tells_no_size() {
    let mut scene = Scene::new(2);
    let (file, fh) = scene.create(0, "f");
    scene.write(0, file, fh, 0, b"unseen");
    scene.lookup(1, Ino::ROOT, "f");
    assert!(scene.sides[1].mount.kernel.is_behind(file), "the bytes are complete, and not in the answer");
    assert_eq!(scene.getattr(1, file).0.size, 6);
    assert!(!scene.sides[1].mount.kernel.is_behind(file));
}

/// Neither the block of the file's end is here, nor is its last page free.
#[test]
fn a_size_is_told_around_pages_that_a_request_has_locked() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "f", &[7; 100_000]);
    scene.lookup(1, Ino::ROOT, "f");
    scene.open(1, file, OpenFlags::default());
    for store in scene.leader.stores.values_mut() {
        store.hangs = true;
    }
    let read = scene.send(1, Request::Read { ino: file, fh: 0, offset: 98_304, length: 4096 });
    assert_eq!(scene.answer(1, read), None, "its block is not here");
    let fh = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    let flags = WriteFlags { sync: true, ..WriteFlags::default() };
    let data = bytes::Bytes::from_static(b"more");
    let written = scene.call(0, Request::Write { ino: file, fh, offset: 100_000, data, flags });
    assert_eq!(written, Ok(Response::Written { length: 4 }), "nobody waits for the page");
    let size = Notification::Size { ino: file, from: 94_208, size: 100_004 };
    assert!(scene.sides[1].notified.contains(&size), "{:?}", scene.sides[1].notified);
}

/// A kernel that is told of a size alone drops an answer that is under way, and with it the mode.
#[test]
fn a_size_is_not_told_while_a_mode_is_doubtful() {
    let (mut scene, file) = read_elsewhere();
    scene.open(1, file, OpenFlags::default());
    let fh = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    let append = |scene: &mut Scene, offset: u64| {
        let flags = WriteFlags { sync: true, ..WriteFlags::default() };
        let data = bytes::Bytes::from_static(b"more");
        assert!(scene.call(0, Request::Write { ino: file, fh, offset, data, flags }).is_ok());
        let told = &scene.sides[1].notified;
        told.iter().any(|n| matches!(n, Notification::Size { size, .. } if *size == offset + 4))
    };
    assert!(append(&mut scene, 7), "behind its pages");
    assert!(append(&mut scene, 11), "and alone");
    assert!(scene.call(0, chmod(file, 0o600)).is_ok());
    assert!(!append(&mut scene, 15));
    // What is asked at once may have been asked before the kernel was told of the mode.
    scene.pass(TAKEN_OVER);
    assert_eq!(scene.getattr(1, file).0.size, 19, "who asks hears of both");
    scene.pass(TAKEN_OVER);
    assert!(append(&mut scene, 19));
}
