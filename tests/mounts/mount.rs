//! Real mounts: what programs see through the kernel. One file per operation; a body that concerns the tree runs twice,
//! with writer and reader on one mount, and on two mounts of the same volume whose kernels hold warm caches.
//!
//! Needs root and /dev/fuse (`support/require.rs`). `MANYFS_KERNEL_MASK=inc_epoch` runs all of it as on an older kernel.

mod acl;
mod append;
mod attributes;
mod caches;
mod content;
mod copy;
mod cut_off;
mod delegation;
mod deleted;
mod fallocate;
mod first_start;
mod gone;
mod grown;
mod handles;
mod hangup;
mod holder;
mod idmapped;
mod interrupt;
mod links;
mod locks;
mod map;
mod mknod;
mod mmap;
mod mount_command;
mod names;
mod nested;
mod opens;
mod own_write;
mod permissions;
mod pod_end;
mod readdir;
mod refusals;
mod rename;
mod seek;
mod statfs;
mod stopped;
mod symlinks;
mod tmpfile;
mod unmount;
mod waiting;
mod xattrs;
