//! `manyfs inspect`: what is in a data directory.

use std::path::PathBuf;

use bytes::Bytes;

use super::{Failure, report::print};
use crate::{
    namespace::describe::{describe_entry, describe_row},
    replica::proposed_by,
    storage::{self, Description, inspect::Parts},
};

/// Show what is in the data directory of a storage node that does not run: log, state and packs, line by line.
///
/// Changes nothing. Bytes that cannot be read are shown as damage.
///
/// Example: manyfs inspect /var/lib/manyfs --part log
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// The data directory.
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// Only these parts, separated by commas [default: all]
    #[arg(long, value_enum, value_name = "PARTS", value_delimiter = ',')]
    part: Vec<Part>,
    /// One JSON object for each line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The Raft log.
    Log,
    /// The rows of the replicated state.
    State,
    /// The packs of blocks.
    Packs,
}

impl Inspect {
    pub(super) fn run(self) -> Result<(), Failure> {
        let is_shown = |part| self.part.is_empty() || self.part.contains(&part);
        let parts = Parts { log: is_shown(Part::Log), state: is_shown(Part::State), packs: is_shown(Part::Packs) };
        let mut failed = None;
        let description = Description { entry: &entry, row: &describe_row };
        storage::inspect(&self.data, parts, description, &mut |line| {
            if failed.is_some() {
                return;
            }
            let text =
                if self.json { serde_json::to_string(&line).map_err(Failure::from) } else { Ok(line.to_string()) };
            failed = text.and_then(|text| print(&text)).err();
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// What an entry of the log does, in words.
fn entry(bytes: &[u8]) -> Option<String> {
    let data = proposed_by(&Bytes::copy_from_slice(bytes)).ok()?;
    if data.is_empty() { Some("raft's own".to_owned()) } else { describe_entry(&data) }
}
