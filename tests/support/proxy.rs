//! A network that breaks on demand: a TCP proxy between two processes of a test. What is said to
//! it holds for every connection, those that are there and those to come.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::cluster::ports;

const READ_BYTES: usize = 64 << 10;
/// Chunks on their way; then no more is read.
const CHUNKS: usize = 64;
/// A limited rate is kept by pieces of so much time.
const PIECE: Duration = Duration::from_millis(50);
/// The beginning of each chunk, where lengths and headers are, goes byte by byte.
const TRICKLED_BYTES: usize = 200;
const BACKLOG: u32 = 1024;

/// What the network does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Carries everything.
    #[default]
    None,
    /// Half-open: connections stand and come about, and what is sent on them is lost. A connection
    /// that lost something stays silent for ever.
    Silent,
    /// Holds everything back; later all of it arrives.
    Stalled,
    /// Nobody listens, and what was there is closed.
    Refused,
    /// Connections come about and are reset at once.
    Reset,
    /// Each connection is reset after it has carried so many bytes to whoever connected.
    ResetAfter(usize),
    /// Each byte arrives so much later.
    Delayed(Duration),
    /// Bytes per second and direction, on each connection.
    Limited(usize),
    /// One byte at a time.
    Trickling,
}

/// A listening port that leads to another address.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    faults: watch::Sender<Fault>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    target: Mutex<Option<SocketAddr>>,
    /// When each connection came.
    accepted: Mutex<Vec<Instant>>,
    generation: Mutex<Generation>,
}

