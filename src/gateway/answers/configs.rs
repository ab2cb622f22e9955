//! Configurations of brokers: ours are shown read-only and refuse change; everybody else's are the
//! real brokers' to answer. The throttle settings are accepted without effect, because tools set and
//! delete them on every broker of the cluster and give up at the first that refuses; a real broker
//! forwards no change of another's. A *witness*, the same question about the broker that is asked, says
//! whether the client may ask at all.

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, alter_configs_response,
    incremental_alter_configs_response,
};
use kafka_protocol::protocol::{Request, StrBytes};

use super::settings::settings;
use super::{
    AnswerError, AnswerKind, Ask, Asked, Asker, Gather, Reply, answer_frame, decode_answer,
    request_frame,
};

/// `ConfigResource.Type`.
pub(super) const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
/// A setting that every broker has.
const WITNESS_KEY: &str = "node.id";
/// Of the IncrementalAlterConfigs that every broker knows that we can join.
const WITNESS_VERSION: i16 = 1;

/// Settings that anyone may write and that change nothing here: we throttle nothing for brokers.
const WITHOUT_EFFECT: [&str; 3] = [
    "leader.replication.throttled.rate",
    "follower.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
];

/// Answers a DescribeConfigs.
pub fn describe(frame: Bytes, asker: &Asker<'_>) -> Result<Reply, AnswerError> {
    let mut asked = Asked::<DescribeConfigsRequest>::decode(frame.clone())?;
    let resources = std::mem::take(&mut asked.body.resources);
    let (mine, others): (Vec<_>, Vec<_>) = resources
        .into_iter()
        .partition(|resource| is_ours(resource.resource_type, &resource.resource_name, asker));
    if mine.is_empty() {
        return Ok(Reply::Relay(frame));
    }
    let results = mine.iter().map(|resource| described(resource, &asked, asker)).collect();
    let response = DescribeConfigsResponse::default().with_results(results);
    let witness = StrBytes::from_string(asker.backend.to_string());
    let question = DescribeConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(witness.clone())
        .with_configuration_keys(Some(vec![StrBytes::from_static_str(WITNESS_KEY)]));
    asked.body.resources = others;
    asked.body.resources.push(question);
    merged(asked, response, move |response, mut theirs| {
        response.throttle_time_ms = theirs.throttle_time_ms;
        let is_witness = |result: &DescribeConfigsResult| {
            result.resource_type == BROKER && result.resource_name == witness
        };
        if let Some(at) = theirs.results.iter().rposition(is_witness) {
            let said = theirs.results.remove(at);
            if said.error_code != 0 {
                for result in &mut response.results {
                    result.error_code = said.error_code;
                    result.error_message.clone_from(&said.error_message);
                    result.configs.clear();
                }
            }
        }
        response.results.extend(theirs.results);
    })
}

