//! Storage nodes as real processes, steered through the command line.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use manyfs::pki::Credential;
use serde_json::Value;

use crate::address::own_address;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_manyfs");
/// What anything may take; far above what it takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Waits until `done` gives something.
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain for {what}", LIMIT.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
}

/// The program, untouched by settings of this machine.
pub(crate) fn manyfs(arguments: &[&str]) -> Command {
    manyfs_of(Path::new(PROGRAM), arguments)
}

/// A copy of the program, likewise.
pub(crate) fn manyfs_of(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MANYFS_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    manyfs(arguments).output().expect("the program starts")
}

/// Runs a command that must succeed; what it wrote to standard output.
pub(crate) fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "manyfs {}: {}", arguments.join(" "), text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must be refused; its sentence.
pub(crate) fn refuse(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "manyfs {} was not refused", arguments.join(" "));
    let sentence = text(&output.stderr);
    assert!(sentence.lines().any(|line| line.starts_with("manyfs: ")), "no sentence: {sentence}");
    sentence
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

/// What an HTTP service answers; `None` where nobody listens.
pub(crate) fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Where a node may listen: for clients, for its peers and for HTTP.
pub(crate) fn free_addresses() -> [String; 3] {
    let ports = [7440, 7441, 7442];
    let address = own_address(&ports);
    ports.map(|port| format!("{address}:{port}"))
}

/// One storage node.
pub(crate) struct Node {
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) http: String,
    pub(crate) data: PathBuf,
    /// What it is told with --peers.
    pub(crate) peers: String,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn new(dir: &Path, name: &str, authority: &Path) -> Self {
        let [client, peer, http] = free_addresses();
        let data = dir.join(name);
        let arguments = [
            "serve",
            "--authority",
            path(authority),
            "--data",
            path(&data),
            "--listen-client",
            &client,
            "--listen-peer",
            &peer,
            "--listen-http",
            &http,
        ]
        .map(str::to_owned);
        let (peers, log) = ("none".to_owned(), dir.join(format!("{name}.log")));
        Self { client, peer, http, data, peers, arguments: arguments.into(), log, child: None }
    }

    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// With these variables in its environment.
    pub(crate) fn start_with(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "the node runs already");
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        let mut arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        if !self.peers.is_empty() {
            arguments.extend(["--peers", &self.peers]);
        }
        let mut command = manyfs(&arguments);
        command.envs(environment.iter().copied()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("the program starts"));
    }

    /// With at most so many open files.
    pub(crate) fn start_limited(&mut self, files: u32) {
        assert!(self.child.is_none(), "the node runs already");
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        let mut arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        if !self.peers.is_empty() {
            arguments.extend(["--peers", &self.peers]);
        }
        let program = manyfs(&arguments);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files} && exec \"$@\""), "sh"]);
        command.arg(program.get_program()).args(program.get_args());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MANYFS_")) {
            command.env_remove(name);
        }
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts"));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("killed");
        child.wait().expect("waited for");
    }

    /// SIGTERM; its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the node runs");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
        child.wait().expect("waited for").code()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().expect("the node runs").try_wait().expect("waited for").is_some()
    }

    /// Waits for its end; its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        wait_for("the node to end", || self.has_ended().then_some(()));
        self.child.take().expect("the node runs").wait().expect("waited for").code()
    }

    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        File::open(&self.log).expect("a log").read_to_string(&mut text).expect("readable");
        text
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A cluster in a directory of its own.
pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) authority: PathBuf,
    pub(crate) nodes: Vec<Node>,
}

impl Cluster {
    /// Blank nodes that run and listen.
    pub(crate) fn blank(count: usize) -> Self {
        Self::blank_on(count, |_, _| ())
    }

    /// `prepare` is given each node's place in `nodes` and its data directory, which is not there yet.
    fn blank_on(count: usize, prepare: impl Fn(usize, &Path)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let authority = dir.path().join("authority.toml");
        succeed(&["cluster", "authority", "--out", path(&authority)]);
        let nodes: Vec<_> =
            (1..=count).map(|node| Node::new(dir.path(), &format!("node-{node}"), &authority)).collect();
        let mut cluster = Self { dir, authority, nodes };
        let peers = cluster.servers();
        for node in &mut cluster.nodes {
            node.peers = peers.clone();
        }
        for (at, node) in cluster.nodes.iter_mut().enumerate() {
            prepare(at, &node.data);
            node.start();
        }
        wait_for("all nodes to listen", || {
            for node in &mut cluster.nodes {
                assert!(!node.has_ended(), "a node ended at once: {}", node.log());
            }
            let status = cluster.status()?;
            let nodes = status["nodes"].as_array()?;
            nodes.iter().all(|node| node["state"] == "blank").then_some(())
        });
        cluster
    }

