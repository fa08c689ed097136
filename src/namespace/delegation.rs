//! The right of one session to buffer changes of one file.

use serde::{Deserialize, Serialize};

use crate::types::{LogIndex, SessionId};

/// Who may buffer changes of a file, and since which entry. The entry's index is what a late flush is told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Delegation {
    pub session: SessionId,
    pub grant: LogIndex,
}
