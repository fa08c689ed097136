//! What fsx does, with two mounts that take turns on one file: after each turn the file is the same on both, to the byte,
//! through descriptors that stay open all the time.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
};

use nix::fcntl::{FallocateFlags, fallocate};
use rustix::fs::copy_file_range;

use crate::support::Cluster;

const TURNS: u64 = 600;
/// More than travels in entries, and more than one block.
const LENGTH_MAX: u64 = 300_000;
const BYTES_MAX: u64 = 90_000;

/// A turn: a change that both the file and its model undergo.
#[derive(Debug)]
enum Turn {
    Write { at: u64, bytes: u64, fill: u8 },
    Cut { length: u64 },
    Punch { at: u64, bytes: u64 },
    Zero { at: u64, bytes: u64 },
    Allocate { at: u64, bytes: u64 },
    Copy { from: u64, to: u64, bytes: u64 },
    Reopen,
}

/// Repeatable chance: xorshift64*.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn turn(&mut self) -> Turn {
        let bytes = if self.roll(2) == 0 { 1 + self.roll(200) } else { 1 + self.roll(BYTES_MAX) };
        let at = self.roll(LENGTH_MAX - bytes);
        match self.roll(14) {
            0..6 => Turn::Write { at, bytes, fill: self.roll(256) as u8 },
            6 | 7 => Turn::Cut { length: self.roll(LENGTH_MAX) },
            8 => Turn::Punch { at, bytes },
            9 => Turn::Zero { at, bytes },
            10 => Turn::Allocate { at, bytes },
            11 | 12 => Turn::Copy { from: at, to: self.roll(LENGTH_MAX - bytes), bytes },
            _ => Turn::Reopen,
        }
    }
}

/// The bytes that a write brings: the same number nowhere near itself.
fn content(at: u64, bytes: u64, fill: u8) -> Vec<u8> {
    (at..at + bytes).map(|place| fill.wrapping_add((place % 251) as u8)).collect()
}

fn place(at: u64) -> usize {
    usize::try_from(at).expect("small")
}

impl Turn {
    fn on_model(&self, model: &mut Vec<u8>) {
        let reach = |model: &mut Vec<u8>, end: u64| model.resize(model.len().max(place(end)), 0);
        match *self {
            Self::Write { at, bytes, fill } => {
                reach(model, at + bytes);
                model[place(at)..place(at + bytes)].copy_from_slice(&content(at, bytes, fill));
            }
            Self::Cut { length } => model.resize(place(length), 0),
            Self::Punch { at, bytes } => {
                let end = model.len().min(place(at + bytes));
                model[place(at).min(end)..end].fill(0);
            }
            Self::Zero { at, bytes } => {
                reach(model, at + bytes);
                model[place(at)..place(at + bytes)].fill(0);
            }
            Self::Allocate { at, bytes } => reach(model, at + bytes),
            Self::Copy { from, to, bytes } => {
                let bytes = bytes.min((model.len() as u64).saturating_sub(from));
                if bytes > 0 && !overlaps(from, to, bytes) {
                    reach(model, to + bytes);
                    model.copy_within(place(from)..place(from + bytes), place(to));
                }
            }
            Self::Reopen => {}
        }
    }

    fn on_file(&self, path: &Path, file: &mut File, length: u64) {
        let allocate = |flags, at: u64, bytes: u64| {
            fallocate(&*file, flags, at.cast_signed(), bytes.cast_signed()).expect("fallocate");
        };
        match *self {
            Self::Write { at, bytes, fill } => file.write_all_at(&content(at, bytes, fill), at).expect("write"),
            Self::Cut { length } => file.set_len(length).expect("truncate"),
            Self::Punch { at, bytes } => {
                allocate(FallocateFlags::FALLOC_FL_KEEP_SIZE | FallocateFlags::FALLOC_FL_PUNCH_HOLE, at, bytes);
            }
            Self::Zero { at, bytes } => allocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, at, bytes),
            Self::Allocate { at, bytes } => allocate(FallocateFlags::empty(), at, bytes),
            Self::Copy { from, to, bytes } => copy(file, from, to, bytes.min(length.saturating_sub(from))),
            Self::Reopen => *file = open(path),
        }
    }
}

const fn overlaps(from: u64, to: u64, bytes: u64) -> bool {
    from < to + bytes && to < from + bytes
}

fn copy(file: &File, from: u64, to: u64, bytes: u64) {
    if bytes == 0 || overlaps(from, to, bytes) {
        return;
    }
    let (mut from, mut to, mut left) = (from, to, place(bytes));
    while left > 0 {
        let copied = copy_file_range(file.as_fd(), Some(&mut from), file.as_fd(), Some(&mut to), left);
        let copied = copied.expect("copy_file_range");
        assert!(copied > 0, "{left} bytes are left to copy");
        left -= copied;
    }
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("open")
}

#[test]
fn two_mounts_that_take_turns_on_a_file_have_the_same_file() {
    let cluster = Cluster::found();
    let mounts = [cluster.mount(), cluster.mount()];
    let paths = mounts.each_ref().map(|mount| mount.path.join("file"));
    File::create_new(&paths[0]).expect("create");
    let mut files = paths.each_ref().map(|path| open(path));
    let (mut dice, mut model, mut buffer) = (Dice(0x5eed), Vec::new(), vec![0; place(LENGTH_MAX) + 1]);
    for number in 0..TURNS {
        let turn = dice.turn();
        let mover = place(dice.roll(2));
        turn.on_file(&paths[mover], &mut files[mover], model.len() as u64);
        turn.on_model(&mut model);
        for reader in [1 - mover, mover] {
            let about = files[reader].metadata().expect("fstat");
            let length = files[reader].read_at(&mut buffer, 0).expect("read");
            let differs = buffer[..length].iter().zip(&model).position(|(found, wanted)| found != wanted);
            assert!(
                differs.is_none() && length == model.len() && about.len() == model.len() as u64,
                "turn {number}, {turn:?} by mount {mover}: mount {reader} has {length} bytes, fstat says {}, there are {}; \
                 the first wrong byte is {differs:?}",
                about.len(),
                model.len(),
            );
        }
    }
}
