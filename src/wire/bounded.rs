//! A buffer for kafka-protocol's decoders that refuses lengths which cannot be. The decoders
//! reserve memory for whatever array length a frame claims, and a refused reservation ends the
//! process. Flexible versions (KIP-482) only: older ones write lengths as any other number.

use std::ops::Range;

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::protocol::buf::ByteBuf;

/// Bits of one byte of a variable-length integer that belong to its value.
const VALUE_BITS: u8 = 0x7f;
/// Numbers of tagged fields are written like lengths, and need not fit the rest of the frame.
const ALWAYS_ALLOWED: u64 = 1 << 16;

/// A frame to be decoded. Every length in it must fit what is left of it.
#[derive(Debug)]
pub struct Bounded {
    bytes: Bytes,
    /// Value and bits so far of the variable-length integer that is being read.
    value: u64,
    shift: u32,
}

impl Bounded {
    /// Nothing of `bytes` is read yet.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, value: 0, shift: 0 }
    }
}

impl Buf for Bounded {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    /// The decoders read single unsigned bytes for variable-length integers and for booleans only.
    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        let byte = self.bytes.try_get_u8()?;
        self.value |= u64::from(byte & VALUE_BITS) << self.shift;
        if byte & !VALUE_BITS != 0 && self.shift < 35 {
            self.shift += 7;
            return Ok(byte);
        }
        let (value, available) = (self.value, self.bytes.remaining());
        (self.value, self.shift) = (0, 0);
        // Lengths are written plus one, so that zero can stand for null.
        let fits = usize::try_from(value).is_ok_and(|value| value <= available.saturating_add(1));
        if fits || value <= ALWAYS_ALLOWED {
            return Ok(byte);
        }
        Err(TryGetError { requested: usize::try_from(value).unwrap_or(usize::MAX), available })
    }
}

impl ByteBuf for Bounded {
    fn peek_bytes(&mut self, range: Range<usize>) -> Bytes {
        self.bytes.peek_bytes(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.bytes.get_bytes(size)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::MetadataResponse;
    use kafka_protocol::messages::metadata_response::{
        MetadataResponsePartition, MetadataResponseTopic,
    };
    use kafka_protocol::protocol::{Decodable, Encodable};

    use super::*;

    const VERSION: i16 = 12;

    fn encoded() -> Bytes {
        let partition = MetadataResponsePartition::default()
            .with_leader_epoch(-1)
            .with_replica_nodes(vec![1.into(), 2.into()]);
        let topics =
            (0..300).map(|_| {
                MetadataResponseTopic::default()
                    .with_is_internal(true)
                    .with_partitions(vec![partition.clone(); 200])
            });
        let mut bytes = BytesMut::new();
        MetadataResponse::default()
            .with_topics(topics.collect())
            .encode(&mut bytes, VERSION)
            .unwrap();
        bytes.freeze()
    }

    #[test]
    fn what_is_right_is_decoded_as_before() {
        let bytes = encoded();
        let plain = MetadataResponse::decode(&mut bytes.clone(), VERSION).unwrap();
        let bounded = MetadataResponse::decode(&mut Bounded::new(bytes), VERSION).unwrap();
        assert_eq!(plain, bounded);
    }

    #[test]
    fn an_absurd_array_length_is_an_error() {
        // Throttle time, then the brokers: 2^32 - 2 of them.
        let absurd = Bytes::from_static(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0]);
        assert!(MetadataResponse::decode(&mut Bounded::new(absurd), VERSION).is_err());
    }

    #[test]
    fn cut_frames_and_flipped_bytes_end_in_an_error_or_a_value() {
        let bytes = encoded().slice(..600);
        for at in 0..bytes.len() {
            let cut = bytes.slice(..at);
            assert!(MetadataResponse::decode(&mut Bounded::new(cut), VERSION).is_err());
            let mut flipped = BytesMut::from(bytes.as_ref());
            flipped[at] ^= 0xff;
            let _either = MetadataResponse::decode(&mut Bounded::new(flipped.freeze()), VERSION);
        }
    }
}
