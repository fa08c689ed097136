//! Locks of a kernel's processes: in their order among the file's writes, over lost connections, and taken away.

use super::{super::*, scene::*};
use crate::{
    limits::Timing,
    types::{LockClaim, LockFamily, LockKind, LockRange, MountId},
};

fn fcntl(fh: u64, owner: u64, kind: LockKind, first: u64, last: u64) -> LockClaim {
    LockClaim { family: LockFamily::Fcntl, owner, kind, range: LockRange { first, last }, pid: 100, fh }
}

fn flock(fh: u64, kind: LockKind) -> LockClaim {
    LockClaim { family: LockFamily::Flock, owner: fh, kind, range: LockRange::ALL, pid: 100, fh }
}

fn lock(ino: Ino, claim: LockClaim, waits: bool) -> Request {
    Request::SetLock { ino, claim, waits }
}

/// Two mounts that have the same file open; its inode and the handles.
fn opened() -> (Scene, Ino, u64, u64) {
    let mut scene = Scene::new(2);
    let ino = scene.file(0, "f", b"before");
    scene.lookup(1, Ino::ROOT, "f").expect("made before");
    let (here, there) = (scene.open(0, ino, WRITER).fh, scene.open(1, ino, WRITER).fh);
    (scene, ino, here, there)
}

#[test]
fn a_lock_of_one_mount_excludes_on_the_other() {
    let (mut scene, ino, here, there) = opened();
    assert_eq!(scene.call(0, lock(ino, fcntl(here, 5, LockKind::Exclusive, 10, 19), false)), Ok(Response::Done));
    let claim = fcntl(there, 5, LockKind::Shared, 0, 10);
    assert_eq!(scene.call(1, lock(ino, claim, false)), Err(Errno::EAGAIN));
    assert_eq!(scene.call(1, lock(ino, flock(there, LockKind::Exclusive), false)), Ok(Response::Done));
    let Ok(Response::Lock(Some(found))) = scene.call(1, Request::GetLock { ino, claim }) else { panic!("it is held") };
    assert_eq!((found.kind, found.range, found.pid), (LockKind::Exclusive, LockRange { first: 10, last: 19 }, 0));
    let own = scene.call(0, Request::GetLock { ino, claim: fcntl(here, 6, LockKind::Shared, 0, 99) });
    assert!(matches!(own, Ok(Response::Lock(Some(found))) if found.pid == 100), "{own:?}");
    assert_eq!(
        scene.call(0, Request::Unlock { ino, claim: fcntl(here, 5, LockKind::Shared, 0, 99) }),
        Ok(Response::Done)
    );
    assert_eq!(scene.call(1, Request::GetLock { ino, claim }), Ok(Response::Lock(None)));
    assert_eq!(scene.call(1, lock(ino, claim, false)), Ok(Response::Done));
}

#[test]
fn who_opens_a_file_that_has_locks_tells_its_close() {
    let (mut scene, ino, here, _) = opened();
    let claim = fcntl(here, 5, LockKind::Shared, 0, 10);
    scene.call(0, lock(ino, claim, false)).expect("free");
    let other = scene.open(0, ino, OpenFlags::default());
    assert!(!other.no_flush);
    assert!(scene.open(1, ino, OpenFlags::default()).no_flush, "no process there has any");
    scene.call(0, Request::Flush { ino, fh: other.fh, owner: 5 }).expect("closed");
    assert_eq!(scene.call(1, Request::GetLock { ino, claim }), Ok(Response::Lock(None)));
    assert!(scene.open(0, ino, OpenFlags::default()).no_flush, "none is left");
}

