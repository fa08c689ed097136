//! Talking to storage nodes as an administrator.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};

use super::{Failure, address};
use crate::{
    namespace::{NodeInfo, QuotaChanges, VolumeOptions, entry::Founding},
    node::{AdminError, NodeStatus},
    pki::{Authority, Identity},
    transport::{endpoint, sentence_of},
    types::{FoundingId, NodeId, VolumeId},
    wire::{
        admin::{Phase, Report, change_outcome},
        founding_to_bytes,
        proto::{self, admin_client::AdminClient},
    },
};

/// How long a node may take to say how it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a change may take; the cluster itself gives up earlier.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(40);
/// How long a leader is looked for while none is known.
const LEADER_WAIT: Duration = Duration::from_secs(10);
const LEADER_PAUSE: Duration = Duration::from_millis(200);

/// Which cluster a command is for.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Target {
    /// The cluster's authority file, made by `manyfs cluster authority`.
    #[arg(long, env = "MANYFS_AUTHORITY", value_name = "FILE")]
    pub(super) authority: Option<PathBuf>,
    /// Storage nodes, separated by commas: host or host:port [default port: 7440]
    #[arg(long, env = "MANYFS_SERVERS", value_name = "HOSTS", value_delimiter = ',', value_parser = address::with_port)]
    pub(super) servers: Vec<String>,
    /// The directory of a `manyfs demo`, in place of the two above.
    #[arg(long, env = "MANYFS_DIR", value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
}

/// An administrator's way to the nodes of one cluster.
pub(super) struct Administrator {
    identity: Identity,
    servers: Vec<String>,
    /// Connections that stand, by address: whoever asks again and again needs no new handshake.
    channels: Channels,
}

type Channels = Arc<Mutex<BTreeMap<String, Channel>>>;

/// What a node said of itself, or why it said nothing.
pub(super) struct Answer {
    pub(super) address: String,
    pub(super) report: Result<Report, String>,
}

/// A change that the leader can make.
#[derive(Clone)]
pub(super) enum Change {
    CreateVolume { name: String, options: VolumeOptions },
    DeleteVolume { name: String, force: bool },
    SetQuotas { name: String, changes: QuotaChanges },
    TransferLeader { to: Option<NodeId> },
}

impl Administrator {
    pub(super) fn new(authority: &Authority, servers: Vec<String>) -> Result<Self, Failure> {
        Ok(Self { identity: authority.issue_admin()?, servers, channels: Channels::default() })
    }

    /// Asks all known nodes how they are, those too that only the others know of.
    pub(super) async fn ask_all(&self) -> Vec<Answer> {
        let mut answers = self.ask(self.servers.clone()).await;
        let mut others = Vec::new();
        for answer in &answers {
            if let Some(status) = answer.running() {
                for peer in &status.peers {
                    let address = &peer.node.client_address;
                    // One that answered at another node's address may be at its own as well.
                    let is_it = |other: &Answer| {
                        (other.founding(), other.node()) == (Some(status.founding), Some(peer.node.id))
                            && answer.node_at(&other.address).is_none_or(|meant| meant == peer.node.id)
                    };
                    let answered = answers.iter().any(|other| other.address == *address || is_it(other));
                    if !answered && !others.contains(address) {
                        others.push(address.clone());
                    }
                }
            }
        }
        answers.extend(self.ask(others).await);
        answers
    }

    /// Asks these nodes, all at the same time; the answers are in the order of the addresses.
    pub(super) async fn ask(&self, addresses: Vec<String>) -> Vec<Answer> {
        let mut tasks = JoinSet::new();
        for (at, address) in addresses.iter().cloned().enumerate() {
            let (identity, channels) = (self.identity.clone(), self.channels.clone());
            tasks.spawn(async move { (at, status(&identity, &channels, &address).await) });
        }
        let mut reports = tasks.join_all().await;
        reports.sort_by_key(|(at, _)| *at);
        addresses.into_iter().zip(reports).map(|(address, (_, report))| Answer { address, report }).collect()
    }

    /// Writes the founding on the node; with `only_ask` it is only asked whether it would take it.
    pub(super) async fn prepare(
        &self,
        address: &str,
        founding: &Founding,
        node: NodeId,
        only_ask: bool,
    ) -> Result<(), Failure> {
        let request = proto::PrepareRequest { founding: Some(founding.clone().into()), node: node.0, only_ask };
        let mut client = connect(&self.identity, address).await?;
        client.prepare(request).await.map_err(|status| sentence_of(address, &status))?;
        Ok(())
    }

