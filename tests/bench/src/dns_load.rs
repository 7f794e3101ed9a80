//! Questions for the DNS server of a container, asked from inside of its network namespace by this program itself, which is
//! started there once more.

use anyhow::{Context, Result, ensure};
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

/// The first argument of the program when it is to ask.
pub(crate) const VERB: &str = "--ask-dns";
/// Questions one after the other, for what a single one takes.
const SINGLE: usize = 20_000;
/// Questions on their way at the same time, and for how long, for how many are answered.
const AT_ONCE: usize = 32;
const LASTS: Duration = Duration::from_secs(3);
const SERVER: (&str, u16) = ("127.0.0.11", 53);

/// What was found out.
pub(crate) struct Answers {
    pub(crate) median_us: f64,
    pub(crate) per_second: f64,
}

/// Asks in that namespace for the address of a container by one of its names.
pub(crate) fn within(namespace: &str, name: &str) -> Result<Answers> {
    let output = Command::new("nsenter")
        .arg(format!("--net={namespace}"))
        .arg(std::env::current_exe()?)
        .args([VERB, name])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "asking DNS failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let mut next = || numbers.next().context("a number")?.context("a number");
    Ok(Answers {
        median_us: next()?,
        per_second: next()?,
    })
}

/// What [`within`] starts: prints the median in microseconds and the answers per second.
pub(crate) fn main(name: &str) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SERVER)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buffer = [0; 512];
    let mut times = Vec::with_capacity(SINGLE);
    for number in 0..SINGLE {
        let question = question(name, number as u16);
        let start = Instant::now();
        socket.send(&question)?;
        let length = socket.recv(&mut buffer)?;
        times.push(start.elapsed());
        check(&buffer[..length])?;
    }
    times.sort();
    let median = times[SINGLE / 2].as_secs_f64() * 1e6;

    let mut answered = 0_u64;
    let start = Instant::now();
    for number in 0..AT_ONCE {
        socket.send(&question(name, number as u16))?;
    }
    while start.elapsed() < LASTS {
        let length = socket.recv(&mut buffer)?;
        check(&buffer[..length])?;
        answered += 1;
        socket.send(&question(name, answered as u16))?;
    }
    println!(
        "{median} {}",
        answered as f64 / start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// RFC 1035, section 4: an A record of the name.
fn question(name: &str, id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

fn check(answer: &[u8]) -> Result<()> {
    let is_good = answer.len() > 12 && answer[3] & 0xf == 0 && answer[7] == 1;
    ensure!(is_good, "a wrong answer: {answer:?}");
    Ok(())
}
