//! A volume that is deleted while it is mounted, and the directory below a mount: nothing is ever written to the bare
//! directory unseen.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        signal::{Signal, kill},
        statvfs::statvfs,
    },
};

use crate::support::{Cluster, errno, is_mounted, manyfs, shell_as, succeed, wait_for};

fn administer(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = manyfs([]);
    command.args(arguments);
    command.arg("--authority").arg(cluster.path().join("authority.toml"));
    command.args(["--servers", &cluster.address.to_string()]);
    command
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").mode() & 0o7777
}

/// It ended with "the volume was deleted", and its programs went on in the bare directory.
#[test]
fn a_mount_whose_volume_is_deleted_stays_and_answers_estale() {
    let cluster = Cluster::found();
    succeed(&mut administer(&cluster, &["volume", "create", "site2"]));
    let credential = cluster.credential_for("site2", "site2.toml", &[]);
    let point = cluster.mount_point();
    let mut mount = cluster.mount_at(&point, &credential, &[]);
    fs::write(point.join("f"), "content").expect("write");
    fs::create_dir(point.join("d")).expect("mkdir");
    let mut open = File::options().read(true).write(true).open(point.join("f")).expect("open");

    let refused = administer(&cluster, &["volume", "delete", "site2", "--yes"]).output().expect("manyfs runs");
    let sentence = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{sentence}");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let host = host.trim();
    for words in ["site2 is in use by 1 mount", &format!("({host}:{})", point.display()), "--force"] {
        assert!(sentence.contains(words), "{words}: {sentence}");
    }
    assert_eq!(fs::read_to_string(point.join("f")).expect("nothing was changed"), "content");

    let status = succeed(&mut administer(&cluster, &["status", "--json"])).stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).expect("JSON");
    let session = &status["sessions"][0];
    let shown = ["host", "path", "access", "volume_name"].map(|field| session[field].as_str());
    assert_eq!(shown, [Some(host), point.to_str(), Some("read-write"), Some("site2")]);
    assert!(session["age_ms"].as_u64().is_some_and(|age| age < 600_000), "{session}");

    succeed(&mut administer(&cluster, &["volume", "delete", "site2", "--yes", "--force"]));
    wait_for("a lookup to be stale", || (errno(fs::metadata(point.join("new"))) == libc::ESTALE).then_some(()));
    assert!(is_mounted(&point));
    assert_eq!(errno(fs::metadata(point.join("f"))), libc::ESTALE);
    assert_eq!(errno(File::open(point.join("f"))), libc::ESTALE);
    assert_eq!(errno(File::create(point.join("g"))), libc::ESTALE);
    assert_eq!(errno(fs::create_dir(point.join("d/e"))), libc::ESTALE);
    assert_eq!(errno(fs::read_dir(&point)), libc::ESTALE);
    assert_eq!(errno(open.write_all(b"more").and_then(|()| open.sync_all())), libc::ESTALE);
    assert_eq!(errno(open.read_at(&mut [0; 10], 0)), libc::ESTALE);
    assert_eq!(errno(statvfs(&point).map_err(std::io::Error::from)), libc::ESTALE);
    drop(open);
    let name = point.file_name().expect("a name").to_string_lossy().into_owned();
    let log = fs::read_to_string(cluster.path().join(format!("{name}.log"))).expect("a log");
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(matches!(errors[..], [line] if line.contains("deleted") && line.contains("ESTALE")), "{log}");

    succeed(manyfs(["unmount"]).arg(&point));
    assert!(!is_mounted(&point));
    assert_eq!(mount.ended(), Some(0));
    assert_eq!((fs::read_dir(&point).expect("bare").count(), mode(&point)), (0, 0o755), "as it was found");
}

