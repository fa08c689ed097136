//! A Unix socket at which a mount tells how it does: whoever connects is sent one JSON object, and the end.

use std::{
    io,
    io::Write,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, OnceLock},
    thread,
};

use serde_json::{Map, Value, json};

use super::worker::Worker;
use crate::holder::socket_file::{SocketError, SocketFile};

/// What a report is made of.
pub(super) struct Reporter {
    worker: Arc<Worker>,
    volume: String,
    abi: Arc<OnceLock<(u32, u32)>>,
}

/// Has `reporter` answer at `path` from now on, for as long as the socket's file is kept; what an earlier worker left there
/// is replaced.
///
/// # Errors
/// As `SocketFile::make`.
pub(super) fn listen(path: &Path, reporter: Reporter) -> Result<SocketFile, SocketError> {
    let (file, listener) = SocketFile::make(path, |path| UnixListener::bind(path))?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            if let Err(error) = stream.and_then(|stream| reporter.tell(stream)) {
                tracing::debug!(%error, "somebody asked for a report and did not take it");
            }
        }
    });
    Ok(file)
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
