//! What the kernel is told to forget, in which order, and what waits for it: docs/protocol.md R2-telling,
//! R3-apply-first, R8-locked-pages, R15-orphans, R22-collisions, R23-renames and the lease.

use std::time::Duration;

use super::{
    super::{kernel::TAKEN_OVER, *},
    scene::{CALLER, Scene, Step, config, name},
};
use crate::{
    limits::Timing,
    namespace::{NewNode, RenameMode},
    types::{AttributeChanges, Attributes, TimeChange},
};

const LONG: Duration = Timing::DEFAULT.cache;
/// No acknowledgement waits longer for INC_EPOCH.
const EPOCH_PAUSE: Duration = Timing::DEFAULT.heartbeat.saturating_mul(2);

fn name_of(parent: Ino, text: &str) -> Notification {
    Notification::Name { parent, name: name(text) }
}

fn listing_of(ino: Ino) -> Notification {
    Notification::Pages { ino, offset: 0, length: 0 }
}

fn attributes_of(ino: Ino) -> Notification {
    Notification::Attributes { ino }
}

fn mkdir_request(parent: Ino, text: &str) -> Request {
    Request::Make { parent, name: name(text), node: NewNode::Directory, mode: 0o755, umask: 0 }
}

fn unlink_request(text: &str) -> Request {
    Request::Unlink { parent: Ino::ROOT, name: name(text) }
}

fn rename_request(from: &str, to: &str, mode: RenameMode) -> Request {
    Request::Rename { from: Ino::ROOT, from_name: name(from), to: Ino::ROOT, to_name: name(to), mode }
}

fn lookup_request(text: &str) -> Request {
    Request::Lookup { parent: Ino::ROOT, name: name(text) }
}

fn entry_ttl(answer: Result<Response, Errno>) -> Duration {
    match answer {
        Ok(Response::Entry { entry_ttl, .. } | Response::Missing { ttl: entry_ttl }) => entry_ttl,
        other => panic!("not an entry: {other:?}"),
    }
}

#[test]
fn a_foreign_change_tells_the_name_its_directory_and_its_children_in_this_order() {
    let mut scene = Scene::new(2);
    let (file, _) = scene.create(0, "a");
    let (victim, _) = scene.create(0, "b");
    for (text, ino) in [("a", file), ("b", victim)] {
        scene.lookup(1, Ino::ROOT, text);
        scene.read(1, ino, 0, 1);
    }
    scene.getattr(1, file);
    scene.getattr(1, victim);
    scene.pass(TAKEN_OVER);
    scene.forget_notified();
    assert_eq!(scene.call(0, rename_request("a", "b", RenameMode::Replace)), Ok(Response::Done));
    let told = &scene.sides[1].notified;
    let at = |n: &Notification| told.iter().position(|told| told == n).unwrap_or_else(|| panic!("{n:?} is not told"));
    for text in ["a", "b"] {
        assert!(at(&name_of(Ino::ROOT, text)) < at(&listing_of(Ino::ROOT)));
    }
    assert!(at(&listing_of(Ino::ROOT)) < at(&attributes_of(victim)).min(at(&attributes_of(file))));
    assert_eq!(scene.sides[0].notified, [], "the kernel that asked for it knows");
}

/// Entries that are on their way fill the listing again that the kernel was told to forget, and it shows them as soon as the
/// directory has the mtime with which it began to ask.
#[test]
fn a_directory_whose_mtime_went_back_is_told_again_behind_entries_that_are_on_their_way() {
    let mut scene = Scene::new(2);
    let directory = scene.mkdir(0, Ino::ROOT, "d");
    scene.lookup(1, Ino::ROOT, "d");
    let mtime = scene.getattr(1, directory).0.mtime;
    for (text, lists) in [("a", false), ("b", true)] {
        scene.pass(TAKEN_OVER);
        if lists {
            let list = Request::Readdir { ino: directory, offset: 0, length: 4096 };
            assert!(scene.call(1, list).is_ok());
        }
        scene.mkdir(0, directory, text);
        scene.forget_notified();
        let changes = AttributeChanges { mtime: Some(TimeChange::To(mtime)), ..AttributeChanges::default() };
        let set = scene.send(0, Request::Setattr { ino: directory, changes });
        let told = |scene: &Scene| scene.sides[1].notified.contains(&listing_of(directory));
        assert_eq!((scene.answer(0, set).is_some(), told(&scene)), (!lists, false));
        scene.pass(TAKEN_OVER);
        assert_eq!((scene.answer(0, set).is_some(), told(&scene)), (true, lists));
    }
}

