//! How far a node is on its way into a cluster: blank, prepared, running. An empty disk never founds anything: only
//! `Prepare` does, and only `Begin`, or a peer that has begun, lets a prepared node vote.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::sync::watch;
use tonic::Status;

use super::{ServeError, running::Running};
use crate::{
    limits::VOTERS_MAX,
    namespace::{VolumeOptions, entry::Founding},
    node::{Input, Recovered},
    replica::Replica,
    storage::{self, Identity, OnEvent, Storage, StorageError, StorageEvent},
    types::{ClusterId, FoundingId, LogIndex, Member, NodeId},
    wire::admin::Phase,
};

/// A node's store, open, with what its disk gave back and what its threads report.
pub(super) struct Opened {
    pub(super) storage: Storage,
    pub(super) recovered: Recovered,
    pub(super) events: Arc<StoreEvents>,
}

/// Where the store's threads report to.
pub(super) struct StoreEvents {
    /// Nothing is submitted to the store, and so nothing reported, before the node is there.
    running: OnceLock<Running>,
    failed: watch::Sender<Option<StorageError>>,
}

impl StoreEvents {
    fn new() -> Arc<Self> {
        Arc::new(Self { running: OnceLock::new(), failed: watch::Sender::new(None) })
    }

    /// The node that is told from now on.
    pub(super) fn lead_to(&self, running: Running) {
        // A store has one node.
        let _ = self.running.set(running);
    }

    /// Waits until the store has failed.
    pub(super) async fn failure(&self) -> StorageError {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await.map(|failed| failed.clone()) {
            Ok(Some(error)) => error,
            _ => StorageError::Closed,
        }
    }

    fn report(&self, event: StorageEvent) {
        let input = match event {
            StorageEvent::LogPersisted(number) => Input::LogPersisted { number },
            StorageEvent::StatePersisted(index) => Input::StatePersisted { index },
            StorageEvent::Failed(error) => {
                self.failed.send_replace(Some(error));
                return;
            }
        };
        if let Some(running) = self.running.get() {
            running.tell(input);
        }
    }
}

/// What the services share of the way into the cluster.
pub(super) struct Stage {
    cluster: ClusterId,
    /// Which node this is to be; `None` is any.
    expected: Option<NodeId>,
    data: PathBuf,
    place: Mutex<Place>,
    /// Set once, when the node is to take part.
    begun: watch::Sender<bool>,
    running: watch::Sender<Option<Running>>,
}

enum Place {
    Blank,
    /// Someone prepares the node now.
    Preparing,
    Prepared {
        node: NodeId,
        founding: Founding,
        opened: Box<Opened>,
    },
    /// The store was taken by whoever starts the node.
    Begun(Member),
}

impl Place {
    /// Whether the founding is to be written: it may be there already.
    fn takes(&self, node: NodeId, founding: &Founding) -> Result<bool, FoundingError> {
        match self {
            Self::Blank => Ok(true),
            Self::Preparing => Err(FoundingError::Busy),
            Self::Prepared { node: known, founding: same, .. } if *known == node && same == founding => Ok(false),
            Self::Prepared { node: known, .. } => Err(FoundingError::Other { node: *known }),
            Self::Begun(member) => Err(FoundingError::Used(*member)),
        }
    }
}

/// Why a node could not be founded.
#[derive(Debug, thiserror::Error)]
pub(super) enum FoundingError {
    #[error("this node is blank and waits to be founded; `manyfs cluster init` does that")]
    Blank,
    #[error("this node is being prepared by another `cluster init`; let that one finish")]
    Busy,
    #[error("this node is node {} of a cluster already, founding {}; `cluster init` is for blank nodes", .0.node, .0.founding)]
    Used(Member),
    #[error(
        "this node was prepared as node {node} for another founding, perhaps by a `cluster init` that is under way: look at \
         `manyfs status`; where nobody goes on with that one and no node runs, wipe its data directory to found it anew"
    )]
    Other { node: NodeId },
    #[error(
        "this node's authority is of cluster {here}, the founding is of cluster {there}; use the same authority file"
    )]
    Cluster { here: ClusterId, there: ClusterId },
    #[error(
        "this node was told with --node to be node {expected}, the founding makes it node {found}; name the nodes in \
         that order"
    )]
    Expected { expected: NodeId, found: NodeId },
    #[error(
        "this node was started without --peers: name the client addresses of the other storage nodes, or none where it is \
         to be the only one; a blank node asks them whether the cluster exists already"
    )]
    NoPeers,
    #[error("this node was told with --peers none to be the only one, the founding has {nodes} nodes; name the others")]
    Alone { nodes: usize },
    #[error(
        "this node was told with --peers of {0}, which the founding leaves out: name all of them in `cluster init --nodes`, or \
         start this node with the --peers of the cluster that it is to be in"
    )]
    LeftOut(String),
    #[error("the founding has the node {0}, of which this node was not told with --peers: name the same nodes in both")]
    Unknown(String),
    #[error("a peer of this blank node cannot be asked whether the cluster exists already: {0}")]
    SilentPeer(String),
    #[error(
        "this node is blank, but its peer {address} is node {} of founding {} already: this node has lost its disk or has \
         another --data, and would be a second cluster", .peer.node, .peer.founding
    )]
    FoundedPeer { address: String, peer: Member },
    #[error("the founding makes no sense: {0}")]
    Senseless(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the node is stopping")]
    Stopping,
}

