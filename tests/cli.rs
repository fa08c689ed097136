//! Bad input to the command line: each time a sentence that says what to do, an exit code that is not 0, and nothing
//! changed. What needs a mount is tested with the mounts.

#[path = "cluster/support.rs"]
#[allow(dead_code, reason = "shared with the tests of clusters")]
mod support;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::{free_ports, listing, manyfs, path, refuse, run, succeed, text};

/// A directory with an authority in it.
fn with_authority() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = dir.path().join("authority.toml");
    succeed(&["cluster", "authority", "--out", path(&authority)]);
    (dir, authority)
}

/// What `serve` on free ports says when it is refused.
fn refuse_serve(authority: &Path, data: &Path) -> String {
    let ports: Vec<_> = free_ports(3).iter().map(|port| format!("127.0.0.1:{port}")).collect();
    refuse(&[
        "serve",
        "--authority",
        path(authority),
        "--data",
        path(data),
        "--listen-client",
        &ports[0],
        "--listen-peer",
        &ports[1],
        "--listen-http",
        &ports[2],
    ])
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let commands: [&[&str]; 18] = [
        &["serve"],
        &["mount"],
        &["unmount"],
        &["hold"],
        &["status"],
        &["inspect"],
        &["check"],
        &["bench"],
        &["demo"],
        &["cluster", "authority"],
        &["cluster", "init"],
        &["cluster", "status"],
        &["cluster", "transfer-leader"],
        &["volume", "create"],
        &["volume", "list"],
        &["volume", "delete"],
        &["credential", "create"],
        &[],
    ];
    for command in commands {
        let output = run(&[command, &["--help"]].concat());
        let help = text(&output.stdout);
        assert!(output.status.success(), "{command:?}");
        assert!(help.len() > 200, "{command:?}: {help}");
        // `cluster status` is `status`.
        let name = command.last().copied().unwrap_or_default();
        let example =
            help.split_once("Example: manyfs ").map(|(_, example)| example.lines().next().unwrap_or_default());
        assert!(command.is_empty() || example.is_some_and(|example| example.contains(name)), "{help}");
    }
}

#[test]
fn unknown_commands_and_flags_are_usage_errors() {
    for (arguments, named) in [
        (["frobnicate", "x"].as_slice(), "frobnicate"),
        (&["serve", "--dta", "x"], "--dta"),
        (&["volume", "create"], "<NAME>"),
        (&["volume", "create", "a/b"], "a/b"),
        (&["volume", "create", "a", "--quota", "much"], "much"),
        (&["cluster", "init", "--authority", "x", "--nodes", "a b"], "a b"),
        (&["status", "--servers", "a:b:c:d", "--servers", "h:99999"], "99999"),
    ] {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
}

#[test]
fn unknown_config_keys_are_errors_that_name_key_and_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = dir.path().join("manyfs.toml");
    fs::write(&config, "[serve]\ndatadir = '/x'\n").expect("written");
    let sentence = refuse(&["--config", path(&config), "status"]);
    assert!(sentence.contains("datadir") && sentence.contains(path(&config)), "{sentence}");
    let missing = dir.path().join("missing.toml");
    let sentence = refuse(&["status", "--config", path(&missing)]);
    assert!(sentence.contains(path(&missing)), "{sentence}");
}

