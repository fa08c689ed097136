//! Processes that wait for a cluster which does not answer: they can be killed, and they hear signals.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Cluster, Mount, wait_for};

/// Far below the write timeout, after which everything ends by itself, and far above what a signal needs.
const SOON: Duration = Duration::from_secs(15);

fn start(program: &str, arguments: &[&str], path: &Path) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).arg(path).stdin(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the program is installed")
}

/// Requests of this kind that the kernel has made so far.
fn upcalls(mount: &Mount, kind: &str) -> u64 {
    mount.report()["fuse"]["upcalls"][kind].as_u64().expect("a number")
}

/// The code it exits with, or minus the signal that ended it.
fn ended(mut child: Child) -> i32 {
    use std::os::unix::process::ExitStatusExt;

    let begun = Instant::now();
    let status = wait_for("the process to end", || child.try_wait().expect("a child"));
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    status.code().unwrap_or_else(|| -status.signal().expect("a code or a signal"))
}

/// Starts the program and ends it in its first call of this kind, which nobody answers. Only arrivals are counted: what
/// processes before it left behind may be answered at any moment.
fn killed_in(kind: &str, mount: &Mount, program: &str, arguments: &[&str], path: &Path) {
    let before = upcalls(mount, kind);
    let child = start(program, arguments, path);
    wait_for("the call to arrive", || (upcalls(mount, kind) > before).then_some(()));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).expect("it runs");
    assert_eq!(ended(child), -libc::SIGKILL);
}

#[test]
fn a_process_that_waits_for_a_silent_cluster_can_be_killed() {
    let cluster = Cluster::found();
    let mount = cluster.mount();
    fs::write(mount.path.join("f"), "before").expect("write");
    cluster.pause_node();
    killed_in("mkdir", &mount, "mkdir", &[], &mount.path.join("d"));
    let write = "exec dd if=/dev/zero bs=4k count=1 conv=notrunc,fsync of=\"$0\"";
    killed_in("write", &mount, "sh", &["-c", write], &mount.path.join("f"));
    killed_in("unlink", &mount, "rm", &[], &mount.path.join("f"));
    cluster.resume_node();
    wait_for("changes to go on", || fs::create_dir(mount.path.join("again")).ok());
    // What was proposed may have happened, once, and what is there is what the cluster has.
    let other = cluster.mount();
    let names = |mount: &Mount| {
        let mut names: Vec<_> =
            fs::read_dir(&mount.path).expect("readdir").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&mount), names(&other));
    for name in ["d", "f"] {
        assert_eq!(mount.path.join(name).exists(), other.path.join(name).exists(), "{name}");
    }
}

#[test]
fn a_process_that_waits_for_a_cluster_which_is_gone_can_be_killed() {
    let cluster = Cluster::found();
    let mount = cluster.mount();
    cluster.kill_node();
    killed_in("mkdir", &mount, "mkdir", &[], &mount.path.join("d"));
    killed_in("create", &mount, "touch", &[], &mount.path.join("f"));
    cluster.start_node();
    wait_for("changes to go on", || fs::create_dir(mount.path.join("again")).ok());
}

#[test]
fn a_process_that_handles_a_signal_gets_eintr() {
    let cluster = Cluster::found();
    let mount = cluster.mount();
    cluster.pause_node();
    // Perl's handlers do not restart calls.
    let script = "$SIG{ALRM} = sub { }; alarm 1; mkdir $ARGV[0] and exit 0; exit $! + 0;";
    assert_eq!(ended(start("perl", &["-e", script], &mount.path.join("d"))), libc::EINTR);
    cluster.resume_node();
    wait_for("changes to go on", || fs::create_dir(mount.path.join("again")).ok());
}

#[test]
fn signals_disturb_no_call_of_a_cluster_that_answers() {
    let cluster = Cluster::found();
    let mount = cluster.mount();
    let script = "use Time::HiRes 'ualarm'; $SIG{ALRM} = sub { $n++ }; ualarm 1000, 500; \
                  for (1..100) { mkdir \"$ARGV[0]/$_\" or exit 1; open F, '>', \"$ARGV[0]/$_/f\" or exit 2; \
                  syswrite F, 'x' or exit 3; close F or exit 4; rename \"$ARGV[0]/$_/f\", \"$ARGV[0]/$_/g\" or exit 5 } \
                  ualarm 0; exit($n > 0 ? 0 : 6);";
    assert_eq!(ended(start("perl", &["-e", script], &mount.path)), 0);
    assert!(mount.report()["fuse"]["upcalls"]["interrupt"].as_u64() > Some(0), "some of them hit a call");
}
