//! Listeners where everybody has to prove himself: nothing is answered to whom the broker does not
//! know, for no longer than it knows him, and brokers follow as long as they may.

use kafka_protocol::messages::SaslAuthenticateResponse;

use super::posers::{absurd_fetch, fetch_code, replica_fetch};
use super::*;

fn sasl(key: ApiKey, version: i16) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_i16(key as i16);
    frame.put_i16(version);
    frame.put_i32(1);
    frame.put_slice(b"a token");
    frame
}

#[tokio::test]
async fn nothing_is_answered_before_sasl_is_done() {
    let stage = Stage::with(2, "INTERNAL").await;
    let mut client = stage.client().await;
    client.send(&produce()).await;
    let (_, mut broker) = stage.broker().await;
    assert_eq!(broker.receive().await, produce(), "the broker deals with it");
    broker.send(b"it would close").await;
    client.receive().await;

    for key in [ApiKey::SaslHandshake, ApiKey::SaslAuthenticate] {
        client.send(&sasl(key, 1)).await;
        assert_eq!(broker.receive().await, sasl(key, 1));
        broker.send(b"go on").await;
        client.receive().await;
    }
    client.send(&produce()).await;
    let probe = broker.receive().await;
    assert_eq!(probe[..2], (ApiKey::ApiVersions as i16).to_be_bytes());
    broker.send(b"any answer").await;
    grant(&mut broker).await;
    assert_eq!(client.receive().await.get_i32(), 77, "answered by us");
    // The proof holds for a while.
    client.send(&produce()).await;
    assert_eq!(client.receive().await.get_i32(), 77);
}

#[tokio::test]
async fn a_client_that_fails_sasl_gets_no_answer_of_ours() {
    let stage = Stage::with(2, "INTERNAL").await;
    let mut client = stage.client().await;
    for key in [ApiKey::SaslHandshake, ApiKey::SaslAuthenticate] {
        client.send(&sasl(key, 1)).await;
    }
    client.send(&produce()).await;
    let (_, mut broker) = stage.broker().await;
    for _ in 0..3 {
        broker.receive().await;
    }
    drop(broker);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn those_that_prove_nothing_give_way_to_others() {
    let stage = Stage::with(2, "INTERNAL").await;
    let (mut proven, mut broker) = exchanged(&stage, 0).await;
    proven.send(&relayed(1, 10)).await;
    // Nothing of ours is asked for, but its place among the newcomers is another's.
    probed(&mut broker).await;
    broker.send(b"any answer").await;
    assert_eq!(broker.receive().await, relayed(1, 10));
    broker.send(b"answer").await;
    proven.receive().await;
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut client = stage.client().await;
        client.send(&sasl(ApiKey::SaslHandshake, 1)).await;
        others.push((client, stage.broker().await));
    }
    let _next = stage.client().await;
    assert!(others[0].0.is_closed().await, "the oldest");
    proven.send(&relayed(2, 10)).await;
    assert_eq!(broker.receive().await, relayed(2, 10));
}

#[tokio::test]
async fn tokens_without_headers_pass() {
    let stage = Stage::with(2, "INTERNAL").await;
    let mut client = stage.client().await;
    client.send(&sasl(ApiKey::SaslHandshake, 0)).await;
    client.send(b"token").await;
    client.send(&produce()).await;
    let (_, mut broker) = stage.broker().await;
    assert_eq!(broker.receive().await, sasl(ApiKey::SaslHandshake, 0));
    assert_eq!(broker.receive().await, b"token"[..]);
    assert_eq!(broker.receive().await, produce());
}

/// The gateway's question whether a client may replicate, a follower's fetch.
async fn asked_about(broker: &mut Peer) {
    let probe = broker.receive().await;
    assert_eq!(probe[..4], [0, ApiKey::Fetch as u8, 0, 15]);
}

/// The broker's word on it.
fn word(code: i16) -> BytesMut {
    let partition = PartitionData::default().with_error_code(code).with_aborted_transactions(None);
    let topic = FetchableTopicResponse::default().with_partitions(vec![partition]);
    let mut answer = BytesMut::from(&[0, 0, 0, 0, 0][..]);
    FetchResponse::default().with_responses(vec![topic]).encode(&mut answer, 15).unwrap();
    answer
}

