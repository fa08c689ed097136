//! What was done to a file under its delegation besides writing bytes: cut, lengthened, attributes. Like dirty bytes it
//! lies over the replica until it is in the log, and it travels with them (`namespace::Flush`).

use crate::types::{AttributeChanges, Attributes, ClearSuid, TimeChange, Timestamp};

/// mtime and ctime of a change, by cluster time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChangeTimes {
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Buffered {
    /// Nothing of what is below shows from here on.
    pub(crate) cut: Option<u64>,
    /// The file is at least so long: bytes.
    pub(crate) size_min: u64,
    /// When content or size changed last, by cluster time.
    pub(crate) written_at: Option<Timestamp>,
    /// When anything changed last.
    pub(crate) changed_at: Option<Timestamp>,
    /// Mode, owner and times as set last; never a size, and times never as "now".
    pub(crate) set: AttributeChanges,
}

impl Buffered {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Bytes were written: the new mtime and ctime. `clear_suid` as the kernel asks.
    pub(crate) fn wrote(&mut self, ChangeTimes { mtime, ctime }: ChangeTimes, clear_suid: ClearSuid) {
        self.written_at = Some(mtime);
        self.changed_at = Some(ctime);
        // A time set before does not outlast a write.
        self.set.mtime = None;
        self.clear_suid(clear_suid);
    }

    /// The file, which was shown with `shown` bytes, has `size` now.
    pub(crate) fn resized(&mut self, shown: u64, size: u64, times: ChangeTimes) {
        if size < shown {
            self.cut = Some(self.cut.map_or(size, |cut| cut.min(size)));
        }
        // Also where it was cut: what it was cut from may only have been written here.
        self.size_min = size;
        self.wrote(times, ClearSuid::No);
    }

    /// Attributes were set, but no size; `now` by cluster time, `at` when it counts as changed.
    pub(crate) fn set(&mut self, changes: &AttributeChanges, now: Timestamp, at: Timestamp) {
        let given = |time: TimeChange| match time {
            TimeChange::Now => TimeChange::To(now),
            to @ TimeChange::To(_) => to,
        };
        self.set.mode = changes.mode.map(|mode| mode & 0o7777).or(self.set.mode);
        self.set.uid = changes.uid.or(self.set.uid);
        self.set.gid = changes.gid.or(self.set.gid);
        self.set.atime = changes.atime.map(given).or(self.set.atime);
        match changes.mtime {
            // With a size it is the kernel's word for "content changed", which has moved mtime already.
            Some(TimeChange::Now) if changes.size.is_some() => {}
            Some(mtime) => self.set.mtime = Some(given(mtime)),
            None => {}
        }
        self.clear_suid(changes.clear_suid);
        self.changed_at = Some(at);
    }

    /// Attributes with this over them; `end` is that of the last byte written with them.
    pub(crate) fn show(&self, attributes: &mut Attributes, end: u64) {
        if let Some(cut) = self.cut {
            attributes.size = attributes.size.min(cut);
        }
        attributes.size = attributes.size.max(end).max(self.size_min);
        attributes.mode = self.set.clear_suid.clear(attributes.mode);
        attributes.mode = self.set.mode.unwrap_or(attributes.mode);
        attributes.uid = self.set.uid.unwrap_or(attributes.uid);
        attributes.gid = self.set.gid.unwrap_or(attributes.gid);
        if let Some(at) = self.written_at {
            // As in `mtime_behind`, from which `at` comes.
            let is_set_ahead = attributes.mtime > attributes.ctime;
            attributes.mtime = if is_set_ahead { at } else { attributes.mtime.max(at) };
        }
        if let Some(at) = self.changed_at {
            attributes.ctime = attributes.ctime.max(at);
        }
        if let Some(TimeChange::To(time)) = self.set.mtime {
            attributes.mtime = time;
        }
        if let Some(TimeChange::To(time)) = self.set.atime {
            attributes.atime = time;
        }
    }

    /// As every write(2) does, by whomever (`file_remove_privs`, fs/inode.c).
    pub(crate) fn ends_capabilities(&self) -> bool {
        self.written_at.is_some() || self.set.clear_suid != ClearSuid::No
    }

    /// Applied before the mode: one that was set since is the one that stays.
    fn clear_suid(&mut self, clear: ClearSuid) {
        self.set.clear_suid = self.set.clear_suid.max(clear);
        self.set.mode = self.set.mode.map(|mode| clear.clear(mode));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{FileKind, Ino};

    const fn both(seconds: i64) -> ChangeTimes {
        ChangeTimes { mtime: at(seconds), ctime: at(seconds) }
    }

    const fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanoseconds: 0 }
    }

    fn shown(buffered: &Buffered, end: u64) -> Attributes {
        let mut attributes = Attributes {
            ino: Ino(2),
            kind: FileKind::File,
            mode: 0o4755,
            nlink: 1,
            uid: 1,
            gid: 1,
            rdev: 0,
            size: 100,
            blocks: 1,
            atime: at(10),
            mtime: at(10),
            ctime: at(10),
        };
        buffered.show(&mut attributes, end);
        attributes
    }

    #[test]
    fn sizes_go_down_and_up_again_in_their_order() {
        let mut buffered = Buffered::default();
        buffered.resized(100, 30, both(20));
        assert_eq!(shown(&buffered, 0).size, 30);
        buffered.resized(30, 60, both(21));
        assert_eq!((buffered.cut, shown(&buffered, 0).size, shown(&buffered, 90).size), (Some(30), 60, 90));
        buffered.resized(60, 50, both(22));
        assert_eq!((buffered.cut, shown(&buffered, 0).size), (Some(30), 50));
        buffered.resized(50, 200, both(22));
        buffered.resized(200, 150, both(22));
        assert_eq!(shown(&buffered, 0).size, 150, "longer than it is in the replica");
        assert_eq!((shown(&buffered, 0).mtime, shown(&buffered, 0).ctime), (at(22), at(22)));
    }

    #[test]
    fn a_time_that_was_set_stays_until_the_next_write() {
        let mut buffered = Buffered::default();
        buffered.wrote(both(20), ClearSuid::No);
        let utimes = AttributeChanges { mtime: Some(TimeChange::To(at(5))), ..AttributeChanges::default() };
        buffered.set(&utimes, at(21), at(21));
        assert_eq!((shown(&buffered, 0).mtime, shown(&buffered, 0).ctime), (at(5), at(21)));
        buffered.wrote(both(22), ClearSuid::No);
        assert_eq!(shown(&buffered, 0).mtime, at(22));
    }

    #[test]
    fn a_write_clears_setuid_and_a_chmod_behind_it_sets_it_again() {
        let mut buffered = Buffered::default();
        buffered.wrote(both(20), ClearSuid::ByMember);
        assert_eq!(shown(&buffered, 0).mode, 0o755);
        let chmod = AttributeChanges { mode: Some(0o4711), ..AttributeChanges::default() };
        buffered.set(&chmod, at(21), at(21));
        assert_eq!(shown(&buffered, 0).mode, 0o4711);
        buffered.wrote(both(22), ClearSuid::ByMember);
        assert_eq!(shown(&buffered, 0).mode, 0o711);
    }
}