#[test]
fn nothing_is_told_about_what_the_kernel_does_not_have() {
    let mut scene = Scene::new(2);
    let directory = scene.mkdir(0, Ino::ROOT, "d");
    scene.forget_notified();
    let inner = scene.mkdir(0, directory, "inner");
    assert_eq!(scene.sides[1].notified, []);
    assert_eq!(scene.lookup(1, Ino::ROOT, "d"), Some(directory));
    scene.mkdir(0, directory, "second");
    assert_eq!(scene.sides[1].notified, [name_of(directory, "second"), listing_of(directory)]);
    scene.forget(1, directory, 1);
    scene.forget_notified();
    assert_eq!(scene.call(0, Request::Rmdir { parent: directory, name: name("second") }), Ok(Response::Done));
    assert_eq!(scene.sides[1].notified, []);
    assert_eq!(scene.lookup(1, directory, "inner"), Some(inner));
}

#[test]
fn an_entry_is_acknowledged_when_the_kernel_has_forgotten_and_completes_then() {
    let mut scene = Scene::new(2);
    assert_ne!(entry_ttl(scene.call(1, lookup_request("a"))), Duration::ZERO);
    scene.sides[1].is_stalled = true;
    let unique = scene.send(0, Scene::create_request("a"));
    assert_eq!(scene.answer(0, unique), None);
    let index = scene.leader.volume.applied();
    assert!(!scene.acknowledged(1).contains(&index));
    assert!(scene.acknowledged(0).contains(&index), "its own entry waits for nothing");
    assert_eq!(entry_ttl(scene.call(1, lookup_request("a"))), Duration::ZERO, "fenced: the new state, but not kept");
    let Ok(Response::Opened(opened)) = scene.call(1, Request::Opendir { ino: Ino::ROOT }) else { panic!("opendir") };
    assert!(!opened.cache_dir && !opened.keep_cache);
    assert_eq!(scene.getattr(1, Ino::ROOT).1, Duration::ZERO);
    scene.sides[1].is_stalled = false;
    scene.settle();
    assert!(scene.acknowledged(1).contains(&index));
    assert!(matches!(scene.answer(0, unique), Some(Ok(Response::Created { .. }))));
    assert_ne!(entry_ttl(scene.call(1, lookup_request("a"))), Duration::ZERO);
    assert_eq!(scene.getattr(1, Ino::ROOT).1, LONG);
}

#[test]
fn a_kernel_is_told_of_changed_bytes_if_it_was_given_any_since_it_forgot_them() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", &[7; 50_000]);
    scene.lookup(1, Ino::ROOT, "a");
    scene.open(1, file, OpenFlags::default());
    let fh = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    // Written through: no delegation is asked for.
    let flags = WriteFlags { sync: true, ..WriteFlags::default() };
    let write = |byte| Request::Write { ino: file, fh, offset: 8192, data: vec![byte; 100].into(), flags };
    scene.forget_notified();
    assert!(scene.call(0, write(1)).is_ok());
    assert_eq!(scene.sides[1].notified, [], "it was given nothing");
    assert_eq!(scene.read(1, file, 8192, 1), [1]);
    scene.sides[1].is_stalled = true;
    let unique = scene.send(0, write(2));
    assert!(!scene.open(1, file, OpenFlags::default()).keep_cache, "its pages are on their way out");
    assert_eq!(scene.answer(0, unique), None);
    scene.sides[1].is_stalled = false;
    scene.settle();
    assert!(matches!(scene.answer(0, unique), Some(Ok(Response::Written { .. }))));
    assert_eq!(scene.sides[1].notified, [attributes_of(file), Notification::Pages { ino: file, offset: 0, length: 0 }]);
    assert!(scene.open(1, file, OpenFlags::default()).keep_cache);
    scene.forget_notified();
    // What it is told of the size is overtaken by no invalidation: the kernel would drop the answer, and read only up to
    // where the file ended two changes ago.
    assert_eq!(scene.getattr(1, file).1, Duration::ZERO);
    assert!(scene.call(0, write(3)).is_ok());
    assert_eq!((&scene.sides[1].notified, &scene.sides[0].notified), (&vec![], &vec![]));
    assert_eq!(scene.getattr(1, file).1, Duration::ZERO, "asked the first time since the change");
    assert_eq!(scene.getattr(1, file).1, Duration::ZERO, "it may not have taken that over yet");
    scene.pass(TAKEN_OVER);
    assert_eq!(scene.getattr(1, file).1, LONG);
    assert!(scene.call(0, write(4)).is_ok());
    assert!(scene.sides[1].notified.contains(&attributes_of(file)), "now it has attributes");
}

