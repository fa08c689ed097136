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

use crate::require;
use crate::support::{Cluster, everywhere, wait_for};

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

/// Whether flock(2) gave the lock, or gave it back, without waiting.
#[allow(deprecated, reason = "what replaces it wants to own the file")]
fn flock_of(file: &File, how: i32) -> bool {
    let how = match how {
        how if how == libc::LOCK_UN => FlockArg::Unlock,
        how if how & libc::LOCK_EX != 0 => FlockArg::LockExclusiveNonblock,
        _ => FlockArg::LockSharedNonblock,
    };
    nix::fcntl::flock(file.as_raw_fd(), how).is_ok()
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

/// F_OFD_GETLK right behind the last close of who had the lock.
/// The 1,025th was refused with ENOLCK, and each cost as much as all before it.
#[test]
fn thousands_of_ranges_of_one_file_are_locked_and_end_together() {
    everywhere(|here, there| {
        const COUNT: i64 = 1100;
        let (mine, theirs) = (open(here), open(there));
        for at in 0..COUNT {
            set(&mine, libc::F_WRLCK, 10 * at, 5).unwrap_or_else(|errno| panic!("range {at}: {errno}"));
        }
        for at in [0, COUNT / 2, COUNT - 1] {
            assert_eq!(set(&theirs, libc::F_WRLCK, 10 * at + 4, 1), Err(Errno::EAGAIN));
            set(&theirs, libc::F_WRLCK, 10 * at + 5, 5).expect("between two of them");
        }
        set(&theirs, libc::F_UNLCK, 0, 0).expect("always allowed");
        // All of them become one, which is more than one entry takes.
        set(&mine, libc::F_WRLCK, 0, 0).expect("nobody else has any");
        set(&mine, libc::F_UNLCK, 10, 5).expect("always allowed");
        set(&theirs, libc::F_WRLCK, 10, 5).expect("given back");
        drop(mine);
        wait_for("the end of all of them", || set(&theirs, libc::F_WRLCK, 0, 0).ok());
    });
}

#[test]
fn what_close_gives_back_is_not_told_to_who_asks_next() {
    let cluster = Cluster::found();
    // Where several threads read requests, another one may bring the question in before the close.
    let mount = cluster.mount_with(&["--threads", "1"]);
    let other = open(&mount.path);
    let mut shown = 0;
    for _ in 0..50 {
        let one = open(&mount.path);
        fcntl(&one, FcntlArg::F_OFD_SETLKW(&range(libc::F_WRLCK, 0, 100))).expect("free in the end");
        drop(one);
        let mut found = range(libc::F_WRLCK, 0, 0);
        fcntl(&other, FcntlArg::F_OFD_GETLK(&mut found)).expect("asked");
        shown += u32::from(i32::from(found.l_type) != libc::F_UNLCK);
    }
    // A process that another test starts has the open file, too, from its fork to its exec.
    assert!(shown < 10, "{shown} of 50");
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

/// The two kinds of locks, as an open file has them.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Flock,
    Fcntl,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Flock, Self::Fcntl];

    /// Given at once (true) or not at all.
    fn ask(self, file: &File, is_exclusive: bool) -> bool {
        match self {
            Self::Flock if is_exclusive => flock_of(file, libc::LOCK_EX),
            Self::Flock => flock_of(file, libc::LOCK_SH),
            Self::Fcntl => set(file, range_kind(is_exclusive), 10, 10).is_ok(),
        }
    }

    #[allow(deprecated, reason = "what replaces it wants to own the file")]
    fn wait(self, file: &File, is_exclusive: bool) {
        match self {
            Self::Flock => {
                let how = if is_exclusive { FlockArg::LockExclusive } else { FlockArg::LockShared };
                nix::fcntl::flock(file.as_raw_fd(), how).expect("its turn");
            }
            Self::Fcntl => {
                let lock = range(range_kind(is_exclusive), 10, 10);
                fcntl(file, FcntlArg::F_OFD_SETLKW(&lock)).expect("its turn");
            }
        }
    }

    fn unlock(self, file: &File) {
        match self {
            Self::Flock => assert!(flock_of(file, libc::LOCK_UN)),
            Self::Fcntl => set(file, libc::F_UNLCK, 0, 0).expect("always allowed"),
        }
    }
}

