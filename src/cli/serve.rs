//! `manyfs serve`: a storage node, and on request a mount in the same process.

mod both;

use std::{path::PathBuf, sync::Arc};

use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Failure, address, allocator,
    mount_settings::MountSettings,
    read_again,
    runfile::{NodeRun, Run, RunFileError},
    runtime,
};
use crate::{
    limits::Timing,
    pki::Authority,
    server::{self, ServeConfig, ServeError},
    types::NodeId,
};

/// Run a storage node.
///
/// A node with a blank data directory waits until `manyfs cluster init` founds the cluster with it. SIGTERM stops it in
/// order: leadership is handed over first. SIGHUP has it read the log level again.
///
/// Example: manyfs serve --authority authority.toml --data /var/lib/manyfs --advertise node1 --peers node1,node2,node3
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// The cluster's authority file, made by `manyfs cluster authority`.
    #[arg(long, env = "MANYFS_AUTHORITY", value_name = "FILE", default_value = "/etc/manyfs/authority.toml")]
    authority: PathBuf,
    /// The data directory: one of its own for each node, on the block device that is to hold the data.
    #[arg(long, env = "MANYFS_DATA", value_name = "DIR", default_value = "/var/lib/manyfs")]
    data: PathBuf,
    /// Refuse a data directory that is another node's, as one on a volume of another machine would be [default: serve
    /// whichever node it is].
    #[arg(long, env = "MANYFS_NODE", value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    node: Option<u64>,
    /// Where mounts and administrators are listened for.
    #[arg(long, env = "MANYFS_LISTEN_CLIENT", value_name = "ADDRESS", default_value = "0.0.0.0:7440")]
    listen_client: String,
    /// Where other storage nodes are listened for.
    #[arg(long, env = "MANYFS_LISTEN_PEER", value_name = "ADDRESS", default_value = "0.0.0.0:7441")]
    listen_peer: String,
    /// Where metrics and health are served over HTTP: /metrics, /healthz, /readyz.
    #[arg(long, env = "MANYFS_LISTEN_HTTP", value_name = "ADDRESS", default_value = "0.0.0.0:7442")]
    listen_http: String,
    /// All storage nodes of the cluster, separated by commas: host or host:port [default port: 7440]; `none` for a node that
    /// is to be the only one. A blank node asks them before it is founded, so that one which lost its disk never becomes a
    /// second cluster. Not needed afterwards.
    #[arg(long, env = "MANYFS_PEERS", value_name = "HOSTS", value_delimiter = ',', value_parser = peer)]
    peers: Option<Vec<String>>,
    /// The host by which mounts and other nodes reach this one [default: as `cluster init --nodes` names it]
    #[arg(long, env = "MANYFS_ADVERTISE", value_name = "HOST", value_parser = host)]
    advertise: Option<String>,
    /// Mount a volume here too, in the same process: it reads blocks straight from this node's disk. Needs root. Ends,
    /// the storage node included, when it is unmounted.
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// The volume that --mount mounts.
    #[arg(long, value_name = "NAME", default_value = "main", requires = "mount")]
    volume: String,
    #[command(flatten, next_help_heading = "With --mount")]
    settings: MountSettings,
    /// This process is a holder's child; the link is its standard input.
    #[arg(long, hide = true)]
    worker: bool,
    /// The score that the holder had before it lowered its own.
    #[arg(long, hide = true, allow_hyphen_values = true)]
    oom_score: Option<i32>,
    /// For `manyfs demo`: write the process here, so that `status` finds it.
    #[arg(long, value_name = "FILE", hide = true)]
    run_file: Option<PathBuf>,
    /// For tests: all times of the protocol in hundredths of their length.
    #[arg(long, env = "MANYFS_TIME_SCALE", default_value_t = 100, hide = true,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    time_scale: u32,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        // Whatever this process makes is its owner's alone, the files of libraries included.
        umask(Mode::S_IRWXG | Mode::S_IRWXO);
        match &self.mount {
            Some(directory) if !self.worker => both::hold(directory, self.settings.options),
            Some(_) => self.serve_and_mount(),
            None => {
                allocator::keep_trimming()?;
                let config = self.config()?;
                let result = runtime()?.block_on(async {
                    let mut hangups = signal(SignalKind::hangup()).map_err(ServeError::Runtime)?;
                    tokio::spawn(async move {
                        while hangups.recv().await.is_some() {
                            read_again();
                        }
                    });
                    server::serve(config, server::stop_signal()?, drop).await
                });
                Ok(result?)
            }
        }
    }

    /// What the server needs to know; the run file is written.
    fn config(&self) -> Result<ServeConfig, Failure> {
        let authority = Arc::new(Authority::load(&self.authority)?);
        let start = NodeRun::of_this_process()?;
        match self.run_file.as_ref().map_or(Ok(()), |path| start.write(path)) {
            // Of two processes with the same arguments the second is refused by its directory: it must not take the first
            // one's place here.
            Err(RunFileError::Taken { .. }) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(ServeConfig {
            authority,
            data: self.data.clone(),
            node: self.node.map(NodeId),
            listen_client: self.listen_client.clone(),
            listen_peer: self.listen_peer.clone(),
            listen_http: self.listen_http.clone(),
            peers: self.peers.clone().map(|peers| if peers == [NO_PEERS] { Vec::new() } else { peers }),
            advertise: self.advertise.clone(),
            timing: Timing::DEFAULT.scaled(self.time_scale),
            start: start.start,
        })
    }
}

/// What `--peers` says of a node that has none.
const NO_PEERS: &str = "none";

fn peer(text: &str) -> Result<String, String> {
    if text == NO_PEERS { Ok(text.to_owned()) } else { address::with_port(text) }
}

fn host(text: &str) -> Result<String, String> {
    let bracketed = text.starts_with('[') && text.ends_with(']');
    if text.is_empty() || text.contains([' ', '/']) || (text.contains(':') && !bracketed) {
        return Err("a host name or address without a port; IPv6 in brackets".to_owned());
    }
    Ok(text.to_owned())
}
