//! The vocabulary every layer shares: identities, times, names, attributes and blocks.
//! Nothing here does anything; it only says what things are.

pub mod attributes;
pub mod block;
pub mod counters;
pub mod errno;
pub mod id;
pub mod label;
pub mod lock;
pub mod name;
pub mod principal;
pub mod space;
pub mod time;

pub(crate) use attributes::mtime_behind;
pub use attributes::{AttributeChanges, Attributes, ClearSuid, FileKind, TimeChange};
pub use block::{BlockHash, Piece};
pub use counters::CounterKind;
pub(crate) use counters::counters;
pub use errno::Errno;
pub use id::{
    ClusterId, ConnectionId, CredentialId, FoundingId, FoundingNumber, Generation, Ino, LogIndex, MountId, NodeId,
    Sequence, SessionId, Term, UploadId, VolumeId,
};
pub use label::Label;
pub use lock::{LockClaim, LockFamily, LockHolder, LockKind, LockRange};
pub use name::{Name, NameError, XattrName};
pub use principal::{Access, Grant, Member, Principal};
pub use space::{Space, VolumeSpace};
pub use time::{Instant, Stamp, Timestamp};
