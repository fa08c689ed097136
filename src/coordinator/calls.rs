//! The calls of a session that are under way at this leader, from their arrival to their answer.

use crate::{
    namespace::Reply,
    types::{Errno, LogIndex},
};

/// Where a call stands. It leaves the table with its answer; a repetition then finds the reply table of the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    /// Taken, not yet proposed.
    Queued,
    /// In the log's hands.
    Proposed,
    /// Carried out here; the roster has not acknowledged it yet.
    Applied { index: LogIndex, outcome: Result<Reply, Errno> },
    /// To be answered as soon as its entry was sent on the caller's connection.
    Complete { index: LogIndex, outcome: Result<Reply, Errno> },
}

impl Call {
    /// Whether it takes its course without the connection that brought it.
    pub(super) const fn outlives_connection(&self) -> bool {
        matches!(self, Self::Proposed | Self::Applied { .. })
    }
}
