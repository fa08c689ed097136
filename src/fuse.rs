//! The mount among the kernel, the network and its holder: the worker process.
//!
//! `abi` is the kernel's protocol, byte by byte; `session` reads requests and writes replies, `worker` runs the mount
//! core among threads, `notify` has the kernel forget, `control` tells other programs how the mount does. `run` is the worker's life: load
//! the volume first, have the holder mount then, answer until it is told to stop. So nothing is mounted that cannot be
//! answered, and no process hangs on a mount whose cluster was never reached.
//!
//! No thread of the worker touches the mount it serves.

mod abi;
mod alarm;
mod callers;
mod control;
mod counters;
mod metrics;
mod notify;
mod session;
mod unreadable;
mod waits;
mod worker;

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, Signal},
    utsname::uname,
};

use self::{
    abi::init::Terms,
    session::Session,
    waits::Waits,
    worker::{Milestone, Worker},
};
pub use self::{counters::Counters, worker::Network};
use crate::{
    holder::{Link, Table, ToHolder, ToWorker, socket_file::SocketError},
    limits::CONNECTIONS_HTTP_MAX,
    message::mount::MountPlace,
    mount::{Config, Input, KernelFeatures, Opens},
    telemetry::{self, Heard, Repeats},
    transport::Deliver,
    types::Label,
};

/// How long the worker flushes at its end, when no majority takes its bytes, before it gives up.
const FLUSH_WAIT: Duration = Duration::from_secs(15);
/// How often it is looked whether a leader answers.
const WAITS_PERIOD: Duration = Duration::from_millis(250);

/// Features of the kernel that are not to be used, whether it has them or not (`--kernel-mask`): for those who want to
/// see how it goes without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelMask {
    /// FUSE_NOTIFY_INC_EPOCH, kernel 6.16.
    inc_epoch: bool,
    /// A FUSE_NOTIFY_INVAL_ENTRY that can be relied on, as in all kernels but some of 6.19.
    inval_entry: bool,
}

impl std::str::FromStr for KernelMask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mask = Self::default();
        for feature in text.split(',').filter(|feature| !feature.is_empty()) {
            match feature {
                "inc_epoch" => mask.inc_epoch = true,
                "inval_entry" => mask.inval_entry = true,
                other => {
                    return Err(format!(
                        "the features that can be masked are inc_epoch and inval_entry, not `{other}`"
                    ));
                }
            }
        }
        Ok(mask)
    }
}

/// What this machine's kernel can do, without what is masked, as far as that is known before something is mounted.
/// Features are only ever added to a kernel of a release, so that the release number never promises too much.
fn kernel_features(mask: KernelMask) -> KernelFeatures {
    let release = uname().ok().and_then(|name| release_of(name.release().to_str()?));
    KernelFeatures { inc_epoch: release >= Some((6, 16)) && !mask.inc_epoch, inval_entry: false }
}

/// This machine's name; in a pod, the pod's.
fn host() -> Label {
    let name = uname().map(|name| name.nodename().to_string_lossy().into_owned());
    Label::new(&name.unwrap_or_default())
}

fn release_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What a worker needs besides the core's configuration.
#[derive(Debug)]
pub struct WorkerConfig {
    pub mount: Config,
    pub kernel_mask: KernelMask,
    /// Name of the volume, for the kernel's list of mounts.
    pub volume: String,
    /// Threads that read requests: 1 to 16.
    pub threads: usize,
    /// The kernel stores and checks access control lists.
    pub acl: bool,
    /// The mount may be idmapped.
    pub idmap: bool,
    /// The connection to the holder.
    pub link: Link,
    /// Where other programs ask how the mount does.
    pub control: Option<PathBuf>,
    /// Where metrics and health are told over HTTP.
    pub http: Option<SocketAddr>,
    /// What SIGHUP does.
    pub hangup: fn(),
}

/// Why a worker ended other than in order.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("the holder is gone; the worker flushed what it could and ended")]
    HolderGone,
    #[error("{0}")]
    Mount(String),
    #[error("the kernel's session cannot begin: {0}")]
    Session(io::Error),
    #[error(transparent)]
    Control(#[from] SocketError),
    #[error("cannot answer HTTP at {address}: {error}; choose another address with --listen-http")]
    Http { address: SocketAddr, error: io::Error },
    #[error("{0} requests and the bytes behind them could not be brought to a majority of the storage nodes in time")]
    NotFlushed(usize),
    #[error(transparent)]
    Io(#[from] io::Error),
}

enum Event {
    Core(Milestone),
    Holder(ToWorker, Option<OwnedFd>),
    HolderGone,
    /// SIGTERM or SIGINT.
    Signal,
    /// SIGHUP.
    Hangup,
    /// The threads that read requests have ended.
    SessionOver(io::Result<()>),
}

/// How the end came about.
#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    Told,
    Unmounted,
    HolderGone,
    Failed(String),
}

