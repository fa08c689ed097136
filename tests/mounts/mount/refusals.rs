//! What `manyfs mount` refuses: each with a sentence that says what to do, an exit code, and nothing changed.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use manyfs::{
    pki::{Authority, Credential},
    types::{FoundingId, FoundingNumber, Grant, VolumeId},
};

use crate::require;
use crate::support::{Cluster, PROGRAM, is_mounted, manyfs};

/// Runs a command that must fail; its sentence.
fn refused(command: &mut Command) -> String {
    let output = command.output().expect("manyfs runs");
    let sentence = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?} succeeded");
    assert!(!sentence.contains("panicked"), "{sentence}");
    sentence
}

fn says(sentence: &str, words: &[&str]) {
    for word in words {
        assert!(sentence.contains(word), "'{word}' is not in: {sentence}");
    }
}

#[test]
fn a_wrong_mount_point() {
    let cluster = Cluster::found();
    let credential = cluster.path().join("main.toml");
    let mount = |path: &Path| refused(manyfs(["mount", "--credential"]).arg(&credential).arg(path));
    says(&mount(&cluster.path().join("none")), &["none", "does not exist"]);
    says(&mount(&credential), &["main.toml", "is not a directory"]);
    says(&mount(cluster.path()), &["is not empty", "it holds"]);
    let mounted = cluster.mount();
    fs::write(mounted.path.join("f"), "").expect("create");
    says(&mount(&mounted.path), &["is mounted at", "already", "manyfs unmount"]);
    symlink(&mounted.path, cluster.path().join("link")).expect("symlink");
    says(&mount(&cluster.path().join("link")), &["is mounted at", "already"]);
    assert!(is_mounted(&mounted.path) && mounted.path.join("f").exists());
}

#[test]
fn a_wrong_credential() {
    let cluster = Cluster::found();
    let point = cluster.mount_point();
    let mount = |file: &Path| refused(manyfs(["mount", "--credential"]).arg(file).arg(&point));
    says(&mount(&cluster.path().join("none.toml")), &["none.toml", "No such file"]);
    let broken = cluster.path().join("broken.toml");
    fs::write(&broken, "servers = 7").expect("write");
    fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    says(&mount(&broken), &["broken.toml"]);
    says(&mount(&cluster.path().join("authority.toml")), &["authority.toml"]);
    assert!(!is_mounted(&point));
}

#[test]
fn a_credential_of_another_cluster_or_volume() {
    let cluster = Cluster::found();
    let point = cluster.mount_point();
    let mount = |credential: &Path| {
        let sentence = refused(manyfs(["mount", "--credential"]).arg(credential).arg(&point));
        assert!(!is_mounted(&point));
        assert!(fs::read_dir(&point).expect("readdir").next().is_none());
        sentence
    };
    let own = Credential::load(&cluster.path().join("main.toml")).expect("a credential");
    let authority = Authority::load(&cluster.path().join("authority.toml")).expect("an authority");
    let issue = |name: &str, grant: Grant| {
        let path = cluster.path().join(name);
        let credential = authority.issue_mount(grant, own.servers.clone()).expect("issued");
        credential.save(&path).expect("written");
        path
    };
    // A volume that is not there, or not any more, though another has its name.
    let gone = issue("gone.toml", Grant { volume: VolumeId(99), ..own.grant.clone() });
    let sentence = mount(&gone);
    says(&sentence, &["main", "deleted", "another has its name"]);
    assert_eq!(sentence.matches("was deleted").count(), 1, "said once: {sentence}");
    // Another founding with the same authority.
    let founding = FoundingId { number: FoundingNumber(7), ..own.grant.founding };
    let other = issue("other.toml", Grant { founding, ..own.grant.clone() });
    says(&mount(&other), &["founding", "new credential"]);
}

#[test]
fn unknown_flags_and_values() {
    let mount = |arguments: &[&str]| refused(Command::new(PROGRAM).arg("mount").args(arguments));
    says(&mount(&["--colour", "/mnt"]), &["--colour"]);
    says(&mount(&[]), &["DIRECTORY"]);
    says(&mount(&["--kernel-mask", "time_travel", "/mnt"]), &["time_travel", "inc_epoch", "inval_entry"]);
    says(&mount(&["--squash", "www-data", "/mnt"]), &["33:33"]);
    says(&mount(&["--threads", "0", "/mnt"]), &["1..=16"]);
    says(&mount(&["--holder", "/no/such/socket", "--credential", "/none"]), &["/none"]);
}

#[test]
fn another_user_than_root() {
    let cluster = Cluster::found();
    let point = cluster.mount_point();
    let tools = tempfile::tempdir().expect("a temporary directory");
    let Some(program) = require::program_for_all(Path::new(PROGRAM), tools.path()) else { return };
    let script = format!(
        "'{}' mount --credential '{}' '{}' 2>&1 | grep -q 'needs root\\|cannot be read'",
        program.display(),
        cluster.path().join("main.toml").display(),
        point.display()
    );
    fs::set_permissions(cluster.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    assert_eq!(crate::support::shell_as(1234, &script), 0);
    assert!(!is_mounted(&point));
}

#[test]
fn no_device() {
    let cluster = Cluster::found();
    let point = cluster.mount_point();
    // A /dev without fuse, in a mount namespace of its own.
    let script = format!(
        "mount -t tmpfs none /dev && exec '{PROGRAM}' mount --credential '{}' '{}'",
        cluster.path().join("main.toml").display(),
        point.display()
    );
    let sentence = refused(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
    says(&sentence, &["/dev/fuse", "modprobe fuse"]);
    assert!(!is_mounted(&point));
}

#[test]
fn a_read_only_credential_mounts_read_only() {
    let cluster = Cluster::found();
    let writer = cluster.mount();
    fs::write(writer.path.join("f"), "readable").expect("create");
    let credential = cluster.credential("ro.toml", &["--read-only"]);
    let point = cluster.mount_point();
    let reader = cluster.mount_at(&point, &credential, &[]);
    assert_eq!(fs::read(point.join("f")).expect("read"), b"readable");
    let refusal = fs::write(point.join("f"), "").expect_err("refused");
    assert_eq!(refusal.raw_os_error(), Some(nix::libc::EROFS));
    fs::write(writer.path.join("f"), "changed").expect("write");
    assert_eq!(fs::read(point.join("f")).expect("read"), b"changed");
    reader.stop();
}
