//! The mount core among threads: everything that happens is given to it under one lock, and what it asks for is carried
//! out outside of that lock. Answers and notifications may overtake one another, which the kernel is prepared for
//! (docs/protocol.md R1-versions, R2-telling, R8-locked-pages); what goes to the network stays in order.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::Ordering::Relaxed,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    alarm::Alarm,
    counters::Counters,
    notify::Notifier,
    session::{Ask, Reply},
};
use crate::{
    clock,
    holder::{Table, Watched},
    mount::{Caller, Config, Input, Mount, MountStatus, Notification, Output, Request, Response},
    telemetry::{Heard, Repeats},
    transport::{Deliver, Transport},
    types::{Errno, Ino},
};

/// How long the last messages may take to leave.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Carries out `Connect`, `Send`, `StoreBlock` and `FetchBlock`.
pub trait Network: Send + Sync {
    /// Must not block. Called with one output at a time, in the core's order.
    fn execute(&self, output: Output);

    /// What was sent is on its way, for at most `within`; nothing follows.
    fn close(&self, within: Duration);
}

impl Network for Transport {
    fn execute(&self, output: Output) {
        if let Some(other) = Self::execute(self, output) {
            tracing::error!(?other, "this is no output for the network");
        }
    }

    fn close(&self, within: Duration) {
        Self::close(self, within);
    }
}

/// What the one who runs the worker must know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Milestone {
    Ready,
    Fatal(String),
    /// It answers ESTALE from now on.
    Stale(String),
    Stopped,
}

pub(super) struct Worker {
    core: Mutex<Core>,
    network: OnceLock<Box<dyn Network>>,
    outgoing: Mutex<Outgoing>,
    /// Set once the kernel has a file system to forget things of.
    notifier: OnceLock<Notifier>,
    /// What the holder watches; set before the kernel has anything to forget.
    table: OnceLock<Table>,
    alarm: Alarm,
    milestones: Mutex<Sender<Milestone>>,
    /// What the core had to say.
    notices: Mutex<Repeats<String>>,
    pub(super) counters: Arc<Counters>,
}

struct Core {
    mount: Mount,
    unanswered: BTreeMap<u64, Reply>,
}

#[derive(Default)]
struct Outgoing {
    queue: VecDeque<Output>,
    /// A thread is carrying the queue out; it will see what is added meanwhile.
    busy: bool,
}

/// What is left to do once the lock is released.
#[derive(Default)]
struct Todo {
    answers: Vec<(Reply, Result<Response, Errno>)>,
    tickets: Vec<(u64, Vec<Notification>)>,
}

impl Worker {
    /// Starts the core and its timer. `network` makes the network's shell from the way back into the core.
    pub(super) fn start(
        config: Config,
        network: impl FnOnce(Deliver) -> io::Result<Box<dyn Network>>,
    ) -> io::Result<(Arc<Self>, Receiver<Milestone>)> {
        let (milestones, reached) = mpsc::channel();
        let worker = Arc::new(Self {
            core: Mutex::new(Core { mount: Mount::new(clock::now(), config), unanswered: BTreeMap::new() }),
            network: OnceLock::new(),
            outgoing: Mutex::default(),
            notifier: OnceLock::new(),
            table: OnceLock::new(),
            notices: Mutex::default(),
            alarm: Alarm::default(),
            milestones: Mutex::new(milestones),
            counters: Arc::default(),
        });
        let inward = Arc::clone(&worker);
        let network = network(Arc::new(move |input| inward.happened(input)))?;
        worker.network.get_or_init(|| network);
        let timer = Arc::clone(&worker);
        thread::spawn(move || {
            while timer.alarm.wait() {
                timer.happened(Input::Tick);
            }
        });
        worker.happened(Input::Tick);
        Ok((worker, reached))
    }

    /// From now on notifications go to the kernel; `device` is a duplicate of the session's descriptor. Those of before
    /// had nothing to forget. Fails where there is no room for a mapping.
    pub(super) fn attach(self: &Arc<Self>, device: OwnedFd) -> io::Result<()> {
        let worker = Arc::clone(self);
        let done = Box::new(move |ticket| worker.happened(Input::Notified { ticket }));
        let notifier = Notifier::new(device, Arc::clone(&self.counters), done)?;
        self.notifier.get_or_init(|| notifier);
        Ok(())
    }

    /// The holder has a table: what it should know is written there, from now on before any answer that rests on it.
    pub(super) fn watch(&self, table: Table) {
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.table.get_or_init(|| table);
        core.mount.watch().for_each(|output| write(table, &output));
    }

    pub(super) fn happened(&self, input: Input) {
        self.turn(input, None);
    }

