//! `manyfs demo` for real: storage nodes and mounts as processes, killed and started again, found by `status`, and all of
//! them gone when the demo ends.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use crate::support::{LIMIT, manyfs, path, succeed, wait_for};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A demo that was started and said that it is ready.
struct Demo {
    dir: PathBuf,
    child: Child,
    /// The one line on standard output.
    ready: Value,
    /// Lines on standard error, as they come.
    said: mpsc::Receiver<String>,
}

impl Demo {
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut command = manyfs(&[&["demo", "--json", "--dir", path(dir)], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let (sender, said) = mpsc::channel();
        let errors = BufReader::new(child.stderr.take().expect("piped"));
        thread::spawn(move || errors.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let (sender, ready) = mpsc::channel();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        thread::spawn(move || {
            let mut line = String::new();
            let _ = output.read_line(&mut line);
            let _ = sender.send(line);
            // Nothing may follow; a full pipe must not hold the demo up either way.
            let mut rest = String::new();
            let _ = output.read_to_string(&mut rest);
            assert_eq!(rest, "", "standard output is one line");
        });
        let line = ready.recv_timeout(2 * LIMIT).expect("ready in time");
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| {
            let said: Vec<_> = said.try_iter().collect();
            panic!("no JSON ({error}): {line}\n{}", said.join("\n"))
        });
        Self { dir: dir.to_owned(), child, ready, said }
    }

    fn status(&self) -> Value {
        serde_json::from_str(&succeed(&["status", "--json", "--dir", path(&self.dir)])).expect("one line of JSON")
    }

    /// Waits for a line on standard error.
    fn hear(&self, what: &str) -> String {
        wait_for(what, || self.said.try_iter().find(|line| line.contains(what)))
    }

    fn mount(&self, at: usize) -> PathBuf {
        self.ready["mounts"][at]["path"].as_str().expect("a path").into()
    }

    /// Ends the demo by `signal`; its exit code.
    fn stop(mut self, signal: Signal) -> Option<i32> {
        let pids = pids(&self.status());
        send(self.child.id(), signal);
        let code = wait_for("the demo to end", || self.child.try_wait().expect("waited for")).code();
        for pid in pids {
            assert!(!is_running(pid), "process {pid} has outlived the demo");
        }
        assert!(!is_mounted(&self.dir), "a mount has outlived the demo");
        code
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A test has failed: leave nothing behind.
            send(self.child.id(), Signal::SIGTERM);
            let _ = self.child.wait();
        }
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
            if let Some(at) = line.split(' ').nth(4).filter(|at| Path::new(at).starts_with(&self.dir)) {
                let _ = umount2(at, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
            }
        }
    }
}

fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal);
}

fn is_running(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn is_mounted(below: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(below)))
}

/// All processes of a demo.
fn pids(status: &Value) -> Vec<u32> {
    let nodes = status["nodes"].as_array().expect("a list").iter().map(|node| &node["pid"]);
    let mounts = status["mounts"].as_array().expect("a list").iter();
    let mounts = mounts.flat_map(|mount| [&mount["pid"], &mount["worker_pid"]]);
    nodes.chain(mounts).filter_map(Value::as_u64).map(|pid| u32::try_from(pid).expect("a pid")).collect()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(|word| word.as_str().expect("text").to_owned()).collect()
}

