//! The reference: a file system in the plainest words, on `BTreeMap` and `Vec`. It knows no blocks, extents, rows or
//! sessions; files are bytes. What it says about errors, times and link counts is POSIX as Linux has it.

use std::collections::{BTreeMap, BTreeSet};

use manyfs::{
    limits,
    namespace::{AllocateMode, Flush, NewNode, Operation, RenameMode, Reply, XattrMode},
    types::{
        AttributeChanges, BlockHash, ClearSuid, Errno, FileKind, Ino, LogIndex, Name, Piece, SessionId, TimeChange,
        Timestamp, XattrName,
    },
};

/// Content that a block stands for: also what did not travel in the entry.
pub(crate) type Blocks = BTreeMap<BlockHash, Vec<u8>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: FileKind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) rdev: u32,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    /// Of a file; a byte that was never written, or punched out, is `None`.
    pub(crate) content: Vec<Option<u8>>,
    /// Places of bytes for which space is reserved, also behind the end. None of them has content.
    pub(crate) reserved: BTreeSet<u64>,
    pub(crate) version: u64,
    pub(crate) target: Vec<u8>,
    /// Of a directory.
    pub(crate) entries: BTreeMap<Name, Ino>,
    pub(crate) parent: Ino,
    pub(crate) xattrs: BTreeMap<XattrName, Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<Ino, Node>,
    pub(crate) next: u64,
    /// Bytes and inodes.
    pub(crate) quotas: (Option<u64>, Option<u64>),
    /// Who may buffer changes of a file, and by which entry.
    pub(crate) holders: BTreeMap<Ino, (SessionId, LogIndex)>,
    now: Timestamp,
    /// Times of change before the operation under way: all of its changes count as one.
    times: BTreeMap<Ino, (Timestamp, Timestamp)>,
}

type Outcome = Result<Reply, Errno>;

/// Whatever in the range has no content.
fn reserve(content: &[Option<u8>], reserved: &mut BTreeSet<u64>, range: std::ops::Range<usize>) {
    let is_hole = |at: &usize| content.get(*at).copied().flatten().is_none();
    reserved.extend(range.filter(is_hole).map(|at| at as u64));
}

impl Model {
    pub(crate) fn new(owner: (u32, u32), mode: u16, quotas: (Option<u64>, Option<u64>), now: Timestamp) -> Self {
        let mut model =
            Self { nodes: BTreeMap::new(), next: 2, quotas, holders: BTreeMap::new(), now, times: BTreeMap::new() };
        let root = Node { nlink: 2, ..model.blank(FileKind::Directory, mode, owner) };
        model.nodes.insert(Ino::ROOT, Node { parent: Ino::ROOT, ..root });
        model
    }

    pub(crate) fn used(&self) -> u64 {
        self.nodes.values().map(|node| node.bytes() + node.xattr_bytes()).sum()
    }

    pub(crate) fn orphans(&self) -> BTreeSet<Ino> {
        self.nodes.iter().filter(|(_, node)| node.nlink == 0).map(|(ino, _)| *ino).collect()
    }

    pub(crate) fn reap(&mut self, inodes: &[Ino]) {
        for ino in self.orphans() {
            if inodes.contains(&ino) {
                self.nodes.remove(&ino);
                self.holders.remove(&ino);
            }
        }
    }

    /// `call`: who asks, by which entry.
    pub(crate) fn apply(
        &mut self,
        now: Timestamp,
        call: (SessionId, LogIndex),
        operation: &Operation,
        blocks: &Blocks,
    ) -> Outcome {
        let before = self.clone();
        self.now = now;
        self.times = self.nodes.iter().map(|(ino, node)| (*ino, (node.mtime, node.ctime))).collect();
        let mut outcome = self.attempt(call, operation, blocks);
        let exceeds = |was: u64, is: u64, quota: Option<u64>| is > was && quota.is_some_and(|quota| is > quota);
        let is_too_much = exceeds(before.used(), self.used(), self.quotas.0)
            || exceeds(before.nodes.len() as u64, self.nodes.len() as u64, self.quotas.1);
        if outcome.is_ok() && is_too_much {
            outcome = Err(Errno::EDQUOT);
        }
        if outcome.is_err() {
            *self = before;
        }
        outcome
    }

