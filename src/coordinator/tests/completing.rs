//! Calls: once in the log, complete when every bound session has acknowledged, answered then and not earlier.

use super::*;
use crate::{
    coordinator::messages::ANSWERED_MAX,
    namespace::AllocateMode,
    types::{AttributeChanges, BlockHash, Piece, Space},
};

#[test]
fn a_call_is_answered_behind_its_entry_when_every_other_mount_has_acknowledged() {
    let mut bench = Bench::leading();
    let (a, b, c) = (bench.mount(1), bench.mount(2), bench.mount(3));
    for mounted in [a, b, c] {
        bench.entries(mounted);
    }
    let index = bench.change(a, 1, mkdir("d"));
    for mounted in [a, b, c] {
        assert_eq!(bench.entries(mounted), [index], "all are sent the entry, the caller too");
        assert_eq!(bench.take(mounted.connection), None);
    }
    bench.acknowledge(c, index);
    assert_eq!(bench.answer(a), None, "b has not acknowledged");
    bench.acknowledge(b, index);
    let (sequence, at, outcome) = bench.answer(a).expect("complete though a itself has not acknowledged");
    assert_eq!((sequence, at), (1, index));
    assert!(matches!(outcome, Ok(Reply::Made { .. })));
    assert_eq!(bench.answer(b), None);
}

#[test]
fn a_mount_alone_is_answered_at_once_and_the_entry_comes_first() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    let index = bench.change(a, 1, mkdir("d"));
    assert!(matches!(bench.take(a.connection), Some(ToMount::Entries { entries }) if entries[0].0 == index));
    assert!(matches!(bench.take(a.connection), Some(ToMount::Answer { .. })));
}

/// An operation that the wire takes made an entry that no node could read, for good.
#[test]
fn what_no_entry_can_carry_is_answered_and_never_proposed() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.entries(a);
    let before = bench.index;
    for spare in 0..64 {
        let node = NewNode::Symlink { target: Bytes::from(vec![b'x'; limits::ENTRY_BYTES_MAX - spare]) };
        bench.change(a, 1 + spare as u64, make("large", node));
        let (_, index, outcome) = bench.answer(a).expect("an answer");
        match outcome {
            Err(Errno::E2BIG) => assert_eq!((index, bench.index), (LogIndex(0), before), "{spare}"),
            other => assert_eq!(other, Err(Errno::ENAMETOOLONG), "what an entry carries is for apply to judge"),
        }
    }
    assert!(bench.index > before, "some of them an entry can carry");
    let list = (0..ANSWERED_MAX as u64).map(|n| Sequence(u64::MAX - n)).collect();
    let node = NewNode::Symlink { target: Bytes::from(vec![b'x'; limits::ENTRY_BYTES_MAX - 5000]) };
    let message = ToLeader::Operation { sequence: Sequence(100), answered: list, operation: make("large", node) };
    bench.say(a.connection, message);
    bench.commit();
    assert_eq!(bench.answer(a), Some((100, LogIndex(0), Err(Errno::E2BIG))), "the list counts, too");
    bench.change(a, 101, mkdir("small"));
    assert!(bench.answer(a).is_some_and(|(_, _, outcome)| outcome.is_ok()));
}

#[test]
fn acknowledgements_are_per_entry_and_answers_come_as_they_complete() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.call(a, 1, mkdir("x"));
    bench.call(a, 2, mkdir("y"));
    let second = bench.index;
    bench.commit();
    bench.acknowledge(b, second);
    assert_eq!(bench.answer(a).map(|answer| answer.0), Some(2), "a blocked entry holds up no other");
    bench.acknowledge(b, LogIndex(second.0 - 1));
    assert_eq!(bench.answer(a).map(|answer| answer.0), Some(1));
}

#[test]
fn a_batch_is_one_message_for_each_mount() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.entries(a);
    for n in 1..=5 {
        bench.call(a, n, mkdir(&format!("d{n}")));
    }
    bench.commit();
    assert_eq!(bench.sent[&b.connection].len(), 1);
    assert_eq!(bench.entries(b).len(), 5);
}

