//! What a certificate says about its holder.

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{PkiError, check_volume_name};
use crate::types::{Access, ClusterId, Principal};

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

/// The URI that stands for the role.
pub(super) fn uri_of(cluster: ClusterId, principal: &Principal) -> String {
    let role = match principal {
        Principal::Storage => "storage".to_owned(),
        Principal::Admin => "admin".to_owned(),
        Principal::Mount { volume, access: Access::ReadWrite } => format!("mount/{volume}/rw"),
        Principal::Mount { volume, access: Access::ReadOnly } => format!("mount/{volume}/ro"),
    };
    format!("{SCHEME}{cluster}/{role}")
}

fn parse(uri: &str) -> Option<(ClusterId, Principal)> {
    let mut parts = uri.strip_prefix(SCHEME)?.split('/');
    let cluster = parts.next().filter(|digits| digits.len() == 32)?.parse().ok()?;
    let principal = match (parts.next()?, parts.next(), parts.next(), parts.next()) {
        ("storage", None, None, None) => Principal::Storage,
        ("admin", None, None, None) => Principal::Admin,
        ("mount", Some(volume), Some(access), None) => {
            check_volume_name(volume).ok()?;
            let access = match access {
                "rw" => Access::ReadWrite,
                "ro" => Access::ReadOnly,
                _ => return None,
            };
            Principal::Mount { volume: volume.to_owned(), access }
        }
        _ => return None,
    };
    Some((cluster, principal))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_role_survives_its_uri() {
        let cluster = ClusterId(0x0123_4567_89ab_cdef);
        let mount = |access| Principal::Mount { volume: "site-2".to_owned(), access };
        for principal in [Principal::Storage, Principal::Admin, mount(Access::ReadOnly), mount(Access::ReadWrite)] {
            assert_eq!(parse(&uri_of(cluster, &principal)), Some((cluster, principal)));
        }
    }

    #[test]
    fn what_is_no_role_is_refused() {
        let cluster = ClusterId(7);
        for role in ["", "root", "storage/", "storage/x", "mount", "mount/a", "mount/a/x", "mount//rw", "mount/a/rw/x"]
        {
            assert_eq!(parse(&format!("manyfs://{cluster}/{role}")), None, "{role}");
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
