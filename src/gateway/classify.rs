//! Which requests are answered here and which are relayed: the table of the gateway.

use kafka_protocol::messages::ApiKey;

/// Requests that we answer ourselves, or that need our hand on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// Refused: mirrors are read-only.
    Produce,
    /// Consumers are sent to a replica that holds records.
    Fetch,
    /// Our high watermark, else a replica's answer.
    ListOffsets,
    /// Our own epoch history.
    OffsetForLeaderEpoch,
    /// Accepted, nothing written.
    WriteTxnMarkers,
    /// Refused: mirrors follow the source's log start.
    DeleteRecords,
    /// We coordinate no group.
    ListGroups,
    /// We coordinate no transaction.
    ListTransactions,
    /// One directory that holds nothing.
    DescribeLogDirs,
    /// Our own settings; others' are relayed.
    DescribeConfigs,
    /// Ours are refused; others' are relayed.
    AlterConfigs,
    /// Ours are refused; others' are relayed.
    IncrementalAlterConfigs,
    /// We have no directories to move replicas between.
    AlterReplicaLogDirs,
    /// A replica's to say.
    DescribeProducers,
    /// Refused: only a log can be shared out.
    ShareFetch,
    /// Refused: nothing was shared out.
    ShareAcknowledge,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Answered here, once the client has proved who it is.
    Local(Local),
    /// Relayed; the answer is lowered to the versions that we decode.
    ApiVersions,
    /// Relayed; afterwards the connection must prove itself anew.
    SaslHandshake,
    /// Relayed; the connection may now prove itself.
    SaslAuthenticate,
    /// Relayed, both ways untouched. New requests of new releases too.
    Relay,
}

/// The first version of share groups that is not a preview; the one before is the brokers' to refuse.
const SHARE_SINCE: i16 = 1;

/// The class of a request by its API key and version.
pub fn classify(api_key: i16, version: i16) -> Class {
    let Ok(key) = ApiKey::try_from(api_key) else {
        return Class::Relay;
    };
    let local = match key {
        ApiKey::Produce => Local::Produce,
        ApiKey::Fetch => Local::Fetch,
        ApiKey::ListOffsets => Local::ListOffsets,
        ApiKey::OffsetForLeaderEpoch => Local::OffsetForLeaderEpoch,
        ApiKey::WriteTxnMarkers => Local::WriteTxnMarkers,
        ApiKey::DeleteRecords => Local::DeleteRecords,
        ApiKey::ListGroups => Local::ListGroups,
        ApiKey::ListTransactions => Local::ListTransactions,
        ApiKey::DescribeLogDirs => Local::DescribeLogDirs,
        ApiKey::DescribeConfigs => Local::DescribeConfigs,
        ApiKey::AlterConfigs => Local::AlterConfigs,
        ApiKey::IncrementalAlterConfigs => Local::IncrementalAlterConfigs,
        ApiKey::AlterReplicaLogDirs => Local::AlterReplicaLogDirs,
        ApiKey::DescribeProducers => Local::DescribeProducers,
        ApiKey::ShareFetch if version >= SHARE_SINCE => Local::ShareFetch,
        ApiKey::ShareAcknowledge if version >= SHARE_SINCE => Local::ShareAcknowledge,
        ApiKey::ApiVersions => return Class::ApiVersions,
        ApiKey::SaslHandshake => return Class::SaslHandshake,
        ApiKey::SaslAuthenticate => return Class::SaslAuthenticate,
        _ => return Class::Relay,
    };
    Class::Local(local)
}

/// Whether a follower's first request may be of this kind.
pub fn opens_replication(api_key: i16) -> bool {
    [ApiKey::Fetch, ApiKey::ListOffsets, ApiKey::OffsetForLeaderEpoch]
        .iter()
        .any(|key| *key as i16 == api_key)
}
