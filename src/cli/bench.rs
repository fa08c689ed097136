//! `manyfs bench`: measuring a mount beside another file system.

use std::path::PathBuf;

use super::{
    Failure,
    report::{print, table},
};
use crate::bench::{self, Config, Figure};

/// Measure a directory on a mount, side by side with one on another file system.
///
/// Each phase runs on one and then on the other, round after round; figures are medians, in microseconds per operation.
/// With --metrics the counters of mount and storage nodes are read too: upcalls, log entries and syncs per operation.
///
/// Example: manyfs bench /srv/wp-content --reference /tmp --metrics 127.0.0.1:7442
#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    /// A directory on the mount; a folder is made in it and removed again.
    directory: PathBuf,
    /// A directory on an ordinary file system.
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Files to copy, such as WordPress's own [default: small files that are made up]
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// How often each phase runs.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Files that are made, and appends, in a phase.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    operations: u32,
    /// HTTP addresses of the mount and the storage nodes, separated by commas.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    metrics: Vec<String>,
    /// One JSON object for each phase.
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = Config {
            directory: self.directory,
            reference: self.reference,
            tree: self.tree,
            rounds: self.rounds.into(),
            operations: self.operations as usize,
            metrics: self.metrics,
        };
        let mut figures = Vec::new();
        let mut failed = None;
        bench::run(&config, |figure| {
            if self.json && failed.is_none() {
                failed = serde_json::to_string(figure).map_err(Failure::from).and_then(|line| print(&line)).err();
            } else {
                eprintln!("{} is done", figure.phase);
                figures.push(row(figure));
            }
        })?;
        if let Some(failure) = failed {
            return Err(failure);
        }
        if self.json {
            return Ok(());
        }
        print(&table(
            ["PHASE", "OPERATIONS", "MICROSECONDS", "REFERENCE", "TIMES", "UPCALLS", "ENTRIES", "SYNCS"],
            figures,
        ))
    }
}

fn row(figure: &Figure) -> [String; 8] {
    let number = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"));
    let times = figure.reference_micros.filter(|reference| *reference > 0.0).map(|reference| figure.micros / reference);
    [
        figure.phase.to_owned(),
        figure.operations.to_string(),
        format!("{:.1}", figure.micros),
        figure.reference_micros.map_or_else(|| "-".to_owned(), |micros| format!("{micros:.1}")),
        number(times),
        number(figure.upcalls),
        number(figure.entries),
        number(figure.syncs),
    ]
}
