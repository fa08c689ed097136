//! read(2): what the page cache has, and READs for the rest.

use bytes::Bytes;

use super::{Answer, Context, Errno, Note, OpenFlags, OpenedAs, PAGE, Path, Request, Sight, Step, data_of, try_call};
use crate::types::Ino;

impl Step<'_> {
    pub(super) fn read(&mut self, path: &Path) -> Answer<()> {
        let (ino, opened) = try_call!(self.open(path, OpenFlags::default()));
        let content = self.read_all(ino, opened)?;
        let closed = self.close(ino, opened)?;
        Ok(content.and_then(|bytes| {
            self.running.sights.push(Sight::Content { ino, bytes });
            closed
        }))
    }

    pub(super) fn read_all(&mut self, ino: Ino, opened: OpenedAs) -> Answer<Bytes> {
        let asked = try_call!(self.attributes_for(ino, true)).size;
        // Pages are read up to the size that the kernel believes in (i_size), which is not that of the answer where it
        // dropped the answer because an invalidation overtook it (fuse_change_attributes_i).
        let believed = self.note(|kernel| Some(Note::Number(kernel.known_size(ino))))?;
        let size = match believed {
            Note::Number(size) if !opened.direct_io => size,
            _ => asked,
        };
        let fh = opened.fh;
        if size == 0 {
            return Ok(Ok(Bytes::new()));
        }
        if opened.direct_io {
            let length = u32::try_from(size).unwrap_or(u32::MAX);
            let answer = self.request(|_| {
                let request = Request::Read { ino, fh, offset: 0, length };
                (request, Context::Read { ino, pages: (0, 0), is_direct: true })
            })?;
            return Ok(data_of(answer));
        }
        self.read_pages(ino, fh, size)
    }

    /// The first bytes of the file, as the page cache has them or is given them.
    pub(super) fn read_pages(&mut self, ino: Ino, fh: u64, size: u64) -> Answer<Bytes> {
        let last = (size - 1) / PAGE;
        // A page that somebody has locked is waited for; what is cached whole is not asked for.
        let cached = self.note(|kernel| {
            if kernel.are_locked(ino, 0, last) {
                return None;
            }
            let pages = &kernel.inode(ino).pages;
            let all: Option<Vec<Bytes>> = (0..=last).map(|page| pages.get(&page).cloned()).collect();
            if all.is_none() {
                kernel.lock_pages(ino, 0, last);
            }
            Some(Note::Pages(all.map(|pages| pages.concat().into())))
        })?;
        let content = match cached {
            Note::Pages(Some(content)) => content,
            _ => {
                let version = self.note(|kernel| Some(Note::Number(kernel.version())))?;
                let Note::Number(version) = version else { return Ok(Err(Errno::EIO)) };
                let length = u32::try_from((last + 1) * PAGE).unwrap_or(u32::MAX);
                let answer = self.request(|_| {
                    let request = Request::Read { ino, fh, offset: 0, length };
                    (request, Context::Read { ino, pages: (0, last), is_direct: false })
                })?;
                let content = try_call!(Ok(data_of(answer)));
                let end = content.len() as u64;
                if end < u64::from(length) {
                    self.note(|kernel| {
                        kernel.read_short(ino, end, version);
                        Some(Note::Done)
                    })?;
                }
                content
            }
        };
        // The file ends where the kernel believes it to end once the pages are up to date (filemap_read, mm/filemap.c), which
        // may be less than before: another reader's answer was short. What that left out reads as zeros.
        let believed = self.note(|kernel| Some(Note::Number(kernel.known_size(ino))))?;
        let Note::Number(end) = believed else { return Ok(Err(Errno::EIO)) };
        let mut shown = content.to_vec();
        shown.resize(usize::try_from(end.min((last + 1) * PAGE)).unwrap_or(0), 0);
        Ok(Ok(shown.into()))
    }
}
