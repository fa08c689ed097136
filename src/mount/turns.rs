//! Files that one mount at a time may have open: shared memory of SQLite (`Companion::SharedMemory`). What processes
//! agree on in such a mapping reaches no other mount. So the next mount opens the file only when what this one wrote
//! there is in the log.
//!
//! The turn is a lock of the session (`LockFamily::Open`), with a queue, and with a fence against what comes late
//! (docs/protocol.md R12-fencing). A create brings it along. Any other open, also one that only reads, waits until it
//! is this mount's turn. The last RELEASE gives it back, behind all that was written. Where another mount waits, new
//! opens here wait for the turn after that, though not for long: who has the file open may be waiting for one of them.
//!
//! An OPEN waits without any lock of the kernel. A CREATE holds its directory's. If it finds that another mount has
//! made the file, it is refused with ESTALE, so that the kernel looks the name up and sends an OPEN.
//!
//! What is to be done next is read off the replica each time. If the turn is taken away, it is lost to all files that
//! were opened in it and to the log beside them (`Companion::Log`), whose bytes it protects. Nothing more is written
//! through these, and nobody else here opens the file before they are closed.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Caller, Mount, OpenFlags, Opens, Output, Request, Response,
    files::{JobId, NewJob},
    requests::{Awaited, Pending},
    timers::Timer,
};
use crate::{
    namespace::{Companion, Operation, locks::WaitingLock},
    types::{Errno, Ino, Instant, LockClaim, LockFamily, LockRange, Sequence},
};

/// A change of a turn that is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Ask,
    /// The turn goes back, or the place in its queue.
    Return,
}

#[derive(Debug, Default)]
struct Turn {
    /// OPENs that wait, in the order of their arrival, and from when on each goes before other mounts.
    waiting: Vec<(u64, Instant)>,
    /// Open files that were opened in it.
    open: BTreeSet<u64>,
    /// It was this mount's when it was last looked at.
    is_ours: bool,
    /// It was taken away, and the open files are those of before.
    is_lost: bool,
    step: Option<(JobId, Step)>,
}

#[derive(Debug, Default)]
pub(crate) struct Turns {
    files: BTreeMap<Ino, Turn>,
    /// Open files of logs, whatever becomes of their names.
    logs: BTreeSet<u64>,
}

impl Turns {
    /// OPENs that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.files.values().map(|turn| turn.waiting.len()).sum()
    }

    pub(crate) fn logs(&self) -> Vec<u64> {
        self.logs.iter().copied().collect()
    }

    /// The open file was opened in a turn that was taken away.
    pub(crate) fn is_lost(&self, ino: Ino, fh: u64) -> bool {
        self.files.get(&ino).is_some_and(|turn| turn.is_lost && turn.open.contains(&fh))
    }
}

impl Mount {
    /// A new handle. It is opened in this mount's turn if there are turns.
    pub(super) fn open_handle(&mut self, ino: Ino, flags: OpenFlags) -> u64 {
        let fh = self.handles.open(ino, flags);
        if self.volume().is_companion(ino, Companion::Log) {
            self.turns.logs.insert(fh);
        }
        if self.has_turn(ino) {
            let turn = self.turns.files.entry(ino).or_default();
            turn.open.insert(fh);
            turn.is_ours = true;
        }
        fh
    }

    /// The handle is no more.
    pub(super) fn handle_released(&mut self, now: Instant, ino: Ino, fh: u64) {
        self.turns.logs.remove(&fh);
        if self.turns.files.get_mut(&ino).is_some_and(|turn| turn.open.remove(&fh)) {
            self.next_turn(now, ino);
        }
    }

    /// Whether an open of the file waits for this mount's turn.
    pub(super) fn needs_turn(&self, ino: Ino) -> bool {
        self.volume().is_companion(ino, Companion::SharedMemory) || self.turns.files.contains_key(&ino)
    }

    /// Where opens are not told nobody knows when a turn would be over, so there is none: such files cannot be written.
    pub(super) fn is_out_of_turn(&self, request: &Request) -> bool {
        let is_guarded = |ino: &Ino| self.volume().is_companion(*ino, Companion::SharedMemory);
        self.config.opens == Opens::Untracked
            && match request {
                Request::Create { name, .. } => Companion::of(name) == Some(Companion::SharedMemory),
                Request::Setattr { ino, changes } => changes.size.is_some() && is_guarded(ino),
                Request::Write { ino, .. } | Request::Allocate { ino, .. } | Request::CopyRange { to: ino, .. } => {
                    is_guarded(ino)
                }
                _ => false,
            }
    }

