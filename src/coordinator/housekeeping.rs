//! What follows from applied entries and from the passing of time: pushing, completing, leases, ended sessions, orphans.

use std::{collections::BTreeMap, time::Duration};

use super::{AppliedEntry, Coordinator, Key, Output, Phase, Role, calls::Call, member::Member, proposals::Origin};
use crate::{
    limits,
    message::mount::{Refusal, ToMount},
    namespace::{Command, Reply, Session, State, Volume},
    types::{ConnectionId, Ino, Instant, LogIndex, MountId, SessionId, Term, VolumeId},
};

/// Orphans that one entry names: with all that hangs on them they are rows enough.
const REAPED_MAX: usize = limits::REAPED_ROWS_MAX / 2;
/// How many entries one after the other reap within a heartbeat, where there is much.
const REAPS_PER_HEARTBEAT: u32 = 4;
const _: () = assert!(REAPED_MAX <= limits::ENTRY_LIST_MAX);

impl Coordinator {
    /// The state now includes these entries.
    pub(super) fn apply(&mut self, now: Instant, state: &State, term: Term, entries: Vec<AppliedEntry>) {
        for applied in &entries {
            let volume = applied.entry.header.volume;
            if volume != VolumeId(0) {
                self.history.push(volume, applied.index, applied.bytes.clone());
            }
        }
        match self.role {
            Role::Leading { .. } => self.apply_leading(now, state, entries),
            Role::Elected { term: own, predecessor_until } if term >= own => {
                self.become_ready(now, state, own, predecessor_until);
            }
            _ => {}
        }
        self.forget_deleted_volumes(now, state);
        self.trim_history();
    }

    fn apply_leading(&mut self, now: Instant, state: &State, entries: Vec<AppliedEntry>) {
        let mut applied_calls = Vec::new();
        let mut opened = Vec::new();
        for AppliedEntry { index, entry, outcome, session, .. } in entries {
            let key: Key = (entry.header.volume, entry.header.session);
            let of_volume = (key.0, SessionId(0))..=(key.0, SessionId(u64::MAX));
            if key.0 != VolumeId(0) {
                self.members.range_mut(of_volume).for_each(|(_, member)| member.record(now, index));
            }
            match (self.proposals.applied(index), outcome) {
                (
                    Some(Origin::Command { ticket: Some(ticket) } | Origin::Raise { ticket: Some(ticket), .. }),
                    outcome,
                ) => {
                    self.outputs.push_back(Output::Carried { ticket, outcome });
                }
                (Some(Origin::Reap { volume }), _) => {
                    self.reaping.remove(&volume);
                    if self.has_more_to_reap(state, volume, &entry.command) {
                        let next = now.after(self.config.timing.heartbeat / REAPS_PER_HEARTBEAT);
                        self.sweep_at = self.sweep_at.map(|at| at.min(next));
                    }
                }
                // The rest as well, also if the session is heard again: its fence stands for all that it held.
                (Some(origin @ (Origin::EndHolds { .. } | Origin::Close)), Ok(Reply::Unfinished)) => {
                    self.proposals.add_own(origin, key.0, entry.command.clone());
                }
                (Some(Origin::EndHolds { key }), _) => {
                    self.ending_holds.remove(&key);
                }
                _ => {}
            }
            match entry.command {
                Command::Operation(_) => {
                    let sequence = entry.header.sequence;
                    if let Some(member) = self.members.get_mut(&key)
                        && let Some(call) = member.calls.get_mut(&sequence)
                    {
                        *call = Call::Applied { index, outcome };
                        applied_calls.push((key, sequence, index));
                    }
                }
                Command::OpenSession { mount, .. } => opened.push((key.0, mount, session, outcome.err())),
                Command::CloseSessions { sessions } => {
                    sessions.into_iter().for_each(|session| self.end_session(now, state, (key.0, session)));
                }
                _ => {}
            }
        }
        self.push();
        for (key, sequence, index) in applied_calls {
            self.begin_completion(now, key, sequence, index);
        }
        for (volume, mount, session, refusal) in opened {
            self.session_opened(now, state, volume, mount, session, refusal.map(|errno| errno.to_string()));
        }
    }

    /// Sends every attached mount what it lacks: one message for a batch.
    fn push(&mut self) {
        let connections = self.connections_where(|phase| matches!(phase, Phase::Attached(_)));
        connections.into_iter().for_each(|connection| self.pump(connection));
    }

