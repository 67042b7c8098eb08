//! A TCP proxy that can be told to fail as networks do: between a function and the local AWS, it is the bad day on which
//! a service cannot be reached, or does what it is asked and nobody hears of it.

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

/// Between two bytes of an answer that trickles.
const TRICKLE: Duration = Duration::from_millis(100);

const BUFFER_BYTES: usize = 16 * 1024;

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    Fine,
    /// New connections are reset; open ones go on.
    Closed,
    /// New connections are reset, and open ones with them.
    CutOff,
    /// Nothing passes in either direction, and nobody is told. A connection that has lost bytes so stays silent for ever.
    Silent,
    /// What is asked passes; instead of the answer, the connection is reset: it is done, and nobody heard of it.
    AnswerLost,
    /// Answers come byte by byte, more slowly than anybody waits for.
    Trickling,
    /// One request in two is lost with its connection, so that of several calls that belong together some are made.
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
    weather: watch::Sender<Weather>,
    /// Where it leads.
    upstream: OnceLock<SocketAddr>,
    harmed: AtomicUsize,
    /// What has been asked in flaky weather.
    asked: AtomicUsize,
}

impl Shared {
    /// Throws dice that fall in the same order for each proxy.
    fn is_unlucky(&self) -> bool {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        Rng::with_seed(u64::try_from(asked).unwrap_or_default()).bool()
    }
}

/// A connection ends here.
enum End {
    /// One side closed it, or broke.
    Closed,
    /// We broke it.
    Reset,
}

impl FaultyProxy {
    /// Starts one in fine weather. It resets connections until it knows where it leads.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            weather: watch::Sender::new(Weather::Fine),
            upstream: OnceLock::new(),
            harmed: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { port, shared, task })
    }

    /// Says where it leads, a port of this machine; once.
    pub fn lead_to(&self, port: u16) {
        // Who says it twice keeps the first.
        let _ = self.shared.upstream.set((Ipv4Addr::LOCALHOST, port).into());
    }

    /// Where it listens, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes the weather, for open connections too.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// How many connections have felt bad weather so far.
    #[must_use]
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
        let Ok((client, _)) = listener.accept().await else { continue };
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
    let mut weather = shared.weather.subscribe();
    let (Some(upstream), false) =
        (shared.upstream.get(), matches!(*weather.borrow(), Weather::Closed | Weather::CutOff))
    else {
        return Ok(End::Reset);
    };
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut asked, mut answered) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let now = *weather.borrow_and_update();
        if now == Weather::CutOff {
            return Ok(End::Reset);
        }
        tokio::select! {
            _ = weather.changed() => {}
            read = client.read(&mut asked) => match (read?, now) {
                (0, _) => return Ok(End::Closed),
                (_, Weather::Silent) => return swallow(client, shared, &mut weather).await,
                (_, Weather::Flaky) if shared.is_unlucky() => return Ok(End::Reset),
                (length, _) => server.write_all(&asked[..length]).await?,
            },
            read = server.read(&mut answered) => match (read?, now) {
                (0, _) => return Ok(End::Closed),
                (_, Weather::Silent) => return swallow(client, shared, &mut weather).await,
                (_, Weather::AnswerLost) => return Ok(End::Reset),
                (length, Weather::Trickling) => {
                    shared.harmed.fetch_add(1, Ordering::Relaxed);
                    trickle(client, &answered[..length], &mut weather).await?;
                }
                (length, _) => client.write_all(&answered[..length]).await?,
            },
        }
    }
}

/// Takes whatever comes and says nothing, until the client gives up or the connection is cut off.
async fn swallow(client: &mut TcpStream, shared: &Shared, weather: &mut watch::Receiver<Weather>) -> io::Result<End> {
    shared.harmed.fetch_add(1, Ordering::Relaxed);
    let mut nowhere = vec![0; BUFFER_BYTES];
    loop {
        tokio::select! {
            cut = weather.wait_for(|weather| *weather == Weather::CutOff) => return Ok(if cut.is_ok() { End::Reset } else { End::Closed }),
            read = client.read(&mut nowhere) => if read? == 0 { return Ok(End::Closed) },
        }
    }
}

/// Lets an answer through byte by byte, and at once what is left of it when the weather changes.
async fn trickle(client: &mut TcpStream, answer: &[u8], weather: &mut watch::Receiver<Weather>) -> io::Result<()> {
    for (position, byte) in answer.iter().enumerate() {
        tokio::select! {
            _ = weather.changed() => return client.write_all(&answer[position..]).await,
            () = sleep(TRICKLE) => client.write_all(&[*byte]).await?,
        }
    }
    Ok(())
}
