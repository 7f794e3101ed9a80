//! Bytes between two TCP connections. What is short is copied; a stream that goes on is spliced: its pages go from one
//! socket to the other by a pipe, without ever being copied to this process.

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// After so many bytes a stream is worth a pipe of its own, which is two descriptors and some kernel memory.
const WORTH_A_PIPE: usize = 256 * 1024;
const BUFFER: usize = 16 * 1024;
/// What a pipe may hold, and so the most that is moved at a time. It is what an unprivileged program may ask for.
const PIPE: usize = 1024 * 1024;

/// Carries both ways until both ends have said all, or one breaks.
pub(super) async fn both_ways(one: &TcpStream, other: &TcpStream) -> io::Result<()> {
    let (there, back) = tokio::join!(one_way(one, other), one_way(other, one));
    there.and(back)
}

/// Until `from` ends; its end is told to `to`.
async fn one_way(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let carried = match copy(from, to).await {
        Ok(Carried::All) => Ok(()),
        Ok(Carried::Much) => match pipe() {
            Ok(pipe) => move_pages(from, to, &pipe).await,
            // No descriptors left: more slowly, then.
            Err(_) => loop {
                match copy(from, to).await {
                    Ok(Carried::Much) => {}
                    other => break other.map(drop),
                }
            },
        },
        Err(error) => Err(error),
    };
    let direction = match carried {
        Ok(()) => rustix::net::Shutdown::Write,
        // The other way has nobody left to talk to.
        Err(_) => {
            let _ = rustix::net::shutdown(from, rustix::net::Shutdown::Both);
            rustix::net::Shutdown::Both
        }
    };
    // It may be closed by the other end.
    let _ = rustix::net::shutdown(to, direction);
    carried
}

enum Carried {
    /// The stream has ended.
    All,
    /// There is more to come.
    Much,
}

async fn copy(from: &TcpStream, to: &TcpStream) -> io::Result<Carried> {
    let mut buffer = vec![0; BUFFER];
    let mut carried = 0;
    while carried < WORTH_A_PIPE {
        let read = || rustix::io::read(from, &mut buffer[..]).map_err(io::Error::from);
        let length = from.async_io(Interest::READABLE, read).await?;
        if length == 0 {
            return Ok(Carried::All);
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let write = || rustix::io::write(to, rest).map_err(io::Error::from);
            let written = to.async_io(Interest::WRITABLE, write).await?;
            rest = &rest[written..];
        }
        carried += length;
    }
    Ok(Carried::Much)
}

/// Reading and writing end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // A smaller one serves, too.
    let _ = fcntl_setpipe_size(&write, PIPE);
    Ok((read, write))
}

async fn move_pages(
    from: &TcpStream,
    to: &TcpStream,
    (outlet, inlet): &(OwnedFd, OwnedFd),
) -> io::Result<()> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        // The pipe is empty here, so only the socket can make this wait.
        let fill = || splice(from, None, inlet, None, PIPE, flags).map_err(io::Error::from);
        let mut inside = from.async_io(Interest::READABLE, fill).await?;
        if inside == 0 {
            return Ok(());
        }
        while inside > 0 {
            let drain = || splice(outlet, None, to, None, inside, flags).map_err(io::Error::from);
            inside -= to.async_io(Interest::WRITABLE, drain).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    /// Each end sends its bytes and its end, and gets the other's.
    async fn exchange(there: Vec<u8>, back: Vec<u8>) {
        let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
        let carrying = tokio::spawn(async move { both_ways(&near, &far).await });
        let (expected_there, expected_back) = (there.clone(), back.clone());
        let asking = tokio::spawn(async move {
            let mut answer = Vec::new();
            let (mut reader, mut writer) = client.split();
            let send = async {
                writer.write_all(&there).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let (read, ()) = tokio::join!(reader.read_to_end(&mut answer), send);
            read.unwrap();
            answer
        });
        let mut asked = Vec::new();
        server.read_to_end(&mut asked).await.unwrap();
        // The way back is open after the way there has ended.
        server.write_all(&back).await.unwrap();
        drop(server);
        assert!(asked == expected_there);
        assert!(asking.await.unwrap() == expected_back);
        carrying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn short_and_long_streams_arrive_whole() {
        let bytes =
            |count: usize| -> Vec<u8> { (0..count).map(|at| (at * 7 % 251) as u8).collect() };
        exchange(b"question".to_vec(), b"answer".to_vec()).await;
        exchange(Vec::new(), bytes(10)).await;
        exchange(bytes(9_000_001), bytes(3_000_003)).await;
    }

    #[tokio::test]
    async fn a_broken_end_ends_both() {
        let ((client, near), (far, mut server)) = (pair().await, pair().await);
        let carrying = tokio::spawn(async move { both_ways(&near, &far).await });
        client.set_zero_linger().unwrap();
        drop(client);
        assert!(matches!(server.read(&mut [0; 10]).await, Ok(0) | Err(_)));
        drop(server);
        carrying.await.unwrap().unwrap_err();
    }
}