#[test]
fn pages_locked_by_a_read_that_waits_are_not_waited_for() {
    for read_first in [true, false] {
        let mut scene = Scene::new(2);
        let file = scene.file(0, "a", &vec![7; 1 << 20]);
        scene.lookup(1, Ino::ROOT, "a");
        scene.getattr(1, file);
        for store in scene.leader.stores.values_mut() {
            store.hangs = true;
        }
        let read = Request::Read { ino: file, fh: 0, offset: 4096, length: 8192 };
        let fh = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
        let mut unique = 0;
        if read_first {
            unique = scene.send(1, read.clone());
        }
        scene.sides[1].is_stalled = true;
        // Written through: no delegation is asked for.
        let flags = WriteFlags { sync: true, ..WriteFlags::default() };
        let writes = [(0, 100), (5000, 10), (30_000, 10)].map(|(offset, length)| {
            let data = vec![2; length].into();
            scene.send(0, Request::Write { ino: file, fh, offset, data, flags })
        });
        assert!(writes.iter().all(|write| scene.answer(0, *write).is_none()));
        if !read_first {
            // The kernel locks the pages while the notification is on its way.
            unique = scene.send(1, read);
        }
        scene.forget_notified();
        scene.sides[1].is_stalled = false;
        scene.settle();
        assert_eq!(scene.answer(1, unique), None, "its block is not here");
        let answers = writes.map(|write| scene.answer(0, write));
        assert!(answers.iter().all(|answer| matches!(answer, Some(Ok(_)))), "and nobody waits for it: {answers:?}");
        let told = &scene.sides[1].notified;
        assert!(told.contains(&Notification::Pages { ino: file, offset: 0, length: 4096 }));
        assert!(
            told.contains(&Notification::Pages { ino: file, offset: 12_288, length: 0 }),
            "pages behind it are told"
        );
        assert!(scene.hanging(1) > 0);
        assert!(!scene.open(1, file, OpenFlags::default()).keep_cache, "fenced until the last page is told");
        for store in scene.leader.stores.values_mut() {
            store.hangs = false;
        }
        scene.pass(Duration::from_millis(300));
        let Some(Ok(Response::Data(parts))) = scene.answer(1, unique) else { panic!("the read is not answered") };
        assert_eq!(parts.concat()[5000 - 4096..][..10], [2; 10], "it shows the entry that was applied meanwhile");
        assert_eq!(scene.hanging(1), 0);
    }
}

#[test]
fn two_mounts_that_change_one_directory_at_once_do_not_wait_for_each_other() {
    for with_epoch in [false, true] {
        let mut scene = if with_epoch { Scene::with_epoch(2) } else { Scene::new(2) };
        let directory = scene.mkdir(0, Ino::ROOT, "d");
        scene.lookup(1, Ino::ROOT, "d");
        let texts = ["x", "y"];
        for side in 0..2 {
            for text in texts {
                assert_eq!(scene.lookup(side, directory, text), None);
            }
        }
        scene.forget_notified();
        let requests: Vec<u64> = (0..2).map(|side| scene.post(side, mkdir_request(directory, texts[side]))).collect();
        scene.settle();
        for side in 0..2 {
            let answer = scene.answer(side, requests[side]);
            assert!(matches!(answer, Some(Ok(Response::Entry { .. }))), "{answer:?}");
            let other = name_of(directory, texts[1 - side]);
            let told = &scene.sides[side].notified;
            assert_eq!(told.contains(&Notification::AllNames), with_epoch);
            // Also behind an epoch: a stale name that is not used would keep its file.
            assert!(told.contains(&other), "the name is told once the lock is free: {told:?}");
            assert!(told.contains(&listing_of(directory)));
            assert_eq!(scene.hanging(side), 0);
            let lookup = Request::Lookup { parent: directory, name: name(texts[1 - side]) };
            assert_ne!(entry_ttl(scene.call(side, lookup)), Duration::ZERO, "no fence is left behind");
        }
    }
}

/// An epoch takes away what is mounted below any name.
#[test]
fn a_name_that_the_kernel_was_never_told_needs_no_epoch() {
    let mut scene = Scene::with_epoch(2);
    let directory = scene.mkdir(0, Ino::ROOT, "d");
    scene.lookup(1, Ino::ROOT, "d");
    scene.pass(Duration::from_secs(1));
    let collide = |scene: &mut Scene, texts: [&str; 2]| {
        let requests: Vec<u64> = (0..2).map(|side| scene.post(side, mkdir_request(directory, texts[side]))).collect();
        scene.settle();
        for (side, unique) in requests.into_iter().enumerate() {
            assert!(matches!(scene.answer(side, unique), Some(Ok(Response::Entry { .. }))));
            assert_eq!(scene.hanging(side), 0);
        }
        [0, 1].map(|side| scene.sides[side].notified.contains(&Notification::AllNames))
    };
    scene.forget_notified();
    assert_eq!(collide(&mut scene, ["a", "b"]), [false, false]);
    for (side, other) in [(0, "b"), (1, "a")] {
        assert!(scene.lookup(side, directory, other).is_some(), "it asks");
    }
    // Missing names are told, too; by an epoch all of them are forgotten.
    assert_eq!(scene.lookup(1, directory, "c"), None);
    assert_eq!(collide(&mut scene, ["c", "e"]), [false, true]);
    scene.pass(Duration::from_secs(1));
    scene.forget_notified();
    assert_eq!(collide(&mut scene, ["f", "g"]), [false, false]);
}

