//! docs/protocol.md R19-either-state: a reading shows a value that some call gave the thing, not one that began after
//! the reading had ended, and not one that had been replaced, by a call that began later, before the reading began.
//! Calls that overlap may take effect in either order, so that whatever is called wrong here is wrong in every order.
//! And a mount never goes back behind what one of its caches has shown.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use super::history::{Change, History, Moment, Reading, Stamp, Thing, Way};

/// A reading shortly after a change elsewhere: where stale answers come from.
const SHORTLY: Moment = 10_000_000;

/// Why a history is not that of a coherent file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It had been replaced by this change when the reading began.
    Stale { reading: Reading, replaced_by: Change },
    /// No call that had begun when the reading ended gave the thing this value.
    FromNowhere { reading: Reading },
    /// The mount had shown something later before.
    WentBack { reading: Reading, before: Reading },
    /// ctime was later before, on the same mount.
    TimeWentBack { stamp: Stamp, before: Stamp },
}

impl Fault {
    pub(crate) fn mount(&self) -> usize {
        match self {
            Self::Stale { reading, .. } | Self::FromNowhere { reading } | Self::WentBack { reading, .. } => {
                reading.mount
            }
            Self::TimeWentBack { stamp, .. } => stamp.mount,
        }
    }

    pub(crate) fn began(&self) -> Moment {
        match self {
            Self::Stale { reading, .. } | Self::FromNowhere { reading } | Self::WentBack { reading, .. } => {
                reading.began
            }
            Self::TimeWentBack { stamp, .. } => stamp.began,
        }
    }

    pub(crate) fn thing(&self) -> Option<Thing> {
        match self {
            Self::Stale { reading, .. } | Self::FromNowhere { reading } | Self::WentBack { reading, .. } => {
                Some(reading.thing)
            }
            Self::TimeWentBack { .. } => None,
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { reading, replaced_by } => write!(f, "stale: {reading:?}\n  replaced by {replaced_by:?}"),
            Self::FromNowhere { reading } => write!(f, "from nowhere: {reading:?}"),
            Self::WentBack { reading, before } => write!(f, "went back: {reading:?}\n  after {before:?}"),
            Self::TimeWentBack { stamp, before } => write!(f, "ctime went back: {stamp:?}\n  after {before:?}"),
        }
    }
}

/// What was found in a history.
#[derive(Default, Debug)]
pub(crate) struct Verdict {
    pub(crate) reads: u64,
    pub(crate) readings: u64,
    pub(crate) changes: u64,
    /// Readings of what another mount had changed within 10 ms.
    pub(crate) hot: u64,
    /// Readings that are older than what another of the mount's caches had shown. A mount makes its kernel forget one
    /// thing after the other, so that this happens while a change is under way.
    pub(crate) caches_apart: u64,
    pub(crate) faults: Vec<Fault>,
}

impl Verdict {
    pub(crate) fn append(&mut self, mut other: Self) {
        self.reads += other.reads;
        self.readings += other.readings;
        self.changes += other.changes;
        self.hot += other.hot;
        self.caches_apart += other.caches_apart;
        self.faults.append(&mut other.faults);
    }
}

/// All changes of one thing, in the order of their ends.
#[derive(Default)]
struct Past {
    changes: Vec<Change>,
    /// Of the first n + 1 changes the one that began last.
    latest: Vec<usize>,
    /// The places of the changes that gave this value.
    by_value: BTreeMap<u64, Vec<usize>>,
}

/// The calls that a reading may have seen the result of, by their times.
struct Sources {
    first_began: Moment,
    last_ended: Moment,
}

pub(crate) struct Judge(BTreeMap<Thing, Past>);

impl Judge {
    pub(crate) fn new(changes: &[Change]) -> Self {
        let mut things: BTreeMap<Thing, Past> = BTreeMap::new();
        for change in changes {
            things.entry(change.thing).or_default().changes.push(*change);
        }
        things.values_mut().for_each(Past::arrange);
        Self(things)
    }