    fn session_opened(
        &mut self,
        now: Instant,
        state: &State,
        volume: VolumeId,
        mount: MountId,
        session: Option<SessionId>,
        refusal: Option<String>,
    ) {
        self.opening.remove(&(volume, mount));
        let of_mount = |(connection, entry): (&ConnectionId, &super::Connection)| match &entry.phase {
            Phase::Waiting(hello) if hello.mount == mount && entry.grant.volume == volume => Some(*connection),
            _ => None,
        };
        let connections: Vec<ConnectionId> = self.connections.iter().filter_map(of_mount).collect();
        match (session, refusal) {
            (Some(session), None) => {
                // Known from here on, also if its mount is gone by now: else it would never end.
                self.members.entry((volume, session)).or_insert_with(|| Member::new(now, Instant(0)));
                connections.into_iter().for_each(|connection| self.greet(now, state, connection));
            }
            (_, refusal) => {
                self.session_refused(connections, refusal.as_deref().unwrap_or("the entry gave none"));
            }
        }
    }

    /// The entry that ends the session is applied.
    fn end_session(&mut self, now: Instant, state: &State, key: Key) {
        if state.volume(key.0).is_some_and(|volume| volume.sessions().any(|(session, _)| session == key.1)) {
            return;
        }
        let Some(member) = self.members.remove(&key) else { return };
        self.uses.forget(key);
        self.completion.forget(key);
        if let Some(connection) = member.connection {
            if member.left {
                self.close(connection);
            } else {
                let reason = format!("session {} was not heard of, or not caught up, for too long", key.1);
                self.refuse(connection, Refusal::SessionExpired, reason);
            }
        }
        self.reconsider(now, key);
        for connection in self.connections_where(|phase| matches!(phase, Phase::Waiting(_))) {
            self.greet(now, state, connection);
        }
    }

    fn forget_deleted_volumes(&mut self, now: Instant, state: &State) {
        let gone = |volume: VolumeId| state.volume(volume).is_none();
        let deleted: Vec<VolumeId> = self.history.volumes().filter(|volume| gone(*volume)).collect();
        if deleted.is_empty() {
            return;
        }
        deleted.into_iter().for_each(|volume| self.history.forget(volume));
        let ended: Vec<Key> = self.members.keys().copied().filter(|key| gone(key.0)).collect();
        for key in ended {
            self.uses.forget(key);
            self.completion.forget(key);
            if let Some(connection) = self.members.remove(&key).and_then(|member| member.connection) {
                self.refuse(connection, Refusal::Permanent, "the volume was deleted".to_owned());
            }
        }
        if !self.leads() {
            return;
        }
        self.opening.retain(|(volume, _), _| !gone(*volume));
        let waiting = self.connections_where(|phase| matches!(phase, Phase::Waiting(_)));
        waiting.into_iter().for_each(|connection| self.greet(now, state, connection));
    }

    /// Completes without those whose lease has run out.
    pub(super) fn let_lapse(&mut self, now: Instant) {
        let lapsed = |key: &Key| self.members.get(key).is_none_or(|member| !member.is_bound(now));
        let lapsed: Vec<Key> = self.completion.blockers().filter(lapsed).collect();
        for key in lapsed {
            if let Some(member) = self.members.get_mut(&key) {
                member.lapse(now, &self.config.timing);
            }
            self.reconsider(now, key);
        }
    }

    /// Asks for a round of heartbeats on behalf of all renewals and refusals that wait, unless one is under way.
    pub(super) fn ask_for_round(&mut self) {
        if self.confirmation.under_way {
            return;
        }
        self.confirmation.under_way = true;
        self.confirmation.last_ticket += 1;
        self.members.values_mut().for_each(Member::ask);
        self.reads.ask();
        self.outputs.push_back(Output::ConfirmLease { ticket: self.confirmation.last_ticket });
    }

    pub(super) fn lease_confirmed(&mut self, now: Instant, state: &State, ticket: u64) {
        if !self.leads() || ticket < self.confirmation.last_ticket || !self.confirmation.under_way {
            return;
        }
        self.confirmation.under_way = false;
        self.confirmation.confirmed = ticket;
        self.members.values_mut().for_each(Member::confirm);
        let keys: Vec<Key> = self.members.keys().copied().collect();
        keys.into_iter().for_each(|key| self.grant(now, state, key));
        self.tell_read_indexes();
        let doubted = self.connections.iter().filter(|(_, entry)| entry.sure_behind.is_some());
        let doubted: Vec<ConnectionId> = doubted.map(|(connection, _)| *connection).collect();
        doubted.into_iter().for_each(|connection| self.greet(now, state, connection));
        let is_asked_again =
            self.connections.values().any(|entry| entry.sure_behind.is_some_and(|round| round > ticket));
        if is_asked_again || self.reads.wait_for_round() || self.members.values().any(Member::waits_for_round) {
            self.ask_for_round();
        }
    }