/// What the kernel believes of one name it believes of the other, once it has renamed it.
#[test]
fn a_name_that_was_renamed_to_was_told() {
    let mut scene = Scene::with_epoch(2);
    scene.create(0, "x");
    scene.lookup(1, Ino::ROOT, "x");
    let rename = |from: &str, to: &str| Request::Rename {
        from: Ino::ROOT,
        from_name: name(from),
        to: Ino::ROOT,
        to_name: name(to),
        mode: RenameMode::Replace,
    };
    assert_eq!(scene.call(1, rename("x", "y")), Ok(Response::Done));
    scene.pass(Duration::from_secs(1));
    scene.forget_notified();
    let requests = [(0, rename("y", "z")), (1, mkdir_request(Ino::ROOT, "other"))]
        .map(|(side, request)| (side, scene.post(side, request)));
    scene.settle();
    assert!(requests.into_iter().all(|(side, unique)| scene.answer(side, unique).is_some_and(|answer| answer.is_ok())));
    assert!(scene.sides[1].notified.contains(&Notification::AllNames));
}

#[test]
fn a_request_that_locks_a_directory_frees_entries_that_wait_for_its_names() {
    for with_epoch in [false, true] {
        let mut scene = if with_epoch { Scene::with_epoch(3) } else { Scene::new(3) };
        scene.mkdir(0, Ino::ROOT, "other");
        for side in [1, 2] {
            scene.lookup(side, Ino::ROOT, "other");
            scene.lookup(side, Ino::ROOT, "x");
        }
        scene.sides[1].is_stalled = true;
        let first = scene.send(0, mkdir_request(Ino::ROOT, "x"));
        let entry = scene.leader.volume.applied();
        // Mount 2 keeps the next change incomplete, so mount 1's lock stays.
        scene.sides[2].is_stalled = true;
        let second = scene.send(1, mkdir_request(Ino::ROOT, "y"));
        scene.sides[1].is_stalled = false;
        scene.settle();
        assert_eq!(scene.answer(1, second), None);
        assert!(scene.acknowledged(1).contains(&entry), "the name is stopped by mount 1's own request");
        let told = &scene.sides[1].notified;
        assert!(told.contains(&listing_of(Ino::ROOT)), "what is not stopped is told before: {told:?}");
        assert_eq!(told.contains(&Notification::AllNames), with_epoch);
        scene.sides[2].is_stalled = false;
        scene.settle();
        for (side, unique) in [(0, first), (1, second)] {
            assert!(matches!(scene.answer(side, unique), Some(Ok(Response::Entry { .. }))));
        }
        assert!(scene.sides[1].notified.contains(&name_of(Ino::ROOT, "x")));
        assert_eq!(scene.hanging(1), 0);
    }
}

/// Each makes every cached name ask again.
#[test]
fn epochs_keep_a_distance_and_acknowledgements_wait_for_the_next() {
    let mut scene = Scene::with_epoch(2);
    for number in 0..20 {
        scene.mkdir(0, Ino::ROOT, &format!("known-{number}"));
        scene.lookup(1, Ino::ROOT, &format!("known-{number}"));
    }
    for number in 0..3 {
        scene.pass(Duration::from_secs(1));
        scene.forget_notified();
        let collide = |scene: &mut Scene, text: &str| -> Vec<u64> {
            let texts = [0, 1].map(|side| format!("{text}-{side}-{number}"));
            for side in 0..2 {
                scene.lookup(side, Ino::ROOT, &texts[1 - side]);
            }
            let post = |side: usize| scene.post(side, mkdir_request(Ino::ROOT, &texts[side]));
            let requests = (0..2).map(post).collect();
            scene.settle();
            requests
        };
        let first = collide(&mut scene, "first");
        let second = collide(&mut scene, "second");
        for (side, first) in first.into_iter().enumerate() {
            assert!(matches!(scene.answer(side, first), Some(Ok(Response::Entry { .. }))));
            assert_eq!(scene.answer(side, second[side]), None, "the other's kernel has not forgotten the name");
        }
        scene.pass(EPOCH_PAUSE);
        for (side, second) in second.into_iter().enumerate() {
            assert!(matches!(scene.answer(side, second), Some(Ok(Response::Entry { .. }))));
            let epochs = scene.sides[side].notified.iter().filter(|n| **n == Notification::AllNames).count();
            assert_eq!(epochs, 2);
            assert_eq!(scene.hanging(side), 0);
        }
    }
}

