//! A process reads what its own write() returned for, whatever another thread's READ has put into the kernel's pages.

use std::time::Duration;

use super::{
    super::{kernel::TAKEN_OVER, *},
    scene::{CALLER, Scene, Step, config},
};
use crate::limits::Timing;

const READER: Caller = Caller { pid: 101, ..CALLER };
/// A container with process numbers of its own.
const NOBODY: Caller = Caller { pid: 0, ..CALLER };

fn read_request(ino: Ino) -> Request {
    Request::Read { ino, fh: 0, offset: 0, length: 4096 }
}

/// A file that process 100 writes to.
fn written(scene: &mut Scene) -> (Ino, u64) {
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 0, b"before");
    scene.forget_notified();
    (file, fh)
}

fn page(ino: Ino) -> Notification {
    Notification::Pages { ino, offset: 0, length: 4096 }
}

/// 129 of 580,000 reads were old with two serving threads: the one that had read a WRITE from the device took the core's
/// lock behind the one that had read a later READ. With one thread it was 3: the READ itself was earlier.
#[test]
fn pages_that_a_read_filled_from_before_a_write_go_before_anybody_reads_them() {
    let mut scene = Scene::new(1);
    let (file, fh) = written(&mut scene);
    let read = scene.send_as(0, 1000, READER, read_request(file));
    assert!(scene.answer(0, read).is_some());
    scene.sides[0].is_stalled = true;
    scene.write(0, file, fh, 0, b"after!");
    let asked = scene.send(0, Request::Getattr { ino: file, for_read: false });
    assert_eq!(scene.answer(0, asked), None, "its reader would go on to the page");
    scene.sides[0].is_stalled = false;
    scene.settle();
    assert_eq!(scene.sides[0].notified, [page(file)]);
    assert!(scene.position(&Step::Told(0, page(file))) < scene.position(&Step::Answered(0, asked)));
    assert!(matches!(scene.answer(0, asked), Some(Ok(Response::Attributes { .. }))));
    scene.write(0, file, fh, 0, b"again!");
    assert_eq!(scene.sides[0].notified.len(), 1, "the page is gone, and nobody has read since");
}

#[test]
fn a_write_is_not_doubted_where_its_writer_has_asked_or_read_since() {
    let mut scene = Scene::new(1);
    let (file, fh) = written(&mut scene);
    scene.send_as(0, 1000, READER, read_request(file));
    scene.getattr(0, file);
    scene.read(0, file, 0, 4096);
    scene.write(0, file, fh, 0, b"after!");
    assert_eq!(scene.sides[0].notified, []);
}

#[test]
fn callers_without_numbers_prove_nothing() {
    let mut scene = Scene::new(1);
    let (file, fh) = written(&mut scene);
    scene.send_as(0, 1000, NOBODY, read_request(file));
    scene.send_as(0, 1001, NOBODY, Request::Getattr { ino: file, for_read: false });
    scene.send_as(0, 1002, NOBODY, Scene::write_request(file, fh, 0, b"after!"));
    assert_eq!(scene.sides[0].notified, [page(file)]);
}

/// While a WRITE waits for the right to buffer, READs are answered without it.
#[test]
fn pages_that_a_read_filled_while_a_write_waited_go_behind_it() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"before");
    scene.lookup(1, Ino::ROOT, "a");
    let fh = scene.open(1, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    scene.pass(TAKEN_OVER);
    scene.forget_notified();
    let write = scene.post(1, Scene::write_request(file, fh, 0, b"after!"));
    let read = scene.send_as(1, 1000, READER, read_request(file));
    scene.pass(TAKEN_OVER);
    assert!(matches!(scene.answer(1, write), Some(Ok(Response::Written { .. }))));
    assert!(matches!(scene.answer(1, read), Some(Ok(Response::Data(_)))));
    assert!(scene.position(&Step::Answered(1, read)) < scene.position(&Step::Answered(1, write)));
    assert!(scene.sides[1].notified.contains(&page(file)), "{:?}", scene.sides[1].notified);
}

/// A direct write drops the pages below it before it is sent, and not again.
#[test]
fn pages_that_a_read_filled_before_an_append_go_behind_it() {
    let mut scene = Scene::new(1);
    let (file, _) = written(&mut scene);
    let flags = OpenFlags { write: true, append: true, ..OpenFlags::default() };
    let fh = scene.open(0, file, flags).fh;
    scene.send_as(0, 1000, READER, read_request(file));
    let flags = WriteFlags { append: true, ..WriteFlags::default() };
    let data = bytes::Bytes::from_static(b" and after");
    let append = Request::Write { ino: file, fh, offset: 6, data, flags };
    assert_eq!(scene.call(0, append), Ok(Response::Written { length: 10 }));
    assert!(scene.sides[0].notified.contains(&page(file)), "{:?}", scene.sides[0].notified);
}

#[test]
fn a_mount_that_is_cut_off_waits_for_no_pages() {
    let mut scene = Scene::with(vec![config(0)]);
    let (file, fh) = written(&mut scene);
    scene.send_as(0, 1000, READER, read_request(file));
    scene.sides[0].is_stalled = true;
    scene.write(0, file, fh, 0, b"after!");
    let asked = scene.send(0, Request::Getattr { ino: file, for_read: false });
    assert!(scene.sides[0].mount.requests.files_waited_for().next().is_some());
    scene.cut_off(0);
    scene.pass(Timing::DEFAULT.lease * 3);
    assert!(scene.sides[0].mount.requests.files_waited_for().next().is_none());
    // What is left to wait for is the file's last byte, as for every answer that comes behind a lease.
    scene.sides[0].is_stalled = false;
    scene.settle();
    assert!(matches!(scene.answer(0, asked), Some(Ok(Response::Attributes { .. }))));
}

/// Every write moved the mtime, the kernel dropped all pages at the next read, and most reads came back here.
#[test]
fn a_kernel_that_is_about_to_read_keeps_its_pages_over_own_writes() {
    let mut scene = Scene::new(1);
    let (file, fh) = written(&mut scene);
    let for_read = |scene: &mut Scene| match scene.call(0, Request::Getattr { ino: file, for_read: true }) {
        Ok(Response::Attributes { attributes, ttl: Duration::ZERO }) => (attributes.size, attributes.mtime),
        other => panic!("getattr: {other:?}"),
    };
    let before = for_read(&mut scene);
    scene.pass(TAKEN_OVER);
    scene.write(0, file, fh, 6, b" and after");
    assert_eq!((before.0, for_read(&mut scene)), (6, (16, before.1)));
    let shown = scene.getattr(0, file).0;
    assert!(shown.mtime > before.1, "stat(2) shows what is so");
    scene.close(0, file, fh);
    assert_eq!(scene.getattr(0, file).0.mtime, shown.mtime);
    let told = scene.call(0, Request::Getattr { ino: file, for_read: true });
    assert!(matches!(told, Ok(Response::Attributes { attributes, .. }) if attributes.mtime == shown.mtime));
}
