//! Carries out faults (`options::Fault`): chooses one, what it hits, and when that is well again.

use std::time::Duration;

use super::{Event, World};
use crate::{
    node::{AdminRequest, Input},
    sim::{network::Place, options::Fault},
    types::NodeId,
};

/// Nanoseconds.
const DAYS_30: i64 = 30 * 24 * 3600 * 1_000_000_000;

impl World {
    pub(super) fn fault(&mut self) {
        if !self.is_busy {
            return;
        }
        let faults = self.options.faults.clone();
        if let Some(fault) = self.dice.pick(&faults).copied() {
            self.report.faults += 1;
            self.bring_about(fault);
        }
        let (low, high) = self.options.fault_pause;
        let time = self.dice.micros(low, high);
        self.after(time, Event::Fault);
    }

    fn bring_about(&mut self, fault: Fault) {
        let ids = self.ids();
        let Some(victim) = self.dice.pick(&ids).copied() else { return };
        // A full node beside one that is not heard of for long is a full majority: ENOSPC, and no fault of ours.
        if matches!(fault, Fault::Partition | Fault::OneWay) {
            self.make_space();
        }
        let mount = self.dice.index(self.mounts.len());
        if self.is_short_of_a_node() && fault.hits_nodes() {
            return;
        }
        match fault {
            Fault::Restore => self.restore(victim),
            Fault::Twin => self.begin_twin(victim),
            Fault::Crash => self.crash_for_a_while(victim),
            Fault::CrashAll => ids.into_iter().for_each(|id| self.crash_for_a_while(id)),
            Fault::Partition => {
                for other in self.others(victim) {
                    self.network.cut(Place::Node(victim), other);
                    self.network.cut(other, Place::Node(victim));
                }
                self.heal_later();
            }
            Fault::OneWay => {
                let hears = self.dice.chance(500);
                for other in self.others(victim) {
                    let (from, to) = if hears { (Place::Node(victim), other) } else { (other, Place::Node(victim)) };
                    self.network.cut(from, to);
                }
                self.heal_later();
            }
            Fault::BreakPeer => {
                if let Some(other) = self.dice.pick(&ids).copied().filter(|other| *other != victim) {
                    self.break_peers(victim, other);
                }
            }
            Fault::BreakMount => {
                if let Some(link) = self.mounts[mount].link {
                    self.break_link(link);
                }
            }
            Fault::CutMount => {
                for id in ids {
                    self.network.cut(Place::Mount(mount), Place::Node(id));
                    self.network.cut(Place::Node(id), Place::Mount(mount));
                }
                self.heal_later();
            }
            Fault::CrashMount => self.crash_mount(mount),
            Fault::PauseMount => {
                let time = self.dice.micros(100_000, 4_000_000);
                self.pause_mount(mount, time);
            }
            Fault::StopWorker => {
                let time = self.dice.micros(100_000, 4_000_000);
                self.stop_worker(mount, time);
            }
            Fault::StopFirst => {
                let timing = self.options.timing;
                let time = timing.hold + 4 * timing.lease + Duration::from_millis(self.dice.roll(1000));
                self.stop_worker(0, time);
            }
            Fault::Transfer => {
                for id in ids {
                    self.tell_node(id, Input::Admin { ticket: 1, request: AdminRequest::TransferLeader { to: None } });
                }
            }
            Fault::Stop => {
                if let Some(host) = self.nodes.get_mut(&victim).filter(|host| host.core.is_some() && !host.is_stopping)
                {
                    host.is_stopping = true;
                    self.tell_node(victim, Input::Stop);
                }
            }
            Fault::SlowDisk => {
                let slowness = 1 + u32::try_from(self.dice.roll(100)).unwrap_or(0);
                if let Some(host) = self.nodes.get_mut(&victim) {
                    host.slowness = slowness;
                }
            }
            Fault::FullDisk => {
                let is_whole = !self.network.is_cut() && !self.nodes.values().any(|host| host.is_full);
                if self.nodes.len() > 1 && is_whole {
                    self.set_full(victim, true);
                    let time = self.dice.micros(200_000, 4_000_000);
                    self.after(time, Event::SpaceAgain(victim));
                }
            }
            Fault::SetClock => {
                let victim = *self.wrong_clock.get_or_insert(victim);
                let ahead = if self.dice.chance(500) { DAYS_30 } else { -DAYS_30 };
                self.set_clock(victim, ahead);
                let time = self.dice.micros(1_000, 2_000_000);
                self.after(time, Event::ClockRight(victim));
            }
        }
    }

    fn others(&mut self, victim: NodeId) -> Vec<Place> {
        let nodes = self.ids().into_iter().filter(|id| *id != victim).map(Place::Node);
        let with_mounts = self.dice.chance(500);
        let mounts = (0..self.mounts.len()).map(Place::Mount).filter(|_| with_mounts);
        nodes.chain(mounts).collect()
    }

    fn crash_for_a_while(&mut self, id: NodeId) {
        if self.running_nodes().contains(&id) {
            self.crash_node(id);
            let time = self.dice.micros(10_000, 2_000_000);
            self.after(time, Event::NodeStart(id));
        }
    }

    fn make_space(&mut self) {
        for id in self.ids() {
            if self.nodes.get(&id).is_some_and(|host| host.is_full) {
                self.set_full(id, false);
            }
        }
    }

    fn heal_later(&mut self) {
        let time = self.dice.micros(50_000, 3_000_000);
        self.after(time, Event::Heal);
    }

    /// From here on nothing goes wrong any more; what is down comes back.
    pub(super) fn end_faults(&mut self) {
        self.twin = None;
        self.network.heal();
        self.make_space();
        for id in self.ids() {
            if let Some(host) = self.nodes.get_mut(&id) {
                host.slowness = 1;
            }
            self.set_clock(id, 0);
            self.after(Duration::from_millis(100), Event::NodeStart(id));
        }
    }
}
