//! chmod, chown, utimes, truncate, and the times and link counts that follow from other calls.

use std::{
    fs::{self, File, FileTimes},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::support::everywhere;

fn touch(path: &Path) {
    fs::write(path, "some bytes").expect("create");
}

#[test]
fn a_change_shows_on_warm_attributes() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        touch(&mine);
        let stat = || fs::metadata(&theirs).expect("stat");
        for mode in [0o600, 0o4755, 0o1777, 0o000, 0o644] {
            stat();
            fs::set_permissions(&mine, fs::Permissions::from_mode(mode)).expect("chmod");
            assert_eq!(stat().mode() & 0o7777, mode);
        }
        for (uid, gid) in [(33, 33), (1000, 100), (u32::MAX - 1, 7), (0, 0)] {
            stat();
            chown(&mine, Some(uid), Some(gid)).expect("chown");
            assert_eq!((stat().uid(), stat().gid()), (uid, gid));
        }
        for size in [0, 1, 4095, 4096, 1 << 40, 10] {
            stat();
            File::options().write(true).open(&mine).expect("open").set_len(size).expect("truncate");
            assert_eq!(stat().len(), size);
        }
    });
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        touch(&mine);
        let times = [
            UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789),
            UNIX_EPOCH,
            UNIX_EPOCH - Duration::new(1, 1),
            UNIX_EPOCH + Duration::new(1 << 33, 999_999_999),
        ];
        for time in times {
            let file = File::options().write(true).open(&mine).expect("open");
            file.set_times(FileTimes::new().set_modified(time).set_accessed(time)).expect("utimens");
            drop(file);
            let about = fs::metadata(&theirs).expect("stat");
            assert_eq!((about.modified().expect("mtime"), about.accessed().expect("atime")), (time, time));
        }
    });
}

#[test]
fn no_time_is_too_much_for_a_mount() {
    everywhere(|here, there| {
        touch(&here.join("f"));
        // The first of them once ended the worker, which took its absolute value.
        for seconds in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
            let path = here.join("f").display().to_string();
            // Whether the kernel shows such a time is its own affair.
            let status = Command::new("touch").args(["-m", "-d", &format!("@{seconds}"), &path]).status();
            assert!(status.expect("touch runs").success(), "{seconds}");
            fs::metadata(there.join("f")).expect("stat");
        }
    });
}

#[test]
fn ctime_and_mtime_go_forward() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        touch(&mine);
        let times = || {
            let about = fs::metadata(&theirs).expect("stat");
            ((about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()))
        };
        let mut before = times();
        for round in 0..5 {
            fs::write(&mine, format!("round {round}")).expect("write");
            let after = times();
            assert!(after.0 > before.0 && after.1 > before.1, "a write changes both: {before:?}, {after:?}");
            fs::set_permissions(&mine, fs::Permissions::from_mode(0o600 + round)).expect("chmod");
            let changed = times();
            assert!(changed.0 == after.0 && changed.1 > after.1, "chmod changes ctime only: {after:?}, {changed:?}");
            before = changed;
        }
    });
}

/// Sets mtime.
fn set_modified(path: &Path, time: SystemTime) {
    File::open(path).expect("open").set_times(FileTimes::new().set_modified(time)).expect("utimens");
}

/// mtime is the present, give or take a minute, on both.
fn is_present(what: &str, paths: [&Path; 2]) {
    for path in paths {
        let modified = fs::metadata(path).expect("stat").modified().expect("mtime");
        let off = modified.duration_since(SystemTime::now()).unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(60), "{what}: {} is off by {off:?}", path.display());
    }
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("open")
}

