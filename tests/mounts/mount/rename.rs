//! rename and renameat2: replacing, refusing, exchanging; files, directories, what is open.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use nix::{
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
    libc,
};

use crate::support::{errno, everywhere};

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> std::io::Result<()> {
    Ok(renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)?)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("read")
}

#[test]
fn both_names_change_at_once_for_everybody() {
    everywhere(|here, there| {
        fs::write(here.join("a"), "first").expect("create");
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
            assert_eq!(errno(fs::metadata(there.join(to))), libc::ENOENT);
            assert_eq!(read(&there.join(from)), "first");
            fs::rename(here.join(from), here.join(to)).expect("rename");
            assert_eq!(read(&there.join(to)), "first");
            assert_eq!(errno(fs::metadata(there.join(from))), libc::ENOENT);
        }
    });
}

#[test]
fn a_replaced_file_is_gone_and_its_readers_keep_it() {
    everywhere(|here, there| {
        fs::write(here.join("new"), "new content").expect("create");
        fs::write(here.join("name"), "old").expect("create");
        assert_eq!(read(&there.join("name")), "old");
        let mut held = File::open(there.join("name")).expect("open");
        fs::rename(here.join("new"), here.join("name")).expect("rename");
        assert_eq!(read(&there.join("name")), "new content");
        let mut old = String::new();
        held.read_to_string(&mut old).expect("read");
        assert_eq!(old, "old");
    });
}

#[test]
fn flags_of_renameat2() {
    everywhere(|here, there| {
        fs::write(here.join("a"), "a").expect("create");
        fs::create_dir(here.join("b")).expect("mkdir");
        fs::write(here.join("b/inside"), "inside").expect("create");
        fs::metadata(there.join("b/inside")).expect("warm");
        let refused = rename(&here.join("a"), &here.join("b"), RenameFlags::RENAME_NOREPLACE);
        assert_eq!(errno(refused), libc::EEXIST);
        rename(&here.join("a"), &here.join("b"), RenameFlags::RENAME_EXCHANGE).expect("exchange");
        assert_eq!(read(&there.join("b")), "a");
        assert_eq!(read(&there.join("a/inside")), "inside");
        let refused = rename(&here.join("a"), &here.join("none"), RenameFlags::RENAME_EXCHANGE);
        assert_eq!(errno(refused), libc::ENOENT);
        rename(&here.join("b"), &here.join("c"), RenameFlags::RENAME_NOREPLACE).expect("free name");
        assert_eq!(read(&there.join("c")), "a");
    });
}

#[test]
fn a_directory_moves_with_all_below_it() {
    everywhere(|here, there| {
        fs::create_dir_all(here.join("from/x/y")).expect("mkdir");
        fs::create_dir(here.join("to")).expect("mkdir");
        fs::write(here.join("from/x/y/leaf"), "leaf").expect("create");
        assert_eq!(read(&there.join("from/x/y/leaf")), "leaf");
        fs::rename(here.join("from/x"), here.join("to/z")).expect("rename");
        assert_eq!(read(&there.join("to/z/y/leaf")), "leaf");
        assert_eq!(errno(fs::metadata(there.join("from/x/y/leaf"))), libc::ENOENT);
        let up = fs::canonicalize(there.join("to/z/..")).expect("parent");
        assert_eq!(up, fs::canonicalize(there.join("to")).expect("to"));
    });
}

#[test]
fn refusals_are_those_of_posix() {
    everywhere(|here, there| {
        fs::create_dir_all(here.join("d/e")).expect("mkdir");
        fs::create_dir(here.join("empty")).expect("mkdir");
        fs::write(here.join("f"), "").expect("create");
        assert_eq!(errno(fs::rename(there.join("d"), there.join("d/e/g"))), libc::EINVAL);
        assert_eq!(errno(fs::rename(there.join("empty"), there.join("d"))), libc::ENOTEMPTY);
        assert_eq!(errno(fs::rename(there.join("f"), there.join("d"))), libc::EISDIR);
        assert_eq!(errno(fs::rename(there.join("d"), there.join("f"))), libc::ENOTDIR);
        assert_eq!(errno(fs::rename(there.join("none"), there.join("f"))), libc::ENOENT);
        fs::rename(there.join("d"), there.join("empty")).expect("over an empty directory");
        assert!(fs::metadata(here.join("empty/e")).expect("moved").is_dir());
    });
}

#[test]
fn two_mounts_that_rename_in_circles_never_hang() {
    everywhere(|here, there| {
        fs::write(here.join("a"), "x").expect("create");
        fs::write(here.join("b"), "y").expect("create");
        std::thread::scope(|scope| {
            for directory in [here, there] {
                scope.spawn(move || {
                    for round in 0..50 {
                        rename(&directory.join("a"), &directory.join("b"), RenameFlags::RENAME_EXCHANGE)
                            .unwrap_or_else(|error| panic!("round {round}: {error}"));
                    }
                });
            }
        });
        let mut both = [read(&here.join("a")), read(&here.join("b"))];
        assert_eq!(both, [read(&there.join("a")), read(&there.join("b"))], "both mounts agree");
        both.sort();
        assert_eq!(both, ["x", "y"]);
    });
}

/// As a program saves a file while others read it.
#[test]
fn an_open_beside_renames_over_its_name_finds_the_old_or_the_new_file() {
    everywhere(|here, there| {
        fs::write(here.join("name"), "version 0").expect("create");
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for directory in [here, there, there] {
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut last = 0;
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        let text = read(&directory.join("name"));
                        let version = text.strip_prefix("version ").and_then(|version| version.parse().ok());
                        let version: u32 = version.unwrap_or_else(|| panic!("'{text}' was never there"));
                        assert!(version >= last, "version {version} after {last}");
                        last = version;
                    }
                });
            }
            for version in 1..200 {
                fs::write(here.join("new"), format!("version {version}")).expect("create");
                fs::rename(here.join("new"), here.join("name")).expect("rename");
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}
