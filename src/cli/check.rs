//! `manyfs check`: whether a data directory is whole.

use std::path::PathBuf;

use super::{
    Failure,
    report::{Format, size},
};
use crate::storage::{self, CheckReport};

/// Verify the data directory of a storage node that does not run: every checksum, every block, and that all is there.
///
/// Changes nothing. Ends with 1 where something is damaged or missing; the other nodes have it then.
///
/// Example: manyfs check /var/lib/manyfs
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The data directory.
    #[arg(value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    format: Format,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let report = storage::check(&self.data)?;
        self.format.print(&report, text)?;
        if report.is_whole() {
            return Ok(());
        }
        let (damages, missing) = (report.damages.len(), report.missing.len());
        Err(format!(
            "{} is not whole: {damages} damaged, {missing} missing; its peers have them, replace the node",
            self.data.display()
        )
        .into())
    }
}

fn text(report: &CheckReport) -> String {
    let mut lines = vec![
        format!("node {} of cluster {}", report.node, report.cluster),
        format!("log     entries {} to {} in {} segments", report.log_begin, report.log_end, report.log_segments),
        format!(
            "state   {} rows at entry {}, digest {}",
            report.state_rows,
            report.state_index,
            report.state_digest.as_deref().unwrap_or("unknown: rows are damaged")
        ),
        format!(
            "packs   {} with {} blocks, {}; {} pins",
            report.packs,
            report.blocks,
            size(report.block_bytes),
            report.pins
        ),
    ];
    lines.extend(
        report.log_torn.iter().map(|torn| format!("torn    {torn} (cut off at the next start, nothing is lost)")),
    );
    lines.extend(report.damages.iter().map(|damage| format!("damaged {damage}")));
    lines.extend(report.missing.iter().map(|block| format!("missing block {block}")));
    lines.push(if report.is_whole() { "whole" } else { "not whole" }.to_owned());
    lines.join("\n")
}