impl Stage {
    /// Looks at the data directory, and opens the store if there is one.
    ///
    /// # Errors
    /// What is wrong with the directory; nothing was changed.
    pub(super) fn find(cluster: ClusterId, expected: Option<NodeId>, data: PathBuf) -> Result<Self, ServeError> {
        let stage = Self {
            cluster,
            expected,
            data,
            place: Mutex::new(Place::Blank),
            begun: watch::Sender::new(false),
            running: watch::Sender::new(None),
        };
        if let Some(identity) = storage::inspect_identity(&stage.data)? {
            identity.expect(&stage.data, Some(cluster), expected)?;
            let opened = stage.open()?;
            let has_begun = has_begun(&opened.recovered);
            stage.settle(identity, opened);
            if has_begun {
                stage.begun.send_replace(true);
            }
        }
        Ok(stage)
    }

    pub(super) const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Which node this is, once it is one.
    pub(super) fn member(&self) -> Option<Member> {
        match &*self.place() {
            Place::Blank | Place::Preparing => None,
            Place::Prepared { node, founding, .. } => Some(Member { founding: founding.id, node: *node }),
            Place::Begun(member) => Some(*member),
        }
    }

    /// What to report of a node that does not run.
    pub(super) fn phase(&self) -> Phase {
        match &*self.place() {
            Place::Prepared { node, founding, .. } => Phase::Prepared { node: *node, founding: founding.clone() },
            _ => Phase::Blank,
        }
    }

    /// The node, where it is to take part: a node that is still on its way is waited for, because it is neither blank
    /// nor prepared. `None` before it is begun.
    pub(super) async fn running_if_begun(&self) -> Result<Option<Running>, FoundingError> {
        let begun = *self.begun.borrow();
        if begun { self.wait_until_running().await.map(Some) } else { Ok(None) }
    }

    /// The node that takes part, for services that need one.
    pub(super) fn running(&self) -> Result<Running, Status> {
        self.running.borrow().clone().ok_or_else(|| {
            Status::unavailable(match self.phase() {
                _ if *self.begun.borrow() => "this node is starting".to_owned(),
                Phase::Prepared { .. } => {
                    "this node waits until `manyfs cluster init` has prepared the others".to_owned()
                }
                _ => FoundingError::Blank.to_string(),
            })
        })
    }

