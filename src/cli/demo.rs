//! `manyfs demo`: a whole cluster on this machine, each part a process of its own.

mod layout;
mod processes;
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) use layout::Layout;

use self::{
    layout::{mount_name, node_name},
    processes::Processes,
    watch::{Health, Watch},
};
use super::{
    Failure,
    admin::Administrator,
    cluster, credential,
    report::{Format, print},
    runtime,
    status::{ClusterView, MountView, NodeView},
    volume::Quotas,
};
use crate::{holder, pki::Authority, types::Access};

/// How long nodes may take to listen, and mounts to answer.
const START_WAIT: Duration = Duration::from_secs(60);
const LOCK_FILE: &str = "LOCK";
const PAUSE: Duration = Duration::from_millis(50);
/// How often the cluster's health is looked at.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// Run a whole cluster on this machine: storage nodes and mounts, each a process of its own.
///
/// Prints where the mounts are and what to try, and follows the cluster's health until Ctrl-C; then it unmounts and stops
/// everything. What is killed stays dead, and the output says how to start it again. The same directory goes on where it
/// was. Needs root and /dev/fuse.
///
/// Example: manyfs demo --nodes 3 --mounts 2
#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// Storage nodes: 1, 3, 5 or 7 [default: 3, or as many as the directory has]
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// Mounts, up to 16 [default: 2, or as many as the directory has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=16))]
    mounts: Option<u32>,
    /// Where everything is kept.
    #[arg(long, value_name = "DIR", default_value = layout::DEFAULT_DIR)]
    dir: PathBuf,
    /// Delete the demo in the directory first, files and all.
    #[arg(long)]
    fresh: bool,
    /// For tests: all times of the protocol in hundredths of their length.
    #[arg(long, env = "MANYFS_TIME_SCALE", default_value_t = 100, hide = true,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    time_scale: u32,
    #[command(flatten)]
    format: Format,
}

