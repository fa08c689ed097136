//! What a running mount is, written for other programs once it answers.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// One mount, as `--run-file` and `--json` show it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
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
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        fs::write(&draft, self.to_json()? + "\n")?;
        fs::rename(&draft, path)
    }

    /// One line.
    pub(super) fn to_json(&self) -> io::Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

/// Where the mount with this run file tells how it does, unless it was told another place.
pub(super) fn control_beside(run_file: &Path) -> PathBuf {
    let mut path = run_file.as_os_str().to_owned();
    path.push(".sock");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agreed_keys_are_there() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("mount-1.json");
        let start = vec!["manyfs".to_owned(), "mount".to_owned()];
        let control = Some(control_beside(&path));
        RunFile { path: "/srv/a".into(), pid: 1, worker_pid: 2, start, volume: "main".to_owned(), control }
            .write(&path)
            .expect("writable");
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&path).expect("readable")).expect("JSON");
        assert_eq!((json["path"].as_str(), json["pid"].as_u64()), (Some("/srv/a"), Some(1)));
        assert_eq!((json["worker_pid"].as_u64(), json["start"][1].as_str()), (Some(2), Some("mount")));
        assert!(json["control"].as_str().is_some_and(|path| path.ends_with("mount-1.json.sock")));
    }
}
