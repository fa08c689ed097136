//! Made-up answers, and what is said of them.

use super::{
    headline::Health,
    report::{ClusterView, NodeState},
    tables,
};
use crate::{
    cli::admin::Answer,
    message::mount::MountPlace,
    namespace::{NodeInfo, VolumeOptions, entry::Founding},
    node::{ClockStatus, NodeStatus, PeerStatus, SessionStatus, VolumeStatus},
    replica::Standing,
    types::{ClusterId, FoundingId, FoundingNumber, Label, LogIndex, NodeId, SessionId, Space, Stamp, Term, VolumeId},
    wire::admin::{Phase, Process, Report},
};

const CLUSTER: ClusterId = ClusterId(0x51a7);
const FOUNDING: FoundingId = FoundingId { cluster: CLUSTER, number: FoundingNumber(7) };

/// As long as an address within Kubernetes.
fn address(id: u64) -> String {
    format!("manyfs-{id}.manyfs.wordpress-production.svc.cluster.local:7440")
}

fn info(id: u64) -> NodeInfo {
    NodeInfo { id: NodeId(id), peer_address: format!("manyfs-{id}:7441"), client_address: address(id), level_max: 1 }
}

/// Node `id` of `total`, led by the first; all is well.
fn status(id: u64, total: u64) -> NodeStatus {
    let leads = id == 1;
    let peer = |id| PeerStatus {
        node: info(id),
        voter: true,
        matched: leads.then_some(LogIndex(5000)),
        reachable: leads.then_some(true),
    };
    let volume = VolumeStatus {
        id: VolumeId(1),
        name: "a-volume-with-the-longest-name-that-any-volume-of-all-may-have-x".to_owned(),
        inodes: 1_234_567,
        bytes: 987_654_321_000,
        quota_bytes: Some(1 << 40),
        quota_inodes: 2_097_152,
        digest: 1,
    };
    let session = |number, connected, in_roster, unacknowledged| SessionStatus {
        session: SessionId(number),
        volume: VolumeId(1),
        connected,
        in_roster,
        unacknowledged,
        age_ms: number * 7_000_000,
        place: (number != 5).then(|| MountPlace {
            host: Label::new(&format!("wordpress-7d9c6b5f4-{number}")),
            path: Label::new("/var/www/html/wp-content"),
            read_only: number == 2,
        }),
    };
    let sessions = vec![
        session(1, true, true, 0),
        session(2, true, true, 12),
        session(3, true, false, 0),
        session(4, false, true, 1),
        session(5, false, false, 0),
    ];
    NodeStatus {
        founding: FOUNDING,
        id: NodeId(id),
        leader: Some(NodeId(1)),
        term: Term(3),
        applied: LogIndex(5000),
        committed: LogIndex(5000),
        digest: 99,
        peers: (1..=total).map(peer).collect(),
        volumes: vec![volume],
        sessions: if leads { sessions } else { Vec::new() },
        short_of_space: false,
        clock: ClockStatus { jumps: 0, ahead_ms: Some(-3) },
        standing: Standing::TakesPart,
        space: Some(Space { total: 1 << 40, available: 123 << 30 }),
        leaderless_ms: None,
    }
}

fn report(id: u64, phase: Phase) -> Answer {
    let process = Process {
        pid: 4_000_000,
        data: "/var/lib/manyfs".to_owned(),
        start: vec!["manyfs".to_owned(), "serve".to_owned()],
        version: "0.1.0".to_owned(),
        peer_address: format!("manyfs-{id}:7441"),
        lacks_descriptors: false,
        scrubbed_ms: None,
        damages: 0,
    };
    Answer { address: address(id), report: Ok(Report { cluster: CLUSTER, phase, process }) }
}

fn running(status: NodeStatus) -> Answer {
    report(status.id.0, Phase::Running(Box::new(status)))
}

fn silent(id: u64) -> Answer {
    Answer { address: address(id), report: Err(format!("nothing listens at {}", address(id))) }
}

/// A healthy cluster, after `change` of each node's status.
fn cluster(total: u64, change: impl Fn(&mut NodeStatus)) -> Vec<Answer> {
    let node = |id| {
        let mut status = status(id, total);
        change(&mut status);
        running(status)
    };
    (1..=total).map(node).collect()
}

/// A cluster whose nodes from `first` on do not answer, as the leader knows.
fn with_silent(total: u64, first: u64) -> Vec<Answer> {
    let change = |status: &mut NodeStatus| {
        for peer in status.peers.iter_mut().filter(|peer| peer.node.id.0 >= first && peer.reachable.is_some()) {
            peer.reachable = Some(false);
        }
    };
    let mut answers = cluster(total, change);
    for id in first..=total {
        answers[id as usize - 1] = silent(id);
    }
    answers
}