/// The one line of `--json`.
#[derive(Serialize)]
struct Ready {
    mounts: Vec<MountView>,
    nodes: Vec<NodeView>,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        check_machine()?;
        if self.nodes.is_some_and(|nodes| !matches!(nodes, 1 | 3 | 5 | 7)) {
            return Err("a cluster has 1, 3, 5 or 7 storage nodes: change --nodes".into());
        }
        let (layout, lock) = self.settle()?;
        let result = runtime()?.block_on(self.serve(&layout));
        drop(lock);
        result
    }

    /// Finds the demo or makes it, and makes sure that no other process runs it.
    fn settle(&self) -> Result<(Layout, Flock<fs::File>), Failure> {
        let dir = &self.dir;
        layout::check_text(dir)?;
        let found = Layout::find(dir)?;
        if found.is_none() && dir.exists() && !is_empty(dir)? {
            return Err(format!(
                "{} is not empty and holds no demo; choose another --dir, nothing was changed",
                dir.display()
            )
            .into());
        }
        if let Some(layout) = &found
            && !self.fresh
            && let Some(nodes) = self.nodes.filter(|nodes| *nodes != layout.node_count())
        {
            return Err(format!(
                "the demo in {} has {} storage nodes, not {nodes}; leave --nodes out, or begin anew with --fresh",
                dir.display(),
                layout.node_count()
            )
            .into());
        }
        fs::create_dir_all(dir).map_err(|error| format!("{} cannot be made: {error}", dir.display()))?;
        let lock = lock(dir)?;
        if let Some(layout) = &found {
            processes::end_all(layout);
            if self.fresh {
                wipe(layout)?;
            }
        }
        let layout = match found.filter(|_| !self.fresh) {
            Some(layout) => {
                let mounts = self.mounts.unwrap_or(layout.mount_count());
                layout.with_mounts(mounts)?
            }
            None => Layout::create(dir, self.nodes.unwrap_or(3), self.mounts.unwrap_or(2), self.time_scale)?,
        };
        furnish(&layout)?;
        Ok((layout, lock))
    }

    async fn serve(&self, layout: &Layout) -> Result<(), Failure> {
        // From here on a signal must not leave processes behind.
        let mut stop = Stop::new()?;
        let mut processes = Processes::new(layout.clone());
        let result = tokio::select! {
            result = self.start_and_watch(layout, &mut processes) => result,
            () = stop.wait() => Ok(()),
        };
        self.say(&format!("stopping; `{}` goes on from here", self.again(layout)))?;
        processes.stop().await;
        result
    }

    async fn start_and_watch(&self, layout: &Layout, processes: &mut Processes) -> Result<(), Failure> {
        let authority = Authority::load(&layout.authority())?;
        for node in 1..=layout.node_count() {
            processes.start(node_name(node), &layout.node_start(node))?;
        }
        let administrator = Administrator::new(&authority, layout.addresses())?;
        self.wait_for_nodes(layout, &administrator, processes).await?;
        cluster::found(&authority, layout.addresses(), Quotas::default()).await?;
        if !layout.credential().exists() {
            let credential = credential::issue(&authority, "main", Access::ReadWrite, layout.addresses()).await?;
            credential.save(&layout.credential())?;
        }
        for mount in 1..=layout.mount_count() {
            processes.start(mount_name(mount), &layout.mount_start(mount))?;
        }
        self.wait_for_mounts(layout, processes).await?;
        let view = ClusterView::of(&administrator.ask_all().await, Some(layout));
        if self.format.json {
            let ready = Ready { mounts: view.mounts.clone(), nodes: view.nodes.clone() };
            print(&serde_json::to_string(&ready)?)?;
        } else {
            print(&self.welcome(layout))?;
        }
        let mut watch = Watch::new(Health::of(&view));
        loop {
            tokio::time::sleep(WATCH_PERIOD).await;
            processes.reap();
            let view = ClusterView::of(&administrator.ask_all().await, Some(layout));
            for line in watch.see(Health::of(&view), processes) {
                self.say(&line)?;
            }
        }
    }

    async fn wait_for_nodes(
        &self,
        layout: &Layout,
        administrator: &Administrator,
        processes: &mut Processes,
    ) -> Result<(), Failure> {
        let names: Vec<_> = (1..=layout.node_count()).map(node_name).collect();
        let deadline = tokio::time::Instant::now() + START_WAIT;
        loop {
            let answers = administrator.ask(layout.addresses()).await;
            let silent: Vec<_> = answers.iter().filter_map(|answer| answer.report.as_ref().err()).collect();
            let Some(reason) = silent.first() else { return Ok(()) };
            processes.check_running(&names, layout)?;
            if tokio::time::Instant::now() >= deadline {
                return Err(
                    format!("the storage nodes did not start within {} s: {reason}", START_WAIT.as_secs()).into()
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn wait_for_mounts(&self, layout: &Layout, processes: &mut Processes) -> Result<(), Failure> {
        let names: Vec<_> = (1..=layout.mount_count()).map(mount_name).collect();
        let deadline = tokio::time::Instant::now() + START_WAIT;
        // The run file is written when the mount answers.
        while layout.mounts().iter().any(|mount| mount.worker_pid.is_none()) {
            processes.check_running(&names, layout)?;
            if tokio::time::Instant::now() >= deadline {
                return Err(format!(
                    "the mounts did not answer within {} s; {} says more",
                    START_WAIT.as_secs(),
                    layout.dir().join("log").display()
                )
                .into());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// What a person is told when all is up.
    fn welcome(&self, layout: &Layout) -> String {
        let mut lines = vec![format!("A ManyFS cluster runs in {}:", layout.dir().display()), String::new()];
        for node in 1..=layout.node_count() {
            let pid = layout.node_pid(node).map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            lines.push(format!("  storage node {node}   {}   pid {pid}", layout.address(node)));
        }
        let mounts = layout.mounts();
        for (at, mount) in mounts.iter().enumerate() {
            let pid = mount.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            lines.push(format!("  mount {}          {}   pid {pid}", at + 1, mount.path.display()));
        }
        lines.extend([String::new(), "Try, in another terminal:".to_owned()]);
        if let [first, .., last] = mounts.as_slice() {
            lines.push(format!("  echo hello > {}/file; cat {}/file", first.path.display(), last.path.display()));
        }
        lines.push(format!("  {} status --dir {}", program(), layout.dir().display()));
        if let Some(pid) = layout.node_pid(1).filter(|_| layout.node_count() > 1) {
            lines.push(format!("  kill -9 {pid}        # a storage node dies; the mounts go on"));
        }
        if let Some(mount) = mounts.first() {
            lines.push(format!(
                "  {} bench {} --metrics {}",
                program(),
                mount.path.display(),
                layout.http_addresses().join(",")
            ));
        }
        lines.extend([String::new(), "Ctrl-C unmounts and stops everything.".to_owned()]);
        lines.join("\n")
    }

    fn again(&self, layout: &Layout) -> String {
        format!("{} demo --dir {}", program(), layout.dir().display())
    }

    /// A line for whoever watches: standard output is for the one line of JSON where that was asked for.
    fn say(&self, line: &str) -> Result<(), Failure> {
        if self.format.json {
            eprintln!("{line}");
            Ok(())
        } else {
            print(line)
        }
    }
}

/// SIGTERM, SIGINT or SIGHUP (the terminal was closed).
struct Stop([Signal; 3]);

impl Stop {
    fn new() -> Result<Self, Failure> {
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?]))
    }

    async fn wait(&mut self) {
        let [term, int, hangup] = &mut self.0;
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

fn check_machine() -> Result<(), Failure> {
    if !geteuid().is_root() {
        return Err("the demo mounts file systems and needs root: run it with sudo".into());
    }
    holder::device::open().map(drop)?;
    Ok(())
}

/// True where a demo may be made: nothing is there but what one that did not get further has left.
fn is_empty(dir: &Path) -> Result<bool, Failure> {
    let mut entries = fs::read_dir(dir).map_err(|error| format!("{} cannot be used: {error}", dir.display()))?;
    Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK_FILE)))
}

/// One demo process for each directory.
fn lock(dir: &Path) -> Result<Flock<fs::File>, Failure> {
    let path = dir.join(LOCK_FILE);
    let file = fs::File::create(&path).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| format!("another demo runs in {}; end it first, or choose another --dir", dir.display()).into())
}

/// Deletes what a demo made, and nothing else.
fn wipe(layout: &Layout) -> Result<(), Failure> {
    let mut parts: Vec<PathBuf> = ["log", "run"].map(|name| layout.dir().join(name)).into();
    parts.extend((1..=layout.node_count()).map(|node| layout.data(node)));
    for part in parts {
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{} cannot be deleted: {error}", part.display()).into());
            }
            _ => {}
        }
    }
    // The plan stays until the next one replaces it: however this ends, the directory is known as a demo's.
    for file in [layout.authority(), layout.credential(), layout.config()] {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{} cannot be deleted: {error}", file.display()).into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes what is missing: directories, authority.
fn furnish(layout: &Layout) -> Result<(), Failure> {
    let mut dirs: Vec<PathBuf> = ["log", "run"].map(|name| layout.dir().join(name)).into();
    dirs.extend((1..=layout.mount_count()).map(|mount| layout.mount_point(mount)));
    for dir in dirs {
        fs::create_dir_all(&dir).map_err(|error| format!("{} cannot be made: {error}", dir.display()))?;
    }
    fs::write(layout.config(), "# Empty: what the demo starts takes its settings from flags.\n")
        .map_err(|error| format!("{} cannot be written: {error}", layout.config().display()))?;
    if !layout.authority().exists() {
        Authority::create()?.save(&layout.authority())?;
    }
    Ok(())
}

fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "manyfs".to_owned())
}
