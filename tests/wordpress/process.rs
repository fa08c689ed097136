//! A program started by the test: ends with the test, whatever happens to it, and always by its own pid.

use super::deadline::{wait_for, wait_quietly};
use super::requirements::Requirements;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// After the polite signal, before SIGKILL.
const GRACE: Duration = Duration::from_secs(20);

/// A running child.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stop_signal: Signal,
}

/// How to start a [`Process`].
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) name: &'a str,
    pub(crate) argv: Vec<OsString>,
    /// Standard error, and standard output unless it is piped, are appended here.
    pub(crate) log: &'a Path,
    /// What asks this program to end in order. It is also sent by the kernel when the test dies.
    pub(crate) stop_signal: Signal,
    /// Numeric user and group, when not root.
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) pipe_output: bool,
}

impl Process {
    /// Starts a program through `setpriv`, so that the kernel ends it when the test is killed.
    pub(crate) fn start(requirements: &Requirements, launch: Launch<'_>) -> Self {
        let mut command = Command::new(&requirements.setpriv);
        if let Some((uid, gid)) = launch.user {
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        }
        command.arg("--pdeathsig").arg(launch.stop_signal.as_str().trim_start_matches("SIG"));
        command.arg("--").args(&launch.argv);
        command.stdin(Stdio::null()).stderr(append(launch.log));
        command.stdout(if launch.pipe_output { Stdio::piped() } else { append(launch.log) });
        let child = command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", launch.name));
        Self { name: launch.name.to_owned(), child, stop_signal: launch.stop_signal }
    }

    /// The piped standard output, once.
    pub(crate) fn take_output(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("started with pipe_output, and asked once")
    }

    /// Panics when the program has ended although it should serve.
    pub(crate) fn assert_running(&mut self, log: &Path) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} ended by itself ({status}); its last words:\n{}", self.name, tail(log, 30));
        }
    }

    /// Ends the program: the polite signal, a grace time, then SIGKILL.
    pub(crate) fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        signal(self.child.id(), self.stop_signal);
        if !wait_quietly(GRACE, || matches!(self.child.try_wait(), Ok(Some(_)))) {
            eprintln!("{} (pid {}) did not end within {} s: killing it", self.name, self.child.id(), GRACE.as_secs());
            signal(self.child.id(), Signal::SIGKILL);
            wait_quietly(GRACE, || matches!(self.child.try_wait(), Ok(Some(_))));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a program to its end and returns its standard output.
///
/// # Panics
/// When it fails or takes longer than `limit`; it is killed then, but not waited for: a process that hangs on a
/// mount may not go before the mount does.
pub(crate) fn run<I, S>(argv: I, limit: Duration) -> String
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    try_run(argv, limit).unwrap_or_else(|reason| panic!("{reason}"))
}

/// As [`run`], with the reason of a failure as a value.
pub(crate) fn try_run<I, S>(argv: I, limit: Duration) -> Result<String, String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut argv = argv.into_iter();
    let program = argv.next().expect("argv has a program").as_ref().to_owned();
    let arguments: Vec<OsString> = argv.map(|argument| argument.as_ref().to_owned()).collect();
    let shown = format!("{} {}", program.to_string_lossy(), arguments.join(OsStr::new(" ")).to_string_lossy());
    let mut child = Command::new(&program)
        .args(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{shown}: does not start: {error}"))?;
    let output = drain(child.stdout.take().expect("piped above"));
    let errors = drain(child.stderr.take().expect("piped above"));
    let mut status = None;
    let ended = wait_quietly(limit, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    if !ended {
        signal(child.id(), Signal::SIGKILL);
        return Err(format!("{shown}: not done after {} s", limit.as_secs()));
    }
    let output = output.join().unwrap_or_default();
    let errors = errors.join().unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(output),
        Some(status) => Err(format!("{shown}: {status}\n{output}{errors}")),
        None => Err(format!("{shown}: its status was lost")),
    }
}

/// Sends a signal; a process that is gone already is what was wanted.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("the kernel's pids fit in 31 bits"));
    if let Err(error) = kill(pid, signal)
        && error != nix::errno::Errno::ESRCH
    {
        eprintln!("{signal} to pid {pid}: {error}");
    }
}

/// kill -9 of a process that is not ours to reap, and its end awaited.
///
/// # Panics
/// When `pid` does not run `program`, so that a wrong pid in a report never hits a bystander; when it does not end.
pub(crate) fn kill_nine(pid: u32, program: &str) {
    let command_line = command_line(pid);
    assert!(command_line.contains(program), "pid {pid} runs '{command_line}', not {program}: not killed");
    signal(pid, Signal::SIGKILL);
    wait_for(&format!("the end of pid {pid}"), Duration::from_secs(10), || is_gone(pid).then_some(()));
}

/// Argv of a process, joined by blanks; empty when it is gone.
pub(crate) fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Gone, or a zombie that only waits for its parent.
pub(crate) fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

/// The last lines of a log file.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn append(log: &Path) -> Stdio {
    let file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap_or_else(|error| panic!("{} cannot be written: {error}", log.display()));
    Stdio::from(file)
}

fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A reader that ends early has ended with its writer; what came is what there is.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
