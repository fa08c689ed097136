//! What the parts of a cluster say to each other: a mount and its leader, storage nodes among each other, a node and its
//! disk. Nothing here does anything; `wire` turns messages into protobuf, `storage` batches into files.

pub mod log;
pub mod mount;
pub mod peer;
