//! The lower bound of the time of a DNS lookup: sends a query over UDP and waits for the response, COUNT times. Prints
//! the median in nanoseconds, and the queries per second of THREADS threads that do the same.
//!
//! ```text
//! cargo run --release --example udp_round_trip -- 127.0.0.1:5353 app.test 10000 16
//! ```

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, name, count, threads] = arguments.as_slice() else {
        return Err("expected: ADDRESS NAME COUNT THREADS".into());
    };
    let (address, count, threads) = (address.parse()?, count.parse()?, threads.parse()?);
    let mut times = round_trips(address, name, count)?;
    times.sort_unstable();
    println!("{}", times.get(times.len() / 2).ok_or("count of 0")?);
    println!("{:.0}", together(address, name, count, threads));
    Ok(())
}

fn together(address: SocketAddr, name: &str, count: usize, threads: u32) -> f64 {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| round_trips(address, name, count));
        }
    });
    f64::from(threads) * count as f64 / start.elapsed().as_secs_f64()
}

fn round_trips(address: SocketAddr, name: &str, count: usize) -> std::io::Result<Vec<u128>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;

    let question = question(name);
    let mut buffer = [0; 4096];
    let round_trip = |_| {
        let start = Instant::now();
        socket.send(&question)?;
        socket.recv(&mut buffer)?;
        Ok(start.elapsed().as_nanos())
    };
    (0..count).map(round_trip).collect()
}

/// Returns an SRV query with id 1 and the flag RD (RFC 1035, 4.1).
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 33, 0, 1]);
    bytes
}
