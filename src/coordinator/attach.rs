//! How a mount gets a session on a connection, and is sent what it lacks.

use super::{Coordinator, Phase, calls::Call, member::Member, proposals::Origin, stream::Stream};
use crate::{
    limits,
    message::mount::{Hello, MountPlace, Refusal, ToMount, Welcome},
    namespace::{Command, State, Volume},
    types::{Access, ConnectionId, Instant, LogIndex, SessionId},
};

/// Bits of what this end can do beyond the protocol's version; none is defined yet.
const FEATURES: u64 = 0;

/// How many times as much of the log is kept while a mount receives a snapshot: it must find what followed when it has it.
const RETAINED_FOR_SNAPSHOTS: usize = 4;

impl Coordinator {
    /// The first message of a connection is here.
    pub(super) fn hello(&mut self, now: Instant, state: &State, connection: ConnectionId, hello: Hello) {
        if let Some(entry) = self.connections.get_mut(&connection) {
            entry.phase = Phase::Waiting(hello);
        }
        if self.leads() {
            self.greet(now, state, connection);
        }
    }

    /// Answers a `Hello`, or proposes the session that it needs first.
    pub(super) fn greet(&mut self, now: Instant, state: &State, connection: ConnectionId) {
        let Some(waiting) = self.connections.get(&connection) else { return };
        let Phase::Waiting(hello) = &waiting.phase else { return };
        let hello = hello.clone();
        if hello.protocol.max < limits::PROTOCOL_MIN || limits::PROTOCOL_MAX < hello.protocol.min {
            let reason = format!(
                "this node speaks protocol versions {} to {}, the mount {} to {}: upgrade the older of the two",
                limits::PROTOCOL_MIN,
                limits::PROTOCOL_MAX,
                hello.protocol.min,
                hello.protocol.max
            );
            // A mount that lives was welcomed by a node that it understands, and which may lead again.
            let refusal = if hello.session.is_some() { Refusal::Busy } else { Refusal::Permanent };
            return self.refuse(connection, refusal, reason);
        }
        if let Some(refusal) = self.lacks_level(state, hello.level_max) {
            return self.refuse_when_sure(connection, refusal, level_reason(hello.level_max));
        }
        let Some(volume) = state.volume(waiting.grant.volume) else {
            let name = &waiting.grant.name;
            let reason = match state.volume_named(name) {
                Some(_) => format!("the volume {name:?} of this credential was deleted; another has its name now"),
                None => format!("the volume {name:?} of this credential was deleted, or is not known"),
            };
            return self.refuse_when_sure(connection, Refusal::Permanent, reason);
        };
        let owned = |session: SessionId| volume.session_of(hello.mount).is_some_and(|own| own == session);
        match hello.session {
            Some(session) if owned(session) => self.attach(now, state, connection, hello, volume, session),
            Some(session) => {
                let reason = format!("session {session} has ended: it was not heard of for too long, or has left");
                self.refuse_when_sure(connection, Refusal::SessionExpired, reason);
            }
            None => match volume.session_of(hello.mount) {
                Some(session) => self.attach(now, state, connection, hello, volume, session),
                None => self.propose_session(now, state, connection, volume, &hello),
            },
        }
    }

    /// Why a mount of this level cannot be a session. One that comes while a raise is on its way into the log would get
    /// between the check and the raise (docs/protocol.md R73-levels): it comes again.
    fn lacks_level(&self, state: &State, level_max: u16) -> Option<Refusal> {
        match level_max {
            level if level < state.feature_level() => Some(Refusal::Permanent),
            level if level < self.proposals.raising() => Some(Refusal::Busy),
            _ => None,
        }
    }

    /// What the entry that opens a session was refused with ends the connections that wait for it.
    pub(super) fn session_refused(&mut self, connections: Vec<ConnectionId>, reason: &str) {
        for connection in connections {
            self.refuse(connection, Refusal::Busy, format!("no session could be opened: {reason}"));
        }
    }

    /// Says what the state has against a mount, but only once a majority has confirmed, after the mount asked, that
    /// this node leads. A leader that was replaced and has not noticed yet has an older state, and knows nothing of
    /// newer sessions.
    fn refuse_when_sure(&mut self, connection: ConnectionId, refusal: Refusal, reason: String) {
        let Some(entry) = self.connections.get_mut(&connection) else { return };
        match entry.sure_behind {
            Some(round) if round <= self.confirmation.confirmed => self.refuse(connection, refusal, reason),
            Some(_) => {}
            None => {
                entry.sure_behind = Some(self.confirmation.last_ticket + 1);
                self.ask_for_round();
            }
        }
    }

    fn propose_session(
        &mut self,
        now: Instant,
        state: &State,
        connection: ConnectionId,
        volume: &Volume,
        hello: &Hello,
    ) {
        let (mount, level_max) = (hello.mount, hello.level_max);
        let key = (volume.id(), mount);
        let Some(credential) = self.connections.get(&connection).map(|entry| entry.credential) else { return };
        if self.opening.contains_key(&key) {
            return;
        }
        if let Err(reason) = self.room_for_session(now, state, credential) {
            return self.refuse(connection, Refusal::Busy, reason);
        }
        self.opening.insert(key, credential);
        let origin = Origin::Open { volume: volume.id(), mount };
        self.proposals.add_own(origin, volume.id(), Command::OpenSession { mount, credential, level_max });
    }

