//! Where the parts of a demo are: one directory with everything in it, and `demo.toml` that remembers the ports.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    cli::{
        Failure,
        mount_state::MountReport,
        runfile::{self, NodeRun, RunFile},
        status::{MountView, NodeState, NodeView},
    },
    pki,
};

/// The directory of a demo that was given no other.
pub(in crate::cli) const DEFAULT_DIR: &str = "manyfs-demo";
const FILE: &str = "demo.toml";
const VERSION: u32 = 1;
/// The lowest port that a demo takes, and how many it tries before it leaves the choice to the kernel.
const PORTS_FROM: u16 = 17_440;
const PORT_TRIES: u32 = 100;

/// A demo on disk.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Layout {
    /// Absolute: processes are started from wherever.
    dir: PathBuf,
    program: PathBuf,
    plan: Plan,
}

/// `demo.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    version: u32,
    /// Of the protocol's times, in hundredths; tests run demos slower or faster.
    time_scale: u32,
    /// Loopback ports of the mounts' metrics.
    mounts: Vec<u16>,
    nodes: Vec<Ports>,
}

/// Loopback ports of a node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ports {
    client: u16,
    peer: u16,
    http: u16,
}

impl Layout {
    /// The demo in `dir`.
    ///
    /// # Errors
    /// A sentence where there is none.
    pub(in crate::cli) fn load(dir: &Path) -> Result<Self, Failure> {
        Self::find(dir)?.ok_or_else(|| {
            format!("{} holds no demo; `manyfs demo --dir {}` makes one", dir.display(), dir.display()).into()
        })
    }

    /// The demo in the usual directory, if there is one.
    pub(in crate::cli) fn beside_us() -> Result<Option<Self>, Failure> {
        Self::find(Path::new(DEFAULT_DIR))
    }

