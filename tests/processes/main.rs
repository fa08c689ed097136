//! The program as its operators run it: its commands, and clusters of real processes.

#[path = "../support/address.rs"]
mod address;
#[path = "../support/require.rs"]
mod require;
#[path = "../support/cluster.rs"]
mod support;

mod both;
mod cli;
mod cluster;
mod demo;
