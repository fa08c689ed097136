//! The table against a model that knows each byte's owners, and the rules of the queue one by one.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::types::LockKind::{self, Exclusive, Shared};

const FILE: Ino = Ino(2);
const OTHER: Ino = Ino(3);

/// A table and who was granted what by the last step.
#[derive(Default)]
struct Bench {
    table: LockTable,
    index: u64,
    calls: u64,
    granted: Vec<u64>,
}

const fn claim(family: LockFamily, owner: u64, kind: LockKind, first: u64, last: u64) -> LockClaim {
    LockClaim { family, owner, kind, range: LockRange { first, last }, pid: 0, fh: owner }
}

const fn fcntl(owner: u64, kind: LockKind, first: u64, last: u64) -> LockClaim {
    claim(LockFamily::Fcntl, owner, kind, first, last)
}

const fn flock(owner: u64, kind: LockKind) -> LockClaim {
    claim(LockFamily::Flock, owner, kind, 0, u64::MAX)
}

/// Owners 0 to 9 are of session 1, the next ten of session 2, and so on.
const fn session_of(owner: u64) -> SessionId {
    SessionId(1 + owner / 10)
}

impl Bench {
    fn step<R>(&mut self, act: impl FnOnce(&mut LockTable, &mut Outcome, LogIndex) -> R) -> R {
        self.index += 1;
        let mut outcome = Outcome::default();
        let before = self.table.clone();
        let result = act(&mut self.table, &mut outcome, LogIndex(self.index));
        self.granted = outcome.granted.iter().map(|granted| granted.call.0).collect();
        assert!(outcome.touched.len() <= limits::ENTRY_ROWS_MAX, "{} rows", outcome.touched.len());
        // What became different is told, row by row.
        let mut rows: BTreeMap<RowKey, u8> = BTreeMap::new();
        let is_small = self.table.held.len() < 5000;
        for (table, side) in [(&before, 1), (&self.table, 2)].into_iter().filter(|_| is_small) {
            for key in table.held_from(HeldKey::first_of(Ino(0))) {
                if [&before, &self.table].iter().any(|other| other.held(&key) != table.held(&key)) {
                    rows.insert(RowKey::Lock(key), side);
                }
            }
            for (ino, since) in table.requests_from(Ino(0), LogIndex(0)) {
                if [&before, &self.table].iter().any(|other| other.request(ino, since) != table.request(ino, since)) {
                    rows.insert(RowKey::LockRequest(ino, since), side);
                }
            }
        }
        assert!(rows.keys().all(|key| outcome.touched.contains(key)), "{rows:?} against {:?}", outcome.touched);
        result
    }

    fn ask(&mut self, ino: Ino, claim: LockClaim, waits: bool) -> Result<Reply, Errno> {
        self.calls += 1;
        let who = (ino, session_of(claim.owner), Sequence(self.calls));
        self.step(|table, outcome, index| table.lock(outcome, index, who, claim, waits))
    }

    fn try_lock(&mut self, claim: LockClaim) -> Result<Reply, Errno> {
        self.ask(FILE, claim, false)
    }

    /// The number of the call.
    fn wait(&mut self, claim: LockClaim) -> u64 {
        assert_eq!(self.ask(FILE, claim, true), Ok(Reply::Queued));
        self.calls
    }

    /// Takes so many without looking at every row each time.
    fn fill(&mut self, count: usize, claim: impl Fn(u64) -> LockClaim) {
        for at in 0..count as u64 {
            let claim = claim(at);
            let who = (FILE, session_of(claim.owner), Sequence(0));
            let mut outcome = Outcome::default();
            assert_eq!(self.table.lock(&mut outcome, LogIndex(1), who, claim, false), Ok(Reply::Locked), "{at}");
        }
    }

    /// The same for one that is to wait.
    fn queue(&mut self, claim: LockClaim) {
        self.index += 1;
        let who = (FILE, session_of(claim.owner), Sequence(0));
        let reply = self.table.lock(&mut Outcome::default(), LogIndex(self.index), who, claim, true);
        assert_eq!(reply, Ok(Reply::Queued));
    }

    fn unlock(&mut self, claim: LockClaim) -> Result<Reply, Errno> {
        self.unlock_in(FILE, claim)
    }