    /// The demo in `dir`, if there is one.
    pub(super) fn find(dir: &Path) -> Result<Option<Self>, Failure> {
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display()).into()),
        };
        let plan: Plan =
            toml::from_str(&text).map_err(|error| format!("{} is no demo's: {}", path.display(), error.message()))?;
        if plan.version != VERSION {
            return Err(format!(
                "{} has version {}, and this manyfs knows {VERSION}: choose another --dir, or delete the directory",
                path.display(),
                plan.version
            )
            .into());
        }
        Ok(Some(Self { dir: absolute(dir)?, program: program()?, plan }))
    }

    /// A new demo in `dir`, which must exist: finds free ports and writes them down.
    pub(super) fn create(dir: &Path, nodes: u32, mounts: u32, time_scale: u32) -> Result<Self, Failure> {
        let mut free = FreePorts::default();
        let ports = |free: &mut FreePorts| {
            Ok::<_, Failure>(Ports { client: free.next()?, peer: free.next()?, http: free.next()? })
        };
        let nodes = (0..nodes).map(|_| ports(&mut free)).collect::<Result<_, _>>()?;
        let mounts = (0..mounts).map(|_| free.next()).collect::<Result<_, _>>()?;
        let layout = Self {
            dir: absolute(dir)?,
            program: program()?,
            plan: Plan { version: VERSION, time_scale, mounts, nodes },
        };
        layout.save()?;
        Ok(layout)
    }

    /// The same demo with another number of mounts.
    pub(super) fn with_mounts(mut self, mounts: u32) -> Result<Self, Failure> {
        if self.mount_count() != mounts {
            let mut free = FreePorts::default();
            self.plan.mounts.truncate(mounts as usize);
            while self.mount_count() < mounts {
                self.plan.mounts.push(free.next()?);
            }
            self.save()?;
        }
        Ok(self)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn node_count(&self) -> u32 {
        self.plan.nodes.len() as u32
    }

    pub(super) fn mount_count(&self) -> u32 {
        self.plan.mounts.len() as u32
    }

    pub(in crate::cli) fn authority(&self) -> PathBuf {
        self.dir.join("authority.toml")
    }

    pub(super) fn credential(&self) -> PathBuf {
        self.dir.join("credential.toml")
    }

    /// An empty config, so that the machine's own does not apply.
    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("manyfs.toml")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    pub(super) fn run_file(&self, name: &str) -> PathBuf {
        self.dir.join("run").join(format!("{name}.json"))
    }

    /// A script that starts this part again.
    pub(super) fn script(&self, name: &str) -> PathBuf {
        self.dir.join("run").join(format!("{name}.sh"))
    }

    pub(super) fn data(&self, node: u32) -> PathBuf {
        self.dir.join(node_name(node))
    }

    pub(super) fn mount_point(&self, mount: u32) -> PathBuf {
        self.dir.join(mount_name(mount))
    }

    /// `host:port` of a node's client service.
    pub(super) fn address(&self, node: u32) -> String {
        format!("127.0.0.1:{}", self.plan.nodes[node as usize - 1].client)
    }

    /// Of all nodes, in order.
    pub(in crate::cli) fn addresses(&self) -> Vec<String> {
        (1..=self.node_count()).map(|node| self.address(node)).collect()
    }

    /// `host:port` of all metrics.
    pub(super) fn http_addresses(&self) -> Vec<String> {
        let nodes = self.plan.nodes.iter().map(|ports| ports.http);
        nodes.chain(self.plan.mounts.iter().copied()).map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// The arguments that run the storage node.
    pub(super) fn node_start(&self, node: u32) -> Vec<String> {
        let ports = &self.plan.nodes[node as usize - 1];
        let listen = |port: u16| format!("127.0.0.1:{port}");
        let mut start = self.start("serve");
        start.extend([
            "--authority".to_owned(),
            text(&self.authority()),
            "--data".to_owned(),
            text(&self.data(node)),
            "--listen-client".to_owned(),
            listen(ports.client),
            "--listen-peer".to_owned(),
            listen(ports.peer),
            "--listen-http".to_owned(),
            listen(ports.http),
            "--advertise".to_owned(),
            "127.0.0.1".to_owned(),
            "--peers".to_owned(),
            self.addresses().join(","),
            "--run-file".to_owned(),
            text(&self.run_file(&node_name(node))),
        ]);
        start
    }

    /// The arguments that run the mount.
    pub(super) fn mount_start(&self, mount: u32) -> Vec<String> {
        let mut start = self.start("mount");
        start.extend([
            "--credential".to_owned(),
            text(&self.credential()),
            "--run-file".to_owned(),
            text(&self.run_file(&mount_name(mount))),
            "--listen-http".to_owned(),
            format!("127.0.0.1:{}", self.plan.mounts[mount as usize - 1]),
            text(&self.mount_point(mount)),
        ]);
        start
    }

    fn start(&self, command: &str) -> Vec<String> {
        let mut start = vec![text(&self.program), command.to_owned(), "--config".to_owned(), text(&self.config())];
        if self.plan.time_scale != 100 {
            start.extend(["--time-scale".to_owned(), self.plan.time_scale.to_string()]);
        }
        start
    }

    /// The living process of a node, whoever started it.
    pub(super) fn node_pid(&self, node: u32) -> Option<u32> {
        let run: NodeRun = runfile::read(&self.run_file(&node_name(node)))?;
        runfile::is_alive(run.pid, &run.start).then_some(run.pid)
    }

    /// The living processes of a mount, holder and worker, whoever started them.
    pub(super) fn mount_pids(&self, mount: u32) -> (Option<u32>, Option<u32>) {
        let Some(run) = runfile::read::<RunFile>(&self.run_file(&mount_name(mount))) else { return (None, None) };
        let living = |pid: u32| runfile::is_alive(pid, &run.start).then_some(pid);
        (living(run.pid), living(run.worker_pid))
    }

    /// The mounts, dead or alive.
    pub(in crate::cli) fn mounts(&self) -> Vec<MountView> {
        let view = |mount| {
            let (pid, worker_pid) = self.mount_pids(mount);
            MountView { path: self.mount_point(mount), pid, worker_pid, start: self.mount_start(mount), report: None }
        };
        (1..=self.mount_count()).map(view).collect()
    }

    /// The mounts, with what those that live say of themselves.
    pub(in crate::cli) fn mounts_asked(&self) -> Vec<MountView> {
        let report = |mount| MountReport::ask(&runfile::control_beside(&self.run_file(&mount_name(mount)))?).ok();
        let mut mounts = self.mounts();
        for (number, mount) in (1..).zip(&mut mounts) {
            mount.report = mount.worker_pid.and_then(|_| report(number));
        }
        mounts
    }

    /// Adds what the directory knows of nodes that do not answer.
    pub(in crate::cli) fn complete(&self, views: &mut [NodeView]) {
        for node in 1..=self.node_count() {
            let address = self.address(node);
            let Some(view) = views.iter_mut().find(|view| view.addr == address) else { continue };
            view.id = node.to_string();
            view.data = Some(text(&self.data(node)));
            view.start = self.node_start(node);
            view.pid = self.node_pid(node);
            if view.pid.is_none() && view.state == NodeState::Silent {
                view.problem = Some("dead".to_owned());
            }
        }
    }

    fn save(&self) -> Result<(), Failure> {
        let path = self.dir.join(FILE);
        let body = toml::to_string(&self.plan)?;
        runfile::replace(
            &path,
            &format!("# A ManyFS demo. `manyfs demo` with this directory as its --dir goes on with it.\n{body}"),
        )
        .map_err(|error| format!("{} cannot be written: {error}", path.display()).into())
    }
}

pub(super) fn node_name(node: u32) -> String {
    format!("node-{node}")
}

pub(super) fn mount_name(mount: u32) -> String {
    format!("mount-{mount}")
}

/// Ports on loopback that are free now. All are held until all are found, so that none is found twice.
///
/// They are below those that the kernel gives to outgoing connections: a node that was away for a while, or a demo that
/// is started again, finds its port still free.
#[derive(Default)]
struct FreePorts(Vec<TcpListener>);

impl FreePorts {
    fn next(&mut self) -> Result<u16, Failure> {
        let failed = |error: io::Error| format!("no free ports on 127.0.0.1: {error}");
        let range = PORTS_FROM..first_outgoing_port();
        let chosen = (0..PORT_TRIES).filter(|_| !range.is_empty()).find_map(|_| {
            let random = u16::try_from(pki::random().ok()? % range.len() as u128).ok()?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, range.start + random)).ok()
        });
        let listener = match chosen {
            Some(listener) => listener,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?,
        };
        let port = listener.local_addr().map_err(failed)?.port();
        self.0.push(listener);
        Ok(port)
    }
}

