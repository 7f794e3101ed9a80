//! Health checks: a program run in the container every now and then, and what its exit codes say.
//!
//! ```text
//!            0                    `retries` failures in a row
//!  starting ---> healthy <----------------------------------> unhealthy
//!      '-- failures within the start period do not count --^        (0 makes it healthy again)
//! ```
//!
//! The supervisor owns the state and sets the pace; here are the rules, and one probe. Numbers and texts are moby's
//! (`daemon/health.go`).

use super::container::Container;
use super::plan::{self, ExecSettings};
use super::service::Dependencies;
use super::spec::Config;
use crate::error::full_message;
use crate::id::ExecId;
use crate::images::Healthcheck;
use crate::runtime::{ExecPlan, RuntimeError, Task};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Probes remembered.
const KEPT: usize = 5;
/// Bytes of a probe's output that are remembered.
const OUTPUT: usize = 4096;
/// How long a killed probe may take to end before nobody waits for it any more.
const LAST_BREATH: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthStatus {
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// Docker's `State.Health.Status`.
    pub fn name(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last probes, oldest first.
    pub log: Vec<ProbeResult>,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    #[serde(with = "time::serde::rfc3339")]
    pub start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub end: OffsetDateTime,
    /// -1 where it could not be run or did not end in time.
    pub exit_code: i32,
    pub output: String,
}

/// A check with every default applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPlan {
    pub args: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub start_period: Duration,
    pub start_interval: Duration,
    pub retries: u32,
}

impl HealthPlan {
    /// `None` where there is nothing to check.
    pub fn of(config: &Config) -> Option<HealthPlan> {
        let check = config.healthcheck.as_ref()?;
        let (kind, words) = check.test.split_first()?;
        let args = match kind.as_str() {
            "CMD" if !words.is_empty() => words.to_vec(),
            "CMD-SHELL" => {
                let shell = config.shell.clone().filter(|shell| !shell.is_empty());
                let mut args = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                args.extend(words.iter().cloned());
                args
            }
            _ => return None,
        };
        let time = |nanoseconds: i64, default: u64| match u64::try_from(nanoseconds) {
            Ok(0) | Err(_) => Duration::from_secs(default),
            Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
        };
        Some(HealthPlan {
            args,
            interval: time(check.interval, 30),
            timeout: time(check.timeout, 30),
            start_period: time(check.start_period, 0),
            start_interval: time(check.start_interval, 5),
            retries: u32::try_from(check.retries)
                .ok()
                .filter(|retries| *retries > 0)
                .unwrap_or(3),
        })
    }

    /// Until the next probe.
    fn pause(&self, status: HealthStatus, running_for: Duration) -> Duration {
        if status == HealthStatus::Starting && running_for < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }
}

