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
    client::transport::{endpoint, sentence_of},
    namespace::{VolumeOptions, entry::Founding},
    node::AdminError,
    pki::{Authority, Identity},
    types::NodeId,
    wire::{
        admin::{Report, change_outcome},
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
    DeleteVolume { name: String },
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
            if let Ok(Report { phase: crate::wire::admin::Phase::Running(status), .. }) = &answer.report {
                for peer in &status.peers {
                    let address = &peer.node.client_address;
                    let answered =
                        answers.iter().any(|answer| answer.address == *address || answer.node() == Some(peer.node.id));
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

    pub(super) async fn prepare(&self, address: &str, founding: &Founding, node: NodeId) -> Result<(), Failure> {
        let request = proto::PrepareRequest { founding: Some(founding.clone().into()), node: node.0 };
        let mut client = connect(&self.identity, address).await?;
        client.prepare(request).await.map_err(|status| sentence_of(address, &status))?;
        Ok(())
    }

    pub(super) async fn begin(&self, address: &str) -> Result<(), Failure> {
        let mut client = connect(&self.identity, address).await?;
        client.begin(proto::BeginRequest {}).await.map_err(|status| sentence_of(address, &status))?;
        Ok(())
    }

    /// Has all nodes that can be reached verify what they hold; their addresses.
    pub(super) async fn scrub(&self) -> Result<Vec<String>, Failure> {
        let mut begun = Vec::new();
        for answer in self.ask_all().await {
            let address = answer.address;
            answer.report.map_err(|reason| format!("{address} does not answer: {reason}"))?;
            let mut client = connect(&self.identity, &address).await?;
            client.scrub(proto::ScrubRequest {}).await.map_err(|status| sentence_of(&address, &status))?;
            begun.push(address);
        }
        Ok(begun)
    }

    /// Has the leader make the change, wherever it is. Waits a little for one to be elected.
    pub(super) async fn change(&self, change: &Change) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + LEADER_WAIT;
        let mut reasons = Vec::new();
        loop {
            reasons.clear();
            let mut next = self.servers.clone();
            next.reverse();
            let mut asked: Vec<String> = Vec::new();
            while let Some(address) = next.pop() {
                if asked.contains(&address) {
                    continue;
                }
                match self.change_at(&address, change).await {
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

    async fn change_at(&self, address: &str, change: &Change) -> Result<Result<(), AdminError>, Failed> {
        let mut client = connect(&self.identity, address).await.map_err(Failed::before)?;
        let change = change.clone();
        let response = tokio::time::timeout(CHANGE_TIMEOUT, async {
            match change {
                Change::CreateVolume { name, options } => {
                    client.create_volume(proto::CreateVolumeRequest { name, options: Some(options.into()) }).await
                }
                Change::DeleteVolume { name } => client.delete_volume(proto::DeleteVolumeRequest { name }).await,
                Change::TransferLeader { to } => {
                    client.transfer_leader(proto::TransferLeaderRequest { to: to.map(|node| node.0) }).await
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
    /// The identity of the node that answered.
    pub(super) fn node(&self) -> Option<NodeId> {
        use crate::wire::admin::Phase;
        match &self.report.as_ref().ok()?.phase {
            Phase::Blank => None,
            Phase::Prepared { node, .. } => Some(*node),
            Phase::Running(status) => Some(status.id),
        }
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
    let channel = endpoint(address, identity)?.connect().await.map_err(|error| sentence_of(address, &error))?;
    Ok(AdminClient::new(channel))
}

async fn status(identity: &Identity, channels: &Channels, address: &str) -> Result<Report, String> {
    let channels = || channels.lock().unwrap_or_else(PoisonError::into_inner);
    let standing = channels().remove(address);
    let asked = tokio::time::timeout(STATUS_TIMEOUT, async {
        let channel = match standing {
            Some(channel) => channel,
            None => {
                let endpoint = endpoint(address, identity).map_err(|error| error.to_string())?;
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