#[test]
fn a_flag_goes_over_the_environment_over_the_file_over_the_default() {
    let (dir, authority) = with_authority();
    // Directories that hold other things: whichever is used is named in the refusal.
    let used = |name: &str| {
        let used = dir.path().join(name);
        fs::create_dir(&used).expect("made");
        fs::write(used.join("something"), "").expect("written");
        used
    };
    let (file, environment, flag) = (used("by-file"), used("by-environment"), used("by-flag"));
    let ports: Vec<_> = free_ports(3).iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let config = dir.path().join("manyfs.toml");
    let settings = format!(
        "[serve]\nauthority = {:?}\ndata = {:?}\nlisten-client = {:?}\nlisten-peer = {:?}\nlisten-http = {:?}\n",
        path(&authority),
        path(&file),
        ports[0],
        ports[1],
        ports[2]
    );
    fs::write(&config, settings).expect("written");
    let serve = |flags: &[&str], variable: Option<&Path>| {
        let mut command = manyfs(&[&["serve", "--config", path(&config)], flags].concat());
        if let Some(data) = variable {
            command.env("MANYFS_DATA", data);
        }
        let output = command.output().expect("the program starts");
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    assert!(serve(&[], None).contains("by-file"));
    assert!(serve(&[], Some(&environment)).contains("by-environment"));
    assert!(serve(&["--data", path(&flag)], Some(&environment)).contains("by-flag"));
}

#[test]
fn keys_are_never_overwritten() {
    let (dir, authority) = with_authority();
    let before = fs::read(&authority).expect("readable");
    assert_eq!(fs::metadata(&authority).expect("there").permissions().mode() & 0o777, 0o600);
    let sentence = refuse(&["cluster", "authority", "--out", path(&authority)]);
    assert!(sentence.contains("exists already"), "{sentence}");
    assert_eq!(fs::read(&authority).expect("readable"), before);

    let credential = dir.path().join("main.toml");
    let create = ["credential", "create", "--authority", path(&authority), "--servers", "a,b:1", "--out"];
    let made = succeed(&[create.as_slice(), &[path(&credential), "--json"]].concat());
    let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!((made["volume"].as_str(), made["access"].as_str()), (Some("main"), Some("read-write")));
    let written: toml::Table =
        toml::from_str(&fs::read_to_string(&credential).expect("readable")).expect("a credential is TOML");
    assert_eq!(written["servers"], toml::Value::from(vec!["a:7440", "b:1"]));
    let sentence = refuse(&[create.as_slice(), &[path(&credential)]].concat());
    assert!(sentence.contains("exists already"), "{sentence}");
    let other = dir.path().join("other.toml");
    let sentence = refuse(&[create.as_slice(), &[path(&other), "--volume", "../x"]].concat());
    assert!(sentence.contains("cannot name a volume"), "{sentence}");
    let nowhere = dir.path().join("none").join("x.toml");
    refuse(&[create.as_slice(), &[path(&nowhere)]].concat());
    assert!(!other.exists() && !nowhere.exists());
}

#[test]
fn an_authority_that_is_none_is_refused() {
    let (dir, authority) = with_authority();
    let data = dir.path().join("data");
    let missing = dir.path().join("missing.toml");
    assert!(refuse_serve(&missing, &data).contains("missing.toml cannot be read"));
    let credential = dir.path().join("main.toml");
    succeed(&["credential", "create", "--authority", path(&authority), "--servers", "a", "--out", path(&credential)]);
    let sentence = refuse_serve(&credential, &data);
    assert!(sentence.contains("main.toml is not the authority of a cluster"), "{sentence}");
    let newer = dir.path().join("newer.toml");
    fs::write(&newer, fs::read_to_string(&authority).expect("readable").replace("version = 1", "version = 2"))
        .expect("written");
    let sentence = refuse_serve(&newer, &data);
    assert!(sentence.contains("version 2") && sentence.contains("newer manyfs"), "{sentence}");
    assert!(!data.exists());
}

#[test]
fn a_port_that_is_taken_is_named_and_nothing_is_made() {
    let (dir, authority) = with_authority();
    let data = dir.path().join("data");
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = held.local_addr().expect("bound").to_string();
    for option in ["--listen-client", "--listen-peer", "--listen-http"] {
        let mut arguments =
            vec!["serve", "--authority", path(&authority), "--data", path(&data), option, taken.as_str()];
        for other in ["--listen-client", "--listen-peer", "--listen-http"] {
            if other != option {
                arguments.extend([other, "127.0.0.1:0"]);
            }
        }
        let sentence = refuse(&arguments);
        assert!(sentence.contains(&taken) && sentence.contains(option), "{sentence}");
        assert!(sentence.contains("another process listens there"), "{sentence}");
    }
    assert!(!data.exists());
    let sentence = refuse(&["serve", "--authority", path(&authority), "--data", path(&data), "--listen-http", "x"]);
    assert!(sentence.contains("address:port") || sentence.contains("7440"), "{sentence}");
}

#[test]
fn a_directory_that_holds_other_things_is_left_alone() {
    let (dir, authority) = with_authority();
    let data = dir.path().join("photos");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("holiday.jpg"), "pixels").expect("written");
    let before = listing(&data);
    let sentence = refuse_serve(&authority, &data);
    assert!(sentence.contains("photos") && sentence.contains("holiday.jpg"), "{sentence}");
    assert_eq!(listing(&data), before);

    // A file where the directory should be.
    let sentence = refuse_serve(&authority, &data.join("holiday.jpg"));
    assert!(sentence.contains("holiday.jpg"), "{sentence}");
    // A directory of a newer program.
    let newer = dir.path().join("newer");
    fs::create_dir(&newer).expect("made");
    fs::write(newer.join("manyfs.toml"), "format = 99\nsurprise = true\n").expect("written");
    let sentence = refuse_serve(&authority, &newer);
    assert!(sentence.contains("format 99") && sentence.contains("newer manyfs"), "{sentence}");
}

