//! `manyfs volume`: making, listing, changing and deleting volumes.

use serde::Serialize;

use super::{
    Failure,
    admin::{Change, Target},
    report::{Format, columns, size, table},
    runtime,
    status::{ClusterView, VolumeView},
};
use crate::{
    limits,
    namespace::{ByteQuota, QuotaChanges, VolumeOptions},
    pki::check_volume_name,
};

/// Make, list, change and delete volumes: trees of their own, with a root and credentials each.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Volume {
    Create(Create),
    List(List),
    Set(Set),
    Delete(Delete),
}

/// Make an empty volume.
///
/// Example: manyfs volume create site2 --authority authority.toml --servers node1,node2,node3
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// Its name: letters, digits, '-', '_' and '.', at most 63.
    #[arg(value_parser = name)]
    name: String,
    /// User and group of its root directory, as numbers.
    #[arg(long, value_name = "UID:GID", default_value = "33:33", value_parser = owner)]
    owner: (u32, u32),
    /// Permission bits of its root directory, octal.
    #[arg(long, value_name = "MODE", default_value = "755", value_parser = mode)]
    mode: u16,
    #[command(flatten)]
    quotas: Quotas,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

/// What a volume may hold.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Quotas {
    /// Bytes of content and extended attributes the volume may hold, with K, M, G or T for powers of 1024 [default: no
    /// limit]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(super) quota: Option<u64>,
    /// Files, directories and other inodes the volume may have, 2097152 at most; nodes keep each in about 800 bytes of
    /// memory, mounts in about 600
    #[arg(long, value_name = "NUMBER", default_value_t = limits::INODES_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=limits::INODES_MAX))]
    pub(super) quota_inodes: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { quota: None, quota_inodes: limits::INODES_DEFAULT }
    }
}

/// List the volumes of a cluster.
///
/// Example: manyfs volume list --authority authority.toml --servers node1,node2,node3
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

/// Change what a volume may hold.
///
/// It may be less than what the volume holds: nothing is deleted, and nothing grows (EDQUOT) until it is below again.
///
/// Example: manyfs volume set site2 --quota 20G --authority authority.toml --servers node1,node2,node3
#[derive(Debug, clap::Args)]
pub(super) struct Set {
    #[arg(value_parser = name)]
    name: String,
    #[command(flatten)]
    quotas: NewQuotas,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct NewQuotas {
    /// Bytes of content and extended attributes the volume may hold, with K, M, G or T for powers of 1024; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = byte_quota)]
    quota: Option<ByteQuota>,
    /// Files, directories and other inodes the volume may have, 2097152 at most
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=limits::INODES_MAX))]
    quota_inodes: Option<u64>,
}

/// Delete a volume and everything in it, for good.
///
/// Refused while it is mounted. With --force its mounts answer ESTALE from then on, until they are unmounted.
///
/// Example: manyfs volume delete site2 --yes --authority authority.toml --servers node1,node2,node3
#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    #[arg(value_parser = name)]
    name: String,
    /// Yes, all files in it.
    #[arg(long)]
    yes: bool,
    /// Though it is mounted.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Changed {
    volume: String,
}

#[derive(Serialize)]
struct Listed {
    volumes: Vec<VolumeView>,
}

impl Volume {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create(command) => command.run(),
            Self::List(command) => command.run(),
            Self::Set(command) => command.run(),
            Self::Delete(command) => command.run(),
        }
    }
}

impl Create {
    fn run(self) -> Result<(), Failure> {
        let ((uid, gid), mode, Quotas { quota, quota_inodes }) = (self.owner, self.mode, self.quotas);
        let options = VolumeOptions { uid, gid, mode, quota_bytes: quota, quota_inodes };
        let change = Change::CreateVolume { name: self.name.clone(), options };
        runtime()?.block_on(async { self.target.administrator()?.change(&change).await })?;
        self.format.print(&Changed { volume: self.name }, |made| {
            format!(
                "volume {} is made; `manyfs credential create --volume {}` lets it be mounted",
                made.volume, made.volume
            )
        })
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let view = runtime()?.block_on(async {
            let administrator = self.target.administrator()?;
            let view = ClusterView::of(&administrator.ask_all().await, None);
            if view.is_silent() { Err(view.silence()) } else { Ok(view) }
        })?;
        self.format.print(&Listed { volumes: view.volumes }, |listed| volumes(columns(), &listed.volumes))
    }
}

impl Set {
    fn run(self) -> Result<(), Failure> {
        let changes = QuotaChanges { bytes: self.quotas.quota, inodes: self.quotas.quota_inodes };
        let change = Change::SetQuotas { name: self.name.clone(), changes };
        runtime()?.block_on(async { self.target.administrator()?.change(&change).await })?;
        self.format.print(&Changed { volume: self.name }, |set| {
            format!("volume {} has these quotas now; `manyfs volume list` shows them and what is used", set.volume)
        })
    }
}

impl Delete {
    fn run(self) -> Result<(), Failure> {
        if !self.yes {
            return Err(format!(
                "this deletes all files of volume {} for good; say so with --yes; nothing was changed",
                self.name
            )
            .into());
        }
        let change = Change::DeleteVolume { name: self.name.clone(), force: self.force };
        runtime()?.block_on(async { self.target.administrator()?.change(&change).await })?;
        self.format.print(&Changed { volume: self.name }, |gone| format!("volume {} is deleted", gone.volume))
    }
}

/// Volumes for people.
pub(super) fn volumes(width: u16, volumes: &[VolumeView]) -> String {
    table(
        width,
        ["VOLUME", "ID", "FILES", "FILES MAX", "CONTENT", "CONTENT MAX"],
        volumes.iter().map(|volume| {
            [
                volume.name.clone(),
                volume.id.to_string(),
                volume.inodes.to_string(),
                volume.quota_inodes.to_string(),
                size(volume.bytes),
                volume.quota_bytes.map_or_else(|| "no limit".to_owned(), size),
            ]
        }),
    )
}

fn name(text: &str) -> Result<String, String> {
    check_volume_name(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    numbers.ok_or_else(|| "a user and a group as numbers, such as 33:33".to_owned())
}

fn mode(text: &str) -> Result<u16, String> {
    u16::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "permission bits in octal, such as 755".to_owned())
}

fn byte_quota(text: &str) -> Result<ByteQuota, String> {
    if text == "none" { Ok(ByteQuota::Unlimited) } else { bytes(text).map(ByteQuota::Bytes) }
}

fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let number: Option<u64> = digits.parse().ok().filter(|number| *number > 0);
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "a number of bytes above 0, or one with K, M, G or T such as 20G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_people_write_them() {
        assert_eq!(owner("33:34"), Ok((33, 34)));
        assert!(owner("www-data").is_err() && owner("1").is_err() && owner("-1:0").is_err());
        assert_eq!(mode("2775"), Ok(0o2775));
        assert!(mode("888").is_err() && mode("17777").is_err() && mode("").is_err());
        assert_eq!(bytes("20G"), Ok(20 << 30));
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(byte_quota("none"), Ok(ByteQuota::Unlimited));
        assert_eq!(byte_quota("1K"), Ok(ByteQuota::Bytes(1024)));
        assert!(bytes("0").is_err() && bytes("G").is_err() && bytes("99999999T").is_err() && bytes("").is_err());
    }
}