/// The first port that the kernel gives to outgoing connections, ip(7).
fn first_outgoing_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32768)
}

fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    let dir = fs::canonicalize(dir).map_err(|error| format!("{} cannot be used: {error}", dir.display()))?;
    check_text(&dir)?;
    Ok(dir)
}

/// That a path can stand in files and in the arguments that are shown.
pub(super) fn check_text(dir: &Path) -> Result<(), Failure> {
    match dir.to_str() {
        Some(_) => Ok(()),
        None => Err(format!("the path {} is no text: choose another --dir", dir.display()).into()),
    }
}

fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| format!("this program's own path is not known: {error}").into())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::runfile::Run;

    #[test]
    fn a_demo_is_found_again_with_the_same_ports() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(Layout::find(dir.path()).expect("readable").is_none());
        assert!(Layout::load(dir.path()).is_err());
        let made = Layout::create(dir.path(), 3, 2, 100).expect("made");
        let found = Layout::load(dir.path()).expect("found");
        assert_eq!(found.addresses(), made.addresses());
        assert_eq!(found.node_start(2), made.node_start(2));
        assert_eq!(found.mounts().len(), 2);
        let mut ports = found.addresses();
        ports.extend(found.http_addresses());
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 8);
        assert_eq!(found.with_mounts(1).expect("saved").mounts().len(), 1);
        assert_eq!(Layout::load(dir.path()).expect("found").mounts().len(), 1);
    }

    #[test]
    fn ports_are_not_those_of_outgoing_connections() {
        let mut free = FreePorts::default();
        for _ in 0..20 {
            let port = free.next().expect("a port");
            assert!(port >= PORTS_FROM && port < first_outgoing_port(), "{port}");
        }
    }

    #[test]
    fn any_path_of_text_is_remembered() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let odd = dir.path().join("two\nlines, a 'quote' and \\");
        fs::create_dir(&odd).expect("made");
        let made = Layout::create(&odd, 1, 1, 100).expect("made");
        assert_eq!(Layout::load(&odd).expect("found").node_start(1), made.node_start(1));
        let no_text = dir.path().join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff"));
        fs::create_dir(&no_text).expect("made");
        let refused = Layout::create(&no_text, 1, 1, 100).expect_err("refused");
        assert!(refused.to_string().contains("is no text"), "{refused}");
    }

    #[test]
    fn what_is_dead_has_no_pid() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::create(dir.path(), 1, 1, 100).expect("made");
        fs::create_dir(dir.path().join("run")).expect("made");
        assert_eq!((layout.node_pid(1), layout.mount_pids(1)), (None, (None, None)));
        // A file left behind by a process whose number is another's now: this test's.
        let run = NodeRun { pid: std::process::id(), start: layout.node_start(1) };
        run.write(&layout.run_file("node-1")).expect("written");
        assert_eq!(layout.node_pid(1), None);
    }
}
