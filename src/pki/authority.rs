//! The cluster's authority: whoever has its file can issue every certificate of the cluster.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, date_time_ymd,
};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Credential, Identity, PkiError, SERVER_NAME, check_volume_name, file, name_of, principal, tls};
use crate::types::{ClusterId, Grant, Member, Principal, Stamp};

const HEADING: &str = "\
# The authority of a ManyFS cluster. Whoever has this file can read, change and delete everything in the cluster:
# give it to storage nodes and administrators only, and keep a copy where it is safe.";

/// The authority of one cluster.
pub struct Authority {
    cluster: ClusterId,
    created: Stamp,
    certificate: String,
    key: KeyPair,
}

/// The authority as its file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityFile {
    version: u32,
    cluster: String,
    /// Nanoseconds since 1970.
    created: u64,
    /// PEM.
    certificate: String,
    /// PEM.
    key: String,
}

impl Authority {
    /// A new authority, and with it a new cluster.
    ///
    /// # Errors
    /// `Random` or `Issue` where the machine cannot make keys.
    pub fn create() -> Result<Self, PkiError> {
        let cluster = ClusterId(file::random()?);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let created = Stamp(u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX));
        let key = KeyPair::generate().map_err(issue)?;
        let mut params = params(&common_name(cluster));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(issue)?.pem();
        Ok(Self { cluster, created, certificate, key })
    }

    /// Writes the authority to a new file that only its owner can read.
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
        let contents = AuthorityFile {
            version: file::VERSION,
            cluster: self.cluster.to_string(),
            created: self.created.0,
            certificate: self.certificate.clone(),
            key: self.key.serialize_pem(),
        };
        file::text_of(HEADING, &contents)
    }

    /// Reads what `save` wrote.
    ///
    /// # Errors
    /// `Io`, `Form`, `Version`.
    pub fn load(path: &Path) -> Result<Self, PkiError> {
        let expected = "the authority of a cluster";
        let contents: AuthorityFile = file::read_secret(path, expected)?;
        let form = |found: String| PkiError::Form { path: path.to_owned(), expected, found };
        let cluster = contents.cluster.parse().map_err(|_| form(format!("'{}' is no cluster id", contents.cluster)))?;
        let key = KeyPair::from_pem(&contents.key).map_err(|error| form(format!("its key: {error}")))?;
        check_certificate(&contents.certificate, cluster, &key).map_err(|error| form(error.to_string()))?;
        Ok(Self { cluster, created: Stamp(contents.created), certificate: contents.certificate, key })
    }

    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// When the authority was made; founding a cluster takes it for its first stamp, so that it can be repeated.
    #[must_use]
    pub const fn created(&self) -> Stamp {
        self.created
    }

    /// A storage node's certificate and key; `None`: of one that is blank.
    ///
    /// # Errors
    /// `Issue`.
    pub fn issue_storage(&self, member: Option<Member>) -> Result<Identity, PkiError> {
        self.issue(&Principal::Storage(member))
    }

    /// An administrator's certificate and key.
    ///
    /// # Errors
    /// `Issue`.
    pub fn issue_admin(&self) -> Result<Identity, PkiError> {
        self.issue(&Principal::Admin)
    }

    /// All that a mount with this grant needs, with the storage nodes' client addresses (`host:port`).
    ///
    /// # Errors
    /// `VolumeName` or `Issue`.
    pub fn issue_mount(&self, grant: Grant, servers: Vec<String>) -> Result<Credential, PkiError> {
        check_volume_name(&grant.name)?;
        let identity = self.issue(&Principal::Mount(grant.clone()))?;
        Ok(Credential { grant, servers, identity })
    }

    fn issue(&self, principal: &Principal) -> Result<Identity, PkiError> {
        let uri = principal::uri_of(self.cluster, principal);
        let mut params = params(&uri);
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().map_err(issue)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if let Principal::Storage(member) = principal {
            let names = std::iter::once(SERVER_NAME.to_owned()).chain(member.map(name_of));
            for name in names {
                params.subject_alt_names.push(SanType::DnsName(name.try_into().map_err(issue)?));
            }
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, &self.key).map_err(issue)?;
        let key = KeyPair::generate().map_err(issue)?;
        let certificate = params.signed_by(&key, &issuer).map_err(issue)?.pem();
        let identity = Identity { authority: self.certificate.clone(), certificate, key: key.serialize_pem() };
        tls::check(&identity)?;
        Ok(identity)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

fn common_name(cluster: ClusterId) -> String {
    format!("ManyFS {cluster}")
}

/// That the authority's certificate is of this cluster and has this key: found out now, not at the first connection.
fn check_certificate(pem: &str, cluster: ClusterId, key: &KeyPair) -> Result<(), PkiError> {
    let refuse = |why: &str| PkiError::Certificate(why.to_owned());
    let certificate = tls::first_certificate(pem)?;
    let (_, parsed) =
        X509Certificate::from_der(&certificate).map_err(|error| PkiError::Certificate(error.to_string()))?;
    let named = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    if named != Some(common_name(cluster).as_str()) {
        return Err(refuse("it is the certificate of another cluster"));
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(refuse("the key does not belong to the certificate"));
    }
    Ok(())
}

/// What all certificates have in common. They do not run out: clocks of nodes may be wrong at start, and a credential
/// ends by being revoked.
fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    // Common names have at most 64 characters (X.520); the URI has the whole of it.
    params.distinguished_name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    params.use_authority_key_identifier_extension = true;
    params
}

