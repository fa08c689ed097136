//! Which connections of one port may stay when there is no room for all. Each connection belongs to a group: an
//! address, or a credential.
//!
//! A newcomer never waits. When the crowd is full, the group with the most members gives up one of its own, which may
//! be the newcomer. So a flood from one place costs only that place, however long the others stay.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Who gives way in the largest group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GivesWay {
    /// Members are expected to be done soon: who has been here longest has had its time.
    Oldest,
    /// Members stay: who is here keeps its place.
    Newest,
}

/// A bounded number of members. Clones are the same crowd.
#[derive(Clone)]
pub struct Crowd<G> {
    inner: Arc<Mutex<Inner<G>>>,
    gives_way: GivesWay,
    members_max: usize,
}

struct Inner<G> {
    /// By group, in the order in which they came.
    groups: BTreeMap<G, BTreeMap<u64, oneshot::Sender<()>>>,
    count: usize,
    next: u64,
}

/// A place in a crowd; dropped, it is free.
pub struct Place<G: Ord> {
    crowd: Crowd<G>,
    group: G,
    number: u64,
    gone: oneshot::Receiver<()>,
}

/// What became of a newcomer.
#[derive(Debug)]
pub enum Admission<G: Ord> {
    /// It is in; `displaced`: another had to give way.
    Admitted { place: Place<G>, displaced: bool },
    /// Its own group is the largest, and the newest gives way.
    Refused,
}

impl<G: Ord + Clone> Crowd<G> {
    #[must_use]
    pub fn new(members_max: usize, gives_way: GivesWay) -> Self {
        let inner = Inner { groups: BTreeMap::new(), count: 0, next: 0 };
        Self { inner: Arc::new(Mutex::new(inner)), gives_way, members_max: members_max.max(1) }
    }

    #[must_use]
    pub fn admit(&self, group: G) -> Admission<G> {
        let mut inner = self.lock();
        let displaced = inner.count >= self.members_max;
        if displaced && !inner.make_room(&group, self.gives_way) {
            return Admission::Refused;
        }
        let number = inner.next;
        inner.next += 1;
        inner.count += 1;
        let (stays, gone) = oneshot::channel();
        inner.groups.entry(group.clone()).or_default().insert(number, stays);
        drop(inner);
        Admission::Admitted { place: Place { crowd: self.clone(), group, number, gone }, displaced }
    }
}

impl<G: Ord> Crowd<G> {
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().count
    }

    fn lock(&self) -> MutexGuard<'_, Inner<G>> {
        // Its tables change only together, and nothing between can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<G: Ord> Inner<G> {
    fn remove(&mut self, group: &G, number: u64) {
        let Some(members) = self.groups.get_mut(group) else { return };
        self.count -= usize::from(members.remove(&number).is_some());
        if members.is_empty() {
            self.groups.remove(group);
        }
    }
}

impl<G: Ord + Clone> Inner<G> {
    /// Has a member of the largest group go, the newcomer's counted with it. False where the newcomer is to go.
    fn make_room(&mut self, newcomer: &G, gives_way: GivesWay) -> bool {
        let own = self.groups.get(newcomer).map_or(0, BTreeMap::len) + 1;
        let largest = self.groups.iter().max_by_key(|(_, members)| members.len());
        let group = match largest {
            Some((group, members)) if members.len() >= own => group.clone(),
            _ if gives_way == GivesWay::Newest => return false,
            _ => newcomer.clone(),
        };
        let Some(members) = self.groups.get(&group) else { return false };
        let number = match gives_way {
            GivesWay::Oldest => members.first_key_value(),
            GivesWay::Newest => members.last_key_value(),
        };
        let Some((&number, _)) = number else { return false };
        self.remove(&group, number);
        true
    }
}

impl<G: Ord> Place<G> {
    /// Ends when the member has to go. May be awaited again and again.
    pub const fn gone(&mut self) -> &mut oneshot::Receiver<()> {
        &mut self.gone
    }
}

impl<G: Ord> Drop for Place<G> {
    fn drop(&mut self) {
        self.crowd.lock().remove(&self.group, self.number);
    }
}

impl<G> fmt::Debug for Crowd<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crowd").field("members_max", &self.members_max).finish_non_exhaustive()
    }
}

impl<G: Ord> fmt::Debug for Place<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(crowd: &Crowd<u8>, group: u8) -> Place<u8> {
        match crowd.admit(group) {
            Admission::Admitted { place, .. } => place,
            Admission::Refused => panic!("refused"),
        }
    }

    fn has_to_go(place: &mut Place<u8>) -> bool {
        !matches!(place.gone().try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    #[test]
    fn a_flood_costs_its_own_group_the_oldest_and_no_other() {
        let crowd = Crowd::new(4, GivesWay::Oldest);
        let mut quiet = admitted(&crowd, 1);
        let mut flood: Vec<_> = (0..100).map(|_| admitted(&crowd, 2)).collect();
        assert!(!has_to_go(&mut quiet) && crowd.count() == 4);
        let here = flood.iter_mut().map(has_to_go).filter(|gone| !gone).count();
        assert_eq!(here, 3);
        assert!(flood[..97].iter_mut().all(has_to_go), "the newest stay");
        let mut other = admitted(&crowd, 1);
        assert!(!has_to_go(&mut other) && !has_to_go(&mut quiet) && has_to_go(&mut flood[97]));
    }

    #[test]
    fn who_is_of_the_largest_group_is_refused_where_the_newest_gives_way() {
        let crowd = Crowd::new(4, GivesWay::Newest);
        let mut many: Vec<_> = (0..4).map(|_| admitted(&crowd, 2)).collect();
        assert!(matches!(crowd.admit(2), Admission::Refused));
        let mut first = admitted(&crowd, 1);
        assert!(has_to_go(&mut many[3]) && !has_to_go(&mut many[0]));
        let mut second = admitted(&crowd, 1);
        assert!(has_to_go(&mut many[2]));
        assert!(matches!(crowd.admit(1), Admission::Refused), "its group would be the largest");
        assert!(matches!(crowd.admit(3), Admission::Admitted { displaced: true, .. }));
        assert!(!has_to_go(&mut first) && (has_to_go(&mut second) || has_to_go(&mut many[1])));
    }

    #[test]
    fn a_place_that_is_given_up_is_free_once() {
        let crowd = Crowd::new(2, GivesWay::Oldest);
        let displaced = admitted(&crowd, 1);
        let (left, stays) = (admitted(&crowd, 2), admitted(&crowd, 1));
        drop(displaced);
        assert_eq!(crowd.count(), 2);
        drop(left);
        assert_eq!(crowd.count(), 1);
        drop(stays);
        assert_eq!(crowd.count(), 0);
    }
}
