//! Accepting connections: nobody gets past here without a certificate of the cluster's authority, and without having said
//! something behind it. Who has not got so far has little time, and no more room than others of the same address; who has
//! shares the port with the other credentials (`admission`).

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, transport::server::Connected};
use tracing::{debug, warn};

use super::papers::Papers;
use crate::{
    admission::{Admission, Crowd, GivesWay, Place},
    clock,
    limits::CALL_STREAMS_MAX,
    pki::{credential_of, principal_of},
    telemetry::{Heard, Repeats},
    transport::without_links,
    types::{ClusterId, CredentialId, Principal},
};

/// How long a handshake, and then the first word behind it, may take before the connection is closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// What is waited for when no connection can be taken: descriptors come back as others end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a refused connection is kept, for its end to read the refusal.
const LINGER: Duration = Duration::from_secs(1);
/// Connections that made room, and refusals of more strangers than can be told apart, are logged once in this time; the
/// metrics count them all.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) principal: Arc<Principal>,
    /// Whose certificate it is.
    pub(super) credential: CredentialId,
    pub(super) address: SocketAddr,
    /// Room for the connection's streams of calls.
    pub(super) call_streams: Arc<Semaphore>,
}

impl Caller {
    /// Of the connection that brought the request.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| {
            Status::internal("the connection has no principal: the service was reached past the listener")
        })
    }
}

/// How connections of one port are let in.
pub(super) struct Gate {
    pub(super) papers: Arc<Papers>,
    pub(super) cluster: ClusterId,
    /// Connections that were refused.
    pub(super) refused: Counter,
    /// Connections that were closed to make room for others.
    pub(super) displaced: Counter,
    /// Handshakes and connections at a time.
    pub(super) handshakes_max: usize,
    pub(super) connections_max: usize,
}

impl Gate {
    /// Connections whose other end is known, as they come. Ends when it is dropped.
    pub(super) fn open(self, listener: TcpListener) -> ReceiverStream<io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(self.accept(listener, sender));
        ReceiverStream::new(receiver)
    }

    async fn accept(self, listener: TcpListener, sender: mpsc::Sender<io::Result<Connection>>) {
        let door = Arc::new(Door {
            strangers: Crowd::new(self.handshakes_max, GivesWay::Oldest),
            known: Crowd::new(self.connections_max, GivesWay::Newest),
            refusals: Mutex::default(),
            refusal_warned_at: AtomicU64::new(0),
            room_warned_at: AtomicU64::new(0),
            gate: self,
        });
        loop {
            let (stream, address) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors or memory: passes, and must not spin until then.
                        debug!("accepting a connection: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                () = sender.closed() => return,
            };
            let Admission::Admitted { mut place, displaced } = door.strangers.admit(address.ip()) else { continue };
            if displaced {
                door.gate.displaced.inc();
            }
            let (door, sender) = (door.clone(), sender.clone());
            tokio::spawn(async move {
                let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, door.shake_hands(stream, address));
                let result = tokio::select! {
                    result = shaken => result,
                    _ = place.gone() => return debug!("{address} made room for newer connections"),
                };
                match result {
                    Ok(Ok(connection)) => {
                        // Not while the place is taken: the services may be slow to accept.
                        drop(place);
                        let _ = sender.send(Ok(connection)).await;
                    }
                    Ok(Err(refusal)) => door.refuse(address, &refusal),
                    Err(_) => debug!("{address} did not finish its TLS handshake, or said nothing behind it"),
                }
            });
        }
    }
}

/// A port that is open.
struct Door {
    gate: Gate,
    /// Whose handshake is under way, by their address.
    strangers: Crowd<IpAddr>,
    /// Who is known, by the key of the certificate.
    known: Crowd<CredentialId>,
    /// Whose refusals were logged, and why they were.
    refusals: Mutex<Repeats<(IpAddr, String)>>,
    refusal_warned_at: AtomicU64,
    room_warned_at: AtomicU64,
}

