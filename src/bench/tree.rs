//! The files that the untar phase writes: read from a directory, or made up with the sizes of a WordPress tree.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::BenchError;

/// Files of the made-up tree and how many of them share a directory.
const MADE_UP_FILES: usize = 1000;
const MADE_UP_FILES_PER_DIRECTORY: usize = 9;
/// Sizes of its files in bytes: the deciles of WordPress 6's own tree.
const MADE_UP_SIZES: [usize; 10] = [120, 480, 1_000, 1_900, 3_200, 5_000, 8_200, 14_000, 27_000, 61_000];

/// Directories and files below a root, in the order an archive lists them.
#[derive(Debug, Default)]
pub struct Tree {
    pub directories: Vec<PathBuf>,
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl Tree {
    /// Reads a tree into memory; what is neither file nor directory is left out.
    ///
    /// # Errors
    /// `Io` where it cannot be read, `EmptyTree` where it has no files.
    pub fn read(root: &Path) -> Result<Self, BenchError> {
        let mut tree = Self::default();
        let mut open = vec![PathBuf::new()];
        while let Some(directory) = open.pop() {
            let path = root.join(&directory);
            let fail = |source| BenchError::Io { doing: "reading", path: path.clone(), source };
            for entry in fs::read_dir(&path).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let kind = entry.file_type().map_err(fail)?;
                let relative = directory.join(entry.file_name());
                if kind.is_dir() {
                    tree.directories.push(relative.clone());
                    open.push(relative);
                } else if kind.is_file() {
                    tree.files.push((relative, fs::read(entry.path()).map_err(fail)?));
                }
            }
        }
        if tree.files.is_empty() {
            return Err(BenchError::EmptyTree(root.to_owned()));
        }
        Ok(tree)
    }

    /// A tree of small files, the same at every run.
    #[must_use]
    pub fn made_up() -> Self {
        let mut tree = Self::default();
        for number in 0..MADE_UP_FILES {
            let directory = PathBuf::from(format!("directory-{}", number / MADE_UP_FILES_PER_DIRECTORY));
            if number % MADE_UP_FILES_PER_DIRECTORY == 0 {
                tree.directories.push(directory.clone());
            }
            let size = MADE_UP_SIZES[number % MADE_UP_SIZES.len()];
            // Every file differs, or a store that keeps equal blocks once would look too good.
            let bytes = (0..size).map(|at| ((at * 31 + number * 17) >> 3) as u8).collect();
            tree.files.push((directory.join(format!("file-{number}.php")), bytes));
        }
        tree
    }
}
