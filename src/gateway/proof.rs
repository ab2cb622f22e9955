//! What a client has shown of itself where clients have to prove who they are. The exchange itself is
//! the broker's, and so is the verdict: here is only kept when the broker has to be asked for it again.
//! Knows no mechanism and reads no token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use kafka_protocol::messages::SaslAuthenticateRequest;
use tokio::time::Instant;

use super::answers::decode_answer;
use super::rights::HOLDS;
use crate::wire::frame::LENGTH_BYTES;

/// Versions of SaslAuthenticate whose answer says how long the session lasts (KIP-368).
const LIFETIME_IN: std::ops::RangeInclusive<i16> = 1..=2;

/// Whether we may answer a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Holds,
    /// The broker has to be asked something that it answers only to those who have passed.
    Ask,
    /// No: everything is the broker's to deal with.
    No,
}

/// What a client has shown of itself. Until it has proved who it is nothing is answered here.
#[derive(Debug)]
pub struct Proof {
    standing: Standing,
    session: Session,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The listener asks for no proof.
    Open,
    /// SASL has not begun, or begins again.
    Unproven,
    /// A SASL exchange was relayed; the broker knows how it ended.
    Exchanged,
    /// The broker took a request after the exchange; that is believed until then.
    Proven(Instant),
    /// SASL tokens without headers (SaslHandshake v0): nothing can be told apart any more.
    Opaque,
}

/// The session that the last exchange opens, if it does: it ends unless the client proves itself anew.
#[derive(Clone, Debug)]
struct Session {
    /// When the exchange was relayed: the broker counts from a little later.
    since: Instant,
    /// As the broker says it; 0: it has said nothing, or sets no limit.
    lifetime_ms: Arc<AtomicU64>,
}

impl Session {
    fn new(since: Instant) -> Self {
        Self { since, lifetime_ms: Arc::default() }
    }

    fn end(&self) -> Option<Instant> {
        let lifetime = self.lifetime_ms.load(Ordering::Relaxed);
        (lifetime > 0).then(|| self.since.checked_add(Duration::from_millis(lifetime)))?
    }
}

/// Notes what the broker says in answer to an exchange.
pub type Note = Box<dyn FnOnce(&[u8]) + Send>;

impl Proof {
    /// Of a client that has just come, to a listener that asks for proof or does not.
    pub fn new(is_required: bool, now: Instant) -> Self {
        let standing = if is_required { Standing::Unproven } else { Standing::Open };
        Self { standing, session: Session::new(now) }
    }

    /// Whether we may answer it.
    pub fn verdict(&self, now: Instant) -> Verdict {
        match self.standing {
            Standing::Open => Verdict::Holds,
            Standing::Proven(until) if now < until => Verdict::Holds,
            Standing::Exchanged | Standing::Proven(_) => Verdict::Ask,
            Standing::Unproven | Standing::Opaque => Verdict::No,
        }
    }

    /// Whether no proof is asked for.
    pub fn is_open(&self) -> bool {
        self.standing == Standing::Open
    }

    /// Whether this is no stranger any more: it has proved itself here, not just come in freely.
    pub fn is_proven(&self) -> bool {
        matches!(self.standing, Standing::Proven(_))
    }

    /// Whether it has still to prove itself, or is doing so.
    pub fn is_newcomer(&self) -> bool {
        matches!(self.standing, Standing::Unproven | Standing::Exchanged)
    }

    /// Whether an exchange was relayed of which nobody here knows how it ended.
    pub fn is_exchanged(&self) -> bool {
        self.standing == Standing::Exchanged
    }

    /// Whether its frames may have no headers.
    pub fn is_opaque(&self) -> bool {
        self.standing == Standing::Opaque
    }

    /// When the broker has to be asked again.
    pub fn until(&self) -> Option<Instant> {
        match self.standing {
            Standing::Proven(until) => Some(until),
            _ => None,
        }
    }

    /// A SaslHandshake is relayed.
    pub fn on_handshake(&mut self, version: i16) {
        if self.standing != Standing::Open {
            self.standing = if version == 0 { Standing::Opaque } else { Standing::Unproven };
        }
    }

    /// A SaslAuthenticate of this version is relayed. Its answer (length included) is for the note,
    /// where there is one.
    pub fn on_exchange(&mut self, version: i16, now: Instant) -> Option<Note> {
        if self.standing == Standing::Open {
            return None;
        }
        self.standing = Standing::Exchanged;
        self.session = Session::new(now);
        let lifetime_ms = self.session.lifetime_ms.clone();
        let note =
            move |frame: &[u8]| lifetime_ms.store(lifetime(frame, version), Ordering::Relaxed);
        LIFETIME_IN.contains(&version).then(|| Box::new(note) as Note)
    }

