//! What random lists rarely reach: limits, access lists, volumes and sessions by the hundred, one promise a test.

use bytes::Bytes;
use manyfs::{
    limits,
    namespace::{
        AllocateMode, Applied, ByteQuota, Change, Command, Entry, EntryHeader, Flush, Founding, NewNode, NodeInfo,
        Operation, QuotaChanges, RenameMode, Reply, RowError, State, Volume, VolumeOptions, XattrMode, level::LEVELS,
    },
    types::{
        AttributeChanges, BlockHash, ClearSuid, Errno, FileKind, FoundingId, Ino, LockClaim, LockFamily, LockKind,
        LockRange, LogIndex, MountId, Name, NodeId, Piece, Sequence, SessionId, Space, Stamp, TimeChange, Timestamp,
        VolumeId, VolumeSpace, XattrName,
    },
};

mod fragments;
mod levels;
mod reserving;

const CLUSTER: VolumeId = VolumeId(0);
const MAIN: VolumeId = VolumeId(1);
const START: u64 = 1_700_000_000_000_000_000;

struct Node {
    state: State,
    index: u64,
    /// Nanoseconds by which the clock that stamps is ahead.
    skew: u64,
}

impl Node {
    fn new() -> Self {
        Self::with_quotas(None, None)
    }

    fn with_quotas(quota_bytes: Option<u64>, quota_inodes: Option<u64>) -> Self {
        let nodes = vec![node_info(1), node_info(2)];
        let main = VolumeOptions {
            quota_bytes,
            quota_inodes: quota_inodes.unwrap_or(limits::INODES_DEFAULT),
            ..VolumeOptions::default()
        };
        Self {
            state: State::found(&Founding { id: FoundingId::default(), nodes, stamp: Stamp(START), main }),
            index: 1,
            skew: 0,
        }
    }

    fn apply(&mut self, volume: VolumeId, call: (SessionId, Sequence), command: Command) -> Applied {
        self.apply_told(volume, call, Vec::new(), command)
    }

    /// The same; `answered`: the answers of these calls have arrived.
    fn apply_told(
        &mut self,
        volume: VolumeId,
        call: (SessionId, Sequence),
        answered: Vec<Sequence>,
        command: Command,
    ) -> Applied {
        self.index += 1;
        let header = EntryHeader {
            feature_level: 1,
            volume,
            session: call.0,
            sequence: call.1,
            answered,
            stamp: Stamp(START + self.skew + self.index * 1_000_000),
        };
        self.state.apply(LogIndex(self.index), &Entry { header, command })
    }

    fn main(&mut self, command: Command) -> Applied {
        self.apply(MAIN, (SessionId(0), Sequence(0)), command)
    }

    fn ask(&mut self, operation: Operation) -> Result<Reply, Errno> {
        self.main(Command::Operation(operation)).outcome
    }

    fn make_in(&mut self, parent: Ino, name_: &str, node: NewNode, mode: u16) -> Ino {
        let operation =
            Operation::Make { parent, name: name(name_), node, mode, uid: 10, gid: 20, delegate: false, umask: 0 };
        match self.ask(operation) {
            Ok(Reply::Made { ino }) => ino,
            other => panic!("{other:?}"),
        }
    }

    fn file(&mut self, name: &str) -> Ino {
        self.make_in(Ino::ROOT, name, NewNode::File, 0o644)
    }

    fn directory(&mut self, name: &str) -> Ino {
        self.make_in(Ino::ROOT, name, NewNode::Directory, 0o755)
    }

    fn write(&mut self, ino: Ino, offset: u64, length: u64) -> Result<Reply, Errno> {
        self.ask(write(ino, vec![piece(offset, length)]))
    }

    fn volume(&self) -> &Volume {
        self.state.volume(MAIN).expect("never deleted")
    }

    fn session(&mut self) -> SessionId {
        self.main(Command::OpenSession { mount: MountId(7), credential: Default::default(), level_max: 1 })
            .session
            .expect("a session")
    }

    /// A node that starts again has the same state.
    fn starts_again(&self) {
        assert_eq!(State::from_rows(self.state.rows()).map(|state| state.digest()), Ok(self.state.digest()));
    }

    fn mode(&self, ino: Ino) -> u16 {
        self.volume().inode(ino).expect("it exists").mode
    }

    fn xattr(&self, ino: Ino, name: &str) -> Option<&Bytes> {
        self.volume().xattr(ino, &xattr_name(name))
    }

    fn set_xattr(&mut self, ino: Ino, name: &str, value: impl Into<Bytes>) -> Result<Reply, Errno> {
        self.ask(Operation::SetXattr {
            ino,
            name: xattr_name(name),
            value: value.into(),
            mode: XattrMode::Set,
            clear_sgid: false,
        })
    }

    fn set(&mut self, ino: Ino, changes: AttributeChanges) -> Result<Reply, Errno> {
        self.ask(Operation::SetAttributes { ino, changes })
    }

    fn listing(&self, directory: Ino, cookie: u64) -> Vec<(u64, String)> {
        let entries = self.volume().entries_after(directory, cookie);
        entries.map(|(cookie, name, ..)| (cookie, name.to_string())).collect()
    }
}

fn node_info(id: u64) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        peer_address: format!("n{id}:7441"),
        client_address: format!("n{id}:7440"),
        level_max: 1,
    }
}

fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).expect("a name")
}

fn xattr_name(name: &str) -> XattrName {
    XattrName::new(name.as_bytes()).expect("a name")
}

fn piece(offset: u64, length: u64) -> Piece {
    Piece { offset, length, block: Some(BlockHash::of(&length.to_be_bytes())), content: None }
}

fn make_file(name_: &str, delegate: bool) -> Operation {
    let (parent, name) = (Ino::ROOT, name(name_));
    Operation::Make { parent, name, node: NewNode::File, mode: 0o644, uid: 0, gid: 0, delegate, umask: 0 }
}

fn write(ino: Ino, pieces: Vec<Piece>) -> Operation {
    Operation::Write {
        ino,
        pieces,
        append: false,
        mtime: None,
        clear_suid: ClearSuid::No,
        uploads: Vec::new(),
        fence: None,
    }
}

/// Version, then (tag, permissions, id) as the kernel sends them.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const NONE: u32 = u32::MAX;

#[test]
fn an_access_list_sets_the_mode_and_chmod_changes_the_list() {
    let mut node = Node::new();
    let file = node.file("f");
    let list = acl(&[(1, 6, NONE), (2, 7, 1000), (4, 4, NONE), (16, 5, NONE), (32, 0, NONE)]);
    assert_eq!(node.set_xattr(file, ACCESS, list), Ok(Reply::Done));
    assert_eq!(node.mode(file), 0o650, "the mask stands for the group");
    node.set(file, AttributeChanges { mode: Some(0o604), ..Default::default() }).expect("chmod");
    let changed = acl(&[(1, 6, NONE), (2, 7, 1000), (4, 4, NONE), (16, 0, NONE), (32, 4, NONE)]);
    assert_eq!(node.xattr(file, ACCESS), Some(&changed.into()));

    let minimal = acl(&[(1, 7, NONE), (4, 5, NONE), (32, 5, NONE)]);
    assert_eq!(node.set_xattr(file, ACCESS, minimal), Ok(Reply::Done));
    assert_eq!((node.mode(file), node.xattr(file, ACCESS)), (0o755, None), "the mode says it all");
    let remove = Operation::RemoveXattr { ino: file, name: xattr_name(ACCESS) };
    assert_eq!(node.ask(remove), Ok(Reply::Done), "nothing to take away is no error, as on ext4");
    assert_eq!(node.set_xattr(file, ACCESS, vec![2, 0, 0, 0, 1]), Err(Errno::EINVAL));
}

