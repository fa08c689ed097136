//! Who calls, where the kernel does not say. With FUSE_ALLOW_IDMAP it names the caller only in requests that make an
//! inode, as the mount's mapping has it (`fuse_get_req`, fs/fuse/dev.c). In all others it has judged itself what the
//! caller may do. Only setuid and setgid are left to us: they stay where root changes a file.

use std::fs;

use super::abi::{Header, opcode};
use crate::mount::Caller;

/// What the kernel says instead of a user or group (FUSE_INVALID_UIDGID).
const UNSAID: u32 = u32::MAX;

/// The caller with the credentials of its thread, as this process sees them. One that cannot be seen from here, since it is
/// in another PID namespace or gone, stays unknown, and so is not taken for root.
pub(super) fn found(header: &Header) -> Caller {
    let caller = header.caller;
    let matters = matches!(header.opcode, opcode::SETATTR | opcode::FALLOCATE | opcode::COPY_FILE_RANGE);
    if caller.uid != UNSAID || !matters || caller.pid == 0 {
        return caller;
    }
    let status = fs::read_to_string(format!("/proc/{}/status", caller.pid)).unwrap_or_default();
    match (last_of(&status, "Uid:"), last_of(&status, "Gid:")) {
        (Some(uid), Some(gid)) => Caller { uid, gid, ..caller },
        _ => caller,
    }
}

/// The last of the four numbers in the line: the one that file systems go by (proc(5)).
fn last_of(status: &str, field: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(opcode: u32, caller: Caller) -> Header {
        Header { opcode, unique: 2, node: 1, caller }
    }

    #[test]
    fn the_number_is_the_one_of_file_systems() {
        let status = "Name:\tphp\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9\n";
        assert_eq!((last_of(status, "Uid:"), last_of(status, "Gid:")), (Some(4), Some(8)));
        assert_eq!((last_of("", "Uid:"), last_of("Uid:\t1\n", "Uid:")), (None, None));
    }

    #[test]
    fn who_is_not_said_is_looked_up_where_it_matters() {
        let own = Caller {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            pid: std::process::id(),
        };
        let unsaid = Caller { uid: UNSAID, gid: UNSAID, ..own };
        assert_eq!(found(&header(opcode::SETATTR, unsaid)), own);
        assert_eq!(found(&header(opcode::GETATTR, unsaid)), unsaid);
        let said = Caller { uid: 5, gid: 6, ..own };
        assert_eq!(found(&header(opcode::SETATTR, said)), said);
        let hidden = Caller { pid: 0, ..unsaid };
        assert_eq!(found(&header(opcode::SETATTR, hidden)), hidden);
    }
}