async fn judge(broker: &mut Peer, code: i16) {
    asked_about(broker).await;
    broker.send(&word(code)).await;
}

#[tokio::test]
async fn a_follower_has_to_prove_itself_where_clients_have_to() {
    let fetch = replica_fetch(77);
    let stage = Stage::with(2, LISTENER).await;
    let mut early = stage.client().await;
    early.send(&fetch).await;
    let (_, mut broker) = stage.broker().await;
    assert_eq!(broker.receive().await, fetch, "the broker deals with it");

    for (code, is_served) in [(29, false), (100, true)] {
        let mut client = stage.client().await;
        for key in [ApiKey::SaslHandshake, ApiKey::SaslAuthenticate] {
            client.send(&sasl(key, 1)).await;
        }
        client.send(&fetch).await;
        let (_, mut broker) = stage.broker().await;
        for _ in 0..3 {
            broker.receive().await;
            broker.send(b"go on").await;
        }
        judge(&mut broker, code).await;
        client.receive().await;
        client.receive().await;
        if !is_served {
            assert!(client.is_closed().await);
            continue;
        }
        for _ in 0..2 {
            let code = fetch_code(client.receive().await);
            assert_eq!(code, 77, "the seat answers: this broker is not registered");
            client.send(&fetch).await;
        }
    }
}

/// A broker's answer to a SaslAuthenticate of version 1: it was passed, for so long.
fn passed(lifetime_ms: i64) -> BytesMut {
    let body = SaslAuthenticateResponse::default().with_session_lifetime_ms(lifetime_ms);
    let mut answer = BytesMut::from(&[0, 0, 0, 1][..]);
    body.encode(&mut answer, 1).unwrap();
    answer
}

/// A client that has done its exchange, and the broker behind it.
async fn exchanged(stage: &Stage, lifetime_ms: i64) -> (Peer, Peer) {
    let mut client = stage.client().await;
    client.send(&sasl(ApiKey::SaslHandshake, 1)).await;
    let (_, mut broker) = stage.broker().await;
    exchange(&mut client, &mut broker, lifetime_ms).await;
    (client, broker)
}

/// An exchange whose handshake was sent already.
async fn exchange(client: &mut Peer, broker: &mut Peer, lifetime_ms: i64) {
    assert_eq!(broker.receive().await, sasl(ApiKey::SaslHandshake, 1));
    broker.send(b"go on").await;
    client.receive().await;
    client.send(&sasl(ApiKey::SaslAuthenticate, 1)).await;
    assert_eq!(broker.receive().await, sasl(ApiKey::SaslAuthenticate, 1));
    broker.send(&passed(lifetime_ms)).await;
    assert_eq!(client.receive().await, passed(lifetime_ms), "untouched");
}

/// The question that the broker answers only to those who have passed.
async fn probed(broker: &mut Peer) {
    let probe = broker.receive().await;
    assert_eq!(probe[..2], (ApiKey::ApiVersions as i16).to_be_bytes());
}