    fn attempt(&mut self, call: (SessionId, LogIndex), operation: &Operation, blocks: &Blocks) -> Outcome {
        let is_foreign = |ino: &Ino| self.holders.get(ino).is_some_and(|(holder, _)| *holder != call.0);
        let concerned: &[Ino] = match operation {
            Operation::SetAttributes { ino, .. }
            | Operation::Write { ino, .. }
            | Operation::Allocate { ino, .. }
            | Operation::SetXattr { ino, .. }
            | Operation::RemoveXattr { ino, .. }
            | Operation::Coalesce { ino, .. }
            | Operation::Delegate { ino } => &[*ino],
            Operation::CopyRange { from, to, .. } => &[*from, *to],
            _ => &[],
        };
        if concerned.iter().any(is_foreign) {
            return Err(Errno::EAGAIN);
        }
        match operation {
            Operation::Make { parent, name, node, mode, uid, gid, delegate, umask } => {
                let made = self.make(*parent, name, node, *mode & !(*umask & 0o777), (*uid, *gid))?;
                if let (true, NewNode::File, Reply::Made { ino }) = (*delegate, node, made) {
                    self.holders.insert(ino, call);
                }
                Ok(made)
            }
            Operation::MakeUnnamed { parent, mode, uid, gid, umask } => {
                self.make_unnamed(*parent, *mode & !(*umask & 0o777), (*uid, *gid))
            }
            Operation::Link { ino, parent, name } => self.link(*ino, *parent, name, false),
            Operation::LinkUnnamed { ino, parent, name } => self.link(*ino, *parent, name, true),
            Operation::Unlink { parent, name } => self.unlink(*parent, name),
            Operation::Rmdir { parent, name } => self.rmdir(*parent, name),
            Operation::Rename { from, from_name, to, to_name, mode } => {
                self.rename((*from, from_name), (*to, to_name), *mode)
            }
            Operation::SetAttributes { ino, changes } => self.set_attributes(*ino, changes),
            Operation::Write { ino, pieces, append, mtime, clear_suid, .. } => {
                self.write(*ino, pieces, *append, (*mtime, *clear_suid), blocks)
            }
            Operation::Allocate { ino, mode, offset, length, .. } => self.allocate(*ino, *mode, *offset, *length),
            Operation::SetXattr { ino, name, value, mode, .. } => self.set_xattr(*ino, name, value, *mode),
            Operation::RemoveXattr { ino, name } => self.remove_xattr(*ino, name),
            Operation::CopyRange { from, from_offset, to, to_offset, length } => {
                self.copy_range((*from, *from_offset), (*to, *to_offset), *length)
            }
            Operation::Coalesce { ino, data_version, piece } => self.coalesce(*ino, *data_version, piece),
            Operation::Delegate { ino } => {
                self.must_be_file(*ino)?;
                self.holders.insert(*ino, call);
                Ok(Reply::Done)
            }
            Operation::Flush(flush) => self.flush(call.0, flush, blocks),
            Operation::Lock { .. }
            | Operation::Unlock { .. }
            | Operation::CancelLock { .. }
            | Operation::ReleaseLocks { .. } => unreachable!("{operation:?} is no change of the tree"),
        }
    }

    // Names.

    fn make(&mut self, parent: Ino, name: &Name, node: &NewNode, mode: u16, owner: (u32, u32)) -> Outcome {
        let directory = self.living_directory(parent)?;
        let (setgid, group) = (directory.mode & 0o2000 != 0, directory.gid);
        self.must_be_free(parent, name)?;
        let (kind, rdev, target) = match node {
            NewNode::File => (FileKind::File, 0, Vec::new()),
            NewNode::Directory => (FileKind::Directory, 0, Vec::new()),
            NewNode::Symlink { target } if target.is_empty() => return Err(Errno::ENOENT),
            NewNode::Symlink { target } if target.len() > 4095 => return Err(Errno::ENAMETOOLONG),
            NewNode::Symlink { target } => (FileKind::Symlink, 0, target.to_vec()),
            NewNode::Fifo => (FileKind::Fifo, 0, Vec::new()),
            NewNode::Socket => (FileKind::Socket, 0, Vec::new()),
            NewNode::CharDevice { rdev } => (FileKind::CharDevice, *rdev, Vec::new()),
            NewNode::BlockDevice { rdev } => (FileKind::BlockDevice, *rdev, Vec::new()),
        };
        let directory = kind == FileKind::Directory;
        let mut made = Node { rdev, target, parent, ..self.blank(kind, mode, owner) };
        made.nlink = if directory { 2 } else { 1 };
        if kind == FileKind::Symlink {
            made.mode = 0o777;
        }
        if setgid {
            made.gid = group;
            made.mode |= if directory { 0o2000 } else { 0 };
        }
        let ino = Ino(self.next);
        self.next += 1;
        self.nodes.insert(ino, made);
        self.node(parent).entries.insert(name.clone(), ino);
        self.node(parent).nlink += u32::from(directory);
        self.mark_content(parent);
        Ok(Reply::Made { ino })
    }

