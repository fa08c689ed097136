//! What the kernel is told to forget. A notification is one write to the device; it may block for as long as another
//! request holds a lock in the kernel, so that no thread that serves requests sends one, and one that blocks holds up no
//! other.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use nix::libc;

use super::{counters::Counters, unreadable::Unreadable};
use crate::{holder::notification, limits, mount::Notification, types::Ino};

/// Threads that may hang in the kernel at a time; what comes on top waits for one of them.
const BLOCKING_THREADS_MAX: usize = 64;
/// Tickets that take no lock in the kernel never wait behind those that do.
const QUICK_THREADS_MAX: usize = 1;
/// An idle thread ends after this.
const IDLE: Duration = Duration::from_secs(10);

/// Called with a ticket once all its notifications are done.
type Done = dyn Fn(u64) + Send + Sync;

/// Carries out tickets of notifications: those of one ticket in order, tickets beside each other.
pub(super) struct Notifier {
    shared: Arc<Shared>,
    quick: Arc<Lane>,
    blocking: Arc<Lane>,
}

struct Shared {
    device: File,
    unreadable: Unreadable,
    counters: Arc<Counters>,
    done: Box<Done>,
}

struct Job {
    ticket: u64,
    notifications: Vec<Notification>,
}

/// A queue and the threads that serve it, as many as are needed and no more than `threads_max`.
struct Lane {
    name: &'static str,
    threads_max: usize,
    state: Mutex<LaneState>,
    wake: Condvar,
}

#[derive(Default)]
struct LaneState {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Notifier {
    /// `device` is a duplicate of the session's descriptor. Fails where there is no room for a mapping.
    pub(super) fn new(device: OwnedFd, counters: Arc<Counters>, done: Box<Done>) -> io::Result<Self> {
        let lane = |name, threads_max| {
            let state = Mutex::new(LaneState::default());
            Arc::new(Lane { name, threads_max, state, wake: Condvar::new() })
        };
        let unreadable = Unreadable::new(limits::SIZE_REACH_BYTES)?;
        Ok(Self {
            shared: Arc::new(Shared { device: device.into(), unreadable, counters, done }),
            quick: lane("notify-quick", QUICK_THREADS_MAX),
            blocking: lane("notify", BLOCKING_THREADS_MAX),
        })
    }

