use std::convert::Infallible;

use anyhow::bail;
use hyper::{Request, Response, body::Incoming};
use reqwest::Client;
use tokio::time::timeout;

use super::*;
use crate::{clients, server::Server, wait};

/// Time without an answer that counts as silence; shorter than a trickling answer takes.
const SILENCE: Duration = Duration::from_millis(500);

struct Way {
    proxy: FaultyProxy,
    client: Client,
    /// Requests that reached the server.
    arrived: Arc<AtomicUsize>,
    _server: Server,
}

impl Way {
    async fn open() -> Result<Self> {
        let arrived = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&arrived);
        let server = Server::start(move |_: Request<Incoming>| {
            counter.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, Infallible>(Response::new("an answer".to_owned())) }
        })
        .await?;
        let proxy = FaultyProxy::start().await?;
        proxy.lead_to(
            server
                .url()
                .rsplit(':')
                .next()
                .unwrap_or_default()
                .parse()?,
        );
        // One of its own, so that each test knows which connections are open. The shared one
        // installs the TLS provider.
        clients::http();
        Ok(Self {
            proxy,
            client: Client::builder().no_proxy().build()?,
            arrived,
            _server: server,
        })
    }

    /// Returns `None` without a complete answer, and an error without an end of the connection.
    async fn ask(&self) -> Result<Option<String>> {
        let answer = async { self.client.get(self.proxy.url()).send().await?.text().await };
        Ok(timeout(wait::LIMIT, answer).await?.ok())
    }

    /// Checks that a request gets no answer once the fault has hit it.
    async fn hears_nothing(&self) -> Result<()> {
        let silence = async {
            wait::until("the fault hits it", || async {
                Ok((self.proxy.harmed() == 1).then_some(()))
            })
            .await?;
            sleep(SILENCE).await;
            Ok(())
        };
        tokio::select! {
            answer = self.ask() => bail!("it heard {answer:?}"),
            outcome = silence => outcome,
        }
    }

    fn arrived(&self) -> usize {
        self.arrived.load(Ordering::Relaxed)
    }

    async fn is_fine(&self) -> Result<()> {
        self.proxy.set(NetworkFault::None);
        assert_eq!(self.ask().await?.as_deref(), Some("an answer"));
        Ok(())
    }
}

#[tokio::test]
async fn a_cut_ends_open_connections_and_new_ones_and_can_be_mended() -> Result<()> {
    let way = Way::open().await?;
    way.is_fine().await?;
    assert_eq!(way.proxy.harmed(), 0);
    way.proxy.set(NetworkFault::CutOff);
    wait::until("the open connection is cut", || async {
        Ok((way.proxy.harmed() == 1).then_some(()))
    })
    .await?;
    assert_eq!((way.ask().await?, way.arrived()), (None, 1));
    way.is_fine().await?;
    assert!(way.proxy.harmed() >= 2);
    Ok(())
}

#[tokio::test]
async fn closed_means_new_connections_only() -> Result<()> {
    let way = Way::open().await?;
    way.is_fine().await?;
    way.proxy.set(NetworkFault::Closed);
    assert_eq!(
        way.ask().await?.as_deref(),
        Some("an answer"),
        "over the connection that is open"
    );
    let other = Client::builder().no_proxy().build()?;
    assert!(other.get(way.proxy.url()).send().await.is_err());
    assert_eq!(way.arrived(), 2);
    way.is_fine().await
}

#[tokio::test]
async fn a_lost_answer_is_that_of_a_request_that_arrived() -> Result<()> {
    let way = Way::open().await?;
    way.proxy.set(NetworkFault::AnswerLost);
    assert_eq!((way.ask().await?, way.arrived()), (None, 1));
    way.is_fine().await
}

#[tokio::test]
async fn flaky_proxy_passes_some_requests_and_their_answers() -> Result<()> {
    let way = Way::open().await?;
    way.proxy.set(NetworkFault::Flaky);
    let mut answered = 0;
    for _ in 0..60 {
        answered += usize::from(way.ask().await?.is_some());
    }
    assert!((20..40).contains(&answered), "{answered} of 60");
    assert_eq!(way.arrived(), answered);
    way.is_fine().await
}

#[tokio::test]
async fn silence_is_neither_an_answer_nor_an_end() -> Result<()> {
    let way = Way::open().await?;
    way.proxy.set(NetworkFault::Silent);
    way.hears_nothing().await?;
    assert_eq!((way.arrived(), way.proxy.harmed()), (0, 1));
    way.is_fine().await
}

#[tokio::test]
async fn trickling_answer_takes_longer_than_a_client_waits() -> Result<()> {
    let way = Way::open().await?;
    way.proxy.set(NetworkFault::Trickling);
    way.hears_nothing().await?;
    assert_eq!((way.arrived(), way.proxy.harmed()), (1, 1));
    way.is_fine().await
}

#[tokio::test]
async fn proxy_without_an_upstream_resets() -> Result<()> {
    let proxy = FaultyProxy::start().await?;
    clients::http();
    assert!(
        Client::builder()
            .no_proxy()
            .build()?
            .get(proxy.url())
            .send()
            .await
            .is_err()
    );
    Ok(())
}
