//! A cluster of one node: what it does alone, and what it has after a restart.

use super::*;
use crate::{
    namespace::{ByteQuota, QuotaChanges},
    types::{BlockHash, UploadId},
};

#[test]
fn a_lone_node_leads_and_serves_a_mount() {
    let mut world = World::elected(1);
    let a = world.mount(1);
    world.change(a, 1, mkdir("d"));
    world.agree();
    let status = world.nodes[&NodeId(1)].status();
    assert_eq!((status.leader, status.peers.len(), status.sessions.len()), (Some(NodeId(1)), 1, 1));
    assert!(status.sessions[0].connected && status.sessions[0].in_roster);
    assert_eq!((status.volumes[0].name.as_str(), status.volumes[0].inodes), ("main", 2));
    assert_eq!((status.applied, status.committed), (world.disks[&NodeId(1)].state.0, status.applied));
}

#[test]
fn a_node_starts_again_from_its_disk_with_everything_acknowledged() {
    let mut world = World::elected(1);
    let a = world.mount(1);
    world.changes(a, 1..=5);
    let digest = world.nodes[&NodeId(1)].state.digest();
    world.kill(NodeId(1));
    world.start(NodeId(1));
    assert_eq!(world.nodes[&NodeId(1)].state.digest(), digest);
    let session = world.clients[a].session;
    world.change(a, 6, mkdir("d6"));
    assert_eq!(world.clients[a].session, session, "the session survives");
    world.agree();
}

#[test]
fn entries_that_the_state_store_lacks_are_applied_again_from_the_log() {
    let mut world = World::elected(1);
    let a = world.mount(1);
    world.change(a, 1, mkdir("before"));
    let early = world.disks[&NodeId(1)].clone();
    world.changes(a, 2..=5);
    let digest = world.nodes[&NodeId(1)].state.digest();
    world.kill(NodeId(1));
    let disk = world.disks.get_mut(&NodeId(1)).expect("there");
    (disk.rows, disk.state) = (early.rows, early.state);
    world.start(NodeId(1));
    world.run_until("the log to be applied", |world| world.nodes[&NodeId(1)].state.digest() == digest);
    world.change(a, 6, mkdir("d6"));
    world.agree();
}

#[test]
fn a_mount_that_lagged_is_served_from_the_log_after_a_restart_too() {
    let mut world = World::elected(1);
    let (a, b) = (world.mount(1), world.mount(2));
    world.is_recording = true;
    world.clients[b].lose_connection();
    world.clients[b].is_stopped = true;
    world.handle(NodeId(1), Input::MountClosed { connection: ConnectionId(2) });
    world.changes(a, 1..=5);
    world.kill(NodeId(1));
    world.start(NodeId(1));
    world.clients[b].is_stopped = false;
    let rows_before = world.trace.iter().filter(|line| line.contains("SnapshotPiece")).count();
    world.agree();
    let rows_after = world.trace.iter().filter(|line| line.contains("SnapshotPiece")).count();
    assert_eq!(rows_before, rows_after, "entries were enough");
}

#[test]
fn a_call_repeated_over_a_restart_is_carried_out_once() {
    let mut world = World::elected(1);
    let a = world.mount(1);
    world.change(a, 1, mkdir("d"));
    let before = world.nodes[&NodeId(1)].state.volume_named("main").expect("main").applied();
    let first = world.clients[a].answers.remove(&Sequence(1));
    world.clients[a].calls.insert(Sequence(1), mkdir("d"));
    world.kill(NodeId(1));
    world.start(NodeId(1));
    world.run_until("the answer", |world| world.clients[a].answers.contains_key(&Sequence(1)));
    assert_eq!(world.clients[a].answers.get(&Sequence(1)).copied(), first);
    assert_eq!(world.nodes[&NodeId(1)].state.volume_named("main").expect("main").applied(), before);
}

#[test]
fn stamps_grow_though_the_clock_was_set_back_a_little() {
    let mut world = World::elected(1);
    let a = world.mount(1);
    world.change(a, 1, mkdir("d"));
    let before = world.nodes[&NodeId(1)].state.last_stamp();
    world.kill(NodeId(1));
    world.epoch -= 5_000_000_000;
    world.start(NodeId(1));
    world.change(a, 2, mkdir("e"));
    let after = world.nodes[&NodeId(1)].state.last_stamp();
    assert!(after > before && after.0 < before.0 + 100, "{before:?} {after:?}");
}

