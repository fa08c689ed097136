//! Filling gaps: blocks that the state names and this node does not have, because it was away during an upload or came
//! back by a snapshot, are fetched from its peers until none is missing.

use std::{collections::BTreeMap, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::running::Running;
use crate::{
    limits::MESSAGE_BYTES_MAX,
    pki::Identity,
    transport::endpoint,
    types::BlockHash,
    wire::{
        hash_to_bytes,
        proto::{self, block_client::BlockClient},
    },
};

/// How often the packs are asked what is missing.
const PERIOD: Duration = Duration::from_secs(1);
/// Names asked for at a time, and blocks under way at a time: filling must not crowd out what mounts want.
const BATCH: usize = 256;
const AT_A_TIME: usize = 4;
/// A peer that takes longer for a block is asked again later.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
pub(super) struct FillerMetrics {
    filled: Counter,
    missing: Gauge,
}

impl FillerMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("blocks_filled", "Missing blocks that were fetched from peers", self.filled.clone());
        registry.register("blocks_missing", "Blocks the state names and this node lacks", self.missing.clone());
    }
}

/// Runs for as long as the node does.
pub(super) struct Filler {
    pub(super) running: Running,
    pub(super) identity: Identity,
    pub(super) metrics: FillerMetrics,
}

impl Filler {
    pub(super) async fn run(self) {
        let mut channels = BTreeMap::new();
        // What was missing a period ago: a block that is being uploaded right now is left alone for that long.
        let mut known: Vec<BlockHash> = Vec::new();
        let mut said = 0;
        loop {
            tokio::time::sleep(PERIOD).await;
            let missing = self.missing().await;
            self.metrics.missing.set(i64::try_from(missing.len()).unwrap_or(i64::MAX));
            let due: Vec<_> = missing.iter().copied().filter(|hash| known.binary_search(hash).is_ok()).collect();
            let filled = if due.is_empty() { 0 } else { self.fill(&due, &mut channels).await };
            if filled > 0 {
                info!("fetched {filled} missing blocks from peers");
            }
            let stuck = due.len() - filled;
            if stuck != said && stuck > 0 {
                warn!("{stuck} blocks of the state are neither here nor at any peer that can be reached");
            }
            said = stuck;
            known = missing;
        }
    }

    /// All names, in order. Asking walks an index in memory, but it may be long.
    async fn missing(&self) -> Vec<BlockHash> {
        let packs = self.running.packs().clone();
        let listed = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            loop {
                let part = packs.missing(all.last().copied(), BATCH);
                let is_last = part.len() < BATCH;
                all.extend(part);
                if is_last {
                    return all;
                }
            }
        });
        listed.await.unwrap_or_default()
    }

    /// How many of them are here now.
    async fn fill(&self, due: &[BlockHash], channels: &mut BTreeMap<String, Channel>) -> usize {
        let view = self.running.view();
        let addresses: Vec<_> = view
            .nodes
            .iter()
            .filter(|node| node.id != self.running.node())
            .map(|node| node.client_address.clone())
            .collect();
        channels.retain(|address, _| addresses.contains(address));
        for address in addresses {
            if !channels.contains_key(&address)
                && let Ok(endpoint) = endpoint(&address, &self.identity, None)
            {
                channels.insert(address, endpoint.connect_lazy());
            }
        }
        let mut filled = 0;
        let mut tasks = JoinSet::new();
        for (turn, &hash) in due.iter().enumerate() {
            if tasks.len() >= AT_A_TIME {
                filled += usize::from(matches!(tasks.join_next().await, Some(Ok(true))));
            }
            // The peers take turns at being asked first.
            let mut peers: Vec<Channel> = channels.values().cloned().collect();
            let first = turn % peers.len().max(1);
            peers.rotate_left(first);
            tasks.spawn(fetch(self.running.clone(), peers, hash));
        }
        while let Some(done) = tasks.join_next().await {
            filled += usize::from(matches!(done, Ok(true)));
        }
        self.metrics.filled.inc_by(filled as u64);
        filled
    }
}

/// Whether the block is here now.
async fn fetch(running: Running, peers: Vec<Channel>, hash: BlockHash) -> bool {
    for peer in peers {
        let mut client = BlockClient::new(peer).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = client.get(proto::GetRequest { hash: hash_to_bytes(hash) });
        let Ok(Ok(response)) = tokio::time::timeout(TIMEOUT, request).await else { continue };
        let content = response.into_inner().content;
        let packs = running.packs().clone();
        // `put` verifies the bytes against the name.
        match tokio::task::spawn_blocking(move || packs.put(vec![(hash, content)], None)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => warn!("a block fetched from a peer cannot be kept: {error}"),
            Err(_) => return false,
        }
    }
    false
}
