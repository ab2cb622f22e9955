//! What is shown, refused, relayed and merged.

use kafka_protocol::messages::alter_configs_request;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};

use super::super::testing::{SEAT, asker_of, decoded, finished, request, versions_of, world};
use super::*;
use crate::seat::destination::SEAT_SETTING;

fn resource(kind: i8, name: &str) -> DescribeConfigsResource {
    DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(StrBytes::from_string(name.to_owned()))
        .with_configuration_keys(None)
}

/// The broker's answer: `code` for what is asked of it beside `results`.
fn broker_says(gather: &Gather, mut results: Vec<DescribeConfigsResult>, code: i16) -> BytesMut {
    let sent = Asked::<DescribeConfigsRequest>::decode(gather.asks[0].request.slice(4..)).unwrap();
    let witness = sent.body.resources.last().unwrap();
    assert_eq!((witness.resource_type, witness.resource_name.as_str()), (BROKER, "4"));
    let witness = DescribeConfigsResult::default()
        .with_resource_type(BROKER)
        .with_resource_name(witness.resource_name.clone())
        .with_error_code(code)
        .with_error_message((code != 0).then_some(StrBytes::from_static_str("no")));
    results.insert(0, witness);
    let body = DescribeConfigsResponse::default().with_results(results);
    let frame = answer_frame::<DescribeConfigsRequest>(&sent.header, &body).unwrap();
    BytesMut::from(&frame[4..])
}

fn gathered(reply: Result<Reply, AnswerError>) -> Gather {
    match reply {
        Ok(Reply::Gather(gather)) => gather,
        _ => panic!("not gathered"),
    }
}

#[test]
fn our_own_settings_are_shown_read_only_with_where_they_come_from() {
    let world = world();
    for version in versions_of::<DescribeConfigsRequest>() {
        let seat = SEAT.to_string();
        let resources = vec![resource(BROKER, &seat), resource(BROKER_LOGGER, &seat)];
        let body =
            DescribeConfigsRequest::default().with_include_synonyms(true).with_resources(resources);
        let gather = gathered(describe(request(version, &body), &asker_of(&world).asker()));
        let theirs = broker_says(&gather, Vec::new(), 0);
        let reply = finished(gather.finish, vec![Some(theirs)]);
        let response = decoded::<DescribeConfigsRequest>(version, reply);
        assert_eq!(response.results.len(), 2, "the witness is not for the client");
        assert!(response.results.iter().all(|result| result.error_code == 0));
        let configs = &response.results[0].configs;
        let names: Vec<_> = configs.iter().map(|config| config.name.as_str()).collect();
        assert_eq!(names, [SEAT_SETTING, "node.id"]);
        assert!(configs.iter().all(|config| config.read_only));
        let synonyms = configs.iter().map(|config| config.synonyms[0].name.as_str());
        assert!(synonyms.into_iter().all(|name| name.starts_with("lockstep.")));
        assert!(response.results[1].configs.is_empty());
    }
}

#[test]
fn our_settings_are_not_for_those_who_may_not_see_the_brokers() {
    let world = world();
    let resources = vec![resource(BROKER, &SEAT.to_string())];
    let body = DescribeConfigsRequest::default().with_resources(resources);
    let gather = gathered(describe(request(4, &body), &asker_of(&world).asker()));
    let theirs = broker_says(&gather, Vec::new(), 31);
    let response =
        decoded::<DescribeConfigsRequest>(4, finished(gather.finish, vec![Some(theirs)]));
    assert_eq!((response.results.len(), response.results[0].error_code), (1, 31));
    assert!(response.results[0].configs.is_empty());
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
    let gather = gathered(describe(request(4, &body), &asker_of(&world).asker()));
    let sent = Asked::<DescribeConfigsRequest>::decode(gather.asks[0].request.slice(4..));
    assert_eq!(sent.unwrap().body.resources[0], resource(2, "orders"));
    let theirs = DescribeConfigsResult::default()
        .with_resource_type(2)
        .with_resource_name(StrBytes::from_static_str("orders"));
    let theirs = broker_says(&gather, vec![theirs], 0);
    let reply = finished(gather.finish, vec![Some(theirs)]);
    let response = decoded::<DescribeConfigsRequest>(4, reply);
    let kinds: Vec<_> = response.results.iter().map(|r| r.resource_type).collect();
    assert_eq!(kinds, [BROKER, 2]);
}

fn change(names: &[&'static str]) -> AlterConfigsResource {
    let configs = names
        .iter()
        .map(|name| AlterableConfig::default().with_name(StrBytes::from_static_str(name)));
    AlterConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(StrBytes::from_string(SEAT.to_string()))
        .with_configs(configs.collect())
}

/// The broker's answers to a change: the witness's code, and what it says of the rest.
fn broker_alters(gather: &Gather, code: i16) -> Vec<Option<BytesMut>> {
    let answers = gather.asks.iter().enumerate().map(|(at, ask)| {
        let sent = Asked::<IncrementalAlterConfigsRequest>::decode(ask.request.slice(4..)).unwrap();
        let resource = &sent.body.resources[0];
        if at == 0 {
            assert!(sent.body.validate_only && resource.configs.is_empty());
            assert_eq!((resource.resource_type, resource.resource_name.as_str()), (BROKER, "4"));
        }
        let theirs = incremental_alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(code);
        let theirs = IncrementalAlterConfigsResponse::default().with_responses(vec![theirs]);
        let frame = answer_frame::<IncrementalAlterConfigsRequest>(&sent.header, &theirs);
        Some(BytesMut::from(&frame.unwrap()[4..]))
    });
    answers.collect()
}

#[test]
fn throttles_are_accepted_and_every_other_change_is_refused_by_name() {
    let world = world();
    for version in versions_of::<IncrementalAlterConfigsRequest>() {
        let resources = vec![
            change(&WITHOUT_EFFECT),
            change(&["leader.replication.throttled.rate", "log.retention.ms"]),
            change(&[]).with_resource_name(StrBytes::from_static_str("1")),
        ];
        let body = IncrementalAlterConfigsRequest::default().with_resources(resources);
        let gather =
            gathered(incremental_alter(request(version, &body), &asker_of(&world).asker()));
        let answers = broker_alters(&gather, 0);
        let reply = finished(gather.finish, answers);
        let response = decoded::<IncrementalAlterConfigsRequest>(version, reply);
        let codes: Vec<_> = response
            .responses
            .iter()
            .map(|r| (r.resource_name.as_str().to_owned(), r.error_code))
            .collect();
        let seat = SEAT.to_string();
        assert_eq!(codes, [("1".to_owned(), 0), (seat.clone(), 0), (seat, 44)]);
        let text = response.responses[2].error_message.as_deref().unwrap();
        assert!(text.contains("log.retention.ms"), "{text}");
    }
}

#[test]
fn whoever_may_change_no_broker_may_not_change_us() {
    let world = world();
    let throttle = StrBytes::from_static_str(WITHOUT_EFFECT[0]);
    let config = alter_configs_request::AlterableConfig::default().with_name(throttle);
    let resource = alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(StrBytes::from_string(SEAT.to_string()))
        .with_configs(vec![config]);
    let body = AlterConfigsRequest::default().with_resources(vec![resource]);
    for code in [0, 31] {
        let gather = gathered(alter(request(1, &body), &asker_of(&world).asker()));
        let answers = broker_alters(&gather, code);
        let response = decoded::<AlterConfigsRequest>(1, finished(gather.finish, answers));
        assert_eq!((response.responses.len(), response.responses[0].error_code), (1, code));
    }
}
