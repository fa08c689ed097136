//! What processes do: few names in few directories, so that they collide.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use super::{
    dice::Dice,
    options::Options,
    syscalls::{Call, Guard, MAPPED_BYTES, Path, Reservation, Round, number_in},
    world::DEVICE_BYTES,
};
use crate::{
    limits,
    namespace::RenameMode,
    types::{LockFamily, LockKind, Name},
};

/// From this one on, kinds of calls change nothing.
const LOOKS: u64 = 58;
/// What reservations take together: the next one would be more than there is.
const RESERVED_BYTES: u64 = DEVICE_BYTES / 16 * 15;
/// Bytes of a token that an append writes.
const TOKEN_BYTES: usize = 12;

#[derive(Debug)]
pub(super) struct Workload {
    dice: Dice,
    directories: u64,
    names: u64,
    large: u64,
    serial: u64,
    /// Files that are only ever appended to: each token that was written, and whether its call succeeded.
    appended: BTreeMap<Path, Vec<(Bytes, Option<bool>)>>,
    /// What is rolled for calls that count, and how often they come.
    count_dice: Dice,
    counts: u64,
    /// What is rolled for calls that map files, and how often they come.
    map_dice: Dice,
    maps: u64,
    /// What is rolled for calls that use shared memory, and how often they come.
    share_dice: Dice,
    shares: u64,
    /// What is rolled for calls that write side by side, and how often they come.
    stripe_dice: Dice,
    stripes: u64,
    /// What is rolled for calls that hold files without opening them, and how often they come.
    pin_dice: Dice,
    pins: u64,
    /// What is rolled for calls that watch a file grow, and how often they come.
    tail_dice: Dice,
    tails: u64,
    /// What is rolled for calls that reserve space, and how often they come.
    reserve_dice: Dice,
    reserves: u64,
    /// What is rolled for calls that set a directory's time back, and how often they come.
    rewind_dice: Dice,
    rewinds: u64,
    /// Numbers that calls wrote under locks and that they were told are written.
    counted: BTreeMap<Path, BTreeSet<u64>>,
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("the workload's names are names")
}

impl Workload {
    pub(super) fn new(dice: Dice, options: &Options) -> Self {
        // Of its own: runs without such calls are as they were before there were any.
        let count_dice = dice.clone().split();
        Self {
            count_dice,
            counts: options.counts,
            map_dice: dice.clone().split().split(),
            maps: options.maps,
            share_dice: dice.clone().split().split().split(),
            shares: options.shares,
            stripe_dice: dice.clone().split().split().split(),
            stripes: options.stripes,
            pin_dice: dice.clone().split().split().split().split(),
            pins: options.pins,
            tail_dice: dice.clone().split().split().split().split().split(),
            tails: options.tails,
            reserve_dice: dice.clone().split().split().split().split().split().split(),
            reserves: options.reserves,
            rewind_dice: dice.clone().split().split().split().split(),
            rewinds: options.rewinds,
            counted: BTreeMap::new(),
            dice,
            directories: options.directories,
            names: options.names,
            large: options.large,
            serial: 0,
            appended: BTreeMap::new(),
        }
    }

    pub(super) fn directories(&self) -> Vec<Name> {
        (0..self.directories).map(|number| name(&format!("d{number}"))).collect()
    }

    /// Every path that a call may name.
    pub(super) fn paths(&self) -> Vec<Path> {
        let reserved = ["space0", "space1"].into_iter().filter(|_| self.reserves > 0);
        let names = || {
            (0..self.names)
                .map(|number| format!("n{number}"))
                .chain(
                    ["log", "flock", "fcntl", "map", "flock-shm", "fcntl-shm", "map-shm", "stripes"].map(str::to_owned),
                )
                .chain(reserved.clone().map(str::to_owned))
        };
        let in_directory =
            |directory: Name| names().map(move |text| Path { directory: directory.clone(), name: name(&text) });
        self.directories().into_iter().flat_map(in_directory).collect()
    }

