//! Whose data a directory holds: `manyfs.toml`, written last when a node is created, and the lock that one process
//! holds on it.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{StorageError, private};
use crate::types::{ClusterId, FoundingId, NodeId};

/// The version of the directory's format that this program writes.
pub const FORMAT: u32 = 2;

const FILE: &str = "manyfs.toml";
/// What `manyfs.toml` is called while a node is being created: where it is found alone, creation was interrupted.
const UNFINISHED_FILE: &str = "manyfs.toml.unfinished";
const LOCK_FILE: &str = "LOCK";
/// What creation makes besides the files above.
const PARTS: [&str; 3] = ["log", "state", "packs"];
/// What a blank device may hold.
const IGNORED: [&str; 2] = ["lost+found", LOCK_FILE];

/// Which node of which founding a data directory belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub founding: FoundingId,
    pub node: NodeId,
}

impl Identity {
    /// That the directory is the one that was meant; `None` is anyone.
    ///
    /// # Errors
    /// `OtherCluster` or `OtherNode`.
    pub fn expect(&self, dir: &Path, cluster: Option<ClusterId>, node: Option<NodeId>) -> Result<(), StorageError> {
        let found = self.founding.cluster;
        if let Some(expected) = cluster.filter(|&expected| expected != found) {
            return Err(StorageError::OtherCluster { dir: dir.to_owned(), expected, found });
        }
        if let Some(expected) = node.filter(|&expected| expected != self.node) {
            return Err(StorageError::OtherNode { dir: dir.to_owned(), expected, found: self.node });
        }
        Ok(())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of founding {}", self.node, self.founding)
    }
}

/// `manyfs.toml` as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u32,
    cluster: String,
    founding: String,
    node: u64,
}

/// The one thing in every future format that this program reads before all else.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// What a directory holds before anything is done with it.
#[derive(Debug)]
enum Content {
    /// Missing, empty, or a fresh file system.
    Blank,
    /// Left behind by a creation that did not finish: may be wiped.
    Unfinished,
    Node(Identity),
}

/// Reads the identity of the node in `dir`; `None` where the directory is missing, blank, or where the creation of a
/// node did not finish.
///
/// # Errors
/// `NotBlank` for a directory with other things in it, `Format` for one of a newer program, `Damaged` for an identity
/// that cannot be read, `Access` and `Io` where the directory cannot.
pub fn inspect_identity(dir: &Path) -> Result<Option<Identity>, StorageError> {
    match content(dir)? {
        Content::Node(identity) => Ok(Some(identity)),
        Content::Blank | Content::Unfinished => Ok(None),
    }
}

fn content(dir: &Path) -> Result<Content, StorageError> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Blank),
        Err(error) => return Err(StorageError::io("read", dir, error)),
    };
    let mut unfinished = false;
    let mut other = None;
    for entry in listing {
        let name = entry.map_err(|error| StorageError::io("read", dir, error))?.file_name();
        if name == FILE {
            return read(&dir.join(FILE)).map(Content::Node);
        }
        if name == UNFINISHED_FILE {
            unfinished = true;
        } else if !IGNORED.iter().any(|ignored| name == *ignored) {
            other = Some(name);
        }
    }
    match other {
        _ if unfinished => Ok(Content::Unfinished),
        None => Ok(Content::Blank),
        Some(name) => Err(StorageError::NotBlank { dir: dir.to_owned(), found: name.to_string_lossy().into_owned() }),
    }
}

fn read(path: &Path) -> Result<Identity, StorageError> {
    let text = fs::read_to_string(path).map_err(|error| StorageError::io("read", path, error))?;
    let damaged = |found: String| StorageError::Damaged { path: path.to_owned(), offset: 0, found };
    let FormatOnly { format } = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
    if format != FORMAT {
        return Err(StorageError::Format { path: path.to_owned(), known: FORMAT, found: format });
    }
    let file: IdentityFile = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
    let cluster = file.cluster.parse().map_err(|_| damaged(format!("'{}' is no cluster id", file.cluster)))?;
    let number = file.founding.parse().map_err(|_| damaged(format!("'{}' is no founding id", file.founding)))?;
    if file.node == 0 {
        return Err(damaged("0 is no node id".to_owned()));
    }
    Ok(Identity { founding: FoundingId { cluster, number }, node: NodeId(file.node) })
}

