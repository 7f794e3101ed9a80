//! `--native-ssh`: a session without any ssh program, for computers that have none. Only what `machine ssh` is for: a command
//! or a shell, with the machine's own key and its host key pinned at first contact, in the file that the ssh program uses too.
//! The person's ssh configuration, agent and jump hosts are the ssh program's business.

use crate::failure::Failure;
use anyhow::{Context as _, bail};
use machine_core::Machine;
use machine_core::ssh::SshRoute;
use russh::client::{self, AuthResult};
use russh::keys::{
    HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate, known_hosts, load_secret_key,
};
use russh::{Channel, ChannelMsg};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CONNECTS_WITHIN: Duration = Duration::from_secs(30);

/// Runs a command, or a shell where none is given, and ends with its status.
pub(crate) fn run(machine: &Machine, words: &[String]) -> anyhow::Result<u8> {
    if let Some(option) = words.first().filter(|word| word.starts_with('-')) {
        return Err(Failure::new(
            format!("{option} is an option of the ssh program"),
            "leave out --native-ssh (and MACHINE_NATIVE_SSH)",
        )
        .into());
    }
    let route = machine.ssh_route()?;
    let Some(key) = route.key.clone() else {
        return Err(Failure::new(
            format!("machine \"{}\" has no key of its own", machine.name()),
            "leave out --native-ssh: the ssh program knows your agent and your keys",
        )
        .into());
    };
    let address = machine.address()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(async {
        let session = tokio::time::timeout(CONNECTS_WITHIN, connect(&route, address.ip, key))
            .await
            .with_context(|| format!("{}: no answer", route.host))??;
        let channel = session.channel_open_session().await?;
        talk(channel, words).await
    });
    // A read of the terminal that nobody waits for any more must not hold us up.
    runtime.shutdown_background();
    code
}

/// Trusts the key of the first contact and none other after that.
struct Pinned {
    host: String,
    port: u16,
    file: PathBuf,
}

impl client::Handler for Pinned {
    type Error = anyhow::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> anyhow::Result<bool> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            bail!("the host shows a certificate, which only the ssh program can check");
        };
        let known = match self.file.exists() {
            true => known_hosts::known_host_keys_path(&self.host, self.port, &self.file)?,
            false => Vec::new(),
        };
        if known.iter().any(|(_, known)| known == key) {
            return Ok(true);
        }
        // A key of another kind is another key, too.
        if !known.is_empty() {
            return Err(Failure::new(
                format!("the host key of {} is not the one it had", self.host),
                format!(
                    "if the host was made anew, remove its line from {}",
                    self.file.display()
                ),
            )
            .into());
        }
        known_hosts::learn_known_hosts_path(&self.host, self.port, key, &self.file)?;
        Ok(true)
    }
}

async fn connect(
    route: &SshRoute,
    ip: std::net::IpAddr,
    key: PathBuf,
) -> anyhow::Result<client::Handle<Pinned>> {
    let key = load_secret_key(&key, None)
        .with_context(|| format!("cannot use the key {}", key.display()))?;
    let port = route.port.unwrap_or(22);
    let pinned = Pinned {
        host: route.host.clone(),
        port,
        file: route.known_hosts.clone(),
    };
    let config = Arc::new(client::Config {
        keepalive_interval: Some(Duration::from_secs(60)),
        ..client::Config::default()
    });
    let mut session = client::connect(config, (ip, port), pinned)
        .await
        .with_context(|| format!("cannot reach {} port {port}", route.host))?;
    let user = route.user.as_deref().unwrap_or("root");
    let hash = match key.algorithm().is_rsa() {
        // Not SHA-1, which servers of today refuse, where the server does not say what it takes.
        true => session
            .best_supported_rsa_hash()
            .await?
            .unwrap_or(Some(HashAlg::Sha256)),
        false => None,
    };
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
    match session.authenticate_publickey(user, key).await? {
        AuthResult::Success => Ok(session),
        AuthResult::Failure { .. } => bail!("{user}@{}: the key is refused", route.host),
    }
}

/// Copies both directions until the far side ends.
async fn talk(mut channel: Channel<client::Msg>, words: &[String]) -> anyhow::Result<u8> {
    let terminal = words.is_empty() && std::io::stdin().is_terminal();
    let _raw = terminal.then(Raw::enter).transpose()?;
    if terminal {
        let (columns, rows) = crossterm::terminal::size()?;
        let kind = std::env::var("TERM").unwrap_or_else(|_| "xterm".into());
        channel
            .request_pty(false, &kind, columns.into(), rows.into(), 0, 0, &[])
            .await?;
    }
    match words {
        [] => channel.request_shell(true).await?,
        // As ssh does: the far shell gets one line.
        words => channel.exec(true, words.join(" ")).await?,
    }
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 * 1024];
    let mut asks = true;
    let mut code = None;
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        tokio::select! {
            read = stdin.read(&mut buffer), if asks => match read {
                Ok(count) if count > 0 => channel.data(&buffer[..count]).await?,
                _ => {
                    asks = false;
                    channel.eof().await?;
                }
            },
            said = channel.wait() => match said {
                Some(ChannelMsg::Data { data }) => {
                    stdout.write_all(&data).await?;
                    stdout.flush().await?;
                }
                Some(ChannelMsg::ExtendedData { data, .. }) => {
                    stderr.write_all(&data).await?;
                    stderr.flush().await?;
                }
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    code = Some(u8::try_from(exit_status).unwrap_or(u8::MAX));
                }
                Some(ChannelMsg::ExitSignal { .. }) => code = Some(u8::MAX),
                Some(ChannelMsg::Failure) => bail!("the machine refuses to run that"),
                Some(_) => {}
                None => break,
            },
        }
    }
    // As ssh has it: a connection that ends without a status is a failure of its own.
    Ok(code.unwrap_or(u8::MAX))
}

/// The terminal's own editing is off while this lives: the far side does it.
struct Raw;

impl Raw {
    fn enter() -> std::io::Result<Raw> {
        crossterm::terminal::enable_raw_mode().map(|()| Raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = crossterm::terminal::disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::client::Handler;
    use russh::keys::PublicKey;

    const FIRST: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFYF6ICGkfEjNPbUx53fG64TcV1X9YGugi8Sv4Wddl3z";
    const SECOND: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAm9ojsu1tNgNeHrkkTusHX/yUpXI4TehFw3IHRurmKc";

    #[tokio::test]
    async fn a_hosts_key_is_pinned_at_first_contact() {
        let folder = tempfile::tempdir().unwrap();
        let mut pinned = Pinned {
            host: "127.20.0.3".into(),
            port: 2222,
            file: folder.path().join("known_hosts"),
        };
        let key = |text: &str| PublicKeyOrCertificate::PublicKey {
            key: PublicKey::from_openssh(text).unwrap(),
            hash_alg: None,
        };
        assert!(pinned.check_server_key(&key(FIRST)).await.unwrap());
        assert!(pinned.check_server_key(&key(FIRST)).await.unwrap());
        let error = pinned.check_server_key(&key(SECOND)).await.unwrap_err();
        assert!(error.to_string().contains("not the one it had"), "{error}");
        let text = std::fs::read_to_string(&pinned.file).unwrap();
        assert_eq!(text.lines().filter(|line| !line.is_empty()).count(), 1);
        assert!(text.contains("[127.20.0.3]:2222 ssh-ed25519"), "{text}");
    }
}
