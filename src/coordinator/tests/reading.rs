//! Read indexes.

use super::*;

/// The read index that was sent, if any; all else stays.
fn told(bench: &mut Bench, mounted: Mounted) -> Option<(u64, LogIndex)> {
    let mut newest = None;
    bench.sent.entry(mounted.connection).or_default().retain(|message| match message {
        ToMount::ReadIndex { number, index } => {
            newest = Some((*number, *index));
            false
        }
        _ => true,
    });
    newest
}

#[test]
fn a_read_index_waits_for_a_round_that_began_after_the_question() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let asked_at = bench.change(a, 1, mkdir("d"));
    bench.confirms = false;
    bench.say(b.connection, ToLeader::ReadIndex { number: 1 });
    bench.say(a.connection, ToLeader::ReadIndex { number: 1 });
    assert_eq!(told(&mut bench, b), None, "another may lead by now");
    let later = bench.change(a, 2, mkdir("e"));
    bench.input(Input::LeaseConfirmed { ticket: bench.tickets[0] });
    assert_eq!(told(&mut bench, b), Some((1, asked_at)), "whatever came later does not hold it up");
    assert_eq!(told(&mut bench, a), None, "it was asked after that round began");
    bench.input(Input::LeaseConfirmed { ticket: bench.tickets[1] });
    assert_eq!(told(&mut bench, a), Some((1, asked_at)));
    assert!(later > asked_at);
}

#[test]
fn a_leader_that_was_answers_no_read() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.confirms = false;
    bench.say(a.connection, ToLeader::ReadIndex { number: 1 });
    let ticket = bench.tickets[0];
    bench.depose(Some(2));
    bench.input(Input::LeaseConfirmed { ticket });
    assert_eq!(told(&mut bench, a), None);
}
