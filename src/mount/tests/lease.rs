//! The lease and the kernel's caches: what ends with it, by whom, and when (PROTOCOL R7).

use std::{collections::BTreeSet, time::Duration};

use super::{super::*, scene::*};
use crate::limits::Timing;

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
        let kernel = KernelFeatures { inc_epoch };
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
