//! Wall clocks that are wrong: what is stamped meanwhile, and who leads.

use super::*;

const DAYS_30: i64 = 30 * 24 * 3600 * 1_000_000_000;

impl World {
    fn set_clock(&mut self, id: NodeId, ahead: i64) {
        self.clocks.insert(id, ahead);
    }

    /// Makes a directory; by how many seconds its times are ahead of the truth.
    fn stamped(&mut self, at: usize, sequence: u64) -> i64 {
        let name = format!("d{sequence}");
        self.change(at, sequence, mkdir(&name));
        let volume = self.clients[at].volume.as_ref().expect("it is caught up");
        let name = Name::new(name.as_bytes()).expect("a good name");
        let made = volume.lookup(Ino::ROOT, &name).and_then(|ino| volume.attributes(ino)).expect("just made");
        let truth = (self.epoch + self.now.0) / 1_000_000_000;
        made.mtime.seconds - i64::try_from(truth).expect("this century")
    }

    fn warnings_of(&self, id: NodeId) -> Vec<&str> {
        self.warnings.iter().filter(|(of, _)| *of == id).map(|(_, sentence)| sentence.as_str()).collect()
    }

    fn followers(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().filter(|id| Some(*id) != self.leader()).collect()
    }
}

/// A leader whose clock was 30 days ahead for a moment left times that were 30 days ahead for good.
#[test]
fn one_wrong_clock_stamps_nothing_be_it_the_leaders() {
    for wrong in [DAYS_30, -DAYS_30] {
        for leads in [true, false] {
            let mut world = World::elected(3);
            let a = world.mount(1);
            let victim = if leads { world.leader().expect("elected") } else { world.followers()[0] };
            let mut sequence = 0;
            // There and back, at once and for a while: the median wins at every moment.
            for ahead in [0, wrong, 0, wrong] {
                world.set_clock(victim, ahead);
                for pause in [0, 90, 2000] {
                    sequence += 1;
                    let off = world.stamped(a, sequence);
                    assert!(off.abs() <= 1, "{off} s with {victim} (leads: {leads}) {ahead} ns ahead");
                    world.run(Duration::from_millis(pause));
                }
            }
            world.agree();
            assert_eq!(world.nodes[&victim].clock().jumps, 3);
            assert_eq!(world.nodes[&victim].clock().ahead_ms, Some(wrong / 1_000_000));
            assert_eq!(world.warnings_of(victim).len(), 3, "{:?}", world.warnings);
        }
    }
}

#[test]
fn of_two_voters_that_are_left_the_one_that_jumps_is_not_believed() {
    for wrong in [DAYS_30, -DAYS_30] {
        let mut world = World::elected(3);
        let a = world.mount(1);
        world.kill(world.followers()[0]);
        world.run(Duration::from_secs(3));
        for (n, victim) in [world.leader().expect("elected"), world.followers()[0]].into_iter().enumerate() {
            world.set_clock(victim, wrong);
            world.run(Duration::from_millis(300));
            let off = world.stamped(a, 1 + n as u64);
            assert!(off.abs() <= 1, "{off} s");
            world.set_clock(victim, 0);
            world.run(Duration::from_secs(1));
        }
    }
}

/// All start again and only the wrong one and another are there: what was stamped last says whose clock is right.
#[test]
fn a_cluster_that_starts_with_a_wrong_clock_goes_on_from_its_last_stamp() {
    for wrong in [DAYS_30, -DAYS_30] {
        let mut world = World::elected(3);
        let a = world.mount(1);
        world.stamped(a, 1);
        world.agree();
        let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
        ids.iter().for_each(|id| world.kill(*id));
        world.run(Duration::from_secs(10));
        world.set_clock(ids[0], wrong);
        ids[..2].iter().for_each(|id| world.start(*id));
        let off = world.stamped(a, 2);
        assert!(off.abs() <= 1, "{off} s with {wrong}");
    }
}

#[test]
fn whoever_leads_next_goes_on_from_what_time_it_was() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    world.stamped(a, 1);
    let victim = world.followers()[0];
    world.set_clock(victim, DAYS_30);
    let ticket = 9;
    world.ask(world.leader().expect("elected"), ticket, AdminRequest::TransferLeader { to: Some(victim) });
    world.run_until("the victim to lead", |world| world.leader() == Some(victim));
    let off = world.stamped(a, 2);
    assert!(off.abs() <= 1, "{off} s");
}

