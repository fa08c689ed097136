//! A thread that changes things through one mount.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::MutexGuard,
};

use nix::{
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
    libc::EEXIST,
};

use super::{
    dice::Dice,
    history::{ABSENT, History, Recorder, Span, Thing, Way},
    world::{self, BLOCK, BLOCKS_MAX, FREE, GUARDED, World, path},
};

/// Something is there, and must not be.
const PRESENT: u64 = u64::MAX;

pub(crate) struct Writer<'a> {
    world: &'a World,
    root: &'a Path,
    recorder: Recorder,
    dice: Dice,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(world: &'a World, mount: usize, root: &'a Path, dice: Dice) -> Self {
        Self { world, root, recorder: Recorder::new(mount, world.start), dice }
    }

    pub(crate) fn finish(self) -> History {
        self.recorder.history
    }

    /// One change of something, if it is possible.
    pub(crate) fn step(&mut self) {
        if self.dice.roll(2) == 0 { self.free() } else { self.guarded() }
    }

    fn free(&mut self) {
        let name = FREE.start + self.dice.roll(FREE.len());
        match self.dice.roll(6) {
            0 => drop(self.create(name)),
            1 | 2 => drop(self.replace(name)),
            3 => drop(self.unlink(name)),
            _ => self.overwrite_free(name),
        }
    }

    fn guarded(&mut self) {
        let world = self.world;
        let name = GUARDED.start + self.dice.roll(GUARDED.len());
        let Ok(mut slot) = world.guarded(name).try_lock() else { return };
        let Some(file) = *slot else {
            *slot = if self.dice.roll(2) == 0 { self.create(name) } else { self.replace(name) };
            return;
        };
        match self.dice.roll(10) {
            0 => {
                if self.unlink(name) {
                    *slot = None;
                }
            }
            1 => {
                if let Some(other) = self.replace(name) {
                    *slot = Some(other);
                }
            }
            2..4 => self.rename(name, slot),
            4..6 => slot.as_mut().expect("there is a file").blocks = self.append(name, file),
            6 => slot.as_mut().expect("there is a file").blocks = self.truncate(name, file),
            7 => slot.as_mut().expect("there is a file").blocks = self.rewrite(name, file),
            _ => self.overwrite(name, file),
        }
    }

    /// O_CREAT | O_EXCL, then one block.
    fn create(&mut self, name: usize) -> Option<world::File> {
        let (made, span) = self.recorder.timed(|| File::create_new(path(self.root, name)));
        match made {
            Ok(file) => {
                let ino = self.is_new(&file, span);
                self.recorder.changed(Thing::Name(name), ino, span);
                self.fill(file, ino, 0, 1, Some(1));
                Some(world::File { ino, blocks: 1 })
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EEXIST), "create: {error}");
                // A guarded name is free, as this thread knows.
                if GUARDED.contains(&name) {
                    self.recorder.saw(Thing::Name(name), PRESENT, Way::Names, span);
                }
                None
            }
        }
    }

    /// A whole new file takes the name.
    fn replace(&mut self, name: usize) -> Option<world::File> {
        let spare = world::directory(self.root, name).join(format!("spare{}", self.world.number()));
        let (made, span) = self.recorder.timed(|| File::create_new(&spare));
        let file = made.expect("nobody else uses this name");
        let ino = self.is_new(&file, span);
        let blocks = 1 + self.dice.roll(BLOCKS_MAX / 2);
        self.fill(file, ino, 0, blocks, Some(blocks));
        let (renamed, span) = self.recorder.timed(|| fs::rename(&spare, path(self.root, name)));
        renamed.expect("nobody else renames this file");
        self.recorder.changed(Thing::Name(name), ino, span);
        Some(world::File { ino, blocks })
    }

    /// Whether there was something.
    fn unlink(&mut self, name: usize) -> bool {
        let (gone, span) = self.recorder.timed(|| fs::remove_file(path(self.root, name)));
        match gone {
            Ok(()) => self.recorder.changed(Thing::Name(name), ABSENT, span),
            Err(ref error) => self.recorder.is_absent(name, error, span),
        }
        gone.is_ok()
    }

    /// To another guarded name, over what it means or in exchange for it.
    fn rename(&mut self, from: usize, mut slot: MutexGuard<'_, Option<world::File>>) {
        let to = GUARDED.start + self.dice.roll(GUARDED.len());
        if to == from {
            return;
        }
        // Whoever holds the other one does not wait for this one either.
        let Ok(mut other) = self.world.guarded(to).try_lock() else { return };
        let exchanges = other.is_some() && self.dice.roll(2) == 0;
        let flags = if exchanges { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::empty() };
        let (old, new) = (path(self.root, from), path(self.root, to));
        let (renamed, span) = self.recorder.timed(|| renameat2(AT_FDCWD, &old, AT_FDCWD, &new, flags));
        if let Err(errno) = renamed {
            return self.recorder.is_absent(from, &errno.into(), span);
        }
        let left = if exchanges { *other } else { None };
        *other = *slot;
        *slot = left;
        for (name, file) in [(from, *slot), (to, *other)] {
            self.recorder.changed(Thing::Name(name), file.map_or(ABSENT, |file| file.ino), span);
        }
    }

    /// Without a guard only the first block is written: it stays once it is there.
    fn overwrite_free(&mut self, name: usize) {
        let Some((file, ino, _)) = self.open(name, File::options().write(true)) else { return };
        let (about, span) = self.recorder.timed(|| file.metadata());
        let length = about.expect("fstat").len();
        self.recorder.saw(Thing::Size(ino), length, Way::Attributes, span);
        if length >= BLOCK as u64 {
            self.fill(file, ino, 0, 1, None);
        }
    }

    fn overwrite(&mut self, name: usize, expected: world::File) {
        let Some(file) = self.open_guarded(name, expected, File::options().write(true)) else { return };
        if expected.blocks > 0 {
            let first = self.dice.roll(expected.blocks);
            let count = 1 + self.dice.roll(expected.blocks - first);
            self.fill(file.0, expected.ino, first, count, None);
        }
    }

    /// The number of blocks that there are afterwards; the same for those below.
    fn append(&mut self, name: usize, expected: world::File) -> usize {
        if expected.blocks == BLOCKS_MAX {
            return expected.blocks;
        }
        let Some((file, _)) = self.open_guarded(name, expected, File::options().append(true)) else {
            return expected.blocks;
        };
        self.fill(file, expected.ino, expected.blocks, 1, Some(expected.blocks + 1));
        expected.blocks + 1
    }

    fn truncate(&mut self, name: usize, expected: world::File) -> usize {
        let blocks = self.dice.roll(BLOCKS_MAX + 1);
        let Some((file, _)) = self.open_guarded(name, expected, File::options().write(true)) else {
            return expected.blocks;
        };
        let (cut, span) = self.recorder.timed(|| file.set_len((blocks * BLOCK) as u64));
        cut.expect("truncate");
        self.is_cut(expected, blocks, span);
        blocks
    }

    /// As file_put_contents does.
    fn rewrite(&mut self, name: usize, expected: world::File) -> usize {
        let options = File::options().write(true).truncate(true).clone();
        let Some((file, span)) = self.open_guarded(name, expected, &options) else { return expected.blocks };
        self.is_cut(expected, 0, span);
        let blocks = 1 + self.dice.roll(BLOCKS_MAX);
        self.fill(file, expected.ino, 0, blocks, Some(blocks));
        blocks
    }

    /// Opens what the name means, which is recorded.
    fn open(&mut self, name: usize, options: &OpenOptions) -> Option<(File, u64, Span)> {
        let (opened, span) = self.recorder.timed(|| options.open(path(self.root, name)));
        match opened {
            Ok(file) => {
                let ino = file.metadata().expect("fstat").ino();
                self.recorder.saw(Thing::Name(name), ino, Way::Names, span);
                Some((file, ino, span))
            }
            Err(error) => {
                self.recorder.is_absent(name, &error, span);
                None
            }
        }
    }

    /// `None` when it means something else, which the judge will not like.
    fn open_guarded(&mut self, name: usize, expected: world::File, options: &OpenOptions) -> Option<(File, Span)> {
        let (file, ino, span) = self.open(name, options)?;
        (ino == expected.ino).then_some((file, span))
    }

    /// Writes blocks with one call; they are there for all when it returns, closed or not.
    fn fill(&mut self, mut file: File, ino: u64, first: usize, count: usize, blocks: Option<usize>) {
        let number = self.world.number();
        let bytes = number.to_le_bytes().repeat(count * BLOCK / 8);
        // Where a file is appended to, the place is the end, as the caller knows.
        let is_append = blocks.is_some() && first > 0;
        let (written, span) = self
            .recorder
            .timed(|| if is_append { file.write(&bytes) } else { file.write_at(&bytes, (first * BLOCK) as u64) });
        assert_eq!(written.expect("write"), bytes.len(), "in one piece");
        for block in first..first + count {
            self.recorder.changed(Thing::Block(ino, block), number, span);
        }
        if let Some(blocks) = blocks {
            self.recorder.changed(Thing::Size(ino), (blocks * BLOCK) as u64, span);
        }
    }

    /// A file that was just made; its inode number.
    fn is_new(&mut self, file: &File, (began, _): Span) -> u64 {
        let ino = file.metadata().expect("fstat").ino();
        self.recorder.changed(Thing::Size(ino), 0, (began, began));
        ino
    }

    /// What is cut off is gone, and zeros are where nothing was.
    fn is_cut(&mut self, file: world::File, blocks: usize, span: Span) {
        let (low, high) = (file.blocks.min(blocks), file.blocks.max(blocks));
        for block in low..high {
            self.recorder.changed(Thing::Block(file.ino, block), 0, span);
        }
        self.recorder.changed(Thing::Size(file.ino), (blocks * BLOCK) as u64, span);
    }
}
