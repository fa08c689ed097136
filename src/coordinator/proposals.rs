//! How entries get into the log: each is stamped later than the one before, and only so many bytes are on their way at
//! a time. What the replica could not take is proposed again.

use std::collections::{BTreeMap, VecDeque};

use super::{Key, Output};
use crate::{
    limits,
    namespace::{Command, Entry, EntryHeader},
    types::{Instant, LogIndex, MountId, Sequence, SessionId, Stamp, VolumeId},
};

/// Bytes proposed and not applied. Half of what the replica takes at most, so that it hardly ever refuses.
const IN_FLIGHT_BYTES_MAX: u64 = limits::UNCOMMITTED_BYTES_MAX / 2;

/// Why an entry was proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Call {
        key: Key,
        sequence: Sequence,
    },
    Open {
        volume: VolumeId,
        mount: MountId,
    },
    Close,
    Reap {
        volume: VolumeId,
    },
    EndHolds {
        key: Key,
    },
    Command {
        ticket: Option<u64>,
    },
    /// The cluster is to use this feature level.
    Raise {
        level: u16,
        ticket: Option<u64>,
    },
}

#[derive(Debug)]
struct Draft {
    origin: Origin,
    entry: Entry,
    /// Bytes of space that it takes from the stores.
    space: u64,
}

impl Draft {
    /// Bytes that a call holds while it waits; the leader's own entries are few and small.
    fn weight(&self) -> usize {
        match &self.entry.command {
            Command::Operation(operation) => operation.weight(),
            _ => 0,
        }
    }
}

/// Entries that wait, that the replica is looking at, and that stand in the log.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    queue: VecDeque<Draft>,
    /// Bytes of the calls in it.
    waiting_bytes: usize,
    offered: BTreeMap<u64, (Draft, u64)>,
    standing: BTreeMap<LogIndex, (Origin, u64, u64)>,
    in_flight_bytes: u64,
    /// Bytes of space that all of them take.
    space: u64,
    next_token: u64,
    /// The replica refused: nothing is offered before this.
    stalled_until: Option<Instant>,
    /// Cluster time; nothing is stamped before it is known.
    clock: Option<u64>,
    /// The last stamp given to an entry, or told a mount that stamps by it.
    last_stamp: Stamp,
}

impl Proposals {
    pub(super) const fn set_clock(&mut self, nanoseconds: u64) {
        self.clock = Some(nanoseconds);
    }

    /// Stamps go on behind this one, unless it is far ahead of the clock.
    pub(super) fn stamp_behind(&mut self, stamp: Stamp) {
        self.last_stamp = self.last_stamp.max(stamp);
    }

    /// Cluster time, for who stamps by it: no entry gets an earlier stamp from here on, unless the clock is set back.
    pub(super) fn tell_time(&mut self) -> Stamp {
        // Without a clock nobody stamps by it: a lease rests on a round of heartbeats, with which clocks become known.
        if let Some(clock) = self.clock {
            self.last_stamp = stamp_at(clock, self.last_stamp);
        }
        self.last_stamp
    }

    /// Cluster time as far as it is known here.
    pub(super) fn time(&self) -> Stamp {
        self.clock.map_or(self.last_stamp, |clock| stamp_at(clock, self.last_stamp))
    }

    /// Puts an entry of the leader itself at the end of the queue.
    pub(super) fn add_own(&mut self, origin: Origin, volume: VolumeId, command: Command) {
        self.add(origin, volume, SessionId(0), Sequence(0), Vec::new(), command, 0);
    }

    /// Bytes of space that everything on its way takes from the stores.
    pub(super) const fn space(&self) -> u64 {
        self.space
    }

    #[expect(clippy::too_many_arguments, reason = "each is a field of the entry or of what is known about it")]
    pub(super) fn add(
        &mut self,
        origin: Origin,
        volume: VolumeId,
        session: SessionId,
        sequence: Sequence,
        answered: Vec<Sequence>,
        command: Command,
        space: u64,
    ) {
        let feature_level = command.level();
        let header = EntryHeader { feature_level, volume, session, sequence, answered, stamp: Stamp::default() };
        let draft = Draft { origin, entry: Entry { header, command }, space };
        self.space = self.space.saturating_add(space);
        self.waiting_bytes += draft.weight();
        self.queue.push_back(draft);
    }