    /// Answers the session's renewal if it may be answered now.
    pub(super) fn grant(&mut self, now: Instant, state: &State, key: Key) {
        if matches!(self.role, Role::Leading { has_ceded: true, .. }) {
            return;
        }
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(connection) = member.connection else { return };
        if let Some(number) = member.grant(now, &self.config.timing) {
            let stamp = self.proposals.tell_time();
            let message =
                ToMount::Lease { number, stamp, space: self.stores.shown(state), stores: Self::stores(state) };
            self.send(connection, message);
        }
    }

    pub(super) fn sweep_interval(&self) -> Duration {
        10 * self.config.timing.heartbeat
    }

    /// About once a second: ends sessions that are silent or not caught up for too long and what they hold, reaps orphans
    /// that nobody has in use.
    pub(super) fn sweep(&mut self, now: Instant, state: &State) {
        let mut next = self.sweep_interval();
        let mut silent: BTreeMap<VolumeId, Vec<SessionId>> = BTreeMap::new();
        let patience = self.config.timing.session;
        for (&(volume, session), member) in &mut self.members {
            // What it has not seen cannot go. One that was away for as long as it may be has as long again to catch up.
            let is_behind = member.behind_for(now) >= 2 * patience;
            if !member.closing && (is_behind || now.since(member.heard) >= patience) {
                member.release();
                silent.entry(volume).or_default().push(session);
            }
        }
        for (volume, sessions) in silent {
            for sessions in sessions.chunks(limits::ENTRY_LIST_MAX) {
                let sessions = sessions.to_vec();
                self.proposals.add_own(Origin::Close, volume, Command::CloseSessions { sessions });
            }
            let released: Vec<Key> = sessions.into_iter().map(|session| (volume, session)).collect();
            released.into_iter().for_each(|key| self.reconsider(now, key));
        }
        if let Some(hold_ends) = self.end_silent_holds(now, state) {
            next = next.min(hold_ends);
        }
        for volume in state.volumes() {
            let inodes = self.reapable(volume);
            if !inodes.is_empty() && self.reaping.insert(volume.id()) {
                let origin = Origin::Reap { volume: volume.id() };
                self.proposals.add_own(origin, volume.id(), Command::ReapOrphans { inodes });
            }
        }
        for volume in state.deleted_volumes() {
            if self.reaping.insert(volume) {
                self.proposals.add_own(Origin::Reap { volume }, volume, Command::ShrinkVolume);
            }
        }
        self.sweep_at = Some(now.after(next));
    }

    /// Whether the entry, which is applied, had to leave something, or may have.
    fn has_more_to_reap(&self, state: &State, id: VolumeId, command: &Command) -> bool {
        match command {
            Command::ReapOrphans { inodes } => {
                let left = |ino: &Ino| state.volume(id).is_some_and(|volume| volume.inode(*ino).is_some());
                inodes.len() == REAPED_MAX || inodes.last().is_some_and(left)
            }
            _ => state.deleted_volumes().any(|deleted| deleted == id),
        }
    }

    /// Orphans that every session of the volume has seen lose their last name without having them in use. A session that
    /// this leader has not seen yet may have any in use.
    fn reapable(&self, volume: &Volume) -> Vec<Ino> {
        if self.reaping.contains(&volume.id()) {
            return Vec::new();
        }
        let known_through = |(session, row): (SessionId, &Session)| {
            let member = self.members.get(&(volume.id(), session));
            member.map_or(LogIndex(0), |member| member.uses_known_through(row.opened))
        };
        let known_of_all = volume.sessions().map(known_through).min().unwrap_or(LogIndex(u64::MAX));
        let unused = |(ino, since): &(Ino, LogIndex)| *since <= known_of_all && !self.uses.is_used(volume.id(), *ino);
        volume.orphans().filter(unused).map(|(ino, _)| ino).take(REAPED_MAX).collect()
    }
}