#[test]
fn what_is_made_below_a_default_list_inherits_it() {
    let mut node = Node::new();
    let directory = node.directory("d");
    let list = acl(&[(1, 7, NONE), (4, 5, NONE), (8, 7, 3000), (16, 7, NONE), (32, 1, NONE)]);
    assert_eq!(node.set_xattr(directory, DEFAULT, list.clone()), Ok(Reply::Done));
    assert_eq!(node.mode(directory), 0o755, "a default list leaves the directory's own mode");

    let file = node.make_in(directory, "f", NewNode::File, 0o666);
    assert_eq!(node.mode(file), 0o660);
    let inherited = acl(&[(1, 6, NONE), (4, 5, NONE), (8, 7, 3000), (16, 6, NONE), (32, 0, NONE)]);
    assert_eq!(node.xattr(file, ACCESS), Some(&inherited.into()));
    assert_eq!(node.xattr(file, DEFAULT), None);

    let below = node.make_in(directory, "below", NewNode::Directory, 0o777);
    assert_eq!(node.xattr(below, DEFAULT), Some(&list.clone().into()));
    let link = node.make_in(directory, "link", NewNode::Symlink { target: Bytes::from_static(b"x") }, 0o777);
    assert_eq!((node.mode(link), node.xattr(link, ACCESS)), (0o777, None));
    assert_eq!(node.set_xattr(link, ACCESS, list.clone()), Err(Errno::EOPNOTSUPP));
    assert_eq!(node.set_xattr(file, DEFAULT, list), Err(Errno::EACCES));
}

#[test]
fn a_setgid_directory_hands_its_group_on() {
    let mut node = Node::new();
    let directory = node.directory("d");
    node.set(directory, AttributeChanges { mode: Some(0o2775), gid: Some(99), ..Default::default() }).expect("chmod");
    let file = node.make_in(directory, "f", NewNode::File, 0o644);
    let below = node.make_in(directory, "below", NewNode::Directory, 0o755);
    let gid = |ino| node.volume().inode(ino).map(|inode| inode.gid);
    assert_eq!((gid(file), gid(below)), (Some(99), Some(99)));
    assert_eq!((node.mode(file), node.mode(below)), (0o644, 0o2755));
}

#[test]
fn a_write_that_clears_suid_clears_capabilities() {
    let mut node = Node::new();
    let file = node.make_in(Ino::ROOT, "f", NewNode::File, 0o6755);
    node.set_xattr(file, "security.capability", vec![1, 2, 3]).expect("set");
    let applied = node.main(Command::Operation(Operation::Write {
        ino: file,
        pieces: vec![piece(0, 5)],
        append: false,
        mtime: None,
        clear_suid: ClearSuid::ByMember,
        uploads: Vec::new(),
        fence: None,
    }));
    assert_eq!((node.mode(file), node.xattr(file, "security.capability")), (0o755, None));
    assert!(applied.effects.changes.contains(&Change::Attributes { ino: file }), "a mode is more than size and times");

    let locking = node.make_in(Ino::ROOT, "g", NewNode::File, 0o6644);
    node.set(locking, AttributeChanges { clear_suid: ClearSuid::ByMember, size: Some(1), ..Default::default() })
        .expect("truncate");
    assert_eq!(node.mode(locking), 0o2644, "setgid without group execution meant locking and stays for a member");
    node.set(locking, AttributeChanges { clear_suid: ClearSuid::ByStranger, ..Default::default() }).expect("fallocate");
    assert_eq!(node.mode(locking), 0o644);

    let shared = node.make_in(Ino::ROOT, "shared", NewNode::Directory, 0o6775);
    let owner = AttributeChanges { gid: Some(33), clear_suid: ClearSuid::ByStranger, ..Default::default() };
    node.set(shared, owner).expect("chown");
    assert_eq!(node.mode(shared), 0o6775, "a directory's bits say whose its entries are");
}

/// Also root's, which keeps setuid (`file_remove_privs`, fs/inode.c).
#[test]
fn every_change_of_content_clears_capabilities() {
    let mut node = Node::new();
    let file = node.make_in(Ino::ROOT, "f", NewNode::File, 0o6755);
    let zero = AllocateMode::Zero { keep_size: false };
    let changes = [
        write(file, vec![piece(0, 5)]),
        Operation::SetAttributes { ino: file, changes: AttributeChanges { size: Some(1), ..Default::default() } },
        Operation::Allocate { ino: file, mode: zero, offset: 0, length: 9, at_most: u64::MAX },
    ];
    for change in changes {
        node.set_xattr(file, "security.capability", vec![1, 2, 3]).expect("set");
        node.set_xattr(file, "user.kept", vec![1]).expect("set");
        node.main(Command::Operation(change.clone()));
        assert_eq!((node.mode(file), node.xattr(file, "security.capability")), (0o6755, None), "{change:?}");
        assert!(node.xattr(file, "user.kept").is_some());
    }
    node.set_xattr(file, "security.capability", vec![1, 2, 3]).expect("set");
    node.set(file, AttributeChanges { mode: Some(0o755), ..Default::default() }).expect("chmod");
    assert!(node.xattr(file, "security.capability").is_some(), "chmod ends none");
}

#[test]
fn xattrs_have_limits() {
    let mut node = Node::new();
    let file = node.file("f");
    assert_eq!(node.set_xattr(file, "user.a", vec![0; limits::XATTR_VALUE_BYTES_MAX]), Ok(Reply::Done));
    assert_eq!(node.set_xattr(file, "user.a", vec![0; limits::XATTR_VALUE_BYTES_MAX + 1]), Err(Errno::E2BIG));
    let long = |number: usize| format!("user.{number:0250}");
    // The names of 256 bytes each, zeros included, fill the list but for what the first one took.
    let full = (0..300).position(|number| node.set_xattr(file, &long(number), vec![1]) == Err(Errno::ENOSPC));
    assert_eq!(full, Some(limits::XATTR_LIST_BYTES_MAX / 256 - 1));
    let names: usize = node.volume().xattrs(file).map(|(name, _)| name.as_bytes().len() + 1).sum();
    assert!(names <= limits::XATTR_LIST_BYTES_MAX);
    let digest = node.state.digest();
    assert_eq!(State::from_rows(node.state.rows()).map(|state| state.digest()), Ok(digest));
}