    /// The broker has taken a request after the exchange.
    pub fn on_taken(&mut self, now: Instant) {
        if let Standing::Exchanged | Standing::Proven(_) = self.standing {
            let holds = now + HOLDS;
            let until = self.session.end().map_or(holds, |end| end.min(holds));
            self.standing = Standing::Proven(until);
        }
    }
}

/// How long the session lasts that this answer opens, in milliseconds. An answer that we cannot read
/// sets no limit: the broker does, and it is asked every now and then.
fn lifetime(frame: &[u8], version: i16) -> u64 {
    let mut frame = BytesMut::from(frame);
    if frame.len() < LENGTH_BYTES {
        return 0;
    }
    frame.advance(LENGTH_BYTES);
    let said = decode_answer::<SaslAuthenticateRequest>(frame, version);
    said.ok().and_then(|said| u64::try_from(said.session_lifetime_ms).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::messages::SaslAuthenticateResponse;
    use kafka_protocol::protocol::{Encodable, HeaderVersion};

    use super::*;

    /// A broker's answer, with its length.
    fn answer(version: i16, lifetime_ms: i64) -> BytesMut {
        let body = SaslAuthenticateResponse::default()
            .with_auth_bytes(Bytes::from_static(b"v=proof"))
            .with_session_lifetime_ms(lifetime_ms);
        let mut frame = BytesMut::from(&[0; 8][..]);
        if SaslAuthenticateResponse::header_version(version) > 0 {
            frame.extend_from_slice(&[0]);
        }
        body.encode(&mut frame, version).unwrap();
        frame
    }

    fn proven(lifetime_ms: i64, start: Instant) -> Proof {
        let mut proof = Proof::new(true, start);
        proof.on_handshake(1);
        let note = proof.on_exchange(2, start).unwrap();
        note(&answer(2, lifetime_ms));
        assert_eq!(proof.verdict(start), Verdict::Ask);
        proof.on_taken(start);
        proof
    }

    #[test]
    fn a_proof_holds_for_a_while_and_never_beyond_the_session() {
        let start = Instant::now();
        let moment = Duration::from_millis(1);
        for (lifetime_ms, holds) in [(0, HOLDS), (3_600_000, HOLDS), (3_000, HOLDS * 3 / 5)] {
            let mut proof = proven(lifetime_ms, start);
            assert_eq!(proof.until(), Some(start + holds));
            assert_eq!(proof.verdict(start + holds - moment), Verdict::Holds, "{lifetime_ms}");
            assert_eq!(proof.verdict(start + holds), Verdict::Ask, "{lifetime_ms}");
            // The broker takes another request: the session is not longer for that.
            proof.on_taken(start + holds);
            let again = proof.verdict(start + holds + moment);
            let expected = if holds < HOLDS { Verdict::Ask } else { Verdict::Holds };
            assert_eq!(again, expected, "{lifetime_ms}");
        }
    }

    #[test]
    fn each_exchange_opens_a_session_of_its_own() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let mut proof = proven(3_000, start);
        proof.on_handshake(1);
        assert_eq!(proof.verdict(later), Verdict::No, "it begins again");
        let late = proof.on_exchange(1, later).unwrap();
        let note = proof.on_exchange(1, later).unwrap();
        note(&answer(1, 4_000));
        late(&answer(1, 1));
        proof.on_taken(later);
        assert_eq!(proof.until(), Some(later + Duration::from_secs(4)));
    }

    #[test]
    fn nothing_is_believed_without_an_exchange() {
        let now = Instant::now();
        let mut proof = Proof::new(true, now);
        proof.on_taken(now);
        assert_eq!(proof.verdict(now), Verdict::No);
        assert!(proof.on_exchange(0, now).is_none(), "its answer says nothing of a session");
        assert_eq!(proof.verdict(now), Verdict::Ask);
        proof.on_handshake(0);
        proof.on_taken(now);
        assert_eq!(proof.verdict(now), Verdict::No, "tokens without headers");

        let mut open = Proof::new(false, now);
        open.on_handshake(1);
        assert!(open.on_exchange(1, now).is_none());
        assert_eq!(open.verdict(now), Verdict::Holds);
        assert!(!open.is_proven(), "let in, but by nobody's word");
    }

    #[test]
    fn an_answer_that_cannot_be_read_sets_no_limit() {
        assert_eq!(lifetime(&answer(1, 250), 1), 250);
        assert_eq!(lifetime(&answer(2, 250), 2), 250);
        assert_eq!(lifetime(&answer(2, -1), 2), 0);
        assert_eq!(lifetime(&answer(2, 250)[..12], 2), 0);
        assert_eq!(lifetime(b"abc", 2), 0);
    }
}