    /// An OPEN that needs its turn.
    pub(super) fn wait_for_turn(&mut self, now: Instant, unique: u64, caller: Caller, ino: Ino, flags: OpenFlags) {
        let mut waiting = Pending::new(caller, self.deadline(now), Awaited::Opening { ino, flags });
        waiting.late = Errno::EBUSY;
        self.wait(now, unique, waiting);
        let goes_first = now.after(self.config.timing.turn_patience());
        self.timers.set(Timer::Turn(ino), goes_first);
        self.turns.files.entry(ino).or_default().waiting.push((unique, goes_first));
        self.next_turn(now, ino);
    }

    /// An OPEN waits no longer.
    pub(super) fn turn_given_up(&mut self, now: Instant, ino: Ino, unique: u64) {
        if let Some(turn) = self.turns.files.get_mut(&ino) {
            turn.waiting.retain(|(waiting, _)| *waiting != unique);
            self.next_turn(now, ino);
        }
    }

    /// The replica shows something of the file's turn that this mount may not know of.
    pub(super) fn look_at_turn(&mut self, ino: Ino) {
        self.turns.files.entry(ino).or_default();
    }

    /// The job is over; perhaps it was a step of the file's turn.
    pub(super) fn turn_step_ended(&mut self, now: Instant, ino: Ino, id: JobId, refusal: Option<Errno>) {
        let Some(turn) = self.turns.files.get_mut(&ino) else { return };
        let Some((_, step)) = turn.step.take_if(|(job, _)| *job == id) else { return };
        // EIO: its session is over, and it is asked for under the next.
        if let (Step::Ask, Some(errno)) = (step, refusal.filter(|errno| *errno != Errno::EIO)) {
            for (unique, _) in std::mem::take(&mut turn.waiting) {
                self.answer(now, unique, Err(errno));
            }
        }
        self.next_turn(now, ino);
    }

    /// Entries were applied, or the lease is back.
    pub(super) fn next_turns(&mut self, now: Instant) {
        let files: Vec<Ino> = self.turns.files.keys().copied().collect();
        for ino in files {
            self.next_turn(now, ino);
        }
    }

    /// Does what is to be done next about the file's turn.
    pub(super) fn next_turn(&mut self, now: Instant, ino: Ino) {
        let (is_ours, others_wait) = (self.has_turn(ino), self.waits_for_turn(ino, false).is_some());
        let Some(turn) = self.turns.files.get_mut(&ino) else { return };
        if is_ours && !turn.is_ours {
            // Who waited until now has waited behind the others.
            turn.waiting.iter_mut().for_each(|(_, goes_first)| *goes_first = now);
        }
        turn.is_ours = is_ours;
        turn.is_lost &= !turn.open.is_empty();
        if !is_ours && !turn.is_lost && !turn.open.is_empty() {
            turn.is_lost = true;
            self.turn_lost(ino);
        }
        if is_ours && self.is_fresh {
            self.enter(now, ino, others_wait);
        }
        let place = self.waits_for_turn(ino, true);
        let Some(turn) = self.turns.files.get(&ino) else { return };
        if turn.step.is_some() {
            return;
        }
        // A snapshot brings the turn of a create before the create's answer.
        let is_open = !turn.open.is_empty() || self.is_being_created(ino);
        let is_wanted = !turn.waiting.is_empty();
        let family = LockFamily::Open;
        let (step, operation) = match place {
            _ if is_ours && !is_open && (others_wait || !is_wanted) => {
                (Step::Return, Operation::Unlock { ino, family, owner: LockClaim::OPEN.owner, range: LockRange::ALL })
            }
            _ if is_ours => return,
            Some(call) if !is_wanted => {
                (Step::Return, Operation::CancelLock { ino, call, claim: LockClaim::OPEN, undo: true })
            }
            None if is_wanted && !is_open => (Step::Ask, Operation::Lock { ino, claim: LockClaim::OPEN, waits: true }),
            None if !is_wanted && !is_open => {
                self.turns.files.remove(&ino);
                return;
            }
            _ => return,
        };
        if step == Step::Return {
            self.send_on(now, ino, true);
        }
        let job = self.enqueue(now, NewJob::of(ino, operation));
        if let Some(turn) = self.turns.files.get_mut(&ino) {
            turn.step = Some((job, step));
        }
    }

