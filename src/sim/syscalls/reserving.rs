//! A process that makes sure of its space before it writes: what fallocate(2) gave it is there.

use super::{Answer, Context, Errno, OpenFlags, OpenedAs, Path, Request, Step, try_call};
use crate::{
    namespace::AllocateMode,
    sim::kernel::Hold,
    types::{AttributeChanges, Ino},
};

use bytes::Bytes;

/// One reservation, and what becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::sim) struct Reservation {
    /// Bytes from the beginning of the file.
    pub(in crate::sim) length: u64,
    /// What is written into it, and where.
    pub(in crate::sim) offset: u64,
    pub(in crate::sim) data: Bytes,
    /// It is given back.
    pub(in crate::sim) ends: bool,
}

impl Step<'_> {
    /// A reservation that is refused is none: nothing is written then.
    pub(super) fn reserve(&mut self, path: &Path, reservation: &Reservation) -> Answer<()> {
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        let (ino, opened) = try_call!(self.open_or_create(path, flags));
        let done = match self.allocate(ino, opened, reservation.length)? {
            Err(Errno::ENOSPC) => {
                self.running.reserved = Some(false);
                Ok(())
            }
            Ok(()) => {
                self.running.reserved = Some(true);
                self.use_reservation(ino, opened, reservation)?
            }
            Err(errno) => Err(errno),
        };
        let closed = self.close(ino, opened)?;
        self.running.writes = None;
        Ok(done.and(closed))
    }

    fn use_reservation(&mut self, ino: Ino, opened: OpenedAs, reservation: &Reservation) -> Answer<()> {
        try_call!(self.write(ino, opened, reservation.offset, &reservation.data, false));
        if reservation.ends {
            self.lock(ino, Hold::Exclusive)?;
            let changes = AttributeChanges { size: Some(0), ..AttributeChanges::default() };
            try_call!(self.request(|_| (Request::Setattr { ino, changes }, Context::Setattr { ino })));
            self.unlock(ino)?;
        }
        Ok(Ok(()))
    }

    /// With FALLOC_FL_KEEP_SIZE, by which the kernel believes nothing new (`fuse_file_fallocate`, fs/fuse/file.c).
    fn allocate(&mut self, ino: Ino, opened: OpenedAs, length: u64) -> Answer<()> {
        self.lock(ino, Hold::Exclusive)?;
        let answer = self.request(|_| {
            let (fh, mode) = (opened.fh, AllocateMode::KeepSize);
            (Request::Allocate { ino, fh, mode, offset: 0, length }, Context::Plain)
        })?;
        self.unlock(ino)?;
        Ok(answer.map(|_| ()))
    }
}