/// What is done to a file, and its name.
type Change = (&'static str, fn(&Path));

/// Changes of a file's content.
const CHANGES: [Change; 6] = [
    ("write", |path| open(path).write_all(b"other").expect("write")),
    ("append", |path| File::options().append(true).open(path).expect("open").write_all(b"more").expect("append")),
    ("truncate", |path| open(path).set_len(3).expect("ftruncate")),
    ("truncate to the same size", |path| {
        let file = open(path);
        file.set_len(file.metadata().expect("fstat").len()).expect("ftruncate");
    }),
    ("O_TRUNC", |path| drop(File::create(path).expect("open"))),
    ("fallocate", |path| fallocate(open(path), FallocateFlags::empty(), 0, 10_000).expect("fallocate")),
];

/// Whoever looks for what has changed lately would never find it again.
#[test]
fn a_time_that_was_set_into_the_future_ends_with_the_next_change() {
    everywhere(|here, there| {
        let future = SystemTime::now() + Duration::from_secs(10 * 365 * 24 * 3600);
        let (mine, theirs) = (here.join("f"), there.join("f"));
        for (what, change) in CHANGES {
            touch(&mine);
            set_modified(&mine, future);
            assert_eq!(fs::metadata(&theirs).expect("stat").modified().expect("mtime"), future, "as it was set");
            change(&theirs);
            is_present(what, [&mine, &theirs]);
        }
        // What is buffered shows the time that it has in the end.
        let mut file = File::create(&mine).expect("open");
        for round in 0..2 {
            file.set_times(FileTimes::new().set_modified(future)).expect("utimens");
            file.write_all(b"more").expect("write");
            is_present("an open file", [&mine, &theirs]);
            assert_eq!(file.metadata().expect("fstat").len(), (round + 1) * 4);
        }
        file.set_times(FileTimes::new().set_modified(future)).expect("utimens");
        drop(file);
        assert_eq!(
            fs::metadata(&theirs).expect("stat").modified().expect("mtime"),
            future,
            "set behind the last write"
        );

        let (mine, theirs) = (here.join("d"), there.join("d"));
        fs::create_dir(&mine).expect("mkdir");
        let names: [Change; 4] = [
            ("create", |directory| fs::write(directory.join("a"), "").expect("create")),
            ("rename", |directory| fs::rename(directory.join("a"), directory.join("b")).expect("rename")),
            ("link", |directory| fs::hard_link(directory.join("b"), directory.join("c")).expect("link")),
            ("unlink", |directory| fs::remove_file(directory.join("c")).expect("unlink")),
        ];
        for (what, change) in names {
            set_modified(&mine, future);
            assert_eq!(fs::metadata(&theirs).expect("stat").modified().expect("mtime"), future, "as it was set");
            assert!(fs::read_dir(&mine).expect("readdir").all(|entry| entry.is_ok()));
            change(&theirs);
            is_present(what, [&mine, &theirs]);
        }
        assert_eq!(fs::read_dir(&mine).expect("readdir").count(), 1);
    });
}

/// Programs write a file anew that has the same size, and tell by mtime that it was written.
#[test]
fn what_changes_no_byte_changes_mtime() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        for content in ["", "12345"] {
            for (what, change) in CHANGES {
                fs::write(&mine, content).expect("write");
                set_modified(&mine, UNIX_EPOCH);
                change(&theirs);
                is_present(what, [&mine, &theirs]);
                // While it is open, and what was written is on its way.
                let mut file = File::create(&mine).expect("open");
                file.write_all(content.as_bytes()).expect("write");
                file.set_times(FileTimes::new().set_modified(UNIX_EPOCH)).expect("utimens");
                change(&mine);
                is_present(what, [&mine, &theirs]);
            }
        }
    });
}

#[test]
fn a_directory_counts_its_directories_and_changes_with_its_names() {
    everywhere(|here, there| {
        let about = || fs::metadata(there).expect("stat");
        let before = about();
        assert_eq!(before.nlink(), 2);
        fs::create_dir(here.join("d")).expect("mkdir");
        let with = about();
        assert_eq!(with.nlink(), 3);
        assert!((with.mtime(), with.mtime_nsec()) > (before.mtime(), before.mtime_nsec()));
        fs::remove_dir(here.join("d")).expect("rmdir");
        let without = about();
        assert_eq!(without.nlink(), 2);
        assert!((without.mtime(), without.mtime_nsec()) > (with.mtime(), with.mtime_nsec()));
    });
}

#[test]
fn an_open_file_shows_what_happened_to_it() {
    everywhere(|here, there| {
        let mine = here.join("f");
        touch(&mine);
        let file = File::open(there.join("f")).expect("open");
        assert_eq!(file.metadata().expect("fstat").len(), 10);
        fs::write(&mine, "more bytes than before").expect("write");
        fs::set_permissions(&mine, fs::Permissions::from_mode(0o640)).expect("chmod");
        let about = file.metadata().expect("fstat");
        assert_eq!((about.len(), about.mode() & 0o7777), (22, 0o640));
    });
}
