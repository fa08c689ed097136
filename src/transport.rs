//! The shell around a mount core's network outputs: dials, carries messages both ways on one stream to the leader, and
//! blocks to and from every store. Retries are the core's business; here every attempt ends in an input that says how.

mod blocks;
mod endpoint;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::transport::Channel;

pub use endpoint::{
    CONNECTION_WINDOW_BYTES, DialError, FRAME_BYTES, STREAM_WINDOW_BYTES, endpoint, sentence_of, without_links,
};

use self::blocks::{Blocks, Pinning};
use crate::{
    limits::MESSAGE_BYTES_MAX,
    message::mount::{ToLeader, ToMount},
    mount::{Input, Output},
    pki::{Credential, Identity},
    types::ConnectionId,
    wire::proto::{self, mount_client::MountClient},
};

/// Where a mount's inputs go. Called from threads of the runtime; must not block for long.
pub type Deliver = Arc<dyn Fn(Input) + Send + Sync>;

/// Executes `Connect`, `Send`, `StoreBlock` and `FetchBlock` of one mount core.
pub struct Transport {
    runtime: Handle,
    identity: Identity,
    deliver: Deliver,
    open: Mutex<Option<Open>>,
    /// What will soon be connected to, and is dialled already.
    prepared: Mutex<Option<Prepared>>,
    blocks: Blocks,
}

struct Prepared {
    address: String,
    dialled: JoinHandle<Result<Channel, String>>,
}

/// The connection to a server that is tried or stands.
struct Open {
    connection: ConnectionId,
    /// Not bounded here: the core bounds what it leaves unanswered (`limits::SESSION_CALLS_MAX`).
    sender: mpsc::UnboundedSender<ToLeader>,
    task: JoinHandle<()>,
}

impl Transport {
    /// Nothing is dialled before the core asks for it.
    #[must_use]
    pub fn new(credential: &Credential, runtime: Handle, deliver: Deliver) -> Self {
        let identity = credential.identity.clone();
        let blocks = Blocks::new(identity.clone(), runtime.clone(), deliver.clone());
        Self { runtime, identity, deliver, open: Mutex::new(None), prepared: Mutex::new(None), blocks }
    }

    /// Carries out what concerns the network and gives the rest back. Never blocks.
    pub fn execute(&self, output: Output) -> Option<Output> {
        match output {
            Output::Prepare { address } => self.prepare(address),
            Output::Connect { connection, address } => self.connect(connection, address),
            Output::Send { connection, message } => {
                // A message for a connection that is gone is lost like one that was on it; the core knows of the end.
                if let Some(open) = self.open().as_ref().filter(|open| open.connection == connection) {
                    let _ = open.sender.send(message);
                }
            }
            Output::StoreBlock { ticket, store, address, hash, bytes, upload } => {
                self.blocks.store(ticket, store, &address, hash, bytes, upload);
            }
            Output::FetchBlock { ticket, store, address, hash } => self.blocks.fetch(ticket, store, &address, hash),
            other => return Some(other),
        }
        None
    }

    /// Ends the connection in order: what was sent is carried out first, for at most `within`. Not for threads of the
    /// runtime.
    pub fn close(&self, within: Duration) {
        let Some(Open { sender, mut task, .. }) = self.open().take() else { return };
        drop(sender);
        let ended = self.runtime.block_on(async { tokio::time::timeout(within, &mut task).await });
        if ended.is_err() {
            task.abort();
        }
    }

    fn prepare(&self, address: String) {
        let (to, identity) = (address.clone(), self.identity.clone());
        let dialled = self.runtime.spawn(async move { dial(&to, &identity).await });
        *self.prepared() = Some(Prepared { address, dialled });
    }

    fn connect(&self, connection: ConnectionId, address: String) {
        let (sender, receiver) = mpsc::unbounded_channel();
        // One that was prepared for elsewhere is of no use any more.
        let prepared = self.prepared().take().filter(|prepared| prepared.address == address);
        let attempt = Attempt {
            connection,
            address,
            prepared,
            identity: self.identity.clone(),
            deliver: self.deliver.clone(),
            pinning: self.blocks.pinning(),
        };
        let mut open = self.open();
        if let Some(earlier) = open.take() {
            earlier.task.abort();
        }
        let task = self.runtime.spawn(attempt.run(receiver));
        *open = Some(Open { connection, sender, task });
    }

    fn prepared(&self) -> MutexGuard<'_, Option<Prepared>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        // Nothing that could be half done happens under the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        if let Some(open) = self.open().take() {
            open.task.abort();
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// One connection from dialling to its end.
struct Attempt {
    connection: ConnectionId,
    address: String,
    prepared: Option<Prepared>,
    identity: Identity,
    deliver: Deliver,
    pinning: Pinning,
}

impl Attempt {
    async fn run(mut self, receiver: mpsc::UnboundedReceiver<ToLeader>) {
        let reason = match self.converse(receiver).await {
            Ok(()) => format!("{} ended the connection", self.address),
            Err(reason) => reason,
        };
        (self.deliver)(Input::Disconnected { connection: self.connection, reason });
    }

    async fn converse(&mut self, receiver: mpsc::UnboundedReceiver<ToLeader>) -> Result<(), String> {
        let prepared = match self.prepared.take() {
            Some(prepared) => prepared.dialled.await.ok().and_then(Result::ok),
            None => None,
        };
        let channel = match prepared {
            Some(channel) => channel,
            None => dial(&self.address, &self.identity).await?,
        };
        let mut client = MountClient::new(channel).max_decoding_message_size(2 * MESSAGE_BYTES_MAX);
        let outbound = UnboundedReceiverStream::new(receiver).map(proto::ToLeader::from);
        let failed = |status: tonic::Status| sentence_of(&self.address, &status);
        let mut inbound = client.attach(outbound).await.map_err(failed)?.into_inner();
        (self.deliver)(Input::Connected { connection: self.connection });
        while let Some(message) = inbound.message().await.map_err(failed)? {
            let message = ToMount::try_from(message).map_err(|error| format!("{}: {error}", self.address))?;
            if let ToMount::Welcome(welcome) = &message {
                self.pinning.welcomed(welcome);
            }
            (self.deliver)(Input::Message { connection: self.connection, message });
        }
        Ok(())
    }
}

async fn dial(address: &str, identity: &Identity) -> Result<Channel, String> {
    let endpoint = endpoint(address, identity, None).map_err(|error| error.to_string())?;
    endpoint.connect().await.map_err(|error| sentence_of(address, &error))
}
