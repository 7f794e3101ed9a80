//! Small honest fakes of what containers stand on, for the tests here and those of the routes.
//!
//! [`FakeRuntime`] "runs" a handful of programs by their first argument: `echo WORDS`, `cat` (until its input ends), `sleep`
//! (until a signal), `stubborn` (until SIGKILL), `exit CODE`; `missing` and `forbidden` cannot be started. What it runs goes
//! on when the service over it is dropped, as real containers do.

mod files;
mod images;

pub use files::FakeContainerFiles;
pub use images::{FakeImages, FakeLayers, data_image, image_id};

use super::host::{HostFiles, HostLoad, InterfaceCounters, ProcessFacts};
use super::lifecycle::ContainerState;
use super::service::{ContainerService, Dependencies, Settings};
use super::spec::{Config, ContainerSpec, CreateRequest, HiddenEnv, HostSettings};
use super::store::{ContainerRecord, ContainerStore, ContainerStoreError, Durability};
use crate::clock::SystemClock;
use crate::events::EventBus;
use crate::id::ContainerId;
use crate::logs::{LogBatch, LogEntry, LogQuery, LogReader};
use crate::networks::NetworkService;
use crate::networks::fake::FakeNetwork;
use crate::runtime::{
    ExecPlan, ExecTask, ExitStatus, LaunchPlan, ProcessIo, ProcessPlan, Recovered, ResourcePlan,
    Runtime, RuntimeError, RuntimeFacts, Stats, StreamKind, Task, TtySize,
};
use crate::volumes::VolumeService;
use crate::volumes::fake::FakeVolumeStore;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("no code panics while it holds this lock")
}

/// Settings of a container that runs `sleep`.
pub fn spec() -> ContainerSpec {
    ContainerSpec {
        config: Config {
            cmd: Some(vec!["sleep".into()]),
            image: "busybox".into(),
            ..Config::default()
        },
        host: HostSettings {
            shm_size: 64 << 20,
            ..HostSettings::default()
        },
        image: image_id(),
        top_layer: None,
        platform: "linux".into(),
        mounts: Vec::new(),
        hidden_env: HiddenEnv::default(),
    }
}

/// A record of a container that was never started.
pub fn record(name: &str) -> ContainerRecord {
    ContainerRecord {
        id: ContainerId::random(),
        name: name.into(),
        created: OffsetDateTime::UNIX_EPOCH + time::Duration::nanoseconds(1_500_000_001),
        spec: spec(),
        state: ContainerState::Created,
        started_at: None,
        finished_at: None,
        exit_code: 0,
        error: String::new(),
        oom_killed: false,
        restart_count: 0,
        stopped_by_hand: false,
        paused_for_commit: false,
        network: None,
        health: None,
        memberships: None,
    }
}

/// A request for `busybox` with this command.
pub fn request(name: &str, command: &[&str]) -> CreateRequest {
    CreateRequest {
        name: Some(name.into()),
        config: Config {
            image: "busybox".into(),
            cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            ..Config::default()
        },
        ..CreateRequest::default()
    }
}

/// A service over fakes, which can be looked at.
pub struct World {
    pub runtime: Arc<FakeRuntime>,
    pub layers: Arc<FakeLayers>,
    pub networks: Arc<FakeNetwork>,
    pub network_service: Arc<NetworkService>,
    pub store: Arc<MemoryStore>,
    pub files: Arc<FakeFiles>,
    pub container_files: Arc<FakeContainerFiles>,
    pub volumes: Arc<VolumeService>,
    pub events: EventBus,
}

impl Default for World {
    fn default() -> Self {
        let events = EventBus::new();
        let volumes = VolumeService::empty(
            Arc::new(FakeVolumeStore::default()),
            events.clone(),
            Arc::new(SystemClock),
        );
        let networks = Arc::new(FakeNetwork::new());
        World {
            runtime: Arc::default(),
            layers: Arc::default(),
            network_service: Arc::new(networks.service(events.clone())),
            networks,
            store: Arc::default(),
            files: Arc::default(),
            container_files: Arc::default(),
            volumes: Arc::new(volumes),
            events,
        }
    }
}