    fn unlock_in(&mut self, ino: Ino, claim: LockClaim) -> Result<Reply, Errno> {
        let what = (claim.family, claim.owner, claim.range);
        self.step(|table, outcome, index| table.unlock(outcome, index, (ino, session_of(claim.owner)), what))
    }

    fn cancel(&mut self, call: u64, claim: LockClaim, undo: bool) -> Result<Reply, Errno> {
        let who = (FILE, session_of(claim.owner), Sequence(call));
        self.step(|table, outcome, index| table.cancel(outcome, index, who, claim, undo))
    }

    fn release(&mut self, session: SessionId, holder: LockHolder) -> Reply {
        self.step(|table, outcome, index| table.release(outcome, index, (FILE, session), holder))
    }

    fn end(&mut self, session: SessionId) -> Vec<(Ino, Vec<u64>)> {
        self.step(|table, outcome, index| table.end_session(outcome, index, session, usize::MAX))
    }

    /// Kinds and ranges of what the owner has.
    fn of(&self, owner: u64) -> Vec<(LockKind, u64, u64)> {
        let his = all(&self.table).filter(|(ino, held)| *ino == FILE && held.claim.owner == owner);
        his.map(|(_, held)| held).map(|held| (held.claim.kind, held.claim.range.first, held.claim.range.last)).collect()
    }
}

fn all(table: &LockTable) -> impl Iterator<Item = (Ino, &HeldLock)> {
    table.held.from(HeldKey::first_of(Ino(0))).map(|(key, held)| (key.ino, held))
}

/// The table as its rows make it.
fn loaded(table: &LockTable) -> Result<LockTable, &'static str> {
    let mut again = LockTable::default();
    for (key, held) in table.held.from(HeldKey::first_of(Ino(0))) {
        again.add_held(*key, key.lock(held.row()))?;
    }
    for ((ino, since), waiting) in &table.queue {
        again.add_request(*ino, *since, *waiting)?;
    }
    Ok(again)
}

/// F_GETLK named a write lock further on before a read lock that begins earlier.
#[test]
fn the_first_lock_that_stands_in_the_way_is_named() {
    let mut bench = Bench::default();
    for (kind, first, last) in [(Exclusive, 10, 14), (Shared, 1, 5), (Shared, 30, 40), (Exclusive, 20, 22)] {
        bench.try_lock(fcntl(1, kind, first, last)).expect("free");
    }
    let named = |kind, first| {
        let asked = fcntl(2, kind, first, u64::MAX);
        bench.table.first_conflict(FILE, session_of(2), &asked).map(|held| held.claim.range.first)
    };
    assert_eq!(named(Exclusive, 0), Some(1));
    assert_eq!(named(Shared, 0), Some(10));
    assert_eq!(named(Exclusive, 15), Some(20));
    assert_eq!(named(Shared, 23), None);
}

#[test]
fn shared_locks_stand_together_and_exclusive_ones_alone() {
    for make in [flock as fn(u64, LockKind) -> LockClaim, |owner, kind| fcntl(owner, kind, 0, 9)] {
        let mut bench = Bench::default();
        assert_eq!(bench.try_lock(make(1, Shared)), Ok(Reply::Locked));
        assert_eq!(bench.try_lock(make(11, Shared)), Ok(Reply::Locked));
        assert_eq!(bench.try_lock(make(12, Exclusive)), Err(Errno::EAGAIN));
        assert_eq!(bench.unlock(make(1, Shared)), Ok(Reply::Done));
        assert_eq!(bench.try_lock(make(11, Exclusive)), Ok(Reply::Locked), "its own lock does not stand against it");
        assert_eq!(bench.try_lock(make(12, Shared)), Err(Errno::EAGAIN));
    }
}

#[test]
fn flock_and_fcntl_do_not_know_each_other() {
    let mut bench = Bench::default();
    assert_eq!(bench.try_lock(flock(1, Exclusive)), Ok(Reply::Locked));
    assert_eq!(bench.try_lock(fcntl(2, Exclusive, 0, u64::MAX)), Ok(Reply::Locked));
    bench.release(SessionId(1), LockHolder::Owner(1));
    assert_eq!(bench.of(1).len(), 1, "closing a descriptor ends fcntl locks only");
}

