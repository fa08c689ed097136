//! Three and five nodes: elections, handing over, mounts that move to the next leader.

use super::*;
use crate::message::peer::{Hello, Life, Recollection};

#[test]
fn three_nodes_agree_and_both_mounts_follow() {
    let mut world = World::elected(3);
    let (a, b) = (world.mount(1), world.mount(2));
    for n in 1..=20 {
        let who = if n % 2 == 0 { a } else { b };
        world.change(who, n, mkdir(&format!("d{n}")));
    }
    world.agree();
    assert_eq!(world.nodes.len(), 3);
}

#[test]
fn the_death_of_the_leader_costs_a_writer_less_than_two_seconds_and_no_call() {
    for beside in [false, true] {
        let mut world = World::elected(3);
        let (a, b) = (world.mount(1), world.mount(2));
        world.change(a, 1, mkdir("d1"));
        let leader = world.leader().expect("elected");
        world.kill(leader);
        world.clients[b].is_stopped = beside;
        let took = world.change(a, 2, mkdir("d2"));
        assert!(took < Duration::from_secs(2), "with a mount dead beside it ({beside}): {took:?}");
        world.start(leader);
        world.change(a, 3, mkdir("d3"));
        world.agree();
    }
}

#[test]
fn a_living_mount_keeps_its_lease_over_the_death_of_the_leader() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let leader = world.leader().expect("elected");
    world.run(Duration::from_millis(330));
    world.kill(leader);
    let until = world.now.after(Duration::from_secs(3));
    while world.now < until {
        world.step(until);
        assert!(world.clients[a].lease_until > world.now, "its caches were lost {:?}", world.now);
    }
}

#[test]
fn the_death_of_a_follower_is_not_noticed() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let follower = world.nodes.keys().copied().find(|id| Some(*id) != world.leader()).expect("two of them");
    world.kill(follower);
    for n in 1..=20 {
        assert_eq!(world.change(a, n, mkdir(&format!("d{n}"))), Duration::ZERO);
    }
    world.start(follower);
    world.agree();
}

#[test]
fn a_leader_that_is_cut_off_renews_no_lease_and_answers_nothing() {
    let mut world = World::elected(3);
    let (a, b) = (world.mount(1), world.mount(2));
    let old = world.leader().expect("elected");
    world.isolate(old);
    // b leaves the old leader, a stays with it.
    let connection = world.clients[b].connection.expect("connected");
    world.clients[b].lose_connection();
    world.handle(old, Input::MountClosed { connection });
    let lease = world.clients[a].lease_until;
    world.call(a, 1, mkdir("lost or not"));
    world.change(b, 2, mkdir("d"));
    let new = world.leader().expect("another");
    assert_ne!(new, old);
    assert!(world.now >= lease, "the new leader waited until a's lease had ended");
    world.cut.clear();
    world.run_until("the answer from the new leader", |world| world.clients[a].answers.contains_key(&Sequence(1)));
    world.agree();
}

#[test]
fn without_a_quorum_nothing_is_answered_and_all_goes_on_when_it_is_back() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let leader = world.leader().expect("elected");
    let others: Vec<NodeId> = world.nodes.keys().copied().filter(|id| *id != leader).collect();
    others.iter().for_each(|id| world.kill(*id));
    world.call(a, 1, mkdir("d"));
    world.ask(leader, 7, AdminRequest::CreateVolume { name: "x".to_owned(), options: VolumeOptions::default() });
    world.run(T.write_timeout + T.lease);
    assert!(world.clients[a].answers.is_empty());
    assert!(world.clients[a].lease_until <= world.now);
    assert_eq!(world.admin[&7], Err(AdminError::TimedOut));
    // It has known for that long that nobody leads, whatever it has tried since.
    let status = world.nodes[&leader].status();
    let leaderless = Duration::from_millis(status.leaderless_ms.expect("nobody leads"));
    assert!(leaderless > T.lease && leaderless <= T.write_timeout + T.lease, "{leaderless:?}");
    others.iter().for_each(|id| world.start(*id));
    world.run_until("the answer", |world| world.clients[a].answers.contains_key(&Sequence(1)));
    assert_eq!(world.nodes[&leader].status().leaderless_ms, None);
    world.agree();
}

#[test]
fn an_orderly_stop_hands_over_and_a_writer_pauses_for_200_ms_at_most() {
    let mut world = World::elected(3);
    let (a, _) = (world.mount(1), world.mount(2));
    world.change(a, 1, mkdir("d1"));
    let leader = world.leader().expect("elected");
    world.handle(leader, Input::Stop);
    world.run_until("the end", |world| world.stopped.contains(&leader));
    world.kill(leader);
    let took = world.change(a, 2, mkdir("d2"));
    assert!(took <= Duration::from_millis(200), "{took:?}");
    assert_ne!(world.leader(), Some(leader));
}

