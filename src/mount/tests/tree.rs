//! Every kind of request on a tree, and how long the kernel may keep the answers.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;

use super::{
    super::{kernel::TAKEN_OVER, *},
    scene::{CALLER, Scene, config, name},
};
use crate::{
    limits::Timing,
    namespace::{NewNode, RenameMode, XattrMode},
    types::{AttributeChanges, FileKind, TimeChange, Timestamp, XattrName},
};

const LONG: Duration = Timing::DEFAULT.cache;

fn entry_ttls(response: Result<Response, Errno>) -> (Duration, Duration) {
    match response {
        Ok(Response::Entry { entry_ttl, attributes_ttl, .. } | Response::Created { entry_ttl, attributes_ttl, .. }) => {
            (entry_ttl, attributes_ttl)
        }
        other => panic!("not an entry: {other:?}"),
    }
}

fn listing(scene: &mut Scene, side: usize, ino: Ino, length: u32) -> Vec<(u64, String)> {
    let (mut offset, mut all) = (0, Vec::new());
    loop {
        let Ok(Response::Directory(entries)) = scene.call(side, Request::Readdir { ino, offset, length }) else {
            panic!("readdir of {ino}")
        };
        let Some(last) = entries.last() else { return all };
        offset = last.cookie;
        all.extend(entries.iter().map(|e| (e.ino.0, String::from_utf8_lossy(&e.name).into_owned())));
    }
}

#[test]
fn what_one_mount_makes_another_finds() {
    let mut scene = Scene::new(2);
    let directory = scene.mkdir(0, Ino::ROOT, "d");
    assert_eq!(scene.lookup(1, Ino::ROOT, "d"), Some(directory));
    let (attributes, _) = scene.getattr(1, directory);
    assert_eq!((attributes.kind, attributes.mode, attributes.uid), (FileKind::Directory, 0o755, 33));
    let target = Bytes::from_static(b"../elsewhere");
    let node = NewNode::Symlink { target: target.clone() };
    let made = scene.call(0, Request::Make { parent: directory, name: name("s"), node, mode: 0o777, umask: 0 });
    assert!(matches!(made, Ok(Response::Entry { .. })));
    let link = scene.lookup(1, directory, "s").expect("the symlink is there");
    assert_eq!(scene.call(1, Request::Readlink { ino: link }), Ok(Response::Data(vec![target])));
    assert_eq!(scene.call(1, Request::Readlink { ino: directory }), Err(Errno::EINVAL));
}

#[test]
fn names_move_and_go() {
    let mut scene = Scene::new(2);
    let (file, _) = scene.create(0, "a");
    let rename = |from: &str, to: &str, mode| Request::Rename {
        from: Ino::ROOT,
        from_name: name(from),
        to: Ino::ROOT,
        to_name: name(to),
        mode,
    };
    assert_eq!(scene.call(0, rename("a", "b", RenameMode::Replace)), Ok(Response::Done));
    assert_eq!((scene.lookup(1, Ino::ROOT, "a"), scene.lookup(1, Ino::ROOT, "b")), (None, Some(file)));
    scene.create(0, "c");
    assert_eq!(scene.call(1, rename("b", "c", RenameMode::NoReplace)), Err(Errno::EEXIST));
    let linked = scene.call(1, Request::Link { ino: file, parent: Ino::ROOT, name: name("e") });
    assert!(matches!(linked, Ok(Response::Entry { attributes, .. }) if attributes.nlink == 2));
    for text in ["b", "c", "e"] {
        let unlink = Request::Unlink { parent: Ino::ROOT, name: name(text) };
        assert_eq!(scene.call(0, unlink), Ok(Response::Done));
        assert_eq!(scene.lookup(1, Ino::ROOT, text), None);
    }
    let directory = scene.mkdir(1, Ino::ROOT, "d");
    scene.mkdir(1, directory, "inner");
    let rmdir = Request::Rmdir { parent: Ino::ROOT, name: name("d") };
    assert_eq!(scene.call(0, rmdir.clone()), Err(Errno::ENOTEMPTY));
    let inner = Request::Rmdir { parent: directory, name: name("inner") };
    assert_eq!(scene.call(0, inner), Ok(Response::Done));
    assert_eq!(scene.call(0, rmdir), Ok(Response::Done));
}

