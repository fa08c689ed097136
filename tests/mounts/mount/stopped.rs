//! A mount whose worker is stopped while programs go on using it (docs/protocol.md R7-forgetting): its kernel's caches
//! end with its lease.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};

use crate::support::{Cluster, wait_for};

/// A look at the stopped mount, in a thread of its own: it hangs until the worker goes on.
fn look<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (seen, sight) = mpsc::channel();
    thread::spawn(move || seen.send(look()));
    sight
}

fn hangs<T>(what: &str, sight: &Receiver<T>) {
    let waited = sight.recv_timeout(Duration::from_millis(300));
    assert!(matches!(waited, Err(RecvTimeoutError::Timeout)), "{what} was answered from the kernel's caches");
}

/// README.md "Coherence": every call that starts afterwards on any mount sees the change.
#[test]
fn a_stopped_worker_answers_nothing_old() {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    there.wait_for_lease();
    fs::create_dir_all(here.path.join("d/sub")).expect("mkdir");
    for name in ["f", "open", "gone"] {
        fs::write(here.path.join("d").join(name), "old").expect("write");
    }
    let directory = there.path.join("d");
    let open = File::open(directory.join("open")).expect("open");
    let inside = File::open(directory.join("sub")).expect("open");
    let content = |file: &File| {
        let mut bytes = vec![0; 10];
        let length = file.read_at(&mut bytes, 0).expect("read");
        bytes.truncate(length);
        String::from_utf8(bytes).expect("text")
    };
    let warm = || {
        assert_eq!(fs::metadata(directory.join("f")).expect("stat").mode() & 0o777, 0o644);
        assert!(fs::metadata(directory.join("gone")).is_ok() && fs::metadata(directory.join("new")).is_err());
        assert_eq!(fs::read_dir(&directory).expect("readdir").count(), 4);
        assert_eq!((content(&open).as_str(), open.metadata().expect("fstat").len()), ("old", 3));
        assert_eq!(inside.metadata().expect("fstat").mode() & 0o777, 0o755);
    };
    // The second time brings what the kernel may keep.
    warm();
    warm();
    kill(there.worker(), Signal::SIGSTOP).expect("it runs");
    let begun = Instant::now();
    fs::set_permissions(here.path.join("d/f"), Permissions::from_mode(0o600)).expect("chmod");
    eprintln!("a stopped worker delayed the first change by {:?}", begun.elapsed());
    let begun = Instant::now();
    fs::write(here.path.join("d/new"), "new").expect("create");
    fs::remove_file(here.path.join("d/gone")).expect("unlink");
    fs::write(here.path.join("d/open"), "changed").expect("write");
    fs::set_permissions(here.path.join("d/sub"), Permissions::from_mode(0o700)).expect("chmod");
    eprintln!("and the next five by {:?}", begun.elapsed());

    let path = |name: &str| directory.join(name);
    let (file, new, gone) = (path("f"), path("new"), path("gone"));
    let stat = look(move || fs::metadata(file).expect("stat").mode() & 0o777);
    let created = look(move || fs::metadata(new).map(|about| about.len()).ok());
    let removed = look(move || fs::metadata(gone).is_err());
    let (second, listed) = (open.try_clone().expect("dup"), directory.clone());
    let fstat = look(move || second.metadata().expect("fstat").len());
    let read = look(move || content(&open));
    let of_directory = look(move || inside.metadata().expect("fstat").mode() & 0o777);
    let list = look(move || {
        let mut names: Vec<_> =
            fs::read_dir(listed).expect("readdir").map(|entry| entry.expect("entry").file_name()).collect();
        names.sort();
        names
    });
    hangs("stat", &stat);
    hangs("a new name", &created);
    hangs("a name that went", &removed);
    hangs("fstat", &fstat);
    hangs("read", &read);
    hangs("fstat of a directory", &of_directory);
    hangs("readdir", &list);

    kill(there.worker(), Signal::SIGCONT).expect("it is there");
    let patience = Duration::from_secs(60);
    assert_eq!(stat.recv_timeout(patience).expect("an answer"), 0o600);
    assert_eq!(created.recv_timeout(patience).expect("an answer"), Some(3));
    assert!(removed.recv_timeout(patience).expect("an answer"));
    assert_eq!(fstat.recv_timeout(patience).expect("an answer"), 7);
    // The kernel drops a reply with attributes that an invalidation overtakes; it is given the size in another way.
    assert_eq!(read.recv_timeout(patience).expect("an answer"), "changed");
    assert_eq!(of_directory.recv_timeout(patience).expect("an answer"), 0o700);
    assert_eq!(list.recv_timeout(patience).expect("an answer"), ["f", "new", "open", "sub"]);
    wait_for("the lease", || (there.report()["lease_held"] == true).then_some(()));
    assert_eq!(fs::read_to_string(directory.join("open")).expect("read"), "changed");
}

/// The time that the holder needs is part of the lease (limits.rs, `forget_time`); printed, and bounded only by sense.
#[test]
fn three_thousand_directories_are_forgotten_in_time() {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    there.wait_for_lease();
    for number in 0..3000 {
        fs::create_dir(here.path.join(number.to_string())).expect("mkdir");
    }
    for _ in 0..2 {
        for number in 0..3000 {
            fs::metadata(there.path.join(number.to_string())).expect("stat");
        }
    }
    assert!(there.report()["inodes_looked_up"].as_u64().is_some_and(|known| known > 3000));
    kill(there.worker(), Signal::SIGSTOP).expect("it runs");
    let log = there.path.with_extension("log");
    let line = wait_for("the holder to act", || {
        let text = fs::read_to_string(&log).expect("a log");
        text.lines().find(|line| line.contains("the kernel was made to forget")).map(str::to_owned)
    });
    eprintln!("{line}");
    kill(there.worker(), Signal::SIGCONT).expect("it is there");
    wait_for("the lease", || (there.report()["lease_held"] == true).then_some(()));
}
