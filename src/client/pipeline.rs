//! The traffic of one connection: a task that writes requests, a task that reads answers, and the
//! requests that wait in between. Moves frames; does not look into them beyond the correlation id.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::{Fault, RequestName};
use super::transport::Transport;
use crate::wire::frame::{LENGTH_BYTES, frame_length};

/// Requests handed to the writer and not yet written; further ones wait.
const WRITE_QUEUE: usize = 64;
/// Requests without an answer; a peer that lets it come to this is not answering at all.
const MAX_IN_FLIGHT: usize = 4096;
/// No answer is waited for longer, however steadily it comes.
const LONGEST_ANSWER: Duration = Duration::from_secs(600);
/// Small answers come in one read; larger ones go past this buffer.
const READ_BUFFER_BYTES: usize = 8 << 10;
/// Where the correlation id stands in a request frame that begins with its length.
const CORRELATION_ID: std::ops::Range<usize> = 8..12;

/// Sends request frames and brings back the answers.
#[derive(Debug)]
pub(super) struct Pipeline {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Bytes>,
    _closes_on_drop: DropGuard,
}

impl Pipeline {
    /// Takes over a stream. Answers larger than `max_frame_bytes` are refused.
    pub(super) fn start(transport: Transport, max_frame_bytes: usize) -> Self {
        let (reader, writer) = transport.split();
        let (outgoing, queue) = mpsc::channel(WRITE_QUEUE);
        let shared = Arc::new(Shared::default());
        tokio::spawn(write_requests(writer, queue, Arc::clone(&shared)));
        tokio::spawn(read_answers(reader, max_frame_bytes, Arc::clone(&shared)));
        Self { outgoing, _closes_on_drop: shared.closed.clone().drop_guard(), shared }
    }

    /// Whether requests can still be sent.
    pub(super) fn is_open(&self) -> bool {
        !self.shared.closed.is_cancelled()
    }

    /// Sends a request frame (with its length, whatever its correlation id) and waits for the
    /// answer's frame. May be dropped at any time: what was begun is written whole, and the answer
    /// is thrown away.
    pub(super) async fn exchange(
        &self,
        frame: BytesMut,
        request: RequestName,
        limit: Duration,
    ) -> Result<BytesMut, Fault> {
        let patience = Patience { begun: Instant::now(), limit };
        let fault = Fault::Timeout { request, limit };
        let mut answered = std::pin::pin!(self.send_and_wait(frame, patience, &fault));
        tokio::select! {
            biased;
            result = &mut answered => result,
            () = self.shared.loses(patience) => {
                self.shared.poison(fault.clone());
                Err(fault.clone())
            }
        }
    }

    async fn send_and_wait(
        &self,
        frame: BytesMut,
        patience: Patience,
        fault: &Fault,
    ) -> Result<BytesMut, Fault> {
        let Ok(place) = self.outgoing.reserve().await else {
            return Err(self.shared.fault());
        };
        let (id, answer) = self.shared.enqueue(place, frame)?;
        let _abandoned_unless_answered = Unanswered { shared: &self.shared, id, patience, fault };
        answer.await.map_err(|_poisoned| self.shared.fault())
    }
}

/// How long a request waits: so long without a byte of an answer that is under way, since a large
/// one over a slow link takes its time; but not for ever.
#[derive(Clone, Copy, Debug)]
struct Patience {
    begun: Instant,
    limit: Duration,
}