    pub(super) async fn begin(&self, address: &str, founding: FoundingId) -> Result<(), Failure> {
        let mut client = connect(&self.identity, address).await?;
        client
            .begin(proto::BeginRequest { founding: founding_to_bytes(founding) })
            .await
            .map_err(|status| sentence_of(address, &status))?;
        Ok(())
    }

    /// Has all nodes that can be reached verify what they hold: their addresses, and why others cannot.
    pub(super) async fn scrub(&self) -> (Vec<String>, Vec<String>) {
        let (mut begun, mut problems) = (Vec::new(), Vec::new());
        for answer in self.ask_all().await {
            let asked = match answer.report {
                Ok(_) => self.scrub_at(&answer.address).await,
                Err(reason) => Err(reason.into()),
            };
            match asked {
                Ok(()) => begun.push(answer.address),
                Err(failure) => problems.push(failure.to_string()),
            }
        }
        (begun, problems)
    }

    async fn scrub_at(&self, address: &str) -> Result<(), Failure> {
        let mut client = connect(&self.identity, address).await?;
        client.scrub(proto::ScrubRequest {}).await.map_err(|status| sentence_of(address, &status))?;
        Ok(())
    }

    /// The founding that these nodes are of, and the number of the volume of this name, as the node says that is furthest.
    /// Waits a little for a leader to be elected.
    pub(super) async fn volume(&self, name: &str) -> Result<(FoundingId, VolumeId), Failure> {
        let deadline = tokio::time::Instant::now() + LEADER_WAIT;
        loop {
            let answers = self.ask_all().await;
            // Those that were named; at an address that only they know another may answer by now.
            let founding = one_founding(&answers[..self.servers.len()])?;
            let knows = |status: &&NodeStatus| Some(status.founding) == founding && status.leader.is_some();
            let running = answers.iter().filter_map(Answer::running).filter(knows);
            match (founding, running.max_by_key(|status| status.applied)) {
                (Some(founding), Some(status)) => {
                    return match status.volumes.iter().find(|volume| volume.name == name) {
                        Some(volume) => Ok((founding, volume.id)),
                        None => Err(format!(
                            "the cluster has no volume {name}; `manyfs volume create {name}` makes it, nothing was changed"
                        )
                        .into()),
                    };
                }
                _ if tokio::time::Instant::now() >= deadline => {
                    let reason = |answer: &Answer| match answer.report.as_ref().map(|report| &report.phase) {
                        Ok(Phase::Running(_)) => format!("{} knows no leader", answer.address),
                        Ok(_) => format!("{} is not founded (`manyfs cluster init`)", answer.address),
                        Err(reason) => reason.clone(),
                    };
                    let reasons: Vec<_> = answers.iter().map(reason).collect();
                    return Err(format!("no storage node can say which volume that is: {}", reasons.join("; ")).into());
                }
                _ => tokio::time::sleep(LEADER_PAUSE).await,
            }
        }
    }

    /// Has the leader make the change, wherever it is. Waits a little for one to be elected.
    pub(super) async fn change(&self, change: &Change) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + LEADER_WAIT;
        let mut reasons = Vec::new();
        loop {
            reasons.clear();
            let founding = one_founding(&self.ask(self.servers.clone()).await)?;
            let mut next = self.servers.clone();
            next.reverse();
            let mut asked: Vec<String> = Vec::new();
            while let Some(address) = next.pop() {
                if asked.contains(&address) {
                    continue;
                }
                match self.change_at(&address, change, founding).await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(AdminError::NotLeader { leader })) => {
                        reasons.push(format!("{address} knows no leader"));
                        // Where the leader is said to be is asked next.
                        next.extend(leader);
                    }
                    Ok(Err(refusal)) => return Err(refusal.to_string().into()),
                    // Whether it was carried out is open: asking another could do it twice.
                    Err(failed) if failed.is_open => return Err(failed.sentence.into()),
                    Err(failed) => reasons.push(failed.sentence),
                }
                asked.push(address);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("no leader was found; nothing was changed: {}", reasons.join("; ")).into());
            }
            tokio::time::sleep(LEADER_PAUSE).await;
        }
    }

    async fn change_at(
        &self,
        address: &str,
        change: &Change,
        founding: Option<FoundingId>,
    ) -> Result<Result<(), AdminError>, Failed> {
        let founding = founding.map(founding_to_bytes).unwrap_or_default();
        let mut client = connect(&self.identity, address).await.map_err(Failed::before)?;
        let change = change.clone();
        let response = tokio::time::timeout(CHANGE_TIMEOUT, async {
            match change {
                Change::CreateVolume { name, options } => {
                    let options = Some(options.into());
                    client.create_volume(proto::CreateVolumeRequest { name, options, founding }).await
                }
                Change::DeleteVolume { name, force } => {
                    client.delete_volume(proto::DeleteVolumeRequest { name, force, founding }).await
                }
                Change::SetQuotas { name, changes } => {
                    client.set_quotas(proto::SetQuotasRequest { name, founding, ..changes.into() }).await
                }
                Change::TransferLeader { to } => {
                    let to = to.map(|node| node.0);
                    client.transfer_leader(proto::TransferLeaderRequest { to, founding }).await
                }
            }
        });
        let response = match response.await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(Failed::of(address, &status)),
            Err(_) => {
                let sentence = format!("{address} did not answer in time; look whether the change was made");
                return Err(Failed { sentence, is_open: true });
            }
        };
        change_outcome(response).map_err(|error| Failed { sentence: format!("{address}: {error}"), is_open: true })
    }
}

