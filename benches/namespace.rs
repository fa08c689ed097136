//! What the mount's hot path and the nodes' apply cost by themselves: names, attributes, listings and changes of a
//! volume with 100,000 files, without kernel, network and disk. `cargo bench --bench namespace`; the figures of the whole
//! way are those of `manyfs bench`.

use std::sync::LazyLock;

use divan::{Bencher, black_box};
use manyfs::{
    namespace::{Command, Entry, EntryHeader, Founding, NewNode, Operation, Reply, State, Volume, VolumeOptions},
    types::{
        FoundingId, Ino, LockClaim, LockFamily, LockKind, LockRange, LogIndex, MountId, Name, Sequence, SessionId,
        Stamp,
    },
};

const DIRECTORIES: u64 = 100;
const FILES: u64 = 1000;
/// Bytes that the kernel asks for of a listing at a time, in names.
const LISTED: usize = 128;

/// A state, its next entry, and the directories that it has.
#[derive(Clone)]
struct Tree {
    state: State,
    next: LogIndex,
    session: SessionId,
    directories: Vec<Ino>,
}

static TREE: LazyLock<Tree> = LazyLock::new(Tree::grown);

fn main() {
    LazyLock::force(&TREE);
    divan::main();
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

impl Tree {
    fn grown() -> Self {
        let founding =
            Founding { id: FoundingId::default(), nodes: Vec::new(), stamp: Stamp(1), main: VolumeOptions::default() };
        let state = State::found(&founding);
        let mut tree = Self { state, next: LogIndex(2), session: SessionId(0), directories: Vec::new() };
        tree.apply(Command::OpenSession { mount: MountId(1), credential: Default::default(), level_max: 1 });
        tree.session = tree.volume().session_of(MountId(1)).expect("opened just now");
        for directory in 0..DIRECTORIES {
            let made = tree.make(Ino::ROOT, &format!("d{directory}"), NewNode::Directory);
            tree.directories.push(made);
            for file in 0..FILES {
                tree.make(made, &format!("wp-content-upload-{file}.jpg"), NewNode::File);
            }
        }
        tree
    }

    fn volume(&self) -> &Volume {
        self.state.volume_named("main").expect("founded with it")
    }

    fn entry(&self, command: Command) -> Entry {
        let is_operation = matches!(command, Command::Operation(_));
        let header = EntryHeader {
            feature_level: 1,
            volume: self.volume().id(),
            session: if is_operation { self.session } else { SessionId(0) },
            sequence: Sequence(if is_operation { self.next.0 } else { 0 }),
            answered: if is_operation { vec![Sequence(self.next.0 - 1)] } else { Vec::new() },
            stamp: Stamp(self.next.0 * 1000),
        };
        Entry { header, command }
    }

    fn apply(&mut self, command: Command) -> Reply {
        let entry = self.entry(command);
        let applied = self.state.apply(self.next, &entry);
        self.next = self.next.next();
        applied.outcome.expect("nothing stands against it")
    }

    fn make(&mut self, parent: Ino, text: &str, node: NewNode) -> Ino {
        let delegate = false;
        let make =
            Operation::Make { parent, name: name(text), node, mode: 0o644, uid: 33, gid: 33, delegate, umask: 0o022 };
        match self.apply(Command::Operation(make)) {
            Reply::Made { ino } => ino,
            other => panic!("{other:?}"),
        }
    }
}

#[divan::bench]
fn look_up(bencher: Bencher<'_, '_>) {
    let (volume, directory) = (TREE.volume(), TREE.directories[50]);
    let wanted = name("wp-content-upload-500.jpg");
    bencher.bench(|| volume.lookup(black_box(directory), black_box(&wanted)));
}

#[divan::bench]
fn look_up_what_is_missing(bencher: Bencher<'_, '_>) {
    let (volume, directory) = (TREE.volume(), TREE.directories[50]);
    let wanted = name("wp-content-upload-500.webp");
    bencher.bench(|| volume.lookup(black_box(directory), black_box(&wanted)));
}

#[divan::bench]
fn attributes(bencher: Bencher<'_, '_>) {
    let volume = TREE.volume();
    let file = volume.lookup(TREE.directories[50], &name("wp-content-upload-500.jpg")).expect("made");
    bencher.bench(|| volume.attributes(black_box(file)));
}

#[divan::bench]
fn list_a_part(bencher: Bencher<'_, '_>) {
    let (volume, directory) = (TREE.volume(), TREE.directories[50]);
    bencher.bench(|| volume.entries_after(black_box(directory), 0).take(LISTED).count());
}

/// Includes the digest, which every applied entry moves on.
#[divan::bench]
fn create(bencher: Bencher<'_, '_>) {
    let mut tree = TREE.clone();
    let (directory, mut number) = (tree.directories[50], 0);
    bencher.bench_local(move || {
        number += 1;
        tree.make(directory, &format!("new-{number}"), NewNode::File)
    });
}

const fn range(number: u64) -> LockClaim {
    let range = LockRange { first: 10 * number, last: 10 * number + 4 };
    LockClaim { family: LockFamily::Fcntl, owner: 1, kind: LockKind::Exclusive, range, pid: 7, fh: 1 }
}

/// A lock is taken and given back: two entries, in a file that has so many already.
#[divan::bench(args = [0, 1_000, 10_000, 99_000])]
fn lock_and_unlock(bencher: Bencher<'_, '_>, held: u64) {
    let mut tree = TREE.clone();
    let ino = tree.make(tree.directories[50], "locked", NewNode::File);
    let lock = |number| Command::Operation(Operation::Lock { ino, claim: range(number), waits: false });
    for number in 0..held {
        tree.apply(lock(2 * number));
    }
    let mut number = 0;
    bencher.bench_local(move || {
        number = (number + 7919) % held.max(1);
        let LockClaim { family, owner, range, .. } = range(2 * number + 1);
        tree.apply(lock(2 * number + 1));
        tree.apply(Command::Operation(Operation::Unlock { ino, family, owner, range }))
    });
}

#[divan::bench]
fn encode_and_decode_an_entry(bencher: Bencher<'_, '_>) {
    let unlink = Operation::Unlink { parent: TREE.directories[50], name: name("wp-content-upload-500.jpg") };
    let entry = TREE.entry(Command::Operation(unlink));
    bencher.bench(|| Entry::decode(&black_box(&entry).encode()));
}
