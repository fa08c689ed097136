//! A storage node as a process: the shell around the node's core. It listens for mounts and administrators, for peers and
//! for probes; waits to be founded if its disk is blank; and then runs the core on a thread of its own, with the store, the
//! streams and the clocks as the core's outside.
//!
//! ```text
//! descriptors    how many connections there may be
//! listener       TLS; who is at the other end
//! stage          blank, prepared, running
//! uploads        how much content may be on its way
//! mounts blocks admin peer_service     the services; they hand inputs to
//! running        the queue into the node's thread, which is
//! driver         the core and what its outputs reach: storage, peers, connections
//! filler         fetches blocks this node lacks from its peers
//! ```

mod admin;
mod blocks;
mod connections;
mod descriptors;
mod driver;
mod filler;
mod listener;
mod metrics;
mod mounts;
mod neighbours;
mod papers;
mod peer_service;
mod peers;
mod running;
mod stage;
mod uploads;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinSet,
};
use tonic::transport::Server;
use tracing::{info, warn};

use self::{
    admin::AdminService,
    blocks::{BlockMetrics, BlockService},
    descriptors::Room,
    driver::Driver,
    filler::{Filler, FillerMetrics},
    listener::Gate,
    metrics::{NodeMetrics, StoreCollector},
    mounts::MountService,
    neighbours::Neighbours,
    papers::Papers,
    peer_service::PeerService,
    peers::{PeerMetrics, Peers},
    running::Running,
    stage::{Opened, Stage, StoreEvents},
    uploads::Bounded,
};
use crate::{
    clock,
    limits::{
        BLOCK_MESSAGE_BYTES_MAX, FEATURE_LEVEL, MESSAGE_BYTES_MAX, Retention, STREAMS_MAX, SessionBounds, Timing,
    },
    namespace::NodeInfo,
    node::{Input, Node, NodeConfig},
    pki::{self, Authority, Identity, PkiError},
    replica::Standing,
    storage::{Packs, Storage, StorageError},
    telemetry,
    transport::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, STREAM_WINDOW_BYTES},
    types::{FoundingId, Member, NodeId, VolumeId},
    wire::{
        admin::Process,
        proto::{
            admin_server::AdminServer, block_server::BlockServer, mount_server::MountServer, peer_server::PeerServer,
        },
    },
};

/// How long a node that stops may take to hand leadership over before the process ends without.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// How often the node is told of its device's space.
const SPACE_PERIOD: Duration = Duration::from_secs(1);

/// How a storage node runs.
#[derive(Debug)]
pub struct ServeConfig {
    pub authority: Arc<Authority>,
    /// The data directory; missing is made when the node is founded.
    pub data: PathBuf,
    /// Which node the directory must belong to; `None`: whichever it is.
    pub node: Option<NodeId>,
    /// Where mounts and administrators, peers, and HTTP are listened for (`address:port`).
    pub listen_client: String,
    pub listen_peer: String,
    pub listen_http: String,
    /// Client addresses of the storage nodes that a blank node asks before it is founded, its own perhaps among them. Empty:
    /// it is to be the only one; `None`: it was not told, and is not founded.
    pub peers: Option<Vec<String>>,
    /// The host by which others reach this node; `None`: as `cluster init` names it.
    pub advertise: Option<String>,
    pub timing: Timing,
    /// The arguments that start this process again, for `status`.
    pub start: Vec<String>,
}

/// Why a storage node does not run any more, or not at all.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen at {address} ({option}): {reason}")]
    Listen { address: String, option: &'static str, reason: String },
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{} cannot be written: {source}; make it writable or choose another --data", .data.display())]
    Data { data: PathBuf, source: io::Error },
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the node cannot go on: {0}")]
    Fatal(String),
    #[error("the node's thread has ended without a reason; the log above says more")]
    Died,
    #[error("the runtime cannot start: {0}")]
    Runtime(io::Error),
    #[error("listening has ended: {0}")]
    Ended(String),
}

/// A node that takes part, for a mount in the same process.
#[derive(Clone, Debug)]
pub struct LocalNode(Running);

impl LocalNode {
    /// The node's blocks.
    #[must_use]
    pub fn packs(&self) -> &Packs {
        self.0.packs()
    }

    /// The volume that has this name, as its founding and number; `None` while the node knows no leader, or no such volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<(FoundingId, VolumeId)> {
        let view = self.0.view();
        view.leader.and(view.volumes.get(name)).map(|volume| (self.0.founding(), *volume))
    }
}