impl Door {
    async fn shake_hands(&self, stream: TcpStream, address: SocketAddr) -> Result<Connection, Refusal> {
        stream.set_nodelay(true).map_err(Refusal::Gone)?;
        let mut stream = match self.gate.papers.acceptor().accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                // The alert that says why must not be overtaken by a reset: the other end's last words are read.
                let _ = tokio::time::timeout(LINGER, linger(stream)).await;
                return Err(Refusal::of(error));
            }
        };
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate =
            certificates.first().ok_or_else(|| Refusal::Stranger("it showed no certificate".to_owned()))?;
        let of_certificate = |error: crate::pki::PkiError| Refusal::Stranger(error.to_string());
        let (cluster, principal) = principal_of(certificate).map_err(of_certificate)?;
        let credential = credential_of(certificate).map_err(of_certificate)?;
        if cluster != self.gate.cluster {
            return Err(Refusal::Stranger(format!("its certificate is of cluster {cluster}")));
        }
        // HTTP/2 begins with a word of the client's: who says nothing now never will.
        stream.fill_buf().await.map_err(Refusal::Gone)?;
        let call_streams = Arc::new(Semaphore::new(CALL_STREAMS_MAX));
        let caller = Caller { principal: Arc::new(principal), credential, address, call_streams };
        match self.known.admit(credential) {
            Admission::Admitted { place, displaced } => {
                if displaced {
                    self.made_room("the newest of the credential that has most of them");
                }
                Ok(Connection { stream, caller, place })
            }
            Admission::Refused => {
                self.made_room(&format!("one from {address}, whose credential has most of them"));
                Err(Refusal::NoRoom)
            }
        }
    }

    fn refuse(&self, address: SocketAddr, refusal: &Refusal) {
        match refusal {
            Refusal::Gone(error) => {
                debug!("{address} went away during its TLS handshake: {}", without_links(&error.to_string()));
            }
            Refusal::Stranger(why) => {
                self.gate.refused.inc();
                let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                match refusals.hear(Instant::now(), &(address.ip(), why.clone())) {
                    Heard::Say(again) => warn!("refused a connection from {address}: {why}{again}"),
                    Heard::Full if is_due(&self.refusal_warned_at) => {
                        warn!("refused a connection from {address}, as of very many others: {why}");
                    }
                    Heard::Gathered | Heard::Full => {}
                }
            }
            Refusal::NoRoom => {}
        }
    }

    fn made_room(&self, who: &str) {
        self.gate.displaced.inc();
        if is_due(&self.room_warned_at) {
            warn!("a port has all {} connections that it takes: closed {who}", self.gate.connections_max);
        }
    }
}

/// Whether something that may happen often is to be logged again.
fn is_due(warned_at: &AtomicU64) -> bool {
    let now = clock::now().0;
    let before = warned_at.load(Ordering::Relaxed);
    let due = before == 0 || u128::from(now - before.min(now)) >= WARN_EVERY.as_nanos();
    due && warned_at.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Ends a connection from this side, and reads until the other side has ended it too.
async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// Why a connection was not let in.
enum Refusal {
    /// It ended by itself: a probe of the port, or a client that gave up.
    Gone(io::Error),
    Stranger(String),
    /// Its credential has more connections than any other, and the port is full.
    NoRoom,
}

impl Refusal {
    fn of(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_)) => {
                Self::Stranger("its certificate is not by this cluster's authority".to_owned())
            }
            Some(rustls::Error::NoCertificatesPresented) => Self::Stranger("it showed no certificate".to_owned()),
            Some(rustls::Error::AlertReceived(alert)) => {
                Self::Stranger(format!("it does not accept this node's certificate ({alert:?})"))
            }
            Some(error) => Self::Stranger(format!("it does not speak our TLS: {error}")),
            None => Self::Gone(error),
        }
    }
}

/// A connection whose other end is known.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    place: Place<CredentialId>,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A connection is always being read: it notices.
        if Pin::new(self.place.gone()).poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "closed to make room for others",
            )));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
