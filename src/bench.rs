//! `manyfs bench`: the same work on a mount and on a reference directory, side by side, and what it cost the cluster.
//!
//! Each phase runs on one directory and then on the other, round after round, so that a machine that changes its speed
//! changes it for both; the figure is the median of the rounds. Counters of upcalls, log entries and syncs are read from
//! the metrics of mount and storage nodes before and after each of the mount's phases.

pub mod counters;
pub mod phase;
pub mod tree;

use std::{io, path::PathBuf, time::Duration};

use counters::{Counters, MetricsSource};
use phase::Phase;
use tree::Tree;

#[derive(Debug)]
pub struct Config {
    /// A directory on the mount; a folder is made in it and removed again.
    pub directory: PathBuf,
    /// A directory on an ordinary file system, worked on in turn.
    pub reference: Option<PathBuf>,
    /// Files to copy in the untar phase; `None` makes a tree of small files up.
    pub tree: Option<PathBuf>,
    /// How often each phase runs; at least 1.
    pub rounds: usize,
    /// Files of the create phase and appends of the append phase.
    pub operations: usize,
    /// `host:port` of the HTTP services whose counters are shown.
    pub metrics: Vec<String>,
}

/// One row of the report.
#[derive(Debug, serde::Serialize)]
pub struct Figure {
    pub phase: &'static str,
    pub operations: usize,
    /// Median over the rounds, in microseconds per operation.
    pub micros: f64,
    pub reference_micros: Option<f64>,
    /// Per operation, over all rounds; absent where no metrics were named that have it.
    pub upcalls: Option<f64>,
    pub entries: Option<f64>,
    pub syncs: Option<f64>,
}

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{doing} {}: {source}", .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("metrics of {address}: {reason}; name the HTTP address (port 7442) of a storage node or mount")]
    Metrics { address: String, reason: String },
    #[error("{} holds no files to copy", .0.display())]
    EmptyTree(PathBuf),
}

/// Runs all phases and reports each as it is done.
///
/// # Errors
/// `Io` names the call and the path that failed; what the benchmark made is removed as far as possible.
pub fn run(config: &Config, mut report: impl FnMut(&Figure)) -> Result<(), BenchError> {
    let tree = match &config.tree {
        Some(path) => Tree::read(path)?,
        None => Tree::made_up(),
    };
    let metrics = config.metrics.iter().map(|address| MetricsSource::new(address)).collect::<Vec<_>>();
    let work = Workplace::new(config)?;
    for phase in Phase::all(&tree, config.operations) {
        report(&measure(&phase, &work, config.rounds.max(1), &metrics)?);
    }
    Ok(())
}

fn measure(
    phase: &Phase<'_>,
    work: &Workplace,
    rounds: usize,
    metrics: &[MetricsSource],
) -> Result<Figure, BenchError> {
    let (mut times, mut reference_times) = (Vec::new(), Vec::new());
    let mut spent = Counters::default();
    for round in 0..rounds {
        let before = Counters::read(metrics)?;
        times.push(phase.run(&work.directory, round)?);
        spent = spent.plus(&Counters::read(metrics)?.minus(&before));
        if let Some(reference) = &work.reference {
            reference_times.push(phase.run(reference, round)?);
        }
    }
    let operations = phase.operations();
    let micros = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e6 / operations as f64
    };
    let per_operation = |count: Option<u64>| Some(count? as f64 / (operations * rounds) as f64);
    Ok(Figure {
        phase: phase.name(),
        operations,
        micros: micros(&mut times),
        reference_micros: (!reference_times.is_empty()).then(|| micros(&mut reference_times)),
        upcalls: per_operation(spent.upcalls),
        entries: per_operation(spent.entries),
        syncs: per_operation(spent.syncs),
    })
}

/// The folders the phases work in; removed when dropped.
struct Workplace {
    directory: PathBuf,
    reference: Option<PathBuf>,
}

impl Workplace {
    fn new(config: &Config) -> Result<Self, BenchError> {
        let make = |parent: &PathBuf| {
            let path = parent.join(format!("manyfs-bench-{}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => Ok(path),
                Err(source) => Err(BenchError::Io { doing: "making the folder", path, source }),
            }
        };
        let directory = make(&config.directory)?;
        let mut work = Self { directory, reference: None };
        work.reference = config.reference.as_ref().map(make).transpose()?;
        Ok(work)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        for path in std::iter::once(&self.directory).chain(&self.reference) {
            if let Err(error) = std::fs::remove_dir_all(path) {
                tracing::warn!(path = %path.display(), %error, "the benchmark's folder could not be removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_measured_and_nothing_is_left_behind() {
        let (mount, reference) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config {
            directory: mount.path().to_owned(),
            reference: Some(reference.path().to_owned()),
            tree: None,
            rounds: 1,
            operations: 5,
            metrics: Vec::new(),
        };
        let mut phases = Vec::new();
        run(&config, |figure| {
            assert!(figure.micros > 0.0 && figure.reference_micros.is_some_and(|micros| micros > 0.0), "{figure:?}");
            assert!(figure.upcalls.is_none());
            phases.push(figure.phase);
        })
        .unwrap();
        assert_eq!(phases.len(), Phase::all(&Tree::made_up(), 5).len());
        assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(reference.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let config = Config {
            directory: PathBuf::from("/nonexistent/place"),
            reference: None,
            tree: None,
            rounds: 1,
            operations: 1,
            metrics: Vec::new(),
        };
        let error = run(&config, |_| ()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/place"), "{error}");
    }
}
