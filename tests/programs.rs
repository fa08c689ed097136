//! Programs that others wrote, on real mounts: test suites for file systems, and what people do every day. Two mounts of
//! one volume: what one of them was used for is checked through the other where that says more.
//!
//! A program that is missing leaves its test out (`support/require.rs`); `.ci/run` installs all of them.

#[path = "cluster/address.rs"]
mod address;
#[path = "support/require.rs"]
mod require;
#[path = "mount/support.rs"]
#[allow(dead_code, reason = "shared with the tests of mounts")]
mod support;

mod programs {
    pub(crate) mod tools;

    mod everyday;
    mod suites;
    mod turns;
}
