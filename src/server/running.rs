//! A node that takes part, as the services see it: a queue into the node's thread, and what that thread publishes.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::connections::Connections;
use crate::{
    namespace::{NodeInfo, State},
    node::{AdminAnswer, AdminError, AdminRequest, Input},
    replica::Standing,
    storage::{Packs, Scrubber},
    types::{ConnectionId, FoundingId, Member, NodeId, VolumeId},
};

/// Bytes of messages from the network that may wait for the node's thread; beyond it connections are not read.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// What one permit of the queue stands for.
const PERMIT_BYTES: usize = 1024;

/// An input on its way to the node's thread.
pub(super) struct Queued {
    pub(super) input: Input,
    /// Gives the room back when the input was handled.
    _room: Option<OwnedSemaphorePermit>,
}

/// What the node's thread last published of the state, for those who need no more.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct View {
    pub(super) leader: Option<NodeId>,
    pub(super) standing: Standing,
    pub(super) nodes: Vec<NodeInfo>,
    pub(super) volumes: BTreeMap<String, VolumeId>,
}

impl View {
    /// Whether the node takes part and knows a leader.
    pub(super) fn is_ready(&self) -> bool {
        self.leader.is_some() && self.standing == Standing::TakesPart
    }
}

/// The node's thread is gone; the process is about to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node is stopping; ask another")]
pub(super) struct Stopped;

/// Clones are cheap and lead to the same node.
#[derive(Clone)]
pub(super) struct Running(Arc<Shared>);

struct Shared {
    me: Member,
    inputs: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    packs: Packs,
    scrubber: Scrubber,
    view: ArcSwap<View>,
    /// The state as it was published last: a clone is cheap.
    state: watch::Sender<State>,
    connections: Connections,
    next_connection: AtomicU64,
    next_ticket: AtomicU64,
    tickets: Mutex<BTreeMap<u64, oneshot::Sender<Result<AdminAnswer, AdminError>>>>,
}

impl Running {
    /// The other end of the queue is for the node's thread.
    pub(super) fn new(me: Member, packs: Packs, scrubber: Scrubber) -> (Self, mpsc::UnboundedReceiver<Queued>) {
        let (inputs, receiver) = mpsc::unbounded_channel();
        let shared = Shared {
            me,
            inputs,
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX / PERMIT_BYTES)),
            packs,
            scrubber,
            view: ArcSwap::default(),
            state: watch::Sender::new(State::default()),
            connections: Connections::default(),
            next_connection: AtomicU64::new(1),
            next_ticket: AtomicU64::new(1),
            tickets: Mutex::new(BTreeMap::new()),
        };
        (Self(Arc::new(shared)), receiver)
    }

    pub(super) fn node(&self) -> NodeId {
        self.0.me.node
    }

    pub(super) fn founding(&self) -> FoundingId {
        self.0.me.founding
    }

    pub(super) fn packs(&self) -> &Packs {
        &self.0.packs
    }

    pub(super) fn scrubber(&self) -> &Scrubber {
        &self.0.scrubber
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.0.view.load_full()
    }

    pub(super) fn publish(&self, view: View) {
        self.0.view.store(Arc::new(view));
    }

    /// The node's state, as of a moment ago.
    pub(super) fn state(&self) -> State {
        self.0.state.borrow().clone()
    }

    pub(super) fn publish_state(&self, state: State) {
        self.0.state.send_replace(state);
    }

    /// Waits until the state is as `is_wanted` says, for at most `within`; whether it is.
    pub(super) async fn wait_for_state(&self, within: Duration, is_wanted: impl Fn(&State) -> bool) -> bool {
        let mut states = self.0.state.subscribe();
        tokio::time::timeout(within, states.wait_for(is_wanted)).await.is_ok_and(|state| state.is_ok())
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.0.connections
    }

    pub(super) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.0.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives the node what came from the network, `bytes` long; waits while too much is waiting already.
    pub(super) async fn give(&self, input: Input, bytes: usize) -> Result<(), Stopped> {
        let permits = u32::try_from(1 + bytes / PERMIT_BYTES).unwrap_or(u32::MAX);
        let room = self.0.room.clone().acquire_many_owned(permits).await.map_err(|_| Stopped)?;
        self.0.inputs.send(Queued { input, _room: Some(room) }).map_err(|_| Stopped)
    }

    /// Tells the node what this process itself has to say; never waits. Who calls it bounds how often.
    pub(super) fn tell(&self, input: Input) {
        // A node that stopped needs to be told nothing.
        let _ = self.0.inputs.send(Queued { input, _room: None });
    }

    /// Asks the node and waits for its answer, which always comes: the core gives up after its write timeout.
    pub(super) async fn ask(&self, request: AdminRequest) -> Result<AdminAnswer, AdminError> {
        let stopping = || AdminError::Refused(Stopped.to_string());
        let ticket = self.0.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.tickets().insert(ticket, sender);
        if self.give(Input::Admin { ticket, request }, 0).await.is_err() {
            self.tickets().remove(&ticket);
            return Err(stopping());
        }
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    pub(super) fn answer(&self, ticket: u64, answer: Result<AdminAnswer, AdminError>) {
        if let Some(sender) = self.tickets().remove(&ticket) {
            // Whoever asked may have gone.
            let _ = sender.send(answer);
        }
    }

    /// The node's thread has ended: nobody waits for it any more.
    pub(super) fn stop(&self) {
        self.0.room.close();
        self.tickets().clear();
        self.0.connections.close_all();
    }

    fn tickets(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Result<AdminAnswer, AdminError>>>> {
        // Nothing that could be half done happens under the lock.
        self.0.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("me", &self.0.me).finish_non_exhaustive()
    }
}
