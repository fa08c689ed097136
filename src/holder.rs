//! The holder: a small process that owns the mount, so that the worker, which does everything else, may die and be
//! replaced. It opens /dev/fuse and mounts, keeps the descriptor, gives it to the worker over a Unix socket and ends
//! both in order. When the worker's lease ends without it, `watchdog` makes the kernel forget. One thread decides, from a
//! queue of events; the others only wait for one thing each. No async, no request of the file system: it must be too
//! simple to fail.

pub mod device;
pub mod link;
pub mod notification;
pub mod socket_file;
pub mod table;

mod descriptor;
mod probe;
mod watchdog;

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

pub use device::{Device, Place};
pub use link::{Link, Listener, ToHolder, ToWorker};
pub use table::{Table, Watched};

/// How long a worker may take to flush and leave before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(20);

/// Why a mount did not come to be, or ended.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    #[error("cannot open /dev/fuse: {error}; {advice}")]
    Device { error: io::Error, advice: &'static str },
    #[error("cannot mount at {}: {error}; mounting needs root (CAP_SYS_ADMIN) and an unused directory", .directory.display())]
    Mount { directory: PathBuf, error: io::Error },
    #[error("cannot unmount {}: {error}", .directory.display())]
    Unmount { directory: PathBuf, error: io::Error },
    #[error("{0}: nothing was mounted")]
    Interrupted(Signal),
    #[error("cannot start or watch the worker process: {0}")]
    Worker(#[from] io::Error),
    #[error("{0}")]
    Failed(String),
    #[error("the worker process ended before the mount was ready ({0})")]
    EndedEarly(String),
    #[error("the worker ended without having flushed everything ({0}); bytes that were not synced may be lost")]
    EndedDirty(String),
    #[error("the worker ended ({0}) and the mount with it; mount again")]
    Died(String),
    #[error("the worker did not stop within {} s and was killed; bytes that were not synced may be lost", STOP_WAIT.as_secs())]
    Killed,
}

/// Where workers come from.
#[derive(Debug)]
pub enum Workers {
    /// Children of the holder, started with their end of the link as standard input.
    Started { program: PathBuf, arguments: Vec<OsString> },
    /// Processes that connect, from another container.
    Awaited(Listener),
}

/// What the holder tells whoever started it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// The mount answers; also after each change of the worker.
    Serving { volume: String, worker_pid: u32 },
    /// Nothing can be mounted yet, for a reason that the worker has logged.
    Waiting(String),
    /// SIGHUP has come; the worker is told too.
    Hangup,
    /// A sentence for the log.
    Notice(String),
}

enum Event {
    Signal(Signal),
    Connected(Link),
    Said(u64, ToHolder),
    /// The mount of this worker answers; whether its kernel's INVAL_ENTRY works.
    Probed(u64, bool),
    /// The worker is gone; its exit status where it was a child.
    Ended(u64, Option<ExitStatus>),
}

struct Worker {
    number: u64,
    /// Its own word, once it serves.
    pid: u32,
    link: Link,
    child: Option<Pid>,
    /// Its last words, where it ended of itself.
    last: Option<ToHolder>,
}

struct Holder<'a> {
    place: Place,
    /// How to start a worker; `None` where they connect.
    command: Option<(PathBuf, Vec<OsString>)>,
    report: &'a mut dyn FnMut(Report),
    events: Sender<Event>,
    volume: String,
    device: Option<Device>,
    /// What the worker tells the device's watchdog.
    table: Option<Table>,
    /// The device's INIT has been answered.
    served: bool,
    worker: Option<Worker>,
    workers: u64,
    /// Set once the end has begun: when the worker is killed.
    deadline: Option<Instant>,
    /// The signal that began the end before anything was mounted.
    interrupted: Option<Signal>,
}