const fn range_kind(is_exclusive: bool) -> i32 {
    if is_exclusive { libc::F_WRLCK } else { libc::F_RDLCK }
}

/// What one holds while the other asks: exclusive or not.
const COMBINATIONS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn every_combination_is_as_on_one_machine() {
    everywhere(|here, there| {
        for kind in Kind::ALL {
            let ask = |file: &File, is_exclusive: bool| kind.ask(file, is_exclusive);
            for (first, second) in COMBINATIONS {
                let (one, other) = (open(here), open(there));
                assert!(ask(&one, first), "{kind:?}: free");
                let stand_together = !first && !second;
                assert_eq!(ask(&other, second), stand_together, "{kind:?}: {second} beside {first}");
                kind.unlock(&one);
                assert!(ask(&other, second), "{kind:?}: given back");
                assert!(!ask(&one, true), "{kind:?}: exclusive beside {second}");
                kind.unlock(&other);
                assert!(ask(&one, true), "{kind:?}: free again");
                // flock's end behind close() may come after the next request.
                kind.unlock(&one);
            }
        }
    });
}

#[test]
fn who_blocks_waits_only_for_what_excludes_it() {
    let cluster = Cluster::found();
    let mounts = [cluster.mount(), cluster.mount()];
    for asks in &mounts {
        for kind in Kind::ALL {
            for (first, second) in COMBINATIONS {
                let (one, other) = (open(&mounts[0].path), open(&asks.path));
                assert!(kind.ask(&one, first), "{kind:?}: free");
                let (sender, receiver) = mpsc::channel();
                let waiter = thread::spawn(move || {
                    kind.wait(&other, second);
                    sender.send(()).expect("somebody listens");
                    other
                });
                if first || second {
                    asks.wait_for_queued(1);
                    assert!(!waiter.is_finished(), "{kind:?}: {second} beside {first}");
                    kind.unlock(&one);
                }
                receiver.recv_timeout(PATIENCE).expect("its turn");
                let other = waiter.join().expect("no panic");
                assert!(!kind.ask(&one, true), "{kind:?}: exclusive beside {second}");
                kind.unlock(&other);
                kind.unlock(&one);
            }
        }
    }
}

#[test]
fn who_asked_first_is_served_first_whichever_mount_it_asked_at() {
    let cluster = Cluster::found();
    let mounts = [cluster.mount(), cluster.mount()];
    for kind in Kind::ALL {
        let held = open(&mounts[0].path);
        assert!(kind.ask(&held, true), "free");
        let (sender, receiver) = mpsc::channel();
        let waiters: Vec<_> = (0..6)
            .map(|number: usize| {
                let mount = &mounts[number % 2];
                let (file, sender) = (open(&mount.path), sender.clone());
                let waiter = thread::spawn(move || {
                    kind.wait(&file, true);
                    sender.send(number).expect("somebody listens");
                    kind.unlock(&file);
                });
                mount.wait_for_queued(number as u64 / 2 + 1);
                waiter
            })
            .collect();
        kind.unlock(&held);
        let served: Vec<usize> = (0..6).map(|_| receiver.recv_timeout(PATIENCE).expect("its turn")).collect();
        assert_eq!(served, [0, 1, 2, 3, 4, 5], "{kind:?}");
        for waiter in waiters {
            waiter.join().expect("no panic");
        }
    }
}

