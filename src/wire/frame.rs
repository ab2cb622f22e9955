//! Length-prefixed frames: a big-endian `i32` length, then that many bytes. Knows nothing of what
//! is inside, except the first fields that every request and every response begins with.

use bytes::{Buf, Bytes};

/// Bytes of the length prefix.
pub const LENGTH_BYTES: usize = 4;

/// A length prefix that no sane peer sends.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("frame length {length} is outside 4..={limit} bytes")]
pub struct FrameLengthError {
    /// What the peer sent, in bytes.
    pub length: i32,
    /// The largest length accepted, in bytes.
    pub limit: usize,
}

/// Checks a length prefix against `limit`; every frame has at least a correlation id.
pub fn frame_length(prefix: [u8; LENGTH_BYTES], limit: usize) -> Result<usize, FrameLengthError> {
    let length = i32::from_be_bytes(prefix);
    match usize::try_from(length) {
        Ok(bytes) if (4..=limit).contains(&bytes) => Ok(bytes),
        _ => Err(FrameLengthError { length, limit }),
    }
}

/// The fields with which every request begins, whatever its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestPrefix {
    /// Which request (`ApiKey`).
    pub api_key: i16,
    /// Its version.
    pub api_version: i16,
    /// Chosen by the sender; the answer repeats it.
    pub correlation_id: i32,
}

impl RequestPrefix {
    /// Reads the prefix from the start of a request frame (without its length); `None` where the
    /// frame is too short.
    pub fn peek(frame: &Bytes) -> Option<Self> {
        let mut bytes = frame.as_ref();
        if bytes.len() < 8 {
            return None;
        }
        Some(Self {
            api_key: bytes.get_i16(),
            api_version: bytes.get_i16(),
            correlation_id: bytes.get_i32(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_lengths_are_refused() {
        assert_eq!(frame_length(100i32.to_be_bytes(), 100), Ok(100));
        for bad in [i32::MIN, -1, 0, 3, 101, i32::MAX] {
            let error = FrameLengthError { length: bad, limit: 100 };
            assert_eq!(frame_length(bad.to_be_bytes(), 100), Err(error));
        }
    }

    #[test]
    fn a_short_request_has_no_prefix() {
        assert_eq!(RequestPrefix::peek(&Bytes::from_static(&[0, 1, 0, 17, 0, 0, 0])), None);
        let prefix = RequestPrefix::peek(&Bytes::from_static(&[0, 1, 0, 17, 0, 0, 0, 9]));
        assert_eq!(prefix, Some(RequestPrefix { api_key: 1, api_version: 17, correlation_id: 9 }));
    }
}
