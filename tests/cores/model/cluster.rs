//! The volume under test, three times: on a storage node, at a mount that never sees inline content, and as the rows
//! that a store kept from effects alone. After every entry all must be the same, and what the model says.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use manyfs::{
    namespace::{
        Applied, ByteQuota, Change, Command, Effects, Entry, EntryHeader, Founding, Operation, QuotaChanges, Reply,
        State, Volume, VolumeOptions,
    },
    types::{
        BlockHash, Errno, FileKind, FoundingId, Ino, LogIndex, MountId, Name, Sequence, SessionId, Stamp, VolumeId,
    },
};

use super::{
    reference::{Blocks, Model},
    steps::Step,
};

const MAIN: VolumeId = VolumeId(1);
const MOUNT: MountId = MountId(77);
const OTHER_MOUNT: MountId = MountId(78);

pub(crate) struct Cluster {
    pub(crate) state: State,
    pub(crate) mount: Volume,
    rows: BTreeMap<Bytes, Bytes>,
    references: BTreeMap<BlockHash, i64>,
    pub(crate) model: Model,
    blocks: Blocks,
    /// The cookie that each name was seen with.
    cookies: BTreeMap<(Ino, Name), u64>,
    /// Blocks whose bytes came with an entry, as effects told.
    kept: Blocks,
    index: LogIndex,
    stamp: Stamp,
    /// Who calls, and the number of its last call.
    session: SessionId,
    sequence: Sequence,
    caller: MountId,
    /// The same of the session that does not call at present.
    other: (SessionId, Sequence, MountId),
    last_call: Option<(Operation, Result<Reply, Errno>)>,
}

impl Cluster {
    /// `quotas`: bytes and inodes.
    pub(crate) fn new(quotas: (Option<u64>, Option<u64>)) -> Self {
        let stamp = Stamp(1_000_000_000_000);
        let main = VolumeOptions {
            quota_bytes: quotas.0,
            quota_inodes: quotas.1.unwrap_or(manyfs::limits::INODES_DEFAULT),
            ..VolumeOptions::default()
        };
        let founding = Founding { id: FoundingId::default(), nodes: Vec::new(), stamp, main };
        let state = State::found(&founding);
        let mount = state.volume(MAIN).expect("founded with it").clone();
        let model = Model::new((main.uid, main.gid), main.mode, quotas, stamp.into());
        let rows = state.rows().collect();
        let mut cluster = Self {
            state,
            mount,
            rows,
            references: BTreeMap::new(),
            model,
            blocks: Blocks::new(),
            cookies: BTreeMap::new(),
            kept: Blocks::new(),
            index: LogIndex(1),
            stamp,
            session: SessionId(0),
            sequence: Sequence(0),
            caller: OTHER_MOUNT,
            other: (SessionId(0), Sequence(0), MOUNT),
            last_call: None,
        };
        cluster.open();
        cluster.switch();
        cluster.open();
        cluster
    }

