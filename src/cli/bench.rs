//! `manyfs bench`: measuring a mount beside another file system.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{
    Failure, mountpoint,
    report::{columns, print, table},
};
use crate::bench::{self, BenchError, Config, Figure};

/// Measure a directory on a mount, side by side with one on another file system.
///
/// Each phase runs on one and then on the other, round after round; figures are medians, in microseconds per operation
/// (µs EACH), beside the reference and how many times as long that is. With --metrics the counters of mount and storage
/// nodes are read too: upcalls (of mounts), log entries and syncs (of nodes) per operation.
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
        let directory = config.directory.clone();
        let mut figures = Vec::new();
        let mut failed = None;
        let measured = bench::run(&config, |figure| {
            if self.json && failed.is_none() {
                failed = serde_json::to_string(figure).map_err(Failure::from).and_then(|line| print(&line)).err();
            } else {
                eprintln!("{} is done", figure.phase);
                figures.push(row(figure));
            }
        });
        measured.map_err(|error| explained(error, &directory))?;
        if let Some(failure) = failed {
            return Err(failure);
        }
        if self.json {
            return Ok(());
        }
        print(&figures_table(columns(), figures))
    }
}

fn figures_table(width: u16, figures: Vec<[String; 8]>) -> String {
    let heading = ["PHASE", "COUNT", "µs EACH", "REFERENCE", "TIMES", "UPCALLS", "ENTRIES", "SYNCS"];
    table(width, heading, figures)
}

/// On a mount EIO has one meaning more than on a disk.
fn explained(error: BenchError, directory: &Path) -> Failure {
    let is_eio = matches!(&error, BenchError::Io { source, .. } if source.raw_os_error() == Some(Errno::EIO as i32));
    if is_eio && mountpoint::is_on_ours(directory) {
        return format!(
            "{error}; so fails what no majority of the storage nodes has taken within --write-timeout (30 s): look at \
             `manyfs status` for a quorum"
        )
        .into();
    }
    error.into()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{phase::Phase, tree::Tree};

    /// It was headed "MICROSECO / NDS", and broke the names of phases.
    #[test]
    fn the_table_has_one_line_a_phase() {
        let tree = Tree::made_up();
        let phases = Phase::all(&tree, 1_000_000);
        let rows = phases.iter().map(|phase| {
            row(&Figure {
                phase: phase.name(),
                operations: phase.operations(),
                micros: 99_999.9,
                reference_micros: Some(99_999.9),
                upcalls: Some(99.99),
                entries: None,
                syncs: Some(99.99),
            })
        });
        let text = figures_table(80, rows.collect());
        assert_eq!(text.lines().count(), phases.len() + 1, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
