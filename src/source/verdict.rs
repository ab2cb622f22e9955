//! What the source's error codes mean for a reader: a table and nothing else. Who acts on a verdict
//! is in `session` and `router`.

use kafka_protocol::error::ResponseError;

/// What to do about an error code of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Something moved or is not ready: ask for metadata, then try again, for ever.
    Retry,
    /// Our position is not in the source's log: ask where the log begins and ends.
    Range,
    /// The topic may be gone or be another one: ask for its id by its name.
    Topic,
    /// The principal may not read: try again, slowly.
    Denied,
    /// The broker itself finds the records damaged.
    Damaged,
}

/// The verdict on a partition's error; `None` where there is no error.
pub(super) fn verdict(code: i16) -> Option<Verdict> {
    let verdict = match ResponseError::try_from_code(code)? {
        ResponseError::OffsetOutOfRange => Verdict::Range,
        ResponseError::CorruptMessage => Verdict::Damaged,
        ResponseError::UnknownTopicOrPartition
        | ResponseError::UnknownTopicId
        | ResponseError::InconsistentTopicId
        | ResponseError::InvalidTopicException => Verdict::Topic,
        ResponseError::TopicAuthorizationFailed | ResponseError::ClusterAuthorizationFailed => {
            Verdict::Denied
        }
        // Whatever is not known to be final is tried again: a stop needs evidence.
        _ => Verdict::Retry,
    };
    Some(verdict)
}

/// Whether a top-level error of a fetch only says that the fetch session is gone (KIP-227).
pub(super) fn session_is_gone(code: i16) -> bool {
    matches!(
        ResponseError::try_from_code(code),
        Some(
            ResponseError::FetchSessionIdNotFound
                | ResponseError::InvalidFetchSessionEpoch
                | ResponseError::FetchSessionTopicIdError
        )
    )
}

/// An error code for people.
pub(super) fn error_text(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        Some(error) => format!("{error:?} ({code})"),
        None => format!("no error ({code})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_evidence_is_more_than_a_retry() {
        let special: Vec<_> = (-1..=150)
            .filter_map(|code| Some((code, verdict(code)?)))
            .filter(|(_, verdict)| *verdict != Verdict::Retry)
            .collect();
        let expected = [
            (1, Verdict::Range),
            (2, Verdict::Damaged),
            (3, Verdict::Topic),
            (17, Verdict::Topic),
            (29, Verdict::Denied),
            (31, Verdict::Denied),
            (100, Verdict::Topic),
            (103, Verdict::Topic),
        ];
        assert_eq!(special, expected);
        assert_eq!(verdict(0), None);
    }

    #[test]
    fn three_codes_end_a_fetch_session() {
        let gone: Vec<_> = (-1..=150).filter(|&code| session_is_gone(code)).collect();
        assert_eq!(gone, [70, 71, 106]);
    }
}