#[test]
fn the_turn_to_open_is_a_sessions_and_goes_round_in_order() {
    let mut bench = Bench::default();
    let open = |bench: &mut Bench, session| {
        bench.calls += 1;
        let who = (FILE, SessionId(session), Sequence(bench.calls));
        (bench.step(|table, outcome, index| table.lock(outcome, index, who, LockClaim::OPEN, true)), bench.calls)
    };
    assert_eq!(open(&mut bench, 1).0, Ok(Reply::Locked));
    let (second, third) = (open(&mut bench, 2), open(&mut bench, 3));
    assert_eq!((second.0, third.0), (Ok(Reply::Queued), Ok(Reply::Queued)));
    assert_eq!(open(&mut bench, 1).0, Ok(Reply::Locked), "it has the turn");
    assert_eq!(bench.try_lock(flock(1, Exclusive)), Ok(Reply::Locked), "other locks do not know of it");
    bench.release(SessionId(1), LockHolder::Handle(LockClaim::OPEN.fh));
    assert!(bench.granted.is_empty(), "it is of no open file");
    let LockClaim { family, owner, range, .. } = LockClaim::OPEN;
    let back = |table: &mut LockTable, outcome: &mut Outcome, index, session| {
        table.unlock(outcome, index, (FILE, SessionId(session)), (family, owner, range)).expect("held");
    };
    bench.step(|table, outcome, index| back(table, outcome, index, 1));
    assert_eq!(bench.granted, [second.1]);
    bench.end(SessionId(2));
    assert_eq!(bench.granted, [third.1]);
}

#[test]
fn ranges_split_merge_and_change_kind() {
    let mut bench = Bench::default();
    bench.try_lock(fcntl(1, Exclusive, 0, 99)).expect("free");
    bench.unlock(fcntl(1, Exclusive, 40, 49)).expect("held");
    assert_eq!(bench.of(1), [(Exclusive, 0, 39), (Exclusive, 50, 99)]);
    bench.try_lock(fcntl(1, Shared, 30, 59)).expect("his own");
    assert_eq!(bench.of(1), [(Exclusive, 0, 29), (Shared, 30, 59), (Exclusive, 60, 99)]);
    bench.try_lock(fcntl(1, Exclusive, 30, 59)).expect("his own");
    assert_eq!(bench.of(1), [(Exclusive, 0, 99)]);
    bench.try_lock(fcntl(1, Exclusive, 100, u64::MAX)).expect("free");
    assert_eq!(bench.of(1), [(Exclusive, 0, u64::MAX)]);
    assert_eq!(all(&bench.table).map(|(_, held)| held.grant).collect::<Vec<_>>(), [LogIndex(bench.index)]);
}

#[test]
fn who_waits_is_served_in_order_and_no_reader_passes_a_writer() {
    let mut bench = Bench::default();
    bench.try_lock(flock(1, Shared)).expect("free");
    let writer = bench.wait(flock(11, Exclusive));
    let reader = bench.wait(flock(12, Shared));
    assert_eq!(bench.try_lock(flock(13, Shared)), Ok(Reply::Locked), "who does not wait looks at locks alone");
    bench.unlock(flock(1, Shared)).expect("held");
    assert!(bench.granted.is_empty());
    bench.unlock(flock(13, Shared)).expect("held");
    assert_eq!(bench.granted, [writer]);
    bench.unlock(flock(11, Shared)).expect("held");
    assert_eq!(bench.granted, [reader]);
}

#[test]
fn a_downgrade_lets_readers_in() {
    for make in [flock as fn(u64, LockKind) -> LockClaim, |owner, kind| fcntl(owner, kind, 5, 9)] {
        let mut bench = Bench::default();
        bench.try_lock(make(1, Exclusive)).expect("free");
        let readers = [bench.wait(make(11, Shared)), bench.wait(make(21, Shared))];
        bench.try_lock(make(1, Shared)).expect("his own");
        assert_eq!(bench.granted, readers);
    }
}

