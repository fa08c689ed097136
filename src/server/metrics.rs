//! What a storage node counts, under the names that docs, dashboards and `manyfs bench` know.

use std::sync::{Arc, OnceLock};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        counter::{ConstCounter, Counter},
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

use crate::{
    node::ClockStatus,
    replica::Standing,
    storage::Counters,
    types::{CounterKind, LogIndex, NodeId, Term},
};

/// Of the node's core.
#[derive(Clone, Default)]
pub(super) struct NodeMetrics {
    pub(super) inputs: Counter,
    leads: Gauge,
    has_leader: Gauge,
    term: Gauge,
    applied: Gauge,
    connections: Gauge,
    short_of_space: Gauge,
    takes_part: Gauge,
    leader_changes: Counter,
    clock_jumps: Counter,
    clock_ahead: Gauge,
}

impl NodeMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("node_inputs", "Inputs that the node's core has handled", self.inputs.clone());
        registry.register("node_leads", "1 while this node leads", self.leads.clone());
        registry.register("node_has_leader", "1 while this node knows a leader", self.has_leader.clone());
        registry.register("raft_term", "The term this node is in", self.term.clone());
        registry.register("applied_index", "The last log entry in this node's state", self.applied.clone());
        registry.register("mounts_connected", "Mounts that have a stream to this node", self.connections.clone());
        registry.register(
            "node_short_of_space",
            "1 while the disk is so full that this node takes no entries as long as a majority does without it",
            self.short_of_space.clone(),
        );
        registry.register(
            "clock_jumps",
            "Times that this node's wall clock was set by a second or more since the process began",
            self.clock_jumps.clone(),
        );
        registry.register(
            "clock_ahead_milliseconds",
            "By how much this node's wall clock is ahead of the median of the voters'; below zero, behind it",
            self.clock_ahead.clone(),
        );
        registry.register(
            "node_takes_part",
            "1 while this node votes and acknowledges: it was greeted, and has forgotten nothing that it promised",
            self.takes_part.clone(),
        );
        registry.register("leader_changes", "Leaders this node has seen come or go", self.leader_changes.clone());
    }

    pub(super) fn leadership(&self, node: NodeId, leader: Option<NodeId>, term: Term) {
        self.leads.set(i64::from(leader == Some(node)));
        self.has_leader.set(i64::from(leader.is_some()));
        self.term.set(signed(term.0));
        self.leader_changes.inc();
    }

    pub(super) fn short_of_space(&self, is_short: bool) {
        self.short_of_space.set(i64::from(is_short));
    }

    pub(super) fn clock(&self, ClockStatus { jumps, ahead_ms }: ClockStatus) {
        self.clock_jumps.inc_by(jumps.saturating_sub(self.clock_jumps.get()));
        self.clock_ahead.set(ahead_ms.unwrap_or(0));
    }

    pub(super) fn standing(&self, standing: Standing) {
        self.takes_part.set(i64::from(standing == Standing::TakesPart));
    }

    pub(super) fn published(&self, applied: LogIndex, connections: usize) {
        self.applied.set(signed(applied.0));
        self.connections.set(signed(connections as u64));
    }
}

/// The store's own counters, read when the metrics are; nothing before the node takes part.
#[derive(Clone, Debug, Default)]
pub(super) struct StoreCollector(Arc<OnceLock<Arc<Counters>>>);

impl StoreCollector {
    pub(super) fn watch(&self, counters: Arc<Counters>) {
        // A process opens one store.
        let _ = self.0.set(counters);
    }
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(counters) = self.0.get() else { return Ok(()) };
        let syncs = [&counters.log_syncs, &counters.state_syncs, &counters.pack_syncs, &counters.directory_syncs];
        let all_syncs: u64 = syncs.iter().map(|counter| counter.get()).sum();
        let counter = ConstCounter::new(all_syncs);
        counter.encode(encoder.encode_descriptor("syncs", "Syncs of all kinds", None, counter.metric_type())?)?;
        for (name, kind, help, value) in counters.table() {
            match kind {
                CounterKind::Total => {
                    let counter = ConstCounter::new(value.get());
                    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
                }
                CounterKind::Gauge => {
                    let gauge = ConstGauge::new(signed(value.get()));
                    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
                }
            }
        }
        Ok(())
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
