//! A cluster of one leader and some stores, as mounts see it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::{
    limits,
    message::mount::{Hello, Refusal, StoreAddress, ToLeader, ToMount, Welcome},
    namespace::{Command, Entry, EntryHeader, Operation, Reply, Volume, VolumeOptions},
    types::{
        BlockHash, ConnectionId, Errno, Ino, LogIndex, MountId, NodeId, Sequence, SessionId, Space, Stamp, VolumeId,
    },
};

pub(super) const VOLUME: VolumeId = VolumeId(3);

#[derive(Debug)]
struct Attached {
    connection: ConnectionId,
    session: SessionId,
    is_caught_up: bool,
}

/// A call that is applied and not complete.
#[derive(Debug)]
struct Incomplete {
    mount: usize,
    session: SessionId,
    sequence: Sequence,
    index: LogIndex,
    outcome: Result<Reply, Errno>,
    waits_for: BTreeSet<usize>,
}

#[derive(Debug)]
pub(super) struct Leader {
    pub(super) volume: Volume,
    log: Vec<(LogIndex, Bytes)>,
    next: LogIndex,
    stamp: Stamp,
    attached: BTreeMap<usize, Attached>,
    incomplete: Vec<Incomplete>,
    /// Applied and pushed, but answered to nobody: the leader dies before that.
    pub(super) answers_nothing: bool,
    /// Takes operations and does nothing with them.
    pub(super) proposes_nothing: bool,
    /// Takes operations and proposes them only when told to.
    pub(super) delays: bool,
    delayed: Vec<(usize, Sequence, Vec<Sequence>, Operation)>,
    pub(super) grants_leases: bool,
    pub(super) confirms_reads: bool,
    /// Also to mounts that are not caught up.
    pub(super) grants_early: bool,
    pub(super) is_up: bool,
    /// Hello is answered with a snapshot, whatever the mount has.
    pub(super) sends_snapshots: bool,
    pub(super) inline_bytes_max: u32,
    /// Orphans that some mount has open, by mount.
    pub(super) referenced: BTreeMap<usize, BTreeSet<Ino>>,
    /// Which entries each mount has acknowledged, in order.
    pub(super) acknowledged: Vec<(usize, LogIndex)>,
    /// Acknowledgements stay on their way until `hear` is called.
    pub(super) hears_late: bool,
    unheard: Vec<(usize, ToLeader)>,
    pub(super) operations: Vec<(usize, Operation)>,
    pub(super) left: BTreeSet<usize>,
    /// How often a mount asked for a delegation back.
    pub(super) recalls: u64,
    pub(super) stores: BTreeMap<NodeId, Store>,
    out: VecDeque<(usize, ConnectionId, ToMount)>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) blocks: BTreeMap<BlockHash, Bytes>,
    pub(super) is_down: bool,
    pub(super) is_full: bool,
    /// Answers nothing at all.
    pub(super) hangs: bool,
}

impl Leader {
    pub(super) fn new() -> Self {
        let mut volume = Volume::new(VOLUME, "main".to_owned(), VolumeOptions::default(), Stamp(1_000));
        // The entry that made the volume is not one of its own; it begins with one that all have.
        let entry = entry(SessionId(0), Sequence(0), Vec::new(), Stamp(1_001), Command::ReapOrphans { inodes: vec![] });
        volume.apply(LogIndex(5), &entry);
        Self {
            volume,
            log: vec![(LogIndex(5), entry.encode())],
            next: LogIndex(6),
            stamp: Stamp(1_001),
            attached: BTreeMap::new(),
            incomplete: Vec::new(),
            answers_nothing: false,
            proposes_nothing: false,
            delays: false,
            delayed: Vec::new(),
            grants_leases: true,
            confirms_reads: true,
            grants_early: false,
            is_up: true,
            sends_snapshots: false,
            inline_bytes_max: 64 * 1024,
            referenced: BTreeMap::new(),
            acknowledged: Vec::new(),
            hears_late: false,
            unheard: Vec::new(),
            operations: Vec::new(),
            left: BTreeSet::new(),
            recalls: 0,
            stores: (1..=3).map(|id| (NodeId(id), Store::default())).collect(),
            out: VecDeque::new(),
        }
    }