/// Starts something again as the demo says.
fn start_again(start: &Value) -> Child {
    let start = words(start);
    let mut command = Command::new(&start[0]);
    command.args(&start[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the program starts")
}

#[test]
fn a_demo_lives_dies_and_goes_on_where_it_was() {
    if !crate::require::mounts() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().canonicalize().expect("a path");
    let demo = Demo::start(&dir, &[]);
    assert_eq!(demo.ready["nodes"].as_array().map(Vec::len), Some(3));
    assert_eq!(demo.ready["mounts"].as_array().map(Vec::len), Some(2));
    assert_eq!(pids(&demo.ready).len(), 3 + 2 * 2);
    for node in demo.ready["nodes"].as_array().expect("a list") {
        assert!(node["id"].is_string() && node["leader"].is_boolean() && node["addr"].is_string(), "{node}");
        assert!(Path::new(node["data"].as_str().expect("a path")).is_dir(), "{node}");
    }

    // One tree.
    fs::write(demo.mount(0).join("file"), "before").expect("written");
    assert_eq!(fs::read_to_string(demo.mount(1).join("file")).expect("readable"), "before");

    // A node that runs is started a second time: refused, and the first is found as before.
    let node = &demo.ready["nodes"][0];
    assert_eq!(start_again(&node["start"]).wait().expect("waited for").code(), Some(1));
    assert_eq!(demo.status()["nodes"][0]["pid"], node["pid"]);

    // The leader dies, and stays dead; status and the demo say so.
    let leader = demo.ready["nodes"].as_array().expect("a list").iter().find(|node| node["leader"] == true);
    let leader = leader.expect("a leader").clone();
    send(u32::try_from(leader["pid"].as_u64().expect("a pid")).expect("a pid"), Signal::SIGKILL);
    fs::write(demo.mount(1).join("file"), "while a node is dead").expect("written");
    assert_eq!(fs::read_to_string(demo.mount(0).join("file")).expect("readable"), "while a node is dead");
    let line = demo.hear("was killed by signal 9; start it again: ");
    assert!(line.len() < 120 + path(&dir).len(), "{line}");
    let script = fs::read_to_string(line.rsplit(' ').next().expect("a path")).expect("a script");
    assert!(script.contains(&words(&leader["start"]).join(" ")), "{script}");
    let find = |status: &Value| {
        status["nodes"].as_array().expect("a list").iter().find(|node| node["id"] == leader["id"]).cloned()
    };
    let dead = find(&demo.status()).expect("still listed");
    assert!(dead["pid"].is_null() && dead["leader"] == false && dead["start"] == leader["start"], "{dead}");
    assert_eq!(dead["addr"], leader["addr"]);

    // Started again by hand, it is found.
    let mut restarted = start_again(&leader["start"]);
    demo.hear(&format!("runs as pid {}", restarted.id()));
    wait_for("the node to follow", || {
        let status = demo.status();
        let node = find(&status)?;
        (node["pid"] == restarted.id() && node["state"] == "follower" && status["quorum"] == true).then_some(())
    });

    // Ctrl-C: everything goes, also what was started by hand.
    assert_eq!(demo.stop(Signal::SIGINT), Some(0));
    assert!(restarted.wait().expect("waited for").success());
    let status: Value = serde_json::from_str(&succeed(&["status", "--json", "--dir", path(&dir)])).expect("JSON");
    assert_eq!(pids(&status), Vec::<u32>::new());
    assert_eq!((status["quorum"].as_bool(), status["nodes"].as_array().map(Vec::len)), (Some(false), Some(3)));

    // The same directory goes on; the demo's own SIGTERM leaves nothing behind either.
    let demo = Demo::start(&dir, &["--mounts", "1"]);
    assert_eq!(demo.ready["mounts"].as_array().map(Vec::len), Some(1));
    assert_eq!(fs::read_to_string(demo.mount(0).join("file")).expect("readable"), "while a node is dead");
    assert_eq!(demo.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn what_a_killed_demo_leaves_behind_is_ended_by_the_next() {
    if !crate::require::mounts() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().canonicalize().expect("a path");
    let one = ["--nodes", "1", "--mounts", "1"];
    let mut demo = Demo::start(&dir, &one);
    fs::write(demo.mount(0).join("file"), "kept").expect("written");
    let orphans = pids(&demo.ready);
    demo.child.kill().expect("killed");
    demo.child.wait().expect("waited for");
    assert!(orphans.iter().all(|pid| is_running(*pid)));

    let second = crate::support::refuse(&["demo", "--dir", path(&dir), "--nodes", "3"]);
    assert!(second.contains("has 1 storage nodes, not 3"), "{second}");
    let again = Demo::start(&dir, &[]);
    assert!(orphans.iter().all(|pid| !is_running(*pid)));
    assert_eq!(fs::read_to_string(again.mount(0).join("file")).expect("readable"), "kept");
    let refused = crate::support::refuse(&["demo", "--dir", path(&dir)]);
    assert!(refused.contains("another demo runs"), "{refused}");
    assert_eq!(again.stop(Signal::SIGTERM), Some(0));

    let fresh = Demo::start(&dir, &["--fresh", "--nodes", "1", "--mounts", "1"]);
    assert!(!fresh.mount(0).join("file").exists());
    // A mount says itself that it has lost its cluster.
    let status = fresh.status();
    assert!(status["mounts"][0]["cut_off"] == false && status["mounts"][0]["kernel"]["abi"].is_string(), "{status}");
    let node = status["nodes"][0]["pid"].as_u64().expect("a pid");
    send(u32::try_from(node).expect("a pid"), Signal::SIGKILL);
    wait_for("the mount to miss its cluster", || (fresh.status()["mounts"][0]["cut_off"] == true).then_some(()));
    let table = succeed(&["status", "--dir", path(&dir)]);
    assert!(table.contains("cut off from the cluster") && table.contains("dead"), "{table}");
    assert_eq!(fresh.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn a_node_that_was_away_gets_the_blocks_it_missed() {
    if !crate::require::mounts() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().canonicalize().expect("a path");
    let demo = Demo::start(&dir, &["--nodes", "3", "--mounts", "1"]);
    let nodes = demo.ready["nodes"].as_array().expect("a list");
    let away = nodes.iter().find(|node| node["leader"] == false).expect("a follower");
    send(u32::try_from(away["pid"].as_u64().expect("a pid")).expect("a pid"), Signal::SIGKILL);
    // Larger than what travels in entries, and no two blocks alike.
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(demo.mount(0).join("file"), &content).expect("written");

    let mut restarted = start_again(&away["start"]);
    let start = words(&away["start"]);
    let http = start.iter().position(|word| word == "--listen-http").map(|at| start[at + 1].clone());
    let http = http.expect("an address");
    wait_for("the missing blocks to be fetched", || {
        let page = crate::support::get(&http, "/metrics")?;
        let value = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        (value("manyfs_blocks_filled_total")? > 0.0 && value("manyfs_blocks_missing")? == 0.0).then_some(())
    });
    assert_eq!(demo.stop(Signal::SIGTERM), Some(0));
    restarted.wait().expect("waited for");
    for node in 1..=3 {
        let data = dir.join(format!("node-{node}"));
        let checked = succeed(&["check", path(&data)]);
        assert!(checked.trim_end().ends_with("\nwhole"), "node {node}: {checked}");
        let rows = succeed(&["inspect", path(&data), "--part", "state"]);
        assert!(rows.contains("name file: inode"), "node {node}: {rows}");
    }
}
