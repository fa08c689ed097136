//! Locks of a real cluster: three storage nodes, two mounts, and leaders, holders and mounts that are killed (README.md
//! "Locks").

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::cluster::{Cluster, path, succeed, wait_for};
use crate::support::Mount;
use nix::{
    fcntl::{FcntlArg, Flock, FlockArg, fcntl},
    libc,
    sys::signal::{Signal, kill},
};

/// Two mounts of one volume.
struct Pair {
    /// They go before their cluster does.
    mounts: Vec<Mount>,
    cluster: Cluster,
}

impl Pair {
    fn new() -> Self {
        crate::require::mounts_or_end();
        let cluster = Cluster::founded(3);
        let credential = cluster.dir.path().join("main.toml");
        let (authority, servers) = (path(&cluster.authority), cluster.servers());
        let create = ["credential", "create", "--authority", authority, "--servers", &servers];
        succeed(&[&create[..], &["--out", path(&credential)]].concat());
        let mut pair = Self { mounts: Vec::new(), cluster };
        for number in 0..2 {
            let mount = pair.mount(number);
            pair.mounts.push(mount);
        }
        pair
    }

    fn mount(&self, number: usize) -> Mount {
        let dir = self.cluster.dir.path();
        let at = dir.join(format!("mnt{number}"));
        fs::create_dir_all(&at).expect("made");
        let log = File::options().create(true).append(true).open(dir.join(format!("mnt{number}.log"))).expect("a log");
        let mut command = crate::support::manyfs(["mount", "--json", "--credential"]);
        command.arg(dir.join("main.toml")).arg(&at).arg("--run-file").arg(dir.join(format!("mnt{number}.json")));
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
        Mount::ready(&at, process.expect("the mount process starts"), || ())
    }

    /// kill -9 of holder and worker.
    fn kill_the_mount(&mut self, number: usize) {
        for pid in [self.mounts[number].pid(), self.mounts[number].worker()] {
            kill(pid, Signal::SIGKILL).expect("it runs");
        }
    }

    fn roots(&self) -> [PathBuf; 2] {
        [0, 1].map(|number: usize| self.mounts[number].path.clone())
    }

    /// kill -9; it comes back when another one leads.
    fn kill_the_leader(&mut self) {
        let leader = self.cluster.leader(|_| true);
        self.cluster.nodes[leader].kill();
        self.follow(leader);
    }

    /// SIGTERM; it comes back when another one leads.
    fn stop_the_leader(&mut self) {
        let leader = self.cluster.leader(|_| true);
        assert_eq!(self.cluster.nodes[leader].stop(), Some(0), "{}", self.cluster.nodes[leader].log());
        self.follow(leader);
    }

    fn follow(&mut self, leader: usize) {
        self.cluster.leader(|other| other != leader);
        self.cluster.nodes[leader].start();
        wait_for("all storage nodes to run", || {
            let status = self.cluster.status()?;
            status["nodes"].as_array()?.iter().all(|node| !node["pid"].is_null()).then_some(())
        });
    }
}

/// How a counter in a file is guarded.
#[derive(Clone, Copy, Debug)]
enum Guard {
    Flock,
    Range,
}

impl Guard {
    #[allow(deprecated, reason = "what replaces it wants to own the file")]
    fn set(self, file: &File, flock: FlockArg, kind: i32) {
        match self {
            Self::Flock => nix::fcntl::flock(file.as_raw_fd(), flock).expect("its turn"),
            Self::Range => {
                let l_type = i16::try_from(kind).expect("small");
                let range = libc::flock { l_type, l_whence: 0, l_start: 100, l_len: 1, l_pid: 0 };
                fcntl(file, FcntlArg::F_OFD_SETLKW(&range)).map(drop).expect("its turn");
            }
        }
    }

    /// Waits for an exclusive lock.
    fn lock(self, file: &File) {
        self.set(file, FlockArg::LockExclusive, libc::F_WRLCK);
    }

    fn unlock(self, file: &File) {
        self.set(file, FlockArg::Unlock, libc::F_UNLCK);
    }
}

/// Adds one to the number in the file, as programs do that trust in locks: read, write, and no append. The file is opened
/// again each time. The number that was there.
fn count(file: &Path, guard: Guard) -> u64 {
    let mut file = File::options().read(true).write(true).open(file).expect("open");
    guard.lock(&file);
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    let number: u64 = text.trim_start_matches('0').parse().unwrap_or(0);
    file.rewind().expect("seek");
    file.write_all(format!("{:08}", number + 1).as_bytes()).expect("write");
    guard.unlock(&file);
    number
}

