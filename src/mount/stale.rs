//! A mount whose volume is gone, or is another than it has followed: it can be served no more, and must not vanish, for
//! programs would go on in the directory below. It stays, answers ESTALE to everything, and has no state that anything
//! depends on, until it is unmounted.

use super::{Input, Life, Mount, Notification, Output, Request, Response};
use crate::types::{Errno, Ino, Instant};

impl Mount {
    /// There is nothing more to be had from the cluster, for `reason`.
    pub(super) fn end_for_good(&mut self, now: Instant, reason: &str) {
        match self.life {
            // Nothing is mounted yet.
            Life::Starting => self.outputs.push_back(Output::Fatal(reason.to_owned())),
            Life::Running => self.become_stale(reason),
            Life::Stopping { .. } => self.life = Life::Stopping { deadline: now },
            Life::Stale | Life::Stopped => {}
        }
    }

    fn become_stale(&mut self, reason: &str) {
        self.life = Life::Stale;
        self.is_fresh = false;
        let lost = match self.files.unapplied_bytes() {
            0 => String::new(),
            bytes => format!("; {bytes} bytes that were written and not synced are lost"),
        };
        self.outputs.push_back(Output::Stale(format!(
            "{reason}: every call on this mount fails with ESTALE from now on, until it is unmounted{lost}"
        )));
        self.files.give_up_all();
        self.timers.clear();
        for (unique, verdict) in self.requests.take_all() {
            self.respond(unique, verdict.unwrap_or(Err(Errno::ESTALE)));
        }
        self.refuse_all_reads(Errno::ESTALE);
        // Behind the answers, so that no lock of a request stands in the way.
        let names = if self.config.kernel.inc_epoch {
            vec![Notification::AllNames]
        } else {
            self.cached_names().into_iter().map(|(parent, name)| Notification::Name { parent, name }).collect()
        };
        let inodes: Vec<Ino> = self.kernel.inodes().collect();
        let pages = inodes.into_iter().map(|ino| Notification::of_pages(ino, (0, u64::MAX)));
        let told = names.into_iter().chain(pages).collect();
        self.issue(told, Vec::new());
    }

    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.life == Life::Stale
    }

    /// Takes notice of something, as a mount that is stale.
    pub(super) fn handle_stale(&mut self, input: Input) {
        match input {
            Input::Request { request: Request::Forget { .. }, .. } => {}
            // What was open is closed, whatever it was.
            Input::Request { unique, request: Request::Release { .. } | Request::Releasedir { .. }, .. } => {
                self.respond(unique, Ok(Response::Done));
            }
            Input::Request { unique, .. } => self.respond(unique, Err(Errno::ESTALE)),
            Input::Notified { ticket } => {
                let answers = self.kernel.notified(self.now, ticket).answers;
                self.give(answers);
            }
            Input::Stop => {
                self.life = Life::Stopped;
                self.outputs.push_back(Output::Stopped);
            }
            _ => {}
        }
    }
}
