//! One nameserver: queries over UDP, then over TCP, or over the one transport of its configuration.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse, Query};
use parking_lot::Mutex;

use super::answer::Transport;
use super::config::{NameServerConfig, Protocol};
use super::connection::Connection;
use super::inline_poll::EarlyPolls;
#[cfg(feature = "tls")]
use super::tls::TlsConfig;
use super::udp::UdpSocketPool;

/// Maximum number of questions in `tcp_only`. One more empties it.
const MAX_TCP_ONLY: usize = 1_024;

/// How far a query has come. The future of a query that takes too long is dropped, so its result cannot say that.
#[derive(Default)]
pub struct Progress {
    /// The response over UDP was truncated.
    pub truncated: AtomicBool,
    /// The query was sent over the connection.
    over_connection: AtomicBool,
}

/// One nameserver, with its UDP sockets and its connection.
pub struct NameServer {
    /// Address and port, as in answers.
    pub text: Arc<str>,
    transport: Transport,
    udp: Option<UdpSocketPool>,
    connection: Connection,
    /// Questions whose answers were truncated over UDP and complete over TCP. They are queried over TCP only.
    tcp_only: Mutex<HashSet<Query>>,
}

impl NameServer {
    pub fn new(nameserver: &NameServerConfig, #[cfg(feature = "tls")] tls: &TlsConfig) -> Self {
        let address = nameserver.address;
        let (transport, udp) = match nameserver.protocol {
            Protocol::Udp => (Transport::Udp, Some(UdpSocketPool::new(address))),
            Protocol::Tcp => (Transport::Tcp, None),
            Protocol::Tls { .. } => (Transport::Tls, None),
            Protocol::Https { .. } => (Transport::Https, None),
        };
        Self {
            text: nameserver.to_string().into(),
            transport,
            udp,
            connection: Connection::new(
                address,
                nameserver.protocol.clone(),
                #[cfg(feature = "tls")]
                tls.clone(),
            ),
            tcp_only: Mutex::default(),
        }
    }

    /// Returns the response to `request`, which is never truncated.
    pub async fn query(
        &self,
        request: &DnsRequest,
        early_polls: Option<&EarlyPolls>,
        progress: &Progress,
    ) -> Result<DnsResponse, NetError> {
        if let Some(udp) = &self.udp
            && !self.needs_tcp(&request.queries)
        {
            let response = udp.query(request, early_polls).await?;
            if let Some(response) = response {
                return Ok(response);
            }
            progress.truncated.store(true, Ordering::Relaxed);
        }
        progress.over_connection.store(true, Ordering::Relaxed);
        // Boxed, like other rare parts of a lookup, to keep the future of the common case small.
        Box::pin(self.query_over_tcp(request)).await
    }

    async fn query_over_tcp(&self, request: &DnsRequest) -> Result<DnsResponse, NetError> {
        if self.udp.is_none() {
            let response = self.connection.query(request).await?;
            return if response.truncation {
                Err(NetError::Truncated)
            } else {
                Ok(response)
            };
        }
        let question = request.queries.first().cloned().unwrap_or_default();
        // Unless TCP has a complete answer, the next query goes over UDP again, even if the deadline of the lookup drops
        // this future.
        let guard = ForgetUnlessAnswered {
            server: self,
            question: &question,
        };
        match self.connection.query(request).await {
            Ok(response) if !response.truncation => {
                std::mem::forget(guard);
                self.remember(question);
                Ok(response)
            }
            Err(NetError::Timeout) => Err(NetError::Timeout),
            // The nameserver responds over UDP, but TCP has no complete answer.
            _ => Err(NetError::Truncated),
        }
    }

    /// Returns the transport of a query.
    pub fn queried_over(&self, progress: &Progress) -> Transport {
        match self.transport {
            Transport::Udp if progress.over_connection.load(Ordering::Relaxed) => Transport::Tcp,
            transport => transport,
        }
    }

    /// Returns the transport of the last answer to `question`.
    pub fn transport_of(&self, question: &Query) -> Transport {
        if self.udp.is_some() && self.needs_tcp(std::slice::from_ref(question)) {
            Transport::Tcp
        } else {
            self.transport
        }
    }

    fn needs_tcp(&self, questions: &[Query]) -> bool {
        let tcp_only = self.tcp_only.lock();
        !tcp_only.is_empty() && questions.iter().any(|question| tcp_only.contains(question))
    }

    fn remember(&self, question: Query) {
        let mut tcp_only = self.tcp_only.lock();
        if tcp_only.len() == MAX_TCP_ONLY && !tcp_only.contains(&question) {
            tcp_only.clear();
        }
        tcp_only.insert(question);
    }
}

/// Removes the question from `tcp_only` when this guard is dropped. `std::mem::forget` prevents that.
struct ForgetUnlessAnswered<'a> {
    server: &'a NameServer,
    question: &'a Query,
}

impl Drop for ForgetUnlessAnswered<'_> {
    fn drop(&mut self) {
        self.server.tcp_only.lock().remove(self.question);
    }
}
