//! How many files and sockets this process may have open, and how they are shared out: the store's come first.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::limits::{
    CONNECTIONS_CLIENT_MAX, CONNECTIONS_HTTP_MAX, CONNECTIONS_PEER_MAX, DESCRIPTORS_KEPT, DESCRIPTORS_MAX,
    HANDSHAKES_MAX,
};

/// Connections of each port at a time, so that the store never lacks a descriptor for their sake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    pub(super) client: usize,
    pub(super) peer: usize,
    pub(super) http: usize,
    /// TLS handshakes of one port.
    pub(super) handshakes: usize,
}

impl Room {
    /// Raises the limit of open files as far as this user may, and shares it out.
    ///
    /// # Errors
    /// As getrlimit(2).
    pub(super) fn make() -> io::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let wanted = hard.min(DESCRIPTORS_MAX);
        let limit = match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
            Ok(()) => wanted,
            Err(error) if soft < wanted => {
                tracing::warn!("the limit of open files stays at {soft}: {error}");
                soft
            }
            // It was lowered in vain only.
            Err(_) => soft,
        };
        let room = Self::within(limit);
        if room.client < CONNECTIONS_CLIENT_MAX {
            tracing::info!(
                "this process may have {limit} files open (ulimit -n): of mounts it takes {} connections instead of \
                 {CONNECTIONS_CLIENT_MAX}",
                room.client
            );
        }
        Ok(room)
    }

    fn within(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let room = limit - DESCRIPTORS_KEPT.min(limit / 2);
        Self {
            client: CONNECTIONS_CLIENT_MAX.min(room / 2),
            peer: CONNECTIONS_PEER_MAX.min(room / 8),
            http: CONNECTIONS_HTTP_MAX.min(room / 16),
            handshakes: HANDSHAKES_MAX.min(room / 8),
        }
    }

    /// All connections that there can be: both ports of the protocol shake hands.
    #[cfg(test)]
    const fn total(self) -> usize {
        self.client + self.peer + self.http + 2 * self.handshakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_keeps_its_part_of_any_limit() {
        for limit in [64_u64, 256, 1024, 4096, 65_536, DESCRIPTORS_MAX, u64::MAX] {
            let room = Room::within(limit);
            let kept = limit.saturating_sub(room.total() as u64);
            assert!(kept >= (limit / 2).min(DESCRIPTORS_KEPT as u64), "{limit}: {room:?}");
            assert!(room.client > 0 && room.peer > 0 && room.http > 0 && room.handshakes > 0, "{limit}: {room:?}");
        }
        assert_eq!(Room::within(DESCRIPTORS_MAX).client, CONNECTIONS_CLIENT_MAX);
    }
}
