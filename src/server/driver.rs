//! The one thread that runs a node's core: inputs in, outputs carried out. It waits for nothing but its queue and, when
//! too much is unwritten, the store.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::mpsc::{UnboundedReceiver, error::TryRecvError};
use tracing::{error, info, warn};

use super::{
    ServeError,
    connections::Sent,
    metrics::NodeMetrics,
    peers::Peers,
    running::{Queued, Running, View},
};
use crate::{
    clock,
    node::{Input, Node, Output},
    replica::Standing,
    storage::Storage,
    types::{LogIndex, NodeId, Term},
};

/// Inputs handled before the view is published and the clock read anew.
const BATCH: usize = 256;

/// Everything the node's outputs reach.
pub(super) struct Driver {
    pub(super) node: Node,
    pub(super) storage: Arc<Storage>,
    pub(super) running: Running,
    pub(super) queue: UnboundedReceiver<Queued>,
    pub(super) peers: Peers,
    pub(super) metrics: NodeMetrics,
    /// Peers to whom a message could not be sent since the node was last told.
    pub(super) lost: BTreeSet<NodeId>,
    pub(super) leader: Option<NodeId>,
    pub(super) published: Option<(LogIndex, Option<NodeId>, Standing)>,
}

/// What ends the thread.
enum End {
    Stopped,
    Failed(ServeError),
}

impl Driver {
    /// Runs until the node has stopped (`Ok`) or cannot go on. Blocks: for a thread of its own.
    ///
    /// # Errors
    /// `Fatal`.
    pub(super) fn run(mut self) -> Result<(), ServeError> {
        // Only timers: nothing else wakes this thread but its queue.
        let timers =
            tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(ServeError::Runtime)?;
        let mut batch = Vec::with_capacity(BATCH);
        let end = loop {
            if let Err(end) = self.carry_out() {
                break end;
            }
            self.publish();
            if let Err(end) = self.next_inputs(&timers, &mut batch) {
                break end;
            }
            batch = self.handle(batch);
        };
        self.running.stop();
        match end {
            End::Stopped => Ok(()),
            End::Failed(error) => Err(error),
        }
    }

    /// Waits for inputs, until the node wants to be woken.
    fn next_inputs(&mut self, timers: &tokio::runtime::Runtime, batch: &mut Vec<Queued>) -> Result<(), End> {
        match self.queue.try_recv() {
            Ok(queued) => batch.push(queued),
            Err(TryRecvError::Disconnected) => return Err(End::Stopped),
            Err(TryRecvError::Empty) => {
                let wait = self.node.poll_timeout().map(|at| at.since(clock::now()));
                let received = timers.block_on(async {
                    match wait {
                        Some(wait) => tokio::time::timeout(wait, self.queue.recv()).await,
                        None => Ok(self.queue.recv().await),
                    }
                });
                match received {
                    Ok(Some(queued)) => batch.push(queued),
                    Ok(None) => return Err(End::Stopped),
                    Err(_elapsed) => return Ok(()),
                }
            }
        }
        while batch.len() < BATCH {
            match self.queue.try_recv() {
                Ok(queued) => batch.push(queued),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Handles the inputs, or the passing of time where there are none; gives the emptied list back.
    fn handle(&mut self, mut batch: Vec<Queued>) -> Vec<Queued> {
        let (now, wall) = clock::now_and_wall();
        self.node.handle(now, Input::WallClock(wall));
        if batch.is_empty() {
            self.node.handle(clock::now(), Input::Tick);
        }
        self.metrics.inputs.inc_by(batch.len() as u64);
        // All of them before outputs are taken: what they bring shares one batch of the log.
        for queued in batch.drain(..) {
            self.node.handle(clock::now(), queued.input);
        }
        batch
    }

    fn carry_out(&mut self) -> Result<(), End> {
        self.take_outputs()?;
        // Each lost peer is named once, and not again for what the node sends it on hearing so: that is lost anyway.
        for peer in std::mem::take(&mut self.lost) {
            self.node.handle(clock::now(), Input::PeerLost { peer });
        }
        self.take_outputs()?;
        self.lost.clear();
        Ok(())
    }

    fn take_outputs(&mut self) -> Result<(), End> {
        while let Some(output) = self.node.poll_output() {
            self.execute(output)?;
        }
        Ok(())
    }

    fn execute(&mut self, output: Output) -> Result<(), End> {
        match output {
            Output::PersistLog(batch) => self.storage.log().submit(batch),
            Output::PersistState(batch) => self.storage.state().submit(batch),
            Output::CompactLog { through, term } => self.storage.log().compact(through, term),
            Output::Peer { to, message } => {
                if !self.peers.send(to, message) {
                    self.lost.insert(to);
                }
            }
            Output::PeerAddress(info) => self.peers.set_address(&info),
            Output::Mount { connection, message } => {
                if self.running.connections().send(connection, message) == Sent::CutOff {
                    warn!("a mount (connection {connection}) does not read what it is sent and was cut off");
                    self.running.tell(Input::MountClosed { connection });
                }
            }
            Output::CloseMount { connection } => {
                self.running.connections().close(connection);
            }
            Output::Admin { ticket, answer } => self.running.answer(ticket, answer),
            Output::Leadership { leader, term } => self.leadership(leader, term),
            Output::Notice(sentence) => info!("{sentence}"),
            Output::Warning(sentence) => warn!("{sentence}"),
            Output::Stopped => return Err(End::Stopped),
            Output::Fatal(sentence) => {
                error!("{sentence}");
                return Err(End::Failed(ServeError::Fatal(sentence)));
            }
        }
        Ok(())
    }

    fn leadership(&mut self, leader: Option<NodeId>, term: Term) {
        self.leader = leader;
        self.metrics.leadership(self.running.node(), leader, term);
        match leader {
            Some(leader) if leader == self.running.node() => info!("this node leads in term {term}"),
            Some(leader) => info!("node {leader} leads in term {term}"),
            None => info!("no leader is known in term {term}"),
        }
    }

    /// Publishes what services look up, when it may have changed.
    fn publish(&mut self) {
        let state = self.node.state();
        let standing = self.node.standing();
        let now = (state.applied(), self.leader, standing);
        self.metrics.published(state.applied(), self.running.connections().count());
        self.metrics.clock(self.node.clock());
        if self.published == Some(now) {
            return;
        }
        self.published = Some(now);
        self.running.publish_state(state.clone());
        self.metrics.standing(standing);
        let view = View {
            leader: self.leader,
            standing,
            nodes: state.nodes().cloned().collect(),
            volumes: state.volumes().map(|volume| (volume.name().to_owned(), volume.id())).collect(),
        };
        if *self.running.view() != view {
            self.running.publish(view);
        }
    }
}
