//! What a running mount is, written for other programs once it answers.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{holder::socket_file::is_short_enough, pki};

/// Why a process cannot describe itself in that file.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunFileError {
    #[error("{} exists and is no run file: choose another path, nothing was changed", .0.display())]
    Occupied(PathBuf),
    #[error("{} is the run file of process {pid}, which lives: end it first, or choose another path", .path.display())]
    Taken { path: PathBuf, pid: u32 },
    #[error("{} cannot be both run file and socket: choose two paths, nothing was changed", .0.display())]
    Socket(PathBuf),
    #[error("{} cannot be {action}: {error}", .path.display())]
    Io { path: PathBuf, action: &'static str, error: io::Error },
}

/// What the file of a process says of it.
pub(super) trait Run: Serialize + DeserializeOwned {
    fn pid(&self) -> u32;
    fn start(&self) -> &[String];

    /// That the file may be written: there is none, or what a process of this kind that has ended left there.
    ///
    /// # Errors
    /// `Occupied`, `Taken`, `Io`.
    fn check_place(path: &Path) -> Result<(), RunFileError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(RunFileError::Io { path: path.to_owned(), action: "looked at", error }),
            // Never the end of a link: what it leads to was not meant.
            Ok(about) if !about.is_file() => return Err(RunFileError::Occupied(path.to_owned())),
            Ok(_) => {}
        }
        let run: Self = read(path).ok_or_else(|| RunFileError::Occupied(path.to_owned()))?;
        if run.pid() != std::process::id() && is_alive(run.pid(), run.start()) {
            return Err(RunFileError::Taken { path: path.to_owned(), pid: run.pid() });
        }
        Ok(())
    }

    /// Replaces the file at once: nobody reads half of it.
    ///
    /// # Errors
    /// As `check_place`.
    fn write(&self, path: &Path) -> Result<(), RunFileError> {
        Self::check_place(path)?;
        let text = serde_json::to_string(self).map_err(io::Error::from);
        let written = text.and_then(|text| replace(path, &text));
        written.map_err(|error| RunFileError::Io { path: path.to_owned(), action: "written", error })
    }

    /// Takes the file away that this process wrote, and no other that may have come in its place.
    fn remove(&self, path: &Path) {
        if read::<Self>(path).is_some_and(|found| found.pid() == self.pid() && found.start() == self.start()) {
            // One that is gone already is what we want.
            fs::remove_file(path).ok();
        }
    }
}

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
}

impl Run for NodeRun {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn start(&self) -> &[String] {
        &self.start
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

impl Run for RunFile {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn start(&self) -> &[String] {
        &self.start
    }
}

impl RunFile {
    /// One line.
    pub(super) fn to_json(&self) -> io::Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

/// That the run file and a socket of the same process, neither of which need be there yet, are not one file.
///
/// # Errors
/// `Socket` where they are.
pub(super) fn check_apart(run_file: &Path, socket: &Path) -> Result<(), RunFileError> {
    // The directory by its real name, however it is written.
    let place = |path: &Path| {
        let path = std::path::absolute(path).ok()?;
        let directory = path.parent()?;
        Some((fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned()), path.file_name()?.to_owned()))
    };
    match (place(run_file), place(socket)) {
        (Some(one), Some(other)) if one == other => Err(RunFileError::Socket(run_file.to_owned())),
        _ => Ok(()),
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
    let random = pki::random().map_err(io::Error::other)?;
    let mut draft = path.as_os_str().to_owned();
    // A name that nothing else has.
    draft.push(format!(".{random:032x}.new"));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&draft)?;
    let replaced = file.write_all(format!("{text}\n").as_bytes()).and_then(|()| fs::rename(&draft, path));
    if replaced.is_err() {
        fs::remove_file(&draft).ok();
    }
    replaced
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

    fn node(pid: u32, start: Vec<String>) -> NodeRun {
        NodeRun { pid, start }
    }

    /// `--run-file` was written over a credential, which was gone with the mount.
    #[test]
    fn a_run_file_takes_the_place_of_nothing_but_a_dead_processs_run_file() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("run.json");
        let me = node(std::process::id(), start().expect("arguments"));
        fs::write(&path, "dear reader").expect("written");
        assert!(matches!(me.write(&path), Err(RunFileError::Occupied(_))));
        me.remove(&path);
        assert_eq!(fs::read_to_string(&path).expect("kept"), "dear reader");

        let link = directory.path().join("link.json");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).expect("linked");
        assert!(matches!(me.write(&link), Err(RunFileError::Occupied(_))));

        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let sleeper = node(child.id(), vec!["sleep".to_owned(), "60".to_owned()]);
        fs::write(&path, serde_json::to_string(&sleeper).expect("JSON")).expect("written");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !is_alive(child.id(), &sleeper.start) && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(matches!(me.write(&path), Err(RunFileError::Taken { .. })));
        child.kill().expect("killed");
        child.wait().expect("waited for");
        me.write(&path).expect("its process has ended");
        assert_eq!(read::<NodeRun>(&path), Some(me.clone()));
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 2, "no draft is left");

        fs::write(&path, serde_json::to_string(&sleeper).expect("JSON")).expect("written");
        me.remove(&path);
        assert!(path.exists(), "it is another's by now");
        me.write(&path).expect("writable");
        me.remove(&path);
        assert!(!path.exists());
    }

    #[test]
    fn a_run_file_is_no_socket_by_whichever_name() {
        let directory = tempfile::tempdir().expect("tempdir");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).expect("linked");
        let path = directory.path().join("new");
        for same in [path.clone(), directory.path().join("./new"), link.join("new")] {
            assert!(matches!(check_apart(&path, &same), Err(RunFileError::Socket(_))), "{}", same.display());
        }
        assert!(check_apart(&path, &directory.path().join("new.sock")).is_ok());
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
