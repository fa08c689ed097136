//! Which orphans (files without a name) mounts have in use (docs/protocol.md R15-orphans). Such a file keeps its space
//! as long as somebody uses it.
//!
//! What a mount says here comes from anybody who may read. So it is looked up for each orphan, and bounded over all of
//! them.

use std::collections::{BTreeMap, BTreeSet};

use super::Key;
use crate::{
    limits,
    namespace::Volume,
    types::{Ino, VolumeId},
};

#[derive(Debug, Default)]
pub(super) struct Uses {
    by_session: BTreeMap<Key, BTreeSet<Ino>>,
    /// How many sessions use the orphan.
    users: BTreeMap<(VolumeId, Ino), usize>,
    count: usize,
}

impl Uses {
    /// The session uses these orphans, too. It may also name inodes that are no orphans, because they were freed or
    /// have a name again. They are not noted: if one loses its name once more, that is acknowledged anew.
    ///
    /// # Errors
    /// A sentence for whoever named them, if they would be too many. Those that had room are noted all the same. A
    /// session that uses few always has room.
    pub(super) fn add(&mut self, (id, session): Key, volume: &Volume, named: Vec<Ino>) -> Result<(), String> {
        let mut orphans = named.into_iter().filter(|ino| volume.is_orphan(*ino)).peekable();
        if orphans.peek().is_none() {
            return Ok(());
        }
        let own = self.by_session.entry((id, session)).or_default();
        for ino in orphans {
            if own.contains(&ino) {
                continue;
            }
            if self.count >= limits::USES_MAX && own.len() >= limits::USES_PER_SESSION_KEPT {
                return Err(format!(
                    "mounts use {} files without a name, this one {} of them: it is heard again when they are fewer",
                    self.count,
                    own.len()
                ));
            }
            own.insert(ino);
            *self.users.entry((id, ino)).or_default() += 1;
            self.count += 1;
        }
        Ok(())
    }

    /// The session uses these no longer.
    pub(super) fn remove(&mut self, key: Key, orphans: &[Ino]) {
        let Some(own) = self.by_session.get_mut(&key) else { return };
        let ended: Vec<Ino> = orphans.iter().copied().filter(|ino| own.remove(ino)).collect();
        if own.is_empty() {
            self.by_session.remove(&key);
        }
        ended.into_iter().for_each(|ino| self.end(key.0, ino));
    }

    /// The session uses nothing any more.
    pub(super) fn forget(&mut self, key: Key) {
        for ino in self.by_session.remove(&key).unwrap_or_default() {
            self.end(key.0, ino);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_used(&self, volume: VolumeId, ino: Ino) -> bool {
        self.users.contains_key(&(volume, ino))
    }

    pub(super) fn has_any(&self, key: Key) -> bool {
        self.by_session.contains_key(&key)
    }

    fn end(&mut self, volume: VolumeId, ino: Ino) {
        if let Some(users) = self.users.get_mut(&(volume, ino)) {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&(volume, ino));
            }
            self.count -= 1;
        }
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<(Key, Vec<Ino>)> {
        self.by_session.iter().map(|(key, own)| (*key, own.iter().copied().collect())).collect()
    }
}
