//! `deploy/kubernetes/start-wordpress.sh`: how a pod's first start fills an empty volume. The image's two programs are stood in for.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::{Cluster, wait_for};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/start-wordpress.sh");
const FILES: usize = 60;

/// A container of WordPress's image, reduced to what the script asks of it: its directory and its two programs.
struct Image {
    programs: PathBuf,
    html: PathBuf,
}

impl Image {
    fn new(directory: &Path, name: &str) -> Self {
        let (programs, html) = (directory.join(format!("{name}-bin")), directory.join(name));
        fs::create_dir_all(&programs).expect("mkdir");
        fs::create_dir_all(&html).expect("mkdir");
        let lay_out = format!(
            "[ -e wp-content ] || {{ mkdir -p wp-content/plugins/hello wp-content/themes && echo index > wp-content/index.php \
             && for n in $(seq {FILES}); do echo $n > wp-content/plugins/hello/$n.php; echo $n > wp-content/themes/$n.css; done; }}"
        );
        for (program, body) in [("docker-entrypoint.sh", lay_out.as_str()), ("apache2-foreground", "exit 0")] {
            let path = programs.join(program);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        Self { programs, html }
    }

    fn start(&self, volume: &Path) -> Child {
        let path = std::env::var("PATH").expect("a PATH");
        Command::new("sh")
            .arg(SCRIPT)
            .arg(volume)
            .current_dir(&self.html)
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("sh runs")
    }
}

fn succeeds(mut start: Child) {
    let status = wait_for("the start to end", || start.try_wait().expect("a child"));
    assert!(status.success(), "{status}");
}

fn assert_whole(volume: &Path) {
    assert_eq!(fs::read_to_string(volume.join("index.php")).expect("read"), "index\n");
    for number in 1..=FILES {
        for name in [format!("plugins/hello/{number}.php"), format!("themes/{number}.css")] {
            assert_eq!(fs::read_to_string(volume.join(&name)).expect(&name), format!("{number}\n"));
        }
    }
    assert!(!volume.join(".first-copy").exists());
}

#[test]
fn pods_that_start_at_once_fill_the_volume_once() {
    let cluster = Cluster::found();
    let mounts = [cluster.mount(), cluster.mount(), cluster.mount()];
    // One that was killed in the middle came before them.
    fs::create_dir(mounts[0].path.join(".first-copy")).expect("mkdir");
    fs::write(mounts[0].path.join(".first-copy/half"), "").expect("write");
    let images: Vec<Image> = (0..3).map(|pod| Image::new(cluster.path(), &format!("pod{pod}"))).collect();
    let starts: Vec<Child> = images.iter().zip(&mounts).map(|(image, mount)| image.start(&mount.path)).collect();
    starts.into_iter().for_each(succeeds);
    for (image, mount) in images.iter().zip(&mounts) {
        assert_whole(&mount.path);
        assert_eq!(fs::read_link(image.html.join("wp-content")).expect("a link"), mount.path);
    }
    // What the site deletes stays deleted.
    fs::remove_dir_all(mounts[0].path.join("plugins/hello")).expect("rm");
    succeeds(Image::new(cluster.path(), "later").start(&mounts[1].path));
    assert!(!mounts[1].path.join("plugins/hello").exists());
}

#[test]
fn without_its_mount_a_pod_does_not_start() {
    let cluster = Cluster::found();
    let bare = cluster.mount_point();
    let mut start = Image::new(cluster.path(), "pod").start(&bare);
    let status = wait_for("the start to end", || start.try_wait().expect("a child"));
    assert!(!status.success());
    assert_eq!(fs::read_dir(&bare).expect("readable").count(), 0, "nothing was written below the mount");
}
