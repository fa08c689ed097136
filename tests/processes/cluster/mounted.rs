//! A mount of the volume `main`, in file systems of its own.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use crate::{
    require,
    support::{Cluster, LIMIT, manyfs, path, succeed, wait_for},
};

/// Runs `body` in a thread that sees file systems of its own, as do the processes that it starts.
pub(crate) fn apart(body: impl FnOnce() + Send) {
    if !require::mounts() {
        return;
    }
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may");
        let nothing: Option<&str> = None;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("our own namespace");
        body();
    };
    thread::scope(|scope| scope.spawn(body).join()).expect("the body says why it failed");
}

pub(crate) struct Mounted {
    process: Child,
    pub(crate) path: PathBuf,
}

impl Mounted {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let dir = cluster.dir.path();
        let (credential, at) = (dir.join("main.toml"), dir.join("mnt"));
        let (authority, servers) = (path(&cluster.authority), cluster.servers());
        let create = ["credential", "create", "--authority", authority, "--servers", &servers];
        succeed(&[&create[..], &["--out", path(&credential)]].concat());
        fs::create_dir(&at).expect("made");
        let log = fs::File::create(dir.join("mnt.log")).expect("a log");
        let mut command = manyfs(&["mount", "--credential", path(&credential), path(&at)]);
        let process = command.stdout(Stdio::null()).stderr(log).spawn().expect("the program starts");
        let mounted = Self { process, path: at };
        let table = || fs::read_to_string("/proc/thread-self/mountinfo").expect("readable");
        wait_for("the mount", || {
            table().lines().any(|line| line.split(' ').nth(4) == Some(path(&mounted.path))).then_some(())
        });
        mounted
    }

    /// Durable when it returns: what `close` has to say is not heard by `fs::write`.
    pub(crate) fn write(&self, name: &str, number: u64, bytes: usize) -> io::Result<()> {
        let mut file = fs::File::create(self.path.join(name))?;
        file.write_all(&content(number, bytes))?;
        file.sync_all()
    }

    pub(crate) fn holds(&self, name: &str, number: u64, bytes: usize) -> bool {
        fs::read(self.path.join(name)).expect("readable") == content(number, bytes)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        let deadline = Instant::now() + LIMIT;
        while !thread::panicking() && Instant::now() < deadline && matches!(self.process.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        // It has ended where all went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Bytes that no two numbers have in common.
pub(crate) fn content(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
