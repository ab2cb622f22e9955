//! Our own settings as DescribeConfigs shows them: read-only, each with the setting of our own that it
//! comes from as a synonym.

use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsSynonym,
};
use kafka_protocol::protocol::StrBytes;

use crate::gateway::Context;
use crate::seat::destination::SEAT_SETTING;

/// `ConfigSource`.
const STATIC_BROKER_CONFIG: i8 = 4;
/// `ConfigType.STRING`.
const STRING: i8 = 2;
/// First version whose answer has types and documentation.
const TYPES_SINCE: i16 = 3;

/// All of them.
pub fn settings(
    context: &Context,
    version: i16,
    synonyms: bool,
) -> Vec<DescribeConfigsResourceResult> {
    let seat = context.broker_id;
    let own = |name: &str, value: String, origin: &str| {
        let value = Some(StrBytes::from_string(value));
        let origin = DescribeConfigsSynonym::default()
            .with_name(StrBytes::from_string(origin.to_owned()))
            .with_value(value.clone())
            .with_source(STATIC_BROKER_CONFIG);
        let entry = DescribeConfigsResourceResult::default()
            .with_name(StrBytes::from_string(name.to_owned()))
            .with_value(value)
            .with_read_only(true)
            .with_config_source(STATIC_BROKER_CONFIG)
            .with_is_sensitive(false)
            .with_synonyms(if synonyms { vec![origin] } else { Vec::new() })
            .with_documentation(None);
        if version < TYPES_SINCE { entry } else { entry.with_config_type(STRING) }
    };
    vec![
        own(SEAT_SETTING, env!("CARGO_PKG_VERSION").to_owned(), SEAT_SETTING),
        own("node.id", seat.to_string(), "lockstep.daemon.broker_id"),
    ]
}
