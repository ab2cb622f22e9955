//! The versions that a peer names in its answer to ApiVersions (KIP-35). Read by hand: it is the
//! first thing an unknown peer sends, and its counts are not to be trusted.

use std::collections::BTreeMap;

use bytes::Buf;
use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest};
use kafka_protocol::protocol::{Request, VersionRange};

/// More api keys than this no broker has; Kafka 4.3 has fewer than 100.
const MAX_API_KEYS: usize = 1000;
/// `UNSUPPORTED_VERSION`: the peer's answer then has the format of v0.
const UNSUPPORTED_VERSION: i16 = 35;
const RESPONSE_HEADER_BYTES: usize = 4;

/// What a peer can do.
#[derive(Debug, Default)]
pub(super) struct PeerVersions(BTreeMap<i16, VersionRange>);

impl PeerVersions {
    /// What every leader understands of its followers from Kafka 3.7 on.
    pub(super) fn of_followers() -> Self {
        let one = |version| VersionRange { min: version, max: version };
        Self(BTreeMap::from([
            (FetchRequest::KEY, one(16)),
            (ListOffsetsRequest::KEY, one(7)),
            (OffsetForLeaderEpochRequest::KEY, one(4)),
        ]))
    }

    /// The highest version that both sides know.
    pub(super) fn common<R: Request>(&self) -> Option<i16> {
        let common = self.range(R::KEY)?.intersect(&R::VERSIONS);
        (!common.is_empty()).then_some(common.max)
    }

    /// The versions that the peer named for this request.
    pub(super) fn range(&self, key: i16) -> Option<VersionRange> {
        self.0.get(&key).copied()
    }
}

/// An answer to ApiVersions.
#[derive(Debug)]
pub(super) enum Answer {
    /// The list.
    Versions(PeerVersions),
    /// The peer does not know our version of ApiVersions; v0 it must know.
    AskVersion0,
    /// Another error code.
    Error(i16),
}

/// Reads a whole response frame; v3 is the only flexible version that we send. `Err` says what is
/// wrong with it.
pub(super) fn read(frame: &[u8], version: i16) -> Result<Answer, String> {
    let mut rest = frame.get(RESPONSE_HEADER_BYTES..).ok_or("too short")?;
    match rest.try_get_i16().map_err(short)? {
        0 => {}
        UNSUPPORTED_VERSION if version > 0 => return Ok(Answer::AskVersion0),
        code => return Ok(Answer::Error(code)),
    }
    let flexible = version >= 3;
    let count = if flexible {
        // 0 stands for null, which this array cannot be.
        i64::from(take_uvarint(&mut rest)?) - 1
    } else {
        i64::from(rest.try_get_i32().map_err(short)?)
    };
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= MAX_API_KEYS)
        .ok_or_else(|| format!("{count} api keys"))?;
    let mut versions = BTreeMap::new();
    for _ in 0..count {
        let key = rest.try_get_i16().map_err(short)?;
        let min = rest.try_get_i16().map_err(short)?;
        let max = rest.try_get_i16().map_err(short)?;
        if flexible {
            skip_tagged_fields(&mut rest)?;
        }
        versions.insert(key, VersionRange { min, max });
    }
    // What follows (throttle time, features) nobody needs here.
    Ok(Answer::Versions(PeerVersions(versions)))
}

fn skip_tagged_fields(rest: &mut &[u8]) -> Result<(), String> {
    for _ in 0..take_uvarint(rest)? {
        take_uvarint(rest)?;
        let size = usize::try_from(take_uvarint(rest)?).map_err(|error| error.to_string())?;
        *rest = rest.get(size..).ok_or("tagged field is too long")?;
    }
    Ok(())
}

fn take_uvarint(rest: &mut &[u8]) -> Result<u32, String> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = rest.try_get_u8().map_err(short)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).map_err(|error| error.to_string());
        }
    }
    Err("variable-length integer is too long".to_owned())
}

fn short(_: bytes::TryGetError) -> String {
    "too short".to_owned()
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::messages::{ApiVersionsResponse, FetchRequest, MetadataRequest};
    use kafka_protocol::protocol::Encodable;

    use super::*;

    fn answer(version: i16, error: i16, keys: &[(i16, i16, i16)]) -> Vec<u8> {
        let keys = keys
            .iter()
            .map(|&(key, min, max)| {
                ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
            })
            .collect();
        let mut frame = vec![0; RESPONSE_HEADER_BYTES];
        let mut body = bytes::BytesMut::new();
        ApiVersionsResponse::default()
            .with_error_code(error)
            .with_api_keys(keys)
            .encode(&mut body, version)
            .unwrap();
        frame.extend_from_slice(&body);
        frame
    }

    #[test]
    fn the_highest_common_version_is_taken() {
        for version in [0, 3] {
            let frame = answer(version, 0, &[(1, 4, 999), (3, 900, 999)]);
            let Ok(Answer::Versions(versions)) = read(&frame, version) else {
                panic!("no versions");
            };
            assert_eq!(
                versions.common::<FetchRequest>(),
                Some(<FetchRequest as kafka_protocol::protocol::Message>::VERSIONS.max)
            );
            assert_eq!(versions.common::<MetadataRequest>(), None);
            assert_eq!(versions.range(18), None);
        }
    }

    #[test]
    fn an_old_peer_is_asked_again_in_version_0() {
        let frame = answer(0, UNSUPPORTED_VERSION, &[(18, 0, 2)]);
        assert!(matches!(read(&frame, 3), Ok(Answer::AskVersion0)));
        assert!(matches!(read(&frame, 0), Ok(Answer::Error(35))));
    }

    #[test]
    fn cut_answers_and_absurd_counts_are_refused() {
        for version in [0, 3] {
            let frame = answer(version, 0, &[(1, 0, 17), (3, 0, 12)]);
            for cut in 0..frame.len() - 7 {
                assert!(read(&frame[..cut], version).is_err(), "v{version}, {cut}");
            }
        }
        let absurd = [0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff];
        assert!(read(&absurd, 0).is_err());
        let absurd = [0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(read(&absurd, 3).is_err());
    }
}
