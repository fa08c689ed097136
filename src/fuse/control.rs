//! A Unix socket at which a mount tells how it does: whoever connects is sent one JSON object, and the end.

use std::{
    fs, io,
    io::Write,
    os::unix::{
        fs::MetadataExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
};

use serde_json::{Map, Value, json};

use super::worker::Worker;
use crate::holder::link::remove_socket;

/// What a report is made of.
pub(super) struct Reporter {
    worker: Arc<Worker>,
    volume: String,
    abi: Arc<OnceLock<(u32, u32)>>,
}

/// The socket; it goes with this value.
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
    /// Device and inode: a successor's socket may be in its place by the time it goes.
    id: (u64, u64),
}

impl Control {
    /// Answers at `path` from now on; what an earlier worker left there is replaced.
    ///
    /// # Errors
    /// As bind(2); a path of more than 107 bytes is refused.
    pub(super) fn listen(path: &Path, reporter: Reporter) -> io::Result<Self> {
        remove_socket(path)?;
        let listener = UnixListener::bind(path)?;
        let about = fs::symlink_metadata(path)?;
        thread::spawn(move || {
            for stream in listener.incoming() {
                if let Err(error) = stream.and_then(|stream| reporter.tell(stream)) {
                    tracing::debug!(%error, "somebody asked for a report and did not take it");
                }
            }
        });
        Ok(Self { path: path.to_owned(), id: (about.dev(), about.ino()) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A path that is gone already is what we want.
        if fs::symlink_metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == self.id) {
            fs::remove_file(&self.path).ok();
        }
    }
}

impl Reporter {
    pub(super) fn new(worker: Arc<Worker>, volume: String, abi: Arc<OnceLock<(u32, u32)>>) -> Self {
        Self { worker, volume, abi }
    }

    fn tell(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut line = serde_json::to_vec(&self.report())?;
        line.push(b'\n');
        stream.write_all(&line)
    }

    fn report(&self) -> Value {
        let status = self.worker.status();
        let core: Map<String, Value> =
            status.counters.table().map(|(name, _, _, count)| (name.to_owned(), (*count).into())).collect();
        json!({
            "pid": std::process::id(),
            "volume": self.volume,
            "session": status.session.map(|session| session.0),
            "leader": status.leader,
            "lease_held": status.lease_held,
            "cut_off": status.cut_off,
            "applied": status.applied.0,
            "digest": format!("{:032x}", status.digest),
            "inodes": status.inodes,
            "space": { "total": status.space.total, "available": status.space.available },
            "dirty_bytes": status.dirty_bytes,
            "cached_bytes": status.cached_bytes,
            "calls_unanswered": status.calls_unanswered,
            "requests_unanswered": self.worker.unanswered(),
            "locks_queued": status.locks_queued,
            "handles": status.handles,
            "inodes_looked_up": status.inodes_looked_up,
            "invalidations_running": status.invalidations_running,
            "core": core,
            "kernel": {
                "abi": self.abi.get().map(|(major, minor)| format!("{major}.{minor}")),
                "inc_epoch": status.kernel.inc_epoch,
                "inval_entry": status.kernel.inval_entry,
            },
            "fuse": self.worker.counters.to_json(),
        })
    }
}