    /// Whether a call of so many bytes may wait, too. What nobody wants any more is let go of first.
    pub(super) fn has_room(&mut self, bytes: usize, mut wanted: impl FnMut(Origin) -> bool) -> bool {
        if self.waiting_bytes + bytes > limits::WAITING_CALL_BYTES_MAX {
            let space = &mut self.space;
            self.queue.retain(|draft| {
                let is_wanted = wanted(draft.origin);
                *space -= if is_wanted { 0 } else { draft.space };
                is_wanted
            });
            self.waiting_bytes = self.queue.iter().map(Draft::weight).sum();
        }
        self.waiting_bytes + bytes <= limits::WAITING_CALL_BYTES_MAX
    }

    /// Offers what waits to the replica, as far as the bound allows. `wanted` says whether a draft still is. Returns
    /// the origins of drafts that no entry can carry: a node that met such an entry in its log could not go on, so it
    /// never gets there.
    #[must_use]
    pub(super) fn offer(
        &mut self,
        now: Instant,
        mut wanted: impl FnMut(Origin) -> bool,
        outputs: &mut VecDeque<Output>,
    ) -> Vec<Origin> {
        let mut too_large = Vec::new();
        let Some(clock) = self.clock.filter(|_| self.stalled_until.is_none_or(|until| until <= now)) else {
            return too_large;
        };
        self.stalled_until = None;
        while self.in_flight_bytes < IN_FLIGHT_BYTES_MAX {
            let Some(mut draft) = self.queue.pop_front() else { break };
            self.waiting_bytes -= draft.weight();
            if !wanted(draft.origin) {
                self.space -= draft.space;
                continue;
            }
            self.last_stamp = stamp_at(clock, Stamp(self.last_stamp.0.saturating_add(1)));
            draft.entry.header.stamp = self.last_stamp;
            let data = draft.entry.encode();
            if data.len() > limits::ENTRY_BYTES_MAX {
                self.space -= draft.space;
                too_large.push(draft.origin);
                continue;
            }
            let bytes = data.len() as u64;
            self.in_flight_bytes += bytes;
            self.next_token += 1;
            self.offered.insert(self.next_token, (draft, bytes));
            outputs.push_back(Output::Propose { token: self.next_token, data });
        }
        too_large
    }

    pub(super) fn taken(&mut self, token: u64, index: LogIndex) {
        if let Some((draft, bytes)) = self.offered.remove(&token) {
            self.standing.insert(index, (draft.origin, bytes, draft.space));
        }
    }

    /// The replica did not take it: it comes first again, after a pause. Its origin.
    pub(super) fn refused(&mut self, token: u64, again_at: Instant) -> Option<Origin> {
        let (draft, bytes) = self.offered.remove(&token)?;
        self.in_flight_bytes -= bytes;
        let origin = draft.origin;
        // Several may be refused in a row: they come back in the order of their tokens, so the older stays in front.
        let behind = self.queue.iter().take_while(|other| other.entry.header.stamp != Stamp::default()).count();
        self.waiting_bytes += draft.weight();
        self.queue.insert(behind, draft);
        self.stalled_until = Some(again_at);
        Some(origin)
    }

    /// The feature level that is on its way into the log, 0 for none.
    pub(super) fn raising(&self) -> u16 {
        let queue = self.queue.iter().map(|draft| draft.origin);
        let offered = self.offered.values().map(|(draft, _)| draft.origin);
        let standing = self.standing.values().map(|(origin, ..)| *origin);
        let level = |origin| if let Origin::Raise { level, .. } = origin { Some(level) } else { None };
        queue.chain(offered).chain(standing).filter_map(level).max().unwrap_or(0)
    }

    /// The entry at this index is applied. The origin of the proposal that stood there.
    pub(super) fn applied(&mut self, index: LogIndex) -> Option<Origin> {
        let (origin, bytes, space) = self.standing.remove(&index)?;
        self.in_flight_bytes -= bytes;
        self.space -= space;
        Some(origin)
    }

    /// Leadership is lost: all of it is out of our hands. The tickets whose outcome is open.
    pub(super) fn abandon(&mut self) -> Vec<u64> {
        let queue = self.queue.drain(..).map(|draft| draft.origin);
        let offered = std::mem::take(&mut self.offered).into_values().map(|(draft, _)| draft.origin);
        let standing = std::mem::take(&mut self.standing).into_values().map(|(origin, ..)| origin);
        let tickets = standing
            .chain(offered)
            .chain(queue)
            .filter_map(|origin| match origin {
                Origin::Command { ticket } | Origin::Raise { ticket, .. } => ticket,
                _ => None,
            })
            .collect();
        (self.in_flight_bytes, self.waiting_bytes, self.space) = (0, 0, 0);
        self.stalled_until = None;
        tickets
    }

    /// When `offer` makes sense again though nothing happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.stalled_until.filter(|_| !self.queue.is_empty())
    }
}

