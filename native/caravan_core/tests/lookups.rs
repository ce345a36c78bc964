//! Tests that lookups over real sockets end in each possible way. The Elixir tests check the results in detail. These
//! tests also run under a leak checker (`.ci/leaks`).

// A panic fails the test, as it should.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use caravan_core::dns::{
    LookupError, LookupFailure, LookupOptions, LookupStart, Outcome, PendingLookup, QueryType,
    Question, ResolverConfig, Resolvers, TargetFamilies, Transport,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// Longer than any step of a test takes. A test that waits longer fails.
const ENOUGH: Duration = Duration::from_secs(20);

/// Starts a nameserver. It answers `many.…` with a truncated response over UDP and 300 records over TCP, `bad.…` with
/// a response that ends within its record, `noisy.…` after 50 datagrams that are no responses, and other names with
/// one record. It does not respond to `silent.…`.
fn serve() -> SocketAddr {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = tcp.local_addr().expect("its address");
    let udp = UdpSocket::bind(address).expect("the same port for UDP");
    thread::spawn(move || {
        let mut query = [0; 1_500];
        while let Ok((length, client)) = udp.recv_from(&mut query) {
            let answer = match &query[13..length] {
                [b's', ..] => continue,
                [b'n', ..] => {
                    for _ in 0..50 {
                        let _ = udp.send_to(&query[..length], client);
                    }
                    answer(&query[..length], 1, 0)
                }
                [b'm', ..] => answer(&query[..length], 0, 0x02),
                [b'b', ..] => answer(&query[..length], 1, 0)[..length - 5].to_vec(),
                _ => answer(&query[..length], 1, 0),
            };
            let _ = udp.send_to(&answer, client);
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.expect("a connection");
            thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut query = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut query).expect("a query");
                    let answer = answer(&query, 300, 0);
                    let length = u16::try_from(answer.len()).expect("a short answer");
                    let _ = stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat());
                }
            });
        }
    });
    address
}

/// Returns a response with `records` A records and the given flags.
fn answer(query: &[u8], records: u16, flags: u8) -> Vec<u8> {
    let name = query[12..].iter().position(|octet| *octet == 0);
    let question = &query[12..12 + name.expect("a name") + 5];
    let header = [
        &query[..2],
        &[0x81 | flags, 0x80, 0, 1],
        &records.to_be_bytes(),
        &[0; 4],
    ];
    let record = [0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1];
    [&header.concat(), question, &record.repeat(records.into())].concat()
}

/// Resolvers on a runtime with one thread, as in the NIF.
struct Client {
    resolvers: Arc<Resolvers>,
    options: LookupOptions,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Client {
    fn new(server: &str) -> Self {
        let runtime: Runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let resolvers = Resolvers::new(runtime.handle().clone(), 128);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let _ = runtime.block_on(stopped);
        });
        let options = LookupOptions {
            config: ResolverConfig {
                nameservers: vec![server.parse().expect("a nameserver")],
                ..ResolverConfig::default()
            },
            timeout: Duration::from_secs(1),
            attempts: None,
            addresses: TargetFamilies::None,
            known_targets: HashSet::new(),
            allow: Vec::new(),
        };
        Self {
            resolvers,
            options,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn start(&self, name: &str) -> (LookupStart, Receiver<Result<usize, LookupFailure>>) {
        let (to, receiver) = channel();
        let question = Question::new(name.as_bytes(), QueryType::A).expect("a question");
        let reply = move |outcome: Outcome| {
            let _ = to.send(outcome.map(|answer| answer.records.len()));
        };
        let started = self
            .resolvers
            .start(question, self.options.clone(), Box::new(reply));
        (started, receiver)
    }

    fn outcome(&self, name: &str) -> Result<usize, LookupFailure> {
        let (started, receiver) = self.start(name);
        match started {
            LookupStart::Answered(answer) => Ok(answer.records.len()),
            LookupStart::Pending(pending) => match pending.poll() {
                Some(answer) => Ok(answer.records.len()),
                None => receiver.recv_timeout(ENOUGH).expect("an outcome"),
            },
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the runtime's thread");
        }
    }
}

#[test]
fn lookups_end_with_an_answer_an_error_or_a_timeout() {
    let server = serve().to_string();
    let client = Client::new(&server);
    let failed = |error| {
        let nameserver = Some(server.as_str().into());
        let transport = Some(Transport::Udp);
        Err(LookupFailure {
            error,
            nameserver,
            transport,
        })
    };
    for _ in 0..3 {
        assert_eq!(client.outcome("one.test"), Ok(1));
        assert_eq!(client.outcome("many.test"), Ok(300));
        assert_eq!(client.outcome("noisy.test"), Ok(1));
        assert_eq!(client.outcome("bad.test"), failed(LookupError::BadResponse));
    }
    assert_eq!(client.outcome("silent.test"), failed(LookupError::Timeout));
}

#[test]
fn lookups_over_tcp_are_answered() {
    let client = Client::new(&format!("tcp://{}", serve()));
    for _ in 0..3 {
        assert_eq!(client.outcome("one.test"), Ok(300));
    }
}

#[test]
fn a_lookup_after_a_flush_is_answered() {
    let client = Client::new(&serve().to_string());
    assert_eq!(client.outcome("one.test"), Ok(1));
    client.resolvers.flush();
    assert_eq!(client.outcome("one.test"), Ok(1));
}

/// A nameserver that responds when the test calls `answer`.
struct Patient {
    address: SocketAddr,
    go: Sender<()>,
    sent: Receiver<()>,
}

impl Patient {
    fn new() -> Self {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = udp.local_addr().expect("its address");
        let (go, released) = channel();
        let (report, sent) = channel();
        thread::spawn(move || {
            let mut query = [0; 1_500];
            while let Ok((length, client)) = udp.recv_from(&mut query) {
                if released.recv().is_err() {
                    return;
                }
                let _ = udp.send_to(&answer(&query[..length], 1, 0), client);
                let _ = report.send(());
            }
        });
        Self { address, go, sent }
    }

