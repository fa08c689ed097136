//! Who is at the other end of a connection, as its certificate says. One per connection.

use serde::{Deserialize, Serialize};

use super::{FoundingId, NodeId, VolumeId};

/// What a mount may do with its volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// Which storage node of which founding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    pub founding: FoundingId,
    pub node: NodeId,
}

/// What a credential lets a mount do. It is for this volume of this founding: not for one that gets the same name later,
/// and not for another founding with the same authority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    pub founding: FoundingId,
    pub volume: VolumeId,
    /// The volume's name, for people.
    pub name: String,
    pub access: Access,
}

/// The holder of a certificate of the cluster's authority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    /// A storage node; `None` while it is blank.
    Storage(Option<Member>),
    /// A person or tool that administers the cluster.
    Admin,
    /// A mount.
    Mount(Grant),
}
