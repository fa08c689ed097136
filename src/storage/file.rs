//! The few things log and packs ask of a directory of files. `Disk` is the real one; tests put one in its place that
//! remembers what a power cut would have left.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::private;

/// A flat directory of files that is used by one process.
pub trait Directory: fmt::Debug + Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// The names of all files in it, in no order.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new empty file, in place of one with the same name.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn RandomFile>>;

    /// # Errors
    /// What the system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn RandomFile>>;

    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names that were created, renamed or removed outlive a power cut.
    ///
    /// # Errors
    /// What the system says; then it is unknown which of them do.
    fn sync(&self) -> io::Result<()>;

    /// Bytes that can still be written before the file system is full.
    ///
    /// # Errors
    /// What the system says.
    fn available(&self) -> io::Result<u64>;
}

/// A file that is read and written at offsets.
pub trait RandomFile: fmt::Debug + Send + Sync {
    /// Bytes up to the end of the file, reserved ones included.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> io::Result<u64>;

    /// Fills all of `buffer`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before; else what the system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes`; not synced yet.
    ///
    /// # Errors
    /// What the system says; any part of the bytes may be written then.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reserves space for the range, which becomes part of the file and reads as zeros where nothing was written.
    ///
    /// # Errors
    /// `StorageFull` where there is none; else what the system says.
    fn reserve(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Cuts the file.
    ///
    /// # Errors
    /// What the system says.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Has the next read of the range (a length of 0: to the end) come from the disk instead of the system's memory. A
    /// wish: nothing follows from its failure.
    fn forget(&self, _offset: u64, _length: u64) {}

    /// Makes content and length outlive a power cut (fdatasync).
    ///
    /// # Errors
    /// What the system says; then it is unknown what does, and no later sync of the file may be trusted.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    /// The directory itself, held open where it was there: to sync it must not need a descriptor that others took.
    held: Option<File>,
}

impl Disk {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let held = File::open(&path).ok();
        Self { path, held }
    }
}

impl Directory for Disk {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn RandomFile>> {
        let file = private::options().read(true).write(true).create(true).truncate(true).open(self.path.join(name))?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn RandomFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        match &self.held {
            Some(directory) => directory.sync_all(),
            None => File::open(&self.path)?.sync_all(),
        }
    }

    fn available(&self) -> io::Result<u64> {
        let statistics = nix::sys::statvfs::statvfs(&self.path)?;
        Ok(statistics.blocks_available().saturating_mul(statistics.fragment_size()))
    }
}

impl RandomFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn reserve(&self, offset: u64, length: u64) -> io::Result<()> {
        let past_end = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let range = (i64::try_from(offset).map_err(past_end)?, i64::try_from(length).map_err(past_end)?);
        match fallocate(self, FallocateFlags::empty(), range.0, range.1) {
            // A file system without fallocate reserves what is written. Only behind the end: nothing is overwritten.
            Err(nix::errno::Errno::EOPNOTSUPP) => {
                let zeros = vec![0; 1 << 20];
                let mut at = offset.max(RandomFile::length(self)?);
                while at < offset + length {
                    let count = (offset + length - at).min(zeros.len() as u64);
                    FileExt::write_all_at(self, &zeros[..count as usize], at)?;
                    at += count;
                }
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn forget(&self, offset: u64, length: u64) {
        if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
            // Where the system does not do so, the read is as good as any other.
            let _ = posix_fadvise(self, offset, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
