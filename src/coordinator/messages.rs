//! What an attached mount says, one method for each kind of message.

use super::{Coordinator, Key, Output, Phase, calls::Call, proposals::Origin, space::Needs, validate};
use crate::{
    limits,
    message::mount::{Refusal, ToLeader, ToMount},
    namespace::{Command, Operation, Reply, State, Volume},
    types::{Access, ConnectionId, Errno, Ino, Instant, LogIndex, Sequence},
};

/// Calls whose answers one operation may confirm: all that a mount can have open, and those that came in between.
pub(super) const ANSWERED_MAX: usize = 4 * limits::SESSION_CALLS_MAX;

/// Who says something, and where.
#[derive(Clone, Copy)]
struct Speaker {
    connection: ConnectionId,
    key: Key,
    access: Access,
}

impl Coordinator {
    pub(super) fn message(&mut self, now: Instant, state: &State, connection: ConnectionId, message: ToLeader) {
        let Some(entry) = self.connections.get(&connection) else { return };
        match (&entry.phase, message) {
            // What a mount still says to a leader that was is said again to the next one.
            (Phase::Stranded, _) => {}
            (Phase::Silent, ToLeader::Hello(hello)) => self.hello(now, state, connection, hello),
            (Phase::Attached(_), ToLeader::Hello(_)) | (Phase::Silent | Phase::Waiting(_), _) => {
                let reason = "a connection begins with one Hello and waits for its answer".to_owned();
                self.refuse(connection, Refusal::Protocol, reason);
            }
            (Phase::Attached(stream), message) => {
                let speaker = Speaker { connection, key: stream.key, access: entry.grant.access };
                if let Some(member) = self.members.get_mut(&speaker.key) {
                    member.heard = now;
                    self.attached_message(now, state, speaker, message);
                }
            }
        }
    }

    fn attached_message(&mut self, now: Instant, state: &State, speaker: Speaker, message: ToLeader) {
        match message {
            ToLeader::Hello(_) => {}
            ToLeader::Operation { sequence, answered, operation } => {
                self.operation(now, state, speaker, sequence, answered, operation);
            }
            ToLeader::Acknowledge { entries, referenced } => {
                self.acknowledge(now, state, speaker, &entries, referenced);
            }
            ToLeader::Released { orphans } => self.uses.remove(speaker.key, &orphans),
            ToLeader::PieceReceived => self.piece_received(speaker.connection),
            ToLeader::Renew { number } => self.renew(now, state, speaker, number),
            ToLeader::ReadIndex { number } => self.read_index(state, speaker.connection, speaker.key, number),
            ToLeader::Leave => self.leave(now, speaker),
            ToLeader::Recall { ino } => self.pass_recall_on(state, speaker.key, ino),
        }
    }

    fn operation(
        &mut self,
        now: Instant,
        state: &State,
        speaker: Speaker,
        sequence: Sequence,
        answered: Vec<Sequence>,
        mut operation: Operation,
    ) {
        let Some(member) = self.members.get_mut(&speaker.key) else { return };
        // Under way already: its answer goes to the connection that the session then has.
        if member.calls.contains_key(&sequence) || member.closing {
            return;
        }
        if member.calls.len() >= limits::SESSION_CALLS_MAX {
            let reason = format!("more than {} calls of one session at a time", limits::SESSION_CALLS_MAX);
            return self.refuse(speaker.connection, Refusal::Protocol, reason);
        }
        if sequence == Sequence(0) || answered.len() > ANSWERED_MAX {
            let reason = format!("call {sequence} that confirms {} answers makes no sense", answered.len());
            return self.refuse(speaker.connection, Refusal::Protocol, reason);
        }
        let Some(volume) = state.volume(speaker.key.0) else { return };
        if let Some((index, outcome)) = volume.reply(speaker.key.1, sequence) {
            // Carried out before, perhaps under another leader: complete is what is complete under this one.
            member.calls.insert(sequence, Call::Applied { index, outcome });
            return self.begin_completion(now, speaker.key, sequence, index);
        }
        let needs = match self.admit(state, volume, speaker.access, &operation) {
            Ok(needs) => needs,
            Err(errno) => {
                let message = ToMount::Answer { sequence, index: LogIndex(0), outcome: Err(errno) };
                return self.send(speaker.connection, message);
            }
        };
        if let Err(invalid) = validate::check(&operation) {
            return self.refuse(speaker.connection, Refusal::Protocol, format!("call {sequence} carries {invalid}"));
        }
        let members = &self.members;
        let wanted = |origin| match origin {
            Origin::Call { key, sequence } => {
                members.get(&key).is_some_and(|member| member.calls.get(&sequence) == Some(&Call::Queued))
            }
            _ => true,
        };
        if !self.proposals.has_room(operation.weight(), wanted) {
            let reason = "too many calls wait for their place in the log; they are taken when there is room".to_owned();
            return self.refuse(speaker.connection, Refusal::Busy, reason);
        }
        if let Operation::Allocate { at_most, .. } = &mut operation {
            *at_most = needs.space;
        }
        let Some(member) = self.members.get_mut(&speaker.key) else { return };
        member.calls.insert(sequence, Call::Queued);
        let origin = Origin::Call { key: speaker.key, sequence };
        let (volume, session) = speaker.key;
        let command = Command::Operation(operation);
        self.proposals.add(origin, volume, session, sequence, answered, command, needs.at_most);
    }

