//! Go's `net/rpc` over one connection: calls go out numbered, answers come back in any order.

use super::gob::{BYTES, Decoder, Encoder, INTERFACE, STRING, Type, UINT, Value};
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the client says first, and what the server answers.
pub const HELLO: &[u8] = b"CONNECT /_goRPC_ HTTP/1.0\n\n";
pub const WELCOME: &[u8] = b"HTTP/1.0 200 Connected to Go RPC\n\n";

pub fn request_type() -> Type {
    Type::Struct(
        "Request",
        vec![
            ("ServiceMethod", Type::Basic(STRING)),
            ("Seq", Type::Basic(UINT)),
        ],
    )
}

pub fn response_type() -> Type {
    Type::Struct(
        "Response",
        vec![
            ("ServiceMethod", Type::Basic(STRING)),
            ("Seq", Type::Basic(UINT)),
            ("Error", Type::Basic(STRING)),
        ],
    )
}

/// Go's `struct{}`: no argument, no answer.
pub fn nothing() -> (Type, Value) {
    (Type::Struct("", Vec::new()), Value::Struct(BTreeMap::new()))
}

pub fn raw(bytes: Vec<u8>) -> (Type, Value) {
    (Type::Basic(BYTES), Value::Bytes(bytes))
}

pub fn interface(value: Value) -> (Type, Value) {
    (Type::Basic(INTERFACE), value)
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The far side's own words.
    #[error("{0}")]
    Refused(String),
    #[error("the connection to the plug-in failed")]
    Talk(#[source] io::Error),
    #[error("the plug-in went away")]
    Gone,
    #[error("the plug-in did not answer within {} s", .0.as_secs())]
    TooLong(Duration),
}

type Answer = Result<Value, RpcError>;

/// The calling side; threads may call at the same time.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    stream: TcpStream,
    encoder: Encoder,
    next: u64,
    /// `None` once the connection has ended.
    waiting: Option<BTreeMap<u64, Sender<Answer>>>,
}

impl Client {
    /// Says hello and listens on a thread of its own until the far side hangs up.
    pub fn over(mut stream: TcpStream) -> io::Result<Client> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(HELLO)?;
        let mut welcome = vec![0; WELCOME.len()];
        stream.read_exact(&mut welcome)?;
        if welcome != WELCOME {
            return Err(io::Error::other("it does not speak Go RPC"));
        }
        stream.set_read_timeout(None)?;
        let reader = BufReader::new(stream.try_clone()?);
        let client = Client {
            inner: Arc::new(Mutex::new(Inner {
                stream,
                encoder: Encoder::default(),
                next: 0,
                waiting: Some(BTreeMap::new()),
            })),
        };
        let inner = client.inner.clone();
        std::thread::spawn(move || {
            let mut decoder = Decoder::new(reader);
            let ended = loop {
                if let Err(error) = read_answer(&mut decoder, &inner) {
                    break error;
                }
            };
            tracing::debug!(error = %ended, "the plug-in's connection ended");
            // Dropping the senders tells everybody who waits.
            lock(&inner).waiting = None;
        });
        Ok(client)
    }

    /// Calls one method and waits for its answer.
    pub fn call(&self, method: &str, argument: (Type, Value), limit: Duration) -> Answer {
        let (sender, answer) = channel();
        {
            let mut inner = lock(&self.inner);
            let number = inner.next;
            inner.next += 1;
            let header = Value::Struct(BTreeMap::from([
                ("ServiceMethod".to_owned(), Value::Text(method.to_owned())),
                ("Seq".to_owned(), Value::Uint(number)),
            ]));
            let mut bytes = inner
                .encoder
                .encode(&request_type(), &header)
                .map_err(RpcError::Talk)?;
            let body = inner.encoder.encode(&argument.0, &argument.1);
            bytes.extend(body.map_err(RpcError::Talk)?);
            match &mut inner.waiting {
                Some(waiting) => waiting.insert(number, sender),
                None => return Err(RpcError::Gone),
            };
            if inner.stream.write_all(&bytes).is_err() {
                return Err(RpcError::Gone);
            }
        }
        match answer.recv_timeout(limit) {
            Ok(answer) => answer,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(RpcError::Gone),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(RpcError::TooLong(limit)),
        }
    }

    /// Hangs up; whoever waits is told.
    pub fn close(&self) {
        // The far side may have done so already.
        let _ = lock(&self.inner).stream.shutdown(std::net::Shutdown::Both);
    }
}

fn read_answer(
    decoder: &mut Decoder<BufReader<TcpStream>>,
    inner: &Mutex<Inner>,
) -> io::Result<()> {
    let header = decoder.decode()?;
    // An error has a body, too: an empty structure.
    let body = decoder.decode()?;
    let number = match header.field("Seq") {
        Some(Value::Uint(number)) => *number,
        _ => 0,
    };
    let answer = match header.field("Error").and_then(Value::text) {
        Some(error) if !error.is_empty() => Err(RpcError::Refused(error.to_owned())),
        _ => Ok(body),
    };
    let waiting = lock(inner).waiting.as_mut().and_then(|w| w.remove(&number));
    if let Some(sender) = waiting {
        // Who gave up waiting does not listen.
        let _ = sender.send(answer);
    }
    Ok(())
}

fn lock(inner: &Mutex<Inner>) -> std::sync::MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}