    pub(super) fn take_message(&mut self) -> Option<(usize, ConnectionId, ToMount)> {
        self.out.pop_front()
    }

    pub(super) fn message(&mut self, mount: usize, connection: ConnectionId, message: ToLeader) {
        if let ToLeader::Hello(hello) = message {
            return self.hello(mount, connection, &hello);
        }
        if self.attached.get(&mount).is_none_or(|attached| attached.connection != connection) {
            return;
        }
        match message {
            ToLeader::Hello(_) | ToLeader::PieceReceived => {}
            ToLeader::Recall { ino } => {
                self.recalls += 1;
                let held = self.volume.delegation(ino);
                let holder =
                    held.and_then(|held| self.attached.iter().find(|(_, other)| other.session == held.session));
                if let (Some(held), Some((holder, other))) = (held, holder)
                    && *holder != mount
                {
                    let recall = ToMount::Recall { ino, grant: held.grant };
                    self.out.push_back((*holder, other.connection, recall));
                }
            }
            ToLeader::Operation { sequence, answered, operation } => {
                self.operation(mount, sequence, answered, operation);
            }
            acknowledgement @ ToLeader::Acknowledge { .. } if self.hears_late => {
                self.unheard.push((mount, acknowledgement));
            }
            ToLeader::Acknowledge { entries, referenced } => self.acknowledge(mount, &entries, referenced),
            ToLeader::Released { orphans } => {
                for ino in orphans {
                    assert!(
                        self.referenced.entry(mount).or_default().remove(&ino),
                        "{ino} was released but never said to be open"
                    );
                }
            }
            ToLeader::Renew { number } => {
                let is_caught_up = self.attached.get(&mount).is_some_and(|attached| attached.is_caught_up);
                if self.grants_leases && (is_caught_up || self.grants_early) {
                    let lease = ToMount::Lease {
                        number,
                        stamp: self.stamp,
                        space: Space { total: 1 << 40, available: 1 << 39 },
                        stores: self.addresses(),
                    };
                    self.out.push_back((mount, connection, lease));
                }
            }
            ToLeader::ReadIndex { number } => {
                if self.confirms_reads {
                    let index = self.volume.applied();
                    self.out.push_back((mount, connection, ToMount::ReadIndex { number, index }));
                }
            }
            ToLeader::Leave => {
                self.left.insert(mount);
                self.detached(mount);
            }
        }
    }

    /// What was on its way arrives.
    pub(super) fn hear(&mut self) {
        self.hears_late = false;
        for (mount, message) in std::mem::take(&mut self.unheard) {
            let Some(attached) = self.attached.get(&mount) else { continue };
            let connection = attached.connection;
            self.message(mount, connection, message);
        }
    }

    /// The mount's connection is gone: nothing waits for it any more (its lease has ended).
    pub(super) fn detached(&mut self, mount: usize) {
        self.attached.remove(&mount);
        self.acknowledged_by(mount, None);
    }

    /// What was delayed goes into the log now.
    pub(super) fn propose_delayed(&mut self) {
        self.delays = false;
        for (mount, sequence, answered, operation) in std::mem::take(&mut self.delayed) {
            self.operation(mount, sequence, answered, operation);
        }
    }

    /// A session that nobody heard of for too long.
    pub(super) fn close_session(&mut self, mount: MountId) {
        let session = self.volume.session_of(mount).expect("the mount has a session");
        let (_, outcome) =
            self.append(SessionId(0), Sequence(0), Vec::new(), Command::CloseSessions { sessions: vec![session] });
        assert_eq!(outcome, Ok(Reply::Done));
    }