#[test]
fn a_refusal_of_apply_completes_like_any_other_answer() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let index = bench.change(a, 1, unlink("missing"));
    assert_eq!(bench.answer(a), None);
    bench.acknowledge(b, index);
    assert_eq!(bench.answer(a), Some((1, index, Err(Errno::ENOENT))));
}

#[test]
fn a_call_sent_again_while_it_is_under_way_enters_the_log_once() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.call(a, 1, mkdir("d"));
    bench.call(a, 1, mkdir("d"));
    assert_eq!(bench.proposed.len(), 1);
    bench.commit();
    assert!(bench.answer(a).is_some());
    assert_eq!(bench.answer(a), None);
}

#[test]
fn a_call_sent_again_after_its_answer_was_lost_is_answered_from_the_table() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    let index = bench.change(a, 1, mkdir("d"));
    let first = bench.answer(a).expect("answered, and lost on its way");
    let connection = bench.connect();
    let hello = Hello { session: Some(a.session), generation: Generation(2), applied: index, ..Bench::hello(1) };
    let back = bench.attach_on(connection, hello);
    bench.call(back, 1, mkdir("d"));
    assert_eq!(bench.proposed.len(), 0);
    assert_eq!(bench.answer(back), Some(first));
}

#[test]
fn an_answer_from_the_table_waits_for_the_roster_too() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let index = bench.change(a, 1, mkdir("d"));
    let connection = bench.connect();
    let hello = Hello { session: Some(a.session), generation: Generation(2), applied: index, ..Bench::hello(1) };
    let back = bench.attach_on(connection, hello);
    bench.call(back, 1, mkdir("d"));
    assert_eq!(bench.answer(back), None);
    bench.acknowledge(b, index);
    assert_eq!(bench.answer(back).map(|answer| (answer.0, answer.1)), Some((1, index)));
    assert_eq!(bench.answer(back), None, "once");
}

#[test]
fn an_answer_waits_for_the_snapshot_that_brings_its_entry() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    for n in 1..=64 {
        let name = crate::types::XattrName::new(format!("user.{n}").as_bytes()).expect("a good name");
        let value = Bytes::from(vec![n as u8; limits::XATTR_VALUE_BYTES_MAX]);
        let mode = crate::namespace::XattrMode::Set;
        bench.change(a, n, Operation::SetXattr { ino: Ino::ROOT, name, value, mode, clear_sgid: false });
    }
    let connection = bench.connect();
    let hello = Hello { session: Some(a.session), generation: Generation(2), ..Bench::hello(1) };
    let back = bench.attach_on(connection, hello);
    bench.call(back, 64, mkdir("never again"));
    let mut last_piece_seen = false;
    while let Some(message) = bench.take(connection) {
        match message {
            ToMount::SnapshotPiece { last, .. } => {
                last_piece_seen |= last;
                bench.say(connection, ToLeader::PieceReceived);
            }
            ToMount::Answer { sequence, .. } => {
                assert!(last_piece_seen, "answered before the state that includes it");
                assert_eq!(sequence, Sequence(64));
                return;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("never answered");
}

#[test]
fn a_call_that_was_not_proposed_dies_with_its_connection() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.takes = false;
    bench.call(a, 1, unlink("f"));
    let connection = bench.connect();
    let hello =
        Hello { session: Some(a.session), generation: Generation(2), applied: a.caught_up_at, ..Bench::hello(1) };
    bench.attach_on(connection, hello);
    bench.takes = true;
    bench.wait(T.heartbeat);
    assert_eq!(bench.proposed.len(), 0, "it would delete what was made since (R17-exactly-once)");
}

#[test]
fn what_the_replica_does_not_take_is_offered_again() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.takes = false;
    bench.call(a, 1, mkdir("x"));
    bench.call(a, 2, mkdir("y"));
    bench.takes = true;
    bench.wait(T.heartbeat);
    bench.commit();
    assert!(bench.exists("x") && bench.exists("y"));
    let answers: Vec<_> = [bench.answer(a), bench.answer(a)].into_iter().flatten().map(|answer| answer.0).collect();
    assert_eq!(answers, [1, 2]);
}