#[test]
fn directories_are_listed_in_pieces_with_dots() {
    let mut scene = Scene::new(1);
    let directory = scene.mkdir(0, Ino::ROOT, "d");
    let mut expected = BTreeSet::new();
    for number in 0..20 {
        let text = format!("entry-{number}");
        let ino = scene.mkdir(0, directory, &text);
        expected.insert((ino.0, text));
    }
    let whole = listing(&mut scene, 0, directory, 4096);
    assert_eq!(whole[..2], [(directory.0, ".".to_owned()), (1, "..".to_owned())]);
    assert_eq!((whole.len(), whole[2..].iter().cloned().collect()), (22, expected));
    for length in [64, 200] {
        assert_eq!(listing(&mut scene, 0, directory, length), whole);
    }
}

#[test]
fn a_listing_in_pieces_survives_changes_between_them() {
    let mut scene = Scene::new(2);
    for number in 0..6 {
        scene.mkdir(0, Ino::ROOT, &format!("e{number}"));
    }
    let Ok(Response::Directory(first)) = scene.call(0, Request::Readdir { ino: Ino::ROOT, offset: 0, length: 128 })
    else {
        panic!("no listing")
    };
    let last = first.last().expect("some entries");
    let (offset, gone) = (last.cookie, String::from_utf8_lossy(&last.name).into_owned());
    assert_eq!(scene.call(1, Request::Rmdir { parent: Ino::ROOT, name: name(&gone) }), Ok(Response::Done));
    scene.mkdir(1, Ino::ROOT, "late");
    let Ok(Response::Directory(rest)) = scene.call(0, Request::Readdir { ino: Ino::ROOT, offset, length: 4096 }) else {
        panic!("no listing")
    };
    let names = first.iter().chain(&rest).map(|e| String::from_utf8_lossy(&e.name).into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "late").collect();
    names.sort_unstable();
    assert_eq!(names, [".", "..", "e0", "e1", "e2", "e3", "e4", "e5"], "what was there all the time, once");
}

#[test]
fn attributes_are_set_to_the_nanosecond() {
    let mut scene = Scene::new(2);
    let (file, _) = scene.create(0, "a");
    let mtime = Timestamp { seconds: -5, nanoseconds: 123_456_789 };
    let changes = AttributeChanges {
        mode: Some(0o600),
        uid: Some(7),
        gid: Some(8),
        mtime: Some(TimeChange::To(mtime)),
        ..AttributeChanges::default()
    };
    let set = scene.call(0, Request::Setattr { ino: file, changes });
    let Ok(Response::Attributes { attributes, ttl }) = set else { panic!("{set:?}") };
    assert_eq!(ttl, Duration::ZERO, "the kernel stores these without comparing versions (R1-versions)");
    assert_eq!((attributes.mode, attributes.uid, attributes.gid, attributes.mtime), (0o600, 7, 8, mtime));
    assert_eq!(scene.getattr(1, file).0, attributes);
}

#[test]
fn extended_attributes_come_and_go() {
    let mut scene = Scene::new(2);
    let (file, _) = scene.create(0, "a");
    let key = XattrName::new(b"user.k").expect("a name");
    let get = |length| Request::Getxattr { ino: file, name: key.clone(), length };
    assert_eq!(scene.call(1, get(0)), Err(Errno::ENODATA));
    let value = Bytes::from_static(b"value");
    let set = Request::Setxattr {
        ino: file,
        name: key.clone(),
        value: value.clone(),
        mode: XattrMode::Set,
        clear_sgid: false,
    };
    assert_eq!(scene.call(0, set), Ok(Response::Done));
    assert_eq!(scene.call(1, get(0)), Ok(Response::Size(5)));
    assert_eq!(scene.call(1, get(4)), Err(Errno::ERANGE));
    assert_eq!(scene.call(1, get(64)), Ok(Response::Data(vec![value])));
    let list = scene.call(1, Request::Listxattr { ino: file, length: 64 });
    assert_eq!(list, Ok(Response::Data(vec![Bytes::from_static(b"user.k\0")])));
    assert_eq!(scene.call(0, Request::Removexattr { ino: file, name: key.clone() }), Ok(Response::Done));
    assert_eq!(scene.call(1, get(0)), Err(Errno::ENODATA));
}

#[test]
fn statfs_shows_what_the_leader_says() {
    let mut scene = Scene::new(1);
    let Ok(Response::Statfs(space)) = scene.call(0, Request::Statfs) else { panic!("no statfs") };
    assert_eq!((space.bytes.available, space.inodes - space.inodes_free), (1 << 39, 1));
}

