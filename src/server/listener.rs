//! Accepting connections: nobody gets past here without a certificate of the cluster's authority.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, transport::server::Connected};
use tracing::{debug, warn};

use super::papers::Papers;
use crate::{
    clock,
    pki::principal_of,
    types::{ClusterId, Principal},
};

/// How long a handshake may take before the connection is closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at a time; further connections wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 128;
/// How long a refused connection is kept, for its end to read the refusal.
const LINGER: Duration = Duration::from_secs(1);
/// Refusals are logged once in this time; the metric counts them all.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) principal: Arc<Principal>,
    pub(super) address: SocketAddr,
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
}

impl Gate {
    /// Connections whose other end is known, as they come. Ends when it is dropped.
    pub(super) fn open(self, listener: TcpListener) -> ReceiverStream<io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(self.accept(listener, sender));
        ReceiverStream::new(receiver)
    }

    async fn accept(self, listener: TcpListener, sender: mpsc::Sender<io::Result<Connection>>) {
        let gate = Arc::new(self);
        let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let warned_at = Arc::new(AtomicU64::new(0));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let (stream, address) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors or memory: passes, and must not spin until then.
                        debug!("accepting a connection: {error}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = sender.closed() => return,
            };
            let (gate, sender, warned_at) = (gate.clone(), sender.clone(), warned_at.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, gate.shake_hands(stream, address)).await {
                    Ok(Ok(connection)) => {
                        // Not while the semaphore's room is taken: the services may be slow to accept.
                        drop(permit);
                        let _ = sender.send(Ok(connection)).await;
                    }
                    Ok(Err(refusal)) => gate.refuse(address, &refusal, &warned_at),
                    Err(_) => debug!("{address} did not finish its TLS handshake"),
                }
            });
        }
    }

    async fn shake_hands(&self, stream: TcpStream, address: SocketAddr) -> Result<Connection, Refusal> {
        stream.set_nodelay(true).map_err(Refusal::Gone)?;
        let stream = match self.papers.acceptor().accept(stream).into_fallible().await {
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
        let (cluster, principal) = principal_of(certificate).map_err(|error| Refusal::Stranger(error.to_string()))?;
        if cluster != self.cluster {
            return Err(Refusal::Stranger(format!("its certificate is of cluster {cluster}")));
        }
        Ok(Connection { stream, caller: Caller { principal: Arc::new(principal), address } })
    }

    fn refuse(&self, address: SocketAddr, refusal: &Refusal, warned_at: &AtomicU64) {
        match refusal {
            Refusal::Gone(error) => debug!("{address} went away during its TLS handshake: {error}"),
            Refusal::Stranger(why) => {
                self.refused.inc();
                let now = clock::now().0;
                let before = warned_at.load(Ordering::Relaxed);
                let due = before == 0 || u128::from(now - before.min(now)) >= WARN_EVERY.as_nanos();
                if due && warned_at.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    warn!("refused a connection from {address}: {why}");
                }
            }
        }
    }
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
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
