//! What one attached mount has been sent: a snapshot where it needs one, then every entry of its volume in log order.

use bytes::Bytes;

use super::{Key, history::History};
use crate::{
    limits,
    message::mount::ToMount,
    namespace::Volume,
    types::{LogIndex, VolumeId},
};

/// Pieces of a snapshot on their way to one mount at a time.
const PIECES_IN_FLIGHT_MAX: u32 = 4;
/// Bytes of entries in one message.
const ENTRIES_BYTES_MAX: usize = limits::MESSAGE_BYTES_MAX / 4;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) key: Key,
    /// Every entry of the volume up to here was sent, or is in the mount's state.
    sent: LogIndex,
    snapshot: Option<Box<Snapshot>>,
}

/// A snapshot on its way.
#[derive(Debug)]
struct Snapshot {
    volume: Volume,
    piece_bytes: usize,
    /// Key of the last row sent.
    after: Option<Bytes>,
    in_flight: u32,
    /// All pieces are sent, and some not yet received.
    complete: bool,
}

impl Stream {
    /// Goes on behind `applied`, the last entry that the mount has.
    pub(super) const fn behind(key: Key, applied: LogIndex) -> Self {
        Self { key, sent: applied, snapshot: None }
    }

    /// Begins with a snapshot of the volume as it is now, in pieces of so many bytes.
    pub(super) fn from_snapshot(key: Key, volume: &Volume, piece_bytes: usize) -> Self {
        let snapshot = Snapshot { volume: volume.clone(), piece_bytes, after: None, in_flight: 0, complete: false };
        Self { key, sent: LogIndex(0), snapshot: Some(Box::new(snapshot)) }
    }

    pub(super) const fn volume(&self) -> VolumeId {
        self.key.0
    }

    /// Whether the mount was sent this entry, or has it otherwise.
    pub(super) fn includes(&self, index: LogIndex) -> bool {
        index <= self.sent
    }

    /// Whether all pieces of a snapshot were sent, or none was needed.
    pub(super) fn sends_entries(&self) -> bool {
        self.snapshot.as_ref().is_none_or(|snapshot| snapshot.complete)
    }

    /// A piece arrived at the mount. False where none was on its way.
    pub(super) fn piece_received(&mut self) -> bool {
        let Some(snapshot) = self.snapshot.as_mut().filter(|snapshot| snapshot.in_flight > 0) else { return false };
        snapshot.in_flight -= 1;
        if snapshot.complete && snapshot.in_flight == 0 {
            self.snapshot = None;
        }
        true
    }

    /// The next message, in order; `None` when the mount has all, or a piece must be received first.
    pub(super) fn next(&mut self, history: &History) -> Option<ToMount> {
        match &mut self.snapshot {
            Some(snapshot) if !snapshot.complete => {
                if snapshot.in_flight >= PIECES_IN_FLIGHT_MAX {
                    return None;
                }
                let piece = snapshot.next_piece();
                if snapshot.complete {
                    self.sent = snapshot.volume.applied();
                }
                Some(piece)
            }
            _ => self.next_entries(history),
        }
    }

    fn next_entries(&mut self, history: &History) -> Option<ToMount> {
        let mut bytes = 0;
        let mut entries = Vec::new();
        for (index, entry) in history.after(self.volume(), self.sent) {
            if !entries.is_empty() && bytes + entry.len() > ENTRIES_BYTES_MAX {
                break;
            }
            bytes += entry.len();
            entries.push((*index, entry.clone()));
        }
        self.sent = entries.last()?.0;
        Some(ToMount::Entries { entries })
    }
}

impl Snapshot {
    fn next_piece(&mut self) -> ToMount {
        let (after, first) = (self.after.clone().unwrap_or_default(), self.after.is_none());
        let mut source = self.volume.rows_after(&after).peekable();
        let mut bytes = 0;
        let mut rows = Vec::new();
        while bytes < self.piece_bytes
            && let Some((key, value)) = source.next()
        {
            bytes += key.len() + value.len();
            rows.push((key, value));
        }
        let last = source.peek().is_none();
        drop(source);
        self.after = Some(rows.last().map_or(after, |(key, _)| key.clone()));
        self.in_flight += 1;
        self.complete = last;
        ToMount::SnapshotPiece { index: self.volume.applied(), first, last, rows }
    }
}
