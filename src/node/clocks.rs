//! What time it is for the cluster: the median of the voters' wall clocks, by which entries are stamped. One clock that is
//! wrong, were it the leader's own, stamps nothing; a voter that is alone follows its own clock and says each jump of it.
//!
//! Voters tell the leader their clocks with the acknowledgements of its heartbeats, so that each is known to half a round
//! trip. Between two of them all go on by CLOCK_BOOTTIME of this machine, which nobody sets. The leader tells the others
//! what time it is, and whoever leads next goes on from there. Promises and leases rest on none of this
//! (docs/protocol.md R5-lease, R6-promise).

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{ClockStatus, Node, Output};
use crate::{
    coordinator, limits, replica,
    types::{Instant, NodeId, Stamp},
};

/// Heartbeats whose acknowledgements say something of a clock.
const ROUNDS_MAX: usize = 64;
/// A reading is replaced by a worse one after so many heartbeats.
const READING_HEARTBEATS: u32 = 5;

/// By how much something that shows nanoseconds since 1970 is ahead of this machine's CLOCK_BOOTTIME, in nanoseconds.
type Ahead = i128;

/// What another's clock was found to show.
#[derive(Clone, Copy, Debug)]
struct Reading {
    ahead: Ahead,
    /// Of either sign: half of the round trip.
    error: Duration,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Clocks {
    own: Option<Ahead>,
    others: BTreeMap<NodeId, Reading>,
    /// When heartbeats were sent, by number.
    rounds: VecDeque<(u64, Instant)>,
    /// Cluster time, as it was last judged here or told by a leader.
    cluster: Option<Ahead>,
    judged_at: Instant,
    /// Times that the own clock was set.
    jumps: u64,
    /// Since when the own clock is far from cluster time, and whether that was said.
    wrong_since: Option<Instant>,
    is_wrong_said: bool,
    /// Leadership is not handed over for a wrong clock before.
    hand_over_at: Instant,
}

impl Clocks {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            own: None,
            others: BTreeMap::new(),
            rounds: VecDeque::new(),
            cluster: None,
            judged_at: now,
            jumps: 0,
            wrong_since: None,
            is_wrong_said: false,
            hand_over_at: now,
        }
    }

    /// Cluster time; `None` until a majority's clocks are known, or a leader has told it.
    pub(super) fn cluster_time(&self, now: Instant) -> Option<Stamp> {
        self.cluster.map(|ahead| stamp(now, ahead))
    }

    pub(super) fn status(&self) -> ClockStatus {
        let ahead = self.own.zip(self.cluster).map(|(own, cluster)| own - cluster);
        let ahead_ms =
            ahead.map(|ahead| i64::try_from(ahead / 1_000_000).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX }));
        ClockStatus { jumps: self.jumps, ahead_ms }
    }

    pub(super) fn heartbeat_sent(&mut self, now: Instant, round: u64) {
        if self.rounds.back().is_none_or(|(last, _)| *last < round) {
            self.rounds.push_back((round, now));
            if self.rounds.len() > ROUNDS_MAX {
                self.rounds.pop_front();
            }
        }
    }

    /// Of two readings the one with the smaller error counts, unless it has become old.
    fn read(&mut self, now: Instant, from: NodeId, round: u64, wall_clock: u64, heartbeat: Duration) {
        let Some((_, sent)) = self.rounds.iter().find(|(number, _)| *number == round) else { return };
        let error = now.since(*sent) / 2;
        let reading = Reading { ahead: Ahead::from(wall_clock) - Ahead::from(sent.after(error).0), error, at: now };
        let is_kept = |known: &Reading| known.error < error && now.since(known.at) < READING_HEARTBEATS * heartbeat;
        if !self.others.get(&from).is_some_and(is_kept) {
            self.others.insert(from, reading);
        }
    }
}

impl Node {
    /// This machine's wall clock, in nanoseconds since 1970.
    pub(super) fn own_clock(&mut self, nanoseconds: u64) {
        let ahead = Ahead::from(nanoseconds) - Ahead::from(self.now.0);
        let moved = self.clocks.own.replace(ahead).map_or(0, |before| ahead - before);
        if moved.unsigned_abs() >= limits::CLOCK_JUMP_MIN.as_nanos() {
            self.clocks.jumps += 1;
            let consequence = match self.other_voters() {
                0 => "this node is the only voter, so files are stamped by it",
                _ => "files are stamped by the median of the voters' clocks",
            };
            self.warn(format!("the clock of this node was set {}; {consequence}", in_words(moved)));
        }
        // Two readings of one clock differ by how long each took.
        let is_moved = moved.unsigned_abs() >= Duration::from_millis(1).as_nanos();
        if is_moved || self.now >= self.clocks.judged_at.after(self.config.timing.heartbeat) {
            self.judge_clocks();
        }
        self.tell_time();
    }

    /// A leader that is the only voter knows what time it is at once.
    pub(super) fn leadership_of_clocks(&mut self) {
        self.judge_clocks();
        self.tell_time();
    }

    /// A peer has acknowledged the heartbeat, and told its clock with it.
    pub(super) fn take_clock(&mut self, from: NodeId, round: u64, wall_clock: Option<u64>) {
        if let Some(wall_clock) = wall_clock {
            self.clocks.read(self.now, from, round, wall_clock, self.config.timing.heartbeat);
            self.judge_clocks();
            self.tell_time();
        }
    }

