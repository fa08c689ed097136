//! What the leader looks at before an operation may enter the log. Apply is total and refuses what the tree forbids;
//! here is what must not even be stored: content under a wrong name, and more than an entry may carry.

use super::space::Needs;
use crate::{
    limits,
    namespace::{AllocateMode, Operation, Volume},
    types::{BlockHash, Piece},
};

/// What the rows of one new name may take.
const ROW_BYTES: u64 = 4096;

/// What a mount sent that no mount of this program sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("content of {found} bytes does not hash to the block {block} it is sent for")]
    Hash { block: BlockHash, found: usize },
    #[error("a piece of {length} bytes names a block of {found} bytes")]
    Short { length: u64, found: usize },
    #[error("content without the name of its block")]
    Unnamed,
    #[error("a piece without bytes")]
    Empty,
    #[error("{found} pieces in one write, {max} at most", max = limits::PIECES_MAX)]
    Pieces { found: usize },
    #[error("{found} bytes of content in one operation, {max} at most", max = limits::INLINE_BYTES_MAX)]
    Inline { found: usize },
}

/// Refuses what must not enter the log.
pub(super) fn check(operation: &Operation) -> Result<(), Invalid> {
    let pieces = pieces(operation);
    if pieces.len() > limits::PIECES_MAX {
        return Err(Invalid::Pieces { found: pieces.len() });
    }
    let inline = pieces.iter().filter_map(|piece| piece.content.as_ref()).map(bytes::Bytes::len).sum();
    if inline > limits::INLINE_BYTES_MAX {
        return Err(Invalid::Inline { found: inline });
    }
    pieces.iter().try_for_each(check_piece)
}

/// Bytes that carrying the operation out takes from the stores, about; 0 for what gives space back or needs none.
/// Blocks that were uploaded before are there already: their store has refused them if it was full.
fn space_needed(operation: &Operation) -> u64 {
    match operation {
        Operation::Make { .. }
        | Operation::MakeUnnamed { .. }
        | Operation::Link { .. }
        | Operation::LinkUnnamed { .. }
        | Operation::SetXattr { .. } => ROW_BYTES,
        _ => pieces(operation).iter().filter_map(|piece| piece.content.as_ref()).map(|bytes| bytes.len() as u64).sum(),
    }
}

/// What the operation takes: content that it brings to the stores, uploaded or not, or reserves there.
pub(super) fn needs(volume: &Volume, operation: &Operation) -> Needs {
    let (at_once, reserves) = (space_needed(operation), reserves(operation));
    let (ino, base) = match operation {
        Operation::Allocate { ino, offset, length, .. } if reserves => {
            let space = volume.holes(*ino, *offset, *length);
            return Needs { space, at_most: space, at_once, reserves };
        }
        Operation::Write { ino, append: true, .. } => (*ino, volume.inode(*ino).map_or(0, |inode| inode.size)),
        Operation::Write { ino, .. } | Operation::Coalesce { ino, .. } => (*ino, 0),
        Operation::Flush(flush) => (flush.ino, 0),
        _ => return Needs { space: at_once, at_most: at_once, at_once, reserves },
    };
    let content = || pieces(operation).iter().filter(|piece| piece.block.is_some());
    let needed = |piece: &Piece| {
        piece.length.saturating_sub(volume.reserved_in(ino, base.saturating_add(piece.offset), piece.length))
    };
    let space = content().map(needed).fold(0, u64::saturating_add);
    let at_most = content().map(|piece| piece.length).fold(0, u64::saturating_add);
    Needs { space, at_most, at_once, reserves }
}

/// Whether it takes space for content to come.
const fn reserves(operation: &Operation) -> bool {
    use AllocateMode::{Extend, KeepSize, Zero};
    matches!(operation, Operation::Allocate { mode: Extend | KeepSize | Zero { .. }, .. })
}

