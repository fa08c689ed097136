//! `manyfs mount`: the process that holds the mount, and the worker that it starts.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    Failure, allocator,
    mount_settings::MountSettings,
    mountpoint, read_again, read_again_with_parent,
    runfile::{self, Run, RunFile},
    seal::Seal,
    starter::{Starter, Word},
};
use crate::{
    fuse::{self, WorkerConfig, WorkerError},
    holder::{
        self, Link, Place, Report, Workers,
        socket_file::{self, SocketError},
    },
    limits::Timing,
    mount::Config,
    pki::Credential,
    transport::Transport,
    types::MountId,
};

/// Threads of the runtime that carries the network.
const NETWORK_THREADS: usize = 2;
/// How long a worker waits for its holder to listen.
const HOLDER_WAIT: Duration = Duration::from_secs(10);
const HOLDER_PAUSE: Duration = Duration::from_millis(50);
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Mount a volume, and stay until it is unmounted or SIGTERM comes.
///
/// Needs root, /dev/fuse, and a credential, which names cluster, servers and volume. Prints one line once the mount
/// answers.
///
/// Example: manyfs mount --credential main.toml /srv/wp-content
#[derive(Debug, clap::Args)]
pub(super) struct Mount {
    /// Credential file made by `manyfs credential create`.
    #[arg(long, env = "MANYFS_CREDENTIAL", value_name = "FILE", default_value = "/etc/manyfs/credential.toml")]
    credential: PathBuf,
    /// Where to mount: an existing, empty directory.
    #[arg(required_unless_present_any = ["holder", "worker"])]
    directory: Option<PathBuf>,
    /// Serve a mount that `manyfs hold` makes: the socket of that holder.
    #[arg(long, env = "MANYFS_HOLDER", value_name = "PATH", conflicts_with = "directory")]
    holder: Option<PathBuf>,
    #[command(flatten)]
    settings: MountSettings,
    /// Write what was mounted, and by which processes, to this file as JSON, once the mount answers.
    #[arg(long, value_name = "FILE")]
    run_file: Option<PathBuf>,
    /// Unix socket at which the mount tells how it does [default: the run file with .sock added]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Answer /metrics, /healthz and /readyz (the mount answers) at this address, such as 0.0.0.0:7442.
    #[arg(long, env = "MANYFS_LISTEN_HTTP", value_name = "ADDRESS")]
    listen_http: Option<SocketAddr>,
    /// Print what was mounted as one line of JSON.
    #[arg(long)]
    json: bool,
    /// For tests: all times of the protocol in hundredths of their length.
    #[arg(long, env = "MANYFS_TIME_SCALE", default_value_t = 100, hide = true)]
    time_scale: u32,
    /// What the kernel lists as the mount's source [default: manyfs:VOLUME]
    #[arg(long, value_name = "NAME", hide = true)]
    source: Option<String>,
    /// Live on when the terminal ends.
    #[arg(long, hide = true)]
    background: bool,
    /// This process is a holder's child; the link is its standard input.
    #[arg(long, hide = true)]
    worker: bool,
    /// The score that the holder had before it lowered its own.
    #[arg(long, hide = true, allow_hyphen_values = true)]
    oom_score: Option<i32>,
}

impl Mount {
    pub(super) fn run(self) -> Result<(), Failure> {
        let credential = Credential::load(&self.credential)?;
        if self.worker {
            let link = Link::inherited(io::stdin().as_fd().try_clone_to_owned()?);
            restore_oom_score(self.oom_score)?;
            return match self.work(credential, link) {
                // The holder has been told, and says it to whoever started both.
                Err(failure) if is_told(&failure) => std::process::exit(1),
                ended => ended,
            };
        }
        match (&self.holder, &self.directory) {
            (Some(socket), _) => {
                let link = connect(socket)?;
                self.work(credential, link)
            }
            (None, Some(directory)) => {
                let directory = mountpoint::prepare(directory)?;
                self.hold(directory)
            }
            (None, None) => Err("give a directory to mount on".into()),
        }
    }

