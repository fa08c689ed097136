//! `--opens=tracked` and `untracked`: what each costs and gives (README.md "Opens").

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, Flock, FlockArg, fcntl},
    libc,
};

use crate::support::{Cluster, Mount, wait_for};

const UNTRACKED: &[&str] = &["--opens=untracked"];

fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).expect("open").read_to_end(&mut bytes).expect("read");
    bytes
}

/// Requests that so many times open, read and close cost, of a file that the kernel has in its caches.
fn cost_of_looks(mount: &Mount, count: u64) -> u64 {
    let path = mount.path.join("f");
    fs::write(&path, "content").expect("create");
    mount.wait_for_lease();
    let look = || assert_eq!(read(&path), b"content");
    // Pages come with the first, attributes that may be kept with one of the next (docs/protocol.md R1-versions); what
    // was written has to be in the log for that.
    wait_for("a look that costs what each costs", || {
        let before = mount.upcalls();
        look();
        let first = mount.upcalls();
        look();
        (mount.upcalls() - first == first - before && mount.report()["dirty_bytes"] == 0).then_some(())
    });
    let before = mount.upcalls();
    (0..count).for_each(|_| look());
    mount.upcalls() - before
}

/// Names end with the lease where the kernel lacks INC_EPOCH: each is asked for again once in about a second.
fn is_masked() -> bool {
    std::env::var("MANYFS_KERNEL_MASK").is_ok_and(|mask| mask.contains("inc_epoch"))
}

#[test]
fn a_warm_open_costs_one_request_or_none() {
    let cluster = Cluster::found();
    // Now and then the kernel asks again for pages or names that it has reclaimed.
    let cold = if is_masked() { 20 } else { 10 };
    let untracked = cluster.mount_with(UNTRACKED);
    let cost = cost_of_looks(&untracked, 1000);
    assert!(cost <= cold, "{cost}: {:#}", untracked.report()["fuse"]["upcalls"]);
    let releases = untracked.report()["fuse"]["upcalls"]["release"].as_u64();
    assert!(releases <= Some(1), "only what a create opened is told to have ended: {releases:?}");
    let tracked = cluster.mount();
    let cost = cost_of_looks(&tracked, 1000);
    assert!((1000..=1000 + cold).contains(&cost), "{cost}: {:#}", tracked.report()["fuse"]["upcalls"]);
}

/// Every pair of mounts of which at least one is untracked: names them, and gives a directory on each.
fn on_both_sides(body: impl Fn(&Path, &Path)) {
    let cluster = Cluster::found();
    let (untracked, tracked, another) = (cluster.mount_with(UNTRACKED), cluster.mount(), cluster.mount_with(UNTRACKED));
    for (name, here, there) in [
        ("alone", &untracked, &untracked),
        ("beside a tracked one", &untracked, &tracked),
        ("seen from a tracked one", &tracked, &untracked),
        ("beside another", &untracked, &another),
    ] {
        eprintln!("{name}");
        fs::create_dir(here.path.join(name)).expect("mkdir");
        body(&here.path.join(name), &there.path.join(name));
    }
}

#[test]
fn what_is_written_is_seen_at_once_closed_or_not() {
    on_both_sides(|here, there| {
        let (own, other) = (here.join("f"), there.join("f"));
        assert!(fs::metadata(&other).is_err());
        let mut file = File::create(&own).expect("create");
        for round in 0..50_u8 {
            file.write_all(&[round; 100]).expect("write");
            assert_eq!(fs::metadata(&other).expect("stat").len(), 100 * (u64::from(round) + 1));
            assert_eq!(read(&other)[100 * usize::from(round)..], [round; 100]);
        }
        drop(file);
        fs::write(&own, "shorter").expect("an open truncates");
        assert_eq!(read(&other), b"shorter");
        fs::write(&other, "from there").expect("the other one too");
        assert_eq!(read(&own), b"from there");
        let file = File::options().write(true).open(&own).expect("open");
        file.set_len(4).expect("truncate");
        file.write_all_at(b"!", 3).expect("write");
        assert_eq!(read(&other), b"fro!");
    });
}

