//! Which applied calls still wait, and for whom. A change is complete when every bound session of its volume but the
//! caller's own has acknowledged its entry (docs/protocol.md R3-apply-first, R9-application, R19-either-state).
//!
//! Nothing that completion needs may itself wait for a completion.

use std::collections::{BTreeMap, BTreeSet};

use super::{Key, member::Member};
use crate::types::{Instant, LogIndex, Sequence, SessionId};

/// Each waiting entry is blocked by one session at a time: only when that one acknowledges or falls out of the roster
/// is it looked at again.
#[derive(Debug, Default)]
pub(super) struct Completion {
    waiting: BTreeMap<LogIndex, (Key, Sequence)>,
    blocked: BTreeMap<Key, BTreeSet<LogIndex>>,
}

pub(super) type Members = BTreeMap<Key, Member>;

impl Completion {
    /// The call's entry is applied. True when it is complete at once.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        members: &Members,
        index: LogIndex,
        caller: Key,
        sequence: Sequence,
    ) -> bool {
        match blocker(now, members, caller, index) {
            Some(key) => {
                self.waiting.insert(index, (caller, sequence));
                self.blocked.entry(key).or_default().insert(index);
                false
            }
            None => true,
        }
    }

    /// The session acknowledged something, left, or fell out of the roster. The calls that are complete with that.
    pub(super) fn reconsider(
        &mut self,
        now: Instant,
        members: &Members,
        session: Key,
    ) -> Vec<(LogIndex, Key, Sequence)> {
        let Some(indexes) = self.blocked.get(&session) else { return Vec::new() };
        let free: Vec<LogIndex> = match members.get(&session) {
            Some(member) => indexes.iter().copied().filter(|index| !blocks(now, member, *index)).collect(),
            None => indexes.iter().copied().collect(),
        };
        let mut complete = Vec::new();
        for index in free {
            self.unblock(session, index);
            let Some(&(caller, sequence)) = self.waiting.get(&index) else { continue };
            match blocker(now, members, caller, index) {
                Some(next) => {
                    self.blocked.entry(next).or_default().insert(index);
                }
                None => {
                    self.waiting.remove(&index);
                    complete.push((index, caller, sequence));
                }
            }
        }
        complete
    }

    /// Nobody waits for the calls of this session any more.
    pub(super) fn forget(&mut self, caller: Key) {
        let gone: Vec<LogIndex> =
            self.waiting.iter().filter(|(_, (key, _))| *key == caller).map(|(index, _)| *index).collect();
        for index in gone {
            self.waiting.remove(&index);
        }
        self.blocked.retain(|_, indexes| {
            indexes.retain(|index| self.waiting.contains_key(index));
            !indexes.is_empty()
        });
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The sessions that others wait for.
    pub(super) fn blockers(&self) -> impl Iterator<Item = Key> + '_ {
        self.blocked.keys().copied()
    }

    fn unblock(&mut self, session: Key, index: LogIndex) {
        if let Some(indexes) = self.blocked.get_mut(&session) {
            indexes.remove(&index);
            if indexes.is_empty() {
                self.blocked.remove(&session);
            }
        }
    }
}

/// A bound session of the caller's volume, other than the caller, that has not acknowledged the entry.
fn blocker(now: Instant, members: &Members, caller: Key, index: LogIndex) -> Option<Key> {
    let volume = caller.0;
    members
        .range((volume, SessionId(0))..=(volume, SessionId(u64::MAX)))
        .find(|(key, member)| **key != caller && blocks(now, member, index))
        .map(|(key, _)| *key)
}

fn blocks(now: Instant, member: &Member, index: LogIndex) -> bool {
    member.is_bound(now) && !member.has_acknowledged(index)
}
