//! Idmapped mounts (mount_setattr(2)), by which a pod with users of its own sees its files as its own.
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io::Error,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::Path,
    process::{Child, Command},
    ptr, thread,
    time::Duration,
};

use nix::libc;

use crate::support::Cluster;

/// Where the users of the pod begin outside of it.
const FIRST: u32 = 100_000;

/// A user namespace, for as long as its process lives.
struct Users(Child);

impl Users {
    fn new() -> Self {
        let child = Command::new("unshare").args(["-U", "sleep", "60"]).spawn().expect("unshare runs");
        let own = fs::read_link("/proc/self/ns/user").expect("its namespace");
        let users = Self(child);
        while fs::read_link(users.of("ns/user")).is_ok_and(|namespace| namespace == own) {
            thread::sleep(Duration::from_millis(5));
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(users.of(map), format!("0 {FIRST} 65536")).expect("a map");
        }
        users
    }

    fn of(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.0.id())
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    users: u64,
}

/// The mount once more, with users mapped. Nobody else sees it; it ends with the descriptor.
fn idmapped(mount: &Path, users: &Users) -> File {
    let mount = File::open(mount).expect("open");
    let namespace = File::open(users.of("ns/user")).expect("open");
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.cast_unsigned();
    // SAFETY: the path is a string without a byte but its end.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, mount.as_raw_fd(), c"".as_ptr(), flags) };
    assert!(tree >= 0, "open_tree: {}", Error::last_os_error());
    // SAFETY: the kernel has just opened it for nobody else.
    let tree = unsafe { OwnedFd::from_raw_fd(i32::try_from(tree).expect("a descriptor")) };
    let users = namespace.as_raw_fd().cast_unsigned().into();
    let wanted = MountAttributes { set: libc::MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, users };
    // SAFETY: `wanted` is as long as is said, and lives until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            ptr::from_ref(&wanted),
            size_of::<MountAttributes>(),
        )
    };
    assert_eq!(result, 0, "mount_setattr: {}", Error::last_os_error());
    tree.into()
}

#[test]
fn users_of_a_pod_are_mapped_and_root_keeps_setgid() {
    let cluster = Cluster::found();
    let (idmap, plain) = (cluster.mount_with(&["--idmap"]), cluster.mount());
    let (here, there) = (idmap.path.as_path(), plain.path.as_path());
    fs::write(here.join("f"), "").expect("create");
    chown(here.join("f"), Some(33), Some(33)).expect("chown");
    let users = Users::new();
    let mapped = idmapped(here, &users);
    let inside = Path::new("/proc/self/fd").join(mapped.as_raw_fd().to_string());
    let owner = |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.gid())).expect("stat");
    assert_eq!(owner(&inside.join("f")), (FIRST + 33, FIRST + 33));
    chown(inside.join("f"), Some(FIRST + 7), Some(FIRST + 8)).expect("chown");
    assert_eq!(owner(&there.join("f")), (7, 8));
    // Whose users the mapping does not have makes nothing: root of outside is none of the pod.
    let refused = fs::write(inside.join("g"), "").map_err(|error| error.raw_os_error());
    assert_eq!(refused, Err(Some(libc::EOVERFLOW)));
    // Who calls the kernel no longer says; root is found all the same.
    fs::set_permissions(here.join("f"), fs::Permissions::from_mode(0o6666)).expect("chmod");
    let status = Command::new("fallocate").args(["-l", "4096"]).arg(here.join("f")).status();
    assert!(status.expect("fallocate runs").success());
    assert_eq!(fs::metadata(there.join("f")).expect("stat").mode() & 0o7777, 0o6666);
}
