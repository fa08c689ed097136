//! A thread that looks at things through one mount.

use std::{
    fs::{self, File, Metadata},
    os::unix::fs::{DirEntryExt, FileExt, MetadataExt},
    path::Path,
};

use super::{
    dice::Dice,
    history::{ABSENT, History, Recorder, Span, Thing, Way},
    world::{BLOCK, BLOCKS_MAX, DIRECTORIES, FREE, GUARDED, World, path},
};

/// Files that a reader keeps open.
const HELD: usize = 4;

pub(crate) struct Reader<'a> {
    root: &'a Path,
    recorder: Recorder,
    dice: Dice,
    held: Vec<(File, u64)>,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(world: &World, mount: usize, root: &'a Path, dice: Dice) -> Self {
        let recorder = Recorder::new(mount, world.start);
        Self { root, recorder, dice, held: Vec::new(), buffer: vec![0; BLOCKS_MAX * BLOCK + 1] }
    }

    pub(crate) fn finish(self) -> History {
        self.recorder.history
    }

    /// One look at something.
    pub(crate) fn step(&mut self) {
        let name = self.dice.roll(GUARDED.end - FREE.start);
        match self.dice.roll(10) {
            0..4 => self.stat(name),
            4 => self.list(),
            5..8 => self.open(name),
            _ => self.read_held(),
        }
    }

    fn stat(&mut self, name: usize) {
        let (about, span) = self.recorder.timed(|| fs::metadata(path(self.root, name)));
        self.recorder.history.reads += 1;
        match about {
            Ok(about) => {
                self.recorder.saw(Thing::Name(name), about.ino(), Way::Names, span);
                self.attributes(&about, span);
            }
            Err(error) => self.recorder.is_absent(name, &error, span),
        }
    }

    fn list(&mut self) {
        let (directory, names) = DIRECTORIES[self.dice.roll(DIRECTORIES.len())].clone();
        let directory = self.root.join(directory);
        let (listed, span) = self.recorder.timed(|| {
            let entries = fs::read_dir(directory).expect("opendir");
            entries.map(|entry| entry.expect("readdir")).collect::<Vec<_>>()
        });
        self.recorder.history.reads += 1;
        for name in names {
            let text = format!("name{name}");
            let found = listed.iter().filter(|entry| entry.file_name().to_str() == Some(&text));
            let mut found: Vec<_> = found.map(DirEntryExt::ino).collect();
            // A name that is removed and made again while the directory is listed may be listed as both.
            if found.is_empty() {
                found.push(ABSENT);
            }
            for ino in found {
                self.recorder.saw(Thing::Name(name), ino, Way::Listing, span);
            }
        }
    }

    fn open(&mut self, name: usize) {
        let (opened, span) = self.recorder.timed(|| File::open(path(self.root, name)));
        self.recorder.history.reads += 1;
        match opened {
            Ok(file) => {
                let ino = self.fstat(&file);
                self.recorder.saw(Thing::Name(name), ino, Way::Names, span);
                self.read(&file, ino);
                if self.held.len() == HELD {
                    self.held.swap_remove(self.dice.roll(HELD));
                }
                self.held.push((file, ino));
            }
            Err(error) => self.recorder.is_absent(name, &error, span),
        }
    }

    fn read_held(&mut self) {
        let Some(last) = self.held.len().checked_sub(1) else { return };
        let (file, ino) = self.held.swap_remove(self.dice.roll(last + 1));
        self.fstat(&file);
        self.read(&file, ino);
        self.held.push((file, ino));
    }

    fn fstat(&mut self, file: &File) -> u64 {
        let (about, span) = self.recorder.timed(|| file.metadata());
        let about = about.expect("fstat");
        self.recorder.history.reads += 1;
        self.attributes(&about, span);
        about.ino()
    }

    fn read(&mut self, file: &File, ino: u64) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let (read, span) = self.recorder.timed(|| file.read_at(&mut buffer, 0));
        let length = read.expect("read");
        self.recorder.history.reads += 1;
        self.recorder.saw(Thing::Size(ino), length as u64, Way::Pages, span);
        for (block, bytes) in buffer[..length].chunks_exact(BLOCK).enumerate() {
            let mut last = None;
            for word in bytes.chunks_exact(8) {
                let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
                if last != Some(word) {
                    self.recorder.saw(Thing::Block(ino, block), word, Way::Pages, span);
                    last = Some(word);
                }
            }
        }
        self.buffer = buffer;
    }

    fn attributes(&mut self, about: &Metadata, span: Span) {
        self.recorder.saw(Thing::Size(about.ino()), about.len(), Way::Attributes, span);
        let ctime = i128::from(about.ctime()) * 1_000_000_000 + i128::from(about.ctime_nsec());
        self.recorder.stamped(about.ino(), ctime, span);
    }
}
