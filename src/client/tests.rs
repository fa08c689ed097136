//! The client against a scripted leader, in virtual time.

use super::*;
use crate::types::{Name, VolumeId};

struct Scene {
    client: Client,
    now: Instant,
    sent: Vec<ToLeader>,
    connects: Vec<(ConnectionId, String)>,
    other: Vec<Event>,
}

impl Scene {
    fn new(servers: &[&str]) -> Self {
        let config = Config {
            servers: servers.iter().map(|s| (*s).to_owned()).collect(),
            mount: MountId(2),
            seed: 0,
            timing: Timing::DEFAULT,
            place: MountPlace::default(),
        };
        let client = Client::new(Instant(0), config);
        let mut scene = Self { client, now: Instant(0), sent: Vec::new(), connects: Vec::new(), other: Vec::new() };
        scene.drain();
        scene
    }

    fn drain(&mut self) {
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Connect { connection, address } => self.connects.push((connection, address)),
                Event::Send { message, .. } => self.sent.push(message),
                other => self.other.push(other),
            }
        }
    }

    fn connection(&self) -> ConnectionId {
        self.connects.last().expect("something was dialled").0
    }

    fn message(&mut self, message: ToMount) {
        let connection = self.connection();
        self.client.message(self.now, connection, message);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.client.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.client.tick(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn attach(&mut self) {
        let dials = self.connects.len();
        if !matches!(self.client.phase, Phase::Dialing { .. }) {
            while self.connects.len() == dials {
                self.pass(Duration::from_millis(10));
            }
        }
        let connection = self.connection();
        self.client.connected(self.now, connection, LogIndex(0), Vec::new());
        self.drain();
        self.message(welcome(7));
    }

    fn operations(&self) -> Vec<u64> {
        self.sent
            .iter()
            .filter_map(|message| match message {
                ToLeader::Operation { sequence, .. } => Some(sequence.0),
                _ => None,
            })
            .collect()
    }

    fn generations(&self) -> Vec<(u64, Option<u64>)> {
        self.sent
            .iter()
            .filter_map(|message| match message {
                ToLeader::Hello(hello) => Some((hello.generation.0, hello.session.map(|s| s.0))),
                _ => None,
            })
            .collect()
    }
}

fn welcome(session: u64) -> ToMount {
    ToMount::Welcome(Welcome {
        protocol: 1,
        features: 0,
        volume: VolumeId(1),
        session: SessionId(session),
        caught_up_at: LogIndex(0),
        stamp: Stamp(1),
        stores: Vec::new(),
        inline_bytes_max: 65536,
        space: Space::default(),
    })
}

fn operation() -> Operation {
    Operation::Unlink { parent: Ino::ROOT, name: Name::new(b"x").expect("a name") }
}

#[test]
fn every_connection_raises_the_generation_and_keeps_the_session() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.attach();
    let connection = scene.connection();
    scene.client.disconnected(scene.now, connection, "reset");
    scene.drain();
    scene.attach();
    assert_eq!(scene.generations(), [(1, None), (2, Some(7))]);
}

#[test]
fn it_goes_from_server_to_server_and_follows_the_one_that_knows() {
    let mut scene = Scene::new(&["a", "b", "c"]);
    assert_eq!(scene.connects[0].1, "a");
    let connection = scene.connection();
    scene.client.disconnected(scene.now, connection, "refused");
    scene.drain();
    scene.pass(Duration::from_millis(100));
    assert_eq!(scene.connects[1].1, "b");
    let connection = scene.connection();
    scene.client.connected(scene.now, connection, LogIndex(0), Vec::new());
    scene.message(ToMount::NotLeader { leader: Some("c".to_owned()) });
    assert_eq!(scene.connects[2].1, "c", "at once, without a pause");
}

#[test]
fn unanswered_calls_are_sent_again_after_every_attachment_until_answered() {
    let mut scene = Scene::new(&["a"]);
    scene.client.submit(operation());
    scene.attach();
    scene.client.submit(operation());
    scene.drain();
    assert_eq!(scene.operations(), [1, 2]);
    let connection = scene.connection();
    scene.client.disconnected(scene.now, connection, "reset");
    scene.drain();
    scene.attach();
    assert_eq!(scene.operations(), [1, 2, 1, 2]);
    scene.message(ToMount::Answer { sequence: Sequence(1), index: LogIndex(3), outcome: Ok(Reply::Done) });
    scene.message(ToMount::Answer { sequence: Sequence(1), index: LogIndex(3), outcome: Ok(Reply::Done) });
    let answered = scene.other.iter().filter(|event| matches!(event, Event::Answered { .. })).count();
    assert_eq!(answered, 1, "an answer that comes twice is told once");
}

#[test]
fn it_renews_with_every_heartbeat_and_loses_the_lease_when_nobody_answers() {
    let mut scene = Scene::new(&["a"]);
    scene.attach();
    assert!(!scene.client.lease_is_held(scene.now));
    for _ in 0..10 {
        let number = scene
            .sent
            .iter()
            .rev()
            .find_map(|message| match message {
                ToLeader::Renew { number } => Some(*number),
                _ => None,
            })
            .expect("a renewal");
        scene.message(ToMount::Lease { number, stamp: Stamp(5), space: Space::default(), stores: Vec::new() });
        assert!(scene.client.lease_is_held(scene.now));
        scene.pass(Duration::from_millis(100));
    }
    let renewals = scene.sent.iter().filter(|message| matches!(message, ToLeader::Renew { .. })).count();
    assert_eq!(renewals, 11);
    let dials = scene.connects.len();
    scene.pass(Timing::DEFAULT.lease);
    assert!(!scene.client.lease_is_held(scene.now));
    assert!(scene.connects.len() > dials, "a silent leader is given up before the lease ends");
}

