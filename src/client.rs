//! The way to the leader. `transport` is the shell that carries messages.

pub mod transport;
