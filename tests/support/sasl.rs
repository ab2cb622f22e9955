//! A destination that asks for proof on one of two listeners, the one on which its brokers replicate,
//! and the rights of whoever proves himself there.

use anyhow::{Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::alter_user_scram_credentials_request::ScramCredentialUpsertion;
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::{
    AlterUserScramCredentialsRequest, CreateAclsRequest, DeleteAclsRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::ClusterSpec;
use super::java::Consume;
use super::judge::Judge;

/// One listener for the daemon and whoever is trusted, one where everybody has to prove himself.
pub const LISTENERS: [&str; 2] = ["PLAINTEXT", "SASL_PLAINTEXT"];

const ALLOW: i8 = 3;
const LITERAL: i8 = 3;

/// Two brokers. Whoever is named here proves himself with his name as password; the brokers are
/// `broker`, who may do nothing unless it is given. `User:ANONYMOUS` may do everything.
pub fn destination(users: &[&str]) -> ClusterSpec {
    let users: String = users.iter().map(|user| format!(" user_{user}=\"{user}\"")).collect();
    let module = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required \
         username=\"broker\" password=\"broker\" user_broker=\"broker\"{users};"
    );
    ClusterSpec::new("destination")
        .brokers(2)
        .listeners(LISTENERS.to_vec())
        .property("inter.broker.listener.name", "SASL_PLAINTEXT")
        .property("sasl.enabled.mechanisms", "PLAIN")
        .property("sasl.mechanism.inter.broker.protocol", "PLAIN")
        .property("listener.name.sasl_plaintext.plain.sasl.jaas.config", module)
        .property(
            "authorizer.class.name",
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        )
        .property("super.users", "User:ANONYMOUS")
}

/// A consumer that proves himself.
pub fn login(consume: Consume, mechanism: &str, user: &str, password: &str) -> Consume {
    let module = if mechanism == "PLAIN" { "plain.Plain" } else { "scram.Scram" };
    let module = format!(
        "org.apache.kafka.common.security.{module}LoginModule required \
         username=\"{user}\" password=\"{password}\";"
    );
    consume
        .option("consumer.security.protocol", "SASL_PLAINTEXT")
        .option("consumer.sasl.mechanism", mechanism)
        .option("consumer.sasl.jaas.config", module)
}

/// What `salt` comes to as a SCRAM password: mechanism, salted password (PBKDF2, 4096 times, salt
/// `lockstep`).
const SALTED: [(i8, &str); 2] = [
    (1, "e881b078e1da31b0b6d148a7fd4e654a4f2c6b3cae7a9c088775d713c3044570"),
    (
        2,
        "13d3e26ff730972f28071d55b1f091cf4d55e40991af6ea27de57c4ed7a26efe\
         1874bb11f1fec360c459c3b47e9af2f378fd522214089d1e0e6e598c64d5ed03",
    ),
];

/// Makes a user that proves itself by SCRAM-SHA-256 or -512, with password `salt`.
pub fn add_scram_user(judge: &mut Judge, user: &str) -> Result<()> {
    // A controller takes one change of a user in a request.
    for (mechanism, salted) in SALTED {
        let upsertion = ScramCredentialUpsertion::default()
            .with_name(StrBytes::from_string(user.to_owned()))
            .with_mechanism(mechanism)
            .with_iterations(4096)
            .with_salt(Bytes::from_static(b"lockstep"))
            .with_salted_password(bytes_of(salted)?);
        let request = AlterUserScramCredentialsRequest::default().with_upsertions(vec![upsertion]);
        let answer = judge.ask(&request)?;
        ensure!(answer.results.iter().all(|result| result.error_code == 0), "{answer:?}");
    }
    Ok(())
}

fn bytes_of(hexadecimal: &str) -> Result<Bytes> {
    let digits = |at: usize| u8::from_str_radix(&hexadecimal[at..at + 2], 16);
    let bytes = (0..hexadecimal.len()).step_by(2).map(digits);
    Ok(bytes.collect::<Result<Vec<u8>, _>>()?.into())
}

/// A right of a user, from any host.
#[derive(Clone, Copy, Debug)]
pub struct Right<'a> {
    user: &'a str,
    resource_type: i8,
    resource: &'a str,
    operation: i8,
}

impl<'a> Right<'a> {
    /// Reading a topic.
    pub fn read(user: &'a str, topic: &'a str) -> Self {
        Self { user, resource_type: 2, resource: topic, operation: 3 }
    }

    /// Being a member of any group.
    pub fn groups(user: &'a str) -> Self {
        Self { user, resource_type: 3, resource: "*", operation: 3 }
    }

    /// ClusterAction.
    pub fn cluster_action(user: &'a str) -> Self {
        Self { user, resource_type: 4, resource: "kafka-cluster", operation: 9 }
    }

    fn principal(self) -> StrBytes {
        StrBytes::from_string(format!("User:{}", self.user))
    }
}

/// Gives rights.
pub fn give(judge: &mut Judge, rights: &[Right<'_>]) -> Result<()> {
    let creations = rights.iter().map(|right| {
        AclCreation::default()
            .with_resource_type(right.resource_type)
            .with_resource_name(StrBytes::from_string(right.resource.to_owned()))
            .with_resource_pattern_type(LITERAL)
            .with_principal(right.principal())
            .with_host(StrBytes::from_static_str("*"))
            .with_operation(right.operation)
            .with_permission_type(ALLOW)
    });
    let answer = judge.ask(&CreateAclsRequest::default().with_creations(creations.collect()))?;
    ensure!(answer.results.iter().all(|result| result.error_code == 0), "{answer:?}");
    Ok(())
}

/// Withdraws a right.
pub fn withdraw(judge: &mut Judge, right: Right<'_>) -> Result<()> {
    let filter = DeleteAclsFilter::default()
        .with_resource_type_filter(right.resource_type)
        .with_resource_name_filter(Some(StrBytes::from_string(right.resource.to_owned())))
        .with_pattern_type_filter(LITERAL)
        .with_principal_filter(Some(right.principal()))
        .with_host_filter(None)
        .with_operation(right.operation)
        .with_permission_type(ALLOW);
    let answer = judge.ask(&DeleteAclsRequest::default().with_filters(vec![filter]))?;
    let result = &answer.filter_results[0];
    ensure!(result.error_code == 0 && result.matching_acls.len() == 1, "{answer:?}");
    Ok(())
}