#[test]
fn attributes_are_cached_only_where_the_kernel_compares_versions() {
    let mut scene = Scene::with_epoch(2);
    let lookup = |text| Request::Lookup { parent: Ino::ROOT, name: name(text) };
    assert_eq!(scene.call(0, lookup("a")), Ok(Response::Missing { ttl: LONG }));
    let created = scene.call(0, Scene::create_request("a"));
    assert_eq!(entry_ttls(created), (LONG, Duration::ZERO));
    let first = scene.call(1, lookup("a"));
    assert_eq!(entry_ttls(first), (LONG, Duration::ZERO), "the first lookup of an inode");
    let second = scene.call(1, lookup("a"));
    assert_eq!(entry_ttls(second), (LONG, Duration::ZERO), "the kernel may not have seen the first reply yet");
    let ino = scene.lookup(1, Ino::ROOT, "a").expect("it is there");
    assert_eq!(scene.getattr(1, ino).1, Duration::ZERO, "the file's maker could write it unseen until now");
    scene.pass(TAKEN_OVER);
    assert_eq!(scene.getattr(1, ino).1, LONG);
    assert_eq!(entry_ttls(scene.call(1, lookup("a"))), (LONG, LONG));
    scene.call(1, Request::Open { ino, flags: OpenFlags::default() }).expect("it opens");
    scene.forget(1, ino, 4);
    assert_eq!(entry_ttls(scene.call(1, lookup("a"))), (LONG, Duration::ZERO), "the kernel's inode is a new one");
}

#[test]
fn create_finds_a_file_that_another_mount_made_first() {
    let mut scene = Scene::new(2);
    let (file, _) = scene.create(1, "a");
    scene.create(1, "b");
    let (same, _) = scene.create(0, "a");
    assert_eq!(same, file, "without O_EXCL it is opened");
    let flags = OpenFlags { write: true, exclusive: true, ..OpenFlags::default() };
    let exclusive = Request::Create { parent: Ino::ROOT, name: name("a"), mode: 0o644, umask: 0, flags };
    assert_eq!(scene.call(0, exclusive), Err(Errno::EEXIST));
    scene.mkdir(1, Ino::ROOT, "d");
    assert_eq!(scene.call(0, Scene::create_request("d")), Err(Errno::ESTALE), "the kernel looks again, and sees");
    let stranger = Caller { uid: 1000, gid: 1000, pid: 1 };
    let unique = scene.send_as(0, 5_000, stranger, Scene::create_request("a"));
    assert_eq!(scene.answer(0, unique), Some(Err(Errno::ESTALE)), "nobody has checked this caller's permission");
}

#[test]
fn create_with_truncation_cuts_the_file_it_finds() {
    let mut scene = Scene::new(2);
    let file = scene.file(1, "a", b"old content");
    let flags = OpenFlags { write: true, truncate: true, ..OpenFlags::default() };
    let created = scene.call(0, Request::Create { parent: Ino::ROOT, name: name("a"), mode: 0o644, umask: 0, flags });
    let Ok(Response::Created { attributes, .. }) = created else { panic!("{created:?}") };
    assert_eq!((attributes.ino, attributes.size), (file, 0));
    assert_eq!(scene.getattr(1, file).0.size, 0);
}

/// A bind mount of one file, an O_PATH descriptor: the kernel holds it, and tells of no open.
#[test]
fn what_the_kernel_has_not_forgotten_is_there_without_a_name() {
    for unlinks in [0, 1] {
        let mut scene = Scene::new(2);
        let file = scene.file(0, "a", b"content");
        assert_eq!(scene.lookup(1, Ino::ROOT, "a"), Some(file));
        assert_eq!(scene.call(unlinks, Request::Unlink { parent: Ino::ROOT, name: name("a") }), Ok(Response::Done));
        scene.leader.reap();
        scene.settle();
        assert_eq!(scene.getattr(1, file).0.nlink, 0);
        let fh = scene.open(1, file, OpenFlags::default()).fh;
        assert_eq!(scene.read(1, file, 0, 10), b"content");
        scene.call(1, Request::Release { ino: file, fh }).expect("closed");
        scene.leader.reap();
        scene.settle();
        assert_eq!(scene.getattr(1, file).0.nlink, 0);
        scene.forget(1, file, u64::MAX);
        assert!(scene.leader.referenced[&1].is_empty());
        scene.forget(0, file, u64::MAX);
        scene.leader.reap();
        scene.settle();
        assert!(scene.leader.volume.inode(file).is_none());
    }
}