    /// The changes that a later reading may show, if nothing is under way now.
    pub(crate) fn lasting(&self) -> Vec<Change> {
        let lasting = |past: &Past| {
            let bound = past.replaced_before(Moment::MAX).map_or(0, |change| change.began);
            past.changes.iter().filter(|change| change.ended >= bound).copied().collect::<Vec<_>>()
        };
        self.0.values().flat_map(lasting).collect()
    }

    pub(crate) fn judge(&self, history: &History) -> Verdict {
        let mut verdict = Verdict {
            reads: history.reads,
            readings: history.readings.len() as u64,
            changes: history.changes.len() as u64,
            ..Verdict::default()
        };
        let mut by_cache: BTreeMap<(usize, Thing, Way), Vec<Sight>> = BTreeMap::new();
        let mut by_mount: BTreeMap<(usize, Thing), Vec<Sight>> = BTreeMap::new();
        for (place, reading) in history.readings.iter().enumerate() {
            match self.sources(reading) {
                Ok(Some(Sources { first_began, last_ended })) => {
                    let sight = Sight {
                        place,
                        began: reading.began,
                        ended: reading.ended,
                        floor: i128::from(first_began),
                        level: i128::from(last_ended),
                    };
                    by_cache.entry((reading.mount, reading.thing, reading.way)).or_default().push(sight);
                    by_mount.entry((reading.mount, reading.thing)).or_default().push(sight);
                }
                Ok(None) => {}
                Err(fault) => verdict.faults.push(fault),
            }
            verdict.hot += u64::from(self.is_hot(reading));
        }
        for sights in by_cache.into_values() {
            verdict.faults.extend(went_back(sights).map(|(before, after)| Fault::WentBack {
                reading: history.readings[after],
                before: history.readings[before],
            }));
        }
        verdict.caches_apart = by_mount.into_values().map(|sights| went_back(sights).count() as u64).sum();
        let mut stamps: BTreeMap<(usize, u64), Vec<Sight>> = BTreeMap::new();
        for (place, stamp) in history.stamps.iter().enumerate() {
            let Stamp { began, ended, ctime, .. } = *stamp;
            let sight = Sight { place, began, ended, floor: ctime, level: ctime };
            stamps.entry((stamp.mount, stamp.ino)).or_default().push(sight);
        }
        for sights in stamps.into_values() {
            verdict.faults.extend(went_back(sights).map(|(before, after)| Fault::TimeWentBack {
                stamp: history.stamps[after],
                before: history.stamps[before],
            }));
        }
        verdict
    }

    /// `None` for what proves nothing.
    #[allow(clippy::result_large_err, reason = "a fault ends the test")]
    fn sources(&self, reading: &Reading) -> Result<Option<Sources>, Fault> {
        let nothing = Past::default();
        let past = self.0.get(&reading.thing).unwrap_or(&nothing);
        let replaced = past.replaced_before(reading.began);
        let bound = replaced.map_or(0, |change| change.began);
        let given = || past.given(reading.value).filter(|change| change.began <= reading.ended);
        let possible = || given().filter(|change| change.ended >= bound);
        // The kernel has the bytes of its own mount's write in its pages before the call is over, and drops them with
        // these pages when another mount's write comes first.
        let is_own = |change: &Change| {
            reading.way == Way::Pages && change.mount == reading.mount && change.ended >= reading.began
        };
        let first_began = possible().map(|change| if is_own(change) { 0 } else { change.began }).min();
        let last_ended = possible().map(|change| change.ended).max();
        if let (Some(first_began), Some(last_ended)) = (first_began, last_ended) {
            return Ok(Some(Sources { first_began, last_ended }));
        }
        // A read goes from page to page, on every file system: one that overlaps a truncation ends anywhere.
        let is_cut = matches!(reading.thing, Thing::Size(_)) && reading.way == Way::Pages;
        if is_cut && past.changes.iter().any(|change| change.ended >= reading.began && change.began <= reading.ended) {
            return Ok(None);
        }
        match replaced {
            Some(replaced_by) if given().next().is_some() => {
                Err(Fault::Stale { reading: *reading, replaced_by: *replaced_by })
            }
            _ => Err(Fault::FromNowhere { reading: *reading }),
        }
    }