/// R23-renames: the kernel moves the entry that it believes in.
#[test]
fn a_rename_that_collides_is_answered_only_after_every_name_is_stale() {
    let mut scene = Scene::with_epoch(2);
    let (a, _) = scene.create(0, "a");
    let (c, _) = scene.create(0, "c");
    for text in ["a", "c"] {
        scene.lookup(1, Ino::ROOT, text);
    }
    scene.forget_notified();
    // The exchange is ordered first.
    let exchange = scene.post(0, rename_request("a", "c", RenameMode::Exchange));
    let rename = scene.post(1, rename_request("a", "b", RenameMode::Replace));
    scene.sides[1].is_stalled = true;
    scene.settle();
    assert_eq!(scene.answer(1, rename), None, "complete, but the kernel would move what it believes in");
    scene.sides[1].is_stalled = false;
    scene.settle();
    assert_eq!(scene.answer(0, exchange), Some(Ok(Response::Done)));
    assert_eq!(scene.answer(1, rename), Some(Ok(Response::Done)));
    assert!(
        scene.position(&Step::Told(1, Notification::AllNames)) < scene.position(&Step::Answered(1, rename)),
        "{:?}",
        scene.journal
    );
    // A LOOKUP between the epoch and the kernel's own move could make what is moved fresh again: both names are fenced
    // until they are told once more, behind the directory's lock.
    for text in ["a", "b"] {
        let told = scene.position(&Step::Told(1, name_of(Ino::ROOT, text)));
        assert!(scene.position(&Step::Answered(1, rename)) < told, "{:?}", scene.journal);
    }
    assert_eq!(scene.lookup(1, Ino::ROOT, "b"), Some(c));
    assert_eq!(scene.lookup(1, Ino::ROOT, "c"), Some(a));
}

#[test]
fn without_epochs_a_colliding_rename_is_followed_by_its_names_before_the_other_completes() {
    let mut scene = Scene::new(2);
    scene.create(0, "a");
    scene.create(0, "c");
    for text in ["a", "c"] {
        scene.lookup(1, Ino::ROOT, text);
    }
    scene.forget_notified();
    let exchange = scene.post(0, rename_request("a", "c", RenameMode::Exchange));
    let rename = scene.post(1, rename_request("a", "b", RenameMode::Replace));
    scene.settle();
    assert_eq!(scene.answer(0, exchange), Some(Ok(Response::Done)));
    assert_eq!(scene.answer(1, rename), Some(Ok(Response::Done)));
    let answered = scene.position(&Step::Answered(1, rename));
    let completed = scene.position(&Step::Answered(0, exchange));
    for text in ["a", "b"] {
        let told = scene.position(&Step::Told(1, name_of(Ino::ROOT, text)));
        assert!(answered < told && told < completed, "{:?}", scene.journal);
    }
}

#[test]
fn a_file_unlinked_elsewhere_lives_as_long_as_it_is_open_here() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"still here");
    scene.lookup(1, Ino::ROOT, "a");
    let fh = scene.open(1, file, OpenFlags::default()).fh;
    assert_eq!(scene.call(0, unlink_request("a")), Ok(Response::Done));
    assert!(scene.leader.referenced[&1].contains(&file));
    scene.leader.reap();
    scene.settle();
    assert_eq!(scene.read(1, file, 0, 100), b"still here");
    assert_eq!(scene.getattr(1, file).0.nlink, 0);
    // What is open can be opened once more (/proc/self/fd).
    let second = scene.open(1, file, OpenFlags::default()).fh;
    for handle in [fh, second] {
        assert!(scene.leader.referenced[&1].contains(&file));
        assert_eq!(scene.call(1, Request::Release { ino: file, fh: handle }), Ok(Response::Done));
    }
    assert!(scene.leader.referenced[&1].contains(&file), "the kernel may hold it otherwise");
    scene.forget(1, file, u64::MAX);
    assert!(scene.leader.referenced[&1].is_empty());
    scene.forget(0, file, u64::MAX);
    scene.leader.reap();
    scene.settle();
    assert_eq!(scene.call(1, Request::Getattr { ino: file, for_read: false }), Err(Errno::ENOENT));
}

