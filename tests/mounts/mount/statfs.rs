//! statfs(2).

use std::{fs, io::Write};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::statvfs,
};

use crate::support::{Cluster, manyfs, succeed, wait_for};

#[test]
fn figures_are_those_of_the_stores_device() {
    let cluster = Cluster::found();
    let mount = cluster.mount();
    let (shown, device) = (statvfs(&mount.path).expect("statfs"), statvfs(cluster.path()).expect("statfs"));
    let bytes = |stat: &nix::sys::statvfs::Statvfs, blocks: u64| blocks * stat.fragment_size();
    let (total, free) = (bytes(&shown, shown.blocks()), bytes(&shown, shown.blocks_available()));
    assert!(total > 0 && total <= bytes(&device, device.blocks()), "{total} bytes");
    assert!(free > 0 && free <= bytes(&device, device.blocks_available()) + (1 << 30), "{free} bytes");
    assert_eq!(shown.name_max(), 255);
    let used = |stat: nix::sys::statvfs::Statvfs| stat.files() - stat.files_free();
    let before = used(shown);
    for number in 0..10 {
        fs::write(mount.path.join(format!("f{number}")), "").expect("create");
    }
    assert_eq!(used(statvfs(&mount.path).expect("statfs")), before + 10);
    // `df` said that an empty volume on a disk that others use was as full as the disk.
    assert_eq!(total, free, "nothing is used");
    let mut file = fs::File::create(mount.path.join("ten")).expect("create");
    file.write_all(&vec![7; 10 << 20]).and_then(|()| file.sync_all()).expect("written");
    let now = statvfs(&mount.path).expect("statfs");
    assert_eq!(bytes(&now, now.blocks() - now.blocks_free()), 10 << 20);
}

#[test]
fn a_quota_that_is_changed_holds_at_once() {
    let cluster = Cluster::found();
    let mount = cluster.mount();
    let set = |quotas: &[&str]| {
        succeed(
            manyfs(["volume", "set", "main", "--authority"])
                .arg(cluster.path().join("authority.toml"))
                .args(["--servers", &cluster.address.to_string()])
                .args(quotas),
        );
    };
    let unlimited = statvfs(&mount.path).expect("statfs").blocks();
    let write = |name: &str, length: usize| {
        let mut file = fs::File::create(mount.path.join(name))?;
        file.write_all(&vec![7; length]).and_then(|()| file.sync_all())
    };
    write("f", 4 << 20).expect("no quota");
    set(&["--quota", "2M", "--quota-inodes", "3"]);
    let shown =
        wait_for("the mount to see the quota", || statvfs(&mount.path).ok().filter(|shown| shown.blocks() < unlimited));
    let figures = (shown.blocks() * shown.fragment_size(), shown.blocks_available());
    assert_eq!(figures, (4 << 20, 0), "what it uses, and nothing that is free");
    assert_eq!((shown.files(), shown.files_free()), (3, 1));
    let is_refused = |done: std::io::Result<()>| done.err().and_then(|error| error.raw_os_error());
    assert_eq!(is_refused(write("g", 1)), Some(Errno::EDQUOT as i32), "more is used already");
    assert_eq!(is_refused(write("h", 0)), Some(Errno::EDQUOT as i32), "too many files");
    assert_eq!(fs::read(mount.path.join("f")).expect("read").len(), 4 << 20, "nothing is taken away");
    set(&["--quota", "none"]);
    wait_for("the mount to see that there is none", || write("g", 1 << 20).ok());
    fs::remove_file(mount.path.join("f")).expect("unlink");
}

/// df said 252 G of a volume with a quota of 10 MiB.
#[test]
fn a_quota_is_what_is_shown_and_what_can_be_written() {
    let cluster = Cluster::found();
    succeed(
        manyfs(["volume", "create", "small", "--quota", "10M", "--quota-inodes", "20", "--authority"])
            .arg(cluster.path().join("authority.toml"))
            .args(["--servers", &cluster.address.to_string()]),
    );
    let credential = cluster.credential_for("small", "small.toml", &[]);
    let mount = cluster.mount_at(&cluster.mount_point(), &credential, &[]);
    let stat = || statvfs(&mount.path).expect("statfs");
    let figures = |stat: nix::sys::statvfs::Statvfs| {
        (stat.blocks() * stat.fragment_size(), stat.blocks_available() * stat.fragment_size(), stat.files_free())
    };
    assert_eq!((figures(stat()), stat().files()), ((10 << 20, 10 << 20, 19), 20));
    fs::write(mount.path.join("f"), vec![7; 4 << 20]).expect("write");
    assert_eq!((figures(stat()), stat().files()), ((10 << 20, 6 << 20, 18), 20));
    let mut file = fs::File::create(mount.path.join("g")).expect("create");
    let refused = file.write_all(&[7; 7 << 20]).and_then(|()| file.sync_all()).expect_err("more than the quota");
    drop(file);
    assert_eq!(refused.raw_os_error(), Some(Errno::EDQUOT as i32));
    fs::remove_file(mount.path.join("g")).expect("unlink");
    // On a slow machine a part of it was flushed by age before the rest was refused.
    wait_for("its bytes to be given back", || (figures(stat()).1 == 6 << 20).then_some(()));
    // What is reserved can be written when nothing else can.
    let file = fs::File::create(mount.path.join("h")).expect("create");
    let reserve = |length| fallocate(&file, FallocateFlags::empty(), 0, length);
    assert_eq!(reserve(7 << 20), Err(Errno::EDQUOT));
    reserve(6 << 20).expect("all that is left");
    assert_eq!(figures(stat()).1, 0);
    let other = fs::File::create(mount.path.join("i")).expect("create");
    let refused = (&other).write_all(&[7; 100_000]).and_then(|()| other.sync_all()).expect_err("all is taken");
    assert_eq!(refused.raw_os_error(), Some(Errno::EDQUOT as i32));
    (&file).write_all(&vec![7; 6 << 20]).and_then(|()| file.sync_all()).expect("its place is reserved");
    let refused = (0..20).find_map(|number| fs::write(mount.path.join(number.to_string()), "").err());
    assert_eq!(refused.and_then(|error| error.raw_os_error()), Some(Errno::EDQUOT as i32));
}
