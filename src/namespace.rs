//! The replicated state: what the cluster agrees on, as a value.
//!
//! `State` has a cluster part and one part per volume. Applying an entry is total (a refusal is a reply with an
//! errno) and deterministic: time comes from the entry, maps are ordered, nothing else is asked. A storage node holds a
//! `State`, a mount holds its `Volume`; both apply the same entries at the same indexes and have the same digest.
//! Every part is persistent (structural sharing): a clone is O(1) and stays as it was.

mod acl;
mod companion;
mod cookie;
mod delegation;
pub mod describe;
pub mod effects;
pub mod entry;
mod extent;
mod inode;
pub mod level;
pub mod locks;
pub mod operation;
mod row;
mod session;
pub mod state;
pub mod volume;

pub use companion::Companion;
pub use delegation::Delegation;
pub use effects::{Applied, Change, Effects, RowChange};
pub use entry::{ByteQuota, Command, DecodeError, Entry, EntryHeader, Founding, NodeInfo, QuotaChanges, VolumeOptions};
pub use extent::Extent;
pub use inode::Inode;
pub use locks::LockTable;
pub use operation::{AllocateMode, Flush, NewNode, Operation, RenameMode, Reply, XattrMode};
pub use row::RowError;
pub use session::Session;
pub use state::State;
pub use volume::Volume;
