//! `manyfs cluster`: making the authority, founding, status, handing leadership over.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::{
    Failure,
    address::{self, host_of},
    admin::{Administrator, Answer, Change, Target},
    report::{Format, print},
    runtime,
    status::{self, ClusterView},
    volume::Quotas,
};
use crate::{
    limits::VOTERS_MAX,
    namespace::{NodeInfo, VolumeOptions, entry::Founding, level::LEVELS},
    pki::{self, Authority},
    types::{FoundingId, FoundingNumber, NodeId},
    wire::admin::{Phase, Report},
};

/// How long a leader may take to be elected, or to change.
const LEADER_WAIT: Duration = Duration::from_secs(15);
const LEADER_PAUSE: Duration = Duration::from_millis(100);

/// Make, found, look at and steer a cluster.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Cluster {
    Authority(AuthorityCommand),
    Init(Init),
    Status(status::Status),
    TransferLeader(TransferLeader),
}

/// Make the authority of a new cluster: the file that storage nodes and administrators need.
///
/// Whoever has it can do anything to the cluster. An existing file is never overwritten.
///
/// Example: manyfs cluster authority --out authority.toml
#[derive(Debug, clap::Args)]
pub(super) struct AuthorityCommand {
    /// The file to write, readable for its owner alone; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    format: Format,
}

/// Found the cluster: its storage nodes run and are blank, and begin as one.
///
/// Founds on all of them or can be repeated with the same arguments until it has. Makes the volume `main`, whose root
/// belongs to 33:33 (www-data) with mode 755.
///
/// Example: manyfs cluster init --authority authority.toml --nodes node1,node2,node3
#[derive(Debug, clap::Args)]
pub(super) struct Init {
    /// The cluster's authority file, made by `manyfs cluster authority`.
    #[arg(long, env = "MANYFS_AUTHORITY", value_name = "FILE")]
    authority: PathBuf,
    /// All storage nodes as mounts will reach them, separated by commas: host or host:port [default port: 7440]. One,
    /// three, five or seven; they get the identities 1, 2, 3 … in this order.
    #[arg(long, env = "MANYFS_NODES", value_name = "HOSTS", value_delimiter = ',', required = true,
          value_parser = address::with_port)]
    nodes: Vec<String>,
    /// Of the volume `main`.
    #[command(flatten)]
    quotas: Quotas,
    #[command(flatten)]
    format: Format,
}

/// Hand leadership to another storage node, for maintenance of the one that leads.
///
/// Example: manyfs cluster transfer-leader --authority authority.toml --servers node1,node2,node3 --to 2
#[derive(Debug, clap::Args)]
pub(super) struct TransferLeader {
    #[command(flatten)]
    target: Target,
    /// The node that is to lead [default: whichever is furthest]
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    #[command(flatten)]
    format: Format,
}

impl Cluster {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Authority(command) => command.run(),
            Self::Init(command) => command.run(),
            Self::Status(command) => command.run(),
            Self::TransferLeader(command) => command.run(),
        }
    }
}

impl AuthorityCommand {
    fn run(self) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Made {
            cluster: String,
            authority: PathBuf,
        }
        let authority = Authority::create()?;
        if self.out == Path::new("-") {
            return print(authority.to_text()?.trim_end());
        }
        authority.save(&self.out)?;
        let made = Made { cluster: authority.cluster().to_string(), authority: self.out };
        self.format.print(&made, |made| {
            format!(
                "authority of cluster {} written to {}: keep it secret, copy it to the storage nodes",
                made.cluster,
                made.authority.display()
            )
        })
    }
}

/// What `cluster init` tells.
#[derive(Serialize)]
struct Founded {
    cluster: String,
    /// The node that leads.
    leader: String,
    nodes: Vec<FoundedNode>,
}

#[derive(Serialize)]
struct FoundedNode {
    id: String,
    addr: String,
}

