//! A file as this mount shows it: the replica, over it the bytes of flushes that are not applied yet, over these the
//! bytes that are in no flush.

use std::time::Duration;

use super::{Caller, Mount, files::Segment, kernel::AttributeReply};
use crate::types::{Attributes, Ino, Name};

impl Mount {
    /// What stat shows; `None` when there is no such inode.
    pub(super) fn attributes(&self, ino: Ino) -> Option<Attributes> {
        let mut attributes = self.volume().attributes(ino)?;
        self.files.show(&mut attributes);
        if let Some((uid, gid)) = self.config.squash {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        Some(attributes)
    }

    /// Bytes of the file, those not flushed included; 0 when there is no such inode.
    pub(super) fn size(&self, ino: Ino) -> u64 {
        self.attributes(ino).map_or(0, |attributes| attributes.size)
    }

    /// What holds the bytes of `from..to`, in order; what lies between is a hole.
    pub(super) fn segments(&self, ino: Ino, from: u64, to: u64) -> Vec<Segment> {
        let (mut found, open) = self.files.segments(ino, from, to);
        for (begin, end) in open {
            for extent in self.volume().extents(ino, begin, end - begin) {
                let offset = extent.offset.max(begin);
                let length = extent.end().min(end) - offset;
                let block_offset = extent.block_offset + (offset - extent.offset);
                // What is only reserved reads as a hole.
                if let Some(block) = extent.block {
                    found.push(Segment::Block { offset, length, block, block_offset });
                }
            }
        }
        found.sort_by_key(Segment::offset);
        found
    }

    /// The first range with content that ends behind `at`: its begin (not before `at`) and an end.
    pub(super) fn data_behind(&self, ino: Ino, at: u64) -> Option<(u64, u64)> {
        let mut found: Option<(u64, u64)> = None;
        let mut offer = |begin: u64, end: u64| {
            let begin = begin.max(at);
            if begin < end && found.is_none_or(|(best, _)| begin < best) {
                found = Some((begin, end));
            }
        };
        let (here, limit) = self.files.data_behind(ino, at);
        for (begin, end) in here {
            offer(begin, end);
        }
        let mut extents = self.volume().extents(ino, at, limit.saturating_sub(at));
        if let Some(extent) = extents.find(|extent| extent.block.is_some()) {
            offer(extent.offset, extent.end().min(limit));
        }
        found
    }

    /// How long the kernel may keep what a name means (docs/protocol.md R1-versions, R3-apply-first).
    pub(super) fn entry_ttl(&mut self, parent: Ino, name: &Name) -> Duration {
        if !self.is_fresh || self.kernel.is_name_uncacheable(parent, name) {
            return Duration::ZERO;
        }
        let ttl = self.name_ttl();
        if ttl > Duration::ZERO {
            self.kernel.told_name(parent, name);
        }
        ttl
    }

    /// How long the kernel may keep the attributes that it is told now, where its version of the inode protects it from a
    /// late reply.
    pub(super) fn attributes_ttl(&mut self, caller: Caller, ino: Ino) -> Duration {
        let (is_file, is_elsewhere) = (self.is_file(ino), self.is_delegated_elsewhere(ino));
        let may_keep = self.is_fresh && !self.files.is_ahead(ino) && self.is_watched(ino);
        let shown = self.attributes(ino).filter(|_| is_file);
        let reply = AttributeReply { now: self.now, thread: caller.pid, is_file, is_elsewhere, may_keep };
        let keeps = self.kernel.tell_attributes(ino, shown.as_ref(), reply);
        if keeps { self.config.timing.cache } else { Duration::ZERO }
    }
}