    /// A session that nobody heard of for the hold time.
    pub(super) fn end_holds(&mut self, mount: MountId) {
        let session = self.volume.session_of(mount).expect("the mount has a session");
        let (_, outcome) = self.append(SessionId(0), Sequence(0), Vec::new(), Command::EndHolds { session });
        assert_eq!(outcome, Ok(Reply::Done));
    }

    /// The orphans that no mount has open are gone for good.
    pub(super) fn reap(&mut self) {
        let kept: BTreeSet<Ino> = self.referenced.values().flatten().copied().collect();
        let inodes: Vec<Ino> = self.volume.orphans().map(|(ino, _)| ino).filter(|ino| !kept.contains(ino)).collect();
        let (_, outcome) = self.append(SessionId(0), Sequence(0), Vec::new(), Command::ReapOrphans { inodes });
        assert_eq!(outcome, Ok(Reply::Done));
    }

    pub(super) fn addresses(&self) -> Vec<StoreAddress> {
        self.stores.keys().map(|node| StoreAddress { node: *node, address: format!("store{node}") }).collect()
    }

    fn hello(&mut self, mount: usize, connection: ConnectionId, hello: &Hello) {
        let session = match hello.session {
            Some(session) if self.volume.sessions().any(|(known, _)| known == session) => session,
            Some(_) => {
                let refused =
                    ToMount::Refused { refusal: Refusal::SessionExpired, reason: "not heard of for long".to_owned() };
                return self.out.push_back((mount, connection, refused));
            }
            None => {
                let command = Command::OpenSession { mount: hello.mount, credential: Default::default(), level_max: 1 };
                let (_, outcome) = self.append(SessionId(0), Sequence(0), Vec::new(), command);
                assert_eq!(outcome, Ok(Reply::Done));
                self.volume.session_of(hello.mount).expect("just opened")
            }
        };
        self.attached.insert(mount, Attached { connection, session, is_caught_up: false });
        self.referenced.insert(mount, hello.orphans.iter().copied().collect());
        let welcome = Welcome {
            protocol: 1,
            features: 0,
            volume: VOLUME,
            session,
            caught_up_at: self.volume.applied(),
            stamp: self.stamp,
            stores: self.addresses(),
            inline_bytes_max: self.inline_bytes_max,
            space: Space { total: 1 << 40, available: 1 << 39 },
        };
        self.out.push_back((mount, connection, ToMount::Welcome(welcome)));
        if hello.applied == LogIndex(0) || self.sends_snapshots {
            let rows: Vec<_> = self.volume.rows().collect();
            let pieces: Vec<_> = rows.chunks(3).collect();
            for (number, rows) in pieces.iter().enumerate() {
                let piece = ToMount::SnapshotPiece {
                    index: self.volume.applied(),
                    first: number == 0,
                    last: number + 1 == pieces.len(),
                    rows: rows.to_vec(),
                };
                self.out.push_back((mount, connection, piece));
            }
        } else {
            let entries: Vec<_> = self.log.iter().filter(|(index, _)| *index > hello.applied).cloned().collect();
            self.out.push_back((mount, connection, ToMount::Entries { entries }));
        }
    }

    fn operation(&mut self, mount: usize, sequence: Sequence, answered: Vec<Sequence>, operation: Operation) {
        if self.proposes_nothing {
            return;
        }
        if self.delays {
            return self.delayed.push((mount, sequence, answered, operation));
        }
        self.check(&operation);
        let session = self.volume.session_of(MountId(100 + mount as u128)).expect("the mount has a session");
        // An operation that is in the log and incomplete is answered when it is complete, like the first time.
        if self.incomplete.iter().any(|call| (call.session, call.sequence) == (session, sequence)) {
            return self.answer_complete();
        }
        let known = self.volume.reply(session, sequence);
        if known.is_none() {
            self.operations.push((mount, operation.clone()));
        }
        let (index, outcome) = match known {
            Some((index, outcome)) => (index, outcome),
            None => self.append(session, sequence, answered, Command::Operation(operation)),
        };
        let waits_for = if known.is_none() {
            self.attached.keys().copied().filter(|other| *other != mount).collect()
        } else {
            BTreeSet::new()
        };
        self.incomplete.push(Incomplete { mount, session, sequence, index, outcome, waits_for });
        self.answer_complete();
    }