impl World {
    /// A service over this world; a second one is what a restarted engine is.
    pub fn service(&self) -> Arc<ContainerService> {
        self.service_with(Settings {
            processors: 2,
            ..Settings::default()
        })
    }

    pub fn service_with(&self, settings: Settings) -> Arc<ContainerService> {
        ContainerService::new(Dependencies {
            runtime: self.runtime.clone(),
            images: Arc::new(FakeImages),
            layers: self.layers.clone(),
            networks: self.network_service.clone(),
            volumes: self.volumes.clone(),
            store: self.store.clone(),
            files: self.files.clone(),
            container_files: self.container_files.clone(),
            logs: Arc::new(FakeLogs {
                runtime: self.runtime.clone(),
            }),
            events: self.events.clone(),
            clock: Arc::new(SystemClock),
            settings,
        })
    }

    /// Actions of container events so far.
    pub fn actions(&self) -> Vec<String> {
        let (past, _) = self.events.subscribe();
        past.iter()
            .filter(|event| event.kind == crate::events::EventKind::Container)
            .map(|event| event.action.clone())
            .collect()
    }
}

/// Remembers the files it was given; only paths below `/exists` are there.
#[derive(Default)]
pub struct FakeFiles {
    pub written: Mutex<BTreeMap<PathBuf, String>>,
    pub folders: Mutex<BTreeSet<PathBuf>>,
    pub copied: Mutex<Vec<(String, PathBuf)>>,
}

