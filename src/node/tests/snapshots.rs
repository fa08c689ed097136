//! A node that is behind the log, and the state that it is sent.

use super::*;

/// A follower that is down while more is written than logs keep.
fn with_laggard() -> (World, usize, NodeId) {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let laggard = world.nodes.keys().copied().find(|id| Some(*id) != world.leader()).expect("two of them");
    world.kill(laggard);
    for n in 1..=800 {
        world.change(a, n, set_xattr(&format!("{}", n % 40), 60_000));
    }
    let leader = world.leader().expect("still");
    assert!(world.disks[&leader].compacted.0 > world.disks[&laggard].state.0, "the log still reaches");
    (world, a, laggard)
}

#[test]
fn a_node_behind_the_log_fetches_the_state_and_goes_on() {
    let (mut world, a, laggard) = with_laggard();
    world.start(laggard);
    world.agree();
    assert!(world.pieces >= 4, "in pieces: {}", world.pieces);
    world.change(a, 1000, mkdir("after"));
    world.agree();
    world.kill(laggard);
    world.start(laggard);
    world.agree();
    let leader = world.leader().expect("still");
    world.kill(leader);
    world.change(a, 1001, mkdir("the one that fetched votes"));
}

#[test]
fn lost_pieces_are_asked_for_again() {
    let (mut world, _, laggard) = with_laggard();
    world.lose_pieces = 3;
    world.start(laggard);
    world.agree();
    assert!(world.pieces < 40, "and it goes on where it was: {}", world.pieces);
}

#[test]
fn a_snapshot_is_of_one_moment_though_writes_go_on() {
    let (mut world, a, laggard) = with_laggard();
    world.lose_pieces = usize::MAX;
    world.start(laggard);
    world.run_until("the first request", |world| world.pieces > 0);
    for n in 2000..=2010 {
        world.lose_pieces = usize::from(n % 2 == 0);
        world.change(a, n, set_xattr("moving", 100));
        world.run(T.election);
    }
    world.lose_pieces = 0;
    world.agree();
}

#[test]
fn another_leader_serves_another_snapshot() {
    let (mut world, a, laggard) = with_laggard();
    let leader = world.leader().expect("still");
    world.lose_pieces = usize::MAX;
    world.start(laggard);
    world.run_until("the first request", |world| world.pieces > 0);
    world.ask(leader, 1, AdminRequest::TransferLeader { to: None });
    world.run_until("the transfer", |world| world.leader().is_some_and(|now| now != leader));
    world.lose_pieces = 0;
    world.agree();
    world.change(a, 1000, mkdir("after"));
    world.agree();
}

#[test]
fn a_state_that_is_damaged_on_its_way_is_not_taken() {
    let (mut world, _, laggard) = with_laggard();
    world.start(laggard);
    world.isolate(laggard);
    world.is_recording = true;
    let leader = world.leader().expect("still");
    let before = world.nodes[&laggard].state.digest();
    let node = world.nodes.get_mut(&laggard).expect("started");
    node.need_snapshot(leader, LogIndex(5000));
    let (index, term, membership) = (LogIndex(5000), Term(2), Bytes::new());
    let rows = vec![(Bytes::from_static(b"nonsense"), Bytes::from_static(b"row"))];
    let message = PeerMessage::SnapshotPiece { index, term, membership, rows, last: true };
    world.handle(laggard, Input::Peer { from: leader, message });
    assert_eq!(world.nodes[&laggard].state.digest(), before);
    assert!(world.trace.iter().any(|line| line.contains("damaged and not taken")));
    world.is_recording = false;
    world.cut.clear();
    world.agree();
}

#[test]
fn pieces_that_come_twice_are_taken_once() {
    let (mut world, _, laggard) = with_laggard();
    world.repeats_pieces = true;
    world.start(laggard);
    world.agree();
}
