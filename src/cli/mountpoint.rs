//! The directory a mount is made on: checked before anything is started, so that a refusal changes nothing.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{errno::Errno, sys::statfs::statfs, unistd::geteuid};

use super::seal;
use crate::holder::device::{self, KIND};

/// How long a mount may take to show that it lives.
const ALIVE_WAIT: Duration = Duration::from_secs(2);
/// Dead mounts that may lie on one another.
const DEAD_MAX: usize = 16;

/// Why nothing can be mounted, or unmounted, there.
#[derive(Debug, thiserror::Error)]
pub(super) enum MountPointError {
    #[error("mounting needs root (CAP_SYS_ADMIN); run it with sudo")]
    NotRoot,
    #[error("the mount point {} does not exist; make the directory first", .0.display())]
    Missing(PathBuf),
    #[error("the mount point {} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    #[error(
        "the mount point {} is not empty (it holds '{}'); mount on an empty directory, so that nothing is hidden",
        .directory.display(), .example.display()
    )]
    NotEmpty { directory: PathBuf, example: PathBuf },
    #[error("{volume} is mounted at {} already; unmount it first: manyfs unmount {}", .directory.display(), .directory.display())]
    Mounted { directory: PathBuf, volume: String },
    #[error("nothing of ManyFS is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    #[error("files on {} are open; end the programs that use them (fuser -vm {} lists them), or give --detach", .0.display(), .0.display())]
    Busy(PathBuf),
    #[error(
        "{kind} is mounted at {}, below it: unmount that first (umount {}), or give --detach, which takes both away; nothing \
         was changed", .inside.display(), .inside.display()
    )]
    Covered { inside: PathBuf, kind: String },
    #[error("the mount at {} does not answer; its worker may hang: kill it, or give --detach", .0.display())]
    Silent(PathBuf),
    #[error("cannot look at {}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// Checks that a volume can be mounted at `directory` and takes away dead mounts of ours that a crash left there.
/// Returns its absolute path.
pub(super) fn prepare(directory: &Path) -> Result<PathBuf, MountPointError> {
    if !geteuid().is_root() {
        return Err(MountPointError::NotRoot);
    }
    let directory = absolute(directory)?;
    for _ in 0..DEAD_MAX {
        let Some(mounted) = topmost(&directory)?.filter(|mounted| mounted.kind == KIND) else { break };
        if is_alive(&directory) {
            return Err(MountPointError::Mounted { directory, volume: mounted.source });
        }
        tracing::warn!(directory = %directory.display(), "a dead mount was left here; it is detached");
        device::detach(&directory).map_err(|error| io_error(&directory, error))?;
    }
    let about = fs::metadata(&directory).map_err(|error| missing(&directory, error))?;
    if !about.is_dir() {
        return Err(MountPointError::NotDirectory(directory));
    }
    let mut entries = fs::read_dir(&directory).map_err(|error| io_error(&directory, error))?;
    match entries.next() {
        None => Ok(directory),
        Some(Ok(entry)) => Err(MountPointError::NotEmpty { directory, example: entry.file_name().into() }),
        Some(Err(error)) => Err(io_error(&directory, error)),
    }
}

/// Whether a mount of ours, dead or alive, is the topmost at `directory`, which is absolute.
pub(super) fn is_mounted(directory: &Path) -> bool {
    matches!(topmost(directory), Ok(Some(mounted)) if mounted.kind == KIND)
}

/// Whether the path lies on a mount of ours.
pub(super) fn is_on_ours(path: &Path) -> bool {
    let (Ok(path), Ok(list)) = (absolute(path), list()) else { return false };
    // The last of those that are deepest covers the others.
    let around = list.into_iter().filter(|mounted| path.starts_with(&mounted.directory));
    around.max_by_key(|mounted| mounted.directory.components().count()).is_some_and(|mounted| mounted.kind == KIND)
}

/// Where something of ours, dead or alive, is mounted at or below `directory`, which is absolute; each place once.
pub(super) fn mounted_below(directory: &Path) -> Result<BTreeSet<PathBuf>, MountPointError> {
    let mut ours = BTreeSet::new();
    for mounted in list()?.into_iter().filter(|mounted| mounted.directory.starts_with(directory)) {
        // What was mounted last covers what was there before.
        if mounted.kind == KIND {
            ours.insert(mounted.directory);
        } else {
            ours.remove(&mounted.directory);
        }
    }
    Ok(ours)
}

/// Unmounts what is mounted at `directory`. `even_if_busy` takes the name away though files are open.
pub(super) fn release(directory: &Path, even_if_busy: bool) -> Result<(), MountPointError> {
    if !geteuid().is_root() {
        return Err(MountPointError::NotRoot);
    }
    let directory = match absolute(directory) {
        Err(MountPointError::Missing(directory) | MountPointError::NotDirectory(directory)) => {
            return Err(MountPointError::NotMounted(directory));
        }
        directory => directory?,
    };
    if topmost(&directory)?.is_none_or(|mounted| mounted.kind != KIND) {
        // One whose process was killed may be gone from there, and have left the directory closed.
        return if break_seal(&directory) { Ok(()) } else { Err(MountPointError::NotMounted(directory)) };
    }
    if !even_if_busy && let Some(Mounted { directory: inside, kind, .. }) = innermost(&directory)? {
        return Err(MountPointError::Covered { inside, kind });
    }
    let ended = match device::unmount(&directory) {
        Err(error) if even_if_busy || says_dead(&error) => {
            tracing::debug!(%error, "detaching instead");
            device::detach(&directory)
        }
        ended => ended,
    };
    if let Err(error) = ended {
        return Err(match error.kind() {
            io::ErrorKind::ResourceBusy => MountPointError::Busy(directory),
            io::ErrorKind::TimedOut => MountPointError::Silent(directory),
            _ => io_error(&directory, error),
        });
    }
    if !is_mounted(&directory) {
        break_seal(&directory);
    }
    Ok(())
}

