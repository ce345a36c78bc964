//! A TCP, TLS or HTTPS connection to one nameserver, which is kept open between queries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::xfer::{DnsExchange, FirstAnswer};
use hickory_resolver::net::{DnsHandle, NetError};
use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse};
use parking_lot::Mutex;
use tokio::task::yield_now;

use super::config::Protocol;
#[cfg(feature = "tls")]
use super::https::HttpsConnection;
#[cfg(feature = "tls")]
use super::tls::TlsConfig;

/// Maximum number of queries in flight over one connection. It is higher than Caravan's own limit of lookups, so
/// that it is never reached.
const MAX_ACTIVE: usize = 4_096;
/// Timeout after which hickory gives up a silent connection. Lookups end earlier, at their deadlines.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The connection to one nameserver. The first query opens it.
pub struct Connection {
    address: SocketAddr,
    protocol: Protocol,
    #[cfg(feature = "tls")]
    tls: TlsConfig,
    /// Owns the task of the connection. The task ends when the provider is dropped.
    provider: TokioRuntimeProvider,
    open: Mutex<Option<OpenConnection>>,
    /// The number of connections so far. Its lock is held while connecting, so that simultaneous lookups share
    /// the connection.
    connecting: tokio::sync::Mutex<u64>,
}

#[derive(Clone)]
struct OpenConnection {
    link: Arc<Link>,
    /// A query that failed over an earlier connection must not close the current one.
    generation: u64,
    has_answered: Arc<AtomicBool>,
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
            address,
            protocol,
            #[cfg(feature = "tls")]
            tls,
            provider: TokioRuntimeProvider::default(),
            open: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
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
        let mut may_be_stale = self.current().is_some();
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

    async fn query_over(
        &self,
        open: &OpenConnection,
        request: DnsRequest,
    ) -> Result<DnsResponse, NetError> {
        // Closes the connection also if the deadline drops this future: the nameserver may be gone.
        let guard = CloseUnlessAnswered {
            connection: self,
            generation: open.generation,
        };
        let question = request.queries.first().cloned();
        let response = open.link.query(request).await?;
        open.has_answered.store(true, Ordering::Relaxed);
        if response.queries.first() != question.as_ref() {
            return Err(ProtoError::NotAResponse.into());
        }
        std::mem::forget(guard);
        Ok(response)
    }

    fn current(&self) -> Option<OpenConnection> {
        self.open.lock().clone()
    }

    async fn connected(&self) -> Result<OpenConnection, NetError> {
        let mut generation = self.connecting.lock().await;
        if let Some(open) = self.current() {
            return Ok(open);
        }
        *generation += 1;
        let open = OpenConnection {
            link: Arc::new(self.connect().await?),
            generation: *generation,
            has_answered: Arc::default(),
        };
        *self.open.lock() = Some(open.clone());
        Ok(open)
    }

    async fn connect(&self) -> Result<Link, NetError> {
        let (address, provider) = (self.address, self.provider.clone());
        match &self.protocol {
            Protocol::Udp | Protocol::Tcp => {
                TcpClientStream::exchange(address, None, TIMEOUT, Some(MAX_ACTIVE), provider)
                    .await
                    .map(Link::Stream)
            }
            #[cfg(feature = "tls")]
            Protocol::Tls { name } => self
                .tls
                .tls(address, name, TIMEOUT, MAX_ACTIVE, provider)
                .await
                .map(Link::Stream),
            #[cfg(feature = "tls")]
            Protocol::Https { name, path } => {
                self.tls.https(address, name, path).await.map(Link::Https)
            }
            #[cfg(not(feature = "tls"))]
            Protocol::Tls { .. } | Protocol::Https { .. } => Err(NetError::NoConnections),
        }
    }

    fn close(&self, generation: u64) {
        let mut open = self.open.lock();
        if open
            .as_ref()
            .is_some_and(|open| open.generation == generation)
        {
            *open = None;
        }
    }
}

/// Returns whether the error means only that the connection ended. Such an error says nothing about the request.
fn is_end_of_connection(error: &NetError) -> bool {
    match error {
        // hickory returns `Busy` for a connection whose task has ended.
        NetError::Busy | NetError::Io(_) | NetError::NoConnections | NetError::Message(_) => true,
        #[cfg(feature = "tls")]
        NetError::H2(error) => !error.is_reset(),
        _ => false,
    }
}

/// Closes the connection when it is dropped. `std::mem::forget` prevents that.
struct CloseUnlessAnswered<'a> {
    connection: &'a Connection,
    generation: u64,
}

impl Drop for CloseUnlessAnswered<'_> {
    fn drop(&mut self) {
        self.connection.close(self.generation);
    }
}