    /// A cluster that was founded through the command line and has a leader.
    pub(crate) fn founded(count: usize) -> Self {
        Self::founded_on(count, |_, _| ())
    }

    /// As `founded`, in data directories that were prepared before.
    pub(crate) fn founded_on(count: usize, prepare: impl Fn(usize, &Path)) -> Self {
        let cluster = Self::blank_on(count, prepare);
        let nodes = cluster.servers();
        succeed(&["cluster", "init", "--authority", path(&cluster.authority), "--nodes", &nodes]);
        cluster
    }

    /// A credential as the command line makes it.
    pub(crate) fn credential(&self, volume: &str, options: &[&str]) -> Credential {
        let (servers, out) = (self.servers(), self.dir.path().join("a credential"));
        let create = self.arguments(&["credential", "create", "--volume", volume, "--out", path(&out)], &servers);
        succeed(&[&create, options].concat());
        let credential = Credential::load(&out).expect("a credential");
        fs::remove_file(out).expect("removed");
        credential
    }

    pub(crate) fn servers(&self) -> String {
        self.nodes.iter().map(|node| node.client.as_str()).collect::<Vec<_>>().join(",")
    }

    /// A command for this cluster, with its authority and servers behind it.
    pub(crate) fn arguments<'a>(&'a self, command: &[&'a str], servers: &'a str) -> Vec<&'a str> {
        let mut arguments = command.to_vec();
        arguments.extend(["--authority", path(&self.authority), "--servers", servers]);
        arguments
    }

    pub(crate) fn succeed(&self, command: &[&str]) -> String {
        succeed(&self.arguments(command, &self.servers()))
    }

    /// At these servers only.
    pub(crate) fn succeed_at(&self, command: &[&str], servers: &str) -> String {
        succeed(&self.arguments(command, servers))
    }

    pub(crate) fn refuse(&self, command: &[&str]) -> String {
        refuse(&self.arguments(command, &self.servers()))
    }

    /// What `status --json` says; `None` while no node answers.
    pub(crate) fn status(&self) -> Option<Value> {
        let servers = self.servers();
        let output = run(&self.arguments(&["status", "--json"], &servers));
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("one line of JSON"))
    }

    /// Waits for a leader that `is_wanted`; its position in `nodes`.
    pub(crate) fn leader(&self, is_wanted: impl Fn(usize) -> bool) -> usize {
        wait_for("a leader", || {
            let status = self.status()?;
            let leader = status["leader"].as_str()?.parse::<usize>().expect("a number") - 1;
            (status["quorum"] == true && is_wanted(leader)).then_some(leader)
        })
    }

    /// Waits until all nodes that run are equally far and have the same state.
    pub(crate) fn agreed(&self) {
        wait_for("equal digests", || {
            let status = self.status()?;
            let digests: Vec<_> = status["nodes"]
                .as_array()?
                .iter()
                .filter(|node| !node["pid"].is_null())
                .map(|node| (node["applied"].clone(), node["digest"].clone()))
                .collect();
            digests.windows(2).all(|pair| pair[0] == pair[1] && pair[0].1.is_string()).then_some(())
        });
    }

    pub(crate) fn volumes(&self) -> Vec<String> {
        let listed: Value =
            serde_json::from_str(&self.succeed(&["volume", "list", "--json"])).expect("one line of JSON");
        let name = |volume: &Value| volume["name"].as_str().expect("a name").to_owned();
        listed["volumes"].as_array().expect("a list").iter().map(name).collect()
    }
}

/// All files below `dir` with their lengths.
pub(crate) fn listing(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("readable") {
            let entry = entry.expect("readable");
            let about = entry.metadata().expect("readable");
            if about.is_dir() {
                dirs.push(entry.path());
            }
            found.push((entry.path(), about.len()));
        }
    }
    found.sort();
    found
}
