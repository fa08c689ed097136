//! `manyfs hold`: a holder whose worker lives elsewhere.

use std::path::PathBuf;

use super::{
    Failure,
    mount::{self, Announcement, lower_oom_score},
    mount_options::MountOptions,
    mountpoint,
    runfile::{self, Run, RunFile},
};
use crate::holder::{self, Listener, Place, Workers};

/// Hold a mount for a worker in another container (`manyfs mount --holder`).
///
/// Opens /dev/fuse, waits for a worker to connect at the socket, mounts once the worker has the volume, and passes the
/// device to it. SIGTERM unmounts and ends both.
///
/// Example: manyfs hold --socket /run/manyfs/holder.sock --mount /wp-content
#[derive(Debug, clap::Args)]
pub(super) struct Hold {
    /// Where the worker connects: a Unix socket, made by this command.
    #[arg(long, env = "MANYFS_HOLDER", value_name = "PATH")]
    socket: PathBuf,
    /// Where to mount: an existing, empty directory.
    #[arg(long = "mount", value_name = "DIR")]
    directory: PathBuf,
    /// Options of mount(8), separated by commas: ro, noexec, suid, dev. Without any: nosuid,nodev.
    #[arg(short, long, env = "MANYFS_OPTIONS", value_name = "LIST", default_value = "")]
    options: MountOptions,
    /// Write what was mounted, and by which processes, to this file as JSON, once the mount answers.
    #[arg(long, value_name = "FILE")]
    run_file: Option<PathBuf>,
    /// Print what was mounted as one line of JSON.
    #[arg(long)]
    json: bool,
}

impl Hold {
    pub(super) fn run(self) -> Result<(), Failure> {
        let directory = mountpoint::prepare(&self.directory)?;
        holder::device::open()?;
        if let Some(path) = &self.run_file {
            runfile::check_apart(path, &self.socket)?;
            RunFile::check_place(path)?;
        }
        // Nobody can connect any more when it has gone.
        let (_file, listener) = Listener::bind(&self.socket)?;
        lower_oom_score();
        let announcement = Announcement::new(directory.clone(), self.run_file, None, self.json);
        let place = Place { directory, source: None, flags: self.options.0 };
        mount::hold(place, Workers::Awaited(listener), announcement)
    }
}
