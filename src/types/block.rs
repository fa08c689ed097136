//! Content: immutable blocks named by their hash, and the pieces of files that name them.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The BLAKE3 hash of a block's bytes, which is its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockHash(pub [u8; 32]);

impl BlockHash {
    /// The name of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockHash({:02x}{:02x}{:02x}{:02x}…)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// A range of a file and the bytes it is given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// Where in the file, in bytes; of an append: where after the end that apply finds.
    pub offset: u64,
    /// Bytes; never 0.
    pub length: u64,
    /// The block that holds them from its first byte on, `length` at least; `None` is a hole.
    pub block: Option<BlockHash>,
    /// The block's bytes where they travel in the entry (content up to the inline limit). Not part of the state:
    /// apply hands them on to packs and caches, and its result is the same with or without them.
    pub content: Option<Bytes>,
}