    pub(crate) fn take(&mut self, step: &Step) {
        match step {
            Step::Repeat => self.repeat(),
            Step::Stranger => {
                let operation = Operation::Unlink { parent: Ino::ROOT, name: Name::new(b"a").expect("a name") };
                let applied = self.apply(SessionId(9999), Sequence(1), Vec::new(), Command::Operation(operation));
                assert_eq!((applied.outcome, applied.repeated), (Err(Errno::ESTALE), false));
            }
            Step::Reap => {
                let mut inodes: Vec<Ino> = self.model.orphans().into_iter().step_by(2).collect();
                inodes
                    .extend([Ino::ROOT, Ino(2), Ino(u64::MAX)].into_iter().filter(|ino| !is_orphan(&self.model, *ino)));
                let applied =
                    self.apply(SessionId(0), Sequence(0), Vec::new(), Command::ReapOrphans { inodes: inodes.clone() });
                self.model.reap(&inodes);
                assert_eq!(applied.outcome, Ok(Reply::Done));
            }
            Step::EndHolds { of_other } => {
                let session = if *of_other { self.other.0 } else { self.session };
                let applied = self.apply(SessionId(0), Sequence(0), Vec::new(), Command::EndHolds { session });
                assert_eq!(applied.outcome, Ok(Reply::Done));
                self.model.holders.retain(|_, (holder, _)| *holder != session);
            }
            Step::SetQuotas { bytes, inodes } => {
                let changes = QuotaChanges {
                    bytes: bytes.map(|bytes| bytes.map_or(ByteQuota::Unlimited, ByteQuota::Bytes)),
                    inodes: *inodes,
                };
                let applied = self.apply(SessionId(0), Sequence(0), Vec::new(), Command::SetQuotas(changes));
                assert_eq!(applied.outcome, Ok(Reply::Done));
                self.model.quotas.0 = bytes.unwrap_or(self.model.quotas.0);
                self.model.quotas.1 = inodes.or(self.model.quotas.1);
            }
            Step::Switch => self.switch(),
            Step::Reopen => {
                let sessions = vec![self.session, SessionId(500)];
                self.apply(SessionId(0), Sequence(0), Vec::new(), Command::CloseSessions { sessions });
                assert_eq!(self.volume().session_of(self.caller), None);
                let ended = self.session;
                self.model.holders.retain(|_, (holder, _)| *holder != ended);
                self.open();
            }
            Step::Snapshot => {
                self.mount = Volume::from_rows(self.volume().rows()).expect("its own rows");
                self.state = State::from_rows(self.state.rows()).expect("its own rows");
            }
            _ => self.operate(step),
        }
        self.check();
    }