    /// The process that the user started: holds the mount, and has a child do the work.
    fn hold(self, directory: PathBuf) -> Result<(), Failure> {
        if self.background {
            // Refused only to the leader of a group, which needs none.
            nix::unistd::setsid().ok();
        }
        // Before anything is started: no worker need load a volume that cannot be mounted.
        holder::device::open()?;
        if let Some(path) = &self.run_file {
            RunFile::check_place(path)?;
            if let Some(control) = &self.control {
                runfile::check_apart(path, control)?;
            }
        }
        let control = self.control();
        match &control {
            Some(path) => socket_file::check_free(&std::path::absolute(path)?)?,
            None if self.run_file.is_some() => {
                tracing::warn!(
                    "the run file's path is too long for a socket beside it: `status` tells less (--control)"
                );
            }
            None => {}
        }
        let workers = Workers::Started { program: std::env::current_exe()?, arguments: worker_arguments() };
        let mut announcement = Announcement::new(directory.clone(), self.run_file, control, self.json);
        if self.background {
            announcement.starter = Some(Starter::watched()?);
        }
        let place = Place { directory, source: self.source, flags: self.settings.options.0 };
        hold(place, workers, announcement)
    }

    fn work(self, credential: Credential, link: Link) -> Result<(), Failure> {
        let mut random = [0; 24];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let (id, seed) = random.split_at(16);
        let mut mount = Config::new(
            credential.servers.clone(),
            MountId(id.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))),
        );
        mount.seed = seed.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        mount.timing = Timing::DEFAULT.scaled(self.time_scale);
        self.settings.apply(credential.grant.access, &mut mount);
        let control = self.control().map(std::path::absolute).transpose()?;
        let volume = credential.grant.name.clone();
        let config = WorkerConfig {
            mount,
            kernel_mask: self.settings.kernel_mask,
            volume,
            threads: self.settings.threads.into(),
            acl: self.settings.acl,
            idmap: self.settings.idmap,
            link,
            control,
            http: self.listen_http,
            hangup: if self.worker { read_again_with_parent } else { read_again },
        };
        // Made inside: signals must be blocked before the first thread begins.
        fuse::run(config, |deliver| {
            allocator::keep_trimming()?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(NETWORK_THREADS)
                .thread_name("network")
                .enable_all()
                .build()?;
            let transport = Transport::new(&credential, runtime.handle().clone(), deliver);
            // It lives as long as the process.
            std::mem::forget(runtime);
            Ok(Box::new(transport))
        })?;
        Ok(())
    }

    fn control(&self) -> Option<PathBuf> {
        self.control.clone().or_else(|| runfile::control_beside(self.run_file.as_deref()?))
    }
}

/// Holds a mount until its end. The directory below is sealed meanwhile, and stays so where the end was no orderly one.
pub(super) fn hold(place: Place, workers: Workers, mut announcement: Announcement) -> Result<(), Failure> {
    let directory = place.directory.clone();
    let seal = Seal::put(&directory);
    let result = holder::run(place, workers, &mut |report| announcement.make(report));
    match seal {
        Some(_) if result.is_err() && announcement.is_mounted => tracing::warn!(
            "{0} is closed to all but root (mode 0) until it is mounted again and unmounted; `manyfs unmount {0}` gives it its \
             mode back",
            directory.display()
        ),
        Some(seal) => seal.lift(),
        None => {}
    }
    Ok(result?)
}

fn is_told(failure: &Failure) -> bool {
    failure.downcast_ref::<WorkerError>().is_some_and(|error| !matches!(error, WorkerError::HolderGone))
}

/// Tells whoever started the holder what became of the mount.
pub(super) struct Announcement {
    directory: PathBuf,
    run_file: Option<PathBuf>,
    control: Option<PathBuf>,
    json: bool,
    /// Who waits for this process, where it is to live on behind.
    starter: Option<Starter>,
    is_mounted: bool,
    /// What this process wrote into its run file, which goes with it.
    written: Option<RunFile>,
}

