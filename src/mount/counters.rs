//! What a mount counts. Names, metrics (`mount_` before the name) and the JSON of `status` come from this table.

use crate::types::counters;

counters! {
    /// What a mount has done since its start.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MountCounters of u64 {
        Total requests: "Requests of the kernel that the core has looked at",
        Total entries_applied: "Log entries applied to the mount's replica",
        Total operations_proposed: "Changes sent to the leader",
        Total operations_failed: "Changes that ended in a refusal",
        Total notifications: "Things that the kernel was told to forget",
        Total blocks_fetched: "Blocks fetched from stores",
        Total blocks_stored: "Blocks sent to stores",
        Total content_hits: "Reads answered from the content cache",
        Total content_misses: "Reads that had to fetch",
        Total leases_lost: "Times the right to answer from caches was lost",
        Total cut_offs: "Times no leader answered any more",
        Total locks_lost: "Open files whose locks were taken away after the hold time",
        Total connections: "Connections to a leader",
        Total snapshots: "Times the whole volume was loaded",
        Total delegations_recalled: "Delegations of files that other mounts asked back",
        Total delegations_lost: "Delegations that were taken away after the hold time",
        Total recalls_sent: "Times this mount asked for a delegation that another has",
        Total pages_refilled: "Writes whose pages were dropped behind them, because a READ may have filled these from before",
        Total writes_through: "Writes that were complete before they were answered",
    }
}
