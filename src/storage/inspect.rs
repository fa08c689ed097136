//! What is in a data directory, line by line, for people and programs. Offline: the node must not run.

use std::{fmt, path::Path, sync::Arc};

use serde::Serialize;

use super::{
    Counters, FORMAT, StorageError,
    file::Disk,
    header::FileHeader,
    lock_node,
    log::{
        Record,
        recovery::read_segment,
        segment::{SEGMENT, SegmentHeader},
    },
    packs::{
        Catalog, CatalogChange,
        pack::{PACK, Pack},
    },
    state::database::Database,
};
use crate::types::FoundingId;

/// Which parts of a directory are shown; the default is all.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    pub log: bool,
    pub state: bool,
    pub packs: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self { log: true, state: true, packs: true }
    }
}

/// Says what a row's key and value mean.
pub type DescribeRow<'a> = &'a dyn Fn(&[u8], &[u8]) -> Option<String>;

/// Says what bytes mean that the store itself does not understand; `None` leaves them as they are.
#[derive(Clone, Copy)]
pub struct Description<'a> {
    /// Of the encoded raft entry in a record of the log.
    pub entry: &'a dyn Fn(&[u8]) -> Option<String>,
    pub row: DescribeRow<'a>,
}

impl Default for Description<'_> {
    fn default() -> Self {
        Self { entry: &|_| None, row: &|_, _| None }
    }
}

impl fmt::Debug for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Description").finish_non_exhaustive()
    }
}

/// One thing in a data directory. `Display` is for people, `Serialize` for programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Line {
    Identity {
        cluster: String,
        founding: String,
        node: u64,
        format: u32,
    },
    /// A segment of the log; its records follow. `torn`: what a crash left behind `end`.
    Segment {
        file: String,
        first_group: u64,
        end: u64,
        bytes: u64,
        torn: Option<String>,
    },
    /// A record of the log. `record` is entry, hard-state, truncate, reset or compacted.
    Record {
        file: String,
        offset: u64,
        group: u64,
        record: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        index: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        term: Option<u64>,
        bytes: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
    },
    /// What the rows are the state of; they follow.
    State {
        index: u64,
        term: u64,
        membership: String,
    },
    /// A row; `key` in hexadecimal.
    Row {
        key: String,
        bytes: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
    },
    /// Up to where the catalog knows the packs.
    Scanned {
        pack: u32,
        offset: u64,
    },
    /// A pin that holds.
    Pin {
        volume: u32,
        session: u64,
        upload: u64,
        block: String,
    },
    /// A pack; its records follow.
    Pack {
        file: String,
        bytes: u64,
    },
    /// A record of a pack: a block, or with no bytes a pin. `indexed`: the catalog finds the block here.
    Block {
        file: String,
        offset: u64,
        block: String,
        bytes: u32,
        indexed: bool,
    },
    /// Something that cannot be read.
    Damage {
        found: String,
    },
}

/// Shows what is in `dir`, one line at a time.
///
/// # Errors
/// `NotCreated`, `NotBlank`, `InUse` while the node runs, `State` and `Io` where a part cannot be read at all. Damage
/// inside the parts is a line.
pub fn inspect(
    dir: &Path,
    parts: Parts,
    description: Description<'_>,
    emit: &mut dyn FnMut(Line),
) -> Result<(), StorageError> {
    let (identity, _lock) = lock_node(dir)?;
    let FoundingId { cluster, number } = identity.founding;
    let (cluster, founding) = (cluster.to_string(), number.to_string());
    emit(Line::Identity { cluster, founding, node: identity.node.0, format: FORMAT });
    if parts.log {
        log(&Disk::new(dir.join("log")), description, emit)?;
    }
    if !parts.state && !parts.packs {
        return Ok(());
    }
    let (database, meta) = Database::open(&dir.join("state"), Arc::new(Counters::default()))?;
    if parts.state {
        emit(Line::State { index: meta.index.0, term: meta.term.0, membership: hex(&meta.membership) });
        for row in database.rows_or_errors() {
            emit(match row {
                Ok((key, value)) => {
                    Line::Row { key: hex(&key), bytes: value.len(), description: (description.row)(&key, &value) }
                }
                Err(error) => Line::Damage { found: error.to_string() },
            });
        }
    }
    if parts.packs { packs(&Disk::new(dir.join("packs")), &database, emit) } else { Ok(()) }
}

