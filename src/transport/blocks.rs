//! Blocks to and from the stores: one connection for each store, apart from the one to the leader, so that bulk does not
//! delay calls.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::runtime::Handle;
use tonic::{Code, Status, transport::Channel};

use super::{Deliver, endpoint, sentence_of};
use crate::{
    limits::MESSAGE_BYTES_MAX,
    message::mount::Welcome,
    mount::{Input, StoreError},
    pki::Identity,
    types::{BlockHash, NodeId, SessionId, UploadId, VolumeId},
    wire::{
        Put, Upload, hash_to_bytes,
        proto::{self, block_client::BlockClient},
    },
};

/// A store that takes longer is as good as unreachable; the core asks others long before.
const TIMEOUT: Duration = Duration::from_secs(20);

/// For which volume and session blocks are pinned: known from the last `Welcome`.
#[derive(Clone, Default)]
pub(super) struct Pinning(Arc<Mutex<Option<(VolumeId, SessionId)>>>);

impl Pinning {
    pub(super) fn welcomed(&self, welcome: &Welcome) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((welcome.volume, welcome.session));
    }

    fn upload(&self, upload: UploadId) -> Option<Upload> {
        let (volume, session) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(Upload { volume, session, upload })
    }
}

pub(super) struct Blocks {
    runtime: Handle,
    identity: Identity,
    deliver: Deliver,
    pinning: Pinning,
    /// By address. A channel dials at the first request and again after a loss, and resolves the name each time.
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Blocks {
    pub(super) fn new(identity: Identity, runtime: Handle, deliver: Deliver) -> Self {
        Self { runtime, identity, deliver, pinning: Pinning::default(), channels: Mutex::new(BTreeMap::new()) }
    }

    pub(super) fn pinning(&self) -> Pinning {
        self.pinning.clone()
    }

    /// `Input::BlockStored` follows.
    pub(super) fn store(
        &self,
        ticket: u64,
        store: NodeId,
        address: &str,
        hash: BlockHash,
        content: Bytes,
        upload: UploadId,
    ) {
        let client = self.client(address);
        let pin = self.pinning.upload(upload);
        let deliver = self.deliver.clone();
        let address = address.to_owned();
        self.runtime.spawn(async move {
            let result = match (client, pin) {
                (Ok(client), Some(pin)) => put(client, store, &address, Put { hash, content, pin }).await,
                (Err(error), _) => Err(error),
                (_, None) => Err(StoreError::Unreachable("there is no session yet to pin a block for".to_owned())),
            };
            deliver(Input::BlockStored { ticket, store, result });
        });
    }

    /// `Input::BlockFetched` follows; its bytes are verified.
    pub(super) fn fetch(&self, ticket: u64, store: NodeId, address: &str, hash: BlockHash) {
        let client = self.client(address);
        let deliver = self.deliver.clone();
        let address = address.to_owned();
        self.runtime.spawn(async move {
            let result = match client {
                Ok(client) => get(client, &address, hash).await,
                Err(error) => Err(error),
            };
            deliver(Input::BlockFetched { ticket, store, result });
        });
    }

    fn client(&self, address: &str) -> Result<BlockClient<Channel>, StoreError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                // Inside the runtime: the channel starts a task.
                let _inside = self.runtime.enter();
                let channel = endpoint(address, &self.identity, None)
                    .map_err(|error| StoreError::Unreachable(error.to_string()))?
                    .connect_lazy();
                channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        Ok(BlockClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").finish_non_exhaustive()
    }
}

async fn put(mut client: BlockClient<Channel>, store: NodeId, address: &str, put: Put) -> Result<(), StoreError> {
    let response = in_time(address, client.put(proto::PutRequest::from(put))).await?;
    if response.node != store.0 {
        // An address that changed hands: its receipt does not count for the store that was meant.
        return Err(StoreError::Unreachable(format!("{address} is node {} now, not node {store}", response.node)));
    }
    Ok(())
}

async fn get(mut client: BlockClient<Channel>, address: &str, hash: BlockHash) -> Result<Bytes, StoreError> {
    let content = in_time(address, client.get(proto::GetRequest { hash: hash_to_bytes(hash) })).await?.content;
    if BlockHash::of(&content) != hash {
        return Err(StoreError::Unreachable(format!("{address} sent other bytes than those of block {hash}")));
    }
    Ok(content)
}

async fn in_time<T>(
    address: &str,
    request: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(match status.code() {
            Code::NotFound => StoreError::Missing,
            Code::ResourceExhausted => StoreError::Full,
            _ => StoreError::Unreachable(sentence_of(address, &status)),
        }),
        Err(_) => Err(StoreError::Unreachable(format!("{address} took longer than {} s", TIMEOUT.as_secs()))),
    }
}
