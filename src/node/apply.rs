//! Committed entries become state, rows for the store, and news for the coordinator.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Node;
use crate::{
    coordinator::{self, AppliedEntry},
    limits,
    message::log::{StateBatch, Unpinned},
    namespace::{Applied, Command, Entry, Reply, RowChange},
    replica::{self, CommittedEntry},
    types::{BlockHash, LogIndex, Term, VolumeId},
};

/// What a run of entries leaves for the store: of a row its last value, of a block the sum of its changes.
#[derive(Debug, Default)]
struct Gathered {
    /// The last entry that was given to the store before.
    through: LogIndex,
    /// Of the entries.
    bytes: usize,
    membership: Option<Bytes>,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    content: Vec<(BlockHash, Bytes)>,
    references: BTreeMap<BlockHash, i64>,
    named: BTreeSet<(VolumeId, BlockHash)>,
    unpinned: Vec<Unpinned>,
}

impl Node {
    /// Applies what a majority has synced, in order.
    pub(super) fn apply(&mut self, entries: Vec<CommittedEntry>) {
        let mut gathered = Gathered { through: self.applied.0, ..Gathered::default() };
        let mut news = Vec::with_capacity(entries.len());
        let mut cluster_changed = false;
        // An installed snapshot may have brought some of them already.
        let known = self.applied.0;
        for committed in entries.into_iter().filter(|entry| entry.index > known) {
            let CommittedEntry { index, term, data, membership } = committed;
            if let Some(membership) = membership {
                self.membership = membership.clone();
                gathered.membership = Some(membership);
            }
            if !data.is_empty() {
                gathered.bytes += data.len();
                let entry = match Entry::decode(&data) {
                    Ok(entry) => entry,
                    Err(error) => return self.fail(format!("log entry {index} cannot be applied: {error}")),
                };
                cluster_changed |= entry.header.volume == VolumeId(0);
                let unpinned = self.unpinned_by(&entry);
                let Applied { outcome, session, effects, .. } = self.state.apply(index, &entry);
                gathered.rows.extend(effects.rows.into_iter().map(|RowChange { key, value }| (key, value)));
                gathered.content.extend(effects.content);
                let volume = entry.header.volume;
                for (hash, change) in effects.references {
                    if change > 0 {
                        gathered.named.insert((volume, hash));
                    }
                    *gathered.references.entry(hash).or_default() += change;
                }
                let is_due = |unpinned: &Unpinned| match *unpinned {
                    Unpinned::Uploads { .. } => !Reply::comes_again(&outcome),
                    Unpinned::Session { volume, session } => {
                        self.state.volume(volume).is_some_and(|volume| volume.session(session).is_none())
                    }
                    Unpinned::Volume { .. } => outcome.is_ok(),
                };
                gathered.unpinned.extend(unpinned.into_iter().filter(is_due));
                news.push(AppliedEntry { index, entry, bytes: data, outcome, session });
            }
            self.applied = (index, term);
            // Between entries: what one of them changes belongs together.
            if gathered.rows.len() >= limits::STATE_STEP_ROWS {
                self.persist(&mut gathered);
            }
        }
        let (index, term) = self.applied;
        self.tell_replica(replica::Input::Applied { index });
        if index == known {
            return;
        }
        self.persist(&mut gathered);
        self.tell_coordinator(coordinator::Input::Applied { term, entries: news });
        if cluster_changed {
            self.tell_addresses();
        }
    }

    /// Gives the state store what was gathered so far.
    fn persist(&mut self, gathered: &mut Gathered) {
        let (index, term) = self.applied;
        if std::mem::replace(&mut gathered.through, index) == index {
            return;
        }
        let gathered = std::mem::replace(gathered, Gathered { through: index, ..Gathered::default() });
        let bytes = gathered.bytes + limits::STATE_BACKLOG_ROW_BYTES * gathered.rows.len();
        self.persist_state(gathered.into_batch(index, term, self.state.digest()), bytes);
    }

    /// What the entry unpins unless it comes again.
    fn unpinned_by(&self, entry: &Entry) -> Vec<Unpinned> {
        let (volume, session) = (entry.header.volume, entry.header.session);
        match &entry.command {
            Command::Operation(operation) if !operation.uploads().is_empty() => {
                vec![Unpinned::Uploads { volume, session, uploads: operation.uploads().to_vec() }]
            }
            Command::CloseSessions { sessions } => {
                sessions.iter().map(|&session| Unpinned::Session { volume, session }).collect()
            }
            Command::DeleteVolume { name, .. } => {
                let deleted = self.state.volume_named(name).map(crate::namespace::Volume::id);
                deleted.map(|volume| Unpinned::Volume { volume }).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Gathered {
    fn into_batch(self, index: LogIndex, term: Term, digest: u128) -> StateBatch {
        StateBatch {
            index,
            term,
            digest,
            membership: self.membership,
            reset: false,
            rows: self.rows.into_iter().map(|(key, value)| RowChange { key, value }).collect(),
            content: self.content,
            references: self.references.into_iter().filter(|(_, change)| *change != 0).collect(),
            named: self.named.into_iter().collect(),
            unpinned: self.unpinned,
        }
    }
}
