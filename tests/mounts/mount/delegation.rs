//! Write delegations through real kernels: bytes are seen by other mounts between write() and close(), files that several
//! mounts write lose nothing, and a file outlives the mount that was writing it.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt},
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};

use crate::support::Cluster;

#[test]
fn what_is_written_is_seen_by_another_mount_before_close() {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    let mut writer = File::create(here.path.join("f")).expect("create");
    let mut reader = None;
    let mut expected = Vec::new();
    for round in 0..50 {
        let line = format!("line {round}\n");
        writer.write_all(line.as_bytes()).expect("write");
        expected.extend_from_slice(line.as_bytes());
        // A stat, the file as it is opened, and a descriptor that was open before with warm pages.
        let size = fs::metadata(there.path.join("f")).expect("stat").size();
        assert_eq!(size, expected.len() as u64, "round {round}");
        assert_eq!(fs::read(there.path.join("f")).expect("read"), expected, "round {round}");
        let reader = reader.get_or_insert_with(|| File::open(there.path.join("f")).expect("open"));
        let mut shown = Vec::new();
        reader.seek(SeekFrom::Start(0)).expect("seek");
        reader.read_to_end(&mut shown).expect("read");
        assert_eq!(shown, expected, "round {round}");
    }
    writer.set_len(5).expect("truncate");
    assert_eq!(fs::read(there.path.join("f")).expect("read"), b"line ");
    drop(writer);
    assert_eq!(fs::read(there.path.join("f")).expect("read"), b"line ");
}

#[test]
fn stat_is_the_same_before_and_after_close() {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    let path = here.path.join("f");
    let mut file = File::create(&path).expect("create");
    file.write_all(b"some bytes").expect("write");
    let shown = |path: &std::path::Path| {
        let found = fs::metadata(path).expect("stat");
        (found.size(), found.mode(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec())
    };
    let before = shown(&path);
    drop(file);
    assert_eq!(shown(&path), before);
    assert_eq!(shown(&there.path.join("f")), before);
}

#[test]
fn two_mounts_that_write_one_file_in_turn_lose_nothing() {
    const TURNS: usize = 200;
    let cluster = Cluster::found();
    let mounts = [cluster.mount(), cluster.mount()];
    File::create(mounts[0].path.join("shared")).expect("create");
    let open = |mount: usize| File::options().write(true).read(true).open(mounts[mount].path.join("shared"));
    let files = [open(0).expect("open"), open(1).expect("open")];
    let mut expected = Vec::new();
    let begin = Instant::now();
    for turn in 0..TURNS {
        let text = format!("{turn:>7}\n");
        files[turn % 2].write_all_at(text.as_bytes(), expected.len() as u64).expect("write");
        expected.extend_from_slice(text.as_bytes());
        let mut shown = vec![0; expected.len()];
        files[(turn + 1) % 2].read_exact_at(&mut shown, 0).expect("all that was written");
        assert!(shown == expected, "turn {turn}");
    }
    println!("{TURNS} turns of write here and read there in {:?}", begin.elapsed());
    drop(files);
    for mount in &mounts {
        assert_eq!(fs::read(mount.path.join("shared")).expect("read"), expected);
    }
}

#[test]
fn a_log_that_both_mounts_append_to_has_every_line() {
    const LINES: usize = 200;
    let cluster = Cluster::found();
    let mounts = [cluster.mount(), cluster.mount()];
    let begin = Instant::now();
    for line in 0..LINES {
        // As PHP writes its debug.log: open, append, close.
        let path = mounts[line % 2].path.join("debug.log");
        let mut file = File::options().append(true).create(true).open(path).expect("open");
        file.write_all(format!("{line}\n").as_bytes()).expect("append");
    }
    println!("{LINES} appends in turn in {:?}", begin.elapsed());
    let expected: String = (0..LINES).map(|line| format!("{line}\n")).collect();
    for mount in &mounts {
        assert_eq!(fs::read_to_string(mount.path.join("debug.log")).expect("read"), expected);
    }
}

#[test]
fn a_file_outlives_the_mount_that_was_writing_it() {
    let cluster = Cluster::found();
    let (lost, there) = (cluster.mount(), cluster.mount());
    let mut file = File::create(lost.path.join("f")).expect("create");
    file.write_all(b"flushed").expect("write");
    file.sync_all().expect("fsync");
    kill(lost.worker(), Signal::SIGKILL).expect("it runs");
    // The hold time has to pass first: nobody knows whether the mount comes back.
    let begin = Instant::now();
    assert_eq!(fs::read(there.path.join("f")).expect("read"), b"flushed");
    assert!(begin.elapsed() > Duration::from_secs(3), "its delegation was held: {:?}", begin.elapsed());
    fs::write(there.path.join("f"), "written anew").expect("write");
    assert_eq!(fs::read(there.path.join("f")).expect("read"), b"written anew");
    drop(file);
}
