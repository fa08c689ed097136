//! Sessions that end, and orphans that are freed.

use super::*;

impl Bench {
    fn sweep(&mut self) {
        self.wait(11 * T.heartbeat);
        self.commit();
    }

    fn orphans(&self) -> usize {
        self.state.volume_named("main").expect("main").orphans().count()
    }

    pub(super) fn sessions(&self) -> usize {
        self.state.volume_named("main").expect("main").sessions().count()
    }

    /// Everything so far is applied and invalidated at the mount, and these orphans are open there.
    fn acknowledge_all(&mut self, mounted: Mounted, referenced: Vec<Ino>) {
        let entries = (1..=self.index.0).map(LogIndex).collect();
        self.say(mounted.connection, ToLeader::Acknowledge { entries, referenced });
    }

    /// The file is made and unlinked again by `mounted`; its inode and the entry that orphaned it.
    fn orphan(&mut self, mounted: Mounted, sequence: u64) -> (Ino, LogIndex) {
        self.change(mounted, sequence, create("f"));
        let name = Name::new(b"f").expect("a good name");
        let ino = self.state.volume_named("main").expect("main").lookup(Ino::ROOT, &name).expect("just made");
        let index = self.change(mounted, sequence + 1, unlink("f"));
        self.acknowledge_all(mounted, Vec::new());
        assert_eq!(self.orphans(), 1);
        (ino, index)
    }
}

#[test]
fn an_orphan_lives_until_every_mount_has_said_that_it_is_not_open() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.orphan(a, 1);
    bench.sweep();
    assert_eq!(bench.orphans(), 1, "b has not acknowledged");
    bench.acknowledge_all(b, Vec::new());
    bench.sweep();
    assert_eq!(bench.orphans(), 0);
}

/// One session of a read-only credential that renewed and acknowledged nothing kept the space of all that was unlinked.
#[test]
fn a_session_that_acknowledges_nothing_ends_however_often_it_attaches() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    let reader = bench.connect_as("main", Access::ReadOnly);
    let mut b = bench.attach_on(reader, Bench::hello(2));
    bench.orphan(a, 1);
    let mut seconds: u32 = 0;
    while bench.sessions() == 2 {
        assert!(!bench.closed.contains(&a.connection) && bench.orphans() == 1);
        assert!(T.session * 21 / 10 > Duration::from_secs(1) * seconds, "it keeps the space for good");
        seconds += 1;
        bench.renewed(a, 100 + u64::from(seconds));
        if seconds.is_multiple_of(100) {
            let connection = bench.connect_as("main", Access::ReadOnly);
            let generation = Generation(1 + u64::from(seconds));
            let hello = Hello { session: Some(b.session), generation, ..Bench::hello(2) };
            b = bench.attach_on(connection, hello);
        }
        bench.say(b.connection, ToLeader::Renew { number: seconds.into() });
        bench.wait(Duration::from_secs(1));
        bench.commit();
    }
    assert!(Duration::from_secs(1) * seconds >= 2 * T.session);
    assert_eq!(bench.refusal(b.connection), Refusal::SessionExpired);
    bench.sweep();
    assert_eq!(bench.orphans(), 0);
    assert!(!bench.closed.contains(&a.connection), "whoever acknowledges goes on");
}

/// A new session of a read-only credential every few minutes, none of which acknowledges, kept all space as one did.
#[test]
fn sessions_that_acknowledge_nothing_keep_what_was_unlinked_since_they_began() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.orphan(a, 1);
    for mount in 2..9 {
        let connection = bench.connect_as("main", Access::ReadOnly);
        bench.attach_on(connection, Bench::hello(mount));
    }
    bench.acknowledge_all(a, Vec::new());
    bench.sweep();
    assert_eq!(bench.orphans(), 0, "no kernel of theirs has heard of the file");
    bench.orphan(a, 3);
    bench.sweep();
    assert_eq!(bench.orphans(), 1, "it may be in use at one of them");
}