impl Init {
    fn run(self) -> Result<(), Failure> {
        let authority = Authority::load(&self.authority)?;
        let nodes = self.nodes.clone();
        let leader = runtime()?.block_on(found(&authority, nodes, self.quotas))?;
        let founded = Founded {
            cluster: authority.cluster().to_string(),
            leader: leader.to_string(),
            nodes: self
                .nodes
                .into_iter()
                .enumerate()
                .map(|(at, addr)| FoundedNode { id: (at + 1).to_string(), addr })
                .collect(),
        };
        self.format.print(&founded, |founded| {
            format!(
                "cluster {} is founded with {} storage node(s), node {} leads; its volume is main",
                founded.cluster,
                founded.nodes.len(),
                founded.leader
            )
        })
    }
}

impl TransferLeader {
    fn run(self) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Transferred {
            leader: String,
        }
        let to = self.to.map(NodeId);
        let leader = runtime()?.block_on(async {
            let administrator = self.target.administrator()?;
            let before = ClusterView::of(&administrator.ask_all().await, None).leader_id();
            administrator.change(&Change::TransferLeader { to }).await?;
            let is_done = |leader: NodeId| to.map_or(Some(leader) != before, |to| leader == to);
            wait_for_leader(&administrator, is_done).await.ok_or_else(|| {
                Failure::from("leadership did not change: the other node may be behind; look at `manyfs status`")
            })
        })?;
        self.format.print(&Transferred { leader: leader.to_string() }, |done| format!("node {} leads", done.leader))
    }
}

/// Founds the cluster on these nodes, or completes a founding that was interrupted, and waits for a leader.
///
/// # Errors
/// A sentence; nothing was changed unless it says so.
pub(super) async fn found(authority: &Authority, addresses: Vec<String>, quotas: Quotas) -> Result<NodeId, Failure> {
    check_count(&addresses)?;
    let administrator = Administrator::new(authority, addresses.clone())?;
    let answers = administrator.ask(addresses.clone()).await;
    let reports = reports_of(&answers)?;
    let number = number_of(&reports).map_or_else(|| pki::random().map(FoundingNumber), Ok)?;
    let mut founding = founding(authority, number, &addresses, &reports);
    (founding.main.quota_bytes, founding.main.quota_inodes) = (quotas.quota, quotas.quota_inodes);
    let plan = plan(&founding, &addresses, &reports)?;
    let blank = in_order_of_preparation(&addresses, &reports, &plan);
    // All are asked before the first is changed.
    for (node, address) in &blank {
        let asked = administrator.prepare(address, &founding, *node, true).await;
        asked.map_err(|failure| format!("{failure}; nothing was changed"))?;
    }
    for (at, (node, address)) in blank.iter().enumerate() {
        let nothing_yet = at == 0 && blank.len() == plan.len();
        let then = if nothing_yet { "nothing was changed" } else { "repeat `cluster init` when that is mended" };
        let prepared = administrator.prepare(address, &founding, *node, false).await;
        prepared.map_err(|failure| format!("{failure}; {then}"))?;
    }
    for (_, address) in addresses.iter().enumerate().filter(|(at, _)| plan[*at] != Step::Nothing) {
        administrator
            .begin(address, founding.id)
            .await
            .map_err(|failure| format!("{failure}; all nodes are prepared, repeat `cluster init` to begin"))?;
    }
    wait_for_leader(&administrator, |_| true).await.ok_or_else(|| {
        format!(
            "the cluster is founded, but no leader was elected within {} s: can the nodes reach each other's peer \
             ports? Look at `manyfs cluster status`",
            LEADER_WAIT.as_secs()
        )
        .into()
    })
}

/// The first leader that `is_wanted`; `None` where there is none in time.
async fn wait_for_leader(administrator: &Administrator, is_wanted: impl Fn(NodeId) -> bool) -> Option<NodeId> {
    let deadline = tokio::time::Instant::now() + LEADER_WAIT;
    loop {
        let leader = ClusterView::of(&administrator.ask_all().await, None).leader_id();
        if let Some(leader) = leader.filter(|leader| is_wanted(*leader)) {
            return Some(leader);
        }
        if tokio::time::Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(LEADER_PAUSE).await;
    }
}