#[test]
fn two_that_convert_their_flock_do_not_wait_for_each_other() {
    let mut bench = Bench::default();
    bench.try_lock(flock(1, Shared)).expect("free");
    bench.try_lock(flock(11, Shared)).expect("free");
    let first = bench.wait(flock(1, Exclusive));
    assert_eq!(bench.ask(FILE, flock(11, Exclusive), true), Ok(Reply::Locked), "the first gave its own up");
    bench.unlock(flock(11, Exclusive)).expect("held");
    assert_eq!(bench.granted, [first]);
}

#[test]
fn a_conversion_that_does_not_wait_and_fails_leaves_the_old_lock() {
    let mut bench = Bench::default();
    bench.try_lock(flock(1, Shared)).expect("free");
    bench.try_lock(flock(11, Shared)).expect("free");
    assert_eq!(bench.try_lock(flock(1, Exclusive)), Err(Errno::EAGAIN));
    assert_eq!(bench.of(1), [(Shared, 0, u64::MAX)]);
}

#[test]
fn who_holds_a_lock_does_not_wait_behind_those_that_wait_for_it() {
    let mut bench = Bench::default();
    bench.try_lock(fcntl(1, Shared, 0, 9)).expect("free");
    bench.wait(fcntl(11, Exclusive, 0, 19));
    assert_eq!(bench.ask(FILE, fcntl(1, Shared, 10, 19), true), Ok(Reply::Locked));
    // The same process by another open file.
    let by = |fh| LockClaim { pid: 77, ..flock(fh, Shared) };
    bench.try_lock(by(5)).expect("free");
    bench.wait(flock(15, Exclusive));
    assert_eq!(bench.ask(FILE, by(6), true), Ok(Reply::Locked));
    assert_eq!(bench.ask(FILE, flock(7, Shared), true), Ok(Reply::Queued), "a stranger waits");
}

#[test]
fn a_circle_of_owners_is_refused_also_over_several_files() {
    let mut bench = Bench::default();
    bench.try_lock(fcntl(1, Exclusive, 0, 0)).expect("free");
    bench.ask(OTHER, fcntl(11, Exclusive, 0, 0), false).expect("free");
    bench.try_lock(fcntl(21, Exclusive, 5, 5)).expect("free");
    bench.wait(fcntl(11, Shared, 0, 0));
    assert_eq!(bench.ask(OTHER, fcntl(21, Exclusive, 0, 9), true), Ok(Reply::Queued));
    assert_eq!(bench.ask(FILE, fcntl(1, Exclusive, 5, 5), true), Err(Errno::EDEADLK), "1 for 21 for 11 for 1");
    assert_eq!(bench.try_lock(fcntl(1, Exclusive, 5, 5)), Err(Errno::EAGAIN), "who does not wait closes no circle");
}

/// 2 waits only because it came after 11. When 1, for whom 11 waits, is to wait for 2, then 2 goes before 11.
#[test]
fn fairness_closes_no_circle() {
    let mut bench = Bench::default();
    bench.try_lock(fcntl(1, Shared, 0, 9)).expect("free");
    bench.wait(fcntl(11, Exclusive, 0, 9));
    let second = bench.wait(fcntl(22, Shared, 0, 9));
    bench.ask(OTHER, fcntl(22, Exclusive, 0, 9), false).expect("free");
    assert_eq!(bench.ask(OTHER, fcntl(1, Exclusive, 0, 9), true), Ok(Reply::Queued));
    assert_eq!(bench.granted, [second]);
}

#[test]
fn who_waits_no_longer_is_out_of_the_way_or_keeps_what_he_got() {
    let mut bench = Bench::default();
    let (held, wanted) = (fcntl(1, Exclusive, 0, 9), fcntl(11, Exclusive, 0, 9));
    bench.try_lock(held).expect("free");
    let call = bench.wait(wanted);
    let behind = bench.wait(fcntl(21, Shared, 0, 9));
    assert_eq!(bench.cancel(call, wanted, false), Ok(Reply::Done));
    bench.unlock(held).expect("held");
    assert_eq!(bench.granted, [behind]);
    let call = bench.wait(wanted);
    bench.unlock(fcntl(21, Shared, 0, 9)).expect("held");
    assert_eq!(bench.granted, [call]);
    assert_eq!(bench.cancel(call, wanted, false), Ok(Reply::Locked), "it came too late");
    assert_eq!(bench.of(11).len(), 1);
    assert_eq!(bench.cancel(call, wanted, true), Ok(Reply::Done));
    assert_eq!(bench.of(11), []);
}

