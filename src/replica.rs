//! Consensus of the storage nodes as a pure core over `raft::RawNode`.
//!
//! **Synced before promised.** Raft's messages that promise what must be on the disk (votes, acknowledged entries)
//! never leave the core before `Input::Persisted` says so: `Output::Persist` is all a shell sees of them. The leader's
//! appends leave at once; its own disk counts when it is done.
//!
//! **Own promise, own lease.** Raft's leases count ticks and trust old answers (docs/protocol.md R6-promise). Here the
//! leader sends `Heartbeat { term, round }`, and a voter that acknowledges it drops requests for its vote, and
//! campaigns of its own, until E later by its own clock (`promise`). A restarted node has forgotten what it promised
//! and so promises E from its start. `Rounds` says what a leader may conclude. Leadership that is handed over breaks
//! promises on purpose, so before it the lease goes for the rest of the term.
//!
//! **Time.** Raft counts ticks, at most one for each `handle`: a process that stood still does not make them up.
//! Election timeouts come from `Pace` and replace raft's random ones after every call into it: equal inputs give equal
//! outputs.

mod drive;
pub mod event;
mod greeting;
mod guard;
mod lead;
mod log;
mod membership;
mod memory;
mod pace;
mod receive;
mod rounds;
#[cfg(test)]
mod tests;
mod unsynced;

use std::{collections::VecDeque, fmt};

use bytes::Bytes;
pub use event::{CommittedEntry, Config, DropReason, Input, Output, Peer, ReplicaError, ReplicaStatus, Restart};
use greeting::Greetings;
pub use greeting::Standing;
use log::Log;
use memory::Memory;
use pace::Pace;
use raft::{RawNode, StateRole, eraftpb::Entry};
use rounds::Rounds;
use unsynced::Unsynced;

use crate::{
    limits,
    message::peer::{Hello, Life, Recollection},
    types::{Instant, LogIndex, NodeId, Term},
};

/// Bytes of entries in one append to a peer; a single larger entry travels alone.
const APPEND_BYTES_MAX: u64 = limits::MESSAGE_BYTES_MAX as u64 / 4;
/// Appends to one peer that may be unanswered.
const APPENDS_IN_FLIGHT_MAX: usize = 128;

/// One member of the group.
pub struct Replica {
    config: Config,
    pace: Pace,
    raw: RawNode<Log>,
    outputs: VecDeque<Output>,
    /// Raft may have something ready: looked at when the outputs are drained, so that inputs share batches.
    dirty: bool,
    now: Instant,
    next_tick: Instant,
    /// Until then no vote is given and no campaign begun, except where the leader hands over.
    promise: Instant,
    rounds: Rounds,
    unsynced: Unsynced,
    /// The last entry handed out as committed, or in an installed snapshot.
    delivered: u64,
    /// What the last `Output::Leadership` said.
    announced: (Option<NodeId>, Term, bool),
    /// The term in which this node campaigned without waiting for promises.
    early_term: Option<u64>,
    /// Campaigns since a leader was last known.
    tries: u32,
    /// When the joint configuration was entered, or this leadership found it.
    joint_since: Option<Instant>,
    snapshots: lead::Snapshots,
    /// Appends are left unanswered.
    refuses: bool,
    memory: Memory,
    greetings: Greetings,
}

