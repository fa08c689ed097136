//! Whoever has a credential can send any bytes. Whatever sequence of messages of `client.proto` that is, over several
//! connections, read-write and read-only: every node goes on, starts again from what it wrote, passes its state on to one
//! that has none of it, and a mount joins and sees the same.

mod messages;

use proptest::{prelude::*, sample::Index};
use prost::Message as _;

use super::*;
use crate::{
    namespace::Inode,
    types::{BlockHash, FileKind, Label, Piece},
    wire::{
        proto,
        strategies::{self, Damage},
    },
};

/// Sequences that are tried, where `PROPTEST_CASES` does not say how many.
const SEQUENCES: u32 = 100;
/// Who is at work: two mounts that may write, one that may not, and one that may not and claims to be the first.
const SLOTS: [(u128, Access); 4] =
    [(101, Access::ReadWrite), (102, Access::ReadWrite), (103, Access::ReadOnly), (101, Access::ReadOnly)];

#[derive(Clone, Debug)]
enum Step {
    Call {
        slot: usize,
        draft: messages::Draft,
    },
    /// The call, and the same without its load so many times, each under a number of its own.
    Calls {
        slot: usize,
        draft: messages::Draft,
        count: usize,
    },
    /// A file gets so many times 256 extents more.
    Scatter {
        slot: usize,
        times: u64,
    },
    /// It is copied behind its own end so many times, each time all of it.
    Double {
        slot: usize,
        times: u64,
    },
    Say {
        slot: usize,
        message: ToLeader,
    },
    /// What is left of a message that a bad way has changed.
    Damaged {
        slot: usize,
        message: ToLeader,
        damage: Damage,
    },
    /// Everything sent so far is acknowledged, as a mount does it.
    Acknowledge {
        slot: usize,
    },
    Hello {
        slot: usize,
        hello: Greeting,
    },
    Pass {
        milliseconds: u64,
    },
    /// Any node of those that run starts again.
    Restart {
        node: Index,
    },
}

/// What a connection begins with.
#[derive(Clone, Debug)]
struct Greeting {
    session: Option<u64>,
    generation: Option<u64>,
    applied: u64,
    orphans: Vec<Ino>,
    place: MountPlace,
}

#[derive(Clone, Debug)]
struct Run {
    nodes: u64,
    steps: Vec<Step>,
}

fn run() -> BoxedStrategy<Run> {
    (prop_oneof![Just(1), Just(3)], prop::collection::vec(step(), 1..60))
        .prop_map(|(nodes, steps)| Run { nodes, steps })
        .boxed()
}

fn step() -> BoxedStrategy<Step> {
    let slot = || prop_oneof![6 => Just(0_usize), 4 => Just(1), 2 => Just(2), 1 => Just(3)];
    let session = prop_oneof![4 => Just(None), 1 => (0..6_u64).prop_map(Some), 1 => any::<u64>().prop_map(Some)];
    let generation = prop_oneof![4 => Just(None), 1 => (0..6_u64).prop_map(Some), 1 => any::<u64>().prop_map(Some)];
    let applied = prop_oneof![4 => Just(0), 4 => 0..40_u64, 1 => any::<u64>()];
    let orphans = prop::collection::vec(messages::ino(), 0..12);
    let label = || any::<String>().prop_map(|text| Label::new(&text));
    let place = (label(), label(), any::<bool>());
    let place = place.prop_map(|(host, path, read_only)| MountPlace { host, path, read_only });
    let hello = (session, generation, applied, orphans, place);
    let hello = hello.prop_map(|(session, generation, applied, orphans, place)| Greeting {
        session,
        generation,
        applied,
        orphans,
        place,
    });
    let time = prop_oneof![6 => 0..300_u64, 2 => 1_000..3_000_u64, 1 => Just(11_000)];
    prop_oneof![
        60 => (slot(), messages::draft()).prop_map(|(slot, draft)| Step::Call { slot, draft }),
        2 => (slot(), messages::draft(), 1..300_usize)
            .prop_map(|(slot, draft, count)| Step::Calls { slot, draft, count }),
        2 => (slot(), 1..10_u64).prop_map(|(slot, times)| Step::Scatter { slot, times }),
        2 => (slot(), 1..8_u64).prop_map(|(slot, times)| Step::Double { slot, times }),
        10 => (slot(), messages::word()).prop_map(|(slot, message)| Step::Say { slot, message }),
        2 => (slot(), strategies::to_leader().boxed(), strategies::damage())
            .prop_map(|(slot, message, damage)| Step::Damaged { slot, message, damage }),
        5 => slot().prop_map(|slot| Step::Acknowledge { slot }),
        3 => (slot(), hello).prop_map(|(slot, hello)| Step::Hello { slot, hello }),
        4 => time.prop_map(|milliseconds| Step::Pass { milliseconds }),
        1 => any::<Index>().prop_map(|node| Step::Restart { node }),
    ]
    .boxed()
}

/// One credential's connection.
#[derive(Default)]
struct Slot {
    at: Option<(NodeId, ConnectionId)>,
    generation: u64,
    /// The number of its next call.
    next: u64,
}