#[test]
fn an_orphan_that_is_open_lives_until_it_is_released() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let (ino, _) = bench.orphan(a, 1);
    bench.acknowledge_all(b, vec![ino]);
    bench.sweep();
    assert_eq!(bench.orphans(), 1);
    bench.say(b.connection, ToLeader::Released { orphans: vec![ino] });
    bench.sweep();
    assert_eq!(bench.orphans(), 0);
}

#[test]
fn what_is_no_orphan_is_not_kept_for_anybody() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let (ino, _) = bench.orphan(a, 1);
    bench.acknowledge_all(b, (0..100_000).map(Ino).collect());
    let again = Hello { orphans: (0..100_000).map(Ino).collect(), generation: Generation(2), ..Bench::hello(1) };
    let connection = bench.connect();
    bench.attach_on(connection, again);
    let uses = |bench: &Bench| bench.coordinator.uses.all().into_iter().map(|(_, own)| own).collect::<Vec<_>>();
    assert_eq!(uses(&bench), [[ino], [ino]]);
    bench.say(b.connection, ToLeader::Released { orphans: (0..100_000).map(Ino).collect() });
    assert_eq!(uses(&bench), [[ino]]);
}

#[test]
fn a_mount_out_of_the_roster_keeps_its_open_orphans() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.orphan(a, 1);
    bench.wait(bound());
    assert!(!bench.in_roster(b));
    bench.sweep();
    assert_eq!(bench.orphans(), 1);
}

#[test]
fn a_new_leader_learns_from_the_mounts_what_is_open() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let (ino, index) = bench.orphan(a, 1);
    bench.acknowledge_all(b, vec![ino]);
    bench.elect();
    bench.commit();
    bench.sweep();
    assert_eq!(bench.orphans(), 1, "nobody is back");
    for (mount, before, orphans) in [(1, a, vec![]), (2, b, vec![ino])] {
        let connection = bench.connect();
        let session = Some(before.session);
        let generation = Generation(2);
        let hello = Hello { session, generation, applied: index, orphans, ..Bench::hello(mount) };
        let back = bench.attach_on(connection, hello);
        bench.acknowledge(back, back.caught_up_at);
    }
    bench.sweep();
    assert_eq!(bench.orphans(), 1, "b has it open, and said so");
}

#[test]
fn orphans_of_an_ended_session_are_reaped() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    let (ino, _) = bench.orphan(a, 1);
    bench.acknowledge_all(b, vec![ino]);
    bench.say(b.connection, ToLeader::Leave);
    bench.commit();
    assert!(bench.closed.contains(&b.connection));
    assert_eq!(bench.sessions(), 1);
    bench.acknowledge_all(a, Vec::new());
    bench.sweep();
    assert_eq!(bench.orphans(), 0);
}

#[test]
fn a_mount_that_leaves_is_waited_for_no_more() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.change(a, 1, mkdir("d"));
    assert_eq!(bench.answer(a), None);
    bench.say(b.connection, ToLeader::Leave);
    assert!(bench.answer(a).is_some());
    assert_eq!(bench.renewed(b, 2), None);
    bench.commit();
    assert_eq!(bench.sessions(), 1);
}

#[test]
fn a_silent_session_ends_and_its_mount_learns_it() {
    let mut bench = Bench::leading();
    let (a, b) = (bench.mount(1), bench.mount(2));
    bench.input(Input::Closed { connection: b.connection });
    let mut number = 1;
    let began = bench.now;
    while bench.now.since(began) < T.session {
        number += 1;
        bench.renewed(a, number);
        bench.wait(T.heartbeat * 10);
        bench.commit();
        if bench.now.since(began) < T.session - T.heartbeat * 10 {
            assert_eq!(bench.sessions(), 2);
        }
    }
    bench.sweep();
    assert_eq!(bench.sessions(), 1);
    assert!(!bench.closed.contains(&a.connection));
    let connection = bench.connect();
    let hello = Hello { session: Some(b.session), generation: Generation(2), ..Bench::hello(2) };
    bench.say(connection, ToLeader::Hello(hello));
    assert_eq!(bench.refusal(connection), Refusal::SessionExpired);
}

