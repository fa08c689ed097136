//! The whole state from one node to another, piece by piece: the one that needs it asks for each, so a slow one is
//! never sent more than it takes, and one whose stream broke goes on where it was.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Node, Output};
use crate::{
    coordinator,
    limits::Timing,
    message::{log::StateBatch, peer::PeerMessage},
    namespace::{RowChange, State},
    replica,
    types::{Instant, LogIndex, NodeId, Term},
};

#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// What peers fetch here.
    served: BTreeMap<NodeId, Served>,
    fetching: Option<Fetching>,
    /// A fetched state is on its way to the disk.
    installing: Option<(LogIndex, Term, Bytes)>,
}

/// A state as it was, kept for one peer while it fetches.
#[derive(Debug)]
struct Served {
    state: State,
    index: LogIndex,
    term: Term,
    membership: Bytes,
    asked_at: Instant,
}

#[derive(Debug)]
struct Fetching {
    from: NodeId,
    /// 0 until the first piece has come.
    index: LogIndex,
    rows: Vec<(Bytes, Bytes)>,
    asked_at: Instant,
}

impl Snapshots {
    pub(super) fn poll_timeout(&self, timing: &Timing) -> Option<Instant> {
        let again = self.fetching.as_ref().map(|fetching| fetching.asked_at.after(timing.election));
        let forgotten = self.served.values().map(|served| served.asked_at.after(timing.hold)).min();
        again.into_iter().chain(forgotten).min()
    }
}

impl Node {
    /// The log of this node does not reach the leader's: fetch its state.
    pub(super) fn need_snapshot(&mut self, from: NodeId, index: LogIndex) {
        self.fetch_from(from, index, "its log begins behind ours");
    }

    fn fetch_from(&mut self, from: NodeId, index: LogIndex, why: &str) {
        let goes_on = self.snapshots.fetching.as_ref().is_some_and(|fetching| fetching.from == from);
        if goes_on || self.snapshots.installing.is_some() || index <= self.applied.0 {
            return;
        }
        self.outputs.push_back(Output::Notice(format!("the state of node {from} is fetched: {why}")));
        self.snapshots.fetching = Some(Fetching { from, index: LogIndex(0), rows: Vec::new(), asked_at: self.now });
        self.ask_for_piece();
    }

    /// This node has forgotten what it promised, and a state of the leader that includes this entry makes up for it.
    pub(super) fn need_refill(&mut self, from: NodeId, through: LogIndex) {
        let reaches = |fetching: &Fetching| fetching.index == LogIndex(0) || fetching.index >= through;
        if self.snapshots.fetching.as_ref().is_some_and(|fetching| !reaches(fetching)) {
            self.snapshots.fetching = None;
        }
        self.fetch_from(from, through, "this node has forgotten what it promised");
    }

    /// A piece may have been lost, or the request for it.
    pub(super) fn ask_again_for_snapshot(&mut self) {
        let (now, timing) = (self.now, self.config.timing);
        self.snapshots.served.retain(|_, served| now < served.asked_at.after(timing.hold));
        if self.snapshots.fetching.as_ref().is_some_and(|fetching| fetching.asked_at.after(timing.election) <= now) {
            self.ask_for_piece();
        }
    }

    pub(super) fn leadership_of_snapshots(&mut self) {
        let leader = self.leader;
        if !self.leading {
            self.snapshots.served.clear();
        }
        // Another leader has another snapshot; raft will say whether it is still needed.
        if self.snapshots.fetching.as_ref().is_some_and(|fetching| leader.is_some_and(|leader| leader != fetching.from))
        {
            self.snapshots.fetching = None;
        }
    }

    fn ask_for_piece(&mut self) {
        let now = self.now;
        if let Some(fetching) = &mut self.snapshots.fetching {
            fetching.asked_at = now;
            let after = fetching.rows.last().map(|(key, _)| key.clone()).unwrap_or_default();
            let message = PeerMessage::SnapshotRequest { index: fetching.index, after };
            self.outputs.push_back(Output::Peer { to: fetching.from, message });
        }
    }