#[test]
fn locks_end_with_the_open_file_the_process_and_the_session() {
    let mut bench = Bench::default();
    bench.try_lock(flock(1, Exclusive)).expect("free");
    bench.try_lock(fcntl(2, Exclusive, 0, 4)).expect("free");
    bench.try_lock(fcntl(12, Exclusive, 5, 9)).expect("free");
    let (second, third) = (bench.wait(flock(11, Exclusive)), bench.wait(fcntl(13, Shared, 0, 9)));
    bench.release(SessionId(1), LockHolder::Handle(1));
    assert_eq!(bench.granted, [second]);
    bench.release(SessionId(2), LockHolder::Owner(2));
    assert_eq!(bench.of(2).len(), 1, "the number is another session's");
    bench.release(SessionId(1), LockHolder::Owner(2));
    assert_eq!((bench.of(2).len(), bench.granted.len()), (0, 0));
    let mut fresh = Bench { table: bench.table.clone(), ..Bench::default() };
    bench.release(SessionId(2), LockHolder::Owner(12));
    assert_eq!(bench.granted, [third]);
    assert_eq!(fresh.end(SessionId(2)), [(FILE, vec![11, 12])]);
    assert!(!fresh.table.has_any(SessionId(2)) && !fresh.table.has_file(FILE));
}

#[test]
fn bounds_are_refused_with_enolck() {
    let mut bench = Bench::default();
    bench.fill(limits::LOCKS_PER_FILE_MAX, |at| fcntl(1 + 10 * (at % 2), Shared, 10 * at, 10 * at + 5));
    assert_eq!(bench.try_lock(fcntl(11, Shared, 0, 0)), Err(Errno::ENOLCK));
    assert_eq!(bench.unlock(fcntl(1, Shared, 2, 3)), Err(Errno::ENOLCK), "it would be one more");
    bench.unlock(fcntl(1, Shared, 0, 5)).expect("it is one less");
    for owner in 0..limits::LOCK_WAITERS_PER_FILE_MAX as u64 {
        bench.queue(fcntl(100 + owner, Exclusive, 10, u64::MAX));
    }
    assert_eq!(bench.ask(FILE, fcntl(21, Exclusive, 10, 20), true), Err(Errno::ENOLCK));
}

/// Requests that had waited were granted beyond the bound, time and again, until no node could load the row.
#[test]
fn locks_that_were_waited_for_stay_within_what_a_row_may_hold() {
    let mut bench = Bench::default();
    const NEARLY: usize = limits::LOCKS_PER_FILE_MAX - 1024;
    bench.fill(NEARLY, |at| fcntl(2, Shared, u64::MAX - 2 * at, u64::MAX - 2 * at));
    bench.try_lock(fcntl(1, Exclusive, 0, 20_000)).expect("there is room");
    for round in 0..8 {
        let first = 2000 * round;
        for at in 0..limits::LOCK_WAITERS_PER_FILE_MAX as u64 {
            let (owner, byte) = (100 + at, first + 2 * at);
            if bench.ask(FILE, fcntl(owner, Shared, byte, byte), true) != Ok(Reply::Queued) {
                break;
            }
        }
        bench.unlock(fcntl(1, Exclusive, first, first + 1999)).expect("it is not one more");
        assert!(bench.table.is_within_bounds(FILE), "round {round}");
    }
    assert!(loaded(&bench.table).is_ok());
    let held = bench.table.counts(FILE).held;
    assert!((limits::LOCKS_PER_FILE_MAX..=limits::LOCK_PLACES_PER_FILE_MAX).contains(&held), "{held}");
}

#[test]
fn no_session_has_more_locks_by_splitting_them() {
    let mut bench = Bench::default();
    bench.fill(limits::LOCKS_PER_SESSION_MAX - 10, |at| fcntl(1, Shared, 10 * at, 10 * at + 5));
    bench.ask(OTHER, fcntl(1, Shared, 0, u64::MAX), false).expect("one");
    let mut holes = (0..).map(|at| fcntl(1, Shared, 10 * at + 5, 10 * at + 6));
    let count = holes.by_ref().take_while(|hole| bench.unlock_in(OTHER, *hole).is_ok()).count();
    assert_eq!((count, bench.table.totals[&SessionId(1)]), (9, limits::LOCKS_PER_SESSION_MAX));
}