#[test]
fn a_connected_mount_that_says_nothing_loses_its_session_too() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.wait(T.session + T.heartbeat * 11);
    bench.commit();
    assert_eq!((bench.sessions(), bench.refusal(a.connection)), (0, Refusal::SessionExpired));
}

#[test]
fn a_session_whose_mount_was_gone_before_it_opened_ends_as_well() {
    let mut bench = Bench::leading();
    let connection = bench.connect();
    bench.say(connection, ToLeader::Hello(Bench::hello(1)));
    bench.input(Input::Closed { connection });
    bench.commit();
    assert_eq!(bench.sessions(), 1);
    bench.wait(T.session + T.heartbeat * 11);
    bench.commit();
    assert_eq!(bench.sessions(), 0);
}

#[test]
fn commands_are_carried_out_and_their_outcome_told() {
    let mut bench = Bench::leading();
    let command = || Command::CreateVolume { name: "two".to_owned(), options: VolumeOptions::default() };
    bench.input(Input::Command { ticket: Some(5), volume: VolumeId(0), command: command() });
    bench.input(Input::Command { ticket: Some(6), volume: VolumeId(0), command: command() });
    bench.commit();
    assert_eq!(bench.carried.len(), 2);
    assert!(matches!(bench.carried[..], [(5, Ok(_)), (6, Err(Errno::EEXIST))]));
    bench.input(Input::Command { ticket: Some(7), volume: VolumeId(0), command: command() });
    bench.depose(None);
    bench.input(Input::Command { ticket: Some(8), volume: VolumeId(0), command: command() });
    assert_eq!(bench.lost, [7, 8]);
}

#[test]
fn a_deleted_volume_ends_its_mounts_and_nobody_elses() {
    let mut bench = Bench::leading();
    let command = Command::CreateVolume { name: "two".to_owned(), options: VolumeOptions::default() };
    bench.input(Input::Command { ticket: None, volume: VolumeId(0), command });
    bench.commit();
    let a = bench.mount(1);
    let connection = bench.connect_as("two", Access::ReadWrite);
    let b = bench.attach_on(connection, Bench::hello(2));
    bench.catch_up(b);
    bench.input(Input::Command {
        ticket: None,
        volume: VolumeId(0),
        command: Command::DeleteVolume { name: "two".to_owned(), force: true },
    });
    bench.commit();
    assert_eq!(bench.refusal(b.connection), Refusal::Permanent);
    bench.change(a, 1, mkdir("d"));
    assert!(bench.answer(a).is_some());
}

#[test]
fn volumes_do_not_wait_for_each_other() {
    let mut bench = Bench::leading();
    let command = Command::CreateVolume { name: "two".to_owned(), options: VolumeOptions::default() };
    bench.input(Input::Command { ticket: None, volume: VolumeId(0), command });
    bench.commit();
    let a = bench.mount(1);
    let connection = bench.connect_as("two", Access::ReadWrite);
    let b = bench.attach_on(connection, Bench::hello(2));
    bench.catch_up(b);
    bench.entries(b);
    bench.change(a, 1, mkdir("d"));
    assert!(bench.answer(a).is_some());
    assert_eq!(bench.entries(b), []);
}

#[test]
fn a_mount_that_asks_while_its_session_ends_is_answered_behind_the_end() {
    let mut bench = Bench::leading();
    let a = bench.mount(1);
    bench.say(a.connection, ToLeader::Leave);
    let (named, unnamed) = (bench.connect(), bench.connect());
    let hello = Hello { session: Some(a.session), generation: Generation(2), ..Bench::hello(1) };
    bench.say(named, ToLeader::Hello(hello));
    bench.say(unnamed, ToLeader::Hello(Hello { generation: Generation(3), ..Bench::hello(1) }));
    assert_eq!((bench.take(named), bench.take(unnamed)), (None, None));
    bench.commit();
    assert_eq!(bench.refusal(named), Refusal::SessionExpired);
    let Some(ToMount::Welcome(welcome)) = bench.take(unnamed) else { panic!("no new session") };
    assert_ne!(welcome.session, a.session);
}
