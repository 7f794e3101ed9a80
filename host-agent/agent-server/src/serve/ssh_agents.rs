//! ssh agents of clients, lent to builds (`RUN --mount=type=ssh`).
//!
//! ```text
//! berth --POST /build/ssh/TOKEN, upgraded--> connection --+
//! berth --POST /build, naming TOKEN--------> a socket a mount    <-- ssh in a RUN step
//! ```
//!
//! An agent answers one message with one message, so that all programs of a build can share the one connection. Only what
//! reads and signs is passed on, as BuildKit has it: a build cannot add, remove or lock keys.

use super::error::{ApiError, ApiResult};
use super::hijack::Hijacked;
use engine::builds::request::SshAgent;
use engine::error::Class;
use engine::images::BorrowedRoot;
use std::collections::{BTreeMap, HashMap};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Connections that wait for their build.
const WAITING_MAX: usize = 64;
/// How long one waits.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest message; OpenSSH's own agent has the same bound.
const MESSAGE_MAX: u32 = 256 * 1024;

// draft-ietf-sshm-ssh-agent, "Protocol messages".
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const EXTENSION: u8 = 27;
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// Where a connection arrives, and who takes it from there.
struct Expected {
    arrives: Option<oneshot::Sender<Hijacked>>,
    taken: Option<oneshot::Receiver<Hijacked>>,
}

type ByToken = HashMap<String, Expected>;

/// The connections that clients offer.
pub struct SshAgents {
    /// For the sockets.
    folder: PathBuf,
    waiting: Arc<Mutex<ByToken>>,
}

impl SshAgents {
    /// Sockets are made below `folder`; what an earlier engine left there is removed.
    pub fn new(folder: PathBuf) -> SshAgents {
        let _ = std::fs::remove_dir_all(&folder);
        SshAgents {
            folder,
            waiting: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByToken> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection will come under this token. To be called before its request is answered.
    pub fn expect(&self, token: &str) -> ApiResult<()> {
        let mut waiting = self.lock();
        if waiting.len() >= WAITING_MAX {
            return Err(ApiError::new(
                Class::Unavailable,
                "too many ssh agents wait for their build",
            ));
        }
        if waiting.contains_key(token) {
            return Err(ApiError::new(Class::Conflict, "this token is taken"));
        }
        let (sender, receiver) = oneshot::channel();
        let expected = Expected {
            arrives: Some(sender),
            taken: Some(receiver),
        };
        waiting.insert(token.to_owned(), expected);
        drop(waiting);
        let (all, token) = (self.waiting.clone(), token.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            all.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&token);
        });
        Ok(())
    }

    /// The connection is there.
    pub fn offer(&self, token: &str, connection: Hijacked) {
        let expected = self.lock().get_mut(token).map(|one| one.arrives.take());
        if let Some(Some(sender)) = expected {
            // Nobody waits any more: the build is gone.
            let _ = sender.send(connection);
        }
    }

    /// The agents (id, token) of a build, by id.
    pub async fn take(
        &self,
        wanted: &BTreeMap<String, String>,
    ) -> ApiResult<BTreeMap<String, Arc<dyn SshAgent>>> {
        let mut agents: BTreeMap<String, Arc<dyn SshAgent>> = BTreeMap::new();
        for (id, token) in wanted {
            let missing =
                || ApiError::invalid(format!("there is no connection to the ssh agent {id:?}"));
            let arrival = self
                .lock()
                .get_mut(token)
                .and_then(|expected| expected.taken.take())
                .ok_or_else(missing)?;
            let connection = tokio::time::timeout(Duration::from_secs(30), arrival)
                .await
                .map_err(|_| missing())?
                .map_err(|_| missing())?;
            self.lock().remove(token);
            let agent = Agent {
                folder: self.folder.clone(),
                connection: Arc::new(tokio::sync::Mutex::new(connection)),
            };
            agents.insert(id.clone(), Arc::new(agent));
        }
        Ok(agents)
    }
}

/// The agent of one build.
struct Agent {
    /// For the sockets.
    folder: PathBuf,
    connection: Connection,
}

type Connection = Arc<tokio::sync::Mutex<Hijacked>>;

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Agent")
    }
}

impl SshAgent for Agent {
    fn socket(&self, mode: u32, owner: (u32, u32)) -> io::Result<BorrowedRoot> {
        let folder = self.folder.join(engine::id::ContainerId::random().short());
        let socket = Socket::serve(folder, self.connection.clone())?;
        let path = socket.folder.join(SOCKET);
        std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1))?;
        std::fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777))?;
        Ok(BorrowedRoot::new(path, socket))
    }
}

const SOCKET: &str = "agent";

struct Socket {
    folder: PathBuf,
    accepting: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "the socket of an ssh agent stays behind");
        }
    }
}

impl Socket {
    fn serve(folder: PathBuf, connection: Connection) -> io::Result<Socket> {
        // Nobody else comes into the folder: who may use the socket in the container is the mount's business.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let listener = UnixListener::bind(folder.join(SOCKET))?;
        let accepting = tokio::spawn(async move {
            let mut clients = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                clients.spawn(converse(client, connection.clone()));
                while clients.try_join_next().is_some() {}
            }
        });
        Ok(Socket { folder, accepting })
    }
}

