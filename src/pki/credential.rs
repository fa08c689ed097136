//! A credential: the right to mount one volume, in one file that is all a mount needs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Identity, PkiError, file, principal_of, tls};
use crate::types::{Access, ClusterId, Principal};

const HEADING: &str = "\
# A ManyFS credential: whoever has this file can mount the volume named below. `manyfs mount --credential FILE DIR`";

/// What a mount is given: where its cluster is, and who it is.
#[derive(Clone)]
pub struct Credential {
    pub cluster: ClusterId,
    /// `host:port` of storage nodes' client services; at least one.
    pub servers: Vec<String>,
    pub volume: String,
    pub access: Access,
    pub identity: Identity,
}

/// The credential as its file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialFile {
    version: u32,
    cluster: String,
    servers: Vec<String>,
    volume: String,
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
        let contents = CredentialFile {
            version: file::VERSION,
            cluster: self.cluster.to_string(),
            servers: self.servers.clone(),
            volume: self.volume.clone(),
            access: self.access,
            authority: self.identity.authority.clone(),
            certificate: self.identity.certificate.clone(),
            key: self.identity.key.clone(),
        };
        file::write_secret(path, HEADING, &contents)
    }

    /// Reads what `save` wrote. `servers` may have been edited; what the certificate says may not.
    ///
    /// # Errors
    /// `Io`, `Form`, `Version`, `Contradiction`.
    pub fn load(path: &Path) -> Result<Self, PkiError> {
        let expected = "a credential";
        let contents: CredentialFile = file::read_secret(path, expected)?;
        let form = |found: String| PkiError::Form { path: path.to_owned(), expected, found };
        let cluster: ClusterId =
            contents.cluster.parse().map_err(|_| form(format!("'{}' is no cluster id", contents.cluster)))?;
        if contents.servers.is_empty() {
            return Err(form("it names no servers".to_owned()));
        }
        let identity = Identity { authority: contents.authority, certificate: contents.certificate, key: contents.key };
        tls::check(&identity).map_err(|error| form(error.to_string()))?;
        let certificate = tls::first_certificate(&identity.certificate).map_err(|error| form(error.to_string()))?;
        let (certified, principal) = principal_of(&certificate).map_err(|error| form(error.to_string()))?;
        if certified != cluster {
            return Err(PkiError::Contradiction { path: path.to_owned(), file: cluster, certificate: certified });
        }
        if principal != (Principal::Mount { volume: contents.volume.clone(), access: contents.access }) {
            return Err(form("volume and access are not those of its certificate; issue it again".to_owned()));
        }
        Ok(Self { cluster, servers: contents.servers, volume: contents.volume, access: contents.access, identity })
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("cluster", &self.cluster)
            .field("servers", &self.servers)
            .field("volume", &self.volume)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Authority;

    #[test]
    fn a_credential_survives_its_file_and_cannot_be_widened() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("mount.toml");
        let authority = Authority::create().expect("keys");
        let servers = vec!["a:7440".to_owned(), "b:7440".to_owned()];
        let credential = authority.issue_mount("main", Access::ReadOnly, servers.clone()).expect("issued");
        credential.save(&path).expect("written");
        assert!(matches!(credential.save(&path), Err(PkiError::Exists { .. })));

        let loaded = Credential::load(&path).expect("loads");
        assert_eq!((loaded.cluster, loaded.servers, loaded.volume.as_str()), (authority.cluster(), servers, "main"));
        assert_eq!(loaded.access, Access::ReadOnly);

        let text = std::fs::read_to_string(&path).expect("readable");
        let refuse = |from: &str, to: &str| {
            let changed = text.replace(from, to);
            assert_ne!(changed, text, "{from} is not in the file");
            std::fs::write(&path, changed).expect("written");
            Credential::load(&path).expect_err("refused")
        };
        refuse("read-only", "read-write");
        refuse("volume = \"main\"", "volume = \"other\"");
        let cluster = authority.cluster().to_string();
        assert!(matches!(refuse(&cluster, &ClusterId(1).to_string()), PkiError::Contradiction { .. }));
        assert!(refuse("servers", "server").to_string().contains("server"));
    }

    #[test]
    fn a_volume_that_cannot_be_named_gets_no_credential() {
        let authority = Authority::create().expect("keys");
        let refused = authority.issue_mount("main/rw/..", Access::ReadOnly, Vec::new());
        assert!(matches!(refused, Err(PkiError::VolumeName { .. })));
    }
}