#[test]
fn an_inode_has_so_many_names_and_no_more() {
    let mut node = Node::new();
    let file = node.file("f");
    let mut link =
        |number: u32| node.ask(Operation::Link { ino: file, parent: Ino::ROOT, name: name(&format!("l{number}")) });
    let refused = (0..limits::LINKS_MAX).find(|number| link(*number).is_err());
    assert_eq!(refused, Some(limits::LINKS_MAX - 1));
    assert_eq!(link(limits::LINKS_MAX), Err(Errno::EMLINK));
    assert_eq!(node.volume().inode(file).map(|inode| inode.nlink), Some(limits::LINKS_MAX));
}

#[test]
fn files_end_at_sixteen_tebibytes() {
    let mut node = Node::new();
    let file = node.file("f");
    let end = limits::FILE_BYTES_MAX;
    assert_eq!(node.write(file, end - 1, 1), Ok(Reply::Written { offset: end - 1, size: end }));
    assert_eq!(node.write(file, end, 1), Err(Errno::EFBIG));
    assert_eq!(node.write(file, u64::MAX, 1), Err(Errno::EFBIG));
    let append = Operation::Write {
        ino: file,
        pieces: vec![piece(0, 1)],
        append: true,
        mtime: None,
        clear_suid: ClearSuid::No,
        uploads: Vec::new(),
        fence: None,
    };
    assert_eq!(node.ask(append), Err(Errno::EFBIG));
    let insert = Operation::Allocate { ino: file, mode: AllocateMode::Insert, offset: 0, length: 4096, at_most: 0 };
    assert_eq!(node.ask(insert), Err(Errno::EFBIG));
    assert_eq!(node.write(file, 0, limits::BLOCK_BYTES_MAX as u64 + 1), Err(Errno::EINVAL), "longer than any block");
    assert_eq!(node.ask(write(file, vec![piece(0, 1); limits::PIECES_MAX + 1])), Err(Errno::EINVAL));
    assert_eq!(node.volume().bytes_used(), 1);
}

#[test]
fn a_full_quota_refuses_growth_and_nothing_else() {
    let mut node = Node::with_quotas(Some(1000), None);
    let (file, other) = (node.file("f"), node.file("g"));
    assert_eq!(node.write(file, 0, 1000), Ok(Reply::Written { offset: 0, size: 1000 }));
    let before = (node.volume().attributes(other), node.volume().bytes_used());
    assert_eq!(node.write(other, 0, 1), Err(Errno::EDQUOT));
    assert_eq!((node.volume().attributes(other), node.volume().bytes_used()), before, "the tree is as it was");
    let copy = Operation::CopyRange { from: file, from_offset: 0, to: other, to_offset: 0, length: 10 };
    assert_eq!(node.ask(copy), Err(Errno::EDQUOT), "shared bytes count for each file");
    assert_eq!(node.write(file, 500, 500), Ok(Reply::Written { offset: 500, size: 1000 }), "the same space again");
    node.directory("names cost nothing");
    node.set(file, AttributeChanges { size: Some(10), ..Default::default() }).expect("truncate");
    assert_eq!(node.write(other, 0, 990), Ok(Reply::Written { offset: 0, size: 990 }));
}

#[test]
fn extended_attributes_count_for_the_quota() {
    let mut node = Node::with_quotas(Some(1000), None);
    let file = node.file("f");
    assert_eq!(node.set_xattr(file, "user.a", vec![0; 994]), Ok(Reply::Done));
    assert_eq!(node.volume().bytes_used(), 1000);
    let before = node.volume().clone();
    assert_eq!(node.set_xattr(file, "user.a", vec![0; 995]), Err(Errno::EDQUOT));
    assert_eq!(node.set_xattr(file, "user.b", vec![]), Err(Errno::EDQUOT), "names count, too");
    assert_eq!(node.write(file, 0, 1), Err(Errno::EDQUOT));
    assert_eq!(node.volume().xattr(file, &xattr_name("user.a")), before.xattr(file, &xattr_name("user.a")));
    assert_eq!(node.set_xattr(file, "user.a", vec![0; 10]), Ok(Reply::Done));
    assert_eq!(node.write(file, 0, 984), Ok(Reply::Written { offset: 0, size: 984 }));
    node.ask(Operation::Unlink { parent: Ino::ROOT, name: name("f") }).expect("unlink");
    node.main(Command::ReapOrphans { inodes: vec![file] });
    assert_eq!(node.volume().bytes_used(), 0);
    assert_eq!(State::from_rows(node.state.rows()).map(|state| state.digest()), Ok(node.state.digest()));
}

#[test]
fn attributes_of_one_inode_are_bounded_and_those_of_a_volume() {
    let mut node = Node::new();
    let value = || vec![7; limits::XATTR_VALUE_BYTES_MAX];
    let most = limits::XATTR_INODE_BYTES_MAX / limits::XATTR_VALUE_BYTES_MAX as u64;
    let file = node.file("f");
    let set = (0..1500).take_while(|at| node.set_xattr(file, &format!("user.{at}"), value()).is_ok()).count() as u64;
    assert_eq!(set, most);
    let before = node.volume().attributes(file);
    assert_eq!(node.set_xattr(file, "user.more", value()), Err(Errno::ENOSPC));
    assert_eq!(node.volume().attributes(file), before, "the tree is as it was");
    assert_eq!(node.set_xattr(file, "user.0", value()), Ok(Reply::Done), "the same space again");
    let file_bytes = node.volume().bytes_used();
    // As many more files as a volume can have with so many attributes.
    for number in 1..limits::XATTR_VOLUME_BYTES_MAX / file_bytes {
        let file = node.file(&number.to_string());
        (0..set).for_each(|at| assert_eq!(node.set_xattr(file, &format!("user.{at}"), value()), Ok(Reply::Done)));
    }
    let (last, mut refused) = (node.file("last"), Ok(Reply::Done));
    for at in 0..set {
        refused = refused.and(node.set_xattr(last, &format!("user.{at}"), value()));
    }
    assert_eq!(refused, Err(Errno::ENOSPC));
    assert!(node.volume().bytes_used() <= limits::XATTR_VOLUME_BYTES_MAX);
    assert_eq!(node.write(last, 0, 10), Ok(Reply::Written { offset: 0, size: 10 }), "content is another matter");
}

#[test]
fn inodes_have_a_quota() {
    let mut node = Node::with_quotas(None, Some(3));
    let file = node.file("f");
    node.directory("d");
    let make = |name_: &str, node: NewNode| Operation::Make {
        parent: Ino::ROOT,
        name: name(name_),
        node,
        mode: 0o644,
        uid: 0,
        gid: 0,
        delegate: false,
        umask: 0,
    };
    let before = node.volume().attributes(Ino::ROOT);
    assert_eq!(node.ask(make("g", NewNode::File)), Err(Errno::EDQUOT));
    let symlink = NewNode::Symlink { target: "f".into() };
    assert_eq!(node.ask(make("s", symlink)), Err(Errno::EDQUOT));
    let unnamed = Operation::MakeUnnamed { parent: Ino::ROOT, mode: 0o644, uid: 0, gid: 0, umask: 0 };
    assert_eq!(node.ask(unnamed), Err(Errno::EDQUOT));
    assert_eq!(node.volume().attributes(Ino::ROOT), before, "the tree is as it was");
    node.ask(Operation::Link { ino: file, parent: Ino::ROOT, name: name("g") }).expect("names are free");
    node.ask(Operation::Unlink { parent: Ino::ROOT, name: name("g") }).expect("unlink");
    node.ask(Operation::Unlink { parent: Ino::ROOT, name: name("f") }).expect("unlink");
    assert_eq!(node.ask(make("g", NewNode::File)), Err(Errno::EDQUOT), "a file that may be open counts");
    node.main(Command::ReapOrphans { inodes: vec![file] });
    node.ask(make("g", NewNode::File)).expect("there is a place again");
}