#[test]
fn a_session_has_so_many_calls_at_a_time() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    for n in 1..=limits::SESSION_CALLS_MAX as u64 {
        bench.call(a, n, mkdir(&format!("d{n}")));
    }
    assert!(!bench.closed.contains(&a.connection));
    bench.call(a, 1, mkdir("d1"));
    assert!(!bench.closed.contains(&a.connection), "a repetition is no further call");
    bench.call(a, 1000, mkdir("too many"));
    assert_eq!(bench.refusal(a.connection), Refusal::Protocol);
}

#[test]
fn a_read_only_mount_changes_nothing_and_is_waited_for_like_any_other() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    let connection = bench.connect_as("main", Access::ReadOnly);
    let reader = bench.attach_on(connection, Bench::hello(2));
    bench.catch_up(reader);
    bench.call(reader, 1, mkdir("d"));
    assert_eq!(bench.answer(reader), Some((1, LogIndex(0), Err(Errno::EROFS))));
    assert_eq!(bench.proposed.len(), 0);
    let index = bench.change(a, 1, mkdir("d"));
    assert_eq!(bench.answer(a), None);
    bench.acknowledge(reader, index);
    assert!(bench.answer(a).is_some());
}

#[test]
fn full_stores_refuse_what_takes_space_and_nothing_else() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.change(a, 1, create("f"));
    bench.answer(a);
    bench.input(Input::Space { space: Space { total: 1 << 30, available: 100 }, content: 0 });
    bench.call(a, 2, create("g"));
    assert_eq!(bench.answer(a), Some((2, LogIndex(0), Err(Errno::ENOSPC))));
    bench.change(a, 3, unlink("f"));
    assert!(matches!(bench.answer(a), Some((3, _, Ok(_)))));
    bench.input(Input::Space { space: Space { total: 1 << 30, available: 1 << 20 }, content: 0 });
    bench.change(a, 2, create("g"));
    assert!(matches!(bench.answer(a), Some((2, _, Ok(_)))), "the same call, once there is space");
}

fn reserve(ino: u64, offset: u64, length: u64) -> Operation {
    Operation::Allocate { ino: Ino(ino), mode: AllocateMode::KeepSize, offset, length, at_most: u64::MAX }
}

/// A block that was uploaded.
fn write_block(ino: u64, offset: u64, length: u64) -> Operation {
    write(Ino(ino), vec![Piece { offset, length, block: Some(BlockHash::of(b"block")), content: None }])
}

/// fallocate(2) of twice what was free succeeded, and of all that was free by two mounts at once.
#[test]
fn what_is_reserved_never_exceeds_what_the_stores_have() {
    const FREE: u64 = 1 << 20;
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.input(Input::Space { space: Space { total: 1 << 30, available: FREE }, content: 0 });
    for (sequence, name) in [(1, "f"), (2, "g")] {
        let index = bench.change(a, sequence, create(name));
        bench.acknowledge(b, index);
        bench.answer(a);
    }
    let full = |bench: &mut Bench, mounted, sequence| {
        assert_eq!(bench.answer(mounted), Some((sequence, LogIndex(0), Err(Errno::ENOSPC))));
    };
    bench.call(a, 3, reserve(2, 0, FREE + 1));
    full(&mut bench, a, 3);
    bench.call(a, 4, reserve(2, 0, FREE - 100));
    // It is on its way: what it takes is taken.
    bench.call(b, 1, reserve(3, 0, 101));
    full(&mut bench, b, 1);
    bench.commit();
    bench.acknowledge(b, bench.index);
    assert!(matches!(bench.answer(a), Some((4, _, Ok(_)))));
    bench.call(b, 2, reserve(3, 0, 101));
    full(&mut bench, b, 2);
    // What takes space without a reservation leaves what is reserved; what has one gets it.
    bench.call(b, 3, create("h"));
    full(&mut bench, b, 3);
    bench.change(a, 5, write_block(2, 0, 1000));
    bench.acknowledge(b, bench.index);
    assert!(matches!(bench.answer(a), Some((5, _, Ok(_)))));
    bench.call(a, 6, write_block(3, 0, 1000));
    full(&mut bench, a, 6);
    bench.change(a, 7, reserve(2, 0, FREE - 100));
    bench.acknowledge(b, bench.index);
    assert!(matches!(bench.answer(a), Some((7, _, Ok(_)))), "it is reserved, or written");
    bench.wait(T.heartbeat);
    bench.change(a, 8, unlink("f"));
    bench.acknowledge(b, bench.index);
    bench.answer(a);
}