/// Waits for SIGTERM or SIGINT. From the first call on they do not end the process by themselves.
///
/// # Errors
/// `Runtime` where signals cannot be waited for.
pub fn stop_signal() -> Result<impl Future<Output = ()> + Send, ServeError> {
    let mut term = signal(SignalKind::terminate()).map_err(ServeError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Runtime)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Runs a storage node until `stop` stops it in order. `on_running` is given the node once it takes part.
///
/// # Errors
/// Why it cannot run, or cannot go on. Before it listens, nothing was changed.
pub async fn serve(
    config: ServeConfig,
    stop: impl Future<Output = ()> + Send,
    on_running: impl FnOnce(LocalNode) + Send,
) -> Result<(), ServeError> {
    let mut stop = std::pin::pin!(stop);
    let room = Room::make().map_err(ServeError::Runtime)?;
    let ports = Ports::bind(&config, room).await?;
    ports.announce()?;
    let addresses = ports.addresses()?;
    let stage = Arc::new(Stage::find(config.authority.cluster(), config.node, config.data.clone())?);
    if stage.member().is_none() {
        check_writable(&config.data)?;
    }
    let papers = Arc::new(Papers::new(config.authority.clone(), stage.member())?);
    let mut metrics = Metrics::new();
    let (stop_services, services_stop) = watch::channel(false);
    let mut services = ports.serve(&config, addresses, &stage, &papers, &mut metrics, services_stop)?;
    match stage.member() {
        Some(Member { founding, node }) => info!("node {node} of founding {founding} in {}", config.data.display()),
        None => info!(
            "blank: waiting to be founded as a node of cluster {} by `manyfs cluster init`",
            config.authority.cluster()
        ),
    }

    let begun = tokio::select! {
        begun = stage.wait_until_begun() => begun,
        () = &mut stop => None,
        error = first_end(&mut services) => return Err(error),
    };
    if let Some((me, opened)) = begun {
        papers.name(me)?;
        let mut active = Active::start(&config, addresses, me, opened, &papers.identity(), &metrics)?;
        stage.set_running(active.running.clone());
        on_running(LocalNode(active.running.clone()));
        tokio::select! {
            result = active.ended() => result?,
            () = &mut stop => {
                info!("stopping: handing leadership over");
                active.stop().await?;
            }
            error = first_end(&mut services) => return Err(error),
        }
    }
    stop_services.send_replace(true);
    services.shutdown().await;
    info!("stopped");
    Ok(())
}

/// The sockets, bound before anything is touched.
struct Ports {
    client: TcpListener,
    peer: TcpListener,
    http: TcpListener,
    /// How many connections each takes.
    room: Room,
}

impl Ports {
    async fn bind(config: &ServeConfig, room: Room) -> Result<Self, ServeError> {
        Ok(Self {
            client: bind(&config.listen_client, "--listen-client").await?,
            peer: bind(&config.listen_peer, "--listen-peer").await?,
            http: bind(&config.listen_http, "--listen-http").await?,
            room,
        })
    }

    /// Says what runs, and where it is found: any free port may have been asked for.
    fn announce(&self) -> Result<(), ServeError> {
        let at = |listener: &TcpListener| listener.local_addr().map_err(ServeError::Runtime);
        let (client, peer, http) = (at(&self.client)?, at(&self.peer)?, at(&self.http)?);
        let version = env!("CARGO_PKG_VERSION");
        info!("manyfs {version}: listening at {client} for mounts, {peer} for storage nodes, {http} for HTTP");
        Ok(())
    }

    fn addresses(&self) -> Result<BoundPorts, ServeError> {
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        Ok(BoundPorts {
            client: port(&self.client).map_err(ServeError::Runtime)?,
            peer: port(&self.peer).map_err(ServeError::Runtime)?,
        })
    }

    /// Starts all services.
    fn serve(
        self,
        config: &ServeConfig,
        bound: BoundPorts,
        stage: &Arc<Stage>,
        papers: &Arc<Papers>,
        metrics: &mut Metrics,
        stop: watch::Receiver<bool>,
    ) -> Result<JoinSet<String>, ServeError> {
        let room = self.room;
        let gate = |connections_max| Gate {
            papers: papers.clone(),
            cluster: stage.cluster(),
            refused: metrics.refused.clone(),
            displaced: metrics.displaced.clone(),
            handshakes_max: room.handshakes,
            connections_max,
        };
        let process = Process {
            pid: std::process::id(),
            data: config.data.display().to_string(),
            start: config.start.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer_address: format!("{}:{}", config.advertise.as_deref().unwrap_or_default(), bound.peer),
            lacks_descriptors: false,
            scrubbed_ms: None,
            damages: 0,
        };
        let neighbours = Neighbours { addresses: config.peers.clone(), papers: papers.clone() };
        let clients = http2()
            .add_service(
                MountServer::new(MountService { stage: stage.clone() }).max_decoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add_service(Bounded::new(
                BlockServer::new(BlockService { stage: stage.clone(), metrics: metrics.blocks.clone() })
                    .max_decoding_message_size(BLOCK_MESSAGE_BYTES_MAX),
            ))
            .add_service(AdminServer::new(AdminService {
                stage: stage.clone(),
                process,
                papers: papers.clone(),
                neighbours,
            }));
        let peers = http2().add_service(
            PeerServer::new(PeerService { stage: stage.clone() }).max_decoding_message_size(2 * MESSAGE_BYTES_MAX),
        );
        let mut services = JoinSet::new();
        let incoming = gate(room.client).open(self.client);
        let stopped = until(stop.clone());
        services.spawn(async move { ended(clients.serve_with_incoming_shutdown(incoming, stopped).await) });
        let incoming = gate(room.peer).open(self.peer);
        let stopped = until(stop.clone());
        services.spawn(async move { ended(peers.serve_with_incoming_shutdown(incoming, stopped).await) });
        let readiness = readiness(stage.clone());
        let registry = Arc::new(std::mem::take(&mut metrics.registry));
        let http = self.http;
        services.spawn(async move {
            telemetry::serve(http, room.http, registry, readiness, until(stop)).await;
            "in order".to_owned()
        });
        Ok(services)
    }
}

/// The ports that were bound, also where any free one was asked for.
#[derive(Clone, Copy)]
struct BoundPorts {
    client: u16,
    peer: u16,
}

impl BoundPorts {
    /// This node's addresses, where it was told by which host others reach it.
    fn of_node(self, config: &ServeConfig, node: NodeId) -> Option<NodeInfo> {
        let host = config.advertise.as_deref()?;
        Some(NodeInfo {
            id: node,
            peer_address: format!("{host}:{}", self.peer),
            client_address: format!("{host}:{}", self.client),
            level_max: FEATURE_LEVEL,
        })
    }
}

async fn bind(address: &str, option: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there already; stop it, or choose another address".to_owned()
            }
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not use that port".to_owned(),
            _ => format!("{error}; write address:port, such as 0.0.0.0:7440"),
        };
        ServeError::Listen { address: address.to_owned(), option, reason }
    })
}