    fn is_hot(&self, reading: &Reading) -> bool {
        let replaced = self.0.get(&reading.thing).and_then(|past| past.replaced_before(reading.began));
        replaced.is_some_and(|change| change.mount != reading.mount && change.ended + SHORTLY > reading.began)
    }
}

impl Past {
    fn arrange(&mut self) {
        self.changes.sort_by_key(|change| (change.ended, change.began));
        let mut latest = 0;
        for (place, change) in self.changes.iter().enumerate() {
            if change.began >= self.changes[latest].began {
                latest = place;
            }
            self.latest.push(latest);
            self.by_value.entry(change.value).or_default().push(place);
        }
    }

    /// Of the changes that had ended before `moment` the one that began last: whatever ended before that is gone.
    fn replaced_before(&self, moment: Moment) -> Option<&Change> {
        let ended = self.changes.partition_point(|change| change.ended < moment);
        ended.checked_sub(1).map(|last| &self.changes[self.latest[last]])
    }

    fn given(&self, value: u64) -> impl Iterator<Item = &Change> {
        self.by_value.get(&value).into_iter().flatten().map(|place| &self.changes[*place])
    }
}

/// Something seen at a place of the history. Whoever sees `floor` must never after it see what is below in `level`.
#[derive(Clone, Copy)]
struct Sight {
    place: usize,
    began: Moment,
    ended: Moment,
    floor: i128,
    level: i128,
}

