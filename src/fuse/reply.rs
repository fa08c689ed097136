//! A request of the kernel that has not been answered: fuser's reply object, waiting for the core's word.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, time::Duration};

use fuser::{
    FileHandle, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::translate;
use crate::{
    limits,
    mount::Response,
    types::{Errno, message::Space},
};

/// Inode numbers are never used again, so that no generation has to tell them apart.
const GENERATION: Generation = Generation(0);
/// Unit of the figures of statfs, in bytes.
const STATFS_BLOCK: u32 = 4096;
/// Space of the stores that a new file takes at least, in bytes; so many free inodes are shown.
const INODE_BYTES: u64 = 1024;

/// One kind for each kind of answer that fuser knows.
#[derive(Debug)]
pub(super) enum Reply {
    Empty(ReplyEmpty),
    Entry(ReplyEntry),
    Attributes(ReplyAttr),
    Opened(ReplyOpen),
    Created(ReplyCreate),
    Data(ReplyData),
    Written(ReplyWrite),
    Directory(ReplyDirectory),
    Xattr(ReplyXattr),
    Statfs(ReplyStatfs),
    Offset(ReplyLseek),
}

impl Reply {
    /// Answers the kernel.
    pub(super) fn answer(self, result: Result<Response, Errno>) {
        match result {
            Ok(response) => self.succeed(response),
            Err(errno) => self.refuse(errno),
        }
    }

    fn succeed(self, response: Response) {
        match (self, response) {
            (Self::Empty(reply), _) => reply.ok(),
            (Self::Entry(reply), Response::Entry { attributes, entry_ttl, attributes_ttl }) => {
                reply.entry_with_ttls(&attributes_ttl, &entry_ttl, &translate::attributes(&attributes), GENERATION);
            }
            (Self::Entry(reply), Response::Missing { ttl }) => {
                reply.entry_with_ttls(&Duration::ZERO, &ttl, &translate::missing(), GENERATION);
            }
            (Self::Attributes(reply), Response::Attributes { attributes, ttl }) => {
                reply.attr(&ttl, &translate::attributes(&attributes));
            }
            (Self::Opened(reply), Response::Opened(opened)) => {
                reply.opened(FileHandle(opened.fh), translate::opened(opened));
            }
            (Self::Created(reply), Response::Created { attributes, entry_ttl, attributes_ttl, opened }) => {
                // fuser has one TTL for both; the shorter one is right for both.
                let ttl = entry_ttl.min(attributes_ttl);
                let flags = translate::opened(opened);
                reply.created(&ttl, &translate::attributes(&attributes), GENERATION, FileHandle(opened.fh), flags);
            }
            (Self::Data(reply), Response::Data(parts)) => match parts.as_slice() {
                [] => reply.data(&[]),
                [part] => reply.data(part),
                parts => reply.data(&parts.concat()),
            },
            (Self::Written(reply), Response::Written { length }) => reply.written(length),
            (Self::Directory(mut reply), Response::Directory(entries)) => {
                for entry in entries {
                    let name = OsStr::from_bytes(&entry.name);
                    if reply.add(INodeNo(entry.ino.0), entry.cookie, translate::file_type(entry.kind), name) {
                        break;
                    }
                }
                reply.ok();
            }
            (Self::Xattr(reply), Response::Size(size)) => reply.size(size),
            (Self::Xattr(reply), Response::Data(parts)) => reply.data(&parts.concat()),
            (Self::Statfs(reply), Response::Statfs { space, files }) => statfs(reply, space, files),
            (Self::Offset(reply), Response::Offset(offset)) => reply.offset(offset.cast_signed()),
            (reply, response) => {
                tracing::error!(?reply, ?response, "an answer does not fit its request; the caller gets EIO");
                reply.refuse(Errno::EIO);
            }
        }
    }

    pub(super) fn refuse(self, errno: Errno) {
        let errno = translate::errno(errno);
        match self {
            Self::Empty(reply) => reply.error(errno),
            Self::Entry(reply) => reply.error(errno),
            Self::Attributes(reply) => reply.error(errno),
            Self::Opened(reply) => reply.error(errno),
            Self::Created(reply) => reply.error(errno),
            Self::Data(reply) => reply.error(errno),
            Self::Written(reply) => reply.error(errno),
            Self::Directory(reply) => reply.error(errno),
            Self::Xattr(reply) => reply.error(errno),
            Self::Statfs(reply) => reply.error(errno),
            Self::Offset(reply) => reply.error(errno),
        }
    }
}

fn statfs(reply: ReplyStatfs, space: Space, files: u64) {
    let block = u64::from(STATFS_BLOCK);
    let free_files = space.available / INODE_BYTES;
    reply.statfs(
        space.total / block,
        space.available / block,
        space.available / block,
        files.saturating_add(free_files),
        free_files,
        STATFS_BLOCK,
        limits::NAME_BYTES_MAX as u32,
        STATFS_BLOCK,
    );
}