/// Checks that the cluster is said to do so, within 80 columns; what is said in whole.
#[track_caller]
fn says(answers: &[Answer], health: Health, headline: &str, problems: &[&str]) -> String {
    let view = ClusterView::of(answers, None);
    let text = tables::text_in(80, &view);
    for (width, text) in [(80, &text), (120, &tables::text_in(120, &view))] {
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{} columns: {line}\n{text}", line.chars().count());
        }
    }
    assert_eq!((view.headline.sentence.as_str(), view.headline.health), (headline, health), "{text}");
    assert_eq!(view.headline.problems, problems, "{text}");
    assert!(text.starts_with(headline.split(' ').next().expect("a word")), "{text}");
    text
}

#[test]
fn a_healthy_cluster() {
    let text =
        says(&cluster(3, |_| {}), Health::Healthy, "HEALTHY: 3 of 3 nodes, node 1 leads, 1 loss is tolerated", &[]);
    let words = ["leads", "follows", "nothing", "-3 ms", "0.1.0", "123.0 GiB", "connected", "gone", "session 5"];
    for word in words.iter().chain(&["/var/www/html", "read-write", "read-only", "116 min"]) {
        assert!(text.contains(word), "{word}: {text}");
    }
    says(&cluster(1, |_| {}), Health::Healthy, "HEALTHY: 1 of 1 node, node 1 leads, no loss is tolerated", &[]);
    says(&cluster(5, |_| {}), Health::Healthy, "HEALTHY: 5 of 5 nodes, node 1 leads, 2 losses are tolerated", &[]);
}

#[test]
fn nodes_that_are_down() {
    let down = |id| format!("node {id}: nothing listens at {}", address(id));
    let sentence = "DEGRADED: 2 of 3 nodes, no further loss is tolerated";
    says(&with_silent(3, 3), Health::Degraded, sentence, &[&down(3)]);
    let sentence = "DEGRADED: 4 of 5 nodes, 1 further loss is tolerated";
    says(&with_silent(5, 5), Health::Degraded, sentence, &[&down(5)]);
    // It has not noticed yet.
    let sentence = "NO QUORUM: node 1 leads but has 1 of 3 nodes, 2 are needed: no changes";
    says(&with_silent(3, 2), Health::Down, sentence, &[&down(2), &down(3)]);
    let view = ClusterView::of(&with_silent(3, 2), None);
    assert!(!view.quorum && view.leader.as_deref() == Some("1"));
    let mut alone = status(2, 3);
    alone.leader = None;
    alone.leaderless_ms = Some(754_321);
    let sentence = "NO QUORUM for 12 min: 1 of 3 nodes, 2 are needed: changes wait";
    let answers = [silent(1), running(alone), silent(3)];
    says(&answers, Health::Down, sentence, &[&down(1), "node 2 knows no leader", &down(3)]);
}

/// Only we cannot reach it: the cluster does not miss it.
#[test]
fn a_node_that_the_leader_reaches() {
    let mut answers = cluster(3, |_| {});
    answers[2] = silent(3);
    let problem = format!("node 3: nothing listens at {}; the leader reaches it", address(3));
    says(&answers, Health::Warning, "WARNING: 3 of 3 nodes, node 1 leads, 1 loss is tolerated", &[&problem]);
}

/// It was DEGRADED without a reason.
#[test]
fn a_node_that_only_the_leader_does_not_reach() {
    let mut answers = with_silent(3, 3);
    answers[2] = running(status(3, 3));
    let problem = "node 3 answers here, but the leader does not reach it";
    says(&answers, Health::Degraded, "DEGRADED: 2 of 3 nodes, no further loss is tolerated", &[problem]);
}

#[test]
fn no_leader_and_no_answer() {
    let answers = cluster(3, |status| status.leader = None);
    let problems = ["node 1 knows no leader", "node 2 knows no leader", "node 3 knows no leader"];
    says(&answers, Health::Down, "NO LEADER: 3 of 3 nodes, none of which leads yet: changes wait", &problems);
    // Which node a silent one is, nobody says.
    let down = |id| format!("the node at {}: nothing listens at {}", address(id), address(id));
    let (one, two) = (down(1), down(2));
    says(&[silent(1), silent(2)], Health::Down, "NO ANSWER: none of 2 nodes answers", &[&one, &two]);
}