#[test]
fn a_follower_stops_at_once() {
    let mut world = World::elected(3);
    let follower = world.nodes.keys().copied().find(|id| Some(*id) != world.leader()).expect("two of them");
    world.handle(follower, Input::Stop);
    assert!(world.stopped.contains(&follower));
}

#[test]
fn leadership_goes_where_it_is_told_to() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let leader = world.leader().expect("elected");
    let target = world.nodes.keys().copied().find(|id| *id != leader).expect("two of them");
    world.ask(target, 1, AdminRequest::TransferLeader { to: Some(target) });
    let address = info(leader.0).client_address;
    assert_eq!(world.admin[&1], Err(AdminError::NotLeader { leader: Some(address) }));
    world.ask(leader, 2, AdminRequest::TransferLeader { to: Some(NodeId(9)) });
    assert!(matches!(world.admin[&2], Err(AdminError::Refused(_))));
    world.ask(leader, 3, AdminRequest::TransferLeader { to: Some(leader) });
    assert_eq!(world.admin[&3], Ok(AdminAnswer::Done));
    world.ask(leader, 4, AdminRequest::TransferLeader { to: Some(target) });
    world.run_until("the transfer", |world| world.admin.contains_key(&4));
    assert_eq!(world.admin[&4], Ok(AdminAnswer::Done));
    world.run_until("the new leader", |world| world.leader() == Some(target));
    world.change(a, 1, mkdir("d"));
    world.agree();
}

/// README.md "Availability", writes pause for 200 ms at most where a node is stopped in an orderly way: a session that
/// says nothing any more, and was waited for before, is not waited for again by each new leader.
#[test]
fn a_stopped_mount_delays_nobody_at_a_transfer() {
    let mut world = World::elected(3);
    let (a, b) = (world.mount(1), world.mount(2));
    world.clients[b].is_stopped = true;
    world.change(a, 1, mkdir("waits for the lease of b"));
    for sequence in 2..5 {
        let leader = world.leader().expect("elected");
        world.ask(leader, sequence, AdminRequest::TransferLeader { to: None });
        world.run_until("the transfer", |world| world.admin.contains_key(&sequence));
        assert_eq!(world.admin[&sequence], Ok(AdminAnswer::Done));
        let begun = world.now;
        world.change(a, sequence, mkdir(&format!("d{sequence}")));
        assert!(world.now.since(begun) < Duration::from_millis(200), "{:?}", world.now.since(begun));
    }
    world.agree();
}

#[test]
fn a_lease_that_nobody_renews_ends_before_leadership_goes_elsewhere() {
    let mut world = World::elected(3);
    let (a, b) = (world.mount(1), world.mount(2));
    let leader = world.leader().expect("elected");
    world.clients[b].is_stopped = true;
    let begun = world.now;
    world.ask(leader, 1, AdminRequest::TransferLeader { to: None });
    world.run_until("the transfer", |world| world.admin.contains_key(&1));
    assert_eq!(world.admin[&1], Ok(AdminAnswer::Done));
    assert!(world.clients[b].lease_until <= world.now, "the successor need not wait for it");
    assert!(world.now.since(begun) < T.lease + T.election, "{:?}", world.now.since(begun));
    let begun = world.now;
    world.change(a, 1, mkdir("d"));
    assert!(world.now.since(begun) < Duration::from_millis(200), "{:?}", world.now.since(begun));
}

#[test]
fn a_transfer_to_a_dead_node_is_told_to_have_failed_and_leases_come_back() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let leader = world.leader().expect("elected");
    let target = world.nodes.keys().copied().find(|id| *id != leader).expect("two of them");
    world.kill(target);
    world.ask(leader, 1, AdminRequest::TransferLeader { to: Some(target) });
    world.run_until("the answer", |world| world.admin.contains_key(&1));
    assert!(matches!(world.admin[&1], Err(AdminError::Refused(_))), "{:?}", world.admin[&1]);
    let now = world.now;
    world.run_until("a lease granted since", |world| world.clients[a].lease_until > now.after(T.lease));
    world.change(a, 1, mkdir("d"));
}

#[test]
fn a_new_address_comes_into_the_state_and_to_the_peers() {
    let mut world = World::elected(3);
    let leader = world.leader().expect("elected");
    for moved in [leader, NodeId(leader.0 % 3 + 1)] {
        world.kill(moved);
        let address = NodeInfo { client_address: "moved:1".to_owned(), ..info(moved.0) };
        world.start_at(moved, Some(address.clone()));
        world.run_until("the address", |world| {
            world.nodes.values().all(|node| node.state.node(moved) == Some(&address))
        });
        for peer in world.nodes.keys().filter(|id| **id != moved) {
            assert_eq!(world.addresses[&(*peer, moved)], address);
        }
    }
    world.run(Duration::from_secs(5));
    world.agree();
}

