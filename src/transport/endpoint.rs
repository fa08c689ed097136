//! How a storage node is dialled, and what is said when that fails.

use std::{error::Error, io, time::Duration};

use tonic::{
    Code, Status,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::{
    pki::{Identity, SERVER_NAME, name_of},
    types::Member,
};

/// HTTP/2 as both ends want it: a block in one frame, and windows that a disk's latency does not empty.
pub const FRAME_BYTES: u32 = 1 << 20;
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// An end that neither answers nor closes is found out while something is asked of it.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// What an attempt may take at most; cores give up earlier.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why nothing could be dialled at all.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    #[error("'{address}' is no address: {reason}; write host:port")]
    Address { address: String, reason: String },
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
}

/// The storage node at `address` (`host:port`, resolved at every connect), with mutual TLS. The certificate there must be a
/// storage node's of the same authority, whatever the address; with `member`, that node's and no other's.
///
/// # Errors
/// `Address` for what is none, `Certificate` for an identity that is not PEM.
pub fn endpoint(address: &str, identity: &Identity, member: Option<Member>) -> Result<Endpoint, DialError> {
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .map_err(|error| DialError::Address { address: address.to_owned(), reason: error.to_string() })?;
    let tls = ClientTlsConfig::new()
        .domain_name(member.map_or_else(|| SERVER_NAME.to_owned(), name_of))
        .ca_certificate(Certificate::from_pem(&identity.authority))
        .identity(tonic::transport::Identity::from_pem(&identity.certificate, &identity.key))
        .timeout(CONNECT_TIMEOUT);
    let endpoint = endpoint.tls_config(tls).map_err(|error| DialError::Certificate(chain(&error)))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES))
}

/// What a person is told when talking to `address` failed: what happened, and what to do where we know.
#[must_use]
pub fn sentence_of(address: &str, error: &(dyn Error + 'static)) -> String {
    without_links(&sentence_with_links(address, error))
}

/// What libraries say, without where their documentation is: that is of no use to whoever reads a log.
#[must_use]
pub fn without_links(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some(at) = ["http://", "https://"].iter().filter_map(|scheme| rest.find(scheme)).min() {
        kept.push_str(rest[..at].trim_end_matches([':', ' ', '(', '<']));
        let link = &rest[at..];
        rest = &link[link.find([' ', ';', ')', '>', '\n']).unwrap_or(link.len())..];
        rest = rest.trim_start_matches([')', '>']);
    }
    kept + rest
}

fn sentence_with_links(address: &str, error: &(dyn Error + 'static)) -> String {
    let causes = || std::iter::successors(Some(error), |error| cause(*error));
    for cause in causes() {
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            return tls_sentence(address, error);
        }
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && let Some(sentence) = io_sentence(address, error)
        {
            return sentence;
        }
    }
    let all = chain(error);
    // Under HTTP/2 only the words of the cause are left.
    if ["UnknownCA", "BadCertificate", "CertificateUnknown", "DecryptError", "CertificateRequired"]
        .iter()
        .any(|alert| all.contains(&format!("received fatal alert: {alert}")))
    {
        return not_accepted(address);
    }
    // The refusal of a certificate comes behind the handshake, and what was asked meanwhile may be told first.
    if all.contains("operation was canceled") {
        return format!(
            "{address} closed the connection before it answered: it is stopping, or does not accept our certificate; \
             its log says which"
        );
    }
    // A status that came from the other end is a sentence already; one made here tells of a broken connection.
    match causes().find_map(|cause| cause.downcast_ref::<Status>()) {
        Some(status) if status.source().is_none() && !matches!(status.code(), Code::Unknown | Code::Internal) => {
            format!("{address}: {}", status.message())
        }
        _ => format!("{address}: {all}"),
    }
}

fn not_accepted(address: &str) -> String {
    format!(
        "the server at {address} does not accept our certificate: it is not by its authority; use a credential of that \
         cluster"
    )
}

/// The next cause. An `io::Error` that wraps another names that one's cause and not itself.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn tls_sentence(address: &str, error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, CertificateError, Error as Tls};
    match error {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => format!(
            "the server at {address} belongs to another cluster: its certificate is not by our authority; check the \
             address, or use a credential of that cluster"
        ),
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            format!(
                "the server at {address} is of our cluster, but is not the storage node that was asked for; check the address"
            )
        }
        Tls::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::DecryptError
            | Alert::CertificateRequired
            | Alert::AccessDenied,
        ) => not_accepted(address),
        Tls::InvalidMessage(_) => {
            format!("what answers at {address} does not speak TLS; check the port (7440 for mounts and administration)")
        }
        other => format!("TLS with {address} failed: {other}"),
    }
}

fn io_sentence(address: &str, error: &io::Error) -> Option<String> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens at {address}; is `manyfs serve` running there?")
        }
        io::ErrorKind::TimedOut => format!("{address} does not answer; is the machine up and the port open?"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("there is no way to {address}: {error}")
        }
        io::ErrorKind::UnexpectedEof => format!("{address} broke the connection off"),
        _ if error.to_string().contains("lookup address") => {
            format!("the name in {address} cannot be resolved: {error}")
        }
        _ => return None,
    })
}

/// An error with all its causes, each said once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let part = match error.downcast_ref::<Status>() {
            Some(status) if !status.message().is_empty() => status.message().to_owned(),
            _ => error.to_string(),
        };
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::pki::Authority;

    async fn dial(address: &str) -> String {
        let identity = Authority::create().expect("keys").issue_admin().expect("issued");
        let error =
            endpoint(address, &identity, None).expect("an address").connect().await.expect_err("nobody of ours");
        sentence_of(address, &error)
    }

    #[tokio::test]
    async fn a_failed_dial_says_what_to_do() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let sentence = dial(&address).await;
        assert!(sentence.contains(&format!("nothing listens at {address}")), "{sentence}");

        let sentence = dial("no-such-host.invalid:7440").await;
        assert!(sentence.contains("cannot be resolved"), "{sentence}");
    }

    #[tokio::test]
    async fn what_speaks_no_tls_is_named() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut buffer = [0; 512];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        });
        let sentence = dial(&address).await;
        assert!(sentence.contains("does not speak TLS"), "{sentence}");
        server.await.expect("no panic");
    }

    /// A node that was killed was logged with a link to the manual of the TLS library.
    #[test]
    fn links_of_libraries_are_cut() {
        let eof = "peer closed connection without sending TLS close_notify: \
                   https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html#unexpected-eof";
        let status = Status::unknown(format!("h2 protocol error: error reading a body from connection ({eof}); again"));
        assert_eq!(
            sentence_of("a:1", &status),
            "a:1: h2 protocol error: error reading a body from connection (peer closed connection without sending TLS \
             close_notify; again"
        );
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, eof);
        assert_eq!(sentence_of("a:1", &error), "a:1 broke the connection off");
        assert_eq!(without_links("plain: text"), "plain: text");
        assert_eq!(without_links("see <https://x.y/z> and http://q"), "see and");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let identity = Authority::create().expect("keys").issue_admin().expect("issued");
        let refused = endpoint("a b:7440", &identity, None).expect_err("no address").to_string();
        assert!(refused.contains("'a b:7440' is no address"), "{refused}");
    }
}
