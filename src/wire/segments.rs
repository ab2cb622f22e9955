//! A response as a list of shared slices, so that record bytes are never copied on their way out.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Slices shorter than this are copied: a copy is cheaper than one more entry for `writev`.
const COPY_BELOW: usize = 512;

/// A response under construction: owned bytes and shared slices in order.
#[derive(Debug, Default)]
pub struct Segments {
    done: Vec<Bytes>,
    open: BytesMut,
    length: usize,
}

impl Segments {
    /// An empty response.
    pub fn new() -> Self {
        Self::default()
    }

    /// A response of bytes that are encoded already.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self { length: bytes.len(), done: vec![bytes], open: BytesMut::new() }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was put in.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends owned bytes, written by `write`.
    pub fn put(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.open.len();
        write(&mut self.open);
        self.length += self.open.len() - before;
    }

    /// Appends a shared slice.
    pub fn put_shared(&mut self, slice: Bytes) {
        self.length += slice.len();
        if slice.len() < COPY_BELOW {
            self.open.extend_from_slice(&slice);
        } else {
            if !self.open.is_empty() {
                self.done.push(self.open.split().freeze());
            }
            self.done.push(slice);
        }
    }

    /// Appends all of `other`.
    pub fn append(&mut self, other: Self) {
        for slice in other.into_slices() {
            self.put_shared(slice);
        }
    }

    /// The whole, preceded by the frame length; ready for a vectored write.
    pub fn into_frame(self) -> Slices {
        let mut prefix = BytesMut::with_capacity(4);
        // A response is built from slices that were bounded when they were read.
        prefix.put_i32(i32::try_from(self.length).unwrap_or(i32::MAX));
        let mut slices = VecDeque::with_capacity(self.done.len() + 2);
        slices.push_back(prefix.freeze());
        slices.extend(self.into_slices());
        Slices { slices }
    }

    fn into_slices(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.done.push(self.open.freeze());
        }
        self.done
    }
}

/// Slices that are read one after the other, and written by one vectored write.
#[derive(Debug)]
pub struct Slices {
    slices: VecDeque<Bytes>,
}

impl Buf for Slices {
    fn remaining(&self) -> usize {
        self.slices.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let slices = self.slices.iter().filter(|slice| !slice.is_empty());
        into.iter_mut().zip(slices).map(|(io, slice)| *io = IoSlice::new(slice)).count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.slices.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            // Written: its memory is free as soon as nobody else needs it.
            self.slices.pop_front();
        }
        assert_eq!(count, 0, "advanced past the end");
    }
}

/// Writes an unsigned variable-length integer (flexible versions, KIP-482).
pub fn put_uvarint(buffer: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        // The low seven bits and the continuation bit fit a byte.
        buffer.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_length_are_kept_and_large_slices_are_shared() {
        let large = Bytes::from(vec![7u8; 4096]);
        let mut segments = Segments::new();
        segments.put(|b| b.put_u8(1));
        segments.put_shared(Bytes::from_static(b"xy"));
        segments.put_shared(large.clone());
        segments.put(|b| b.put_u8(2));
        assert_eq!(segments.len(), 4100);
        let frame = segments.into_frame();
        assert!(frame.slices.iter().any(|slice| slice.as_ptr() == large.as_ptr()));
        let mut frame = frame;
        let mut flat = Vec::new();
        while frame.has_remaining() {
            let step = frame.chunk().len().min(1000);
            flat.extend_from_slice(&frame.chunk()[..step]);
            frame.advance(step);
        }
        assert_eq!(&flat[..7], &[0, 0, 0x10, 0x04, 1, b'x', b'y']);
        assert_eq!(flat[flat.len() - 1], 2);
        assert_eq!(flat.len(), 4104);
    }

    #[test]
    fn uvarints_match_the_specification() {
        for (value, bytes) in [(0u64, vec![0u8]), (127, vec![127]), (300, vec![0xac, 0x02])] {
            let mut buffer = BytesMut::new();
            put_uvarint(&mut buffer, value);
            assert_eq!(buffer.to_vec(), bytes);
        }
    }
}
