//! TCP proxy that injects network faults between a function and the local AWS.

#[cfg(test)]
mod tests;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// Time between two bytes of a trickling answer.
const TRICKLE: Duration = Duration::from_millis(100);

const BUFFER_BYTES: usize = 16 * 1024;

/// Fault of all connections of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkFault {
    /// All bytes pass.
    None,
    /// New connections are reset; open ones continue.
    Closed,
    /// New and open connections are reset.
    CutOff,
    /// No byte passes in either direction. A connection that has lost bytes stays silent for good.
    Silent,
    /// The request passes; the connection is reset instead of the answer.
    AnswerLost,
    /// Answers come byte by byte, more slowly than any client waits for.
    Trickling,
    /// One request in two is lost with its connection, so that only some of several related calls
    /// succeed.
    Flaky,
}

/// A proxy on a free port of 127.0.0.1. Dropping it closes the port and all connections.
#[derive(Debug)]
pub struct FaultyProxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    fault: watch::Sender<NetworkFault>,
    upstream: OnceLock<SocketAddr>,
    harmed: AtomicUsize,
    /// Requests so far in `Flaky`.
    flaky_requests: AtomicUsize,
}

impl Shared {
    /// Decides at random, with the same sequence for each proxy.
    fn should_fail(&self) -> bool {
        let requests = self.flaky_requests.fetch_add(1, Ordering::Relaxed);
        Rng::with_seed(u64::try_from(requests).unwrap_or_default()).bool()
    }
}

/// End of a connection.
enum End {
    /// Closed or broken by one side.
    Closed,
    /// Reset by the proxy.
    Reset,
}

impl FaultyProxy {
    /// Starts a proxy without a fault. It resets connections until [`Self::lead_to`] is called.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            fault: watch::Sender::new(NetworkFault::None),
            upstream: OnceLock::new(),
            harmed: AtomicUsize::new(0),
            flaky_requests: AtomicUsize::new(0),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { port, shared, task })
    }

    /// Sets the port of this machine that the proxy connects to. Only the first call counts.
    pub fn lead_to(&self, port: u16) {
        let _ = self.shared.upstream.set((Ipv4Addr::LOCALHOST, port).into());
    }

    /// URL of the proxy, without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets the fault, for open connections too.
    pub fn set(&self, fault: NetworkFault) {
        self.shared.fault.send_replace(fault);
    }

    /// Number of connections that met a fault so far.
    pub fn harmed(&self) -> usize {
        self.shared.harmed.load(Ordering::Relaxed)
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let mut client = client;
            if let Ok(End::Reset) = carry(&mut client, &shared).await {
                shared.harmed.fetch_add(1, Ordering::Relaxed);
                drop(client.set_zero_linger());
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(client: &mut TcpStream, shared: &Shared) -> io::Result<End> {
    let mut fault = shared.fault.subscribe();
    let (Some(upstream), false) = (
        shared.upstream.get(),
        matches!(*fault.borrow(), NetworkFault::Closed | NetworkFault::CutOff),
    ) else {
        return Ok(End::Reset);
    };
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut asked, mut answered) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let now = *fault.borrow_and_update();
        if now == NetworkFault::CutOff {
            return Ok(End::Reset);
        }
        tokio::select! {
            _ = fault.changed() => {}
            read = client.read(&mut asked) => match (read?, now) {
                (0, _) => return Ok(End::Closed),
                (_, NetworkFault::Silent) => return swallow(client, shared, &mut fault).await,
                (_, NetworkFault::Flaky) if shared.should_fail() => return Ok(End::Reset),
                (length, _) => server.write_all(&asked[..length]).await?,
            },
            read = server.read(&mut answered) => match (read?, now) {
                (0, _) => return Ok(End::Closed),
                (_, NetworkFault::Silent) => return swallow(client, shared, &mut fault).await,
                (_, NetworkFault::AnswerLost) => return Ok(End::Reset),
                (length, NetworkFault::Trickling) => {
                    shared.harmed.fetch_add(1, Ordering::Relaxed);
                    trickle(client, &answered[..length], &mut fault).await?;
                }
                (length, _) => client.write_all(&answered[..length]).await?,
            },
        }
    }
}

/// Reads and drops all bytes until the client closes the connection or it is cut off.
async fn swallow(
    client: &mut TcpStream,
    shared: &Shared,
    fault: &mut watch::Receiver<NetworkFault>,
) -> io::Result<End> {
    shared.harmed.fetch_add(1, Ordering::Relaxed);
    let mut nowhere = vec![0; BUFFER_BYTES];
    loop {
        tokio::select! {
            cut = fault.wait_for(|fault| *fault == NetworkFault::CutOff) => return Ok(if cut.is_ok() { End::Reset } else { End::Closed }),
            read = client.read(&mut nowhere) => if read? == 0 { return Ok(End::Closed) },
        }
    }
}

/// Passes an answer byte by byte, and the rest at once when the fault changes.
async fn trickle(
    client: &mut TcpStream,
    answer: &[u8],
    fault: &mut watch::Receiver<NetworkFault>,
) -> io::Result<()> {
    for (position, byte) in answer.iter().enumerate() {
        tokio::select! {
            _ = fault.changed() => return client.write_all(&answer[position..]).await,
            () = sleep(TRICKLE) => client.write_all(&[*byte]).await?,
        }
    }
    Ok(())
}