#[test]
fn a_new_leader_learns_of_open_orphans_and_a_directory_lives_while_the_kernel_holds_it() {
    let mut scene = Scene::new(2);
    let directory = scene.mkdir(0, Ino::ROOT, "d");
    scene.lookup(1, Ino::ROOT, "d");
    let file = scene.file(0, "a", b"x");
    scene.lookup(1, Ino::ROOT, "a");
    let fh = scene.open(1, file, OpenFlags::default()).fh;
    assert_eq!(scene.call(0, unlink_request("a")), Ok(Response::Done));
    assert_eq!(scene.call(0, Request::Rmdir { parent: Ino::ROOT, name: name("d") }), Ok(Response::Done));
    scene.leader.referenced.clear();
    scene.disconnect(1);
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.leader.referenced[&1].iter().copied().collect::<Vec<_>>(), [directory, file]);
    scene.forget(1, directory, 1);
    assert_eq!(scene.leader.referenced[&1].iter().copied().collect::<Vec<_>>(), [file]);
    assert_eq!(scene.call(1, Request::Release { ino: file, fh }), Ok(Response::Done));
    scene.forget(1, file, u64::MAX);
    assert!(scene.leader.referenced[&1].is_empty());
}

#[test]
fn a_file_created_here_and_unlinked_elsewhere_before_the_answer_stays_open() {
    let mut scene = Scene::new(3);
    for side in [1, 2] {
        assert_eq!(scene.lookup(side, Ino::ROOT, "a"), None);
    }
    scene.sides[2].is_stalled = true;
    let create = scene.send(0, Scene::create_request("a"));
    let file = scene.lookup(1, Ino::ROOT, "a").expect("applied, though not complete");
    scene.send(1, unlink_request("a"));
    assert!(scene.leader.referenced[&0].contains(&file));
    scene.leader.reap();
    scene.sides[2].is_stalled = false;
    scene.settle();
    let Some(Ok(Response::Created { attributes, entry_ttl, opened, .. })) = scene.answer(0, create) else {
        panic!("{:?}", scene.answer(0, create))
    };
    assert_eq!((attributes.ino, attributes.nlink, entry_ttl), (file, 0, Duration::ZERO));
    scene.write(0, file, opened.fh, 0, b"scratch");
    assert_eq!(scene.read(0, file, 0, 100), b"scratch");
    scene.close(0, file, opened.fh);
    scene.forget(0, file, u64::MAX);
    assert!(scene.leader.referenced[&0].is_empty());
}

fn cached_state(scene: &mut Scene) -> (Ino, Attributes) {
    let file = scene.file(0, "a", b"before");
    assert_eq!(scene.lookup(1, Ino::ROOT, "a"), Some(file));
    assert_eq!(scene.lookup(1, Ino::ROOT, "missing"), None);
    let (attributes, ttl) = scene.getattr(1, file);
    assert_eq!(ttl, LONG);
    scene.forget_notified();
    (file, attributes)
}

#[test]
fn a_mount_that_is_cut_off_keeps_reading_and_its_kernel_keeps_nothing() {
    for with_epoch in [false, true] {
        let mut scene = if with_epoch { Scene::with_epoch(2) } else { Scene::new(2) };
        let (file, attributes) = cached_state(&mut scene);
        scene.cut_off(1);
        scene.pass(Timing::DEFAULT.lease / 2);
        assert!(scene.sides[1].mount.status().lease_held);
        assert_eq!(scene.sides[1].notified, []);
        scene.pass(Timing::DEFAULT.lease / 2);
        assert!(!scene.sides[1].mount.status().lease_held);
        let told = &scene.sides[1].notified;
        assert!(told.contains(&attributes_of(file)) && told.contains(&attributes_of(Ino::ROOT)));
        assert_eq!(told.contains(&Notification::AllNames), with_epoch);
        for text in ["a", "missing"] {
            assert_eq!(told.contains(&name_of(Ino::ROOT, text)), !with_epoch, "{told:?}");
        }
        assert!(scene.sides[1].notices.iter().any(|notice| notice.contains("lease has ended")));
        scene.pass(Timing::DEFAULT.lease);
        assert!(scene.sides[1].mount.status().cut_off);
        assert_eq!(entry_ttl(scene.call(1, lookup_request("a"))), Duration::ZERO);
        assert_eq!(entry_ttl(scene.call(1, lookup_request("missing"))), Duration::ZERO);
        assert_eq!(scene.getattr(1, file), (attributes, Duration::ZERO));
        assert_eq!(scene.read(1, file, 0, 100), b"before");
    }
}

