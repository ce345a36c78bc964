//! Questions over a connection that is kept open: TCP, TLS or HTTPS, spoken by hickory.

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

/// Questions under way over one connection. Caravan bounds lookups before hickory does, so this only
/// has to be out of the way.
const MAX_ACTIVE: usize = 4_096;
/// Lets go of a connection whose peer has gone silent; lookups have deadlines of their own.
const TIMEOUT: Duration = Duration::from_secs(60);

type Exchange = DnsExchange<TokioRuntimeProvider>;

/// The connection to one nameserver, made when it is needed.
pub struct Stream {
    address: SocketAddr,
    protocol: Protocol,
    #[cfg(feature = "tls")]
    tls: TlsConfig,
    /// Owns the task behind the connection, and ends it when it is dropped.
    provider: TokioRuntimeProvider,
    kept: Mutex<Kept>,
    /// Held while connecting, so that lookups at the same moment share the connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Kept {
    exchange: Option<Exchange>,
    /// Of `exchange`, so that nobody closes the one that came after it.
    number: u64,
}

impl Stream {
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
            kept: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    /// The answer to `request`. A connection that was open may have been closed by the other side in
    /// the meantime; then the question goes over a new one.
    pub async fn ask(&self, request: &DnsRequest) -> Result<DnsResponse, NetError> {
        if let Some((exchange, number)) = self.open() {
            match self.ask_over(exchange, number, request.clone()).await {
                // Busy is also what hickory says of a connection that has ended.
                Err(error) if !matches!(error, NetError::Timeout) => {}
                outcome => return outcome,
            }
        }
        let (exchange, number) = self.connected().await?;
        match self.ask_over(exchange, number, request.clone()).await {
            Err(NetError::Busy) => Err(NetError::NoConnections),
            outcome => outcome,
        }
    }

    async fn ask_over(
        &self,
        exchange: Exchange,
        number: u64,
        request: DnsRequest,
    ) -> Result<DnsResponse, NetError> {
        // Also when the caller's deadline drops this: the peer may be gone without a word.
        let doubt = Doubt {
            stream: self,
            number,
        };
        let question = request.queries.first().cloned();
        let response = exchange.send(request).first_answer().await;
        let response = response.map_err(|error| self.judged(error))?;
        if response.queries.first() != question.as_ref() {
            return Err(ProtoError::NotAResponse.into());
        }
        std::mem::forget(doubt);
        Ok(response)
    }

    /// hickory has only a text for an HTTP status, or for content of another type.
    fn judged(&self, error: NetError) -> NetError {
        match (&self.protocol, error) {
            (Protocol::Https { .. }, NetError::Msg(_)) => ProtoError::NotAResponse.into(),
            (_, error) => error,
        }
    }

    fn open(&self) -> Option<(Exchange, u64)> {
        let kept = self.kept.lock();
        Some((kept.exchange.clone()?, kept.number))
    }

    async fn connected(&self) -> Result<(Exchange, u64), NetError> {
        let _turn = self.connecting.lock().await;
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let exchange = self.connect().await?;
        let mut kept = self.kept.lock();
        kept.number += 1;
        kept.exchange = Some(exchange.clone());
        Ok((exchange, kept.number))
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

    fn close(&self, number: u64) {
        let mut kept = self.kept.lock();
        if kept.number == number {
            kept.exchange = None;
        }
    }
}

struct Doubt<'a> {
    stream: &'a Stream,
    number: u64,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.stream.close(self.number);
    }
}
