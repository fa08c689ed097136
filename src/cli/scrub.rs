//! `manyfs scrub`: has the storage nodes verify what they hold, now.

use serde::Serialize;

use super::{Failure, admin::Target, report::Format, runtime};

/// Have every storage node verify all that is on its disk, now.
///
/// They do so by themselves once a week. Returns at once: each node reads slowly in the background, says in its log when
/// it is done, and fetches what is damaged from the others. A node that is down stops none of the others; the command
/// names it and fails. The metrics scrubs_total and damages_total count both.
///
/// Example: manyfs scrub --authority authority.toml --servers node1,node2,node3
#[derive(Debug, clap::Args)]
pub(super) struct Scrub {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Begun {
    /// Addresses of the nodes that verify what they hold.
    scrubbing: Vec<String>,
    /// Why others do not.
    problems: Vec<String>,
}

impl Scrub {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (scrubbing, problems) = runtime()?.block_on(async {
            let administrator = self.target.administrator()?;
            Ok::<_, Failure>(administrator.scrub().await)
        })?;
        let failed = problems.join("; ");
        self.format.print(&Begun { scrubbing, problems }, |begun| match begun.scrubbing.as_slice() {
            [] => "scrubbing: none".to_owned(),
            nodes => format!("scrubbing: {}", nodes.join(", ")),
        })?;
        if failed.is_empty() { Ok(()) } else { Err(format!("not all nodes verify what they hold: {failed}").into()) }
    }
}
