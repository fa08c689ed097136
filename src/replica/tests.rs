//! Groups of replicas over a bad network in virtual time. The world itself checks log agreement, one leader a term,
//! and that no lease outlives the wait of a later leader.

mod forgetful;
mod world;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use world::{TIMING, World, ms};

use super::{Input, Replica};
use crate::message::peer::{Greeting, Hello, Life, Recollection, Verdict};
use crate::{
    message::{log::LogBatch, peer::PeerMessage},
    types::{Instant, LogIndex, NodeId, Term},
};

const ONE: NodeId = NodeId(1);

fn data(token: u64) -> Bytes {
    Bytes::from(format!("entry {token}"))
}

fn propose(world: &mut World, token: u64) {
    if let Some(leader) = world.leader() {
        world.input(leader, Input::Propose { token, data: data(token) });
    }
}

fn elected(world: &mut World) -> NodeId {
    let bound = TIMING.election + 8 * TIMING.election_slot;
    let since = world.now;
    assert!(world.run_until(bound, |world| world.leader().is_some()), "no leader {bound:?} after {since:?}");
    world.leader().expect("it was just there")
}

/// All nodes that are up have what was committed.
fn settled(world: &mut World) -> bool {
    world.run_until(ms(6000), |world| world.leader().is_some() && world.agrees())
}

fn has(world: &World, node: NodeId, token: u64) -> bool {
    world.state(node).iter().any(|(_, found)| *found == data(token))
}

#[test]
fn a_lone_voter_leads_and_confirms_at_once() {
    let mut world = World::new(1, 1, 0);
    assert!(world.run_until(ms(10), |world| world.leader() == Some(ONE)), "as soon as its disk counts its start");
    assert!(world.run_until(ms(10), |world| world.seen.committed.len() == 1));
    world.input(ONE, Input::ConfirmLease { ticket: 4 });
    assert_eq!(world.seen.leases, [(world.now, Term(2))]);
    propose(&mut world, 1);
    assert!(world.run_until(ms(10), |world| has(world, ONE, 1)));
    // After a restart it leads at once again, but knows nothing of the leases it granted: X must pass.
    world.crash(ONE);
    world.start(ONE);
    assert!(world.run_until(ms(10), |world| world.leader() == Some(ONE)));
    assert_eq!(world.seen.leaders[&Term(3)], (ONE, world.now, TIMING.lease));
    assert!(world.run_until(ms(10), |world| world.replica(ONE).status().committed.0 >= 4));
}

#[test]
fn a_leader_is_elected_within_the_bound_at_start_and_after_a_kill() {
    for voters in [3, 5, 7] {
        for seed in 0..20 {
            let mut world = World::new(seed, voters, 0);
            let first = elected(&mut world);
            propose(&mut world, 1);
            world.run(ms(2000));
            world.crash(first);
            let killed = world.now;
            let second = elected(&mut world);
            assert_ne!(first, second);
            // Nobody is elected within a promise to the dead.
            assert!(world.now.since(killed) >= TIMING.election - TIMING.heartbeat - ms(5));
            assert!(settled(&mut world) && has(&world, second, 1), "acknowledged entries survive");
        }
    }
}

#[test]
fn a_cut_off_leader_confirms_nothing_and_steps_down() {
    let mut world = World::new(5, 3, 0);
    let old = elected(&mut world);
    world.run(ms(500));
    world.input(old, Input::ConfirmLease { ticket: 1 });
    world.run(ms(20));
    assert_eq!(world.seen.leases.len(), 1, "a healthy leader confirms within a round trip");
    world.cut_off(old);
    let since = world.now;
    for ticket in 2..100 {
        world.input(old, Input::ConfirmLease { ticket });
        world.run(ms(20));
    }
    assert_eq!(world.seen.leases.len(), 1, "nothing was acknowledged");
    assert!(!world.replica(old).is_leading(), "check-quorum ended it");
    let (_, begun, _) = world.seen.leaders.last_key_value().expect("there were leaders").1;
    assert!(begun.since(since) > ms(0), "the others went on");
    world.heal();
    assert!(settled(&mut world));
}

