//! Room for sessions. Every start of a mount takes a new session, which is kept for minutes. Something that starts
//! again and again, or a credential in bad hands, would fill the table for everybody.
//!
//! So sessions are bounded for each credential, too. Where there is no room, a session that nobody will miss gives up
//! its place, and who asked is told to try again. Where the whole table is full of sessions in use, the credential with
//! the most of them loses one to a credential that has fewer.

use std::collections::BTreeMap;

use super::{Coordinator, Key, proposals::Origin};
use crate::{
    namespace::{Command, State},
    types::{CredentialId, Instant},
};

/// The sessions there are, and those that are about to be opened.
#[derive(Default)]
struct Census {
    total: usize,
    by_credential: BTreeMap<CredentialId, usize>,
}

impl Census {
    fn add(&mut self, credential: CredentialId) {
        self.total += 1;
        *self.by_credential.entry(credential).or_default() += 1;
    }

    fn of(&self, credential: CredentialId) -> usize {
        self.by_credential.get(&credential).copied().unwrap_or(0)
    }

    /// Who has the most.
    fn largest(&self) -> Option<CredentialId> {
        self.by_credential.iter().max_by_key(|(_, count)| **count).map(|(credential, _)| *credential)
    }
}

impl Coordinator {
    /// That there is room for one more session of this credential. Where there is none, room is made if it can be.
    ///
    /// # Errors
    /// A sentence for whoever asked.
    pub(super) fn room_for_session(
        &mut self,
        now: Instant,
        state: &State,
        credential: CredentialId,
    ) -> Result<(), String> {
        let census = self.census(state);
        let bounds = self.config.sessions;
        let own = census.of(credential);
        let (crowded, reason) = if own >= bounds.per_credential {
            (credential, format!("this credential has {own} sessions, as many as one may have"))
        } else if census.total >= bounds.total {
            let largest = census.largest().unwrap_or(credential);
            // Connected sessions, too, may be there for nothing but to take all places.
            if !self.give_up_one(now, state, largest) && census.of(largest) > own + 1 {
                self.give_up_newest(now, state, largest);
            }
            (largest, format!("the cluster has {} sessions, as many as it takes", census.total))
        } else {
            return Ok(());
        };
        let next = match self.give_up_one(now, state, crowded) {
            true => "one of them makes room",
            false => "it waits until one of them ends, or was not heard of for a while",
        };
        Err(format!("{reason}: {next}"))
    }

    fn census(&self, state: &State) -> Census {
        let mut census = Census::default();
        for (_, session) in state.volumes().flat_map(|volume| volume.sessions()) {
            census.add(session.credential);
        }
        self.opening.values().for_each(|credential| census.add(*credential));
        census
    }

    /// Ends the newest session of the credential that is not about to end.
    fn give_up_newest(&mut self, now: Instant, state: &State, credential: CredentialId) {
        let sessions = state.volumes().flat_map(|volume| volume.sessions().map(|(id, row)| (volume.id(), id, row)));
        let newest = sessions
            .filter(|(_, _, session)| session.credential == credential)
            .filter(|(volume, session, _)| self.members.contains_key(&(*volume, *session)))
            .max_by_key(|(_, _, session)| session.opened);
        if let Some((volume, session, _)) = newest {
            self.give_up(now, (volume, session));
        }
    }

    fn give_up(&mut self, now: Instant, key: Key) {
        if let Some(member) = self.members.get_mut(&key) {
            member.release();
        }
        self.proposals.add_own(Origin::Close, key.0, Command::CloseSessions { sessions: vec![key.1] });
        self.reconsider(now, key);
    }

    /// Ends the session of the credential that was silent for longest, if it is one that nobody will miss. One at a time.
    fn give_up_one(&mut self, now: Instant, state: &State, credential: CredentialId) -> bool {
        let mut silent: Option<(Instant, Key)> = None;
        for volume in state.volumes() {
            let holders = volume.holders();
            for (session, _) in volume.sessions().filter(|(_, session)| session.credential == credential) {
                let key = (volume.id(), session);
                let Some(member) = self.members.get(&key) else { continue };
                if member.closing {
                    return true;
                }
                // Not one that may come back: the hold time is what a connection may be away for.
                let is_missed = member.connection.is_some()
                    || member.is_bound(now)
                    || now.since(member.heard) < self.config.timing.hold
                    || self.uses.has_any(key)
                    || holders.contains(&session);
                if !is_missed && silent.is_none_or(|(heard, _)| member.heard < heard) {
                    silent = Some((member.heard, key));
                }
            }
        }
        let Some((_, key)) = silent else { return false };
        self.give_up(now, key);
        true
    }
}
