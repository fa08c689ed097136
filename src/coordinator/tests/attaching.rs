//! How a mount attaches: what it is told first, what it is sent, and who is refused.

use super::*;

#[test]
fn a_new_mount_gets_a_session_by_an_entry_then_a_snapshot_then_entries() {
    let mut bench = Bench::leading();
    let connection = bench.connect();
    bench.say(connection, ToLeader::Hello(Bench::hello(1)));
    assert_eq!(bench.take(connection), None, "the session is not in the log yet");
    bench.commit();
    let Some(ToMount::Welcome(welcome)) = bench.take(connection) else { panic!("no Welcome") };
    assert_eq!(welcome.caught_up_at, bench.index);
    assert_eq!(welcome.protocol, limits::PROTOCOL_MAX);
    let stores: Vec<_> = welcome.stores.iter().map(|store| store.address.as_str()).collect();
    assert_eq!(stores, ["n1:7440", "n2:7440", "n3:7440"]);
    let Some(ToMount::SnapshotPiece { index, first: true, last: true, rows }) = bench.take(connection) else {
        panic!("no snapshot in one piece");
    };
    assert_eq!(index, welcome.caught_up_at);
    let volume = crate::namespace::Volume::from_rows(rows).expect("rows of a volume");
    assert_eq!(volume.digest(), bench.state.volume(welcome.volume).expect("there").digest());
    assert_eq!(volume.session_of(MountId(1)), Some(welcome.session));
}

#[test]
fn a_mount_that_asks_again_finds_its_session() {
    let mut bench = Bench::leading();
    let first = bench.attach(1);
    let before = bench.index;
    let hello = Hello { generation: Generation(2), ..Bench::hello(1) };
    let connection = bench.connect();
    let again = bench.attach_on(connection, hello.clone());
    assert_eq!((again.session, bench.index), (first.session, before), "and no entry was needed");
    let connection = bench.connect();
    let named = Hello { generation: Generation(3), session: Some(first.session), ..hello };
    assert_eq!(bench.attach_on(connection, named).session, first.session);
}

#[test]
fn two_connections_of_one_new_mount_open_one_session() {
    let mut bench = Bench::leading();
    let (older, newer) = (bench.connect(), bench.connect());
    bench.say(older, ToLeader::Hello(Bench::hello(1)));
    let hello = Hello { generation: Generation(2), ..Bench::hello(1) };
    let mounted = bench.attach_on(newer, hello);
    assert_eq!(bench.refusal(older), Refusal::Protocol);
    assert_eq!(bench.state.volume_named("main").expect("main").sessions().count(), 1);
    assert!(!bench.closed.contains(&mounted.connection));
}

#[test]
fn what_cannot_be_is_refused_for_good() {
    let mut bench = Bench::leading();
    let good = Bench::hello(1);
    let cases =
        [("main", Hello { protocol: ProtocolRange { min: 2, max: 9 }, ..good.clone() }), ("other", good.clone())];
    for (volume, hello) in cases {
        let connection = bench.connect_as(volume, Access::ReadWrite);
        bench.say(connection, ToLeader::Hello(hello));
        assert_eq!(bench.refusal(connection), Refusal::Permanent);
    }
    let mounted = bench.attach(1);
    let strange = ProtocolRange { min: 2, max: 9 };
    let living = Hello { protocol: strange, session: Some(mounted.session), generation: Generation(2), ..good.clone() };
    let connection = bench.connect();
    bench.say(connection, ToLeader::Hello(living));
    assert_eq!(
        bench.refusal(connection),
        Refusal::Busy,
        "nothing that one node says of itself ends a mount that lives"
    );
    let connection = bench.connect();
    let ahead = Hello { applied: LogIndex(1000), session: Some(mounted.session), generation: Generation(2), ..good };
    bench.say(connection, ToLeader::Hello(ahead));
    assert_eq!(bench.refusal(connection), Refusal::Permanent);
    assert_eq!(bench.state.volume_named("main").expect("main").sessions().count(), 1);
}

