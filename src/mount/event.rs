//! What goes into a mount's core and what comes out of it.

use bytes::Bytes;

use super::{Caller, Request, Response};
use crate::{
    message::mount::{ToLeader, ToMount},
    types::{BlockHash, ConnectionId, Errno, Ino, Instant, Name, NodeId, UploadId},
};

/// Why a store did not do what a mount asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store does not have the block")]
    Missing,
    #[error("the store has no space left")]
    Full,
    #[error("the store could not be reached: {0}")]
    Unreachable(String),
}

/// What the kernel is told to forget, and once to know. Order and meaning: docs/protocol.md R2-telling and
/// R8-locked-pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notification {
    /// FUSE_NOTIFY_INVAL_ENTRY. Takes the directory's lock in the kernel.
    Name { parent: Ino, name: Name },
    /// FUSE_NOTIFY_INVAL_INODE with offset -1: attributes (and ACLs, symlink target) only. Takes no lock.
    Attributes { ino: Ino },
    /// FUSE_NOTIFY_INVAL_INODE of pages (`length` 0: to the end), attributes included; waits for pages that requests
    /// have locked. On a directory it drops the listing and takes no lock that a request holds.
    Pages { ino: Ino, offset: u64, length: u64 },
    /// FUSE_NOTIFY_INC_EPOCH: every cached name asks again. Takes no lock. Only where the kernel has it.
    AllNames,
    /// The file is no shorter than that: FUSE_NOTIFY_STORE of `from..size`, of which the kernel gets no byte. It believes in
    /// the size first, and then waits for the page of `from` if a request has it locked.
    Size { ino: Ino, from: u64, size: u64 },
}

impl Notification {
    /// Of the pages from `begin` to `end`, which may be `u64::MAX`.
    pub(crate) fn of_pages(ino: Ino, (begin, end): (u64, u64)) -> Self {
        Self::Pages { ino, offset: begin, length: if end == u64::MAX { 0 } else { end - begin } }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// `unique` names the request until its answer; never two at a time with the same.
    Request {
        unique: u64,
        caller: Caller,
        request: Request,
    },
    /// The caller was interrupted by a signal: the request, if it waits, ends soon.
    Interrupt {
        unique: u64,
    },
    /// All notifications of the ticket are done (in their order).
    Notified {
        ticket: u64,
    },
    /// The connection that `Output::Connect` asked for stands.
    Connected {
        connection: ConnectionId,
    },
    /// It could not be made, or ended.
    Disconnected {
        connection: ConnectionId,
        reason: String,
    },
    Message {
        connection: ConnectionId,
        message: ToMount,
    },
    /// The store has synced the block (and pinned it for the upload), or not.
    BlockStored {
        ticket: u64,
        store: NodeId,
        result: Result<(), StoreError>,
    },
    /// The bytes are verified against the hash by whoever delivers them.
    BlockFetched {
        ticket: u64,
        store: NodeId,
        result: Result<Bytes, StoreError>,
    },
    /// The mount's kernel was asked what it does (`KernelFeatures::inval_entry`).
    Probed {
        inval_entry: bool,
    },
    /// Orderly end: flush everything, leave the session; `Output::Stopped` follows.
    Stop,
    /// Nothing happened but time.
    Tick,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    Answer {
        unique: u64,
        result: Result<Response, Errno>,
    },
    /// Carried out in order by threads that serve no request; `Input::Notified` follows.
    Notify {
        ticket: u64,
        notifications: Vec<Notification>,
    },
    /// The holder's list of what the kernel may answer about without asking for a name: this inode (`true`: an open file)
    /// has this place now, or nobody has. Carried out before the answers of the same turn, as is `Deadline`.
    Watch {
        slot: u32,
        inode: Option<(Ino, bool)>,
    },
    /// When the holder must make the kernel forget, should this mount say nothing until then; `None`: no need.
    Deadline(Option<Instant>),
    /// `Connect` to this address will soon be asked for: it may be dialled already.
    Prepare {
        address: String,
    },
    /// Dial the client service at this address (`host:port`); any earlier connection is given up.
    Connect {
        connection: ConnectionId,
        address: String,
    },
    Send {
        connection: ConnectionId,
        message: ToLeader,
    },
    /// Ask a store to keep the block durably and pin it for (session, upload).
    StoreBlock {
        ticket: u64,
        store: NodeId,
        address: String,
        hash: BlockHash,
        bytes: Bytes,
        upload: UploadId,
    },
    FetchBlock {
        ticket: u64,
        store: NodeId,
        address: String,
        hash: BlockHash,
    },
    /// The volume is here and the kernel may be answered; sent once.
    Ready,
    /// The mount cannot be (wrong cluster, unknown volume …): end the process with this sentence.
    Fatal(String),
    /// The mount can be served no more, for this reason: it answers ESTALE until it is unmounted. An operator must act.
    Stale(String),
    /// A sentence for the log that an operator should see: lease lost, lease back, leader changed.
    Notice(String),
    Stopped,
}
