//! What a running process says about itself: log lines on standard error, metrics and health over HTTP.
//!
//! A log line is written where an error is consumed, never where it is passed on. ERROR means that a person must act.

mod http;
mod log;
mod process;
mod repeats;

pub use http::{Readiness, serve};
pub use log::{LogError, LogFormat, init_log, set_log_level};
pub use repeats::{Again, Heard, Repeats};

use prometheus_client::registry::Registry;

/// A registry for one process: names get the prefix `manyfs_`, memory and CPU of the process are in it already.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("manyfs");
    registry.register_collector(Box::new(process::ProcessCollector));
    registry
}
