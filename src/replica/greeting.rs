//! Nodes greet each other before they take part, so that one whose disk is older than what it promised is noticed and
//! harmless (docs/protocol.md R71-forgetful): restored from a snapshot, or a copy started beside the original.
//!
//! A process that begins raises its boot on its disk and says `Hello`: boot, term and log's end, as its disk gave them.
//! Whoever hears it compares that with what it knows the node to have promised (`memory`), notes the new life, syncs that
//! note, and greets. Raft begins when a majority has greeted. What a node promises is known by the leader at once, by
//! all that hear it a heartbeat later, and by their disks with their next batch, a second later at most.
//!
//! A node that is found *forgetful* may have voted or acknowledged what it does not know any more. It notes that, and
//! neither votes, acknowledges nor campaigns; it asks the leader, which proposes an empty entry n. Without this node n is
//! committed by a majority of all: whatever needed the forgotten promise meets one of them, which has n and refuses; and
//! what was committed with the forgotten acknowledgement lies before n. Then the node fetches a state that reaches n, its
//! log begins anew behind it, and it begins as a new life. That a leader was elected without it would not be enough: an
//! older vote of its own may still elect another (`tests/forgetful.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use raft::{
    RawNode,
    eraftpb::{Entry, Message, MessageType},
};

use super::{Output, Replica, guard, membership, raft_config};
use crate::{
    message::peer::{Greeting, Hello, Life, Mark, PeerMessage, Recollection, Verdict},
    types::{Instant, LogIndex, NodeId, Term},
};

/// A life that was heard of within so many heartbeats is alive: another of its node is a second process.
const ALIVE_HEARTBEATS: u32 = 3;
/// Once in so many heartbeats, whoever takes part says hello to those that have not greeted; others in each.
const HELLO_HEARTBEATS: u32 = 3;
/// What others have promised is written with the next batch, or without one after so many heartbeats.
const SAVE_HEARTBEATS: u32 = 10;
/// Who was not greeted by a majority, or not refilled, within so many election timeouts says so.
const PATIENCE_ELECTIONS: u32 = 14;

/// Whether a node takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Standing {
    #[default]
    TakesPart,
    /// No majority has greeted it yet.
    Waits,
    /// Others say that another process of the same node is alive.
    Rival,
    /// Its disk is older than what it promised: mute until a leader has refilled it.
    Forgetful,
}

#[derive(Debug)]
pub(super) struct Greetings {
    pub(super) hello: Hello,
    pub(super) standing: Standing,
    /// The batch that makes this life last: before it is synced nobody hears of it.
    pub(super) begins_with: Option<u64>,
    /// Who has greeted this life, and in which of its own.
    greeted: BTreeMap<u64, Life>,
    /// The life of each node whose hello was answered with one: once, or two that never greet would go on for ever.
    answered: BTreeMap<u64, Life>,
    /// Whose messages are taken: a life of the node was welcome, and one that is not is mute by itself.
    accepted: BTreeSet<u64>,
    /// When each node's newest life last said something, here or to the leader.
    heard: BTreeMap<u64, Instant>,
    pub(super) hello_at: Instant,
    save_at: Option<Instant>,
    /// Until then nothing is said about greetings and refills that do not come.
    patience: Option<Instant>,
    /// A state is complete when it includes this entry, of that term.
    through: Option<(LogIndex, Term)>,
    /// As leader: entries that were proposed for forgetful lives.
    proposed: BTreeMap<u64, (Life, u64)>,
    /// Lives that were not welcome, since when, and whether that was said.
    unwelcome: BTreeMap<u64, (Life, Instant, bool)>,
    gossip_at: Instant,
    /// When the next stranger is answered.
    stranger_at: Instant,
}

impl Greetings {
    pub(super) fn new(now: Instant, hello: Hello) -> Self {
        let is_lost = hello.recollection == Recollection::Lost;
        Self {
            hello,
            standing: if is_lost { Standing::Forgetful } else { Standing::Waits },
            begins_with: None,
            greeted: BTreeMap::new(),
            answered: BTreeMap::new(),
            accepted: BTreeSet::new(),
            heard: BTreeMap::new(),
            hello_at: now,
            save_at: None,
            patience: None,
            through: None,
            proposed: BTreeMap::new(),
            unwelcome: BTreeMap::new(),
            gossip_at: now,
            stranger_at: now,
        }
    }