impl Announcement {
    pub(super) fn new(directory: PathBuf, run_file: Option<PathBuf>, control: Option<PathBuf>, json: bool) -> Self {
        Self { directory, run_file, control, json, starter: None, is_mounted: false, written: None }
    }

    pub(super) fn make(&mut self, report: Report) {
        match report {
            Report::Hangup => read_again(),
            Report::Notice(sentence) => tracing::info!("{sentence}"),
            Report::Waiting(reason) => {
                if let Some(starter) = &self.starter {
                    starter.tell(&Word::Waiting(reason));
                }
            }
            Report::Serving { volume, worker_pid } => {
                self.is_mounted = true;
                if let Err(error) = self.serving(volume, worker_pid) {
                    tracing::error!("the mount answers, but this could not be told: {error}");
                }
            }
        }
    }

    fn serving(&mut self, volume: String, worker_pid: u32) -> Result<(), Failure> {
        let about = RunFile {
            path: self.directory.clone(),
            pid: std::process::id(),
            worker_pid,
            start: runfile::start()?,
            volume,
            control: self.control.as_ref().map(std::path::absolute).transpose()?,
        };
        if let Some(path) = &self.run_file {
            // Whoever waits for the mount is told all the same: it is there.
            match about.write(path) {
                Ok(()) => self.written = Some(about.clone()),
                Err(error) => tracing::error!("the mount answers, but nothing says so in its run file: {error}"),
            }
        }
        if let Some(starter) = &self.starter {
            starter.tell(&Word::Mounted);
            return Ok(());
        }
        let line = if self.json {
            about.to_json()?
        } else {
            let directory = about.path.display();
            format!("volume {} is mounted at {directory} (pid {}, worker {worker_pid})", about.volume, about.pid)
        };
        Ok(writeln!(io::stdout(), "{line}")?)
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if let (Some(path), Some(about)) = (&self.run_file, &self.written) {
            about.remove(path);
        }
    }
}

/// The command line of the holder's child: the holder's own, and so with the same settings. Lowers the holder's score
/// for the kernel's choice of what to kill.
pub(super) fn worker_arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let flags_end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let score = lower_oom_score().map(|score| format!("--oom-score={score}").into());
    arguments.splice(flags_end..flags_end, score.into_iter().chain(["--worker".into()]));
    arguments
}

/// The holder goes last when memory is short. Returns the score of before, for the worker.
pub(super) fn lower_oom_score() -> Option<i32> {
    let before = fs::read_to_string(OOM_SCORE).ok()?.trim().parse().ok()?;
    match fs::write(OOM_SCORE, "-1000") {
        Ok(()) => Some(before),
        Err(error) => {
            tracing::warn!(%error, "the kernel may kill the holder when memory is short (needs CAP_SYS_RESOURCE)");
            None
        }
    }
}

/// A worker is no holder: it may go when memory is short.
pub(super) fn restore_oom_score(score: Option<i32>) -> io::Result<()> {
    score.map_or(Ok(()), |score| fs::write(OOM_SCORE, score.to_string()))
}

/// Reaches the holder; waits a while for it where containers start side by side.
fn connect(socket: &Path) -> Result<Link, Failure> {
    if !socket_file::is_short_enough(socket) {
        return Err(SocketError::TooLong(socket.to_owned()).into());
    }
    let deadline = Instant::now() + HOLDER_WAIT;
    loop {
        match Link::connect(socket) {
            Ok(link) => return Ok(link),
            Err(error) if may_come(&error) && Instant::now() < deadline => thread::sleep(HOLDER_PAUSE),
            Err(error) => {
                let place = socket.display();
                return Err(format!("cannot reach the holder at {place}: {error}; is `manyfs hold` running?").into());
            }
        }
    }
}

/// Whether an error of connect(2) may go away when the other side has started.
fn may_come(error: &io::Error) -> bool {
    [Errno::ENOENT, Errno::ECONNREFUSED].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}