    /// Sends one response. When this function returns, the response has arrived, because it is sent over loopback.
    fn answer(&self) {
        self.go.send(()).expect("a server");
        self.sent.recv_timeout(ENOUGH).expect("an answer");
    }
}

fn pending(started: LookupStart) -> PendingLookup {
    match started {
        LookupStart::Pending(pending) => pending,
        LookupStart::Answered(_) => panic!("the answer came early"),
    }
}

/// Returns a client of the nameserver. The client has loaded its configuration.
fn patient_client(server: &Patient) -> Client {
    let client = Client::new(&server.address.to_string());
    let (started, receiver) = client.start("first.test");
    // The first lookup loads the configuration on the runtime, so the second poll finds no answer.
    assert!(pending(started).poll().is_none());
    server.answer();
    assert_eq!(receiver.recv_timeout(ENOUGH), Ok(Ok(1)));
    client
}

#[test]
fn the_second_poll_returns_the_answer_and_reply_is_not_called() {
    let server = Patient::new();
    let client = patient_client(&server);
    let (started, receiver) = client.start("one.test");
    let lookup = pending(started);
    server.answer();
    let found = lookup.poll().map(|answer| answer.records.len());
    assert_eq!(found, Some(1));
    assert!(receiver.recv_timeout(ENOUGH).is_err(), "reply was dropped");
    assert!(lookup.poll().is_none());
}

#[test]
fn an_answer_after_the_second_poll_is_given_to_reply() {
    let server = Patient::new();
    let client = patient_client(&server);
    let (started, receiver) = client.start("one.test");
    assert!(pending(started).poll().is_none());
    server.answer();
    assert_eq!(receiver.recv_timeout(ENOUGH), Ok(Ok(1)));
}

#[test]
fn a_lookup_without_a_second_poll_ends_at_its_deadline() {
    let server = Patient::new();
    let client = patient_client(&server);
    let (started, receiver) = client.start("one.test");
    let outcome = receiver.recv_timeout(ENOUGH);
    let error = outcome.map(|result| result.map_err(|failure| failure.error));
    assert_eq!(error, Ok(Err(LookupError::Timeout)));
    assert!(pending(started).poll().is_none());
}

#[test]
fn a_cancelled_lookup_has_no_outcome() {
    let client = Client::new(&serve().to_string());
    // The first lookup loads the configuration on the runtime, the second is polled inline.
    for _ in 0..2 {
        let (started, cancelled) = client.start("silent.test");
        pending(started).cancel();
        assert!(cancelled.recv_timeout(ENOUGH).is_err(), "reply was dropped");
        assert_eq!(client.outcome("one.test"), Ok(1));
    }
}