/// A function that answers a change of configurations. The two requests and what belongs to them
/// differ in the crate's types only.
macro_rules! answers_change {
    ($(#[$about:meta])* $name:ident, $request:ty, $response:ty, $result:ty) => {
        $(#[$about])*
        pub fn $name(frame: Bytes, asker: &Asker<'_>) -> Result<Reply, AnswerError> {
            let mut asked = Asked::<$request>::decode(frame.clone())?;
            let resources = std::mem::take(&mut asked.body.resources);
            let (mine, others): (Vec<_>, Vec<_>) = resources
                .into_iter()
                .partition(|resource| is_ours(resource.resource_type, &resource.resource_name, asker));
            asked.body.resources = others;
            let rest = !asked.body.resources.is_empty();
            altered(frame, asked, !mine.is_empty(), rest, asker, move |witness, theirs| {
                let results = mine.into_iter().map(|resource| {
                    let names = resource.configs.iter().map(|config| &config.name);
                    let (code, text) = verdict(witness, names);
                    <$result>::default()
                        .with_error_code(code)
                        .with_error_message(text)
                        .with_resource_type(resource.resource_type)
                        .with_resource_name(resource.resource_name)
                });
                let mut response: $response = theirs.unwrap_or_default();
                response.responses.extend(results);
                response
            })
        }
    };
}

answers_change!(
    /// Answers an AlterConfigs.
    alter,
    AlterConfigsRequest,
    AlterConfigsResponse,
    alter_configs_response::AlterConfigsResourceResponse
);
answers_change!(
    /// Answers an IncrementalAlterConfigs.
    incremental_alter,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
    incremental_alter_configs_response::AlterConfigsResourceResponse
);

/// The answer to a change: of what `complete` makes of the witness's code and, where there is a `rest`
/// that is not about us, of the broker's answer to that.
fn altered<R>(
    frame: Bytes,
    asked: Asked<R>,
    mine: bool,
    rest: bool,
    asker: &Asker<'_>,
    complete: impl FnOnce(i16, Option<R::Response>) -> R::Response + Send + 'static,
) -> Result<Reply, AnswerError>
where
    R: Request + Send + 'static,
{
    if !mine {
        return Ok(Reply::Relay(frame));
    }
    // A change of nothing, not even tried, is refused where the client may change nothing.
    let witness = AlterConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(StrBytes::from_string(asker.backend.to_string()));
    let witness = IncrementalAlterConfigsRequest::default()
        .with_validate_only(true)
        .with_resources(vec![witness]);
    let ask = |request| Ask { broker: None, answer: AnswerKind::Plain, request };
    let mut asks = vec![ask(request_frame(&asked.header, WITNESS_VERSION, &witness)?)];
    let version = asked.version();
    if rest {
        asks.push(ask(request_frame(&asked.header, version, &asked.body)?));
    }
    let finish = move |answers: Vec<Option<BytesMut>>| {
        let mut answers = answers.into_iter().flatten();
        let witness = answers.next().map(witness_code).transpose()?;
        let theirs = answers.next().map(|frame| decode_answer::<R>(frame, version)).transpose()?;
        // Without an answer the connection has ended.
        let code = witness.unwrap_or(ResponseError::ClusterAuthorizationFailed.code());
        answer_frame::<R>(&asked.header, &complete(code, theirs))
    };
    Ok(Reply::Gather(Gather { asks, finish: Box::new(finish) }))
}

fn witness_code(frame: BytesMut) -> Result<i16, AnswerError> {
    let answer = decode_answer::<IncrementalAlterConfigsRequest>(frame, WITNESS_VERSION)?;
    Ok(answer.responses.first().map_or(0, |response| response.error_code))
}

/// What is said of a change of settings of ours.
fn verdict<'a>(
    witness: i16,
    mut names: impl Iterator<Item = &'a StrBytes>,
) -> (i16, Option<StrBytes>) {
    if witness == ResponseError::ClusterAuthorizationFailed.code() {
        return (witness, None);
    }
    match names.find(|name| !WITHOUT_EFFECT.contains(&name.as_str())) {
        None => (0, None),
        Some(name) => {
            let text = format!("{name} is not a setting of lockstep: use its configuration file");
            (ResponseError::PolicyViolation.code(), Some(StrBytes::from_string(text)))
        }
    }
}

fn is_ours(resource_type: i8, name: &str, asker: &Asker<'_>) -> bool {
    let ours = asker.context.broker_id;
    matches!(resource_type, BROKER | BROKER_LOGGER) && name.parse() == Ok(ours.0)
}

fn described(
    resource: &DescribeConfigsResource,
    asked: &Asked<DescribeConfigsRequest>,
    asker: &Asker<'_>,
) -> DescribeConfigsResult {
    let mut configs = Vec::new();
    if resource.resource_type == BROKER {
        configs = settings(asker.context, asked.version(), asked.body.include_synonyms);
    }
    if let Some(keys) = &resource.configuration_keys {
        configs.retain(|config| keys.contains(&config.name));
    }
    DescribeConfigsResult::default()
        .with_error_code(0)
        .with_error_message(None)
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone())
        .with_configs(configs)
}

/// What is left in `asked` goes to the connection's broker, and `response`, our part, is completed by
/// its answer.
fn merged<R>(
    asked: Asked<R>,
    mut response: R::Response,
    merge: impl FnOnce(&mut R::Response, R::Response) + Send + 'static,
) -> Result<Reply, AnswerError>
where
    R: Request + Send + 'static,
    R::Response: Send + 'static,
{
    let version = asked.version();
    let request = request_frame(&asked.header, version, &asked.body)?;
    let finish = move |answers: Vec<Option<BytesMut>>| {
        // Without an answer the connection has ended.
        if let Some(frame) = answers.into_iter().flatten().next() {
            merge(&mut response, decode_answer::<R>(frame, version)?);
        }
        answer_frame::<R>(&asked.header, &response)
    };
    let ask = Ask { broker: None, answer: AnswerKind::Plain, request };
    Ok(Reply::Gather(Gather { asks: vec![ask], finish: Box::new(finish) }))
}

#[cfg(test)]
mod tests;
