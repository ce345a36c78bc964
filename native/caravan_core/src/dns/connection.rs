//! A TCP, TLS or HTTPS connection to one nameserver, which is kept open between queries.

use std::future::Future;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::xfer::{DnsExchange, FirstAnswer};
use hickory_resolver::net::{DnsHandle, NetError};
use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse};
use parking_lot::Mutex;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::abort_on_drop::AbortOnDrop;
use super::config::Protocol;
#[cfg(feature = "tls")]
use super::https::HttpsConnection;
#[cfg(feature = "tls")]
use super::tls::TlsConfig;

/// Maximum number of queries in flight over one connection. A lookup can have 64 of them, two for each of 32 SRV targets.
/// One more has the error `Busy`, and is repeated over a new connection like a query over a connection that has ended.
const MAX_ACTIVE: usize = 4_096;
/// Timeout after which hickory gives up a silent connection. Lookups end earlier, at their deadlines.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time for which all queries share one attempt to connect, with the TLS handshake. Later queries start another attempt, in
/// case the nameserver was unreachable at first. The earlier attempt goes on while a query waits for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection to one nameserver. The first query opens it.
pub struct Connection {
    peer: Peer,
    current: Arc<Mutex<Current>>,
}

/// The nameserver, and how to connect to it.
#[derive(Clone)]
struct Peer {
    address: SocketAddr,
    protocol: Protocol,
    #[cfg(feature = "tls")]
    tls: TlsConfig,
    /// Owns the tasks of open connections. They end when the provider is dropped.
    provider: TokioRuntimeProvider,
}

#[derive(Default)]
struct Current {
    /// The number of connections so far.
    generation: u64,
    /// The connection with this number, which is open or being opened.
    connection: Option<Connecting>,
}

/// A task opens the connection. It goes on after the query that started it, so that a handshake that takes longer than
/// one attempt of a query succeeds. It is aborted when neither a query nor [`Current`] waits for it.
type Connecting = Shared<Pin<Box<dyn Future<Output = Result<Arc<Open>, NetError>> + Send>>>;

struct Open {
    link: Link,
    /// A query that failed over an earlier connection must not close the current one.
    generation: u64,
    /// The duration of connecting. A response can take as long.
    connect_time: Duration,
    has_answered: AtomicBool,
    /// The time of the first query since the last response.
    unanswered_since: Mutex<Option<Instant>>,
}

enum Link {
    Stream(DnsExchange<TokioRuntimeProvider>),
    #[cfg(feature = "tls")]
    Https(HttpsConnection),
}

impl Link {
    async fn query(&self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        match self {
            Self::Stream(exchange) => exchange.send(request).first_answer().await,
            #[cfg(feature = "tls")]
            Self::Https(connection) => connection.query(request).await,
        }
    }
}

impl Connection {
    pub fn new(
        address: SocketAddr,
        protocol: Protocol,
        #[cfg(feature = "tls")] tls: TlsConfig,
    ) -> Self {
        Self {
            peer: Peer {
                address,
                protocol,
                #[cfg(feature = "tls")]
                tls,
                provider: TokioRuntimeProvider::default(),
            },
            current: Arc::default(),
        }
    }

    /// Returns the response to `request`.
    ///
    /// The nameserver may close the connection before it responds. Then the request is repeated over a new connection
    /// (RFC 7766, 6.2.4), as long as each connection brings a response to some request. So parallel lookups succeed even
    /// if the nameserver closes each connection after one response. If it does not respond at all, the request is
    /// repeated at most once. The deadline of the lookup ends the repetition.
    pub async fn query(&self, request: &DnsRequest) -> Result<DnsResponse, NetError> {
        // The nameserver may have closed a connection that was open before this query.
        let mut may_be_stale = self.current.lock().connection.is_some();
        loop {
            let open = self.connected().await?;
            let error = match self.query_over(&open, request.clone()).await {
                Err(NetError::Timeout) => return Err(NetError::Timeout),
                Err(error) => error,
                response => return response,
            };
            // Other queries may have got a response before the connection ended. This lets them record it.
            yield_now().await;
            let may_repeat = may_be_stale
                || open.has_answered.load(Ordering::Relaxed) && is_end_of_connection(&error);
            if !may_repeat {
                return Err(match error {
                    NetError::Busy => NetError::NoConnections,
                    other => other,
                });
            }
            may_be_stale = false;
        }
    }

