//! Real mounts, seen through the kernel. All of it needs root and /dev/fuse (`support/require.rs`).

#[path = "../support/address.rs"]
mod address;
#[path = "../support/cluster.rs"]
#[allow(dead_code, reason = "shared with the tests of processes")]
mod cluster;
#[path = "../support/require.rs"]
mod require;
#[path = "../support/mount.rs"]
mod support;

mod coherence;
mod locks;
mod mount;
mod programs;
