//! The end of a pod on a Kubernetes node, staged as a kubelet carries it out. The volume in which holder and worker show
//! the mount is an emptyDir. One on disk is removed with all that is in it, and the kubelet's removal does not stop at a
//! mount. One in memory (`medium: Memory`) is a tmpfs: it is unmounted first, again and again as long as something is
//! mounted in it, and only then removed.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Cluster, Mount, PROGRAM, errno, is_mounted, manyfs, wait_for};

const FILES: [&str; 3] = ["index.php", "plugins/a/a.php", "uploads/2026/11/photo.jpg"];

/// The containers of a pod, by what is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Container {
    Holder,
    Worker,
    App,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Medium {
    Disk,
    Memory,
}

/// A node's directory of pods, with the sweeper of `deploy/kubernetes/sweeper.yaml` at work. What is mounted in it is seen in
/// every container and by the kubelet, as on a node.
struct Node {
    pods: PathBuf,
    sweeper: Child,
}

impl Node {
    fn new(cluster: &Cluster) -> Self {
        let pods = cluster.path().join("pods");
        fs::create_dir(&pods).expect("mkdir");
        let nothing: Option<&str> = None;
        mount(Some(&pods), &pods, nothing, MsFlags::MS_BIND, nothing).expect("bind");
        mount(nothing, &pods, nothing, MsFlags::MS_SHARED, nothing).expect("shared");
        let sweeper = in_namespace("unchanged", PROGRAM)
            .args(["unmount", "--dead", "--every", "1"])
            .arg(&pods)
            .stderr(Stdio::null())
            .spawn()
            .expect("the sweeper starts");
        Self { pods, sweeper }
    }

    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
        let below = |line: &&str| {
            let place = line.split(' ').nth(4).map(Path::new);
            place.is_some_and(|place| place.starts_with(&self.pods) && place != self.pods)
        };
        table.lines().filter(below).map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        kill_and_wait(&mut self.sweeper);
        umount2(&self.pods, MntFlags::MNT_DETACH).ok();
    }
}

/// One pod: its volume, and its containers with a mount namespace each.
struct Pod {
    volume: PathBuf,
    holder: Mount,
    worker: Child,
    app: Child,
}

impl Pod {
    fn start(cluster: &Cluster, node: &Node, name: &str, medium: Medium) -> Self {
        let volume = node.pods.join(name);
        fs::create_dir(&volume).expect("mkdir");
        if medium == Medium::Memory {
            mount(Some("tmpfs"), &volume, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
        }
        let point = volume.join("wp-content");
        fs::create_dir(&point).expect("mkdir");
        let socket = cluster.path().join(format!("{name}.sock"));
        let holder = in_namespace("unchanged", PROGRAM)
            .args(["hold", "--json", "--socket"])
            .arg(&socket)
            .arg("--mount")
            .arg(&point)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the holder starts");
        wait_for("the holder to listen", || socket.exists().then_some(()));
        let worker = manyfs(["mount", "--credential"])
            .arg(cluster.path().join("main.toml"))
            .arg("--holder")
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .expect("the worker starts");
        let holder = Mount::ready(&point, holder, || cluster.tell(name));
        // It has a file open and its working directory on the volume, as PHP has.
        let mut app = in_namespace("slave", "sh")
            .args(["-c", "cd \"$0\" && exec 3<index.php && echo ready && cat"])
            .arg(&point)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the app starts");
        let mut line = String::new();
        BufReader::new(app.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        assert_eq!(line, "ready\n");
        Self { volume, holder, worker, app }
    }

    fn kill(&mut self, container: Container) {
        match container {
            Container::App => kill_and_wait(&mut self.app),
            Container::Worker => kill_and_wait(&mut self.worker),
            Container::Holder => {
                // Where the worker was first, it may be about to end by itself.
                kill(self.holder.pid(), Signal::SIGKILL).ok();
                self.holder.ended();
            }
        }
    }
}

/// A program in a mount namespace of its own, as containers have one.
fn in_namespace(propagation: &str, program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", propagation, program]);
    command
}

fn kill_and_wait(process: &mut Child) {
    kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGKILL).ok();
    let status = process.wait().expect("a child");
    assert!(status.signal().is_some() || status.code().is_some());
}

/// What a kubelet does with an emptyDir (pkg/volume/emptydir, TearDownAt): it looks whether a tmpfs is there, and tries until
/// it has succeeded.
fn tear_down(volume: &Path) {
    wait_for("the volume to be unmounted", || {
        if !is_mounted(volume) {
            return Some(());
        }
        match umount2(volume, MntFlags::empty()) {
            Ok(()) => Some(()),
            Err(error) => {
                assert_eq!(error as i32, libc::EBUSY);
                None
            }
        }
    });
    wait_for("the volume to be removed", || {
        fs::remove_dir_all(volume).ok();
        fs::symlink_metadata(volume).is_err().then_some(())
    });
}

fn fill(root: &Path) {
    for name in FILES {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("mkdir");
        fs::write(path, name).expect("write");
    }
}

fn missing(root: &Path) -> Vec<&'static str> {
    FILES.into_iter().filter(|name| fs::read_to_string(root.join(name)).ok().as_deref() != Some(name)).collect()
}

