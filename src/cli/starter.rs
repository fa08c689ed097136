//! What a mount's process and the one that mount(8) started say to each other, over a pipe, until the mount answers. Who
//! started it and has gone (Ctrl-C, SIGTERM) wants no mount any more.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// One line on the pipe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// Nothing is mounted yet, for this reason.
    Waiting(String),
    /// The mount answers: nobody need wait any more.
    Mounted,
}

/// Who reads our standard output.
pub(super) struct Starter {
    /// It may go: it has been told that the mount answers.
    may_go: Arc<AtomicBool>,
}

impl Starter {
    /// From now on this process ends in order, as by SIGTERM, when its starter is gone too early. To be called before
    /// any other thread begins.
    ///
    /// # Errors
    /// As dup(2) or pthread_sigmask(3).
    pub(super) fn watched() -> io::Result<Self> {
        // For the holder, which ends in order; no thread takes it away.
        SigSet::from(Signal::SIGTERM).thread_block()?;
        let may_go = Arc::new(AtomicBool::new(false));
        let (output, told) = (io::stdout().as_fd().try_clone_to_owned()?, Arc::clone(&may_go));
        thread::spawn(move || {
            // Asked for nothing, poll(2) still tells of a pipe that nobody reads.
            let mut ends = [PollFd::new(output.as_fd(), PollFlags::empty())];
            while poll(&mut ends, PollTimeout::NONE) == Err(Errno::EINTR) {}
            if !told.load(SeqCst) {
                tracing::info!("whoever started this mount is gone: it ends");
                end();
            }
        });
        Ok(Self { may_go })
    }

    pub(super) fn tell(&self, word: &Word) {
        let is_last = *word == Word::Mounted;
        if is_last {
            self.may_go.store(true, SeqCst);
        }
        let line = serde_json::to_string(word).map_err(io::Error::from);
        let told = line.and_then(|line| writeln!(io::stdout(), "{line}"));
        if let Err(error) = told.and_then(|()| io::stdout().flush())
            && is_last
        {
            tracing::info!("whoever started this mount is gone ({error}): it ends");
            end();
        }
    }
}

/// The holder's way out is SIGTERM.
fn end() {
    kill(Pid::this(), Signal::SIGTERM).ok();
}

/// Waits for the mount to answer; `waiting` is told what it waits for. `false`: its process ended instead.
///
/// # Errors
/// As read(2).
pub(super) fn wait(output: impl Read, mut waiting: impl FnMut(&str)) -> io::Result<bool> {
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line?)? {
            Word::Waiting(reason) => waiting(&reason),
            Word::Mounted => return Ok(true),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starter_hears_why_it_waits_and_when_it_may_go() {
        let lines = |words: &[Word]| -> String {
            words.iter().map(|word| serde_json::to_string(word).expect("JSON") + "\n").collect()
        };
        let mut heard = Vec::new();
        let waiting = Word::Waiting("a is dead".to_owned());
        let whole = lines(&[waiting.clone(), Word::Mounted, waiting.clone()]);
        assert!(wait(whole.as_bytes(), |reason| heard.push(reason.to_owned())).expect("words"));
        assert_eq!(heard, ["a is dead"]);
        assert!(!wait(lines(&[waiting]).as_bytes(), |_| {}).expect("words"));
        assert!(wait(&b"volume main is mounted\n"[..], |_| {}).is_err());
    }
}