impl Replica {
    /// Starts from what the disk holds. `Restart::applied` may lie ahead of the log: a snapshot was installed and the
    /// process ended before the log was reset.
    ///
    /// # Errors
    /// `ReplicaError` where log, state and membership contradict each other or cannot be read.
    pub fn open(now: Instant, config: Config, restart: Restart) -> Result<Self, ReplicaError> {
        let form = |what| move |reason| ReplicaError::Form { what, reason };
        let pace = Pace::new(&config.timing);
        let was_member = restart.hard_state.is_some();
        let (applied, applied_term) = (restart.applied.0.0, restart.applied.1.0);
        // A node that is to receive its first snapshot does not know yet that it is a member.
        let membership = if restart.membership.is_empty() {
            raft::eraftpb::ConfState::default()
        } else {
            guard::conf_state(&restart.membership).map_err(form("the membership"))?
        };
        let (mut hard_state, mut memory) = match &restart.hard_state {
            Some(bytes) => Memory::read(bytes).map_err(form("the hard state"))?,
            None => Default::default(),
        };
        memory.boot += 1;
        let mut log = read_log(&restart)?;
        // A snapshot was installed and the log not yet reset: what the log holds is older, or was never committed.
        let is_void = log.term_of(applied) != Some(applied_term);
        if is_void {
            log.reset(applied, applied_term);
        }
        let last_term = log.term_of(log.last()).unwrap_or(applied_term);
        if hard_state.term < last_term {
            (hard_state.term, hard_state.vote) = (last_term, 0);
        }
        // Commits alone are not worth a sync: the disk may know an older one, or one of entries that a crash cut off.
        hard_state.commit = hard_state.commit.clamp(applied, log.last());
        let term = hard_state.term;
        let hello = Hello {
            life: Life { boot: memory.boot, nonce: config.nonce },
            term: Term(term),
            last: LogIndex(log.last()),
            recollection: if memory.is_forgetful { Recollection::Lost } else { Recollection::Whole },
        };
        (log.hard_state, log.membership, log.applied) = (hard_state, membership, applied);
        let raft_config = raft_config(&config, &pace, applied);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, log, &logger).map_err(|error| ReplicaError::Raft(error.to_string()))?;
        let mut replica = Self {
            config,
            pace,
            raw,
            outputs: VecDeque::new(),
            dirty: true,
            now,
            next_tick: now.after(pace.tick),
            // A node that never wrote a term never acknowledged a heartbeat: it has nothing to keep.
            promise: if was_member { now.after(config.timing.election) } else { now },
            rounds: Rounds::default(),
            unsynced: Unsynced::new(term),
            delivered: applied,
            announced: (None, Term(term), false),
            early_term: None,
            tries: 0,
            joint_since: None,
            snapshots: lead::Snapshots::default(),
            refuses: false,
            memory,
            greetings: Greetings::new(now, hello),
        };
        // Nobody hears of this life before the disk has its number.
        let reset = is_void.then_some((LogIndex(applied), Term(applied_term)));
        replica.greetings.begins_with = Some(replica.persist_alone(reset));
        replica.settle();
        Ok(replica)
    }

    /// The encoded membership of a cluster that begins with these voters.
    #[must_use]
    pub fn membership_of(voters: &[NodeId]) -> Bytes {
        membership::encode(&membership::of_voters(voters))
    }

    /// Takes what happened. Never blocks, never fails.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.now = self.now.max(now);
        self.dirty = true;
        match input {
            Input::Persisted { number } => self.persisted(number),
            Input::Raft { from, bytes } => self.receive(from, &bytes),
            Input::Heartbeat { from, term, round, marks, alive } => self.promise_to(from, term, round, marks, &alive),
            Input::Hello { from, hello } if greeting::is_sensible(&hello) => self.greet(from, hello),
            Input::Hello { from, .. } => {
                let reason = "its hello names numbers that are never reached".to_owned();
                self.outputs.push_back(Output::Refused { from, reason });
            }
            Input::Greeting { from, greeting } => self.greeted(from, greeting),
            Input::HeartbeatAcknowledged { from, term, round } => self.acknowledged(from, term, round),
            Input::PeerLost { peer } => self.peer_lost(peer),
            Input::Propose { token, data } => self.propose(token, data),
            Input::ChangeMembership { token, add_learners, promote, remove } => {
                self.change_membership(token, &add_learners, &promote, &remove);
            }
            Input::Applied { index } => {
                let log = self.raw.mut_store();
                log.applied = log.applied.max(index.0);
                self.catch_up_applied();
            }
            Input::Compact { through } => {
                let through = through.0.min(self.raw.raft.raft_log.applied).min(self.raw.store().applied);
                self.raw.mut_store().compact(through);
            }
            Input::Transfer { to } => self.transfer(to),
            Input::Refuse(refuses) => self.refuses = refuses,
            Input::ConfirmLease { ticket } => self.confirm_lease(ticket),
            Input::SnapshotInstalled { index, term, membership } => self.installed(index.0, term.0, &membership),
            Input::Tick => {}
        }
        self.settle();
        self.pass_time();
    }

    /// What is to be done next. Several inputs handled before a poll share one batch of the log.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() && self.dirty {
            self.dirty = false;
            if self.standing() != Standing::Forgetful {
                self.drive();
            }
        }
        self.outputs.pop_front()
    }

    /// When `handle` wants `Tick`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_leading() && !self.rounds.is_revoked() {
            Some(self.next_tick.min(self.rounds.next_at))
        } else {
            Some(self.next_tick)
        }
    }

    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let raft = &self.raw.raft;
        let membership = &self.raw.store().membership;
        let voters = membership::voters(membership);
        let peers = membership::members(membership).into_iter().map(|id| {
            let matched = raft.prs().get(id).map(|progress| LogIndex(progress.matched));
            Peer {
                id: NodeId(id),
                voter: voters.contains(&id),
                matched: matched.filter(|_| self.is_leading()),
                reachable: self.is_leading().then(|| self.is_reachable(NodeId(id))),
            }
        });
        ReplicaStatus {
            leader: self.announced.0,
            term: Term(raft.term),
            leading: self.is_leading(),
            standing: self.standing(),
            committed: LogIndex(raft.raft_log.committed),
            last: LogIndex(raft.raft_log.last_index()),
            peers: peers.collect(),
        }
    }

    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The encoded membership as of the last entry that was applied; goes with snapshots of the state.
    #[must_use]
    pub fn membership(&self) -> Bytes {
        membership::encode(&self.raw.store().membership)
    }

    /// The entries behind `after` up to `through` as `CommittedEntry::data` has them (empty for raft's own), in order;
    /// `None` when some of them are not in memory. What is not committed must not be asked for.
    #[must_use]
    pub fn entries(
        &self,
        after: LogIndex,
        through: LogIndex,
    ) -> Option<impl Iterator<Item = (LogIndex, Term, Bytes)> + '_> {
        let log = self.raw.store();
        (after.0 >= log.compacted().0 && through.0 <= log.last()).then(|| {
            (after.0 + 1..=through.0)
                .filter_map(|index| log.get(index))
                .map(|entry| (LogIndex(entry.index), Term(entry.term), data_of(entry)))
        })
    }

    /// Up to where the log may be cut now that the state up to `state_persisted` is synced: `retained` bytes of it stay for
    /// those that lag, and more for a peer that is fetching a snapshot. `None`: nothing worth cutting.
    #[must_use]
    pub fn compaction_point(&self, state_persisted: LogIndex, retained: usize) -> Option<(LogIndex, Term)> {
        let log = self.raw.store();
        let limit = state_persisted.0.min(log.applied).min(self.raw.raft.raft_log.applied);
        let fetched = self.snapshots.oldest().unwrap_or(u64::MAX);
        let point = log
            .compaction_point(limit, 4 * retained)
            .into_iter()
            .chain(log.compaction_point(limit.min(fetched), retained))
            .max()?;
        Some((LogIndex(point.0), Term(point.1)))
    }

    fn pass_time(&mut self) {
        if self.now >= self.next_tick {
            self.next_tick = self.next_tick.after(self.pace.tick);
            if self.next_tick <= self.now {
                self.next_tick = self.now.after(self.pace.tick);
            }
            self.tick();
            self.settle();
        }
        if self.is_leading() && self.now >= self.rounds.next_at {
            self.begin_round();
        }
        self.confirm_leases();
    }

    fn tick(&mut self) {
        // A disk that does not finish a batch within E counts as lost, and the node with it.
        let is_stalled = self.unsynced.tick() > self.pace.election;
        self.tick_greetings();
        if self.standing() == Standing::Forgetful {
            return;
        }
        if self.is_leading() {
            if is_stalled {
                self.step_down();
                return;
            }
            self.raw.tick();
            self.tick_leader();
            return;
        }
        let raft = &self.raw.raft;
        let would_campaign = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        // Whoever is alone leads as soon as it campaigns, and raft ends a leader whose log is not all on the disk:
        // `campaign_if_alone` looks at that.
        let may_not =
            self.now < self.promise || is_stalled || self.unsynced.has_reset() || !self.takes_part() || self.is_alone();
        if !(would_campaign && may_not) {
            self.raw.tick();
        }
        self.campaign_if_alone();
    }

    /// It is the only voter.
    fn is_alone(&self) -> bool {
        let membership = &self.raw.store().membership;
        membership.get_voters() == [self.config.id.0] && !membership::is_joint(membership)
    }

    /// A lone voter asks nobody. It may not campaign before its disk has all that its log has.
    fn campaign_if_alone(&mut self) {
        let raft = &self.raw.raft;
        let is_synced = self.unsynced.is_empty() && raft.raft_log.persisted == raft.raft_log.last_index();
        if !self.is_alone()
            || !self.takes_part()
            || self.is_leading()
            || !is_synced
            || self.unsynced.ticks() > self.pace.election
        {
            return;
        }
        let keeps_promise = self.now >= self.promise;
        // Refused only where changes of membership wait to be applied; the next tick tries again.
        if self.raw.campaign().is_ok() && self.is_leading() && !keeps_promise {
            self.early_term = Some(self.raw.raft.term);
        }
        self.settle();
    }

    /// What must follow every call into raft: a timeout that no random number chose, and the word about leadership.
    fn settle(&mut self) {
        let id = self.config.id;
        let voters = membership::voters(&self.raw.store().membership);
        let rank = voters.iter().position(|voter| *voter == id.0).unwrap_or(0);
        let term = self.raw.raft.term;
        let timeout = self.pace.timeout(self.config.seed, id, rank, voters.len(), term);
        let raft = &mut self.raw.raft;
        raft.set_randomized_election_timeout(timeout);
        let is_candidate = matches!(raft.state, StateRole::PreCandidate | StateRole::Candidate);
        if is_candidate && raft.election_elapsed == 0 {
            // A campaign has just begun. Should it fail, the next is not a whole E away.
            self.tries = self.tries.saturating_add(1);
            raft.election_elapsed = timeout - self.pace.retry(rank, voters.len(), term, self.tries);
        }
        if raft.leader_id != 0 {
            self.tries = 0;
        }
        if self.is_leading() && !voters.contains(&id.0) {
            self.step_down();
            return;
        }
        self.announce();
    }

    fn announce(&mut self) {
        let raft = &self.raw.raft;
        let leader = Some(NodeId(raft.leader_id)).filter(|leader| leader.0 != 0);
        let current = (leader, Term(raft.term), self.is_leading());
        if current == self.announced {
            return;
        }
        let began = current.2 && (current.1, current.2) != (self.announced.1, self.announced.2);
        let ended = self.announced.2 && !current.2;
        self.announced = current;
        let timing = &self.config.timing;
        let is_early = self.early_term == Some(current.1.0);
        self.outputs.push_back(Output::Leadership {
            leader,
            term: current.1,
            leading: current.2,
            attach_grace: if is_early { timing.lease } else { timing.attach_grace() },
        });
        if began || ended {
            self.rounds.reset(self.now);
            self.greetings.leadership_changed();
            self.snapshots = lead::Snapshots::default();
            let is_joint = membership::is_joint(&self.raw.store().membership);
            self.joint_since = Some(self.now).filter(|_| is_joint);
        }
    }

    fn step_down(&mut self) {
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, raft::INVALID_ID);
        self.settle();
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("id", &self.config.id).field("status", &self.status()).finish_non_exhaustive()
    }
}