#[test]
fn open_of_what_is_gone_is_stale_and_stat_is_not() {
    let mut scene = Scene::new(2);
    let file = scene.file(0, "a", b"content");
    assert_eq!(scene.lookup(1, Ino::ROOT, "a"), Some(file));
    assert_eq!(scene.call(0, Request::Unlink { parent: Ino::ROOT, name: name("a") }), Ok(Response::Done));
    let open = Request::Open { ino: file, flags: OpenFlags::default() };
    scene.forget(0, file, u64::MAX);
    scene.forget(1, file, u64::MAX);
    assert_eq!(scene.call(1, open.clone()), Err(Errno::ESTALE), "nobody has it, so it may go at any time");
    scene.leader.reap();
    scene.settle();
    assert_eq!(scene.call(1, open), Err(Errno::ESTALE));
    assert_eq!(scene.call(1, Request::Getattr { ino: file, for_read: false }), Err(Errno::ENOENT));
}

#[test]
fn opens_say_what_the_kernel_may_do() {
    let mut scene = Scene::new(1);
    let file = scene.file(0, "a", b"content");
    let reader = scene.open(0, file, OpenFlags::default());
    assert!(reader.keep_cache && reader.no_flush && !reader.direct_io);
    let writer = scene.open(0, file, OpenFlags { write: true, ..OpenFlags::default() });
    assert!(writer.keep_cache && !writer.no_flush && writer.fh != reader.fh);
    let appender = scene.open(0, file, OpenFlags { write: true, append: true, ..OpenFlags::default() });
    assert!(appender.direct_io && !appender.keep_cache && !appender.no_flush);
    let Ok(Response::Opened(directory)) = scene.call(0, Request::Opendir { ino: Ino::ROOT }) else { panic!("opendir") };
    assert!(directory.cache_dir && directory.keep_cache);
}

#[test]
fn a_read_only_mount_refuses_changes_itself() {
    let mut scene = Scene::with(vec![config(0), Config { read_only: true, ..config(1) }]);
    let file = scene.file(0, "a", b"content");
    assert_eq!(scene.lookup(1, Ino::ROOT, "a"), Some(file));
    assert_eq!(scene.read(1, file, 0, 100), b"content");
    let before = scene.leader.operations.len();
    let write = OpenFlags { write: true, ..OpenFlags::default() };
    for request in [
        Scene::create_request("b"),
        Request::Open { ino: file, flags: write },
        Request::Unlink { parent: Ino::ROOT, name: name("a") },
        Scene::write_request(file, 1, 0, b"x"),
        Request::Setattr { ino: file, changes: AttributeChanges { mode: Some(0), ..AttributeChanges::default() } },
    ] {
        assert_eq!(scene.call(1, request), Err(Errno::EROFS));
    }
    assert_eq!(scene.leader.operations.len(), before);
}

#[test]
fn squash_shows_and_makes_everything_as_one_owner() {
    let mut scene = Scene::with(vec![config(0), Config { squash: Some((50, 60)), ..config(1) }]);
    let (file, _) = scene.create(0, "a");
    assert_eq!(scene.lookup(1, Ino::ROOT, "a"), Some(file));
    let (attributes, _) = scene.getattr(1, file);
    assert_eq!((attributes.uid, attributes.gid), (50, 60));
    let made = scene.mkdir(1, Ino::ROOT, "d");
    let (attributes, _) = scene.getattr(0, made);
    assert_eq!((attributes.uid, attributes.gid), (50, 60));
    let changes = AttributeChanges { uid: Some(1), ..AttributeChanges::default() };
    assert!(scene.call(1, Request::Setattr { ino: file, changes }).is_ok());
    assert_eq!(scene.getattr(0, file).0.uid, 33, "owners are not told apart here, so none is set");
}

#[test]
fn requests_before_the_volume_is_there_wait_for_it() {
    let mut scene = Scene::new(1);
    let mut mount = Mount::new(scene.now, config(7));
    let request = Request::Getattr { ino: Ino::ROOT, for_read: false };
    mount.handle(scene.now, Input::Request { unique: 1, caller: CALLER, request: request.clone() });
    let outputs: Vec<Output> = std::iter::from_fn(|| mount.poll_output()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, Output::Answer { .. })));
    mount.handle(scene.now, Input::Interrupt { unique: 1 });
    let outputs: Vec<Output> = std::iter::from_fn(|| mount.poll_output()).collect();
    assert_eq!(outputs, [Output::Answer { unique: 1, result: Err(Errno::EINTR) }]);
    assert!(scene.call(0, request).is_ok());
}