/// A worker's whole life; `network` makes the shell that carries out the core's network outputs.
///
/// # Errors
/// Why it ended other than by being told to, or by an unmount. The holder has been told so too.
pub fn run(
    config: WorkerConfig,
    network: impl FnOnce(Deliver) -> io::Result<Box<dyn Network>>,
) -> Result<(), WorkerError> {
    let link = config.link.try_clone()?;
    let result = live(config, network);
    let last = match &result {
        Ok(End::Unmounted) => ToHolder::Unmounted,
        Ok(_) => ToHolder::Stopped,
        Err(error) => ToHolder::Failed { reason: error.to_string() },
    };
    // A holder that is gone needs no last words.
    link.send(&last, None).ok();
    result.map(drop)
}

fn live(
    config: WorkerConfig,
    network: impl FnOnce(Deliver) -> io::Result<Box<dyn Network>>,
) -> Result<End, WorkerError> {
    // A directory of the mount as the working directory would keep it busy.
    std::env::set_current_dir("/")?;
    abort_on_panic();
    let (events, queue) = mpsc::channel();
    watch_signals(events.clone())?;
    let read_only = config.mount.read_only;
    let mask = config.kernel_mask;
    let features = kernel_features(mask);
    let opens_are_told = config.mount.opens == Opens::Tracked;
    let terms = Terms { with_acl: config.acl, with_idmap: config.idmap, opens_are_told };
    // Its holder says so first of all.
    let directory = match config.link.receive::<ToWorker>()? {
        Some((ToWorker::Place { directory }, _)) => directory,
        Some(_) => return Err(WorkerError::Mount("the holder is another version of this program".to_owned())),
        None => return Err(WorkerError::HolderGone),
    };
    let place = MountPlace { host: host(), path: Label::new(&directory.to_string_lossy()), read_only };
    let (worker, milestones) = Worker::start(Config { kernel: features, place, ..config.mount }, network)?;
    watch_holder(config.link.try_clone()?, events.clone());
    watch_core(milestones, events.clone());
    let abi = Arc::new(OnceLock::new());
    let control = match config.control {
        Some(path) => {
            let report = control::Reporter::new(Arc::clone(&worker), config.volume.clone(), Arc::clone(&abi));
            Some(control::listen(&path, report)?)
        }
        None => None,
    };
    if let Some(address) = config.http {
        serve_http(address, &worker, &abi).map_err(|error| WorkerError::Http { address, error })?;
    }
    let (mut waits, mut warnings, mut look_at) = (Waits::default(), Repeats::default(), Instant::now());
    let end = loop {
        let now = Instant::now();
        if look_at <= now {
            look_at = now + WAITS_PERIOD;
            for reason in waits.look(now, worker.troubles()) {
                let what = if abi.get().is_some() { "no leader answers" } else { "nothing is mounted yet" };
                match warnings.hear(now, &format!("{what}: {reason}")) {
                    Heard::Say(again) => tracing::warn!("{what}: {reason}{again}"),
                    Heard::Gathered | Heard::Full => {}
                }
                if abi.get().is_none() {
                    config.link.send(&ToHolder::Waiting { reason }, None)?;
                }
            }
            worker.tell_gathered(now);
            for (warning, again) in warnings.due(now) {
                tracing::warn!("{warning}{again}");
            }
        }
        match queue.recv_timeout(look_at.saturating_duration_since(now)) {
            Ok(Event::Core(Milestone::Ready)) => {
                config.link.send(&ToHolder::Ready { volume: config.volume.clone(), read_only }, None)?;
            }
            Ok(Event::Core(Milestone::Fatal(reason))) => break End::Failed(reason),
            Ok(Event::Core(Milestone::Stale(reason))) if abi.get().is_some() => tracing::error!("{reason}"),
            // Nothing is mounted yet.
            Ok(Event::Core(Milestone::Stale(reason))) => break End::Failed(reason),
            Ok(Event::Core(Milestone::Stopped)) => break End::Told,
            Ok(Event::Holder(ToWorker::Table, Some(table))) => {
                let table = Table::received(table)?;
                table.set_inc_epoch(features.inc_epoch)?;
                worker.watch(table);
            }
            Ok(Event::Holder(ToWorker::Device { .. }, Some(device))) => {
                serve(device, (config.threads, terms), &worker, &abi, &events)?;
                config.link.send(&ToHolder::Serving { pid: std::process::id() }, None)?;
            }
            Ok(Event::Holder(ToWorker::Probed { inval_entry }, _)) => {
                if !inval_entry {
                    tracing::warn!(
                        "this kernel does not forget all names that it is told to forget: it will keep none"
                    );
                }
                worker.happened(Input::Probed { inval_entry: inval_entry && !mask.inval_entry });
            }
            Ok(Event::Holder(ToWorker::Place { .. }, _)) => {}
            Ok(Event::Holder(ToWorker::Device { .. } | ToWorker::Table, None)) => {
                break End::Failed("a device was lost".to_owned());
            }
            Ok(Event::Holder(ToWorker::Hangup, _) | Event::Hangup) => (config.hangup)(),
            Ok(Event::Holder(ToWorker::Stop, _) | Event::Signal) => break End::Told,
            Ok(Event::HolderGone) => break End::HolderGone,
            Ok(Event::SessionOver(Ok(()))) => break End::Unmounted,
            Ok(Event::SessionOver(Err(error))) => break End::Failed(format!("the kernel's session ended: {error}")),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break End::Failed("all threads of the worker ended".to_owned()),
        }
    };
    let flushed = flush(&worker, &queue, &end);
    worker.end();
    drop(control);
    match end {
        End::Failed(reason) => Err(WorkerError::Mount(reason)),
        End::HolderGone => Err(WorkerError::HolderGone),
        end => flushed.map(|()| end),
    }
}