    /// `stripe`: which part of files that are written side by side is the process's own.
    pub(super) fn next_call(&mut self, stripe: u64) -> Call {
        if self.stripes > 0 && self.stripe_dice.chance(self.stripes) {
            return self.stripe(stripe);
        }
        if self.pins > 0 && self.pin_dice.chance(self.pins) {
            return self.pin();
        }
        if self.tails > 0 && self.tail_dice.chance(self.tails) {
            return self.tail();
        }
        if self.reserves > 0 && self.reserve_dice.chance(self.reserves) {
            return self.reserve();
        }
        if self.rewinds > 0 && self.rewind_dice.chance(self.rewinds) {
            let path = self.path();
            return Call::Rewind { path, data: self.data() };
        }
        if self.counts > 0 && self.count_dice.chance(self.counts) {
            return self.count();
        }
        if self.shares > 0 && self.share_dice.chance(self.shares) {
            return self.share();
        }
        if self.maps > 0 && self.map_dice.chance(self.maps) { self.map() } else { self.call(0) }
    }

    /// A call that changes nothing.
    pub(super) fn next_look(&mut self) -> Call {
        self.call(LOOKS)
    }

    /// One of the kinds of calls from this one on, of 100.
    fn call(&mut self, least: u64) -> Call {
        let path = self.path();
        match least + self.dice.roll(100 - least) {
            0..14 => Call::Create { path, data: self.data() },
            14..24 => Call::Unlink { path },
            24..33 => {
                let to = self.path();
                if to == path {
                    return Call::Stat { path };
                }
                let mode = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                Call::Rename { from: path, to, mode: mode[self.dice.index(4)] }
            }
            33..39 => Call::Overwrite { path, offset: self.dice.roll(200), data: self.data() },
            39..50 => self.append(path.directory),
            50..54 => Call::Truncate { path, size: self.dice.roll(300) },
            54..58 => Call::Chmod { path, mode: 0o600 + u16::try_from(self.dice.roll(64)).unwrap_or(0) },
            LOOKS..74 => Call::Stat { path },
            74..90 => Call::Read { path: if self.dice.chance(200) { log_of(path.directory) } else { path } },
            _ => Call::List { directory: path.directory },
        }
    }

    /// A call has returned; `outcome` is `None` when its process ended with it.
    pub(super) fn returned(&mut self, call: &Call, outcome: Option<bool>) {
        if let Call::Append { path, data } = call
            && let Some((_, noted)) =
                self.appended.get_mut(path).and_then(|tokens| tokens.iter_mut().find(|(token, _)| token == data))
        {
            *noted = outcome;
        }
    }

    /// A call wrote this number under a lock, and all went well.
    pub(super) fn counted(&mut self, path: &Path, number: u64) {
        let is_new = self.counted.entry(path.clone()).or_default().insert(number);
        assert!(is_new, "mutual exclusion: {path:?} was counted to {number} twice");
    }

    /// How many numbers calls have written under locks.
    pub(super) fn counts(&self) -> u64 {
        self.counted.values().map(|numbers| numbers.len() as u64).sum()
    }

    /// Acknowledged appends are there, once; others at most once.
    pub(super) fn check(&self, content: impl Fn(&Path) -> Option<Bytes>) {
        for (path, tokens) in &self.appended {
            let found = content(path).unwrap_or_default();
            let mut counts: BTreeMap<&[u8], u64> = BTreeMap::new();
            found.chunks(TOKEN_BYTES).for_each(|token| *counts.entry(token).or_insert(0) += 1);
            for (token, outcome) in tokens {
                let count = counts.remove(token.as_ref()).unwrap_or(0);
                let is_right = if *outcome == Some(true) { count == 1 } else { count <= 1 };
                assert!(is_right, "exactly once: {token:?} of {path:?} ({outcome:?}) is there {count} times");
            }
            assert!(counts.is_empty(), "{path:?} holds what nobody appended: {counts:?}");
        }
        for (path, numbers) in &self.counted {
            let found = content(path).unwrap_or_default();
            let shown = number_in(&found);
            let most = numbers.last().copied().unwrap_or(0);
            assert!(shown >= most, "mutual exclusion: {path:?} is at {shown}, but was counted to {most}");
        }
    }

    fn count(&mut self) -> Call {
        count(&mut self.count_dice, self.directories, false)
    }

    /// Shared memory that processes count in; and some that comes and goes, and whose content nobody judges.
    fn share(&mut self) -> Call {
        let dice = &mut self.share_dice;
        match dice.roll(10) {
            0 => {
                let directory = name(&format!("d{}", dice.roll(self.directories)));
                Call::Unlink { path: Path { directory, name: name("map-shm") } }
            }
            1..4 => map(dice, self.directories, "map-shm"),
            _ => count(dice, self.directories, true),
        }
    }

    /// Which file a process maps, and what it writes there: nobody writes to these otherwise.
    fn map(&mut self) -> Call {
        map(&mut self.map_dice, self.directories, "map")
    }

