//! Mounts that do not run for a while: a machine that stands still, and a worker that is stopped while its kernel, the
//! processes that use it, and its holder go on (docs/protocol.md R7-forgetting).

use std::time::Duration;

use super::{Event, World};
use crate::{
    mount::{Input, Notification},
    sim::options::Breach,
    types::Instant,
};

/// Tickets of the holder's own notifications begin here; nobody waits for them.
pub(super) const HOLDERS_TICKETS: u64 = 1 << 63;

impl World {
    /// The machine stands still for a while: worker, holder, kernel and processes.
    pub(super) fn pause_mount(&mut self, number: usize, time: Duration) {
        let host = &mut self.mounts[number];
        if host.paused_until.is_none() && host.stopped_until.is_none() {
            let (life, until) = (host.life, self.now.after(time));
            host.paused_until = Some(until);
            self.doubt_what_is_held(number, time);
            self.at(until, Event::MountResumed { mount: number, life });
        }
    }

    /// The deadline is past: the holder, which runs first, makes the kernel forget what the worker could not.
    pub(super) fn mount_resumed(&mut self, number: usize, life: u64) {
        if !self.is_current(number, life) {
            return;
        }
        let host = &mut self.mounts[number];
        (host.paused_until, host.wake) = (None, None);
        self.holder_acts(number, life);
        self.tell_mount(number, Input::Tick);
    }

    /// SIGSTOP, or a container that is throttled: the worker takes nothing in and gives nothing out.
    pub(super) fn stop_worker(&mut self, number: usize, time: Duration) {
        let host = &mut self.mounts[number];
        if host.paused_until.is_none() && host.stopped_until.is_none() {
            let (life, until) = (host.life, self.now.after(time));
            host.stopped_until = Some(until);
            self.doubt_what_is_held(number, time);
            self.at(until, Event::WorkerContinued { mount: number, life });
        }
    }

    /// What came meanwhile is read in the order in which it came, however old it is.
    pub(super) fn worker_continued(&mut self, number: usize, life: u64) {
        if !self.is_current(number, life) {
            return;
        }
        self.mounts[number].stopped_until = None;
        for input in std::mem::take(&mut self.mounts[number].backlog) {
            self.tell_mount(number, input);
        }
        self.tell_mount(number, Input::Tick);
    }

    pub(super) fn holder_acts(&mut self, number: usize, life: u64) {
        if !self.is_current(number, life) || matches!(self.options.breach, Some(Breach::Holder | Breach::Deletion)) {
            return;
        }
        let (clock, inc_epoch) = (self.mounts[number].clock, self.options.inc_epoch);
        let now = clock.at(self.now);
        let told = self.mounts[number].holder.act(now, inc_epoch);
        if told.is_empty() {
            return;
        }
        self.tell(|| format!("the holder of mount {number} acts: {told:?}"));
        self.report.holders_acted += 1;
        let kernel = &mut self.mounts[number].kernel;
        kernel.now = now;
        for notifications in told {
            self.serial += 1;
            kernel.notify(HOLDERS_TICKETS + self.serial, notifications);
        }
        self.run_kernel(number, None);
    }

    /// If the mount is not heard of for longer than it may hold anything, what it has written may never get into the
    /// log.
    fn doubt_what_is_held(&mut self, number: usize, time: Duration) {
        if time + self.options.timing.lease >= self.options.timing.hold {
            self.oracle.doubt_written_by(number);
        }
    }

    /// Until when the event has to wait.
    pub(super) fn is_paused(&self, event: &Event) -> Option<Instant> {
        let number = match event {
            Event::Dialled { mount, .. }
            | Event::ClosedAtMount { mount, .. }
            | Event::Stored { mount, .. }
            | Event::Fetched { mount, .. }
            | Event::MountWake { mount, .. }
            | Event::HolderDue { mount, .. }
            | Event::Asked { mount, .. }
            | Event::Answer { mount, .. }
            | Event::Notify { mount, .. }
            | Event::Notified { mount, .. }
            | Event::NextCall { mount, .. }
            | Event::Killed { mount, .. } => *mount,
            Event::DialAnswered { link } | Event::ToMount { link, .. } => self.links.get(link)?.mount,
            _ => return None,
        };
        let host = self.mounts.get(number)?;
        // The threads that notify belong to the worker; an answer in the kernel's hands does not.
        let stopped_until = host.stopped_until.filter(|_| matches!(event, Event::Notify { .. }));
        host.paused_until.or(stopped_until)
    }
}

/// Whether the worker waits for the ticket.
pub(super) const fn is_workers(ticket: u64) -> bool {
    ticket < HOLDERS_TICKETS
}

/// Nothing is left out that a request keeps locked.
pub(super) fn wait_for_all_pages(notification: &mut Notification) {
    if let Notification::Attributes { ino } | Notification::Pages { ino, .. } = *notification {
        *notification = Notification::Pages { ino, offset: 0, length: 0 };
    }
}

/// Whether the notification gets to the kernel under this breach.
pub(super) fn is_told(notification: &Notification, breach: Option<Breach>) -> bool {
    match notification {
        Notification::Name { .. } => breach != Some(Breach::Names),
        Notification::Attributes { .. } => breach != Some(Breach::Attributes),
        Notification::Pages { .. } => breach != Some(Breach::Pages),
        Notification::AllNames => breach != Some(Breach::Epochs),
        Notification::Size { .. } => breach != Some(Breach::Sizes),
    }
}
