//! The storage nodes that this one was told of. While it is blank it asks them, before it is founded, whether one of them
//! is of a cluster already: then this node has lost its disk, or has another --data, and founding it would split what is
//! there in two.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{papers::Papers, stage::FoundingError};
use crate::{
    namespace::entry::Founding,
    pki::Identity,
    transport::{endpoint, sentence_of},
    types::{Member, NodeId},
    wire::{
        admin::{Phase, Report},
        proto::{self, admin_client::AdminClient},
    },
};

/// How long a neighbour may take to say how it is.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What `--peers` said.
pub(super) struct Neighbours {
    /// Client addresses, this node's own perhaps among them. `None`: it was told nothing; empty: that it has none.
    pub(super) addresses: Option<Vec<String>>,
    pub(super) papers: Arc<Papers>,
}

impl Neighbours {
    /// That the founding is of these neighbours and of nobody else, that none of them is of another one, and that none
    /// takes part in this one already. All of them must answer: whoever is silent may be what is left of the cluster.
    ///
    /// # Errors
    /// Why this node must not be founded.
    pub(super) async fn admit(&self, node: NodeId, founding: &Founding) -> Result<(), FoundingError> {
        let addresses = self.addresses.as_ref().ok_or(FoundingError::NoPeers)?;
        if addresses.is_empty() && founding.nodes.len() > 1 {
            return Err(FoundingError::Alone { nodes: founding.nodes.len() });
        }
        let mut asked = JoinSet::new();
        for address in addresses {
            let (address, identity) = (address.clone(), self.papers.identity());
            asked.spawn(async move {
                let report = tokio::time::timeout(TIMEOUT, ask(&address, &identity)).await;
                (address.clone(), report.unwrap_or_else(|_| Err(format!("{address} does not answer"))))
            });
        }
        for (address, report) in asked.join_all().await {
            match report.map_err(FoundingError::SilentPeer)?.phase {
                Phase::Blank => {}
                Phase::Prepared { founding: other, .. } if other.id == founding.id => {}
                Phase::Prepared { node, founding: other } => {
                    return Err(FoundingError::FoundedPeer { address, peer: Member { founding: other.id, node } });
                }
                // Of this founding too: a node that is blank while others vote has lost what it voted itself.
                Phase::Running(status) => {
                    let peer = Member { founding: status.founding, node: status.id };
                    return Err(FoundingError::FoundedPeer { address, peer });
                }
            }
        }
        if addresses.is_empty() { Ok(()) } else { check_members(node, founding, addresses).await }
    }
}

/// Blank nodes that know of each other are founded together: several `cluster init`, each of one of them, would make as many
/// clusters.
async fn check_members(node: NodeId, founding: &Founding, addresses: &[String]) -> Result<(), FoundingError> {
    let mut places = Vec::new();
    for member in &founding.nodes {
        places.push((member.id, &member.client_address, places_of(&member.client_address).await));
    }
    let mut named = BTreeSet::from([node]);
    for address in addresses {
        let there = places_of(address).await;
        let found = places.iter().find(|(_, known, places)| *known == address || !there.is_disjoint(places));
        let (member, ..) = found.ok_or_else(|| FoundingError::LeftOut(address.clone()))?;
        named.insert(*member);
    }
    match places.iter().find(|(member, ..)| !named.contains(member)) {
        Some((_, address, _)) => Err(FoundingError::Unknown((*address).clone())),
        None => Ok(()),
    }
}

/// What the name leads to. One that leads nowhere is compared as it is written.
async fn places_of(address: &str) -> BTreeSet<SocketAddr> {
    tokio::net::lookup_host(address).await.map(Iterator::collect).unwrap_or_default()
}

async fn ask(address: &str, identity: &Identity) -> Result<Report, String> {
    let endpoint = endpoint(address, identity, None).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| sentence_of(address, &error))?;
    let response = AdminClient::new(channel).status(proto::StatusRequest {}).await;
    let response = response.map_err(|status| sentence_of(address, &status))?;
    Report::try_from(response.into_inner()).map_err(|error| format!("{address}: {error}"))
}
