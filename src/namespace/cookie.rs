//! The place of an entry in its directory's listing, from which a walk goes on: a hash of the name, as in the hashed
//! directories of ext4.
//!
//! So a name that goes and comes again has its old place, and a new name lies behind a walk's place as often as before
//! it. A walk that renames, or makes anew, what it is given comes to an end. If places were counted on, each new name
//! would lie ahead of the walk, and it would never end.

use crate::types::Name;

/// Cookies 1 and 2 are `.` and `..`.
pub(super) const COOKIE_MIN: u64 = 3;
/// Bits of a hash. The kernel's offsets have 63: what is behind the last hash is for names that find theirs taken.
const HASH_BITS: u32 = 62;

/// The place of a new name: that of its hash, or where another name has it, the next free one. It stays as long as the name
/// lives, also when the other one is gone.
pub(super) fn place(name: &Name, is_taken: impl Fn(u64) -> bool) -> u64 {
    let mut cookie = hash(name);
    while is_taken(cookie) {
        cookie += 1;
    }
    cookie
}

/// Whether `place` may have said so, beside whatever other names.
pub(super) fn may_be(name: &Name, cookie: u64) -> bool {
    (hash(name)..1 << (HASH_BITS + 1)).contains(&cookie)
}

fn hash(name: &Name) -> u64 {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
    COOKIE_MIN + (u64::from_be_bytes(prefix) >> (u64::BITS - HASH_BITS))
}
