//! One mount as a pure core: the kernel's requests in, answers out; the volume's replica, dirty bytes, what the
//! kernel may have cached, and the order "apply, publish, invalidate, acknowledge".

pub mod config;
pub mod event;
pub mod request;

use std::collections::VecDeque;

pub use config::{Config, KernelFeatures, MountCounters, MountStatus};
pub use event::{Input, Notification, Output, StoreError};
pub use request::{Caller, DirectoryEntry, OpenFlags, OpenedAs, Request, Response, WriteFlags};

use crate::types::{Errno, Instant};

/// One mount. Driven by a shell: `handle` everything that happens, then take outputs until there are none, then call
/// again at `poll_timeout` at the latest (with `Input::Tick`).
#[derive(Debug)]
pub struct Mount {
    config: Config,
    status: MountStatus,
    outputs: VecDeque<Output>,
}

impl Mount {
    /// A mount that knows nothing yet; its first output dials a server.
    #[must_use]
    pub fn new(_now: Instant, config: Config) -> Self {
        Self { config, status: MountStatus::default(), outputs: VecDeque::new() }
    }

    /// Takes notice of something. Never blocks, never fails.
    pub fn handle(&mut self, _now: Instant, input: Input) {
        match input {
            Input::Request { request: Request::Forget { .. }, .. } => {}
            Input::Request { unique, .. } => {
                let errno = if self.config.read_only { Errno::EROFS } else { Errno::EIO };
                self.outputs.push_back(Output::Answer { unique, result: Err(errno) });
            }
            Input::Stop => self.outputs.push_back(Output::Stopped),
            _ => {}
        }
    }

    /// What is to be carried out next, in this order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle` must be called again even if nothing happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    #[must_use]
    pub fn status(&self) -> MountStatus {
        self.status.clone()
    }
}