#[async_trait]
impl HostFiles for FakeFiles {
    async fn write_all(
        &self,
        folder: &Path,
        files: Vec<(&'static str, String)>,
    ) -> std::io::Result<()> {
        let mut written = locked(&self.written);
        written.extend(
            files
                .into_iter()
                .map(|(name, text)| (folder.join(name), text)),
        );
        Ok(())
    }

    async fn read(&self, path: &Path) -> std::io::Result<String> {
        let text = locked(&self.written).get(path).cloned();
        text.ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    async fn exists(&self, path: &Path) -> bool {
        path.starts_with("/exists") || locked(&self.folders).contains(path)
    }

    async fn make_folder(&self, path: &Path) -> std::io::Result<()> {
        locked(&self.folders).insert(path.to_owned());
        Ok(())
    }

    async fn mount_shared_memory(&self, path: &Path, _: u64) -> std::io::Result<()> {
        locked(&self.folders).insert(path.to_owned());
        Ok(())
    }

    async fn unmount_shared_memory(&self, path: &Path) -> std::io::Result<()> {
        locked(&self.folders).remove(path);
        Ok(())
    }

    async fn copy_up(&self, _: &Path, target: &str, volume: &Path) -> std::io::Result<()> {
        locked(&self.copied).push((target.to_owned(), volume.to_owned()));
        Ok(())
    }

    async fn interfaces(&self, _: u32) -> BTreeMap<String, InterfaceCounters> {
        let counters = InterfaceCounters {
            received_bytes: 1000,
            sent_bytes: 500,
            ..InterfaceCounters::default()
        };
        BTreeMap::from([("eth0".to_owned(), counters)])
    }

    async fn load(&self) -> std::io::Result<HostLoad> {
        let now = OffsetDateTime::now_utc().unix_timestamp_nanos();
        Ok(HostLoad {
            processor_time: u64::try_from(now).unwrap_or(0),
            processors: 1,
            memory: 1 << 30,
        })
    }

    async fn processes(&self, pids: Vec<u32>, _threads: bool) -> Vec<ProcessFacts> {
        let facts = |pid| ProcessFacts {
            pid,
            thread: pid,
            parent: 1,
            start: "10:32".into(),
            terminal: "?".into(),
            command: "sleep".into(),
            ..ProcessFacts::default()
        };
        pids.into_iter().map(facts).collect()
    }
}

/// Records in memory, as bytes: what cannot be written and read back is not stored.
#[derive(Default)]
pub struct MemoryStore {
    records: Mutex<BTreeMap<ContainerId, Vec<u8>>>,
    /// The next save fails.
    pub fail_save: Mutex<bool>,
}

#[async_trait]
impl ContainerStore for MemoryStore {
    fn folder(&self, id: &ContainerId) -> PathBuf {
        PathBuf::from("/fake/containers").join(id.as_str())
    }

    async fn save(
        &self,
        record: &ContainerRecord,
        _: Durability,
    ) -> Result<(), ContainerStoreError> {
        if std::mem::take(&mut *locked(&self.fail_save)) {
            return Err(ContainerStoreError {
                step: "save".into(),
                source: std::io::Error::other("disk full"),
            });
        }
        let bytes = crate::record::encode(ContainerRecord::VERSION, record);
        locked(&self.records).insert(record.id.clone(), bytes);
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), ContainerStoreError> {
        locked(&self.records).remove(id);
        Ok(())
    }

    async fn load(&self) -> Result<Vec<ContainerRecord>, ContainerStoreError> {
        let records = locked(&self.records);
        Ok(records
            .values()
            .map(|bytes| {
                crate::record::decode(ContainerRecord::VERSION, bytes)
                    .expect("it was written by us")
            })
            .collect())
    }
}

/// See the module.
#[derive(Default)]
pub struct FakeRuntime {
    processes: Mutex<HashMap<ContainerId, Arc<Process>>>,
    ended: Mutex<HashMap<ContainerId, ExitStatus>>,
    logs: Arc<Mutex<HashMap<PathBuf, Vec<LogEntry>>>>,
    /// Plans as they were given.
    pub plans: Mutex<Vec<LaunchPlan>>,
    pub execs: Arc<Mutex<Vec<ExecPlan>>>,
    /// Limits as they were changed while containers ran.
    pub updates: Arc<Mutex<Vec<ResourcePlan>>>,
    last_pid: Arc<AtomicU32>,
}

impl FakeRuntime {
    /// As if the host had gone down: nothing runs, and nothing is known of what did.
    pub fn power_off(&self) {
        locked(&self.processes).clear();
        locked(&self.ended).clear();
    }

    /// Whether the kernel would have it frozen.
    pub fn is_frozen(&self, id: &ContainerId) -> bool {
        let processes = locked(&self.processes);
        processes[id].frozen.load(Ordering::SeqCst)
    }
}

struct Process {
    pid: u32,
    started: OffsetDateTime,
    plan: ProcessPlan,
    exit: watch::Sender<Option<ExitStatus>>,
    output: Mutex<Option<mpsc::Sender<(StreamKind, Bytes)>>>,
    pub size: Mutex<Option<TtySize>>,
    frozen: AtomicBool,
    /// Signals that came while it was frozen.
    waiting: Mutex<Vec<i32>>,
}

impl Process {
    fn end(&self, code: i32) {
        locked(&self.output).take();
        self.exit.send_if_modified(|exit| {
            let fresh = exit.is_none();
            if fresh {
                *exit = Some(ExitStatus {
                    code,
                    at: OffsetDateTime::now_utc(),
                    oom_killed: false,
                });
            }
            fresh
        });
    }

    fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        if self.exit.borrow().is_some() {
            return Err(RuntimeError::NotRunning);
        }
        if self.frozen.load(Ordering::SeqCst) && signal != 9 {
            locked(&self.waiting).push(signal);
            return Ok(());
        }
        let ignored = self.plan.args[0] == "stubborn" && signal != 9;
        if !ignored && [1, 2, 9, 15].contains(&signal) {
            self.end(128 + signal);
        }
        Ok(())
    }

    async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.subscribe();
        let status = exit
            .wait_for(Option::is_some)
            .await
            .expect("the process holds the sender");
        status.clone().expect("just looked")
    }
}

type LogSink = Box<dyn Fn(StreamKind, &Bytes) + Send + Sync>;