fn check_count(addresses: &[String]) -> Result<(), Failure> {
    let count = addresses.len();
    if count.is_multiple_of(2) || count > VOTERS_MAX {
        return Err(format!("a cluster begins with 1, 3, 5 or 7 storage nodes, not {count}: change --nodes").into());
    }
    for (at, address) in addresses.iter().enumerate() {
        if addresses[..at].contains(address) {
            return Err(format!("{address} is named twice in --nodes").into());
        }
    }
    Ok(())
}

fn reports_of(answers: &[Answer]) -> Result<Vec<&Report>, Failure> {
    let silent: Vec<_> = answers.iter().filter_map(|answer| answer.report.as_ref().err()).cloned().collect();
    if !silent.is_empty() {
        return Err(format!("nothing was changed, as not all nodes can be asked: {}", silent.join("; ")).into());
    }
    Ok(answers.iter().filter_map(|answer| answer.report.as_ref().ok()).collect())
}

/// What an earlier `cluster init` drew, where it got so far that a node knows it.
fn number_of(reports: &[&Report]) -> Option<FoundingNumber> {
    reports.iter().find_map(|report| match &report.phase {
        Phase::Blank => None,
        Phase::Prepared { founding, .. } => Some(founding.id.number),
        Phase::Running(status) => Some(status.founding.number),
    })
}

/// The same for the same arguments, whenever it is made: so it can be repeated.
fn founding(authority: &Authority, number: FoundingNumber, addresses: &[String], reports: &[&Report]) -> Founding {
    let nodes = addresses.iter().zip(reports).enumerate().map(|(at, (address, report))| {
        let peer = &report.process.peer_address;
        NodeInfo {
            id: NodeId(at as u64 + 1),
            peer_address: if peer.starts_with(':') { format!("{}{peer}", host_of(address)) } else { peer.clone() },
            client_address: address.clone(),
            // A founding is the same whichever programs make it: nodes tell their own when they run.
            level_max: LEVELS[0].0,
        }
    });
    Founding {
        id: FoundingId { cluster: authority.cluster(), number },
        nodes: nodes.collect(),
        stamp: authority.created(),
        main: VolumeOptions::default(),
    }
}

/// What is to be done with a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Prepare,
    Begin,
    Nothing,
}

/// The nodes that are to be prepared. Whoever else founds them at this moment comes to them in the same order, though it may
/// have named them in another: who is first at the first of them goes on, and the others have changed nothing.
fn in_order_of_preparation<'a>(
    addresses: &'a [String],
    reports: &[&Report],
    plan: &[Step],
) -> Vec<(NodeId, &'a String)> {
    let mut blank: Vec<_> = (1..)
        .map(NodeId)
        .zip(addresses)
        .zip(reports.iter().zip(plan))
        .filter(|(_, (_, step))| **step == Step::Prepare)
        .map(|(node, (report, _))| (&report.process.peer_address, node))
        .collect();
    // What they say of themselves is the same to all; in containers it may be no more than a port.
    blank.sort_by_key(|(peer_address, (_, address))| (*peer_address, *address));
    blank.into_iter().map(|(_, node)| node).collect()
}