/// A cluster, the connections of the credentials, and a mount in good order beside them.
struct Scene {
    world: World,
    slots: [Slot; SLOTS.len()],
    /// A follower that is down all the while, and has nothing of it.
    blank: Option<NodeId>,
}

impl Scene {
    fn new(nodes: u64) -> Self {
        let mut world = World::new(nodes);
        world.retention = Retention { log_bytes: 0, piece_bytes: 2048 };
        let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
        for id in ids {
            world.kill(id);
            world.start(id);
        }
        world.run_until("a leader", |world| world.leader().is_some());
        let blank = world.nodes.keys().copied().find(|id| nodes > 1 && Some(*id) != world.leader());
        blank.into_iter().for_each(|id| world.kill(id));
        world.mount(1);
        Self { world, slots: Default::default(), blank }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Call { slot, draft } => self.call(*slot, draft),
            Step::Calls { slot, draft, count } => {
                self.call(*slot, draft);
                let bare = draft.bare();
                (1..*count).for_each(|_| self.call(*slot, &bare));
            }
            Step::Scatter { slot, times } => (0..*times).for_each(|_| self.scatter(*slot)),
            Step::Double { slot, times } => (0..*times).for_each(|_| self.double(*slot)),
            Step::Say { slot, message } => self.send(*slot, message.clone()),
            Step::Damaged { slot, message, damage } => {
                let bytes = proto::ToLeader::from(message.clone()).encode_to_vec();
                self.send_bytes(*slot, &damage.apply(bytes));
            }
            Step::Acknowledge { slot } => {
                let applied = self.volume().applied().0;
                let entries = (applied.saturating_sub(200)..=applied).map(LogIndex).collect();
                let referenced = self.volume().orphans().map(|(ino, _)| ino).collect();
                self.send(*slot, ToLeader::Acknowledge { entries, referenced });
            }
            Step::Hello { slot, hello } => {
                self.close(*slot);
                self.connect(*slot, hello);
            }
            Step::Pass { milliseconds } => self.world.run(Duration::from_millis(*milliseconds)),
            Step::Restart { node } => {
                let ids: Vec<NodeId> = self.world.nodes.keys().copied().collect();
                let id = ids[node.index(ids.len())];
                self.world.kill(id);
                self.world.start(id);
                self.world.run_until("a leader", |world| world.leader().is_some());
            }
        }
        self.world.flow();
    }

    fn leader(&mut self) -> NodeId {
        self.world.run_until("a leader", |world| world.leader().is_some());
        self.world.leader().expect("just awaited")
    }

    /// The volume as the leader has it.
    fn volume(&mut self) -> Volume {
        let leader = self.leader();
        self.world.nodes[&leader].state.volume_named("main").expect("nobody deletes it").clone()
    }

    fn call(&mut self, slot: usize, draft: &messages::Draft) {
        let volume = self.volume();
        let session = volume.session_of(MountId(SLOTS[slot].0));
        let operation = draft.operation(&volume, session);
        let next = self.slots[slot].next.max(1);
        let sequence = match draft.pick {
            messages::Pick::Next => next,
            messages::Pick::Skip(by) => next.saturating_add(by),
            messages::Pick::Again(back) => next.saturating_sub(back).max(1),
            messages::Pick::Any(sequence) => sequence,
        };
        if !matches!(draft.pick, messages::Pick::Again(_) | messages::Pick::Any(_)) {
            self.slots[slot].next = sequence.saturating_add(1);
        }
        let answered: Vec<u64> = match &draft.answered {
            messages::Answered::None => Vec::new(),
            messages::Answered::All => (next.saturating_sub(50)..next).collect(),
            messages::Answered::Run { back, distance, count } => {
                let first = next.saturating_sub(*back);
                (0..*count).map(|n| first.saturating_add(n * distance)).collect()
            }
            messages::Answered::Any(sequences) => sequences.clone(),
        };
        let answered = answered.into_iter().map(Sequence).collect();
        self.send(slot, ToLeader::Operation { sequence: Sequence(sequence), answered, operation });
    }

    fn operate(&mut self, slot: usize, operation: Operation) {
        let sequence = self.slots[slot].next.max(1);
        self.slots[slot].next = sequence.saturating_add(1);
        self.send(slot, ToLeader::Operation { sequence: Sequence(sequence), answered: Vec::new(), operation });
    }

    /// The first file, and its size. Where there is none, one is asked for.
    fn some_file(&mut self, slot: usize) -> Option<(Ino, u64)> {
        let volume = self.volume();
        let is_file = |inode: &&Inode| inode.kind == FileKind::File;
        let size = |ino: Ino| volume.inode(ino).filter(is_file).map(|inode| (ino, inode.size));
        let file = (2..40).map(Ino).find_map(size);
        if file.is_none() {
            self.operate(slot, make("pieces", NewNode::File));
        }
        file
    }

    fn scatter(&mut self, slot: usize) {
        let Some((ino, size)) = self.some_file(slot) else { return };
        let content = Bytes::from_static(b"x");
        let piece = |number| Piece {
            offset: size + 2 * number + 1,
            length: 1,
            block: Some(BlockHash::of(&content)),
            content: Some(content.clone()),
        };
        let pieces = (0..limits::PIECES_MAX as u64).map(piece).collect();
        self.operate(slot, write(ino, pieces));
    }

    fn double(&mut self, slot: usize) {
        let Some((ino, size)) = self.some_file(slot) else { return };
        let (from, to) = (ino, ino);
        self.operate(slot, Operation::CopyRange { from, from_offset: 0, to, to_offset: size, length: size });
    }

    fn send(&mut self, slot: usize, message: ToLeader) {
        let bytes = proto::ToLeader::from(message).encode_to_vec();
        self.send_bytes(slot, &bytes);
    }

    /// As the server does it: what cannot be read ends the connection.
    fn send_bytes(&mut self, slot: usize, bytes: &[u8]) {
        assert!(bytes.len() <= limits::MESSAGE_BYTES_MAX, "no transport takes it");
        let Some((node, connection)) = self.connection(slot) else { return };
        match proto::ToLeader::decode(bytes).map_err(drop).and_then(|message| message.try_into().map_err(drop)) {
            Ok(message) => self.world.handle(node, Input::Mount { connection, message }),
            Err(()) => self.close(slot),
        }
        self.world.flow();
    }

    /// The slot's connection, a new one where it has none to the leader.
    fn connection(&mut self, slot: usize) -> Option<(NodeId, ConnectionId)> {
        let leader = self.leader();
        let is_open = |(node, connection): &(NodeId, ConnectionId)| {
            *node == leader && self.world.nodes.contains_key(node) && !self.world.closed.contains(connection)
        };
        if !self.slots[slot].at.as_ref().is_some_and(is_open) {
            let place = MountPlace::default();
            let honest = Greeting { session: None, generation: None, applied: 0, orphans: Vec::new(), place };
            self.connect(slot, &honest);
        }
        self.slots[slot].at
    }

    fn connect(&mut self, slot: usize, greeting: &Greeting) {
        let node = self.leader();
        let (mount, access) = SLOTS[slot];
        self.world.connections += 1;
        let connection = ConnectionId(self.world.connections);
        self.slots[slot].generation += 1;
        let Greeting { session, generation, applied, orphans, place } = greeting.clone();
        let hello = Hello {
            protocol: ProtocolRange { min: limits::PROTOCOL_MIN, max: limits::PROTOCOL_MAX },
            features: 0,
            level_max: 1,
            mount: MountId(mount),
            session: session.map(SessionId),
            generation: Generation(generation.unwrap_or(self.slots[slot].generation)),
            applied: LogIndex(applied),
            orphans,
            place,
        };
        self.slots[slot].at = Some((node, connection));
        let grant = Grant { founding: FOUNDING, volume: VolumeId(1), name: "main".to_owned(), access };
        self.world.handle(node, Input::MountOpened { connection, grant, credential: crate::types::CredentialId(1) });
        self.world.handle(node, Input::Mount { connection, message: ToLeader::Hello(hello) });
        self.world.flow();
    }

    fn close(&mut self, slot: usize) {
        if let Some((node, connection)) = self.slots[slot].at.take() {
            self.world.handle(node, Input::MountClosed { connection });
        }
    }

    /// What every node must be able to do afterwards.
    fn judge(mut self) {
        self.world.agree();
        for (id, node) in &self.world.nodes {
            let rows: Vec<(Bytes, Bytes)> = node.state.rows().collect();
            let loaded = State::from_rows(rows.iter().cloned()).expect("its own rows");
            assert_eq!(loaded.digest(), node.state.digest());
            assert!(loaded.rows().eq(rows.iter().cloned()), "what is read is written back");
            assert!(self.world.disks[id].rows.iter().map(|(key, value)| (key.clone(), value.clone())).eq(rows));
        }
        self.start_again();
        if let Some(blank) = self.blank {
            self.world.start(blank);
            self.world.agree();
            assert!(self.world.pieces > 0, "the log is cut: it was sent the state");
            self.start_again();
        }
        self.world.mount(2);
        self.world.change(0, 1, mkdir("afterwards"));
        self.world.agree();
    }

    fn start_again(&mut self) {
        let before: Vec<(NodeId, u128)> =
            self.world.nodes.iter().map(|(id, node)| (*id, node.state.digest())).collect();
        for (id, digest) in before {
            self.world.kill(id);
            self.world.start(id);
            assert_eq!(self.world.nodes[&id].state.digest(), digest, "the same as before");
        }
        self.world.agree();
    }
}

fn sequences() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|given| given.parse().ok()).unwrap_or(SEQUENCES)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: sequences(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_credential_sends_every_node_survives_restarts_and_passes_it_on(run in run()) {
        let mut scene = Scene::new(run.nodes);
        run.steps.iter().for_each(|step| scene.take(step));
        scene.judge();
    }
}
