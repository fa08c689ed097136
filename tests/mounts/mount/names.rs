//! create, mkdir, unlink, rmdir, and names that do not exist (yet).

use std::fs;

use nix::libc;

use crate::support::{errno, everywhere};

#[test]
fn a_missing_name_becomes_visible_and_missing_again() {
    everywhere(|here, there| {
        for (name, is_dir) in [("file", false), ("directory", true)] {
            let (mine, theirs) = (here.join(name), there.join(name));
            for _ in 0..3 {
                // The reader's kernel learns that the name does not exist, and keeps that.
                assert_eq!(errno(fs::metadata(&theirs)), libc::ENOENT);
                assert_eq!(errno(fs::metadata(&theirs)), libc::ENOENT);
                if is_dir {
                    fs::create_dir(&mine).expect("mkdir");
                } else {
                    fs::write(&mine, "").expect("create");
                }
                assert_eq!(fs::metadata(&theirs).expect("visible at once").is_dir(), is_dir);
                if is_dir {
                    fs::remove_dir(&mine).expect("rmdir");
                } else {
                    fs::remove_file(&mine).expect("unlink");
                }
                assert_eq!(errno(fs::metadata(&theirs)), libc::ENOENT);
            }
        }
    });
}

#[test]
fn names_of_any_bytes_up_to_255() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    everywhere(|here, there| {
        for name in [&[b'x'; 255][..], &[0xff, 0xfe, b'\n', b'\\'][..], "ümläut".as_bytes(), b" ", b"..."] {
            let name = OsStr::from_bytes(name);
            fs::write(here.join(name), "content").expect("create");
            assert_eq!(fs::read(there.join(name)).expect("read"), b"content");
            let listed = fs::read_dir(there).expect("readdir").any(|entry| entry.expect("entry").file_name() == name);
            assert!(listed, "{name:?}");
        }
        let long = "y".repeat(256);
        assert_eq!(errno(fs::write(here.join(&long), "")), libc::ENAMETOOLONG);
        assert_eq!(errno(fs::metadata(there.join(&long))), libc::ENAMETOOLONG);
    });
}

#[test]
fn refusals_are_those_of_posix() {
    everywhere(|here, there| {
        fs::create_dir(here.join("d")).expect("mkdir");
        fs::write(here.join("d/f"), "").expect("create");
        assert_eq!(errno(fs::create_dir(there.join("d"))), libc::EEXIST);
        assert_eq!(errno(fs::File::create_new(there.join("d/f"))), libc::EEXIST);
        assert_eq!(errno(fs::remove_dir(there.join("d"))), libc::ENOTEMPTY);
        assert_eq!(errno(fs::remove_file(there.join("d"))), libc::EISDIR);
        assert_eq!(errno(fs::remove_dir(there.join("d/f"))), libc::ENOTDIR);
        assert_eq!(errno(fs::write(there.join("d/f/g"), "")), libc::ENOTDIR);
        assert_eq!(errno(fs::write(there.join("none/g"), "")), libc::ENOENT);
        fs::remove_file(there.join("d/f")).expect("unlink");
        fs::remove_dir(here.join("d")).expect("rmdir of what the other one emptied");
    });
}

#[test]
fn exclusive_create_has_one_winner() {
    everywhere(|here, there| {
        for round in 0..20 {
            let name = format!("lock{round}");
            let wins = std::thread::scope(|scope| {
                let racers: Vec<_> = [here, there, here, there]
                    .into_iter()
                    .map(|directory| scope.spawn(|| fs::File::create_new(directory.join(&name)).is_ok()))
                    .collect();
                racers.into_iter().map(|racer| racer.join().expect("no panic")).filter(|won| *won).count()
            });
            assert_eq!(wins, 1, "round {round}");
        }
    });
}

#[test]
fn a_tree_made_on_one_mount_is_found_on_the_other() {
    everywhere(|here, there| {
        let deep = (0..20).map(|level| format!("level{level}")).collect::<Vec<_>>().join("/");
        fs::create_dir_all(here.join(&deep)).expect("mkdir -p");
        fs::write(here.join(&deep).join("leaf"), "found").expect("create");
        assert_eq!(fs::read(there.join(&deep).join("leaf")).expect("read"), b"found");
        fs::remove_dir_all(there.join("level0")).expect("rm -r");
        assert_eq!(errno(fs::metadata(here.join("level0"))), libc::ENOENT);
    });
}

#[test]
fn paths_and_targets_that_are_too_long() {
    everywhere(|here, there| {
        let long = "directory/".repeat(410);
        assert_eq!(errno(fs::metadata(there.join(&long))), libc::ENAMETOOLONG);
        assert_eq!(errno(std::os::unix::fs::symlink(&long, here.join("l"))), libc::ENAMETOOLONG);
        fs::write(here.join("x"), "").expect("create");
        assert_eq!(errno(fs::rename(here.join("x"), here.join("y".repeat(256)))), libc::ENAMETOOLONG);
        assert_eq!(errno(fs::hard_link(here.join("x"), here.join("y".repeat(256)))), libc::ENAMETOOLONG);
    });
}

/// Two mounts are two file systems to the kernel, even of one volume; within one nothing is EXDEV.
#[test]
fn only_from_mount_to_mount_a_name_cannot_be_moved() {
    let cluster = crate::support::Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    fs::create_dir_all(here.path.join("a/b")).expect("mkdir");
    fs::write(here.path.join("a/f"), "content").expect("create");
    assert_eq!(errno(fs::rename(here.path.join("a/f"), there.path.join("f"))), libc::EXDEV);
    assert_eq!(errno(fs::hard_link(here.path.join("a/f"), there.path.join("f"))), libc::EXDEV);
    fs::rename(here.path.join("a/b"), here.path.join("b")).expect("rename");
    fs::hard_link(here.path.join("a/f"), here.path.join("b/f")).expect("link");
    assert_eq!(fs::read(there.path.join("b/f")).expect("read"), b"content");
}