/// README.md "Locks": the queue survives a change of leader, and nobody is let in beside a holder.
#[test]
fn no_count_is_lost_while_leaders_are_killed_under_waiters() {
    let mut pair = Pair::new();
    let roots = pair.roots();
    let guards = [Guard::Flock, Guard::Range];
    for guard in guards {
        fs::write(roots[0].join(format!("{guard:?}")), "00000000").expect("written");
    }
    let (ends, counted) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
    let kills = 2;
    thread::scope(|scope| {
        for root in &roots {
            for (at, guard) in guards.into_iter().enumerate() {
                for _ in 0..2 {
                    let (file, ends, counted) = (root.join(format!("{guard:?}")), &ends, &counted[at]);
                    scope.spawn(move || {
                        while !ends.load(Ordering::Relaxed) {
                            count(&file, guard);
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
        }
        // Something counts between two kills, however slow the machine.
        let goes_on = || {
            let before = [0, 1].map(|at: usize| counted[at].load(Ordering::Relaxed));
            wait_for("both counters to go on", || {
                (0..2).all(|at| counted[at].load(Ordering::Relaxed) > before[at] + 8).then_some(())
            });
        };
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..kills {
                goes_on();
                pair.kill_the_leader();
            }
            goes_on();
        }));
        ends.store(true, Ordering::Relaxed);
        if let Err(panic) = killed {
            std::panic::resume_unwind(panic);
        }
    });
    for (at, guard) in guards.into_iter().enumerate() {
        let wanted = counted[at].load(Ordering::Relaxed);
        for root in &roots {
            let text = fs::read_to_string(root.join(format!("{guard:?}"))).expect("read");
            assert_eq!(text, format!("{wanted:08}"), "{guard:?}");
        }
        eprintln!("{guard:?}: {wanted} counts from two mounts, {kills} leaders killed");
    }
}

/// README.md "Availability": another node leads before one that is stopped ends; queues go with it.
#[test]
fn who_queued_before_the_leader_was_stopped_is_served_in_turn() {
    let mut pair = Pair::new();
    let roots = pair.roots();
    for guard in [Guard::Flock, Guard::Range] {
        let files = roots.each_ref().map(|root| root.join(format!("{guard:?}")));
        fs::write(&files[0], "00000000").expect("written");
        let held = File::options().read(true).write(true).open(&files[0]).expect("open");
        guard.lock(&held);
        let waiters: Vec<_> = (0..6)
            .map(|number: usize| {
                let file = files[number % 2].clone();
                let waiter = thread::spawn(move || count(&file, guard));
                pair.mounts[number % 2].wait_for_queued(number as u64 / 2 + 1);
                waiter
            })
            .collect();
        pair.stop_the_leader();
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()), "{guard:?}: the lock is held");
        guard.unlock(&held);
        let served: Vec<u64> = waiters.into_iter().map(|waiter| waiter.join().expect("no panic")).collect();
        assert_eq!(served, [0, 1, 2, 3, 4, 5], "{guard:?}");
        for file in &files {
            assert_eq!(fs::read_to_string(file).expect("read"), "00000006");
        }
    }
}

/// "Locks end within the hold time after the loss of their node."
#[test]
fn the_locks_of_a_mount_that_is_killed_are_free_after_the_hold_time() {
    let mut pair = Pair::new();
    let [here, there] = pair.roots();
    let mut holder = Command::new("flock")
        .args(["-o", path(&here.join("lock")), "sh", "-c", "echo held; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux is installed");
    let mut line = [0; 5];
    holder.stdout.as_mut().expect("piped").read_exact(&mut line).expect("it holds the lock");
    let open = || File::options().read(true).write(true).open(there.join("lock")).expect("open");
    let taken = Flock::lock(open(), FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno);
    assert_eq!(taken.expect_err("taken"), nix::errno::Errno::EWOULDBLOCK);
    let began = Instant::now();
    pair.kill_the_mount(0);
    let held = Flock::lock(open(), FlockArg::LockExclusive).map_err(|(_, errno)| errno).expect("its turn");
    eprintln!("the lock of a killed mount was free after {:.1} s", began.elapsed().as_secs_f64());
    // Not at once: the mount might have been cut off only, and its process still at work under the lock.
    assert!(began.elapsed() > Duration::from_secs(5));
    drop(held);
    holder.kill().expect("it runs");
    holder.wait().expect("it ended");
}

/// Runs SQL; waits for the other's transaction. What another one has locked for very long is tried again by whoever asks.
fn sqlite(directory: &Path, sql: &str) -> Result<String, String> {
    let mut command = Command::new(crate::require::program("sqlite3"));
    let output = command.args(["-cmd", ".timeout 30000"]).arg(directory.join("db")).arg(sql).output();
    let output = output.expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn a_database_that_two_mounts_write_in_turn_stays_whole_while_leaders_are_killed() {
    if !crate::require::programs(&["sqlite3"]) {
        return;
    }
    let mut pair = Pair::new();
    let roots = pair.roots();
    sqlite(&roots[0], "create table t (mount integer, number integer, primary key (mount, number));").expect("made");
    let ends = AtomicBool::new(false);
    let done = thread::scope(|scope| {
        let write = |mount: usize| {
            let (root, ends) = (&roots[mount], &ends);
            move || {
                let mut number = 0;
                while !ends.load(Ordering::Relaxed) {
                    let sql = format!("begin immediate; insert into t values ({mount}, {number}); commit;");
                    let written = sqlite(root, &sql);
                    assert_eq!(written, Ok(String::new()));
                    number += 1;
                }
                number
            }
        };
        let writers = [0, 1].map(|mount| scope.spawn(write(mount)));
        let rows = |mount: usize| -> u64 {
            let count = sqlite(&roots[1 - mount], &format!("select count(*) from t where mount = {mount};"));
            count.expect("read").parse().expect("a number")
        };
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 {
                let before = [rows(0), rows(1)];
                wait_for("both mounts to write", || (rows(0) > before[0] && rows(1) > before[1]).then_some(()));
                pair.kill_the_leader();
            }
        }));
        ends.store(true, Ordering::Relaxed);
        let done = writers.map(|writer| writer.join().expect("no panic"));
        if let Err(panic) = killed {
            std::panic::resume_unwind(panic);
        }
        done
    });
    for root in &roots {
        let counts = sqlite(root, "select count(*) from t group by mount order by mount;");
        assert_eq!(counts, Ok(format!("{}\n{}", done[0], done[1])));
        assert_eq!(sqlite(root, "pragma integrity_check;"), Ok("ok".to_owned()));
    }
    eprintln!("{done:?} transactions from two mounts, two leaders killed");
}

