//! INIT: what the kernel offers, and what we take of it.

use fuser::InitFlags;

use super::reader::{Malformed, Reader};
use crate::limits;

/// The protocol's major version, and the newest minor one that this program knows.
pub(in crate::fuse) const MAJOR: u32 = 7;
const MINOR: u32 = 45;
/// Linux 5.4. Earlier ones have shorter structs.
pub(in crate::fuse) const MINOR_MIN: u32 = 31;
/// Bytes of a page of a request; on machines with larger pages the kernel takes fewer of them.
const PAGE_BYTES: u32 = 4096;

/// What we take where the kernel has it. READDIRPLUS is left out because its replies are taken for newer than they are
/// (docs/protocol.md R2-telling), WRITEBACK_CACHE because written bytes would wait in the kernel.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    // Handles are good for longer than the kernel remembers their inodes, so that an NFS server can export a mount.
    .union(InitFlags::FUSE_EXPORT_SUPPORT)
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_AUTO_INVAL_DATA)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    // Without it every write(2) asks for security.capability first; with it the kernel also says who keeps setuid.
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    // The umask is for whoever knows a directory's default access control list.
    .union(InitFlags::FUSE_DONT_MASK)
    // It says whose new list takes setgid away.
    .union(InitFlags::FUSE_SETXATTR_EXT)
    .union(InitFlags::FUSE_INIT_EXT)
    // Locks exclude across mounts; the kernel asks for each and keeps none.
    .union(InitFlags::FUSE_POSIX_LOCKS)
    .union(InitFlags::FUSE_FLOCK_LOCKS)
    // O_APPEND files are opened for direct I/O (R13-appends), and some programs map them.
    .union(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);

/// What makes sense only where opens and closes are told.
const OF_OPENS: InitFlags =
    InitFlags::FUSE_ATOMIC_O_TRUNC.union(InitFlags::FUSE_POSIX_LOCKS).union(InitFlags::FUSE_FLOCK_LOCKS);

/// What this side makes of the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Terms {
    pub(in crate::fuse) with_acl: bool,
    pub(in crate::fuse) with_idmap: bool,
    pub(in crate::fuse) opens_are_told: bool,
}

/// What the kernel says in INIT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Offer {
    pub(in crate::fuse) major: u32,
    pub(in crate::fuse) minor: u32,
    readahead: u32,
    flags: InitFlags,
}

impl Offer {
    pub(super) fn parse(mut reader: Reader<'_>) -> Result<Self, Malformed> {
        let (major, minor) = (reader.u32()?, reader.u32()?);
        // A newer major version may say anything from here on; it begins anew with ours.
        if major > MAJOR {
            return Ok(Self { major, minor, readahead: 0, flags: InitFlags::empty() });
        }
        let (readahead, flags) = (reader.u32()?, u64::from(reader.u32()?));
        let is_long = InitFlags::from_bits_retain(flags).contains(InitFlags::FUSE_INIT_EXT);
        let more = if is_long { u64::from(reader.u32()?) << 32 } else { 0 };
        Ok(Self { major, minor, readahead, flags: InitFlags::from_bits_retain(flags | more) })
    }
}

/// How this session talks: what every request and reply depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Agreement {
    pub(in crate::fuse) minor: u32,
    readahead: u32,
    flags: InitFlags,
}

impl Agreement {
    /// Before INIT, whose own form depends on nothing.
    pub(in crate::fuse) const NONE: Self = Self { minor: 0, readahead: 0, flags: InitFlags::empty() };

    /// `opens_are_told`: otherwise the kernel is answered ENOSYS to OPEN and FLUSH. It then sends no truncation with an open
    /// that nobody gets, and locks, whose end it would not tell, stay its own
    /// (README.md "Opens").
    ///
    /// `with_acl`: the kernel is to check access control lists. Then it asks about the lists of the mount's root at
    /// every step through it by another than its owner: it makes the root before it hears of FUSE_POSIX_ACL, and marks
    /// it as one whose lists are not to be kept (fs/fuse/inode.c, fuse_init_inode; for good since
    /// __forget_cached_acl heeds the mark). So this is for those who use such lists.
    ///
    /// `with_idmap`: the mount may be idmapped, as pods with users of their own have it. Then the kernel no longer says who
    /// calls (`fuse/callers.rs`). It needs default_permissions, which every mount has. Linux 6.12.
    pub(in crate::fuse) const fn with(offer: Offer, terms: Terms) -> Self {
        let wanted = if terms.with_acl { WANTED.union(InitFlags::FUSE_POSIX_ACL) } else { WANTED };
        let wanted = if terms.with_idmap { wanted.union(InitFlags::FUSE_ALLOW_IDMAP) } else { wanted };
        let wanted = if terms.opens_are_told { wanted } else { wanted.difference(OF_OPENS) };
        let mut flags = offer.flags.intersection(wanted);
        // Before Linux 5.11 there is only this one.
        if !flags.contains(InitFlags::FUSE_HANDLE_KILLPRIV_V2) {
            flags = flags.union(offer.flags.intersection(InitFlags::FUSE_HANDLE_KILLPRIV));
        }
        let minor = if offer.minor < MINOR { offer.minor } else { MINOR };
        Self { minor, readahead: offer.readahead, flags }
    }

