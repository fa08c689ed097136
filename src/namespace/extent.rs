//! Which bytes of a file lie in which block, and which have a place reserved. A file without content or with one extent
//! needs no allocation; more extents are a persistent map, so that a clone is O(1) however large the file.

use std::collections::BTreeSet;

use imbl::OrdMap;

use crate::types::BlockHash;

/// A range of a file that names a range of a block, or that space is reserved for: then it reads as zeros, and may lie behind
/// the end of the file. Extents of a file never overlap; what lies between them is a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Bytes; never 0.
    pub length: u64,
    /// `None`: reserved.
    pub block: Option<BlockHash>,
    /// Where in the block the range begins, in bytes; 0 of what is reserved.
    pub block_offset: u64,
}

impl Extent {
    /// Space for bytes to come.
    pub(super) const fn reserved(from: u64, to: u64) -> Self {
        Self { offset: from, length: to - from, block: None, block_offset: 0 }
    }

    /// The first byte of the file behind this extent.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// Whether `next` is the bytes that follow in the same block, or as much without one.
    fn is_followed_by(&self, next: &Self) -> bool {
        let follows = self.block.map_or(0, |_| self.block_offset + self.length);
        (self.block, self.end(), follows) == (next.block, next.offset, next.block_offset)
    }

    /// The part of this extent inside `from..to`, which must overlap it.
    fn part(&self, from: u64, to: u64) -> Self {
        let offset = self.offset.max(from);
        Self {
            offset,
            length: self.end().min(to) - offset,
            block: self.block,
            block_offset: self.block.map_or(0, |_| self.block_offset + (offset - self.offset)),
        }
    }
}

/// The extents of one file, ordered by offset.
#[derive(Clone, Debug, Default)]
pub(super) enum Extents {
    #[default]
    None,
    One(Extent),
    Many(OrdMap<u64, Extent>),
}

