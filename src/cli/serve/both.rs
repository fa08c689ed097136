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

use super::Serve;
use crate::{
    cli::{
        Failure, allocator,
        mount::{self, Announcement, restore_oom_score, worker_arguments},
        mount_options::MountOptions,
        mountpoint, read_again_with_parent, runtime,
    },
    fuse::{self, Network, WorkerConfig},
    holder::{self, Link, Place, Workers},
    mount::{Config, Input, Output},
    pki::{self, Authority},
    server::{self, LocalNode, ServeConfig},
    storage::Packs,
    transport::{Deliver, Transport},
    types::{Access, BlockHash, Grant, MountId, NodeId},
};

/// The process that the user started: holds the mount, and has a child do the rest.
pub(super) fn hold(directory: &Path, options: MountOptions) -> Result<(), Failure> {
    let directory = mountpoint::prepare(directory)?;
    holder::device::open()?;
    let workers = Workers::Started { program: std::env::current_exe()?, arguments: worker_arguments() };
    let announcement = Announcement::new(directory.clone(), None, None, false);
    let place = Place { directory, source: None, flags: options.0 };
    mount::hold(place, workers, announcement)
}

impl Serve {
    /// The child: the node in threads of its own, the mount's worker in this one.
    pub(super) fn serve_and_mount(self) -> Result<(), Failure> {
        let link = Link::inherited(io::stdin().as_fd().try_clone_to_owned()?);
        restore_oom_score(self.oom_score)?;
        // The worker waits for them; no thread of the node may take them away.
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect::<SigSet>().thread_block()?;
        allocator::keep_trimming()?;
        let config = self.config()?;
        let address = own_address(&self.listen_client);
        let mut mount = Config::new(vec![address.clone()], MountId(pki::random()?));
        mount.seed = pki::random()? as u64;
        mount.timing = config.timing;
        self.settings.apply(Access::ReadWrite, &mut mount);
        let worker = WorkerConfig {
            mount,
            kernel_mask: self.settings.kernel_mask,
            volume: self.volume.clone(),
            threads: self.settings.threads.into(),
            acl: self.settings.acl,
            idmap: self.settings.idmap,
            link,
            control: None,
            http: None,
            hangup: read_again_with_parent,
        };
        let authority = Arc::clone(&config.authority);
        let node = Node::start(config)?;
        let (runtime, local) = (node.runtime.clone(), node.local.clone());
        let result = fuse::run(worker, move |deliver| {
            let (volume, transport) = (self.volume, OnceLock::new());
            Ok(Box::new(Local { node: local, authority, volume, address, transport, runtime, deliver }))
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
    local: Arc<OnceLock<LocalNode>>,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Node {
    fn start(config: ServeConfig) -> Result<Self, Failure> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let local = Arc::new(OnceLock::new());
        let (stop, stopped) = oneshot::channel();
        let running = local.clone();
        let thread = thread::Builder::new().name("server".to_owned()).spawn(move || {
            let stopped = async {
                // A sender that is gone says the same.
                let _ = stopped.await;
            };
            let on_running = move |node| drop(running.set(node));
            if let Err(error) = runtime.block_on(server::serve(config, stopped, on_running)) {
                // A store that failed ends the process at once; the holder starts another or gives up.
                eprintln!("manyfs: {error}");
                std::process::exit(1);
            }
        })?;
        Ok(Self { runtime: handle, local, stop, thread })
    }

    /// Hands leadership over and waits until everything is written.
    fn stop(self) {
        // A node that ended by itself has ended the process.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// The mount's network, with the node's own disk before it. The mount's credential is made once the node can say which
/// volume it is for.
struct Local {
    node: Arc<OnceLock<LocalNode>>,
    authority: Arc<Authority>,
    volume: String,
    /// Where this process reaches itself.
    address: String,
    transport: OnceLock<Transport>,
    runtime: Handle,
    deliver: Deliver,
}

impl Local {
    /// The way to the cluster, or why there is none yet.
    fn transport(&self) -> Result<&Transport, String> {
        if let Some(transport) = self.transport.get() {
            return Ok(transport);
        }
        let node = self.node.get().ok_or("this node waits to be founded")?;
        let (founding, volume) =
            node.volume(&self.volume).ok_or_else(|| format!("there is no leader yet, or no volume {}", self.volume))?;
        let grant = Grant { founding, volume, name: self.volume.clone(), access: Access::ReadWrite };
        let credential =
            self.authority.issue_mount(grant, vec![self.address.clone()]).map_err(|error| error.to_string())?;
        Ok(self.transport.get_or_init(|| Transport::new(&credential, self.runtime.clone(), self.deliver.clone())))
    }

    /// A block that is on the node's own disk.
    fn fetch(&self, packs: Packs, ticket: u64, store: NodeId, hash: BlockHash) {
        let deliver = self.deliver.clone();
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
}

impl Network for Local {
    fn execute(&self, output: Output) {
        let packs = self.node.get().map(LocalNode::packs);
        match (output, self.transport(), packs) {
            // Whichever store was asked: the same name is the same bytes.
            (Output::FetchBlock { ticket, store, hash, .. }, _, Some(packs)) if packs.contains(&hash) => {
                self.fetch(packs.clone(), ticket, store, hash);
            }
            (output, Ok(transport), _) => Network::execute(transport, output),
            (Output::Connect { connection, .. }, Err(reason), _) => {
                let deliver = self.deliver.clone();
                self.runtime.spawn(async move { deliver(Input::Disconnected { connection, reason }) });
            }
            // Of a connection that never stood.
            (_, Err(_), _) => {}
        }
    }

    fn close(&self, within: Duration) {
        if let Some(transport) = self.transport.get() {
            Network::close(transport, within);
        }
    }
}