/// Two mounts together got more than there was: one's reservation took the place of what it had itself given back just
/// before, and the other's was let in between the two.
#[test]
fn what_is_given_back_and_reserved_anew_is_not_given_to_another_meanwhile() {
    const FREE: u64 = 1 << 20;
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.input(Input::Space { space: Space { total: 1 << 30, available: FREE }, content: 0 });
    bench.change(a, 1, create("f"));
    bench.answer(a);
    bench.change(a, 2, reserve(2, 0, FREE));
    bench.answer(a);
    let cut = AttributeChanges { size: Some(0), ..AttributeChanges::default() };
    bench.call(a, 3, Operation::SetAttributes { ino: Ino(2), changes: cut });
    // As it is now nothing is missing.
    bench.call(a, 4, reserve(2, 0, FREE));
    bench.commit();
    assert!(matches!(bench.answer(a), Some((3, _, Ok(_)))));
    assert!(matches!(bench.answer(a), Some((4, _, Err(Errno::EAGAIN)))), "it comes again");
    bench.change(a, 5, reserve(2, 0, FREE));
    assert!(matches!(bench.answer(a), Some((5, _, Ok(_)))));
}

#[test]
fn nothing_is_reserved_before_it_is_known_what_there_is() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.change(a, 1, create("f"));
    bench.answer(a);
    bench.call(a, 2, reserve(2, 0, 1));
    assert_eq!(bench.answer(a), Some((2, LogIndex(0), Err(Errno::EAGAIN))));
}

#[test]
fn content_under_a_wrong_name_ends_the_connection_and_never_enters_the_log() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    let content = Some(Bytes::from_static(b"evil"));
    let piece = Piece { offset: 0, length: 4, block: Some(BlockHash::of(b"good")), content };
    bench.call(a, 1, write(Ino(2), vec![piece]));
    assert_eq!(bench.refusal(a.connection), Refusal::Protocol);
    assert_eq!(bench.proposed.len(), 0);
}

#[test]
fn a_silent_mount_holds_others_up_until_its_lease_has_ended_and_not_longer() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.wait(Duration::from_millis(50));
    bench.renewed(a, 2);
    bench.change(a, 1, mkdir("d"));
    bench.wait(bound() - Duration::from_millis(51));
    assert!(bench.in_roster(b));
    assert_eq!(bench.answer(a), None);
    bench.wait(Duration::from_millis(1));
    assert!(!bench.in_roster(b));
    assert!(bench.answer(a).is_some(), "a stopped mount delays by one lease at most");
    bench.change(a, 2, mkdir("e"));
    assert!(bench.answer(a).is_some(), "and only once");
}