/// Starts a fake program.
fn spawn(
    plan: &ProcessPlan,
    pid: u32,
    log: LogSink,
) -> Result<(Arc<Process>, ProcessIo), RuntimeError> {
    let program = plan.args[0].clone();
    match program.as_str() {
        "missing" => return Err(RuntimeError::ProgramNotFound { program }),
        "forbidden" => {
            return Err(RuntimeError::ProgramNotExecutable {
                program,
                reason: "permission denied".into(),
            });
        }
        _ => {}
    }
    let (sender, output) = mpsc::channel(1);
    let (stdin, mut input) = mpsc::channel::<Bytes>(1);
    let process = Arc::new(Process {
        pid,
        started: OffsetDateTime::now_utc(),
        plan: plan.clone(),
        exit: watch::channel(None).0,
        output: Mutex::new(Some(sender)),
        size: Mutex::new(None),
        frozen: AtomicBool::new(false),
        waiting: Mutex::default(),
    });
    let running = process.clone();
    let args = plan.args.clone();
    tokio::spawn(async move {
        let write = async |stream: StreamKind, text: Bytes| {
            log(stream, &text);
            let sender = locked(&running.output).clone();
            if let Some(sender) = sender {
                let _ = sender.send((stream, text)).await;
            }
        };
        match args[0].as_str() {
            "echo" => {
                write(
                    StreamKind::Stdout,
                    format!("{}\n", args[1..].join(" ")).into(),
                )
                .await;
                running.end(0);
            }
            "cat" => {
                while let Some(data) = input.recv().await {
                    write(StreamKind::Stdout, data).await;
                }
                running.end(0);
            }
            "exit" => running.end(args.get(1).and_then(|code| code.parse().ok()).unwrap_or(0)),
            _ => {
                let _ = running.wait().await;
            }
        }
    });
    let stdin = plan.open_stdin.then_some(stdin);
    Ok((process, ProcessIo { stdin, output }))
}

struct FakeTask {
    process: Arc<Process>,
    pids: Arc<AtomicU32>,
    execs: Arc<Mutex<Vec<ExecPlan>>>,
    updates: Arc<Mutex<Vec<ResourcePlan>>>,
}

impl FakeRuntime {
    fn task(&self, process: Arc<Process>) -> Box<dyn Task> {
        Box::new(FakeTask {
            process,
            pids: self.last_pid.clone(),
            execs: self.execs.clone(),
            updates: self.updates.clone(),
        })
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn start(&self, plan: LaunchPlan) -> Result<(Box<dyn Task>, ProcessIo), RuntimeError> {
        let pid = self.last_pid.fetch_add(1, Ordering::Relaxed) + 100;
        let path = match &plan.log {
            crate::runtime::LogPlan::JsonFile { path, .. } => Some(path.clone()),
            crate::runtime::LogPlan::None => None,
        };
        let logs = self.logs.clone();
        let log = move |stream, line: &Bytes| {
            if let Some(path) = &path {
                let entry = LogEntry {
                    stream,
                    at: OffsetDateTime::now_utc(),
                    line: line.clone(),
                    attributes: BTreeMap::new(),
                };
                locked(&logs).entry(path.clone()).or_default().push(entry);
            }
        };
        let (process, io) = spawn(&plan.process, pid, Box::new(log))?;
        locked(&self.ended).remove(&plan.id);
        locked(&self.processes).insert(plan.id.clone(), process.clone());
        locked(&self.plans).push(plan);
        Ok((self.task(process), io))
    }

    async fn recover(&self, id: &ContainerId, _: &Path) -> Result<Recovered, RuntimeError> {
        if let Some(exit) = locked(&self.ended).get(id) {
            return Ok(Recovered::Exited(exit.clone()));
        }
        let Some(process) = locked(&self.processes).get(id).cloned() else {
            return Ok(Recovered::Lost);
        };
        let exit = process.exit.borrow().clone();
        if let Some(exit) = exit {
            return Ok(Recovered::Exited(exit));
        }
        // Output from now on goes to whoever recovered it.
        let (sender, output) = mpsc::channel(1);
        *locked(&process.output) = Some(sender);
        Ok(Recovered::Running(
            self.task(process),
            ProcessIo {
                stdin: None,
                output,
            },
        ))
    }

    async fn cleanup(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        if let Some(process) = locked(&self.processes).remove(id) {
            let exit = process.exit.borrow().clone();
            if let Some(exit) = exit {
                locked(&self.ended).insert(id.clone(), exit);
            }
        }
        Ok(())
    }

    fn has_weights(&self, device: &str) -> bool {
        device != "/dev/weightless"
    }

    fn facts(&self) -> RuntimeFacts {
        RuntimeFacts {
            cgroup_version: 2,
            memory_limit: true,
            swap_limit: true,
            cpu_cfs: true,
            cpu_shares: true,
            cpuset: true,
            pids_limit: true,
            blkio_weight: true,
            blkio_throttle: true,
            seccomp: true,
            ..RuntimeFacts::default()
        }
    }
}

#[async_trait]
impl Task for FakeTask {
    fn pid(&self) -> u32 {
        self.process.pid
    }