/// One call replaced, or ended, all of an owner's locks in one entry, however many.
#[test]
fn very_many_locks_are_replaced_given_back_and_ended_in_parts() {
    const COUNT: usize = 2500;
    let many = || {
        let mut bench = Bench::default();
        bench.fill(COUNT, |at| fcntl(1, Shared, 10 * at, 10 * at + 5));
        bench.try_lock(fcntl(11, Shared, 10 * COUNT as u64, u64::MAX)).expect("free");
        bench
    };
    let whole = fcntl(1, Exclusive, 0, 10 * COUNT as u64 - 1);
    let mut bench = many();
    let parts = std::iter::from_fn(|| (bench.try_lock(whole) == Ok(Reply::Unfinished)).then_some(())).count();
    assert_eq!((parts, bench.of(1)), (2, vec![(Exclusive, 0, whole.range.last)]));
    let mut bench = many();
    let waits = bench.wait(fcntl(21, Exclusive, 24_000, 24_500));
    let parts = std::iter::from_fn(|| (bench.unlock(whole) == Ok(Reply::Unfinished)).then_some(())).count();
    assert_eq!((parts, bench.of(1), bench.granted.clone()), (2, vec![], vec![waits]));
    for holder in [LockHolder::Owner(1), LockHolder::Handle(1)] {
        let mut bench = many();
        let parts = std::iter::from_fn(|| (bench.release(SessionId(1), holder) == Reply::Unfinished).then_some(()));
        assert_eq!((parts.count(), bench.of(1)), (2, vec![]));
    }
    let mut bench = many();
    let end = |bench: &mut Bench| bench.step(|t, o, i| t.end_session(o, i, SessionId(1), 1000));
    assert_eq!((end(&mut bench), bench.of(1).len()), (vec![(FILE, vec![1])], COUNT - 1000));
    while bench.table.has_any(SessionId(1)) {
        end(&mut bench);
    }
    assert_eq!(bench.of(11).len(), 1);
}

/// A grant replaces all that its owner has of the range by the entry of whoever makes way.
#[test]
fn who_waits_does_not_replace_very_many_locks() {
    let most = limits::LOCKS_PER_GRANT_MAX as u64;
    let mut bench = Bench::default();
    bench.try_lock(fcntl(11, Shared, 1000, 1000)).expect("free");
    bench.fill(limits::LOCKS_PER_GRANT_MAX, |at| fcntl(1, Shared, 10 * at, 10 * at + 5));
    let waits = bench.wait(fcntl(1, Exclusive, 0, 1000));
    assert_eq!(bench.try_lock(fcntl(1, Shared, 10 * most, 10 * most)), Err(Errno::ENOLCK), "another thread of his");
    assert_eq!(bench.unlock(fcntl(1, Shared, 2, 3)), Err(Errno::ENOLCK));
    assert_eq!(bench.of(1).len(), limits::LOCKS_PER_GRANT_MAX);
    bench.unlock(fcntl(11, Shared, 1000, 1000)).expect("held");
    assert_eq!((bench.granted.clone(), bench.of(1)), (vec![waits], vec![(Exclusive, 0, 1000)]));
    bench.try_lock(fcntl(11, Shared, 2000, 2000)).expect("free");
    bench.fill(limits::LOCKS_PER_GRANT_MAX, |at| fcntl(1, Shared, 1010 + 10 * at, 1010 + 10 * at + 5));
    assert_eq!(bench.ask(FILE, fcntl(1, Exclusive, 0, 2000), true), Err(Errno::ENOLCK));
}

#[derive(Clone, Debug)]
enum Act {
    Lock { ino: Ino, claim: LockClaim, waits: bool },
    Unlock { ino: Ino, claim: LockClaim },
    Cancel { nth: usize, undo: bool },
    Close { ino: Ino, session: SessionId, holder: LockHolder },
    End { session: SessionId },
}

