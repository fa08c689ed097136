//! Symbolic links.

use std::{fs, os::unix::fs::symlink, path::Path};

use nix::libc;

use crate::support::{errno, everywhere};

#[test]
fn a_target_is_kept_as_it_was_given() {
    everywhere(|here, there| {
        for target in ["file", "../up", "/absolute/none", "with space", &"x/".repeat(2047)] {
            symlink(target, here.join("l")).expect("symlink");
            assert_eq!(fs::read_link(there.join("l")).expect("readlink"), Path::new(target));
            let about = fs::symlink_metadata(there.join("l")).expect("lstat");
            assert!(about.is_symlink());
            assert_eq!(about.len(), target.len() as u64);
            fs::remove_file(here.join("l")).expect("unlink");
            assert_eq!(errno(fs::symlink_metadata(there.join("l"))), libc::ENOENT);
        }
    });
}

#[test]
fn a_link_that_is_made_anew_points_to_the_new_place() {
    everywhere(|here, there| {
        fs::write(here.join("one"), "1").expect("create");
        fs::write(here.join("two"), "2").expect("create");
        for target in ["one", "two", "one"] {
            symlink(target, here.join("next")).expect("symlink");
            // As deployment tools switch a release.
            fs::rename(here.join("next"), here.join("current")).expect("rename");
            let expected = fs::read(here.join(target)).expect("read");
            assert_eq!(fs::read(there.join("current")).expect("read"), expected);
        }
    });
}

#[test]
fn loops_and_dangling_links_are_refused_by_the_kernel() {
    everywhere(|here, there| {
        symlink("b", here.join("a")).expect("symlink");
        symlink("a", here.join("b")).expect("symlink");
        assert_eq!(errno(fs::metadata(there.join("a"))), libc::ELOOP);
        symlink("nowhere", here.join("dangling")).expect("symlink");
        assert_eq!(errno(fs::metadata(there.join("dangling"))), libc::ENOENT);
        fs::write(there.join("nowhere"), "now").expect("create");
        assert_eq!(fs::read(here.join("dangling")).expect("read"), b"now");
    });
}
