//! Names that the kernel was told, whether there is a file of that name or not, in a Bloom filter. It may say yes for a
//! name that was never told; it never says no for one that was. A name that it says no to needs no notification.

use crate::{
    limits,
    types::{Ino, Name},
};

/// Bits that each name sets.
const BITS_PER_NAME: u64 = 4;
const BITS: u64 = 8 * limits::TOLD_NAMES_BYTES as u64;

#[derive(Debug)]
pub(crate) struct ToldNames {
    words: Vec<u64>,
    is_empty: bool,
}

impl ToldNames {
    pub(crate) fn new() -> Self {
        Self { words: vec![0; limits::TOLD_NAMES_BYTES / 8], is_empty: true }
    }

    pub(crate) fn insert(&mut self, parent: Ino, name: &Name) {
        self.is_empty = false;
        for (word, bit) in places(parent, name) {
            self.words[word] |= bit;
        }
    }

    pub(crate) fn may_have(&self, parent: Ino, name: &Name) -> bool {
        places(parent, name).all(|(word, bit)| self.words[word] & bit != 0)
    }

    pub(crate) fn clear(&mut self) {
        if !std::mem::replace(&mut self.is_empty, true) {
            self.words.fill(0);
        }
    }
}

/// Words and their bits.
fn places(parent: Ino, name: &Name) -> impl Iterator<Item = (usize, u64)> {
    // FNV-1a, and its halves as the first place and the way to the next.
    let bytes = parent.0.to_le_bytes().into_iter().chain(name.as_bytes().iter().copied());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let (first, step) = (hash >> 32, hash & 0xffff_ffff | 1);
    (0..BITS_PER_NAME).map(move |number| {
        let bit = first.wrapping_add(number.wrapping_mul(step)) % BITS;
        (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> Name {
        Name::new(format!("wp-content-{number}.php").as_bytes()).expect("a name")
    }

    #[test]
    fn what_was_told_is_known_until_all_is_forgotten() {
        let mut told = ToldNames::new();
        (0..1000).for_each(|number| told.insert(Ino(7), &name(number)));
        assert!((0..1000).all(|number| told.may_have(Ino(7), &name(number))));
        told.clear();
        assert!((0..1000).all(|number| !told.may_have(Ino(7), &name(number))));
    }

    #[test]
    fn few_names_are_taken_for_told_that_were_not() {
        let mut told = ToldNames::new();
        (0..20_000).for_each(|number| told.insert(Ino(number % 50), &name(number)));
        let mistaken = (0..20_000).filter(|number| told.may_have(Ino(51 + number % 50), &name(*number))).count();
        assert!(mistaken < 200, "{mistaken}");
    }
}