/// The connections of now.
#[derive(Clone, Default)]
struct Generation {
    ended: CancellationToken,
    /// What is sent on them is lost.
    lost: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens on a free port; leads nowhere before [`Proxy::lead_to`].
    pub fn start() -> Result<Self> {
        let port = *ports::free_ports(1)?.first().context("a port")?;
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Listens at that address.
    pub fn start_at(address: SocketAddr) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let (faults, seen) = watch::channel(Fault::None);
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async { listen(address) })?;
        let listening = Listening { address, shared: Arc::clone(&shared), faults: seen };
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = listening.run(listener) => {}
                }
            });
        });
        Ok(Self { address, shared, faults, stop, thread: Some(thread) })
    }

    /// Where connections lead from now on.
    pub fn lead_to(&self, address: &str) -> Result<()> {
        *lock(&self.shared.target) = Some(address.parse()?);
        Ok(())
    }

    /// `host:port` to connect to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The port in it.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on.
    pub fn set(&self, fault: Fault) {
        self.faults.send_replace(fault);
        if matches!(fault, Fault::Refused | Fault::Reset) {
            self.cut();
        }
    }

    /// Closes the connections of now.
    pub fn cut(&self) {
        std::mem::take(&mut *lock(&self.shared.generation)).ended.cancel();
    }

    /// The connections of now stay, half-open, and carry nothing any more; new ones are well.
    pub fn lose(&self) {
        let lost = std::mem::take(&mut *lock(&self.shared.generation)).lost;
        lost.store(true, Ordering::Release);
    }

    /// How many connections came since then.
    pub fn accepted_since(&self, since: Instant) -> usize {
        lock(&self.shared.accepted).iter().filter(|at| **at >= since).count()
    }

    /// The most that came within one second since then.
    pub fn most_a_second(&self, since: Instant) -> usize {
        let (mut window, mut most) = (VecDeque::new(), 0);
        for at in lock(&self.shared.accepted).iter().filter(|at| **at >= since) {
            window.push_back(*at);
            while window.front().is_some_and(|first| *at - *first > Duration::from_secs(1)) {
                window.pop_front();
            }
            most = most.max(window.len());
        }
        most
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

struct Listening {
    address: SocketAddr,
    shared: Arc<Shared>,
    faults: watch::Receiver<Fault>,
}

impl Listening {
    async fn run(mut self, listener: TcpListener) {
        let mut listener = Some(listener);
        loop {
            let fault = *self.faults.borrow_and_update();
            if fault == Fault::Refused {
                listener = None;
                if self.faults.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let Some(open) = listener.take().or_else(|| listen(self.address).ok()) else {
                pause(PIECE).await;
                continue;
            };
            tokio::select! {
                changed = self.faults.changed() => if changed.is_err() {
                    return;
                },
                accepted = open.accept() => if let Ok((stream, _)) = accepted {
                    self.serve(stream);
                },
            }
            listener = Some(open);
        }
    }

    fn serve(&self, client: TcpStream) {
        lock(&self.shared.accepted).push(Instant::now());
        let generation = lock(&self.shared.generation).clone();
        let (shared, faults) = (Arc::clone(&self.shared), self.faults.clone());
        tokio::spawn(async move {
            // The listener may still be open for a moment after it was told to refuse.
            if matches!(*faults.borrow(), Fault::Reset | Fault::Refused) {
                let _gone = client.set_zero_linger();
                return;
            }
            let target = *lock(&shared.target);
            // Who is silent does not even reach the other side.
            let is_lost = *faults.borrow() == Fault::Silent;
            let server = match target {
                Some(target) if !is_lost => TcpStream::connect(target).await.ok(),
                _ => None,
            };
            tokio::select! {
                () = generation.ended.cancelled() => {}
                () = carry(client, server, generation.lost, is_lost, faults) => {}
            }
        });
    }
}

/// Both directions, until one side closes.
async fn carry(
    client: TcpStream,
    server: Option<TcpStream>,
    all_lost: Arc<AtomicBool>,
    is_lost: bool,
    faults: watch::Receiver<Fault>,
) {
    let Some(server) = server else {
        if is_lost {
            swallow(client).await;
        }
        return;
    };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let lost = [Arc::new(AtomicBool::new(false)), all_lost];
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = Direction { lost: lost.clone(), faults: faults.clone(), is_answers: false };
    let down = Direction { lost, faults, is_answers: true };
    tokio::select! {
        () = up.carry(from_client, to_server) => {}
        () = down.carry(from_server, to_client) => {}
    }
}

async fn swallow(mut client: TcpStream) {
    let mut lost = vec![0; READ_BYTES];
    while client.read(&mut lost).await.is_ok_and(|count| count > 0) {}
}

struct Direction {
    /// Of this connection, and of its generation.
    lost: [Arc<AtomicBool>; 2],
    faults: watch::Receiver<Fault>,
    is_answers: bool,
}

impl Direction {
    async fn carry(mut self, mut from: OwnedReadHalf, to: OwnedWriteHalf) {
        let (chunks, waiting) = mpsc::channel(CHUNKS);
        let [lost, all_lost] = self.lost.clone();
        let is_lost = || lost.load(Ordering::Acquire) || all_lost.load(Ordering::Acquire);
        let mut faults = self.faults.clone();
        let reading = async {
            let mut buffer = vec![0; READ_BYTES];
            loop {
                match from.read(&mut buffer).await {
                    Ok(0) | Err(_) if is_lost() => {
                        // The other side does not hear of the end either.
                        std::future::pending::<()>().await;
                    }
                    Ok(0) | Err(_) => return,
                    Ok(count) => {
                        let fault = *faults.borrow_and_update();
                        if fault == Fault::Silent {
                            lost.store(true, Ordering::Release);
                        }
                        if is_lost() {
                            continue;
                        }
                        let delay = match fault {
                            Fault::Delayed(delay) => delay,
                            _ => Duration::ZERO,
                        };
                        let chunk = (Instant::now() + delay, buffer[..count].to_vec());
                        if chunks.send(chunk).await.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = self.write(to, waiting) => {}
        }
    }

    async fn write(
        &mut self,
        mut to: OwnedWriteHalf,
        mut waiting: mpsc::Receiver<(Instant, Vec<u8>)>,
    ) {
        let mut carried = 0;
        while let Some((due, chunk)) = waiting.recv().await {
            pause(due.saturating_duration_since(Instant::now())).await;
            let fault = self.faults.wait_for(|fault| *fault != Fault::Stalled).await;
            let Ok(fault) = fault.map(|fault| *fault) else { return };
            let written = match fault {
                Fault::ResetAfter(most) if self.is_answers && carried + chunk.len() > most => {
                    let _gone = to.write_all(&chunk[..most.saturating_sub(carried)]).await;
                    let _gone = to.as_ref().set_zero_linger();
                    return;
                }
                Fault::Limited(rate) => limited(&mut to, &chunk, rate).await,
                Fault::Trickling => trickled(&mut to, &chunk).await,
                _ => to.write_all(&chunk).await,
            };
            carried += chunk.len();
            if written.is_err() {
                return;
            }
        }
    }
}

async fn limited(to: &mut OwnedWriteHalf, chunk: &[u8], rate: usize) -> std::io::Result<()> {
    let pieces = usize::try_from(1_000 / PIECE.as_millis()).unwrap_or(1);
    for piece in chunk.chunks((rate / pieces).max(1)) {
        to.write_all(piece).await?;
        pause(PIECE).await;
    }
    Ok(())
}

async fn trickled(to: &mut OwnedWriteHalf, chunk: &[u8]) -> std::io::Result<()> {
    let (beginning, rest) = chunk.split_at(chunk.len().min(TRICKLED_BYTES));
    for byte in beginning {
        to.write_all(std::slice::from_ref(byte)).await?;
        // Lets the other side read it alone.
        tokio::task::yield_now().await;
    }
    to.write_all(rest).await
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The network's own time: no test waits for it.
async fn pause(time: Duration) {
    if !time.is_zero() {
        let _elapsed = tokio::time::timeout(time, std::future::pending::<()>()).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net;

    use super::*;

    fn ask(address: &str, question: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(question)?;
        let mut answer = vec![0; question.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn each_fault_is_what_it_says_and_heals() {
        let echo = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start().unwrap();
        proxy.lead_to(&echo.local_addr().unwrap().to_string()).unwrap();
        std::thread::spawn(move || {
            for stream in echo.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut reader, mut writer) = (&stream, &stream);
                    let _ended = std::io::copy(&mut reader, &mut writer);
                });
            }
        });
        let address = proxy.address();
        let question: Vec<u8> = (0..=255).collect();
        let begun = Instant::now();
        let slow = [Fault::Delayed(Duration::from_millis(50)), Fault::Limited(2_000)];
        for fault in [Fault::None, Fault::Trickling].into_iter().chain(slow) {
            proxy.set(fault);
            let asked = Instant::now();
            assert_eq!(ask(&address, &question).unwrap(), question, "{fault:?}");
            assert!(asked.elapsed() > Duration::from_millis(90) || !slow.contains(&fault));
        }
        let broken =
            [Fault::Silent, Fault::Stalled, Fault::Refused, Fault::Reset, Fault::ResetAfter(100)];
        for fault in broken {
            proxy.set(fault);
            assert!(ask(&address, &question).is_err(), "{fault:?}");
            proxy.set(Fault::None);
            let healed = super::super::eventually(Duration::from_secs(5), "the proxy", || {
                Ok(ask(&address, &question)?)
            });
            assert_eq!(healed.unwrap(), question, "{fault:?}");
        }
        assert!(proxy.accepted_since(begun) >= 11 && proxy.most_a_second(begun) >= 4);
    }
}