#[test]
fn offline_tools_refuse_what_is_no_data_directory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for tool in ["inspect", "check"] {
        let sentence = refuse(&[tool, path(&dir.path().join("none"))]);
        assert!(sentence.contains("none"), "{sentence}");
        let sentence = refuse(&[tool, path(dir.path())]);
        assert!(sentence.contains(path(dir.path())), "{sentence}");
    }
    assert!(listing(dir.path()).is_empty());
}

/// A file system that is mounted read-only while this exists.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn new(dir: &Path) -> Self {
        let at = dir.join("read-only");
        fs::create_dir(&at).expect("made");
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).expect("tests run as root");
        Self(at)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("unmounted");
    }
}

#[test]
fn a_read_only_directory_is_refused_at_the_start() {
    let (dir, authority) = with_authority();
    let read_only = ReadOnly::new(dir.path());
    for data in [read_only.0.clone(), read_only.0.join("node")] {
        let sentence = refuse_serve(&authority, &data);
        assert!(sentence.contains(path(&data)) && sentence.contains("writable"), "{sentence}");
    }
}

#[test]
fn a_command_without_a_cluster_asks_which() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for arguments in [&["status"][..], &["volume", "list"], &["volume", "create", "a"], &["cluster", "transfer-leader"]]
    {
        let output = manyfs(arguments).current_dir(dir.path()).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("which cluster?"), "{}", text(&output.stderr));
    }
    let sentence = refuse(&["status", "--dir", path(dir.path())]);
    assert!(sentence.contains("holds no demo"), "{sentence}");
}

#[test]
fn nodes_that_cannot_be_reached_are_named() {
    let (_dir, authority) = with_authority();
    let port = free_ports(1)[0];
    let server = format!("127.0.0.1:{port}");
    let sentence = refuse(&["status", "--authority", path(&authority), "--servers", &server]);
    assert!(sentence.contains(&format!("nothing listens at {server}")), "{sentence}");
    let sentence = refuse(&["cluster", "init", "--authority", path(&authority), "--nodes", &server]);
    assert!(sentence.contains("nothing was changed") && sentence.contains(&server), "{sentence}");
    for count in [2, 4] {
        let nodes = vec![server.as_str(); count].join(",");
        let sentence = refuse(&["cluster", "init", "--authority", path(&authority), "--nodes", &nodes]);
        assert!(sentence.contains("1, 3, 5 or 7"), "{sentence}");
    }
    let nodes = [server.as_str(); 3].join(",");
    let sentence = refuse(&["cluster", "init", "--authority", path(&authority), "--nodes", &nodes]);
    assert!(sentence.contains("named twice"), "{sentence}");
}

#[test]
fn a_demo_is_made_only_where_it_can_be() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("thesis.txt"), "years of work").expect("written");
    let before = listing(dir.path());
    let demo = |arguments: &[&str]| refuse(&[&["demo", "--dir", path(dir.path())], arguments].concat());
    assert!(demo(&[]).contains("is not empty and holds no demo"));
    assert!(demo(&["--fresh"]).contains("is not empty and holds no demo"));
    assert!(demo(&["--nodes", "2"]).contains("1, 3, 5 or 7"));
    assert_eq!(listing(dir.path()), before);
    let output = run(&["demo", "--mounts", "17"]);
    assert_eq!(output.status.code(), Some(2));
}
