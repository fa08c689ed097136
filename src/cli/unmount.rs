//! `manyfs unmount`.

use std::{path::PathBuf, time::Duration};

use super::{Failure, mountpoint, sweep};

/// Unmount a volume; its mount process then flushes, leaves the cluster and ends.
///
/// The directory has the mode again that it had before it was mounted on. Where the mount's process was killed it is still
/// closed (mode 0), and this opens it.
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
    /// Detach the mounts at and below the directory whose processes are gone ("transport endpoint is not connected"), and
    /// leave those that live.
    #[arg(long, conflicts_with = "detach")]
    dead: bool,
    /// Look for dead mounts again and again, with this many seconds between, until SIGTERM.
    #[arg(long, value_name = "SECONDS", requires = "dead", value_parser = clap::value_parser!(u64).range(1..=86400))]
    every: Option<u64>,
}

impl Unmount {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.dead {
            sweep::run(&self.directory, self.every.map(Duration::from_secs))
        } else {
            Ok(mountpoint::release(&self.directory, self.detach)?)
        }
    }
}
