//! Connections that a client makes through us: `ssh -L`, to TCP ports and unix sockets.

use super::input::Receiver;
use super::session::carry;
use russh::server::{ChannelOpenHandle, Msg};
use russh::{ChannelOpenFailure, ChannelWriteHalf};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;

/// Less than most clients wait.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) enum Target {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// Connects, answers the client's request, and carries both ways until both are done or the client is gone.
pub(super) async fn run(
    target: Target,
    input: Receiver,
    output: ChannelWriteHalf<Msg>,
    reply: ChannelOpenHandle,
) {
    let connected = tokio::time::timeout(PATIENCE, async {
        match &target {
            Target::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let (read, write) = stream.into_split();
                Ok::<Ends, io::Error>((Box::new(read), Box::new(write)))
            }
            Target::Unix(path) => {
                let (read, write) = UnixStream::connect(path).await?.into_split();
                Ok((Box::new(read) as _, Box::new(write) as _))
            }
        }
    });
    match connected.await {
        Ok(Ok(ends)) => {
            reply.accept().await;
            both_ways(ends, input, output).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "cannot forward a connection");
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
        }
        Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
    }
}

type Ends = (
    Box<dyn AsyncRead + Send + Unpin>,
    Box<dyn AsyncWrite + Send + Unpin>,
);

async fn both_ways(ends: Ends, mut input: Receiver, output: ChannelWriteHalf<Msg>) {
    let (read, write) = ends;
    let ended = Notify::new();
    let answers = async {
        carry(read, &output, None).await;
        let _ = output.eof().await;
        ended.notified().await;
    };
    tokio::select! {
        () = input.feed(write, &ended) => {}
        () = answers => {}
    }
    let _ = output.close().await;
}
