//! The processes of a demo: started in groups of their own, so that Ctrl-C reaches the demo alone, and ended in order:
//! mounts before the nodes they need.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::layout::{Layout, mount_name, node_name};
use crate::{
    cli::{Failure, mountpoint},
    holder,
};

/// How long a mount may take to flush and go, and a node to hand over and stop, before it is killed.
const MOUNT_WAIT: Duration = Duration::from_secs(30);
const NODE_WAIT: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(20);

/// What this demo has started.
pub(super) struct Processes {
    layout: Layout,
    children: BTreeMap<String, Child>,
    /// How those ended that have ended.
    ended: BTreeMap<String, ExitStatus>,
}

impl Processes {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, children: BTreeMap::new(), ended: BTreeMap::new() }
    }

    /// Starts a part of the demo; its log goes to a file.
    pub(super) fn start(&mut self, name: String, start: &[String]) -> Result<(), Failure> {
        let path = self.layout.log(&name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        let [program, arguments @ ..] = start else { return Err("nothing to start".into()) };
        let script = self.layout.script(&name);
        fs::write(&script, format!("#!/bin/sh\nexec {}\n", command(start)))
            .map_err(|error| format!("{} cannot be written: {error}", script.display()))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{program} cannot be started: {error}"))?;
        self.ended.remove(&name);
        self.children.insert(name, child);
        Ok(())
    }

    /// Notes who has ended.
    pub(super) fn reap(&mut self) {
        let mut gone = Vec::new();
        for (name, child) in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                gone.push((name.clone(), status));
            }
        }
        for (name, status) in gone {
            self.children.remove(&name);
            self.ended.insert(name, status);
        }
    }

    /// That none of these has ended.
    pub(super) fn check_running(&mut self, names: &[String], layout: &Layout) -> Result<(), Failure> {
        self.reap();
        for name in names {
            if let Some(status) = self.ended.get(name) {
                let log = layout.log(name);
                let text = fs::read_to_string(&log).unwrap_or_default();
                let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no line was logged");
                return Err(format!("{name} {}: {last} (log: {})", how(*status), log.display()).into());
            }
        }
        Ok(())
    }

    /// How a process of this demo ended, in words.
    pub(super) fn end_of(&self, name: &str) -> Option<String> {
        self.ended.get(name).map(|status| how(*status))
    }

    /// The command that starts it again, short enough for a line.
    pub(super) fn script_of(&self, name: &str) -> String {
        command(&["sh".to_owned(), self.layout.script(name).to_string_lossy().into_owned()])
    }

    /// Ends everything, also what was started by hand; mounts first.
    pub(super) async fn stop(mut self) {
        let ended = tokio::task::spawn_blocking(move || {
            let layout = self.layout.clone();
            end_in_order(&layout, &mut self);
        });
        if let Err(error) = ended.await {
            eprintln!("stopping failed: {error}");
        }
    }
}

/// Ends what an earlier demo in this directory has left behind.
pub(super) fn end_all(layout: &Layout) {
    end_in_order(layout, &mut Processes::new(layout.clone()));
}

fn end_in_order(layout: &Layout, processes: &mut Processes) {
    let mounts: Vec<_> = (1..=layout.mount_count()).collect();
    // A mount that was asked to go before it answered has no run file yet: its child is known all the same.
    let holders = |processes: &mut Processes| {
        let listed = mounts.iter().filter_map(|mount| layout.mount_pids(*mount).0);
        let mut pids: Vec<u32> = listed.collect();
        pids.extend(processes.children_named("mount-"));
        pids
    };
    end(processes, MOUNT_WAIT, holders);
    for mount in &mounts {
        // A worker that outlived its holder, and a mount that nobody serves any more.
        if let (_, Some(worker)) = layout.mount_pids(*mount) {
            signal(worker, Signal::SIGKILL);
        }
        let path = layout.mount_point(*mount);
        if mountpoint::is_mounted(&path)
            && let Err(error) = holder::device::detach(&path)
        {
            eprintln!("{} cannot be unmounted: {error}", path.display());
        }
    }
    end(processes, NODE_WAIT, |processes: &mut Processes| {
        let mut pids: Vec<u32> = (1..=layout.node_count()).filter_map(|node| layout.node_pid(node)).collect();
        pids.extend(processes.children_named("node-"));
        pids
    });
}

/// Has the processes that `living` names end: asks them once, waits, kills.
fn end(processes: &mut Processes, wait: Duration, living: impl Fn(&mut Processes) -> Vec<u32>) {
    let deadline = Instant::now() + wait;
    let mut asked = Vec::new();
    loop {
        processes.reap();
        let pids = living(processes);
        if pids.is_empty() {
            return;
        }
        let is_late = Instant::now() >= deadline;
        for pid in pids {
            if is_late {
                eprintln!("process {pid} did not stop within {} s and is killed", wait.as_secs());
                signal(pid, Signal::SIGKILL);
            } else if !asked.contains(&pid) {
                signal(pid, Signal::SIGTERM);
                asked.push(pid);
            }
        }
        thread::sleep(if is_late { 10 * PAUSE } else { PAUSE });
    }
}

impl Processes {
    fn children_named(&self, prefix: &str) -> Vec<u32> {
        self.children.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, child)| child.id()).collect()
    }
}

/// What became of a process that runs no more; its name says which part it was.
fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(0)) => "has ended".to_owned(),
        (None, code) => format!("has failed with code {}", code.unwrap_or(-1)),
    }
}

fn signal(pid: u32, signal: Signal) {
    // It may have ended meanwhile.
    let _ = i32::try_from(pid).map(|pid| kill(Pid::from_raw(pid), signal));
}

/// The name under which a mount's or node's end is looked up.
pub(super) fn name_of(is_mount: bool, number: u32) -> String {
    if is_mount { mount_name(number) } else { node_name(number) }
}

/// Arguments as a shell takes them.
fn command(start: &[String]) -> String {
    let quote = |word: &String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    start.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted_into_a_shell() {
        let words = ["a b", "plain", "it's", ""].map(str::to_owned);
        assert_eq!(command(&words), r"'a b' plain 'it'\''s' ''");
    }
}