/// The release is on its way to the log: what it gives back, and who gets that next, is asked for behind it.
#[test]
fn who_asks_what_is_locked_hears_nothing_of_what_was_closed_before() {
    let (mut scene, ino, here, there) = opened();
    let other = scene.open(0, ino, WRITER).fh;
    let ask = |fh| Request::GetLock { ino, claim: fcntl(fh, fh, LockKind::Shared, 0, 99) };
    for waits in [false, true] {
        let fh = if waits { other } else { here };
        scene.call(0, lock(ino, fcntl(fh, 5, LockKind::Exclusive, 0, 99), true)).expect("free");
        let waiting = waits.then(|| scene.send(1, lock(ino, fcntl(there, 6, LockKind::Exclusive, 10, 19), true)));
        scene.leader.delays = true;
        let closed = scene.send(0, Request::Release { ino, fh });
        assert_eq!(scene.answer(0, closed), Some(Ok(Response::Done)));
        let asked = scene.send(0, ask(99));
        assert_eq!(scene.answer(0, asked), None);
        scene.leader.propose_delayed();
        scene.settle();
        let found = scene.answer(0, asked);
        match waiting {
            None => assert_eq!(found, Some(Ok(Response::Lock(None)))),
            Some(_) => assert!(matches!(found, Some(Ok(Response::Lock(Some(found)))) if found.range.first == 10)),
        }
    }
}

#[test]
fn who_waits_gets_the_lock_with_all_that_was_written_under_it() {
    let (mut scene, ino, here, there) = opened();
    scene.call(0, lock(ino, flock(here, LockKind::Exclusive), true)).expect("free");
    let waiting = scene.send(1, lock(ino, flock(there, LockKind::Exclusive), true));
    scene.write(0, ino, here, 0, b"after!");
    scene.pass(2 * Timing::DEFAULT.write_timeout);
    assert_eq!(scene.answer(1, waiting), None, "it waits as long as it takes");
    assert_eq!(scene.read(1, ino, 0, 6), b"after!");
    scene.sides[1].is_stalled = true;
    let (data, flags) = (b"behind".to_vec().into(), WriteFlags { sync: true, ..WriteFlags::default() });
    scene.send(0, Request::Write { ino, fh: here, offset: 0, data, flags });
    scene.send(0, Request::Unlock { ino, claim: flock(here, LockKind::Shared) });
    assert_eq!(scene.answer(1, waiting), None, "its kernel still shows what was before");
    scene.sides[1].is_stalled = false;
    scene.settle();
    assert_eq!(scene.answer(1, waiting), Some(Ok(Response::Done)));
    assert_eq!(scene.read(1, ino, 0, 6), b"behind");
}

#[test]
fn locks_end_with_close_and_release_also_unasked() {
    let (mut scene, ino, here, there) = opened();
    scene.call(0, lock(ino, fcntl(here, 5, LockKind::Exclusive, 0, u64::MAX), false)).expect("free");
    scene.call(0, lock(ino, flock(here, LockKind::Exclusive), false)).expect("free");
    let claim = fcntl(there, 9, LockKind::Exclusive, 0, 0);
    scene.call(0, Request::Flush { ino, fh: here, owner: 4 }).expect("flushed");
    assert_eq!(scene.call(1, lock(ino, claim, false)), Err(Errno::EAGAIN), "another process closed it");
    scene.call(0, Request::Flush { ino, fh: here, owner: 5 }).expect("flushed");
    assert_eq!(scene.call(1, lock(ino, claim, false)), Ok(Response::Done));
    assert_eq!(scene.call(1, lock(ino, flock(there, LockKind::Shared), false)), Err(Errno::EAGAIN));
    scene.call(0, Request::Release { ino, fh: here }).expect("released");
    assert_eq!(scene.call(1, lock(ino, flock(there, LockKind::Shared), false)), Ok(Response::Done));
}

#[test]
fn a_signal_ends_the_wait_and_leaves_nothing() {
    let (mut scene, ino, here, there) = opened();
    scene.call(0, lock(ino, flock(here, LockKind::Exclusive), true)).expect("free");
    let waiting = scene.send(1, lock(ino, flock(there, LockKind::Exclusive), true));
    scene.interrupt(1, waiting);
    assert_eq!(scene.answer(1, waiting), Some(Err(Errno::EINTR)));
    scene.call(0, Request::Unlock { ino, claim: flock(here, LockKind::Shared) }).expect("held");
    assert_eq!(scene.call(0, lock(ino, flock(here, LockKind::Exclusive), false)), Ok(Response::Done));
}

