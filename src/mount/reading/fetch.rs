//! Getting blocks from the stores: spread by hash, the next store after a short wait or a failure, until somebody has it
//! or nobody waits any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    message::mount::StoreAddress,
    mount::StoreError,
    types::{BlockHash, Instant, NodeId},
};

/// A store that failed or was slow is asked last for this many waits.
const SUSPICION: u32 = 40;

/// One request to one store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FetchRequest {
    pub(crate) ticket: u64,
    pub(crate) store: NodeId,
    pub(crate) address: String,
    pub(crate) hash: BlockHash,
}

#[derive(Debug)]
struct Fetch {
    /// Somebody waits until then.
    until: Instant,
    /// Stores of this round that were not asked yet.
    round: Vec<StoreAddress>,
    rounds: u32,
    /// Stores that have not answered yet.
    asked: BTreeSet<NodeId>,
    next: Instant,
}

/// The blocks that are on their way. Several readers of one block share its fetch.
#[derive(Debug)]
pub(crate) struct Fetches {
    /// How long a store may take before another is asked as well (docs/protocol.md R25-one-by-one).
    patience: Duration,
    fetches: BTreeMap<BlockHash, Fetch>,
    tickets: BTreeMap<u64, (BlockHash, NodeId, Instant)>,
    last_ticket: u64,
    /// When a store last failed, or made us wait.
    suspected: BTreeMap<NodeId, Instant>,
    requests: Vec<FetchRequest>,
}

impl Fetches {
    pub(crate) const fn new(patience: Duration) -> Self {
        Self {
            patience,
            fetches: BTreeMap::new(),
            tickets: BTreeMap::new(),
            last_ticket: 0,
            suspected: BTreeMap::new(),
            requests: Vec::new(),
        }
    }

    /// Somebody wants the block, and waits for it until then.
    pub(crate) fn want(&mut self, now: Instant, hash: BlockHash, until: Instant, stores: &[StoreAddress]) {
        if let Some(fetch) = self.fetches.get_mut(&hash) {
            fetch.until = fetch.until.max(until);
            return;
        }
        let fetch = Fetch { until, round: Vec::new(), rounds: 0, asked: BTreeSet::new(), next: now };
        self.fetches.insert(hash, fetch);
        self.ask(now, hash, stores);
    }

    pub(crate) fn len(&self) -> usize {
        self.fetches.len()
    }

    /// A store answered. The block, where this brought it for the first time.
    pub(crate) fn fetched(
        &mut self,
        now: Instant,
        ticket: u64,
        result: Result<Bytes, StoreError>,
        stores: &[StoreAddress],
    ) -> Option<(BlockHash, Bytes)> {
        let (hash, store, asked) = self.tickets.remove(&ticket)?;
        let slow = now.since(asked) >= self.patience;
        if result.is_ok() && !slow {
            self.suspected.remove(&store);
        } else if !matches!(result, Err(StoreError::Missing)) {
            self.suspected.insert(store, now);
        }
        let fetch = self.fetches.get_mut(&hash)?;
        fetch.asked.remove(&store);
        match result {
            Ok(bytes) => {
                self.fetches.remove(&hash);
                Some((hash, bytes))
            }
            Err(_) => {
                if !fetch.round.is_empty() || fetch.rounds == 0 {
                    self.ask(now, hash, stores);
                }
                None
            }
        }
    }

