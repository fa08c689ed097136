//! What the tests of the store share: a node's state with its entries, and events to wait for.

use std::{path::Path, sync::mpsc, time::Duration};

use bytes::Bytes;
use manyfs::{
    message::log::{LogBatch, LogEntry, StateBatch, Unpinned},
    namespace::{
        Command, Entry, EntryHeader, NewNode, NodeInfo, Operation, State, VolumeOptions, XattrMode, entry::Founding,
    },
    node::Recovered,
    storage::{self, Options, Storage, StorageError, StorageEvent},
    types::{
        BlockHash, ClearSuid, ClusterId, FoundingId, FoundingNumber, Ino, LogIndex, MountId, Name, NodeId, Piece,
        Sequence, SessionId, Stamp, Term, UploadId, VolumeId, XattrName,
    },
};

pub(crate) const FOUNDING: FoundingId = FoundingId { cluster: ClusterId(0xc1), number: FoundingNumber(0xf1) };
pub(crate) const NODE: NodeId = NodeId(1);
pub(crate) const VOLUME: VolumeId = VolumeId(1);
pub(crate) const TERM: Term = Term(1);

pub(crate) fn founding() -> Founding {
    let node = NodeInfo { id: NODE, peer_address: "a:7441".into(), client_address: "a:7440".into(), level_max: 1 };
    Founding { id: FOUNDING, nodes: vec![node], stamp: Stamp(1), main: VolumeOptions::default() }
}

pub(crate) fn create(dir: &Path) {
    create_with(dir, Options::default());
}

pub(crate) fn create_with(dir: &Path, options: Options) {
    let membership = Bytes::from_static(b"membership");
    storage::create_with(dir, options, &founding(), NODE, &membership).expect("a blank directory");
}

/// An open store, and what it reported.
pub(crate) struct Open {
    pub(crate) storage: Storage,
    pub(crate) events: mpsc::Receiver<StorageEvent>,
}

pub(crate) fn open(dir: &Path) -> (Open, Recovered) {
    open_with(dir, Options::default())
}

pub(crate) fn open_with(dir: &Path, options: Options) -> (Open, Recovered) {
    try_open(dir, options).expect("the directory is whole")
}

pub(crate) fn try_open(dir: &Path, options: Options) -> Result<(Open, Recovered), StorageError> {
    let (sender, events) = mpsc::channel();
    let on_event = move |event| {
        // The test may have seen enough.
        let _ = sender.send(event);
    };
    let (storage, recovered) = storage::open_with(dir, options, Box::new(on_event))?;
    Ok((Open { storage, events }, recovered))
}

impl Open {
    fn wait(&self, mut is_it: impl FnMut(&StorageEvent) -> bool) {
        loop {
            let event = self.events.recv_timeout(Duration::from_secs(60)).expect("the store reports in time");
            if is_it(&event) {
                return;
            }
            assert!(!matches!(event, StorageEvent::Failed(_)), "{event:?}");
        }
    }

    pub(crate) fn wait_for_log(&self, number: u64) {
        self.wait(|event| matches!(event, StorageEvent::LogPersisted(done) if *done >= number));
    }

    pub(crate) fn wait_for_state(&self, index: LogIndex) {
        self.wait(|event| matches!(event, StorageEvent::StatePersisted(done) if *done >= index));
    }
}

/// A log entry with these bytes.
pub(crate) fn log_entry(index: u64, term: u64, bytes: impl Into<Bytes>) -> LogEntry {
    LogEntry { index: LogIndex(index), term: Term(term), bytes: bytes.into() }
}

pub(crate) fn log_batch(number: u64, entries: Vec<LogEntry>) -> LogBatch {
    LogBatch { number, entries, ..LogBatch::default() }
}

/// A node's state, to which entries are applied as a node would.
pub(crate) struct Machine {
    pub(crate) state: State,
    pub(crate) index: LogIndex,
    pub(crate) session: SessionId,
}

impl Machine {
    /// Founded, with one session open; and the batch that brought the session.
    pub(crate) fn new() -> (Self, StateBatch) {
        let mut machine = Self { state: State::found(&founding()), index: LogIndex(1), session: SessionId(0) };
        let batch = machine
            .apply(VOLUME, Command::OpenSession { mount: MountId(7), credential: Default::default(), level_max: 1 });
        machine.session = machine.state.volume(VOLUME).expect("main").session_of(MountId(7)).expect("opened");
        (machine, batch)
    }