#[test]
fn a_cluster_that_is_not_founded() {
    let blank = |id| report(id, Phase::Blank);
    let sentence = "NOT FOUNDED: 3 nodes wait for `manyfs cluster init`";
    says(&[blank(1), blank(2), blank(3)], Health::Down, sentence, &[]);
    let sentence = "NOT FOUNDED, as far as 1 of 2 nodes can say";
    let problem = format!("the node at {}: nothing listens at {}", address(2), address(2));
    says(&[blank(1), silent(2)], Health::Down, sentence, &[&problem]);
    let founding =
        Founding { id: FOUNDING, nodes: (1..=3).map(info).collect(), stamp: Stamp(1), main: VolumeOptions::default() };
    let prepared = report(1, Phase::Prepared { node: NodeId(1), founding });
    let sentence = "NOT FOUNDED: 1 of 3 nodes prepared; repeat `manyfs cluster init`";
    says(&[prepared, blank(2), blank(3)], Health::Down, sentence, &[]);
    let mut answers = cluster(3, |_| {});
    answers.push(blank(4));
    let problem = format!("the node at {} is blank: it is of no cluster yet", address(4));
    let sentence = "WARNING: 3 of 3 nodes, node 1 leads, 1 loss is tolerated";
    says(&answers, Health::Warning, sentence, &[&problem]);
}

#[test]
fn nodes_that_take_no_part() {
    let forgetful = |count: u64| {
        cluster(3, move |status| {
            if status.id.0 > 3 - count {
                status.standing = Standing::Forgetful;
            }
        })
    };
    let problem = |id, then: &str| format!("node {id} takes no part: its data is older than what it promised; {then}");
    let sentence = "DEGRADED: 2 of 3 nodes, no further loss is tolerated";
    says(&forgetful(1), Health::Degraded, sentence, &[&problem(3, "the leader refills it")]);
    // Reached, and no help: nothing can be committed, and nobody can be elected.
    let lost = "no leader can be elected to refill it, as too many have forgotten: put back the disks that they had, or found \
                a new cluster and restore its files from a backup";
    let sentence = "NO QUORUM: node 1 leads but has 1 of 3 nodes, 2 are needed: no changes";
    says(&forgetful(2), Health::Down, sentence, &[&problem(2, lost), &problem(3, lost)]);
    // One more that remembers is enough.
    let mut answers = forgetful(1);
    let mut alone = status(2, 3);
    alone.leader = None;
    answers[0] = silent(1);
    answers[1] = running(alone);
    let wanted = "a leader refills it, once a majority of other nodes runs: start those that do not";
    let sentence = "NO QUORUM: 1 of 3 nodes, 2 are needed: changes wait";
    let down = format!("node 1: nothing listens at {}", address(1));
    let text = says(&answers, Health::Down, sentence, &[&down, "node 2 knows no leader", &problem(3, wanted)]);
    assert!(text.contains("Mounts are not listed"), "{text}");
    // A copy that was started beside a node is no loss.
    let mut answers = cluster(3, |_| {});
    let mut copy = status(3, 3);
    copy.standing = Standing::Rival;
    answers.push(running(copy));
    let problem = "node 3 takes no part: another process of the same node is alive";
    says(&answers, Health::Warning, "WARNING: 3 of 3 nodes, node 1 leads, 1 loss is tolerated", &[problem]);
}

#[test]
fn a_node_that_misses_much() {
    let behind = |missing: u64| {
        cluster(3, move |status| {
            if status.id.0 == 2 {
                status.applied = LogIndex(5000 - missing);
            }
        })
    };
    says(&behind(900), Health::Healthy, "HEALTHY: 3 of 3 nodes, node 1 leads, 1 loss is tolerated", &[]);
    let sentence = "DEGRADED: 3 of 3 nodes (1 catching up), no further loss is tolerated";
    let text = says(&behind(4000), Health::Degraded, sentence, &["node 2 misses 4000 changes and catches up"]);
    assert!(text.contains("4000 changes"), "{text}");
}

