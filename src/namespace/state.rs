//! The whole state of a storage node.

/// The cluster part and one part per volume.
#[derive(Clone, Debug, Default)]
pub struct State {}