fn issue(error: rcgen::Error) -> PkiError {
    PkiError::Issue(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::pki::principal_of;

    #[test]
    fn the_file_is_its_owners_alone_and_never_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("authority.toml");
        let authority = Authority::create().expect("keys");
        authority.save(&path).expect("written");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let before = std::fs::read(&path).expect("readable");
        assert!(matches!(Authority::create().expect("keys").save(&path), Err(PkiError::Exists { .. })));
        assert_eq!(std::fs::read(&path).expect("readable"), before);

        let loaded = Authority::load(&path).expect("loads");
        assert_eq!((loaded.cluster(), loaded.created()), (authority.cluster(), authority.created()));
        let identity = loaded.issue_storage(None).expect("issues");
        assert_eq!(
            principal_of(&tls::first_certificate(&identity.certificate).expect("PEM")).expect("ours"),
            (authority.cluster(), Principal::Storage(None))
        );
    }

    #[test]
    fn a_file_that_is_no_authority_is_refused_with_its_name() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("authority.toml");
        let authority = Authority::create().expect("keys");
        authority.save(&path).expect("written");
        let text = std::fs::read_to_string(&path).expect("readable");
        let refuse = |text: &str| {
            std::fs::write(&path, text).expect("written");
            let sentence = Authority::load(&path).expect_err("refused").to_string();
            assert!(sentence.contains("authority.toml"), "{sentence}");
            sentence
        };
        refuse("");
        assert!(refuse("version = 3").contains("version 3"));
        assert!(refuse(&format!("{text}\nsurprise = 1")).contains("surprise"));
        refuse(&text.replace("BEGIN PRIVATE KEY", "BEGIN NOTHING"));
        refuse(&text.replace("MII", "AAA"));
        // The key of one authority with the certificate of another.
        let other = dir.path().join("other.toml");
        Authority::create().expect("keys").save(&other).expect("written");
        let other: toml::Table = toml::from_str(&std::fs::read_to_string(&other).expect("readable")).expect("TOML");
        let mut mixed: toml::Table = toml::from_str(&text).expect("TOML");
        mixed["key"] = other["key"].clone();
        assert!(refuse(&toml::to_string(&mixed).expect("TOML")).contains("does not belong"));
        mixed["certificate"] = other["certificate"].clone();
        assert!(refuse(&toml::to_string(&mixed).expect("TOML")).contains("another cluster"));
    }
}