    pub(in crate::fuse) const fn has(self, flag: InitFlags) -> bool {
        self.flags.contains(flag)
    }

    /// The body of the reply: `struct fuse_init_out`.
    pub(in crate::fuse) fn encode(self) -> Vec<u8> {
        let background = limits::FUSE_BACKGROUND_MAX;
        let pages = limits::FUSE_WRITE_BYTES_MAX.div_ceil(PAGE_BYTES) as u16;
        let mut body = Vec::with_capacity(64);
        let flags = self.flags.bits();
        for word in [MAJOR, self.minor, self.readahead, flags as u32] {
            body.extend(word.to_ne_bytes());
        }
        // From the second number on the kernel considers itself congested.
        for half in [background, background / 4 * 3] {
            body.extend(half.to_ne_bytes());
        }
        // Nanoseconds of a time count one by one.
        for word in [limits::FUSE_WRITE_BYTES_MAX, 1] {
            body.extend(word.to_ne_bytes());
        }
        for half in [pages, 0] {
            body.extend(half.to_ne_bytes());
        }
        body.extend(((flags >> 32) as u32).to_ne_bytes());
        body.resize(64, 0);
        body
    }
}

/// The reply to a kernel of a newer major version.
pub(in crate::fuse) fn our_version() -> Vec<u8> {
    let mut body: Vec<u8> = [MAJOR, MINOR].iter().flat_map(|word| word.to_ne_bytes()).collect();
    body.resize(64, 0);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { with_acl: false, with_idmap: false, opens_are_told: true };
    const WITH_ACL: Terms = Terms { with_acl: true, ..TERMS };

    fn offer(minor: u32, flags: InitFlags) -> Offer {
        Offer { major: MAJOR, minor, readahead: 128 * 1024, flags }
    }

    fn everything() -> Offer {
        offer(99, InitFlags::from_bits_retain(u64::MAX))
    }

    #[test]
    fn all_that_is_wanted_is_taken_and_nothing_else() {
        let all = Agreement::with(everything(), TERMS);
        assert_eq!((all.minor, all.flags), (MINOR, WANTED));
        let with_acl = Agreement::with(everything(), WITH_ACL);
        assert_eq!(with_acl.flags, WANTED | InitFlags::FUSE_POSIX_ACL);
        let with_idmap = Agreement::with(everything(), Terms { with_idmap: true, ..TERMS });
        assert_eq!(with_idmap.flags, WANTED | InitFlags::FUSE_ALLOW_IDMAP);
        for unwanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_WRITEBACK_CACHE,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_HANDLE_KILLPRIV,
        ] {
            assert!(!all.has(unwanted), "{unwanted:?}");
        }
    }

    #[test]
    fn where_opens_are_not_told_nothing_rests_on_them() {
        let silent = Agreement::with(everything(), Terms { opens_are_told: false, ..TERMS });
        assert_eq!(silent.flags, WANTED.difference(OF_OPENS));
        assert!(!silent.has(InitFlags::FUSE_ATOMIC_O_TRUNC) && !silent.has(InitFlags::FUSE_FLOCK_LOCKS));
    }

    #[test]
    fn an_old_kernel_is_asked_for_what_it_has() {
        let old = Agreement::with(offer(31, InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_HANDLE_KILLPRIV), WITH_ACL);
        assert_eq!((old.minor, old.flags), (31, InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_HANDLE_KILLPRIV));
    }

    #[test]
    fn the_reply_is_the_kernels_struct() {
        let body = Agreement::with(everything(), TERMS).encode();
        assert_eq!(body.len(), 64);
        let word = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().expect("four bytes"));
        let half = |at: usize| u16::from_ne_bytes(body[at..at + 2].try_into().expect("two bytes"));
        assert_eq!((word(0), word(4), word(8)), (7, 45, 128 * 1024));
        assert_eq!(u64::from(word(12)) | u64::from(word(32)) << 32, WANTED.bits());
        assert_eq!((half(16), half(18)), (512, 384));
        assert_eq!((word(20), word(24), half(28), half(30)), (1 << 20, 1, 256, 0));
    }
}