    /// Everything that is dear to compare.
    pub(crate) fn check_thoroughly(&mut self) {
        self.check();
        let rows: Vec<_> = self.state.rows().collect();
        assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0), "rows come in key order");
        assert_eq!(rows, self.rows.clone().into_iter().collect::<Vec<_>>(), "effects list every row that changed");
        for at in (0..rows.len()).step_by(7) {
            let rest: Vec<_> = self.state.rows_after(&rows[at].0).collect();
            assert_eq!(rest, rows[at + 1..], "a snapshot goes on behind any row");
            let cut = &rows[at].0[..rows[at].0.len() - 1];
            let expected = rows.partition_point(|(key, _)| key.as_ref() <= cut);
            assert_eq!(self.state.rows_after(cut).collect::<Vec<_>>(), rows[expected..], "or behind any bytes");
        }
        let loaded = State::from_rows(rows).expect("its own rows");
        assert_eq!(loaded.digest(), self.state.digest());
        assert_eq!((loaded.applied(), loaded.last_stamp()), (self.state.applied(), self.state.last_stamp()));
        let references: BTreeMap<_, _> = self.references.iter().map(|(block, count)| (*block, *count as u64)).collect();
        assert_eq!(self.state.references(), references, "effects count every extent that names a block");
        for (ino, node) in &self.model.nodes {
            assert_eq!(self.read(*ino), node.content, "content of inode {ino}");
        }
    }

    pub(crate) fn rows(&self) -> Vec<(Bytes, Bytes)> {
        self.state.rows().collect()
    }

    fn volume(&self) -> &Volume {
        self.state.volume(MAIN).expect("never deleted")
    }

    fn open(&mut self) {
        let first = self.apply(
            SessionId(0),
            Sequence(0),
            Vec::new(),
            Command::OpenSession { mount: self.caller, credential: Default::default(), level_max: 1 },
        );
        let again = self.apply(
            SessionId(0),
            Sequence(0),
            Vec::new(),
            Command::OpenSession { mount: self.caller, credential: Default::default(), level_max: 1 },
        );
        assert_eq!(first.session, again.session, "a mount has one session");
        let session = first.session.expect("a session");
        assert!(session > self.session, "sessions are never used again");
        self.session = session;
        self.last_call = None;
    }

    fn switch(&mut self) {
        let now = (self.session, self.sequence, self.caller);
        (self.session, self.sequence, self.caller) = std::mem::replace(&mut self.other, now);
        self.last_call = None;
    }

    fn operate(&mut self, step: &Step) {
        let operation = step.operation(&self.model, &mut self.blocks).expect("all others are taken elsewhere");
        self.sequence.0 += 1;
        let before = (self.model.clone(), self.volume().clone());
        let answered = if self.sequence.0.is_multiple_of(3) { vec![Sequence(self.sequence.0 - 2)] } else { Vec::new() };
        let applied = self.apply(self.session, self.sequence, answered, Command::Operation(operation.clone()));
        // Locks have a model of their own, beside their code; here they are rows among others, and change nothing else.
        let expected = if operation.is_locking() {
            applied.outcome
        } else {
            self.model.apply(self.stamp.into(), (self.session, self.index), &operation, &self.blocks)
        };
        assert_eq!(applied.outcome, expected, "{operation:?}");
        assert!(!applied.repeated);
        if applied.outcome.is_err() {
            let Effects { content, references, changes, .. } = &applied.effects;
            assert!(content.is_empty() && references.is_empty() && changes.is_empty(), "a refusal changes nothing");
        }
        assert_eq!(self.volume().reply(self.session, self.sequence), Some((self.index, expected)));
        let sets_mtime = match &operation {
            Operation::Flush(flush) => flush.changes.mtime.is_some(),
            _ => false,
        };
        let (old, new) = ((&before.0, &before.1), (&self.model, self.volume()));
        check_changes(old, new, &applied.effects.changes, sets_mtime);
        for change in &applied.effects.changes {
            if let Change::Content { ino, .. } = change {
                assert_eq!(
                    self.read(*ino),
                    self.model.nodes[ino].content,
                    "content of inode {ino} after {operation:?}"
                );
            }
        }
        self.last_call = Some((operation, expected));
    }

    fn repeat(&mut self) {
        let Some((operation, outcome)) = self.last_call.clone() else { return };
        let command = Command::Operation(operation);
        let applied = self.apply(self.session, self.sequence, Vec::new(), command.clone());
        assert_eq!((applied.outcome, applied.repeated), (outcome, true));
        let Effects { rows, content, references, changes } = applied.effects;
        assert!(content.is_empty() && references.is_empty() && changes.is_empty());
        assert_eq!(rows.len(), 1, "only the counters know of it");
        if self.sequence.0.is_multiple_of(2) {
            // Confirmed, pruned, and then once more from a connection that was thought dead.
            self.apply(self.session, self.sequence, vec![self.sequence], command.clone());
            assert_eq!(self.volume().reply(self.session, self.sequence), None);
            let late = self.apply(self.session, self.sequence, Vec::new(), command);
            assert_eq!((late.outcome, late.repeated), (Err(Errno::ESTALE), true));
            self.last_call = None;
        }
    }

    /// One entry, to all three.
    fn apply(&mut self, session: SessionId, sequence: Sequence, answered: Vec<Sequence>, command: Command) -> Applied {
        self.index = self.index.next();
        // Now and then a leader's clock stands still: times must grow all the same.
        self.stamp.0 += if self.index.0.is_multiple_of(4) { 0 } else { 1_000 };
        let header = EntryHeader { feature_level: 1, volume: MAIN, session, sequence, answered, stamp: self.stamp };
        let entry = Entry { header, command };
        let entry = Entry::decode(&entry.encode()).expect("its own encoding");
        let applied = self.state.apply(self.index, &entry);
        let mut at_mount = self.mount.apply(self.index, &stripped(entry));
        assert_eq!(self.mount.digest(), self.volume().digest(), "the same with and without content");
        at_mount.effects.content = applied.effects.content.clone();
        assert_eq!(at_mount, applied);
        assert_eq!((self.mount.applied(), self.mount.last_stamp()), (self.index, self.stamp));
        for row in &applied.effects.rows {
            match &row.value {
                Some(value) => assert_ne!(self.rows.insert(row.key.clone(), value.clone()).as_ref(), Some(value)),
                None => assert!(self.rows.remove(&row.key).is_some()),
            }
        }
        for (block, more) in &applied.effects.references {
            assert_ne!(*more, 0);
            let count = self.references.entry(*block).or_default();
            *count += more;
            assert!(*count >= 0);
            if *count == 0 {
                self.references.remove(block);
            }
        }
        for (block, bytes) in &applied.effects.content {
            assert_eq!(*block, BlockHash::of(bytes));
            assert!(self.references.contains_key(block), "content that nobody names is not kept");
            self.kept.insert(*block, bytes.to_vec());
        }
        applied
    }

    /// Attributes, names, xattrs and link counts of everything, after every entry.
    fn check(&mut self) {
        let (volume, model) = (self.state.volume(MAIN).expect("never deleted"), &self.model);
        assert_eq!(volume.inode_count(), model.nodes.len() as u64);
        assert_eq!(volume.bytes_used(), model.used());
        assert_eq!(volume.reserved_bytes(), model.nodes.values().map(|node| node.reserved.len() as u64).sum::<u64>());
        let holders: BTreeMap<_, _> =
            volume.delegations().map(|(ino, held)| (ino, (held.session, held.grant))).collect();
        assert_eq!(holders, model.holders);
        let orphans: Vec<Ino> = volume.orphans().map(|(ino, _)| ino).collect();
        assert_eq!(orphans, model.orphans().into_iter().collect::<Vec<_>>());
        for (ino, node) in &model.nodes {
            let shown = volume.attributes(*ino).expect("the model has it");
            let expected = manyfs::types::Attributes {
                ino: *ino,
                kind: node.kind,
                mode: node.mode,
                nlink: node.nlink,
                uid: node.uid,
                gid: node.gid,
                rdev: node.rdev,
                size: node.size(),
                blocks: node.bytes().div_ceil(512),
                atime: node.atime,
                mtime: node.mtime,
                ctime: node.ctime,
            };
            assert_eq!(shown, expected);
            let inode = volume.inode(*ino).expect("it has attributes");
            assert_eq!(inode.data_version, node.version);
            assert_eq!(inode.symlink_target().map_or(&[][..], |target| target), node.target);
            let listed: Vec<_> = volume.entries_after(*ino, 0).collect();
            let names: BTreeMap<_, _> = listed.iter().map(|(_, name, ino, _)| ((*name).clone(), *ino)).collect();
            assert_eq!((&names, names.len()), (&node.entries, listed.len()));
            assert!(listed.windows(2).all(|pair| pair[0].0 < pair[1].0) && listed.iter().all(|entry| entry.0 >= 3));
            for (cookie, name, child, kind) in listed {
                let first = *self.cookies.entry((*ino, name.clone())).or_insert(cookie);
                assert_eq!(cookie, first, "a walk would find {name} in a new place each time it came back");
                assert_eq!((volume.lookup(*ino, name), kind), (Some(child), model.nodes[&child].kind));
                assert!(volume.entries_after(*ino, cookie).all(|(later, ..)| later > cookie));
            }
            let xattrs: Vec<_> = volume.xattrs(*ino).map(|(name, value)| (name.clone(), value.to_vec())).collect();
            assert_eq!(xattrs, node.xattrs.clone().into_iter().collect::<Vec<_>>());
            if node.kind == FileKind::Directory && node.nlink > 0 {
                assert_eq!(volume.parent(*ino), Some(node.parent));
            }
        }
    }

    /// A file as the extents and the blocks have it.
    fn read(&self, ino: Ino) -> Vec<Option<u8>> {
        let inode = self.volume().inode(ino).expect("the model has it");
        if inode.kind != FileKind::File {
            return Vec::new();
        }
        let mut content = vec![None; usize::try_from(inode.size).expect("small files")];
        for extent in self.volume().extents(ino, 0, u64::MAX) {
            let Some(block) = extent.block else {
                let reserved = &self.model.nodes[&ino].reserved;
                assert!((extent.offset..extent.end()).all(|at| reserved.contains(&at)), "{extent:?}");
                continue;
            };
            let block = self.kept.get(&block).or_else(|| self.blocks.get(&block)).expect("known");
            for at in 0..extent.length {
                let (to, from) = (extent.offset + at, extent.block_offset + at);
                let to = &mut content[usize::try_from(to).expect("small files")];
                assert_eq!(*to, None, "extents do not overlap");
                *to = Some(block[usize::try_from(from).expect("small blocks")]);
            }
        }
        content
    }
}

