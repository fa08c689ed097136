//! What a running mount is, written for other programs once it answers.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::socket::is_short_enough;

/// One storage node, as `--run-file` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct NodeRun {
    pub(super) pid: u32,
    /// The arguments that start it again.
    pub(super) start: Vec<String>,
}

impl NodeRun {
    pub(super) fn of_this_process() -> io::Result<Self> {
        Ok(Self { pid: std::process::id(), start: start()? })
    }

    /// Replaces the file at once: nobody reads half of it.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        replace(path, &serde_json::to_string(self)?)
    }
}

/// One mount, as `--run-file` and `--json` show it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct RunFile {
    /// The mount point.
    pub(super) path: PathBuf,
    /// The process that was started: it holds the mount, and ends it on SIGTERM.
    pub(super) pid: u32,
    /// The process that answers the kernel.
    pub(super) worker_pid: u32,
    /// The arguments that start it again.
    pub(super) start: Vec<String>,
    pub(super) volume: String,
    /// The Unix socket that tells how the mount does.
    pub(super) control: Option<PathBuf>,
}

impl RunFile {
    /// Replaces the file at once: nobody reads half of it.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        replace(path, &self.to_json()?)
    }

    /// One line.
    pub(super) fn to_json(&self) -> io::Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

/// What the process that wrote the file said; `None` where there is no such file, or not of ours.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

/// Whether the process `pid` lives and was started with these arguments (others may follow): a number alone may be
/// another process's by now.
pub(super) fn is_alive(pid: u32, start: &[String]) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    // A process that ended and was not waited for has none.
    let arguments: Vec<_> = line.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    start.len() > 1 && arguments.len() >= start.len() && arguments.iter().zip(start).skip(1).all(|(a, b)| a == b)
}

/// The arguments that start this process again, with the program's full path.
pub(super) fn start() -> io::Result<Vec<String>> {
    let program = std::env::current_exe()?.into_os_string();
    let all = std::iter::once(program).chain(std::env::args_os().skip(1));
    Ok(all.map(|argument| argument.to_string_lossy().into_owned()).collect())
}

/// Replaces a file at once; `text` gets its last line's end.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    fs::write(&draft, format!("{text}\n"))?;
    fs::rename(&draft, path)
}

/// Where the mount with this run file tells how it does, unless it was told another place; `None` where that path is too
/// long for a socket.
pub(super) fn control_beside(run_file: &Path) -> Option<PathBuf> {
    let mut path = std::path::absolute(run_file).ok()?.into_os_string();
    path.push(".sock");
    Some(PathBuf::from(path)).filter(|path| is_short_enough(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agreed_keys_are_there() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("mount-1.json");
        let start = vec!["manyfs".to_owned(), "mount".to_owned()];
        let control = control_beside(&path);
        RunFile { path: "/srv/a".into(), pid: 1, worker_pid: 2, start, volume: "main".to_owned(), control }
            .write(&path)
            .expect("writable");
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&path).expect("readable")).expect("JSON");
        assert_eq!((json["path"].as_str(), json["pid"].as_u64()), (Some("/srv/a"), Some(1)));
        assert_eq!((json["worker_pid"].as_u64(), json["start"][1].as_str()), (Some(2), Some("mount")));
        assert_eq!(read::<RunFile>(&path).map(|run| run.pid), Some(1));
        assert_eq!(read::<RunFile>(&directory.path().join("none")), None);
        assert!(json["control"].as_str().is_some_and(|path| path.ends_with("mount-1.json.sock")));
    }

    #[test]
    fn a_long_path_has_no_socket_beside_it() {
        assert!(control_beside(&Path::new("/tmp").join("x".repeat(97))).is_some(), "107 bytes");
        assert_eq!(control_beside(&Path::new("/tmp").join("x".repeat(98))), None);
    }

    #[test]
    fn a_process_is_known_by_its_arguments() {
        let me = start().expect("arguments");
        assert_eq!(is_alive(std::process::id(), &me), me.len() > 1);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let sleep = |seconds: &str| vec!["sleep".to_owned(), seconds.to_owned()];
        // The kernel lets the parent go on a moment before the child's new arguments can be read.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !is_alive(child.id(), &sleep("60")) {
            assert!(std::time::Instant::now() < deadline, "the child is not known by its arguments");
            std::thread::yield_now();
        }
        assert!(!is_alive(child.id(), &sleep("61")));
        child.kill().expect("killed");
        child.wait().expect("waited for");
        assert!(!is_alive(child.id(), &sleep("60")));
    }
}