/// A copy said hello from elsewhere while nobody had heard of the original: the others dialled the copy from then on.
#[test]
fn a_copy_has_the_address_of_its_original_no_longer_than_that_one_is_not_heard_of() {
    let mut world = World::elected(3);
    let leader = world.leader().expect("elected");
    let (original, other) = (NodeId(leader.0 % 3 + 1), NodeId((leader.0 + 1) % 3 + 1));
    let address = NodeInfo { client_address: "original:1".to_owned(), ..info(original.0) };
    world.kill(original);
    world.start_at(original, Some(address.clone()));
    world.run_until("the address", |world| world.addresses.get(&(other, original)) == Some(&address));
    world.run(T.election);
    world.isolate(other);
    world.run(4 * T.heartbeat);
    let elsewhere = NodeInfo { peer_address: "copy:1".to_owned(), ..address.clone() };
    let (life, recollection) = (Life { boot: 1, nonce: 99 }, Recollection::Whole);
    let hello = Hello { life, term: Term(1), last: LogIndex(1), recollection };
    let message = PeerMessage::Hello { hello, node: Some(elsewhere.clone()) };
    world.handle(other, Input::Peer { from: original, message });
    assert_eq!(world.addresses[&(other, original)], elsewhere, "nobody knows better");
    world.cut.clear();
    world.run_until("the original's address", |world| world.addresses[&(other, original)] == address);
}

#[test]
fn mounts_are_told_the_space_of_a_majority() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let told = |space| move |world: &World| world.clients[a].space == space;
    world.run_until("the second largest", told(Space { total: 2 << 40, available: 2 << 30 }));
    world.handle(NodeId(3), Input::Space(Space { total: 3 << 40, available: 0 }));
    world.run_until("without the full one", told(Space { total: 1 << 40, available: 1 << 30 }));
    world.handle(NodeId(2), Input::Space(Space { total: 2 << 40, available: 0 }));
    world.run_until("nothing", |world| world.clients[a].space.available == 0);
    world.call(a, 1, mkdir("d"));
    world.run_until("an answer", |world| world.clients[a].answers.contains_key(&Sequence(1)));
    assert_eq!(world.clients[a].answers[&Sequence(1)], Err(Errno::ENOSPC));
}

#[test]
fn equal_inputs_give_equal_outputs() {
    let run = || {
        let mut world = World::new(3);
        world.is_recording = true;
        let (a, b) = (world.mount(1), world.mount(2));
        for n in 1..=10 {
            world.change(if n % 2 == 0 { a } else { b }, n, mkdir(&format!("d{n}")));
        }
        let leader = world.leader().expect("elected");
        world.kill(leader);
        world.change(a, 11, mkdir("d11"));
        world.start(leader);
        world.run(Duration::from_secs(3));
        world.trace
    };
    let (first, second) = (run(), run());
    assert!(first.len() > 500, "{}", first.len());
    assert_eq!(first, second);
}

const FULL: Space = Space { total: 1 << 40, available: 0 };
const ROOMY: Space = Space { total: 1 << 40, available: 1 << 30 };

/// What a shell says whose disk has run full, or has space again.
fn fill(world: &mut World, id: NodeId, is_full: bool) {
    world.handle(id, Input::Space(if is_full { FULL } else { ROOMY }));
    world.handle(id, Input::ShortOfSpace(is_full));
}

fn rmdir(name: &str) -> Operation {
    Operation::Rmdir { parent: Ino::ROOT, name: Name::new(name.as_bytes()).expect("a good name") }
}

fn outcome(world: &mut World, at: usize, sequence: u64, operation: Operation) -> Result<Reply, Errno> {
    world.call(at, sequence, operation);
    world.run_until("an answer", |world| world.clients[at].answers.contains_key(&Sequence(sequence)));
    world.clients[at].answers[&Sequence(sequence)]
}

#[test]
fn a_full_follower_takes_no_entries_stops_no_write_and_catches_up() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let follower = world.nodes.keys().copied().find(|id| Some(*id) != world.leader()).expect("two of them");
    fill(&mut world, follower, true);
    let before = world.nodes[&follower].status();
    assert!(before.short_of_space);
    for n in 1..=20 {
        assert_eq!(world.change(a, n, mkdir(&format!("d{n}"))), Duration::ZERO);
    }
    world.run(Duration::from_secs(20));
    assert_eq!(world.nodes[&follower].status().applied, before.applied, "it took entries without a place for them");
    fill(&mut world, follower, false);
    world.agree();
    assert!(world.nodes[&follower].status().applied > before.applied);
}

