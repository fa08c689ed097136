//! chmod, chown, utimes, truncate, and the times and link counts that follow from other calls.

use std::{
    fs::{self, File, FileTimes},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use super::support::everywhere;

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