/// One that came between the check and the raise would be a session that cannot read what follows.
#[test]
fn a_mount_that_is_older_than_the_level_waits_for_a_raise_and_is_refused_behind_it() {
    let mut bench = Bench::leading();
    let is_old = |bench: &mut Bench| {
        let connection = bench.connect();
        bench.say(connection, ToLeader::Hello(Bench::hello(1)));
        bench.refusal(connection)
    };
    let set = |id| Command::SetNode(crate::namespace::NodeInfo { level_max: 2, ..node(id) });
    let ids: Vec<u64> = bench.state.nodes().map(|node| node.id.0).collect();
    for command in ids.into_iter().map(set) {
        bench.input(Input::Command { ticket: None, volume: VolumeId(0), command });
    }
    bench.commit();
    bench.input(Input::Command { ticket: None, volume: VolumeId(0), command: Command::RaiseFeatureLevel(2) });
    assert_eq!(is_old(&mut bench), Refusal::Busy, "the raise is on its way");
    bench.commit();
    assert_eq!(bench.state.feature_level(), 2);
    assert_eq!(is_old(&mut bench), Refusal::Permanent);
    let connection = bench.connect();
    bench.attach_on(connection, Hello { level_max: 2, ..Bench::hello(2) });
}

/// A second founding with the same authority answered the mounts of the first, and ended them: "it was set back".
#[test]
fn a_mount_of_another_founding_is_told_nothing_but_that() {
    let other = FoundingId { number: FoundingNumber(2), ..FOUNDING };
    let grant = Grant { founding: other, volume: VolumeId(1), name: "main".to_owned(), access: Access::ReadWrite };
    let mut following = Bench::following();
    following.depose(Some(2));
    for mut bench in [Bench::leading(), Bench::following(), following] {
        let connection = bench.connect_with(grant.clone());
        assert_eq!(bench.refusal(connection), Refusal::Foreign);
        bench.say(connection, ToLeader::Hello(Hello { applied: LogIndex(1000), ..Bench::hello(1) }));
        assert_eq!(bench.take(connection), None);
    }
}

/// A volume that was deleted and made again under its name took the credentials of the one before.
#[test]
fn a_credential_is_for_its_volume_and_not_for_one_with_its_name() {
    let mut bench = Bench::leading();
    let volume = bench.state.volume_named("main").expect("main").id();
    let grant = Grant { founding: FOUNDING, volume, name: "main".to_owned(), access: Access::ReadWrite };
    for command in [
        Command::DeleteVolume { name: "main".to_owned(), force: true },
        Command::CreateVolume { name: "main".to_owned(), options: VolumeOptions::default() },
    ] {
        bench.input(Input::Command { ticket: None, volume: VolumeId(0), command });
        bench.commit();
    }
    let connection = bench.connect_with(grant);
    bench.say(connection, ToLeader::Hello(Bench::hello(1)));
    assert_eq!(bench.refusal(connection), Refusal::Permanent);
    assert_eq!(bench.state.volume_named("main").expect("the second").sessions().count(), 0);
    let connection = bench.connect();
    bench.attach_on(connection, Bench::hello(1));
}

#[test]
fn a_session_that_is_unknown_or_anothers_has_expired() {
    let mut bench = Bench::leading();
    let mounted = bench.attach(1);
    for (mount, session) in [(1, SessionId(99)), (2, mounted.session)] {
        let connection = bench.connect();
        bench.say(connection, ToLeader::Hello(Hello { session: Some(session), ..Bench::hello(mount) }));
        assert_eq!(bench.refusal(connection), Refusal::SessionExpired);
    }
}

/// Seed 1879: a leader that had been replaced told a mount which was ahead of it to begin anew.
#[test]
fn a_leader_that_may_have_been_replaced_refuses_nobody() {
    let mut bench = Bench::leading();
    let mounted = bench.attach(1);
    bench.confirms = false;
    let good = Hello { session: Some(mounted.session), generation: Generation(2), ..Bench::hello(1) };
    let doubtful = [
        ("main", Hello { applied: LogIndex(1000), ..good.clone() }),
        ("main", Hello { session: Some(SessionId(99)), ..good.clone() }),
        ("other", good),
    ];
    let connections = doubtful.map(|(volume, hello)| {
        let connection = bench.connect_as(volume, Access::ReadWrite);
        bench.say(connection, ToLeader::Hello(hello));
        connection
    });
    let first = bench.tickets.pop().expect("a round was asked for");
    assert!(connections.iter().all(|connection| bench.take(*connection).is_none()));
    // It began before the second mount asked.
    bench.input(Input::LeaseConfirmed { ticket: first });
    assert_eq!(bench.refusal(connections[0]), Refusal::Permanent);
    assert!(connections[1..].iter().all(|connection| bench.take(*connection).is_none()));
    bench.depose(Some(2));
    for connection in &connections[1..] {
        assert_eq!(bench.take(*connection), Some(ToMount::NotLeader { leader: Some("n2:7440".to_owned()) }));
    }
}

