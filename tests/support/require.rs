//! What a test needs of the machine besides Rust and a C compiler: programs, root, /dev/fuse.
//!
//! Where something is missing, the test is left out with one sentence on standard error. With `MANYFS_REQUIRE_ALL=1`, as
//! in `.ci/run`, it fails: what was left out has proven nothing.
#![allow(dead_code, reason = "each test target has needs of its own")]

use std::{
    env,
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Where programs come from that not every Debian has.
const SOURCES: &[(&str, &str)] = &[
    ("cargo", "https://rustup.rs"),
    ("fsx", "cargo install --locked fsx@0.3.2"),
    ("getfacl", "apt install acl"),
    ("git", "apt install git"),
    ("mariadb", "apt install mariadb-server"),
    ("mariadb-install-db", "apt install mariadb-server"),
    ("mariadbd", "apt install mariadb-server"),
    ("nginx", "apt install nginx-light"),
    ("pgrep", "apt install procps"),
    ("php", "apt install php-cli"),
    ("pjdfstest", "cargo install --locked pjdfstest@0.2.2"),
    ("rsync", "apt install rsync"),
    ("setfacl", "apt install acl"),
    ("setpriv", "apt install util-linux"),
    ("sqlite3", "apt install sqlite3"),
    ("tar", "apt install tar"),
    ("zip", "apt install zip"),
];
const ROOT: &str = "root (run `cargo test` as root)";
const DEVICE: &str = "/dev/fuse (run modprobe fuse, or pass the device into the container)";
/// Neither root nor any that Debian gives away.
const OTHER_USER: u32 = 1234;

/// Whether all of these programs are there. Where not, the test returns.
#[must_use]
pub(crate) fn programs(names: &[&str]) -> bool {
    names.iter().all(|name| find(name).is_some() || lacks(&format!("`{name}` ({})", source(name))))
}

/// The path of a program that was asked for.
pub(crate) fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("`{name}` is used without require::programs"))
}

/// Whether this is root. Where not, the test returns.
#[must_use]
pub(crate) fn root() -> bool {
    nix::unistd::geteuid().is_root() || lacks(ROOT)
}

/// Whether this process can mount. Where not, the test returns.
#[must_use]
pub(crate) fn mounts() -> bool {
    root() && (Path::new("/dev/fuse").exists() || lacks(DEVICE))
}

/// For a target all of whose tests need a mount: where there can be none, its run ends here, as one that went well.
pub(crate) fn mounts_or_end() {
    // One sentence, though tests run side by side.
    static LOOKED: OnceLock<()> = OnceLock::new();
    LOOKED.get_or_init(|| {
        if !mounts() {
            std::process::exit(0);
        }
    });
}

/// A copy of `original` in `directory` that users other than root can run, wherever the build is (below /root, say).
/// `None`: the test returns.
#[must_use]
pub(crate) fn program_for_all(original: &Path, directory: &Path) -> Option<PathBuf> {
    if !root() {
        return None;
    }
    fs::set_permissions(directory, Permissions::from_mode(0o755)).expect("our own directory");
    let copy = directory.join("manyfs");
    // By a process of its own: one that another test starts at this moment would keep the copy open for writing (ETXTBSY).
    let copied = Command::new("cp").arg(original).arg(&copy).status().expect("cp is there");
    assert!(copied.success(), "no room for a copy of the program in {}", directory.display());
    let started = Command::new(&copy).arg("--version").uid(OTHER_USER).gid(OTHER_USER).output();
    if started.is_ok_and(|output| output.status.success()) || lacks(&other_users(directory)) {
        Some(copy)
    } else {
        None
    }
}

fn other_users(directory: &Path) -> String {
    format!(
        "a directory for temporary files from which all users can run programs, as {} is not (set TMPDIR)",
        directory.display()
    )
}

/// The first in PATH, and where Debian and cargo put what need not be there.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let more = home.map(|home| home.join("bin")).into_iter().chain(["/usr/sbin".into(), "/sbin".into()]);
    env::split_paths(&path).chain(more).map(|place| place.join(name)).find(|file| file.is_file())
}

fn source(name: &str) -> &'static str {
    let known = SOURCES.iter().find(|(program, _)| *program == name);
    known.unwrap_or_else(|| panic!("SOURCES does not say where `{name}` comes from")).1
}

/// Says what is missing; always `false`.
pub(crate) fn lacks(what: &str) -> bool {
    let must_run = env::var_os("MANYFS_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!must_run, "needs {what}, and MANYFS_REQUIRE_ALL=1 leaves no test out");
    // Not eprintln: the harness keeps to itself what a test prints that goes well.
    writeln!(io::stderr(), "SKIPPED: needs {what}").expect("standard error is open");
    false
}
