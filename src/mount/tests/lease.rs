//! The lease and the kernel's caches: what ends with it, by whom, and when (docs/protocol.md R7-forgetting).

use std::{collections::BTreeSet, time::Duration};

use super::{super::*, scene::*};
use crate::{limits::Timing, mount::WhenDisconnected};

const T: Timing = Timing::DEFAULT;

fn watched(scene: &Scene, side: usize) -> BTreeSet<(Ino, bool)> {
    scene.sides[side].watched.values().copied().collect()
}

#[test]
fn the_holder_knows_directories_and_open_files_and_nothing_else() {
    let mut scene = Scene::new(2);
    let directory = scene.mkdir(0, Ino::ROOT, "d");
    let file = scene.file(0, "f", b"content");
    assert_eq!(watched(&scene, 1), BTreeSet::from([(Ino::ROOT, false)]));
    scene.lookup(1, Ino::ROOT, "d");
    scene.lookup(1, Ino::ROOT, "f");
    assert_eq!(watched(&scene, 1), BTreeSet::from([(Ino::ROOT, false), (directory, false)]));
    let first = scene.open(1, file, OpenFlags::default()).fh;
    let second = scene.open(1, file, OpenFlags::default()).fh;
    assert!(watched(&scene, 1).contains(&(file, true)));
    scene.call(1, Request::Release { ino: file, fh: first }).expect("released");
    assert!(watched(&scene, 1).contains(&(file, true)));
    scene.call(1, Request::Release { ino: file, fh: second }).expect("released");
    scene.forget(1, directory, 1);
    assert_eq!(watched(&scene, 1), BTreeSet::from([(Ino::ROOT, false)]));
    let listed: Vec<Output> = scene.sides[1].mount.watch().collect();
    assert!(matches!(&listed[..], [Output::Watch { inode: Some((Ino::ROOT, false)), .. }, Output::Deadline(Some(_))]));
}

#[test]
fn the_holder_acts_before_the_lease_ends_and_after_this_mount_had_its_time() {
    let mut scene = Scene::new(1);
    let deadline = scene.sides[0].deadline.expect("the lease is held");
    let early = T.forget_time(1);
    assert!(deadline <= scene.now.after(T.lease - early / 2) && deadline > scene.now.after(T.lease / 2));
    scene.sides[0].is_stalled = true;
    scene.leader.is_up = false;
    scene.disconnect(0);
    let deadline = scene.sides[0].deadline.expect("nothing has changed yet");
    scene.pass(deadline.since(scene.now) - early);
    assert!(scene.sides[0].mount.status().lease_held);
    // This mount begins; until its kernel is done the holder stands by, and acts if it is not.
    scene.pass(early - Duration::from_millis(1));
    assert!(!scene.sides[0].mount.status().lease_held && scene.sides[0].deadline == Some(deadline));
    scene.sides[0].is_stalled = false;
    scene.settle();
    assert_eq!(scene.sides[0].deadline, None, "the kernel has forgotten");
}

#[test]
fn more_inodes_take_more_time_to_forget() {
    let mut scene = Scene::new(2);
    let held = |scene: &Scene| scene.sides[1].mount.caches_until().expect("the lease is held");
    let (before, lease) = (held(&scene), scene.sides[1].mount.client.lease_until());
    for number in 0..100 {
        scene.mkdir(0, Ino::ROOT, &number.to_string());
        scene.lookup(1, Ino::ROOT, &number.to_string());
    }
    assert_eq!(lease, scene.sides[1].mount.client.lease_until(), "no time has passed");
    assert_eq!(before.since(held(&scene)), T.forget_time(101) - T.forget_time(1));
    let early = T.forget_time(101) - T.forget_time(1);
    assert!(early >= Duration::from_micros(150), "1.5 us for each");
    assert!(T.forget_time(usize::MAX) < T.lease, "some of the lease is left for caching");
}

#[test]
fn without_inc_epoch_names_expire_with_the_lease() {
    for inc_epoch in [true, false] {
        let kernel = KernelFeatures { inc_epoch, inval_entry: true };
        let mut scene = Scene::with(vec![Config { kernel, ..config(0) }]);
        scene.file(0, "f", b"");
        let deadline = scene.sides[0].deadline.expect("the lease is held");
        for (text, is_there) in [("f", true), ("none", false)] {
            let ttl = match scene.call(0, Request::Lookup { parent: Ino::ROOT, name: name(text) }) {
                Ok(Response::Entry { entry_ttl, .. }) if is_there => entry_ttl,
                Ok(Response::Missing { ttl }) if !is_there => ttl,
                other => panic!("{other:?}"),
            };
            assert!(ttl > Duration::ZERO);
            assert_eq!(scene.now.after(ttl) <= deadline, !inc_epoch, "{text}: {ttl:?}");
        }
    }
}

