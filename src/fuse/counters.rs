//! What passed between this mount and its kernel, counted since the start.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::{Map, Value};

use crate::mount::Notification;

macro_rules! upcalls {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A request of the kernel, by its opcode.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Upcall { $($variant),* }

        impl Upcall {
            const NAMES: &[&str] = &[$($name),*];
        }
    };
}

upcalls! {
    Lookup = "lookup", Forget = "forget", Getattr = "getattr", Setattr = "setattr", Readlink = "readlink",
    Mknod = "mknod", Mkdir = "mkdir", Unlink = "unlink", Rmdir = "rmdir", Symlink = "symlink", Rename = "rename",
    Link = "link", Open = "open", Read = "read", Write = "write", Flush = "flush", Release = "release",
    Fsync = "fsync", Opendir = "opendir", Readdir = "readdir", Releasedir = "releasedir", Fsyncdir = "fsyncdir",
    Statfs = "statfs", Getxattr = "getxattr", Listxattr = "listxattr", Setxattr = "setxattr",
    Removexattr = "removexattr", GetLock = "getlk", SetLock = "setlk", Access = "access", Create = "create", Interrupt = "interrupt",
    Allocate = "fallocate", Seek = "lseek", CopyRange = "copy_file_range", Tmpfile = "tmpfile", Other = "other",
}

const KINDS: &[&str] = &["name", "attributes", "pages", "all_names", "last_byte"];

/// Counters that every thread of the worker adds to.
#[derive(Debug)]
pub struct Counters {
    upcalls: [AtomicU64; Upcall::NAMES.len()],
    notifications: [AtomicU64; KINDS.len()],
    /// Notifications the kernel had nothing to forget for.
    pub(super) notifications_missed: AtomicU64,
    pub(super) notifications_failed: AtomicU64,
    pub(super) answers: AtomicU64,
    /// Requests that ended early or contradicted themselves.
    pub(super) malformed: AtomicU64,
    /// Answers that were a refusal.
    pub(super) errors: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            upcalls: [const { AtomicU64::new(0) }; Upcall::NAMES.len()],
            notifications: [const { AtomicU64::new(0) }; KINDS.len()],
            notifications_missed: AtomicU64::new(0),
            notifications_failed: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }
}

impl Counters {
    pub(super) fn upcall(&self, upcall: Upcall) {
        self.upcalls[upcall as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn notification(&self, notification: &Notification) {
        let kind = match notification {
            Notification::Name { .. } => 0,
            Notification::Attributes { .. } => 1,
            Notification::Pages { .. } => 2,
            Notification::AllNames => 3,
            Notification::Size { .. } => 4,
        };
        self.notifications[kind].fetch_add(1, Relaxed);
    }

    /// Requests of the kernel so far, by opcode.
    pub(super) fn upcalls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Upcall::NAMES.iter().copied().zip(self.upcalls.iter().map(|count| count.load(Relaxed)))
    }

    /// Notifications to the kernel so far, by kind.
    pub(super) fn notifications(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.iter().copied().zip(self.notifications.iter().map(|count| count.load(Relaxed)))
    }

    /// All of them as JSON, with the names that `manyfs status` and `bench` show.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let object = |pairs: &mut dyn Iterator<Item = (&'static str, u64)>| {
            Value::Object(pairs.map(|(name, count)| (name.to_owned(), count.into())).collect())
        };
        let total: u64 = self.upcalls().map(|(_, count)| count).sum();
        Value::Object(Map::from_iter([
            ("upcalls".to_owned(), object(&mut self.upcalls())),
            ("upcalls_total".to_owned(), total.into()),
            ("notifications".to_owned(), object(&mut self.notifications())),
            ("notifications_missed".to_owned(), self.notifications_missed.load(Relaxed).into()),
            ("notifications_failed".to_owned(), self.notifications_failed.load(Relaxed).into()),
            ("answers".to_owned(), self.answers.load(Relaxed).into()),
            ("malformed".to_owned(), self.malformed.load(Relaxed).into()),
            ("errors".to_owned(), self.errors.load(Relaxed).into()),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_upcall_has_its_own_name() {
        let counters = Counters::default();
        counters.upcall(Upcall::Other);
        counters.upcall(Upcall::Lookup);
        let json = counters.to_json();
        assert_eq!((json["upcalls"]["lookup"].as_u64(), json["upcalls"]["other"].as_u64()), (Some(1), Some(1)));
        assert_eq!(json["upcalls_total"].as_u64(), Some(2));
    }
}
