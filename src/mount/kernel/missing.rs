//! The names the kernel was told do not exist, as far as it may remember them. Names that exist need no table (the
//! replica lists them); these are what a lost lease must take back on kernels without INC_EPOCH.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{Ino, Name};

/// Names remembered at most; beyond it a missing name is answered with TTL 0.
const NAMES_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(crate) struct Missing {
    names: BTreeMap<Ino, BTreeSet<Name>>,
    count: usize,
}

impl Missing {
    /// Notes that the kernel will remember the name. False when there is no room: then it must not.
    pub(crate) fn remember(&mut self, parent: Ino, name: &Name) -> bool {
        if self.names.get(&parent).is_some_and(|names| names.contains(name)) {
            return true;
        }
        if self.count >= NAMES_MAX {
            return false;
        }
        self.count += 1;
        self.names.entry(parent).or_default().insert(name.clone())
    }

    /// The name exists now, or the kernel was told to forget it.
    pub(crate) fn forget(&mut self, parent: Ino, name: &Name) {
        if let Some(names) = self.names.get_mut(&parent)
            && names.remove(name)
        {
            self.count -= 1;
            if names.is_empty() {
                self.names.remove(&parent);
            }
        }
    }

    /// The kernel has dropped the directory, and all names in it before.
    pub(crate) fn forget_directory(&mut self, parent: Ino) {
        if let Some(names) = self.names.remove(&parent) {
            self.count -= names.len();
        }
    }

    /// All of them; none is remembered afterwards.
    pub(crate) fn take(&mut self) -> BTreeMap<Ino, BTreeSet<Name>> {
        self.count = 0;
        std::mem::take(&mut self.names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    #[test]
    fn there_is_room_for_so_many_names_and_no_more() {
        let mut missing = Missing::default();
        for number in 0..NAMES_MAX {
            assert!(missing.remember(Ino::ROOT, &name(&number.to_string())));
        }
        assert!(!missing.remember(Ino::ROOT, &name("more")));
        assert!(missing.remember(Ino::ROOT, &name("0")), "it is remembered already");
        missing.forget(Ino::ROOT, &name("0"));
        assert!(missing.remember(Ino(9), &name("more")));
        missing.forget_directory(Ino::ROOT);
        assert_eq!(missing.take(), BTreeMap::from([(Ino(9), BTreeSet::from([name("more")]))]));
    }
}