#[test]
fn a_mount_that_comes_back_is_fresh_only_when_it_has_forgotten_what_changed() {
    for by_snapshot in [false, true] {
        let mut scene = Scene::new(2);
        let (file, _) = cached_state(&mut scene);
        let (gone, _) = scene.create(0, "gone");
        let directory = scene.mkdir(0, Ino::ROOT, "d");
        scene.lookup(1, Ino::ROOT, "gone");
        scene.read(1, gone, 0, 1);
        scene.getattr(1, gone);
        scene.lookup(1, Ino::ROOT, "d");
        scene.cut_off(1);
        scene.pass(Timing::DEFAULT.lease * 2);
        let fh = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
        scene.write(0, file, fh, 0, b"after!");
        scene.close(0, file, fh);
        scene.mkdir(0, Ino::ROOT, "missing");
        scene.mkdir(0, directory, "inner");
        assert_eq!(scene.call(0, unlink_request("gone")), Ok(Response::Done));
        assert_eq!(scene.read(1, file, 0, 100), b"before");
        scene.forget_notified();
        scene.leader.sends_snapshots = by_snapshot;
        scene.sides[1].is_stalled = true;
        scene.sides[1].is_cut_off = false;
        scene.pass(Timing::DEFAULT.lease);
        assert_eq!(scene.read(1, file, 0, 100), b"after!", "the replica is there, the kernel not yet");
        assert!(!scene.sides[1].mount.status().lease_held);
        let asked = scene.send(1, Request::Getattr { ino: file, for_read: false });
        let again = scene.send(1, Request::Getattr { ino: file, for_read: false });
        assert_eq!(scene.answer(1, asked), None, "the kernel would drop the size");
        scene.sides[1].is_stalled = false;
        scene.settle();
        let size = Notification::Size { ino: file, from: 0, size: 6 };
        let stored = scene.position(&Step::Told(1, size.clone()));
        for unique in [asked, again] {
            let answer = scene.answer(1, unique);
            assert!(
                matches!(answer, Some(Ok(Response::Attributes { attributes, ttl: Duration::ZERO })) if attributes.size == 6)
            );
            assert!(stored < scene.position(&Step::Answered(1, unique)), "{:?}", scene.journal);
        }
        assert_eq!(scene.sides[1].notified.iter().filter(|told| **told == size).count(), 1, "told once");
        scene.pass(Timing::DEFAULT.heartbeat * 2);
        let told = &scene.sides[1].notified;
        assert!(told.contains(&name_of(Ino::ROOT, "missing")) && told.contains(&name_of(Ino::ROOT, "gone")));
        assert!(told.contains(&name_of(directory, "inner")), "{told:?}");
        assert!(told.contains(&listing_of(Ino::ROOT)) && told.contains(&attributes_of(gone)));
        assert!(told.iter().any(|n| matches!(n, Notification::Pages { ino, offset: 0, .. } if *ino == file)));
        assert!(scene.sides[1].mount.status().lease_held);
        scene.getattr(1, file);
        scene.pass(TAKEN_OVER);
        assert_eq!(scene.getattr(1, file).1, LONG);
        assert_eq!(scene.leader.volume.digest(), scene.sides[1].mount.status().digest);
    }
}

#[test]
fn a_lease_that_lasts_over_a_new_connection_costs_the_kernel_nothing() {
    let mut scene = Scene::new(2);
    let (file, _) = cached_state(&mut scene);
    scene.disconnect(1);
    scene.pass(Duration::from_millis(500));
    assert!(scene.sides[1].mount.status().lease_held);
    assert_eq!(scene.sides[1].notified, []);
    assert_eq!(scene.getattr(1, file).1, LONG);
    assert_eq!(scene.sides[1].mount.status().counters.leases_lost, 0);
}

#[test]
fn a_leader_that_grants_no_lease_leaves_nothing_cached() {
    let mut scene = Scene::new(1);
    scene.leader.grants_leases = false;
    let file = scene.file(0, "a", b"x");
    scene.pass(Timing::DEFAULT.lease);
    assert_eq!(scene.getattr(0, file).1, Duration::ZERO);
    assert_eq!(entry_ttl(scene.call(0, lookup_request("a"))), Duration::ZERO);
    scene.leader.grants_leases = true;
    scene.pass(Timing::DEFAULT.lease * 3);
    scene.getattr(0, file);
    scene.pass(TAKEN_OVER);
    assert_eq!(scene.getattr(0, file).1, LONG);
}

#[test]
fn what_was_given_up_here_and_happens_all_the_same_is_told_like_a_foreign_change() {
    let mut scene = Scene::new(1);
    assert_ne!(entry_ttl(scene.call(0, lookup_request("d"))), Duration::ZERO);
    scene.leader.answers_nothing = true;
    let unique = scene.send(0, mkdir_request(Ino::ROOT, "d"));
    scene.forget_notified();
    scene.pass(Timing::DEFAULT.write_timeout);
    assert_eq!(scene.answer(0, unique), Some(Err(Errno::EIO)));
    assert!(
        scene.sides[0].notified.contains(&name_of(Ino::ROOT, "d")),
        "the kernel believes that there is no such name"
    );
    assert!(scene.lookup(0, Ino::ROOT, "d").is_some());
}

