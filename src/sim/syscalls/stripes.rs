//! Processes that write to one file side by side, each in a part of its own: what a process reads there is what its own
//! write() returned for.

use std::time::Duration;

use bytes::Bytes;

use super::{Answer, Context, OpenFlags, OpenedAs, Path, Request, Step, try_call};
use crate::{
    sim::kernel::Hold,
    types::{AttributeChanges, Ino},
};

/// Bytes of each part, and how many the file has.
const STRIPE_BYTES: u64 = 60;
const STRIPES: u64 = 64;

/// One write, and the read behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::sim) struct Round {
    /// The process calls fstat(2) first, by which its kernel hears of a new mtime.
    pub(in crate::sim) looks: bool,
    pub(in crate::sim) data: Bytes,
    /// How long the process is not let run between the copy into the page and the WRITE.
    pub(in crate::sim) pause: Duration,
}

impl Step<'_> {
    pub(super) fn stripe(&mut self, path: &Path, stripe: u64, rounds: &[Round]) -> Answer<()> {
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        let (ino, opened) = try_call!(self.open_or_create(path, flags));
        let done = self.write_stripe(ino, opened, stripe % STRIPES * STRIPE_BYTES, rounds)?;
        let closed = self.close(ino, opened)?;
        self.running.writes = None;
        Ok(done.and(closed))
    }

    fn write_stripe(&mut self, ino: Ino, opened: OpenedAs, offset: u64, rounds: &[Round]) -> Answer<()> {
        let size = STRIPES * STRIPE_BYTES;
        if try_call!(self.attributes(ino)).size < size {
            self.lock(ino, Hold::Exclusive)?;
            let changes = AttributeChanges { size: Some(size), ..AttributeChanges::default() };
            try_call!(self.request(|_| (Request::Setattr { ino, changes }, Context::Setattr { ino })));
            self.unlock(ino)?;
        }
        for Round { looks, data, pause } in rounds {
            if *looks {
                try_call!(self.attributes(ino));
            }
            let data = data.slice(..data.len().min(STRIPE_BYTES as usize));
            try_call!(self.write_slowly(ino, opened, (offset, &data), false, *pause));
            let content = try_call!(self.read_all(ino, opened));
            let at = offset as usize;
            if content.get(at..at + data.len()) != Some(&data[..]) {
                self.running.misread = Some((ino, offset, content.slice(at.min(content.len())..)));
            }
        }
        Ok(Ok(()))
    }
}
