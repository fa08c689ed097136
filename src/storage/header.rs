//! How a segment of the log and a pack begin, and the numbered files they are.
//!
//! ```text
//!  0  8  magic, which says what kind of file it is
//!  8  4  version of the format
//! 12  4  CRC32 of all other bytes
//! 16  8  sequence: the file's number, as in its name
//! 24  8  salt, random: part of every record's checksum, so that no record of another file is taken for one of this
//! 32  8  two numbers of the kind's own
//! 40  8
//! ```
//! All numbers are little-endian.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::PathBuf,
    sync::Arc,
};

use super::{
    StorageError,
    file::{Directory, RandomFile},
};

/// Bytes of a header; records begin here.
pub(crate) const HEADER_BYTES: u64 = 48;
/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: u64 = 8;
/// The version this program writes.
const VERSION: u32 = 1;
/// Ends the name of a file that is not complete yet.
const UNFINISHED: &str = ".unfinished";

/// Removes files whose making was interrupted.
pub(crate) fn remove_unfinished(directory: &dyn Directory) -> Result<(), StorageError> {
    let names = directory.list().map_err(|error| StorageError::io("read", directory.path(), error))?;
    for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
        let removed = directory.remove(name);
        removed.map_err(|error| StorageError::io("removed", &directory.path().join(name), error))?;
    }
    Ok(())
}

/// What kind of numbered file it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileKind {
    pub(crate) magic: [u8; 8],
    pub(crate) suffix: &'static str,
    /// For messages.
    pub(crate) noun: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileHeader {
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    pub(crate) own: [u64; 2],
}

impl FileHeader {
    pub(crate) fn new(sequence: u64, own: [u64; 2]) -> Self {
        // The standard library's hash keys come from the system's random numbers.
        let salt = RandomState::new().build_hasher().finish();
        Self { sequence, salt, own }
    }

    pub(crate) fn encode(&self, kind: FileKind) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&kind.magic);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.own[0].to_le_bytes());
        bytes[40..48].copy_from_slice(&self.own[1].to_le_bytes());
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Says what was found where the bytes are no header of the file with this number.
    pub(crate) fn decode(bytes: &[u8], kind: FileKind, sequence: u64) -> Result<Self, String> {
        let Some(bytes) = bytes.get(..HEADER_BYTES as usize) else {
            return Err(format!("the file has {} bytes, its header alone has {HEADER_BYTES}", bytes.len()));
        };
        if bytes[..8] != kind.magic {
            return Err(format!("the file does not begin as a {} does", kind.noun));
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!("version {version}, this program reads version {VERSION}"));
        }
        if u32_at(bytes, 12) != checksum(bytes) {
            return Err("the header does not match its checksum".to_owned());
        }
        let header =
            Self { sequence: u64_at(bytes, 16), salt: u64_at(bytes, 24), own: [u64_at(bytes, 32), u64_at(bytes, 40)] };
        if header.sequence != sequence {
            return Err(format!("the file is number {}, not {sequence} as its name says", header.sequence));
        }
        Ok(header)
    }
}

/// CRC32 of a header, its own field left out.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..HEADER_BYTES as usize]);
    hasher.finalize()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The next place where a record may begin.
pub(crate) const fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGNMENT)
}

impl FileKind {
    pub(crate) fn name(self, sequence: u64) -> String {
        format!("{sequence:016x}{}", self.suffix)
    }

    pub(crate) fn path(self, directory: &dyn Directory, sequence: u64) -> PathBuf {
        directory.path().join(self.name(sequence))
    }

    /// The numbers of all files of this kind, ascending.
    pub(crate) fn list(self, directory: &dyn Directory) -> Result<Vec<u64>, StorageError> {
        let names = directory.list().map_err(|error| StorageError::io("read", directory.path(), error))?;
        let mut sequences: Vec<_> = names.iter().filter_map(|name| self.sequence(name)).collect();
        sequences.sort_unstable();
        Ok(sequences)
    }

    fn sequence(self, name: &str) -> Option<u64> {
        let digits = name.strip_suffix(self.suffix)?;
        u64::from_str_radix(digits, 16).ok().filter(|&sequence| self.name(sequence) == name)
    }

    /// Makes a file that is either wholly there with its header and `reserved` bytes, or not at all.
    pub(crate) fn create(
        self,
        directory: &dyn Directory,
        header: &FileHeader,
        reserved: u64,
    ) -> Result<Arc<dyn RandomFile>, StorageError> {
        let name = self.name(header.sequence);
        let path = directory.path().join(&name);
        let unfinished = format!("{name}{UNFINISHED}");
        let made = (|| {
            let file = directory.create(&unfinished)?;
            file.reserve(0, reserved)?;
            file.write_at(0, &header.encode(self))?;
            file.sync()?;
            directory.rename(&unfinished, &name)?;
            directory.sync()?;
            Ok(file)
        })();
        made.map_err(|error: std::io::Error| {
            let full = error.kind() == std::io::ErrorKind::StorageFull;
            // What was begun is removed now, or when the directory is opened next.
            let _ = directory.remove(&unfinished);
            if full { StorageError::Full { path, needed: reserved } } else { StorageError::io("created", &path, error) }
        })
    }

    /// Opens a file and reads its header.
    pub(crate) fn open(
        self,
        directory: &dyn Directory,
        sequence: u64,
    ) -> Result<(Arc<dyn RandomFile>, FileHeader), StorageError> {
        let path = self.path(directory, sequence);
        let file = directory.open(&self.name(sequence)).map_err(|error| StorageError::io("read", &path, error))?;
        let mut bytes = [0; HEADER_BYTES as usize];
        let length = file.length().map_err(|error| StorageError::io("read", &path, error))?;
        let present = &mut bytes[..length.min(HEADER_BYTES) as usize];
        file.read_at(0, present).map_err(|error| StorageError::io("read", &path, error))?;
        let header = FileHeader::decode(present, self, sequence).map_err(|found| StorageError::Damaged {
            path,
            offset: 0,
            found,
        })?;
        Ok((file, header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: FileKind = FileKind { magic: *b"testtest", suffix: ".test", noun: "test" };

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = FileHeader::new(7, [8, 9]);
        assert_eq!(FileHeader::decode(&header.encode(KIND), KIND, 7), Ok(header));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let bytes = FileHeader::new(7, [8, 9]).encode(KIND);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&flipped, KIND, 7).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn only_names_that_we_write_are_ours() {
        assert_eq!(KIND.sequence("00000000000000ff.test"), Some(255));
        for name in ["ff.test", "00000000000000FF.test", "00000000000000ff.other", "+0000000000000ff.test", ".test"] {
            assert_eq!(KIND.sequence(name), None, "{name}");
        }
    }
}
