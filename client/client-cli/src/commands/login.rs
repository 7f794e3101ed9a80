//! `berth login`

use crate::credentials::{Config, Credentials, server_name};
use crate::engine::Engine;
use crate::{prompt, show};
use anyhow::{Context, Result, bail};
use std::io::Read;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(short, long)]
    username: Option<String>,
    /// Everybody on this host can see it: --password-stdin is better
    #[arg(short, long)]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, conflicts_with = "password")]
    password_stdin: bool,
    /// Registry [default: Docker Hub]
    server: Option<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let server = server_name(options.server.as_deref().unwrap_or_default());
    let mut config = Config::load()?;
    let known = match (&options.username, &options.password, options.password_stdin) {
        (None, None, false) => config.get(&server)?,
        _ => None,
    };
    // What is known is tried first, as docker does.
    if let Some(known) = known
        && let Ok(answer) = engine.post("/auth", Some(&known.to_body(&server))).await
    {
        show::print("Authenticating with existing credentials...\n")?;
        return finish(&mut config, &server, known, &answer);
    }
    let username = match &options.username {
        Some(name) => name.clone(),
        None if options.password_stdin => bail!("must provide --username with --password-stdin"),
        None => prompt::line("Username: ")?,
    };
    if username.is_empty() {
        bail!("username is empty");
    }
    let password = match (&options.password, options.password_stdin) {
        (Some(password), _) => {
            eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password.clone()
        }
        (None, true) => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read the password")?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
        (None, false) => prompt::secret("Password: ")?,
    };
    if password.is_empty() {
        bail!("password is empty");
    }
    let credentials = Credentials {
        username,
        password,
        ..Credentials::default()
    };
    let answer = engine
        .post("/auth", Some(&credentials.to_body(&server)))
        .await?;
    finish(&mut config, &server, credentials, &answer)
}

fn finish(
    config: &mut Config,
    server: &str,
    mut credentials: Credentials,
    answer: &serde_json::Value,
) -> Result<u8> {
    if let Some(token) = answer["IdentityToken"]
        .as_str()
        .filter(|token| !token.is_empty())
    {
        credentials.identity_token = token.to_owned();
        credentials.password.clear();
    }
    if config.helper(server).is_none() {
        eprintln!(
            "WARNING! Your credentials are stored unencrypted in '{}'.",
            config.path().display()
        );
    }
    config.store(server, &credentials)?;
    let status = answer["Status"].as_str().unwrap_or("Login Succeeded");
    show::print(&format!("{status}\n"))?;
    Ok(0)
}
