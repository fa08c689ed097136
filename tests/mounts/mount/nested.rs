//! Other file systems that are mounted below a mount.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::support::{Cluster, succeed};

/// How long both mounts change the directory: some thousand collisions.
const CHANGES: Duration = Duration::from_secs(3);

struct Nested<'a>(&'a Path);

impl<'a> Nested<'a> {
    fn mount(point: &'a Path) -> Self {
        succeed(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(point));
        Self(point)
    }
}

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).output();
    }
}

/// Makes, renames and deletes names of its own.
fn change(directory: &Path, prefix: &str) -> u32 {
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < CHANGES {
        let [old, new] = ["n", "m"].map(|name| directory.join(format!("{prefix}{name}{}", rounds % 7)));
        fs::write(&old, b"x").expect("create");
        fs::rename(&old, &new).expect("rename");
        fs::remove_file(&new).expect("unlink");
        rounds += 1;
    }
    rounds
}

/// Linux took it away when all names were made stale because both mounts changed the directory at once.
#[test]
fn what_is_mounted_below_a_name_stays_while_its_directory_changes() {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    let [mine, theirs] = [&here, &there].map(|mount| mount.path.join("d"));
    let point = mine.join("cache");
    fs::create_dir_all(&point).expect("mkdir");
    let nested = Nested::mount(&point);
    let mark = point.join("mark");
    fs::write(&mark, b"here").expect("write");
    thread::scope(|scope| {
        let changes = [(&mine, "a"), (&theirs, "b")].map(|(path, prefix)| scope.spawn(move || change(path, prefix)));
        while !changes.iter().all(thread::ScopedJoinHandle::is_finished) {
            assert!(mark.exists(), "what was mounted is gone");
            thread::sleep(Duration::from_millis(5));
        }
        for change in changes {
            assert!(change.join().expect("it changes") > 10);
        }
    });
    assert_eq!(fs::read(&mark).expect("read"), b"here");
    drop(nested);
}
