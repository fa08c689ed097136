//! The cluster under test: `manyfs demo`, its nodes and mounts as separate processes, and what is done to them.

use super::deadline::{wait_for, wait_quietly};
use super::process::{Launch, Process, command_line, is_gone, kill_nine, run, signal, tail, try_run};
use super::requirements::Requirements;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_manyfs");
const READY_LIMIT: Duration = Duration::from_secs(60);
const HEALTHY_LIMIT: Duration = Duration::from_secs(30);
const STATUS_LIMIT: Duration = Duration::from_secs(10);
const STORAGE_NODES: usize = 3;
const MOUNTS: usize = 2;

/// What `manyfs demo --json` and `manyfs status --json` say.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    pub(crate) mounts: Vec<Mount>,
    pub(crate) nodes: Vec<Node>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
    /// The holder.
    pub(crate) pid: Option<u32>,
    pub(crate) worker_pid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    /// None when the process is dead.
    pub(crate) pid: Option<u32>,
    pub(crate) leader: bool,
    /// Argv that runs this storage node again.
    pub(crate) start: Vec<String>,
}

/// A cluster that serves, and everything that it takes to end it.
#[derive(Debug)]
pub(crate) struct Cluster {
    requirements: Requirements,
    dir: PathBuf,
    logs: PathBuf,
    mounts: Vec<PathBuf>,
    demo: Process,
    /// Storage nodes that the test started again: not the demo's children any more.
    restarted: Vec<Process>,
}

impl Cluster {
    /// Starts the demo in `dir` and waits until it says that it serves.
    pub(crate) fn start(requirements: &Requirements, dir: &Path, logs: &Path) -> Self {
        let log = logs.join("demo.log");
        let argv = [PROGRAM, "demo", "--json", "--nodes", "3", "--mounts", "2", "--dir"];
        let mut argv: Vec<_> = argv.into_iter().map(Into::into).collect();
        argv.push(dir.as_os_str().to_owned());
        let mut demo = Process::start(
            requirements,
            Launch { name: "manyfs demo", argv, log: &log, stop_signal: Signal::SIGINT, user: None, pipe_output: true },
        );
        let output = demo.take_output();
        let mut cluster = Self {
            requirements: requirements.clone(),
            dir: dir.to_owned(),
            logs: logs.to_owned(),
            mounts: (0..MOUNTS).map(|_| PathBuf::new()).collect(),
            demo,
            restarted: Vec::new(),
        };
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // The one line; an end without it reaches the waiting side as an empty one.
            let _ = BufReader::new(output).read_line(&mut line);
            let _ = sender.send(line);
        });
        let line = ready.recv_timeout(READY_LIMIT).unwrap_or_else(|_| {
            panic!("manyfs demo was not ready after {} s:\n{}", READY_LIMIT.as_secs(), tail(&log, 30))
        });
        if line.is_empty() {
            panic!("manyfs demo ended before it was ready:\n{}", tail(&log, 30));
        }
        let status = parse(&line);
        assert_eq!(status.nodes.len(), STORAGE_NODES, "asked for three storage nodes: {line}");
        assert_eq!(status.mounts.len(), MOUNTS, "asked for two mounts: {line}");
        cluster.mounts = status.mounts.into_iter().map(|mount| mount.path).collect();
        cluster.healthy();
        cluster
    }

    /// Path of mount 0 or 1.
    pub(crate) fn mount(&self, index: usize) -> &Path {
        &self.mounts[index]
    }

    /// What the cluster says of itself.
    pub(crate) fn status(&self) -> Status {
        parse(&run(self.status_command(), STATUS_LIMIT))
    }

    /// Waits until every storage node runs and exactly one leads.
    pub(crate) fn healthy(&self) -> Status {
        wait_for("all storage nodes to run under one leader", HEALTHY_LIMIT, || {
            let status = self.status();
            let running = status.nodes.iter().all(|node| node.pid.is_some());
            let leaders = status.nodes.iter().filter(|node| node.leader).count();
            (running && leaders == 1).then_some(status)
        })
    }

    /// kill -9 of the storage node that leads now.
    pub(crate) fn kill_leader(&self) -> Node {
        self.kill(|node| node.leader)
    }

    /// kill -9 of a storage node that follows now.
    pub(crate) fn kill_follower(&self) -> Node {
        self.kill(|node| !node.leader)
    }

    /// Starts a killed storage node with its own argv and waits until the cluster is whole again.
    pub(crate) fn restart(&mut self, node: &Node) {
        let name = format!("storage node {}", node.id);
        let log = self.logs.join(format!("node-{}-restarted.log", node.id));
        let argv = node.start.iter().map(Into::into).collect();
        self.restarted.push(Process::start(
            &self.requirements,
            Launch { name: &name, argv, log: &log, stop_signal: Signal::SIGTERM, user: None, pipe_output: false },
        ));
        self.healthy();
    }

    fn kill(&self, choose: impl Fn(&Node) -> bool) -> Node {
        let status = self.healthy();
        let node = status.nodes.into_iter().find(choose).expect("a healthy cluster has one leader and two followers");
        kill_nine(node.pid.expect("a healthy node has a pid"), "manyfs");
        node
    }

    fn status_command(&self) -> [&std::ffi::OsStr; 5] {
        [PROGRAM.as_ref(), "status".as_ref(), "--json".as_ref(), "--dir".as_ref(), self.dir.as_os_str()]
    }
}

impl Drop for Cluster {
    /// Ends the demo in order; what it leaves behind is ended by pid and unmounted by force, and said.
    fn drop(&mut self) {
        let left = try_run(self.status_command(), STATUS_LIMIT)
            .ok()
            .and_then(|line| serde_json::from_str::<Status>(&line).ok());
        self.demo.stop();
        self.restarted.clear();
        for mount in self.mounts.iter().filter(|path| is_mounted(path)) {
            eprintln!("{} is still mounted after manyfs demo has ended: unmounted by force", mount.display());
            // Force ends calls that hang in the kernel; detach hides the mount even when something still holds it.
            if let Err(error) = umount2(mount, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH) {
                eprintln!("umount of {}: {error}", mount.display());
            }
        }
        let Some(left) = left else { return };
        let pids = left.nodes.iter().filter_map(|node| node.pid);
        let pids = pids.chain(left.mounts.iter().flat_map(|mount| [mount.worker_pid, mount.pid]).flatten());
        for pid in pids {
            let ended = wait_quietly(Duration::from_secs(2), || is_gone(pid));
            if !ended && command_line(pid).contains("manyfs") {
                eprintln!("pid {pid} has outlived manyfs demo: killing it");
                signal(pid, Signal::SIGKILL);
            }
        }
    }
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|mounted| Path::new(mounted) == path))
}

fn parse(line: &str) -> Status {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("not the agreed JSON ({error}): {line}"))
}
