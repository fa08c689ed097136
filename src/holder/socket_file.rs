//! The file of a Unix socket: made where nobody listens, and taken away only as long as it is the one that was made. What
//! else is there, a living socket of any program among it, stays as it is.

use std::{
    fs, io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr},
};

/// Bytes of the longest path of a Unix socket (`sun_path` without its final zero, unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// Why no socket can be made there.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
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
    Look { path: PathBuf, error: io::Error },
    #[error("cannot listen at {}: {error}", .path.display())]
    Listen { path: PathBuf, error: io::Error },
}

/// The file of a socket of this process; it goes with this value.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: a successor's socket may be in its place by the time it goes.
    id: (u64, u64),
}

impl SocketFile {
    /// Has `bind` make a socket at `path`; what a process that has ended left there is replaced.
    ///
    /// # Errors
    /// As `check_free`; `Listen` where `bind` fails.
    pub fn make<T>(path: &Path, bind: impl FnOnce(&Path) -> io::Result<T>) -> Result<(Self, T), SocketError> {
        check_free(path)?;
        let fail = |error| SocketError::Listen { path: path.to_owned(), error };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let bound = bind(path).map_err(fail)?;
        let about = fs::symlink_metadata(path).map_err(fail)?;
        Ok((Self { path: path.to_owned(), id: (about.dev(), about.ino()) }, bound))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == self.id) {
            // A path that is gone already is what we want.
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Whether the kernel takes a socket's path of this length.
#[must_use]
pub fn is_short_enough(path: &Path) -> bool {
    path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX
}

/// That a socket can be made at `path`: nothing is there, or a socket at which nobody listens any more.
///
/// # Errors
/// `TooLong`, `Occupied`, `Taken`, `Look`.
pub fn check_free(path: &Path) -> Result<(), SocketError> {
    if !is_short_enough(path) {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    let look = |error| SocketError::Look { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(look(error)),
        Ok(about) if !about.file_type().is_socket() => return Err(SocketError::Occupied(path.to_owned())),
        Ok(_) => {}
    }
    match knock(path) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        // One that speaks in packets or datagrams, or whose queue is full, is alive too.
        Ok(()) | Err(Errno::EPROTOTYPE | Errno::EAGAIN) => Err(SocketError::Taken(path.to_owned())),
        Err(errno) => Err(look(errno.into())),
    }
}

/// Connects, without waiting, and says nothing.
fn knock(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let end = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(end.as_raw_fd(), &UnixAddr::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;
    use crate::holder::Listener;

    fn bind(path: &Path) -> Result<(SocketFile, UnixListener), SocketError> {
        SocketFile::make(path, |path| UnixListener::bind(path))
    }

    #[test]
    fn only_a_socket_is_replaced() {
        let directory = tempfile::tempdir().expect("tempdir");
        let file = directory.path().join("letter");
        fs::write(&file, "dear reader").expect("written");
        let refused = |path: &Path| bind(path).expect_err("refused").to_string();
        assert!(refused(&file).contains("is no socket"));
        assert!(refused(directory.path()).contains("is no socket"));
        assert!(refused(&directory.path().join("x".repeat(108))).contains("at most 107"));
        assert!(refused(&file.join("x")).contains("cannot look at"));
        assert_eq!(fs::read_to_string(&file).expect("kept"), "dear reader");
        let free = directory.path().join("socket");
        assert!(check_free(&free).is_ok());
        drop(UnixListener::bind(&free).expect("bound"));
        let (file, _listener) = bind(&free).expect("nobody listens any more");
        // What came in its place is another's.
        fs::rename(&free, directory.path().join("moved")).expect("moved");
        let _other = UnixListener::bind(&free).expect("bound");
        drop(file);
        assert!(free.exists());
    }

    /// `mount --control` took the socket of another program away.
    #[test]
    fn who_listens_is_not_pushed_aside() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = |name| directory.path().join(name);
        let _stream = UnixListener::bind(path("stream")).expect("bound");
        let _packets = Listener::bind(&path("packets")).expect("bound");
        let _datagrams = UnixDatagram::bind(path("datagrams")).expect("bound");
        let _ours = bind(&path("ours")).expect("bound");
        for name in ["stream", "packets", "datagrams", "ours"] {
            let sentence = bind(&path(name)).expect_err("taken").to_string();
            assert!(sentence.contains("another process listens"), "{name}: {sentence}");
            let sentence = Listener::bind(&path(name)).expect_err("taken").to_string();
            assert!(sentence.contains("another process listens"), "{name}: {sentence}");
            assert!(path(name).exists());
        }
        // It does not come to accept, and its queue is full.
        let connected = std::iter::repeat_with(|| knock(&path("stream"))).take_while(Result::is_ok);
        assert!(connected.take(100_000).count() < 100_000);
        assert!(matches!(check_free(&path("stream")), Err(SocketError::Taken(_))));
    }
}
