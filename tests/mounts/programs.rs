//! Programs that others wrote, on real mounts: test suites for file systems, and what people do every day. Two mounts of
//! one volume: what one of them was used for is checked through the other where that says more.
//!
//! A program that is missing leaves its test out (`support/require.rs`); `.ci/run` installs all of them.

pub(crate) mod tools;

mod everyday;
mod suites;
mod turns;
