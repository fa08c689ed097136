//! The service of mounts: one stream both ways. Everything on it is decided by the node; here it is only carried.

use std::pin::Pin;

use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::{connections::Outgoing, listener::Caller, running::Running, stage::Stage};
use crate::{
    limits::CALL_STREAMS_MAX,
    message::mount::ToLeader,
    node::Input,
    types::{ConnectionId, Principal},
    wire::proto::{self, mount_server::Mount},
};

/// Lets mounts attach to the node, once it takes part.
pub(super) struct MountService {
    pub(super) stage: std::sync::Arc<Stage>,
}

#[tonic::async_trait]
impl Mount for MountService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<proto::ToMount, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<proto::ToLeader>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let caller = Caller::of(&request)?;
        let Principal::Mount(grant) = &*caller.principal else {
            return Err(Status::permission_denied(
                "only a credential for a volume can attach; `manyfs credential create` makes one",
            ));
        };
        let stream = caller.call_streams.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("a connection carries {CALL_STREAMS_MAX} streams of calls at most"))
        })?;
        let running = self.stage.running()?;
        let connection = running.next_connection();
        let (outgoing, closed) = running.connections().open(connection);
        let guard = ConnectionGuard { running: running.clone(), connection };
        let (grant, credential) = (grant.clone(), caller.credential);
        let name = grant.name.clone();
        let opened = Input::MountOpened { connection, grant, credential };
        running.give(opened, 0).await.map_err(|stopped| Status::unavailable(stopped.to_string()))?;
        debug!("a mount of volume {name} attached from {} as connection {connection}", caller.address);
        let reader = Reader { running, connection, stream: request.into_inner(), closed };
        tokio::spawn(reader.read());
        Ok(Response::new(Box::pin(GuardedOutgoing { outgoing, _guard: guard, _stream: stream })))
    }
}

/// Tells the node that the connection is over, whichever way it ended, and once.
struct ConnectionGuard {
    running: Running,
    connection: ConnectionId,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        end(&self.running, self.connection);
    }
}

fn end(running: &Running, connection: ConnectionId) {
    if running.connections().close(connection) {
        running.tell(Input::MountClosed { connection });
    }
}

/// The stream to the mount; when it is dropped, because it is at its end or the other side is gone, the connection ends.
struct GuardedOutgoing {
    outgoing: Outgoing,
    _guard: ConnectionGuard,
    _stream: OwnedSemaphorePermit,
}

impl Stream for GuardedOutgoing {
    type Item = Result<proto::ToMount, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        Pin::new(&mut self.outgoing).poll_next(cx)
    }
}

/// Carries what the mount sends to the node, in order.
struct Reader {
    running: Running,
    connection: ConnectionId,
    stream: Streaming<proto::ToLeader>,
    closed: oneshot::Receiver<()>,
}

impl Reader {
    async fn read(mut self) {
        loop {
            let message = tokio::select! {
                message = self.stream.message() => message,
                _ = &mut self.closed => break,
            };
            let (message, bytes) = match message {
                Ok(Some(message)) => {
                    let bytes = message.encoded_len();
                    (ToLeader::try_from(message), bytes)
                }
                Ok(None) => break,
                Err(status) => {
                    debug!("connection {} broke: {}", self.connection, status.message());
                    break;
                }
            };
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    // A mount of a version we do not know or a broken one: it is told by the end of the stream, and
                    // its log by the node's.
                    tracing::warn!("a mount sent what cannot be read, its connection is closed: {error}");
                    break;
                }
            };
            if self.running.give(Input::Mount { connection: self.connection, message }, bytes).await.is_err() {
                break;
            }
        }
        end(&self.running, self.connection);
    }
}