#[test]
fn troubles_of_one_node() {
    let sentence = "WARNING: 3 of 3 nodes, node 1 leads, 1 loss is tolerated";
    let second = |change: fn(&mut NodeStatus)| {
        cluster(3, move |status| {
            if status.id.0 == 2 {
                change(status);
            }
        })
    };
    let problem = "node 2 is short of space: as long as a majority does without it, it stores nothing new";
    says(&second(|status| status.short_of_space = true), Health::Warning, sentence, &[problem]);
    let problem = "node 2's clock is 2592000 s behind the cluster's: set it";
    let text = says(
        &second(|status| status.clock = ClockStatus { jumps: 2, ahead_ms: Some(-2_592_000_999) }),
        Health::Warning,
        sentence,
        &[problem],
    );
    assert!(text.contains("-2592000 s") && text.contains("clock was set 2 times since"), "{text}");
    // A clock that was set and is right is none.
    let sentence = "HEALTHY: 3 of 3 nodes, node 1 leads, 1 loss is tolerated";
    let text = says(&second(|status| status.clock.jumps = 1), Health::Healthy, sentence, &[]);
    assert!(text.contains("node 2's clock was set once since its process began"), "{text}");
    let problem = "node 2 found 3 damaged blocks or records on its disk since its process began; its log names them";
    let mut answers = cluster(3, |_| {});
    let process = &mut answers[1].report.as_mut().expect("a report").process;
    (process.damages, process.scrubbed_ms) = (3, Some(3 * 3_600_000));
    let sentence = "WARNING: 3 of 3 nodes, node 1 leads, 1 loss is tolerated";
    let text = says(&answers, Health::Warning, sentence, &[problem]);
    assert!(text.contains("3 h ago"), "{text}");
    let problem = "nodes 1 and 2 have different states after the same 5000 changes";
    let sentence = "NODES DIFFER: their states are not the same; stop the mounts and keep all data";
    says(&second(|status| status.digest = 98), Health::Down, sentence, &[problem]);
}

#[test]
fn a_node_of_another_founding_is_none_of_the_cluster() {
    let mut answers = cluster(3, |_| {});
    let mut stranger = status(4, 3);
    stranger.founding.number = FoundingNumber(8);
    stranger.digest = 1;
    answers.push(running(stranger));
    let view = ClusterView::of(&answers, None);
    assert_eq!(view.nodes[3].state, NodeState::Foreign);
    assert_eq!(view.headline.health, Health::Warning);
    assert!(view.headline.problems[0].contains("of another founding"), "{:?}", view.headline.problems);
}

/// It was listed as another time the node that answered, and the cluster as degraded without a reason.
#[test]
fn an_address_that_leads_to_another_node() {
    let mut answers = with_silent(3, 3);
    let mut second = running(status(2, 3));
    second.address = address(3);
    answers[2] = second;
    let problem = format!("node 3: its address {} answers as node 2", address(3));
    let sentence = "DEGRADED: 2 of 3 nodes, no further loss is tolerated";
    says(&answers, Health::Degraded, sentence, &[&problem]);
    let ids = |answers: &[Answer]| {
        ClusterView::of(answers, None).nodes.iter().map(|node| node.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&answers), ["1", "2", "3"]);
    // By two names it is one node.
    let mut answers = cluster(3, |_| {});
    let mut again = running(status(2, 3));
    again.address = "10.0.0.2:7440".to_owned();
    answers.push(again);
    let sentence = "HEALTHY: 3 of 3 nodes, node 1 leads, 1 loss is tolerated";
    let text = says(&answers, Health::Healthy, sentence, &[]);
    assert_eq!(ids(&answers), ["1", "2", "3"]);
    let said = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("and 10.0.0.2:7440 lead to the same node"), "{text}");
}

#[test]
fn an_address_of_kubernetes_takes_one_line() {
    let mut answers = cluster(3, |_| {});
    for answer in &mut answers {
        answer.report.as_mut().expect("a report").process.version = "0.1.0".to_owned();
    }
    let text = tables::text_in(80, &ClusterView::of(&answers, None));
    let rows = text.lines().skip_while(|line| !line.starts_with("NODE")).take_while(|line| !line.is_empty());
    assert_eq!(rows.count(), 4, "{text}");
    assert!(text.contains("end in .manyfs.wordpress-production.svc.cluster.local:7440"), "{text}");
    let heads = text.lines().find(|line| line.starts_with("VOLUME")).expect("volumes");
    assert!(heads.contains("FILES MAX") && heads.contains("CONTENT MAX"), "{text}");
}

/// Nobody's words steer the terminal of whoever looks.
#[test]
fn hostile_words_are_escaped() {
    let answers = cluster(3, |status| status.volumes[0].name = "\u{1b}]0;owned\u{7}".to_owned());
    let text = tables::text_in(80, &ClusterView::of(&answers, None));
    assert!(!text.contains(['\u{1b}', '\u{7}']) && text.contains("\\u{1b}]0;owned"), "{text}");
}

#[test]
fn json_has_the_headline_beside_all_the_rest() {
    let view = serde_json::to_value(ClusterView::of(&with_silent(3, 3), None)).expect("JSON");
    assert_eq!(view["health"], "degraded");
    assert_eq!(view["headline"], "DEGRADED: 2 of 3 nodes, no further loss is tolerated");
    assert!(view["problems"][0].as_str().expect("a sentence").starts_with("node 3"));
    assert!(view["nodes"][0]["version"] == "0.1.0" && view["nodes"][0]["missing"] == 0, "{view}");
    assert!(view["quorum"] == true && view["sessions"][0]["volume_name"].is_string(), "{view}");
}
