//! A shared mapping: bytes that are written to memory, and that the kernel writes back at munmap(), or earlier if it is told
//! to forget the page (fuse_launder_folio; docs/protocol.md R26-mappings).

use std::time::Duration;

use super::{Answer, Context, Flow, Note, OpenFlags, OpenedAs, Path, Request, Step, WriteFlags, try_call};
use crate::{
    sim::kernel::Hold,
    types::{AttributeChanges, Ino},
};

use bytes::Bytes;

/// Bytes of a file that is mapped.
pub(in crate::sim) const MAPPED_BYTES: u64 = 200;

impl Step<'_> {
    /// open(O_CREAT), ftruncate, mmap, write, wait, munmap, close.
    pub(super) fn map(&mut self, path: &Path, (offset, data): (u64, &Bytes), pause: Duration) -> Answer<()> {
        let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
        let (ino, opened) = try_call!(self.open_or_create(path, flags));
        let mapped = self.write_mapped(ino, opened, (offset, data), pause)?;
        let closed = self.close(ino, opened)?;
        self.running.writes = None;
        Ok(mapped.and(closed))
    }

    fn write_mapped(
        &mut self,
        ino: Ino,
        opened: OpenedAs,
        (offset, data): (u64, &Bytes),
        pause: Duration,
    ) -> Answer<()> {
        try_call!(self.lengthen(ino, MAPPED_BYTES));
        let content = try_call!(self.read_all(ino, opened));
        self.write_to_memory(ino, opened, &content, (offset, data))?;
        self.sleep(pause)?;
        self.write_back(ino, opened)
    }

    /// ftruncate, where the file is shorter.
    pub(super) fn lengthen(&mut self, ino: Ino, size: u64) -> Answer<()> {
        if try_call!(self.attributes(ino)).size < size {
            self.lock(ino, Hold::Exclusive)?;
            let changes = AttributeChanges { size: Some(size), ..AttributeChanges::default() };
            try_call!(self.request(|_| (Request::Setattr { ino, changes }, Context::Setattr { ino })));
            self.unlock(ino)?;
        }
        Ok(Ok(()))
    }

    /// `content` is what the process has read of it.
    pub(super) fn write_to_memory(
        &mut self,
        ino: Ino,
        opened: OpenedAs,
        content: &[u8],
        (offset, data): (u64, &Bytes),
    ) -> Flow<()> {
        self.note(|kernel| {
            kernel.write_mapped(ino, opened.fh, content, (offset, data));
            Some(Note::Done)
        })?;
        Ok(())
    }

    /// munmap: what is dirty goes back.
    pub(super) fn write_back(&mut self, ino: Ino, opened: OpenedAs) -> Answer<()> {
        let written = self.note(|kernel| {
            let is_free = !kernel.are_locked(ino, 0, 0);
            is_free.then(|| Note::Pages(kernel.begin_write_back(ino).map(|(_, page)| page)))
        })?;
        if let Note::Pages(Some(page)) = written {
            let flags = WriteFlags { write_back: true, ..WriteFlags::default() };
            let request = Request::Write { ino, fh: opened.fh, offset: 0, data: page, flags };
            try_call!(self.request(|_| (request, Context::WriteBack { ino })));
        }
        Ok(Ok(()))
    }
}