    fn pin(&mut self) -> Call {
        let dice = &mut self.pin_dice;
        let directory = name(&format!("d{}", dice.roll(self.directories)));
        let path = Path { directory, name: name(&format!("n{}", dice.roll(self.names))) };
        Call::Pin { path, pause: dice.micros(0, 3_000_000) }
    }

    fn tail(&mut self) -> Call {
        let dice = &mut self.tail_dice;
        let directory = name(&format!("d{}", dice.roll(self.directories)));
        let path = match dice.chance(500) {
            true => log_of(directory),
            false => Path { directory, name: name(&format!("n{}", dice.roll(self.names))) },
        };
        let pauses = (0..1 + dice.index(5)).map(|_| dice.micros(0, 100_000));
        Call::Tail { path, pauses: pauses.collect() }
    }

    fn reserve(&mut self) -> Call {
        let dice = &mut self.reserve_dice;
        let directory = name(&format!("d{}", dice.roll(self.directories)));
        let length = RESERVED_BYTES / (2 + dice.roll(3));
        let data = vec![b'a' + dice.roll(26) as u8; 1 + dice.index(200)].into();
        let reservation = Reservation { length, offset: dice.roll(300), data, ends: dice.chance(500) };
        Call::Reserve { path: Path { directory, name: name(&format!("space{}", dice.roll(2))) }, reservation }
    }

    fn stripe(&mut self, stripe: u64) -> Call {
        let dice = &mut self.stripe_dice;
        let directory = name(&format!("d{}", dice.roll(self.directories)));
        let rounds = (0..1 + dice.index(8)).map(|_| {
            let data = vec![b'A' + dice.roll(26) as u8; 1 + dice.index(50)].into();
            Round {
                looks: dice.chance(400),
                data,
                pause: if dice.chance(300) { dice.micros(1, 500) } else { Duration::ZERO },
            }
        });
        Call::Stripe { path: Path { directory, name: name("stripes") }, stripe, rounds: rounds.collect() }
    }

    fn append(&mut self, directory: Name) -> Call {
        self.serial += 1;
        let path = log_of(directory);
        let data = Bytes::from(format!("<{:0>width$}>", self.serial, width = TOKEN_BYTES - 2));
        self.appended.entry(path.clone()).or_default().push((data.clone(), None));
        Call::Append { path, data }
    }

    fn path(&mut self) -> Path {
        let directory = name(&format!("d{}", self.dice.roll(self.directories)));
        Path { directory, name: name(&format!("n{}", self.dice.roll(self.names))) }
    }

    /// Bytes that no other write has.
    fn data(&mut self) -> Bytes {
        self.serial += 1;
        let word = format!("[{}]", self.serial);
        let length = if self.dice.chance(self.large) {
            limits::INLINE_BYTES_MAX + self.dice.index(8192)
        } else {
            1 + self.dice.index(300)
        };
        word.bytes().cycle().take(length.max(word.len())).collect()
    }
}

fn count(dice: &mut Dice, directories: u64, is_mapped: bool) -> Call {
    let (family, file) = [(LockFamily::Flock, "flock"), (LockFamily::Fcntl, "fcntl")][dice.index(2)];
    let directory = name(&format!("d{}", dice.roll(directories)));
    let guard = Guard {
        family,
        kind: if dice.chance(750) { LockKind::Exclusive } else { LockKind::Shared },
        waits: dice.chance(700),
        unlocks: dice.chance(500),
        is_mapped,
        // Now and then long enough to lose the lock meanwhile.
        pause: if dice.chance(80) { dice.micros(0, 2_000_000) } else { dice.micros(0, 10_000) },
        dies: dice.chance(100).then(|| Duration::from_micros(dice.roll(60_000))),
    };
    let file = name(&if is_mapped { format!("{file}-shm") } else { file.to_owned() });
    Call::Count { path: Path { directory, name: file }, guard }
}

fn map(dice: &mut Dice, directories: u64, file: &str) -> Call {
    let directory = name(&format!("d{}", dice.roll(directories)));
    let data = vec![b'a' + dice.roll(25) as u8; 1 + dice.index(50)];
    let offset = dice.roll(MAPPED_BYTES - data.len() as u64);
    let pause = dice.micros(0, 100_000);
    Call::Map { path: Path { directory, name: name(file) }, offset, data: data.into(), pause }
}

/// The file of a directory that is only appended to.
fn log_of(directory: Name) -> Path {
    Path { directory, name: name("log") }
}
