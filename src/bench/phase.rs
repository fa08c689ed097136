//! The kinds of work that are measured, each as often as a WordPress host does it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{BenchError, Tree};

/// Bytes of a file of the create phase and of an append.
const SMALL_BYTES: usize = 4096;

/// One kind of work over a tree that the first phase writes.
#[derive(Debug)]
pub struct Phase<'a> {
    kind: Kind,
    tree: &'a Tree,
    operations: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Untar,
    Stat,
    MissingName,
    OpenReadClose,
    Create,
    Unlink,
    AppendSync,
    Remove,
}

impl<'a> Phase<'a> {
    /// All phases in the order they must run: the first writes what others read, the last removes it.
    #[must_use]
    pub fn all(tree: &'a Tree, operations: usize) -> Vec<Self> {
        use Kind::{AppendSync, Create, MissingName, OpenReadClose, Remove, Stat, Unlink, Untar};
        [Untar, Stat, MissingName, OpenReadClose, Create, Unlink, AppendSync, Remove]
            .into_iter()
            .map(|kind| Self { kind, tree, operations: operations.max(1) })
            .collect()
    }

    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.kind {
            Kind::Untar => "untar, per entry",
            Kind::Stat => "stat, warm",
            Kind::MissingName => "stat, missing name",
            Kind::OpenReadClose => "open+read+close, warm",
            Kind::Create => "create 4 KiB",
            Kind::Unlink => "unlink",
            Kind::AppendSync => "append 4 KiB + fdatasync",
            Kind::Remove => "rm -r, per entry",
        }
    }

    /// Operations of one round.
    #[must_use]
    pub fn operations(&self) -> usize {
        match self.kind {
            Kind::Untar | Kind::Remove => self.tree.files.len() + self.tree.directories.len(),
            Kind::Stat | Kind::MissingName | Kind::OpenReadClose => self.tree.files.len(),
            Kind::Create | Kind::Unlink | Kind::AppendSync => self.operations,
        }
    }

    /// Does the work of one round below `root` and says how long it took; warming up is not counted.
    ///
    /// # Errors
    /// `Io` names the path that failed.
    pub fn run(&self, root: &Path, round: usize) -> Result<Duration, BenchError> {
        let tree = |of: usize| root.join(format!("tree-{of}"));
        let scratch = root.join(format!("scratch-{round}"));
        match self.kind {
            Kind::Untar => timed(|| self.write_tree(&tree(round))),
            Kind::Stat => warm(|| self.each_file(&tree(0), |path| fs::symlink_metadata(path).map(drop))),
            Kind::MissingName => warm(|| {
                self.each_file(&tree(0), |path| match fs::symlink_metadata(path.with_extension("missing")) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    Err(error) => Err(error),
                    Ok(_) => Err(io::Error::other("the name should not exist")),
                })
            }),
            Kind::OpenReadClose => {
                let mut buffer = Vec::new();
                warm(|| {
                    self.each_file(&tree(0), |path| {
                        buffer.clear();
                        File::open(path)?.read_to_end(&mut buffer).map(drop)
                    })
                })
            }
            Kind::Create => {
                at(&scratch, "making", fs::create_dir_all(&scratch))?;
                timed(|| self.each_number(&scratch, |path| File::create(path)?.write_all(&[7; SMALL_BYTES])))
            }
            Kind::Unlink => timed(|| self.each_number(&scratch, |path| fs::remove_file(path))),
            Kind::AppendSync => {
                let path = root.join(format!("appended-{round}"));
                let opened = OpenOptions::new().create(true).append(true).open(&path);
                let mut file = at(&path, "opening", opened)?;
                timed(|| {
                    (0..self.operations).try_for_each(|_| {
                        at(&path, "appending to", file.write_all(&[9; SMALL_BYTES]).and_then(|()| file.sync_data()))
                    })
                })
            }
            Kind::Remove => timed(|| at(&tree(round), "removing", fs::remove_dir_all(tree(round)))),
        }
    }

    fn write_tree(&self, root: &Path) -> Result<(), BenchError> {
        at(root, "making", fs::create_dir(root))?;
        for directory in &self.tree.directories {
            let path = root.join(directory);
            at(&path, "making", fs::create_dir(&path))?;
        }
        for (file, bytes) in &self.tree.files {
            let path = root.join(file);
            at(&path, "writing", File::create(&path).and_then(|mut open| open.write_all(bytes)))?;
        }
        Ok(())
    }

    fn each_file(&self, root: &Path, mut each: impl FnMut(&PathBuf) -> io::Result<()>) -> Result<(), BenchError> {
        self.tree.files.iter().map(|(file, _)| root.join(file)).try_for_each(|path| at(&path, "reading", each(&path)))
    }

    fn each_number(&self, root: &Path, mut each: impl FnMut(&PathBuf) -> io::Result<()>) -> Result<(), BenchError> {
        (0..self.operations)
            .map(|number| root.join(format!("file-{number}")))
            .try_for_each(|path| at(&path, "changing", each(&path)))
    }
}

fn timed(work: impl FnOnce() -> Result<(), BenchError>) -> Result<Duration, BenchError> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}

/// The second of two runs.
fn warm(mut work: impl FnMut() -> Result<(), BenchError>) -> Result<Duration, BenchError> {
    work()?;
    timed(work)
}

fn at<T>(path: &Path, doing: &'static str, result: io::Result<T>) -> Result<T, BenchError> {
    result.map_err(|source| BenchError::Io { doing, path: path.to_owned(), source })
}