#[test]
fn the_log_is_cut_below_what_the_store_has_and_stays_bounded() {
    let mut world = World::elected(1);
    let a = world.mount(1);
    for n in 1..=1200 {
        world.change(a, n, set_xattr(&format!("{}", n % 7), 60_000));
    }
    let disk = &world.disks[&NodeId(1)];
    let bytes: usize = disk.entries.iter().map(|entry| entry.bytes.len()).sum();
    assert!(disk.compacted.0 > LogIndex(100));
    assert!(bytes < limits::LOG_RETAINED_BYTES * 5 / 4, "{bytes}");
    world.kill(NodeId(1));
    world.start(NodeId(1));
    world.change(a, 2000, mkdir("d"));
    world.agree();
}

#[test]
fn volumes_are_made_and_deleted_once() {
    let mut world = World::elected(1);
    let create = || AdminRequest::CreateVolume { name: "two".to_owned(), options: VolumeOptions::default() };
    let delete = || AdminRequest::DeleteVolume { name: "two".to_owned(), force: false };
    for (ticket, request) in [(1, create()), (2, create()), (3, delete()), (4, delete())] {
        world.ask(NodeId(1), ticket, request);
    }
    let done = |ticket: u64| matches!(world.admin[&ticket], Ok(AdminAnswer::Done));
    let refused =
        |ticket: u64| matches!(&world.admin[&ticket], Err(AdminError::Refused(reason)) if reason.contains("two"));
    assert!(done(1) && refused(2) && done(3) && refused(4), "{:?}", world.admin);
}

