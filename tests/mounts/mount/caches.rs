//! What the kernel answers by itself, counted.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use crate::support::{Cluster, Mount};

/// `MANYFS_WARM_SECONDS` is how long others work elsewhere (3).
#[test]
fn warm_names_attributes_listings_and_pages_cost_no_upcall() {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    there.wait_for_lease();
    fs::create_dir(here.path.join("d")).expect("mkdir");
    fs::create_dir(here.path.join("elsewhere")).expect("mkdir");
    fs::write(here.path.join("d/f"), vec![1; 50_000]).expect("create");
    std::os::unix::fs::symlink("f", here.path.join("d/l")).expect("symlink");
    let directory = there.path.join("d");
    let file = fs::File::open(directory.join("f")).expect("open");
    let look = || {
        fs::metadata(directory.join("f")).expect("stat");
        fs::metadata(directory.join("l")).expect("stat through a link");
        fs::metadata(directory.join("missing")).expect_err("no such file");
        assert_eq!(fs::read_dir(&directory).expect("readdir").count(), 2);
        let mut bytes = vec![0; 50_000];
        file.read_exact_at(&mut bytes, 0).expect("read");
        file.metadata().expect("fstat");
    };
    // The first time of the reader, and the second, which brings attributes that may be kept (docs/protocol.md
    // R1-versions).
    look();
    look();
    look();
    // The kernel may reclaim pages and names at any time, and asks again for what it dropped: one call in a hundred at
    // most. Nobody told it to.
    let reclaimed = |looks: u64| 6 * looks / 100;
    let count = |counter: &str| there.report()["core"][counter].as_u64().expect("a number");
    // Without INC_EPOCH names end with the lease, which is what they were told with (R7-forgetting): each of these is
    // asked for again once in about a second.
    let is_masked = std::env::var("MANYFS_KERNEL_MASK").is_ok_and(|mask| mask.contains("inc_epoch"));
    let cold = |begun: Instant| if is_masked { 6 * (2 + begun.elapsed().as_secs()) } else { 0 };
    let (begun, before) = (Instant::now(), there.upcalls());
    for _ in 0..100 {
        look();
    }
    assert!(there.upcalls() - before <= reclaimed(100) + cold(begun), "{:#}", there.report()["fuse"]["upcalls"]);
    // What others do elsewhere does not make these cold, however long they do it.
    let wanted = std::env::var("MANYFS_WARM_SECONDS").ok();
    let seconds = wanted.map_or(3, |text| text.parse().expect("a number"));
    let (told, lost) = (count("notifications"), count("leases_lost"));
    let (begun, before, mut changes) = (Instant::now(), there.upcalls(), 0_u64);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let path = here.path.join(format!("elsewhere/{}", changes % 50));
        fs::write(&path, changes.to_string()).expect("write");
        if changes % 3 == 0 {
            fs::rename(&path, here.path.join("elsewhere/moved")).expect("rename");
        }
        changes += 1;
        look();
    }
    let upcalls = there.upcalls() - before;
    eprintln!("{changes} files changed elsewhere in {:?}, as many looks, {upcalls} upcalls", begun.elapsed());
    // A machine that did not let it renew its lease made it forget everything, as it has to.
    let lost = count("leases_lost") - lost;
    let allowed = reclaimed(changes) + cold(begun) + 20 * lost;
    assert!(upcalls <= allowed, "{upcalls}: {:#}", there.report()["fuse"]["upcalls"]);
    assert!(lost > 0 || count("notifications") == told, "changes elsewhere made it forget something");
}

/// As in some releases of Linux 6.19 (R2-telling).
#[test]
fn a_kernel_that_forgets_badly_is_asked_each_time() {
    let cluster = Cluster::found();
    let (good, bad) = (cluster.mount(), cluster.mount_with(&["--kernel-mask", "inval_entry"]));
    assert_eq!(bad.report()["kernel"]["inval_entry"], false);
    for mount in [&good, &bad] {
        mount.wait_for_lease();
    }
    let look = |mount: &Mount| fs::metadata(mount.path.join("missing")).map(|_| ()).map_err(|error| error.kind());
    let before = bad.upcalls();
    for _ in 0..100 {
        assert_eq!(look(&bad), Err(ErrorKind::NotFound));
    }
    assert!(bad.upcalls() - before >= 100);
    // What the running kernel does is found out on the mount: a name that it keeps has to appear all the same.
    assert_eq!(look(&good), Err(ErrorKind::NotFound));
    fs::write(bad.path.join("missing"), "x").expect("create");
    assert_eq!((look(&good), look(&bad)), (Ok(()), Ok(())));
}

#[test]
fn a_mount_tells_how_it_does() {
    let cluster = Cluster::found();
    let mount = cluster.mount();
    mount.wait_for_lease();
    fs::write(mount.path.join("f"), "x").expect("create");
    let report = mount.report();
    assert_eq!(report["volume"], "main");
    assert_eq!(report["lease_held"], true);
    assert!(report["leader"].is_string());
    assert_eq!(report["fuse"]["upcalls"]["create"], 1);
    assert_eq!(report["fuse"]["notifications_failed"], 0);
    assert!(report["kernel"]["abi"].as_str().is_some_and(|abi| abi.starts_with("7.")));
    let masked = std::env::var("MANYFS_KERNEL_MASK").is_ok_and(|mask| mask.contains("inc_epoch"));
    assert!(!masked || report["kernel"]["inc_epoch"] == false);
}
