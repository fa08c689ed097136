//! Three storage nodes and three mounts of one volume.

use std::{fs, path::PathBuf, process::Stdio};

use super::world::DIRECTORIES;
use crate::{
    cluster::{Cluster, path, succeed, wait_for},
    require,
    support::{self, Mount},
};

const MOUNTS: usize = 3;

pub(crate) struct Ground {
    /// They go before their cluster does.
    mounts: Vec<Mount>,
    cluster: Cluster,
    pub(crate) kills: u32,
}

impl Ground {
    /// The last mount has these variables in its environment.
    pub(crate) fn new(environment: &[(&str, &str)]) -> Self {
        require::mounts_or_end();
        let cluster = Cluster::founded(3);
        let dir = cluster.dir.path();
        let credential = dir.join("main.toml");
        let (authority, servers) = (path(&cluster.authority), cluster.servers());
        let create = ["credential", "create", "--authority", authority, "--servers", &servers];
        succeed(&[&create[..], &["--out", path(&credential)]].concat());
        let mount = |number: usize| {
            let at = dir.join(format!("mnt{number}"));
            fs::create_dir(&at).expect("made");
            let log = fs::File::create(dir.join(format!("mnt{number}.log"))).expect("a log");
            let mut command = support::manyfs(["mount", "--json", "--credential"]);
            // What a mount answers that is cut off for a moment is judged like all else.
            command.arg(&credential).arg(&at).args(["--when-disconnected", "block", "--run-file"]);
            command.arg(dir.join(format!("mnt{number}.json")));
            if number == MOUNTS - 1 {
                command.envs(environment.iter().copied());
            }
            let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
            Mount::ready(&at, process.expect("the mount process starts"), || ())
        };
        let mounts: Vec<_> = (0..MOUNTS).map(mount).collect();
        for (directory, _) in DIRECTORIES {
            fs::create_dir(mounts[0].path.join(directory)).expect("mkdir");
        }
        mounts.iter().for_each(Mount::wait_for_lease);
        Self { mounts, cluster, kills: 0 }
    }

    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        self.mounts.iter().map(|mount| mount.path.clone()).collect()
    }

    pub(crate) fn last_mount(&self) -> usize {
        MOUNTS - 1
    }

    /// kill -9; it comes back when another one leads.
    pub(crate) fn kill_the_leader(&mut self) {
        let leader = self.cluster.leader(|_| true);
        self.cluster.nodes[leader].kill();
        self.cluster.leader(|other| other != leader);
        self.cluster.nodes[leader].start();
        wait_for("all storage nodes to run", || {
            let status = self.cluster.status()?;
            status["nodes"].as_array()?.iter().all(|node| !node["pid"].is_null()).then_some(())
        });
        self.kills += 1;
    }

    /// What the mounts say of the run.
    pub(crate) fn tell(&self) {
        for mount in &self.mounts {
            let report = mount.report();
            eprintln!(
                "  {}: {} upcalls, {} notifications ({} for all names), {} leases lost, cut off {} times",
                mount.path.file_name().expect("a name").display(),
                report["fuse"]["upcalls_total"],
                report["core"]["notifications"],
                report["fuse"]["notifications"]["all_names"],
                report["core"]["leases_lost"],
                report["core"]["cut_offs"],
            );
        }
    }
}