/// A quota could be given when a volume was made, and never changed.
#[test]
fn quotas_can_be_changed_also_below_what_is_used() {
    let stores = Space { total: 1 << 40, available: 1 << 38 };
    let mut node = Node::with_quotas(Some(3000), Some(10));
    let (file, other) = (node.file("f"), node.file("g"));
    node.write(file, 0, 2000).expect("write");
    let set = |bytes, inodes| Command::SetQuotas(QuotaChanges { bytes, inodes });
    let digest = node.state.digest();
    assert_eq!(node.main(set(Some(ByteQuota::Bytes(1000)), None)).outcome, Ok(Reply::Done));
    assert_ne!(node.state.digest(), digest);
    assert_eq!(State::from_rows(node.state.rows()).expect("its own rows").digest(), node.state.digest());
    let VolumeSpace { bytes, inodes, inodes_free } = node.volume().space(stores);
    assert_eq!((bytes, inodes, inodes_free), (Space { total: 2000, available: 0 }, 10, 7), "the other stays");
    assert_eq!(node.volume().bytes_used(), 2000, "nothing is taken away");
    assert_eq!(node.write(other, 0, 1), Err(Errno::EDQUOT));
    node.write(file, 0, 2000).expect("it does not grow");
    let cut = AttributeChanges { size: Some(1500), ..AttributeChanges::default() };
    node.ask(Operation::SetAttributes { ino: file, changes: cut }).expect("less");
    assert_eq!(node.write(other, 0, 1), Err(Errno::EDQUOT), "still more than there may be");
    let cut = AttributeChanges { size: Some(999), ..AttributeChanges::default() };
    node.ask(Operation::SetAttributes { ino: file, changes: cut }).expect("less");
    node.write(other, 0, 1).expect("it is below again");
    assert_eq!(node.write(other, 1, 1), Err(Errno::EDQUOT));

    assert_eq!(node.main(set(Some(ByteQuota::Unlimited), Some(2))).outcome, Ok(Reply::Done));
    node.write(other, 1, 1 << 20).expect("no limit");
    let VolumeSpace { bytes, inodes_free, .. } = node.volume().space(stores);
    assert_eq!((bytes.available, inodes_free), (stores.available, 0));
    let make = Operation::MakeUnnamed { parent: Ino::ROOT, mode: 0o644, uid: 0, gid: 0, umask: 0 };
    assert_eq!(node.ask(make.clone()), Err(Errno::EDQUOT));
    assert_eq!(node.main(set(None, Some(4))).outcome, Ok(Reply::Done));
    node.ask(make).expect("there is a place");
    assert_eq!(node.apply(CLUSTER, (SessionId(0), Sequence(0)), set(None, None)).outcome, Err(Errno::EINVAL));
    assert_eq!(node.apply(VolumeId(77), (SessionId(0), Sequence(0)), set(None, None)).outcome, Err(Errno::ENODEV));
}

#[test]
fn statfs_shows_what_the_quota_leaves() {
    let stores = Space { total: 1 << 40, available: 1 << 38 };
    let mut node = Node::with_quotas(Some(10 << 20), Some(1000));
    let file = node.file("f");
    node.write(file, 0, 1 << 20).expect("write");
    let bytes = Space { total: 10 << 20, available: 9 << 20 };
    assert_eq!(node.volume().space(stores), VolumeSpace { bytes, inodes: 1000, inodes_free: 998 });
    let full = Space { total: 1 << 40, available: 4096 };
    let bytes = Space { total: (1 << 20) + 4096, available: 4096 };
    assert_eq!(node.volume().space(full), VolumeSpace { bytes, inodes: 6, inodes_free: 4 }, "stores have less");
    let mut node = Node::new();
    let file = node.file("f");
    node.write(file, 0, 1 << 20).expect("write");
    let bytes = Space { total: (1 << 38) + (1 << 20), available: 1 << 38 };
    assert_eq!(node.volume().space(stores).bytes, bytes, "no quota");
    assert_eq!(node.volume().space(stores).inodes, limits::INODES_DEFAULT);
}

#[test]
fn a_range_is_put_in_and_taken_out_in_the_middle_of_an_extent() {
    let mut node = Node::new();
    let file = node.file("f");
    node.write(file, 0, 10_000).expect("write");
    let allocate = |mode, offset, length| Operation::Allocate { ino: file, mode, offset, length, at_most: u64::MAX };
    node.ask(allocate(AllocateMode::Insert, 4096, 8192)).expect("insert");
    let shape = |node: &Node| -> Vec<(u64, u64, u64)> {
        let extents = node.volume().extents(file, 0, u64::MAX);
        extents.map(|extent| (extent.offset, extent.length, extent.block_offset)).collect()
    };
    assert_eq!(shape(&node), [(0, 4096, 0), (12_288, 5904, 4096)]);
    assert_eq!(node.volume().extents(file, 4000, 97).count(), 1);
    assert_eq!(node.volume().extents(file, 4096, 8192).count(), 0, "the hole");
    node.ask(allocate(AllocateMode::Collapse, 0, 4096)).expect("collapse");
    assert_eq!(shape(&node), [(8192, 5904, 4096)]);
    assert_eq!(node.ask(allocate(AllocateMode::Collapse, 8192, 8192)), Err(Errno::EINVAL), "not up to the end");
    assert_eq!(node.ask(allocate(AllocateMode::Collapse, 1, 4096)), Err(Errno::EINVAL));
}

#[test]
fn an_unlinked_file_lives_until_it_is_reaped() {
    let mut node = Node::new();
    let file = node.file("f");
    node.write(file, 0, 100).expect("write");
    node.set_xattr(file, "user.a", vec![1]).expect("set");
    let applied = node.main(Command::Operation(Operation::Unlink { parent: Ino::ROOT, name: name("f") }));
    assert!(applied.effects.changes.contains(&Change::Orphaned { ino: file }));
    assert!(applied.effects.references.is_empty());
    assert_eq!(node.volume().orphans().collect::<Vec<_>>(), [(file, LogIndex(node.index))]);
    assert_eq!(node.write(file, 100, 50), Ok(Reply::Written { offset: 100, size: 150 }), "still open somewhere");
    let link = Operation::Link { ino: file, parent: Ino::ROOT, name: name("again") };
    assert_eq!(node.ask(link), Err(Errno::ENOENT));

    let inodes = vec![file, Ino::ROOT, Ino(4711)];
    let reaped = node.main(Command::ReapOrphans { inodes });
    let gone = [BlockHash::of(&50_u64.to_be_bytes()), BlockHash::of(&100_u64.to_be_bytes())];
    assert!(gone.iter().all(|block| reaped.effects.references.contains(&(*block, -1))));
    assert_eq!(reaped.effects.changes, [Change::Freed { ino: file }]);
    assert_eq!((node.volume().inode_count(), node.volume().bytes_used()), (1, 0));
    assert_eq!(node.write(file, 0, 1), Err(Errno::ESTALE));
    assert!(node.file("f") > file, "inode numbers are never used again");
}

