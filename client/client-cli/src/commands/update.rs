//! `berth update`

use super::each;
use super::resources::Resources;
use crate::engine::{Engine, escape};
use crate::parse;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    resources: Resources,
    /// no, on-failure[:times], always or unless-stopped
    #[arg(long)]
    restart: Option<String>,
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let body = body(options)?;
    each(&options.containers, async |name| {
        let path = format!("/containers/{}/update", escape(name));
        let answer = engine.post(&path, Some(&body)).await?;
        let warnings = answer["Warnings"].as_array().into_iter().flatten();
        for warning in warnings.filter_map(Value::as_str) {
            eprintln!("WARNING: {warning}");
        }
        Ok(Some(name.to_owned()))
    })
    .await
}

fn body(options: &Options) -> Result<Value> {
    let mut body = Map::new();
    options.resources.add(&mut body)?;
    if let Some(text) = &options.restart {
        let (name, times) = parse::restart_policy(text)?;
        body.insert(
            "RestartPolicy".into(),
            json!({ "Name": name, "MaximumRetryCount": times }),
        );
    }
    if body.is_empty() {
        bail!("you must provide one or more flags: 'berth update --help' lists them");
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parsed(words: &str) -> Result<Value> {
        body(&Line::try_parse_from(std::iter::once("update").chain(words.split(' ')))?.options)
    }

    #[test]
    fn flags_become_the_body() {
        let body =
            parsed("-m 64m --memory-swap -1 --cpus 0.5 --pids-limit -1 --restart on-failure:3 web");
        assert_eq!(
            body.expect("good"),
            json!({
                "Memory": 64 << 20, "MemorySwap": -1, "NanoCpus": 500_000_000, "PidsLimit": -1,
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            })
        );
        for bad in [
            "web",
            "-m lots web",
            "--cpus 0 web",
            "--restart perhaps web",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