fn act() -> impl Strategy<Value = Act> {
    let owner = || (0..3_u64, 1..3_u64).prop_map(|(tens, one)| 10 * tens + one);
    let kind = || prop_oneof![Just(Shared), Just(Exclusive)];
    let range = (0..8_u64, 0..8_u64).prop_map(|(a, b)| (a.min(b), if a.max(b) == 7 { u64::MAX } else { a.max(b) }));
    let claim = (owner(), kind(), range, any::<bool>()).prop_map(|(owner, kind, (first, last), is_flock)| {
        if is_flock { flock(owner, kind) } else { fcntl(owner, kind, first, last) }
    });
    let ino = || prop_oneof![3 => Just(FILE), 1 => Just(OTHER)];
    let holder = owner().prop_flat_map(|owner| {
        let holder = prop_oneof![Just(LockHolder::Owner(owner)), Just(LockHolder::Handle(owner))];
        (Just(session_of(owner)), holder)
    });
    prop_oneof![
        8 => (ino(), claim.clone(), any::<bool>()).prop_map(|(ino, claim, waits)| Act::Lock { ino, claim, waits }),
        5 => (ino(), claim).prop_map(|(ino, claim)| Act::Unlock { ino, claim }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(nth, undo)| Act::Cancel { nth, undo }),
        1 => (ino(), holder).prop_map(|(ino, (session, holder))| Act::Close { ino, session, holder }),
        1 => (1..4_u64).prop_map(|session| Act::End { session: SessionId(session) }),
    ]
}

/// What each byte's owners have of it. Byte 7 stands for all that follow.
type Bytes = BTreeMap<(Ino, LockFamily, u64), BTreeMap<u64, LockKind>>;

const fn byte(at: u64) -> u64 {
    if at == 7 { u64::MAX } else { at }
}

fn paint(bytes: &mut Bytes, ino: Ino, claim: &LockClaim, kind: Option<LockKind>) {
    for at in (0..8).filter(|at| claim.range.first <= byte(*at) && byte(*at) <= claim.range.last) {
        let owners = bytes.entry((ino, claim.family, at)).or_default();
        match kind {
            Some(kind) => drop(owners.insert(claim.owner, kind)),
            None => drop(owners.remove(&claim.owner)),
        }
    }
    bytes.retain(|_, owners| !owners.is_empty());
}

fn is_barred(bytes: &Bytes, ino: Ino, claim: &LockClaim) -> bool {
    let others = bytes.iter().filter(|((of, family, at), _)| {
        (*of, *family) == (ino, claim.family) && claim.range.first <= byte(*at) && byte(*at) <= claim.range.last
    });
    let mut others = others.flat_map(|(_, owners)| owners).filter(|(owner, _)| **owner != claim.owner);
    others.any(|(_, kind)| *kind == Exclusive || claim.kind == Exclusive)
}

fn painted(table: &LockTable) -> Bytes {
    let mut bytes = Bytes::new();
    all(table).for_each(|(ino, held)| paint(&mut bytes, ino, &held.claim, Some(held.claim.kind)));
    bytes
}

