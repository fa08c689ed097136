//! A storage node and a mount in one process, for a machine that has both: the process that was started holds the mount,
//! and its child is node and worker. What the mount reads it takes from the node's own disk where it is there.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd,
    path::Path,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal};
use tokio::{runtime::Handle, sync::oneshot};

use super::{Serve, logged};
use crate::{
    cli::{
        Failure,
        mount::{Announcement, restore_oom_score, worker_arguments},
        mount_options::MountOptions,
        mountpoint, runtime,
    },
    client::transport::{Deliver, Transport},
    fuse::{self, Network, WorkerConfig},
    holder::{self, Link, Place, Workers},
    mount::{Config, Input, Output},
    pki,
    server::{self, ServeConfig},
    storage::Packs,
    types::{Access, MountId},
};

/// The process that the user started: holds the mount, and has a child do the rest.
pub(super) fn hold(directory: &Path, options: MountOptions) -> Result<(), Failure> {
    let directory = mountpoint::prepare(directory)?;
    holder::device::open()?;
    let workers = Workers::Started { program: std::env::current_exe()?, arguments: worker_arguments() };
    let mut announcement = Announcement::new(directory.clone(), None, None, false);
    let place = Place { directory, source: None, flags: options.0 };
    Ok(holder::run(place, workers, &mut |report| announcement.make(report))?)
}

impl Serve {
    /// The child: the node in threads of its own, the mount's worker in this one.
    pub(super) fn serve_and_mount(self) -> Result<(), Failure> {
        let link = Link::inherited(io::stdin().as_fd().try_clone_to_owned()?);
        restore_oom_score(self.oom_score)?;
        // The worker waits for them; no thread of the node may take them away.
        [Signal::SIGTERM, Signal::SIGINT].into_iter().collect::<SigSet>().thread_block()?;
        let config = self.config()?;
        let address = own_address(&self.listen_client);
        let credential = config.authority.issue_mount(&self.volume, Access::ReadWrite, vec![address.clone()])?;
        let mut mount = Config::new(credential.cluster, vec![address], MountId(pki::random()?));
        mount.seed = pki::random()? as u64;
        mount.timing = config.timing;
        self.settings.apply(credential.access, &mut mount);
        let worker = WorkerConfig {
            mount,
            kernel_mask: self.settings.kernel_mask,
            volume: self.volume.clone(),
            threads: self.settings.threads.into(),
            acl: self.settings.acl,
            link,
            control: None,
            http: None,
        };
        let node = Node::start(config)?;
        let (runtime, packs) = (node.runtime.clone(), node.packs.clone());
        let result = fuse::run(worker, move |deliver| {
            let transport = Transport::new(&credential, runtime.clone(), deliver.clone());
            Ok(Box::new(Local { transport, packs, runtime, deliver }))
        });
        node.stop();
        Ok(result?)
    }
}

/// Where this process reaches itself.
fn own_address(listen: &str) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => format!("127.0.0.1:{}", address.port()),
        _ => listen.to_owned(),
    }
}

/// The node's threads.
struct Node {
    runtime: Handle,
    /// Set once the node takes part.
    packs: Arc<OnceLock<Packs>>,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Node {
    fn start(config: ServeConfig) -> Result<Self, Failure> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let packs = Arc::new(OnceLock::new());
        let (stop, stopped) = oneshot::channel();
        let running = packs.clone();
        let thread = thread::Builder::new().name("server".to_owned()).spawn(move || {
            let stopped = async {
                // A sender that is gone says the same.
                let _ = stopped.await;
            };
            let on_running = move |packs| drop(running.set(packs));
            if let Err(error) = runtime.block_on(server::serve(config, stopped, on_running)) {
                // P8: a store that failed ends the process at once; the holder starts another or gives up.
                eprintln!("manyfs: {}", logged(error));
                std::process::exit(1);
            }
        })?;
        Ok(Self { runtime: handle, packs, stop, thread })
    }

    /// Hands leadership over and waits until everything is written.
    fn stop(self) {
        // A node that ended by itself has ended the process.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// The mount's network, with the node's own disk before it.
struct Local {
    transport: Transport,
    packs: Arc<OnceLock<Packs>>,
    runtime: Handle,
    deliver: Deliver,
}

impl Network for Local {
    fn execute(&self, output: Output) {
        match (output, self.packs.get()) {
            // Whichever store was asked: the same name is the same bytes.
            (Output::FetchBlock { ticket, store, hash, .. }, Some(packs)) if packs.contains(&hash) => {
                let (packs, deliver) = (packs.clone(), self.deliver.clone());
                self.runtime.spawn_blocking(move || {
                    let result = match packs.get(&hash) {
                        Ok(Some(bytes)) => Ok(bytes),
                        Ok(None) => Err(crate::mount::StoreError::Missing),
                        Err(error) => {
                            tracing::error!("a block cannot be read: {error}");
                            Err(crate::mount::StoreError::Unreachable(error.to_string()))
                        }
                    };
                    deliver(Input::BlockFetched { ticket, store, result });
                });
            }
            (output, _) => Network::execute(&self.transport, output),
        }
    }

    fn close(&self, within: Duration) {
        Network::close(&self.transport, within);
    }
}