/// Refuses what makes no sense (moby's `validateHealthCheck`); returns a warning for a check that will not be run.
pub fn check(check: &Healthcheck) -> Result<Option<String>, String> {
    const LEAST: i64 = 1_000_000;
    for (value, name) in [
        (check.interval, "Interval"),
        (check.timeout, "Timeout"),
        (check.start_period, "StartPeriod"),
        (check.start_interval, "StartInterval"),
    ] {
        if value != 0 && value < LEAST {
            return Err(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
    }
    if check.retries < 0 {
        return Err("Retries in Healthcheck cannot be negative".into());
    }
    match check.test.first().map(String::as_str) {
        None | Some("NONE" | "CMD-SHELL" | "CMD") => Ok(None),
        Some(other) => Ok(Some(format!(
            "Unknown healthcheck type '{other}' (expected 'CMD', 'CMD-SHELL' or 'NONE'): the container will have no health status"
        ))),
    }
}

impl Health {
    /// At the start of a run; what earlier runs' probes said stays to be read.
    pub fn starting(before: Option<&Health>) -> Health {
        Health {
            status: HealthStatus::Starting,
            failing_streak: 0,
            log: before.map(|health| health.log.clone()).unwrap_or_default(),
        }
    }

    /// Takes in what a probe said, of a container that runs since `started`.
    pub fn judge(&mut self, plan: &HealthPlan, result: ProbeResult, started: OffsetDateTime) {
        let at = result.start;
        let good = result.exit_code == 0;
        if self.log.len() >= KEPT {
            self.log.drain(..=self.log.len() - KEPT);
        }
        self.log.push(result);
        if good {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
            return;
        }
        let lenient = self.status == HealthStatus::Starting && at - started < plan.start_period;
        if !lenient {
            self.failing_streak += 1;
            if self.failing_streak >= plan.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
    }
}

/// The pace of one run's probes, and the one that is under way.
pub(super) struct Monitor {
    pub(super) plan: HealthPlan,
    /// `None` while the container is paused.
    due: Option<Instant>,
    probe: Option<Probe>,
}

/// A probe under way. Dropping it kills its process.
struct Probe {
    result: JoinHandle<ProbeResult>,
    _cancel: oneshot::Sender<()>,
}

/// What a monitor wants.
pub(super) enum Beat {
    /// It is time for [`Monitor::probe`].
    Due,
    Result(ProbeResult),
}

impl Monitor {
    pub(super) fn new(plan: HealthPlan) -> Monitor {
        Monitor {
            plan,
            due: None,
            probe: None,
        }
    }

    /// Sets the time of the next probe.
    pub(super) fn schedule(&mut self, status: HealthStatus, running_for: Duration) {
        self.due = Some(Instant::now() + self.plan.pause(status, running_for));
    }

    /// No probes until [`Monitor::schedule`].
    pub(super) fn rest(&mut self) {
        self.due = None;
        self.probe = None;
    }

    /// Can be dropped and called again without losing anything.
    pub(super) async fn beat(&mut self) -> Beat {
        if let Some(probe) = &mut self.probe {
            let result = (&mut probe.result).await;
            self.probe = None;
            return Beat::Result(result.unwrap_or_else(|error| {
                let now = OffsetDateTime::now_utc();
                failed(now, now, error.to_string())
            }));
        }
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
        self.due = None;
        Beat::Due
    }

    /// Starts a probe. `linked`: the variables of the container's links.
    pub(super) fn probe(
        &mut self,
        deps: &Arc<Dependencies>,
        container: &Arc<Container>,
        task: Arc<dyn Task>,
        linked: Vec<String>,
    ) {
        let (cancel, cancelled) = oneshot::channel();
        let settings = ExecSettings {
            args: self.plan.args.clone(),
            linked,
            ..ExecSettings::default()
        };
        let (deps, container, plan) = (deps.clone(), container.clone(), self.plan.clone());
        let work =
            async move { probe(&deps, &container, &*task, &plan, &settings, cancelled).await };
        self.probe = Some(Probe {
            result: tokio::spawn(work),
            _cancel: cancel,
        });
    }
}

fn failed(start: OffsetDateTime, end: OffsetDateTime, output: String) -> ProbeResult {
    ProbeResult {
        start,
        end,
        exit_code: -1,
        output,
    }
}

fn exec_plan(container: &Container, settings: &ExecSettings) -> Result<ExecPlan, String> {
    Ok(ExecPlan {
        id: ExecId::random(),
        process: plan::exec_process(&container.id, &container.spec, settings)?,
        privileged: false,
    })
}

async fn probe(
    deps: &Dependencies,
    container: &Container,
    task: &dyn Task,
    plan: &HealthPlan,
    settings: &ExecSettings,
    cancelled: oneshot::Receiver<()>,
) -> ProbeResult {
    let start = deps.clock.now();
    let exec = match exec_plan(container, settings) {
        Ok(exec) => exec,
        Err(why) => return failed(start, deps.clock.now(), why),
    };
    let id = exec.id.to_string();
    // As Docker writes it: with the blank before arguments, also where there is none.
    let (program, arguments) = plan.args.split_first().expect("a check has a command");
    let command = format!("{program} {}", arguments.join(" "));
    let tell = |action: &str| {
        deps.tell(
            container,
            &format!("{action}: {command}"),
            [("execID", id.clone())],
        );
    };
    tell("exec_create");
    let too_slow = format!(
        "Health check exceeded timeout ({})",
        go_duration(plan.timeout)
    );
    let deadline = Instant::now() + plan.timeout;
    // Even the start of a process takes for ever where somebody has frozen the container from outside.
    let started = tokio::time::timeout_at(deadline, task.exec(exec)).await;
    let (process, mut io) = match started {
        Ok(Ok(started)) => started,
        Err(_) => return failed(start, deps.clock.now(), too_slow),
        Ok(Err(RuntimeError::NotRunning)) => {
            let why = format!("container {} is not running", container.id);
            return failed(start, deps.clock.now(), why);
        }
        Ok(Err(cause)) => {
            let error = super::ContainerError::Exec { cause };
            return failed(start, deps.clock.now(), full_message(&error));
        }
    };
    tell("exec_start");
    let mut output = Output::default();
    let work = async {
        let exit = process.wait();
        tokio::pin!(exit);
        loop {
            // What a program leaves behind may hold its output open: its own end counts.
            tokio::select! {
                biased;
                Some((_, data)) = io.output.recv() => output.push(&data),
                exit = &mut exit => break exit.code,
            }
        }
    };
    let ended = tokio::select! {
        code = work => Some(code),
        () = tokio::time::sleep_until(deadline) => None,
        _ = cancelled => {
            let _ = process.signal(super::signals::KILL).await;
            return failed(start, deps.clock.now(), "the health check was interrupted".into());
        }
    };
    let code = match ended {
        Some(code) => {
            while let Ok((_, data)) = io.output.try_recv() {
                output.push(&data);
            }
            code
        }
        None => {
            let _ = process.signal(super::signals::KILL).await;
            let exit = tokio::time::timeout(LAST_BREATH, process.wait()).await;
            exit.map_or(137, |exit| exit.code)
        }
    };
    let attributes = [("execID", id.clone()), ("exitCode", code.to_string())];
    deps.tell(container, "exec_die", attributes);
    let end = deps.clock.now();
    let output = output.text();
    if ended.is_none() {
        return failed(
            start,
            end,
            if output.is_empty() {
                too_slow
            } else {
                format!("{too_slow}: {output}")
            },
        );
    }
    ProbeResult {
        start,
        end,
        exit_code: code,
        output,
    }
}

/// The beginning of what a probe wrote.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    cut: bool,
}

impl Output {
    fn push(&mut self, data: &[u8]) {
        let room = OUTPUT - self.bytes.len();
        self.bytes.extend_from_slice(&data[..data.len().min(room)]);
        self.cut |= data.len() > room;
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.cut {
            text.push_str("...");
        }
        text
    }
}

/// As Go writes durations: `1m30s`, `1.5s`, `500ms`.
pub fn go_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds == 0 {
        let nanoseconds = time.as_nanos();
        return match nanoseconds {
            0 => "0s".into(),
            1..1_000 => format!("{nanoseconds}ns"),
            1_000..1_000_000 => format!("{}µs", nanoseconds as f64 / 1e3),
            _ => format!("{}ms", nanoseconds as f64 / 1e6),
        };
    }
    let rest = (seconds % 60) as f64 + f64::from(time.subsec_nanos()) / 1e9;
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(test: &[&str]) -> Config {
        Config {
            healthcheck: Some(Healthcheck {
                test: test.iter().map(|word| (*word).to_owned()).collect(),
                ..Healthcheck::default()
            }),
            ..Config::default()
        }
    }

    fn result(code: i32, seconds: i64) -> ProbeResult {
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
        ProbeResult {
            start: at,
            end: at,
            exit_code: code,
            output: String::new(),
        }
    }

    #[test]
    fn forms_and_defaults() {
        assert_eq!(HealthPlan::of(&config(&["NONE"])), None);
        assert_eq!(HealthPlan::of(&config(&[])), None);
        assert_eq!(HealthPlan::of(&Config::default()), None);
        let plan = HealthPlan::of(&config(&["CMD-SHELL", "exit 0"])).expect("a check");
        assert_eq!(plan.args, ["/bin/sh", "-c", "exit 0"]);
        assert_eq!(
            (
                plan.interval.as_secs(),
                plan.timeout.as_secs(),
                plan.retries
            ),
            (30, 30, 3)
        );
        let mut shell = config(&["CMD-SHELL", "x"]);
        shell.shell = Some(vec!["/bin/ash".into(), "-ec".into()]);
        assert_eq!(
            HealthPlan::of(&shell).expect("a check").args,
            ["/bin/ash", "-ec", "x"]
        );
        let plan = HealthPlan::of(&config(&["CMD", "a", "b"])).expect("a check");
        assert_eq!(plan.args, ["a", "b"]);
    }

    #[test]
    fn failures_count_after_the_start_period_and_a_success_ends_them() {
        let mut plan = HealthPlan::of(&config(&["CMD", "x"])).expect("a check");
        (plan.retries, plan.start_period) = (2, Duration::from_secs(10));
        let started = OffsetDateTime::UNIX_EPOCH;
        let mut health = Health::starting(None);
        for second in 1..9 {
            health.judge(&plan, result(1, second), started);
        }
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Starting, 0)
        );
        assert_eq!(health.log.len(), KEPT);
        assert_eq!(health.log[4], result(1, 8), "the newest is last");
        health.judge(&plan, result(1, 11), started);
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Starting, 1)
        );
        health.judge(&plan, result(-1, 12), started);
        assert_eq!(health.status, HealthStatus::Unhealthy);
        health.judge(&plan, result(0, 13), started);
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Healthy, 0)
        );
        // Once healthy, the start period is over.
        health.judge(&plan, result(1, 5), started);
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Healthy, 1)
        );
    }

    #[test]
    fn probes_come_quicker_while_it_starts() {
        let mut plan = HealthPlan::of(&config(&["CMD", "x"])).expect("a check");
        plan.start_period = Duration::from_secs(60);
        let pause = |status, seconds| plan.pause(status, Duration::from_secs(seconds)).as_secs();
        assert_eq!(pause(HealthStatus::Starting, 0), 5);
        assert_eq!(pause(HealthStatus::Healthy, 0), 30);
        assert_eq!(pause(HealthStatus::Starting, 61), 30);
    }

    #[test]
    fn what_docker_refuses() {
        let refused = |change: fn(&mut Healthcheck)| {
            let mut bad = Healthcheck::default();
            change(&mut bad);
            check(&bad).expect_err("Docker refuses this")
        };
        assert_eq!(
            refused(|one| one.interval = 5),
            "Interval in Healthcheck cannot be less than 1ms"
        );
        assert_eq!(
            refused(|one| one.retries = -1),
            "Retries in Healthcheck cannot be negative"
        );
        let odd = Healthcheck {
            test: vec!["HTTP".into()],
            ..Healthcheck::default()
        };
        let warning = check(&odd).expect("only a warning").expect("a warning");
        assert!(warning.contains("'HTTP'"), "{warning}");
    }

    #[test]
    fn output_is_cut_and_durations_are_gos() {
        let mut output = Output::default();
        output.push(&[b'x'; 5000]);
        assert_eq!(output.text().len(), OUTPUT + 3);
        assert_eq!(go_duration(Duration::from_millis(1500)), "1.5s");
        assert_eq!(go_duration(Duration::from_secs(90)), "1m30s");
        assert_eq!(go_duration(Duration::from_secs(3600)), "1h0m0s");
        assert_eq!(go_duration(Duration::from_millis(250)), "250ms");
    }
}