#[test]
fn an_expired_session_resolves_what_was_sent_and_opens_another() {
    let mut scene = Scene::new(&["a"]);
    scene.attach();
    scene.client.submit(operation());
    scene.drain();
    let connection = scene.connection();
    scene.client.disconnected(scene.now, connection, "reset");
    scene.drain();
    while !matches!(scene.client.phase, Phase::Dialing { .. }) {
        scene.pass(Duration::from_millis(10));
    }
    let connection = scene.connection();
    scene.client.connected(scene.now, connection, LogIndex(0), Vec::new());
    scene.message(ToMount::Refused { refusal: Refusal::SessionExpired, reason: "too late".to_owned() });
    assert!(scene.other.contains(&Event::Expired { unresolved: vec![Sequence(1)] }));
    scene.attach();
    assert_eq!(scene.generations().last(), Some(&(3, None)));
    assert_eq!(scene.operations(), [1], "never tried under another session");
}

#[test]
fn messages_of_an_earlier_connection_are_not_heard() {
    let mut scene = Scene::new(&["a"]);
    scene.attach();
    scene.client.submit(operation());
    let old = scene.connection();
    scene.client.disconnected(scene.now, old, "reset");
    scene.attach();
    let answer = ToMount::Answer { sequence: Sequence(1), index: LogIndex(3), outcome: Ok(Reply::Done) };
    scene.client.message(scene.now, old, answer);
    scene.drain();
    assert!(!scene.other.iter().any(|event| matches!(event, Event::Answered { .. })));
}

/// A full table of sessions ended every mount that came back to it.
#[test]
fn a_leader_without_room_is_asked_again_and_ends_nothing() {
    let mut scene = Scene::new(&["a", "b"]);
    let busy = || ToMount::Refused { refusal: Refusal::Busy, reason: "as many sessions as it takes".to_owned() };
    for _ in 0..50 {
        let dials = scene.connects.len();
        while scene.connects.len() == dials && !matches!(scene.client.phase, Phase::Dialing { .. }) {
            scene.pass(Duration::from_millis(10));
        }
        let connection = scene.connection();
        scene.client.connected(scene.now, connection, LogIndex(0), Vec::new());
        scene.drain();
        scene.message(busy());
    }
    assert!(scene.other.is_empty(), "whoever shows the troubles says them once a change: {:?}", scene.other);
    assert!(scene.client.troubles()["b"].contains("no room for this mount yet: as many sessions as it takes"));
    assert!(scene.now.since(Instant(0)) >= Duration::from_secs(1), "it does not ask in a tight circle");
    scene.attach();
    assert!(scene.client.is_attached() && scene.client.troubles().is_empty());
}

#[test]
fn a_permanent_refusal_ends_it_with_a_sentence() {
    let mut scene = Scene::new(&["a"]);
    let connection = scene.connection();
    scene.client.connected(scene.now, connection, LogIndex(0), Vec::new());
    scene.message(ToMount::Refused { refusal: Refusal::Permanent, reason: "no volume `x`".to_owned() });
    assert!(matches!(scene.other.last(), Some(Event::Fatal(text)) if text.contains("no volume `x`")));
    assert_eq!(scene.client.poll_timeout(), None);
}

fn foreign() -> ToMount {
    ToMount::Refused { refusal: Refusal::Foreign, reason: "of another founding".to_owned() }
}

/// One node that was founded a second time ended every mount of the first founding.
#[test]
fn a_server_of_another_founding_ends_no_mount() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.attach();
    for _ in 0..20 {
        let connection = scene.connection();
        scene.client.disconnected(scene.now, connection, "reset");
        scene.drain();
        let dials = scene.connects.len();
        while scene.connects.len() == dials {
            scene.pass(Duration::from_millis(10));
        }
        let connection = scene.connection();
        scene.client.connected(scene.now, connection, LogIndex(0), Vec::new());
        scene.message(foreign());
    }
    assert!(!scene.other.iter().any(|event| matches!(event, Event::Fatal(_))), "{:?}", scene.other);
    scene.attach();
    assert!(scene.client.is_attached());
}

#[test]
fn a_mount_whose_servers_are_all_of_another_founding_says_so() {
    let mut scene = Scene::new(&["a", "b"]);
    for ended in [false, true] {
        let dials = scene.connects.len();
        while scene.connects.len() == dials && !matches!(scene.client.phase, Phase::Dialing { .. }) {
            scene.pass(Duration::from_millis(10));
        }
        let connection = scene.connection();
        scene.client.connected(scene.now, connection, LogIndex(0), Vec::new());
        scene.message(foreign());
        let is_fatal = |event: &Event| matches!(event, Event::Fatal(reason) if reason.contains("new credential"));
        assert_eq!(scene.other.iter().any(is_fatal), ended, "{:?}", scene.other);
    }
}
