//! Nodes whose disks are older than what they promised (docs/protocol.md R71-forgetful).

use super::{
    world::{Breach, World, ms},
    *,
};
use crate::replica::Standing;

fn others(world: &World, leader: NodeId) -> Vec<NodeId> {
    world.ids().into_iter().filter(|id| *id != leader).collect()
}

fn stands(world: &World, id: NodeId, standing: Standing) -> bool {
    world.replica(id).standing() == standing
}

/// Five nodes. A votes for C in term 3, and its disk goes back to before that. L, who leads in term 2, takes A in again,
/// and commits an entry with D and A. C's request to B, late, brings the third vote: does C lead without the entry?
fn late_vote(breach: Option<Breach>) -> World {
    let mut world = World::new(1, 5, 0);
    let l = elected(&mut world);
    let [a, b, c, d] = others(&world, l)[..] else { panic!("five nodes") };
    propose(&mut world, 1);
    assert!(settled(&mut world));
    let backup = world.copy(a);
    world.crash(a);
    world.start(a);
    world.run(ms(2000));
    let term = world.replica(l).status().term;
    world.breach = breach;
    for from in world.ids() {
        for to in world.ids() {
            if (from, to) != (c, a) && (from, to) != (a, c) {
                world.hold(from, to);
            }
        }
    }
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgTimeoutNow);
    (message.from, message.to, message.term) = (l.0, c.0, term.0);
    let bytes = message.write_to_bytes().expect("it encodes").into();
    world.input(c, Input::Raft { from: l, bytes });
    world.run(ms(30));
    assert_eq!(world.replica(a).status().term, Term(term.0 + 1), "A has voted for C");
    world.restore(a, backup);
    for other in world.ids() {
        world.forget_held(a, other);
        world.forget_held(other, a);
        // C is not heard of for a while, nor does it hear.
        world.hold(other, c);
        for to in [l, b, d].into_iter().filter(|_| other != c) {
            world.release(other, to);
        }
    }
    world.hold(c, a);
    if breach.is_some() {
        world.hold(l, b);
    }
    world.start(a);
    if breach.is_none() {
        assert!(!world.run_until(ms(200), |world| stands(world, a, Standing::TakesPart)));
    }
    assert!(world.run_until(ms(4000), |world| stands(world, a, Standing::TakesPart)));
    assert_eq!(world.leader(), Some(l));
    world.hold(l, b);
    world.input(l, Input::Propose { token: 9, data: data(9) });
    assert!(world.run_until(ms(300), |world| has(world, l, 9)), "L, D and A are a majority");
    world.release(c, b);
    world.release(b, c);
    world.run(ms(50));
    world
}

#[test]
fn a_forgotten_vote_elects_nobody_without_what_was_committed_since() {
    let mut world = late_vote(None);
    let c = *world.ids().iter().find(|id| world.replica(**id).status().term > Term(2)).expect("C campaigns");
    assert!(!world.replica(c).is_leading(), "B has the entry behind the hello and refuses");
    for from in world.ids() {
        for to in world.ids() {
            world.release(from, to);
        }
    }
    assert!(settled(&mut world));
    assert!(world.ids().iter().all(|id| has(&world, *id, 9)));
    assert_eq!(world.seen.warnings.iter().filter(|(id, _)| *id == ONE || *id == NodeId(2)).count(), 1);
}

#[test]
fn a_forgotten_vote_loses_a_write_where_forgetting_goes_unnoticed() {
    for breach in [Breach::Trust, Breach::NoEntry] {
        let world = late_vote(Some(breach));
        let leader = world.leader().expect("C leads");
        assert!(!has(&world, leader, 9), "{breach:?}: the one of the later term lacks what was committed");
    }
}

