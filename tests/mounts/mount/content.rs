//! read, write, truncate: small and large, in the middle, with holes, again and again.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use crate::support::everywhere;

/// Bytes that differ at every place.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn same(path: &Path, expected: &[u8]) {
    let found = fs::read(path).expect("read");
    assert_eq!(found.len(), expected.len(), "{}", path.display());
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!(at, None, "first difference in {}", path.display());
}

#[test]
fn sizes_around_every_border() {
    everywhere(|here, there| {
        // Page, inline limit, write request, block.
        for border in [0, 4096, 64 * 1024, 128 * 1024, 1024 * 1024] {
            for length in [border, border + 1, usize::saturating_sub(border, 1)] {
                let bytes = pattern(length, length as u64);
                fs::write(here.join("f"), &bytes).expect("write");
                same(&there.join("f"), &bytes);
            }
        }
    });
}

#[test]
fn an_overwrite_replaces_what_the_reader_has_cached() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        let mut expected = pattern(300_000, 1);
        fs::write(&mine, &expected).expect("write");
        let held = File::open(&theirs).expect("open");
        for (round, at) in [0, 1, 4095, 4096, 65_535, 131_072, 299_990].into_iter().enumerate() {
            same(&theirs, &expected);
            let piece = pattern(10, round as u64 + 2);
            let file = File::options().write(true).open(&mine).expect("open");
            file.write_all_at(&piece, at as u64).expect("write");
            drop(file);
            expected[at..at + 10].copy_from_slice(&piece);
            same(&theirs, &expected);
            let mut through_held = vec![0; expected.len()];
            held.read_exact_at(&mut through_held, 0).expect("read");
            assert!(through_held == expected, "an open descriptor sees it too, round {round}");
        }
    });
}

#[test]
fn a_rewrite_of_the_same_size_and_times_is_seen() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        for round in 0..5 {
            let bytes = pattern(10_000, round);
            let mut file = File::create(&mine).expect("create");
            file.write_all(&bytes).expect("write");
            file.set_modified(time).expect("utimens");
            drop(file);
            same(&theirs, &bytes);
            assert_eq!(fs::metadata(&theirs).expect("stat").modified().expect("mtime"), time);
        }
    });
}

#[test]
fn truncation_cuts_and_zeroes() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        let mut expected = pattern(200_000, 3);
        fs::write(&mine, &expected).expect("write");
        for length in [150_000, 4097, 180_000, 1, 0, 70_000, 65_536, 100] {
            same(&theirs, &expected);
            File::options().write(true).open(&mine).expect("open").set_len(length as u64).expect("truncate");
            expected.resize(length, 0);
            same(&theirs, &expected);
        }
        fs::write(&mine, "O_TRUNC").expect("open with O_TRUNC");
        same(&theirs, b"O_TRUNC");
    });
}

#[test]
fn holes_read_as_zeros_and_take_no_space() {
    use std::os::unix::fs::MetadataExt;
    everywhere(|here, there| {
        let file = File::create(here.join("f")).expect("create");
        file.write_all_at(b"head", 0).expect("write");
        file.write_all_at(b"tail", 10 << 30).expect("write at 10 GiB");
        drop(file);
        let about = fs::metadata(there.join("f")).expect("stat");
        assert_eq!(about.len(), (10 << 30) + 4);
        assert!(about.blocks() < 100, "{} blocks", about.blocks());
        let file = File::open(there.join("f")).expect("open");
        let mut bytes = vec![1; 100_000];
        for at in [4, 5 << 30, (10 << 30) - 100_000] {
            file.read_exact_at(&mut bytes, at).expect("read");
            assert!(bytes.iter().all(|byte| *byte == 0), "a hole at {at}");
        }
        let mut tail = [0; 8];
        assert_eq!(file.read_at(&mut tail, 10 << 30).expect("read"), 4);
        assert_eq!(&tail[..4], b"tail");
    });
}

#[test]
fn what_one_descriptor_wrote_the_same_one_reads() {
    everywhere(|here, _| {
        let mut file = File::options().read(true).write(true).create_new(true).open(here.join("f")).expect("create");
        let mut expected = Vec::new();
        for round in 0..50 {
            let piece = pattern(3000, round);
            file.write_all(&piece).expect("write");
            expected.extend(piece);
            let mut found = vec![0; expected.len()];
            file.read_exact_at(&mut found, 0).expect("read");
            assert!(found == expected, "round {round}");
        }
        file.seek(SeekFrom::Start(100)).expect("seek");
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).expect("read");
        assert!(rest == expected[100..]);
    });
}

#[test]
fn a_large_file_arrives_whole() {
    everywhere(|here, there| {
        let bytes = pattern(40 << 20, 9);
        let mut file = File::create(here.join("large")).expect("create");
        // Pieces that fit neither pages nor blocks.
        for piece in bytes.chunks(777_777) {
            file.write_all(piece).expect("write");
        }
        file.sync_all().expect("fsync");
        drop(file);
        same(&there.join("large"), &bytes);
    });
}

#[test]
fn fsync_makes_bytes_visible_while_the_file_stays_open() {
    everywhere(|here, there| {
        let mut file = File::create(here.join("f")).expect("create");
        for round in 1..5 {
            file.write_all(b"line of a log\n").expect("write");
            file.sync_data().expect("fdatasync");
            assert_eq!(fs::read(there.join("f")).expect("read"), b"line of a log\n".repeat(round));
        }
    });
}