#[test]
fn a_shared_lock_becomes_exclusive_when_nobody_shares_it() {
    everywhere(|here, there| {
        let (one, other) = (open(here), open(there));
        for file in [&one, &other] {
            set(file, libc::F_RDLCK, 0, 10).expect("shared");
        }
        assert_eq!(set(&one, libc::F_WRLCK, 0, 10), Err(Errno::EAGAIN));
        // The other one's half is given back, this one becomes exclusive there only.
        set(&other, libc::F_UNLCK, 0, 5).expect("its own");
        set(&one, libc::F_WRLCK, 0, 5).expect("nobody shares it any more");
        assert_eq!(set(&other, libc::F_RDLCK, 4, 1), Err(Errno::EAGAIN));
        set(&other, libc::F_RDLCK, 5, 100).expect("still shared");
        // Halves that touch and are alike are one again.
        set(&other, libc::F_UNLCK, 0, 0).expect("its own");
        set(&one, libc::F_WRLCK, 5, 5).expect("free");
        let mut found = range(libc::F_WRLCK, 3, 1);
        fcntl(&other, FcntlArg::F_OFD_GETLK(&mut found)).expect("asked");
        assert_eq!((found.l_start, found.l_len), (0, 10));
    });
}

/// Runs a line of perl, which every Debian has, beside a file `lock` with `$f` open on it; `lock(TYPE, BYTE)` waits for
/// a lock that the process owns and gives 0 or the error's name, `say` tells us.
fn perl(directory: &Path, script: &str) -> std::process::Child {
    let prelude = r#"
        use Fcntl ':DEFAULT', ':flock'; use Errno; $| = 1;
        open(my $f, "+>>", "lock") or die $!;
        sub lock_byte { my ($type, $byte) = @_;
            my $lock = pack("s s x4 q q l x4", $type, 0, $byte, 1, 0);
            return fcntl($f, F_SETLKW, $lock) ? "ok" : ($!{EINTR} ? "EINTR" : $!{EDEADLK} ? "EDEADLK" : "$!"); }
        sub say { print "@_\n"; }
    "#;
    let mut command = Command::new("perl");
    command.args(["-e", &format!("{prelude} {script}")]).current_dir(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("perl is part of Debian")
}

fn line(child: &mut std::process::Child) -> String {
    let mut line = String::new();
    for byte in std::io::Read::bytes(child.stdout.as_mut().expect("piped")) {
        match byte.expect("readable") {
            b'\n' => return line,
            byte => line.push(char::from(byte)),
        }
    }
    line
}

#[test]
fn who_would_wait_for_himself_is_told() {
    everywhere(|here, there| {
        let script = "say lock_byte(F_WRLCK, 0); <STDIN>; say 'asks'; say lock_byte(F_WRLCK, 1);";
        let mut one = perl(here, script);
        assert_eq!(line(&mut one), "ok");
        let mut other = perl(there, "say lock_byte(F_WRLCK, 1); <STDIN>; say lock_byte(F_WRLCK, 0);");
        assert_eq!(line(&mut other), "ok");
        let go = |child: &mut std::process::Child| {
            std::io::Write::write_all(child.stdin.as_mut().expect("piped"), b"\n").expect("it reads");
        };
        go(&mut one);
        assert_eq!(line(&mut one), "asks");
        go(&mut other);
        // Whichever asked last; the other one gets what it waits for when that one ends.
        let (sender, receiver) = mpsc::channel();
        let told = |mut child: std::process::Child, sender: mpsc::Sender<String>| {
            thread::spawn(move || {
                sender.send(line(&mut child)).expect("somebody listens");
                child.kill().ok();
                child.wait().expect("it ended")
            })
        };
        let threads = [told(one, sender.clone()), told(other, sender)];
        let answers = [(); 2].map(|()| receiver.recv_timeout(PATIENCE).expect("both are answered"));
        assert_eq!(answers, ["EDEADLK", "ok"]);
        for thread in threads {
            thread.join().expect("no panic");
        }
    });
}

#[test]
fn a_signal_that_is_handled_interrupts_who_waits() {
    everywhere(|here, there| {
        let mut held = perl(here, "say lock_byte(F_WRLCK, 0); <STDIN>;");
        assert_eq!(line(&mut held), "ok");
        let mut waits =
            perl(there, "$SIG{ALRM} = sub {}; alarm 1; say lock_byte(F_WRLCK, 0); say lock_byte(F_WRLCK, 1);");
        assert_eq!(line(&mut waits), "EINTR");
        assert_eq!(line(&mut waits), "ok", "it goes on");
        drop(held.stdin.take());
        held.wait().expect("it ended");
        waits.wait().expect("it ended");
        // Nobody is in the queue any more.
        let mut last = perl(there, "say lock_byte(F_WRLCK, 0);");
        assert_eq!(line(&mut last), "ok");
        last.wait().expect("it ended");
    });
}

#[test]
fn locks_end_with_close_and_with_their_process() {
    everywhere(|here, there| {
        let fcntl = "say lock_byte(F_WRLCK, 10);";
        let reader = "open($f, '<', 'lock') or die; say lock_byte(F_RDLCK, 10);";
        for (kind, take, end) in [
            (Kind::Flock, "flock($f, LOCK_EX); say 'ok';", "close($f); say 'closed';"),
            (Kind::Flock, "flock($f, LOCK_EX); say 'ok';", "exit"),
            (Kind::Flock, "flock($f, LOCK_EX); say 'ok';", "kill 9, $$;"),
            (Kind::Fcntl, fcntl, "close($f); say 'closed';"),
            (Kind::Fcntl, fcntl, "open(my $g, '<', 'lock') or die; close($g); say 'closed';"),
            (Kind::Fcntl, reader, "close($f); say 'closed';"),
            (Kind::Fcntl, fcntl, "exit"),
            (Kind::Fcntl, fcntl, "kill 9, $$;"),
        ] {
            eprintln!("{kind:?}: {end}");
            let mut holder = perl(here, &format!("{take} <STDIN>; {end} <STDIN>;"));
            assert_eq!(line(&mut holder), "ok");
            let other = open(there);
            assert!(!kind.ask(&other, true), "{kind:?}: taken");
            std::io::Write::write_all(holder.stdin.as_mut().expect("piped"), b"\n").expect("it reads");
            if end.contains("closed") {
                assert_eq!(line(&mut holder), "closed");
            } else {
                holder.wait().expect("it ended");
            }
            // close() waits for the end of fcntl's locks where the descriptor can write; all else is told a moment later.
            if take == fcntl && !end.contains("kill") {
                assert!(kind.ask(&other, true), "{kind:?}: free after {end}");
            } else {
                wait_for("the lock to be free", || kind.ask(&other, true).then_some(()));
            }
            drop(holder.stdin.take());
            holder.wait().expect("it ended");
        }
    });
}

/// A number of another machine's process would mean a stranger here, or nobody.
#[test]
fn the_process_of_a_lock_is_named_on_its_own_mount() {
    everywhere(|here, there| {
        let mut holder = perl(here, "say lock_byte(F_WRLCK, 0); <STDIN>;");
        assert_eq!(line(&mut holder), "ok");
        let mut found = range(libc::F_WRLCK, 0, 0);
        fcntl(open(there), FcntlArg::F_GETLK(&mut found)).expect("asked");
        assert_eq!((i32::from(found.l_type), found.l_start, found.l_len), (libc::F_WRLCK, 0, 1));
        let own = holder.id().cast_signed();
        assert_eq!(found.l_pid, if here == there { own } else { 0 });
        drop(holder.stdin.take());
        holder.wait().expect("it ended");
    });
}

/// flock(1): `-o` keeps the lock from the command that it runs, which ends when nobody writes to it any more.
fn holder(directory: &Path) -> std::process::Child {
    let mut child = Command::new("flock")
        .args(["-o"])
        .arg(directory.join("lock"))
        .args(["sh", "-c", "echo held; exec cat"])
        .stdin(Stdio::piped())
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
    if !require::programs(&["sqlite3"]) {
        return;
    }
    everywhere(|here, there| {
        let run = |directory: &std::path::Path, sql: &str| {
            let output = Command::new(require::program("sqlite3")).arg(directory.join("db")).arg(sql).output();
            let output = output.expect("it runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text").trim().to_owned()
        };
        run(here, "create table t (x integer); insert into t values (1), (2), (3);");
        run(there, "insert into t select x + 3 from t;");
        assert_eq!(run(here, "select count(*), sum(x) from t; pragma integrity_check;"), "6|21\nok");
    });
}
