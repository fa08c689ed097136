//! What the leader remembers of one session beside the replicated state: how far its kernel is, how long it may answer
//! from caches, which of its calls are under way. All of it is soft: a new leader starts with what `Hello` says and
//! waits for what it cannot know (docs/protocol.md R4-new-leader).
//!
//! A session is *bound* while a lease that it may hold has not ended by this leader's clock. The roster is the set of
//! bound sessions: no change completes before each of them has acknowledged it. The leader counts a lease from the
//! arrival of its `Renew` and adds a margin for drift; the mount counts from sending, so its end comes first.

use std::{collections::BTreeMap, time::Duration};

use super::calls::Call;
use crate::{
    limits::Timing,
    message::mount::MountPlace,
    types::{ConnectionId, Generation, Instant, LogIndex, Sequence},
};

/// Sessions that lapse again and again within this many session times (an hour by default) wait longer each time.
const PROBATION_MEMORY_SESSIONS: u32 = 12;

#[derive(Debug)]
pub(super) struct Member {
    pub(super) connection: Option<ConnectionId>,
    /// Where the mount says that it is, once it has attached to this leader.
    pub(super) place: Option<MountPlace>,
    /// Of the newest connection that attached to this leader.
    generation: Option<Generation>,
    progress: Progress,
    /// Entries behind what `progress` covers that the mount has not acknowledged, and when they were applied here.
    unacknowledged: BTreeMap<LogIndex, Instant>,
    bound_until: Instant,
    /// No lease before everything up to this entry is acknowledged: completions went on without the session until then.
    admission: Option<LogIndex>,
    /// The newest renewal that no round of heartbeats was asked for yet.
    waiting: Option<Renewal>,
    /// The renewal that the round under way will confirm.
    confirming: Option<Renewal>,
    /// A renewal that was confirmed and waits for acknowledgements.
    confirmed: Option<Renewal>,
    /// How often it kept others waiting until its lease ran out, and when it did last.
    lapses: u32,
    lapsed_at: Instant,
    /// When it said anything last.
    pub(super) heard: Instant,
    /// Up to when it is known to have acknowledged all that had been applied by then.
    caught_up: Instant,
    pub(super) calls: BTreeMap<Sequence, Call>,
    /// An entry that ends the session is on its way.
    pub(super) closing: bool,
    /// The mount asked for that end.
    pub(super) left: bool,
}

/// What is known of the mount's kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    /// Nothing: it has not attached to this leader, or was out of reach and out of the roster.
    Unknown,
    /// It has not acknowledged what was applied before it attached.
    CatchingUp { at: LogIndex },
    /// It has acknowledged everything but what is in `unacknowledged`.
    Current,
}

#[derive(Clone, Copy, Debug)]
struct Renewal {
    number: u64,
    received: Instant,
}

impl Member {
    /// A session that was not seen by this leader; it may hold a lease of the predecessor's until `bound_until`.
    pub(super) fn new(now: Instant, bound_until: Instant) -> Self {
        Self {
            connection: None,
            place: None,
            generation: None,
            progress: Progress::Unknown,
            unacknowledged: BTreeMap::new(),
            bound_until,
            admission: None,
            waiting: None,
            confirming: None,
            confirmed: None,
            lapses: 0,
            lapsed_at: Instant(0),
            heard: now,
            caught_up: now,
            calls: BTreeMap::new(),
            closing: false,
            left: false,
        }
    }

    /// Whether a connection of this generation is newer than all that attached before.
    pub(super) fn admits(&self, generation: Generation) -> bool {
        self.generation.is_none_or(|newest| newest < generation)
    }

    /// The mount goes on here; it will acknowledge `at` when everything up to it is applied and invalidated.
    pub(super) fn attach(&mut self, now: Instant, connection: ConnectionId, generation: Generation, at: LogIndex) {
        self.forget_renewals();
        self.connection = Some(connection);
        self.generation = Some(generation);
        self.progress = Progress::CatchingUp { at };
        self.unacknowledged.clear();
        self.heard = now;
    }