#[test]
fn a_removed_directory_takes_no_names() {
    let mut node = Node::new();
    let directory = node.directory("d");
    node.ask(Operation::Rmdir { parent: Ino::ROOT, name: name("d") }).expect("rmdir");
    assert_eq!(node.volume().inode(directory).map(|inode| inode.nlink), Some(0));
    let make = |parent| Operation::Make {
        parent,
        name: name("x"),
        node: NewNode::File,
        mode: 0,
        uid: 0,
        gid: 0,
        delegate: false,
        umask: 0,
    };
    assert_eq!(node.ask(make(directory)), Err(Errno::ENOENT));
    node.main(Command::ReapOrphans { inodes: vec![directory] });
    assert_eq!(node.ask(make(directory)), Err(Errno::ENOENT), "the same before and after it is reaped");
}

#[test]
fn readdir_is_stable_while_the_directory_changes() {
    let mut node = Node::new();
    for name in ["a", "b", "c", "d"] {
        node.file(name);
    }
    let listing = node.listing(Ino::ROOT, 0);
    let (behind, place) = (listing[1].0, listing[3].clone());
    for (_, gone) in [&listing[0], &listing[2]] {
        node.ask(Operation::Unlink { parent: Ino::ROOT, name: name(gone) }).expect("unlink");
    }
    let rename = |from: &str, to: &str| Operation::Rename {
        from: Ino::ROOT,
        from_name: name(from),
        to: Ino::ROOT,
        to_name: name(to),
        mode: RenameMode::Replace,
    };
    node.file("e");
    node.ask(rename("e", &place.1)).expect("rename");
    assert_eq!(node.listing(Ino::ROOT, behind), std::slice::from_ref(&place), "a replaced name keeps its place");
    node.file(&listing[0].1);
    node.file(&listing[2].1);
    assert_eq!(node.listing(Ino::ROOT, 0), listing, "a name that comes again has its old place");
}

/// The row of a name with another cookie, as if another name had had its place when it was made.
fn with_cookie(rows: &[(Bytes, Bytes)], name: &str, cookie: u64) -> Vec<(Bytes, Bytes)> {
    const DIRENT: u8 = 4;
    let mut rows = rows.to_vec();
    let row = rows.iter_mut().find(|(key, _)| key.get(5) == Some(&DIRENT) && key.ends_with(name.as_bytes()));
    let row = row.expect("there is the name");
    let (ino, _, kind): (Ino, u64, FileKind) = postcard::from_bytes(&row.1[1..]).expect("a name's row");
    row.1 = postcard::to_extend(&(ino, cookie, kind), row.1[..1].to_vec()).expect("memory").into();
    rows
}

#[test]
fn of_names_with_one_place_each_has_one_of_its_own() {
    let mut node = Node::new();
    for name in ["a", "b", "c"] {
        node.file(name);
    }
    let [first, second, third] = node.listing(Ino::ROOT, 0).try_into().expect("three names");
    let unlink = |name_: &str| Operation::Unlink { parent: Ino::ROOT, name: name(name_) };
    node.ask(unlink(&second.1)).expect("unlink");
    let rows: Vec<_> = node.state.rows().collect();
    node.state = State::from_rows(with_cookie(&rows, &first.1, second.0)).expect("a hash may be taken by another name");
    node.file(&second.1);
    let beside = (second.0 + 1, second.1.clone());
    assert_eq!(node.listing(Ino::ROOT, first.0), [(second.0, first.1.clone()), beside.clone(), third.clone()]);
    node.starts_again();
    node.ask(unlink(&first.1)).expect("unlink");
    assert_eq!(node.listing(Ino::ROOT, 0), [beside, third.clone()], "it stays where it is");
    node.starts_again();
    node.ask(unlink(&second.1)).expect("unlink");
    node.file(&second.1);
    node.file(&first.1);
    assert_eq!(node.listing(Ino::ROOT, 0), [first.clone(), second, third], "as if nothing had been");

    for cookie in [0, 2, first.0 - 1, 1 << 63, u64::MAX] {
        let rows = with_cookie(&rows, &first.1, cookie);
        assert!(matches!(State::from_rows(rows), Err(RowError::Contradiction(_))), "{cookie}");
    }
}

#[test]
fn a_directory_moves_in_one_step_whatever_is_in_it() {
    let mut node = Node::new();
    let (from, to) = (node.directory("from"), node.directory("to"));
    let moved = node.make_in(from, "moved", NewNode::Directory, 0o755);
    for number in 0..500 {
        node.make_in(moved, &format!("f{number}"), NewNode::File, 0o644);
    }
    let applied = node.main(Command::Operation(Operation::Rename {
        from,
        from_name: name("moved"),
        to,
        to_name: name("elsewhere"),
        mode: RenameMode::Replace,
    }));
    assert_eq!(applied.outcome, Ok(Reply::Done));
    assert!(applied.effects.rows.len() <= 6, "{} rows", applied.effects.rows.len());
    assert_eq!(node.volume().parent(moved), Some(to));
    let into_itself = Operation::Rename {
        from: to,
        from_name: name("elsewhere"),
        to: moved,
        to_name: name("x"),
        mode: RenameMode::Replace,
    };
    assert_eq!(node.ask(into_itself), Err(Errno::EINVAL));
}

#[test]
fn times_never_run_backwards_and_explicit_times_are_kept() {
    let mut node = Node::new();
    let file = node.file("f");
    let future = Timestamp { seconds: 4_000_000_000, nanoseconds: 999_999_999 };
    let changes = AttributeChanges {
        atime: Some(TimeChange::To(future)),
        mtime: Some(TimeChange::To(future)),
        ..Default::default()
    };
    node.set(file, changes).expect("utimes");
    let times = |node: &Node| node.volume().inode(file).map(|inode| (inode.atime, inode.mtime)).expect("it exists");
    assert_eq!(times(&node), (future, future));
    node.set(file, AttributeChanges { mode: Some(0o600), ..Default::default() }).expect("chmod");
    assert_eq!(times(&node), (future, future), "no content has changed");
    let now = |node: &Node| Timestamp::from(Stamp(START + node.index * 1_000_000));
    node.write(file, 0, 1).expect("write");
    assert_eq!(times(&node).1, now(&node), "the present counts");
    node.set(file, AttributeChanges { size: Some(1), ..Default::default() }).expect("truncate");
    assert_eq!(times(&node).1, now(&node), "to the same size");
    // Somebody sets just the time at which it changes next.
    let next = Timestamp::from(Stamp(START + (node.index + 2) * 1_000_000));
    node.set(file, AttributeChanges { mtime: Some(TimeChange::To(next)), ..Default::default() }).expect("utimes");
    node.write(file, 0, 1).expect("write");
    assert_eq!((now(&node), times(&node).1), (next, next.next()), "a change always changes mtime");

    let directory = node.directory("d");
    node.set(directory, AttributeChanges { mtime: Some(TimeChange::To(future)), ..Default::default() })
        .expect("utimes");
    node.make_in(directory, "f", NewNode::File, 0o644);
    assert_eq!(node.volume().inode(directory).map(|inode| inode.mtime), Some(now(&node)));
    let past = Timestamp { seconds: -5, nanoseconds: 1 };
    node.set(file, AttributeChanges { mtime: Some(TimeChange::To(past)), ..Default::default() }).expect("utimes");
    assert_eq!(times(&node).1, past);
    let late = Timestamp { seconds: 1_600_000_000, nanoseconds: 0 };
    let flush = |mtime| Operation::Write {
        ino: file,
        pieces: vec![piece(0, 1)],
        append: false,
        mtime: Some(mtime),
        clear_suid: ClearSuid::No,
        uploads: Vec::new(),
        fence: None,
    };
    node.ask(flush(late)).expect("write");
    assert_eq!(times(&node).1, late, "the time of the write is kept");
    node.ask(flush(past)).expect("write");
    assert_eq!(times(&node).1, late.next(), "but never backwards");
    let nonsense = Timestamp { seconds: 0, nanoseconds: 1_000_000_000 };
    assert_eq!(node.ask(flush(nonsense)), Err(Errno::EINVAL));
}