fn http2() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
}

async fn until(mut stop: watch::Receiver<bool>) {
    // The sender's end is an end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn ended<E: std::error::Error>(result: Result<(), E>) -> String {
    match result {
        Ok(()) => "in order".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// A service never ends by itself.
async fn first_end(services: &mut JoinSet<String>) -> ServeError {
    match services.join_next().await {
        Some(Ok(reason)) => ServeError::Ended(reason),
        Some(Err(error)) => ServeError::Ended(error.to_string()),
        None => ServeError::Ended("no service is left".to_owned()),
    }
}

fn readiness(stage: Arc<Stage>) -> telemetry::Readiness {
    Arc::new(move || {
        match stage.running() {
        Ok(running) if running.view().is_ready() => Ok(()),
        Ok(running) => Err(match running.view().standing {
            Standing::TakesPart => {
                "no leader is known: fewer than half of the storage nodes reach each other".to_owned()
            }
            Standing::Waits => "no majority of the storage nodes has greeted this one yet".to_owned(),
            Standing::Rival => "another process of this node is alive: stop one of them".to_owned(),
            Standing::Forgetful => {
                "the data of this node is older than what it had promised: it takes no part until a leader has refilled \
                 it"
                .to_owned()
            }
        }),
        Err(status) => Err(status.message().to_owned()),
    }
    })
}

/// A blank node is going to need its directory: said now, not at its founding.
fn check_writable(data: &std::path::Path) -> Result<(), ServeError> {
    use nix::unistd::{AccessFlags, access};
    let existing = data.ancestors().find(|path| path.exists() || path.as_os_str().is_empty());
    let existing = existing.filter(|path| !path.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    access(existing, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|errno| ServeError::Data { data: data.to_owned(), source: errno.into() })
}

/// All metrics of the process.
struct Metrics {
    registry: Registry,
    refused: Counter,
    displaced: Counter,
    blocks: BlockMetrics,
    node: NodeMetrics,
    peers: PeerMetrics,
    filler: FillerMetrics,
    store: StoreCollector,
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self {
            registry: telemetry::registry(),
            refused: Counter::default(),
            displaced: Counter::default(),
            blocks: BlockMetrics::default(),
            node: NodeMetrics::default(),
            peers: PeerMetrics::default(),
            filler: FillerMetrics::default(),
            store: StoreCollector::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "connections_refused",
            "Connections without a certificate of this cluster's authority",
            metrics.refused.clone(),
        );
        registry.register(
            "connections_displaced",
            "Connections that were closed to make room for others",
            metrics.displaced.clone(),
        );
        metrics.blocks.register(registry);
        metrics.node.register(registry);
        metrics.peers.register(registry);
        metrics.filler.register(registry);
        registry.register_collector(Box::new(metrics.store.clone()));
        metrics
    }
}

/// A node that takes part.
struct Active {
    running: Running,
    thread: oneshot::Receiver<Result<(), ServeError>>,
    store: Arc<StoreEvents>,
    tasks: JoinSet<()>,
}

impl Active {
    fn start(
        config: &ServeConfig,
        bound: BoundPorts,
        me: Member,
        opened: Opened,
        identity: &Identity,
        metrics: &Metrics,
    ) -> Result<Self, ServeError> {
        let Opened { storage, recovered, events } = opened;
        metrics.store.watch(storage.counters().clone());
        let node_config = NodeConfig {
            id: me.node,
            founding: me.founding,
            timing: config.timing,
            retention: Retention::DEFAULT,
            sessions: SessionBounds::DEFAULT,
            // Any number does: it spreads election timeouts within the node's slot.
            seed: pki::random()? as u64,
            nonce: pki::random()? as u64,
            address: bound.of_node(config, me.node),
        };
        let core =
            Node::open(clock::now(), node_config, recovered).map_err(|error| ServeError::Fatal(error.to_string()))?;
        let (running, queue) = Running::new(me, storage.packs().clone(), storage.scrubber().clone());
        events.lead_to(running.clone());
        let storage = Arc::new(storage);
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_space(running.clone(), Arc::downgrade(&storage), metrics.node.clone()));
        tasks.spawn(
            Filler { running: running.clone(), identity: identity.clone(), metrics: metrics.filler.clone() }.run(),
        );
        let lost = running.clone();
        let peers = Peers {
            runtime: tokio::runtime::Handle::current(),
            me,
            identity: identity.clone(),
            on_lost: Arc::new(move |peer| lost.tell(Input::PeerLost { peer })),
            metrics: metrics.peers.clone(),
            links: BTreeMap::new(),
        };
        let driver = Driver {
            node: core,
            storage,
            running: running.clone(),
            queue,
            peers,
            metrics: metrics.node.clone(),
            lost: BTreeSet::new(),
            leader: None,
            published: None,
        };
        let (done, thread) = oneshot::channel();
        std::thread::Builder::new()
            .name("node".to_owned())
            .spawn(move || {
                // Nobody waits any more when the process is ending already.
                let _ = done.send(driver.run());
            })
            .map_err(ServeError::Runtime)?;
        Ok(Self { running, thread, store: events, tasks })
    }

    /// Waits until the node's thread has ended, or must end because the store has failed.
    async fn ended(&mut self) -> Result<(), ServeError> {
        tokio::select! {
            result = &mut self.thread => result.unwrap_or(Err(ServeError::Died)),
            error = self.store.failure() => Err(error.into()),
        }
    }

    /// Stops in order: leadership is handed over, what was submitted is written.
    async fn stop(mut self) -> Result<(), ServeError> {
        self.running.tell(Input::Stop);
        match tokio::time::timeout(STOP_WAIT, self.ended()).await {
            Ok(result) => result?,
            Err(_) => warn!("leadership could not be handed over within {} s; stopping without", STOP_WAIT.as_secs()),
        }
        self.tasks.shutdown().await;
        Ok(())
    }
}

/// Tells the node of its device's space, and gives back what ended sessions keep of it, for as long as the store is open.
async fn watch_space(running: Running, storage: Weak<Storage>, metrics: NodeMetrics) {
    let mut is_short = false;
    loop {
        let storage = storage.clone();
        let state = running.state();
        let look = move || {
            let storage = storage.upgrade()?;
            match storage.lift_ended_pins(&state) {
                Ok(0) => {}
                Ok(lifted) => info!("{lifted} blocks were still kept for uploads of sessions that have ended"),
                Err(error) => warn!("what uploads of ended sessions keep cannot be given back: {error}"),
            }
            if let Err(error) = storage.reserve_for_start() {
                warn!("no space can be reserved for the next start: {error}");
            }
            Some(storage.space().and_then(|space| Ok((space, storage.is_short_of_space(is_short)?))))
        };
        // A device that hangs must not hold up anything but this.
        match tokio::task::spawn_blocking(look).await {
            Ok(Some(Ok((space, short)))) => {
                match (is_short, short) {
                    (false, true) => warn!(
                        "this node is short of space: uploads are refused, and where a majority has space it takes no \
                         more entries; add space, or delete files"
                    ),
                    (true, false) => info!("this node has space again"),
                    _ => {}
                }
                is_short = short;
                metrics.short_of_space(short);
                running.tell(Input::Space(space));
                running.tell(Input::ShortOfSpace(short));
            }
            Ok(Some(Err(error))) => warn!("the space of the device is not known: {error}"),
            Ok(None) | Err(_) => return,
        }
        tokio::time::sleep(SPACE_PERIOD).await;
    }
}
