//! `manyfs credential`: letting mounts in.

use std::path::PathBuf;

use serde::Serialize;

use super::{Failure, address, report::Format};
use crate::{pki::Authority, types::Access};

/// Make the files that let mounts in.
#[derive(Debug, clap::Subcommand)]
pub(super) enum CredentialCommand {
    Create(Create),
}

/// Make a credential: the one file that a mount of one volume needs.
///
/// Needs no storage node to run: the authority signs it here. An existing file is never overwritten.
///
/// Example: manyfs credential create --authority authority.toml --volume main --servers node1,node2,node3 --out main.toml
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// The cluster's authority file, made by `manyfs cluster authority`.
    #[arg(long, env = "MANYFS_AUTHORITY", value_name = "FILE")]
    authority: PathBuf,
    /// The volume it is for.
    #[arg(long, value_name = "NAME", default_value = "main")]
    volume: String,
    /// Storage nodes, separated by commas: host or host:port [default port: 7440]. A mount finds the others by itself.
    #[arg(long, env = "MANYFS_SERVERS", value_name = "HOSTS", value_delimiter = ',', required = true,
          value_parser = address::with_port)]
    servers: Vec<String>,
    /// The file to write, readable for its owner alone.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Let the mount read only.
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Made {
    cluster: String,
    volume: String,
    access: Access,
    credential: PathBuf,
}

impl CredentialCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create(command) => command.run(),
        }
    }
}

impl Create {
    fn run(self) -> Result<(), Failure> {
        let access = if self.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let authority = Authority::load(&self.authority)?;
        let credential = authority.issue_mount(&self.volume, access, self.servers)?;
        credential.save(&self.out)?;
        let made = Made { cluster: authority.cluster().to_string(), volume: self.volume, access, credential: self.out };
        self.format.print(&made, |made| {
            let may = if made.access == Access::ReadOnly { "read" } else { "read and write" };
            format!(
                "whoever has {} may {may} volume {}: manyfs mount --credential {} DIR",
                made.credential.display(),
                made.volume,
                made.credential.display()
            )
        })
    }
}
