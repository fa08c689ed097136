//! The fields of a message, in their order.

/// A message that ends before its last field, or contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Malformed;

/// Takes one field after the other from the front of a message; padding is a field too.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_ne_bytes)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn skip(&mut self, length: usize) -> Result<(), Malformed> {
        self.bytes(length).map(drop)
    }

    /// Bytes up to a zero, which is taken too.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.rest.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
        let string = self.bytes(length)?;
        self.skip(1)?;
        Ok(string)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_their_order_and_not_beyond_the_end() {
        let message = [1_u32.to_ne_bytes().as_slice(), b"ab\0", &2_u64.to_ne_bytes(), b"c"].concat();
        let mut reader = Reader::new(&message);
        assert_eq!((reader.u32(), reader.string(), reader.u64()), (Ok(1), Ok(&b"ab"[..]), Ok(2)));
        assert_eq!((reader.u32(), reader.u64(), reader.string()), (Err(Malformed), Err(Malformed), Err(Malformed)));
        assert_eq!((reader.bytes(2), reader.bytes(1), reader.bytes(0)), (Err(Malformed), Ok(&b"c"[..]), Ok(&b""[..])));
    }
}
