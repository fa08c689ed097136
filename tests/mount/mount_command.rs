//! mount(8), umount(8) and /etc/fstab, by way of `mount.fuse.manyfs`.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::support::{Cluster, PROGRAM, wait_for};

/// Runs a script in a mount namespace of its own, where this program is installed as mount(8) expects it.
fn run_installed(script: &str, cluster: &Cluster, directory: &Path) -> Output {
    const INSTALL: &str = "mount -t tmpfs none /sbin; ln -s \"$PROGRAM\" /sbin/mount.fuse.manyfs\n";
    // Not a pipe: a process that stays behind would keep it open.
    let said = cluster.path().join("said");
    let mut output = Command::new("unshare")
        .args(["--mount", "sh", "-euc", &format!("{INSTALL}{script}")])
        .env("PROGRAM", PROGRAM)
        .env("CREDENTIAL", cluster.path().join("main.toml"))
        .env("DIR", directory)
        .env("FSTAB", cluster.path().join("fstab"))
        .stdin(Stdio::null())
        .stderr(File::create(&said).expect("writable"))
        .output()
        .expect("unshare runs");
    output.stderr = fs::read(&said).expect("readable");
    let left = processes_of(directory);
    for pid in &left {
        // The namespace lives as long as they do.
        kill(*pid, Signal::SIGTERM).ok();
    }
    wait_for("the mount processes to end", || processes_of(directory).is_empty().then_some(()));
    assert!(left.is_empty() || !output.status.success(), "umount left {left:?}; {output:?}");
    output
}

/// The processes that were started for a mount at `directory`.
fn processes_of(directory: &Path) -> Vec<Pid> {
    let directory = directory.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let mut arguments = line.split(|byte| *byte == 0);
        if arguments.next() == Some(PROGRAM.as_bytes()) && arguments.any(|argument| argument == directory) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

/// Waits inside the script until the processes of the mount have ended.
const ENDED: &str = "while pgrep -f -- \"--background .* -- $DIR\" >/dev/null; do sleep 0.05; done\n";

#[test]
fn mount_returns_when_mounted_and_umount_ends_the_process() {
    let cluster = Cluster::found();
    let directory = cluster.mount_point();
    let script = r#"
        mount -t fuse.manyfs "$CREDENTIAL" "$DIR" -o nosuid,noexec,strictatime,squash=33:33,_netdev
        echo content > "$DIR/file"
        echo "$(stat -c %u:%g "$DIR/file") $(findmnt -no SOURCE "$DIR")"
        findmnt -no OPTIONS "$DIR"
        mount -o remount,ro "$DIR"
        if echo other 2>/dev/null > "$DIR/file"; then exit 9; fi
        findmnt -no OPTIONS "$DIR"
        mount -o remount,rw,exec,suid,nodev "$DIR"
        echo more >> "$DIR/file"
        findmnt -no OPTIONS "$DIR"
        cat "$DIR/file"
        umount "$DIR"
    "#;
    let output = run_installed(&format!("{script}{ENDED}"), &cluster, &directory);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], format!("33:33 {}", cluster.path().join("main.toml").display()));
    let options = |line: usize| lines[line].split(',').collect::<Vec<_>>();
    for (line, present, absent) in
        [(1, ["rw", "noexec"], "nodev"), (2, ["ro", "nosuid"], "rw"), (3, ["rw", "nodev"], "nosuid")]
    {
        let options = options(line);
        assert!(present.iter().all(|option| options.contains(option)), "{present:?} in {options:?}");
        assert!(!options.contains(&absent), "{absent} in {options:?}");
    }
    assert_eq!(lines[4..], ["content", "more"]);
}

#[test]
fn a_line_of_fstab_is_mounted_once() {
    let cluster = Cluster::found();
    let directory = cluster.mount_point();
    let credential = cluster.path().join("main.toml");
    let line = format!(
        "{} {} fuse.manyfs _netdev,nofail,noatime,threads=3,opens=untracked 0 0\n",
        credential.display(),
        directory.display()
    );
    fs::write(cluster.path().join("fstab"), line).expect("writable");
    let script = r#"
        mount -a -T "$FSTAB"
        mount -a -T "$FSTAB"
        grep -c " $DIR fuse.manyfs " /proc/mounts
        umount "$DIR"
    "#;
    let output = run_installed(&format!("{script}{ENDED}"), &cluster, &directory);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"1\n");
}

#[test]
fn what_cannot_be_mounted_is_said_before_mount_returns() {
    let cluster = Cluster::found();
    let directory = cluster.mount_point();
    let script = r#"
        mount -t fuse.manyfs /no/such/credential "$DIR" || echo "status $?"
        mount -t fuse.manyfs "$CREDENTIAL" "$DIR" -o compress=zstd || echo "status $?"
        mount -t fuse.manyfs "$CREDENTIAL" "$DIR/none" || echo "status $?"
        grep -c " $DIR" /proc/mounts || true
    "#;
    let output = run_installed(script, &cluster, &directory);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "status 32\nstatus 1\nstatus 32\n0\n", "{said}");
    for words in ["/no/such/credential", "'compress=zstd' is unknown", "does not exist"] {
        assert!(said.contains(words), "'{words}' in: {said}");
    }
}