/// The disk goes back within one boot, where only what it acknowledged tells.
#[test]
fn a_shorter_log_is_noticed_refilled_and_remembered_as_whole() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 0);
        let leader = elected(&mut world);
        propose(&mut world, 1);
        assert!(settled(&mut world));
        let victim = others(&world, leader)[usize::try_from(seed % 2).expect("small")];
        let backup = world.copy(victim);
        for token in 2..20 {
            propose(&mut world, token);
            world.run(ms(20));
        }
        // All others end as well: their disks remember.
        world.run(ms(1500));
        world.restore(victim, backup);
        for other in others(&world, victim) {
            world.crash(other);
        }
        world.start_all();
        assert!(world.run_until(ms(1000), |world| stands(world, victim, Standing::Forgetful)), "seed {seed}");
        // It remembers across a restart that it has forgotten, whom it meets first or not.
        world.run(ms(50));
        world.crash(victim);
        world.start(victim);
        assert!(stands(&world, victim, Standing::Forgetful));
        assert!(world.run_until(ms(8000), |world| stands(world, victim, Standing::TakesPart)), "seed {seed}");
        assert!(settled(&mut world) && has(&world, victim, 19), "seed {seed}");
        // And it is a voter like any other.
        let leader = world.leader().expect("settled");
        let third = world.ids().into_iter().find(|id| *id != leader && *id != victim).expect("three nodes");
        world.crash(third);
        propose(&mut world, 30);
        assert!(world.run_until(ms(3000), |world| has(world, victim, 30)), "seed {seed}");
        world.crash(victim);
        world.start(victim);
        assert!(world.run_until(ms(3000), |world| stands(world, victim, Standing::TakesPart)), "seed {seed}");
        assert!(world.seen.refused.is_empty(), "seed {seed}: {:?}", world.seen.refused);
    }
}

#[test]
fn a_blank_disk_under_a_used_number_is_forgetful_too() {
    let mut world = World::new(4, 3, 0);
    let leader = elected(&mut world);
    let victim = others(&world, leader)[0];
    let blank = World::new(4, 3, 0).copy(victim);
    for token in 1..5 {
        propose(&mut world, token);
    }
    assert!(settled(&mut world));
    world.restore(victim, blank);
    world.start(victim);
    assert!(world.run_until(ms(1500), |world| stands(world, victim, Standing::Forgetful)));
    assert!(world.run_until(ms(4000), |world| stands(world, victim, Standing::TakesPart)));
    assert!(settled(&mut world) && has(&world, victim, 4));
}

/// Each hello was answered with one, without a pause and without an end: neither ever greeted the other.
#[test]
fn nodes_that_do_not_greet_each_other_say_hello_once_a_heartbeat() {
    let mut world = World::new(5, 3, 0);
    let leader = elected(&mut world);
    let victim = others(&world, leader)[0];
    let backup = world.copy(victim);
    for token in 1..20 {
        propose(&mut world, token);
    }
    assert!(settled(&mut world));
    world.run(ms(2000));
    world.restore(victim, backup);
    world.crash(leader);
    world.start(victim);
    assert!(world.run_until(ms(1000), |world| stands(world, victim, Standing::Forgetful)));
    // Begun anew, it knows from the start that it may greet nobody.
    world.run(ms(50));
    world.crash(victim);
    world.start(victim);
    let before = world.seen.hellos;
    let time = ms(15_000);
    world.run(time);
    assert!(stands(&world, victim, Standing::Forgetful), "nobody leads");
    let said = world.seen.hellos - before;
    let heartbeats = u64::try_from(time.as_nanos() / TIMING.heartbeat.as_nanos()).expect("small");
    let is_told = |(id, sentence): &(NodeId, String)| *id == victim && sentence.contains("no leader has refilled");
    assert_eq!(world.seen.warnings.iter().filter(|warning| is_told(warning)).count(), 1);
    // The forgetful one to both others, the healthy one to both of them.
    assert!((heartbeats..=4 * heartbeats).contains(&said), "{said} hellos in {heartbeats} heartbeats");
}

#[test]
fn restarts_that_forget_nothing_are_never_taken_for_forgetful() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3 + 2 * (seed % 2), 0);
        elected(&mut world);
        for token in 0..60 {
            propose(&mut world, token);
            world.run(ms(30));
            let ids = world.ids();
            let victim = ids[usize::try_from(world.dice.roll(ids.len() as u64)).expect("small")];
            match token % 6 {
                0 => world.crash(victim),
                3 => world.start_all(),
                5 => ids.iter().for_each(|id| world.crash(*id)),
                _ => {}
            }
        }
        world.start_all();
        assert!(settled(&mut world), "seed {seed}");
        assert!(world.seen.warnings.is_empty(), "seed {seed}: {:?}", world.seen.warnings);
    }
}
