//! The bare cost of one DNS question over UDP, with nothing around it: `udp_round_trip ADDRESS NAME
//! COUNT` prints the median in nanoseconds. The floor that `bench/dns.exs` measures against.

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query};
use hickory_resolver::proto::rr::{Name, RecordType};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .ok_or("usage: udp_round_trip ADDRESS NAME COUNT")
    };
    let (address, name, count) = (next()?, next()?, next()?.parse::<usize>()?);

    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name)?, RecordType::SRV));
    let question = message.to_vec()?;

    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(address)?;
    let mut times = (0..count)
        .map(|_| round_trip(&socket, &question))
        .collect::<io::Result<Vec<_>>>()?;
    times.sort_unstable();
    println!(
        "{}",
        times.get(count / 2).ok_or("no round trips")?.as_nanos()
    );
    Ok(())
}

fn round_trip(socket: &UdpSocket, question: &[u8]) -> io::Result<Duration> {
    let mut answer = [0; 4096];
    let start = Instant::now();
    socket.send(question)?;
    socket.recv(&mut answer)?;
    Ok(start.elapsed())
}
