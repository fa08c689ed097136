//! A MariaDB of the test's own: own files, own socket, no network.

use super::deadline::wait_for;
use super::process::{Launch, Process, run, try_run};
use super::requirements::Requirements;
use nix::sys::signal::Signal;
use nix::unistd::User;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(60);

/// The running server; its data go with the test's directory.
#[derive(Debug)]
pub(crate) struct Database {
    socket: PathBuf,
    process: Process,
}

impl Database {
    /// Makes a blank database server in `dir` and creates the site's database and user in it.
    pub(crate) fn start(requirements: &Requirements, dir: &Path, logs: &Path) -> Self {
        let data = dir.join("data");
        let socket = dir.join("sock");
        let log = logs.join("mariadb.log");
        let mysql = User::from_name("mysql")
            .expect("the user table can be read")
            .expect("MariaDB's package makes the user mysql");
        std::fs::create_dir_all(&data).expect("the test's directory is writable");
        for path in [dir, &data] {
            std::os::unix::fs::chown(path, Some(mysql.uid.as_raw()), Some(mysql.gid.as_raw())).expect("root may chown");
        }
        run(
            [
                requirements.mariadb_install_db.as_os_str().to_owned(),
                "--no-defaults".into(),
                "--user=mysql".into(),
                "--auth-root-authentication-method=normal".into(),
                "--skip-test-db".into(),
                option("--datadir", &data),
            ],
            START_LIMIT,
        );
        let process = Process::start(
            requirements,
            Launch {
                name: "mariadbd",
                argv: vec![
                    requirements.mariadbd.as_os_str().to_owned(),
                    "--no-defaults".into(),
                    option("--datadir", &data),
                    option("--socket", &socket),
                    option("--pid-file", &dir.join("pid")),
                    "--skip-networking".into(),
                    "--skip-log-bin".into(),
                    "--innodb-buffer-pool-size=64M".into(),
                    // The database's own durability is not what is tested; its syncs would only blur the figures.
                    "--innodb-flush-log-at-trx-commit=0".into(),
                ],
                log: &log,
                // Its data are thrown away with it: an orderly shutdown would write them all out first.
                stop_signal: Signal::SIGKILL,
                user: Some((mysql.uid.as_raw(), mysql.gid.as_raw())),
                pipe_output: false,
            },
        );
        let mut database = Self { socket, process };
        wait_for("MariaDB to answer", START_LIMIT, || {
            database.process.assert_running(&log);
            database.execute(requirements, "SELECT 1").ok()
        });
        database
            .execute(
                requirements,
                "CREATE DATABASE wordpress CHARACTER SET utf8mb4; \
                 CREATE USER wordpress@localhost IDENTIFIED BY 'wordpress'; \
                 GRANT ALL ON wordpress.* TO wordpress@localhost",
            )
            .unwrap_or_else(|reason| panic!("{reason}"));
        database
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    fn execute(&self, requirements: &Requirements, statements: &str) -> Result<String, String> {
        try_run(
            [
                requirements.mariadb.as_os_str().to_owned(),
                "--no-defaults".into(),
                "--user=root".into(),
                option("--socket", &self.socket),
                "--execute".into(),
                statements.into(),
            ],
            START_LIMIT,
        )
    }
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push("=");
    option.push(path);
    option
}