/// One program's connection.
async fn converse(mut client: UnixStream, agent: Connection) {
    while let Ok(Some(message)) = read_message(&mut client).await {
        let kind = message.get(4).copied();
        let allowed = matches!(kind, Some(REQUEST_IDENTITIES | SIGN_REQUEST | EXTENSION));
        let answer = if allowed {
            let mut agent = agent.lock().await;
            match ask(&mut agent, &message).await {
                Ok(Some(answer)) => answer,
                // The client of the build is gone, and the build with it.
                _ => return,
            }
        } else {
            FAILURE.to_vec()
        };
        if client.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn ask(agent: &mut Hijacked, message: &[u8]) -> io::Result<Option<Vec<u8>>> {
    write_message(&mut agent.writer, message).await?;
    read_message(&mut agent.reader).await
}

async fn write_message(
    writer: &mut (impl AsyncWrite + Unpin + ?Sized),
    message: &[u8],
) -> io::Result<()> {
    writer.write_all(message).await?;
    writer.flush().await
}

/// A message with its length in front; `None` at the end.
async fn read_message(
    reader: &mut (impl AsyncRead + Unpin + ?Sized),
) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    };
    let size = u32::from_be_bytes(length);
    if size == 0 || size > MESSAGE_MAX {
        return Err(io::Error::other("not a message of an ssh agent"));
    }
    let mut message = length.to_vec();
    message.resize(4 + size as usize, 0);
    reader.read_exact(&mut message[4..]).await?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn connection() -> (Hijacked, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (reader, writer) = tokio::io::split(ours);
        let hijacked = Hijacked {
            reader: Box::new(reader),
            writer: Box::new(writer),
        };
        (hijacked, theirs)
    }

    const TOKEN: &str = "0123456789abcdef";

    #[tokio::test]
    async fn programs_ask_the_clients_agent_but_cannot_change_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let agents = SshAgents::new(folder.path().join("ssh"));
        agents.expect(TOKEN).expect("new");
        assert!(agents.expect(TOKEN).is_err());
        let (hijacked, mut agent) = connection();
        agents.offer(TOKEN, hijacked);
        let wanted = BTreeMap::from([("default".to_owned(), TOKEN.to_owned())]);
        let taken = agents.take(&wanted).await.expect("there");
        let socket = taken["default"].socket(0o600, own()).expect("a socket");
        let path = socket.path.clone();
        let answering = tokio::spawn(async move {
            let asked = read_message(&mut agent).await.expect("good").expect("one");
            assert_eq!(asked, [0, 0, 0, 1, REQUEST_IDENTITIES]);
            agent
                .write_all(&[0, 0, 0, 2, 12, 7])
                .await
                .expect("answered");
            agent
        });
        let mut program = UnixStream::connect(&path).await.expect("a socket");
        // 17 adds a key, 19 removes all.
        for forbidden in [17, 19] {
            program
                .write_all(&[0, 0, 0, 1, forbidden])
                .await
                .expect("sent");
            let answer = read_message(&mut program).await.expect("good");
            assert_eq!(answer.as_deref(), Some(&FAILURE[..]));
        }
        program
            .write_all(&[0, 0, 0, 1, REQUEST_IDENTITIES])
            .await
            .expect("sent");
        let answer = read_message(&mut program).await.expect("good");
        assert_eq!(answer.as_deref(), Some(&[0, 0, 0, 2, 12, 7][..]));
        drop(answering.await.expect("asked once"));
        drop(socket);
        assert!(!path.exists());
        // A token is good for one build.
        assert!(agents.take(&wanted).await.is_err());
    }

    /// Whom the tests run as: others own files of root's only.
    fn own() -> (u32, u32) {
        let facts = std::fs::metadata("/proc/self").expect("proc");
        (facts.uid(), facts.gid())
    }

    #[tokio::test]
    async fn every_mount_has_a_socket_with_its_owner_and_mode() {
        let folder = tempfile::tempdir().expect("a folder");
        let (hijacked, _agent) = connection();
        let agent = Agent {
            folder: folder.path().to_owned(),
            connection: Arc::new(tokio::sync::Mutex::new(hijacked)),
        };
        let other = match own() {
            (0, _) => (1234, 567),
            own => own,
        };
        let first = agent.socket(0o600, own()).expect("a socket");
        let second = agent.socket(0o660, other).expect("a socket");
        for (socket, mode, owner) in [(&first, 0o600, own()), (&second, 0o660, other)] {
            let facts = std::fs::metadata(&socket.path).expect("there");
            assert_eq!(facts.mode() & 0o7777, mode);
            assert_eq!((facts.uid(), facts.gid()), owner);
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_ends_the_conversation() {
        let (hijacked, _agent) = connection();
        let folder = tempfile::tempdir().expect("a folder");
        let connection = Arc::new(tokio::sync::Mutex::new(hijacked));
        let socket = Socket::serve(folder.path().join("one"), connection).expect("served");
        let mut program = UnixStream::connect(socket.folder.join(SOCKET))
            .await
            .expect("a socket");
        program.write_all(&[255; 4]).await.expect("sent");
        assert_eq!(read_message(&mut program).await.expect("closed"), None);
    }
}