    pub(super) fn status(&self) -> MountStatus {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).mount.status()
    }

    /// Why the servers do not answer, by address; `None` while a leader does.
    pub(super) fn troubles(&self) -> Option<BTreeMap<String, String>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).mount.troubles().cloned()
    }

    pub(super) fn is_stale(&self) -> bool {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).mount.is_stale()
    }

    /// Requests the kernel waits for.
    pub(super) fn unanswered(&self) -> usize {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).unanswered.len()
    }

    /// No timer any more, and no network once what was sent is on its way.
    pub(super) fn end(&self) {
        self.alarm.end();
        if let Some(network) = self.network.get() {
            network.close(CLOSE_WAIT);
        }
    }

    /// Logs what the core has to say of a mount that is there: once, and gathered where it comes again and again.
    fn notice(&self, sentence: &String) {
        if self.notifier.get().is_none() {
            return tracing::debug!("{sentence}");
        }
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        match notices.hear(Instant::now(), sentence) {
            Heard::Say(again) => tracing::info!("{sentence}{again}"),
            Heard::Full => tracing::info!("{sentence}"),
            Heard::Gathered => {}
        }
    }

    /// Logs what was gathered, once it is time.
    pub(super) fn tell_gathered(&self, now: Instant) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        for (sentence, again) in notices.due(now) {
            tracing::info!("{sentence}{again}");
        }
    }

    fn turn(&self, input: Input, reply: Option<(u64, Reply)>) {
        let mut todo = Todo::default();
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.unanswered.extend(reply);
        core.mount.handle(clock::now(), input);
        while let Some(output) = core.mount.poll_output() {
            match output {
                Output::Answer { unique, result } => match core.unanswered.remove(&unique) {
                    Some(reply) => todo.answers.push((reply, result)),
                    None => tracing::error!(unique, "an answer to a request that nobody made"),
                },
                Output::Notify { ticket, notifications } => todo.tickets.push((ticket, notifications)),
                Output::Watch { .. } | Output::Deadline(_) => {
                    if let Some(table) = self.table.get() {
                        write(table, &output);
                    }
                }
                Output::Prepare { .. }
                | Output::Connect { .. }
                | Output::Send { .. }
                | Output::StoreBlock { .. }
                | Output::FetchBlock { .. } => {
                    self.outgoing.lock().unwrap_or_else(PoisonError::into_inner).queue.push_back(output);
                }
                Output::Ready => self.reached(Milestone::Ready),
                Output::Fatal(reason) => self.reached(Milestone::Fatal(reason)),
                Output::Stale(reason) => self.reached(Milestone::Stale(reason)),
                Output::Stopped => self.reached(Milestone::Stopped),
                Output::Notice(sentence) => self.notice(&sentence),
            }
        }
        self.alarm.set(core.mount.poll_timeout());
        drop(core);
        for (reply, result) in todo.answers {
            self.counters.answers.fetch_add(1, Relaxed);
            self.counters.errors.fetch_add(result.is_err().into(), Relaxed);
            reply.answer(result);
        }
        self.send();
        self.notify(todo.tickets);
    }

    /// Carries out what goes to the network, in order. Where another thread is at it, that thread goes on with what was
    /// added; so the network may call back into the worker.
    fn send(&self) {
        let lock = || self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outgoing = lock();
        if outgoing.busy {
            return;
        }
        let Some(network) = self.network.get() else { return };
        outgoing.busy = true;
        while let Some(output) = outgoing.queue.pop_front() {
            drop(outgoing);
            network.execute(output);
            outgoing = lock();
        }
        outgoing.busy = false;
    }

    fn notify(&self, tickets: Vec<(u64, Vec<Notification>)>) {
        for (ticket, notifications) in tickets {
            match self.notifier.get() {
                Some(notifier) => notifier.submit(ticket, notifications),
                // Nothing is mounted yet.
                None => self.happened(Input::Notified { ticket }),
            }
        }
    }

    fn reached(&self, milestone: Milestone) {
        // Nobody listens after the end.
        self.milestones.lock().unwrap_or_else(PoisonError::into_inner).send(milestone).ok();
    }
}

impl Ask for Worker {
    fn ask(&self, unique: u64, caller: Caller, request: Request, reply: Reply) {
        self.turn(Input::Request { unique, caller, request }, Some((unique, reply)));
    }

    fn forget(&self, inodes: Vec<(Ino, u64)>) {
        let request = Request::Forget { inodes };
        self.happened(Input::Request { unique: 0, caller: Caller::default(), request });
    }

    fn interrupt(&self, unique: u64) -> bool {
        let is_known = self.core.lock().unwrap_or_else(PoisonError::into_inner).unanswered.contains_key(&unique);
        if is_known {
            self.happened(Input::Interrupt { unique });
        }
        is_known
    }
}

fn write(table: &Table, output: &Output) {
    let written = match output {
        Output::Watch { slot, inode } => {
            table.set_slot(*slot, inode.map(|(ino, is_open_file)| Watched { ino, is_open_file }))
        }
        Output::Deadline(deadline) => table.set_deadline(*deadline),
        _ => Ok(()),
    };
    if let Err(error) = written {
        // Its memory was there from the start; a kernel that refuses it now may answer from caches for too long.
        tracing::error!(%error, "the holder's table cannot be written: mount again");
    }
}
