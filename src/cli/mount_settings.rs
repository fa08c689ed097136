//! How a mount behaves: the flags that `manyfs mount` and `manyfs serve --mount` share.

use std::time::Duration;

use super::mount_options::MountOptions;
use crate::{
    fuse::KernelMask,
    limits,
    mount::{Config, Opens, WhenDisconnected},
    types::Access,
};

/// The flags.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct MountSettings {
    /// Refuse every change, whatever the credential allows.
    #[arg(long)]
    read_only: bool,
    /// File content kept in memory, in MiB.
    #[arg(long, env = "MANYFS_CONTENT_CACHE", value_name = "MIB", default_value_t = cache_mib(),
          value_parser = clap::value_parser!(u32).range(1..=1024 * 1024))]
    content_cache: u32,
    /// Show every file as owned by this user and group, such as 33:33.
    #[arg(long, env = "MANYFS_SQUASH", value_name = "UID:GID", value_parser = parse_squash)]
    squash: Option<(u32, u32)>,
    /// Store POSIX access control lists and have the kernel enforce them; all mounts of a volume that uses them need
    /// this. Costs a request for each path through the mount by another than its root's owner.
    #[arg(long, env = "MANYFS_ACL")]
    pub(super) acl: bool,
    /// Let the mount be idmapped, as pods with `hostUsers: false` need it (Linux 6.12). Users whose processes this one cannot
    /// see then count as strangers to a file's group where a change ends setgid.
    #[arg(long, env = "MANYFS_IDMAP")]
    pub(super) idmap: bool,
    /// Seconds after which a change that finds no majority of storage nodes fails with EIO.
    #[arg(long, env = "MANYFS_WRITE_TIMEOUT", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=30))]
    write_timeout: u32,
    /// What reads do while no storage node that leads can be reached: `serve` answers them from what this mount has, `block`
    /// lets them wait, so that nothing old is ever seen.
    #[arg(long, env = "MANYFS_WHEN_DISCONNECTED", value_name = "POLICY", default_value = "serve")]
    when_disconnected: WhenDisconnected,
    /// Whether the kernel tells of opens and closes of files. `untracked` saves the requests they cost; then close() does
    /// not wait for what was written (fsync does), and locks exclude on this mount only.
    #[arg(long, env = "MANYFS_OPENS", value_name = "HOW", default_value = "tracked")]
    opens: Opens,
    /// Options of mount(8), separated by commas: ro, noexec, suid, dev. Without any: nosuid,nodev.
    #[arg(short, long, env = "MANYFS_OPTIONS", value_name = "LIST", default_value = "")]
    pub(super) options: MountOptions,
    /// Threads that read the kernel's requests.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) threads: u8,
    /// Features of the kernel that are not to be used, separated by commas: inc_epoch (newer than Linux 6.15), inval_entry
    /// (names are not kept without it).
    #[arg(long, env = "MANYFS_KERNEL_MASK", value_name = "FEATURES", default_value = "", hide_default_value = true)]
    pub(super) kernel_mask: KernelMask,
}

impl MountSettings {
    /// Puts them into a mount's configuration, whose times are set already.
    pub(super) fn apply(&self, access: Access, mount: &mut Config) {
        mount.when_disconnected = self.when_disconnected;
        mount.opens = self.opens;
        mount.timing.write_timeout = Duration::from_secs(self.write_timeout.into());
        mount.content_cache_bytes = self.content_cache as usize * 1024 * 1024;
        mount.read_only = self.read_only || access == Access::ReadOnly;
        mount.squash = self.squash;
    }
}

const fn cache_mib() -> u32 {
    (limits::CONTENT_CACHE_BYTES / (1024 * 1024)) as u32
}

fn parse_squash(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    numbers.ok_or_else(|| "a user and a group as numbers, such as 33:33".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squash_is_two_numbers() {
        assert_eq!(parse_squash("33:34"), Ok((33, 34)));
        assert!(parse_squash("www-data").is_err());
        assert!(parse_squash("33:-1").is_err());
    }
}
