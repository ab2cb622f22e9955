//! Configurations of brokers: ours are shown read-only and refuse change; everybody else's are the
//! real brokers' to answer. The throttle settings are accepted without effect, because tools set and
//! delete them on every broker of the cluster and give up at the first that refuses.

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, alter_configs_response,
    incremental_alter_configs_response,
};
use kafka_protocol::protocol::{Request, StrBytes};

use super::{
    AnswerError, AnswerKind, Ask, Asked, Asker, Gather, Reply, answer_frame, decode_answer,
    request_frame,
};
use crate::seat::destination::SEAT_SETTING;
use crate::types::BrokerId;

/// `ConfigResource.Type`.
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
/// `ConfigSource.STATIC_BROKER_CONFIG`.
const STATIC_BROKER_CONFIG: i8 = 4;
/// `ConfigType.STRING`.
const STRING: i8 = 2;
const VERSION_KEY: &str = SEAT_SETTING;
/// First version whose answer has types and documentation.
const TYPES_SINCE: i16 = 3;

/// Settings that anyone may write and that change nothing here: we throttle nothing for brokers.
const WITHOUT_EFFECT: [&str; 3] = [
    "leader.replication.throttled.rate",
    "follower.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
];

/// Answers a DescribeConfigs.
pub fn describe(frame: Bytes, asker: &Asker<'_>) -> Result<Reply, AnswerError> {
    let mut asked = Asked::<DescribeConfigsRequest>::decode(frame.clone())?;
    let ours = asker.context.broker_id;
    let resources = std::mem::take(&mut asked.body.resources);
    let (mine, others): (Vec<_>, Vec<_>) = resources
        .into_iter()
        .partition(|resource| is_ours(resource.resource_type, &resource.resource_name, ours));
    let version = asked.version();
    let results = mine.iter().map(|resource| described(resource, version)).collect();
    let response =
        DescribeConfigsResponse::default().with_throttle_time_ms(0).with_results(results);
    let split = Split { ours: !response.results.is_empty(), theirs: !others.is_empty() };
    asked.body.resources = others;
    merged(frame, asked, response, split, |response, theirs| {
        response.throttle_time_ms = theirs.throttle_time_ms;
        response.results.extend(theirs.results);
    })
}

/// Answers an AlterConfigs.
pub fn alter(frame: Bytes, asker: &Asker<'_>) -> Result<Reply, AnswerError> {
    let mut asked = Asked::<AlterConfigsRequest>::decode(frame.clone())?;
    let ours = asker.context.broker_id;
    let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut asked.body.resources)
        .into_iter()
        .partition(|resource| is_ours(resource.resource_type, &resource.resource_name, ours));
    let results = mine.into_iter().map(|resource| {
        let (code, text) = altered(resource.configs.iter().map(|config| &config.name));
        alter_configs_response::AlterConfigsResourceResponse::default()
            .with_error_code(code)
            .with_error_message(text)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name)
    });
    let response =
        AlterConfigsResponse::default().with_throttle_time_ms(0).with_responses(results.collect());
    let split = Split { ours: !response.responses.is_empty(), theirs: !others.is_empty() };
    asked.body.resources = others;
    merged(frame, asked, response, split, |response, theirs| {
        response.throttle_time_ms = theirs.throttle_time_ms;
        response.responses.extend(theirs.responses);
    })
}

/// Answers an IncrementalAlterConfigs.
pub fn incremental_alter(frame: Bytes, asker: &Asker<'_>) -> Result<Reply, AnswerError> {
    let mut asked = Asked::<IncrementalAlterConfigsRequest>::decode(frame.clone())?;
    let ours = asker.context.broker_id;
    let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut asked.body.resources)
        .into_iter()
        .partition(|resource| is_ours(resource.resource_type, &resource.resource_name, ours));
    let results = mine.into_iter().map(|resource| {
        let (code, text) = altered(resource.configs.iter().map(|config| &config.name));
        incremental_alter_configs_response::AlterConfigsResourceResponse::default()
            .with_error_code(code)
            .with_error_message(text)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name)
    });
    let response = IncrementalAlterConfigsResponse::default()
        .with_throttle_time_ms(0)
        .with_responses(results.collect());
    let split = Split { ours: !response.responses.is_empty(), theirs: !others.is_empty() };
    asked.body.resources = others;
    merged(frame, asked, response, split, |response, theirs| {
        response.throttle_time_ms = theirs.throttle_time_ms;
        response.responses.extend(theirs.responses);
    })
}

fn is_ours(resource_type: i8, name: &str, ours: BrokerId) -> bool {
    matches!(resource_type, BROKER | BROKER_LOGGER) && name.parse() == Ok(ours.0)
}

fn altered<'a>(mut names: impl Iterator<Item = &'a StrBytes>) -> (i16, Option<StrBytes>) {
    let refused = names.find(|name| !WITHOUT_EFFECT.contains(&name.as_str()));
    match refused {
        None => (0, None),
        Some(name) => {
            let text = format!("{name} is not a setting of lockstep: use its configuration file");
            let text = StrBytes::from_string(text);
            (ResponseError::PolicyViolation.code(), Some(text))
        }
    }
}

fn described(resource: &DescribeConfigsResource, version: i16) -> DescribeConfigsResult {
    let wanted = match &resource.configuration_keys {
        None => true,
        Some(keys) => keys.iter().any(|key| key.as_str() == VERSION_KEY),
    };
    let mut configs = Vec::new();
    if resource.resource_type == BROKER && wanted {
        let entry = DescribeConfigsResourceResult::default()
            .with_name(StrBytes::from_static_str(VERSION_KEY))
            .with_value(Some(StrBytes::from_static_str(env!("CARGO_PKG_VERSION"))))
            .with_read_only(true)
            .with_config_source(STATIC_BROKER_CONFIG)
            .with_is_sensitive(false)
            .with_synonyms(Vec::new())
            .with_documentation(None);
        configs.push(if version < TYPES_SINCE { entry } else { entry.with_config_type(STRING) });
    }
    DescribeConfigsResult::default()
        .with_error_code(0)
        .with_error_message(None)
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone())
        .with_configs(configs)
}

