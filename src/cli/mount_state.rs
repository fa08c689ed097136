//! How a mount of this machine does, asked at its control socket.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A worker that lives answers from a thread that does nothing else.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of a report at most; it has about 2,000.
const REPORT_BYTES_MAX: u64 = 64 * 1024;

/// What a mount says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MountReport {
    /// No leader answers it: reads go by `--when-disconnected`.
    pub(super) cut_off: bool,
    pub(super) kernel: KernelReport,
}

/// What its kernel offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KernelReport {
    /// Version of the FUSE protocol, such as 7.45.
    pub(super) abi: Option<String>,
    /// The kernel can drop all names at once (FUSE_NOTIFY_INC_EPOCH, Linux 6.16), and may.
    pub(super) inc_epoch: bool,
    /// It forgets every name that it is told to forget; otherwise it keeps none.
    pub(super) inval_entry: bool,
}

impl MountReport {
    /// Asks at a mount's control socket.
    ///
    /// # Errors
    /// Nobody listens there, nobody answers within a second, or the answer is none of ours.
    pub(super) fn ask(control: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(control)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = Vec::new();
        stream.take(REPORT_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn what_is_said_is_understood_and_nonsense_is_not() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("socket");
        assert!(MountReport::ask(&path).is_err());
        let listener = UnixListener::bind(&path).expect("bound");
        let answers = [
            r#"{"cut_off":true,"more":1,"kernel":{"abi":"7.45","inc_epoch":true,"inval_entry":true}}"#,
            r#"{"cut_off":true"#,
            "",
        ];
        let server = thread::spawn(move || {
            for answer in answers {
                listener.accept().expect("asked").0.write_all(answer.as_bytes()).expect("taken");
            }
        });
        let kernel = KernelReport { abi: Some("7.45".to_owned()), inc_epoch: true, inval_entry: true };
        assert_eq!(MountReport::ask(&path).expect("understood"), MountReport { cut_off: true, kernel });
        assert!(MountReport::ask(&path).is_err() && MountReport::ask(&path).is_err());
        server.join().expect("served");
    }
}