/// What its log keeps for others may be the very place that its state waits for.
#[test]
fn a_full_follower_keeps_nothing_of_the_log_that_its_state_has() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    for n in 1..=20 {
        world.change(a, n, mkdir(&format!("d{n}")));
    }
    world.agree();
    let follower = world.nodes.keys().copied().find(|id| Some(*id) != world.leader()).expect("two of them");
    assert!(world.disks[&follower].entries.len() > 20);
    fill(&mut world, follower, true);
    assert_eq!(world.disks[&follower].entries.len(), 0);
    fill(&mut world, follower, false);
    world.change(a, 21, mkdir("d21"));
    world.agree();
    world.kill(follower);
    world.start(follower);
    world.change(a, 22, mkdir("d22"));
    world.agree();
}

/// It had refused the very entries that would have emptied it.
#[test]
fn a_full_follower_takes_entries_when_what_it_lacks_makes_room() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let (parent, name) = (Ino::ROOT, Name::new(b"large").expect("a good name"));
    let mut make = mkdir("large");
    if let Operation::Make { node, .. } = &mut make {
        *node = NewNode::File;
    }
    world.change(a, 1, make);
    let leader = world.leader().expect("elected");
    let ino = world.nodes[&leader].state.volume_named("main").and_then(|main| main.lookup(parent, &name));
    let piece = |n: u64| crate::types::Piece {
        offset: n << 20,
        length: 1 << 20,
        block: Some(crate::types::BlockHash([7; 32])),
        content: None,
    };
    let pieces = (0..4).map(piece).collect();
    let ino = ino.expect("made");
    world.change(a, 2, write(ino, pieces));
    world.agree();
    let follower = world.nodes.keys().copied().find(|id| Some(*id) != world.leader()).expect("two of them");
    fill(&mut world, follower, true);
    world.change(a, 3, mkdir("d"));
    world.run(Duration::from_secs(5));
    assert!(world.nodes[&follower].is_spared());
    world.change(a, 4, Operation::Unlink { parent, name });
    world.agree();
    assert_eq!(world.nodes[&follower].content_bytes(), 0);
}

#[test]
fn a_full_leader_hands_over_to_one_with_space() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    world.change(a, 1, mkdir("d1"));
    let leader = world.leader().expect("elected");
    let others: Vec<NodeId> = world.nodes.keys().copied().filter(|id| *id != leader).collect();
    fill(&mut world, others[0], true);
    world.run(Duration::from_secs(2));
    // Two are full now: nobody is spared, and nobody better could lead.
    fill(&mut world, leader, true);
    world.run(Duration::from_secs(10));
    assert_eq!(world.leader(), Some(leader));
    assert!(!world.nodes[&leader].is_spared());
    fill(&mut world, others[0], false);
    let took = world.run_until("another leader", |world| world.leader().is_some_and(|now| now != leader));
    assert!(took < Duration::from_secs(3), "{took:?}");
    let took = world.change(a, 2, mkdir("d2"));
    assert!(took < Duration::from_secs(2), "{took:?}");
    fill(&mut world, leader, false);
    world.agree();
}

#[test]
fn a_full_majority_takes_what_gives_space_back_and_nothing_else() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    world.change(a, 1, mkdir("d1"));
    let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
    ids[..2].iter().for_each(|id| fill(&mut world, *id, true));
    world.run(Duration::from_secs(2));
    assert_eq!(outcome(&mut world, a, 2, mkdir("d2")), Err(Errno::ENOSPC));
    world.change(a, 3, rmdir("d1"));
    world.agree();
    ids.iter().for_each(|id| fill(&mut world, *id, false));
    world.run(Duration::from_secs(2));
    world.change(a, 4, mkdir("d2"));
}

#[test]
fn what_a_dead_node_had_free_does_not_count() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let leader = world.leader().expect("elected");
    let others: Vec<NodeId> = world.nodes.keys().copied().filter(|id| *id != leader).collect();
    world.change(a, 1, mkdir("d1"));
    world.kill(others[0]);
    fill(&mut world, others[1], true);
    // Leader and full node are all there is: content is refused, and the full one takes the rest.
    world.run(Duration::from_secs(10));
    assert_eq!(outcome(&mut world, a, 2, mkdir("d2")), Err(Errno::ENOSPC));
    world.change(a, 3, rmdir("d1"));
    world.start(others[0]);
    world.run(Duration::from_secs(2));
    world.change(a, 4, mkdir("d2"));
}
