//! Unix sockets that a command is told to make: their places are checked before anything is started or replaced.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
};

use nix::{errno::Errno, libc};

/// Bytes of the longest path of a Unix socket (`sun_path` without its final zero, unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// Why no socket can be made there.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error(
        "the socket path {} has {} bytes, and the kernel takes at most {PATH_BYTES_MAX}: choose a shorter one",
        .0.display(), .0.as_os_str().len()
    )]
    TooLong(PathBuf),
    #[error("{} exists and is no socket: choose another path, nothing was changed", .0.display())]
    Occupied(PathBuf),
    #[error("another process listens at {} already: end it first, or choose another path", .0.display())]
    Taken(PathBuf),
    #[error("cannot look at {}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// Whether the kernel takes a socket's path of this length.
pub(super) fn is_short_enough(path: &Path) -> bool {
    path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX
}

/// That a socket can be made at `path`, or replaced: nothing but a socket is there.
pub(super) fn check_place(path: &Path) -> Result<(), SocketError> {
    if !is_short_enough(path) {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    match fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => Err(SocketError::Occupied(path.to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SocketError::Io { path: path.to_owned(), error }),
        _ => Ok(()),
    }
}

/// As [`check_place`], and nobody listens there.
pub(super) fn check_free(path: &Path) -> Result<(), SocketError> {
    check_place(path)?;
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Taken(path.to_owned())),
        // It is alive, and speaks in packets.
        Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => Err(SocketError::Taken(path.to_owned())),
        Err(_) => Ok(()),
    }
}

/// Whether an error of connect(2) may go away when the other side has started.
pub(super) fn may_come(error: &io::Error) -> bool {
    [Errno::ENOENT, Errno::ECONNREFUSED].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::holder::Listener;

    #[test]
    fn only_a_socket_is_replaced() {
        let directory = tempfile::tempdir().expect("tempdir");
        let file = directory.path().join("letter");
        fs::write(&file, "dear reader").expect("written");
        let refused = |path: &Path| check_place(path).expect_err("refused").to_string();
        assert!(refused(&file).contains("is no socket"));
        assert!(refused(directory.path()).contains("is no socket"));
        assert!(refused(&directory.path().join("x".repeat(108))).contains("at most 107"));
        assert!(refused(&file.join("x")).contains("cannot look at"));
        let free = directory.path().join("socket");
        assert!(check_free(&free).is_ok());
        drop(UnixListener::bind(&free).expect("bound"));
        assert!(check_free(&free).is_ok(), "nobody listens any more");
    }

    #[test]
    fn who_listens_is_not_pushed_aside() {
        let directory = tempfile::tempdir().expect("tempdir");
        let stream = directory.path().join("stream");
        let _stream = UnixListener::bind(&stream).expect("bound");
        let packets = directory.path().join("packets");
        let _packets = Listener::bind(&packets).expect("bound");
        for path in [stream, packets] {
            assert!(check_free(&path).expect_err("taken").to_string().contains("another process listens"));
            assert!(check_place(&path).is_ok());
        }
    }
}
