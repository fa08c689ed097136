//! lseek(2) with SEEK_DATA and SEEK_HOLE.

use std::{fs::File, os::unix::fs::FileExt};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};

use crate::support::everywhere;

#[test]
fn data_and_holes_are_told_apart() {
    everywhere(|here, there| {
        let file = File::create(here.join("f")).expect("create");
        file.write_all_at(&[1; 4096], 1 << 20).expect("write");
        file.set_len(4 << 20).expect("truncate");
        drop(file);
        let file = File::open(there.join("f")).expect("open");
        let seek = |offset, whence| lseek(&file, offset, whence);
        assert_eq!(seek(0, Whence::SeekHole), Ok(0));
        let data = seek(0, Whence::SeekData).expect("there is data");
        // A file system may call more data than was written, never less.
        assert!((1..=1 << 20).contains(&data), "data at {data}");
        let hole = seek(1 << 20, Whence::SeekHole).expect("there is a hole");
        assert!(((1 << 20) + 4096..4 << 20).contains(&hole), "hole at {hole}");
        assert_eq!(seek(hole, Whence::SeekData), Err(Errno::ENXIO));
        assert_eq!(seek(4 << 20, Whence::SeekHole), Err(Errno::ENXIO));
        assert_eq!(seek(hole, Whence::SeekHole), Ok(hole));
    });
}

#[test]
fn the_end_of_a_file_without_holes_is_a_hole() {
    everywhere(|here, there| {
        std::fs::write(here.join("f"), [1; 5000]).expect("write");
        let file = File::open(there.join("f")).expect("open");
        assert_eq!(lseek(&file, 10, Whence::SeekData), Ok(10));
        assert_eq!(lseek(&file, 10, Whence::SeekHole), Ok(5000));
    });
}
