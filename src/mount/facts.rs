//! What is true of each kind of request, in one table: whoever adds a kind says it here, once.

use super::Request;
use crate::types::Ino;

/// What is true of a request, whoever asks and whatever the file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Facts {
    /// The inode that it names by its number: the kernel has it for certain.
    pub(crate) subject: Option<Ino>,
    /// A mount that is read-only refuses it.
    pub(crate) changes: bool,
    /// Answered from the replica: without a lease, only behind a read index (docs/protocol.md R10-read-index).
    pub(crate) looks: bool,
    /// It looks at what the holder of a delegation may have changed: it waits until another mount has given the subject
    /// back (R11-delegation).
    pub(crate) looks_inside: bool,
    /// The kernel never sends it again once it was answered with ENOSYS (`--opens=untracked`).
    pub(crate) tells_of_opens: bool,
    /// Directories that it names and whose locks the kernel holds until the answer (R22-collisions). Those that it
    /// removes or replaces are locked, too.
    pub(crate) locks: Locks,
}

/// The directory of a change, and another one.
pub(crate) type Locks = [Option<Ino>; 2];

const NOTHING: Facts =
    Facts { subject: None, changes: false, looks: false, looks_inside: false, tells_of_opens: false, locks: [None; 2] };
const LOOK: Facts = Facts { looks: true, ..NOTHING };
const LOOK_INSIDE: Facts = Facts { looks_inside: true, ..LOOK };
const CHANGE: Facts = Facts { changes: true, ..NOTHING };

impl Facts {
    const fn of(self, subject: Ino) -> Self {
        Self { subject: Some(subject), ..self }
    }

    const fn locking(self, directory: Ino) -> Self {
        Self { locks: [Some(directory), None], ..self }
    }
}

impl Request {
    pub(crate) const fn facts(&self) -> Facts {
        match self {
            Self::Lookup { parent, .. } => LOOK.of(*parent),
            // A handle may be older than anything that the kernel knows.
            Self::ByHandle { .. } | Self::Parent { .. } => LOOK,
            Self::Readlink { ino } | Self::Opendir { ino } | Self::Readdir { ino, .. } => LOOK.of(*ino),
            Self::Getattr { ino, .. }
            | Self::Read { ino, .. }
            | Self::Getxattr { ino, .. }
            | Self::Listxattr { ino, .. }
            | Self::SeekData { ino, .. }
            | Self::SeekHole { ino, .. } => LOOK_INSIDE.of(*ino),
            Self::Open { ino, flags } => {
                let changes = flags.write || flags.truncate;
                Facts { changes, tells_of_opens: true, ..LOOK_INSIDE }.of(*ino)
            }
            Self::Make { parent, .. }
            | Self::Create { parent, .. }
            | Self::MakeUnnamed { parent, .. }
            | Self::Unlink { parent, .. }
            | Self::Rmdir { parent, .. } => CHANGE.of(*parent).locking(*parent),
            Self::Link { ino, parent, .. } => CHANGE.of(*ino).locking(*parent),
            Self::Rename { from, to, .. } => Facts { locks: [Some(*from), Some(*to)], ..CHANGE }.of(*from),
            Self::Setattr { ino, .. }
            | Self::Write { ino, .. }
            | Self::Setxattr { ino, .. }
            | Self::Removexattr { ino, .. }
            | Self::Allocate { ino, .. } => CHANGE.of(*ino),
            Self::CopyRange { from, .. } => CHANGE.of(*from),
            Self::Flush { ino, .. } => Facts { tells_of_opens: true, ..NOTHING }.of(*ino),
            Self::GetLock { ino, .. }
            | Self::SetLock { ino, .. }
            | Self::Unlock { ino, .. }
            | Self::Fsync { ino, .. }
            | Self::Fsyncdir { ino } => NOTHING.of(*ino),
            Self::Forget { .. } | Self::Release { .. } | Self::Releasedir { .. } | Self::Statfs => NOTHING,
        }
    }
}
