//! The machine that is played.

use crate::options::{Chardev, Options};
use guest_contract::control::ControlRequest;
use guest_contract::readiness::{Outcome, ReadinessEvent, Stage};
use guest_contract::share::Word;
use guest_contract::{API_PORT, CONTROL_PORT_NAME, GUEST_SSH_PORT};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use tokio::net::{TcpListener, TcpStream};

/// As QEMU's `char-win.h` has them.
const BUFFER: u32 = 2048;
const FUSE_INIT: u32 = 26;
const FUSE_GETATTR: u32 = 3;
const ROOT: u64 = 1;

type Console = Arc<Mutex<Option<File>>>;

pub fn run(options: Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match runtime.block_on(play(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("qemu-system-x86_64: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn play(options: Options) -> Result<(), String> {
    for (path, writable) in &options.disks {
        let opened = OpenOptions::new().read(true).write(*writable).open(path);
        opened.map_err(|error| format!("Could not open '{path}': {error}"))?;
    }
    for path in [&options.kernel, &options.initrd] {
        File::open(path).map_err(|error| format!("could not load kernel '{path}': {error}"))?;
    }
    let console = Console::default();
    let mut pipes = HashMap::new();
    for chardev in &options.chardevs {
        match chardev {
            Chardev::Pipe { id, name } => {
                pipes.insert(id.clone(), open(name).await?);
            }
            Chardev::File { path, .. } => {
                let file = File::create(path).map_err(|error| format!("{path}: {error}"))?;
                *console.lock().unwrap() = Some(file);
            }
        }
    }
    say(&console, "Linux version 6 (a stand-in)");
    let mut paused = false;
    if let Some(from) = &options.incoming {
        let path = from
            .strip_prefix("file:")
            .ok_or_else(|| format!("unknown migration protocol: {from}"))?;
        let memory = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        say(&console, &format!("resumed with {}", memory.len()));
        paused = true;
    }
    let mut shares = Vec::new();
    for (chardev, name) in &options.ports {
        let pipe = pipes
            .remove(chardev)
            .ok_or_else(|| format!("no chardev {chardev}"))?;
        if name == CONTROL_PORT_NAME {
            let (console, forwards) = (console.clone(), options.forwards.clone());
            tokio::spawn(control(pipe, console, forwards));
        } else {
            shares.push((name.clone(), pipe));
        }
    }
    let resumed = paused;
    for (name, pipe) in shares {
        tokio::spawn(share(name, pipe, console.clone(), resumed));
    }
    let qmp = pipes.remove("qmp").ok_or("no monitor")?;
    monitor(qmp, paused)
        .await
        .map_err(|error| error.to_string())
}

/// QEMU's `win_chr_pipe_init`: the next option waits until somebody is there.
async fn open(name: &str) -> Result<NamedPipeServer, String> {
    let pipe = ServerOptions::new()
        .max_instances(1)
        .in_buffer_size(BUFFER)
        .out_buffer_size(BUFFER)
        .create(format!(r"\\.\pipe\{name}"))
        .map_err(|error| format!("Failed CreateNamedPipe: {error}"))?;
    let connected = pipe.connect().await;
    connected.map_err(|error| format!("Failed ConnectNamedPipe: {error}"))?;
    Ok(pipe)
}

fn say(console: &Console, line: &str) {
    if let Some(file) = console.lock().unwrap().as_mut() {
        let _ = writeln!(file, "{line}");
    }
}

/// Answers until it is told to end.
async fn monitor(pipe: NamedPipeServer, mut paused: bool) -> std::io::Result<()> {
    let (reader, mut writer) = tokio::io::split(pipe);
    let mut lines = BufReader::new(reader).lines();
    writer
        .write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n")
        .await?;
    while let Some(line) = lines.next_line().await? {
        let request: Value = serde_json::from_str(&line)?;
        let arguments = &request["arguments"];
        let command = request["execute"].as_str().unwrap_or_default();
        let answer = match command {
            "query-status" if paused => json!({"status": "paused"}),
            "query-status" => json!({"status": "running"}),
            "cont" | "stop" => {
                paused = command == "stop";
                json!({})
            }
            "migrate" => {
                let uri = arguments["uri"].as_str().unwrap_or_default();
                let path = uri.strip_prefix("file:").unwrap_or_default();
                std::fs::write(path, vec![7; 100_000])?;
                json!({})
            }
            "query-migrate" => json!({"status": "completed"}),
            "human-monitor-command" => json!(""),
            _ => json!({}),
        };
        let id = &request["id"];
        // Events come in between, and nobody asks for them.
        let event =
            json!({"event": "STAND_IN", "data": {"command": command, "text": "x".repeat(500)}});
        let text = format!("{event}\r\n{}\r\n", json!({"return": answer, "id": id}));
        writer.write_all(text.as_bytes()).await?;
        if command == "qmp_capabilities" {
            // More than a pipe holds: a desktop that only reads when it has asked something stops the machine here.
            let more = format!("{event}\r\n").repeat(100);
            writer.write_all(more.as_bytes()).await?;
        }
        writer.flush().await?;
        if command == "quit" {
            // The answer is on its way.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Ok(());
        }
    }
    Ok(())
}

/// The guest's `init`: tells how far it is, and powers off when asked.
async fn control(pipe: NamedPipeServer, console: Console, forwards: Vec<(Ipv4Addr, u16, u16)>) {
    for (address, port, _) in forwards
        .iter()
        .filter(|forward| forward.2 == GUEST_SSH_PORT)
    {
        tokio::spawn(greet((*address, *port)));
    }
    let api = forwards.iter().find(|forward| forward.2 == API_PORT);
    let Some((address, port, _)) = api.copied() else {
        return;
    };
    let (reader, writer) = tokio::io::split(pipe);
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let reached = Arc::new(Mutex::new(Vec::new()));
    {
        let (writer, reached) = (writer.clone(), reached.clone());
        tokio::spawn(async move {
            for stage in Stage::ALL {
                // The engine is the test's.
                while stage == Stage::Api && TcpStream::connect((address, port)).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                let event = ReadinessEvent {
                    stage,
                    outcome: Outcome::Ready,
                    uptime_ms: 1,
                    message: None,
                    address: None,
                };
                reached.lock().unwrap().push(event.to_line());
                let _ = writer
                    .lock()
                    .await
                    .write_all(event.to_line().as_bytes())
                    .await;
            }
        });
    }
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match ControlRequest::from_line(&line) {
            Some(ControlRequest::PowerOff) => {
                say(&console, "powering off");
                std::process::exit(0);
            }
            Some(ControlRequest::Report) => {
                let text = reached.lock().unwrap().concat();
                let _ = writer.lock().await.write_all(text.as_bytes()).await;
            }
            Some(ControlRequest::SetTime { .. }) => say(&console, "clock set"),
            None => say(&console, &format!("not understood: {line}")),
        }
    }
}

/// The guest's sshd, as far as the driver waits for it.
async fn greet(address: (Ipv4Addr, u16)) {
    let Ok(listener) = TcpListener::bind(address).await else {
        return;
    };
    while let Ok((mut stream, _)) = listener.accept().await {
        let _ = stream.write_all(b"SSH-2.0-stand-in\r\n").await;
    }
}

/// The guest's kernel: asks for the folder itself, and lets go of it when asked.
async fn share(name: String, mut pipe: NamedPipeServer, console: Console, resumed: bool) {
    if !resumed {
        let mut greeting = Vec::new();
        for number in [7u32, 31, 65536, 0] {
            greeting.extend(number.to_le_bytes());
        }
        greeting.resize(64, 0);
        let asked = [(FUSE_INIT, greeting), (FUSE_GETATTR, vec![0; 16])];
        for (opcode, body) in asked {
            let request = request(opcode, &body);
            let answer = match pipe.write_all(&request).await {
                Ok(()) => message(&mut pipe).await,
                Err(error) => Err(error),
            };
            let text = match answer {
                Ok(answer) => {
                    let error = i32::from_le_bytes(answer[4..8].try_into().expect("4 bytes"));
                    format!(
                        "{name}: {opcode} answered with {error}, {} bytes",
                        answer.len()
                    )
                }
                Err(error) => format!("{name}: {opcode} failed: {error}"),
            };
            say(&console, &text);
        }
    }
    while let Ok(message) = message(&mut pipe).await {
        match Word::from_bytes(&message) {
            Some(Word::Go) => say(&console, &format!("{name}: goes on")),
            Some(word) => {
                let _ = pipe.write_all(&word.to_bytes()).await;
            }
            None => say(&console, &format!("{name}: an answer to nothing")),
        }
    }
}

fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((40 + body.len()) as u32).to_le_bytes().to_vec();
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(7u64.to_le_bytes());
    bytes.extend(ROOT.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

async fn message(pipe: &mut NamedPipeServer) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    pipe.read_exact(&mut length).await?;
    let mut message = length.to_vec();
    message.resize(u32::from_le_bytes(length).max(8) as usize, 0);
    pipe.read_exact(&mut message[4..]).await?;
    Ok(message)
}
