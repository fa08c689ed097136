//! What a mount is told at its start, and what it tells about itself.

use super::MountCounters;
use crate::{
    limits::{self, Timing},
    message::mount::MountPlace,
    types::{LogIndex, MountId, SessionId, Space, VolumeId},
};

/// How a mount runs. Validated by the shell that reads it from credential, file, environment and flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// `host:port` of storage nodes' client services, dialled in turn; at least one.
    pub servers: Vec<String>,
    /// Chosen at random by the shell at every start.
    pub mount: MountId,
    /// Spreads back-off and the choice of stores; any number.
    pub seed: u64,
    pub timing: Timing,
    /// Bytes of file content that this mount keeps in memory; default `limits::CONTENT_CACHE_BYTES`.
    pub content_cache_bytes: usize,
    /// Changes are refused with EROFS before they leave this mount.
    pub read_only: bool,
    /// Show every inode as owned by this user and group, and give it to what is made here.
    pub squash: Option<(u32, u32)>,
    pub kernel: KernelFeatures,
    pub when_disconnected: WhenDisconnected,
    pub opens: Opens,
    /// Where it is, for administrators.
    pub place: MountPlace,
}

impl Config {
    /// Production's defaults for a mount of these servers.
    #[must_use]
    pub fn new(servers: Vec<String>, mount: MountId) -> Self {
        Self {
            servers,
            mount,
            seed: 0,
            timing: Timing::DEFAULT,
            content_cache_bytes: limits::CONTENT_CACHE_BYTES,
            read_only: false,
            squash: None,
            kernel: KernelFeatures::default(),
            when_disconnected: WhenDisconnected::default(),
            opens: Opens::default(),
            place: MountPlace::default(),
        }
    }
}

/// What a mount does with reads while no leader answers (README.md "Availability"). Changes wait in either case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenDisconnected {
    /// Answer them from the replica, which may be behind.
    #[default]
    Serve,
    /// Let them wait: nothing old is ever answered.
    Block,
}

impl std::str::FromStr for WhenDisconnected {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "serve" => Ok(Self::Serve),
            "block" => Ok(Self::Block),
            _ => Err("reads of a mount that is cut off are answered (serve) or wait (block)".to_owned()),
        }
    }
}

/// Whether the kernel tells of opens and closes of files (README.md "Opens").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Opens {
    /// It does: an open costs a request.
    #[default]
    Tracked,
    /// It does not: any file that it knows may be open, close() is not seen, and locks are the kernel's own.
    Untracked,
}

impl std::str::FromStr for Opens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tracked" => Ok(Self::Tracked),
            "untracked" => Ok(Self::Untracked),
            _ => Err("the kernel tells of opens and closes (tracked) or does not (untracked)".to_owned()),
        }
    }
}

/// What the running kernel can do that not every supported kernel can; found out by the shell (`--kernel-mask` switches
/// each off).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelFeatures {
    /// FUSE_NOTIFY_INC_EPOCH (6.16).
    pub inc_epoch: bool,
    /// FUSE_NOTIFY_INVAL_ENTRY waits for LOOKUPs and ends missing names: not so in some releases of Linux 6.19
    /// (docs/protocol.md R2-telling). Without it no name is kept. Off until the mount has been probed.
    pub inval_entry: bool,
}

/// A mount as `status`, metrics and the simulator see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountStatus {
    pub session: Option<SessionId>,
    pub volume: Option<VolumeId>,
    /// Address of the leader this mount is attached to.
    pub leader: Option<String>,
    /// The kernel may answer from its caches.
    pub lease_held: bool,
    /// No leader answers: reads go by `--when-disconnected`.
    pub cut_off: bool,
    pub kernel: KernelFeatures,
    /// The last entry of the volume that is applied here; 0 before the first snapshot.
    pub applied: LogIndex,
    /// Digest of the replica at `applied`.
    pub digest: u128,
    pub inodes: u64,
    pub space: Space,
    /// Bytes written and not yet part of a completed change.
    pub dirty_bytes: u64,
    /// Bytes of file content in memory.
    pub cached_bytes: u64,
    /// Changes sent and not answered, and those that wait for their turn.
    pub calls_unanswered: u64,
    /// Requests for locks that have a place in a queue.
    pub locks_queued: u64,
    /// Open file handles.
    pub handles: u64,
    /// Inodes the kernel holds references to.
    pub inodes_looked_up: u64,
    /// Sets of notifications that the kernel has not finished.
    pub invalidations_running: u64,
    pub counters: MountCounters,
}