#[test]
fn a_stale_mount_ends_by_umount_and_by_sigterm() {
    let cluster = Cluster::found();
    succeed(&mut administer(&cluster, &["volume", "create", "site2"]));
    let credential = cluster.credential_for("site2", "site2.toml", &[]);
    let (first, second) = (cluster.mount_point(), cluster.mount_point());
    let mut mounts = [&first, &second].map(|point| cluster.mount_at(point, &credential, &[]));
    succeed(&mut administer(&cluster, &["volume", "delete", "site2", "--yes", "--force"]));
    for point in [&first, &second] {
        wait_for("a lookup to be stale", || (errno(fs::metadata(point.join("x"))) == libc::ESTALE).then_some(()));
    }
    succeed(Command::new("umount").arg(&first));
    kill(mounts[1].pid(), Signal::SIGTERM).expect("it runs");
    for (mount, point) in mounts.iter_mut().zip([&first, &second]) {
        assert_eq!(mount.ended(), Some(0));
        assert!(!is_mounted(point));
    }
}

/// As www-data; root goes by no mode.
fn writes_below(point: &Path) -> bool {
    shell_as(33, &format!("echo lost 2>/dev/null > {}/upload", point.display())) == 0
}

#[test]
fn the_directory_below_is_closed_until_an_orderly_end() {
    let cluster = Cluster::found();
    fs::set_permissions(cluster.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let point = cluster.mount_point();
    fs::set_permissions(&point, fs::Permissions::from_mode(0o2777)).expect("chmod");
    let credential = cluster.path().join("main.toml");
    let mut mount = cluster.mount_at(&point, &credential, &[]);
    assert_eq!(mode(&point), 0o755, "the volume's");
    // Both at once, so that neither can clean up after the other.
    kill(mount.pid(), Signal::SIGSTOP).expect("it runs");
    kill(mount.worker(), Signal::SIGKILL).expect("it runs");
    kill(mount.pid(), Signal::SIGKILL).expect("it runs");
    assert_eq!(mount.ended(), None, "by a signal");
    umount2(&point, MntFlags::MNT_DETACH).expect("umount");
    assert_eq!(mode(&point), 0);
    assert!(!writes_below(&point), "nothing is mounted");

    let mut again = cluster.mount_at(&point, &credential, &[]);
    assert!(writes_below(&point), "the volume is its user's");
    kill(again.pid(), Signal::SIGTERM).expect("it runs");
    assert_eq!(again.ended(), Some(0));
    assert_eq!(mode(&point), 0o2777, "as it was found at first");
    assert!(!point.join("upload").exists());

    // A worker that dies takes the mount away.
    let mut mount = cluster.mount_at(&point, &credential, &[]);
    kill(mount.worker(), Signal::SIGKILL).expect("it runs");
    assert_eq!(mount.ended(), Some(1));
    assert!(!is_mounted(&point) && !writes_below(&point));
    succeed(manyfs(["unmount"]).arg(&point));
    assert_eq!(mode(&point), 0o2777);
    assert!(!manyfs(["unmount"]).arg(&point).output().expect("manyfs runs").status.success(), "nothing is left to do");
}

/// The kubelet removes a volume whose mount's process was killed.
#[test]
fn a_closed_directory_can_be_removed_and_a_read_only_one_mounted_on() {
    let cluster = Cluster::found();
    let outer = cluster.mount_point();
    mount(Some("tmpfs"), &outer, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs");
    let (closed, read_only) = (outer.join("closed"), outer.join("read-only"));
    for path in [&closed, &read_only] {
        fs::create_dir(path).expect("mkdir");
    }
    let credential = cluster.path().join("main.toml");
    let mut killed = cluster.mount_at(&closed, &credential, &[]);
    kill(killed.worker(), Signal::SIGKILL).expect("it runs");
    assert_eq!(killed.ended(), Some(1));
    assert_eq!(mode(&closed), 0);
    fs::remove_dir_all(&closed).expect("removed");

    mount(None::<&str>, &outer, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>).expect("remount");
    let mount = cluster.mount_at(&read_only, &credential, &[]);
    fs::write(read_only.join("f"), "x").expect("write");
    mount.stop();
    assert_eq!(mode(&read_only), 0o755);
    umount2(&outer, MntFlags::MNT_DETACH).expect("umount");
}
