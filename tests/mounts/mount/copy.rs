//! copy_file_range(2).

use std::{
    fs::{self, File},
    path::Path,
};

use rustix::{fs::copy_file_range, io::Errno};

use crate::support::everywhere;

/// Not a multiple of anything.
const LENGTH: usize = 300_007;

fn content() -> Vec<u8> {
    (0..LENGTH).map(|place| (place % 253) as u8).collect()
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).expect("open")
}

/// All of it, as a caller does who is told how far each call came.
fn copy(from: &File, mut at: u64, to: &File, mut to_at: u64, mut left: usize) {
    while left > 0 {
        let copied = copy_file_range(from, Some(&mut at), to, Some(&mut to_at), left).expect("copy_file_range");
        assert!(copied > 0, "{left} bytes are left");
        left -= copied;
    }
}

#[test]
fn ranges_are_copied_within_a_file_and_between_files() {
    everywhere(|here, there| {
        let mut expected = content();
        fs::write(here.join("from"), &expected).expect("create");
        let (from, to) = (open(&here.join("from")), open(&here.join("to")));
        copy(&from, 0, &to, 0, LENGTH);
        assert!(fs::read(there.join("to")).expect("read") == expected);
        copy(&from, 5, &to, 200_001, 100_000);
        expected[200_001..300_001].copy_from_slice(&content()[5..100_005]);
        assert!(fs::read(there.join("to")).expect("read") == expected);
        // Far behind the end: a hole between.
        copy(&to, 0, &to, 400_000, 1_000);
        let found = fs::read(there.join("to")).expect("read");
        assert_eq!(found.len(), 401_000);
        assert!(found[LENGTH..400_000].iter().all(|byte| *byte == 0) && found[400_000..] == expected[..1_000]);
    });
}

#[test]
fn a_copy_is_a_file_of_its_own() {
    everywhere(|here, there| {
        fs::write(here.join("from"), content()).expect("create");
        copy(&open(&here.join("from")), 0, &open(&here.join("to")), 0, LENGTH);
        fs::write(there.join("from"), "something else").expect("write");
        assert!(fs::read(here.join("to")).expect("read") == content());
        fs::remove_file(there.join("from")).expect("unlink");
        assert!(fs::read(there.join("to")).expect("read") == content());
    });
}

#[test]
fn from_one_mount_to_another_goes_through_memory() {
    everywhere(|here, there| {
        fs::write(here.join("from"), content()).expect("create");
        copy(&open(&there.join("from")), 0, &open(&here.join("to")), 0, LENGTH);
        assert!(fs::read(there.join("to")).expect("read") == content());
    });
}

#[test]
fn refusals_are_those_of_linux() {
    everywhere(|here, there| {
        fs::write(here.join("from"), content()).expect("create");
        let (from, to) = (open(&there.join("from")), open(&there.join("to")));
        let end = &mut (LENGTH as u64);
        assert_eq!(copy_file_range(&from, Some(end), &to, Some(&mut 0), 10), Ok(0), "at the end");
        let overlapping = copy_file_range(&from, Some(&mut 0), &from, Some(&mut 10), 100);
        assert_eq!(overlapping, Err(Errno::INVAL));
        let reader = File::open(there.join("to")).expect("open");
        assert_eq!(copy_file_range(&from, Some(&mut 0), &reader, Some(&mut 0), 10), Err(Errno::BADF));
        let directory = File::open(there).expect("open");
        assert_eq!(copy_file_range(&directory, Some(&mut 0), &to, Some(&mut 0), 10), Err(Errno::ISDIR));
        assert_eq!(fs::metadata(here.join("to")).expect("stat").len(), 0);
    });
}
