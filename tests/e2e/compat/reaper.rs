//! A stand-in for testcontainers' reaper, whose image lies on a registry that tests cannot reach. It does what that one
//! does: listens on 8080, takes lines of filters (`label=a=b&label=c=d`) and answers each with ACK; when the last client has
//! been gone for a while (RYUK_RECONNECTION_TIMEOUT, `10s`), it removes what the filters find through the socket that is
//! mounted at /var/run/docker.sock, and ends.
//!
//! One file with nothing but the standard library: `rustc` makes a static program of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// How long the first client may take.
const FIRST: Duration = Duration::from_secs(60);

enum Event {
    Came,
    Filters(String),
    Left,
}

fn main() {
    let listener = TcpListener::bind("0.0.0.0:8080").expect("port 8080 is free in here");
    let (sender, events) = channel();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || serve(client, &sender));
        }
    });
    println!("reaper: Started!");
    let mut filters: Vec<String> = Vec::new();
    let mut clients = 0;
    let mut patience = FIRST;
    loop {
        let event = match clients {
            0 => match events.recv_timeout(patience) {
                Ok(event) => event,
                Err(_) => break,
            },
            _ => events.recv().expect("the listener goes on"),
        };
        match event {
            Event::Came => clients += 1,
            Event::Left => {
                clients -= 1;
                patience = reconnection_time();
            }
            Event::Filters(line) => {
                if !filters.contains(&line) {
                    filters.push(line);
                }
            }
        }
    }
    for line in &filters {
        remove_all(line);
    }
}

fn serve(client: TcpStream, events: &Sender<Event>) {
    let _ = events.send(Event::Came);
    let mut answers = client.try_clone().expect("a second handle");
    for line in BufReader::new(client).lines() {
        let Ok(line) = line else { break };
        if !line.trim().is_empty() {
            let _ = events.send(Event::Filters(line.trim().to_owned()));
            if answers.write_all(b"ACK\n").is_err() {
                break;
            }
        }
    }
    let _ = events.send(Event::Left);
}

fn reconnection_time() -> Duration {
    let text = std::env::var("RYUK_RECONNECTION_TIMEOUT").unwrap_or_default();
    let seconds = text.trim_end_matches('s').parse().unwrap_or(10);
    Duration::from_secs(seconds)
}

/// `label=a=b&label=c=d`: containers first, because they hold the rest.
fn remove_all(line: &str) {
    let labels: Vec<String> = line
        .split('&')
        .filter_map(|part| part.strip_prefix("label="))
        .map(|label| format!("\"{label}\""))
        .collect();
    if labels.is_empty() {
        return;
    }
    let filters = escaped(&format!("{{\"label\":[{}]}}", labels.join(",")));
    for (list, key, item, more) in [
        ("/containers/json?all=1&", "Id", "/containers", "?force=1&v=1"),
        ("/networks?", "Id", "/networks", ""),
        ("/volumes?", "Name", "/volumes", "?force=1"),
    ] {
        let found = request("GET", &format!("{list}filters={filters}"));
        for name in values(&found, key) {
            request("DELETE", &format!("{item}/{name}{more}"));
            println!("reaper: removed {item}/{name}");
        }
    }
}

/// The values of `"key":"..."`, as they come.
fn values(json: &str, key: &str) -> Vec<String> {
    json.split(&format!("\"{key}\":\""))
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

fn request(method: &str, path: &str) -> String {
    let mut answer = String::new();
    let outcome = UnixStream::connect("/var/run/docker.sock").and_then(|mut stream| {
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    if let Err(error) = outcome {
        println!("reaper: {method} {path}: {error}");
    }
    answer
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