impl Extents {
    pub(super) fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.overlapping(0, u64::MAX)
    }

    /// How many there are beyond the first.
    pub(super) fn further(&self) -> u64 {
        match self {
            Self::None | Self::One(_) => 0,
            Self::Many(map) => (map.len() as u64).saturating_sub(1),
        }
    }

    /// Where the tail of so many extents begins, at the earliest at `from`: no more begin behind it.
    pub(super) fn tail(&self, from: u64, count: usize) -> u64 {
        match self {
            Self::None | Self::One(_) => from,
            Self::Many(map) => map.range(from..).rev().nth(count).map_or(from, |(_, extent)| extent.end()),
        }
    }

    pub(super) fn get(&self, offset: u64) -> Option<Extent> {
        match self {
            Self::None => None,
            Self::One(extent) => Some(*extent).filter(|extent| extent.offset == offset),
            Self::Many(map) => map.get(&offset).copied(),
        }
    }

    /// The extents that share a byte with `from..to`, in order, uncut.
    pub(super) fn overlapping(&self, from: u64, to: u64) -> impl Iterator<Item = Extent> + '_ {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(extent) => (Some(*extent), None),
            Self::Many(map) => (None, (from < to).then_some(map)),
        };
        let before = many.and_then(|map| map.get_prev(&from)).map(|(_, extent)| *extent);
        let before = before.filter(move |extent| extent.offset < from);
        let rest = many.into_iter().flat_map(move |map| map.range(from..to)).map(|(_, extent)| *extent);
        one.into_iter()
            .chain(before)
            .chain(rest)
            .filter(move |extent| from < to && extent.offset < to && extent.end() > from)
    }

    /// What lies between the extents in `from..to`, in order.
    pub(super) fn holes(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let ends = self.overlapping(from, to).map(|extent| (extent.offset, extent.end())).chain([(to, to)]);
        let mut at = from;
        ends.filter_map(move |(begin, end)| {
            let hole = (at, begin);
            at = end;
            (hole.0 < hole.1).then_some(hole)
        })
    }

    /// The end of the last one; 0 where there is none.
    pub(super) fn end(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::One(extent) => extent.end(),
            Self::Many(map) => map.get_max().map_or(0, |(_, extent)| extent.end()),
        }
    }

    /// Bytes of the extents that begin exactly at these offsets: of all, and of those that are reserved.
    pub(super) fn bytes_at(&self, offsets: &BTreeSet<u64>) -> (u64, u64) {
        let extents = offsets.iter().filter_map(|offset| self.get(*offset));
        extents.fold((0, 0), |(bytes, reserved), extent| {
            (bytes + extent.length, reserved + if extent.block.is_none() { extent.length } else { 0 })
        })
    }

    /// The parts of extents inside `from..to`, cut to it, in order.
    pub(super) fn parts(&self, from: u64, to: u64) -> impl Iterator<Item = Extent> + '_ {
        self.overlapping(from, to).map(move |extent| extent.part(from, to))
    }

    /// Adds an extent where there is none. Reports its offset.
    pub(super) fn insert(&mut self, extent: Extent, touched: &mut BTreeSet<u64>) {
        touched.insert(extent.offset);
        *self = match std::mem::take(self) {
            Self::None => Self::One(extent),
            Self::One(first) => Self::Many([(first.offset, first), (extent.offset, extent)].into_iter().collect()),
            Self::Many(mut map) => {
                map.insert(extent.offset, extent);
                Self::Many(map)
            }
        };
    }

    /// As `insert`; with neighbours that name what lies beside it in the same block it becomes one.
    pub(super) fn join(&mut self, mut extent: Extent, touched: &mut BTreeSet<u64>) {
        let before = extent.offset.checked_sub(1).and_then(|last| self.overlapping(last, extent.offset).next());
        if let Some(before) = before.filter(|before| before.is_followed_by(&extent)) {
            self.remove(before.offset, touched);
            extent = Extent { length: before.length + extent.length, ..before };
        }
        if let Some(after) = self.get(extent.end()).filter(|after| extent.is_followed_by(after)) {
            self.remove(after.offset, touched);
            extent.length += after.length;
        }
        self.insert(extent, touched);
    }

    /// Makes `from..to` a hole. Reports the offsets of all extents that went, came or changed.
    pub(super) fn cut(&mut self, from: u64, to: u64, touched: &mut BTreeSet<u64>) {
        let concerned: Vec<Extent> = self.overlapping(from, to).collect();
        for extent in concerned {
            self.remove(extent.offset, touched);
            if extent.offset < from {
                self.insert(extent.part(0, from), touched);
            }
            if extent.end() > to {
                self.insert(extent.part(to, u64::MAX), touched);
            }
        }
    }

    /// Makes an extent end at `at` and another begin there, where one straddles it.
    pub(super) fn split(&mut self, at: u64, touched: &mut BTreeSet<u64>) {
        let straddling = self.overlapping(at, at.saturating_add(1)).next().filter(|extent| extent.offset < at);
        if let Some(extent) = straddling {
            self.remove(extent.offset, touched);
            self.insert(extent.part(0, at), touched);
            self.insert(extent.part(at, u64::MAX), touched);
        }
    }

    /// Moves all extents from `from` on by `distance` bytes, to the front or to the end. Nothing may straddle `from`,
    /// and where they go there must be room.
    pub(super) fn shift(&mut self, from: u64, distance: u64, to_front: bool, touched: &mut BTreeSet<u64>) {
        let moved: Vec<Extent> = self.overlapping(from, u64::MAX).collect();
        for extent in &moved {
            self.remove(extent.offset, touched);
        }
        for mut extent in moved {
            extent.offset = if to_front { extent.offset - distance } else { extent.offset + distance };
            self.insert(extent, touched);
        }
    }

    fn remove(&mut self, offset: u64, touched: &mut BTreeSet<u64>) {
        touched.insert(offset);
        *self = match std::mem::take(self) {
            Self::Many(mut map) => {
                map.remove(&offset);
                // Back to the cheap form as soon as it fits.
                match map.get_min() {
                    None => Self::None,
                    Some((_, extent)) if map.len() == 1 => Self::One(*extent),
                    Some(_) => Self::Many(map),
                }
            }
            Self::One(extent) if extent.offset == offset => Self::None,
            other => other,
        };
    }
}