/// It was deleted under its mounts.
#[test]
fn a_volume_in_use_is_deleted_by_force_alone() {
    let mut world = World::elected(1);
    world.mount(1);
    let delete = |force| AdminRequest::DeleteVolume { name: "main".to_owned(), force };
    world.ask(NodeId(1), 1, delete(false));
    match &world.admin[&1] {
        Err(AdminError::Refused(reason)) => {
            assert!(reason.contains("in use by 1 mount") && reason.contains("--force"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(world.nodes[&NodeId(1)].state().volume_named("main").is_some());
    world.ask(NodeId(1), 2, delete(true));
    assert!(matches!(world.admin[&2], Ok(AdminAnswer::Done)));
    assert!(world.nodes[&NodeId(1)].state().volume_named("main").is_none());
}

#[test]
fn quotas_are_changed_for_nodes_and_mounts() {
    let mut world = World::elected(1);
    let a = world.mount(1);
    let set = |name: &str| AdminRequest::SetQuotas {
        name: name.to_owned(),
        changes: QuotaChanges { bytes: Some(ByteQuota::Bytes(1 << 20)), inodes: None },
    };
    for (ticket, name) in [(1, "main"), (2, "nowhere")] {
        world.ask(NodeId(1), ticket, set(name));
    }
    assert!(matches!(world.admin[&1], Ok(AdminAnswer::Done)));
    assert!(matches!(&world.admin[&2], Err(AdminError::Refused(reason)) if reason.contains("nowhere")));
    world.agree();
    let options = VolumeOptions { quota_bytes: Some(1 << 20), ..VolumeOptions::default() };
    assert_eq!(world.clients[a].volume.as_ref().map(|volume| *volume.options()), Some(options));
    world.kill(NodeId(1));
    world.start(NodeId(1));
    assert_eq!(world.nodes[&NodeId(1)].state.volume_named("main").map(|volume| *volume.options()), Some(options));
}

#[test]
fn a_lone_node_has_nobody_to_hand_over_to_and_stops_at_once() {
    let mut world = World::elected(1);
    world.ask(NodeId(1), 1, AdminRequest::TransferLeader { to: None });
    assert!(matches!(&world.admin[&1], Err(AdminError::Refused(_))));
    world.handle(NodeId(1), Input::Stop);
    assert!(world.stopped.contains(&NodeId(1)));
}

#[test]
fn data_of_another_founding_is_refused() {
    let disk = Disk::founded(&[NodeId(1)]);
    let expected = FoundingId { number: FoundingNumber(2), ..FOUNDING };
    let config = NodeConfig {
        id: NodeId(1),
        founding: expected,
        timing: T,
        retention: Retention::DEFAULT,
        sessions: SessionBounds::DEFAULT,
        seed: 1,
        nonce: 1,
        address: None,
    };
    let error = Node::open(Instant(0), config, disk.recover()).expect_err("another founding's data");
    assert_eq!(error, NodeError::Founding { expected, found: FOUNDING });
}

#[test]
fn an_entry_of_a_newer_program_stops_the_node() {
    let disk = Disk::founded(&[NodeId(1)]);
    let config = NodeConfig {
        id: NodeId(1),
        founding: FOUNDING,
        timing: T,
        retention: Retention::DEFAULT,
        sessions: SessionBounds::DEFAULT,
        seed: 1,
        nonce: 1,
        address: None,
    };
    let mut node = Node::open(Instant(0), config, disk.recover()).expect("our own data");
    let data = Bytes::from_static(&[99, 1, 2, 3]);
    node.apply(vec![replica::CommittedEntry { index: LogIndex(2), term: Term(1), data, membership: None }]);
    let outputs: Vec<Output> = std::iter::from_fn(|| node.poll_output()).collect();
    assert!(matches!(outputs.last(), Some(Output::Fatal(reason)) if reason.contains("newer")), "{outputs:?}");
    assert_eq!(node.poll_timeout(), None);
}

#[test]
fn calls_wait_while_the_state_store_is_too_far_behind() {
    let mut world = World::elected(1);
    let a = world.mount(1);
    world.unsynced.insert(NodeId(1), LogIndex(0));
    let before = world.nodes[&NodeId(1)].applied.0;
    for n in 1..=1000 {
        world.call(a, n, set_xattr(&format!("{}", n % 7), 60_000));
        if n % 200 == 0 {
            world.run(T.heartbeat);
        }
        let sent = world.clients[a].calls.len();
        if sent > limits::SESSION_CALLS_MAX - 1 {
            break;
        }
    }
    world.run(Duration::from_secs(1));
    let applied = (world.nodes[&NodeId(1)].applied.0.0 - before.0) as usize;
    let expected = limits::STATE_BACKLOG_BYTES_MAX / 60_000;
    assert!((expected - 10..expected + 200).contains(&applied), "{applied}, about {expected}");
    assert!(!world.clients[a].calls.is_empty());
    assert!(world.clients[a].lease_until > world.now, "leases go on");
    let index = world.unsynced.remove(&NodeId(1)).expect("just put there");
    world.handle(NodeId(1), Input::StatePersisted { index });
    world.run_until("all answers", |world| world.clients[a].calls.is_empty());
}

#[test]
fn entries_that_the_state_has_are_not_applied_again() {
    let mut world = World::elected(1);
    let a = world.mount(1);
    world.change(a, 1, mkdir("d"));
    let node = world.nodes.get_mut(&NodeId(1)).expect("it lives");
    let (index, term) = node.applied;
    let digest = node.state.digest();
    let data = node.replica.entries(LogIndex(index.0 - 1), index).expect("just applied").next().expect("one").2;
    node.apply(vec![replica::CommittedEntry { index, term, data, membership: None }]);
    let outputs: Vec<Output> = std::iter::from_fn(|| node.poll_output()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, Output::PersistState(_))), "{outputs:?}");
    assert_eq!(node.state.digest(), digest);
}

/// Refused writes left their blocks pinned until the session ended: a loop of them over the quota used up all pins.
#[test]
fn the_pins_of_a_refused_write_are_lifted_and_those_of_one_that_comes_again_are_not() {
    let mut world = World::elected(1);
    let (a, b) = (world.mount(1), world.mount(2));
    world.is_recording = true;
    let mut lifted = |at, sequence, mut operation: Operation| {
        world.trace.clear();
        if let Some(uploads) = operation.uploads_mut() {
            uploads.push(UploadId(7));
        }
        world.call(at, sequence, operation);
        world.run_until("an answer", |world| world.clients[at].answers.contains_key(&Sequence(sequence)));
        let lifts = world.trace.iter().any(|line| line.contains("unpinned: [Uploads"));
        (world.clients[at].answers[&Sequence(sequence)], lifts)
    };
    let piece = || Piece { offset: 0, length: 8, block: Some(BlockHash([1; 32])), content: None };
    assert_eq!(lifted(a, 1, write(Ino(99), vec![piece()])), (Err(Errno::ESTALE), true));
    let (Ok(Reply::Made { ino }), false) = lifted(a, 2, make("f", NewNode::File)) else { panic!("not made") };
    assert_eq!(lifted(a, 3, Operation::Delegate { ino }), (Ok(Reply::Done), false));
    assert_eq!(lifted(b, 1, write(ino, vec![piece()])), (Err(Errno::EAGAIN), false));
    let (Ok(_), true) = lifted(a, 4, write(ino, vec![piece()])) else { panic!("not written") };
}
