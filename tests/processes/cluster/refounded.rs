//! A second founding with the authority of the first, tried in every state of the first: a node that lost its disk is blank,
//! and `cluster init` on it once made a second cluster with the same id, which ended every live mount.

use std::fs;

use manyfs::{
    limits::{PROTOCOL_MAX, PROTOCOL_MIN},
    message::mount::{ProtocolRange, Refusal, ToMount},
    namespace::{Founding, NodeInfo, VolumeOptions},
    node::PeerHello,
    pki::{Authority, Identity},
    transport::endpoint,
    types::{FoundingId, FoundingNumber, Member, NodeId},
    wire::{
        founding_to_bytes,
        peer::PeerFrame,
        proto::{self, admin_client::AdminClient, peer_client::PeerClient},
    },
};
use serde_json::Value;
use tonic::{Code, Status};

use super::Caller;
use crate::support::{Cluster, path, refuse, succeed, wait_for};

/// `cluster init` of these nodes.
fn init<'a>(cluster: &'a Cluster, nodes: &'a str) -> [&'a str; 6] {
    ["cluster", "init", "--authority", path(&cluster.authority), "--nodes", nodes]
}

fn client(cluster: &Cluster, node: usize) -> String {
    cluster.nodes[node].client.clone()
}

/// What the node says of itself, by status.
fn state(cluster: &Cluster, node: usize) -> Option<String> {
    Some(cluster.status()?["nodes"][node]["state"].as_str()?.to_owned())
}

/// Node 3 has lost its disk, and is started with these peers.
fn lose_disk(cluster: &mut Cluster, peers: &str) {
    let node = &mut cluster.nodes[2];
    node.kill();
    if node.data.exists() {
        fs::remove_dir_all(&node.data).expect("deleted");
    }
    node.peers = peers.to_owned();
    node.start();
    let address = client(cluster, 2);
    wait_for("the blank node to answer", || {
        let status = status_of(cluster, &address)?;
        (status["nodes"][0]["state"] == "blank").then_some(())
    });
}

/// `status` of one node alone.
fn status_of(cluster: &Cluster, server: &str) -> Option<Value> {
    let output = crate::support::run(&cluster.arguments(&["status", "--json"], server));
    output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("one line of JSON"))
}

fn founding_of(cluster: &Cluster) -> FoundingId {
    cluster.credential("main", &[]).grant.founding
}

#[test]
fn no_second_cluster_is_founded_with_the_authority_of_the_first() {
    let mut cluster = Cluster::founded(3);
    let all = cluster.servers();
    let peers = cluster.nodes[2].peers.clone();
    let founding = founding_of(&cluster);
    let (one, two, three) = (client(&cluster, 0), client(&cluster, 1), client(&cluster, 2));

    // All are up: the same again is a success, anything else is refused.
    succeed(&init(&cluster, &all));
    for nodes in [&one, &two, &three] {
        let sentence = refuse(&init(&cluster, nodes));
        assert!(sentence.contains("of a cluster of 3 already"), "{sentence}");
    }
    let sentence = refuse(&init(&cluster, &format!("{two},{one},{three}")));
    assert!(sentence.contains("is node 2 of a cluster of 3 already"), "{sentence}");

    // One disk is lost, the others serve: neither alone nor with the others, in whatever order.
    lose_disk(&mut cluster, &peers);
    let sentence = refuse(&init(&cluster, &three));
    assert!(sentence.contains("is blank, but its peer") && sentence.contains("nothing was changed"), "{sentence}");
    for nodes in [all.clone(), format!("{three},{one},{two}"), format!("{one},{three},{two}")] {
        let sentence = refuse(&init(&cluster, &nodes));
        assert!(sentence.contains("nothing was changed"), "{sentence}");
    }
    // With another blank node, which is not left half founded either.
    let mut fourth = crate::support::Node::new(cluster.dir.path(), "node-4", &cluster.authority);
    let mut fifth = crate::support::Node::new(cluster.dir.path(), "node-5", &cluster.authority);
    for node in [&mut fourth, &mut fifth] {
        node.peers = peers.clone();
        node.start();
    }
    let strangers = format!("{},{},{three}", fourth.client, fifth.client);
    let sentence = wait_for("the blank nodes to answer", || {
        let sentence = refuse(&init(&cluster, &strangers));
        sentence.contains("its peer").then_some(sentence)
    });
    assert!(sentence.contains("nothing was changed"), "{sentence}");
    assert!(!fourth.data.exists() && !fifth.data.exists());

    // The leader is down as well, and then the majority.
    cluster.nodes[0].kill();
    let sentence = refuse(&init(&cluster, &three));
    assert!(sentence.contains("its peer") || sentence.contains("cannot be asked"), "{sentence}");
    cluster.nodes[1].kill();
    let sentence = refuse(&init(&cluster, &three));
    assert!(sentence.contains("cannot be asked whether the cluster exists"), "{sentence}");
    refuse(&init(&cluster, &all));
    for node in &mut cluster.nodes[..2] {
        node.start();
    }

    // A blank node that was not told its peers is not founded at all.
    lose_disk(&mut cluster, "");
    let sentence = refuse(&init(&cluster, &three));
    assert!(sentence.contains("was started without --peers"), "{sentence}");
    // One that was told that it has none is founded with nobody else.
    lose_disk(&mut cluster, "none");
    let sentence = refuse(&init(&cluster, &format!("{three},{},{}", fourth.client, fifth.client)));
    assert!(sentence.contains("--peers none"), "{sentence}");
    assert!(!cluster.nodes[2].data.exists());

    // The first goes on as it was.
    cluster.succeed_at(&["volume", "create", "more"], &format!("{one},{two}"));
    assert_eq!(founding_of(&cluster), founding);
}

