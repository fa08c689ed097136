//! `manyfs scrub`: has the storage nodes verify what they hold, now.

use serde::Serialize;

use super::{Failure, admin::Target, report::Format, runtime};

/// Have every storage node verify all that is on its disk, now.
///
/// They do so by themselves once a week. Returns at once: each node reads slowly in the background, says in its log when
/// it is done, and fetches what is damaged from the others. The metrics scrubs_total and damages_total count both.
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
}

impl Scrub {
    pub(super) fn run(self) -> Result<(), Failure> {
        let scrubbing = runtime()?.block_on(async {
            let administrator = self.target.administrator()?;
            administrator.scrub().await
        })?;
        self.format.print(&Begun { scrubbing }, |begun| format!("scrubbing: {}", begun.scrubbing.join(", ")))
    }
}
