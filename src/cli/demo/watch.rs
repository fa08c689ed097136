//! One line for each change of a demo's health.

use super::processes::{Processes, name_of};
use crate::cli::status::ClusterView;

/// A demo's health at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Health {
    leader: Option<String>,
    parts: Vec<Part>,
}

/// A node or a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Part {
    /// For people.
    called: String,
    /// For the list of processes.
    name: String,
    pid: Option<u32>,
    worker_pid: Option<u32>,
}

impl Health {
    pub(super) fn of(view: &ClusterView) -> Self {
        let nodes = view.nodes.iter().zip(1..).map(|(node, number)| Part {
            called: format!("storage node {}", node.id),
            name: name_of(false, number),
            pid: node.pid,
            worker_pid: None,
        });
        let mounts = view.mounts.iter().zip(1..).map(|(mount, number)| Part {
            called: format!("mount {}", mount.path.display()),
            name: name_of(true, number),
            pid: mount.pid,
            worker_pid: mount.worker_pid,
        });
        Self { leader: view.leader.clone().filter(|_| view.quorum), parts: nodes.chain(mounts).collect() }
    }
}

/// Compares each look with the one before.
pub(super) struct Watch {
    before: Health,
}

impl Watch {
    pub(super) const fn new(before: Health) -> Self {
        Self { before }
    }

    /// What has changed, one line each.
    pub(super) fn see(&mut self, now: Health, processes: &Processes) -> Vec<String> {
        let mut lines = Vec::new();
        for (was, is) in self.before.parts.iter().zip(&now.parts) {
            match (was.pid, is.pid) {
                (Some(pid), None) => {
                    let how = processes.end_of(&is.name).unwrap_or_else(|| "is dead".to_owned());
                    let again = processes.script_of(&is.name);
                    lines.push(format!("{} (pid {pid}) {how}; start it again: {again}", is.called));
                }
                (was_pid, Some(pid)) if was_pid != Some(pid) => lines.push(format!("{} runs as pid {pid}", is.called)),
                (Some(_), Some(_)) if was.worker_pid != is.worker_pid => lines.push(match is.worker_pid {
                    Some(worker) => format!("{} is served by worker {worker}", is.called),
                    None => format!("{} has lost its worker", is.called),
                }),
                _ => {}
            }
        }
        if self.before.leader != now.leader {
            lines.push(match &now.leader {
                Some(leader) => format!("storage node {leader} leads"),
                None => "no leader: reads go on, changes wait until more than half of the storage nodes run".to_owned(),
            });
        }
        self.before = now;
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::Layout;

    fn health(leader: Option<&str>, pids: [Option<u32>; 2]) -> Health {
        let part = |number: u32, pid| Part {
            called: format!("storage node {number}"),
            name: name_of(false, number),
            pid,
            worker_pid: None,
        };
        Health { leader: leader.map(str::to_owned), parts: vec![part(1, pids[0]), part(2, pids[1])] }
    }

    #[test]
    fn each_change_is_one_line_and_no_change_is_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let processes = Processes::new(Layout::create(dir.path(), 1, 0, 100).expect("made"));
        let mut watch = Watch::new(health(Some("1"), [Some(10), Some(20)]));
        assert_eq!(watch.see(health(Some("1"), [Some(10), Some(20)]), &processes), Vec::<String>::new());
        assert_eq!(
            watch.see(health(None, [None, Some(20)]), &processes),
            [
                &*format!("storage node 1 (pid 10) is dead; start it again: sh {}/run/node-1.sh", dir.path().display()),
                "no leader: reads go on, changes wait until more than half of the storage nodes run",
            ]
        );
        assert_eq!(
            watch.see(health(Some("2"), [Some(11), Some(20)]), &processes),
            ["storage node 1 runs as pid 11", "storage node 2 leads"]
        );
    }
}
