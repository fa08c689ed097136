//! `manyfs serve --mount`: a storage node and a mount in one process, and the small one that holds the mount.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Stdio},
};

use crate::support::{free_addresses, manyfs, path, succeed, wait_for};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The process that was started; takes the mount away if a test fails.
struct Both<'a> {
    child: Child,
    directory: &'a Path,
}

impl Drop for Both<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // Nothing is mounted where all went well.
        let _ = umount2(self.directory, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
    }
}

#[test]
fn one_process_stores_and_mounts() {
    if !crate::require::mounts() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = dir.path().join("authority.toml");
    succeed(&["cluster", "authority", "--out", path(&authority)]);
    let (data, directory, log) = (dir.path().join("data"), dir.path().join("mount"), dir.path().join("log"));
    fs::create_dir(&directory).expect("made");
    let listen = free_addresses();
    let start = |more: &[&str]| {
        let log = fs::File::options().create(true).append(true).open(&log).expect("a log");
        let arguments = [
            "serve",
            "--authority",
            path(&authority),
            "--data",
            path(&data),
            "--listen-client",
            &listen[0],
            "--listen-peer",
            &listen[1],
            "--listen-http",
            &listen[2],
            "--peers",
            "none",
            "--mount",
            path(&directory),
        ];
        let mut command = manyfs(&[&arguments[..], more].concat());
        command.stdout(Stdio::null()).stderr(log);
        Both { child: command.spawn().expect("the program starts"), directory: &directory }
    };
    let table = || fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let is_mounted = || table().lines().any(|line| line.split(' ').nth(4) == Some(path(&directory)));
    let stop = |mut both: Both<'_>| {
        kill(Pid::from_raw(i32::try_from(both.child.id()).expect("a pid")), Signal::SIGTERM).expect("signalled");
        let code = wait_for("the process to end", || both.child.try_wait().expect("waited for")).code();
        assert_eq!(code, Some(0), "{}", fs::read_to_string(&log).expect("a log"));
        assert!(!is_mounted());
        // The node has ended with it: its port is free, its directory can be read.
        assert!(crate::support::get(&listen[2], "/healthz").is_none());
        assert!(succeed(&["check", path(&data)]).trim_end().ends_with("\nwhole"));
    };

    let both = start(&[]);
    let init = ["cluster", "init", "--authority", path(&authority), "--nodes", &listen[0]];
    wait_for("the node to be founded", || crate::support::run(&init).status.success().then_some(()));
    wait_for("the mount", || is_mounted().then_some(()));
    // More than travels in entries, and more than the mount keeps in memory of it.
    let content: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(directory.join("file"), &content).expect("written");
    assert!(fs::read(directory.join("file")).expect("readable") == content);
    stop(both);

    // With what `manyfs mount` can be told.
    let both = start(&["--squash", "33:33", "--acl", "--when-disconnected", "block", "--options", "noexec"]);
    wait_for("the mount", || is_mounted().then_some(()));
    assert_eq!(fs::metadata(directory.join("file")).expect("there").uid(), 33);
    let options = table().lines().find(|line| line.contains(path(&directory))).expect("mounted").to_owned();
    assert!(options.contains("noexec"), "{options}");
    assert!(fs::read(directory.join("file")).expect("readable") == content);
    // They came from the disk, not through the service.
    let page = crate::support::get(&listen[2], "/metrics").expect("answers");
    assert!(page.contains("\nmanyfs_block_get_bytes_total 0\n"), "{page}");
    assert!(!page.contains("\nmanyfs_blocks_read_total 0\n"), "{page}");
    stop(both);
}
