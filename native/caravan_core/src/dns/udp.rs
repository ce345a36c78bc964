//! Queries over UDP.
//!
//! hickory opens a socket for each query and passes the response through a channel and a task. That costs more
//! than the round trip to a nameserver on the same host (bench/dns.exs). Here, a socket is connected to the
//! nameserver, so that the kernel drops datagrams from other senders, and is used for several queries, one after
//! the other.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse, ResponseCode};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;

use super::inline_poll::EarlyPolls;

/// Number of queries over one socket. Then a new socket replaces it, with a new random port (chosen by the kernel)
/// that a forger has to guess beside the id (RFC 5452).
const MAX_QUERIES: u8 = 32;
/// Maximum number of idle sockets, over all nameservers. Further sockets are closed after their query.
const MAX_IDLE: usize = 128;
/// Maximum size of a response in octets, as sent in queries (EDNS, RFC 6891). Datagrams of this size pass through
/// networks without fragmentation (DNS flag day 2020).
pub const EDNS_PAYLOAD: u16 = 1_232;
/// Size of the receive buffer in octets. A datagram that fills it counts as truncated.
const MAX_DATAGRAM: usize = 4_096;
/// Number of datagrams that a poll reads at most. Then other lookups run, because forged datagrams may come faster than
/// they are read.
const MAX_AT_ONCE: usize = 16;

/// Octets of the header of a DNS message.
const HEADER: usize = 12;
/// Octets of type and class, which follow the name of a question.
const QUESTION_TAIL: usize = 4;

/// The number of idle sockets, over all nameservers.
static IDLE: AtomicUsize = AtomicUsize::new(0);

/// The sockets to one nameserver. Idle ones are kept for later queries.
pub struct UdpSocketPool {
    address: SocketAddr,
    idle: Mutex<Vec<Socket>>,
}

struct Socket {
    io: UdpSocket,
    queries: u8,
}