#[test]
fn leases_are_asked_for_all_the_time_and_never_outlive_a_later_leader() {
    for seed in 0..60 {
        let mut world = World::new(seed, 3 + 2 * (seed % 2), 0);
        (world.loss, world.doubles, world.delay_ms) = (20, 20, 1 + seed % 60);
        let mut ticket = 0;
        for _ in 0..60 {
            let ids = world.ids();
            let victim = ids[usize::try_from(world.dice.roll(ids.len() as u64)).expect("small")];
            match world.dice.roll(8) {
                0 => world.cut_off(victim),
                1 => world.heal(),
                2 => world.crash(victim),
                3 => world.start_all(),
                4 => {
                    let to = Some(victim).filter(|_| seed % 3 == 0);
                    for id in ids.iter().copied() {
                        world.input(id, Input::Transfer { to });
                    }
                }
                5 => world.cut_one_way(victim, ids[0]),
                _ => {}
            }
            for _ in 0..4 {
                for id in &ids {
                    ticket += 1;
                    world.input(*id, Input::ConfirmLease { ticket });
                }
                propose(&mut world, ticket);
                world.run(ms(60));
            }
        }
        world.heal();
        world.start_all();
        (world.loss, world.delay_ms) = (0, 2);
        assert!(settled(&mut world), "seed {seed}: no agreement after all faults");
        assert!(!world.seen.leases.is_empty(), "seed {seed}: no lease was ever confirmed");
        assert!(world.seen.refused.is_empty(), "seed {seed}: {:?}", world.seen.refused);
    }
}

/// A replica of three on its own, its disk at once done, its peers played by the test.
struct Voter {
    replica: Replica,
    now: Instant,
}

impl Voter {
    fn open(hard_state: Option<Bytes>) -> Self {
        let restart = super::Restart {
            hard_state,
            membership: Replica::membership_of(&[ONE, NodeId(2), NodeId(3)]),
            applied: (LogIndex(1), Term(1)),
            entries: Vec::new(),
            compacted: (LogIndex(1), Term(1)),
        };
        let config = super::Config { id: ONE, timing: TIMING, seed: 1, nonce: 7 };
        let replica = Replica::open(Instant(0), config, restart).expect("a good start");
        let mut voter = Self { replica, now: Instant(0) };
        voter.run_to(0);
        voter.be_greeted();
        voter
    }

    /// The other two begin as well, and know nothing against this one.
    fn be_greeted(&mut self) {
        let by = Life { boot: 1, nonce: 1 };
        let hello = Hello { life: by, term: Term(1), last: LogIndex(1), recollection: Recollection::Whole };
        let life = self.replica.greetings.hello.life;
        for from in [NodeId(2), NodeId(3)] {
            self.replica.handle(self.now, Input::Hello { from, hello });
            let greeting = Greeting { life, by, verdict: Verdict::Welcome };
            self.replica.handle(self.now, Input::Greeting { from, greeting });
        }
        self.run_to(0);
    }

    fn message(&mut self, kind: MessageType, from: u64, term: u64) {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.from, message.to, message.term, message.index, message.log_term) = (from, 1, term, 1, 1);
        let bytes = message.write_to_bytes().expect("it encodes").into();
        self.replica.handle(self.now, Input::Raft { from: NodeId(from), bytes });
    }

    /// Runs to this time in steps of a tick and says which kinds of raft messages went out, and the last batch written.
    fn run_to(&mut self, milliseconds: u64) -> (Vec<MessageType>, Option<LogBatch>) {
        let (mut sent, mut written) = (Vec::new(), None);
        let end = Instant(0).after(ms(milliseconds));
        loop {
            self.replica.handle(self.now, Input::Tick);
            while let Some(output) = self.replica.poll_output() {
                match output {
                    super::Output::Persist(batch) => {
                        self.replica.handle(self.now, Input::Persisted { number: batch.number });
                        written = Some(batch);
                    }
                    super::Output::Send { message: PeerMessage::Raft(bytes), .. } => {
                        sent.push(Message::parse_from_bytes(&bytes).expect("raft's own").get_msg_type());
                    }
                    _ => {}
                }
            }
            if self.now >= end {
                return (sent, written);
            }
            self.now = self.now.after(ms(20)).min(end);
        }
    }
}

