//! A credential: the right to mount one volume, in one file that is all a mount needs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Identity, PkiError, file, principal_of, tls};
use crate::types::{Access, FoundingId, Grant, Principal};

const HEADING: &str = "\
# A ManyFS credential: whoever has this file can mount the volume named below. `manyfs mount --credential FILE DIR`";

/// What a mount is given: where its cluster is, and who it is.
#[derive(Clone)]
pub struct Credential {
    /// `host:port` of storage nodes' client services; at least one.
    pub servers: Vec<String>,
    pub grant: Grant,
    pub identity: Identity,
}

/// The credential as its file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CredentialFile {
    version: u32,
    cluster: String,
    /// Which of the foundings with the cluster's authority.
    founding: String,
    servers: Vec<String>,
    volume: String,
    volume_id: u32,
    access: Access,
    /// PEM of the cluster's authority.
    authority: String,
    /// PEM.
    certificate: String,
    /// PEM.
    key: String,
}

impl Credential {
    /// Writes the credential to a new file that only its owner can read.
    ///
    /// # Errors
    /// `Exists` (the file is left as it is) or `Io`.
    pub fn save(&self, path: &Path) -> Result<(), PkiError> {
        file::write_secret(path, &self.to_text()?)
    }

    /// What `save` writes.
    ///
    /// # Errors
    /// `Issue` where it has no form as text.
    pub fn to_text(&self) -> Result<String, PkiError> {
        let contents = CredentialFile {
            version: file::VERSION,
            cluster: self.grant.founding.cluster.to_string(),
            founding: self.grant.founding.number.to_string(),
            servers: self.servers.clone(),
            volume: self.grant.name.clone(),
            volume_id: self.grant.volume.0,
            access: self.grant.access,
            authority: self.identity.authority.clone(),
            certificate: self.identity.certificate.clone(),
            key: self.identity.key.clone(),
        };
        file::text_of(HEADING, &contents)
    }

    /// Reads what `save` wrote. `servers` may have been edited; what the certificate says may not.
    ///
    /// # Errors
    /// `Io`, `Form`, `Version`.
    pub fn load(path: &Path) -> Result<Self, PkiError> {
        let expected = "a credential";
        let contents: CredentialFile = file::read_secret(path, expected)?;
        let form = |found: String| PkiError::Form { path: path.to_owned(), expected, found };
        if contents.servers.is_empty() {
            return Err(form("it names no servers".to_owned()));
        }
        let identity = Identity { authority: contents.authority, certificate: contents.certificate, key: contents.key };
        tls::check(&identity).map_err(|error| form(error.to_string()))?;
        let certificate = tls::first_certificate(&identity.certificate).map_err(|error| form(error.to_string()))?;
        let (_, principal) = principal_of(&certificate).map_err(|error| form(error.to_string()))?;
        let Principal::Mount(grant) = principal else {
            return Err(form("its certificate is no mount's".to_owned()));
        };
        let FoundingId { cluster, number } = grant.founding;
        let said = (contents.cluster, contents.founding, contents.volume, contents.volume_id, contents.access);
        if said != (cluster.to_string(), number.to_string(), grant.name.clone(), grant.volume.0, grant.access) {
            return Err(form("what it says is not what its certificate says; issue it again".to_owned()));
        }
        Ok(Self { servers: contents.servers, grant, identity })
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("servers", &self.servers).field("grant", &self.grant).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pki::Authority,
        types::{ClusterId, FoundingNumber, VolumeId},
    };

    fn grant(authority: &Authority, name: &str) -> Grant {
        let founding = FoundingId { cluster: authority.cluster(), number: FoundingNumber(0xf00d) };
        Grant { founding, volume: VolumeId(9), name: name.to_owned(), access: Access::ReadOnly }
    }

    #[test]
    fn a_credential_survives_its_file_and_cannot_be_widened() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("mount.toml");
        let authority = Authority::create().expect("keys");
        let servers = vec!["a:7440".to_owned(), "b:7440".to_owned()];
        let credential = authority.issue_mount(grant(&authority, "main"), servers.clone()).expect("issued");
        credential.save(&path).expect("written");
        assert!(matches!(credential.save(&path), Err(PkiError::Exists { .. })));

        let loaded = Credential::load(&path).expect("loads");
        assert_eq!((loaded.grant, loaded.servers), (grant(&authority, "main"), servers));

        let text = std::fs::read_to_string(&path).expect("readable");
        let refuse = |from: &str, to: &str| {
            let changed = text.replace(from, to);
            assert_ne!(changed, text, "{from} is not in the file");
            std::fs::write(&path, changed).expect("written");
            Credential::load(&path).expect_err("refused").to_string()
        };
        let cluster = authority.cluster().to_string();
        for (from, to) in [
            ("read-only", "read-write"),
            ("volume = \"main\"", "volume = \"other\""),
            ("volume-id = 9", "volume-id = 10"),
            ("0000f00d", "0000f00e"),
            (&cluster, &ClusterId(1).to_string()),
        ] {
            let refused = refuse(from, to);
            assert!(refused.contains("not what its certificate says"), "{from}: {refused}");
        }
        assert!(refuse("servers", "server").contains("server"));
        assert!(refuse("version = 2", "version = 1").contains("make it anew"));
    }

    #[test]
    fn a_volume_that_cannot_be_named_gets_no_credential() {
        let authority = Authority::create().expect("keys");
        let refused = authority.issue_mount(grant(&authority, "main/rw/.."), Vec::new());
        assert!(matches!(refused, Err(PkiError::VolumeName { .. })));
    }
}
