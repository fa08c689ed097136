//! This mount's copy of the volume: a snapshot in pieces, then entries in order.

use bytes::Bytes;

use crate::{
    namespace::{Applied, Command, DecodeError, Entry, EntryHeader, Volume, VolumeOptions},
    types::{LogIndex, Stamp, VolumeId},
};

/// Why what a leader sent cannot be the volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplicaError {
    #[error("entry {index} cannot be read: {error}")]
    Entry { index: LogIndex, error: DecodeError },
    #[error("the leader sent entries before a snapshot to a mount that has nothing")]
    Nothing,
    #[error("the snapshot at entry {index} is damaged: {reason}")]
    Snapshot { index: LogIndex, reason: String },
    #[error("a piece of the snapshot at entry {index} is missing")]
    Piece { index: LogIndex },
}

/// An entry that is in the replica now.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) header: EntryHeader,
    pub(crate) command: Command,
    pub(crate) applied: Applied,
}

#[derive(Debug)]
pub(crate) struct Replica {
    volume: Volume,
    /// A snapshot was installed: `volume` is more than a placeholder.
    is_loaded: bool,
    applied: LogIndex,
    /// Rows of the snapshot that is arriving.
    arriving: Option<(LogIndex, Vec<(Bytes, Bytes)>)>,
}

impl Replica {
    pub(crate) fn new() -> Self {
        let nothing = Volume::new(VolumeId(0), String::new(), VolumeOptions::default(), Stamp(0));
        Self { volume: nothing, is_loaded: false, applied: LogIndex(0), arriving: None }
    }

    /// The volume as of `applied`; an empty tree before the first snapshot.
    pub(crate) const fn volume(&self) -> &Volume {
        &self.volume
    }

    pub(crate) const fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// The last entry that is part of the replica; 0 before the first snapshot.
    pub(crate) const fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Takes a piece of a snapshot. The volume as it was before, when this piece completed a newer one.
    pub(crate) fn snapshot(
        &mut self,
        index: LogIndex,
        first: bool,
        last: bool,
        rows: Vec<(Bytes, Bytes)>,
    ) -> Result<Option<Volume>, ReplicaError> {
        if first {
            self.arriving = Some((index, Vec::new()));
        }
        match &mut self.arriving {
            Some((arriving, all)) if *arriving == index => all.extend(rows),
            _ => return Err(ReplicaError::Piece { index }),
        }
        if !last {
            return Ok(None);
        }
        let rows = self.arriving.take().map(|(_, rows)| rows).unwrap_or_default();
        let volume =
            Volume::from_rows(rows).map_err(|error| ReplicaError::Snapshot { index, reason: error.to_string() })?;
        // A mount never goes back (docs/protocol.md R19-either-state).
        if self.is_loaded && index < self.applied {
            return Ok(None);
        }
        self.applied = index.max(volume.applied());
        self.is_loaded = true;
        Ok(Some(std::mem::replace(&mut self.volume, volume)))
    }

    /// Applies an entry; `None` when the replica has it already.
    pub(crate) fn apply(&mut self, index: LogIndex, bytes: &[u8]) -> Result<Option<Carried>, ReplicaError> {
        if !self.is_loaded {
            return Err(ReplicaError::Nothing);
        }
        if index <= self.applied {
            return Ok(None);
        }
        let entry = Entry::decode(bytes).map_err(|error| ReplicaError::Entry { index, error })?;
        let applied = self.volume.apply(index, &entry);
        self.applied = index;
        Ok(Some(Carried { header: entry.header, command: entry.command, applied }))
    }
}
