//! Who is at the other end of a connection, as its certificate says. One per connection.

use serde::{Deserialize, Serialize};

/// What a mount may do with its volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// The holder of a certificate of the cluster's authority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    /// A storage node: may speak to peers and to every service.
    Storage,
    /// A person or tool that administers the cluster.
    Admin,
    /// A mount of one volume, by the volume's name.
    Mount { volume: String, access: Access },
}