    /// What a leader refuses: content that is not what its name says, and blocks that no majority has.
    fn check(&mut self, operation: &Operation) {
        let pieces = match operation {
            Operation::Write { pieces, .. } => pieces.as_slice(),
            Operation::Coalesce { piece, .. } => std::slice::from_ref(piece),
            Operation::Flush(flush) => flush.pieces.as_slice(),
            _ => &[],
        };
        let inline: usize = pieces.iter().filter_map(|piece| piece.content.as_ref()).map(Bytes::len).sum();
        assert!(inline <= self.inline_bytes_max as usize && pieces.len() <= limits::PIECES_MAX);
        for piece in pieces {
            let (Some(hash), Some(content)) = (piece.block, &piece.content) else { continue };
            assert_eq!(hash, BlockHash::of(content));
            for store in self.stores.values_mut() {
                store.blocks.insert(hash, content.clone());
            }
        }
        for hash in operation.blocks_needed() {
            let copies = self.stores.values().filter(|store| store.blocks.contains_key(&hash)).count();
            assert!(copies > self.stores.len() / 2, "an operation names a block that only {copies} stores have");
        }
    }

    fn append(
        &mut self,
        session: SessionId,
        sequence: Sequence,
        answered: Vec<Sequence>,
        command: Command,
    ) -> (LogIndex, Result<Reply, Errno>) {
        let index = self.next;
        // Other volumes have entries too.
        self.next = LogIndex(index.0 + 2);
        self.stamp = Stamp(self.stamp.0 + 1_000_000);
        let entry = entry(session, sequence, answered, self.stamp, command);
        let outcome = self.volume.apply(index, &entry).outcome;
        let bytes = entry.encode();
        assert!(bytes.len() <= limits::ENTRY_BYTES_MAX);
        self.log.push((index, bytes.clone()));
        for (mount, attached) in &self.attached {
            let entries = ToMount::Entries { entries: vec![(index, bytes.clone())] };
            self.out.push_back((*mount, attached.connection, entries));
        }
        (index, outcome)
    }

    fn acknowledge(&mut self, mount: usize, entries: &[LogIndex], referenced: Vec<Ino>) {
        self.referenced.entry(mount).or_default().extend(referenced);
        for entry in entries {
            self.acknowledged.push((mount, *entry));
            if let Some(attached) = self.attached.get_mut(&mount) {
                attached.is_caught_up = true;
            }
            self.acknowledged_by(mount, Some(*entry));
        }
    }

    fn acknowledged_by(&mut self, mount: usize, entry: Option<LogIndex>) {
        for call in &mut self.incomplete {
            if entry.is_none_or(|entry| call.index == entry) {
                call.waits_for.remove(&mount);
            }
        }
        self.answer_complete();
    }

    fn answer_complete(&mut self) {
        if self.answers_nothing {
            return;
        }
        let (complete, incomplete) = std::mem::take(&mut self.incomplete)
            .into_iter()
            .partition(|call| call.waits_for.is_empty() && self.attached.contains_key(&call.mount));
        self.incomplete = incomplete;
        let complete: Vec<Incomplete> = complete;
        for call in complete {
            let connection = self.attached[&call.mount].connection;
            let answer = ToMount::Answer { sequence: call.sequence, index: call.index, outcome: call.outcome };
            self.out.push_back((call.mount, connection, answer));
        }
    }
}

fn entry(session: SessionId, sequence: Sequence, answered: Vec<Sequence>, stamp: Stamp, command: Command) -> Entry {
    let header = EntryHeader { feature_level: 1, volume: VOLUME, session, sequence, answered, stamp };
    Entry { header, command }
}