/// Holds one mount at `place` until it is told to end by SIGTERM, SIGINT or an unmount. Whatever the outcome, nothing stays mounted.
///
/// # Errors
/// Why the mount did not come to be, or why it ended without being asked to.
pub fn run(place: Place, workers: Workers, report: &mut dyn FnMut(Report)) -> Result<(), HolderError> {
    let (events, queue) = mpsc::channel();
    watch_signals(events.clone())?;
    let command = match workers {
        Workers::Started { program, arguments } => Some((program, arguments)),
        Workers::Awaited(listener) => {
            watch_listener(listener, events.clone());
            None
        }
    };
    let mut holder = Holder {
        place,
        command,
        report,
        events,
        volume: String::new(),
        device: None,
        table: None,
        served: false,
        worker: None,
        workers: 0,
        deadline: None,
        interrupted: None,
    };
    let result = holder.start_worker().and_then(|()| holder.hold(&queue));
    let result =
        result.and_then(|()| holder.interrupted.map_or(Ok(()), |signal| Err(HolderError::Interrupted(signal))));
    if let Some(child) = holder.worker.take().and_then(|worker| worker.child) {
        // The thread that waits for it has not seen its end: the pid is still this child's.
        kill(child, Signal::SIGKILL).ok();
    }
    result
}