    /// Another leadership has other entries.
    pub(super) fn leadership_changed(&mut self) {
        self.proposed.clear();
    }

    pub(super) fn accepts(&self, node: NodeId) -> bool {
        self.accepted.contains(&node.0)
    }
}

impl Replica {
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.greetings.standing
    }

    pub(super) fn takes_part(&self) -> bool {
        self.greetings.standing == Standing::TakesPart
    }

    /// Whether the sender's messages are taken; one that has not said hello is told that it should.
    pub(super) fn takes_from(&mut self, from: NodeId) -> bool {
        let is_known = self.greetings.accepts(from);
        if !is_known && self.now >= self.greetings.stranger_at {
            self.greetings.stranger_at = self.now.after(self.config.timing.heartbeat);
            self.say_hello(from.0);
        }
        is_known && self.takes_part()
    }

    /// Whether the newest life of the node is not this one, and alive.
    #[must_use]
    pub fn has_rival(&self, node: NodeId, life: Life) -> bool {
        let is_other = self.memory.mark(node).is_some_and(|mark| mark.life.nonce != life.nonce);
        is_other && self.is_alive(node)
    }

    fn is_alive(&self, node: NodeId) -> bool {
        let heard = self.greetings.heard.get(&node.0);
        heard.is_some_and(|at| self.now.since(*at) < ALIVE_HEARTBEATS * self.config.timing.heartbeat)
    }

    /// A message of the node's newest life was taken.
    pub(super) fn heard(&mut self, from: NodeId) {
        self.greetings.heard.insert(from.0, self.now);
    }

    /// What a raft message tells of its sender's promises. All of them leave only when what they rest on is synced.
    pub(super) fn note_promise(&mut self, message: &Message) {
        let from = NodeId(message.from);
        self.heard(from);
        let index = LogIndex(message.index);
        match message.get_msg_type() {
            // They name a term that nobody may have entered.
            MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse => {}
            MessageType::MsgAppendResponse if !message.reject => {
                self.memory.promised(from, Term(message.term), Some(index));
            }
            _ => self.memory.promised(from, Term(message.term), None),
        }
    }

    /// What goes along with a heartbeat, now and then: what everyone has promised, and who is alive.
    pub(super) fn gossip(&mut self) -> (Vec<Mark>, Vec<NodeId>) {
        if self.now < self.greetings.gossip_at {
            return (Vec::new(), Vec::new());
        }
        self.greetings.gossip_at = self.now.after(self.config.timing.heartbeat);
        let term = Term(self.raw.raft.term);
        let acknowledged = (term, LogIndex(self.raw.raft.raft_log.persisted));
        let own = Mark { node: self.config.id, life: self.greetings.hello.life, term, acknowledged };
        let members = membership::members(&self.raw.store().membership);
        let alive = members.into_iter().map(NodeId).filter(|node| self.is_alive(*node));
        (self.memory.marks().copied().chain([own]).collect(), alive.collect())
    }

    /// The leader's gossip.
    pub(super) fn learn(&mut self, marks: Vec<Mark>, alive: &[NodeId]) {
        for mark in marks.into_iter().filter(is_reached) {
            if mark.node != self.config.id {
                self.memory.learn(mark);
            } else if mark.life.boot > self.greetings.hello.life.boot
                || (mark.life.boot == self.greetings.hello.life.boot && mark.life != self.greetings.hello.life)
            {
                // This process stood still, and another took its place.
                self.become_forgetful(mark.life.boot, "another process of this node has taken its place");
            }
        }
        for node in alive {
            self.heard(*node);
        }
    }

    /// Another node's process has begun.
    pub(super) fn greet(&mut self, from: NodeId, hello: Hello) {
        let is_member = membership::has(&self.raw.store().membership, from.0);
        if from == self.config.id || !(is_member || self.memory.has_room_for(from)) {
            return;
        }
        let verdict = self.judge(from, &hello);
        match verdict {
            Verdict::Welcome => self.welcome(from, &hello),
            // An earlier life that was welcome may be alive all the same, unheard of while nobody leads.
            Verdict::Forgetful { .. } | Verdict::Refill { .. } => {
                self.complain(from, hello.life, Duration::ZERO, || {
                    format!(
                        "the data of node {from} is older than what that node had promised (restored from a snapshot?): \
                         it neither votes nor acknowledges until a leader has refilled it"
                    )
                });
            }
            // The process that ended just now seems to be alive for a moment.
            Verdict::Rival => self.complain(from, hello.life, 2 * self.config.timing.election, || {
                format!(
                    "a second process says that it is node {from}, which is alive: it is not let in; stop one of them"
                )
            }),
        }
        // Whoever is not sure of itself vouches for nobody.
        if verdict != Verdict::Welcome || self.standing() != Standing::Forgetful {
            let message = PeerMessage::Greeting(Greeting { life: hello.life, by: self.greetings.hello.life, verdict });
            let output = Output::Send { to: from, message };
            self.outputs.extend(self.unsynced.attach(output));
        }
        if verdict != Verdict::Rival && self.greetings.greeted.get(&from.0) != Some(&hello.life) {
            self.greetings.greeted.remove(&from.0);
            if self.greetings.answered.insert(from.0, hello.life) != Some(hello.life) {
                self.say_hello(from.0);
            }
        }
    }

    fn judge(&mut self, from: NodeId, hello: &Hello) -> Verdict {
        let is_lost = hello.recollection == Recollection::Lost;
        let Some(known) = self.memory.mark(from).copied() else {
            return if is_lost { self.help(from, hello.life, 0) } else { Verdict::Welcome };
        };
        let life = hello.life;
        if self.has_rival(from, life) {
            return Verdict::Rival;
        }
        if is_lost {
            return self.help(from, life, known.life.boot);
        }
        if known.life == life {
            return Verdict::Welcome;
        }
        let (term, index) = known.acknowledged;
        let is_older = hello.term < known.term || (hello.term == term && hello.last < index);
        if life.boot <= known.life.boot || (is_older && hello.recollection != Recollection::Refilled) {
            return Verdict::Forgetful { boot: known.life.boot };
        }
        Verdict::Welcome
    }

    fn welcome(&mut self, from: NodeId, hello: &Hello) {
        if self.memory.mark(from).is_none_or(|known| known.life != hello.life) {
            let acknowledged = (hello.term, hello.last);
            self.memory.begin(Mark { node: from, life: hello.life, term: hello.term, acknowledged });
            self.greetings.heard.remove(&from.0);
            self.save();
            self.peer_lost(from);
        }
        self.greetings.accepted.insert(from.0);
    }

    /// As leader, proposes an entry for a life that lost promises, once; the state includes it when it is applied.
    fn help(&mut self, from: NodeId, life: Life, boot: u64) -> Verdict {
        if !self.is_leading() {
            return Verdict::Forgetful { boot };
        }
        let term = Term(self.raw.raft.term);
        match self.greetings.proposed.get(&from.0) {
            Some((helped, index)) if *helped == life => {
                if self.raw.store().applied >= *index {
                    return Verdict::Refill { through: LogIndex(*index), term };
                }
            }
            _ => {
                let mut message = Message::default();
                message.set_msg_type(MessageType::MsgPropose);
                message.from = self.config.id.0;
                message.set_entries(vec![Entry::default()].into());
                // Refused while leadership is handed over: asked for again.
                if self.raw.raft.step(message).is_ok() {
                    let index = self.raw.raft.raft_log.last_index();
                    self.greetings.proposed.insert(from.0, (life, index));
                }
            }
        }
        Verdict::Forgetful { boot }
    }

    /// Another node has answered this one's hello.
    pub(super) fn greeted(&mut self, from: NodeId, greeting: Greeting) {
        let greetings = &mut self.greetings;
        if greeting.life != greetings.hello.life || greetings.begins_with.is_some() {
            return;
        }
        let is_forgetful = greetings.standing == Standing::Forgetful;
        match greeting.verdict {
            Verdict::Welcome if !is_forgetful => {
                greetings.greeted.insert(from.0, greeting.by);
                self.begin_if_greeted();
            }
            Verdict::Welcome => {}
            Verdict::Forgetful { boot } if is_forgetful => {
                if boot > self.memory.boot {
                    self.memory.boot = boot;
                    self.save();
                }
            }
            Verdict::Forgetful { boot } => {
                self.become_forgetful(boot, &format!("node {from} knows of more"));
            }
            Verdict::Refill { through, term } if is_forgetful => {
                greetings.through = Some((through, term));
                self.outputs.push_back(Output::Refill { from, through });
            }
            Verdict::Refill { .. } => {}
            Verdict::Rival => {
                if greetings.standing == Standing::Waits {
                    greetings.standing = Standing::Rival;
                }
            }
        }
    }

    pub(super) fn begin_if_greeted(&mut self) {
        let waits = matches!(self.standing(), Standing::Waits | Standing::Rival);
        if !waits || self.greetings.begins_with.is_some() {
            return;
        }
        let with_own = self.greetings.greeted.keys().copied().chain([self.config.id.0]).collect();
        if self.raw.raft.prs().has_quorum(&with_own) {
            (self.greetings.standing, self.greetings.patience) = (Standing::TakesPart, None);
            self.campaign_if_alone();
        }
    }

    /// From here on nothing is promised: what this node does not know any more may contradict it.
    fn become_forgetful(&mut self, boot: u64, reason: &str) {
        self.step_down();
        self.unsynced.forget();
        let promises = |output: &Output| {
            matches!(
                output,
                Output::Send { message: PeerMessage::Raft(_) | PeerMessage::HeartbeatAcknowledged { .. }, .. }
            )
        };
        self.outputs.retain(|output| !promises(output));
        (self.memory.boot, self.memory.is_forgetful) = (self.memory.boot.max(boot), true);
        self.greetings.hello.recollection = Recollection::Lost;
        self.greetings.standing = Standing::Forgetful;
        self.greetings.greeted.clear();
        (self.greetings.hello_at, self.greetings.patience) = (self.now, None);
        self.save();
        self.outputs.push_back(Output::Warning(format!(
            "the data of this node is older than what it had promised ({reason}; was it restored from a snapshot, or is \
             it a copy?): it neither votes nor acknowledges until a leader has refilled it"
        )));
    }

    /// The state of a forgetful node was replaced by a leader's: its log begins anew behind it. Where that reaches the
    /// leader's entry, the node is whole, and begins as a new life.
    pub(super) fn refilled(&mut self, index: u64, term: u64, membership: raft::eraftpb::ConfState) {
        let whole = self.greetings.through.filter(|(through, _)| through.0 <= index);
        let log = self.raw.mut_store();
        let (_, entered) = whole.unwrap_or_default();
        let newest = log.hard_state.term.max(entered.0).max(term);
        if log.hard_state.term < newest {
            (log.hard_state.term, log.hard_state.vote) = (newest, 0);
        }
        log.hard_state.commit = index;
        log.reset(index, term);
        (log.membership, log.applied) = (membership, index);
        let config = raft_config(&self.config, &self.pace, index);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        match RawNode::new(&config, std::mem::take(log), &logger) {
            Ok(raw) => self.raw = raw,
            Err(error) => return self.outputs.push_back(Output::Fatal(error.to_string())),
        }
        self.unsynced.forget();
        if whole.is_some() {
            self.memory.boot += 1;
            self.memory.is_forgetful = false;
            let life = Life { boot: self.memory.boot, nonce: self.config.nonce };
            let hello = Hello { life, term: Term(newest), last: LogIndex(index), recollection: Recollection::Refilled };
            let accepted = std::mem::take(&mut self.greetings.accepted);
            let heard = std::mem::take(&mut self.greetings.heard);
            self.greetings = Greetings { accepted, heard, ..Greetings::new(self.now, hello) };
            self.promise = self.promise.max(self.now.after(self.config.timing.election));
        }
        let number = self.persist_reset(index, term);
        if whole.is_some() {
            self.greetings.begins_with = Some(number);
        }
    }

    /// Says hello where it is due, and writes what others have promised where no batch took it along.
    pub(super) fn tick_greetings(&mut self) {
        let heartbeat = self.config.timing.heartbeat;
        if self.greetings.begins_with.is_none() && self.now >= self.greetings.hello_at {
            let beats = if self.takes_part() { HELLO_HEARTBEATS } else { 1 };
            self.greetings.hello_at = self.now.after(beats * heartbeat);
            for peer in membership::members(&self.raw.store().membership) {
                if !self.greetings.greeted.contains_key(&peer) {
                    self.say_hello(peer);
                }
            }
            self.lose_patience();
        }
        let save_at = *self.greetings.save_at.get_or_insert(self.now.after(SAVE_HEARTBEATS * heartbeat));
        if !self.memory.is_unsaved {
            self.greetings.save_at = None;
        } else if self.now >= save_at && self.unsynced.is_empty() {
            self.save();
        }
    }

    fn say_hello(&mut self, to: u64) {
        if self.greetings.begins_with.is_none() && to != self.config.id.0 {
            let message = PeerMessage::Hello { hello: self.greetings.hello, node: None };
            self.outputs.push_back(Output::Send { to: NodeId(to), message });
        }
    }

    fn lose_patience(&mut self) {
        if self.takes_part() {
            return;
        }
        let patience = PATIENCE_ELECTIONS * self.config.timing.election;
        let until = *self.greetings.patience.get_or_insert(self.now.after(patience));
        if self.now >= until {
            self.greetings.patience = Some(Instant(u64::MAX));
            let sentence = match self.standing() {
                Standing::Forgetful => {
                    "no leader has refilled this node yet: a majority of all nodes must be up, and not itself restored \
                     from older data"
                }
                Standing::Rival => {
                    "this node was not greeted and takes no part: another process of this node is alive: stop one of them"
                }
                _ => {
                    "this node was not greeted and takes no part: can it reach a majority of the others, and they it \
                     under the address it was given?"
                }
            };
            self.outputs.push_back(Output::Warning(sentence.to_owned()));
        }
    }

    /// Once for each life that is unwelcome for so long.
    fn complain(&mut self, node: NodeId, life: Life, patience: Duration, sentence: impl FnOnce() -> String) {
        let unwelcome = self.greetings.unwelcome.entry(node.0).or_insert((life, self.now, false));
        if unwelcome.0 != life {
            *unwelcome = (life, self.now, false);
        }
        let (_, since, was_said) = unwelcome;
        if !*was_said && self.now >= since.after(patience) {
            *was_said = true;
            self.outputs.push_back(Output::Warning(sentence()));
        }
    }

    /// Writes what this node must not forget, in a batch of its own.
    fn save(&mut self) {
        self.persist_alone(None);
    }

    /// Whether two nodes say that they lead in one term: then a promise was broken, and nothing is safe any more.
    pub(super) fn check_leader(&mut self, message: &Message) {
        let raft = &self.raw.raft;
        let leads = matches!(
            message.get_msg_type(),
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        let known = raft.leader_id;
        if leads && message.term == raft.term && known != 0 && known != message.from {
            self.outputs.push_back(Output::Fatal(format!(
                "nodes {known} and {} both lead in term {}: one of their voters has forgotten a vote; look for a node \
                 that runs twice or on restored data, and keep all data as it is",
                message.from, message.term
            )));
        }
    }
}

/// The same of a mark.
fn is_reached(mark: &Mark) -> bool {
    let (term, index) = mark.acknowledged;
    mark.life.boot.max(mark.term.0).max(term.0).max(index.0) <= guard::NUMBER_MAX
}

/// Whether numbers of a greeting stay within what is reached in the life of a cluster.
pub(super) fn is_sensible(hello: &Hello) -> bool {
    hello.life.boot.max(hello.term.0).max(hello.last.0) <= guard::NUMBER_MAX
}