#[test]
fn a_mount_that_renews_and_never_acknowledges_is_put_out() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.change(a, 1, mkdir("d"));
    let began = bench.now;
    let mut number = 1;
    while bench.answer(a).is_none() {
        number += 1;
        bench.renewed(a, number);
        let granted = bench.renewed(b, number).is_some();
        assert_eq!(granted, bench.now.since(began) < T.lease / 2);
        bench.wait(T.heartbeat / 2);
    }
    assert!(bench.now.since(began) <= T.lease / 2 + bound(), "{:?}", bench.now.since(began));
    assert!(!bench.in_roster(b));
}

#[test]
fn a_mount_out_of_the_roster_comes_back_with_everything_acknowledged() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let missed = bench.change(a, 1, mkdir("d"));
    bench.wait(bound());
    assert!(bench.answer(a).is_some());
    assert_eq!(bench.renewed(b, 2), None, "its kernel may still answer from before");
    bench.acknowledge(b, missed);
    assert_eq!(bench.lease(b), None, "an unanswerable renewal is not answered later");
    assert_eq!(bench.renewed(b, 3), Some(3));
    bench.renewed(a, 2);
    let next = bench.change(a, 2, mkdir("e"));
    assert_eq!(bench.answer(a), None, "and is waited for again");
    bench.acknowledge(b, next);
    assert!(bench.answer(a).is_some());
}

#[test]
fn a_mount_put_out_again_and_again_waits_longer_each_time() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let mut number = 1;
    for (n, probation) in [(1, Duration::ZERO), (2, T.lease), (3, 2 * T.lease)] {
        let missed = bench.change(a, n, mkdir(&format!("d{n}")));
        bench.wait(bound());
        assert!(bench.answer(a).is_some(), "put out");
        bench.acknowledge(b, missed);
        let put_out = bench.now;
        loop {
            number += 1;
            if bench.renewed(b, number).is_some() {
                break;
            }
            bench.wait(T.heartbeat);
        }
        let waited = bench.now.since(put_out);
        assert!(waited <= probation && probation < waited + 2 * T.heartbeat, "{n}: {waited:?}");
        bench.renewed(a, number);
    }
}

#[test]
fn a_mount_that_attaches_is_not_waited_for_before_it_has_a_lease() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    let b = bench.attach(2);
    bench.change(a, 1, mkdir("d"));
    assert!(bench.answer(a).is_some());
    assert_eq!(bench.renewed(b, 1), None, "not caught up");
    bench.acknowledge(b, b.caught_up_at);
    assert_eq!(bench.renewed(b, 2), None, "a change completed without it that it has not acknowledged");
    bench.acknowledge(b, bench.index);
    assert_eq!(bench.lease(b), Some(2), "as soon as it has");
}

#[test]
fn a_lease_waits_for_a_round_that_began_after_the_renewal_and_rounds_are_shared() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.confirms = false;
    assert_eq!(bench.renewed(a, 2), None);
    assert_eq!(bench.renewed(b, 2), None);
    assert_eq!(bench.tickets.len(), 1, "one round at a time");
    let ticket = bench.tickets[0];
    bench.input(Input::LeaseConfirmed { ticket: ticket - 1 });
    assert_eq!(bench.lease(a), None, "an older round says nothing");
    bench.input(Input::LeaseConfirmed { ticket });
    assert_eq!((bench.lease(a), bench.lease(b)), (Some(2), None), "b's renewal came after the round began");
    assert_eq!(bench.tickets.len(), 2);
    bench.input(Input::LeaseConfirmed { ticket: bench.tickets[1] });
    assert_eq!(bench.lease(b), Some(2));
}

#[test]
fn a_leader_without_a_majority_grants_nothing() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.confirms = false;
    for number in 2..20 {
        assert_eq!(bench.renewed(a, number), None);
        bench.wait(T.heartbeat);
    }
    bench.input(Input::LeaseConfirmed { ticket: bench.tickets[0] });
    assert_eq!(bench.lease(a), None, "the renewal that round answers is older than a lease");
    bench.input(Input::LeaseConfirmed { ticket: bench.tickets[1] });
    assert_eq!(bench.lease(a), Some(19), "the newest is answered");
}