#[test]
fn volumes_come_and_go() {
    let mut node = Node::new();
    let mut rows: std::collections::BTreeMap<_, _> = node.state.rows().collect();
    let create = |name: &str| Command::CreateVolume { name: name.to_owned(), options: VolumeOptions::default() };
    let mut both = |node: &mut Node, volume, command| {
        let applied = node.apply(volume, (SessionId(0), Sequence(0)), command);
        for row in &applied.effects.rows {
            match &row.value {
                Some(value) => drop(rows.insert(row.key.clone(), value.clone())),
                None => assert!(rows.remove(&row.key).is_some()),
            }
        }
        assert_eq!(node.state.rows().collect::<Vec<_>>(), rows.clone().into_iter().collect::<Vec<_>>());
        let loaded = State::from_rows(node.state.rows()).expect("its own rows");
        assert_eq!((loaded.digest(), loaded.applied()), (node.state.digest(), node.state.applied()));
        applied
    };
    assert_eq!(both(&mut node, CLUSTER, create("shop")).outcome, Ok(Reply::Done));
    assert_eq!(both(&mut node, CLUSTER, create("shop")).outcome, Err(Errno::EEXIST));
    assert_eq!(both(&mut node, CLUSTER, create("no/such")).outcome, Err(Errno::EINVAL));
    assert_eq!(both(&mut node, CLUSTER, create("")).outcome, Err(Errno::EINVAL));
    let shop = node.state.volume_named("shop").map(Volume::id).expect("created");
    assert_eq!(shop, VolumeId(2));

    let make = make_file("f", false);
    assert_eq!(both(&mut node, shop, Command::Operation(make.clone())).outcome, Ok(Reply::Made { ino: Ino(2) }));
    let pieces = vec![piece(0, 7), piece(20, 7), piece(40, 9)];
    both(&mut node, shop, Command::Operation(write(Ino(2), pieces)));
    assert_eq!(node.state.references().values().sum::<u64>(), 3);

    let deleted = both(&mut node, CLUSTER, Command::DeleteVolume { name: "shop".to_owned(), force: false });
    let mut dropped = vec![(BlockHash::of(&7_u64.to_be_bytes()), -2), (BlockHash::of(&9_u64.to_be_bytes()), -1)];
    dropped.sort_unstable();
    assert_eq!(deleted.effects.references, dropped);
    assert!(node.state.references().is_empty());
    assert_eq!(both(&mut node, shop, Command::Operation(make)).outcome, Err(Errno::ENODEV));
    let again = both(&mut node, CLUSTER, Command::DeleteVolume { name: "shop".to_owned(), force: false });
    assert_eq!(again.outcome, Err(Errno::ENOENT));
    both(&mut node, CLUSTER, create("shop"));
    assert_eq!(node.state.volume_named("shop").map(Volume::id), Some(VolumeId(3)), "ids are never used again");

    assert_eq!(both(&mut node, CLUSTER, Command::SetNode(node_info(3))).outcome, Ok(Reply::Done));
    assert_eq!(both(&mut node, CLUSTER, Command::RemoveNode(NodeId(1))).outcome, Ok(Reply::Done));
    assert_eq!(both(&mut node, CLUSTER, Command::RemoveNode(NodeId(1))).outcome, Err(Errno::ENOENT));
    assert_eq!(node.state.nodes().map(|node| node.id).collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
    assert_eq!(both(&mut node, CLUSTER, Command::Noop).outcome, Ok(Reply::Done));
    assert_eq!(
        both(
            &mut node,
            CLUSTER,
            Command::OpenSession { mount: MountId(1), credential: Default::default(), level_max: 1 }
        )
        .outcome,
        Err(Errno::EINVAL)
    );
    assert_eq!(both(&mut node, MAIN, Command::RemoveNode(NodeId(2))).outcome, Err(Errno::EINVAL));
}

#[test]
fn sessions_and_replies_are_bounded() {
    let mut node = Node::new();
    let first = node
        .main(Command::OpenSession { mount: MountId(0), credential: Default::default(), level_max: 1 })
        .session
        .expect("a session");
    for mount in 1..limits::SESSIONS_MAX as u128 {
        assert_eq!(
            node.main(Command::OpenSession { mount: MountId(mount), credential: Default::default(), level_max: 1 })
                .outcome,
            Ok(Reply::Done)
        );
    }
    let refused =
        node.main(Command::OpenSession { mount: MountId(u128::MAX), credential: Default::default(), level_max: 1 });
    assert_eq!((refused.outcome, refused.session), (Err(Errno::ENFILE), None));
    assert_eq!(
        node.main(Command::OpenSession { mount: MountId(0), credential: Default::default(), level_max: 1 }).session,
        Some(first),
        "the one it has"
    );

    // A mount that never confirms an answer.
    let stat = Operation::Unlink { parent: Ino::ROOT, name: name("missing") };
    for sequence in 1..=2000 {
        let applied = node.apply(MAIN, (first, Sequence(sequence)), Command::Operation(stat.clone()));
        assert_eq!(applied.outcome, Err(Errno::ENOENT));
    }
    let held = |node: &Node| (1..=2000).filter(|n| node.volume().reply(first, Sequence(*n)).is_some()).count();
    assert_eq!(held(&node), 4 * limits::SESSION_CALLS_MAX);
    let old = node.apply(MAIN, (first, Sequence(1)), Command::Operation(stat.clone()));
    assert_eq!((old.outcome, old.repeated), (Err(Errno::ESTALE), true), "over, and not carried out again");
    let recent = node.apply(MAIN, (first, Sequence(2000)), Command::Operation(stat));
    assert_eq!((recent.outcome, recent.repeated), (Err(Errno::ENOENT), true), "refusals are remembered too");

    let digest = node.state.digest();
    assert_eq!(State::from_rows(node.state.rows()).map(|state| state.digest()), Ok(digest));
    while node.main(Command::CloseSessions { sessions: vec![first] }).outcome == Ok(Reply::Unfinished) {}
    assert_eq!(held(&node), 0);
    let reopened = node
        .main(Command::OpenSession { mount: MountId(0), credential: Default::default(), level_max: 1 })
        .session
        .expect("a session");
    assert!(reopened.0 > limits::SESSIONS_MAX as u64, "never used again");
}

/// Calls that were refused without an entry left gaps between those that were carried out; the oldest gap was closed over
/// answers that were still kept, and no node started again ("the call is finished").
#[test]
fn gaps_that_are_closed_take_no_answer_away() {
    let mut node = Node::new();
    let session = node.session();
    let missing = Command::Operation(Operation::Unlink { parent: Ino::ROOT, name: name("missing") });
    for n in 1..=3 * limits::SESSION_SPENT_RANGES_MAX as u64 {
        let told = if n > 1 { vec![Sequence(2 * n - 2)] } else { Vec::new() };
        node.apply_told(MAIN, (session, Sequence(2 * n - 1)), told, missing.clone());
    }
    node.starts_again();
    let last = 2 * 3 * limits::SESSION_SPENT_RANGES_MAX as u64 - 1;
    let again = node.apply(MAIN, (session, Sequence(last - 4)), missing.clone());
    assert_eq!((again.outcome, again.repeated), (Err(Errno::ENOENT), true), "it has its answer still");

    // One message confirms what nobody called, far and wide.
    let nobody: Vec<Sequence> = (0..1024).map(|n| Sequence(last + 2 + 3 * n)).collect();
    node.apply(MAIN, (session, Sequence(last + 6)), missing.clone());
    node.apply_told(MAIN, (session, Sequence(last + 4)), nobody, missing.clone());
    node.starts_again();
    // Calls that run backwards: the one that is carried out may lie in the gap that it closes.
    for n in (1..=3 * limits::SESSION_SPENT_RANGES_MAX as u64).rev() {
        node.apply(MAIN, (session, Sequence(1_000_000 + 2 * n)), missing.clone());
    }
    node.starts_again();
}

/// flock(2) knows whole files only. A cancelled call that gave a part back left a lock that no node could load.
#[test]
fn no_part_of_a_flock_lock_is_given_back() {
    let mut node = Node::new();
    let session = node.session();
    let ino = node.file("f");
    let claim = |first, last| LockClaim {
        family: LockFamily::Flock,
        owner: 1,
        kind: LockKind::Exclusive,
        range: LockRange { first, last },
        pid: 0,
        fh: 1,
    };
    let lock = Command::Operation(Operation::Lock { ino, claim: claim(0, u64::MAX), waits: false });
    assert_eq!(node.apply(MAIN, (session, Sequence(1)), lock).outcome, Ok(Reply::Locked));
    for (sequence, (first, last)) in [(2, (5, 9)), (3, (9, 5)), (4, (0, 7))] {
        let cancel = Operation::CancelLock { ino, call: Sequence(99), claim: claim(first, last), undo: true };
        let outcome = node.apply(MAIN, (session, Sequence(sequence)), Command::Operation(cancel)).outcome;
        assert_eq!(outcome, Err(Errno::EINVAL));
        node.starts_again();
    }
}

/// A mount's clock may be years ahead: what it stamped is a second later at most than the entry that brings it.
#[test]
fn no_time_that_a_mount_stamped_is_far_ahead_of_its_entry() {
    let mut node = Node::new();
    let session = node.session();
    let ino = node.file("f");
    let delegate = Command::Operation(Operation::Delegate { ino });
    assert_eq!(node.apply(MAIN, (session, Sequence(1)), delegate).outcome, Ok(Reply::Done));
    let grant = node.volume().delegation(ino).expect("just given").grant;
    let ahead = Some(Timestamp { seconds: 9_000_000_000, nanoseconds: 5 });
    let flush = Flush {
        pieces: vec![piece(0, 7)],
        written_at: ahead,
        changed_at: ahead,
        give_back: true,
        ..Flush::of(ino, grant)
    };
    let flush = Command::Operation(Operation::Flush(Box::new(flush)));
    assert!(node.apply(MAIN, (session, Sequence(2)), flush).outcome.is_ok());
    let latest = |node: &Node| Timestamp::from(Stamp(START + node.index * 1_000_000)).after(limits::STAMP_LEAD_MAX);
    let times = |node: &Node| node.volume().inode(ino).map(|inode| (inode.mtime, inode.ctime)).expect("it exists");
    assert_eq!(times(&node), (latest(&node), latest(&node)));
    let mut late = write(ino, vec![piece(9, 7)]);
    if let Operation::Write { mtime, .. } = &mut late {
        *mtime = ahead;
    }
    assert!(node.ask(late).is_ok());
    assert_eq!(times(&node).0, latest(&node));
    assert!(times(&node).1 <= latest(&node));
}

/// Each buffered write under a time that a wrong clock has stamped is a nanosecond later; stat shows the same behind the
/// flush.
#[test]
fn what_stat_showed_of_a_time_that_was_stamped_ahead_stays() {
    let mut node = Node::new();
    let session = node.session();
    node.skew = 4_000_000_000 * 1_000_000_000 - START;
    let ino = node.file("f");
    let ahead = node.volume().inode(ino).expect("just made").mtime;
    node.skew = 0;
    let delegate = Command::Operation(Operation::Delegate { ino });
    node.apply(MAIN, (session, Sequence(1)), delegate).outcome.expect("free");
    let grant = node.volume().delegation(ino).expect("just given").grant;
    let shown = ahead.next().next().next();
    let flush =
        Flush { pieces: vec![piece(0, 7)], written_at: Some(shown), changed_at: Some(shown), ..Flush::of(ino, grant) };
    node.apply(MAIN, (session, Sequence(2)), Command::Operation(Operation::Flush(Box::new(flush))))
        .outcome
        .expect("ours");
    assert_eq!(node.volume().inode(ino).map(|inode| (inode.mtime, inode.ctime)), Some((shown, shown)));
    node.write(ino, 0, 1).expect("write");
    assert_eq!(node.volume().inode(ino).map(|inode| inode.mtime), Some(shown.next()), "nobody has set it");
}

#[test]
fn rows_of_a_newer_program_are_refused_by_name() {
    let node = Node::new();
    let mut rows: Vec<_> = node.state.rows().collect();
    let at = rows.len() - 1;
    let mut value = rows[at].1.to_vec();
    value[0] += 1;
    let newer = value[0];
    rows[at].1 = value.into();
    let error = State::from_rows(rows.clone()).expect_err("it is of a newer program");
    assert!(matches!(error, RowError::Version { found, .. } if found == newer));

    // A kind of row of volume 1 that this program does not know.
    let mut rows: Vec<_> = node.state.rows().collect();
    rows.push((vec![2, 0, 0, 0, 1, 13, 0, 0, 0, 0, 0, 0, 0, 1].into(), vec![1].into()));
    assert!(matches!(State::from_rows(rows), Err(RowError::Key { .. })));

    // A counter that is about to run over would end in a panic later.
    let mut rows: Vec<_> = node.state.rows().collect();
    let root = rows.iter_mut().rev().find(|(key, _)| key.len() == 14 && key[5] == 3).expect("the root");
    let mut value = root.1.to_vec();
    let body = value.split_off(value.len() - 2);
    assert_eq!(
        (value.pop(), &body[..]),
        (Some(0), &[1, 1][..]),
        "the version of the data, then a directory and its parent"
    );
    value.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    value.extend(body);
    root.1 = value.into();
    assert!(matches!(State::from_rows(rows), Err(RowError::Form { .. })));

    assert_eq!(State::from_rows([]).map(|_| ()), Err(RowError::Missing { what: "the cluster" }));
    assert!(matches!(Volume::from_rows([]), Err(RowError::Missing { .. })));
}

/// The row format of version 3, pinned: whoever changes it needs a new version and a way up from the old one.
#[test]
fn rows_of_version_four_stay_as_they_are() {
    let mut node = Node::new();
    let directory = node.directory("d");
    let file = node.make_in(directory, "f", NewNode::File, 0o640);
    node.make_in(directory, "s", NewNode::Symlink { target: Bytes::from_static(b"f") }, 0o777);
    node.make_in(directory, "dev", NewNode::CharDevice { rdev: 0x103 }, 0o600);
    node.ask(write(file, vec![piece(3, 9), piece(100, 8)])).expect("write");
    node.set_xattr(file, "user.k", Bytes::from_static(b"value")).expect("set");
    let session = node
        .main(Command::OpenSession { mount: MountId(6), credential: Default::default(), level_max: 1 })
        .session
        .expect("a session");
    let unlink = Operation::Unlink { parent: directory, name: name("dev") };
    node.apply(MAIN, (session, Sequence(1)), Command::Operation(unlink.clone()));
    node.apply(MAIN, (session, Sequence(2)), Command::Operation(unlink));
    assert_eq!(node.state.rows().count(), 20);
    assert_eq!(format!("{:032x}", node.state.digest()), "ac7d10dccc1c0450cf2605d8cb48b054");
}

/// An unlink and a deleted volume took all their rows away in one entry: as many as a user liked.
#[test]
fn large_files_and_volumes_go_in_steps_and_any_node_goes_on() {
    /// Rows beside those that are counted: counters, and the inode that is in work.
    const FEW: usize = 8;
    let restarted = |node: &mut Node| {
        let loaded = State::from_rows(node.state.rows()).expect("a part of what is deleted can be loaded");
        assert_eq!((loaded.digest(), loaded.references()), (node.state.digest(), node.state.references()));
        node.state = loaded;
    };
    let mut node = Node::new();
    let file = node.file("large");
    for from in (0..2500).step_by(250) {
        let pieces = (from..from + 250).map(|number| piece(number * 4096, 7)).collect();
        node.ask(write(file, pieces)).expect("written");
    }
    node.set_xattr(file, "user.a", vec![1]).expect("set");
    let small = node.file("small");
    for gone in ["large", "small"] {
        node.ask(Operation::Unlink { parent: Ino::ROOT, name: name(gone) }).expect("unlinked");
    }
    let mut steps = 0;
    while node.volume().orphans().count() > 0 {
        let reaped = node.main(Command::ReapOrphans { inodes: vec![file, small] });
        assert!(reaped.effects.rows.len() <= limits::REAPED_ROWS_MAX + FEW, "{}", reaped.effects.rows.len());
        restarted(&mut node);
        steps += 1;
    }
    assert_eq!((steps, node.volume().inode_count(), node.volume().bytes_used()), (3, 1, 0));
    assert!(node.state.references().is_empty());

    let create = || Command::CreateVolume { name: "shop".to_owned(), options: VolumeOptions::default() };
    let leader = (SessionId(0), Sequence(0));
    node.apply(CLUSTER, leader, create());
    let shop = node.state.volume_named("shop").map(Volume::id).expect("created");
    let session = node
        .apply(shop, leader, Command::OpenSession { mount: MountId(1), credential: Default::default(), level_max: 1 })
        .session
        .expect("opened");
    let call = |node: &mut Node, operation, number| {
        let applied = node.apply(shop, (session, Sequence(number)), Command::Operation(operation));
        applied.outcome.expect("nothing stands against it")
    };
    for number in 0..600 {
        let made = make_file(&format!("f{number}"), true);
        let Reply::Made { ino } = call(&mut node, made, 3 * number + 1) else { panic!("not made") };
        call(&mut node, write(ino, vec![piece(0, 7), piece(20, 9)]), 3 * number + 2);
    }
    assert_eq!(node.apply(shop, leader, Command::ShrinkVolume).outcome, Err(Errno::EINVAL), "it lives");
    let in_use = node.apply(CLUSTER, leader, Command::DeleteVolume { name: "shop".to_owned(), force: false });
    assert_eq!(in_use.outcome, Err(Errno::EBUSY), "it has a session");
    let delete = || Command::DeleteVolume { name: "shop".to_owned(), force: true };
    let deleted = node.apply(CLUSTER, leader, delete());
    let mut rows = deleted.effects.rows.len();
    assert!(node.state.volume(shop).is_none() && node.state.volume_named("shop").is_none());
    assert_eq!(node.apply(CLUSTER, leader, delete()).outcome, Err(Errno::ENOENT));
    node.apply(CLUSTER, leader, create());
    assert!(node.state.volume_named("shop").is_some_and(|volume| volume.id() > shop), "its name is free at once");
    let mut steps = 0;
    while node.state.deleted_volumes().any(|volume| volume == shop) {
        restarted(&mut node);
        let taken = node.apply(shop, leader, Command::ShrinkVolume);
        assert_eq!((taken.outcome, taken.effects.changes.len()), (Ok(Reply::Done), 0));
        assert!(taken.effects.rows.len() <= limits::REAPED_ROWS_MAX + FEW, "{}", taken.effects.rows.len());
        rows += taken.effects.rows.len();
        steps += 1;
    }
    assert!(steps > 2 && rows > 600 * 5, "{steps} steps, {rows} rows");
    restarted(&mut node);
    assert!(node.state.references().is_empty());
    assert_eq!(node.apply(shop, leader, Command::ShrinkVolume).outcome, Err(Errno::ENODEV));
}

/// What was copied in parts is one piece again.
#[test]
fn neighbouring_extents_of_one_block_become_one() {
    let mut node = Node::new();
    let (from, to) = (node.file("from"), node.file("to"));
    node.write(from, 0, 9000).expect("written");
    let copy = |at: u64, length: u64| Operation::CopyRange { from, from_offset: at, to, to_offset: at, length };
    for (at, length) in [(0, 3000), (6000, 3000), (3000, 3000)] {
        node.ask(copy(at, length)).expect("copied");
    }
    let extents: Vec<_> = node.volume().extents(to, 0, u64::MAX).collect();
    assert_eq!(extents, node.volume().extents(from, 0, u64::MAX).collect::<Vec<_>>());
    assert_eq!(node.state.references().into_values().collect::<Vec<_>>(), [2]);
    node.write(to, 3000, 10).expect("written");
    assert_eq!(node.volume().extents(to, 0, u64::MAX).count(), 3);
}
