//! The right to answer from caches, and what cluster time it is: both come with renewals (docs/protocol.md R5-lease).

use std::{collections::BTreeMap, time::Duration};

use crate::types::{Instant, Stamp};

/// A mount's lease. It runs from the moment a renewal was *sent*, so that no clock but this one enters.
#[derive(Debug)]
pub(crate) struct Lease {
    length: Duration,
    number: u64,
    /// When the unanswered renewals of this connection were sent.
    sent: BTreeMap<u64, Instant>,
    until: Option<Instant>,
    /// Cluster time as last told, and when that arrived.
    clock: Option<(Stamp, Instant)>,
}

impl Lease {
    pub(crate) fn new(length: Duration) -> Self {
        Self { length, number: 0, sent: BTreeMap::new(), until: None, clock: None }
    }

    /// The number of a renewal that is sent now.
    pub(crate) fn renew(&mut self, now: Instant) -> u64 {
        let length = self.length;
        // An answer to one older than the lease would grant nothing.
        self.sent.retain(|_, at| now.since(*at) < length);
        self.number += 1;
        self.sent.insert(self.number, now);
        self.number
    }

    /// The leader answered a renewal; one that this connection never sent counts for nothing.
    pub(crate) fn granted(&mut self, number: u64) {
        if let Some(sent) = self.sent.get(&number) {
            let until = sent.after(self.length);
            self.until = self.until.max(Some(until));
            self.sent = self.sent.split_off(&(number + 1));
        }
    }

    /// Renewals sent on another connection are void; what was granted stays granted.
    pub(crate) fn reconnected(&mut self) {
        self.sent.clear();
    }

    /// The session is gone, and all its rights with it.
    pub(crate) fn revoke(&mut self) {
        self.sent.clear();
        self.until = None;
    }

    /// When the lease ends, or ended; `None` when there never was one.
    pub(crate) const fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(crate) fn is_held(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    pub(crate) fn told_time(&mut self, now: Instant, stamp: Stamp) {
        self.clock = Some((stamp, now));
    }

    /// Cluster time by our reckoning: behind the leader's by the way of one message.
    pub(crate) fn cluster_time(&self, now: Instant) -> Option<Stamp> {
        let (stamp, at) = self.clock?;
        let passed = u64::try_from(now.since(at).as_nanos()).unwrap_or(u64::MAX);
        Some(Stamp(stamp.0.saturating_add(passed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(1400);

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn it_runs_from_sending_and_not_from_the_answer() {
        let mut lease = Lease::new(LENGTH);
        let number = lease.renew(at(0));
        assert!(!lease.is_held(at(10)), "an unanswered renewal grants nothing");
        lease.granted(number);
        assert!(lease.is_held(at(1399)));
        assert!(!lease.is_held(at(1400)));
    }

    #[test]
    fn an_answer_to_another_connections_renewal_grants_nothing() {
        let mut lease = Lease::new(LENGTH);
        let number = lease.renew(at(0));
        lease.reconnected();
        lease.granted(number);
        assert_eq!(lease.until(), None);
    }

    #[test]
    fn an_older_answer_does_not_shorten_it() {
        let mut lease = Lease::new(LENGTH);
        let first = lease.renew(at(0));
        let second = lease.renew(at(100));
        lease.granted(second);
        lease.granted(first);
        assert_eq!(lease.until(), Some(at(1500)));
    }

    #[test]
    fn cluster_time_goes_on_between_messages() {
        let mut lease = Lease::new(LENGTH);
        assert_eq!(lease.cluster_time(at(5)), None);
        lease.told_time(at(5), Stamp(1_000));
        assert_eq!(lease.cluster_time(at(6)), Some(Stamp(1_001_000)));
    }
}