    /// The connection is gone. What the mount may still hold counts on; calls that were not proposed yet are forgotten,
    /// so that they cannot overtake what its next connection brings (R17-exactly-once).
    pub(super) fn detach(&mut self) {
        self.forget_renewals();
        self.connection = None;
        self.calls.retain(|_, call| call.outlives_connection());
    }

    fn forget_renewals(&mut self) {
        (self.waiting, self.confirming, self.confirmed) = (None, None, None);
    }

    /// For how long it has not been caught up. Who attaches again and never acknowledges is not caught up by that.
    pub(super) fn behind_for(&mut self, now: Instant) -> Duration {
        if self.progress == Progress::Current {
            let oldest = self.unacknowledged.first_key_value().map_or(now, |(_, at)| *at);
            self.caught_up = self.caught_up.max(oldest);
        }
        now.since(self.caught_up)
    }

    /// An entry of the volume was applied here.
    pub(super) fn record(&mut self, now: Instant, index: LogIndex) {
        if self.connection.is_some() || self.is_bound(now) {
            self.unacknowledged.insert(index, now);
        } else {
            // Nobody waits for it, and it says anew what it has when it returns.
            self.progress = Progress::Unknown;
            self.unacknowledged.clear();
        }
    }

    /// The mount's kernel can no longer answer from before these entries.
    pub(super) fn acknowledge(&mut self, entries: &[LogIndex]) {
        for &index in entries {
            self.unacknowledged.remove(&index);
            if self.progress == (Progress::CatchingUp { at: index }) {
                self.progress = Progress::Current;
            }
        }
    }

    pub(super) fn has_acknowledged(&self, index: LogIndex) -> bool {
        match self.progress {
            Progress::Unknown => false,
            Progress::CatchingUp { at } => index > at && !self.unacknowledged.contains_key(&index),
            Progress::Current => !self.unacknowledged.contains_key(&index),
        }
    }

    /// The entry up to which it is known what the mount has in use of files without a name; perhaps it is known of later
    /// ones, too. `opened`: the entry that began its session. What was in use before that, its `Hello` said.
    pub(super) fn uses_known_through(&self, opened: LogIndex) -> LogIndex {
        let through = match (self.progress, self.oldest_unacknowledged()) {
            (Progress::Current, None) => LogIndex(u64::MAX),
            (Progress::Current, Some(oldest)) => LogIndex(oldest.0.saturating_sub(1)),
            _ => LogIndex(0),
        };
        if self.generation.is_some() { through.max(opened) } else { through }
    }

    /// The oldest entry that waits for the mount's acknowledgement, of those applied since it attached.
    pub(super) fn oldest_unacknowledged(&self) -> Option<LogIndex> {
        self.unacknowledged.first_key_value().map(|(index, _)| *index)
    }

    pub(super) fn unacknowledged_count(&self) -> usize {
        self.unacknowledged.len()
    }

    pub(super) fn is_bound(&self, now: Instant) -> bool {
        now < self.bound_until
    }

    pub(super) const fn bound_until(&self) -> Instant {
        self.bound_until
    }

    /// The session holds nothing any more, by its own word or because it ends.
    pub(super) fn release(&mut self) {
        self.bound_until = Instant(0);
        self.closing = true;
        self.forget_renewals();
    }

    /// A change went on without the session because its lease had run out.
    pub(super) fn lapse(&mut self, now: Instant, timing: &Timing) {
        if now.since(self.lapsed_at) > timing.session * PROBATION_MEMORY_SESSIONS {
            self.lapses = 0;
        }
        self.lapses = self.lapses.saturating_add(1);
        self.lapsed_at = now;
    }

    /// R28-probation: the first return is free, each further one within the hour waits twice as long.
    fn probation(&self, timing: &Timing) -> Duration {
        match self.lapses {
            0 | 1 => Duration::ZERO,
            lapses => (timing.lease * 2_u32.saturating_pow((lapses - 2).min(16))).min(timing.session / 5),
        }
    }