fn pieces(operation: &Operation) -> &[Piece] {
    match operation {
        Operation::Write { pieces, .. } => pieces,
        Operation::Coalesce { piece, .. } => std::slice::from_ref(piece),
        Operation::Flush(flush) => &flush.pieces,
        _ => &[],
    }
}

fn check_piece(piece: &Piece) -> Result<(), Invalid> {
    if piece.length == 0 {
        return Err(Invalid::Empty);
    }
    let Some(content) = &piece.content else { return Ok(()) };
    let block = piece.block.ok_or(Invalid::Unnamed)?;
    if (content.len() as u64) < piece.length {
        return Err(Invalid::Short { length: piece.length, found: content.len() });
    }
    if BlockHash::of(content) != block {
        return Err(Invalid::Hash { block, found: content.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{Ino, Name};

    fn piece(content: &'static [u8]) -> Piece {
        Piece {
            offset: 0,
            length: content.len() as u64,
            block: Some(BlockHash::of(content)),
            content: Some(Bytes::from_static(content)),
        }
    }

    fn write(pieces: Vec<Piece>) -> Operation {
        crate::coordinator::tests::write(Ino(2), pieces)
    }

    #[test]
    fn content_under_its_own_name_is_taken() {
        assert_eq!(check(&write(vec![piece(b"one"), piece(b"two")])), Ok(()));
        let hole = Piece { offset: 0, length: 9, block: None, content: None };
        let stored = Piece { content: None, ..piece(b"stored") };
        assert_eq!(check(&write(vec![hole, stored])), Ok(()));
    }

    #[test]
    fn content_under_a_wrong_name_is_refused_in_every_operation_that_carries_it() {
        let wrong = Piece { block: Some(BlockHash::of(b"other")), ..piece(b"one") };
        let coalesce = Operation::Coalesce { ino: Ino(2), data_version: 1, piece: wrong.clone() };
        for operation in [write(vec![piece(b"good"), wrong]), coalesce] {
            assert!(matches!(check(&operation), Err(Invalid::Hash { found: 3, .. })));
        }
    }

    #[test]
    fn what_an_entry_cannot_carry_is_refused() {
        static LONG: [u8; limits::INLINE_BYTES_MAX] = [7; limits::INLINE_BYTES_MAX];
        assert_eq!(check(&write(vec![piece(&LONG)])), Ok(()));
        let over = limits::INLINE_BYTES_MAX + 1;
        assert_eq!(check(&write(vec![piece(&LONG), piece(b"x")])), Err(Invalid::Inline { found: over }));
        let hole = Piece { offset: 0, length: 9, block: None, content: None };
        let many = vec![hole; limits::PIECES_MAX + 1];
        assert_eq!(check(&write(many)), Err(Invalid::Pieces { found: limits::PIECES_MAX + 1 }));
    }

    #[test]
    fn a_piece_says_what_it_is() {
        let short = Piece { length: 4, ..piece(b"one") };
        assert_eq!(check(&write(vec![short])), Err(Invalid::Short { length: 4, found: 3 }));
        let unnamed = Piece { block: None, ..piece(b"one") };
        assert_eq!(check(&write(vec![unnamed])), Err(Invalid::Unnamed));
        let empty = Piece { offset: 3, length: 0, block: None, content: None };
        assert_eq!(check(&write(vec![empty])), Err(Invalid::Empty));
    }

    #[test]
    fn only_new_bytes_and_new_names_need_space() {
        let hole = Piece { offset: 0, length: 1 << 40, block: None, content: None };
        let stored = Piece { content: None, ..piece(b"stored") };
        assert_eq!(space_needed(&write(vec![hole, stored, piece(b"one")])), 3);
        let name = Name::new(b"x").expect("a name");
        assert_eq!(space_needed(&Operation::Unlink { parent: Ino::ROOT, name: name.clone() }), 0);
        assert_eq!(space_needed(&Operation::Link { ino: Ino(2), parent: Ino::ROOT, name }), ROW_BYTES);
    }
}
