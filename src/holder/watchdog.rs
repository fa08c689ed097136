//! The lease's end, whether the worker runs or not (docs/protocol.md R7-forgetting). A worker that is alive makes its
//! kernel forget by itself and takes the deadline back. One that is stopped, throttled or hung does not, and its kernel
//! would go on answering from caches that nobody keeps in step: then this thread does it. INC_EPOCH makes every name
//! ask again (without it names expire by themselves, at the lease's end); INVAL_INODE with a negative offset takes no
//! lock and does the same for what is reached without a name; pages come last, each file's in a thread of its own,
//! because the kernel waits there for requests that only the worker answers.

use std::{
    fs::File,
    io::{self, Write},
    sync::{Arc, Weak, atomic::AtomicUsize, atomic::Ordering::SeqCst},
    thread,
    time::Duration,
};

use nix::{
    sys::time::{TimeSpec, TimeValLike},
    time::{ClockId, ClockNanosleepFlags, clock_nanosleep},
};

use super::{
    notification,
    table::{Table, Watched},
};
use crate::clock;

/// How often the deadline is looked at while there is none, or it is past. Must be less than `Timing::forget_time`.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Threads that may hang in the kernel at a time; further files keep their pages, though not their attributes.
const THREADS_MAX: usize = 256;

/// Watches over the caches of this device's kernel for as long as the device is there; the table is for its workers.
pub(super) fn watch(device: Weak<File>) -> io::Result<Table> {
    let table = Table::new()?;
    let own = Table::received(table.descriptor().try_clone_to_owned()?)?;
    let watch = move || {
        if let Err(error) = live(&own, &device) {
            tracing::error!(%error, "nobody makes the kernel forget when the worker does not: mount again");
        }
    };
    thread::Builder::new().name("watchdog".to_owned()).spawn(watch)?;
    Ok(table)
}

fn live(table: &Table, device: &Weak<File>) -> io::Result<()> {
    let mut met = None;
    while device.strong_count() > 0 {
        let deadline = table.deadline()?.filter(|deadline| met != Some(*deadline));
        match deadline {
            None => sleep(LOOK_EVERY)?,
            Some(deadline) => match deadline.since(clock::now()) {
                Duration::ZERO => {
                    forget(table, device)?;
                    met = Some(deadline);
                }
                // A device that is gone is noticed soon.
                wait => sleep(wait.min(Duration::from_secs(1)))?,
            },
        }
    }
    Ok(())
}

fn forget(table: &Table, device: &Weak<File>) -> io::Result<()> {
    let begun = clock::now();
    let Some(kernel) = device.upgrade() else { return Ok(()) };
    let watched = table.watched()?;
    if table.inc_epoch()? {
        tell(&kernel, &notification::inc_epoch());
    }
    for Watched { ino, .. } in &watched {
        tell(&kernel, &notification::inval_attributes(*ino));
    }
    let micros = clock::now().since(begun).as_micros();
    tracing::info!(
        inodes = watched.len(),
        micros,
        "the lease has ended and the worker said nothing: the kernel was made to forget"
    );
    let running = Arc::new(AtomicUsize::new(0));
    for Watched { ino, .. } in watched.into_iter().filter(|watched| watched.is_open_file) {
        if running.load(SeqCst) >= THREADS_MAX {
            break;
        }
        let (kernel, own) = (Arc::clone(&kernel), Arc::clone(&running));
        running.fetch_add(1, SeqCst);
        let drop_pages = move || {
            tell(&kernel, &notification::inval_pages(ino, 0, 0));
            own.fetch_sub(1, SeqCst);
        };
        if let Err(error) = thread::Builder::new().name("pages".to_owned()).stack_size(64 * 1024).spawn(drop_pages) {
            tracing::warn!(%error, "no thread to drop a file's pages with");
            break;
        }
    }
    Ok(())
}

/// One notification. The kernel refuses what it knows nothing of, and everything once it is unmounted: then nothing is
/// cached that we are after.
fn tell(mut kernel: &File, message: &[u8]) {
    kernel.write_all(message).ok();
}

fn sleep(time: Duration) -> io::Result<()> {
    let time = TimeSpec::nanoseconds(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
    match clock_nanosleep(ClockId::CLOCK_BOOTTIME, ClockNanosleepFlags::empty(), &time) {
        // Whoever is woken early looks again.
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::{fd::OwnedFd, unix::net::UnixStream},
    };

    use super::*;
    use crate::types::{Ino, Instant};

    /// A device that keeps what is written to it, and its watchdog.
    fn watched() -> (Table, UnixStream, Arc<File>) {
        let (device, kernel) = UnixStream::pair().expect("socketpair");
        let device = Arc::new(File::from(OwnedFd::from(device)));
        let worker = watch(Arc::downgrade(&device)).expect("a thread");
        (worker, kernel, device)
    }

    #[test]
    fn at_the_deadline_names_go_first_then_attributes_then_pages_of_open_files() {
        let (worker, mut kernel, _device) = watched();
        worker.set_inc_epoch(true).expect("write");
        worker.set_slot(0, Some(Watched { ino: Ino(1), is_open_file: false })).expect("write");
        worker.set_slot(1, Some(Watched { ino: Ino(7), is_open_file: true })).expect("write");
        worker.set_deadline(Some(clock::now().after(Duration::from_millis(5)))).expect("write");
        let attributes = |ino| notification::inval_attributes(Ino(ino));
        let expected =
            [notification::inc_epoch(), attributes(1), attributes(7), notification::inval_pages(Ino(7), 0, 0)].concat();
        let mut told = vec![0; expected.len()];
        kernel.read_exact(&mut told).expect("the watchdog tells");
        assert_eq!(told, expected);
        // The same deadline is met once; the next one again.
        worker.set_slot(1, None).expect("write");
        worker.set_deadline(Some(Instant(1))).expect("write");
        let expected = [notification::inc_epoch(), attributes(1)].concat();
        let mut told = vec![0; expected.len()];
        kernel.read_exact(&mut told).expect("the watchdog tells");
        assert_eq!(told, expected);
    }

    #[test]
    fn a_deadline_that_moves_on_is_not_met() {
        let (worker, mut kernel, device) = watched();
        let end = clock::now().after(Duration::from_millis(100));
        while clock::now() < end {
            worker.set_deadline(Some(clock::now().after(Duration::from_secs(60)))).expect("write");
        }
        drop(device);
        // The watchdog had the other handle only for as long as it looked: the end of the stream is all there is.
        let mut told = Vec::new();
        kernel.read_to_end(&mut told).expect("readable");
        assert!(told.is_empty());
    }
}
