//! Delegations and locks of sessions: recalls are passed on to the holder, and everything that a session holds ends
//! when it was not heard of for the hold time.
//!
//! Nothing here must survive a leader. Delegations are in the state, and so is what a predecessor has ended of them in
//! part. Whoever wants a file back asks again and again.

use std::time::Duration;

use super::{Coordinator, Key, proposals::Origin};
use crate::{
    message::mount::ToMount,
    namespace::{Command, State},
    types::{Ino, Instant},
};

impl Coordinator {
    /// A mount wants to see what another session has delegated. Where the holder is not connected its hold time runs.
    pub(super) fn pass_recall_on(&mut self, state: &State, asker: Key, ino: Ino) {
        let Some(held) = state.volume(asker.0).and_then(|volume| volume.delegation(ino)) else { return };
        let holder = self.members.get(&(asker.0, held.session)).filter(|_| held.session != asker.1);
        if let Some(connection) = holder.and_then(|member| member.connection) {
            self.send(connection, ToMount::Recall { ino, grant: held.grant });
        }
    }

    /// What a predecessor has begun to take away from a session is taken away whole, even if the session is heard of
    /// again. Since the first part apply refuses its bytes, under whatever it held.
    pub(super) fn end_remnants(&mut self, state: &State) {
        for volume in state.volumes() {
            for session in volume.holders().into_iter().filter(|session| volume.has_remnants(*session)) {
                self.end_holds((volume.id(), session));
            }
        }
    }

    /// Ends what silent sessions hold. The time until the next one has been silent for too long.
    pub(super) fn end_silent_holds(&mut self, now: Instant, state: &State) -> Option<Duration> {
        let hold = self.config.timing.hold;
        let mut next: Option<Duration> = None;
        for volume in state.volumes() {
            for session in volume.holders() {
                let key = (volume.id(), session);
                let Some(member) = self.members.get(&key).filter(|member| !member.closing) else { continue };
                let silent = now.since(member.heard);
                if silent < hold {
                    next = Some(next.map_or(hold - silent, |next| next.min(hold - silent)));
                } else {
                    self.end_holds(key);
                }
            }
        }
        next
    }

    fn end_holds(&mut self, key: Key) {
        if self.ending_holds.insert(key) {
            self.proposals.add_own(Origin::EndHolds { key }, key.0, Command::EndHolds { session: key.1 });
        }
    }
}
