//! Who is who: the cluster's own authority, the certificates it issues, and what a certificate says about its holder.
//!
//! A cluster has one authority, a file that `manyfs cluster authority` makes. Storage nodes and administrators are given
//! that file and issue themselves a certificate in memory; a mount is given a credential, a file with a certificate for
//! one volume, read-write or read-only. Every connection is TLS 1.3 with a certificate at both ends.
//!
//! The role stands in the certificate as one URI: `manyfs://CLUSTER/storage` of a blank node and, once it is founded,
//! `/storage/FOUNDING/NODE`; `/admin`; `/mount/FOUNDING/VOLUME/NAME/rw` or `/ro`. Only storage nodes' certificates carry the
//! DNS name `SERVER_NAME`, which every client asks for, so that addresses do not matter and no mount can pass for a store.
//! A founded node's carries a second one, by which its peers ask for it and no other.

mod authority;
mod credential;
mod file;
mod principal;
mod tls;

pub use authority::Authority;
pub use credential::Credential;
pub use file::random;
pub use principal::{credential_of, principal_of};
pub use tls::{Identity, server_config};

use std::{io, path::PathBuf, sync::Arc};

use crate::{limits::VOLUME_NAME_BYTES_MAX, types::Member};

/// The DNS name in every storage node's certificate, and in no other.
pub const SERVER_NAME: &str = "storage.manyfs";

/// The DNS name in the certificate of this storage node, and in no other.
#[must_use]
pub fn name_of(member: Member) -> String {
    format!("{}.{}.{SERVER_NAME}", member.node, member.founding.number)
}

/// Why a certificate, an authority or a credential is not what it should be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PkiError {
    #[error("{} exists already and is left as it is; choose another name", .path.display())]
    Exists { path: PathBuf },
    #[error("{} cannot be {action}: {source}", .path.display())]
    Io { path: PathBuf, action: &'static str, source: Arc<io::Error> },
    #[error("{} is not {expected}: {found}", .path.display())]
    Form { path: PathBuf, expected: &'static str, found: String },
    #[error(
        "{} was written in version {found}, this program reads version {known}: {}", .path.display(),
        if .found > .known { "use the newer manyfs" } else { "it is of a build before any release; make it anew" }
    )]
    Version { path: PathBuf, known: u32, found: u32 },
    #[error(
        "'{found}' cannot name a volume: a name is 1 to {VOLUME_NAME_BYTES_MAX} of a-z, A-Z, 0-9, '-', '_' and '.', and \
         begins with a letter or digit"
    )]
    VolumeName { found: String },
    #[error("a certificate could not be made: {0}")]
    Issue(String),
    #[error("the certificate is no ManyFS certificate: {0}")]
    Certificate(String),
    #[error("random numbers could not be had from the kernel: {0}")]
    Random(Arc<io::Error>),
}

/// That `name` can name a volume.
///
/// # Errors
/// `VolumeName`.
pub fn check_volume_name(name: &str) -> Result<(), PkiError> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let all = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if first && all && name.len() <= VOLUME_NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(PkiError::VolumeName { found: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_name_is_short_and_plain() {
        for name in ["main", "a", "Site-2_b.old", "9", &"x".repeat(63)] {
            assert!(check_volume_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", ".", "..", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(check_volume_name(name).is_err(), "{name}");
        }
    }
}