/// A stamp by this clock that is not before `least`. If `least` is so far ahead that the clock will not soon be there,
/// it comes from a clock that was wrong, and does not count. Each inode keeps its own times from running backwards.
fn stamp_at(clock: u64, least: Stamp) -> Stamp {
    let ahead_max = limits::STAMP_AHEAD_MAX.as_nanos() as u64;
    if least.0.saturating_sub(clock) > ahead_max { Stamp(clock) } else { least.max(Stamp(clock)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn proposals() -> Proposals {
        Proposals { clock: Some(0), ..Proposals::default() }
    }

    fn offered(proposals: &mut Proposals, now: Instant) -> Vec<(u64, Entry)> {
        let mut outputs = VecDeque::new();
        assert_eq!(proposals.offer(now, |_| true, &mut outputs), []);
        outputs
            .into_iter()
            .map(|output| match output {
                Output::Propose { token, data } => (token, Entry::decode(&data).expect("just encoded")),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn add(proposals: &mut Proposals, node: u64) {
        let command = Command::RemoveNode(NodeId(node));
        proposals.add_own(Origin::Command { ticket: Some(node) }, VolumeId(0), command);
    }

    fn nodes(entries: &[(u64, Entry)]) -> Vec<u64> {
        let node = |entry: &Entry| match entry.command {
            Command::RemoveNode(id) => id.0,
            _ => 0,
        };
        entries.iter().map(|(_, entry)| node(entry)).collect()
    }

    #[test]
    fn stamps_grow_though_the_clock_stands_or_runs_backwards() {
        let mut proposals = proposals();
        proposals.stamp_behind(Stamp(100));
        let mut stamps = Vec::new();
        for clock in [50, 50, 300, 200] {
            proposals.set_clock(clock);
            add(&mut proposals, 1);
            stamps.extend(offered(&mut proposals, Instant(0)).iter().map(|(_, entry)| entry.header.stamp.0));
        }
        assert_eq!(stamps, [101, 102, 300, 301]);
        assert_eq!(proposals.tell_time(), Stamp(301));
    }

    #[test]
    fn what_a_mount_was_told_is_not_before_what_is_stamped_then() {
        let mut proposals = proposals();
        proposals.set_clock(1000);
        assert_eq!(proposals.tell_time(), Stamp(1000));
        proposals.set_clock(900);
        add(&mut proposals, 1);
        assert_eq!(offered(&mut proposals, Instant(0))[0].1.header.stamp, Stamp(1001));
    }

    /// The clock of a cluster's only voter was 30 days ahead and was set right. All stamps stayed 30 days ahead, for 30
    /// days.
    #[test]
    fn a_stamp_far_ahead_of_the_clock_drags_no_others_along() {
        const DAYS_30: u64 = 30 * 24 * 3600 * 1_000_000_000;
        let mut proposals = proposals();
        let mut stamps = Vec::new();
        for clock in [1_000, 1_000 + DAYS_30, 2_000, 2_000, 3_000] {
            proposals.set_clock(clock);
            add(&mut proposals, 1);
            stamps.extend(offered(&mut proposals, Instant(0)).iter().map(|(_, entry)| entry.header.stamp.0));
        }
        assert_eq!(stamps, [1_000, 1_000 + DAYS_30, 2_000, 2_001, 3_000]);
        proposals.stamp_behind(Stamp(1_000 + DAYS_30));
        assert_eq!(proposals.tell_time(), Stamp(3_000), "a leader takes over a state with such a stamp");
    }

    #[test]
    fn nothing_is_stamped_before_it_is_known_what_time_it_is() {
        let mut proposals = Proposals::default();
        add(&mut proposals, 1);
        assert_eq!(offered(&mut proposals, Instant(0)), []);
        proposals.set_clock(7);
        assert_eq!(offered(&mut proposals, Instant(0))[0].1.header.stamp, Stamp(7));
    }

    #[test]
    fn what_was_refused_comes_first_again_in_order_after_the_pause_with_new_stamps() {
        let mut proposals = proposals();
        (1..=3).for_each(|node| add(&mut proposals, node));
        let first = offered(&mut proposals, Instant(0));
        add(&mut proposals, 4);
        proposals.taken(first[0].0, LogIndex(7));
        for (token, _) in &first[1..] {
            proposals.refused(*token, Instant(10));
        }
        assert_eq!(offered(&mut proposals, Instant(9)), []);
        assert_eq!(proposals.poll_timeout(), Some(Instant(10)));
        let again = offered(&mut proposals, Instant(10));
        assert_eq!(nodes(&again), [2, 3, 4]);
        assert!(again[0].1.header.stamp > first[2].1.header.stamp);
        assert_eq!(proposals.applied(LogIndex(7)), Some(Origin::Command { ticket: Some(1) }));
    }

    #[test]
    fn bytes_in_the_log_are_bounded_and_free_again_when_applied() {
        let mut proposals = proposals();
        let name = "x".repeat(100_000);
        for _ in 0..200 {
            let command = Command::DeleteVolume { name: name.clone(), force: false };
            proposals.add_own(Origin::Close, VolumeId(0), command);
        }
        let first = offered(&mut proposals, Instant(0));
        let bound = usize::try_from(IN_FLIGHT_BYTES_MAX / 100_000).expect("small") + 1;
        assert!(first.len() <= bound && first.len() < 200, "{}", first.len());
        for (token, _) in &first {
            proposals.taken(*token, LogIndex(*token));
        }
        assert_eq!(offered(&mut proposals, Instant(0)).len(), 0);
        proposals.applied(LogIndex(first[0].0));
        assert_eq!(offered(&mut proposals, Instant(0)).len(), 1);
    }

    #[test]
    fn a_draft_nobody_wants_any_more_is_not_offered() {
        let mut proposals = proposals();
        add(&mut proposals, 1);
        let mut outputs = VecDeque::new();
        assert_eq!(proposals.offer(Instant(0), |_| false, &mut outputs), []);
        assert!(outputs.is_empty() && offered(&mut proposals, Instant(0)).is_empty());
    }

    #[test]
    fn what_no_entry_can_carry_is_not_offered() {
        let origin = |ticket| Origin::Command { ticket: Some(ticket) };
        let is_taken = |bytes: usize| {
            let mut proposals = proposals();
            let command = Command::DeleteVolume { name: "x".repeat(bytes), force: false };
            proposals.add_own(origin(bytes as u64), VolumeId(0), command);
            let mut outputs = VecDeque::new();
            let too_large = proposals.offer(Instant(0), |_| true, &mut outputs);
            match outputs.pop_front() {
                Some(Output::Propose { data, .. }) => {
                    assert_eq!((too_large.len(), Entry::decode(&data).is_ok()), (0, true), "{bytes}");
                    true
                }
                _ => {
                    assert_eq!(too_large, [origin(bytes as u64)]);
                    false
                }
            }
        };
        let near = limits::ENTRY_BYTES_MAX - 64..=limits::ENTRY_BYTES_MAX;
        let taken = near.filter(|bytes| is_taken(*bytes)).count();
        assert!((1..64).contains(&taken), "the border lies in between: {taken}");
    }

    #[test]
    fn calls_that_wait_are_bounded_and_make_room_when_nobody_wants_them() {
        let mut proposals = proposals();
        let origin = |number| Origin::Call { key: (VolumeId(1), SessionId(number)), sequence: Sequence(1) };
        let operation = |bytes: usize| crate::namespace::Operation::SetXattr {
            ino: crate::types::Ino::ROOT,
            name: crate::types::XattrName::new(b"user.a").expect("a name"),
            value: vec![0; bytes].into(),
            mode: crate::namespace::operation::XattrMode::Set,
            clear_sgid: false,
        };
        let each = operation(60_000).weight();
        let mut count = 0;
        while proposals.has_room(each, |_| true) {
            let command = Command::Operation(operation(60_000));
            proposals.add(origin(count % 2), VolumeId(1), SessionId(count % 2), Sequence(1), Vec::new(), command, 0);
            count += 1;
        }
        assert_eq!(count as usize, limits::WAITING_CALL_BYTES_MAX / each);
        assert!(proposals.has_room(each, |of| of == origin(1)), "half of them go");
        assert_eq!(proposals.queue.len() as u64, count / 2);
        while !offered(&mut proposals, Instant(0)).is_empty() {
            (1..=proposals.next_token).for_each(|token| proposals.taken(token, LogIndex(token)));
            for token in 1..=proposals.next_token {
                let _ = proposals.applied(LogIndex(token));
            }
        }
        assert_eq!((proposals.queue.len(), proposals.waiting_bytes), (0, 0));
    }

    #[test]
    fn abandoning_tells_every_open_ticket_once() {
        let mut proposals = proposals();
        (1..=2).for_each(|node| add(&mut proposals, node));
        let first = offered(&mut proposals, Instant(0));
        proposals.taken(first[0].0, LogIndex(1));
        add(&mut proposals, 3);
        assert_eq!(proposals.abandon(), [1, 2, 3]);
        assert_eq!(proposals.abandon(), [0; 0]);
        assert_eq!(proposals.applied(LogIndex(1)), None);
    }
}