/// What is left to do, or why this founding cannot be.
fn plan(founding: &Founding, addresses: &[String], reports: &[&Report]) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    for (at, (address, report)) in addresses.iter().zip(reports).enumerate() {
        let meant = NodeId(at as u64 + 1);
        if report.cluster != founding.id.cluster {
            return Err(format!(
                "{address} was given the authority of cluster {}, not of {}; nothing was changed",
                report.cluster, founding.id.cluster
            )
            .into());
        }
        let twin = reports[..at].iter().position(|other| {
            (other.process.pid, &other.process.data) == (report.process.pid, &report.process.data)
                && other.process.peer_address == report.process.peer_address
        });
        if let (Some(twin), Phase::Blank) = (twin, &report.phase) {
            return Err(format!("{} and {address} are the same node; nothing was changed", addresses[twin]).into());
        }
        steps.push(match &report.phase {
            Phase::Blank => Step::Prepare,
            Phase::Prepared { node, founding: other } if *node == meant && other == founding => Step::Begin,
            Phase::Prepared { node, .. } => {
                return Err(format!(
                    "{address} was prepared as node {node} of another founding; give the same --nodes and quotas as then; \
                     where nobody goes on with that one and no node runs, wipe {} there and start it again; nothing was changed",
                    report.process.data
                )
                .into());
            }
            Phase::Running(status) if status.founding != founding.id => {
                return Err(format!(
                    "{address} is of founding {}, others are of founding {}: two clusters with one authority; nothing was \
                     changed",
                    status.founding, founding.id
                )
                .into());
            }
            Phase::Running(status) if status.id == meant && status.peers.len() == founding.nodes.len() => Step::Nothing,
            Phase::Running(status) => {
                return Err(format!(
                    "{address} is node {} of a cluster of {} already; `cluster init` is for blank nodes; nothing was \
                     changed",
                    status.id,
                    status.peers.len()
                )
                .into());
            }
        });
    }
    let blank = steps.iter().position(|step| *step == Step::Prepare);
    if let Some(blank) = blank.filter(|_| steps.contains(&Step::Nothing)) {
        // It may have voted and forgotten it: founding it a second time could undo what the others rely on.
        return Err(format!(
            "{} is blank, but the cluster runs already: the node has lost its disk or has another --data; nothing was \
             changed",
            addresses[blank]
        )
        .into());
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        node::{NodeStatus, PeerStatus},
        types::{ClusterId, LogIndex, Stamp, Term},
        wire::admin::Process,
    };

    const ID: FoundingId = FoundingId { cluster: ClusterId(7), number: FoundingNumber(8) };

    fn report(at: u32, phase: Phase) -> Report {
        let process = Process {
            pid: at,
            data: format!("/data/{at}"),
            start: Vec::new(),
            version: String::new(),
            peer_address: ":7441".to_owned(),
            lacks_descriptors: false,
            scrubbed_ms: None,
            damages: 0,
        };
        Report { cluster: ClusterId(7), phase, process }
    }

    fn three() -> (Founding, Vec<String>) {
        let addresses: Vec<_> = (1..=3).map(|at| format!("node{at}:7440")).collect();
        let nodes = (1..=3).map(|id| NodeInfo {
            id: NodeId(id),
            peer_address: format!("node{id}:7441"),
            client_address: format!("node{id}:7440"),
            level_max: 1,
        });
        let founding = Founding { id: ID, nodes: nodes.collect(), stamp: Stamp(5), main: VolumeOptions::default() };
        (founding, addresses)
    }

    fn running(id: u64, founding: &Founding) -> Phase {
        let peers = founding.nodes.iter().cloned();
        Phase::Running(Box::new(NodeStatus {
            founding: founding.id,
            id: NodeId(id),
            leader: None,
            term: Term(1),
            applied: LogIndex(1),
            committed: LogIndex(1),
            digest: 0,
            peers: peers.map(|node| PeerStatus { node, voter: true, matched: None, reachable: None }).collect(),
            volumes: Vec::new(),
            sessions: Vec::new(),
            short_of_space: false,
            clock: Default::default(),
            standing: Default::default(),
            space: None,
            leaderless_ms: None,
        }))
    }

    fn plan_of(phases: [Phase; 3]) -> Result<Vec<Step>, String> {
        let (founding, addresses) = three();
        let reports: Vec<_> = phases.into_iter().zip(1..).map(|(phase, at)| report(at, phase)).collect();
        let reports: Vec<_> = reports.iter().collect();
        plan(&founding, &addresses, &reports).map_err(|failure| failure.to_string())
    }

    #[test]
    fn blank_nodes_are_prepared_and_an_interrupted_founding_is_completed() {
        let (founding, _) = three();
        let prepared = |id| Phase::Prepared { node: NodeId(id), founding: founding.clone() };
        assert_eq!(plan_of([Phase::Blank, Phase::Blank, Phase::Blank]), Ok(vec![Step::Prepare; 3]));
        assert_eq!(
            plan_of([prepared(1), Phase::Blank, Phase::Blank]),
            Ok(vec![Step::Begin, Step::Prepare, Step::Prepare])
        );
        assert_eq!(
            plan_of([running(1, &founding), prepared(2), running(3, &founding)]),
            Ok(vec![Step::Nothing, Step::Begin, Step::Nothing])
        );
        let all = [running(1, &founding), running(2, &founding), running(3, &founding)];
        assert_eq!(plan_of(all), Ok(vec![Step::Nothing; 3]));
    }

    #[test]
    fn a_node_that_lost_its_disk_is_not_founded_again() {
        let (founding, _) = three();
        let refused = plan_of([running(1, &founding), Phase::Blank, running(3, &founding)]).expect_err("refused");
        assert!(refused.contains("node2:7440 is blank, but the cluster runs already"), "{refused}");
    }

    #[test]
    fn another_founding_and_another_cluster_are_refused() {
        let (mut founding, addresses) = three();
        let refused = plan_of([running(2, &founding), Phase::Blank, Phase::Blank]).expect_err("refused");
        assert!(refused.contains("node 2 of a cluster of 3 already"), "{refused}");
        founding.stamp = Stamp(6);
        let other = Phase::Prepared { node: NodeId(1), founding: founding.clone() };
        let refused = plan_of([other, Phase::Blank, Phase::Blank]).expect_err("refused");
        assert!(refused.contains("another founding"), "{refused}");

        // Founded twice with one authority.
        let (founding, _) = three();
        let second = Founding { id: FoundingId { number: FoundingNumber(9), ..ID }, ..founding.clone() };
        let all = [running(1, &founding), running(2, &founding), running(3, &second)];
        assert!(plan_of(all).expect_err("refused").contains("two clusters with one authority"));

        let mut foreign = report(1, Phase::Blank);
        foreign.cluster = ClusterId(8);
        let refused = plan(&founding, &addresses[..1], &[&foreign]).expect_err("refused").to_string();
        assert!(refused.contains("nothing was changed"), "{refused}");
    }

    #[test]
    fn nodes_are_prepared_in_one_order_however_they_are_named() {
        let mut reports: Vec<_> = (1..=3).map(|at| report(at, Phase::Blank)).collect();
        for (report, host) in reports.iter_mut().zip(["b", "c", "a"]) {
            report.process.peer_address = format!("{host}:7441");
        }
        let addresses: Vec<_> = (1..=3).map(|at| format!("node{at}:7440")).collect();
        let order = |places: [usize; 3], plan: [Step; 3]| -> Vec<(u64, String)> {
            let addresses = places.map(|at| addresses[at].clone());
            let reports = places.map(|at| &reports[at]);
            let order = in_order_of_preparation(&addresses, &reports, &plan);
            order.into_iter().map(|(node, address)| (node.0, address.clone())).collect()
        };
        let named = |nodes: &[(u64, usize)]| -> Vec<(u64, String)> {
            nodes.iter().map(|(node, at)| (*node, addresses[*at].clone())).collect()
        };
        assert_eq!(order([0, 1, 2], [Step::Prepare; 3]), named(&[(3, 2), (1, 0), (2, 1)]));
        assert_eq!(order([2, 1, 0], [Step::Prepare; 3]), named(&[(1, 2), (3, 0), (2, 1)]));
        assert_eq!(order([0, 1, 2], [Step::Begin, Step::Prepare, Step::Prepare]), named(&[(3, 2), (2, 1)]));
    }

    #[test]
    fn one_node_under_two_names_is_refused() {
        let (founding, addresses) = three();
        let twin = report(1, Phase::Blank);
        let refused = plan(&founding, &addresses[..2], &[&twin, &twin]).expect_err("refused").to_string();
        assert!(refused.contains("are the same node"), "{refused}");
    }

    #[test]
    fn a_cluster_has_an_odd_number_of_nodes() {
        let named = |count: usize| (0..count).map(|at| format!("n{at}:1")).collect::<Vec<_>>();
        for count in [1, 3, 5, 7] {
            assert!(check_count(&named(count)).is_ok(), "{count}");
        }
        for count in [0, 2, 4, 6, 8, 9] {
            assert!(check_count(&named(count)).is_err(), "{count}");
        }
        assert!(check_count(&["a:1".to_owned(), "b:1".to_owned(), "a:1".to_owned()]).is_err());
    }
}
