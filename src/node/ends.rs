//! Whether the log and the state on a node's disk belong together.
//!
//! The log is the memory of what the node promised, votes included. One that does not reach the state it led to has lost
//! its tail: the node must not start, or it could vote twice in a term and acknowledge what it then does not have. One case
//! looks the same and is sound: a snapshot was installed and the process ended before the log began anew behind it. So the
//! store marks a state that was installed, in the same write, until the log has met it; only such a state may lie ahead.

use crate::types::{LogIndex, Term};

/// Where log and state end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// The log begins behind this entry.
    pub log_begin: LogIndex,
    pub log_end: LogIndex,
    /// The last entry in the state.
    pub state: (LogIndex, Term),
    /// Of the entry of that index in the log, or of the position behind which the log begins.
    pub term_in_log: Option<Term>,
    /// The state is a snapshot's, and the log was not seen to begin behind it.
    pub is_installed: bool,
}

/// How log and state fail to meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Apart {
    #[error("the log begins behind entry {log}, the state ends at entry {state}")]
    StateBehindLog { log: LogIndex, state: LogIndex },
    #[error("the log ends at entry {log}, the state holds entry {state}")]
    LogBehindState { log: LogIndex, state: LogIndex },
    #[error("entry {index} is of term {log} in the log and of term {state} in the state")]
    Terms { index: LogIndex, log: Term, state: Term },
}

impl Ends {
    /// # Errors
    /// `Apart` where the state does not lie in the log, nor ahead of it as a snapshot does that was just installed.
    pub fn check(&self) -> Result<(), Apart> {
        let (state, term) = self.state;
        if self.log_begin > state {
            return Err(Apart::StateBehindLog { log: self.log_begin, state });
        }
        match self.term_in_log {
            _ if self.is_installed => Ok(()),
            None => Err(Apart::LogBehindState { log: self.log_end, state }),
            Some(log) if log != term => Err(Apart::Terms { index: state, log, state: term }),
            Some(_) => Ok(()),
        }
    }

    /// Whether the log reaches the state, so that a mark has no use any more.
    #[must_use]
    pub fn meet(&self) -> bool {
        self.term_in_log == Some(self.state.1)
    }
}