impl Answer {
    /// What it says of itself, where it takes part.
    pub(super) fn running(&self) -> Option<&NodeStatus> {
        match &self.report.as_ref().ok()?.phase {
            Phase::Running(status) => Some(status),
            _ => None,
        }
    }

    /// The founding that the node is of.
    pub(super) fn founding(&self) -> Option<FoundingId> {
        match &self.report.as_ref().ok()?.phase {
            Phase::Blank => None,
            Phase::Prepared { founding, .. } => Some(founding.id),
            Phase::Running(status) => Some(status.founding),
        }
    }

    /// The node that the cluster has at this address, as the one that answered knows it.
    pub(super) fn node_at(&self, address: &str) -> Option<NodeId> {
        let at = |node: &NodeInfo| (node.client_address == address).then_some(node.id);
        match &self.report.as_ref().ok()?.phase {
            Phase::Blank => None,
            Phase::Prepared { founding, .. } => founding.nodes.iter().find_map(at),
            Phase::Running(status) => status.peers.iter().find_map(|peer| at(&peer.node)),
        }
    }

    /// The identity of the node that answered.
    pub(super) fn node(&self) -> Option<NodeId> {
        match &self.report.as_ref().ok()?.phase {
            Phase::Blank => None,
            Phase::Prepared { node, .. } => Some(*node),
            Phase::Running(status) => Some(status.id),
        }
    }
}

/// The one founding that these nodes are of, as far as they are of any.
fn one_founding(answers: &[Answer]) -> Result<Option<FoundingId>, Failure> {
    let mut founded = answers.iter().filter_map(|answer| Some((answer, answer.founding()?)));
    let Some((first, founding)) = founded.next() else { return Ok(None) };
    match founded.find(|(_, other)| *other != founding) {
        Some((stranger, other)) => Err(format!(
            "{} is of founding {founding} and {} of founding {other}: these are two clusters with one authority; name \
             the servers of one of them, nothing was changed",
            first.address, stranger.address
        )
        .into()),
        None => Ok(Some(founding)),
    }
}

/// A change that was not answered.
struct Failed {
    sentence: String,
    /// It may have been made.
    is_open: bool,
}

impl Failed {
    fn before(failure: Failure) -> Self {
        Self { sentence: failure.to_string(), is_open: false }
    }

    fn of(address: &str, status: &Status) -> Self {
        // Refused before anything was tried; everything else may have broken off behind the change.
        let untouched = matches!(status.code(), Code::Unavailable | Code::PermissionDenied | Code::InvalidArgument)
            && std::error::Error::source(status).is_none();
        Self { sentence: sentence_of(address, status), is_open: !untouched }
    }
}

async fn connect(identity: &Identity, address: &str) -> Result<AdminClient<Channel>, Failure> {
    let channel = endpoint(address, identity, None)?.connect().await.map_err(|error| sentence_of(address, &error))?;
    Ok(AdminClient::new(channel))
}

async fn status(identity: &Identity, channels: &Channels, address: &str) -> Result<Report, String> {
    let channels = || channels.lock().unwrap_or_else(PoisonError::into_inner);
    let standing = channels().remove(address);
    let asked = tokio::time::timeout(STATUS_TIMEOUT, async {
        let channel = match standing {
            Some(channel) => channel,
            None => {
                let endpoint = endpoint(address, identity, None).map_err(|error| error.to_string())?;
                endpoint.connect().await.map_err(|error| sentence_of(address, &error))?
            }
        };
        let response = AdminClient::new(channel.clone()).status(proto::StatusRequest {}).await;
        let response = response.map_err(|status| sentence_of(address, &status))?;
        // Kept only while it is good.
        channels().insert(address.to_owned(), channel);
        Report::try_from(response.into_inner()).map_err(|error| format!("{address}: {error}"))
    });
    asked.await.unwrap_or_else(|_| Err(format!("{address} does not answer")))
}
