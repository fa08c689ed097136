//! The mount's metrics, made when they are asked for.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::worker::Worker;

pub(super) struct MountCollector(pub(super) Arc<Worker>);

impl fmt::Debug for MountCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MountCollector")
    }
}

impl Collector for MountCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        use std::sync::atomic::Ordering::Relaxed;

        let fuse = &self.0.counters;
        let mut upcalls = encoder.encode_descriptor(
            "fuse_upcalls",
            "Requests of the kernel, by opcode",
            None,
            MetricType::Counter,
        )?;
        for (opcode, count) in fuse.upcalls() {
            ConstCounter::new(count).encode(upcalls.encode_family(&[("opcode", opcode)])?)?;
        }
        let about = "Notifications to the kernel, by kind";
        let mut notifications = encoder.encode_descriptor("fuse_notifications", about, None, MetricType::Counter)?;
        for (kind, count) in fuse.notifications() {
            ConstCounter::new(count).encode(notifications.encode_family(&[("kind", kind)])?)?;
        }
        let status = self.0.status();
        let core = status.counters;
        for (name, about, count) in [
            ("fuse_answers", "Answers to the kernel", fuse.answers.load(Relaxed)),
            ("fuse_errors", "Answers to the kernel that were a refusal", fuse.errors.load(Relaxed)),
            ("fuse_malformed", "Requests of the kernel that made no sense", fuse.malformed.load(Relaxed)),
            ("fuse_notifications_failed", "Notifications the kernel refused", fuse.notifications_failed.load(Relaxed)),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, about, None, counter.metric_type())?)?;
        }
        for (name, _, about, count) in core.table() {
            let counter = ConstCounter::new(*count);
            let name = format!("mount_{name}");
            counter.encode(encoder.encode_descriptor(&name, about, None, counter.metric_type())?)?;
        }
        for (name, about, value) in [
            ("mount_attached", "1 while the mount is attached to a leader", u64::from(status.leader.is_some())),
            ("mount_lease_held", "1 while the kernel may answer from its caches", u64::from(status.lease_held)),
            ("mount_cut_off", "1 while no leader answers; reads go by --when-disconnected", u64::from(status.cut_off)),
            ("mount_applied_index", "Last log entry applied", status.applied.0),
            ("mount_inodes", "Inodes of the volume", status.inodes),
            ("mount_dirty_bytes", "Bytes written and not yet synced by a majority", status.dirty_bytes),
            ("mount_cached_bytes", "Bytes of file content in memory", status.cached_bytes),
            ("mount_calls_unanswered", "Changes sent and not yet answered", status.calls_unanswered),
            ("mount_requests_unanswered", "Requests the kernel waits for", self.0.unanswered() as u64),
            ("mount_locks_queued", "Requests for locks that wait for their turn", status.locks_queued),
            ("mount_handles", "Open file handles", status.handles),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, about, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
