//! What a node must not forget beside its log: raft's hard state, how often it has begun, and what it knows that others
//! have promised (docs/protocol.md R71-forgetful). It goes into every batch of the log, so that it costs no sync of its
//! own.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::eraftpb::HardState;
use serde::{Deserialize, Serialize};

use super::{guard::NUMBER_MAX, membership::MEMBERS_MAX};
use crate::{
    message::peer::Mark,
    types::{LogIndex, NodeId, Term},
};

/// The version of the encoding that this program writes.
const VERSION: u8 = 1;

#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Of this process, or the highest one that others have seen.
    pub(super) boot: u64,
    /// This node's disk is older than what it promised: it is mute, also behind a restart.
    pub(super) is_forgetful: bool,
    marks: BTreeMap<u64, Mark>,
    /// Something of it is not on its way to the disk.
    pub(super) is_unsaved: bool,
}

/// The form on the disk.
#[derive(Serialize, Deserialize)]
struct Saved {
    term: u64,
    vote: u64,
    commit: u64,
    boot: u64,
    is_forgetful: bool,
    marks: Vec<Mark>,
}

impl Memory {
    /// The bytes that a batch of the log carries.
    pub(super) fn save(&mut self, hard_state: &HardState) -> Bytes {
        self.is_unsaved = false;
        let saved = Saved {
            term: hard_state.term,
            vote: hard_state.vote,
            commit: hard_state.commit,
            boot: self.boot,
            is_forgetful: self.is_forgetful,
            marks: self.marks.values().copied().collect(),
        };
        postcard::to_extend(&saved, vec![VERSION]).expect("it has a defined encoding and memory suffices").into()
    }

    /// Reads what `save` wrote.
    ///
    /// # Errors
    /// Why the bytes are not that; never panics, whatever they are.
    pub(super) fn read(bytes: &[u8]) -> Result<(HardState, Self), String> {
        let (&version, body) = bytes.split_first().ok_or("it has no bytes")?;
        if version != VERSION {
            return Err(format!("it has version {version}, this program reads version {VERSION}"));
        }
        let (saved, rest): (Saved, _) = postcard::take_from_bytes(body).map_err(|error| error.to_string())?;
        let numbers = [saved.term, saved.commit, saved.boot];
        let in_marks = |mark: &Mark| mark.life.boot.max(mark.term.0).max(mark.acknowledged.0.0);
        let largest = numbers.into_iter().chain(saved.marks.iter().map(in_marks)).max().unwrap_or(0);
        if !rest.is_empty() || largest > NUMBER_MAX || saved.marks.len() > 2 * MEMBERS_MAX {
            return Err("its numbers make no sense".to_owned());
        }
        let hard_state = HardState { term: saved.term, vote: saved.vote, commit: saved.commit, ..HardState::default() };
        let marks = saved.marks.into_iter().map(|mark| (mark.node.0, mark)).collect();
        Ok((hard_state, Self { boot: saved.boot, is_forgetful: saved.is_forgetful, marks, is_unsaved: false }))
    }

    pub(super) fn mark(&self, node: NodeId) -> Option<&Mark> {
        self.marks.get(&node.0)
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.marks.values()
    }

    /// Whether one more node can be known; members of the configuration always can.
    pub(super) fn has_room_for(&self, node: NodeId) -> bool {
        self.marks.contains_key(&node.0) || self.marks.len() < MEMBERS_MAX
    }

    /// Only these nodes are worth remembering.
    pub(super) fn keep_only(&mut self, is_wanted: impl Fn(u64) -> bool) {
        self.marks.retain(|node, _| is_wanted(*node));
    }

    /// A life begins, with this promised.
    pub(super) fn begin(&mut self, mark: Mark) {
        self.marks.insert(mark.node.0, mark);
        self.is_unsaved = true;
    }

    /// The node has been in this term, and acknowledged its log up to this entry in it.
    pub(super) fn promised(&mut self, node: NodeId, term: Term, acknowledged: Option<LogIndex>) {
        let Some(mark) = self.marks.get_mut(&node.0) else { return };
        let before = *mark;
        mark.term = mark.term.max(term);
        if let Some(index) = acknowledged {
            mark.acknowledged = mark.acknowledged.max((term, index));
        }
        self.is_unsaved |= *mark != before;
    }

    /// Another node knows this.
    pub(super) fn learn(&mut self, mark: Mark) {
        match self.marks.get(&mark.node.0).map(|known| known.life) {
            Some(life) if life == mark.life => {
                self.promised(mark.node, mark.term, None);
                self.promised(mark.node, mark.acknowledged.0, Some(mark.acknowledged.1));
            }
            Some(life) if life.boot >= mark.life.boot => {}
            _ if self.has_room_for(mark.node) => self.begin(mark),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::peer::Life;

    fn mark(boot: u64, term: u64, index: u64) -> Mark {
        let life = Life { boot, nonce: boot };
        Mark { node: NodeId(2), life, term: Term(term), acknowledged: (Term(term), LogIndex(index)) }
    }

    #[test]
    fn what_is_saved_is_read_back() {
        let mut memory = Memory { boot: 3, is_forgetful: true, ..Memory::default() };
        memory.begin(mark(5, 7, 9));
        let hard_state = HardState { term: 4, vote: 2, commit: 8, ..HardState::default() };
        let bytes = memory.save(&hard_state);
        assert!(!memory.is_unsaved);
        let (read, again) = Memory::read(&bytes).expect("just written");
        assert_eq!((read, again.boot, again.is_forgetful), (hard_state, 3, true));
        assert_eq!(again.mark(NodeId(2)), Some(&mark(5, 7, 9)));
    }

    #[test]
    fn a_newer_life_counts_and_within_one_the_most() {
        let mut memory = Memory::default();
        memory.learn(mark(2, 7, 9));
        memory.learn(mark(1, 8, 20));
        assert_eq!(memory.mark(NodeId(2)), Some(&mark(2, 7, 9)), "an older life says nothing");
        memory.promised(NodeId(2), Term(8), None);
        memory.promised(NodeId(2), Term(7), Some(LogIndex(8)));
        memory.promised(NodeId(2), Term(8), Some(LogIndex(5)));
        let expected = Mark { term: Term(8), acknowledged: (Term(8), LogIndex(5)), ..mark(2, 0, 0) };
        assert_eq!(memory.mark(NodeId(2)), Some(&expected), "a later term may have cut the log");
        memory.learn(mark(3, 7, 1));
        assert_eq!(memory.mark(NodeId(2)), Some(&mark(3, 7, 1)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), version: bool) {
            if let Some(first) = bytes.first_mut().filter(|_| version) {
                *first = VERSION;
            }
            let _ = Memory::read(&bytes);
        }
    }
}