#[test]
fn no_order_of_death_loses_a_file_or_leaves_a_mount_where_the_volume_is_in_memory() {
    use Container::{App, Holder, Worker};
    let cluster = Cluster::found();
    let elsewhere = cluster.mount();
    fill(&elsewhere.path);
    let node = Node::new(&cluster);
    let orders = [
        [App, Worker, Holder],
        [App, Holder, Worker],
        [Worker, App, Holder],
        [Worker, Holder, App],
        [Holder, App, Worker],
        [Holder, Worker, App],
    ];
    for (number, order) in orders.into_iter().enumerate() {
        let mut pod = Pod::start(&cluster, &node, &format!("pod{number}"), Medium::Memory);
        // From before the first death on, which is earlier than any kubelet.
        let volume = pod.volume.clone();
        let kubelet = thread::spawn(move || tear_down(&volume));
        for container in order {
            pod.kill(container);
        }
        kubelet.join().expect("the kubelet ends");
        assert_eq!(node.mounts(), Vec::<String>::new(), "{order:?}");
        assert_eq!(missing(&elsewhere.path), Vec::<&str>::new(), "{order:?}");
    }
}

#[test]
fn an_orderly_end_leaves_nothing_either() {
    let cluster = Cluster::found();
    let elsewhere = cluster.mount();
    fill(&elsewhere.path);
    let node = Node::new(&cluster);
    let mut pod = Pod::start(&cluster, &node, "pod", Medium::Memory);
    let volume = pod.volume.clone();
    let kubelet = thread::spawn(move || tear_down(&volume));
    pod.kill(Container::App);
    kill(pod.holder.pid(), Signal::SIGTERM).expect("it runs");
    assert_eq!(pod.holder.ended(), Some(0));
    let worker = &mut pod.worker;
    wait_for("the worker to end", || worker.try_wait().expect("a child"));
    kubelet.join().expect("the kubelet ends");
    assert_eq!(node.mounts(), Vec::<String>::new());
    assert_eq!(missing(&elsewhere.path), Vec::<&str>::new());
}

/// Why the volume in `deploy/kubernetes/wordpress.yaml` must be in memory; and that the test above can fail.
#[test]
fn a_volume_on_disk_is_emptied_through_a_living_mount() {
    let cluster = Cluster::found();
    let elsewhere = cluster.mount();
    fill(&elsewhere.path);
    let node = Node::new(&cluster);
    let mut pod = Pod::start(&cluster, &node, "pod", Medium::Disk);
    assert_eq!(errno(fs::remove_dir_all(&pod.volume)), libc::EBUSY, "the mount itself stays");
    assert_eq!(missing(&elsewhere.path), FILES, "and all that was in it is gone");
    for container in [Container::App, Container::Worker, Container::Holder] {
        pod.kill(container);
    }
    tear_down(&pod.volume);
    assert_eq!(node.mounts(), Vec::<String>::new());
}