#[test]
fn a_newer_connection_replaces_an_older_and_never_the_other_way() {
    let mut bench = Bench::leading();
    let first = bench.attach(1);
    let connection = bench.connect();
    let newer = bench.attach_on(connection, Hello { generation: Generation(5), ..Bench::hello(1) });
    assert_eq!(bench.refusal(first.connection), Refusal::Protocol);
    for generation in [4, 5] {
        let late = bench.connect();
        bench.say(late, ToLeader::Hello(Hello { generation: Generation(generation), ..Bench::hello(1) }));
        assert_eq!(bench.refusal(late), Refusal::Protocol);
    }
    assert!(!bench.closed.contains(&newer.connection));
}

#[test]
fn a_connection_begins_with_one_hello() {
    let mut bench = Bench::leading();
    let connection = bench.connect();
    bench.say(connection, ToLeader::Renew { number: 1 });
    assert_eq!(bench.refusal(connection), Refusal::Protocol);
    let mounted = bench.mount(1);
    bench.say(mounted.connection, ToLeader::Hello(Bench::hello(1)));
    assert_eq!(bench.refusal(mounted.connection), Refusal::Protocol);
}

#[test]
fn a_mount_that_comes_back_is_sent_the_entries_it_missed() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.input(Input::Closed { connection: b.connection });
    let missed: Vec<LogIndex> = (1..=3).map(|n| bench.change(a, n, mkdir(&format!("d{n}")))).collect();
    let connection = bench.connect();
    let hello =
        Hello { session: Some(b.session), generation: Generation(2), applied: b.caught_up_at, ..Bench::hello(2) };
    let back = bench.attach_on(connection, hello);
    assert_eq!(back.caught_up_at, missed[2]);
    assert_eq!(bench.entries(back), missed);
    assert_eq!(bench.take(connection), None);
}

#[test]
fn a_mount_that_missed_nothing_is_sent_nothing() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    let connection = bench.connect();
    let hello =
        Hello { session: Some(a.session), generation: Generation(2), applied: a.caught_up_at, ..Bench::hello(1) };
    let back = bench.attach_on(connection, hello);
    assert_eq!((back.caught_up_at, bench.take(connection)), (a.caught_up_at, None));
}

/// A volume whose snapshot takes eight pieces.
fn with_large_volume() -> (Bench, Mounted) {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    for n in 1..=64 {
        let name = crate::types::XattrName::new(format!("user.{n}").as_bytes()).expect("a good name");
        let value = Bytes::from(vec![n as u8; limits::XATTR_VALUE_BYTES_MAX]);
        let mode = crate::namespace::XattrMode::Set;
        bench.change(a, n, Operation::SetXattr { ino: Ino::ROOT, name, value, mode, clear_sgid: false });
        bench.answer(a);
        bench.acknowledge(a, bench.index);
    }
    (bench, a)
}

#[test]
fn a_large_snapshot_waits_for_its_pieces_to_arrive_and_is_of_one_moment() {
    let (mut bench, a) = with_large_volume();
    let b = bench.attach(2);
    let digest = bench.state.volume_named("main").expect("main").digest();
    assert_eq!(bench.sent[&b.connection].len(), 4, "pieces on their way are bounded");
    let later = bench.change(a, 65, mkdir("later"));
    let mut rows = Vec::new();
    let mut pieces = 0;
    loop {
        let Some(ToMount::SnapshotPiece { index, first, last, rows: more }) = bench.take(b.connection) else {
            panic!("the next piece did not come");
        };
        assert_eq!((index, first), (b.caught_up_at, pieces == 0));
        rows.extend(more);
        pieces += 1;
        bench.say(b.connection, ToLeader::PieceReceived);
        if last {
            break;
        }
    }
    assert!(pieces >= 8, "{pieces}");
    assert_eq!(crate::namespace::Volume::from_rows(rows).expect("rows of a volume").digest(), digest);
    assert_eq!(bench.entries(b), [later], "what was applied meanwhile follows");
}

