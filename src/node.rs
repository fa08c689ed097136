//! One storage node as a pure core: replica, state and coordinator put together, with everything outside as inputs
//! and outputs. The server shell and the simulator execute the same outputs.

pub mod event;

pub use event::{
    AdminAnswer, AdminError, AdminRequest, Input, LogBatch, LogEntry, NodeStatus, Output, PeerMessage, PeerStatus,
    Recovered, SessionStatus, StateBatch, Unpinned, VolumeStatus,
};
