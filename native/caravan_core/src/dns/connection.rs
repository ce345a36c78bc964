//! A TCP, TLS or HTTPS connection to one nameserver, which is kept open between queries.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::xfer::{DnsExchange, FirstAnswer};
use hickory_resolver::net::{DnsHandle, NetError};
use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse};
use parking_lot::Mutex;

use super::config::Protocol;
#[cfg(feature = "tls")]
use super::tls::TlsConfig;

/// Maximum number of queries in flight over one connection. It is higher than Caravan's own limit of lookups, so
/// that it is never reached.
const MAX_ACTIVE: usize = 4_096;
/// Timeout after which hickory gives up a silent connection. Lookups end before, at their deadlines.
const TIMEOUT: Duration = Duration::from_secs(60);

type Exchange = DnsExchange<TokioRuntimeProvider>;

/// The connection to one nameserver. The first query opens it.
pub struct Connection {
    address: SocketAddr,
    protocol: Protocol,
    #[cfg(feature = "tls")]
    tls: TlsConfig,
    /// Owns the task of the connection. The task ends when the provider is dropped.
    provider: TokioRuntimeProvider,
    open: Mutex<OpenConnection>,
    /// Held while connecting, so that simultaneous lookups share the connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct OpenConnection {
    exchange: Option<Exchange>,
    /// The number of connections so far. A query that failed over an earlier connection must not close the
    /// current one.
    generation: u64,
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

    /// Returns the response to `request`. The nameserver may have closed the open connection in the meantime. Then
    /// the query is repeated over a new connection.
    pub async fn query(&self, request: &DnsRequest) -> Result<DnsResponse, NetError> {
        if let Some((exchange, generation)) = self.current() {
            match self.query_over(exchange, generation, request.clone()).await {
                // Includes Busy, which hickory also returns for a connection that has ended.
                Err(error) if !matches!(error, NetError::Timeout) => {}
                outcome => return outcome,
            }
        }
        let (exchange, generation) = self.connected().await?;
        match self.query_over(exchange, generation, request.clone()).await {
            Err(NetError::Busy) => Err(NetError::NoConnections),
            outcome => outcome,
        }
    }

    async fn query_over(
        &self,
        exchange: Exchange,
        generation: u64,
        request: DnsRequest,
    ) -> Result<DnsResponse, NetError> {
        // Closes the connection also if the deadline drops this future: the nameserver may be gone.
        let guard = CloseUnlessAnswered {
            connection: self,
            generation,
        };
        let question = request.queries.first().cloned();
        let response = exchange.send(request).first_answer().await;
        let response = response.map_err(|error| self.normalize_error(error))?;
        if response.queries.first() != question.as_ref() {
            return Err(ProtoError::NotAResponse.into());
        }
        std::mem::forget(guard);
        Ok(response)
    }

    /// hickory reports an HTTP status, and content of another type, only as a text.
    fn normalize_error(&self, error: NetError) -> NetError {
        match (&self.protocol, error) {
            (Protocol::Https { .. }, NetError::Msg(_)) => ProtoError::NotAResponse.into(),
            (_, error) => error,
        }
    }

    fn current(&self) -> Option<(Exchange, u64)> {
        let open = self.open.lock();
        Some((open.exchange.clone()?, open.generation))
    }

    async fn connected(&self) -> Result<(Exchange, u64), NetError> {
        let _turn = self.connecting.lock().await;
        if let Some(open) = self.current() {
            return Ok(open);
        }
        let exchange = self.connect().await?;
        let mut open = self.open.lock();
        open.generation += 1;
        open.exchange = Some(exchange.clone());
        Ok((exchange, open.generation))
    }

    async fn connect(&self) -> Result<Exchange, NetError> {
        let provider = self.provider.clone();
        match &self.protocol {
            Protocol::Udp | Protocol::Tcp => {
                TcpClientStream::exchange(self.address, None, TIMEOUT, Some(MAX_ACTIVE), provider)
                    .await
            }
            #[cfg(feature = "tls")]
            Protocol::Tls { name } => {
                self.tls
                    .tls(self.address, name, TIMEOUT, MAX_ACTIVE, provider)
                    .await
            }
            #[cfg(feature = "tls")]
            Protocol::Https { name, path } => {
                self.tls
                    .https(self.address, name, path, TIMEOUT, provider)
                    .await
            }
            #[cfg(not(feature = "tls"))]
            Protocol::Tls { .. } | Protocol::Https { .. } => Err(NetError::NoConnections),
        }
    }

    fn close(&self, generation: u64) {
        let mut open = self.open.lock();
        if open.generation == generation {
            open.exchange = None;
        }
    }
}

/// Closes the connection, unless it is forgotten.
struct CloseUnlessAnswered<'a> {
    connection: &'a Connection,
    generation: u64,
}

impl Drop for CloseUnlessAnswered<'_> {
    fn drop(&mut self) {
        self.connection.close(self.generation);
    }
}
