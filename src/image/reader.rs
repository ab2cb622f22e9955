//! Reads Kafka's flexible message encoding (KIP-482) from a slice: bounds-checked, never panics,
//! and allocates no more than the bytes at hand can fill.

use super::Malformed;
use crate::types::Uuid;

/// What is left of one record.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Everything must have been read.
    pub(super) fn finish(self) -> Result<(), Malformed> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(Malformed::Trailing(left)),
        }
    }

    fn slice(&mut self, needed: usize) -> Result<&'a [u8], Malformed> {
        let left = self.bytes.len();
        let (taken, rest) =
            self.bytes.split_at_checked(needed).ok_or(Malformed::Truncated { needed, left })?;
        self.bytes = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let left = self.bytes.len();
        let (&taken, rest) =
            self.bytes.split_first_chunk().ok_or(Malformed::Truncated { needed: N, left })?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn uvarint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.fixed()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_over| Malformed::Varint);
            }
        }
        Err(Malformed::Varint)
    }

    /// A length on the wire is one more than the length, so that 0 can stand for null.
    fn length(&mut self) -> Result<Option<usize>, Malformed> {
        let coded = self.uvarint()?;
        // A length that this machine cannot address is larger than what is left in any case.
        Ok(coded.checked_sub(1).map(|length| usize::try_from(length).unwrap_or(usize::MAX)))
    }

    pub(super) fn bool(&mut self) -> Result<bool, Malformed> {
        Ok(self.i8()? != 0)
    }

    pub(super) fn i8(&mut self) -> Result<i8, Malformed> {
        self.fixed().map(i8::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, Malformed> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.fixed().map(u16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        self.fixed().map(i64::from_be_bytes)
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, Malformed> {
        self.fixed().map(Uuid::from_bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a str, Malformed> {
        self.nullable_string()?.ok_or(Malformed::Null)
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<&'a str>, Malformed> {
        let Some(length) = self.length()? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(self.slice(length)?).map_err(|_not| Malformed::Utf8)?;
        Ok(Some(text))
    }

    pub(super) fn array<T>(
        &mut self,
        element: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        self.nullable_array(element)?.ok_or(Malformed::Null)
    }

    pub(super) fn nullable_array<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<Vec<T>>, Malformed> {
        let Some(length) = self.length()? else {
            return Ok(None);
        };
        let left = self.bytes.len();
        // Every element takes at least a byte. The vector grows with what is really there.
        if length > left {
            return Err(Malformed::Length { length, left });
        }
        let mut elements = Vec::new();
        for _ in 0..length {
            elements.push(element(self)?);
        }
        Ok(Some(elements))
    }

    /// The tagged fields at the end of a structure. `known` is given each tag and its bytes and
    /// answers whether it read them; the others are passed over.
    pub(super) fn tagged(
        &mut self,
        mut known: impl FnMut(u32, &mut Reader<'a>) -> Result<bool, Malformed>,
    ) -> Result<(), Malformed> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let size = self.uvarint()?;
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let mut field = Reader::new(self.slice(size)?);
            if known(tag, &mut field)? {
                field.finish()?;
            }
        }
        Ok(())
    }

    /// Tagged fields of which none concerns us.
    pub(super) fn untagged(&mut self) -> Result<(), Malformed> {
        self.tagged(|_tag, _field| Ok(false))
    }
}
