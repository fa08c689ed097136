//! fallocate(2).

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};

use super::support::everywhere;

#[test]
fn ranges_are_extended_punched_and_zeroed() {
    everywhere(|here, there| {
        let file = File::options().read(true).write(true).create_new(true).open(here.join("f")).expect("create");
        let read = || fs::read(there.join("f")).expect("read");
        fallocate(&file, FallocateFlags::empty(), 0, 10_000).expect("extend");
        assert_eq!(read(), vec![0; 10_000]);
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 10_000], 0).expect("write");
        file.sync_all().expect("fsync");
        let mut expected = vec![7; 10_000];
        assert_eq!(read(), expected);
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, keep, 0, 1 << 20).expect("keep size");
        assert_eq!(fs::metadata(there.join("f")).expect("stat").len(), 10_000);
        fallocate(&file, keep | FallocateFlags::FALLOC_FL_PUNCH_HOLE, 100, 5_000).expect("punch");
        expected[100..5_100].fill(0);
        assert_eq!(read(), expected);
        fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 9_000, 3_000).expect("zero");
        expected.resize(12_000, 0);
        expected[9_000..].fill(0);
        assert_eq!(read(), expected);
    });
}

#[test]
fn a_punched_hole_gives_its_space_back() {
    everywhere(|here, there| {
        let file = File::options().write(true).create_new(true).open(here.join("f")).expect("create");
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 4 << 20], 0).expect("write");
        file.sync_all().expect("fsync");
        let blocks = || fs::metadata(there.join("f")).expect("stat").blocks();
        let full = blocks();
        assert!(full >= (4 << 20) / 512, "{full} blocks");
        let punch = FallocateFlags::FALLOC_FL_KEEP_SIZE | FallocateFlags::FALLOC_FL_PUNCH_HOLE;
        fallocate(&file, punch, 0, 4 << 20).expect("punch");
        assert_eq!(blocks(), 0);
    });
}

#[test]
fn what_is_not_supported_says_so_and_changes_nothing() {
    everywhere(|here, there| {
        fs::write(here.join("f"), [7; 20_000]).expect("create");
        let file = File::options().write(true).open(here.join("f")).expect("open");
        // The kernel does not pass the first two on to any FUSE file system; others refuse them too (tmpfs, NFS, ext2).
        for flags in [
            FallocateFlags::FALLOC_FL_COLLAPSE_RANGE,
            FallocateFlags::FALLOC_FL_INSERT_RANGE,
            FallocateFlags::FALLOC_FL_UNSHARE_RANGE,
        ] {
            assert_eq!(fallocate(&file, flags, 4096, 4096), Err(Errno::EOPNOTSUPP), "{flags:?}");
        }
        let nothing = FallocateFlags::empty();
        assert_eq!(fallocate(&file, nothing, 0, 0), Err(Errno::EINVAL));
        assert_eq!(fallocate(&file, nothing, -1, 4096), Err(Errno::EINVAL));
        assert_eq!(fallocate(&file, nothing, i64::MAX - 1, 4096), Err(Errno::EFBIG));
        let reader = File::open(here.join("f")).expect("open");
        assert_eq!(fallocate(&reader, nothing, 0, 4096), Err(Errno::EBADF));
        assert_eq!(fs::read(there.join("f")).expect("read"), [7; 20_000]);
    });
}

#[test]
fn a_hole_behind_the_end_and_zeros_that_keep_the_size() {
    everywhere(|here, there| {
        fs::write(here.join("f"), [7; 5_000]).expect("create");
        let file = File::options().write(true).open(here.join("f")).expect("open");
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, keep | FallocateFlags::FALLOC_FL_PUNCH_HOLE, 10_000, 5_000).expect("punch behind the end");
        fallocate(&file, keep | FallocateFlags::FALLOC_FL_ZERO_RANGE, 4_000, 5_000).expect("zero over the end");
        let mut expected = vec![7; 5_000];
        expected[4_000..].fill(0);
        assert_eq!(fs::read(there.join("f")).expect("read"), expected);
    });
}
