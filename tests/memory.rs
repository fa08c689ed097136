//! What a volume costs in memory: a sidecar holds all of it. In a test program of its own, so that nothing else
//! counts; run with `-- --nocapture` to see the figures, with `MANYFS_FILES=1000000` for a large volume.

use std::{fs, hint::black_box, time::Instant};

use manyfs::{
    namespace::{Command, Entry, EntryHeader, NewNode, Operation, Reply, Volume, VolumeOptions},
    types::{BlockHash, ClearSuid, Ino, LogIndex, Name, Piece, Sequence, SessionId, Stamp, VolumeId},
};

/// Bytes for a file with one extent and a name of 24 bytes, its share of directories included: 100,000 files are
/// below 60 MiB (a sidecar has 96), 1,000,000 below 600 (it has 800).
const BYTES_PER_FILE_MAX: u64 = 600;
const FILES_PER_DIRECTORY: u64 = 100;

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux has it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") * 1024
}

struct Builder {
    volume: Volume,
    index: u64,
}

impl Builder {
    fn apply(&mut self, operation: Operation) -> Reply {
        self.index += 1;
        let header = EntryHeader {
            feature_level: 1,
            volume: VolumeId(1),
            session: SessionId(0),
            sequence: Sequence(0),
            answered: Vec::new(),
            stamp: Stamp(self.index * 1000),
        };
        let entry = Entry { header, command: Command::Operation(operation) };
        // A mount publishes every version and drops the one before.
        let published = self.volume.clone();
        let reply = self.volume.apply(LogIndex(self.index), &entry).outcome.expect("nothing stands against it");
        drop(published);
        reply
    }

    fn make(&mut self, parent: Ino, name: &str, node: NewNode) -> Ino {
        let name = Name::new(name.as_bytes()).expect("a name");
        let made = self.apply(Operation::Make {
            parent,
            name,
            node,
            mode: 0o644,
            uid: 33,
            gid: 33,
            delegate: false,
            umask: 0,
        });
        let Reply::Made { ino } = made else { panic!("{made:?}") };
        ino
    }
}

#[test]
fn a_file_costs_less_than_its_share() {
    let files: u64 = std::env::var("MANYFS_FILES").ok().and_then(|files| files.parse().ok()).unwrap_or(30_000);
    let volume = Volume::new(VolumeId(1), "main".to_owned(), VolumeOptions::default(), Stamp(1));
    let mut builder = Builder { volume, index: 0 };
    let before = resident_bytes();
    let start = Instant::now();
    let mut directory = Ino::ROOT;
    for file in 0..files {
        if file % FILES_PER_DIRECTORY == 0 {
            directory = builder.make(Ino::ROOT, &format!("directory-{file}"), NewNode::Directory);
        }
        let ino = builder.make(directory, &format!("class-plugin-{file:07}.php"), NewNode::File);
        let block = Some(BlockHash::of(&file.to_be_bytes()));
        let piece = Piece { offset: 0, length: 10_000, block, content: None };
        let uploads = Vec::new();
        builder.apply(Operation::Write {
            ino,
            pieces: vec![piece],
            append: false,
            mtime: None,
            clear_suid: ClearSuid::No,
            uploads,
            fence: None,
        });
    }
    let (grown, took) = (resident_bytes() - before, start.elapsed());
    println!(
        "{files} files applied: {} bytes a file, {} us an entry",
        grown / files,
        took.as_micros() as u64 / builder.index
    );

    let rows: Vec<_> = builder.volume.rows().collect();
    drop(builder);
    let before = resident_bytes();
    let start = Instant::now();
    let loaded = Volume::from_rows(rows.iter().cloned()).expect("its own rows");
    let (loaded_bytes, took) = (resident_bytes().saturating_sub(before), start.elapsed());
    println!("{} rows loaded: {} bytes a file more, {} ms", rows.len(), loaded_bytes / files, took.as_millis());
    black_box(&loaded);
    let directories = files.div_ceil(FILES_PER_DIRECTORY);
    assert_eq!(loaded.inode_count(), files + directories + 1);
    assert!(grown / files < BYTES_PER_FILE_MAX, "{} bytes a file", grown / files);
}
