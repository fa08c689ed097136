//! What the packs remember outside the packs: where each block is, and the pins that still hold.

use super::{index::Location, record::Pin};
use crate::{storage::StorageError, types::BlockHash};

/// A row of the catalog that is set or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CatalogChange {
    /// Where the block is; `None`: it is in no pack.
    Block(BlockHash, Option<Location>),
    /// The pin holds the block (or does not any more).
    Pin(Pin, BlockHash, bool),
    /// Records of packs up to this offset of this pack are in the catalog.
    Scanned(u32, u64),
}

/// A durable map. It may lose the newest changes in a crash, those that were not flushed, but then it loses all that
/// followed the first lost one, also within one call of `apply`.
pub trait Catalog: std::fmt::Debug + Send + Sync {
    /// Gives every row that is set.
    ///
    /// # Errors
    /// `Row` for a row that is damaged, `State` for a store that cannot be read.
    fn load(&self, row: &mut dyn FnMut(CatalogChange)) -> Result<(), StorageError>;

    /// # Errors
    /// `State`, `Full`.
    fn apply(&self, changes: &[CatalogChange]) -> Result<(), StorageError>;

    /// What was applied before outlives a crash from here on.
    ///
    /// # Errors
    /// `State`, `Io`.
    fn flush(&self) -> Result<(), StorageError>;
}