impl Holder<'_> {
    fn hold(&mut self, queue: &Receiver<Event>) -> Result<(), HolderError> {
        loop {
            let wait = self.deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            match queue.recv_timeout(wait) {
                Ok(Event::Signal(Signal::SIGHUP)) => {
                    (self.report)(Report::Hangup);
                    if let Some(worker) = &self.worker {
                        // A worker that died meanwhile is noticed by its end.
                        worker.link.send(&ToWorker::Hangup, None).ok();
                    }
                }
                Ok(Event::Signal(_)) if self.deadline.is_some() => return Err(HolderError::Killed),
                Ok(Event::Signal(signal)) => {
                    if self.device.is_some() {
                        self.notice(format!("{signal}: unmounting"));
                    } else if self.command.is_some() {
                        self.interrupted = Some(signal);
                    }
                    self.stop()?;
                    if self.worker.is_none() {
                        return Ok(());
                    }
                }
                Ok(Event::Connected(link)) if self.worker.is_none() => self.adopt(link, None)?,
                Ok(Event::Connected(_)) => self.notice("a second worker connected and was sent away".to_owned()),
                Ok(Event::Said(number, message)) if self.is_current(number) => self.said(message)?,
                Ok(Event::Ended(number, status)) if self.is_current(number) => {
                    if self.ended(status)? {
                        return Ok(());
                    }
                }
                Ok(Event::Probed(number, inval_entry)) if self.is_current(number) => self.probed(inval_entry),
                // Words and ends of workers that were replaced.
                Ok(Event::Said(..) | Event::Probed(..) | Event::Ended(..)) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(HolderError::Killed),
            }
        }
    }

    fn said(&mut self, message: ToHolder) -> Result<(), HolderError> {
        match message {
            ToHolder::Waiting { reason } => (self.report)(Report::Waiting(reason)),
            // The end has begun: there is nothing to give any more.
            ToHolder::Ready { .. } if self.deadline.is_some() => {}
            ToHolder::Ready { volume, read_only } => {
                if self.device.is_none() {
                    let device = Device::mount(&self.place, &volume, read_only)?;
                    self.table = Some(watchdog::watch(device.weak())?);
                    self.device = Some(device);
                }
                self.volume = volume;
                if let (Some(worker), Some(device), Some(table)) = (&self.worker, &self.device, &self.table) {
                    // A worker that died meanwhile is noticed by its end.
                    worker.link.send(&ToWorker::Table, Some(table.descriptor())).ok();
                    worker.link.send(&ToWorker::Device { fresh: !self.served }, Some(device.descriptor())).ok();
                }
            }
            ToHolder::Serving { pid } => {
                self.served = true;
                self.probe(pid);
            }
            ToHolder::Failed { .. } | ToHolder::Stopped | ToHolder::Unmounted => {
                if let Some(worker) = &mut self.worker {
                    worker.last = Some(message);
                }
            }
        }
        Ok(())
    }

    /// Asks the mount something, in a thread of its own: it may hang for as long as the worker does.
    fn probe(&mut self, worker_pid: u32) {
        let (Some(worker), Some(device)) = (&mut self.worker, &self.device) else { return };
        worker.pid = worker_pid;
        let (directory, device) = (self.place.directory.clone(), device.weak());
        let (number, events) = (worker.number, self.events.clone());
        thread::spawn(move || {
            let verdict = probe::inval_entry_works(&directory, &device).unwrap_or_else(|error| {
                tracing::warn!(%error, "it cannot be found out whether the kernel forgets names that it is told to forget");
                false
            });
            // The holder's own end is the only reason for a closed queue.
            events.send(Event::Probed(number, verdict)).ok();
        });
    }

    /// The mount answers.
    fn probed(&mut self, inval_entry: bool) {
        let Some(worker) = &self.worker else { return };
        // A worker that died meanwhile is noticed by its end.
        worker.link.send(&ToWorker::Probed { inval_entry }, None).ok();
        if self.deadline.is_none() {
            (self.report)(Report::Serving { volume: self.volume.clone(), worker_pid: worker.pid });
        }
    }

    /// Unmounts, so that no new request begins, and has the worker flush and leave.
    fn stop(&mut self) -> Result<(), HolderError> {
        self.deadline = Some(Instant::now() + STOP_WAIT);
        if let Some(device) = &mut self.device {
            let busy = device
                .unmount()
                .map_err(|error| HolderError::Unmount { directory: self.place.directory.clone(), error })?;
            if busy {
                self.notice("files are still open; they end with the worker".to_owned());
            }
        }
        if let Some(worker) = &self.worker {
            worker.link.send(&ToWorker::Stop, None).ok();
        }
        Ok(())
    }

    /// What follows from a worker's end; `true` when the holder's work is done.
    fn ended(&mut self, status: Option<ExitStatus>) -> Result<bool, HolderError> {
        let last = self.worker.take().and_then(|worker| worker.last);
        let how = status.map_or_else(|| "it closed the connection".to_owned(), |status| status.to_string());
        match last {
            Some(ToHolder::Failed { reason }) => Err(HolderError::Failed(reason)),
            Some(ToHolder::Unmounted) => {
                self.device.iter_mut().for_each(Device::forget);
                Ok(true)
            }
            Some(ToHolder::Stopped) if self.deadline.is_some() => Ok(true),
            _ if self.deadline.is_some() => Err(HolderError::EndedDirty(how)),
            _ if self.served => Err(HolderError::Died(how)),
            // Nothing was answered yet: the next one begins anew.
            _ if self.command.is_none() => {
                self.device = None;
                self.notice(format!("the worker ended ({how}) before the mount was ready; waiting for the next one"));
                Ok(false)
            }
            _ => Err(HolderError::EndedEarly(how)),
        }
    }

    fn start_worker(&mut self) -> Result<(), HolderError> {
        let Some((program, arguments)) = &self.command else { return Ok(()) };
        let (here, there) = Link::pair()?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(there)))
            // Ctrl-C on a terminal is for the holder, which ends the worker in order.
            .process_group(0)
            .spawn()?;
        self.adopt(here, Some(child))
    }

    fn adopt(&mut self, link: Link, child: Option<Child>) -> Result<(), HolderError> {
        self.workers += 1;
        let number = self.workers;
        let pid = child.as_ref().map(|child| Pid::from_raw(child.id().cast_signed()));
        // A worker that is gone already is noticed by its end.
        link.send(&ToWorker::Place { directory: self.place.directory.clone() }, None).ok();
        watch_worker(number, link.try_clone()?, child, self.events.clone());
        self.worker = Some(Worker { number, pid: 0, link, child: pid, last: None });
        Ok(())
    }

    fn is_current(&self, number: u64) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.number == number)
    }

    fn notice(&mut self, sentence: String) {
        (self.report)(Report::Notice(sentence));
    }
}

