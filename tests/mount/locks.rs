//! flock(2) and fcntl(2) locks, on one mount and across two. Open files own the locks here (flock, F_OFD_*), so that one
//! process can be both sides.

use std::{
    fs::File,
    os::fd::AsRawFd,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, Flock, FlockArg, fcntl},
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::support::everywhere;

/// Longer than anything takes that is to happen at all.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(directory: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(directory.join("lock")).expect("open")
}

fn flock(file: File, how: FlockArg) -> Result<Flock<File>, Errno> {
    Flock::lock(file, how).map_err(|(_, errno)| errno)
}

/// An fcntl lock of the bytes from `start` on (`length` 0: to the end) that the open file owns.
fn range(kind: i32, start: i64, length: i64) -> libc::flock {
    let kind = i16::try_from(kind).expect("small");
    let whence = i16::try_from(libc::SEEK_SET).expect("small");
    libc::flock { l_type: kind, l_whence: whence, l_start: start, l_len: length, l_pid: 0 }
}

fn set(file: &File, kind: i32, start: i64, length: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, start, length))).map(drop)
}

#[test]
fn flock_excludes() {
    everywhere(|here, there| {
        use FlockArg::{LockExclusive, LockExclusiveNonblock, LockSharedNonblock};
        let shared = flock(open(here), LockSharedNonblock).expect("free");
        drop(flock(open(there), LockSharedNonblock).expect("shared locks stand together"));
        assert_eq!(flock(open(there), LockExclusiveNonblock).expect_err("taken"), Errno::EWOULDBLOCK);
        shared.unlock().map_err(|(_, errno)| errno).expect("held");
        // The end of an open file is told a moment after close() returned.
        let exclusive = flock(open(there), LockExclusive).expect("free again");
        for how in [LockSharedNonblock, LockExclusiveNonblock] {
            assert_eq!(flock(open(here), how).expect_err("taken"), Errno::EWOULDBLOCK);
        }
        drop(exclusive);
        drop(flock(open(here), LockExclusive).expect("close gives it back"));
    });
}

#[test]
fn ranges_exclude_split_and_are_told() {
    everywhere(|here, there| {
        let (one, other) = (open(here), open(there));
        set(&one, libc::F_WRLCK, 0, 100).expect("free");
        assert_eq!(set(&other, libc::F_RDLCK, 50, 1), Err(Errno::EAGAIN));
        set(&other, libc::F_WRLCK, 100, 0).expect("free to the end");
        assert_eq!(set(&one, libc::F_RDLCK, 5000, 1), Err(Errno::EAGAIN));
        set(&one, libc::F_UNLCK, 40, 20).expect("its own");
        set(&other, libc::F_RDLCK, 40, 20).expect("the middle is free");
        let mut found = range(libc::F_WRLCK, 0, 0);
        fcntl(&other, FcntlArg::F_OFD_GETLK(&mut found)).expect("asked");
        assert_eq!((i32::from(found.l_type), found.l_start, found.l_len), (libc::F_WRLCK, 0, 40));
        assert!(one.as_raw_fd() != other.as_raw_fd());
        // The two kinds of locks do not know each other.
        drop(flock(open(there), FlockArg::LockExclusiveNonblock).expect("nobody has it"));
        drop(one);
        fcntl(&other, FcntlArg::F_OFD_SETLKW(&range(libc::F_WRLCK, 0, 0))).expect("close gives all of it back");
    });
}

#[test]
fn who_waits_is_woken_and_sees_what_was_written() {
    everywhere(|here, there| {
        let mut held = flock(open(here), FlockArg::LockExclusive).expect("free");
        let (sender, receiver) = mpsc::channel();
        let there = there.to_owned();
        let waiter = thread::spawn(move || {
            sender.send(()).expect("somebody listens");
            let held = flock(open(&there), FlockArg::LockExclusive).expect("its turn");
            let content = std::fs::read(there.join("lock")).expect("read");
            drop(held);
            content
        });
        receiver.recv_timeout(PATIENCE).expect("the thread runs");
        std::io::Write::write_all(&mut *held, b"written under the lock").expect("write");
        held.unlock().map_err(|(_, errno)| errno).expect("held");
        assert_eq!(waiter.join().expect("no panic"), b"written under the lock");
    });
}

/// flock(1): `-o` keeps the lock from the command that it runs.
fn holder(directory: &Path) -> std::process::Child {
    let mut child = Command::new("flock")
        .args(["-o"])
        .arg(directory.join("lock"))
        .args(["sh", "-c", "echo held; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux is installed");
    let mut line = [0; 5];
    let output = child.stdout.as_mut().expect("piped");
    std::io::Read::read_exact(output, &mut line).expect("it holds the lock");
    child
}

#[test]
fn the_lock_of_a_killed_process_is_free() {
    everywhere(|here, there| {
        let mut child = holder(here);
        assert_eq!(flock(open(there), FlockArg::LockExclusiveNonblock).expect_err("taken"), Errno::EWOULDBLOCK);
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        drop(flock(open(there), FlockArg::LockExclusive).expect("given back"));
    });
}

#[test]
fn a_waiter_that_is_killed_dies_and_leaves_nothing() {
    everywhere(|here, there| {
        let held = flock(open(here), FlockArg::LockExclusive).expect("free");
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let mut waiter =
                Command::new("flock").arg(there.join("lock")).arg("true").spawn().expect("util-linux is installed");
            let pid = Pid::from_raw(i32::try_from(waiter.id()).expect("small"));
            kill(pid, signal).expect("it runs");
            assert!(!waiter.wait().expect("it ended").success(), "{signal} ends it while the lock is held");
        }
        held.unlock().map_err(|(_, errno)| errno).expect("held");
        drop(flock(open(here), FlockArg::LockExclusive).expect("nobody else has it"));
    });
}

#[test]
fn sqlite_locks_and_journals_work() {
    everywhere(|here, there| {
        let run = |directory: &std::path::Path, sql: &str| {
            let output = std::process::Command::new("sqlite3").arg(directory.join("db")).arg(sql).output();
            let output = output.expect("the package sqlite3 is installed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text").trim().to_owned()
        };
        run(here, "create table t (x integer); insert into t values (1), (2), (3);");
        run(there, "insert into t select x + 3 from t;");
        assert_eq!(run(here, "select count(*), sum(x) from t; pragma integrity_check;"), "6|21\nok");
    });
}