#[test]
fn appends_land_at_the_end() {
    on_both_sides(|here, there| {
        let open = |at: &Path| File::options().append(true).create(true).open(at.join("log")).expect("open");
        let (mut own, mut other) = (open(here), open(there));
        for number in 0..20 {
            writeln!(own, "{number} here").expect("append");
            writeln!(other, "{number} there").expect("append");
        }
        let wanted: String = (0..20).map(|number| format!("{number} here\n{number} there\n")).collect();
        for directory in [here, there] {
            assert_eq!(String::from_utf8(read(&directory.join("log"))).expect("text"), wanted);
        }
    });
}

#[test]
fn a_file_that_is_open_outlives_its_name() {
    on_both_sides(|here, there| {
        fs::write(here.join("f"), "still here").expect("create");
        let mut open = File::open(there.join("f")).expect("open");
        fs::remove_file(here.join("f")).expect("unlink");
        assert!(fs::metadata(there.join("f")).is_err());
        fs::write(here.join("f"), "another").expect("create");
        let mut text = String::new();
        open.read_to_string(&mut text).expect("read");
        assert_eq!(text, "still here");
        assert_eq!(open.metadata().expect("fstat").len(), 10);
        fs::rename(here.join("f"), here.join("g")).expect("rename");
        open.rewind().expect("seek");
        open.read_to_string(&mut text).expect("read again");
        assert_eq!(text, "still herestill here");
    });
}

/// R15-orphans: what nobody has any more is given back, though no close is told.
#[test]
fn what_was_unlinked_and_closed_is_gone() {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount_with(UNTRACKED), cluster.mount_with(UNTRACKED));
    let before = here.report()["inodes"].clone();
    fs::write(here.path.join("f"), "content").expect("create");
    let open = File::open(there.path.join("f")).expect("open");
    fs::remove_file(here.path.join("f")).expect("unlink");
    let held = here.report()["inodes"].clone();
    assert_ne!(held, before, "it is open there");
    drop(open);
    for mount in [&here, &there] {
        wait_for("the inode to be gone", || (mount.report()["inodes"] == before).then_some(()));
    }
}

/// README.md "Opens": close() is not seen, and what was written is durable within a second all the same.
#[test]
fn what_was_written_is_on_its_way_without_a_close() {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount_with(UNTRACKED), cluster.mount());
    fs::write(here.path.join("new"), "content").expect("create");
    let mut file = File::options().write(true).open(here.path.join("new")).expect("open");
    for text in ["again", "and again", ""] {
        file.write_all(text.as_bytes()).expect("write");
        wait_for("all to be in the log", || (here.report()["dirty_bytes"] == 0).then_some(()));
    }
    file.write_all(b", synced").expect("write");
    file.sync_all().expect("fsync");
    assert_eq!(here.report()["dirty_bytes"], 0);
    drop(file);
    assert_eq!(read(&there.path.join("new")), b"againand again, synced");
}

#[test]
fn locks_of_an_untracked_mount_are_its_kernels_own() {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount_with(UNTRACKED), cluster.mount_with(UNTRACKED));
    let open = |mount: &Mount| {
        File::options().read(true).write(true).create(true).truncate(false).open(mount.path.join("l")).expect("open")
    };
    let lock = |mount: &Mount| Flock::lock(open(mount), FlockArg::LockExclusiveNonblock);
    let held = lock(&here).map_err(|(_, errno)| errno).expect("free");
    assert!(lock(&here).is_err(), "they exclude on one mount");
    drop(lock(&there).map_err(|(_, errno)| errno).expect("and not across mounts"));
    drop(held);
    drop(lock(&here).map_err(|(_, errno)| errno).expect("close gives them back at once"));
    let (one, other) = (open(&here), open(&here));
    let range = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 1, l_pid: 0 };
    fcntl(&one, FcntlArg::F_OFD_SETLK(&range)).expect("free");
    assert!(fcntl(&other, FcntlArg::F_OFD_SETLK(&range)).is_err());
    fcntl(open(&there), FcntlArg::F_OFD_SETLK(&range)).expect("another kernel's");
    assert!(one.as_raw_fd() != other.as_raw_fd());
    assert_eq!(here.report()["fuse"]["upcalls"]["setlk"], 0);
}
