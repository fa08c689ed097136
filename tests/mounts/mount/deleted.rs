//! Files that are deleted while somebody has them open.

use std::{
    fs::{self, File, Permissions},
    io::{Read, Seek, SeekFrom, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::Path,
};

use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statvfs::statvfs,
};

use crate::support::{Cluster, errno, everywhere, wait_for};

#[test]
fn a_deleted_file_lives_on_for_those_who_have_it_open() {
    everywhere(|here, there| {
        for (name, length) in [("small", 5_000), ("large", 3_000_000)] {
            let bytes = vec![b'x'; length];
            fs::write(here.join(name), &bytes).expect("create");
            // Opened by the reader, deleted by the writer, which on two mounts is the other one.
            let mut held = File::open(there.join(name)).expect("open");
            fs::remove_file(here.join(name)).expect("unlink");
            assert_eq!(errno(File::open(there.join(name))), libc::ENOENT);
            assert_eq!(held.metadata().expect("fstat").nlink(), 0);
            let mut found = Vec::new();
            held.read_to_end(&mut found).expect("read");
            assert!(found == bytes, "{name}");
        }
    });
}

#[test]
fn a_deleted_file_is_written_and_read_as_before() {
    everywhere(|here, there| {
        let mut held = File::options().read(true).write(true).create_new(true).open(there.join("f")).expect("create");
        held.write_all(b"before").expect("write");
        fs::remove_file(here.join("f")).expect("unlink");
        held.write_all(b" and after").expect("write");
        held.sync_all().expect("fsync");
        held.seek(SeekFrom::Start(0)).expect("seek");
        let mut text = String::new();
        held.read_to_string(&mut text).expect("read");
        assert_eq!(text, "before and after");
        held.set_len(3).expect("truncate");
        assert_eq!(held.metadata().expect("fstat").len(), 3);
    });
}

#[test]
fn a_name_that_was_deleted_and_made_again_is_another_file() {
    everywhere(|here, there| {
        fs::write(here.join("f"), "first").expect("create");
        let mut first = File::open(there.join("f")).expect("open");
        fs::remove_file(here.join("f")).expect("unlink");
        fs::write(here.join("f"), "second").expect("create");
        assert_ne!(fs::metadata(there.join("f")).expect("stat").ino(), first.metadata().expect("fstat").ino());
        assert_eq!(fs::read(there.join("f")).expect("read"), b"second");
        let mut text = String::new();
        first.read_to_string(&mut text).expect("read");
        assert_eq!(text, "first");
    });
}

#[test]
fn a_removed_directory_is_empty_for_those_inside() {
    everywhere(|here, there| {
        fs::create_dir(here.join("d")).expect("mkdir");
        let held = File::open(there.join("d")).expect("open");
        fs::remove_dir(here.join("d")).expect("rmdir");
        let inside = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        assert_eq!(errno(File::create(format!("{inside}/f"))), libc::ENOENT);
        assert_eq!(fs::read_dir(&inside).map(Iterator::count).unwrap_or(0), 0);
    });
}

/// Neither an O_PATH descriptor nor a bind mount tells of an open.
#[test]
fn a_deleted_file_lives_on_for_those_who_hold_it_otherwise() {
    everywhere(|here, there| {
        for at in 0..2 {
            let name = format!("f{at}");
            fs::write(here.join(&name), "content").expect("create");
            let held = File::options().read(true).custom_flags(libc::O_PATH).open(there.join(&name)).expect("O_PATH");
            let elsewhere = tempfile::NamedTempFile::new().expect("space for a test");
            let (what, bound) = (there.join(&name), elsewhere.path());
            mount(Some(&what), bound, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bound");
            // Replaced, as editors do, or deleted.
            if at == 0 {
                fs::write(here.join("new"), "new").expect("create");
                fs::rename(here.join("new"), here.join(&name)).expect("rename");
            } else {
                fs::remove_file(here.join(&name)).expect("unlink");
            }
            // A sweep of the leader comes once a second.
            std::thread::sleep(std::time::Duration::from_millis(2500));
            let by_descriptor = format!("/proc/self/fd/{}", held.as_raw_fd());
            let looks = |path: &Path| fs::read_to_string(path);
            let seen =
                (looks(bound), looks(Path::new(&by_descriptor)), held.metadata().map(|metadata| metadata.nlink()));
            let changed = fs::set_permissions(&by_descriptor, Permissions::from_mode(0o600));
            umount2(bound, MntFlags::MNT_DETACH).expect("unmounted");
            assert_eq!(seen.0.expect("by the bind mount"), "content");
            assert_eq!(seen.1.expect("by the descriptor"), "content");
            assert_eq!(seen.2.expect("fstat"), 0);
            changed.expect("chmod");
        }
    });
}

/// Its kernel is told of stale names, and so forgets the files behind them.
#[test]
fn files_that_an_idle_mount_has_looked_up_go_when_they_are_deleted() {
    let cluster = Cluster::found();
    let (first, second) = (cluster.mount(), cluster.mount());
    let used = |mount: &Path| {
        let space = statvfs(mount).expect("statvfs");
        space.files() - space.files_free()
    };
    let before = used(&first.path);
    for directory in 0..10 {
        let directory = first.path.join(format!("d{directory}"));
        fs::create_dir(&directory).expect("mkdir");
        for file in 0..100 {
            fs::write(directory.join(format!("{file}")), "x").expect("create");
        }
    }
    for directory in fs::read_dir(&second.path).expect("listed") {
        for file in fs::read_dir(directory.expect("listed").path()).expect("listed") {
            assert!(file.expect("listed").metadata().expect("stat").is_file());
        }
    }
    assert_eq!(used(&first.path), before + 1010);
    for directory in 0..10 {
        fs::remove_dir_all(first.path.join(format!("d{directory}"))).expect("removed");
    }
    wait_for("the files to be gone", || (used(&first.path) == before).then_some(()));
}