#[test]
fn a_voter_keeps_its_promise_by_the_clock_whatever_raft_believes() {
    let mut voter = Voter::open(None);
    voter.message(MessageType::MsgAppend, 2, 5);
    voter.run_to(600);
    voter
        .replica
        .handle(voter.now, Input::Heartbeat { from: NodeId(2), term: Term(5), round: 1, marks: vec![], alive: vec![] });
    // Raft last heard of the leader 740 ms ago and would both vote and, a slot later, campaign.
    voter.run_to(740);
    voter.message(MessageType::MsgRequestPreVote, 3, 6);
    voter.message(MessageType::MsgRequestVote, 3, 6);
    assert_eq!(voter.run_to(1290).0, []);
    voter.run_to(1300);
    voter.message(MessageType::MsgRequestVote, 3, 6);
    assert_eq!(voter.run_to(1300).0, [MessageType::MsgRequestVoteResponse]);
}

#[test]
fn a_restarted_voter_abstains_for_a_promise() {
    let mut voter = Voter::open(None);
    voter.message(MessageType::MsgAppend, 2, 5);
    let hard_state = voter.run_to(0).1.expect("a term to keep").hard_state;
    let mut again = Voter::open(hard_state);
    again.message(MessageType::MsgRequestPreVote, 3, 6);
    again.message(MessageType::MsgRequestVote, 3, 6);
    assert_eq!(again.run_to(690).0, []);
    again.run_to(700);
    again.message(MessageType::MsgRequestVote, 3, 6);
    assert_eq!(again.run_to(700).0, [MessageType::MsgRequestVoteResponse]);
    // One that never belonged to anything has nothing to keep.
    let mut new = Voter::open(None);
    new.message(MessageType::MsgRequestVote, 3, 6);
    assert_eq!(new.run_to(0).0, [MessageType::MsgRequestVoteResponse]);
}

#[test]
fn time_that_stood_still_is_not_made_up() {
    let mut voter = Voter::open(None);
    voter.message(MessageType::MsgAppend, 2, 5);
    voter.run_to(100);
    voter.now = Instant(0).after(ms(10_000));
    assert_eq!(voter.run_to(10_500).0, [], "ten seconds asleep are one tick");
    assert!(voter.run_to(11_000).0.contains(&MessageType::MsgRequestPreVote));
}

#[test]
fn a_vote_leaves_only_when_it_is_on_the_disk() {
    let mut voter = Voter::open(None);
    voter.message(MessageType::MsgRequestVote, 3, 6);
    let mut batch = None;
    while let Some(output) = voter.replica.poll_output() {
        match output {
            super::Output::Persist(written) => batch = Some(written.number),
            super::Output::Send { message, .. } => panic!("{message:?} left before its promise was synced"),
            _ => {}
        }
    }
    voter.replica.handle(voter.now, Input::Persisted { number: batch.expect("the vote is written") });
    assert_eq!(voter.run_to(0).0, [MessageType::MsgRequestVoteResponse]);
}

#[test]
fn a_conflicting_suffix_gives_way() {
    let mut world = World::new(8, 3, 0);
    let old = elected(&mut world);
    propose(&mut world, 1);
    world.run(ms(300));
    world.cut_off(old);
    for token in 10..20 {
        world.input(old, Input::Propose { token, data: data(token) });
    }
    world.run(ms(50));
    assert!(world.run_until(ms(3000), |world| world.leader().is_some_and(|leader| leader != old)));
    propose(&mut world, 2);
    world.run(ms(200));
    // It comes back with its suffix on the disk.
    world.crash(old);
    world.heal();
    world.start(old);
    assert!(settled(&mut world));
    assert!(has(&world, old, 1) && has(&world, old, 2) && !has(&world, old, 15));
    assert!(world.seen.refused.is_empty(), "{:?}", world.seen.refused);
}

#[test]
fn what_was_committed_survives_the_restart_of_all() {
    let mut world = World::new(9, 3, 0);
    elected(&mut world);
    for token in 0..50 {
        propose(&mut world, token);
    }
    assert!(world.run_until(ms(1000), |world| world.ids().iter().all(|id| has(world, *id, 49))));
    world.ids().into_iter().for_each(|id| world.crash(id));
    world.ids().into_iter().for_each(|id| world.start(id));
    // Each abstains for E, then a slot, then perhaps one try again.
    assert!(world.run_until(ms(2000), |world| world.leader().is_some()));
    assert!(settled(&mut world));
    for id in world.ids() {
        assert!((0..50).all(|token| has(&world, id, token)));
    }
}

