//! A directory in memory that knows what a power cut at any moment could leave of it.
//!
//! Every write, sync, cut, creation, rename and removal is a moment. At a moment the disk surely holds what was synced;
//! of what was not, any part may have reached it: any of the 512-byte sectors of a write, any change of a file's
//! length, any change of a name.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use manyfs::storage::file::{Directory, RandomFile};

const SECTOR: usize = 512;

/// Numbers that look random and are the same in every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, usize),
    Remove(String),
}

#[derive(Clone, Debug, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

/// The whole directory at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    files: Vec<Content>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    unsynced: Vec<NameChange>,
}

/// A moment at which the power could have been cut.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) image: Image,
    /// What the test had noted then: how much was acknowledged.
    pub(crate) note: u64,
}

/// Called at every moment, before the change; gives the note.
type Note = Arc<dyn Fn() -> u64 + Send + Sync>;

#[derive(Default)]
struct State {
    image: Image,
    moments: Vec<Moment>,
    note: Option<Note>,
    fail_syncs: bool,
    /// No file can be opened: the process has as many as it may.
    lacks_descriptors: bool,
    /// Bytes that all files together may have.
    space: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct Recorder {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Begins with what `image` holds, and with nothing unsynced.
    pub(crate) fn new(image: Image) -> Self {
        let state = State { image, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), path: PathBuf::from("/recorded") }
    }

    /// From now on every moment is kept, with what `note` says then.
    pub(crate) fn record(&self, note: impl Fn() -> u64 + Send + Sync + 'static) {
        self.state().note = Some(Arc::new(note));
    }

    pub(crate) fn take_moments(&self) -> Vec<Moment> {
        std::mem::take(&mut self.state().moments)
    }

    /// The moment now.
    pub(crate) fn now(&self, note: u64) -> Moment {
        Moment { image: self.state().image.clone(), note }
    }

    pub(crate) fn fail_syncs(&self) {
        self.state().fail_syncs = true;
    }

    pub(crate) fn lack_descriptors(&self, lacks: bool) {
        self.state().lacks_descriptors = lacks;
    }

    /// As open(2).
    fn take_descriptor(&self) -> io::Result<()> {
        if self.state().lacks_descriptors { Err(io::Error::from_raw_os_error(24)) } else { Ok(()) }
    }

    pub(crate) fn limit_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.state().image.bytes()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }

    fn change<T>(&self, change: impl FnOnce(&mut Image) -> io::Result<T>) -> io::Result<T> {
        let note = self.state().note.clone();
        let note = note.map(|note| note());
        let mut state = self.state();
        if let Some(note) = note {
            let image = state.image.clone();
            state.moments.push(Moment { image, note });
        }
        change(&mut state.image)
    }
}

impl Image {
    fn bytes(&self) -> u64 {
        self.live.values().map(|&file| self.files[file].live.len() as u64).sum()
    }

    /// What the disk holds after a power cut: `keep` says of each thing that was not synced whether it arrived.
    pub(crate) fn after_power_cut(&self, keep: &mut dyn FnMut() -> bool) -> Self {
        let mut names = self.durable.clone();
        for change in &self.unsynced {
            if keep() {
                change.apply(&mut names);
            }
        }
        let files = self.files.iter().map(|file| file.after_power_cut(keep)).collect();
        Self { files, live: names.clone(), durable: names, unsynced: Vec::new() }
    }

    /// What the operating system holds when only the process died.
    pub(crate) fn after_kill(&self) -> Self {
        self.clone()
    }

    /// The files' names and live contents, to be damaged and put back.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        self.live.iter().map(|(name, &file)| (name.clone(), self.files[file].live.clone())).collect()
    }

    /// A directory of these files, all synced.
    pub(crate) fn of(contents: BTreeMap<String, Vec<u8>>) -> Self {
        let mut image = Self::default();
        for (name, bytes) in contents {
            image.live.insert(name, image.files.len());
            image.files.push(Content { live: bytes.clone(), durable: bytes, unsynced: Vec::new() });
        }
        image.durable = image.live.clone();
        image
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Set(name, file) => {
                // A rename took the old name away with the same change.
                names.retain(|_, other| other != file);
                names.insert(name.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Content {
    fn after_power_cut(&self, keep: &mut dyn FnMut() -> bool) -> Self {
        let mut bytes = self.durable.clone();
        for change in &self.unsynced {
            match change {
                Change::Length(length) if keep() => bytes.resize(*length as usize, 0),
                Change::Length(_) => {}
                Change::Write(offset, written) => {
                    let (mut at, end) = (*offset as usize, *offset as usize + written.len());
                    while at < end {
                        let next = (at / SECTOR * SECTOR + SECTOR).min(end);
                        if keep() {
                            if bytes.len() < next {
                                bytes.resize(next, 0);
                            }
                            let from = at - *offset as usize;
                            bytes[at..next].copy_from_slice(&written[from..from + next - at]);
                        }
                        at = next;
                    }
                }
            }
        }
        Self { live: bytes.clone(), durable: bytes, unsynced: Vec::new() }
    }
}

#[derive(Clone, Debug)]
struct RecordedFile {
    recorder: Recorder,
    number: usize,
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Directory for Recorder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().image.live.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn RandomFile>> {
        self.take_descriptor()?;
        let number = self.change(|image| {
            let number = image.files.len();
            image.files.push(Content::default());
            image.live.insert(name.to_owned(), number);
            image.unsynced.push(NameChange::Set(name.to_owned(), number));
            Ok(number)
        })?;
        Ok(Arc::new(RecordedFile { recorder: self.clone(), number }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn RandomFile>> {
        self.take_descriptor()?;
        let number = *self.state().image.live.get(name).ok_or_else(missing)?;
        Ok(Arc::new(RecordedFile { recorder: self.clone(), number }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|image| {
            let number = image.live.remove(from).ok_or_else(missing)?;
            image.live.insert(to.to_owned(), number);
            image.unsynced.push(NameChange::Set(to.to_owned(), number));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|image| {
            image.live.remove(name).ok_or_else(missing)?;
            image.unsynced.push(NameChange::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.change(|image| {
            image.durable = image.live.clone();
            image.unsynced.clear();
            Ok(())
        })
    }

    fn available(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.space.map_or(u64::MAX / 2, |space| space.saturating_sub(state.image.bytes())))
    }
}

impl RandomFile for RecordedFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.recorder.state().image.files[self.number].live.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.recorder.state();
        let bytes = &state.image.files[self.number].live;
        let part = bytes.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.recorder.change(|image| {
            let file = &mut image.files[self.number];
            let end = offset as usize + bytes.len();
            if file.live.len() < end {
                file.live.resize(end, 0);
            }
            file.live[offset as usize..end].copy_from_slice(bytes);
            file.unsynced.push(Change::Write(offset, bytes.to_vec()));
            Ok(())
        })
    }

    fn reserve(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset + length;
        let available = self.recorder.available()?;
        self.recorder.change(|image| {
            let file = &mut image.files[self.number];
            let more = end.saturating_sub(file.live.len() as u64);
            if more > available {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if more > 0 {
                file.live.resize(end as usize, 0);
                file.unsynced.push(Change::Length(end));
            }
            Ok(())
        })
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.recorder.change(|image| {
            let file = &mut image.files[self.number];
            file.live.resize(length as usize, 0);
            file.unsynced.push(Change::Length(length));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        if self.recorder.state().fail_syncs {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.recorder.change(|image| {
            let file = &mut image.files[self.number];
            file.durable = file.live.clone();
            file.unsynced.clear();
            Ok(())
        })
    }
}