#[test]
fn what_was_given_up_before_it_was_ordered_is_told_when_it_happens() {
    let mut scene = Scene::new(1);
    assert_ne!(entry_ttl(scene.call(0, lookup_request("d"))), Duration::ZERO);
    scene.leader.delays = true;
    let unique = scene.send(0, mkdir_request(Ino::ROOT, "d"));
    scene.pass(Timing::DEFAULT.write_timeout);
    assert_eq!(scene.answer(0, unique), Some(Err(Errno::EIO)));
    scene.forget_notified();
    scene.leader.propose_delayed();
    scene.settle();
    assert_eq!(scene.sides[0].notified, [name_of(Ino::ROOT, "d"), listing_of(Ino::ROOT)]);
    assert!(scene.lookup(0, Ino::ROOT, "d").is_some());
}

#[test]
fn a_lease_granted_too_early_makes_nothing_fresh() {
    let mut scene = Scene::new(2);
    let (file, _) = cached_state(&mut scene);
    scene.cut_off(1);
    scene.pass(Timing::DEFAULT.lease);
    scene.mkdir(0, Ino::ROOT, "missing");
    scene.leader.grants_early = true;
    scene.sides[1].is_stalled = true;
    scene.sides[1].is_cut_off = false;
    scene.pass(Timing::DEFAULT.lease);
    assert!(!scene.sides[1].mount.status().lease_held, "its kernel still shows what was before");
    assert_eq!(scene.getattr(1, file).1, Duration::ZERO);
    scene.sides[1].is_stalled = false;
    scene.settle();
    assert!(scene.sides[1].mount.status().lease_held);
}

#[test]
fn attributes_changed_elsewhere_are_told() {
    let mut scene = Scene::new(2);
    let (file, attributes) = cached_state(&mut scene);
    let changes = AttributeChanges { mode: Some(0o400), ..AttributeChanges::default() };
    assert!(scene.call(0, Request::Setattr { ino: file, changes }).is_ok());
    assert_eq!(scene.sides[1].notified, [attributes_of(file)]);
    let (after, ttl) = scene.getattr(1, file);
    assert_eq!((after.mode, ttl), (0o400, Duration::ZERO));
    scene.pass(TAKEN_OVER);
    assert_eq!(scene.getattr(1, file).1, LONG);
    assert!(after.ctime > attributes.ctime && after.mtime == attributes.mtime);
}

/// The answer to an unlink makes the kernel drop attributes of the file that come after it, and with them a size.
#[test]
fn an_unlink_does_not_overtake_a_size_that_is_on_its_way_to_another_thread() {
    for (asks, unlinks, waits) in [(7, 8, true), (7, 7, false), (0, 0, true)] {
        let mut scene = Scene::new(2);
        let (file, _) = cached_state(&mut scene);
        let opened = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() });
        scene.write(0, file, opened.fh, 0, b"longer than it was");
        scene.close(0, file, opened.fh);
        let caller = |pid| Caller { pid, ..CALLER };
        let asked = scene.send_as(1, 1001, caller(asks), Request::Getattr { ino: file, for_read: false });
        assert!(matches!(scene.answer(1, asked), Some(Ok(Response::Attributes { .. }))));
        let unlinked = scene.send_as(1, 1002, caller(unlinks), unlink_request("a"));
        assert_eq!(scene.answer(1, unlinked).is_none(), waits, "asked by {asks}, unlinked by {unlinks}");
        scene.pass(TAKEN_OVER);
        assert_eq!(scene.answer(1, unlinked), Some(Ok(Response::Done)));
    }
}

#[test]
fn mounts_need_not_have_the_same_kernel() {
    let kernel = KernelFeatures { inc_epoch: true, inval_entry: true };
    let mut scene = Scene::with(vec![config(0), Config { kernel, ..config(1) }]);
    for number in 0..10 {
        let requests: Vec<u64> =
            (0..2).map(|side| scene.post(side, mkdir_request(Ino::ROOT, &format!("{side}-{number}")))).collect();
        scene.settle();
        scene.pass(EPOCH_PAUSE);
        for (side, unique) in requests.iter().enumerate() {
            assert!(matches!(scene.answer(side, *unique), Some(Ok(Response::Entry { .. }))));
        }
    }
    assert_eq!(scene.hanging(0) + scene.hanging(1), 0);
}