/// What the tasks and the waiting requests share.
#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// When the last bytes came of an answer that is not whole yet.
    receiving: Mutex<Option<Instant>>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiting {
    next_id: i32,
    answers: HashMap<i32, oneshot::Sender<BytesMut>>,
    /// The first fault; the connection is closed from then on.
    fault: Option<Fault>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing below panics while it holds the lock; and if it did, the map would still be one.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the frame its id and hands it to the writer, both at once: from here on it is written
    /// whole even if the caller goes away.
    fn enqueue(
        &self,
        place: mpsc::Permit<'_, Bytes>,
        mut frame: BytesMut,
    ) -> Result<(i32, oneshot::Receiver<BytesMut>), Fault> {
        let mut waiting = self.waiting();
        if let Some(fault) = &waiting.fault {
            return Err(fault.clone());
        }
        if waiting.answers.len() >= MAX_IN_FLIGHT {
            drop(waiting);
            let fault = Fault::TooManyInFlight(MAX_IN_FLIGHT);
            self.poison(fault.clone());
            return Err(fault);
        }
        let id = waiting.next_id;
        waiting.next_id = id.wrapping_add(1);
        let (answer, answered) = oneshot::channel();
        waiting.answers.insert(id, answer);
        frame[CORRELATION_ID].copy_from_slice(&id.to_be_bytes());
        place.send(frame.freeze());
        Ok((id, answered))
    }

    /// Passes an answer on. Nobody may be waiting any more: then it is dropped.
    fn answer(&self, id: i32, frame: BytesMut) -> Result<(), Fault> {
        match self.waiting().answers.remove(&id) {
            Some(answer) => {
                let _nobody_waits = answer.send(frame);
                Ok(())
            }
            None => Err(Fault::UnknownCorrelationId(id)),
        }
    }

    /// Closes the connection. The first fault is the one that all are told.
    fn poison(&self, fault: Fault) {
        let mut waiting = self.waiting();
        waiting.fault.get_or_insert(fault);
        waiting.answers.clear();
        drop(waiting);
        self.closed.cancel();
    }

    fn fault(&self) -> Fault {
        self.waiting().fault.clone().unwrap_or(Fault::Closed)
    }

    /// Completes when patience is at its end.
    async fn loses(&self, patience: Patience) {
        let mut deadline = patience.begun + patience.limit;
        loop {
            tokio::time::sleep_until(deadline).await;
            let last = *self.receiving();
            let Some(later) = last.map(|last| last + patience.limit) else { return };
            let later = later.min(patience.begun + patience.limit.max(LONGEST_ANSWER));
            if later <= Instant::now() {
                return;
            }
            deadline = later;
        }
    }

    fn receiving(&self) -> MutexGuard<'_, Option<Instant>> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_waiting(&self, id: i32) -> bool {
        self.waiting().answers.contains_key(&id)
    }
}

/// A request whose caller may go away before the answer. The time limit holds all the same, or a
/// peer that has died would stay unnoticed by callers who wait less long than the limit.
struct Unanswered<'a> {
    shared: &'a Arc<Shared>,
    id: i32,
    patience: Patience,
    fault: &'a Fault,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.shared.is_waiting(self.id) {
            return;
        }
        // No runtime: the process is stopping, and the connection with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (id, patience) = (self.id, self.patience);
        let (shared, fault) = (Arc::clone(self.shared), self.fault.clone());
        runtime.spawn(async move {
            tokio::select! {
                () = shared.closed.cancelled() => {}
                () = shared.loses(patience) => {
                    if shared.is_waiting(id) {
                        shared.poison(fault);
                    }
                }
            }
        });
    }
}

async fn write_requests(
    mut writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Bytes>,
    shared: Arc<Shared>,
) {
    let written = async {
        while let Some(frame) = queue.recv().await {
            writer.write_all(&frame).await?;
            writer.flush().await?;
        }
        io::Result::Ok(())
    };
    tokio::select! {
        () = shared.closed.cancelled() => {}
        result = written => {
            if let Err(error) = result {
                shared.poison(Fault::Io(Arc::new(error)));
            }
        }
    }
}

async fn read_answers(reader: impl AsyncRead + Unpin, max_frame_bytes: usize, shared: Arc<Shared>) {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    let faulty = async {
        loop {
            let (id, frame) = read_frame(&mut reader, max_frame_bytes, &shared).await?;
            *shared.receiving() = None;
            shared.answer(id, frame)?;
        }
    };
    tokio::select! {
        () = shared.closed.cancelled() => {}
        Err::<std::convert::Infallible, _>(fault) = faulty => shared.poison(fault),
    }
}

/// One frame in memory of exactly its length, and its correlation id.
async fn read_frame(
    reader: &mut (impl AsyncRead + Unpin),
    max_frame_bytes: usize,
    shared: &Shared,
) -> Result<(i32, BytesMut), Fault> {
    let mut prefix = [0; LENGTH_BYTES];
    reader.read_exact(&mut prefix).await.map_err(read_fault)?;
    let length = frame_length(prefix, max_frame_bytes)?;
    let mut frame = BytesMut::with_capacity(length);
    while frame.len() < length {
        *shared.receiving() = Some(Instant::now());
        let missing = length - frame.len();
        if reader.read_buf(&mut (&mut frame).limit(missing)).await.map_err(read_fault)? == 0 {
            return Err(Fault::ClosedByPeer);
        }
    }
    let mut id = [0; 4];
    // `frame_length` lets nothing shorter pass.
    id.copy_from_slice(&frame[..4]);
    Ok((i32::from_be_bytes(id), frame))
}

fn read_fault(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::ClosedByPeer,
        _ => Fault::Io(Arc::new(error)),
    }
}