#[test]
fn leadership_moves_to_a_better_clock_once() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let wrong = world.leader().expect("elected");
    world.set_clock(wrong, DAYS_30);
    world.run_until("another leader", |world| world.leader().is_some_and(|leader| leader != wrong));
    let better = world.leader();
    assert!(world.warnings_of(wrong).iter().any(|sentence| sentence.contains("is wrong")), "{:?}", world.warnings);
    assert!(world.change(a, 1, mkdir("d")) < Duration::from_secs(2));
    world.run(Duration::from_secs(600));
    assert_eq!(world.leader(), better, "once there, it stays");
    assert_eq!(world.warnings_of(wrong).len(), 2, "{:?}", world.warnings);
    // It leads again because somebody says so: it gives leadership back, and not at once again.
    let transfer = |world: &mut World| {
        let leader = world.leader().expect("there is one");
        world.ask(leader, 7, AdminRequest::TransferLeader { to: Some(wrong) });
        world.run_until("the transfer", |world| world.leader() == Some(wrong));
    };
    transfer(&mut world);
    world.run_until("a better leader", |world| world.leader().is_some_and(|leader| leader != wrong));
    transfer(&mut world);
    world.run(T.session / 2);
    assert_eq!(world.leader(), Some(wrong));
}

#[test]
fn a_wrong_clock_leads_where_no_better_one_can() {
    let mut world = World::elected(3);
    let a = world.mount(1);
    let wrong = world.leader().expect("elected");
    let [one, other] = world.followers()[..] else { panic!("two followers") };
    world.set_clock(wrong, DAYS_30);
    // One has no space, and the other has a clock of its own.
    world.handle(one, Input::Space(Space { total: 1 << 40, available: 0 }));
    world.set_clock(other, -DAYS_30);
    world.run(Duration::from_secs(60));
    assert_eq!(world.leader(), Some(wrong));
    let off = world.stamped(a, 1);
    assert!(off.abs() <= 1, "{off} s");
    // The one with space is gone, and comes back behind the rest.
    world.kill(other);
    world.run(Duration::from_secs(60));
    assert_eq!(world.leader(), Some(wrong), "to nobody");
}

#[test]
fn the_only_voter_follows_its_clock_and_says_each_jump() {
    let mut world = World::elected(1);
    let a = world.mount(1);
    let id = NodeId(1);
    assert!(world.stamped(a, 1).abs() <= 1);
    world.set_clock(id, DAYS_30);
    world.run(Duration::from_millis(200));
    assert!((world.stamped(a, 2) - DAYS_30 / 1_000_000_000).abs() <= 1);
    assert_eq!(world.warnings_of(id).len(), 1);
    assert!(world.warnings_of(id)[0].contains("2592000.0 s ahead"), "{:?}", world.warnings);
    world.set_clock(id, 0);
    world.run(Duration::from_millis(200));
    // The directory that both were made in keeps the time of then, and still changes it; what is new is right.
    let root = |world: &World| world.nodes[&id].state.volume_named("main").and_then(|main| main.attributes(Ino::ROOT));
    let before = root(&world).expect("the root");
    assert!(world.stamped(a, 3).abs() <= 1);
    let after = root(&world).expect("the root");
    assert!(after.mtime > before.mtime && after.ctime > before.ctime);
    assert_eq!(world.nodes[&id].clock(), ClockStatus { jumps: 2, ahead_ms: Some(0) });
    // Restarted, from its rows.
    world.kill(id);
    world.start(id);
    assert!(world.stamped(a, 4).abs() <= 1);
    assert_eq!(world.warnings_of(id).len(), 2);
}

#[test]
fn a_clock_that_is_kept_right_is_no_news() {
    let mut world = World::elected(3);
    let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
    for step in 0..100 {
        ids.iter().for_each(|id| world.set_clock(*id, step * 5_000_000));
        world.run(Duration::from_millis(50));
    }
    assert_eq!(world.warnings, []);
}
