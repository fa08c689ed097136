//! git, tar, rsync, cargo.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use super::tools::{output, program, text};
use crate::{require, support::Cluster};

/// Directories, files of many sizes, modes and times, links of both kinds.
fn make_tree(at: &Path) {
    for directory in 0..8 {
        let directory = at.join(format!("directory {directory}/inner"));
        fs::create_dir_all(&directory).expect("mkdir");
        for file in 0..12_usize {
            let path = directory.join(format!("file{file}"));
            fs::write(&path, format!("{file} ").repeat(file.pow(5))).expect("written");
            let mode = [0o644, 0o600, 0o755, 0o444][file % 4];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        symlink("file1", directory.join("link")).expect("symlink");
        fs::hard_link(directory.join("file2"), directory.join("same")).expect("link");
    }
}

#[test]
fn git_clones_and_finds_nothing_wrong() {
    if !require::programs(&["git"]) {
        return;
    }
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    let source = cluster.path().join("source");
    make_tree(&source);
    let git = |directory: &Path, arguments: &[&str]| {
        let mut git = program("git");
        git.args(["-c", "user.name=test", "-c", "user.email=test@localhost", "-C", text(directory)]).args(arguments);
        output(git.env("HOME", cluster.path()).env("GIT_CONFIG_NOSYSTEM", "1"))
    };
    git(&source, &["init", "--quiet"]);
    git(&source, &["add", "."]);
    git(&source, &["commit", "--quiet", "--message", "first"]);
    let (mine, theirs) = (here.path.join("clone"), there.path.join("clone"));
    git(&here.path, &["clone", "--quiet", "--no-local", text(&source), "clone"]);
    assert_eq!(git(&mine, &["status", "--porcelain"]), "");
    assert_eq!(git(&theirs, &["status", "--porcelain"]), "");
    git(&theirs, &["fsck", "--full", "--strict"]);
    fs::write(theirs.join("new"), "content").expect("written");
    assert_eq!(git(&mine, &["status", "--porcelain"]), "?? new\n");
    git(&mine, &["add", "new"]);
    git(&theirs, &["commit", "--quiet", "--message", "second"]);
    assert_eq!(git(&mine, &["log", "--format=%s"]), "second\nfirst\n");
    git(&mine, &["gc", "--quiet"]);
    git(&theirs, &["fsck", "--full", "--strict"]);
    assert_eq!(git(&theirs, &["status", "--porcelain"]), "");
}

#[test]
fn tar_packs_and_unpacks_all_there_is() {
    if !require::programs(&["tar"]) {
        return;
    }
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    let (source, archive) = (cluster.path().join("source"), cluster.path().join("archive.tar"));
    make_tree(&source);
    let tar = |arguments: &[&str]| output(program("tar").args(arguments));
    tar(&["-cf", text(&archive), "-C", text(&source), "."]);
    tar(&["-xf", text(&archive), "-C", text(&here.path)]);
    // Content, sizes, modes, owners, times, links.
    assert_eq!(tar(&["--compare", "-f", text(&archive), "-C", text(&there.path)]), "");
    let again = cluster.path().join("again.tar");
    tar(&["-cf", text(&again), "-C", text(&there.path), "."]);
    assert_eq!(tar(&["--compare", "-f", text(&again), "-C", text(&here.path)]), "");
    assert_eq!(tar(&["--compare", "-f", text(&again), "-C", text(&source)]), "");
}

#[test]
fn rsync_has_nothing_to_do_the_second_time() {
    if !require::programs(&["rsync"]) {
        return;
    }
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    let source = cluster.path().join("source");
    make_tree(&source);
    let from = format!("{}/", text(&source));
    let rsync = |options: &[&str], from: &str, to: &Path| {
        let mut rsync = program("rsync");
        output(rsync.args(["-aH", "--itemize-changes"]).args(options).args([from, text(to)]))
    };
    let copy = here.path.join("copy");
    assert_ne!(rsync(&[], &from, &copy), "");
    assert_eq!(rsync(&[], &from, &copy), "");
    assert_eq!(rsync(&["--checksum", "--dry-run"], &from, &there.path.join("copy")), "");
    let path = there.path.join("copy/directory 3/inner/file7");
    fs::write(&path, "changed").expect("written");
    assert_eq!(rsync(&[], &from, &copy).lines().count(), 1, "what changed elsewhere, and nothing else");
    let back = cluster.path().join("back");
    rsync(&[], &format!("{}/", text(&there.path.join("copy"))), &back);
    assert_eq!(rsync(&["--checksum", "--dry-run"], &from, &back), "");
}

#[test]
fn cargo_builds_and_what_it_built_runs_and_is_fresh() {
    if !require::programs(&["cargo"]) {
        return;
    }
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    let (mine, theirs) = (here.path.join("hello"), there.path.join("hello"));
    fs::create_dir_all(mine.join("src")).expect("mkdir");
    fs::write(mine.join("Cargo.toml"), "[package]\nname = \"hello\"\nversion = \"0.0.1\"\nedition = \"2021\"\n")
        .expect("written");
    fs::write(mine.join("src/main.rs"), "fn main() { println!(\"{}\", hello::word()); }\n").expect("written");
    fs::write(mine.join("src/lib.rs"), "pub fn word() -> &'static str { \"hello\" }\n").expect("written");
    let cargo = |directory: &Path| {
        let mut cargo = program("cargo");
        // Nothing of the build that this test is part of.
        for (name, _) in env::vars_os() {
            let is_ours = name.to_str().is_some_and(|name| name.starts_with("CARGO_") && name != "CARGO_HOME");
            if is_ours {
                cargo.env_remove(name);
            }
        }
        cargo.args(["build", "--offline", "--verbose"]).current_dir(directory);
        let built = cargo.output().expect("cargo runs");
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        assert!(built.status.success(), "{said}");
        said
    };
    assert!(cargo(&mine).contains("Compiling hello"));
    assert_eq!(output(&mut Command::new(theirs.join("target/debug/hello"))), "hello\n");
    assert!(cargo(&mine).contains("Fresh hello"));
    fs::write(theirs.join("src/lib.rs"), "pub fn word() -> &'static str { \"bye\" }\n").expect("written");
    assert!(cargo(&mine).contains("Compiling hello"), "the change made elsewhere is seen");
    assert_eq!(output(&mut Command::new(theirs.join("target/debug/hello"))), "bye\n");
}