fn is_orphan(model: &Model, ino: Ino) -> bool {
    model.nodes.get(&ino).is_some_and(|node| node.nlink == 0)
}

/// The entry as it reaches a mount that asked for no content.
fn stripped(mut entry: Entry) -> Entry {
    match &mut entry.command {
        Command::Operation(Operation::Write { pieces, .. }) => {
            pieces.iter_mut().for_each(|piece| piece.content = None);
        }
        Command::Operation(Operation::Flush(flush)) => {
            flush.pieces.iter_mut().for_each(|piece| piece.content = None);
        }
        Command::Operation(Operation::Coalesce { piece, .. }) => piece.content = None,
        _ => {}
    }
    entry
}

/// Whatever differs must have been told, so that no kernel keeps it; and what was told of names must be so.
fn check_changes((old, was): (&Model, &Volume), (new, is): (&Model, &Volume), changes: &[Change], sets_mtime: bool) {
    let named = |ino: Ino| changes.iter().any(|change| matches!(change, Change::Name { parent, .. } if *parent == ino));
    let content = |ino: Ino| {
        changes.iter().filter_map(move |change| match change {
            Change::Content { ino: of, offset, length } if *of == ino => Some((*offset, *length)),
            _ => None,
        })
    };
    let inodes: BTreeSet<Ino> = old.holders.keys().chain(new.holders.keys()).copied().collect();
    for ino in inodes {
        let holder = |model: &Model| model.holders.get(&ino).map(|(session, _)| *session);
        let (before, now) = (holder(old), holder(new));
        let change = Change::Delegated { ino, before, now };
        assert_eq!(changes.contains(&change), before != now, "{change:?} in {changes:?}");
    }
    for (ino, node) in &old.nodes {
        let Some(now) = new.nodes.get(ino) else { continue };
        let told = changes.contains(&Change::Attributes { ino: *ino });
        if was.attributes(*ino) != is.attributes(*ino) {
            assert!(told || named(*ino) || content(*ino).next().is_some(), "attributes of {ino} in {changes:?}");
        }
        if (node.mode, node.uid, node.gid, node.nlink) != (now.mode, now.uid, now.gid, now.nlink) {
            assert!(told || named(*ino), "mode, owner or links of {ino} in {changes:?}");
        }
        if node.xattrs != now.xattrs {
            assert!(told, "xattrs of {ino} in {changes:?}");
        }
        assert_eq!(is_orphan(new, *ino) && !is_orphan(old, *ino), changes.contains(&Change::Orphaned { ino: *ino }));
        if node.content != now.content {
            // Unless the same entry sets it by hand.
            let is_same = node.mtime == now.mtime && node.version != now.version;
            assert!(!is_same || sets_mtime, "a content change changes mtime");
        }
        for at in 0..node.content.len().max(now.content.len()) {
            // A hole reads as zeros; whether there is a byte at all is the size's business.
            let byte = |node: &super::reference::Node| node.content.get(at).map(|byte| byte.unwrap_or(0));
            if byte(node).unwrap_or(0) != byte(now).unwrap_or(0) {
                let at = at as u64;
                let covered =
                    content(*ino).any(|(offset, length)| (offset..offset.saturating_add(length)).contains(&at));
                assert!(covered, "byte {at} of {ino} in {changes:?}");
            }
        }
        for (name, before) in &node.entries {
            let after = is.lookup(*ino, name);
            if after != Some(*before) {
                let change = Change::Name { parent: *ino, name: name.clone(), before: Some(*before), now: after };
                assert!(changes.contains(&change), "{change:?} in {changes:?}");
            }
        }
        for (name, after) in &now.entries {
            let before = was.lookup(*ino, name);
            if before.is_none() {
                let change = Change::Name { parent: *ino, name: name.clone(), before, now: Some(*after) };
                assert!(changes.contains(&change), "{change:?} in {changes:?}");
            }
        }
        if named(*ino) {
            assert_ne!(node.mtime, now.mtime, "a directory's mtime changes with its names");
        }
        let is_rewound = node.kind == FileKind::Directory && now.mtime < node.mtime;
        assert_eq!(changes.contains(&Change::Rewound { ino: *ino }), is_rewound, "{ino} in {changes:?}");
    }
}

/// One operation of the leader's own, on a state that the model knows nothing of.
pub(crate) fn apply_to(state: &mut State, operation: Operation) {
    let (index, stamp) = (state.applied().next(), Stamp(state.last_stamp().0.saturating_add(1)));
    let header = EntryHeader {
        feature_level: 1,
        volume: MAIN,
        session: SessionId(0),
        sequence: Sequence(0),
        answered: Vec::new(),
        stamp,
    };
    state.apply(index, &Entry { header, command: Command::Operation(operation) });
}