    pub(crate) fn apply(&mut self, volume: VolumeId, command: Command) -> StateBatch {
        self.index = self.index.next();
        let is_operation = matches!(command, Command::Operation(_));
        // The index, so that the same entries always come out the same.
        let sequence = self.index.0;
        let unpinned = match &command {
            Command::Operation(Operation::Write { uploads, .. }) if !uploads.is_empty() => {
                vec![Unpinned::Uploads { volume, session: self.session, uploads: uploads.clone() }]
            }
            Command::CloseSessions { sessions } => {
                sessions.iter().map(|&session| Unpinned::Session { volume, session }).collect()
            }
            _ => Vec::new(),
        };
        let header = EntryHeader {
            feature_level: 1,
            volume,
            session: if is_operation { self.session } else { SessionId(0) },
            sequence: Sequence(if is_operation { sequence } else { 0 }),
            answered: if is_operation { vec![Sequence(sequence - 1)] } else { Vec::new() },
            stamp: Stamp(self.index.0 * 1000),
        };
        let applied = self.state.apply(self.index, &Entry { header, command });
        assert!(applied.outcome.is_ok(), "{:?}", applied.outcome);
        StateBatch {
            index: self.index,
            term: TERM,
            digest: self.state.digest(),
            membership: None,
            reset: false,
            rows: applied.effects.rows,
            content: applied.effects.content,
            named: applied.effects.references.iter().map(|(block, _)| (VOLUME, *block)).collect(),
            references: applied.effects.references,
            unpinned,
        }
    }

    pub(crate) fn operate(&mut self, operation: Operation) -> StateBatch {
        self.apply(VOLUME, Command::Operation(operation))
    }

    pub(crate) fn make_file(&mut self, name: &str) -> (Ino, StateBatch) {
        let name = Name::new(name.as_bytes()).expect("a name");
        let (parent, node) = (Ino::ROOT, NewNode::File);
        let batch = self.operate(Operation::Make {
            parent,
            name: name.clone(),
            node,
            mode: 0o644,
            uid: 0,
            gid: 0,
            delegate: false,
            umask: 0,
        });
        (self.state.volume(VOLUME).expect("main").lookup(parent, &name).expect("made"), batch)
    }

    pub(crate) fn unlink(&mut self, name: &str) -> StateBatch {
        self.operate(Operation::Unlink { parent: Ino::ROOT, name: Name::new(name.as_bytes()).expect("a name") })
    }

    /// Writes one piece at the beginning of a file; inline unless `upload` brought it before.
    pub(crate) fn write(&mut self, ino: Ino, content: &Bytes, upload: Option<UploadId>) -> StateBatch {
        let piece = Piece {
            offset: 0,
            length: content.len() as u64,
            block: Some(BlockHash::of(content)),
            content: upload.is_none().then(|| content.clone()),
        };
        let uploads = upload.into_iter().collect();
        self.operate(Operation::Write {
            ino,
            pieces: vec![piece],
            append: false,
            mtime: None,
            clear_suid: ClearSuid::No,
            uploads,
            fence: None,
        })
    }

    pub(crate) fn set_xattr(&mut self, ino: Ino, name: &str, value: Bytes) -> StateBatch {
        let name = XattrName::new(name.as_bytes()).expect("a name");
        self.operate(Operation::SetXattr { ino, name, value, mode: XattrMode::Set, clear_sgid: false })
    }

    pub(crate) fn remove_xattr(&mut self, ino: Ino, name: &str) -> StateBatch {
        self.operate(Operation::RemoveXattr { ino, name: XattrName::new(name.as_bytes()).expect("a name") })
    }

    /// Everything the state is, as a node gives it to its store after it installed a snapshot.
    pub(crate) fn snapshot(&self) -> StateBatch {
        let rows = self.state.rows();
        let rows = rows.map(|(key, value)| manyfs::namespace::RowChange { key, value: Some(value) });
        StateBatch {
            index: self.index,
            term: TERM,
            digest: self.state.digest(),
            membership: Some(Bytes::from_static(b"of the snapshot")),
            reset: true,
            rows: rows.collect(),
            content: Vec::new(),
            references: Vec::new(),
            named: Vec::new(),
            unpinned: Vec::new(),
        }
    }

    pub(crate) fn reap(&mut self, ino: Ino) -> StateBatch {
        self.apply(VOLUME, Command::ReapOrphans { inodes: vec![ino] })
    }
}

/// Bytes that no two numbers have in common and that do not compress.
pub(crate) fn content(number: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}
