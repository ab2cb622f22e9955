//! A broker that replicates from us over a connection on which it had to prove itself. The seat serves
//! it; meanwhile the broker behind the connection is asked again and again whether it still may, and
//! when it begins to prove itself anew that is relayed as a client's.

use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::join;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::answers::AnswerKind;
use super::backend::{self, ASK_TIMEOUT};
use super::connection::{Answers, Backend, ConnectionError};
use super::proof::Proof;
use super::requests::{Follower, Requests};
use super::rights::{HOLDS, Rights, replication_request};
use crate::wire::frame::LENGTH_BYTES;

/// Least time between two questions: a session may end a moment later there than here.
const PAUSE: Duration = Duration::from_millis(100);

/// What is asked again while a follower is served, and of whom.
pub struct Recheck<'a> {
    /// The broker behind the connection, to write to.
    pub broker: &'a mut backend::Backend,
    /// What the follower may do.
    pub rights: &'a mut Rights,
    /// Its session.
    pub proof: &'a mut Proof,
    /// What all connections share.
    pub context: &'a Context,
}

/// Serves a follower until it goes or may no longer. A request that is not a follower's is given back:
/// the connection is a client's again.
pub async fn serve(
    requests: &mut Requests,
    answers: &mut Answers<'_>,
    follower: Follower,
) -> Result<Option<Bytes>, ConnectionError> {
    // A follower was asked about, so there is a broker behind it.
    let (Some((reader, mut recheck)), Some(broker)) =
        (requests.following(), answers.backend.as_mut())
    else {
        return Err(ConnectionError::Short);
    };
    let Follower { replica, request } = follower;
    let context = recheck.context;
    let over = CancellationToken::new();
    let stream = join(reader, &mut answers.client);
    let mut serving = pin!(context.replicas.serve(stream, request, over.cancelled()));
    let ended = loop {
        tokio::select! {
            given_back = &mut serving => return Ok(given_back),
            () = sleep_until(recheck.due()) => {}
        }
        let mut asking = pin!(recheck.ask(broker));
        let allowed = tokio::select! {
            allowed = &mut asking => allowed,
            given_back = &mut serving => {
                // The answer on its way must not be taken for that to the next request.
                if given_back.is_some() {
                    asking.await?;
                }
                return Ok(given_back);
            }
        };
        match allowed {
            Ok(true) => {}
            Ok(false) => break ConnectionError::NoClusterAction(replica),
            Err(error) => break error,
        }
    };
    over.cancel();
    serving.await;
    Err(ended)
}

impl Recheck<'_> {
    fn due(&self) -> Instant {
        let now = Instant::now();
        self.proof.until().unwrap_or(now + HOLDS).max(now + PAUSE)
    }

    /// Whether the follower may go on. The broker closes the connection of one whose session is over.
    async fn ask(&mut self, broker: &mut Backend) -> Result<bool, ConnectionError> {
        self.rights.forget();
        let question = replication_request(self.context.broker_id.0)?;
        let asked = async {
            self.broker.send(&question).await?;
            broker.next_frame(AnswerKind::Plain, self.context).await
        };
        let answer = timeout(ASK_TIMEOUT, asked).await.map_err(|_elapsed| ConnectionError::Idle)?;
        let mut frame = answer?.bytes;
        frame.advance(LENGTH_BYTES);
        let now = Instant::now();
        self.rights.take_replication(frame, now)?;
        self.proof.on_taken(now);
        Ok(self.rights.cluster_action() == Ok(true))
    }
}
