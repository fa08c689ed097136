//! Identities. Each is a type of its own, so that an index is never taken for a term or a node for a session.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

identity!(
    /// A storage node, given by `cluster init` (1, 2, 3 …) or `cluster add`; never used again, never 0.
    NodeId(u64)
);
identity!(
    /// One tree with its own root, quota and credentials; never used again. 0 names the cluster part of the state.
    VolumeId(u32)
);
identity!(
    /// A mount's registered identity with exactly-once replies, given by the log; never used again within a volume.
    /// 0 is no session: entries of the leader itself.
    SessionId(u64)
);
identity!(
    /// The number of one call within a session, chosen by the mount; starts at 1, never used for a second call.
    Sequence(u64)
);
identity!(
    /// How often a session has attached to a leader. A connection of an older generation is refused.
    Generation(u64)
);
identity!(
    /// An inode. The upper 16 bits are kept for snapshots and are 0 in the living tree; the root is 1; never used again.
    Ino(u64)
);
identity!(
    /// A position in the Raft log.
    LogIndex(u64)
);
identity!(
    /// A Raft term.
    Term(u64)
);
identity!(
    /// One upload of blocks by a session: pins what was stored under it until an entry names it or the session ends.
    UploadId(u64)
);
identity!(
    /// Whoever has the private key of a certificate: 128 bits of the BLAKE3 hash of its public key.
    CredentialId(u128)
);
identity!(
    /// One network connection at this end; never used again within a process.
    ConnectionId(u64)
);

impl Ino {
    /// The root directory of every volume.
    pub const ROOT: Self = Self(1);
    /// Bits of a living inode's number; those above belong to snapshots.
    pub const LIVE_BITS: u32 = 48;
}

impl LogIndex {
    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! wide_identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:032x})", stringify!($name), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            /// Reads the 32 hexadecimal digits that `Display` writes.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(text, 16).map(Self)
            }
        }
    };
}

wide_identity!(
    /// A cluster's authority: chosen at random when it is made, in every certificate. Whoever has the authority can found
    /// more than one cluster with it: what is stored and who speaks to whom goes by `FoundingId`.
    ClusterId
);
/// A cluster as it was founded: two foundings with one authority have nothing to do with each other. Kept by every node
/// and every credential, and compared first in every handshake (docs/protocol.md R67-foundings).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct FoundingId {
    pub cluster: ClusterId,
    /// Chosen at random by `cluster init`.
    pub number: FoundingNumber,
}

impl fmt::Display for FoundingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of cluster {}", self.number, self.cluster)
    }
}

wide_identity!(
    /// Which of the foundings with one authority.
    FoundingNumber
);
wide_identity!(
    /// A mount before it has a session: chosen at random by the mount, so that a repeated registration finds the first.
    MountId
);
