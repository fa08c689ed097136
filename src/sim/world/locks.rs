//! Processes that hold locks: killed and judged. Nobody is let in beside a holder, unless the log took the
//! holder's lock from him; then what he writes counts for nothing.

use std::time::Duration;

use super::{Event, World};
use crate::{
    mount::Input,
    sim::syscalls::{Call, Running},
    types::{Errno, Instant},
};

impl World {
    /// SIGKILL: what the process waits for is interrupted, and its files are closed.
    pub(super) fn killed(&mut self, number: usize, life: u64, process: usize, started: Instant) {
        let host = &mut self.mounts[number];
        if host.life != life || host.processes[process].started != started {
            return;
        }
        let Some(running) = &mut host.processes[process].running else { return };
        running.is_killed = true;
        match running.unique {
            // Whoever has not handed the request on yet has the kernel say it again.
            Some(unique) if host.read.contains(&unique) => {
                self.after(Duration::from_millis(1), Event::Killed { mount: number, life, process, started });
            }
            Some(unique) => self.tell_mount(number, Input::Interrupt { unique }),
            None => self.run_kernel(number, Some(process)),
        }
    }

    /// The process believes that it holds a lock: nobody else does whose lock the log did not take.
    pub(super) fn check_lock(&self, number: usize, process: usize, running: &Running) {
        let Some((ino, claim)) = running.lock.filter(|_| !self.has_lost_holds(number, process)) else { return };
        for (other_mount, host) in self.mounts.iter().enumerate() {
            for (other, at) in host.processes.iter().enumerate() {
                let Some((_, held)) = at.running.as_ref().and_then(|other| other.lock.filter(|(of, _)| *of == ino))
                else {
                    continue;
                };
                let is_other = (other_mount, other) != (number, process);
                assert!(
                    !(is_other && held.excludes(&claim)) || self.has_lost_holds(other_mount, other),
                    "mutual exclusion: process {process} of mount {number} has {claim:?} of {ino} beside process \
                     {other} of mount {other_mount} with {held:?}"
                );
            }
        }
    }

    /// Since its call began, the log took from the process's mount what it held.
    pub(super) fn has_lost_holds(&self, number: usize, process: usize) -> bool {
        let host = &self.mounts[number];
        let (session, applied) = host.processes[process].began_as;
        let is_same = session.is_some() && host.core.status().session == session;
        let ended = session.and_then(|session| self.oracle.holds_ended(session));
        !is_same || ended.is_some_and(|ended| ended > applied)
    }

    /// Whether the call may say that about a lock.
    pub(super) fn is_honest_of_locks(&self, number: usize, running: &Running, outcome: Result<(), Errno>) -> bool {
        let Call::Count { guard, .. } = &running.call else { return false };
        let session = self.mounts[number].core.status().session;
        match outcome {
            Err(Errno::EAGAIN) => !guard.waits,
            // Bytes of another process that lost its lock may be what a close() of this one speaks of.
            Err(Errno::EIO) => session.is_none_or(|session| self.oracle.holds_ended(session).is_some()),
            Ok(()) => true,
            Err(_) => false,
        }
    }
}