/// Begins to answer the kernel, in threads of its own.
fn serve(
    device: OwnedFd,
    (threads, terms): (usize, Terms),
    worker: &Arc<Worker>,
    abi: &Arc<OnceLock<(u32, u32)>>,
    events: &Sender<Event>,
) -> Result<(), WorkerError> {
    let session = Session::begin(device, Arc::clone(worker), Arc::clone(&worker.counters), terms);
    let session = Arc::new(session.map_err(WorkerError::Session)?);
    worker.attach(session.device()?)?;
    abi.get_or_init(|| session.version());
    for _ in 0..threads {
        let (session, events) = (Arc::clone(&session), events.clone());
        // The first one's end is the session's: all of them are told the same by the kernel.
        thread::spawn(move || events.send(Event::SessionOver(session.serve())));
    }
    Ok(())
}

/// Metrics and health, in a thread of their own that lives as long as the process.
fn serve_http(address: SocketAddr, worker: &Arc<Worker>, abi: &Arc<OnceLock<(u32, u32)>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(address))?;
    let mut registry = telemetry::registry();
    registry.register_collector(Box::new(metrics::MountCollector(Arc::clone(worker))));
    let (abi, worker) = (Arc::clone(abi), Arc::clone(worker));
    let readiness: telemetry::Readiness = Arc::new(move || match abi.get() {
        Some(_) if worker.is_stale() => Err("the volume is gone: this mount answers ESTALE".to_owned()),
        Some(_) => Ok(()),
        None => Err("the volume is not mounted yet".to_owned()),
    });
    thread::spawn(move || {
        let never = std::future::pending();
        runtime.block_on(telemetry::serve(listener, CONNECTIONS_HTTP_MAX, Arc::new(registry), readiness, never));
    });
    Ok(())
}

/// Has the core flush and leave, and waits for it. A core that failed has nothing left to flush with.
fn flush(worker: &Worker, queue: &Receiver<Event>, end: &End) -> Result<(), WorkerError> {
    if matches!(end, End::Failed(_)) {
        return Ok(());
    }
    worker.happened(Input::Stop);
    let deadline = Instant::now() + FLUSH_WAIT;
    loop {
        match queue.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Core(Milestone::Stopped)) => return Ok(()),
            Ok(Event::Core(Milestone::Fatal(reason))) => return Err(WorkerError::Mount(reason)),
            Ok(_) => {}
            Err(_) => return Err(WorkerError::NotFlushed(worker.unanswered())),
        }
    }
}

/// A thread that died would leave requests unanswered for ever; the holder deals with a worker that is gone.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// SIGTERM ends a worker in order, which is for those whose holder is elsewhere; Ctrl-C is the holder's.
fn watch_signals(events: Sender<Event>) -> io::Result<()> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    // Before any other thread begins, so that none of them takes a signal.
    signals.thread_block()?;
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            let event = if signal == Signal::SIGHUP { Event::Hangup } else { Event::Signal };
            if events.send(event).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn watch_holder(link: Link, events: Sender<Event>) {
    thread::spawn(move || {
        while let Ok(Some((message, device))) = link.receive::<ToWorker>() {
            if events.send(Event::Holder(message, device)).is_err() {
                return;
            }
        }
        // Nobody listens after the worker's end.
        events.send(Event::HolderGone).ok();
    });
}

fn watch_core(milestones: Receiver<Milestone>, events: Sender<Event>) {
    thread::spawn(move || {
        for milestone in milestones {
            if events.send(Event::Core(milestone)).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_release_is_compared_by_number() {
        assert_eq!(release_of("6.18.44-fc-v669"), Some((6, 18)));
        assert!(release_of("6.9.0-1-amd64") < Some((6, 16)));
        assert!(release_of("7.0") >= Some((6, 16)));
        assert!(release_of("odd") < Some((6, 16)));
    }

    #[test]
    fn a_mask_switches_off() {
        assert_eq!("".parse(), Ok(KernelMask::default()));
        assert_eq!("inc_epoch,inval_entry".parse(), Ok(KernelMask { inc_epoch: true, inval_entry: true }));
        assert!(!kernel_features("inc_epoch".parse().expect("a mask")).inc_epoch);
        assert!("inc_epoch,resend-me".parse::<KernelMask>().expect_err("refused").contains("resend-me"));
    }
}