/// The right to use a data directory; ends when it is dropped or the process dies.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held, never read")] Flock<File>);

impl Lock {
    /// # Errors
    /// `InUse` where another process has it; `Access`, `ReadOnly`, `Io` where the file cannot be opened.
    pub(crate) fn take(dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join(LOCK_FILE);
        let file = private::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| StorageError::io("written", &path, error))?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, errno)| {
            if errno == nix::errno::Errno::EWOULDBLOCK {
                let mut text = String::new();
                // Only the number in the message depends on it.
                let process = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                StorageError::InUse { dir: dir.to_owned(), process }
            } else {
                StorageError::io("locked", &path, errno.into())
            }
        })?;
        let written =
            lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(|error| StorageError::io("written", &path, error))?;
        Ok(Self(lock))
    }
}

/// A data directory in the making: what is in it counts for nothing until `finish`.
#[derive(Debug)]
pub(crate) struct Creation {
    dir: PathBuf,
    #[allow(dead_code, reason = "held, never read")]
    lock: Lock,
}

impl Creation {
    /// Makes the directory where it is missing, refuses one that is in use, and marks it as unfinished.
    pub(crate) fn begin(dir: &Path, identity: Identity) -> Result<Self, StorageError> {
        Self::refuse_used(dir)?;
        create_directory(dir).map_err(|error| StorageError::io("created", dir, error))?;
        let lock = Lock::take(dir)?;
        // Once more under the lock: another process may have been faster.
        Self::refuse_used(dir)?;
        let FoundingId { cluster, number } = identity.founding;
        let file = IdentityFile {
            format: FORMAT,
            cluster: cluster.to_string(),
            founding: number.to_string(),
            node: identity.node.0,
        };
        let text = toml::to_string(&file).expect("four plain fields have a TOML form");
        let path = dir.join(UNFINISHED_FILE);
        let created = private::options().write(true).create(true).truncate(true).open(&path);
        let written = created.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| StorageError::io("written", &path, error))?;
        sync_directory(dir)?;
        for part in PARTS {
            let path = dir.join(part);
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StorageError::io("removed", &path, error));
                }
                _ => private::create_directory(&path).map_err(|error| StorageError::io("created", &path, error))?,
            }
        }
        sync_directory(dir)?;
        if let Some(parent) = dir.canonicalize().ok().as_deref().and_then(Path::parent) {
            sync_directory(parent)?;
        }
        Ok(Self { dir: dir.to_owned(), lock })
    }

    fn refuse_used(dir: &Path) -> Result<(), StorageError> {
        match content(dir)? {
            Content::Node(found) => Err(StorageError::AlreadyCreated { dir: dir.to_owned(), found }),
            Content::Blank | Content::Unfinished => Ok(()),
        }
    }

    /// The directory is a node's from here on. All parts must be synced before.
    pub(crate) fn finish(self) -> Result<(), StorageError> {
        let path = self.dir.join(FILE);
        fs::rename(self.dir.join(UNFINISHED_FILE), &path).map_err(|error| StorageError::io("created", &path, error))?;
        sync_directory(&self.dir)
    }
}

/// Makes a data directory, and those above it, unless it is there.
fn create_directory(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    match private::create_directory(dir) {
        // Somebody may have been faster; and the mount point of a device is there.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => made,
    }
}

/// Takes from group and others what they may do with a node's directory.
pub(crate) fn narrow(dir: &Path) -> Result<(), StorageError> {
    let files = [FILE, UNFINISHED_FILE, LOCK_FILE, super::space::FILE];
    private::narrow(dir, &[files.as_slice(), PARTS.as_slice()].concat())
}

/// Makes names that were created, renamed or removed in `dir` outlive a power cut.
pub(crate) fn sync_directory(dir: &Path) -> Result<(), StorageError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(|error| StorageError::unsynced(dir, error))
}