    /// Lets those open the file whose turn it is.
    fn enter(&mut self, now: Instant, ino: Ino, others_wait: bool) {
        let Some(turn) = self.turns.files.get_mut(&ino) else { return };
        if matches!(turn.step, Some((_, Step::Return))) {
            return;
        }
        let (enters, waits): (Vec<_>, Vec<_>) =
            turn.waiting.drain(..).partition(|(_, goes_first)| !others_wait || *goes_first <= now);
        turn.waiting = waits;
        for (unique, _) in enters {
            self.open_in_turn(now, unique);
        }
    }

    fn open_in_turn(&mut self, now: Instant, unique: u64) {
        let Some(waiting) = self.requests.get_mut(unique) else { return };
        let Awaited::Opening { ino, flags } = waiting.need else { return };
        if waiting.late == Errno::EBUSY {
            waiting.late = Errno::EIO;
        }
        // What entries before the turn made stale is forgotten before the file is open.
        self.requests.wait_for_tickets(unique, self.kernel.tickets());
        // It was deleted meanwhile, and its name may be another file's: the kernel looks it up again.
        if self.volume().inode(ino).is_none_or(|inode| inode.nlink == 0) {
            return self.answer(now, unique, Err(Errno::ESTALE));
        }
        // Pages of who lost an earlier turn may never have got to the log.
        let is_first = self.turns.files.get(&ino).is_none_or(|turn| turn.open.is_empty());
        let fh = self.open_handle(ino, flags);
        if flags.truncate {
            if let Some(waiting) = self.requests.get_mut(unique) {
                waiting.need = Awaited::OpenTruncate { ino, flags, fh, created: None };
            }
            return self.go_on_writing(now, unique);
        }
        let mut opened = self.opened_as(ino, fh, flags);
        opened.keep_cache &= !is_first;
        let told = self.tell_opener(ino, 0);
        self.requests.wait_for_tickets(unique, told);
        self.answer(now, unique, Ok(Response::Opened(opened)));
    }

    fn turn_lost(&mut self, ino: Ino) {
        let open = self.turns.files.get(&ino).map(|turn| turn.open.clone()).unwrap_or_default();
        let count = open.into_iter().map(|fh| u64::from(self.handles.lose_lock(fh))).sum::<u64>();
        self.counters.locks_lost += count;
        self.outputs.push_back(Output::Notice(format!(
            "inode {ino}, shared memory of a database, may be open on another mount now: this mount was not heard of for \
             too long; what its {count} open files write to it, and to the log beside it, fails until they are closed"
        )));
    }

    fn is_being_created(&self, ino: Ino) -> bool {
        self.requests.iter().any(|(_, waiting)| match &waiting.need {
            Awaited::Create { parent, name, made: None, .. } => self.volume().lookup(*parent, name) == Some(ino),
            _ => false,
        })
    }

    /// A request has ended. If it was to make such a file, its turn is nobody's perhaps.
    pub(super) fn create_ended(&mut self, now: Instant, kind: &Awaited) {
        if let Awaited::Create { parent, name, made: None, .. } = kind
            && Companion::of(name) == Some(Companion::SharedMemory)
            && let Some(ino) = self.volume().lookup(*parent, name)
        {
            self.next_turn(now, ino);
        }
    }

    fn has_turn(&self, ino: Ino) -> bool {
        self.has_lock(ino, LockFamily::Open)
    }

    /// The first call that waits for the file's turn: of this mount, or of others.
    fn waits_for_turn(&self, ino: Ino, is_own: bool) -> Option<Sequence> {
        let session = self.client.session();
        let is_it = |waiting: &&WaitingLock| {
            waiting.claim.family == LockFamily::Open && (Some(waiting.session) == session) == is_own
        };
        self.volume().locks().queue(ino).find(is_it).map(|waiting| waiting.call)
    }
}