    /// What the leader refuses without an entry; else what the operation takes.
    fn admit(&self, state: &State, volume: &Volume, access: Access, operation: &Operation) -> Result<Needs, Errno> {
        if access == Access::ReadOnly && !operation.is_locking() {
            return Err(Errno::EROFS);
        }
        let needs = validate::needs(volume, operation);
        self.stores.check(state, needs, self.proposals.space())?;
        Ok(needs)
    }

    fn acknowledge(
        &mut self,
        now: Instant,
        state: &State,
        speaker: Speaker,
        entries: &[LogIndex],
        referenced: Vec<Ino>,
    ) {
        let Some(volume) = state.volume(speaker.key.0) else { return };
        // Holders are recorded before anything completes (docs/protocol.md R15-orphans).
        if let Err(reason) = self.uses.add(speaker.key, volume, referenced) {
            return self.refuse(speaker.connection, Refusal::Busy, reason);
        }
        let Some(member) = self.members.get_mut(&speaker.key) else { return };
        member.acknowledge(entries);
        self.reconsider(now, speaker.key);
        self.grant(now, state, speaker.key);
    }

    fn renew(&mut self, now: Instant, state: &State, speaker: Speaker, number: u64) {
        let applied = state.volume(speaker.key.0).map_or(LogIndex(0), crate::namespace::Volume::applied);
        if let Some(member) = self.members.get_mut(&speaker.key)
            && member.renew(now, number, applied, &self.config.timing)
        {
            self.ask_for_round();
        }
    }

    fn leave(&mut self, now: Instant, speaker: Speaker) {
        let Some(member) = self.members.get_mut(&speaker.key) else { return };
        if !member.closing {
            member.release();
            member.left = true;
            let (volume, session) = speaker.key;
            self.proposals.add_own(Origin::Close, volume, Command::CloseSessions { sessions: vec![session] });
            self.reconsider(now, speaker.key);
        }
    }

    /// Answers the call without an entry.
    pub(super) fn refuse_call(&mut self, key: Key, sequence: Sequence, errno: Errno) {
        let Some(member) = self.members.get_mut(&key) else { return };
        member.calls.remove(&sequence);
        if let Some(connection) = member.connection {
            self.answer(connection, sequence, LogIndex(0), Err(errno));
        }
    }

    /// The call's entry is applied: it is complete, or waits for the roster.
    pub(super) fn begin_completion(&mut self, now: Instant, key: Key, sequence: Sequence, index: LogIndex) {
        if self.completion.begin(now, &self.members, index, key, sequence) {
            self.complete(key, sequence);
        }
    }

    /// The session's acknowledgements, or its place in the roster, changed.
    pub(super) fn reconsider(&mut self, now: Instant, key: Key) {
        for (_, caller, sequence) in self.completion.reconsider(now, &self.members, key) {
            self.complete(caller, sequence);
        }
    }

    /// Answers the call, or keeps the answer until its entry was sent. Without a connection the reply table has it.
    fn complete(&mut self, key: Key, sequence: Sequence) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(Call::Applied { index, outcome }) = member.calls.remove(&sequence) else { return };
        let Some(connection) = member.connection else { return };
        match self.connections.get(&connection).map(|entry| &entry.phase) {
            Some(Phase::Attached(stream)) if stream.includes(index) => {
                self.answer(connection, sequence, index, outcome)
            }
            _ => drop(member.calls.insert(sequence, Call::Complete { index, outcome })),
        }
    }

    fn answer(&mut self, connection: ConnectionId, sequence: Sequence, index: LogIndex, outcome: Result<Reply, Errno>) {
        self.outputs.push_back(Output::Send { connection, message: ToMount::Answer { sequence, index, outcome } });
    }
}