fn watch_signals(events: Sender<Event>) -> Result<(), HolderError> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    // Before any other thread begins, so that none of them takes a signal.
    signals.thread_block().map_err(io::Error::from)?;
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn watch_listener(listener: Listener, events: Sender<Event>) {
    thread::spawn(move || {
        while let Ok(link) = listener.accept() {
            if events.send(Event::Connected(link)).is_err() {
                return;
            }
        }
    });
}

fn watch_worker(number: u64, link: Link, child: Option<Child>, events: Sender<Event>) {
    thread::spawn(move || {
        // Words before the end: the reason of a failure arrives before the exit status.
        while let Ok(Some((message, _))) = link.receive::<ToHolder>() {
            if events.send(Event::Said(number, message)).is_err() {
                break;
            }
        }
        let status = child.and_then(|mut child| child.wait().ok());
        // The holder's own end is the only reason for a closed queue.
        events.send(Event::Ended(number, status)).ok();
    });
}

#[cfg(test)]
mod tests {
    use nix::mount::MsFlags;

    use super::*;

    /// Holds a mount for a worker that is a shell script; its end of the link is standard input.
    fn hold(script: &str) -> (Result<(), HolderError>, Vec<Report>, bool) {
        let directory = tempfile::tempdir().expect("tempdir");
        let arguments = ["-c", script].map(OsString::from).to_vec();
        let mut reports = Vec::new();
        let workers = Workers::Started { program: "/bin/sh".into(), arguments };
        let place = Place { directory: directory.path().to_owned(), source: None, flags: MsFlags::empty() };
        let result = run(place, workers, &mut |report| reports.push(report));
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
        let left = table.contains(&directory.path().display().to_string());
        if left {
            device::detach(directory.path()).expect("umount");
        }
        (result, reports, left)
    }

    #[test]
    fn a_worker_that_ends_early_is_told() {
        let (result, reports, left) = hold("exit 3");
        assert!(matches!(result, Err(HolderError::EndedEarly(how)) if how == "exit status: 3"));
        assert!(reports.is_empty() && !left);
    }

    #[test]
    fn a_workers_reason_arrives_before_its_end() {
        let (result, _, left) = hold(r#"printf '{"Failed":{"reason":"no such volume"}}' >&0"#);
        assert!(matches!(result, Err(HolderError::Failed(reason)) if reason == "no such volume"));
        assert!(!left);
    }

    #[test]
    fn a_mount_ends_with_the_worker_that_asked_for_it() {
        let ready = r#"printf '{"Ready":{"volume":"v","read_only":true}}' >&0"#;
        // `head` waits for a packet: the first carries the table, the second the device.
        let (result, _, left) =
            hold(&format!("head -c 1 >/dev/null; {ready}; head -c 1 >/dev/null; head -c 1 >/dev/null; kill -9 $$"));
        assert!(matches!(&result, Err(HolderError::EndedEarly(how)) if how.contains("signal: 9")), "{result:?}");
        assert!(!left, "nothing stays mounted");
        let served = r#"printf '{"Serving":{"pid":7}}' >&0"#;
        let (result, reports, left) = hold(&format!(
            "head -c 1 >/dev/null; {ready}; head -c 1 >/dev/null; head -c 1 >/dev/null; {served}; exit 1"
        ));
        assert!(matches!(result, Err(HolderError::Died(_))), "{result:?}");
        assert!(reports.is_empty(), "the mount never answered: {reports:?}");
        assert!(!left, "nothing stays mounted");
    }

    #[test]
    fn a_worker_that_was_unmounted_ends_the_holder_in_order() {
        let (result, _, left) = hold(r#"printf '"Unmounted"' >&0"#);
        assert!(matches!(result, Ok(())), "{result:?}");
        assert!(!left);
    }
}
