//! What a certificate says about its holder.

use std::str::FromStr;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{PkiError, check_volume_name};
use crate::types::{Access, ClusterId, CredentialId, FoundingId, Grant, Member, NodeId, Principal, VolumeId};

const SCHEME: &str = "manyfs://";

/// The cluster and role in a certificate (DER). That the cluster's authority signed it is for TLS to have proved.
///
/// # Errors
/// `Certificate` where it is none of ours.
pub fn principal_of(certificate: &[u8]) -> Result<(ClusterId, Principal), PkiError> {
    let refuse = |why: String| PkiError::Certificate(why);
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| refuse(error.to_string()))?;
    let names = certificate.subject_alternative_name().map_err(|error| refuse(error.to_string()))?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or_else(|| refuse("it names no role".to_owned()))?;
    if uris.next().is_some() {
        return Err(refuse("it names more than one role".to_owned()));
    }
    parse(uri).ok_or_else(|| refuse(format!("'{uri}' is no role")))
}

/// Whose certificate (DER) it is, whatever it says.
///
/// # Errors
/// `Certificate` where it is none.
pub fn credential_of(certificate: &[u8]) -> Result<CredentialId, PkiError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|error| PkiError::Certificate(error.to_string()))?;
    let hash = blake3::hash(certificate.public_key().raw);
    let mut first = [0; 16];
    first.copy_from_slice(&hash.as_bytes()[..16]);
    Ok(CredentialId(u128::from_be_bytes(first)))
}

/// The URI that stands for the role.
pub(super) fn uri_of(cluster: ClusterId, principal: &Principal) -> String {
    let role = match principal {
        Principal::Storage(None) => "storage".to_owned(),
        Principal::Storage(Some(Member { founding, node })) => format!("storage/{}/{node}", founding.number),
        Principal::Admin => "admin".to_owned(),
        Principal::Mount(Grant { founding, volume, name, access }) => {
            let access = if *access == Access::ReadWrite { "rw" } else { "ro" };
            format!("mount/{}/{volume}/{name}/{access}", founding.number)
        }
    };
    format!("{SCHEME}{cluster}/{role}")
}

fn parse(uri: &str) -> Option<(ClusterId, Principal)> {
    let (cluster, role) = uri.strip_prefix(SCHEME)?.split_once('/')?;
    let cluster = wide(cluster)?;
    let founding = |number: &str| Some(FoundingId { cluster, number: wide(number)? });
    let principal = match *role.split('/').collect::<Vec<_>>() {
        ["storage"] => Principal::Storage(None),
        ["storage", number, node] => {
            let node = NodeId(node.parse().ok().filter(|node| *node > 0)?);
            Principal::Storage(Some(Member { founding: founding(number)?, node }))
        }
        ["admin"] => Principal::Admin,
        ["mount", number, volume, name, access] => {
            check_volume_name(name).ok()?;
            let volume = VolumeId(volume.parse().ok().filter(|volume| *volume > 0)?);
            let access = match access {
                "rw" => Access::ReadWrite,
                "ro" => Access::ReadOnly,
                _ => return None,
            };
            Principal::Mount(Grant { founding: founding(number)?, volume, name: name.to_owned(), access })
        }
        _ => return None,
    };
    Some((cluster, principal))
}

/// 32 hexadecimal digits.
fn wide<T: FromStr>(digits: &str) -> Option<T> {
    digits.parse().ok().filter(|_| digits.len() == 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::FoundingNumber;

    #[test]
    fn a_role_survives_its_uri() {
        let cluster = ClusterId(0x0123_4567_89ab_cdef);
        let founding = FoundingId { cluster, number: FoundingNumber(0xfed) };
        let mount =
            |access| Principal::Mount(Grant { founding, volume: VolumeId(3), name: "site-2".to_owned(), access });
        let node = Principal::Storage(Some(Member { founding, node: NodeId(7) }));
        let blank = Principal::Storage(None);
        for principal in [blank, node, Principal::Admin, mount(Access::ReadOnly), mount(Access::ReadWrite)] {
            assert_eq!(parse(&uri_of(cluster, &principal)), Some((cluster, principal)));
        }
    }

    #[test]
    fn what_is_no_role_is_refused() {
        let cluster = ClusterId(7);
        let number = FoundingNumber(9);
        for role in ["", "root", "storage/", "storage/x", "storage/9/1", "mount", "mount/a/rw", "mount/9/1/a/rw"] {
            assert_eq!(parse(&format!("manyfs://{cluster}/{role}")), None, "{role}");
        }
        for rest in ["0", "-1", "x", "1/2", ""] {
            assert_eq!(parse(&format!("manyfs://{cluster}/storage/{number}/{rest}")), None, "{rest}");
        }
        for rest in ["1", "1/a", "1/a/x", "1//rw", "0/a/rw", "x/a/rw", "1/a/rw/x"] {
            assert_eq!(parse(&format!("manyfs://{cluster}/mount/{number}/{rest}")), None, "{rest}");
        }
        assert_eq!(parse("manyfs://7/storage"), None);
        assert_eq!(parse("https://example.org"), None);
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".*") {
            prop_assert!(principal_of(&bytes).is_err());
            let _ = parse(&format!("manyfs://{text}"));
        }
    }
}
