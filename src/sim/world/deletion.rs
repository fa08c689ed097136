//! The volume is deleted under its mounts: these answer ESTALE to everything from then on, and no new one comes up.

use std::time::Duration;

use super::{Event, World};
use crate::{
    node::{AdminRequest, Input},
    sim::syscalls::Call,
    types::Errno,
};

const AGAIN: Duration = Duration::from_millis(100);

impl World {
    /// Asks whoever leads, until the volume is gone.
    pub(super) fn delete_volume(&mut self) {
        if self.is_deleted() {
            return;
        }
        for id in self.ids() {
            let request = AdminRequest::DeleteVolume { name: "main".to_owned(), force: true };
            self.tell_node(id, Input::Admin { ticket: 2, request });
        }
        self.after(AGAIN, Event::Deletion);
    }

    /// An entry that a node has applied deleted it.
    pub(super) fn is_deleted(&self) -> bool {
        !self.oracle.has_volume()
    }

    /// The mount says that there is nothing more to be had from the cluster.
    pub(super) fn has_no_volume(&mut self, number: usize, reason: &str) {
        assert!(self.is_deleted(), "mount {number} cannot go on: {reason}");
        self.report.mounts_without_volume += 1;
    }

    /// Its process ends, and none comes in its place.
    pub(super) fn mount_ended(&mut self, number: usize, life: u64) {
        if self.is_current(number, life) {
            self.end_mount(number);
            self.mounts[number].has_ended = true;
        }
    }

    /// Every mount knows that its volume is gone.
    pub(super) fn is_deleted_everywhere(&self) -> bool {
        self.mounts.iter().all(|mount| mount.has_ended || mount.core.is_stale())
    }

    /// Whether the call may be told this for the volume's sake. Who touches a mapping gets SIGBUS, whatever the mount
    /// answered.
    pub(super) fn check_without_volume(
        &self,
        number: usize,
        process: usize,
        call: &Call,
        outcome: Result<(), Errno>,
    ) -> bool {
        let is_by_mapping = matches!(call, Call::Count { guard, .. } if guard.is_mapped);
        let is_told = outcome == Err(Errno::ESTALE) || is_by_mapping && outcome == Err(Errno::EIO);
        let must_be_told = self.mounts[number].processes[process].began_without_volume;
        assert!(is_told || !must_be_told, "deletion: mount {number} answered {call:?} with {outcome:?}");
        self.is_deleted() && is_told
    }
}