/// docs/protocol.md R12-fencing: what a lost lock protected does not reach the file behind the back of its new owner.
#[test]
fn who_lost_his_lock_writes_nothing_until_he_closes() {
    let (mut scene, ino, here, there) = opened();
    // It has the delegation already.
    scene.write(0, ino, here, 0, b"before");
    scene.call(0, lock(ino, flock(here, LockKind::Exclusive), true)).expect("free");
    let waiting = scene.send(1, lock(ino, flock(there, LockKind::Exclusive), true));
    scene.cut_off(0);
    scene.write(0, ino, here, 0, b"under a lock that is lost");
    scene.leader.end_holds(MountId(100));
    scene.settle();
    assert_eq!(scene.answer(1, waiting), Some(Ok(Response::Done)));
    scene.write(1, ino, there, 0, b"mine");
    scene.flush(1, ino, there);
    scene.sides[0].is_cut_off = false;
    scene.pass(Timing::DEFAULT.session / 10);
    assert_eq!(scene.read(1, ino, 0, 99), b"minere", "nothing came behind");
    assert_eq!(scene.sides[0].mount.status().counters.locks_lost, 1);
    assert!(scene.sides[0].notices.iter().any(|notice| notice.contains("locks of 1 open files")));
    for _ in 0..2 {
        assert_eq!(scene.call(0, Scene::write_request(ino, here, 0, b"again")), Err(Errno::EIO));
    }
    assert_eq!(scene.call(0, Request::Flush { ino, fh: here, owner: 0 }), Err(Errno::EIO), "bytes were dropped");
    scene.call(0, Request::Release { ino, fh: here }).expect("released");
    let fresh = scene.open(0, ino, WRITER).fh;
    scene.write(0, ino, fresh, 0, b"new");
    scene.close(0, ino, fresh);
    assert_eq!(scene.read(1, ino, 0, 99), b"newere");
}

#[test]
fn who_loses_his_place_in_the_queue_asks_for_another() {
    let (mut scene, ino, here, there) = opened();
    scene.call(0, lock(ino, flock(here, LockKind::Exclusive), true)).expect("free");
    let waiting = scene.send(1, lock(ino, flock(there, LockKind::Exclusive), true));
    scene.leader.end_holds(MountId(101));
    scene.settle();
    scene.call(0, Request::Unlock { ino, claim: flock(here, LockKind::Shared) }).expect("held");
    assert_eq!(scene.answer(1, waiting), Some(Ok(Response::Done)));
}

/// The answer is an old one, from the reply table; the snapshot that brought its entry brought the end of all locks too.
#[test]
fn a_lock_that_was_lost_behind_a_snapshot_protects_nothing() {
    let (mut scene, ino, here, there) = opened();
    scene.leader.delays = true;
    let asked = scene.send(0, lock(ino, flock(here, LockKind::Exclusive), true));
    scene.cut_off(0);
    scene.leader.propose_delayed();
    scene.leader.end_holds(MountId(100));
    scene.call(1, lock(ino, flock(there, LockKind::Exclusive), true)).expect("free again");
    assert_eq!(scene.answer(0, asked), None);
    scene.leader.sends_snapshots = true;
    scene.sides[0].is_cut_off = false;
    scene.pass(Timing::DEFAULT.session / 10);
    assert_eq!(scene.answer(0, asked), Some(Ok(Response::Done)), "as if it had been lost a moment later");
    assert_eq!(scene.sides[0].mount.status().counters.locks_lost, 1);
    assert_eq!(scene.call(0, Scene::write_request(ino, here, 0, b"beside the other")), Err(Errno::EIO));
}
