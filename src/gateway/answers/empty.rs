//! Lists that are empty here: we coordinate nothing and store nothing. Relayed, these requests would
//! show another broker's content twice; unanswered, the tools that ask every broker time out.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
use kafka_protocol::messages::{
    DescribeLogDirsRequest, DescribeLogDirsResponse, ListGroupsRequest, ListGroupsResponse,
    ListTransactionsRequest, ListTransactionsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{AnswerError, Asked, Asker, Reply};
use crate::gateway::rights::Operation;

/// What the one directory is called that every broker must have.
const DIRECTORY: &str = "/lockstep";

/// Answers a ListGroups.
pub fn list_groups(frame: Bytes) -> Result<Reply, AnswerError> {
    let asked = Asked::<ListGroupsRequest>::decode(frame)?;
    let response = ListGroupsResponse::default()
        .with_throttle_time_ms(0)
        .with_error_code(0)
        .with_groups(Vec::new());
    asked.answer(&response)
}

/// Answers a ListTransactions.
pub fn list_transactions(frame: Bytes) -> Result<Reply, AnswerError> {
    let asked = Asked::<ListTransactionsRequest>::decode(frame)?;
    let response = ListTransactionsResponse::default()
        .with_throttle_time_ms(0)
        .with_error_code(0)
        .with_unknown_state_filters(Vec::new())
        .with_transaction_states(Vec::new());
    asked.answer(&response)
}

/// Answers a DescribeLogDirs.
pub fn describe_log_dirs(frame: Bytes, asker: &Asker<'_>) -> Result<Reply, AnswerError> {
    let asked = Asked::<DescribeLogDirsRequest>::decode(frame)?;
    if !asker.rights.cluster(Operation::Describe)? {
        let code = ResponseError::ClusterAuthorizationFailed.code();
        // Older answers have no field for it: they are empty.
        return asked.answer(&DescribeLogDirsResponse::default().with_error_code(code));
    }
    let directory = DescribeLogDirsResult::default()
        .with_error_code(0)
        .with_log_dir(StrBytes::from_static_str(DIRECTORY))
        .with_topics(Vec::new())
        .with_total_bytes(-1)
        .with_usable_bytes(-1);
    let response = DescribeLogDirsResponse::default()
        .with_throttle_time_ms(0)
        .with_error_code(0)
        .with_results(vec![directory]);
    asked.answer(&response)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{asker_of, decoded, request, versions_of, world};
    use super::*;

    #[test]
    fn nothing_is_listed_at_any_version() {
        for version in versions_of::<ListGroupsRequest>() {
            let reply = list_groups(request(version, &ListGroupsRequest::default()));
            let response = decoded::<ListGroupsRequest>(version, reply.unwrap());
            assert_eq!((response.error_code, response.groups.len()), (0, 0));
        }
        for version in versions_of::<ListTransactionsRequest>() {
            let reply = list_transactions(request(version, &ListTransactionsRequest::default()));
            let response = decoded::<ListTransactionsRequest>(version, reply.unwrap());
            assert_eq!((response.error_code, response.transaction_states.len()), (0, 0));
        }
    }

    #[test]
    fn one_directory_holds_no_topic() {
        let world = world();
        for version in versions_of::<DescribeLogDirsRequest>() {
            let frame = request(version, &DescribeLogDirsRequest::default());
            let reply = describe_log_dirs(frame, &asker_of(&world).asker());
            let response = decoded::<DescribeLogDirsRequest>(version, reply.unwrap());
            assert_eq!(response.results.len(), 1);
            assert_eq!(response.results[0].log_dir.as_str(), DIRECTORY);
            assert!(response.results[0].topics.is_empty());
        }
    }
}