    fn make_unnamed(&mut self, parent: Ino, mode: u16, owner: (u32, u32)) -> Outcome {
        let directory = self.living_directory(parent)?;
        let (setgid, group) = (directory.mode & 0o2000 != 0, directory.gid);
        let mut made = Node { parent, nlink: 0, ..self.blank(FileKind::File, mode, owner) };
        if setgid {
            made.gid = group;
        }
        let ino = Ino(self.next);
        self.next += 1;
        self.nodes.insert(ino, made);
        Ok(Reply::Made { ino })
    }

    fn link(&mut self, ino: Ino, parent: Ino, name: &Name, may_be_unnamed: bool) -> Outcome {
        let node = self.get(ino)?.clone();
        self.living_directory(parent)?;
        self.must_be_free(parent, name)?;
        if node.kind == FileKind::Directory {
            return Err(Errno::EPERM);
        }
        if node.nlink == 0 && !may_be_unnamed {
            return Err(Errno::ENOENT);
        }
        self.node(ino).nlink += 1;
        self.node(parent).entries.insert(name.clone(), ino);
        self.mark_attributes(ino);
        self.mark_content(parent);
        Ok(Reply::Made { ino })
    }

    fn unlink(&mut self, parent: Ino, name: &Name) -> Outcome {
        let ino = self.find(parent, name)?.ok_or(Errno::ENOENT)?;
        if self.get(ino)?.kind == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        self.forget_name(parent, name);
        self.mark_content(parent);
        self.node(ino).nlink -= 1;
        self.mark_attributes(ino);
        Ok(Reply::Done)
    }

    fn rmdir(&mut self, parent: Ino, name: &Name) -> Outcome {
        let ino = self.find(parent, name)?.ok_or(Errno::ENOENT)?;
        if self.get(ino)?.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if !self.get(ino)?.entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.forget_name(parent, name);
        self.node(parent).nlink -= 1;
        self.mark_content(parent);
        self.node(ino).nlink = 0;
        self.mark_attributes(ino);
        Ok(Reply::Done)
    }

