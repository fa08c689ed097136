//! `manyfs unmount --dead`: takes mounts away whose processes were killed. On a Kubernetes node such a mount keeps its pod in
//! Terminating for ever, because the kubelet can neither look into it nor remove it. A mount that lives is never touched,
//! however long it does not answer.

use std::{
    collections::BTreeSet,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, umount2},
    sys::{
        signal::{SigSet, Signal},
        stat::Mode,
        statfs::fstatfs,
    },
};

use super::{Failure, mountpoint};

/// How long a round waits for mounts to answer. One that takes longer lives; it is looked at again once it has answered.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Detaches the dead mounts at and below `directory`: once, or `every` so often until SIGTERM or SIGINT.
pub(super) fn run(directory: &Path, every: Option<Duration>) -> Result<(), Failure> {
    let directory = mountpoint::absolute(directory)?;
    let mut sweeper = Sweeper::new(directory);
    let Some(every) = every else { return sweeper.sweep() };
    let stop = watch_signals()?;
    loop {
        if let Err(failure) = sweeper.sweep() {
            // The next round may find it better; a process that ends would only be started again.
            tracing::warn!("{failure}");
        }
        match stop.recv_timeout(every) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// What a thread found out about a mount: the mount itself where it is dead.
struct Verdict {
    place: PathBuf,
    dead: Option<OwnedFd>,
}

/// The mount at `place`, if its processes are gone. Waits for as long as the worker does.
///
/// The descriptor means this mount and no other: should its holder be started again at this moment and mount anew, that
/// mount is not the one that is detached.
fn dead_mount(place: &Path) -> Option<OwnedFd> {
    // Not even a dead mount is asked by this.
    let mount = open(place, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    mountpoint::is_dead(&fstatfs(&mount)).then_some(mount)
}

fn detach(mount: &OwnedFd) -> nix::Result<()> {
    let name = format!("/proc/self/fd/{}", mount.as_raw_fd());
    match umount2(name.as_str(), MntFlags::MNT_DETACH) {
        // Somebody else has detached it.
        Err(Errno::EINVAL) => Ok(()),
        detached => detached,
    }
}

struct Sweeper {
    directory: PathBuf,
    /// Places that a thread waits for. A living mount may keep it for long: it gets no second one.
    asked: BTreeSet<PathBuf>,
    told: mpsc::Sender<Verdict>,
    verdicts: mpsc::Receiver<Verdict>,
}

impl Sweeper {
    fn new(directory: PathBuf) -> Self {
        let (told, verdicts) = mpsc::channel();
        Self { directory, asked: BTreeSet::new(), told, verdicts }
    }

    fn sweep(&mut self) -> Result<(), Failure> {
        for place in mountpoint::mounted_below(&self.directory)? {
            if self.asked.insert(place.clone()) {
                let told = self.told.clone();
                // Only the end of this process closes the channel.
                thread::spawn(move || told.send(Verdict { dead: dead_mount(&place), place }));
            }
        }
        let deadline = Instant::now() + ANSWER_WAIT;
        let mut failed = None;
        while !self.asked.is_empty() {
            let wait = deadline.saturating_duration_since(Instant::now());
            let Ok(Verdict { place, dead }) = self.verdicts.recv_timeout(wait) else { break };
            self.asked.remove(&place);
            let Some(mount) = dead else { continue };
            match detach(&mount) {
                Ok(()) => tracing::warn!("detached the dead mount at {}", place.display()),
                // The others are detached all the same.
                Err(error) => failed = Some(format!("cannot detach {}: {error}", place.display())),
            }
        }
        failed.map_or(Ok(()), |sentence| Err(sentence.into()))
    }
}

/// Ends with SIGTERM and SIGINT also where this is the first process of a container, which the kernel spares signals that
/// it does not handle.
fn watch_signals() -> Result<mpsc::Receiver<()>, Failure> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    // Before any other thread begins, so that none of them takes a signal.
    signals.thread_block()?;
    let (stop, stopped) = mpsc::channel();
    thread::spawn(move || {
        if signals.wait().is_ok() {
            // Nobody waits any more: the process is about to end.
            stop.send(()).ok();
        }
    });
    Ok(stopped)
}
