//! What the site stands on: ManyFS, or for a reference run one plain directory mounted twice.
//!
//! The reference run (`MANYFS_WORDPRESS_REFERENCE=1`) proves nothing about ManyFS. It tells whether a failure is the
//! harness's or the machine's, and what the same pages cost on the local file system. Nobody sets it in CI.

use super::cluster::Cluster;
use super::requirements::Requirements;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};

const SWITCH: &str = "MANYFS_WORDPRESS_REFERENCE";

#[derive(Debug)]
pub(crate) enum Ground {
    ManyFs(Box<Cluster>),
    Reference(PlainDirectory),
}

/// One directory bound to two places.
#[derive(Debug)]
pub(crate) struct PlainDirectory {
    mounts: [PathBuf; 2],
}

impl Ground {
    /// Starts what is asked for in `dir`: ManyFS, unless the reference run is asked for by name.
    pub(crate) fn start(requirements: &Requirements, dir: &Path, logs: &Path) -> Self {
        if std::env::var_os(SWITCH).is_none() {
            return Self::ManyFs(Box::new(Cluster::start(requirements, dir, logs)));
        }
        println!("wordpress: {SWITCH} is set: a REFERENCE RUN on a plain directory, which tests nothing of ManyFS");
        Self::Reference(PlainDirectory::start(dir))
    }

    /// Where the volume is mounted, twice.
    pub(crate) fn mounts(&self) -> [&Path; 2] {
        match self {
            Self::ManyFs(cluster) => [cluster.mount(0), cluster.mount(1)],
            Self::Reference(directory) => [&directory.mounts[0], &directory.mounts[1]],
        }
    }
}

impl PlainDirectory {
    fn start(dir: &Path) -> Self {
        let make = |name: &str| {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).expect("the test's directory is writable");
            path
        };
        let plain = make("plain");
        let directory = Self { mounts: [make("mount-a"), make("mount-b")] };
        for path in &directory.mounts {
            mount(Some(&plain), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("root may bind a directory");
        }
        directory
    }
}

impl Drop for PlainDirectory {
    fn drop(&mut self) {
        for path in &self.mounts {
            if let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
                eprintln!("umount of {}: {error}", path.display());
            }
        }
    }
}