#[test]
fn names_are_kept_only_where_the_kernel_forgets_them() {
    let kernel = KernelFeatures { inc_epoch: true, inval_entry: false };
    let mut scene = Scene::with(vec![Config { kernel, ..config(0) }]);
    for is_kept in [false, true] {
        let create = Request::Create {
            parent: Ino::ROOT,
            name: name(if is_kept { "second" } else { "first" }),
            mode: 0o644,
            umask: 0,
            flags: OpenFlags::default(),
        };
        let Ok(Response::Created { entry_ttl: made, .. }) = scene.call(0, create) else { panic!("created") };
        let mut lookup = |text| match scene.call(0, Request::Lookup { parent: Ino::ROOT, name: name(text) }) {
            Ok(Response::Entry { entry_ttl, .. }) => entry_ttl,
            Ok(Response::Missing { ttl }) => ttl,
            other => panic!("{other:?}"),
        };
        for ttl in [made, lookup("first"), lookup("none")] {
            assert_eq!(ttl > Duration::ZERO, is_kept);
        }
        scene.sides[0].mount.handle(scene.now, Input::Probed { inval_entry: true });
    }
    assert!(scene.sides[0].mount.status().kernel.inval_entry);
}

/// Two mounts, one of which has lost its lease to a leader that it still reaches, and behind that a change of the other.
fn out_of_the_roster(when_disconnected: WhenDisconnected) -> Scene {
    let mut scene = Scene::with(vec![config(0), Config { when_disconnected, ..config(1) }]);
    let file = scene.file(0, "f", b"before");
    assert_eq!(scene.lookup(1, Ino::ROOT, "f"), Some(file));
    scene.leader.grants_leases = false;
    scene.leader.confirms_reads = false;
    scene.pass(T.lease);
    assert!(!scene.sides[1].mount.status().lease_held);
    scene
}

#[test]
fn without_a_lease_reads_are_answered_behind_a_read_index_and_not_kept() {
    for policy in [WhenDisconnected::Serve, WhenDisconnected::Block] {
        let mut scene = out_of_the_roster(policy);
        let lookup = Request::Lookup { parent: Ino::ROOT, name: name("f") };
        let asked = scene.send(1, lookup.clone());
        assert_eq!(scene.answer(1, asked), None, "the replica may be behind");
        scene.leader.confirms_reads = true;
        // What is asked on a connection is asked anew on the next.
        scene.disconnect(1);
        scene.pass(T.heartbeat * 3);
        let answer = scene.answer(1, asked).expect("answered").expect("it is there");
        assert!(matches!(answer, Response::Entry { entry_ttl: Duration::ZERO, attributes_ttl: Duration::ZERO, .. }));
        assert!(!scene.sides[1].mount.status().lease_held && !scene.sides[1].mount.status().cut_off);
        assert!(scene.call(1, lookup).is_ok(), "and each further one asks for itself");
    }
}

#[test]
fn a_read_waits_for_its_entries_and_not_for_the_notifications_of_these() {
    let mut scene = out_of_the_roster(WhenDisconnected::Block);
    scene.leader.confirms_reads = true;
    scene.cut_off(1);
    let asked = scene.send(1, Request::Lookup { parent: Ino::ROOT, name: name("g") });
    scene.file(0, "g", b"new");
    scene.pass(T.lease * 10);
    assert_eq!(scene.answer(1, asked), None, "a mount that blocks answers nothing old");
    assert!(scene.sides[1].mount.status().cut_off);
    scene.sides[1].is_stalled = true;
    scene.sides[1].is_cut_off = false;
    scene.pass(T.lease * 2);
    assert!(matches!(scene.answer(1, asked), Some(Ok(Response::Entry { .. }))), "R10-read-index");
    assert!(!scene.sides[1].mount.status().lease_held, "its kernel has not forgotten yet");
}

#[test]
fn a_mount_that_serves_answers_from_its_replica_once_no_leader_has_answered_for_a_lease() {
    let mut scene = out_of_the_roster(WhenDisconnected::Serve);
    scene.cut_off(1);
    let asked = scene.send(1, Request::Lookup { parent: Ino::ROOT, name: name("f") });
    assert_eq!(scene.answer(1, asked), None);
    scene.pass(T.lease);
    assert!(matches!(scene.answer(1, asked), Some(Ok(Response::Entry { entry_ttl: Duration::ZERO, .. }))));
    let status = scene.sides[1].mount.status();
    assert!(status.cut_off && status.counters.cut_offs == 1);
    assert!(scene.sides[1].notices.iter().any(|notice| notice.contains("cut off")));
    assert!(scene.call(1, Request::Getattr { ino: Ino::ROOT, for_read: false }).is_ok(), "and further ones at once");
}

#[test]
fn a_signal_ends_a_read_that_waits() {
    let mut scene = out_of_the_roster(WhenDisconnected::Block);
    let asked = scene.send(1, Request::Getattr { ino: Ino::ROOT, for_read: false });
    scene.interrupt(1, asked);
    assert_eq!(scene.answer(1, asked), None, "no local file system ends it at once");
    scene.pass(T.lease);
    assert_eq!(scene.answer(1, asked), Some(Err(Errno::EINTR)));
}
