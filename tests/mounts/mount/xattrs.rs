//! Extended attributes.

use std::{fs, io::Write};

use nix::libc;
use rustix::fs::{XattrFlags, getxattr, getxattr_query, listxattr, removexattr, setxattr};

use crate::support::everywhere;

fn get(path: &std::path::Path, name: &str) -> Result<Vec<u8>, i32> {
    let mut value = vec![0; 65_536];
    let length = getxattr(path, name, &mut value[..]).map_err(rustix::io::Errno::raw_os_error)?;
    value.truncate(length);
    Ok(value)
}

#[test]
fn a_value_is_set_seen_changed_and_removed() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        fs::write(&mine, "").expect("create");
        assert_eq!(get(&theirs, "user.colour"), Err(libc::ENODATA));
        for value in [&b"red"[..], b"", &[0xff; 65_536]] {
            setxattr(&mine, "user.colour", value, XattrFlags::empty()).expect("setxattr");
            assert_eq!(get(&theirs, "user.colour").as_deref(), Ok(value));
        }
        setxattr(&mine, "trusted.other", b"x", XattrFlags::empty()).expect("setxattr");
        let mut names = vec![0; 1000];
        let length = listxattr(&theirs, &mut names[..]).expect("listxattr");
        let mut listed: Vec<_> = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        listed.sort();
        assert_eq!(listed, [&b"trusted.other"[..], b"user.colour"]);
        removexattr(&mine, "user.colour").expect("removexattr");
        assert_eq!(get(&theirs, "user.colour"), Err(libc::ENODATA));
    });
}

#[test]
fn flags_and_sizes() {
    everywhere(|here, there| {
        let path = here.join("d");
        fs::create_dir(&path).expect("mkdir");
        let set = |flags| setxattr(there.join("d"), "user.a", b"12345", flags).map_err(|error| error.raw_os_error());
        assert_eq!(set(XattrFlags::REPLACE), Err(libc::ENODATA));
        assert_eq!(set(XattrFlags::CREATE), Ok(()));
        assert_eq!(set(XattrFlags::CREATE), Err(libc::EEXIST));
        assert_eq!(set(XattrFlags::REPLACE), Ok(()));
        assert_eq!(getxattr_query(&path, "user.a"), Ok(5), "a size of 0 asks for the size");
        let mut short = [0; 4];
        assert_eq!(getxattr(&path, "user.a", &mut short[..]), Err(rustix::io::Errno::RANGE));
        assert_eq!(removexattr(&path, "user.none"), Err(rustix::io::Errno::NODATA));
        let long = format!("user.{}", "n".repeat(250));
        setxattr(&path, &long[..255], b"", XattrFlags::empty()).expect("a name of 255 bytes");
    });
}

/// Also root's, which leaves setuid (`file_remove_privs`, fs/inode.c); what is written later, as archives are unpacked, stays.
#[test]
fn a_write_ends_capabilities() {
    const CAPABILITY: &str = "security.capability";
    // Version 2, cap_chown permitted and effective.
    const VALUE: [u8; 20] = [1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("program"), there.join("program"));
        fs::write(&mine, "text").expect("create");
        setxattr(&mine, CAPABILITY, &VALUE, XattrFlags::empty()).expect("setxattr");
        assert_eq!(get(&theirs, CAPABILITY).map(|value| value.len()), Ok(VALUE.len()));
        let mut file = fs::OpenOptions::new().append(true).open(&mine).expect("open");
        file.write_all(b"more").expect("write");
        assert_eq!(get(&mine, CAPABILITY), Err(libc::ENODATA));
        assert_eq!(get(&theirs, CAPABILITY), Err(libc::ENODATA));
        setxattr(&mine, CAPABILITY, &VALUE, XattrFlags::empty()).expect("setxattr");
        drop(file);
        assert!(get(&theirs, CAPABILITY).is_ok());
    });
}