/// Whom a request is about.
struct Split {
    ours: bool,
    theirs: bool,
}

/// What of the request is not about us (left in `asked`) goes to a real broker, and `response`, our
/// part, is completed by its answer.
fn merged<R>(
    frame: Bytes,
    asked: Asked<R>,
    mut response: R::Response,
    split: Split,
    merge: fn(&mut R::Response, R::Response),
) -> Result<Reply, AnswerError>
where
    R: Request + Send + 'static,
    R::Response: Send + 'static,
{
    if !split.theirs {
        return asked.answer(&response);
    }
    if !split.ours {
        return Ok(Reply::Relay(frame));
    }
    let version = asked.version();
    let request = request_frame(&asked.header, version, &asked.body)?;
    let finish = move |answers: Vec<Option<BytesMut>>| {
        if let Some(frame) = answers.into_iter().flatten().next() {
            merge(&mut response, decode_answer::<R>(frame, version)?);
        }
        answer_frame::<R>(&asked.header, &response)
    };
    let ask = Ask { broker: None, answer: AnswerKind::Plain, request };
    Ok(Reply::Gather(Gather { asks: vec![ask], finish: Box::new(finish) }))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::incremental_alter_configs_request::{
        AlterConfigsResource, AlterableConfig,
    };

    use super::super::testing::{SEAT, asker_of, decoded, finished, request, versions_of, world};
    use super::*;

    fn resource(kind: i8, name: &str) -> DescribeConfigsResource {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_configuration_keys(None)
    }

    #[test]
    fn our_own_settings_are_shown_read_only() {
        let world = world();
        for version in versions_of::<DescribeConfigsRequest>() {
            let seat = SEAT.to_string();
            let resources = vec![resource(BROKER, &seat), resource(BROKER_LOGGER, &seat)];
            let body = DescribeConfigsRequest::default().with_resources(resources);
            let reply = describe(request(version, &body), &asker_of(&world).asker()).unwrap();
            let response = decoded::<DescribeConfigsRequest>(version, reply);
            assert_eq!(response.results.len(), 2);
            assert!(response.results.iter().all(|result| result.error_code == 0));
            let entry = &response.results[0].configs[0];
            assert_eq!(entry.name.as_str(), VERSION_KEY);
            assert!(entry.read_only);
            assert!(response.results[1].configs.is_empty());
        }
    }

    #[test]
    fn what_is_not_about_us_is_relayed_as_it_came() {
        let world = world();
        for (kind, name) in [(BROKER, "1"), (BROKER, ""), (2, "9001")] {
            let body = DescribeConfigsRequest::default().with_resources(vec![resource(kind, name)]);
            let frame = request(4, &body);
            let reply = describe(frame.clone(), &asker_of(&world).asker()).unwrap();
            assert!(matches!(reply, Reply::Relay(relayed) if relayed == frame), "{kind} {name:?}");
        }
    }

    #[test]
    fn a_mixed_request_is_split_and_merged() {
        let world = world();
        let resources = vec![resource(2, "orders"), resource(BROKER, &SEAT.to_string())];
        let body = DescribeConfigsRequest::default().with_resources(resources);
        let Ok(Reply::Gather(gather)) = describe(request(4, &body), &asker_of(&world).asker())
        else {
            panic!("not gathered");
        };
        let sent = Asked::<DescribeConfigsRequest>::decode(gather.asks[0].request.slice(4..));
        let sent = sent.unwrap();
        assert_eq!(sent.body.resources, [resource(2, "orders")]);
        let theirs = DescribeConfigsResult::default()
            .with_resource_type(2)
            .with_resource_name(StrBytes::from_static_str("orders"));
        let theirs = DescribeConfigsResponse::default().with_results(vec![theirs]);
        let frame = answer_frame::<DescribeConfigsRequest>(&sent.header, &theirs).unwrap();
        let reply = finished(gather.finish, vec![Some(BytesMut::from(&frame[4..]))]);
        let response = decoded::<DescribeConfigsRequest>(4, reply);
        let kinds: Vec<_> = response.results.iter().map(|r| r.resource_type).collect();
        assert_eq!(kinds, [BROKER, 2]);
    }

    #[test]
    fn throttles_are_accepted_and_everything_else_is_refused() {
        let world = world();
        let change = |names: &[&'static str]| {
            let configs = names
                .iter()
                .map(|name| AlterableConfig::default().with_name(StrBytes::from_static_str(name)));
            AlterConfigsResource::default()
                .with_resource_type(BROKER)
                .with_resource_name(StrBytes::from_string(SEAT.to_string()))
                .with_configs(configs.collect())
        };
        for version in versions_of::<IncrementalAlterConfigsRequest>() {
            let resources = vec![
                change(&WITHOUT_EFFECT),
                change(&["leader.replication.throttled.rate", "log.retention.ms"]),
            ];
            let body = IncrementalAlterConfigsRequest::default().with_resources(resources);
            let reply = incremental_alter(request(version, &body), &asker_of(&world).asker());
            let response = decoded::<IncrementalAlterConfigsRequest>(version, reply.unwrap());
            let codes: Vec<_> = response.responses.iter().map(|r| r.error_code).collect();
            assert_eq!(codes, [0, 44]);
            let text = response.responses[1].error_message.as_deref().unwrap();
            assert!(text.contains("log.retention.ms"), "{text}");
        }
    }
}
