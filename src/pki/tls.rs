//! Certificates as TLS takes them.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};

use super::PkiError;

/// A certificate with its key, and the authority that signed it and that signs the other end's. All PEM.
#[derive(Clone)]
pub struct Identity {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// TLS of a storage node's services: TLS 1.3, HTTP/2, and no connection without a certificate of the same authority.
///
/// # Errors
/// `Certificate` where `identity` cannot be used.
pub fn server_config(identity: &Identity) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = provider();
    let mut roots = RootCertStore::empty();
    roots.add(first_certificate(&identity.authority)?).map_err(refuse)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| PkiError::Certificate(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(refuse)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![first_certificate(&identity.certificate)?], key_of(identity)?)
        .map_err(refuse)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// That key and certificate belong together and both are PEM, the authority too.
pub(super) fn check(identity: &Identity) -> Result<(), PkiError> {
    server_config(identity).map(drop)
}

/// The first certificate of a PEM text, as DER.
pub(super) fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| PkiError::Certificate(format!("its PEM cannot be read: {error}")))
}

fn key_of(identity: &Identity) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
        .map_err(|error| PkiError::Certificate(format!("the PEM of its key cannot be read: {error}")))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn refuse(error: rustls::Error) -> PkiError {
    PkiError::Certificate(error.to_string())
}