#[test]
fn two_clusters_with_one_authority_have_nothing_to_do_with_each_other() {
    let mut cluster = Cluster::founded(3);
    let (one, two, three) = (client(&cluster, 0), client(&cluster, 1), client(&cluster, 2));
    let credential = cluster.credential("main", &[]);
    let both = format!("{one},{two}");

    // Nobody can be stopped who says that the node has no peers.
    lose_disk(&mut cluster, "none");
    succeed(&init(&cluster, &three));
    // It answers a mount of the first cluster with one word, which does not end the mount.
    let caller = Caller::new(&credential);
    match caller.attach(1, &three) {
        Ok(ToMount::Refused { refusal: Refusal::Foreign, reason }) => assert!(reason.contains("founding"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let first = cluster.succeed_at(&["credential", "create", "--out", "-"], &both);
    let second = cluster.succeed_at(&["credential", "create", "--out", "-"], &three);
    let number = |text: &str| text.lines().find(|line| line.starts_with("founding")).expect("a founding").to_owned();
    assert_ne!(number(&first), number(&second));

    // Whoever administers is told, whichever is named first.
    let shown = cluster.status().expect("answers");
    let states: Vec<_> = shown["nodes"].as_array().expect("nodes").iter().map(|node| node["state"].clone()).collect();
    assert!(states.iter().any(|state| state == "foreign"), "{shown}");
    for servers in [format!("{both},{three}"), format!("{three},{both}")] {
        for command in [&["volume", "create", "x"][..], &["credential", "create", "--out", "-"]] {
            let sentence = refuse(&cluster.arguments(command, &servers));
            assert!(sentence.contains("two clusters with one authority"), "{sentence}");
        }
        let sentence = refuse(&init(&cluster, &servers));
        assert!(sentence.contains("nothing was changed"), "{sentence}");
    }

    // The first loses a node for a while, and comes back as it was; no node of one hears the other.
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    wait_for("the first cluster to lead", || {
        let status = status_of(&cluster, &both)?;
        (status["quorum"] == true).then_some(())
    });
    cluster.succeed_at(&["volume", "create", "of-the-first"], &both);
    let listed = cluster.succeed_at(&["volume", "list", "--json"], &three);
    assert!(!listed.contains("of-the-first"), "{listed}");
}

/// One way of talking to a node, past the command line.
struct Admin {
    runtime: tokio::runtime::Runtime,
    authority: Authority,
}

impl Admin {
    fn of(cluster: &Cluster) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
        Self { runtime, authority: Authority::load(&cluster.authority).expect("an authority") }
    }

    fn founding(&self, cluster: &Cluster, number: u128) -> Founding {
        let node = |(id, node): (u64, &crate::support::Node)| NodeInfo {
            id: NodeId(id),
            peer_address: node.peer.clone(),
            client_address: node.client.clone(),
            level_max: 1,
        };
        Founding {
            id: FoundingId { cluster: self.authority.cluster(), number: FoundingNumber(number) },
            nodes: (1..).zip(&cluster.nodes).map(node).collect(),
            stamp: self.authority.created(),
            main: VolumeOptions::default(),
        }
    }

    fn prepare(&self, address: &str, founding: &Founding, node: u64) -> Result<(), Status> {
        let request = proto::PrepareRequest { founding: Some(founding.clone().into()), node, only_ask: false };
        let identity = self.authority.issue_admin().expect("issued");
        self.runtime.block_on(async {
            let channel = endpoint(address, &identity, None).expect("an address").connect().await.expect("it listens");
            AdminClient::new(channel).prepare(request).await.map(drop)
        })
    }

    fn begin(&self, address: &str, founding: FoundingId) -> Result<(), Status> {
        let request = proto::BeginRequest { founding: founding_to_bytes(founding) };
        let identity = self.authority.issue_admin().expect("issued");
        self.runtime.block_on(async {
            let channel = endpoint(address, &identity, None).expect("an address").connect().await.expect("it listens");
            AdminClient::new(channel).begin(request).await.map(drop)
        })
    }

    /// Opens a stream of peers with this certificate, and says who it is; what the node says to that.
    fn greet(&self, address: &str, certificate: Option<Member>, hello: PeerHello) -> Status {
        let identity: Identity = self.authority.issue_storage(certificate).expect("issued");
        self.runtime.block_on(async {
            let channel = endpoint(address, &identity, None).expect("an address").connect().await.expect("it listens");
            let frames = tokio_stream::once(proto::PeerMessage::from(PeerFrame::Hello(hello)));
            PeerClient::new(channel).send(frames).await.map_or_else(|status| status, |_| Status::ok("taken"))
        })
    }
}

#[test]
fn a_founding_that_was_interrupted_goes_on_and_no_other_takes_its_place() {
    let mut cluster = Cluster::blank(3);
    let admin = Admin::of(&cluster);
    let founding = admin.founding(&cluster, 0xf0);
    let all = cluster.servers();
    let (one, two, three) = (client(&cluster, 0), client(&cluster, 1), client(&cluster, 2));
    admin.prepare(&one, &founding, 1).expect("prepared");
    admin.prepare(&one, &founding, 1).expect("the same again");
    let other = admin.founding(&cluster, 0xf1);
    for refused in [admin.prepare(&one, &other, 1), admin.prepare(&one, &founding, 2), admin.prepare(&two, &other, 2)] {
        assert_eq!(refused.expect_err("another founding").code(), Code::FailedPrecondition);
    }
    assert!(!cluster.nodes[1].data.exists());
    let refused = admin.begin(&one, other.id).expect_err("another founding");
    assert_eq!(refused.code(), Code::FailedPrecondition);

    // In another order, or without the third, it is another founding.
    for nodes in [format!("{two},{one},{three}"), format!("{three},{one},{two}")] {
        let sentence = refuse(&init(&cluster, &nodes));
        assert!(sentence.contains("another founding") && sentence.contains("nothing was changed"), "{sentence}");
    }
    for nodes in [&two, &three] {
        let sentence = refuse(&init(&cluster, nodes));
        assert!(sentence.contains("nothing was changed"), "{sentence}");
    }

    // Interrupted once more, with all processes.
    admin.prepare(&two, &founding, 2).expect("prepared");
    for node in &mut cluster.nodes {
        node.kill();
        node.start();
    }
    wait_for("all nodes to answer", || {
        let states: Option<Vec<_>> = (0..3).map(|node| state(&cluster, node)).collect();
        (states? == ["prepared", "prepared", "blank"]).then_some(())
    });
    succeed(&init(&cluster, &all));
    cluster.agreed();
    assert_eq!(founding_of(&cluster), founding.id);
    succeed(&init(&cluster, &all));
}

#[test]
fn a_peer_proves_its_number_and_its_founding() {
    let cluster = Cluster::blank(3);
    let admin = Admin::of(&cluster);
    let founding = admin.founding(&cluster, 0xf0);
    let other = FoundingId { number: FoundingNumber(0xf1), ..founding.id };
    let (one, peer) = (client(&cluster, 0), cluster.nodes[0].peer.clone());
    admin.prepare(&one, &founding, 1).expect("prepared");
    let hello = |founding, from, to| {
        let protocol = ProtocolRange { min: PROTOCOL_MIN, max: PROTOCOL_MAX };
        PeerHello { founding, from: NodeId(from), to: NodeId(to), protocol }
    };
    let member = |founding, node| Some(Member { founding, node: NodeId(node) });
    for (certificate, sent) in [
        // A storage node's certificate once let anyone be any node.
        (member(founding.id, 3), hello(founding.id, 2, 1)),
        (None, hello(founding.id, 2, 1)),
        (member(other, 2), hello(founding.id, 2, 1)),
        // A peer of another founding once had a prepared node begin.
        (member(other, 2), hello(other, 2, 1)),
        (member(founding.id, 2), hello(other, 2, 1)),
        (member(founding.id, 2), hello(founding.id, 2, 3)),
    ] {
        let answer = admin.greet(&peer, certificate, sent);
        assert_eq!(answer.code(), Code::FailedPrecondition, "{certificate:?} {sent:?}: {answer}");
    }
    assert_eq!(state(&cluster, 0).as_deref(), Some("prepared"), "no stranger has a prepared node begin");
    // Its peer does.
    let answer = admin.greet(&peer, member(founding.id, 2), hello(founding.id, 2, 1));
    assert_eq!(answer.code(), Code::Ok, "{answer}");
    // It runs, and waits for a majority to greet it: its peer was this test.
    wait_for("the node to begin", || (state(&cluster, 0)? == "waiting").then_some(()));
}
