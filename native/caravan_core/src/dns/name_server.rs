//! One nameserver, whatever it is spoken to over.

use std::collections::HashSet;
use std::sync::Arc;

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

/// Questions remembered as too large for UDP; past that, all are forgotten.
const MAX_TCP_ONLY: usize = 1_024;

pub struct NameServer {
    /// As answers name it.
    pub text: Arc<str>,
    transport: Transport,
    udp: Option<UdpSocketPool>,
    connection: Connection,
    /// Questions whose answers were cut over UDP and came over TCP: asked over TCP from then on.
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

    /// The whole answer to `request`, and never a cut one.
    pub async fn query(
        &self,
        request: &DnsRequest,
        early_polls: Option<&EarlyPolls>,
    ) -> Result<DnsResponse, NetError> {
        if let Some(udp) = &self.udp
            && !self.needs_tcp(&request.queries)
        {
            let response = udp.query(request, early_polls).await?;
            if let Some(response) = response {
                return Ok(response);
            }
        }
        // Boxed, as other rare parts of a lookup are: most lookups do without the room they take.
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
        // Asked over UDP next time, unless this has an answer: a caller's deadline may drop it.
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
            // UDP works and had a part of the answer; TCP gives none.
            _ => Err(NetError::Truncated),
        }
    }

    /// What the last answer to `question` came over.
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

struct ForgetUnlessAnswered<'a> {
    server: &'a NameServer,
    question: &'a Query,
}

impl Drop for ForgetUnlessAnswered<'_> {
    fn drop(&mut self) {
        self.server.tcp_only.lock().remove(self.question);
    }
}
