//! One mount as a pure core: the kernel's requests in, answers out; the volume's replica, dirty bytes, what the
//! kernel may have cached, and the order "apply, publish, invalidate, acknowledge".

pub mod event;
pub mod request;

pub use event::{Input, Notification, Output, StoreError};
pub use request::{Caller, DirectoryEntry, OpenFlags, OpenedAs, Request, Response, WriteFlags};
