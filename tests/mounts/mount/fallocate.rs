//! fallocate(2).

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};

use crate::support::{everywhere, wait_for};

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

fn blocks(file: &File) -> u64 {
    file.metadata().expect("stat").blocks() * 512
}

/// fallocate of twice what was free succeeded, and reserved nothing.
#[test]
fn more_than_there_is_cannot_be_reserved_and_what_is_reserved_counts() {
    everywhere(|here, there| {
        let free = |path: &Path| {
            let stat = nix::sys::statvfs::statvfs(path).expect("statfs");
            stat.blocks_available() * stat.fragment_size()
        };
        let file = File::options().read(true).write(true).create_new(true).open(here.join("f")).expect("create");
        let length = i64::try_from((2 * free(here)).min(15 << 40)).expect("a size");
        assert_eq!(fallocate(&file, FallocateFlags::empty(), 0, length), Err(Errno::ENOSPC));
        assert_eq!((file.metadata().expect("stat").len(), blocks(&file)), (0, 0));
        // Two mounts together, each for itself less than there is.
        let other = File::options().write(true).create_new(true).open(there.join("g")).expect("create");
        let most = i64::try_from(free(here) / 3 * 2).expect("a size");
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, most).expect("as much as there is");
        assert_eq!(fallocate(&other, FallocateFlags::empty(), 0, most), Err(Errno::ENOSPC));
        assert_eq!((file.metadata().expect("stat").len(), blocks(&file)), (0, (most as u64).next_multiple_of(512)));
        wait_for("what is reserved to be shown as taken", || (free(there) < most as u64).then_some(()));
        drop((file, other));
        fs::remove_file(here.join("f")).expect("unlink");
        wait_for("its space to be back", || (free(there) > most as u64).then_some(()));
        fs::remove_file(there.join("g")).expect("unlink");
    });
}

#[test]
fn what_is_reserved_reads_as_zeros_until_it_is_written() {
    everywhere(|here, there| {
        let file = File::options().read(true).write(true).create_new(true).open(here.join("f")).expect("create");
        fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).expect("reserve");
        let other = File::options().read(true).write(true).open(there.join("f")).expect("open");
        assert!(blocks(&other) >= 1 << 20);
        let seek = |offset, whence| nix::unistd::lseek(&other, offset, whence);
        assert_eq!(seek(0, nix::unistd::Whence::SeekData), Err(Errno::ENXIO));
        other.write_all_at(&[7; 4096], 8192).expect("write");
        other.sync_all().expect("fsync");
        assert_eq!(seek(0, nix::unistd::Whence::SeekData), Ok(8192));
        assert_eq!(seek(8192, nix::unistd::Whence::SeekHole), Ok(12_288));
        let mut expected = vec![0; 1 << 20];
        expected[8192..12_288].fill(7);
        assert_eq!(fs::read(here.join("f")).expect("read"), expected);
        assert!((1 << 20..(1 << 20) + 8192).contains(&blocks(&file)), "{}", blocks(&file));
        file.set_len(4096).expect("truncate");
        assert_eq!(blocks(&other), 4096);
        let punch = FallocateFlags::FALLOC_FL_KEEP_SIZE | FallocateFlags::FALLOC_FL_PUNCH_HOLE;
        fallocate(&other, punch, 0, 4096).expect("punch");
        assert_eq!(blocks(&file), 0);
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
