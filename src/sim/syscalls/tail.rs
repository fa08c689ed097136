//! Processes that have a file open and go by the size that the kernel believes in without asking: a mapping,
//! sendfile(2), a lock that is set from the end.

use std::time::Duration;

use super::{Answer, Errno, Note, OpenFlags, OpenedAs, Path, Sight, Step, try_call};
use crate::types::{Ino, Instant};

use bytes::Bytes;

impl Step<'_> {
    pub(super) fn tail(&mut self, path: &Path, pauses: &[Duration]) -> Answer<()> {
        let (_, ino) = try_call!(self.find(path));
        // open(2) looks who may use the file.
        try_call!(self.attributes(ino));
        let opened = try_call!(self.open_inode(ino, OpenFlags { read: true, ..OpenFlags::default() }));
        let watched = self.watch(ino, opened, pauses)?;
        let closed = self.close(ino, opened)?;
        Ok(watched.and(closed))
    }

    fn watch(&mut self, ino: Ino, opened: OpenedAs, pauses: &[Duration]) -> Answer<()> {
        for pause in pauses {
            self.sleep(*pause)?;
            let Note::Number(at) = self.note(|kernel| Some(Note::Number(kernel.now.0)))? else {
                return Ok(Err(Errno::EIO));
            };
            let believed = self.note(|kernel| {
                let is_untold = kernel.untold.contains(&ino);
                Some(Note::Attributes(kernel.believed_attributes(ino).filter(|_| !is_untold)))
            })?;
            let Note::Attributes(Some(attributes)) = believed else { continue };
            let bytes = match attributes.size {
                0 => Bytes::new(),
                size => try_call!(self.read_pages(ino, opened.fh, size)),
            };
            self.running.sights.push(Sight::Mapped { at: Instant(at), attributes, bytes });
        }
        Ok(Ok(()))
    }
}