    fn rename(&mut self, (from, old): (Ino, &Name), (to, new): (Ino, &Name), mode: RenameMode) -> Outcome {
        self.living_directory(from)?;
        self.living_directory(to)?;
        let moved = self.find(from, old)?.ok_or(Errno::ENOENT)?;
        let target = self.find(to, new)?;
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(Errno::EEXIST);
        }
        if mode == RenameMode::Exchange && target.is_none() {
            return Err(Errno::ENOENT);
        }
        if target.is_none() {
            self.must_not_be_reserved(to, new)?;
        }
        if self.ancestors(to).contains(&moved) {
            return Err(Errno::EINVAL);
        }
        if target.is_some_and(|target| self.ancestors(from).contains(&target)) {
            return Err(if mode == RenameMode::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if target == Some(moved) {
            return Ok(Reply::Done);
        }
        let moves_directory = self.get(moved)?.kind == FileKind::Directory;
        let over_directory = match target {
            Some(target) => self.get(target)?.kind == FileKind::Directory,
            None => false,
        };
        if mode == RenameMode::Exchange {
            let target = target.ok_or(Errno::ENOENT)?;
            self.point(from, old, target);
            self.point(to, new, moved);
            self.move_directory(target, to, from);
            self.move_directory(moved, from, to);
            self.mark_attributes(target);
        } else {
            if let Some(target) = target {
                if moves_directory && !over_directory {
                    return Err(Errno::ENOTDIR);
                }
                if !moves_directory && over_directory {
                    return Err(Errno::EISDIR);
                }
                if !self.get(target)?.entries.is_empty() {
                    return Err(Errno::ENOTEMPTY);
                }
                if over_directory {
                    self.node(to).nlink -= 1;
                    self.node(target).nlink = 0;
                } else {
                    self.node(target).nlink -= 1;
                }
                self.mark_attributes(target);
                self.point(to, new, moved);
            } else {
                self.node(to).entries.insert(new.clone(), moved);
            }
            self.forget_name(from, old);
            self.move_directory(moved, from, to);
        }
        self.mark_attributes(moved);
        self.mark_content(from);
        if to != from {
            self.mark_content(to);
        }
        Ok(Reply::Done)
    }

    // Attributes.

    fn set_attributes(&mut self, ino: Ino, changes: &AttributeChanges) -> Outcome {
        let kind = self.get(ino)?.kind;
        if changes.mode.is_some() && kind == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(size) = changes.size {
            self.must_be_file(ino)?;
            if size > limits::FILE_BYTES_MAX {
                return Err(Errno::EFBIG);
            }
            if size <= self.get(ino)?.size() {
                self.node(ino).reserved.retain(|at| *at < size);
            }
            let size = usize::try_from(size).map_err(|_| Errno::EFBIG)?;
            self.node(ino).content.resize(size, None);
            self.content_written(ino, None);
        }
        let now = self.now;
        let node = self.node(ino);
        node.mode = changes.mode.unwrap_or(node.mode) & 0o7777;
        node.uid = changes.uid.unwrap_or(node.uid);
        node.gid = changes.gid.unwrap_or(node.gid);
        node.clear_suid(changes.clear_suid);
        match changes.atime {
            Some(TimeChange::To(time)) => node.atime = time,
            Some(TimeChange::Now) => node.atime = now,
            None => {}
        }
        match changes.mtime {
            Some(TimeChange::To(time)) => node.mtime = time,
            Some(TimeChange::Now) if changes.size.is_some() => {}
            Some(TimeChange::Now) => node.mtime = now,
            None => {}
        }
        self.mark_attributes(ino);
        Ok(Reply::Done)
    }

    fn set_xattr(&mut self, ino: Ino, name: &XattrName, value: &[u8], mode: XattrMode) -> Outcome {
        self.may_have_xattr(ino, name)?;
        if value.len() > 65536 {
            return Err(Errno::E2BIG);
        }
        let there = self.get(ino)?.xattrs.contains_key(name);
        match mode {
            XattrMode::Create if there => return Err(Errno::EEXIST),
            XattrMode::Replace if !there => return Err(Errno::ENODATA),
            _ => {}
        }
        self.node(ino).xattrs.insert(name.clone(), value.to_vec());
        self.mark_attributes(ino);
        Ok(Reply::Done)
    }

    fn remove_xattr(&mut self, ino: Ino, name: &XattrName) -> Outcome {
        self.may_have_xattr(ino, name)?;
        self.node(ino).xattrs.remove(name).ok_or(Errno::ENODATA)?;
        self.mark_attributes(ino);
        Ok(Reply::Done)
    }

    /// Lists are tried elsewhere: the random names of this test are of the other kinds.
    fn may_have_xattr(&self, ino: Ino, name: &XattrName) -> Result<(), Errno> {
        let kind = self.get(ino)?.kind;
        let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
        match name.split_once('.') {
            Some(("user" | "trusted" | "security", "")) => Err(Errno::EINVAL),
            Some(("user", _)) if !matches!(kind, FileKind::File | FileKind::Directory) => Err(Errno::EPERM),
            Some(("user" | "trusted" | "security", _)) => Ok(()),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    // Content.

    fn write(
        &mut self,
        ino: Ino,
        pieces: &[Piece],
        append: bool,
        (mtime, clear_suid): (Option<Timestamp>, ClearSuid),
        blocks: &Blocks,
    ) -> Outcome {
        self.must_be_file(ino)?;
        let end = self.get(ino)?.content.len() as u64;
        let base = if append { end } else { 0 };
        for piece in pieces {
            if piece.length == 0 || (piece.block.is_some() && piece.length > 1 << 20) {
                return Err(Errno::EINVAL);
            }
            let last = base.checked_add(piece.offset).and_then(|at| at.checked_add(piece.length));
            if last.is_none_or(|last| last > limits::FILE_BYTES_MAX) {
                return Err(Errno::EFBIG);
            }
        }
        if clear_suid != ClearSuid::No {
            self.node(ino).clear_suid(clear_suid);
            self.mark_attributes(ino);
        }
        for piece in pieces {
            let from = usize::try_from(base + piece.offset).map_err(|_| Errno::EFBIG)?;
            let length = usize::try_from(piece.length).map_err(|_| Errno::EFBIG)?;
            let bytes = piece.block.map(|block| blocks[&block].clone());
            self.node(ino).end_reservation(from, from + length);
            let content = &mut self.node(ino).content;
            if content.len() < from + length {
                content.resize(from + length, None);
            }
            for at in 0..length {
                content[from + at] = bytes.as_ref().map(|bytes| bytes[at]);
            }
        }
        let offset = pieces.first().map_or(end, |piece| base + piece.offset);
        if !pieces.is_empty() {
            self.content_written(ino, mtime);
        }
        Ok(Reply::Written { offset, size: self.get(ino)?.content.len() as u64 })
    }

    /// All of it is one change: times are compared with what they were before it.
    fn flush(&mut self, session: SessionId, flush: &Flush, blocks: &Blocks) -> Outcome {
        let ino = flush.ino;
        if self.holders.get(&ino) != Some(&(session, flush.grant)) {
            return Err(Errno::ESTALE);
        }
        if flush.changes.size.is_some() {
            return Err(Errno::EINVAL);
        }
        let (mtime, ctime) = self.times[&ino];
        let mut is_written = false;
        if let Some(cut) = flush.cut.and_then(|cut| usize::try_from(cut).ok())
            && cut < self.get(ino)?.content.len()
        {
            self.node(ino).content.truncate(cut);
            self.node(ino).reserved.retain(|at| *at < cut as u64);
            self.node(ino).version += 1;
            is_written = true;
        }
        let version = self.get(ino)?.version;
        self.write(ino, &flush.pieces, false, (None, flush.changes.clear_suid), blocks)?;
        is_written |= self.get(ino)?.version != version;
        if flush.size_min > self.get(ino)?.size() {
            if flush.size_min > limits::FILE_BYTES_MAX {
                return Err(Errno::EFBIG);
            }
            let size = usize::try_from(flush.size_min).map_err(|_| Errno::EFBIG)?;
            self.node(ino).content.resize(size, None);
            self.node(ino).version += 1;
            is_written = true;
        }
        let is_touched = is_written || flush.written_at.is_some();
        (self.node(ino).mtime, self.node(ino).ctime) = (mtime, ctime);
        let mut changed_at = flush.changed_at;
        if is_touched {
            self.mark_content_at(ino, flush.written_at.unwrap_or(self.now));
            if flush.written_at.is_some() {
                changed_at = changed_at.max(Some(self.node(ino).mtime));
            }
        }
        if flush.changes.clear_suid != ClearSuid::No {
            self.mark_attributes(ino);
        }
        if flush.changes != (AttributeChanges { clear_suid: flush.changes.clear_suid, ..AttributeChanges::default() }) {
            self.set_attributes(ino, &AttributeChanges { clear_suid: ClearSuid::No, ..flush.changes })?;
        }
        if let Some(at) = changed_at {
            self.mark_attributes_at(ino, at);
        }
        if flush.give_back {
            self.holders.remove(&ino);
        }
        Ok(Reply::Done)
    }

    fn allocate(&mut self, ino: Ino, mode: AllocateMode, offset: u64, length: u64) -> Outcome {
        match self.get(ino)?.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            FileKind::Fifo => return Err(Errno::ESPIPE),
            _ => return Err(Errno::ENODEV),
        }
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let end = offset.checked_add(length).filter(|end| *end <= limits::FILE_BYTES_MAX).ok_or(Errno::EFBIG)?;
        let to_usize = |number: u64| usize::try_from(number).map_err(|_| Errno::EFBIG);
        let (start, end, length) = (to_usize(offset)?, to_usize(end)?, to_usize(length)?);
        let Node { content, reserved, .. } = self.node(ino);
        let size = content.len();
        let aligned = start % 4096 == 0 && length % 4096 == 0;
        let mut changed = true;
        match mode {
            AllocateMode::KeepSize => {
                changed = false;
                reserve(content, reserved, start..end);
            }
            AllocateMode::Extend => {
                reserve(content, reserved, start..end);
                changed = end > size;
                content.resize(size.max(end), None);
            }
            AllocateMode::Punch | AllocateMode::Zero { .. } => {
                if mode == (AllocateMode::Zero { keep_size: false }) {
                    content.resize(size.max(end), None);
                }
                let last = end.min(content.len());
                if start < last {
                    content[start..last].fill(None);
                }
                match mode {
                    AllocateMode::Punch => reserved.retain(|at| !(start as u64..end as u64).contains(at)),
                    _ => reserve(content, reserved, start..end),
                }
            }
            AllocateMode::Collapse if !aligned || end >= size => return Err(Errno::EINVAL),
            AllocateMode::Collapse => {
                content.drain(start..end);
                let kept = reserved.iter().filter(|at| !(start as u64..end as u64).contains(at));
                *reserved = kept.map(|at| if *at < end as u64 { *at } else { at - length as u64 }).collect();
            }
            AllocateMode::Insert if !aligned || start >= size => return Err(Errno::EINVAL),
            AllocateMode::Insert => {
                content.splice(start..start, vec![None; length]);
                let moved = reserved.iter().map(|at| if *at < start as u64 { *at } else { at + length as u64 });
                *reserved = moved.collect();
            }
        }
        // With content mtime changes, and ctime is never earlier.
        if changed {
            self.content_written(ino, None);
        } else {
            self.mark_attributes(ino);
        }
        Ok(Reply::Done)
    }

    fn copy_range(&mut self, (from, from_offset): (Ino, u64), (to, to_offset): (Ino, u64), length: u64) -> Outcome {
        self.must_be_file(from)?;
        self.must_be_file(to)?;
        let source = &self.get(from)?.content;
        let length = length.min((source.len() as u64).saturating_sub(from_offset));
        if length == 0 {
            return Ok(Reply::Copied { length });
        }
        if to_offset.checked_add(length).is_none_or(|end| end > limits::FILE_BYTES_MAX) {
            return Err(Errno::EFBIG);
        }
        if from == to && from_offset.abs_diff(to_offset) < length {
            return Err(Errno::EINVAL);
        }
        let to_usize = |number: u64| usize::try_from(number).map_err(|_| Errno::EFBIG);
        let (start, at, count) = (to_usize(from_offset)?, to_usize(to_offset)?, to_usize(length)?);
        let bytes = source[start..start + count].to_vec();
        self.node(to).end_reservation(at, at + count);
        let content = &mut self.node(to).content;
        if content.len() < at + count {
            content.resize(at + count, None);
        }
        content[at..at + count].copy_from_slice(&bytes);
        self.content_written(to, None);
        Ok(Reply::Copied { length })
    }

    fn coalesce(&mut self, ino: Ino, version: u64, piece: &Piece) -> Outcome {
        self.must_be_file(ino)?;
        if self.get(ino)?.version != version {
            return Err(Errno::ESTALE);
        }
        let (start, length) = (piece.offset, piece.length);
        let end = start.checked_add(length).ok_or(Errno::EFBIG)?;
        let content = &mut self.node(ino).content;
        if length == 0 || piece.block.is_none() || end > content.len() as u64 {
            return Err(Errno::EINVAL);
        }
        let range =
            usize::try_from(start).map_err(|_| Errno::EFBIG)?..usize::try_from(end).map_err(|_| Errno::EFBIG)?;
        // The same bytes, but what was a hole holds zeros now.
        content[range.clone()].iter_mut().for_each(|byte| *byte = Some(byte.unwrap_or(0)));
        self.node(ino).end_reservation(range.start, range.end);
        Ok(Reply::Done)
    }

    // Helpers.

    fn blank(&self, kind: FileKind, mode: u16, (uid, gid): (u32, u32)) -> Node {
        Node {
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            nlink: 0,
            rdev: 0,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            content: Vec::new(),
            reserved: BTreeSet::new(),
            version: 0,
            target: Vec::new(),
            entries: BTreeMap::new(),
            parent: Ino(0),
            xattrs: BTreeMap::new(),
        }
    }

    fn get(&self, ino: Ino) -> Result<&Node, Errno> {
        self.nodes.get(&ino).ok_or(Errno::ESTALE)
    }

    /// One that is known to exist.
    fn node(&mut self, ino: Ino) -> &mut Node {
        self.nodes.get_mut(&ino).expect("looked up before")
    }

    fn must_be_file(&self, ino: Ino) -> Result<(), Errno> {
        match self.get(ino)?.kind {
            FileKind::File => Ok(()),
            FileKind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn living_directory(&self, ino: Ino) -> Result<&Node, Errno> {
        let node = self.nodes.get(&ino).ok_or(Errno::ENOENT)?;
        if node.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if node.nlink == 0 { Err(Errno::ENOENT) } else { Ok(node) }
    }

    fn find(&self, parent: Ino, name: &Name) -> Result<Option<Ino>, Errno> {
        let directory = self.living_directory(parent)?;
        Ok(directory.entries.get(name).copied())
    }

    fn must_be_free(&self, parent: Ino, name: &Name) -> Result<(), Errno> {
        if self.find(parent, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        self.must_not_be_reserved(parent, name)
    }

    fn must_not_be_reserved(&self, parent: Ino, name: &Name) -> Result<(), Errno> {
        if parent == Ino::ROOT && name.as_bytes() == b".snapshots" { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn forget_name(&mut self, parent: Ino, name: &Name) {
        self.node(parent).entries.remove(name);
    }

    fn point(&mut self, parent: Ino, name: &Name, ino: Ino) {
        *self.node(parent).entries.get_mut(name).expect("looked up before") = ino;
    }

    fn move_directory(&mut self, ino: Ino, from: Ino, to: Ino) {
        if self.node(ino).kind == FileKind::Directory {
            self.node(from).nlink -= 1;
            self.node(to).nlink += 1;
            self.node(ino).parent = to;
        }
    }

    fn ancestors(&self, directory: Ino) -> Vec<Ino> {
        let mut ancestors = vec![directory];
        let mut at = directory;
        while at != Ino::ROOT {
            at = self.nodes[&at].parent;
            ancestors.push(at);
        }
        ancestors
    }

    fn mark_attributes(&mut self, ino: Ino) {
        self.mark_attributes_at(ino, self.now);
    }

    fn mark_attributes_at(&mut self, ino: Ino, at: Timestamp) {
        let at = self.believed(ino, at);
        let earliest = self.times.get(&ino).map_or(at, |(_, ctime)| ctime.next());
        self.node(ino).ctime = at.max(earliest);
    }

    fn mark_content(&mut self, ino: Ino) {
        self.mark_content_at(ino, self.now);
    }

    /// Another mtime than before: a later one, unless it was set to a time that has not come.
    fn mark_content_at(&mut self, ino: Ino, at: Timestamp) {
        let at = self.believed(ino, at);
        let (mtime, ctime) = self.times[&ino];
        let is_later = mtime < at;
        let has_not_come = mtime > ctime && mtime != at;
        self.node(ino).mtime = if is_later || has_not_come { at } else { mtime.next() };
        let mtime = self.node(ino).mtime;
        self.mark_attributes_at(ino, self.now.max(mtime));
    }

    /// A second later than the entry at most, or a bit later than the inode's own time.
    fn believed(&self, ino: Ino, at: Timestamp) -> Timestamp {
        let own = self.times.get(&ino).map_or(self.now, |(_, ctime)| ctime.after(std::time::Duration::from_millis(1)));
        at.min(self.now.after(limits::STAMP_LEAD_MAX).max(own))
    }

    fn content_written(&mut self, ino: Ino, mtime: Option<Timestamp>) {
        self.node(ino).version += 1;
        self.mark_content_at(ino, mtime.unwrap_or(self.now));
    }
}

impl Node {
    pub(crate) fn bytes(&self) -> u64 {
        self.content.iter().filter(|byte| byte.is_some()).count() as u64 + self.reserved.len() as u64
    }

    fn end_reservation(&mut self, from: usize, to: usize) {
        self.reserved.retain(|at| !(from as u64..to as u64).contains(at));
    }

    fn xattr_bytes(&self) -> u64 {
        self.xattrs.iter().map(|(name, value)| (name.as_bytes().len() + value.len()) as u64).sum()
    }

    pub(crate) fn size(&self) -> u64 {
        match self.kind {
            FileKind::File => self.content.len() as u64,
            FileKind::Directory => 4096,
            _ => self.target.len() as u64,
        }
    }

    fn clear_suid(&mut self, clear: ClearSuid) {
        if clear == ClearSuid::No || self.kind == FileKind::Directory {
            return;
        }
        let setgid_goes = clear == ClearSuid::ByStranger || self.mode & 0o010 != 0;
        self.mode &= if setgid_goes { 0o1777 } else { 0o3777 };
    }
}
