//! Feature levels: which program understands what. A cluster begins at the first level, and what a later one brought is
//! used only once an entry has raised the cluster to it: when every storage node and every session can (docs/protocol.md
//! R73-levels). Nothing of a level that is in force ever changes its form.

use super::{Command, Operation, row::RowKey};
use crate::limits;

/// A level, and what it brought. The newest is last.
pub const LEVELS: &[(u16, &str)] = &[(1, "all that the first release writes")];

const _: () = assert!(LEVELS[LEVELS.len() - 1].0 == limits::FEATURE_LEVEL, "the newest level is this program's");

impl Command {
    /// The lowest level that understands the command. A new variant does not build before it has a level here.
    #[must_use]
    pub const fn level(&self) -> u16 {
        match self {
            Self::Noop
            | Self::SetNode(_)
            | Self::RemoveNode(_)
            | Self::CreateVolume { .. }
            | Self::DeleteVolume { .. }
            | Self::RaiseFeatureLevel(_)
            | Self::OpenSession { .. }
            | Self::CloseSessions { .. }
            | Self::ReapOrphans { .. }
            | Self::EndHolds { .. }
            | Self::ShrinkVolume
            | Self::SetQuotas(_) => 1,
            Self::Operation(operation) => operation.level(),
        }
    }
}

impl Operation {
    /// The same of a mount's change.
    #[must_use]
    pub const fn level(&self) -> u16 {
        match self {
            Self::Make { .. }
            | Self::MakeUnnamed { .. }
            | Self::Link { .. }
            | Self::LinkUnnamed { .. }
            | Self::Unlink { .. }
            | Self::Rmdir { .. }
            | Self::Rename { .. }
            | Self::SetAttributes { .. }
            | Self::Write { .. }
            | Self::Allocate { .. }
            | Self::SetXattr { .. }
            | Self::RemoveXattr { .. }
            | Self::CopyRange { .. }
            | Self::Coalesce { .. }
            | Self::Delegate { .. }
            | Self::Flush(_)
            | Self::Lock { .. }
            | Self::Unlock { .. }
            | Self::CancelLock { .. }
            | Self::ReleaseLocks { .. } => 1,
        }
    }
}

impl RowKey {
    /// The same of a row of a volume: a state of a lower level has none.
    pub(super) const fn level(&self) -> u16 {
        match self {
            Self::Header
            | Self::Counters
            | Self::Inode(_)
            | Self::Dirent(..)
            | Self::Extent(..)
            | Self::Xattr(..)
            | Self::Session(_)
            | Self::Reply(..)
            | Self::Orphan(_)
            | Self::Delegation(_)
            | Self::Lock(_)
            | Self::LockRequest(..) => 1,
        }
    }
}