#[test]
fn a_piece_confirmed_that_was_not_sent_is_refused() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.say(a.connection, ToLeader::PieceReceived);
    assert_eq!(bench.refusal(a.connection), Refusal::Protocol);
}

#[test]
fn who_needs_what_is_no_longer_kept_gets_a_snapshot() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.input(Input::Closed { connection: b.connection });
    let value = Bytes::from(vec![1; limits::XATTR_VALUE_BYTES_MAX]);
    let name = crate::types::XattrName::new(b"user.x").expect("a good name");
    let count = limits::LOG_RETAINED_BYTES / limits::XATTR_VALUE_BYTES_MAX + 2;
    for n in 1..=count as u64 {
        let (name, value, mode) = (name.clone(), value.clone(), crate::namespace::XattrMode::Set);
        bench.change(a, n, Operation::SetXattr { ino: Ino::ROOT, name, value, mode, clear_sgid: false });
        bench.acknowledge(a, bench.index);
        bench.wait(T.heartbeat);
        bench.answer(a);
        bench.renewed(a, n + 1);
    }
    let connection = bench.connect();
    let hello =
        Hello { session: Some(b.session), generation: Generation(2), applied: b.caught_up_at, ..Bench::hello(2) };
    let back = bench.attach_on(connection, hello);
    assert_eq!(back.session, b.session);
    assert!(matches!(bench.take(connection), Some(ToMount::SnapshotPiece { first: true, .. })));
}

#[test]
fn a_mount_that_takes_nothing_in_is_cut_off_when_its_entries_are_no_longer_kept() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.acknowledge(a, b.caught_up_at);
    let value = Bytes::from(vec![1; limits::XATTR_VALUE_BYTES_MAX]);
    let name = crate::types::XattrName::new(b"user.x").expect("a good name");
    let mut changes = 0;
    while !bench.closed.contains(&b.connection) {
        changes += 1;
        assert!(changes < 1000, "its queue grows without bound");
        let (name, value, mode) = (name.clone(), value.clone(), crate::namespace::XattrMode::Set);
        bench.change(a, changes, Operation::SetXattr { ino: Ino::ROOT, name, value, mode, clear_sgid: false });
        bench.acknowledge(a, bench.index);
        bench.wait(T.heartbeat);
        bench.answer(a);
        bench.renewed(a, changes + 1);
    }
    let queued = limits::LOG_RETAINED_BYTES / limits::XATTR_VALUE_BYTES_MAX;
    assert!(changes as usize > queued - 2, "not before: {changes}");
    assert!(!bench.closed.contains(&a.connection));
}

#[test]
fn entries_recalled_from_the_log_serve_mounts_after_a_restart() {
    let mut before = Bench::leading();
    let a = before.mount(1);
    let mut log = Vec::new();
    for n in 1..=3 {
        before.call(a, n, mkdir(&format!("d{n}")));
        log.extend(before.proposed.iter().cloned());
        before.commit();
    }
    let mut after = Bench::following();
    after.state = before.state.clone();
    let config = Config { founding: FOUNDING, timing: T, retention: Retention::DEFAULT, sessions: SESSIONS };
    after.coordinator = Coordinator::new(config, &after.state, a.caught_up_at);
    for (index, bytes) in &log {
        after.coordinator.recall(VolumeId(1), *index, bytes.clone());
    }
    (after.term, after.index) = (before.term, before.index);
    after.elect();
    after.commit();
    let connection = after.connect();
    let hello =
        Hello { session: Some(a.session), generation: Generation(2), applied: a.caught_up_at, ..Bench::hello(1) };
    let back = after.attach_on(connection, hello);
    let indexes: Vec<LogIndex> = log.iter().map(|(index, _)| *index).collect();
    assert_eq!(after.entries(back), indexes);
}
