//! `manyfs status`: how a cluster is, from whichever nodes answer.

mod headline;
mod report;
mod tables;

#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use self::headline::Health;
pub(super) use self::report::{ClusterView, MountView, NodeState, NodeView, VolumeView};
use super::{
    Failure,
    admin::{Administrator, Target},
    demo::Layout,
    report::{Format, is_read},
    runtime,
};
use crate::pki::Authority;

/// How often `--watch` looks.
const WATCH_PERIOD: Duration = Duration::from_secs(2);
/// Empties a terminal and goes to its upper left corner, as ECMA-48 has it.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show a cluster: how it does, its nodes, volumes and mounts.
///
/// Works with any node that answers, with and without a quorum. Without any flag it shows the demo in ./manyfs-demo, if
/// there is one. The first line says how the cluster does: HEALTHY; WARNING where something wants a person's eye;
/// DEGRADED while nodes are missing; anything else, such as NO QUORUM, while it takes no changes.
///
/// Example: manyfs status --authority authority.toml --servers node1,node2,node3
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// End with 0 only where the cluster is healthy: 3 on a warning or degraded, 4 where it takes no changes. 1 is, as ever,
    /// a command that could not be carried out.
    #[arg(long)]
    check: bool,
    /// Look again every 2 seconds until Ctrl-C.
    #[arg(long, conflicts_with = "check")]
    watch: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

/// `--check` found the cluster so; the exit code.
#[derive(Debug, thiserror::Error)]
#[error("the cluster is not healthy")]
pub(super) struct Unhealthy(pub(super) u8);

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let layout = self.target.layout()?;
        runtime()?.block_on(async {
            let administrator = self.target.administrator()?;
            if self.watch {
                tokio::select! {
                    result = self.watch(&administrator, layout.as_ref()) => return result,
                    stopped = tokio::signal::ctrl_c() => return Ok(stopped?),
                }
            }
            let view = ClusterView::of(&administrator.ask_all().await, layout.as_ref());
            self.format.print(&view, tables::text)?;
            if self.check {
                return view.headline.health.verdict().map_err(Failure::from);
            }
            // A demo can be looked at while all of it is dead; elsewhere silence is a failure. Why has been printed.
            if layout.is_none() && view.is_silent() { Err("no storage node answers".into()) } else { Ok(()) }
        })
    }

    /// One look after the other, until the reader of our output has gone.
    async fn watch(&self, administrator: &Administrator, layout: Option<&Layout>) -> Result<(), Failure> {
        let between = match io::stdout().is_terminal() {
            _ if self.format.json => "",
            true => CLEAR,
            false => "\n",
        };
        let mut before = if between == CLEAR { CLEAR } else { "" };
        loop {
            let view = ClusterView::of(&administrator.ask_all().await, layout);
            if !is_read(&format!("{before}{}", self.format.line(&view, tables::text)?))? {
                return Ok(());
            }
            before = between;
            tokio::time::sleep(WATCH_PERIOD).await;
        }
    }
}

impl Health {
    const fn verdict(self) -> Result<(), Unhealthy> {
        match self {
            Self::Healthy => Ok(()),
            Self::Warning | Self::Degraded => Err(Unhealthy(3)),
            Self::Down => Err(Unhealthy(4)),
        }
    }
}

impl Target {
    /// The demo that is meant, if one is.
    pub(super) fn layout(&self) -> Result<Option<Layout>, Failure> {
        match &self.dir {
            Some(dir) => Layout::load(dir).map(Some),
            None if self.authority.is_none() && self.servers.is_empty() => Layout::beside_us(),
            None => Ok(None),
        }
    }

    /// The way to the cluster that is meant.
    pub(super) fn administrator(&self) -> Result<Administrator, Failure> {
        if let Some(layout) = self.layout()? {
            return Administrator::new(&Authority::load(&layout.authority())?, layout.addresses());
        }
        match (&self.authority, self.servers.as_slice()) {
            (Some(authority), [_, ..]) => Administrator::new(&Authority::load(authority)?, self.servers.clone()),
            _ => Err("which cluster? Give --authority FILE and --servers HOSTS, or --dir DIR of a demo".into()),
        }
    }
}