impl UdpSocketPool {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            idle: Mutex::default(),
        }
    }

    /// Returns the response to `request`, or `None` if the response is truncated. Ignores datagrams that do not match. So
    /// the query ends with a matching datagram, with a network error, or when the caller drops it at the deadline.
    pub async fn query(
        &self,
        request: &DnsRequest,
        early_polls: Option<&EarlyPolls>,
    ) -> Result<Option<DnsResponse>, NetError> {
        let (socket, query) = self.send(request)?;
        // If no response comes, the socket is dropped, which closes it. Otherwise, the next query over it could
        // receive the late response.
        let datagram = match socket.poll_early(&query, early_polls).await? {
            Some(datagram) => {
                if datagram.len() > EDNS_PAYLOAD.into() {
                    // It is larger than requested, so parsing it may take a scheduler too long. From here, the
                    // runtime's thread polls this future.
                    yield_now().await;
                }
                datagram
            }
            None => socket.receive_async(&query).await?,
        };
        self.checkin(socket);
        // A truncated response is not parsed: it may end in the middle of a record.
        if is_truncated(&datagram) {
            return Ok(None);
        }
        Ok(Some(DnsResponse::from_buffer(datagram)?))
    }

    fn send(&self, request: &DnsRequest) -> Result<(Socket, SentQuery), NetError> {
        let mut bytes = request.to_vec()?;
        let id: [u8; 2] = rand::random();
        bytes.iter_mut().zip(id).for_each(|(byte, id)| *byte = id);
        let socket = self.checkout()?;
        socket.io.send(&bytes)?;
        let exact_case = request.options().case_randomization;
        Ok((socket, SentQuery { bytes, exact_case }))
    }

    fn checkout(&self) -> io::Result<Socket> {
        if let Some(socket) = self.idle.lock().pop() {
            IDLE.fetch_sub(1, Ordering::Relaxed);
            return Ok(socket);
        }
        let any: SocketAddr = match self.address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let io = UdpSocket::bind(any)?;
        io.connect(self.address)?;
        io.set_nonblocking(true)?;
        Ok(Socket { io, queries: 0 })
    }

    fn checkin(&self, mut socket: Socket) {
        socket.queries += 1;
        if socket.queries == MAX_QUERIES {
            return;
        }
        if IDLE.fetch_add(1, Ordering::Relaxed) < MAX_IDLE {
            self.idle.lock().push(socket);
        } else {
            IDLE.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for UdpSocketPool {
    fn drop(&mut self) {
        IDLE.fetch_sub(self.idle.get_mut().len(), Ordering::Relaxed);
    }
}

impl Socket {
    async fn poll_early(
        &self,
        query: &SentQuery,
        early_polls: Option<&EarlyPolls>,
    ) -> io::Result<Option<Vec<u8>>> {
        let Some(polls) = early_polls.filter(|polls| polls.take_first()) else {
            return Ok(None);
        };
        match self.try_receive(query)? {
            None => {
                polls.wait_for_second().await;
                self.try_receive(query)
            }
            found => Ok(found),
        }
    }

    fn try_receive(&self, query: &SentQuery) -> io::Result<Option<Vec<u8>>> {
        match self.receive(query) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            outcome => outcome,
        }
    }

    /// Waits for the response on the runtime. The socket is registered only during this wait, because every datagram
    /// to a registered socket wakes up the runtime's thread.
    async fn receive_async(&self, query: &SentQuery) -> io::Result<Vec<u8>> {
        // If no process listens on the port, the error is ICMP's "port unreachable".
        let news = Interest::READABLE | Interest::ERROR;
        // SAFETY: the socket is borrowed, so it stays open while it is registered.
        #[allow(unsafe_code)]
        let socket = unsafe { AsyncFd::register_with_interest(self.io.as_fd(), news)? };
        loop {
            let mut guard = socket.ready(news).await?;
            match guard.try_io(|_| self.receive(query)) {
                Ok(Ok(Some(datagram))) => return Ok(datagram),
                Ok(Ok(None)) => yield_now().await,
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }

    /// Returns the first matching datagram among the next few, or `None`.
    fn receive(&self, query: &SentQuery) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = [0; MAX_DATAGRAM];
        for _ in 0..MAX_AT_ONCE {
            let length = self.io.recv(&mut buffer)?;
            let datagram = buffer.get(..length).unwrap_or(&buffer);
            if query.matches(datagram) {
                return Ok(Some(datagram.to_vec()));
            }
        }
        Ok(None)
    }
}

/// Returns whether a code reports a problem of the nameserver, not a fact about the name.
fn is_server_error(code: ResponseCode) -> bool {
    use ResponseCode::{FormErr, NotImp, Refused, ServFail};
    matches!(code, FormErr | ServFail | NotImp | Refused)
}

/// Returns whether a response is truncated: by the nameserver (flag TC), or by the size of the buffer.
fn is_truncated(datagram: &[u8]) -> bool {
    datagram.get(2).is_some_and(|flags| flags & 0x02 != 0) || datagram.len() == MAX_DATAGRAM
}

/// A query as it was sent.
struct SentQuery {
    bytes: Vec<u8>,
    exact_case: bool,
}

impl SentQuery {
    /// Returns whether a datagram is a response with the id and the question of the query. The errors of
    /// [`is_server_error`] may come without the question, because a nameserver that cannot parse a query has no
    /// question to copy (RFC 1035). With `exact_case`, the question is always required: its random case makes a response
    /// harder to forge.
    fn matches(&self, datagram: &[u8]) -> bool {
        let (Some(ours), Some(theirs)) = (self.bytes.get(..HEADER), datagram.get(..HEADER)) else {
            return false;
        };
        let (
            [id_high, id_low, ..],
            &[
                their_id_high,
                their_id_low,
                flags,
                code,
                count_high,
                count_low,
                ..,
            ],
        ) = (ours, theirs)
        else {
            return false;
        };
        let is_response = flags & 0x80 != 0;
        let is_to_a_query = flags & 0x78 == 0;
        if !is_response || !is_to_a_query || (*id_high, *id_low) != (their_id_high, their_id_low) {
            return false;
        }
        match u16::from_be_bytes([count_high, count_low]) {
            0 => !self.exact_case && is_server_error(ResponseCode::from_low(code & 0x0f)),
            1 => self.has_question_of(datagram),
            _ => false,
        }
    }

    fn has_question_of(&self, datagram: &[u8]) -> bool {
        let Some(question) = self.bytes.get(HEADER..self.question_end()) else {
            return false;
        };
        let Some(theirs) = datagram.get(HEADER..HEADER + question.len()) else {
            return false;
        };
        if self.exact_case {
            question == theirs
        } else {
            // The lengths of labels are below 64, so they are not ASCII letters.
            question.eq_ignore_ascii_case(theirs)
        }
    }

    fn question_end(&self) -> usize {
        let name = self.bytes.get(HEADER..).unwrap_or_default();
        let mut length = 0;
        while let Some(label) = name.get(length)
            && *label != 0
        {
            length += 1 + usize::from(*label);
        }
        HEADER + length + 1 + QUESTION_TAIL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::{DnsRequestOptions, Query};
    use hickory_resolver::proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    fn query(exact_case: bool) -> SentQuery {
        let name = Name::from_ascii("_App._tcp.example.com.").expect("a name");
        let question = Query::query(name, RecordType::SRV);
        let request = DnsRequest::from_query(question, DnsRequestOptions::default());
        let bytes = request.to_vec().expect("bytes");
        SentQuery { bytes, exact_case }
    }

    fn response(query: &SentQuery) -> Vec<u8> {
        let mut bytes = query.bytes.clone();
        bytes[2] |= 0x80;
        bytes
    }

    /// The id is unchanged, because a random id can contain an ASCII letter.
    fn in_lower_case(query: &SentQuery) -> Vec<u8> {
        let mut bytes = response(query);
        bytes[HEADER..].make_ascii_lowercase();
        bytes
    }

    #[test]
    fn a_response_has_the_id_and_the_question_of_the_query() {
        let query = query(false);
        assert!(query.matches(&response(&query)));
        assert!(query.matches(&in_lower_case(&query)));
        assert!(!query.matches(&query.bytes), "not a response");
        for wrong in [0, 1, HEADER + 2, query.question_end() - 3] {
            let mut bytes = response(&query);
            bytes[wrong] ^= 1;
            assert!(!query.matches(&bytes), "octet {wrong}");
        }
    }

    #[test]
    fn a_response_must_repeat_the_randomized_case() {
        let query = query(true);
        assert!(query.matches(&response(&query)));
        assert!(!query.matches(&in_lower_case(&query)));
    }

    #[test]
    fn only_server_errors_may_come_without_the_question() {
        let answered = |exact_case, code: u8| {
            let query = query(exact_case);
            let mut bytes = response(&query)[..HEADER].to_vec();
            bytes[5] = 0;
            bytes[3] |= code;
            query.matches(&bytes)
        };
        let codes: Vec<_> = (0..16).filter(|code| answered(false, *code)).collect();
        assert_eq!(codes, [1, 2, 4, 5]);
        assert!(!(0..16).any(|code| answered(true, code)));
    }

    #[test]
    fn a_response_with_another_opcode_does_not_match() {
        let query = query(false);
        let mut bytes = response(&query);
        bytes[2] |= 5 << 3;
        assert!(!query.matches(&bytes), "an update");
    }

    #[test]
    fn a_response_is_truncated_by_the_nameserver_or_by_the_buffer() {
        let mut bytes = response(&query(false));
        assert!(!is_truncated(&bytes));
        bytes[2] |= 0x02;
        assert!(is_truncated(&bytes));
        assert!(is_truncated(&[0; MAX_DATAGRAM]));
        assert!(!is_truncated(&[0; MAX_DATAGRAM - 1]));
    }

    proptest! {
        #[test]
        fn any_datagram_is_matched_without_a_panic(datagram: Vec<u8>) {
            let _ = query(false).matches(&datagram);
        }

        #[test]
        fn a_datagram_that_ends_early_does_not_match(length in 0usize..40) {
            let query = query(false);
            let bytes = response(&query);
            let start = &bytes[..length.min(bytes.len())];
            prop_assert!(!query.matches(start) || start.len() >= query.question_end());
        }
    }
}