    fn attach(
        &mut self,
        now: Instant,
        state: &State,
        connection: ConnectionId,
        hello: Hello,
        volume: &Volume,
        session: SessionId,
    ) {
        let key = (volume.id(), session);
        let at = volume.applied();
        if hello.applied > at {
            let reason = format!(
                "the mount has applied entry {}, the cluster only has {at} of this volume: it was set back, mount anew",
                hello.applied
            );
            return self.refuse_when_sure(connection, Refusal::Permanent, reason);
        }
        // A session opened since this leadership began has never had a lease.
        let member = self.members.entry(key).or_insert_with(|| Member::new(now, Instant(0)));
        if member.closing {
            // Its end is on its way into the log; whoever asks is answered behind it.
            return;
        }
        if !member.admits(hello.generation) {
            let reason = format!("a connection of this mount newer than generation {} exists", hello.generation);
            return self.refuse(connection, Refusal::Protocol, reason);
        }
        if let Some(older) = member.connection {
            self.refuse(older, Refusal::Protocol, "a newer connection of this mount exists".to_owned());
        }
        let Some(member) = self.members.get_mut(&key) else { return };
        member.attach(now, connection, hello.generation, at);
        let may_change = self.connections.get(&connection).is_some_and(|entry| entry.grant.access == Access::ReadWrite);
        member.place = Some(MountPlace { read_only: hello.place.read_only || !may_change, ..hello.place });
        self.uses.forget(key);
        if let Err(reason) = self.uses.add(key, volume, hello.orphans) {
            return self.refuse(connection, Refusal::Busy, reason);
        }
        let follows = hello.applied > LogIndex(0) && self.history.reaches(volume.id(), hello.applied);
        let stream = if follows || hello.applied == at {
            Stream::behind(key, hello.applied)
        } else {
            Stream::from_snapshot(key, volume, self.config.retention.piece_bytes)
        };
        if let Some(entry) = self.connections.get_mut(&connection) {
            entry.phase = Phase::Attached(stream);
        }
        let welcome = Welcome {
            protocol: limits::PROTOCOL_MAX.min(hello.protocol.max),
            features: hello.features & FEATURES,
            volume: volume.id(),
            session,
            caught_up_at: at,
            stamp: self.proposals.tell_time(),
            stores: Self::stores(state),
            inline_bytes_max: limits::INLINE_BYTES_MAX as u32,
            space: self.stores.shown(state),
        };
        self.send(connection, ToMount::Welcome(welcome));
        self.pump(connection);
    }

    /// Sends what the mount lacks, as far as flow control allows, and the answers that follow from it.
    pub(super) fn pump(&mut self, connection: ConnectionId) {
        let Some(Phase::Attached(stream)) = self.connections.get_mut(&connection).map(|entry| &mut entry.phase) else {
            return;
        };
        while let Some(message) = stream.next(&self.history) {
            self.outputs.push_back(super::Output::Send { connection, message });
        }
        let Some(member) = self.members.get_mut(&stream.key) else { return };
        let due = member.calls.iter().filter_map(|(&sequence, call)| match *call {
            Call::Complete { index, outcome } if stream.includes(index) => Some((index, sequence, outcome)),
            _ => None,
        });
        let mut due: Vec<_> = due.collect();
        due.sort_unstable_by_key(|(index, sequence, _)| (*index, *sequence));
        for (index, sequence, outcome) in due {
            member.calls.remove(&sequence);
            self.outputs
                .push_back(super::Output::Send { connection, message: ToMount::Answer { sequence, index, outcome } });
        }
    }

    pub(super) fn piece_received(&mut self, connection: ConnectionId) {
        if let Some(Phase::Attached(stream)) = self.connections.get_mut(&connection).map(|entry| &mut entry.phase) {
            if stream.piece_received() {
                self.pump(connection);
            } else {
                let reason = "a piece of a snapshot was confirmed that was not sent".to_owned();
                self.refuse(connection, Refusal::Protocol, reason);
            }
        }
    }

    /// Keeps the history within its bound, and lets go of mounts that would need what is no longer in it.
    pub(super) fn trim_history(&mut self) {
        let streams = || {
            self.connections.iter().filter_map(|(connection, entry)| match &entry.phase {
                Phase::Attached(stream) => Some((*connection, stream)),
                _ => None,
            })
        };
        let busy = streams().any(|(_, stream)| !stream.sends_entries());
        let retained = self.config.retention.log_bytes;
        self.history.trim(if busy { RETAINED_FOR_SNAPSHOTS * retained } else { retained });
        // What was sent and is not acknowledged may still wait in a queue on its way to the mount: it is bounded by the
        // same bytes. Who is further behind is cut off, comes back, and is brought up to date at its own pace.
        let lost: Vec<ConnectionId> = streams()
            .filter(|(_, stream)| {
                let behind = self.members.get(&stream.key).and_then(Member::oldest_unacknowledged);
                let needed = behind.map(|index| LogIndex(index.0.saturating_sub(1)));
                stream.sends_entries() && needed.is_some_and(|needed| !self.history.reaches(stream.volume(), needed))
            })
            .map(|(connection, _)| connection)
            .collect();
        for connection in lost {
            self.close(connection);
        }
    }
}

fn level_reason(level_max: u16) -> String {
    format!(
        "the cluster uses, or is about to use, more than feature level {level_max}, which is all that this mount's program \
         understands: upgrade it"
    )
}