    async fn query_over(&self, open: &Open, request: DnsRequest) -> Result<DnsResponse, NetError> {
        // Closes the connection also if the deadline of an attempt drops this future.
        let mut guard = CloseIfDead {
            current: &self.current,
            open,
            has_failed: false,
        };
        open.unanswered_since.lock().get_or_insert(Instant::now());
        let question = request.queries.first().cloned();
        let mut outcome = open.link.query(request).await;
        if let Ok(response) = &outcome {
            open.has_answered.store(true, Ordering::Relaxed);
            if response.queries.first() == question.as_ref() {
                *open.unanswered_since.lock() = None;
            } else {
                outcome = Err(ProtoError::NotAResponse.into());
            }
        }
        guard.has_failed = outcome.is_err();
        outcome
    }

    /// Returns the connection, or opens it.
    fn connected(&self) -> Connecting {
        let mut current = self.current.lock();
        if let Some(connection) = &current.connection {
            return connection.clone();
        }
        current.generation += 1;
        let task = open(
            self.peer.clone(),
            Arc::downgrade(&self.current),
            current.generation,
        );
        let task = AbortOnDrop::spawn(task);
        let connection = async move {
            match task.await {
                Ok(outcome) => outcome,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    Err(_aborted) => Err(NetError::NoConnections),
                },
            }
        };
        let connection = connection.boxed().shared();
        current.connection = Some(connection.clone());
        connection
    }
}

impl Peer {
    async fn connect(self) -> Result<Link, NetError> {
        match &self.protocol {
            Protocol::Udp | Protocol::Tcp => {
                let max_active = Some(MAX_ACTIVE);
                TcpClientStream::exchange(self.address, None, TIMEOUT, max_active, self.provider)
                    .await
                    .map(Link::Stream)
            }
            #[cfg(feature = "tls")]
            Protocol::Tls { name } => self
                .tls
                .tls(self.address, name, TIMEOUT, MAX_ACTIVE, self.provider)
                .await
                .map(Link::Stream),
            #[cfg(feature = "tls")]
            Protocol::Https { name, path } => {
                let connection = self.tls.https(self.address, name, path).await;
                connection.map(Link::Https)
            }
            #[cfg(not(feature = "tls"))]
            Protocol::Tls { .. } | Protocol::Https { .. } => Err(NetError::NoConnections),
        }
    }
}

async fn open(
    peer: Peer,
    current: Weak<Mutex<Current>>,
    generation: u64,
) -> Result<Arc<Open>, NetError> {
    let mut guard = CloseUnlessOpen {
        current,
        generation,
        is_open: false,
    };
    let start = Instant::now();
    let mut connect = pin!(peer.connect());
    let link = match timeout(CONNECT_TIMEOUT, &mut connect).await {
        Ok(link) => {
            let link = link?;
            guard.is_open = true;
            link
        }
        Err(_elapsed) => {
            drop(guard);
            connect.await?
        }
    };
    Ok(Arc::new(Open {
        link,
        generation,
        connect_time: start.elapsed(),
        has_answered: AtomicBool::new(false),
        unanswered_since: Mutex::default(),
    }))
}

impl Open {
    /// Returns whether the nameserver may be gone: no query has had a response for as long as connecting took. After a
    /// shorter time, this is unknown. The attempt of a query also waits for the connection, so the attempt may end before
    /// a response can come.
    fn is_silent(&self) -> bool {
        let since = *self.unanswered_since.lock();
        since.is_some_and(|since| since.elapsed() >= self.connect_time)
    }
}

/// Returns whether the error means only that the connection ended. Such an error says nothing about the request.
fn is_end_of_connection(error: &NetError) -> bool {
    match error {
        // hickory returns `Busy` for a connection whose task has ended, or which has MAX_ACTIVE queries in flight.
        NetError::Busy | NetError::Io(_) | NetError::NoConnections | NetError::Message(_) => true,
        #[cfg(feature = "tls")]
        NetError::H2(error) => !error.is_reset(),
        _ => false,
    }
}

/// Closes the connection when a query over it fails, or when a query over it ends while the nameserver is silent
/// ([`Open::is_silent`]).
struct CloseIfDead<'a> {
    current: &'a Mutex<Current>,
    open: &'a Open,
    has_failed: bool,
}

impl Drop for CloseIfDead<'_> {
    fn drop(&mut self) {
        if self.has_failed || self.open.is_silent() {
            close(self.current, self.open.generation);
        }
    }
}

/// Forgets a connection that could not be opened, or not within [`CONNECT_TIMEOUT`], so that the next query opens another.
struct CloseUnlessOpen {
    current: Weak<Mutex<Current>>,
    generation: u64,
    is_open: bool,
}

impl Drop for CloseUnlessOpen {
    fn drop(&mut self) {
        if let Some(current) = self.current.upgrade()
            && !self.is_open
        {
            close(&current, self.generation);
        }
    }
}

/// Forgets the connection with this number. It closes when the last query over it has ended.
fn close(current: &Mutex<Current>, generation: u64) {
    let mut current = current.lock();
    if current.generation == generation {
        current.connection = None;
    }
}