/// Pairs of sights of which the second began after the first had ended, and shows what was before.
fn went_back(mut sights: Vec<Sight>) -> impl Iterator<Item = (usize, usize)> {
    let mut ends = sights.clone();
    sights.sort_by_key(|sight| sight.began);
    ends.sort_by_key(|sight| sight.ended);
    let mut ends = ends.into_iter().peekable();
    let mut highest: Option<Sight> = None;
    sights.into_iter().filter_map(move |sight| {
        while let Some(over) = ends.next_if(|over| over.ended < sight.began) {
            if highest.is_none_or(|highest| over.floor > highest.floor) {
                highest = Some(over);
            }
        }
        let before = highest?;
        (sight.level < before.floor).then_some((before.place, sight.place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: Thing = Thing::Name(0);

    fn change(value: u64, began: Moment, ended: Moment) -> Change {
        Change { thing: X, value, mount: 0, began, ended }
    }

    fn reading(value: u64, began: Moment, ended: Moment) -> Reading {
        Reading { thing: X, value, way: Way::Names, mount: 1, began, ended }
    }

    fn faults(changes: &[Change], readings: &[Reading]) -> Vec<Fault> {
        let history = History { readings: readings.to_vec(), ..History::default() };
        Judge::new(changes).judge(&history).faults
    }

    #[test]
    fn what_the_last_complete_change_left_is_right() {
        let changes = [change(1, 0, 0), change(2, 10, 20)];
        assert!(faults(&changes, &[reading(1, 5, 9), reading(2, 21, 22)]).is_empty());
    }

    #[test]
    fn a_change_under_way_shows_or_does_not() {
        let changes = [change(1, 0, 0), change(2, 10, 20)];
        assert!(faults(&changes, &[reading(1, 12, 13), reading(2, 14, 15)]).is_empty());
        assert!(faults(&changes, &[reading(1, 19, 30)]).is_empty());
        assert!(faults(&changes, &[reading(2, 5, 10)]).is_empty());
    }

    #[test]
    fn one_stale_reading_in_a_long_history_is_found() {
        let changes: Vec<_> = (0..1000).map(|n| change(n, n * 100, n * 100 + 10)).collect();
        let mut readings: Vec<_> = (0..1000).map(|n| reading(n, n * 100 + 20, n * 100 + 30)).collect();
        assert!(faults(&changes, &readings).is_empty());
        readings[500].value = 499;
        let found = faults(&changes, &readings);
        assert_eq!(found, [Fault::Stale { reading: readings[500], replaced_by: changes[500] }]);
    }

    #[test]
    fn the_future_and_what_never_was_are_found() {
        let changes = [change(1, 0, 0), change(2, 10, 20)];
        let (future, never) = (reading(2, 5, 9), reading(3, 30, 31));
        assert_eq!(faults(&changes, &[future]), [Fault::FromNowhere { reading: future }]);
        assert_eq!(faults(&changes, &[never]), [Fault::FromNowhere { reading: never }]);
    }

    #[test]
    fn calls_that_overlap_may_have_taken_effect_in_either_order() {
        let changes = [change(1, 0, 0), change(2, 10, 20), change(3, 15, 40)];
        assert!(faults(&changes, &[reading(2, 50, 51)]).is_empty());
        assert!(faults(&changes, &[reading(3, 50, 51)]).is_empty());
        // 2 had ended before 4 began.
        let changes = [changes[0], changes[1], changes[2], change(4, 30, 35)];
        assert!(matches!(faults(&changes, &[reading(2, 50, 51)])[..], [Fault::Stale { .. }]));
    }

    #[test]
    fn a_value_that_came_back_is_no_old_one() {
        let changes = [change(0, 0, 0), change(7, 10, 20), change(0, 30, 40)];
        assert!(faults(&changes, &[reading(0, 50, 51)]).is_empty());
        assert!(matches!(faults(&changes, &[reading(0, 22, 25)])[..], [Fault::Stale { .. }]));
    }

    #[test]
    fn a_mount_does_not_go_back_and_two_mounts_may_differ() {
        let changes = [change(1, 0, 0), change(2, 10, 100)];
        let (new, old) = (reading(2, 20, 21), reading(1, 30, 31));
        assert_eq!(faults(&changes, &[new, old]), [Fault::WentBack { reading: old, before: new }]);
        assert!(faults(&changes, &[new, Reading { mount: 2, ..old }]).is_empty());
        assert!(faults(&changes, &[old, reading(2, 32, 33)]).is_empty());
    }

    #[test]
    fn pages_may_show_a_write_of_their_own_mount_that_is_under_way_and_lose_it() {
        let changes = [change(1, 0, 0), Change { mount: 1, ..change(2, 10, 100) }];
        let page = |value, began, ended| Reading { way: Way::Pages, ..reading(value, began, ended) };
        assert!(faults(&changes, &[page(2, 20, 21), page(1, 30, 31)]).is_empty());
        assert_eq!(faults(&changes, &[page(2, 20, 21), page(1, 101, 102)]).len(), 1, "not once it is over");
        let elsewhere = |value, began, ended| Reading { mount: 2, ..page(value, began, ended) };
        assert_eq!(faults(&changes, &[elsewhere(2, 20, 21), elsewhere(1, 30, 31)]).len(), 1);
    }

    #[test]
    fn what_lasts_is_all_that_a_later_judge_needs() {
        let changes = [change(1, 0, 0), change(2, 10, 20), change(3, 15, 40)];
        let lasting = Judge::new(&changes).lasting();
        assert_eq!(lasting, changes[1..]);
        assert!(matches!(faults(&lasting, &[reading(1, 50, 51)])[..], [Fault::FromNowhere { .. }]));
        assert!(faults(&lasting, &[reading(2, 50, 51)]).is_empty());
    }

    #[test]
    fn ctime_goes_forward_on_each_mount() {
        let stamp = |ctime, seconds: Moment| {
            let began = seconds * 1_000_000_000;
            Stamp { ino: 1, ctime, mount: 0, began, ended: began + 1 }
        };
        let history = History { stamps: vec![stamp(5, 0), stamp(5, 10), stamp(4, 20)], ..History::default() };
        let found = Judge::new(&[]).judge(&history).faults;
        assert_eq!(found, [Fault::TimeWentBack { stamp: stamp(4, 20), before: stamp(5, 0) }]);
    }
}