/// Connections of ten inserts each, one commit an insert, until told to end or refused. The rows that were acknowledged.
fn insert(root: &Path, mount: usize, ends: &AtomicBool, counted: &AtomicU64) -> (Vec<u64>, String) {
    let (mut acknowledged, mut next) = (Vec::new(), 0);
    while !ends.load(Ordering::Relaxed) {
        let numbers = next..next + 10;
        let statement = |number| format!("insert into t values ({mount}, {number});\n");
        if let Err(error) = sqlite(root, &numbers.clone().map(statement).collect::<String>()) {
            return (acknowledged, error);
        }
        acknowledged.extend(numbers.clone());
        counted.fetch_add(10, Ordering::Relaxed);
        next = numbers.end;
    }
    (acknowledged, String::new())
}

fn are_there(root: &Path, mount: usize, acknowledged: &[u64]) {
    let rows = sqlite(root, &format!("select number from t where mount = {mount};")).expect("read");
    let rows: std::collections::BTreeSet<u64> = rows.lines().map(|line| line.parse().expect("a number")).collect();
    let lost: Vec<&u64> = acknowledged.iter().filter(|number| !rows.contains(number)).collect();
    assert!(lost.is_empty(), "{} of {} rows of mount {mount} are lost: {lost:?}", lost.len(), acknowledged.len());
}

/// SQLite keeps what its processes agree on in a shared mapping, and believes that all of them see it.
#[test]
fn a_database_in_wal_mode_loses_nothing_that_two_mounts_commit_though_one_is_killed() {
    if !crate::require::programs(&["sqlite3"]) {
        return;
    }
    let mut pair = Pair::new();
    let roots = pair.roots();
    let made =
        "pragma journal_mode = wal; create table t (mount integer, number integer, primary key (mount, number));";
    assert_eq!(sqlite(&roots[0], made), Ok("wal".to_owned()));
    let (ends, counted) = ([const { AtomicBool::new(false) }; 2], [const { AtomicU64::new(0) }; 2]);
    let done = thread::scope(|scope| {
        let write = |mount: usize| {
            let (root, ends, counted) = (&roots[mount], &ends[mount], &counted[mount]);
            move || insert(root, mount, ends, counted)
        };
        let writers = [0, 1].map(|mount| scope.spawn(write(mount)));
        let goes_on = |mounts: &[usize]| {
            let before = [0, 1].map(|mount: usize| counted[mount].load(Ordering::Relaxed));
            wait_for("the mounts to write", || {
                mounts.iter().all(|at| counted[*at].load(Ordering::Relaxed) >= before[*at] + 30).then_some(())
            });
        };
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            goes_on(&[0, 1]);
            pair.kill_the_leader();
            goes_on(&[0, 1]);
            pair.kill_the_mount(0);
            // What the killed one had open it may have open for as long as what it held is held for it.
            goes_on(&[1]);
        }));
        ends.iter().for_each(|ends| ends.store(true, Ordering::Relaxed));
        let done = writers.map(|writer| writer.join().expect("no panic"));
        if let Err(panic) = killed {
            std::panic::resume_unwind(panic);
        }
        done
    });
    assert!(!done[0].1.is_empty(), "nobody writes through a mount that is gone");
    assert_eq!(done[1].1, "");
    for (mount, (acknowledged, _)) in done.iter().enumerate() {
        are_there(&roots[1], mount, acknowledged);
    }
    assert_eq!(sqlite(&roots[1], "pragma integrity_check;"), Ok("ok".to_owned()));
    eprintln!("{} and {} rows from two mounts, a leader and a mount killed", done[0].0.len(), done[1].0.len());
}
