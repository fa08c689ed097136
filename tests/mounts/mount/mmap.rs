//! mmap(2): reading what others wrote, writing and msync.

use std::{fs, time::UNIX_EPOCH};

use super::map::Map;
use crate::support::everywhere;

/// On local file systems the store itself changes mtime, and not what writes it back, whenever that may be.
#[test]
fn a_store_that_is_written_back_late_does_not_undo_utimes() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        fs::write(&mine, [b'a'; 10_000]).expect("create");
        let modified = || [&mine, &theirs].map(|path| fs::metadata(path).expect("stat").modified().expect("mtime"));
        let set = |file: &fs::File| {
            file.set_times(fs::FileTimes::new().set_modified(UNIX_EPOCH)).expect("utimens");
            modified()
        };
        let file = fs::File::options().read(true).write(true).open(&mine).expect("open");
        let map = Map::new(&file, 10_000, true);
        map.store(b'b');
        assert_eq!(set(&file), [UNIX_EPOCH; 2]);
        file.sync_all().expect("fsync");
        assert_eq!(modified(), [UNIX_EPOCH; 2]);
        // A store behind it counts.
        map.store(b'c');
        file.sync_all().expect("fsync");
        assert!(modified().iter().all(|time| *time > UNIX_EPOCH));
        // The mapping alone keeps the file open, and is gone with what it has not written back.
        set(&file);
        map.store(b'd');
        let by_path = fs::File::open(&mine).expect("open");
        drop(file);
        assert_eq!(set(&by_path), [UNIX_EPOCH; 2]);
        drop(map);
        assert_eq!(modified(), [UNIX_EPOCH; 2]);
        assert_eq!(fs::read(&theirs).expect("read"), [b'd'; 10_000]);
        assert_eq!(modified(), [UNIX_EPOCH; 2]);
    });
}

#[test]
fn a_mapping_shows_what_was_written_since() {
    everywhere(|here, there| {
        fs::write(here.join("f"), [b'a'; 10_000]).expect("create");
        let file = fs::File::open(there.join("f")).expect("open");
        let map = Map::new(&file, 10_000, false);
        assert_eq!(map.bytes(), [b'a'; 10_000]);
        fs::File::options()
            .write(true)
            .open(here.join("f"))
            .and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, &[b'b'; 5_000], 2_000))
            .expect("write");
        let bytes = map.bytes();
        assert!(bytes[..2_000].iter().all(|byte| *byte == b'a'));
        assert!(bytes[2_000..7_000].iter().all(|byte| *byte == b'b'));
        assert!(bytes[7_000..].iter().all(|byte| *byte == b'a'));
    });
}

#[test]
fn msync_makes_a_mappings_bytes_visible() {
    everywhere(|here, there| {
        fs::write(here.join("f"), [b'a'; 10_000]).expect("create");
        let file = fs::File::options().read(true).write(true).open(here.join("f")).expect("open");
        let map = Map::new(&file, 10_000, true);
        assert_eq!(fs::read(there.join("f")).expect("read"), [b'a'; 10_000]);
        map.fill(b'm');
        file.sync_all().expect("fsync");
        assert_eq!(fs::read(there.join("f")).expect("read"), [b'm'; 10_000]);
    });
}

/// Without fsync: msync is enough, for mappings elsewhere too.
#[test]
fn two_mappings_that_are_written_in_turn_show_the_same() {
    everywhere(|here, there| {
        fs::write(here.join("f"), [b'a'; 10_000]).expect("create");
        let open = |path| fs::File::options().read(true).write(true).open(path).expect("open");
        let (mine, theirs) = (open(here.join("f")), open(there.join("f")));
        let maps = [Map::new(&mine, 10_000, true), Map::new(&theirs, 10_000, true)];
        for round in 0..6 {
            let byte = b'b' + round;
            maps[usize::from(round % 2)].fill(byte);
            for map in &maps {
                assert!(map.bytes() == [byte; 10_000], "round {round}");
            }
        }
        assert_eq!(fs::read(there.join("f")).expect("read"), [b'g'; 10_000]);
    });
}

#[test]
fn a_private_mapping_changes_no_file() {
    everywhere(|here, there| {
        fs::write(here.join("f"), [b'a'; 10_000]).expect("create");
        // Not even opened for writing.
        let file = fs::File::open(there.join("f")).expect("open");
        let map = Map::private(&file, 10_000);
        map.fill(b'p');
        assert!(map.bytes() == [b'p'; 10_000]);
        assert_eq!(fs::read(there.join("f")).expect("read"), [b'a'; 10_000]);
        // Without a truncation, which takes private pages away on every file system.
        let writer = fs::File::options().write(true).open(here.join("f")).expect("open");
        std::os::unix::fs::FileExt::write_all_at(&writer, &[b'b'; 10_000], 0).expect("write");
        drop(writer);
        assert!(map.bytes() == [b'p'; 10_000], "its pages are its own");
        assert_eq!(fs::read(there.join("f")).expect("read"), [b'b'; 10_000]);
    });
}

#[test]
fn programs_run_from_the_mount() {
    use std::os::unix::fs::PermissionsExt;
    everywhere(|here, there| {
        fs::copy("/bin/true", here.join("true")).expect("copy");
        fs::set_permissions(here.join("true"), fs::Permissions::from_mode(0o755)).expect("chmod");
        let status = std::process::Command::new(there.join("true")).status().expect("it starts");
        assert!(status.success());
    });
}
