//! A cluster of one storage node and its mounts, as processes of the built binary, in a directory of their own.

use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{address::own_address, require};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_manyfs");
/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of one storage node.
pub(crate) struct Cluster {
    directory: TempDir,
    pub(crate) address: Ipv4Addr,
    node: RefCell<Option<Child>>,
    mounts: Cell<u32>,
}

impl Cluster {
    pub(crate) fn found() -> Self {
        require::mounts_or_end();
        let directory = tempfile::Builder::new().prefix("manyfs-").tempdir().expect("a temporary directory");
        let address = own_address(&[7440]);
        let authority = directory.path().join("authority.toml");
        succeed(manyfs(["cluster", "authority", "--out"]).arg(&authority));
        let cluster = Self { directory, address, node: RefCell::new(None), mounts: Cell::new(0) };
        cluster.start_node();
        let nodes = format!("{address}");
        let init = manyfs(["cluster", "init", "--nodes", &nodes, "--authority"]).arg(&authority).status();
        assert!(init.expect("manyfs runs").success(), "cluster init");
        cluster.credential("main.toml", &[]);
        cluster
    }

    /// Starts the storage node and waits until it listens.
    pub(crate) fn start_node(&self) {
        let address = self.address;
        let node = manyfs(["serve"])
            .arg("--authority")
            .arg(self.path().join("authority.toml"))
            .arg("--data")
            .arg(self.path().join("data"))
            .args(["--advertise", &address.to_string(), "--peers", "none"])
            .args(["--listen-client", &format!("{address}:7440")])
            .args(["--listen-peer", &format!("{address}:7441")])
            .args(["--listen-http", &format!("{address}:7442")])
            .stdin(Stdio::null())
            .stdout(log(&self.directory, "node"))
            .stderr(log(&self.directory, "node"))
            .spawn()
            .expect("the node starts");
        self.node.replace(Some(node));
        let client = SocketAddr::from((address, 7440));
        wait_for("the node to listen", || TcpStream::connect(client).ok());
    }

    /// Its connections stay, and nobody answers.
    pub(crate) fn pause_node(&self) {
        self.signal_node(Signal::SIGSTOP);
    }

    pub(crate) fn resume_node(&self) {
        self.signal_node(Signal::SIGCONT);
    }

    pub(crate) fn signal_node(&self, signal: Signal) {
        let pid = self.node.borrow().as_ref().expect("it runs").id();
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("it runs");
    }

    /// kill -9.
    pub(crate) fn kill_node(&self) {
        if let Some(mut node) = self.node.take() {
            node.kill().expect("it runs");
            node.wait().expect("a child");
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes a credential for the volume `main`.
    pub(crate) fn credential(&self, name: &str, options: &[&str]) -> PathBuf {
        self.credential_for("main", name, options)
    }

    pub(crate) fn credential_for(&self, volume: &str, name: &str, options: &[&str]) -> PathBuf {
        let path = self.path().join(name);
        succeed(
            manyfs(["credential", "create", "--volume", volume, "--authority"])
                .arg(self.path().join("authority.toml"))
                .args(["--servers", &self.address.to_string(), "--out"])
                .arg(&path)
                .args(options),
        );
        path
    }

    /// An empty directory to mount on.
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.mounts.set(self.mounts.get() + 1);
        let path = self.path().join(format!("mnt{}", self.mounts.get()));
        fs::create_dir(&path).expect("a new directory");
        path
    }

    pub(crate) fn mount(&self) -> Mount {
        self.mount_with(&[])
    }

    pub(crate) fn mount_with(&self, options: &[&str]) -> Mount {
        let path = self.mount_point();
        self.mount_at(&path, &self.path().join("main.toml"), options)
    }

    pub(crate) fn mount_at(&self, path: &Path, credential: &Path, options: &[&str]) -> Mount {
        let name = path.file_name().expect("a name").to_str().expect("text").to_owned();
        let run_file = self.path().join(format!("{name}.json"));
        let process = manyfs(["mount", "--json", "--credential"])
            .arg(credential)
            .arg(path)
            .arg("--run-file")
            .arg(&run_file)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log(&self.directory, &name))
            .spawn()
            .expect("the mount process starts");
        Mount::ready(path, process, || self.tell(&name))
    }

