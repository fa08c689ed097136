//! Bad input to the command line: each time a sentence that says what to do, an exit code that is not 0, and nothing
//! changed. What needs a mount is tested with the mounts.

use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
};

use crate::support::{PROGRAM, free_addresses, listing, manyfs, manyfs_of, path, refuse, run, succeed, text};
use manyfs::{
    pki::{Authority, Credential},
    types::{Access, FoundingId, FoundingNumber, Grant, VolumeId},
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A directory with an authority in it.
fn with_authority() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = dir.path().join("authority.toml");
    succeed(&["cluster", "authority", "--out", path(&authority)]);
    (dir, authority)
}

/// A directory with an authority in it, and a credential for a node that is not there.
fn with_credential() -> (tempfile::TempDir, PathBuf) {
    let (dir, authority) = with_authority();
    let credential = dir.path().join("credential.toml");
    let [server, ..] = free_addresses();
    issue(&authority, vec![server]).save(&credential).expect("written");
    (dir, credential)
}

/// What `credential create` makes of a volume, without one.
fn issue(authority: &Path, servers: Vec<String>) -> Credential {
    let authority = Authority::load(authority).expect("an authority");
    let founding = FoundingId { cluster: authority.cluster(), number: FoundingNumber(1) };
    let (volume, name) = (VolumeId(1), "main".to_owned());
    authority.issue_mount(Grant { founding, volume, name, access: Access::ReadWrite }, servers).expect("issued")
}

/// A file name that is no text.
fn no_text() -> &'static OsStr {
    OsStr::from_bytes(b"\xff\xfe")
}