/// Opens a directory that a mount had closed; whether it had.
fn break_seal(directory: &Path) -> bool {
    seal::break_seal(directory).unwrap_or_else(|error| {
        tracing::warn!("{} may have the mode 0 still: {error}", directory.display());
        false
    })
}

/// The path as the kernel lists it. A dead mount cannot be looked at; then its parent is.
pub(super) fn absolute(directory: &Path) -> Result<PathBuf, MountPointError> {
    let looked_at = fs::canonicalize(directory).or_else(|error| {
        let path = std::path::absolute(directory)?;
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if says_dead(&error) => Ok(fs::canonicalize(parent)?.join(name)),
            _ => Err(error),
        }
    });
    looked_at.map_err(|error| missing(directory, error))
}

fn says_dead(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted | io::ErrorKind::StaleNetworkFileHandle
    )
}

/// One that does not answer lives: its worker may be stopped or busy.
fn is_alive(directory: &Path) -> bool {
    let (done, result) = mpsc::channel();
    let owned = directory.to_owned();
    // It may wait for as long as the worker does.
    thread::spawn(move || done.send(is_dead(&statfs(&owned))));
    !matches!(result.recv_timeout(ALIVE_WAIT), Ok(true))
}

/// Whether a mount that was asked so has lost its processes: statfs(2) is never answered from a cache.
pub(super) fn is_dead<T>(asked: &nix::Result<T>) -> bool {
    matches!(asked, Err(Errno::ENOTCONN | Errno::ECONNABORTED))
}

fn missing(path: &Path, error: io::Error) -> MountPointError {
    match error.kind() {
        io::ErrorKind::NotFound => MountPointError::Missing(path.to_owned()),
        io::ErrorKind::NotADirectory => MountPointError::NotDirectory(path.to_owned()),
        _ => io_error(path, error),
    }
}

fn io_error(path: &Path, error: io::Error) -> MountPointError {
    MountPointError::Io { path: path.to_owned(), error }
}

/// A mount in the kernel's list.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mounted {
    directory: PathBuf,
    kind: String,
    source: String,
}

/// The mount that covers all others at `directory`, if there is one.
fn topmost(directory: &Path) -> Result<Option<Mounted>, MountPointError> {
    Ok(list()?.into_iter().rev().find(|mounted| mounted.directory == directory))
}

/// The last mount that was made below `directory`: the first that has to go before it can.
fn innermost(directory: &Path) -> Result<Option<Mounted>, MountPointError> {
    let is_below = |mounted: &Mounted| mounted.directory != directory && mounted.directory.starts_with(directory);
    Ok(list()?.into_iter().rev().find(is_below))
}

/// All mounts that this process sees, in the order in which they were made.
fn list() -> Result<Vec<Mounted>, MountPointError> {
    let path = Path::new("/proc/self/mountinfo");
    let list = fs::read_to_string(path).map_err(|error| io_error(path, error))?;
    Ok(list.lines().filter_map(parse).collect())
}

/// One line of mountinfo, proc(5): `id parent major:minor root directory options … - kind source super-options`.
fn parse(line: &str) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    let directory = unescape(before.split(' ').nth(4)?);
    let mut after = after.split(' ');
    Some(Mounted { directory, kind: after.next()?.to_owned(), source: after.next()?.to_owned() })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_list_is_read() {
        let line = r"57 29 0:50 / /srv/wp\040content rw,nosuid shared:5 - fuse.manyfs manyfs:main rw,user_id=0";
        let mounted = parse(line).expect("a mount");
        assert_eq!((mounted.kind.as_str(), mounted.source.as_str()), (KIND, "manyfs:main"));
        assert_eq!(mounted.directory, Path::new("/srv/wp content"));
        assert!(parse("57 29 0:50 / /srv").is_none());
    }

    #[test]
    fn the_root_is_mounted_and_is_not_ours() {
        assert!(!is_on_ours(Path::new("/")));
        assert!(topmost(Path::new("/")).expect("proc is mounted").is_some_and(|mounted| mounted.kind != KIND));
        assert!(topmost(Path::new("/no/such/place")).expect("proc is mounted").is_none());
    }

    #[test]
    fn each_wrong_mount_point_has_its_sentence() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path();
        let file = path.join("file");
        fs::write(&file, "").expect("writable");
        let refused = |path: &Path| prepare(path).expect_err("refused").to_string();
        assert!(refused(&path.join("none")).contains("does not exist"));
        assert!(refused(&file).contains("is not a directory"));
        assert!(refused(path).contains("it holds 'file'"));
        assert!(release(&path.join("none"), false).expect_err("refused").to_string().contains("nothing of ManyFS"));
        assert!(release(path, false).expect_err("refused").to_string().contains("nothing of ManyFS"));
    }
}