    /// Asks further stores where the wait is over, and gives up what nobody waits for.
    pub(crate) fn tick(&mut self, now: Instant, stores: &[StoreAddress]) {
        self.fetches.retain(|_, fetch| now < fetch.until);
        let due: Vec<BlockHash> =
            self.fetches.iter().filter(|(_, fetch)| fetch.next <= now).map(|(hash, _)| *hash).collect();
        for hash in due {
            let slow: Vec<NodeId> =
                self.fetches.get(&hash).map(|f| f.asked.iter().copied().collect()).unwrap_or_default();
            for store in slow {
                self.suspected.insert(store, now);
            }
            self.ask(now, hash, stores);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.fetches.values().map(|fetch| fetch.next.min(fetch.until)).min()
    }

    pub(crate) fn take_requests(&mut self) -> Vec<FetchRequest> {
        std::mem::take(&mut self.requests)
    }

    /// Asks the next store of the round, or begins another round after a pause that grows.
    fn ask(&mut self, now: Instant, hash: BlockHash, stores: &[StoreAddress]) {
        let suspicion = self.patience * SUSPICION;
        self.suspected.retain(|_, since| now.since(*since) < suspicion);
        let Some(fetch) = self.fetches.get_mut(&hash) else { return };
        if fetch.round.is_empty() {
            fetch.round = order(hash, stores, &self.suspected);
            fetch.round.retain(|store| !fetch.asked.contains(&store.node));
            fetch.rounds += 1;
        }
        fetch.next = now.after(self.patience * (1 << fetch.rounds.saturating_sub(1).min(5)));
        if fetch.round.is_empty() {
            return;
        }
        let store = fetch.round.remove(0);
        fetch.asked.insert(store.node);
        self.last_ticket += 1;
        self.tickets.insert(self.last_ticket, (hash, store.node, now));
        let (ticket, address) = (self.last_ticket, store.address);
        self.requests.push(FetchRequest { ticket, store: store.node, address, hash });
    }
}

/// All stores, beginning at one that the hash chooses; those that lately failed come last.
fn order(hash: BlockHash, stores: &[StoreAddress], suspected: &BTreeMap<NodeId, Instant>) -> Vec<StoreAddress> {
    if stores.is_empty() {
        return Vec::new();
    }
    let first = usize::from(hash.0[0]) % stores.len();
    let mut order: Vec<StoreAddress> = stores[first..].iter().chain(&stores[..first]).cloned().collect();
    order.sort_by_key(|store| suspected.contains_key(&store.node));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    fn stores() -> Vec<StoreAddress> {
        (1..=3).map(|id| StoreAddress { node: NodeId(id), address: format!("s{id}") }).collect()
    }

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    fn hash(first: u8) -> BlockHash {
        BlockHash([first; 32])
    }

    fn asked(fetches: &mut Fetches) -> Vec<(u64, u64)> {
        fetches.take_requests().iter().map(|request| (request.ticket, request.store.0)).collect()
    }

    #[test]
    fn blocks_are_spread_over_the_stores() {
        let mut fetches = Fetches::new(PATIENCE);
        for first in 0..3 {
            fetches.want(at(0), hash(first), at(1000), &stores());
        }
        let chosen: Vec<u64> = asked(&mut fetches).iter().map(|(_, store)| *store).collect();
        assert_eq!(chosen, [1, 2, 3]);
    }

    #[test]
    fn two_readers_share_a_fetch() {
        let mut fetches = Fetches::new(PATIENCE);
        fetches.want(at(0), hash(0), at(1000), &stores());
        fetches.want(at(1), hash(0), at(1000), &stores());
        assert_eq!(asked(&mut fetches).len(), 1);
    }

    #[test]
    fn a_slow_store_is_passed_by_after_the_wait_and_asked_last_from_then_on() {
        let mut fetches = Fetches::new(PATIENCE);
        fetches.want(at(0), hash(0), at(1000), &stores());
        assert_eq!(asked(&mut fetches), [(1, 1)]);
        fetches.tick(at(49), &stores());
        assert_eq!(asked(&mut fetches), []);
        fetches.tick(at(50), &stores());
        assert_eq!(asked(&mut fetches), [(2, 2)]);
        let bytes = Bytes::from_static(b"x");
        assert_eq!(fetches.fetched(at(51), 2, Ok(bytes.clone()), &stores()), Some((hash(0), bytes.clone())));
        assert_eq!(fetches.fetched(at(60), 1, Ok(bytes), &stores()), None, "the late one brings nothing new");
        fetches.want(at(61), hash(0), at(1000), &stores());
        assert_eq!(asked(&mut fetches), [(3, 2)], "store 1 is slow");
    }

    #[test]
    fn a_failure_asks_the_next_at_once_and_rounds_are_repeated_until_nobody_waits() {
        let mut fetches = Fetches::new(PATIENCE);
        fetches.want(at(0), hash(0), at(1000), &stores());
        for ticket in 1..=3 {
            assert_eq!(asked(&mut fetches), [(ticket, ticket)]);
            fetches.fetched(at(ticket), ticket, Err(StoreError::Unreachable("down".to_owned())), &stores());
        }
        assert_eq!(asked(&mut fetches), [], "a round of failures is followed by a pause");
        let due = fetches.poll_timeout().expect("it goes on");
        fetches.tick(due, &stores());
        assert_eq!(asked(&mut fetches).len(), 1);
        fetches.tick(at(1000), &stores());
        assert_eq!(fetches.len(), 0);
        assert_eq!(fetches.poll_timeout(), None);
    }
}
