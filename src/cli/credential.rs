//! `manyfs credential`: letting mounts in.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    Failure, address,
    admin::Administrator,
    report::{Format, print},
    runtime,
};
use crate::{
    pki::{Authority, Credential, check_volume_name},
    types::{Access, Grant},
};

/// Make the files that let mounts in.
#[derive(Debug, clap::Subcommand)]
pub(super) enum CredentialCommand {
    Create(Create),
}

/// Make a credential: the one file that a mount of one volume needs.
///
/// The storage nodes are asked which cluster and volume that is: the credential is for these alone, and not for others of
/// the same name that come after them. The authority signs it here. An existing file is never overwritten.
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
    /// The file to write, readable for its owner alone; `-` is standard output.
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
        let credential = runtime()?.block_on(issue(&authority, &self.volume, access, self.servers))?;
        if self.out == Path::new("-") {
            return print(credential.to_text()?.trim_end());
        }
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

/// A credential for the volume that has this name now, at the servers that are also to be its own.
pub(super) async fn issue(
    authority: &Authority,
    name: &str,
    access: Access,
    servers: Vec<String>,
) -> Result<Credential, Failure> {
    check_volume_name(name)?;
    let (founding, volume) = Administrator::new(authority, servers.clone())?.volume(name).await?;
    let grant = Grant { founding, volume, name: name.to_owned(), access };
    Ok(authority.issue_mount(grant, servers)?)
}