/// What `serve` on free ports says when it is refused.
fn refuse_serve(authority: &Path, data: &Path) -> String {
    let listen = free_addresses();
    refuse(&[
        "serve",
        "--authority",
        path(authority),
        "--data",
        path(data),
        "--listen-client",
        &listen[0],
        "--listen-peer",
        &listen[1],
        "--listen-http",
        &listen[2],
    ])
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let commands: [&[&str]; 19] = [
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
        &["volume", "set"],
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
        (&["volume", "set", "a"], "--quota"),
        (&["volume", "set", "a", "--quota-inodes", "0"], "0"),
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
    let listen = free_addresses();
    let config = dir.path().join("manyfs.toml");
    let settings = format!(
        "[serve]\nauthority = {:?}\ndata = {:?}\nlisten-client = {:?}\nlisten-peer = {:?}\nlisten-http = {:?}\n",
        path(&authority),
        path(&file),
        listen[0],
        listen[1],
        listen[2]
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

    let other = dir.path().join("other.toml");
    let create = ["credential", "create", "--authority", path(&authority), "--servers", "a,b:1", "--out"];
    let sentence = refuse(&[create.as_slice(), &[path(&other), "--volume", "../x"]].concat());
    assert!(sentence.contains("cannot name a volume"), "{sentence}");
    assert!(!other.exists());
}

#[test]
fn an_authority_that_is_none_is_refused() {
    let (dir, authority) = with_authority();
    let data = dir.path().join("data");
    let missing = dir.path().join("missing.toml");
    assert!(refuse_serve(&missing, &data).contains("missing.toml cannot be read"));
    let credential = dir.path().join("main.toml");
    issue(&authority, vec!["a:1".to_owned()]).save(&credential).expect("written");
    let sentence = refuse_serve(&credential, &data);
    assert!(sentence.contains("main.toml is not the authority of a cluster"), "{sentence}");
    let newer = dir.path().join("newer.toml");
    fs::write(&newer, fs::read_to_string(&authority).expect("readable").replace("version = 2", "version = 3"))
        .expect("written");
    let sentence = refuse_serve(&newer, &data);
    assert!(sentence.contains("version 3") && sentence.contains("newer manyfs"), "{sentence}");
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
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).expect("root may");
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
    if !crate::require::root() {
        return;
    }
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
    let [server, ..] = free_addresses();
    let output = run(&["status", "--authority", path(&authority), "--servers", &server]);
    // Once, where the state of the cluster is printed.
    let reason = format!("nothing listens at {server}");
    let (said, printed) = (text(&output.stderr), text(&output.stdout).replace(['\n', ' '], ""));
    assert!(output.status.code() == Some(1) && said.contains("no storage node answers"), "{said}");
    assert_eq!(printed.matches(&reason.replace(' ', "")).count(), 1, "{printed}");
    assert!(!said.contains(&reason), "{said}");
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
    if !crate::require::root() {
        return;
    }
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

#[test]
fn only_a_demos_own_directory_is_wiped() {
    if !crate::require::root() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("thesis.txt"), "years of work").expect("written");
    // Somebody else's file of that name, one that was cut short, one of a newer program.
    for (plan, named) in
        [("title = 'x'\n", "title"), ("", "version"), ("version = 2\ntime_scale = 1\nmounts = []\nnodes = []\n", "2")]
    {
        fs::write(dir.path().join("demo.toml"), plan).expect("written");
        let before = listing(dir.path());
        for fresh in [&[][..], &["--fresh"]] {
            let sentence = refuse(&[&["demo", "--dir", path(dir.path())], fresh].concat());
            assert!(sentence.contains("demo.toml") && sentence.contains(named), "{sentence}");
        }
        assert_eq!(listing(dir.path()), before);
    }
    let file = dir.path().join("thesis.txt");
    assert!(refuse(&["demo", "--dir", path(&file)]).contains("thesis.txt"));
    let output = manyfs(&["demo", "--dir"]).arg(dir.path().join(no_text())).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is no text: choose another --dir"), "{}", text(&output.stderr));
    assert!(!dir.path().join(no_text()).exists());
}

#[test]
fn a_socket_takes_no_other_files_place() {
    if !crate::require::root() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let point = dir.path().join("mnt");
    fs::create_dir(&point).expect("made");
    let file = dir.path().join("letter");
    fs::write(&file, "dear reader").expect("written");
    let hold = |socket: &Path| refuse(&["hold", "--socket", path(socket), "--mount", path(&point)]);
    assert!(hold(&file).contains("is no socket: choose another path"));
    assert!(hold(&dir.path().join("x".repeat(108))).contains("at most 107"));
    assert_eq!(fs::read_to_string(&file).expect("readable"), "dear reader");
    // A holder that is alive keeps its place.
    let socket = dir.path().join("holder");
    let _holder = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    assert!(hold(&socket).contains("another process listens"));

    let (_authority, credential) = with_credential();
    let mount = ["mount", "--credential", path(&credential), path(&point), "--control"];
    assert!(refuse(&[mount.as_slice(), &[path(&file)]].concat()).contains("is no socket"));
    assert_eq!(fs::read_to_string(&file).expect("readable"), "dear reader");
    assert!(refuse(&[mount.as_slice(), &[path(&socket)]].concat()).contains("another process listens"));
    assert!(socket.exists());
    // One path for two things: neither would be what it was asked for.
    let new = dir.path().join("new");
    let both = ["--run-file", path(&new)];
    assert!(refuse(&[mount.as_slice(), &[path(&new)], &both].concat()).contains("both run file and socket"));
    let hold = ["hold", "--socket", path(&new), "--mount", path(&point)];
    assert!(refuse(&[hold.as_slice(), &both].concat()).contains("both run file and socket"));
    assert!(!new.exists());
}

#[test]
fn an_authority_goes_to_standard_output_where_it_is_asked_to() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = manyfs(&["cluster", "authority", "--out", "-"]).current_dir(dir.path()).output().expect("it starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(listing(dir.path()).len(), 0, "no file of the name `-`");
    let file = dir.path().join("authority.toml");
    fs::write(&file, output.stdout).expect("written");
    let [server, ..] = free_addresses();
    // It is read as one: what fails is the way to the node.
    let sentence = refuse(&["cluster", "init", "--authority", path(&file), "--nodes", &server]);
    assert!(sentence.contains("nothing was changed") && sentence.contains(&server), "{sentence}");
}

#[test]
fn a_run_file_takes_no_other_files_place() {
    if !crate::require::root() {
        return;
    }
    let (dir, credential) = with_credential();
    let point = dir.path().join("mnt");
    fs::create_dir(&point).expect("made");
    let before = fs::read(&credential).expect("readable");
    let mount = ["mount", "--credential", path(&credential), path(&point), "--run-file", path(&credential)];
    assert!(refuse(&mount).contains("is no run file: choose another path"));
    let socket = dir.path().join("holder");
    let hold = ["hold", "--socket", path(&socket), "--mount", path(&point), "--run-file", path(&credential)];
    assert!(refuse(&hold).contains("is no run file: choose another path"));
    assert_eq!(fs::read(&credential).expect("kept"), before);
}

#[test]
fn a_mount_that_did_not_come_to_be_takes_no_run_file_with_it() {
    if !crate::require::root() {
        return;
    }
    let (dir, credential) = with_credential();
    let (point, run_file) = (dir.path().join("mnt"), dir.path().join("letter"));
    fs::create_dir(&point).expect("made");
    // Its address is no node's: it waits until it is told to end.
    let mut command = manyfs(&["mount", "--credential", path(&credential), "--run-file", path(&run_file)]);
    let log = dir.path().join("log");
    let mut child = command.arg(&point).stderr(fs::File::create(&log).expect("a log")).spawn().expect("it starts");
    let control = dir.path().join("letter.sock");
    crate::support::wait_for("the worker to run", || control.exists().then_some(()));
    fs::write(&run_file, "dear reader").expect("written");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    child.wait().expect("waited for");
    assert_eq!(fs::read_to_string(&run_file).expect("readable"), "dear reader");
}

#[test]
fn files_of_keys_that_are_torn_or_no_text_are_named() {
    let (dir, credential) = with_credential();
    let authority = dir.path().join("authority.toml");
    let whole = fs::read(&credential).expect("readable");
    let broken = dir.path().join("broken.toml");
    let contents: [&[u8]; 4] = [b"", b"\xff\xfe\0", &whole[..whole.len() / 2], b"version = 2\n"];
    for content in contents {
        fs::write(&broken, content).expect("written");
        for command in [
            &["mount", "--credential", path(&broken), "/nowhere"][..],
            &["serve", "--authority", path(&broken), "--data", "/nowhere/data"],
            &["status", "--authority", path(&broken), "--servers", "127.0.0.1:1"],
        ] {
            let sentence = refuse(command);
            assert!(sentence.contains("broken.toml"), "{command:?}: {sentence}");
        }
    }
    fs::write(&broken, b"\xff\xfe\0").expect("written");
    assert!(refuse(&["--config", path(&broken), "status"]).contains("broken.toml"));
    // One that is a directory, and an authority where a credential is asked for.
    assert!(refuse(&["mount", "--credential", path(dir.path()), "/nowhere"]).contains(path(dir.path())));
    assert!(refuse(&["mount", "--credential", path(&authority), "/nowhere"]).contains("authority.toml"));
    let output = manyfs(&["inspect"]).arg(no_text()).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    let output = manyfs(&["status"]).arg(no_text()).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn empty_and_absurd_values_are_usage_errors() {
    if !crate::require::root() {
        return;
    }
    for arguments in [
        &["serve", "--data", ""][..],
        &["serve", "--advertise", "a b"],
        &["mount", ""],
        &["mount", "--credential", "", "/mnt"],
        &["mount", "--write-timeout", "0", "/mnt"],
        &["mount", "--write-timeout", "99999999999999999999", "/mnt"],
        &["mount", "--content-cache", "0", "/mnt"],
        &["mount", "--squash", "4294967296:0", "/mnt"],
        &["mount", "--listen-http", "", "/mnt"],
        &["volume", "create", ""],
        &["volume", "create", "a\nb"],
        &["volume", "create", "a", "--quota", "0"],
        &["volume", "create", "a", "--quota", "99999999999999999999999T"],
        &["status", "--servers", ","],
        &["status", "--servers", "h:0"],
        &["demo", "--dir", ""],
        &["demo", "--nodes", "-1"],
        &["hold", "--socket", "", "--mount", "/mnt"],
    ] {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.starts_with("error: "), "{arguments:?}: {said}");
    }
    let name = "a".repeat(300);
    assert_eq!(run(&["volume", "create", &name]).status.code(), Some(2));
    assert!(refuse(&["demo", "--nodes", "0"]).contains("1, 3, 5 or 7"));
}

#[test]
fn another_user_than_root_is_told_what_is_missing() {
    let tools = tempfile::tempdir().expect("a temporary directory");
    let Some(program) = crate::require::program_for_all(Path::new(PROGRAM), tools.path()) else { return };
    let manyfs = |arguments: &[&str]| manyfs_of(&program, arguments);
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("changed");
    let point = dir.path().join("mnt");
    fs::create_dir(&point).expect("made");
    let socket = dir.path().join("holder");
    for arguments in [
        &["demo", "--dir", path(&dir.path().join("demo"))][..],
        &["hold", "--socket", path(&socket), "--mount", path(&point)],
    ] {
        let output = manyfs(arguments).uid(1234).gid(1234).output().expect("the program starts");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("root") && said.contains("sudo"), "{arguments:?}: {said}");
    }
    // A directory that this user may not write.
    let (keys, authority) = with_authority();
    for place in [keys.path(), authority.as_path()] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("changed");
    }
    let data = dir.path().join("data");
    let mut serve = manyfs(&["serve", "--authority", path(&authority), "--data", path(&data)]);
    for option in ["--listen-client", "--listen-peer", "--listen-http"] {
        serve.args([option, "127.0.0.1:0"]);
    }
    let output = serve.uid(1234).gid(1234).output().expect("the program starts");
    let said = text(&output.stderr);
    assert!(said.contains(path(&data)) && said.contains("writable"), "{said}");
    assert_eq!(listing(dir.path()).len(), 1, "only the mount point is there");
}

#[test]
fn what_is_not_mounted_cannot_be_unmounted() {
    if !crate::require::root() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let missing = dir.path().join("none");
    for place in [dir.path(), &missing] {
        let sentence = refuse(&["unmount", path(place)]);
        assert!(sentence.contains("nothing of ManyFS is mounted at") && sentence.contains(path(place)), "{sentence}");
    }
}
