//! Which server is dialled next, and after what pause.

use std::{collections::BTreeMap, time::Duration};

use crate::{limits::Timing, types::Instant};

/// Consecutive failures through which the pause stays short: a failover takes about this many attempts.
const PATIENT_ATTEMPTS: u32 = 40;

/// The servers this mount may dial, in turn. All pauses have a jitter from the seed, so that mounts that lost the same
/// leader do not come back in step.
#[derive(Debug)]
pub(crate) struct Servers {
    addresses: Vec<String>,
    configured: usize,
    next: usize,
    /// Where the last server said the leader is.
    hint: Option<String>,
    /// When dialling or greeting an address last failed.
    failed_at: BTreeMap<String, Instant>,
    /// Attempts since the last attachment.
    attempts: u32,
    random: u64,
    timing: Timing,
}

impl Servers {
    pub(crate) fn new(addresses: Vec<String>, seed: u64, timing: Timing) -> Self {
        let configured = addresses.len();
        // Mounts begin with different servers.
        let next = usize::try_from(seed % configured.max(1) as u64).unwrap_or(0);
        Self {
            addresses,
            configured,
            next,
            hint: None,
            failed_at: BTreeMap::new(),
            attempts: 0,
            random: seed ^ 0x6d61_6e79_6673,
            timing,
        }
    }

    /// The address to dial now; `None` when no server was ever named.
    pub(crate) fn next_address(&mut self) -> Option<String> {
        if let Some(hint) = self.hint.take() {
            return Some(hint);
        }
        if self.addresses.is_empty() {
            return None;
        }
        let address = self.addresses[self.next % self.addresses.len()].clone();
        self.next = (self.next + 1) % self.addresses.len();
        Some(address)
    }

    /// How long dialling, and then the greeting, may take. Grows while nothing answers: short enough at first to pass a
    /// server by that is cut off, long enough later for one that is slow.
    pub(crate) fn patience(&self) -> Duration {
        let servers = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX).max(1);
        let doublings = (self.attempts / servers / 2).min(3);
        self.timing.heartbeat * (4 << doublings)
    }

    /// An attempt failed: the pause before the next.
    pub(crate) fn failed(&mut self, now: Instant, address: &str) -> Duration {
        self.failed_at.insert(address.to_owned(), now);
        self.pause()
    }

    /// A server said that it does not lead: the pause before the next attempt, none when it knows who does.
    pub(crate) fn redirected(&mut self, now: Instant, leader: Option<String>) -> Duration {
        // A follower names a dead leader until it notices; believing it again and again would cost the failover.
        let believable =
            leader.filter(|address| self.failed_at.get(address).is_none_or(|at| now.since(*at) > self.timing.election));
        let pause = self.pause();
        match believable {
            // Two servers that name each other are not asked in a tight circle.
            Some(address) if !self.attempts.is_multiple_of(4) => {
                self.hint = Some(address);
                Duration::ZERO
            }
            Some(address) => {
                self.hint = Some(address);
                pause
            }
            None => pause,
        }
    }

    /// A leader welcomed us and named all storage nodes.
    pub(crate) fn attached(&mut self) {
        self.attempts = 0;
        self.failed_at.clear();
        self.hint = None;
    }

    /// Addresses of the storage nodes as the cluster knows them; dialled besides those of the configuration.
    pub(crate) fn learn<'a>(&mut self, stores: impl Iterator<Item = &'a str>) {
        self.addresses.truncate(self.configured);
        for address in stores {
            if !self.addresses.iter().any(|known| known == address) {
                self.addresses.push(address.to_owned());
            }
        }
    }

    fn pause(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let servers = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX).max(1);
        let heartbeat = self.timing.heartbeat;
        let pause = if !self.attempts.is_multiple_of(servers) {
            heartbeat / 4
        } else if self.attempts < PATIENT_ATTEMPTS {
            heartbeat / 2
        } else {
            heartbeat * (self.attempts / PATIENT_ATTEMPTS).min(10)
        };
        // Three to five quarters of it.
        pause * (768 + self.random_below(512)) / 1024
    }

    /// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    fn random_below(&mut self, bound: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        u32::try_from(z % u64::from(bound)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(names: &[&str]) -> Servers {
        Servers::new(names.iter().map(|name| (*name).to_owned()).collect(), 0, Timing::DEFAULT)
    }

    #[test]
    fn they_are_dialled_in_turn() {
        let mut servers = servers(&["a", "b", "c"]);
        let dialled: Vec<String> = (0..4).filter_map(|_| servers.next_address()).collect();
        assert_eq!(dialled, ["a", "b", "c", "a"]);
    }

    #[test]
    fn a_hint_is_dialled_first_and_at_once() {
        let mut servers = servers(&["a", "b"]);
        assert_eq!(servers.redirected(Instant(1), Some("z".to_owned())), Duration::ZERO);
        assert_eq!(servers.next_address().as_deref(), Some("z"));
        assert_eq!(servers.next_address().as_deref(), Some("a"));
    }

    #[test]
    fn a_hint_to_a_server_that_just_failed_is_not_followed() {
        let mut servers = servers(&["a", "b"]);
        servers.failed(Instant(0), "b");
        assert!(servers.redirected(Instant(1), Some("b".to_owned())) > Duration::ZERO);
        assert_eq!(servers.next_address().as_deref(), Some("a"));
        let later = Instant(0).after(Timing::DEFAULT.election * 2);
        servers.redirected(later, Some("b".to_owned()));
        assert_eq!(servers.next_address().as_deref(), Some("b"));
    }

    #[test]
    fn pauses_stay_short_through_a_failover_and_grow_behind_it() {
        let mut servers = servers(&["a", "b", "c"]);
        let first: Duration = (0..30).map(|_| servers.failed(Instant(0), "a")).max().expect("thirty");
        assert!(first <= Timing::DEFAULT.heartbeat, "{first:?}");
        let later = (0..400).map(|_| servers.failed(Instant(0), "a")).max().expect("many");
        assert!(later > Timing::DEFAULT.heartbeat * 5 && later <= Timing::DEFAULT.heartbeat * 13, "{later:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses() {
        let pauses = |seed| {
            let mut servers = Servers::new(vec!["a".to_owned()], seed, Timing::DEFAULT);
            (0..20).map(|_| servers.failed(Instant(0), "a")).collect::<Vec<_>>()
        };
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
    }

    #[test]
    fn stores_that_the_cluster_names_are_dialled_too() {
        let mut servers = servers(&["a"]);
        servers.learn(["a", "b"].into_iter());
        let dialled: Vec<String> = (0..2).filter_map(|_| servers.next_address()).collect();
        assert_eq!(dialled, ["a", "b"]);
    }
}