#[test]
fn who_lags_behind_the_log_gets_a_snapshot() {
    for seed in 0..30 {
        let mut world = World::new(seed, 3, 0);
        world.loss = if seed % 2 == 0 { 0 } else { 50 };
        elected(&mut world);
        let leader = world.leader().expect("elected");
        let laggard = *world.ids().iter().find(|id| **id != leader).expect("three nodes");
        world.crash(laggard);
        for token in 0..40 {
            propose(&mut world, token);
            world.run(ms(5));
        }
        world.run(ms(300));
        world.compact_all();
        world.start(laggard);
        world.run(ms(1500));
        propose(&mut world, 100);
        assert!(settled(&mut world), "seed {seed}");
        assert!(world.seen.snapshots > 0, "seed {seed}");
        assert!(
            (0..40).filter(|token| world.seen.proposed.contains_key(token)).all(|token| has(&world, laggard, token))
        );
        // And it can take part: its log goes on from the snapshot, also after a restart.
        world.crash(laggard);
        world.start(laggard);
        propose(&mut world, 101);
        assert!(settled(&mut world), "seed {seed}");
    }
}

#[test]
fn leadership_moves_within_200_ms_when_it_is_asked_to() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 0);
        let old = elected(&mut world);
        propose(&mut world, 1);
        world.run(ms(500));
        world.input(old, Input::ConfirmLease { ticket: 1 });
        world.run(ms(50));
        world.input(old, Input::Transfer { to: None });
        world.input(old, Input::ConfirmLease { ticket: 2 });
        world.input(old, Input::Propose { token: 9, data: data(9) });
        assert!(world.seen.dropped.contains(&9), "a leader that hands over takes nothing");
        assert!(world.run_until(ms(200), |world| world.leader().is_some_and(|leader| leader != old)));
        let (term, (_, _, grace)) = world.seen.leaders.last_key_value().expect("there are leaders");
        assert_eq!(*grace, TIMING.lease, "no promise was waited out before term {term}");
        assert_eq!(world.seen.leases.len(), 1, "the lease was gone before the transfer");
        propose(&mut world, 2);
        assert!(settled(&mut world));
    }
}

#[test]
fn a_transfer_that_fails_ends_in_a_new_term_with_leases() {
    let mut world = World::new(3, 3, 0);
    let old = elected(&mut world);
    world.run(ms(300));
    let to = *world.ids().iter().find(|id| **id != old).expect("three nodes");
    let before = world.replica(old).status().term;
    world.crash(to);
    world.input(old, Input::Transfer { to: Some(to) });
    world.input(old, Input::ConfirmLease { ticket: 1 });
    world.run(ms(100));
    assert!(world.seen.leases.is_empty());
    assert!(world.run_until(ms(3000), |world| {
        world.leader().is_some_and(|leader| world.replica(leader).status().term > before)
    }));
    world.run(ms(100));
    let leader = world.leader().expect("it was just there");
    world.input(leader, Input::ConfirmLease { ticket: 2 });
    world.run(ms(100));
    assert_eq!(world.seen.leases.len(), 1);
}

#[test]
fn a_leader_whose_disk_stands_still_gives_way() {
    let mut world = World::new(4, 3, 0);
    let old = elected(&mut world);
    world.run(ms(300));
    world.stick_disk(old);
    propose(&mut world, 1);
    assert!(world.run_until(ms(3000), |world| world.leader().is_some_and(|leader| leader != old)));
    let leader = world.leader().expect("it was just there");
    world.input(leader, Input::Propose { token: 2, data: data(2) });
    assert!(world.run_until(ms(500), |world| has(world, leader, 2)));
}

/// It campaigned by raft's own timeout while its log was on the way to the disk, and won at once: raft ended the process
/// ("last_index == persisted").
#[test]
fn a_lone_voter_whose_disk_is_slow_goes_on() {
    for seed in 0..30 {
        let mut world = World::new(seed, 1, 0);
        world.slow_disk(ONE, 50_000 << (seed % 8));
        for token in 1..1500 {
            if world.leader() == Some(ONE) {
                world.input(ONE, Input::Propose { token, data: data(token) });
            }
            world.run(ms(10 + token % 17));
        }
        world.slow_disk(ONE, 3000);
        world.run(ms(10_000));
        assert_eq!(world.leader(), Some(ONE), "seed {seed}");
        let before = world.seen.committed.len();
        world.input(ONE, Input::Propose { token: 9999, data: data(9999) });
        assert!(world.run_until(ms(100), |world| world.seen.committed.len() > before), "seed {seed}");
    }
}

