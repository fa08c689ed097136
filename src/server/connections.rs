//! The mounts that are connected, and what waits to be sent to each.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::Status;

use crate::{message::mount::ToMount, types::ConnectionId, wire::proto};

/// Bytes that may wait for one mount; one that lags further is cut off and catches up by itself.
const OUTBOX_BYTES_MAX: usize = 64 << 20;

/// All connected mounts.
#[derive(Default)]
pub(super) struct Connections(Mutex<BTreeMap<ConnectionId, Outbox>>);

/// The node's end of a connection. Dropped, the stream to the mount ends behind what was sent, and its reader stops.
struct Outbox {
    sender: mpsc::UnboundedSender<ToMount>,
    waiting: Arc<AtomicUsize>,
    _closed: oneshot::Sender<()>,
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    Queued,
    /// The connection is not there any more; the node has been or will be told.
    Gone,
    /// The mount does not read: it was cut off, and the node must be told.
    CutOff,
}

impl Connections {
    /// The stream to the mount, and what ends when the connection is closed from this side.
    pub(super) fn open(&self, connection: ConnectionId) -> (Outgoing, oneshot::Receiver<()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (closed, on_close) = oneshot::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        self.map().insert(connection, Outbox { sender, waiting: waiting.clone(), _closed: closed });
        (Outgoing { receiver, waiting }, on_close)
    }

    pub(super) fn send(&self, connection: ConnectionId, message: ToMount) -> Sent {
        let mut map = self.map();
        let Some(outbox) = map.get(&connection) else { return Sent::Gone };
        let bytes = weight(&message);
        let before = outbox.waiting.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before + bytes > OUTBOX_BYTES_MAX {
            map.remove(&connection);
            return Sent::CutOff;
        }
        match outbox.sender.send(message) {
            Ok(()) => Sent::Queued,
            Err(_) => Sent::Gone,
        }
    }

    /// Whether the connection was open until now.
    pub(super) fn close(&self, connection: ConnectionId) -> bool {
        self.map().remove(&connection).is_some()
    }

    pub(super) fn close_all(&self) {
        self.map().clear();
    }

    pub(super) fn count(&self) -> usize {
        self.map().len()
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Outbox>> {
        // Nothing that could be half done happens under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What goes out to one mount, in order.
pub(super) struct Outgoing {
    receiver: mpsc::UnboundedReceiver<ToMount>,
    waiting: Arc<AtomicUsize>,
}

impl Stream for Outgoing {
    type Item = Result<proto::ToMount, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx).map(|message| {
            message.map(|message| {
                self.waiting.fetch_sub(weight(&message), Ordering::Relaxed);
                Ok(message.into())
            })
        })
    }
}

/// Bytes that a message holds, about.
fn weight(message: &ToMount) -> usize {
    const SMALL: usize = 64;
    SMALL
        + match message {
            ToMount::Entries { entries } => entries.iter().map(|(_, entry)| SMALL + entry.len()).sum(),
            ToMount::SnapshotPiece { rows, .. } => {
                rows.iter().map(|(key, value)| SMALL + key.len() + value.len()).sum()
            }
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::types::LogIndex;

    fn entries(bytes: usize) -> ToMount {
        ToMount::Entries { entries: vec![(LogIndex(1), Bytes::from(vec![0; bytes]))] }
    }

    #[tokio::test]
    async fn what_was_sent_before_the_close_still_goes_out() {
        let connections = Connections::default();
        let (mut outgoing, on_close) = connections.open(ConnectionId(1));
        assert_eq!(connections.send(ConnectionId(1), entries(10)), Sent::Queued);
        assert_eq!(connections.send(ConnectionId(2), entries(10)), Sent::Gone);
        assert!(connections.close(ConnectionId(1)));
        assert!(!connections.close(ConnectionId(1)));
        assert!(on_close.await.is_err());
        assert!(outgoing.next().await.is_some_and(|message| message.is_ok()));
        assert!(outgoing.next().await.is_none());
    }

    #[tokio::test]
    async fn a_mount_that_does_not_read_is_cut_off_and_one_that_reads_is_not() {
        let connections = Connections::default();
        let (mut outgoing, _on_close) = connections.open(ConnectionId(1));
        let piece = OUTBOX_BYTES_MAX / 4;
        for _ in 0..100 {
            assert_eq!(connections.send(ConnectionId(1), entries(piece)), Sent::Queued);
            assert!(outgoing.next().await.is_some());
        }
        let sent = (0..10).map(|_| connections.send(ConnectionId(1), entries(piece)));
        let sent: Vec<_> = sent.collect();
        assert!(sent.contains(&Sent::CutOff), "{sent:?}");
        assert_eq!(sent.last(), Some(&Sent::Gone));
        assert_eq!(connections.count(), 0);
    }
}