    /// Whether `prepare` would be done. True: it is still to be done.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn can_prepare(&self, node: NodeId, founding: &Founding) -> Result<bool, FoundingError> {
        check(self.cluster, node, founding)?;
        if let Some(expected) = self.expected.filter(|expected| *expected != node) {
            return Err(FoundingError::Expected { expected, found: node });
        }
        self.place().takes(node, founding)
    }

    /// Writes the founding. Blocks on the disk. The same again is a success.
    ///
    /// # Errors
    /// Why not; nothing was changed then.
    pub(super) fn prepare(&self, node: NodeId, founding: Founding) -> Result<(), FoundingError> {
        self.can_prepare(node, &founding)?;
        {
            let mut place = self.place();
            if !place.takes(node, &founding)? {
                return Ok(());
            }
            *place = Place::Preparing;
        }
        let voters: Vec<NodeId> = founding.nodes.iter().map(|info| info.id).collect();
        let opened = storage::create(&self.data, &founding, node, &Replica::membership_of(&voters))
            .map_err(FoundingError::from)
            .and_then(|()| self.open().map_err(FoundingError::from));
        match opened {
            Ok(opened) => {
                *self.place() = Place::Prepared { node, founding, opened: Box::new(opened) };
                Ok(())
            }
            Err(error) => {
                *self.place() = Place::Blank;
                Err(error)
            }
        }
    }

    /// Lets a node that was prepared for this founding take part; a success where it does already.
    ///
    /// # Errors
    /// `Blank`, `Busy`, or `Other` and `Used` where it is of another founding.
    pub(super) fn begin(&self, id: FoundingId) -> Result<(), FoundingError> {
        match &*self.place() {
            Place::Blank => return Err(FoundingError::Blank),
            Place::Preparing => return Err(FoundingError::Busy),
            Place::Prepared { node, founding, .. } if founding.id != id => {
                return Err(FoundingError::Other { node: *node });
            }
            Place::Begun(member) if member.founding != id => return Err(FoundingError::Used(*member)),
            Place::Prepared { .. } | Place::Begun(_) => {}
        }
        self.begun.send_replace(true);
        Ok(())
    }

    /// Waits for `begin` and takes the store. For the one who starts the node.
    pub(super) async fn wait_until_begun(&self) -> Option<(Member, Opened)> {
        self.begun.subscribe().wait_for(|begun| *begun).await.ok()?;
        let mut place = self.place();
        match std::mem::replace(&mut *place, Place::Blank) {
            Place::Prepared { node, founding, opened } => {
                let member = Member { founding: founding.id, node };
                *place = Place::Begun(member);
                Some((member, *opened))
            }
            other => {
                *place = other;
                None
            }
        }
    }

    pub(super) fn set_running(&self, running: Running) {
        self.running.send_replace(Some(running));
    }

    /// Waits until the node that was begun runs.
    pub(super) async fn wait_until_running(&self) -> Result<Running, FoundingError> {
        let mut running = self.running.subscribe();
        let running = running.wait_for(Option::is_some).await.map_err(|_| FoundingError::Stopping)?;
        running.clone().ok_or(FoundingError::Stopping)
    }

    fn open(&self) -> Result<Opened, StorageError> {
        let events = StoreEvents::new();
        let listener = events.clone();
        let on_event: OnEvent = Box::new(move |event| listener.report(event));
        let (storage, recovered) = storage::open(&self.data, on_event)?;
        Ok(Opened { storage, recovered, events })
    }

    fn settle(&self, Identity { founding: id, node }: Identity, opened: Opened) {
        let founding = founding_of(id, &opened.recovered);
        *self.place() = Place::Prepared { node, founding, opened: Box::new(opened) };
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        // Every change is one assignment.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the node has taken part before: it has voted or has entries, or has no peer to wait for.
fn has_begun(recovered: &Recovered) -> bool {
    recovered.hard_state.is_some()
        || !recovered.entries.is_empty()
        || recovered.state_index > LogIndex(1)
        || recovered.state.nodes().count() == 1
}

/// The founding that a prepared node's state was made from.
fn founding_of(id: FoundingId, recovered: &Recovered) -> Founding {
    let state = &recovered.state;
    Founding {
        id,
        nodes: state.nodes().cloned().collect(),
        stamp: state.last_stamp(),
        main: state.volumes().next().map_or_else(VolumeOptions::default, |volume| *volume.options()),
    }
}

fn check(cluster: ClusterId, node: NodeId, founding: &Founding) -> Result<(), FoundingError> {
    if founding.id.cluster != cluster {
        return Err(FoundingError::Cluster { here: cluster, there: founding.id.cluster });
    }
    let count = founding.nodes.len();
    if count.is_multiple_of(2) || count > VOTERS_MAX {
        return Err(FoundingError::Senseless(format!("a cluster begins with 1, 3, 5 or 7 nodes, not {count}")));
    }
    // Identities from 1 on, in order: also proves that none is there twice, and that `State` lists them as given.
    let in_order = founding.nodes.iter().enumerate().all(|(at, info)| info.id.0 == at as u64 + 1);
    if !in_order || !founding.nodes.iter().any(|info| info.id == node) {
        return Err(FoundingError::Senseless(format!(
            "its nodes are not 1 to {count}, or node {node} is not among them"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        namespace::NodeInfo,
        types::{FoundingNumber, Stamp},
    };

    const FOUNDING: FoundingId = FoundingId { cluster: ClusterId(7), number: FoundingNumber(8) };

    fn founding() -> Founding {
        let node =
            NodeInfo { id: NodeId(1), peer_address: "a:1".to_owned(), client_address: "a:2".to_owned(), level_max: 1 };
        Founding { id: FOUNDING, nodes: vec![node], stamp: Stamp(1), main: Default::default() }
    }

    #[test]
    fn a_node_that_is_to_be_another_is_not_founded() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::find(ClusterId(7), Some(NodeId(2)), dir.path().join("data")).unwrap();
        let refused = stage.prepare(NodeId(1), founding()).unwrap_err();
        assert!(matches!(refused, FoundingError::Expected { .. }), "{refused}");
        assert!(!dir.path().join("data").exists());
    }

    /// `manyfs demo` was started again on nodes that were opening their stores: they were taken for blank ones, and the
    /// demo ended because they refused to be founded anew.
    #[tokio::test]
    async fn a_node_on_its_way_is_waited_for_and_not_reported_as_blank() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::find(ClusterId(7), None, dir.path().join("data")).unwrap();
        assert!(stage.running_if_begun().await.unwrap().is_none(), "a blank node has nothing to wait for");
        stage.prepare(NodeId(1), founding()).unwrap();
        stage.begin(FOUNDING).unwrap();
        let _store = stage.wait_until_begun().await.unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(50), stage.running_if_begun()).await;
        assert!(waited.is_err(), "it was begun and does not run yet, so there is nothing true to report");
    }
}