/// What must hold between any two steps. Threads of a process that waits may close a circle without waiting themselves.
fn check(table: &LockTable, has_threads: bool) {
    let again = loaded(table).expect("its own rows");
    let mut waits: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for ino in table.files() {
        for (since, waiting) in table.queue_of(ino) {
            let owners = table.owners_that_bar(ino, waiting.session, &waiting.claim);
            let bars: Vec<u64> = owners.iter().map(|owner| owner.1).collect();
            let is_behind = table.queue_before(ino, since).any(|other| other.claim.excludes(&waiting.claim));
            assert!(!bars.is_empty() || is_behind, "{waiting:?} waits for nothing in {table:?}");
            if waiting.claim.family == LockFamily::Fcntl {
                let before = table.queue_before(ino, since).filter(|other| {
                    bars.is_empty() && other.owner() != waiting.owner() && other.claim.excludes(&waiting.claim)
                });
                let all = bars.iter().copied().chain(before.map(|other| other.claim.owner));
                waits.entry(waiting.claim.owner).or_default().extend(all);
            }
        }
    }
    assert_eq!((again.places, again.totals), (table.places.clone(), table.totals.clone()));
    assert_eq!((again.waiting, again.files), (table.waiting.clone(), table.files.clone()));
    assert_eq!(again.held, table.held);
    // No circle: taking away owners that wait for nobody ends with none left.
    loop {
        let count = waits.len();
        let waiting: BTreeSet<u64> = waits.keys().copied().collect();
        waits.retain(|_, of| of.iter().any(|owner| waiting.contains(owner)));
        if waits.len() == count {
            break;
        }
    }
    assert!(has_threads || waits.is_empty(), "owners wait for each other: {waits:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_the_bytes_say(acts in vec(act(), 1..60), has_threads in any::<bool>()) {
        let mut bench = Bench::default();
        let mut calls: Vec<(Ino, u64, LockClaim)> = Vec::new();
        for act in acts {
            let mut expected = painted(&bench.table);
            let waits_already = |owner: u64| {
                let mut queues = bench.table.queue.values();
                !has_threads && queues.any(|waiting| waiting.claim.owner == owner)
            };
            match act {
                Act::Lock { claim, .. } | Act::Unlock { claim, .. } if waits_already(claim.owner) => continue,
                Act::Lock { ino, claim, waits } => {
                    let was_barred = is_barred(&expected, ino, &claim);
                    let reply = bench.ask(ino, claim, waits);
                    match reply {
                        Ok(Reply::Locked) => {
                            prop_assert!(!was_barred || claim.family == LockFamily::Flock);
                            paint(&mut expected, ino, &claim, Some(claim.kind));
                        }
                        Ok(Reply::Queued) => {
                            calls.push((ino, bench.calls, claim));
                            if claim.family == LockFamily::Flock {
                                paint(&mut expected, ino, &claim, None);
                            }
                        }
                        Err(Errno::EAGAIN) => prop_assert!(was_barred && !waits),
                        Err(Errno::EDEADLK) => prop_assert!(was_barred && waits),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Act::Unlock { ino, claim } => {
                    let what = (claim.family, claim.owner, claim.range);
                    let who = (ino, session_of(claim.owner));
                    prop_assert_eq!(bench.step(|t, o, i| t.unlock(o, i, who, what)), Ok(Reply::Done));
                    paint(&mut expected, ino, &claim, None);
                }
                Act::Cancel { nth, undo } => {
                    if calls.is_empty() {
                        continue;
                    }
                    let (ino, call, claim) = calls[nth % calls.len()];
                    let is_waiting = bench.table.queue(ino).any(|waiting| waiting.call.0 == call);
                    let who = (ino, session_of(claim.owner), Sequence(call));
                    let has_it = bench.table.grants(ino, session_of(claim.owner), &claim);
                    let reply = bench.step(|t, o, i| t.cancel(o, i, who, claim, undo));
                    let keeps = !is_waiting && has_it && !undo;
                    prop_assert_eq!(reply, Ok(if keeps { Reply::Locked } else { Reply::Done }));
                    if !is_waiting && has_it && undo {
                        paint(&mut expected, ino, &claim, None);
                    }
                }
                Act::Close { ino, session, holder } => {
                    bench.step(|t, o, i| t.release(o, i, (ino, session), holder));
                    let (owner, families) = match holder {
                        LockHolder::Owner(owner) => (owner, vec![LockFamily::Fcntl]),
                        LockHolder::Handle(owner) => (owner, vec![LockFamily::Fcntl, LockFamily::Flock]),
                    };
                    for family in families {
                        paint(&mut expected, ino, &claim(family, owner, Shared, 0, u64::MAX), None);
                    }
                }
                Act::End { session } => {
                    bench.end(session);
                    expected.values_mut().for_each(|owners| owners.retain(|owner, _| session_of(*owner) != session));
                    expected.retain(|_, owners| !owners.is_empty());
                    prop_assert!(!bench.table.has_any(session));
                }
            }
            // What was granted on the way is granted once, to somebody who waited, and stands.
            for call in &bench.granted {
                let (ino, _, claim) = calls.iter().find(|(_, known, _)| known == call).expect("a call that waited");
                paint(&mut expected, *ino, claim, Some(claim.kind));
                prop_assert!(bench.table.queue(*ino).all(|waiting| waiting.call.0 != *call));
            }
            prop_assert_eq!(painted(&bench.table), expected);
            check(&bench.table, has_threads);
        }
    }
}
