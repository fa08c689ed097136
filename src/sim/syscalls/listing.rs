//! Listings that the kernel keeps, and a directory's mtime, by which it tells whether they are still so (`fuse_readdir_cached`,
//! fs/fuse/readdir.c; docs/protocol.md R2-telling).

use bytes::Bytes;

use super::{Answer, Context, Note, Path, Request, Response, Sight, Step, try_call};
use crate::{
    sim::kernel::Hold,
    types::{AttributeChanges, Errno, Ino, Name, TimeChange, Timestamp},
};

impl Step<'_> {
    pub(super) fn list(&mut self, name: &Name) -> Answer<()> {
        let ino = try_call!(self.directory(name));
        let asks = self.note(|kernel| Some(Note::Number(u64::from(!kernel.no_opendir))))?;
        let mut keeps = true;
        if matches!(asks, Note::Number(1)) {
            match self.request(|_| (Request::Opendir { ino }, Context::Plain))? {
                Ok(Response::Opened(opened)) => keeps = opened.cache_dir,
                Ok(_) => keeps = false,
                Err(Errno::ENOSYS) => {
                    self.note(|kernel| {
                        kernel.no_opendir = true;
                        Some(Note::Done)
                    })?;
                }
                Err(errno) => return Ok(Err(errno)),
            }
        }
        let attributes = try_call!(self.attributes(ino));
        self.lock(ino, Hold::Shared)?;
        let kept = self.note(|kernel| {
            let listing = kernel.inode(ino).listing.as_ref().filter(|(_, mtime)| *mtime == attributes.mtime);
            Some(Note::Listing(listing.map(|(entries, _)| entries.clone())))
        })?;
        let entries = match kept {
            Note::Listing(Some(entries)) => entries,
            _ => try_call!(self.read_directory(ino, keeps.then_some(attributes.mtime))),
        };
        self.unlock(ino)?;
        self.running.sights.push(Sight::Listing { directory: ino, entries });
        Ok(Ok(()))
    }

    fn read_directory(&mut self, ino: Ino, keep: Option<Timestamp>) -> Answer<Vec<(Bytes, Ino)>> {
        let version = self.note(|kernel| Some(Note::Number(kernel.inode(ino).listing_version)))?;
        let (mut entries, mut offset, mut drops) = (Vec::new(), 0, None);
        loop {
            let answer = self.request(|_| (Request::Readdir { ino, offset, length: 4096 }, Context::Plain))?;
            let read = match answer {
                Ok(Response::Directory(read)) => read,
                Ok(_) => return Ok(Err(Errno::EIO)),
                Err(errno) => return Ok(Err(errno)),
            };
            let Some(last) = read.last() else { break };
            offset = last.cookie;
            if drops.is_none() {
                drops = Some(self.note(|kernel| Some(Note::Number(kernel.inode(ino).listing_drops)))?);
            }
            entries.extend(read.into_iter().map(|entry| (entry.name, entry.ino)));
        }
        entries.retain(|(name, _)| !matches!(name.as_ref(), b"." | b".."));
        let listing = entries.clone();
        self.note(|kernel| {
            let inode = kernel.inode(ino);
            if let (Some(mtime), Note::Number(version), Some(Note::Number(drops))) = (keep, version, drops)
                && (inode.listing_version, inode.listing_drops) == (version, drops)
            {
                inode.listing = Some((listing, mtime));
            }
            Some(Note::Done)
        })?;
        Ok(Ok(entries))
    }

    pub(super) fn rewind(&mut self, path: &Path, data: &Bytes) -> Answer<()> {
        let parent = try_call!(self.directory(&path.directory));
        let before = try_call!(self.attributes(parent));
        let created = self.create(path, data)?;
        self.lock(parent, Hold::Exclusive)?;
        let changes = AttributeChanges { mtime: Some(TimeChange::To(before.mtime)), ..AttributeChanges::default() };
        let set = self.request(|_| (Request::Setattr { ino: parent, changes }, Context::Setattr { ino: parent }))?;
        self.unlock(parent)?;
        Ok(created.and(set.map(|_| ())))
    }
}
