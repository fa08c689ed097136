//! The streams to the other storage nodes: one each, dialled until it stands, in order while it stands. What cannot be
//! sent is dropped at once, and the core is told so. Raft and the heartbeats expect that, and stale messages help
//! nobody.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tokio::{runtime::Handle, sync::mpsc, task::AbortHandle};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tracing::{debug, info, warn};

use crate::{
    limits::{PROTOCOL_MAX, PROTOCOL_MIN},
    message::{mount::ProtocolRange, peer::PeerMessage},
    namespace::NodeInfo,
    node::PeerHello,
    pki::Identity,
    transport::{endpoint, sentence_of},
    types::{Member, NodeId},
    wire::{
        peer::PeerFrame,
        proto::{self, peer_client::PeerClient},
    },
};

/// Messages that may wait for a stream that stands; Raft keeps fewer in flight.
const QUEUE_MAX: usize = 4096;
/// Between attempts to dial a peer: short at first, as a peer that restarts is back soon.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Where somebody answers and does not take the stream, it will not soon.
const PAUSE_REFUSED_MAX: Duration = Duration::from_secs(2);
/// A stream that has ended before did not stand.
const STOOD_MIN: Duration = Duration::from_secs(1);
/// An attempt that takes longer is given up: names are resolved anew for the next.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Told of each message that was lost and each stream that ended, from any thread.
pub(super) type OnLost = Arc<dyn Fn(NodeId) + Send + Sync>;

#[derive(Clone, Default)]
pub(super) struct PeerMetrics {
    sent: Counter,
    lost: Counter,
    connects: Counter,
}

impl PeerMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("peer_messages_sent", "Messages given to streams to other nodes", self.sent.clone());
        registry.register(
            "peer_messages_lost",
            "Messages to other nodes that had no stream to go on",
            self.lost.clone(),
        );
        registry.register("peer_connects", "Streams to other nodes that came to stand", self.connects.clone());
    }
}

/// All peers of this node, for its thread.
pub(super) struct Peers {
    pub(super) runtime: Handle,
    pub(super) me: Member,
    pub(super) identity: Identity,
    pub(super) on_lost: OnLost,
    pub(super) metrics: PeerMetrics,
    pub(super) links: BTreeMap<NodeId, Link>,
}

/// One peer: its address, and the stream's queue while it stands.
pub(super) struct Link {
    address: String,
    queue: Arc<Mutex<Option<mpsc::Sender<PeerMessage>>>>,
    task: AbortHandle,
}

impl Peers {
    /// Where a peer is; dials it from now on, and elsewhere if it moved.
    pub(super) fn set_address(&mut self, info: &NodeInfo) {
        let known = self.links.get(&info.id).is_some_and(|link| link.address == info.peer_address);
        if info.id == self.me.node || known {
            return;
        }
        if let Some(moved) = self.links.remove(&info.id) {
            moved.task.abort();
        }
        let queue = Arc::new(Mutex::new(None));
        let dialler = Dialler {
            hello: PeerHello {
                founding: self.me.founding,
                from: self.me.node,
                to: info.id,
                protocol: ProtocolRange { min: PROTOCOL_MIN, max: PROTOCOL_MAX },
            },
            address: info.peer_address.clone(),
            identity: self.identity.clone(),
            queue: queue.clone(),
            on_lost: self.on_lost.clone(),
            metrics: self.metrics.clone(),
        };
        let task = self.runtime.spawn(dialler.run()).abort_handle();
        self.links.insert(info.id, Link { address: info.peer_address.clone(), queue, task });
    }

    /// Whether the message is on its way; never waits.
    pub(super) fn send(&self, to: NodeId, message: PeerMessage) -> bool {
        let sent = self
            .links
            .get(&to)
            .is_some_and(|link| lock(&link.queue).as_ref().is_some_and(|sender| sender.try_send(message).is_ok()));
        if sent { &self.metrics.sent } else { &self.metrics.lost }.inc();
        sent
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for link in self.links.values() {
            link.task.abort();
        }
    }
}

/// Keeps one stream standing.
struct Dialler {
    hello: PeerHello,
    address: String,
    identity: Identity,
    queue: Arc<Mutex<Option<mpsc::Sender<PeerMessage>>>>,
    on_lost: OnLost,
    metrics: PeerMetrics,
}

impl Dialler {
    async fn run(self) {
        let peer = self.hello.to;
        let mut pause = PAUSE_MIN;
        let mut said = None;
        loop {
            let (reason, had_stood, pause_max) = match self.dial().await {
                Ok(client) => {
                    self.metrics.connects.inc();
                    let mut carried = std::pin::pin!(self.carry(client));
                    let early = tokio::time::timeout(STOOD_MIN, &mut carried).await;
                    let had_stood = early.is_err();
                    let reason = match early {
                        Ok(reason) => reason,
                        Err(_) => {
                            info!("stream to node {peer} at {} stands", self.address);
                            said = None;
                            carried.await
                        }
                    };
                    *lock(&self.queue) = None;
                    (self.on_lost)(peer);
                    (reason, had_stood, PAUSE_REFUSED_MAX)
                }
                Err(reason) => (reason, false, PAUSE_MAX),
            };
            // Said when it changes, not at every attempt.
            if said.as_ref() != Some(&reason) {
                warn!("no stream to node {peer}: {reason}");
                said = Some(reason);
            }
            pause = if had_stood { PAUSE_MIN } else { (pause * 2).min(pause_max) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn dial(&self) -> Result<PeerClient<tonic::transport::Channel>, String> {
        let peer = Member { founding: self.hello.founding, node: self.hello.to };
        let endpoint = endpoint(&self.address, &self.identity, Some(peer)).map_err(|error| error.to_string())?;
        let channel = tokio::time::timeout(DIAL_TIMEOUT, endpoint.connect())
            .await
            .map_err(|_| format!("{} does not answer", self.address))?
            .map_err(|error| sentence_of(&self.address, &error))?;
        Ok(PeerClient::new(channel))
    }

    /// Carries messages until the stream ends; why it did.
    async fn carry(&self, mut client: PeerClient<tonic::transport::Channel>) -> String {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let frames = tokio_stream::once(PeerFrame::Hello(self.hello))
            .chain(ReceiverStream::new(receiver).map(PeerFrame::Message))
            .map(proto::PeerMessage::from);
        *lock(&self.queue) = Some(sender);
        match client.send(frames).await {
            Ok(_) => {
                debug!("node {} ended the stream in order", self.hello.to);
                format!("node {} is stopping", self.hello.to)
            }
            Err(status) => sentence_of(&self.address, &status),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that could be half done happens under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