#[tokio::test]
async fn a_session_that_has_ended_gets_nothing_more() {
    let stage = Stage::with(2, "INTERNAL").await;
    let (mut client, mut broker) = exchanged(&stage, 1).await;
    client.send(&produce()).await;
    probed(&mut broker).await;
    // Its clock may be behind ours: it decides.
    broker.send(b"any answer").await;
    grant(&mut broker).await;
    assert_eq!(client.receive().await.get_i32(), 77, "answered by us");
    client.send(&produce()).await;
    probed(&mut broker).await;
    drop(broker);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn rights_are_those_of_the_last_exchange() {
    let stage = Stage::with(2, "INTERNAL").await;
    let (mut client, mut broker) = exchanged(&stage, 0).await;
    client.send(&produce()).await;
    probed(&mut broker).await;
    broker.send(b"any answer").await;
    grant(&mut broker).await;
    client.receive().await;
    client.send(&sasl(ApiKey::SaslHandshake, 1)).await;
    exchange(&mut client, &mut broker, 0).await;
    client.send(&produce()).await;
    probed(&mut broker).await;
    broker.send(b"any answer").await;
    // Asked anew, though the first answer is young.
    grant(&mut broker).await;
    assert_eq!(client.receive().await.get_i32(), 77);
}

/// A follower that has been answered once, and the broker behind it.
async fn following(stage: &Stage, lifetime_ms: i64) -> (Peer, Peer) {
    let (mut client, mut broker) = exchanged(stage, lifetime_ms).await;
    follow(&mut client, &mut broker).await;
    (client, broker)
}

async fn follow(client: &mut Peer, broker: &mut Peer) {
    client.send(&replica_fetch(77)).await;
    probed(broker).await;
    broker.send(b"any answer").await;
    judge(broker, 100).await;
    client.receive().await;
}

#[tokio::test]
async fn a_follower_proves_itself_anew_and_goes_on() {
    let stage = Stage::with(2, LISTENER).await;
    let (mut client, mut broker) = following(&stage, 3_600_000).await;
    for _ in 0..2 {
        client.send(&sasl(ApiKey::SaslHandshake, 1)).await;
        exchange(&mut client, &mut broker, 3_600_000).await;
        follow(&mut client, &mut broker).await;
        client.send(&replica_fetch(77)).await;
        client.receive().await;
    }
}

#[tokio::test]
async fn a_follower_is_left_when_its_right_or_its_session_ends() {
    for is_told in [true, false] {
        let stage = Stage::with(2, LISTENER).await;
        let (mut client, mut broker) = following(&stage, 1).await;
        // Asked without a request of the follower's.
        judge(&mut broker, 100).await;
        if is_told {
            judge(&mut broker, 29).await;
        } else {
            drop(broker);
        }
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn nobody_is_let_in_freely_where_no_broker_says_so() {
    let ours = members().into_iter().filter(|member| member.id == 9001);
    let cast: Vec<_> = ours.collect();
    let stage = Stage::of(&cast, Vec::new(), LISTENER).await;
    for request in [replica_fetch(77), request(4, &ListGroupsRequest::default())] {
        let mut client = stage.client().await;
        client.send(&request).await;
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn brokers_replicate_on_their_own_listener_only() {
    let stage = Stage::with(2, "INTERNAL").await;
    let (mut client, mut broker) = exchanged(&stage, 0).await;
    client.send(&replica_fetch(77)).await;
    probed(&mut broker).await;
    broker.send(b"any answer").await;
    assert!(client.is_closed().await, "nobody is asked whether it may");
}

#[tokio::test]
async fn a_proof_is_no_leave_for_absurd_lengths() {
    let stage = Stage::with(2, LISTENER).await;
    let (mut client, mut broker) = exchanged(&stage, 0).await;
    client.send(&absurd_fetch(77)).await;
    probed(&mut broker).await;
    broker.send(b"any answer").await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn what_a_follower_sends_with_its_new_proof_is_not_lost() {
    let stage = Stage::with(2, LISTENER).await;
    let (mut client, mut broker) = following(&stage, 3_600_000).await;
    let mut both = BytesMut::new();
    for frame in [sasl(ApiKey::SaslHandshake, 1), sasl(ApiKey::SaslAuthenticate, 1)] {
        both.put_i32(frame.len() as i32);
        both.put_slice(&frame);
    }
    client.0.write_all(&both).await.unwrap();
    for key in [ApiKey::SaslHandshake, ApiKey::SaslAuthenticate] {
        assert_eq!(broker.receive().await, sasl(key, 1));
    }
}

#[tokio::test]
async fn the_answer_to_a_question_about_a_follower_is_not_the_followers() {
    let stage = Stage::with(2, LISTENER).await;
    let (mut client, mut broker) = following(&stage, 1).await;
    asked_about(&mut broker).await;
    client.send(&sasl(ApiKey::SaslHandshake, 1)).await;
    // Time for the gateway to do it wrong.
    assert!(timeout(Duration::from_millis(200), broker.receive()).await.is_err());
    broker.send(&word(100)).await;
    exchange(&mut client, &mut broker, 3_600_000).await;
    follow(&mut client, &mut broker).await;
}
