//! `manyfs unmount`.

use std::path::PathBuf;

use super::{Failure, mountpoint};

/// Unmount a volume; its mount process then flushes, leaves the cluster and ends.
///
/// Example: manyfs unmount /srv/wp-content
#[derive(Debug, clap::Args)]
pub(super) struct Unmount {
    /// Where it is mounted.
    directory: PathBuf,
    /// Take the mount's name away even though files on it are open; they end when they are closed, or with the mount
    /// process.
    #[arg(long)]
    detach: bool,
}

impl Unmount {
    pub(super) fn run(self) -> Result<(), Failure> {
        Ok(mountpoint::release(&self.directory, self.detach)?)
    }
}