    fn started_at(&self) -> OffsetDateTime {
        self.process.started
    }

    async fn exec(&self, plan: ExecPlan) -> Result<(Box<dyn ExecTask>, ProcessIo), RuntimeError> {
        let pid = self.pids.fetch_add(1, Ordering::Relaxed) + 100;
        let (process, io) = spawn(&plan.process, pid, Box::new(|_, _| {}))?;
        locked(&self.execs).push(plan);
        Ok((Box::new(FakeExec { process }), io))
    }

    async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        self.process.signal(signal)
    }

    async fn resize(&self, size: TtySize) -> Result<(), RuntimeError> {
        *locked(&self.process.size) = Some(size);
        Ok(())
    }

    async fn pause(&self) -> Result<(), RuntimeError> {
        self.process.frozen.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn resume(&self) -> Result<(), RuntimeError> {
        self.process.frozen.store(false, Ordering::SeqCst);
        let waiting = std::mem::take(&mut *locked(&self.process.waiting));
        for signal in waiting {
            self.process.signal(signal)?;
        }
        Ok(())
    }

    async fn update(&self, resources: ResourcePlan) -> Result<(), RuntimeError> {
        locked(&self.updates).push(resources);
        Ok(())
    }

    async fn stats(&self) -> Result<Stats, RuntimeError> {
        Ok(crate::runtime::fake::stats(self.process.started))
    }

    async fn processes(&self) -> Result<Vec<u32>, RuntimeError> {
        Ok(vec![self.process.pid])
    }

    async fn out_of_memory(&self, known: u64) -> u64 {
        if self.process.plan.args[0] == "greedy" && known < GREEDY {
            return GREEDY;
        }
        std::future::pending().await
    }

    async fn wait(&self) -> ExitStatus {
        self.process.wait().await
    }
}

/// How often the fake program `greedy` runs out of memory before it goes on with less.
const GREEDY: u64 = 2;

struct FakeExec {
    process: Arc<Process>,
}

#[async_trait]
impl ExecTask for FakeExec {
    fn pid(&self) -> u32 {
        self.process.pid
    }

    async fn resize(&self, size: TtySize) -> Result<(), RuntimeError> {
        *locked(&self.process.size) = Some(size);
        Ok(())
    }

    async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        self.process.signal(signal)
    }

    async fn wait(&self) -> ExitStatus {
        self.process.wait().await
    }
}

/// Reads what the fake runtime logged.
pub struct FakeLogs {
    runtime: Arc<FakeRuntime>,
}

#[async_trait]
impl LogReader for FakeLogs {
    async fn read(
        &self,
        query: LogQuery,
        follow: Option<watch::Receiver<bool>>,
    ) -> std::io::Result<mpsc::Receiver<LogBatch>> {
        let logs = self.runtime.logs.clone();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            if let Some(mut ended) = follow {
                let _ = ended.wait_for(|ended| *ended).await;
            }
            let entries = locked(&logs).get(&query.path).cloned().unwrap_or_default();
            let wanted: Vec<LogEntry> = entries
                .into_iter()
                .filter(|entry| match entry.stream {
                    StreamKind::Stdout => query.stdout,
                    StreamKind::Stderr => query.stderr,
                })
                .collect();
            let skip = query
                .tail
                .map_or(0, |tail| wanted.len().saturating_sub(tail));
            let batch: Vec<LogEntry> = wanted.into_iter().skip(skip).collect();
            if !batch.is_empty() {
                // Whoever asked may have gone.
                let _ = sender.send(Ok(batch)).await;
            }
        });
        Ok(receiver)
    }
}
