//! POSIX access control lists as the kernel hands them over in xattrs (Linux `include/uapi/linux/posix_acl_xattr.h`).
//!
//! With FUSE_POSIX_ACL the kernel checks permissions by the lists and leaves the rest to the file system
//! (fs/fuse/acl.c): an access list sets the mode bits, chmod changes the list, and what is made in a directory with a
//! default list inherits it (posix_acl_create_masq). In that last case the umask does not count, so a mount must
//! negotiate FUSE_DONT_MASK and leave the mode unmasked below a directory that has a default list.

use bytes::Bytes;

use crate::types::{Errno, XattrName};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const VERSION: [u8; 4] = 2_u32.to_le_bytes();
const ENTRY_BYTES: usize = 8;
/// The kernel reads a list into one page (fs/fuse/acl.c).
const LIST_BYTES_MAX: usize = 4096;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

pub(super) fn access_name() -> XattrName {
    XattrName::new(ACCESS).expect("the constant is a name of an attribute")
}

pub(super) fn default_name() -> XattrName {
    XattrName::new(DEFAULT).expect("the constant is a name of an attribute")
}

/// Which list the attribute holds, where it holds one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AclKind {
    Access,
    Default,
}

impl AclKind {
    pub(super) fn of(name: &XattrName) -> Option<Self> {
        match name.as_bytes() {
            ACCESS => Some(Self::Access),
            DEFAULT => Some(Self::Default),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct AclEntry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A list in the order owner, users, owning group, groups, mask, others; a mask wherever users or groups are named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Acl(Vec<AclEntry>);

impl Acl {
    /// Reads an attribute's value; `None` is the list without entries, which stands for no list.
    ///
    /// # Errors
    /// EOPNOTSUPP for another version, E2BIG beyond what the kernel reads, EINVAL for entries that are no list.
    pub(super) fn decode(value: &[u8]) -> Result<Option<Self>, Errno> {
        let (version, entries) = value.split_first_chunk::<4>().ok_or(Errno::EINVAL)?;
        if *version != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        if value.len() > LIST_BYTES_MAX {
            return Err(Errno::E2BIG);
        }
        if entries.len() % ENTRY_BYTES != 0 {
            return Err(Errno::EINVAL);
        }
        let entry = |bytes: &[u8]| AclEntry {
            tag: u16::from_le_bytes([bytes[0], bytes[1]]),
            permissions: u16::from_le_bytes([bytes[2], bytes[3]]),
            id: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        };
        let list = Self(entries.chunks_exact(ENTRY_BYTES).map(entry).collect());
        match list.0.as_slice() {
            [] => Ok(None),
            _ if list.is_valid() => Ok(Some(list)),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut value = VERSION.to_vec();
        for entry in &self.0 {
            value.extend_from_slice(&entry.tag.to_le_bytes());
            value.extend_from_slice(&entry.permissions.to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value.into()
    }

    /// Whether the mode bits say all that the list says.
    pub(super) fn is_minimal(&self) -> bool {
        self.0.iter().all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// `mode` with the permission bits that the list stands for.
    pub(super) fn mode(&self, mode: u16) -> u16 {
        let group = self.permissions(MASK).or_else(|| self.permissions(GROUP_OBJ)).unwrap_or(0);
        let user = self.permissions(USER_OBJ).unwrap_or(0);
        let other = self.permissions(OTHER).unwrap_or(0);
        (mode & !0o777) | (user << 6) | (group << 3) | other
    }

    /// The list after chmod to `mode`.
    pub(super) fn after_chmod(&self, mode: u16) -> Self {
        let has_mask = self.permissions(MASK).is_some();
        let mut list = self.clone();
        for entry in &mut list.0 {
            match entry.tag {
                USER_OBJ => entry.permissions = (mode >> 6) & 7,
                GROUP_OBJ if !has_mask => entry.permissions = (mode >> 3) & 7,
                MASK => entry.permissions = (mode >> 3) & 7,
                OTHER => entry.permissions = mode & 7,
                _ => {}
            }
        }
        list
    }

    /// For what is made with `mode` below a directory with this default list: its mode, and its access list where the
    /// mode does not say it all.
    pub(super) fn inherit(&self, mode: u16) -> (u16, Option<Self>) {
        let has_mask = self.permissions(MASK).is_some();
        let mut list = self.clone();
        for entry in &mut list.0 {
            match entry.tag {
                USER_OBJ => entry.permissions &= (mode >> 6) & 7,
                GROUP_OBJ if !has_mask => entry.permissions &= (mode >> 3) & 7,
                MASK => entry.permissions &= (mode >> 3) & 7,
                OTHER => entry.permissions &= mode & 7,
                _ => {}
            }
        }
        let mode = list.mode(mode);
        let access = (!list.is_minimal()).then_some(list);
        (mode, access)
    }

    fn permissions(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.permissions)
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let once = [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1) && count(MASK) <= 1;
        // The tags' numbers rise in the order that the entries must have.
        let ordered = self.0.windows(2).all(|pair| pair[0].tag <= pair[1].tag);
        let known = |entry: &AclEntry| {
            matches!(entry.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER) && entry.permissions <= 7
        };
        let masked = count(MASK) == 1 || count(USER) + count(GROUP) == 0;
        once && ordered && masked && self.0.iter().all(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: u32 = u32::MAX;

    fn list(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, permissions, id)| AclEntry { tag, permissions, id }).collect())
    }

    fn extended() -> Acl {
        list(&[(USER_OBJ, 7, NOBODY), (USER, 6, 1000), (GROUP_OBJ, 5, NOBODY), (MASK, 7, NOBODY), (OTHER, 5, NOBODY)])
    }

    #[test]
    fn values_are_read_as_they_are_written() {
        assert_eq!(Acl::decode(&extended().encode()), Ok(Some(extended())));
        assert_eq!(Acl::decode(&VERSION), Ok(None));
        assert_eq!(Acl::decode(&[1, 0, 0, 0]), Err(Errno::EOPNOTSUPP));
        assert_eq!(Acl::decode(&[]), Err(Errno::EINVAL));
        assert_eq!(Acl::decode(&extended().encode()[..13]), Err(Errno::EINVAL));
        let unmasked = list(&[(USER_OBJ, 7, NOBODY), (USER, 6, 1), (GROUP_OBJ, 5, NOBODY), (OTHER, 5, NOBODY)]);
        assert_eq!(Acl::decode(&unmasked.encode()), Err(Errno::EINVAL));
        let too_much = list(&[(USER_OBJ, 8, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHER, 5, NOBODY)]);
        assert_eq!(Acl::decode(&too_much.encode()), Err(Errno::EINVAL));
    }

    #[test]
    fn the_mask_stands_for_the_group_bits() {
        assert_eq!(extended().mode(0o4000), 0o4775);
        let changed = extended().after_chmod(0o640);
        assert_eq!(changed.mode(0), 0o640);
        assert_eq!(changed.permissions(GROUP_OBJ), Some(5), "the owning group keeps its entry behind the mask");
    }

    #[test]
    fn a_file_inherits_no_more_than_it_was_made_with() {
        let (mode, access) = extended().inherit(0o644);
        assert_eq!(mode, 0o644);
        assert_eq!(access.map(|list| list.permissions(MASK)), Some(Some(4)));
        let minimal = list(&[(USER_OBJ, 7, NOBODY), (GROUP_OBJ, 0, NOBODY), (OTHER, 0, NOBODY)]);
        assert_eq!(minimal.inherit(0o666), (0o600, None));
    }
}
