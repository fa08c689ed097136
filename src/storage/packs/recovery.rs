//! How the packs' tables are found again: from the catalog, and from the records that it does not know yet.

use std::collections::BTreeMap;

use super::{
    catalog::{Catalog, CatalogChange},
    index::{Index, Location, PackUse},
    pack::{PACK, Pack},
    writer::Current,
};
use crate::{
    storage::{
        Counters, StorageError,
        file::Directory,
        header::{HEADER_BYTES, remove_unfinished},
    },
    types::BlockHash,
};

pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) current: Option<Current>,
    pub(crate) next_number: u32,
}

/// Reads catalog and packs. Damage costs the blocks it hit, never the start: they are missing and come back from
/// peers.
pub(crate) fn recover(
    directory: &dyn Directory,
    catalog: &dyn Catalog,
    pack_bytes: u64,
    references: &BTreeMap<BlockHash, u64>,
    counters: &Counters,
) -> Result<Recovered, StorageError> {
    remove_unfinished(directory)?;
    // A killed process may have named a pack and not synced the name.
    counters.directory_syncs.add(1);
    directory.sync().map_err(|error| StorageError::unsynced(directory.path(), error))?;
    let mut index = Index::default();
    let mut newest = 0;
    for sequence in PACK.list(directory)? {
        let Ok(number) = u32::try_from(sequence) else { continue };
        newest = newest.max(number);
        match Pack::open(directory, number) {
            Ok(pack) => {
                let end = pack.length()?;
                index.packs.insert(number, PackUse { pack, end, live: 0 });
            }
            Err(error @ StorageError::Damaged { .. }) => {
                counters.damages.add(1);
                tracing::error!("{error}; its blocks are missing here until peers give them");
            }
            Err(error) => return Err(error),
        }
    }
    let mut scanned = (0, HEADER_BYTES);
    catalog.load(&mut |row| match row {
        CatalogChange::Scanned(pack, offset) => scanned = (pack, offset),
        row => enter(&mut index, row),
    })?;
    newest = newest.max(scanned.0);
    forget_lost_packs(&mut index, counters);
    for (hash, &count) in references {
        let change = i64::try_from(count).unwrap_or(i64::MAX);
        index.add_references(hash, change)?;
    }
    let current = scan_tail(&mut index, catalog, scanned, pack_bytes, counters)?;
    index.current = current.as_ref().map(|current| current.pack.number);
    Ok(Recovered { index, current, next_number: newest + 1 })
}

fn enter(index: &mut Index, row: CatalogChange) {
    match row {
        CatalogChange::Block(hash, location) => index.set_location(&hash, location),
        CatalogChange::Pin(pin, hash, true) => {
            index.add_pin(pin, &hash);
        }
        CatalogChange::Pin(pin, hash, false) => index.remove_pin(&pin, &hash),
        CatalogChange::Scanned(..) => {}
    }
}

/// Blocks whose pack is not there are nowhere.
fn forget_lost_packs(index: &mut Index, counters: &Counters) {
    let mut lost: BTreeMap<u32, Vec<BlockHash>> = BTreeMap::new();
    for (hash, location) in index.blocks().filter(|(_, location)| !index.packs.contains_key(&location.pack)) {
        lost.entry(location.pack).or_default().push(*hash);
    }
    for (pack, hashes) in lost {
        counters.damages.add(1);
        tracing::error!(
            pack,
            blocks = hashes.len(),
            "a pack is gone; its blocks are missing here until peers give them"
        );
        for hash in hashes {
            index.set_location(&hash, None);
        }
    }
}

/// Reads the records behind the last one that the catalog knows, and says where writing goes on.
fn scan_tail(
    index: &mut Index,
    catalog: &dyn Catalog,
    scanned: (u32, u64),
    pack_bytes: u64,
    counters: &Counters,
) -> Result<Option<Current>, StorageError> {
    let packs: Vec<_> = index.packs.range(scanned.0..).map(|(_, pack)| pack.pack.clone()).collect();
    let mut current = None;
    for pack in packs {
        let from = if pack.number == scanned.0 { scanned.1 } else { HEADER_BYTES };
        let mut changes = Vec::new();
        let mut records = pack.records(from, true)?;
        while let Some(found) = records.next()? {
            if let Some(length) = found.head.length
                && let Ok(offset) = u32::try_from(found.offset)
            {
                let location = Location { pack: pack.number, offset, length };
                changes.push(CatalogChange::Block(found.head.hash, Some(location)));
            }
            changes.extend(found.head.pin.map(|pin| CatalogChange::Pin(pin, found.head.hash, true)));
        }
        for gap in &records.gaps {
            counters.damages.add(1);
            tracing::warn!(
                file = %pack.path.display(), offset = gap.offset, found = gap.found,
                "a record of the pack cannot be read; where an extent names its block, it comes back from peers"
            );
        }
        let end = records.end.min(pack.length()?);
        if !changes.is_empty() {
            // A killed process may have left them unsynced.
            counters.pack_syncs.add(1);
            pack.file.sync().map_err(|error| StorageError::unsynced(&pack.path, error))?;
            changes.push(CatalogChange::Scanned(pack.number, end));
            catalog.apply(&changes)?;
            for change in changes {
                enter(index, change);
            }
        }
        let reserved = pack.length()?;
        if let Some(pack) = index.packs.get_mut(&pack.number) {
            pack.end = end;
        }
        current = (end < pack_bytes && end >= HEADER_BYTES).then(|| Current { pack, position: end, reserved });
    }
    Ok(current)
}
