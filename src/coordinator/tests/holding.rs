//! Recalls, and the end of what a silent session holds.

use super::*;
use crate::types::{LockClaim, LockFamily, LockKind, LockRange};

impl Bench {
    fn holder_of(&self, name: &str) -> Option<SessionId> {
        let volume = self.state.volume_named("main").expect("the main volume");
        let ino = volume.lookup(Ino::ROOT, &Name::new(name.as_bytes()).expect("a good name")).expect("made before");
        volume.delegation(ino).map(|held| held.session)
    }

    /// A file made and delegated; its inode and the number of the grant.
    fn delegated(&mut self, mounted: Mounted, sequence: u64, name: &str) -> (Ino, LogIndex) {
        let made = Operation::Make {
            parent: Ino::ROOT,
            name: Name::new(name.as_bytes()).expect("a good name"),
            node: NewNode::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            delegate: true,
            umask: 0,
        };
        let grant = self.change(mounted, sequence, made);
        let volume = self.state.volume_named("main").expect("the main volume");
        let ino = volume.lookup(Ino::ROOT, &Name::new(name.as_bytes()).expect("a good name")).expect("just made");
        (ino, grant)
    }

    /// Recalls that the mount was sent, and what else was, is dropped.
    fn recalls(&mut self, mounted: Mounted) -> Vec<(Ino, LogIndex)> {
        let sent = std::mem::take(self.sent.entry(mounted.connection).or_default());
        sent.into_iter()
            .filter_map(|message| match message {
                ToMount::Recall { ino, grant } => Some((ino, grant)),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn a_recall_reaches_the_holder_each_time_it_is_asked_for_and_nobody_else() {
    let mut bench = Bench::leading();
    let (a, b, c) = (bench.mount(1), bench.mount(2), bench.mount(3));
    let (ino, grant) = bench.delegated(a, 1, "f");
    for _ in 0..2 {
        bench.say(b.connection, ToLeader::Recall { ino });
        assert_eq!(bench.recalls(a), [(ino, grant)]);
    }
    bench.say(b.connection, ToLeader::Recall { ino: Ino(999) });
    bench.say(a.connection, ToLeader::Recall { ino });
    assert_eq!((bench.recalls(a), bench.recalls(b), bench.recalls(c)), (vec![], vec![], vec![]));
}

#[test]
fn what_a_session_holds_ends_with_its_hold_time_and_the_session_does_not() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let (ino, _) = bench.delegated(a, 1, "f");
    bench.delegated(b, 1, "g");
    bench.input(Input::Closed { connection: a.connection });
    let heard = bench.now;
    while bench.now < heard.after(T.hold - T.heartbeat) {
        bench.wait(T.heartbeat);
        bench.say(b.connection, ToLeader::Recall { ino });
        bench.commit();
        assert_eq!(bench.holder_of("f"), Some(a.session), "not before {:?}", T.hold);
    }
    bench.wait(2 * T.heartbeat);
    bench.commit();
    assert_eq!((bench.holder_of("f"), bench.holder_of("g")), (None, Some(b.session)));
    let sessions = bench.state.volume_named("main").expect("the main volume").sessions().count();
    assert_eq!(sessions, 2, "it may come back and finish its calls");
}

#[test]
fn a_new_leader_counts_the_hold_time_anew() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.delegated(a, 1, "f");
    bench.wait(T.hold - 2 * T.heartbeat);
    bench.commit();
    bench.depose(None);
    bench.elect();
    bench.commit();
    bench.wait(T.hold - 2 * T.heartbeat);
    bench.commit();
    assert_eq!(bench.holder_of("f"), Some(a.session));
    bench.wait(4 * T.heartbeat);
    bench.commit();
    assert_eq!(bench.holder_of("f"), None);
}

fn lock(ino: Ino, byte: u64) -> Operation {
    let range = LockRange { first: 2 * byte, last: 2 * byte };
    let (family, kind) = (LockFamily::Fcntl, LockKind::Exclusive);
    Operation::Lock { ino, claim: LockClaim { family, owner: 1, kind, range, pid: 1, fh: 1 }, waits: false }
}

/// The leader was lost between two parts of what ends a session's holds, and the session came back to the next one. Its first
/// part has all that was written under any of them refused; what was left of them stood, and nobody was told of an end of it.
#[test]
fn holds_that_a_predecessor_has_ended_in_part_end_whole() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let (ino, _) = bench.delegated(a, 1, "f");
    let most = limits::REAPED_ROWS_MAX as u64;
    for byte in 0..most + 100 {
        bench.change(a, byte + 2, lock(ino, byte));
        bench.acknowledge(a, bench.index);
        bench.acknowledge(b, bench.index);
    }
    bench.change(b, 1, lock(ino, most + 200));
    let main = |bench: &Bench| bench.state.volume_named("main").expect("the main volume").clone();
    let holds = |bench: &Bench, mounted: Mounted| main(bench).locks().has_any(mounted.session);
    bench.input(Input::Closed { connection: a.connection });
    while bench.proposed.is_empty() {
        bench.wait(T.heartbeat);
        bench.say(b.connection, ToLeader::Recall { ino });
    }
    // The first part and no more: the next is proposed, and lost with the leader.
    let (index, bytes) = bench.proposed.pop_front().expect("just proposed");
    let entry = Entry::decode(&bytes).expect("proposed by us");
    let applied = bench.state.apply(index, &entry);
    assert_eq!((&entry.command, applied.outcome), (&Command::EndHolds { session: a.session }, Ok(Reply::Unfinished)));
    let since = main(&bench).session(a.session).expect("it stays").holds_since;
    assert!(since == index && holds(&bench, a));
    bench.depose(None);
    bench.elect();
    bench.commit();
    assert!(!holds(&bench, a), "it is gone as a whole");
    assert!(main(&bench).session(a.session).expect("it stays").holds_since > since);
    assert!(holds(&bench, b), "nobody else's");

    // What it takes anew is its own.
    let connection = bench.connect();
    let a =
        bench.attach_on(connection, Hello { generation: Generation(2), session: Some(a.session), ..Bench::hello(1) });
    bench.change(a, most + 300, lock(ino, 0));
    bench.depose(None);
    bench.elect();
    bench.commit();
    assert!(holds(&bench, a));
}
