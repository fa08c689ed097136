//! Hard links.

use std::{fs, os::unix::fs::MetadataExt};

use nix::libc;

use crate::support::{errno, everywhere};

#[test]
fn names_of_one_inode_share_everything() {
    everywhere(|here, there| {
        fs::write(here.join("a"), "shared").expect("create");
        fs::create_dir(here.join("d")).expect("mkdir");
        assert_eq!(fs::metadata(there.join("a")).expect("stat").nlink(), 1);
        assert_eq!(errno(fs::metadata(there.join("d/b"))), libc::ENOENT);
        fs::hard_link(here.join("a"), here.join("d/b")).expect("link");
        let (a, b) = (fs::metadata(there.join("a")).expect("stat"), fs::metadata(there.join("d/b")).expect("stat"));
        assert_eq!((a.ino(), a.nlink(), b.nlink()), (b.ino(), 2, 2));
        fs::write(there.join("d/b"), "changed through the other name").expect("write");
        assert_eq!(fs::read_to_string(here.join("a")).expect("read"), "changed through the other name");
        fs::remove_file(here.join("a")).expect("unlink");
        assert_eq!(fs::metadata(there.join("d/b")).expect("stat").nlink(), 1);
        assert_eq!(fs::read_to_string(there.join("d/b")).expect("read"), "changed through the other name");
    });
}

#[test]
fn refusals_are_those_of_posix() {
    everywhere(|here, there| {
        fs::write(here.join("a"), "").expect("create");
        fs::write(here.join("b"), "").expect("create");
        fs::create_dir(here.join("d")).expect("mkdir");
        assert_eq!(errno(fs::hard_link(there.join("a"), there.join("b"))), libc::EEXIST);
        assert_eq!(errno(fs::hard_link(there.join("d"), there.join("e"))), libc::EPERM);
        assert_eq!(errno(fs::hard_link(there.join("none"), there.join("e"))), libc::ENOENT);
    });
}

#[test]
fn a_rename_of_one_name_onto_another_of_the_same_inode_does_nothing() {
    everywhere(|here, there| {
        fs::write(here.join("a"), "").expect("create");
        fs::hard_link(here.join("a"), here.join("b")).expect("link");
        fs::rename(here.join("a"), here.join("b")).expect("rename");
        assert_eq!(fs::metadata(there.join("a")).expect("still there").nlink(), 2);
    });
}
