//! docs/protocol.md R27-handover: leadership goes elsewhere when no lease stands that the successor would wait for in
//! vain.

use super::*;

const MAIN: VolumeId = VolumeId(1);

fn keys(mounts: &[Mounted]) -> BTreeSet<Key> {
    mounts.iter().map(|mounted| (MAIN, mounted.session)).collect()
}

/// Two mounts that are caught up and hold leases.
fn two(bench: &mut Bench) -> (Mounted, Mounted) {
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.acknowledge(a, b.caught_up_at);
    bench.entries(a);
    (a, b)
}

fn back(bench: &mut Bench, mount: u128, before: Mounted) -> Mounted {
    let connection = bench.connect();
    let (session, applied) = (Some(before.session), before.caught_up_at);
    let hello = Hello { session, generation: Generation(2), applied, ..Bench::hello(mount) };
    let mounted = bench.attach_on(connection, hello);
    bench.acknowledge(mounted, mounted.caught_up_at);
    mounted
}

#[test]
fn every_mount_is_heard_of_once_more_and_then_gets_no_lease_in_this_term() {
    let mut bench = Bench::leading();
    let (a, b) = two(&mut bench);
    bench.wait(T.heartbeat);
    bench.input(Input::HandOver { to: Some(NodeId(3)), likely: None });
    bench.wait(T.heartbeat);
    assert_eq!(bench.renewed(a, 2), Some(2));
    assert_eq!(bench.handed_over, [], "nothing was heard of b since");
    assert_eq!(bench.renewed(b, 2), None);
    assert_eq!(bench.handed_over, [(Some(NodeId(3)), Some((bench.term, keys(&[a, b]))))]);
    assert_eq!(bench.renewed(a, 3), None);
    bench.wait(T.heartbeat);
    assert_eq!(bench.renewed(b, 3), None);
    // The other did not take over: a new term begins.
    bench.elect();
    bench.commit();
    let a = back(&mut bench, 1, a);
    assert_eq!(bench.renewed(a, 1), Some(1));
}

#[test]
fn mounts_are_told_where_leadership_will_go() {
    let mut bench = Bench::leading();
    let (a, b) = two(&mut bench);
    for (to, likely, successor) in [(Some(2), Some(3), 2), (None, Some(3), 3)] {
        bench.input(Input::HandOver { to: to.map(NodeId), likely: likely.map(NodeId) });
        for mounted in [a, b] {
            bench.entries(mounted);
            let leader = format!("n{successor}:7440");
            assert_eq!(bench.take(mounted.connection), Some(ToMount::Prepare { leader }));
        }
    }
}

#[test]
fn the_lease_of_a_mount_that_says_nothing_is_waited_out_while_changes_go_on() {
    let mut bench = Bench::leading();
    let (a, b) = two(&mut bench);
    bench.wait(T.heartbeat);
    bench.input(Input::HandOver { to: None, likely: None });
    let mut number = 1;
    while bench.in_roster(b) {
        assert_eq!(bench.handed_over, []);
        bench.wait(T.heartbeat);
        number += 1;
        assert!(bench.renewed(a, number).is_some() || !bench.handed_over.is_empty());
    }
    assert_eq!(bench.handed_over, [(None, Some((bench.term, keys(&[a]))))]);
    bench.change(a, 1, mkdir("d"));
    assert!(bench.answer(a).is_some(), "until another leads, this one does");
}

#[test]
fn a_mount_that_keeps_others_waiting_is_waited_out() {
    let mut bench = Bench::leading();
    let (a, b) = two(&mut bench);
    bench.change(a, 1, mkdir("d"));
    bench.wait(T.lease / 2);
    bench.input(Input::HandOver { to: None, likely: None });
    bench.acknowledge(a, bench.index);
    let begun = bench.now;
    while bench.handed_over.is_empty() {
        bench.wait(T.heartbeat);
        bench.renewed(a, 1);
        assert_eq!(bench.renewed(b, 2), None, "it talks and does not acknowledge");
    }
    assert!(bench.now.since(begun) <= bound() + T.heartbeat);
    assert_eq!(bench.handed_over, [(None, Some((bench.term, keys(&[a]))))]);
}

#[test]
fn who_is_no_leader_hands_nothing_over() {
    let mut bench = Bench::following();
    bench.input(Input::HandOver { to: None, likely: None });
    assert_eq!(bench.handed_over, []);
    bench.elect();
    bench.input(Input::HandOver { to: None, likely: None });
    assert_eq!(bench.handed_over, [(None, None)], "it does not know its mounts yet");
    bench.commit();
    let a = bench.mount(1);
    bench.wait(T.heartbeat);
    bench.input(Input::HandOver { to: None, likely: None });
    bench.depose(Some(2));
    bench.wait(2 * T.lease);
    assert_eq!(bench.handed_over.len(), 1, "{a:?} has another leader by now");
}

#[test]
fn a_successor_waits_only_for_those_who_may_have_a_lease() {
    let mut bench = Bench::leading();
    let (a, b, c) = (bench.mount(1), bench.mount(2), bench.mount(3));
    let leased = keys(&[a, b]);
    bench.input(Input::Inherited { term: bench.term, leased: leased.clone() });
    bench.elect();
    bench.commit();
    assert_eq!([a, b, c].map(|mounted| bench.in_roster(mounted)), [true, true, false]);
    let a = back(&mut bench, 1, a);
    bench.change(a, 1, mkdir("d"));
    assert_eq!(bench.answer(a), None, "b may have a lease");
    back(&mut bench, 2, b);
    assert!(bench.answer(a).is_some(), "c has no lease and is not waited for");

    // What a leader before the last one said is void.
    bench.input(Input::Inherited { term: Term(bench.term.0 - 1), leased });
    bench.elect();
    bench.commit();
    assert!([a, b, c].iter().all(|mounted| bench.in_roster(*mounted)));
}
