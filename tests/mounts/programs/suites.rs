//! pjdfstest and fsx.

use std::{env, fs, os::unix::fs::PermissionsExt};

use super::tools::{program, text};
use crate::{require, support::Cluster};

/// What pjdfstest may leave out, and what it says to that.
const SKIPPED: &[(&str, &str)] = &[
    // By themselves they are run with remounts: the suite keeps deleted files open, and then no file system is remounted
    // read-only (EBUSY, on tmpfs too).
    ("::erofs_", "Remounts (allow_remount) are not allowed in the configuration file"),
    // No limit of ours to reach.
    ("link::link_count_max", "Cannot get value for LINK_MAX: filesystem limit is unknown"),
];
/// Cases of version 0.2.2 that are not left out are a few more.
const PASSED_MIN: usize = 380;

const FSX_OPERATIONS: &str = "3000";
const FSX: &str = "
    flen = 400000
    [opsize]
    max = 80000
    [weights]
    close_open = 2
    read = 10
    write = 10
    mapread = 10
    mapwrite = 10
    invalidate = 2
    truncate = 5
    fsync = 1
    fdatasync = 1
    posix_fallocate = 2
    punch_hole = 4
    sendfile = 4
    posix_fadvise = 1
    copy_file_range = 4
";

#[test]
fn pjdfstest_passes() {
    if !require::programs(&["pjdfstest"]) {
        return;
    }
    let cluster = Cluster::found();
    let mount = cluster.mount();
    // Other users come by here.
    fs::set_permissions(cluster.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    // The suite's remounts: where libfuse is installed and our helper is not, mount(8) would ask libfuse's.
    let tools = cluster.path().join("tools");
    fs::create_dir(&tools).expect("created");
    fs::write(tools.join("mount"), "#!/bin/sh\nexec /bin/mount -i \"$@\"\n").expect("written");
    fs::set_permissions(tools.join("mount"), fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = format!("{}:{}", text(&tools), env::var("PATH").expect("a path"));
    let suite = |may_remount: bool, cases: &[&str]| {
        let config = cluster.path().join("pjdfstest.toml");
        let settings = format!(
            "[features]\nposix_fallocate = {{}}\nutime_now = {{}}\nutimensat = {{}}\nrename_ctime = {{}}\n\
             [settings]\nnaptime = 0.01\nallow_remount = {may_remount}\n\
             [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n"
        );
        fs::write(&config, settings).expect("written");
        let mut suite = program("pjdfstest");
        suite.env("PATH", &path).args(["--configuration-file", text(&config), "--path", text(&mount.path)]);
        let output = suite.args(["--secondary-fs", "/dev/shm"]).args(cases).output().expect("it runs");
        let said = plain(&String::from_utf8_lossy(&output.stdout));
        let summary = said.lines().rev().find(|line| line.starts_with("Summary: ")).unwrap_or_else(|| panic!("{said}"));
        assert!(output.status.success() && summary.starts_with("Summary: 0 failed"), "{said}");
        eprintln!("{summary}");
        said
    };
    let said = suite(false, &[]);
    let passed = said.lines().filter(|line| line.ends_with(" ok")).count();
    assert!(passed >= PASSED_MIN, "the suite ran {passed} cases only: {said}");
    let mut lines = said.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_suffix("skipped").map(str::trim) else { continue };
        while let Some(reason) = lines.next_if(|line| line.starts_with('\t')) {
            let is_known = |(part, known): &(&str, &str)| name.contains(part) && reason.trim() == *known;
            assert!(SKIPPED.iter().any(is_known), "{name} is left out: {reason}");
        }
    }
    let said = suite(true, &["::erofs_"]);
    assert!(!said.contains("skipped\n"), "{said}");
}

/// Without colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest)).collect::<String>()
}

#[test]
fn fsx_finds_nothing() {
    if !require::programs(&["fsx"]) {
        return;
    }
    let cluster = Cluster::found();
    let mount = cluster.mount();
    let config = cluster.path().join("fsx.toml");
    fs::write(&config, FSX).expect("written");
    for seed in ["1", "2"] {
        let mut fsx = program("fsx");
        fsx.args(["-N", FSX_OPERATIONS, "-S", seed, "-f", text(&config), "-P", text(cluster.path())]);
        let output = fsx.arg(mount.path.join("file")).output().expect("it runs");
        let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "seed {seed}: {}{}", said(&output.stdout), said(&output.stderr));
    }
}