    /// A peer asks for a piece.
    pub(super) fn serve_snapshot(&mut self, peer: NodeId, index: LogIndex, after: Bytes) {
        if !self.leading {
            return;
        }
        let known = self.snapshots.served.get(&peer).is_some_and(|served| served.index == index);
        if !known {
            let (index, term) = self.applied;
            let (state, membership) = (self.state.clone(), self.membership.clone());
            self.snapshots.served.insert(peer, Served { state, index, term, membership, asked_at: self.now });
        }
        let now = self.now;
        let Some(served) = self.snapshots.served.get_mut(&peer) else { return };
        served.asked_at = now;
        let after = if known { after } else { Bytes::new() };
        let mut source = served.state.rows_after(&after).peekable();
        let mut bytes = 0;
        let mut rows = Vec::new();
        while bytes < self.config.retention.piece_bytes
            && let Some((key, value)) = source.next()
        {
            bytes += key.len() + value.len();
            rows.push((key, value));
        }
        let last = source.peek().is_none();
        let (index, term, membership) = (served.index, served.term, served.membership.clone());
        let message = PeerMessage::SnapshotPiece { index, term, membership, rows, last };
        self.outputs.push_back(Output::Peer { to: peer, message });
    }

    /// A piece of the leader's state has come.
    pub(super) fn take_piece(
        &mut self,
        from: NodeId,
        index: LogIndex,
        term: Term,
        membership: Bytes,
        rows: Vec<(Bytes, Bytes)>,
        last: bool,
    ) {
        let Some(fetching) = self.snapshots.fetching.as_mut().filter(|fetching| fetching.from == from) else { return };
        if index <= self.applied.0 {
            // The log caught up by itself meanwhile.
            self.snapshots.fetching = None;
            return;
        }
        if index != fetching.index {
            (fetching.index, fetching.rows) = (index, Vec::new());
        }
        // A repeated request is answered twice: what is here already is not taken again. A piece always begins right
        // behind a row that we had, so nothing can be left out.
        let have = fetching.rows.last().map(|(key, _)| key.clone()).unwrap_or_default();
        let before = fetching.rows.len();
        fetching.rows.extend(rows.into_iter().filter(|(key, _)| *key > have));
        if last {
            let rows = std::mem::take(&mut fetching.rows);
            self.snapshots.fetching = None;
            self.install(index, term, membership, rows);
        } else if fetching.rows.len() > before {
            self.ask_for_piece();
        }
    }

    fn install(&mut self, index: LogIndex, term: Term, membership: Bytes, rows: Vec<(Bytes, Bytes)>) {
        let row = |(key, value): (Bytes, Bytes)| RowChange { key, value: Some(value) };
        let state = match State::from_rows(rows.iter().cloned()) {
            Ok(state) if state.founding() == self.config.founding => state,
            Ok(state) => {
                let sentence = format!("the state that was fetched is of founding {}: not taken", state.founding());
                return self.outputs.push_back(Output::Notice(sentence));
            }
            Err(error) => {
                let sentence = format!("the state that was fetched is damaged and not taken: {error}");
                return self.outputs.push_back(Output::Notice(sentence));
            }
        };
        // Only a follower installs snapshots: there is nobody to hold back for their bytes.
        let batch = StateBatch {
            index,
            term,
            digest: state.digest(),
            membership: Some(membership.clone()),
            reset: true,
            rows: rows.into_iter().map(row).collect(),
            content: Vec::new(),
            references: Vec::new(),
            named: Vec::new(),
            unpinned: Vec::new(),
        };
        self.persist_state(batch, 0);
        self.state = state;
        self.applied = (index, term);
        self.membership = membership.clone();
        self.snapshots.installing = Some((index, term, membership));
        self.tell_coordinator(coordinator::Input::Replaced);
        self.tell_addresses();
        self.outputs.push_back(Output::Notice(format!("the state as of entry {index} was fetched")));
    }

    /// The store has everything up to this entry: the log may begin anew behind an installed state.
    pub(super) fn snapshot_persisted(&mut self, persisted: LogIndex) {
        if self.snapshots.installing.as_ref().is_some_and(|(index, ..)| *index <= persisted)
            && let Some((index, term, membership)) = self.snapshots.installing.take()
        {
            self.tell_replica(replica::Input::SnapshotInstalled { index, term, membership });
        }
    }
}
