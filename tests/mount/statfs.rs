//! statfs(2).

use std::fs;

use nix::sys::statvfs::statvfs;

use super::support::Cluster;

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
}
