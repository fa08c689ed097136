//! flock(2) and fcntl(2) locks: between processes of one mount, by the kernel. Across mounts they do not exclude yet.

use std::fs::File;

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::support::everywhere;

#[test]
fn a_lock_excludes_on_its_own_mount() {
    everywhere(|here, _| {
        let first = File::create(here.join("lock")).expect("create");
        let second = File::open(here.join("lock")).expect("open");
        let held = Flock::lock(first, FlockArg::LockExclusive).map_err(|(_, errno)| errno).expect("free");
        let (second, errno) = Flock::lock(second, FlockArg::LockExclusiveNonblock).expect_err("taken");
        assert_eq!(errno, Errno::EWOULDBLOCK);
        drop(held);
        Flock::lock(second, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno).expect("released by close");
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