    /// The mount asks for its lease; `applied` is the volume's last entry. Returns whether a round of heartbeats is
    /// wanted. A mount that is not caught up, or keeps others waiting for half a lease, gets no answer.
    pub(super) fn renew(&mut self, now: Instant, number: u64, applied: LogIndex, timing: &Timing) -> bool {
        if !self.is_prompt(now, timing) {
            return false;
        }
        if !self.is_bound(now) {
            if now < self.lapsed_at.after(self.probation(timing)) {
                return false;
            }
            self.admission = Some(applied);
        }
        // Bound from here on and not only from the answer: what completes in between must not miss the session.
        self.bound_until = self.bound_until.max(now.after(timing.lease + timing.drift_margin()));
        self.waiting = Some(Renewal { number, received: now });
        true
    }

    /// The renewal that waits is covered by the round that is asked for now.
    pub(super) fn ask(&mut self) {
        if let Some(renewal) = self.waiting.take() {
            self.confirming = Some(renewal);
        }
    }

    pub(super) const fn waits_for_round(&self) -> bool {
        self.waiting.is_some()
    }

    /// The round is over: a majority follows this leader still.
    pub(super) fn confirm(&mut self) {
        if let Some(renewal) = self.confirming.take() {
            self.confirmed = Some(renewal);
        }
    }

    /// The number of the renewal that may be answered now, once.
    pub(super) fn grant(&mut self, now: Instant, timing: &Timing) -> Option<u64> {
        let renewal = self.confirmed?;
        if now >= renewal.received.after(timing.lease) {
            self.confirmed = None;
            return None;
        }
        let admitted =
            self.admission.is_none_or(|floor| self.oldest_unacknowledged().is_none_or(|oldest| oldest > floor));
        if !admitted || !self.is_prompt(now, timing) {
            return None;
        }
        self.admission = None;
        self.confirmed = None;
        Some(renewal.number)
    }