#[test]
fn one_becomes_three_and_three_become_one() {
    let mut world = World::new(6, 1, 2);
    let (two, three) = (NodeId(2), NodeId(3));
    world.run(ms(10));
    propose(&mut world, 1);
    world.run(ms(50));
    world.compact_all();
    let none = Vec::new;
    world.input(
        ONE,
        Input::ChangeMembership { token: 50, add_learners: vec![two, three], promote: none(), remove: none() },
    );
    world.input(
        ONE,
        Input::ChangeMembership { token: 51, add_learners: vec![NodeId(4)], promote: none(), remove: none() },
    );
    assert!(world.seen.dropped.contains(&51), "one change at a time");
    world.run(ms(3000));
    assert!(has(&world, two, 1) && has(&world, three, 1), "learners are brought up to date");
    assert!(!world.replica(ONE).status().peers.iter().any(|peer| peer.id != ONE && peer.voter));
    world.input(
        ONE,
        Input::ChangeMembership { token: 52, add_learners: none(), promote: vec![two, three], remove: none() },
    );
    world.run(ms(100));
    // Joint for E: leases of the old configuration run out in it.
    world.cut_off(two);
    world.run(ms(300));
    world.heal();
    world.run(ms(3000));
    assert!(world.replica(ONE).status().peers.iter().all(|peer| peer.voter));
    world.crash(world.leader().expect("a leader"));
    assert!(world.run_until(ms(2500), |world| world.leader().is_some()), "two of three go on");
    world.start(ONE);
    propose(&mut world, 2);
    assert!(settled(&mut world));
    let leader = world.leader().expect("a leader");
    let others: Vec<NodeId> = world.ids().into_iter().filter(|id| *id != leader).collect();
    world.input(
        leader,
        Input::ChangeMembership { token: 53, add_learners: none(), promote: none(), remove: others.clone() },
    );
    world.run(ms(3000));
    others.iter().for_each(|id| world.crash(*id));
    propose(&mut world, 3);
    assert!(world.run_until(ms(500), |world| has(world, leader, 3)), "one goes on alone");
}

#[test]
fn a_leader_that_is_removed_steps_down() {
    let mut world = World::new(7, 3, 0);
    let old = elected(&mut world);
    world.run(ms(300));
    world.input(old, Input::ChangeMembership { token: 1, add_learners: vec![], promote: vec![], remove: vec![old] });
    assert!(world.run_until(ms(5000), |world| world.leader().is_some_and(|leader| leader != old)));
    assert!(!world.replica(old).is_leading());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let mut world = World::new(seed, 5, 0);
        (world.loss, world.doubles, world.delay_ms) = (50, 50, 30);
        for token in 0..100 {
            propose(&mut world, token);
            world.run(ms(40));
            if token % 20 == 7 {
                let victim = world.leader().unwrap_or(ONE);
                world.crash(victim);
                world.run(ms(500));
                world.start(victim);
            }
        }
        world.trace
    };
    let traces: Vec<u64> = (0..4).map(run).collect();
    assert_eq!(traces, (0..4).map(run).collect::<Vec<_>>());
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn damaged_beginnings_are_told_not_survived() {
    let config = super::Config { id: ONE, timing: TIMING, seed: 1, nonce: 7 };
    let good = super::Restart {
        hard_state: None,
        membership: Replica::membership_of(&[ONE]),
        applied: (LogIndex(1), Term(1)),
        entries: Vec::new(),
        compacted: (LogIndex(1), Term(1)),
    };
    assert!(Replica::open(Instant(0), config, good.clone()).is_ok());
    let gap = super::Restart { compacted: (LogIndex(5), Term(1)), ..good.clone() };
    assert!(Replica::open(Instant(0), config, gap).is_err());
    let membership = super::Restart { membership: Bytes::from_static(&[0x0a, 0x01, 0x00]), ..good.clone() };
    assert!(Replica::open(Instant(0), config, membership).is_err());
    let hard_state = super::Restart { hard_state: Some(Bytes::from_static(&[0xff])), ..good };
    assert!(Replica::open(Instant(0), config, hard_state).is_err());
}
