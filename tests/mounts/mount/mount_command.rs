//! mount(8), umount(8) and /etc/fstab, by way of `mount.fuse.manyfs`.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::require;
use crate::support::{Cluster, PROGRAM, is_mounted, wait_for};

/// As mount(8) expects this program; the log of a mount is no other's.
const INSTALL: &str =
    "mount -t tmpfs none /sbin; ln -s \"$PROGRAM\" /sbin/mount.fuse.manyfs; mount -t tmpfs none /var/log\n";

/// Runs a script in a mount namespace of its own, where this program is installed as mount(8) expects it.
fn run_installed(script: &str, cluster: &Cluster, directory: &Path) -> Output {
    // All output goes through pipes, as of a program that captures it: what stays behind must not keep them open.
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-euc", &format!("{INSTALL}{script}")])
        .env("PROGRAM", PROGRAM)
        .env("CREDENTIAL", cluster.path().join("main.toml"))
        .env("DIR", directory)
        .env("FSTAB", cluster.path().join("fstab"))
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
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
    if !require::programs(&["pgrep"]) {
        return;
    }
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
    if !require::programs(&["pgrep"]) {
        return;
    }
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

/// It hung until the unmount: the mount's process had the pipe as its standard error.
#[test]
fn who_captures_the_output_of_mount_is_not_kept_waiting() {
    if !require::programs(&["pgrep"]) {
        return;
    }
    let cluster = Cluster::found();
    let directory = cluster.mount_point();
    let script = r#"
        said=$(timeout 60 mount -t fuse.manyfs "$CREDENTIAL" "$DIR" 2>&1) || echo "status $?"
        echo "said $said"
        timeout 60 sh -c 'umount "$DIR"; mount -t fuse.manyfs "$CREDENTIAL" "$DIR" 2>&1 | cat' || echo "status $?"
        grep -c " $DIR fuse.manyfs " /proc/mounts
        umount "$DIR"
    "#;
    let output = run_installed(&format!("{script}{ENDED}"), &cluster, &directory);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "said \n1\n", "{output:?}");
}

/// Ctrl-C at a terminal is SIGINT to mount(8) and its helper; SIGTERM may be for mount(8) alone. The process behind them
/// waited on, and mounted once the cluster was back.
#[test]
fn a_mount_that_waits_ends_with_mount_8() {
    if !require::programs(&["pgrep"]) {
        return;
    }
    let cluster = Cluster::found();
    cluster.kill_node();
    for how in ["kill -TERM $!", "kill -INT -$!", "kill -KILL $!"] {
        let directory = cluster.mount_point();
        let script = format!(
            r#"
            rm -f "$FSTAB"
            setsid env --default-signal=INT mount -t fuse.manyfs "$CREDENTIAL" "$DIR" >/dev/null 2>"$FSTAB" &
            while ! grep -qs "nothing is mounted yet: nothing listens at" "$FSTAB"; do sleep 0.05; done
            {how}
            wait $! || echo ended
            {ENDED}
            ! grep -q " $DIR " /proc/mounts
            "#
        );
        let output = run_installed(&script, &cluster, &directory);
        assert!(output.status.success() && output.stdout == b"ended\n", "{how}: {output:?}");
    }
    cluster.start_node();
    assert!((1..=3).all(|number| !is_mounted(&cluster.path().join(format!("mnt{number}")))));
}