    /// Queues a ticket; never blocks.
    pub(super) fn submit(&self, ticket: u64, notifications: Vec<Notification>) {
        let lane = if notifications.iter().any(may_block) { &self.blocking } else { &self.quick };
        lane.submit(Job { ticket, notifications }, &self.shared);
    }
}

impl Lane {
    fn submit(self: &Arc<Self>, job: Job, shared: &Arc<Shared>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.queue.push_back(job);
        if state.idle < state.queue.len() && state.threads < self.threads_max {
            let (lane, shared) = (Arc::clone(self), Arc::clone(shared));
            match thread::Builder::new().name(self.name.to_owned()).spawn(move || lane.serve(&shared)) {
                Ok(_) => state.threads += 1,
                // Threads that exist go on with the queue; without any the next ticket tries again.
                Err(error) => tracing::warn!(%error, "no thread for a notification"),
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    fn serve(&self, shared: &Shared) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                shared.carry_out(&job);
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.idle += 1;
            let (after, waited) = self.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = after;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

impl Shared {
    fn carry_out(&self, job: &Job) {
        // So that tests can prove that they would see what comes of it.
        fail::fail_point!("mount-forget-nothing", |_| (self.done)(job.ticket));
        for notification in &job.notifications {
            self.counters.notification(notification);
            match self.tell(notification) {
                Ok(()) => {}
                // The kernel knows nothing of it: nothing to forget.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    self.counters.notifications_missed.fetch_add(1, Relaxed);
                }
                // Unmounted: no cache is left.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ENODEV | libc::EPERM)) => {}
                Err(error) => {
                    self.counters.notifications_failed.fetch_add(1, Relaxed);
                    tracing::error!(%error, ?notification, "the kernel refused a notification");
                }
            }
        }
        (self.done)(job.ticket);
    }

    fn tell(&self, notification: &Notification) -> io::Result<()> {
        let message = match notification {
            Notification::Name { parent, name } => notification::inval_entry(*parent, name),
            Notification::Attributes { ino } => notification::inval_attributes(*ino),
            Notification::Pages { ino, offset, length } => notification::inval_pages(*ino, *offset, *length),
            Notification::AllNames => notification::inc_epoch(),
            Notification::Size { ino, from, size } => return self.tell_size(*ino, *from, *size),
        };
        (&self.device).write(&message).map(drop)
    }

    /// The kernel takes over the size before it copies a byte (`fuse_notify_store`, fs/fuse/dev.c), which it is then refused:
    /// it is told how long the file is and not what is in it, and goes to no page behind the first.
    fn tell_size(&self, ino: Ino, from: u64, size: u64) -> io::Result<()> {
        let length = u32::try_from(size.saturating_sub(from)).unwrap_or(u32::MAX);
        match self.unreadable.write_behind(&self.device, &notification::store(ino, from, length), length as usize) {
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
            other => other.map(drop),
        }
    }
}

/// INVAL_ENTRY takes the directory's lock, INVAL_INODE with pages and STORE wait for those that requests have locked.
const fn may_block(notification: &Notification) -> bool {
    matches!(notification, Notification::Name { .. } | Notification::Pages { .. } | Notification::Size { .. })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::fd::AsFd,
        os::unix::net::UnixStream,
        sync::mpsc::{self, Receiver},
    };

    use super::*;
    use crate::types::Name;

    fn notifier(device: OwnedFd) -> (Notifier, Receiver<u64>, Arc<Counters>) {
        let (done, tickets) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let done = Box::new(move |ticket| done.send(ticket).expect("the test listens"));
        let notifier = Notifier::new(device, Arc::clone(&counters), done).expect("room for a mapping");
        (notifier, tickets, counters)
    }

    /// A device whose writes block, as INVAL_ENTRY does while a request holds the directory's lock: a full socket.
    #[test]
    fn a_notification_that_blocks_holds_up_no_other() {
        let (device, mut kernel) = UnixStream::pair().expect("socketpair");
        device.set_nonblocking(true).expect("a socket can be");
        let mut stuffed = 0;
        while let Ok(bytes) = (&device).write(&[0; 4096]) {
            stuffed += bytes;
        }
        while let Ok(bytes) = (&device).write(&[0; 1]) {
            stuffed += bytes;
        }
        device.set_nonblocking(false).expect("a socket can be");
        let (notifier, tickets, _) = notifier(device.into());
        let name = |parent| Notification::Name { parent: Ino(parent), name: Name::new(b"x").expect("a name") };
        for ticket in 1..=5 {
            notifier.submit(ticket, vec![name(ticket), Notification::Attributes { ino: Ino(ticket) }]);
        }
        // All five hang in the kernel, each in a thread of its own.
        while notifier.blocking.state.lock().expect("lock").threads < 5 {
            thread::yield_now();
        }
        assert!(tickets.try_recv().is_err());
        let mut rest = vec![0; stuffed + 5 * (34 + 40)];
        kernel.read_exact(&mut rest).expect("the device wrote as much");
        let mut done: Vec<u64> = tickets.iter().take(5).collect();
        done.sort_unstable();
        assert_eq!(done, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn those_that_take_no_lock_have_a_lane_of_their_own() {
        let null = File::options().write(true).open("/dev/null").expect("there is one");
        let (notifier, tickets, counters) = notifier(null.as_fd().try_clone_to_owned().expect("dup"));
        notifier.submit(1, vec![Notification::AllNames, Notification::Attributes { ino: Ino(1) }]);
        assert_eq!(tickets.recv(), Ok(1));
        assert_eq!(notifier.blocking.state.lock().expect("lock").threads, 0);
        assert_eq!(counters.to_json()["notifications"]["all_names"].as_u64(), Some(1));
    }
}