    /// The leader, or who was it until now, tells cluster time.
    pub(super) fn take_time(&mut self, from: NodeId, stamp: Option<Stamp>) {
        if let Some(stamp) = stamp.filter(|_| !self.leading && self.leader == Some(from)) {
            self.clocks.cluster = Some(Ahead::from(stamp.0) - Ahead::from(self.now.0));
            self.tell_time();
        }
    }

    /// The own wall clock as it shows now.
    pub(super) fn wall_clock(&self) -> Option<u64> {
        self.clocks.own.map(|ahead| stamp(self.now, ahead).0)
    }

    /// The median of the clocks that are known, where they are those of a majority. Of two in the middle the one that is
    /// nearer to what time it was counts: with one of three voters gone the other must not be outvoted by a clock that
    /// jumps.
    fn judge_clocks(&mut self) {
        let replica = self.replica.status();
        if !replica.leading {
            return;
        }
        self.clocks.judged_at = self.now;
        let voters: Vec<NodeId> = replica.peers.iter().filter(|peer| peer.voter).map(|peer| peer.id).collect();
        let mut known: Vec<Ahead> = voters.iter().filter_map(|voter| self.clock_of(*voter)).collect();
        if known.len() * 2 <= voters.len() {
            return;
        }
        known.sort_unstable();
        let (low, high) = (known[(known.len() - 1) / 2], known[known.len() / 2]);
        let before =
            self.clocks.cluster.unwrap_or_else(|| Ahead::from(self.state.last_stamp().0) - Ahead::from(self.now.0));
        self.clocks.cluster = Some(if low.abs_diff(before) <= high.abs_diff(before) { low } else { high });
    }

    /// As far as it was heard of lately.
    fn clock_of(&self, node: NodeId) -> Option<Ahead> {
        if node == self.config.id {
            return self.clocks.own;
        }
        let reading = self.clocks.others.get(&node)?;
        (self.now.since(reading.at) < self.config.timing.lease).then_some(reading.ahead)
    }

    fn tell_time(&mut self) {
        if let Some(Stamp(nanoseconds)) = self.clocks.cluster_time(self.now) {
            self.tell_coordinator(coordinator::Input::Clock(nanoseconds));
        }
    }

    /// About once a second: says when this node's clock is far from cluster time, or is right again; and a leader whose
    /// clock has been wrong for a while gives leadership to a voter with a better one, where there is one that lacks nothing.
    pub(super) fn watch_clock(&mut self) {
        let wrong_by = self.clocks.own.zip(self.clocks.cluster).map_or(0, |(own, cluster)| own - cluster);
        if !is_far(wrong_by) {
            self.clocks.wrong_since = None;
            if std::mem::take(&mut self.clocks.is_wrong_said) {
                self.outputs.push_back(Output::Notice("the clock of this node is right again".to_owned()));
            }
            return;
        }
        let since = *self.clocks.wrong_since.get_or_insert(self.now);
        if self.now < since.after(self.config.timing.hold) {
            return;
        }
        if !std::mem::replace(&mut self.clocks.is_wrong_said, true) {
            let by = in_words(wrong_by);
            self.warn(format!("the clock of this node is wrong: it is {by} of the cluster's time; see to its NTP"));
        }
        self.hand_over_to_better_clock();
    }

    fn hand_over_to_better_clock(&mut self) {
        if !self.leading || self.now < self.clocks.hand_over_at {
            return;
        }
        let replica = self.replica.status();
        let can = |peer: &&replica::Peer| {
            let is_right =
                self.clock_of(peer.id).zip(self.clocks.cluster).is_some_and(|(its, cluster)| !is_far(its - cluster));
            let is_level = peer.matched >= Some(replica.committed);
            let is_ready = peer.id != self.config.id && peer.voter && peer.reachable == Some(true);
            is_ready && is_level && is_right && self.may_lead(peer.id)
        };
        if let Some(successor) = replica.peers.iter().filter(can).max_by_key(|peer| peer.matched) {
            // Whatever comes of it: not again and again.
            self.clocks.hand_over_at = self.now.after(self.config.timing.session);
            let sentence = format!("the clock of this node is wrong: leadership goes to node {}", successor.id);
            self.outputs.push_back(Output::Notice(sentence));
            self.hand_over(Some(successor.id));
        }
    }

    fn other_voters(&self) -> usize {
        self.replica.status().peers.iter().filter(|peer| peer.voter && peer.id != self.config.id).count()
    }

    fn warn(&mut self, sentence: String) {
        self.outputs.push_back(Output::Warning(sentence));
    }
}

fn stamp(now: Instant, ahead: Ahead) -> Stamp {
    let shown = Ahead::from(now.0) + ahead;
    Stamp(u64::try_from(shown).unwrap_or(if shown < 0 { 0 } else { u64::MAX }))
}

fn is_far(ahead: Ahead) -> bool {
    ahead.unsigned_abs() >= limits::CLOCK_WRONG_MIN.as_nanos()
}

fn in_words(ahead: Ahead) -> String {
    let seconds = ahead.unsigned_abs() as f64 / 1e9;
    format!("{seconds:.1} s {}", if ahead < 0 { "behind" } else { "ahead" })
}