    /// Prints what a process logged.
    pub(crate) fn tell(&self, name: &str) {
        let text = fs::read_to_string(self.path().join(format!("{name}.log"))).unwrap_or_default();
        let from = text.len().saturating_sub(8000);
        eprintln!("--- {name}:\n{}", text.get(from..).unwrap_or(&text));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_node();
        if thread::panicking() {
            self.tell("node");
            for mount in 1..=self.mounts.get() {
                self.tell(&format!("mnt{mount}"));
            }
        }
    }
}

/// A mount, by the process that was started.
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
    /// What `--json` printed.
    pub(crate) about: Value,
    process: Child,
}

impl Mount {
    /// Waits for the line that says that the mount answers.
    pub(crate) fn ready(path: &Path, mut process: Child, tell: impl FnOnce()) -> Self {
        let mut line = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("readable");
        let about = serde_json::from_str(&line).unwrap_or_else(|error| {
            tell();
            process.kill().ok();
            process.wait().ok();
            panic!("the mount process said no line of JSON ({error}): '{line}'")
        });
        Self { path: path.to_owned(), about, process }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    pub(crate) fn worker(&self) -> Pid {
        let pid = self.about["worker_pid"].as_i64().expect("a number");
        Pid::from_raw(i32::try_from(pid).expect("a pid"))
    }

    /// What the mount tells about itself.
    pub(crate) fn report(&self) -> Value {
        let control = self.about["control"].as_str().expect("a path");
        let mut text = String::new();
        UnixStream::connect(control).expect("listens").read_to_string(&mut text).expect("readable");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Waits until so many requests of this mount stand in queues for locks.
    pub(crate) fn wait_for_queued(&self, count: u64) {
        wait_for("requests for locks to queue", || (self.report()["locks_queued"] == count).then_some(()));
    }

    /// Waits until the kernel may answer from its caches; a new mount answers everything by itself for a moment.
    pub(crate) fn wait_for_lease(&self) {
        wait_for("the lease", || (self.report()["lease_held"] == true).then_some(()));
    }

    /// Requests of the kernel so far, those left out that come late and tell nothing.
    pub(crate) fn upcalls(&self) -> u64 {
        let report = self.report();
        let fuse = &report["fuse"];
        let of = |name: &str| fuse["upcalls"][name].as_u64().expect("a number");
        fuse["upcalls_total"].as_u64().expect("a number") - of("forget") - of("release")
    }

    /// Waits for the end of the process that was started: its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let process = &mut self.process;
        wait_for("the mount process to end", || process.try_wait().expect("a child")).code()
    }

    pub(crate) fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
        assert_eq!(self.ended(), Some(0), "an orderly end");
        assert!(!is_mounted(&self.path));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            kill(self.pid(), Signal::SIGTERM).ok();
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.process.try_wait().is_ok_and(|status| status.is_none()) {
                if Instant::now() > deadline {
                    eprintln!("the mount at {} does not end: killing it", self.path.display());
                    kill(self.worker(), Signal::SIGKILL).ok();
                    self.process.kill().ok();
                    self.process.wait().ok();
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        if is_mounted(&self.path) {
            eprintln!("{} is still mounted: detaching it", self.path.display());
            umount2(&self.path, MntFlags::MNT_DETACH).ok();
        }
    }
}

/// Runs `body` with two views of an empty directory, writer's and reader's: on one mount, then on two.
pub(crate) fn everywhere(body: impl Fn(&Path, &Path)) {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    for (name, reader) in [("one", &here), ("two", &there)] {
        eprintln!("on {name} mount(s)");
        fs::create_dir(here.path.join(name)).expect("mkdir");
        body(&here.path.join(name), &reader.path.join(name));
    }
}

pub(crate) fn manyfs<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    command
}

/// Runs a command to its end; it must succeed.
pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A shell script as another user: 0 or its exit code.
pub(crate) fn shell_as(uid: u32, script: &str) -> i32 {
    let user = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
    let status = Command::new("setpriv").args(user).args(["sh", "-c", script]).status().expect("setpriv and sh run");
    status.code().expect("no signal")
}

/// Waits until `ready` gives something; the wait is bounded and watches the thing itself.
pub(crate) fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(thing) = ready() {
            return thing;
        }
        assert!(Instant::now() < deadline, "waited {} s for {what}", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|mounted| Path::new(mounted) == path))
}

/// The error number of a call that must fail.
pub(crate) fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("the call succeeded"),
        Err(error) => error.raw_os_error().expect("an error of the system"),
    }
}

fn log(directory: &TempDir, name: &str) -> File {
    let path = directory.path().join(format!("{name}.log"));
    File::options().create(true).append(true).open(path).expect("a log file")
}
