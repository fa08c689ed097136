//! Room for bytes and files.

/// Space of the stores, in bytes: what a majority of stores can still take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    pub total: u64,
    pub available: u64,
}

/// Space as statfs shows it of one volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeSpace {
    pub bytes: Space,
    /// Inodes that there are and that there could be.
    pub inodes: u64,
    pub inodes_free: u64,
}
