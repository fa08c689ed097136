//! The whole site: a database, two pods on two mounts of one wp-content, a balancer in front.

use super::admin::Admin;
use super::balancer::Balancer;
use super::cluster::is_mounted;
use super::database::Database;
use super::http::Client;
use super::load::CLIENT_LIMIT;
use super::pod::{Pod, Recipe, WWW_DATA, copy_core};
use super::process::{run, tail};
use super::requirements::Requirements;
use super::theme::Theme;
use crate::address::own_address;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Pages that install a plugin of thousands of files may take this long; no visitor waits for them.
const ADMIN_LIMIT: Duration = Duration::from_secs(280);
const SEED_LIMIT: Duration = Duration::from_secs(120);

/// A running site. Fields end in the order they stand.
#[derive(Debug)]
pub(crate) struct Site {
    balancer: Balancer,
    pods: [Pod; 2],
    _database: Database,
    address: String,
}

/// The test's directory: everything that it writes is below it, and it goes with the test.
#[derive(Debug)]
pub(crate) struct Workshop {
    dir: Option<TempDir>,
}

impl Site {
    /// Fills the volume with WordPress's wp-content through the first mount and starts everything over both mounts.
    pub(crate) fn start(requirements: &Requirements, workshop: &Workshop, mounts: [&Path; 2]) -> Self {
        let logs = workshop.logs();
        let database = Database::start(requirements, &workshop.folder("database"), &logs);
        let folders = [workshop.folder("pod-a"), workshop.folder("pod-b")];
        let seed = copy_core(requirements, &folders[0]);
        copy_core(requirements, &folders[1]);
        Theme::FIRST.write(&seed.join("themes"));
        fill(&seed, mounts[0]);
        let ports = [8080, 8081, 8082];
        let host = own_address(&ports);
        let [server, pod_a, pod_b] = ports.map(|port| SocketAddr::from((host, port)));
        let address = server.to_string();
        let pod = |name: &'static str, index: usize, server: SocketAddr| {
            Pod::start(
                requirements,
                &Recipe {
                    name,
                    dir: &folders[index],
                    logs: &logs,
                    content: mounts[index],
                    database_socket: database.socket(),
                    server,
                    site: &address,
                },
            )
        };
        let pods = [pod("A", 0, pod_a), pod("B", 1, pod_b)];
        let balancer = Balancer::start(requirements, &workshop.folder("balancer"), &logs, server, &[pod_a, pod_b]);
        Self { balancer, pods, _database: database, address }
    }

    /// Installs WordPress through the balancer, as its first visitor would.
    pub(crate) fn install(&self) -> Admin {
        Admin::install(Client::new(self.balancer.server(), &self.address, ADMIN_LIMIT))
    }

    /// A visitor of pod A (0) or B (1).
    pub(crate) fn visitor(&self, pod: usize) -> Client {
        Client::new(self.pods[pod].server(), &self.address, CLIENT_LIMIT)
    }

    /// A visitor who comes through the balancer.
    pub(crate) fn visitor_of_balancer(&self) -> Client {
        Client::new(self.balancer.server(), &self.address, CLIENT_LIMIT)
    }

    pub(crate) fn pod(&self, pod: usize) -> SocketAddr {
        self.pods[pod].server()
    }

    pub(crate) fn pod_name(&self, pod: usize) -> &'static str {
        self.pods[pod].name()
    }

    pub(crate) fn balancer(&self) -> SocketAddr {
        self.balancer.server()
    }
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("manyfs-wordpress-")
            .tempdir()
            .expect("the temporary directory is writable");
        // The servers run under users of their own.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("our own directory");
        let workshop = Self { dir: Some(dir) };
        workshop.folder("logs");
        workshop
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.root().join(name);
        std::fs::create_dir_all(&folder).expect("the test's directory is writable");
        folder
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root().join("logs")
    }

    fn root(&self) -> &Path {
        self.dir.as_ref().expect("only dropping takes it").path()
    }

    fn print_logs(&self) {
        let Ok(entries) = std::fs::read_dir(self.logs()) else { return };
        let mut logs: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        logs.sort();
        for log in logs {
            eprintln!("--- {} ---\n{}", log.file_name().unwrap_or_default().to_string_lossy(), tail(&log, 25));
        }
    }
}

impl Drop for Workshop {
    /// Never deletes through a mount: should one have been left, the directory stays and says so.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        let Some(dir) = self.dir.take() else { return };
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below: Vec<&str> = table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|mounted| Path::new(mounted).starts_with(dir.path()) && is_mounted(Path::new(mounted)))
            .collect();
        if !below.is_empty() {
            eprintln!("still mounted: {below:?}; {} is left as it is", dir.keep().display());
            return;
        }
        if let Err(error) = dir.close() {
            eprintln!("the test's directory could not be removed: {error}");
        }
    }
}

/// Copies wp-content into the volume and gives it to the web server. By programs of its own, so that a mount that
/// hangs does not hang the test.
fn fill(seed: &Path, mount: &Path) {
    let mut from = seed.as_os_str().to_owned();
    from.push("/.");
    run(["cp".as_ref(), "-r".as_ref(), from.as_os_str(), mount.as_os_str()], SEED_LIMIT);
    let owner = format!("{WWW_DATA}:{WWW_DATA}");
    run(["chown".as_ref(), "-R".as_ref(), owner.as_ref(), mount.as_os_str()], SEED_LIMIT);
}
