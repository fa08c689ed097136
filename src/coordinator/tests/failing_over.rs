//! What a new leader waits for, and what it answers from the reply table.

use super::*;

fn back(bench: &mut Bench, mount: u128, before: Mounted, applied: LogIndex) -> Mounted {
    let connection = bench.connect();
    let hello = Hello { session: Some(before.session), generation: Generation(2), applied, ..Bench::hello(mount) };
    bench.attach_on(connection, hello)
}

#[test]
fn a_follower_sends_mounts_to_the_leader() {
    let mut bench = Bench::following();
    bench.depose(Some(2));
    let connection = bench.connect();
    assert_eq!(bench.take(connection), Some(ToMount::NotLeader { leader: Some("n2:7440".to_owned()) }));
    assert!(bench.closed.contains(&connection));
}

#[test]
fn without_a_leader_mounts_wait_a_little_and_are_sent_on_as_soon_as_one_is_known() {
    let mut bench = Bench::following();
    let early = bench.connect();
    bench.wait(3 * T.heartbeat - Duration::from_millis(1));
    assert_eq!(bench.take(early), None);
    let late = bench.connect();
    bench.wait(Duration::from_millis(1));
    assert_eq!(bench.take(early), Some(ToMount::NotLeader { leader: None }));
    bench.depose(Some(3));
    assert_eq!(bench.take(late), Some(ToMount::NotLeader { leader: Some("n3:7440".to_owned()) }));
    assert_eq!(bench.closed.len(), 2);
}

#[test]
fn a_lost_leadership_sends_every_mount_away() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.entries(a);
    bench.change(a, 1, mkdir("d"));
    bench.entries(a);
    bench.entries(b);
    bench.depose(None);
    bench.acknowledge(b, bench.index);
    assert_eq!(bench.answer(a), None, "who leads no more completes no more");
    bench.depose(Some(2));
    for mounted in [a, b] {
        let message = bench.take(mounted.connection);
        assert_eq!(message, Some(ToMount::NotLeader { leader: Some("n2:7440".to_owned()) }));
        assert!(bench.closed.contains(&mounted.connection));
    }
}

#[test]
fn a_new_leader_takes_nothing_before_its_own_entry_is_applied() {
    let mut bench = Bench::following();
    let connection = bench.connect();
    bench.elect();
    bench.say(connection, ToLeader::Hello(Bench::hello(1)));
    assert!(!bench.coordinator.leads());
    assert_eq!((bench.take(connection), bench.proposed.len()), (None, 1), "only raft's own entry is under way");
    bench.input(Input::Applied { term: Term(bench.term.0 - 1), entries: Vec::new() });
    assert!(!bench.coordinator.leads(), "an entry of an earlier term says nothing");
    bench.commit();
    assert!(matches!(bench.take(connection), Some(ToMount::Welcome(_))), "the mount that waited is served");
}

#[test]
fn a_new_leader_completes_nothing_until_every_session_is_back_and_caught_up() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let index = bench.index;
    bench.elect();
    bench.commit();
    let a = back(&mut bench, 1, a, index);
    bench.acknowledge(a, a.caught_up_at);
    bench.change(a, 1, mkdir("d"));
    assert_eq!(bench.answer(a), None, "b may still hold a lease of the old leader's");
    let b = back(&mut bench, 2, b, index);
    assert_eq!(bench.answer(a), None, "attached is not caught up");
    bench.acknowledge(b, b.caught_up_at);
    assert!(bench.answer(a).is_some());
}

#[test]
fn a_new_leader_waits_for_a_mount_that_does_not_return_until_its_lease_has_ended() {
    let mut bench = Bench::leading();
    let (a, _b) = (bench.mount(1), bench.mount(2));
    let index = bench.index;
    bench.elect();
    let elected = bench.now;
    bench.wait(Duration::from_millis(100));
    bench.commit();
    let a = back(&mut bench, 1, a, index);
    bench.change(a, 1, mkdir("d"));
    let grace = T.attach_grace() + T.drift_margin();
    bench.wait(grace - bench.now.since(elected) - Duration::from_millis(1));
    assert_eq!(bench.answer(a), None);
    bench.wait(Duration::from_millis(1));
    assert!(bench.answer(a).is_some());
}

#[test]
fn an_answer_from_the_table_waits_for_completion_under_the_new_leader() {
    // R4-new-leader: the old leader committed, the other mount has not acknowledged, the caller asks again.
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let before = b.caught_up_at;
    let index = bench.change(a, 1, mkdir("d"));
    bench.elect();
    bench.commit();
    let a = back(&mut bench, 1, a, index);
    bench.acknowledge(a, a.caught_up_at);
    bench.call(a, 1, mkdir("d"));
    assert_eq!(bench.proposed.len(), 0, "it is in the reply table");
    assert_eq!(bench.answer(a), None);
    let b = back(&mut bench, 2, b, before);
    assert_eq!(bench.entries(b), [index]);
    bench.acknowledge(b, index);
    assert_eq!(bench.answer(a).map(|answer| (answer.0, answer.1)), Some((1, index)));
}

#[test]
fn a_call_the_old_leader_lost_is_proposed_anew() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.call(a, 1, mkdir("d"));
    bench.elect();
    bench.commit();
    let a = back(&mut bench, 1, a, a.caught_up_at);
    bench.change(a, 1, mkdir("d"));
    assert!(matches!(bench.answer(a), Some((1, _, Ok(_)))));
}

#[test]
fn being_told_the_same_leadership_twice_changes_nothing() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    let (term, attach_grace) = (bench.term, T.attach_grace());
    bench.input(Input::Leadership { leader: Some(ME), term, leading: true, attach_grace });
    assert!(bench.coordinator.leads() && !bench.closed.contains(&a.connection));
}

#[test]
fn a_leader_that_is_elected_again_begins_anew() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.entries(a);
    bench.elect();
    assert_eq!(bench.take(a.connection), Some(ToMount::NotLeader { leader: Some("n1:7440".to_owned()) }));
    assert!(bench.closed.contains(&a.connection));
}