fn log(directory: &Disk, description: Description<'_>, emit: &mut dyn FnMut(Line)) -> Result<(), StorageError> {
    let sequences = SEGMENT.list(directory)?;
    for (at, &sequence) in sequences.iter().enumerate() {
        let file = SEGMENT.path(directory, sequence).display().to_string();
        let successor = sequences.get(at + 1).filter(|&&next| next == sequence + 1);
        let end = match successor.map(|&next| SEGMENT.open(directory, next)) {
            Some(Ok((_, header))) => Some(FileHeader::previous_end(&header)),
            // The damaged header is a line of its own, in its turn.
            Some(Err(_)) | None => None,
        };
        let (_, header, scan, bytes) = match read_segment(directory, sequence, end) {
            Ok(segment) => segment,
            Err(error) if error.is_damage() => {
                emit(Line::Damage { found: error.to_string() });
                continue;
            }
            Err(error) => return Err(error),
        };
        emit(Line::Segment {
            file: file.clone(),
            first_group: header.first_group(),
            end: scan.end,
            bytes,
            torn: scan.torn,
        });
        for (offset, framed) in scan.records {
            let (record, index, term, bytes, text) = match &framed.record {
                Record::Entry(entry) => {
                    let text = (description.entry)(&entry.bytes);
                    ("entry", Some(entry.index), Some(entry.term), entry.bytes.len(), text)
                }
                Record::HardState(bytes) => ("hard-state", None, None, bytes.len(), None),
                Record::Truncate(index) => ("truncate", Some(*index), None, 0, None),
                Record::Reset(index, term) => ("reset", Some(*index), Some(*term), 0, None),
                Record::Compacted(index, term) => ("compacted", Some(*index), Some(*term), 0, None),
            };
            emit(Line::Record {
                file: file.clone(),
                offset,
                group: framed.group,
                record,
                index: index.map(|index| index.0),
                term: term.map(|term| term.0),
                bytes,
                description: text,
            });
        }
    }
    Ok(())
}

fn packs(directory: &Disk, database: &Database, emit: &mut dyn FnMut(Line)) -> Result<(), StorageError> {
    let mut indexed = std::collections::HashMap::new();
    database.load(&mut |row| match row {
        CatalogChange::Block(hash, location) => {
            indexed.extend(location.map(|location| ((location.pack, location.offset), hash)));
        }
        CatalogChange::Pin(pin, hash, _) => emit(Line::Pin {
            volume: pin.volume.0,
            session: pin.session.0,
            upload: pin.upload.0,
            block: hash.to_string(),
        }),
        CatalogChange::Scanned(pack, offset) => emit(Line::Scanned { pack, offset }),
    })?;
    for sequence in PACK.list(directory)? {
        let Ok(number) = u32::try_from(sequence) else { continue };
        let pack = match Pack::open(directory, number) {
            Ok(pack) => pack,
            Err(error) if error.is_damage() => {
                emit(Line::Damage { found: error.to_string() });
                continue;
            }
            Err(error) => return Err(error),
        };
        let file = pack.path.display().to_string();
        emit(Line::Pack {
            file: file.clone(),
            bytes: pack.file.length().map_err(|error| StorageError::io("read", &pack.path, error))?,
        });
        let mut records = pack.records(0, false)?;
        let mut gaps = 0;
        while let Some(found) = records.next()? {
            for gap in &records.gaps[gaps..] {
                emit(Line::Damage { found: format!("{file}, offset {}: {}", gap.offset, gap.found) });
            }
            gaps = records.gaps.len();
            let place = (number, u32::try_from(found.offset).unwrap_or(u32::MAX));
            emit(Line::Block {
                file: file.clone(),
                offset: found.offset,
                block: found.head.hash.to_string(),
                bytes: found.head.length.unwrap_or(0),
                indexed: indexed.get(&place) == Some(&found.head.hash),
            });
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity { cluster, founding, node, format } => {
                write!(f, "node {node} of founding {founding} of cluster {cluster}, format {format}")
            }
            Self::Segment { file, first_group, end, bytes, torn } => {
                write!(f, "segment {file}: groups from {first_group} on, records up to {end} of {bytes} bytes")?;
                torn.iter().try_for_each(|torn| write!(f, "; torn: {torn}"))
            }
            Self::Record { offset, group, record, index, term, bytes, description, .. } => {
                write!(f, "  {offset:>10} group {group} {record}")?;
                index.iter().try_for_each(|index| write!(f, " index {index}"))?;
                term.iter().try_for_each(|term| write!(f, " term {term}"))?;
                write!(f, " {bytes} bytes")?;
                description.iter().try_for_each(|text| write!(f, ": {text}"))
            }
            Self::State { index, term, membership } => {
                write!(f, "state at entry {index} of term {term}, membership {membership}")
            }
            Self::Row { key, bytes, description } => {
                write!(f, "  {key} {bytes} bytes")?;
                description.iter().try_for_each(|text| write!(f, ": {text}"))
            }
            Self::Scanned { pack, offset } => write!(f, "catalog complete up to offset {offset} of pack {pack}"),
            Self::Pin { volume, session, upload, block } => {
                write!(f, "pin of volume {volume} session {session} upload {upload} on block {block}")
            }
            Self::Pack { file, bytes } => write!(f, "pack {file}: {bytes} bytes"),
            Self::Block { offset, block, bytes, indexed, .. } => {
                let note = match (bytes, indexed) {
                    (0, _) => ", a pin",
                    (_, true) => "",
                    (_, false) => ", not indexed",
                };
                write!(f, "  {offset:>10} block {block} {bytes} bytes{note}")
            }
            Self::Damage { found } => write!(f, "DAMAGE {found}"),
        }
    }
}