fn raft_config(config: &Config, pace: &Pace, applied: u64) -> raft::Config {
    raft::Config {
        id: config.id.0,
        election_tick: pace.election,
        heartbeat_tick: pace.heartbeat,
        applied,
        max_size_per_msg: APPEND_BYTES_MAX,
        max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
        check_quorum: true,
        pre_vote: true,
        min_election_tick: pace.election,
        max_election_tick: pace.timeout_max() + 1,
        max_uncommitted_size: limits::UNCOMMITTED_BYTES_MAX,
        ..raft::Config::default()
    }
}

/// What was proposed by the encoded raft entry `bytes`; empty for raft's own entries.
///
/// # Errors
/// Why the bytes are no entry.
pub fn proposed_by(bytes: &Bytes) -> Result<Bytes, String> {
    guard::entry(bytes).map(|entry| data_of(&entry))
}

/// What was proposed; raft's own entries have nothing for the state.
fn data_of(entry: &Entry) -> Bytes {
    match entry.get_entry_type() {
        raft::eraftpb::EntryType::EntryNormal => entry.data.clone(),
        _ => Bytes::new(),
    }
}

fn read_log(restart: &Restart) -> Result<Log, ReplicaError> {
    let (compacted, compacted_term) = restart.compacted;
    if compacted > restart.applied.0 {
        return Err(ReplicaError::Gap { compacted, applied: restart.applied.0 });
    }
    let mut entries = Vec::with_capacity(restart.entries.len());
    let mut expected = compacted.next();
    for stored in &restart.entries {
        if stored.index != expected {
            return Err(ReplicaError::Order { expected, found: stored.index });
        }
        let entry =
            guard::entry(&stored.bytes).map_err(|reason| ReplicaError::Form { what: "an entry of the log", reason })?;
        if entry.index != stored.index.0 || entry.term != stored.term.0 {
            return Err(ReplicaError::Order { expected, found: LogIndex(entry.index) });
        }
        entries.push(entry);
        expected = expected.next();
    }
    Ok(Log::new((compacted.0, compacted_term.0), entries))
}
