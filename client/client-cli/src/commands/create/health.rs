//! How a container is asked how it is.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
#[command(next_help_heading = "Health")]
pub(super) struct Health {
    /// Shell command that tells how it is
    #[arg(long)]
    health_cmd: Option<String>,
    /// Time between checks, for example 30s
    #[arg(long)]
    health_interval: Option<String>,
    /// Time a check may take
    #[arg(long)]
    health_timeout: Option<String>,
    /// Failures that make it unhealthy
    #[arg(long)]
    health_retries: Option<u32>,
    /// Time it has before failures count
    #[arg(long)]
    health_start_period: Option<String>,
    /// Time between checks in that time
    #[arg(long)]
    health_start_interval: Option<String>,
    /// Leave out the image's own check
    #[arg(long)]
    no_healthcheck: bool,
}

impl Health {
    /// `None` is the image's own.
    pub(super) fn check(&self) -> Result<Option<Value>> {
        let mut check = Map::new();
        for (key, flag, text) in [
            ("Interval", "health-interval", &self.health_interval),
            ("Timeout", "health-timeout", &self.health_timeout),
            (
                "StartPeriod",
                "health-start-period",
                &self.health_start_period,
            ),
            (
                "StartInterval",
                "health-start-interval",
                &self.health_start_interval,
            ),
        ] {
            let Some(text) = text else { continue };
            let span = dockerfile::duration::parse(text)
                .filter(|span| *span >= 0)
                .with_context(|| {
                    format!("invalid --{flag} '{text}': expected a time like 30s or 1m30s")
                })?;
            check.insert(key.into(), json!(span));
        }
        if let Some(times) = self.health_retries {
            check.insert("Retries".into(), json!(times));
        }
        if let Some(command) = &self.health_cmd {
            check.insert("Test".into(), json!(["CMD-SHELL", command]));
        }
        if self.no_healthcheck {
            if !check.is_empty() {
                bail!("--no-healthcheck conflicts with --health-* options");
            }
            check.insert("Test".into(), json!(["NONE"]));
        }
        Ok((!check.is_empty()).then_some(check.into()))
    }
}
