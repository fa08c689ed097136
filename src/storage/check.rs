//! Whether a data directory is whole: every checksum, every name, and that everything that is named is there. Offline.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use serde::Serialize;

use super::{
    Counters, StorageError, check_digest, check_ends,
    file::Disk,
    header::HEADER_BYTES,
    lock_node,
    log::recovery::recover,
    packs::{
        Catalog, CatalogChange, Location,
        pack::{PACK, Pack},
    },
    state::{Meta, database::Database},
};
use crate::{namespace::State, types::BlockHash};

/// What `check` found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CheckReport {
    pub cluster: String,
    pub node: u64,
    /// The log begins behind the first and ends with the second entry.
    pub log_begin: u64,
    pub log_end: u64,
    pub log_segments: u64,
    /// A crash interrupted the last write; it is cut off when the node starts, nothing acknowledged is lost.
    pub log_torn: Option<String>,
    pub state_index: u64,
    pub state_rows: u64,
    /// In hexadecimal; equal on all nodes at the same index. Missing where rows are damaged.
    pub state_digest: Option<String>,
    pub packs: u64,
    pub blocks: u64,
    pub block_bytes: u64,
    pub pins: u64,
    /// One sentence each.
    pub damages: Vec<String>,
    /// Blocks that extents name and that are not here, or damaged here: peers have them.
    pub missing: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is damaged and nothing is missing.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.damages.is_empty() && self.missing.is_empty()
    }

    fn damage(&mut self, error: &StorageError) {
        self.damages.push(error.to_string());
    }
}

/// Reads all of a node's directory and verifies it. Changes nothing that a start of the node would not.
///
/// # Errors
/// `NotCreated`, `NotBlank`, `InUse` while the node runs, `Access` and `Io` where something cannot be read at all.
/// Damage is not an error but in the report.
pub fn check(dir: &Path) -> Result<CheckReport, StorageError> {
    let (identity, _lock) = lock_node(dir)?;
    let mut report =
        CheckReport { cluster: identity.founding.cluster.to_string(), node: identity.node.0, ..CheckReport::default() };
    let log = match recover(&Disk::new(dir.join("log"))) {
        Ok(recovered) => Some(recovered),
        Err(error) if error.is_damage() => {
            report.damage(&error);
            None
        }
        Err(error) => return Err(error),
    };
    if let Some(log) = &log {
        report.log_begin = log.contents.compacted.0.0;
        report.log_end = log.contents.last().0;
        report.log_segments = log.segments.len() as u64;
        report.log_torn.clone_from(&log.tail.torn);
    }
    let (database, meta) = match Database::open(&dir.join("state"), Arc::new(Counters::default())) {
        Ok(opened) => opened,
        Err(error) if error.is_damage() => {
            report.damage(&error);
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    if let Some(log) = &log
        && let Err(error) = check_ends(&dir.join("log"), &log.contents, &meta)
    {
        report.damage(&error);
    }
    let references = check_state(&database, &meta, &mut report)?;
    check_packs(&Disk::new(dir.join("packs")), &database, &references, &mut report)?;
    Ok(report)
}

/// Verifies all rows and gives the blocks that they name, as far as they can be read.
fn check_state(
    database: &Database,
    meta: &Meta,
    report: &mut CheckReport,
) -> Result<BTreeMap<BlockHash, u64>, StorageError> {
    report.state_index = meta.index.0;
    let mut failed = None;
    let damages = report.damages.len();
    let rows = database.rows_or_errors().filter_map(|row| match row {
        Ok(row) => {
            report.state_rows += 1;
            Some(row)
        }
        Err(error) if error.is_damage() => {
            report.damages.push(error.to_string());
            None
        }
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let state = State::from_rows(rows);
    if let Some(error) = failed {
        return Err(error);
    }
    match state {
        _ if meta.index.0 == 0 && report.state_rows == 0 => Ok(BTreeMap::new()),
        Ok(state) => {
            if report.damages.len() == damages {
                report.state_digest = Some(format!("{:032x}", state.digest()));
                report.damages.extend(check_digest(&state, meta).err());
            }
            Ok(state.references())
        }
        Err(error) => {
            report.damages.push(error.to_string());
            Ok(BTreeMap::new())
        }
    }
}

fn check_packs(
    directory: &Disk,
    database: &Database,
    references: &BTreeMap<BlockHash, u64>,
    report: &mut CheckReport,
) -> Result<(), StorageError> {
    let mut indexed: HashMap<BlockHash, Location> = HashMap::new();
    let mut scanned = (0, HEADER_BYTES);
    let loaded = database.load(&mut |row| match row {
        CatalogChange::Block(hash, location) => indexed.extend(location.map(|location| (hash, location))),
        CatalogChange::Pin(..) => report.pins += 1,
        CatalogChange::Scanned(pack, offset) => scanned = (pack, offset),
    });
    match loaded {
        Err(error) if error.is_damage() => report.damage(&error),
        loaded => loaded?,
    }
    let mut present: HashSet<BlockHash> = HashSet::new();
    for sequence in PACK.list(directory)? {
        let Ok(number) = u32::try_from(sequence) else { continue };
        report.packs += 1;
        let pack = match Pack::open(directory, number) {
            Ok(pack) => pack,
            Err(error) if error.is_damage() => {
                report.damage(&error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut records = pack.records(0, true)?;
        while let Some(found) = records.next()? {
            let Some(length) = found.head.length else { continue };
            let place = Location { pack: number, offset: u32::try_from(found.offset).unwrap_or(u32::MAX), length };
            // Those behind are entered in the catalog when the node starts.
            if indexed.get(&found.head.hash) == Some(&place) || (number, found.offset) >= scanned {
                report.blocks += 1;
                report.block_bytes += u64::from(length);
                present.insert(found.head.hash);
            }
        }
        for gap in &records.gaps {
            report.damages.push(format!("{}, offset {}: {}", pack.path.display(), gap.offset, gap.found));
        }
    }
    for (hash, location) in indexed.iter().filter(|(hash, _)| !present.contains(*hash)) {
        let path = PACK.path(directory, u64::from(location.pack));
        report.damages.push(format!("{}, offset {}: block {hash} is not there", path.display(), location.offset));
    }
    report.missing = references.keys().filter(|hash| !present.contains(*hash)).map(BlockHash::to_string).collect();
    report.damages.sort();
    Ok(())
}
