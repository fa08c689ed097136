//! `--opens=untracked`: no open and no close is told (docs/protocol.md R14-closes, R15-orphans).

use super::{
    super::*,
    scene::{Scene, config, name},
};
use crate::limits::Timing;

const T: Timing = Timing::DEFAULT;

/// An untracked mount and one that is not.
fn scene() -> Scene {
    Scene::with(vec![Config { opens: Opens::Untracked, ..config(0) }, config(1)])
}

impl Scene {
    fn is_delegated(&self, ino: Ino) -> bool {
        self.leader.volume.delegation(ino).is_some()
    }
}

#[test]
fn the_kernel_is_told_not_to_ask() {
    let mut scene = scene();
    let file = scene.file(1, "f", b"content");
    scene.lookup(0, Ino::ROOT, "f");
    let write = OpenFlags { write: true, ..OpenFlags::default() };
    for flags in [OpenFlags::default(), write] {
        assert_eq!(scene.call(0, Request::Open { ino: file, flags }), Err(Errno::ENOSYS));
    }
    assert_eq!(scene.call(0, Request::Flush { ino: file, fh: 0, owner: 7 }), Err(Errno::ENOSYS));
    let (created, fh) = scene.create(0, "g");
    scene.write(0, created, fh, 0, b"x");
    assert_eq!(scene.call(0, Request::Release { ino: created, fh: 0 }), Ok(Response::Done), "of some kernels");
}

#[test]
fn a_delegation_goes_back_with_age_whether_or_not_it_was_used() {
    let mut scene = scene();
    let (used, used_fh) = scene.create(0, "used");
    let (unused, _) = scene.create(0, "unused");
    scene.write(0, used, used_fh, 0, b"content");
    assert!(scene.is_delegated(used) && scene.is_delegated(unused));
    scene.pass(T.flush_age);
    assert!(!scene.is_delegated(used) && !scene.is_delegated(unused));
    assert_eq!(scene.sides[0].mount.status().dirty_bytes, 0);
    // Asked for by a write, flushed by fsync in between, and kept no longer for that.
    scene.write(0, used, 0, 0, b"changed");
    scene.call(0, Request::Fsync { ino: used, fh: 0 }).expect("synced");
    assert!(scene.is_delegated(used));
    scene.pass(T.flush_age);
    assert!(!scene.is_delegated(used));
    assert_eq!(scene.read(1, used, 0, 7), b"changed");
}

#[test]
fn a_write_is_seen_elsewhere_before_any_close() {
    let mut scene = scene();
    let file = scene.file(1, "f", b"content");
    scene.lookup(0, Ino::ROOT, "f");
    let before = scene.leader.operations.len();
    for text in [b"one", b"two"] {
        scene.write(0, file, 0, 0, text);
    }
    let asked = scene.leader.operations[before..].iter().filter(|(side, _)| *side == 0).count();
    assert_eq!(asked, 1, "the delegation is asked for once and holds for both");
    assert_eq!(scene.read(1, file, 0, 7), b"twotent");
}

/// Nobody was told by a close that the bytes are not safe: they are not given up, not even when the kernel forgets.
#[test]
fn what_was_written_is_kept_through_any_outage() {
    let mut scene = scene();
    let (file, fh) = scene.create(0, "f");
    scene.write(0, file, fh, 0, b"content");
    scene.cut_off(0);
    scene.pass(2 * T.write_timeout);
    scene.forget(0, file, 1);
    scene.pass(T.lease);
    assert_eq!(scene.lookup(0, Ino::ROOT, "f"), Some(file));
    assert_eq!(scene.read(0, file, 0, 7), b"content");
    assert_eq!(scene.sides[0].mount.status().dirty_bytes, 7);
}

#[test]
fn any_file_that_the_kernel_knows_may_be_open() {
    let mut scene = scene();
    let file = scene.file(1, "f", b"content");
    scene.lookup(0, Ino::ROOT, "f");
    scene.getattr(0, file);
    assert!(scene.sides[0].watched.values().any(|watched| *watched == (file, true)), "the holder watches it");
    scene.call(1, Request::Unlink { parent: Ino::ROOT, name: name("f") }).expect("unlinked");
    scene.leader.reap();
    scene.settle();
    assert_eq!(scene.read(0, file, 0, 7), b"content");
    scene.forget(0, file, 1);
    scene.forget(1, file, u64::MAX);
    scene.pass(T.lease);
    scene.leader.reap();
    scene.settle();
    assert!(scene.leader.volume.inode(file).is_none());
    assert!(!scene.sides[0].watched.values().any(|watched| watched.0 == file));
}