    /// It is caught up, and keeps nobody waiting for half a lease.
    pub(super) fn is_prompt(&self, now: Instant, timing: &Timing) -> bool {
        let late = self.unacknowledged.first_key_value().is_some_and(|(_, at)| now.since(*at) >= timing.lease / 2);
        self.progress == Progress::Current && !self.closing && !late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timing = Timing::DEFAULT;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    /// Attached at 0 and caught up with entry 5.
    fn current() -> Member {
        let mut member = Member::new(at(0), Instant(0));
        member.attach(at(0), ConnectionId(1), Generation(1), LogIndex(5));
        member.acknowledge(&[LogIndex(5)]);
        member
    }

    fn granted(member: &mut Member, ms: u64, number: u64) -> Option<u64> {
        if !member.renew(at(ms), number, LogIndex(5), &T) {
            return None;
        }
        member.ask();
        member.confirm();
        member.grant(at(ms), &T)
    }

    fn bound_ms() -> u64 {
        u64::try_from((T.lease + T.drift_margin()).as_millis()).expect("small")
    }

    #[test]
    fn caught_up_at_stands_for_all_before_it_and_later_entries_for_themselves() {
        let mut member = Member::new(at(0), Instant(0));
        assert!(!member.has_acknowledged(LogIndex(1)), "a session not seen has acknowledged nothing");
        member.attach(at(0), ConnectionId(1), Generation(1), LogIndex(5));
        member.record(at(1), LogIndex(6));
        member.record(at(1), LogIndex(7));
        member.acknowledge(&[LogIndex(7)]);
        assert!(member.has_acknowledged(LogIndex(7)) && !member.has_acknowledged(LogIndex(6)));
        assert!(!member.has_acknowledged(LogIndex(4)));
        member.acknowledge(&[LogIndex(5)]);
        assert!(member.has_acknowledged(LogIndex(4)) && !member.has_acknowledged(LogIndex(6)));
    }

    #[test]
    fn a_lease_counts_from_the_arrival_of_its_renewal_and_outlasts_the_mounts_own_count() {
        let mut member = current();
        assert_eq!(granted(&mut member, 100, 1), Some(1));
        assert!(member.is_bound(at(100 + bound_ms() - 1)) && !member.is_bound(at(100 + bound_ms())));
        assert!(T.drift_margin() > Duration::ZERO);
    }

    #[test]
    fn no_lease_before_the_mount_is_caught_up_and_the_round_confirmed() {
        let mut member = Member::new(at(0), Instant(0));
        member.attach(at(0), ConnectionId(1), Generation(1), LogIndex(5));
        assert!(!member.renew(at(10), 1, LogIndex(5), &T));
        member.acknowledge(&[LogIndex(5)]);
        assert!(member.renew(at(20), 2, LogIndex(5), &T));
        assert_eq!(member.grant(at(20), &T), None);
        member.ask();
        assert_eq!(member.grant(at(20), &T), None);
        member.confirm();
        assert_eq!(member.grant(at(21), &T), Some(2));
        assert_eq!(member.grant(at(21), &T), None, "once");
    }

    #[test]
    fn a_renewal_answered_a_lease_later_would_grant_nothing() {
        let mut member = current();
        assert!(member.renew(at(0), 1, LogIndex(5), &T));
        member.ask();
        member.confirm();
        assert_eq!(member.grant(at(0).after(T.lease), &T), None);
    }

    #[test]
    fn whoever_keeps_others_waiting_for_half_a_lease_is_renewed_no_more() {
        let mut member = current();
        assert_eq!(granted(&mut member, 0, 1), Some(1));
        member.record(at(10), LogIndex(6));
        assert_eq!(granted(&mut member, 100, 2), Some(2));
        assert_eq!(granted(&mut member, 709, 3), Some(3));
        assert_eq!(granted(&mut member, 710, 4), None);
        assert!(!member.is_bound(at(709 + bound_ms())), "bound by the last lease alone");
        member.acknowledge(&[LogIndex(6)]);
        assert_eq!(granted(&mut member, 800, 5), Some(5));
    }

    #[test]
    fn back_in_the_roster_only_with_everything_acknowledged_that_went_on_without_it() {
        let mut member = current();
        // Out of the roster while these are applied: they may be complete already.
        member.record(at(10), LogIndex(6));
        member.record(at(11), LogIndex(7));
        assert!(member.renew(at(20), 1, LogIndex(7), &T));
        assert!(member.is_bound(at(20)), "what is applied from now on waits for it");
        member.ask();
        member.confirm();
        member.record(at(21), LogIndex(8));
        member.acknowledge(&[LogIndex(7)]);
        assert_eq!(member.grant(at(30), &T), None);
        member.acknowledge(&[LogIndex(6)]);
        assert_eq!(member.grant(at(31), &T), Some(1), "entry 8 waits for it like for any other");
    }

    #[test]
    fn the_first_return_is_free_and_each_further_one_waits_twice_as_long() {
        let mut member = current();
        member.lapse(at(10_000), &T);
        assert!(member.renew(at(10_000), 1, LogIndex(5), &T));
        for (lapses, probation_ms) in [(2, 1_400), (3, 2_800), (4, 5_600)] {
            let lapsed = lapses * 100_000;
            member.lapse(at(lapsed), &T);
            assert!(!member.renew(at(lapsed + probation_ms - 1), 2, LogIndex(5), &T));
            assert!(member.renew(at(lapsed + probation_ms), 2, LogIndex(5), &T));
        }
        let hour_later = 400_000 + 3_600_001;
        member.lapse(at(hour_later), &T);
        assert!(member.renew(at(hour_later), 3, LogIndex(5), &T), "an hour makes good");
    }

    #[test]
    fn a_connection_of_an_older_generation_is_not_admitted() {
        let member = current();
        assert!(!member.admits(Generation(1)) && member.admits(Generation(2)));
    }

    #[test]
    fn out_of_reach_and_out_of_the_roster_nothing_is_kept() {
        let mut member = current();
        assert_eq!(granted(&mut member, 0, 1), Some(1));
        member.detach();
        member.record(at(10), LogIndex(6));
        assert!(!member.has_acknowledged(LogIndex(6)) && member.has_acknowledged(LogIndex(5)));
        member.record(at(bound_ms()), LogIndex(7));
        assert_eq!(member.unacknowledged_count(), 0);
        assert!(!member.has_acknowledged(LogIndex(5)), "what it has, it will say anew");
    }
}
