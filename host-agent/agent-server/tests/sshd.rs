//! `host-agent sshd` against OpenSSH's own clients.

use engine_linux::pty::{self, Size};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

/// A running server with a key that may log in; ends with the test.
struct Server {
    folder: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_key(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

impl Server {
    /// `None`, with a line that says why, where there are no clients to test with.
    fn start() -> Option<Server> {
        for program in ["ssh", "scp", "sftp", "ssh-keygen"] {
            if !Path::new("/usr/bin").join(program).exists() {
                println!("skipped: {program} is not installed");
                return None;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        make_key(&folder.path().join("key"));
        make_key(&folder.path().join("other"));
        fs::copy(
            folder.path().join("key.pub"),
            folder.path().join("authorized_keys"),
        )
        .unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_host-agent"))
            .args(["sshd", "--listen", "127.0.0.1:0", "--user", "docker"])
            .arg("--authorized-keys")
            .arg(folder.path().join("authorized_keys"))
            .arg("--host-key")
            .arg(folder.path().join("host_key"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = loop {
            let line = log.next().expect("the server ended").unwrap();
            if let Some((_, address)) = line.split_once("address=127.0.0.1:") {
                break address.trim().parse().unwrap();
            }
        };
        std::thread::spawn(move || log.for_each(drop));
        Some(Server {
            folder,
            child,
            port,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self, key: &str) -> Vec<String> {
        let mut options = vec!["-F".into(), "/dev/null".into()];
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "LogLevel=ERROR",
            "ConnectTimeout=30",
        ] {
            options.extend(["-o".into(), option.into()]);
        }
        options.extend(["-i".into(), self.path(key).display().to_string()]);
        options
    }

    /// `ssh` with nothing but the command missing.
    fn ssh(&self) -> Command {
        let mut command = Command::new("ssh");
        command.args(self.options("key"));
        command.args(["-p", &self.port.to_string(), "docker@127.0.0.1"]);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, remote: &str) -> Output {
        self.ssh().arg(remote).output().unwrap()
    }

    fn say(&self, remote: &str) -> String {
        let output = self.run(remote);
        assert!(output.status.success(), "{remote}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn copy(&self, program: &str, options: &[&str], arguments: &[String]) -> Output {
        Command::new(program)
            .args(self.options("key"))
            .args(["-P", &self.port.to_string()])
            .args(options)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

fn remote(path: &Path) -> String {
    format!("docker@127.0.0.1:{}", path.display())
}

#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn commands_have_their_output_and_status() {
    let Some(server) = Server::start() else {
        return;
    };
    assert_eq!(server.say("echo hello; echo there >&2"), "hello\n");
    let output = server.run("echo out; echo err >&2; exit 7");
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(server.run("exit 0").status.code(), Some(0));
    assert_eq!(server.run("/no/such/program").status.code(), Some(127));
    // ssh answers 255 when a signal ended the command.
    assert_eq!(server.run("kill -TERM $$").status.code(), Some(255));
    let loud = server.ssh().args(["-v", "kill -SEGV $$"]).output().unwrap();
    let log = String::from_utf8_lossy(&loud.stderr);
    assert!(log.contains("exit-signal"), "{log}");
    // A pipe that nobody reads is an end like any other.
    assert_eq!(server.say("yes | head -n 1"), "y\n");
    // The environment of a login, not the server's.
    let environment = server.say("env");
    assert!(
        environment.contains("SSH_CONNECTION=127.0.0.1 "),
        "{environment}"
    );
    assert!(environment.contains("HOME=/"), "{environment}");
    assert!(!environment.contains("CARGO"), "{environment}");
    let output = server
        .ssh()
        .env("LC_BERTH", "language")
        .env("LD_BERTH", "evil")
        .args(["-o", "SendEnv=LC_BERTH LD_BERTH", "env | grep _BERTH"])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"LC_BERTH=language\n");
}

#[test]
fn input_reaches_the_command_and_its_end_too() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut child = server
        .ssh()
        .arg("wc -c; echo done")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 100_000]).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "100000\ndone\n");
}

#[test]
fn much_data_both_ways_arrives_whole() {
    let Some(server) = Server::start() else {
        return;
    };
    // More than all windows and queues hold, through a command that reads more slowly than we send.
    let data: Vec<u8> = (0..24_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut child = server
        .ssh()
        .arg("sleep 1; cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let mut received = Vec::new();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(
        received == data,
        "{} of {} bytes",
        received.len(),
        data.len()
    );

    // A command that reads nothing holds up neither itself nor the server's memory.
    let mut child = server
        .ssh()
        .arg("sleep 2; echo finished")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        // Ends with an error when ssh is gone.
        while stdin.write_all(&[7; 65536]).is_ok() {}
    });
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "finished\n");
    child.wait().unwrap();
    writer.join().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .unwrap();
    println!("peak memory of the server: {peak} kB");
    assert!(peak < 100_000, "{peak} kB");
}

#[test]
fn a_stuck_channel_does_not_stop_the_others() {
    let Some(server) = Server::start() else {
        return;
    };
    let socket = server.path("control");
    let control = format!("ControlPath={}", socket.display());
    let mut master = server
        .ssh()
        .args(["-o", "ControlMaster=yes", "-o", &control, "-N"])
        .spawn()
        .unwrap();
    eventually("a shared connection", || socket.exists());
    // One channel whose command does not read, and one whose output nobody reads.
    let mut stuck = server
        .ssh()
        .args(["-o", &control, "sleep 20"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = stuck.stdin.take().unwrap();
    let writer = std::thread::spawn(move || while stdin.write_all(&[7; 65536]).is_ok() {});
    let mut unread = server
        .ssh()
        .args(["-o", &control, "yes"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let output = server
        .ssh()
        .args(["-o", &control, "echo alive"])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"alive\n");
    for child in [&mut unread, &mut stuck, &mut master] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    writer.join().unwrap();
}

#[test]
fn only_the_right_key_and_name_come_in() {
    let Some(server) = Server::start() else {
        return;
    };
    let with = |key: &str, user: &str| {
        Command::new("ssh")
            .args(server.options(key))
            .args(["-p", &server.port.to_string()])
            .args([&format!("{user}@127.0.0.1"), "echo in"])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    assert_eq!(with("key", "docker").stdout, b"in\n");
    assert_eq!(with("key", "root").stdout, b"in\n");
    for (key, user) in [("other", "docker"), ("key", "somebody")] {
        let output = with(key, user);
        assert_eq!(output.status.code(), Some(255));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("Permission denied (publickey)"), "{text}");
    }
    // Keys are read anew.
    fs::copy(server.path("other.pub"), server.path("authorized_keys")).unwrap();
    assert_eq!(with("other", "docker").stdout, b"in\n");
    assert_eq!(with("key", "docker").status.code(), Some(255));
}

#[test]
fn a_terminal_has_the_clients_size_and_follows_it() {
    let Some(server) = Server::start() else {
        return;
    };
    let size = Size {
        columns: 93,
        rows: 31,
    };
    let (master, slave) = pty::open(size).unwrap();
    rustix::io::ioctl_fionbio(&master, false).unwrap();
    let mut command = server.ssh();
    command.args([
        "-tt",
        "echo term $TERM; stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.1; done",
    ]);
    command.env("TERM", "xterm-berth");
    pty::attach(&mut command, slave).unwrap();
    let mut child = command.spawn().unwrap();
    drop(command);
    let resizable = master.try_clone().unwrap();
    let mut lines = BufReader::new(fs::File::from(master))
        .lines()
        .map_while(Result::ok);
    assert_eq!(lines.next().unwrap().trim(), "term xterm-berth");
    assert_eq!(lines.next().unwrap().trim(), "31 93");
    assert_eq!(lines.next().unwrap().trim(), "ready");
    let size = Size {
        columns: 120,
        rows: 40,
    };
    pty::resize(&resizable, size).unwrap();
    assert_eq!(lines.next().unwrap().trim(), "40 120");
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn a_login_shell_runs_what_is_typed() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut child = server
        .ssh()
        .arg("-tt")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"tty; echo $((40 + 2)) > /dev/tty; echo flags $-\nexit 5\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/dev/pts/"), "{text}");
    assert!(text.contains("\n42\r\n"), "{text}");
    assert_eq!(output.status.code(), Some(5));
    // And without a terminal: a script on standard input.
    let mut child = server
        .ssh()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"echo scripted\nexit 6\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("scripted\n"));
    assert_eq!(output.status.code(), Some(6));
}

#[test]
fn a_client_that_goes_takes_its_terminal_with_it() {
    let Some(server) = Server::start() else {
        return;
    };
    let file = server.path("pid");
    let mut child = server
        .ssh()
        .args([
            "-tt",
            &format!("echo $$ > {}; exec sleep 1000", file.display()),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("a running command", || {
        fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
    });
    let pid = fs::read_to_string(&file).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let process = format!("/proc/{}", pid.trim());
    eventually("hung up and reaped", || !Path::new(&process).exists());
}

#[test]
fn ports_and_sockets_are_forwarded() {
    let Some(server) = Server::start() else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut text = Vec::new();
            client.read_to_end(&mut text).unwrap();
            text.reverse();
            client.write_all(&text).unwrap();
        }
    });
    // A free port; it could be taken before ssh listens, so a few are tried.
    let (mut child, port) = (0..5)
        .find_map(|_| {
            let free = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap();
            let mut child = server
                .ssh()
                .args(["-N", "-o", "ExitOnForwardFailure=yes", "-L"])
                .arg(format!("127.0.0.1:{}:{target}", free.port()))
                .spawn()
                .unwrap();
            let end = Instant::now() + LONG;
            while child.try_wait().unwrap().is_none() && Instant::now() < end {
                if TcpStream::connect(free).is_ok() {
                    return Some((child, free));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            None
        })
        .expect("ssh listens");
    let mut stream = TcpStream::connect(port).unwrap();
    stream.write_all(b"drawer").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "reward");
    child.kill().unwrap();
    child.wait().unwrap();

    let output = server.ssh().args(["-W", "127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(255), "nobody listens on port 1");
    // To listen for the client on the server is not offered.
    let output = server
        .ssh()
        .args([
            "-o",
            "ExitOnForwardFailure=yes",
            "-R",
            "0:127.0.0.1:1",
            "true",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(255));
}

#[test]
fn scp_copies_files_and_folders() {
    let Some(server) = Server::start() else {
        return;
    };
    let big: Vec<u8> = (0..9_000_001u32)
        .map(|n| (n.wrapping_mul(40_503) >> 7) as u8)
        .collect();
    let local = server.path("big");
    fs::write(&local, &big).unwrap();
    fs::set_permissions(&local, fs::Permissions::from_mode(0o640)).unwrap();
    let (up, down) = (server.path("up"), server.path("down"));
    let output = server.copy("scp", &["-p"], &[local.display().to_string(), remote(&up)]);
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read(&up).unwrap() == big);
    assert_eq!(
        fs::metadata(&up).unwrap().permissions().mode() & 0o777,
        0o640
    );
    let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let apart = modified(&local).duration_since(modified(&up)).unwrap();
    assert!(apart < Duration::from_secs(1));
    let output = server.copy("scp", &[], &[remote(&up), down.display().to_string()]);
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read(&down).unwrap() == big);

    let tree = server.path("tree");
    fs::create_dir_all(tree.join("inner/empty")).unwrap();
    for index in 0..300 {
        fs::write(tree.join(format!("inner/file {index}")), index.to_string()).unwrap();
    }
    let (there, back) = (server.path("there"), server.path("back"));
    let output = server.copy(
        "scp",
        &["-r"],
        &[tree.display().to_string(), remote(&there)],
    );
    assert!(output.status.success(), "{output:?}");
    let output = server.copy(
        "scp",
        &["-r"],
        &[remote(&there), back.display().to_string()],
    );
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_dir(back.join("inner")).unwrap().count(), 301);
    assert_eq!(
        fs::read_to_string(back.join("inner/file 299")).unwrap(),
        "299"
    );
    let output = server.copy(
        "scp",
        &[],
        &[remote(Path::new("/no/such")), down.display().to_string()],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"));
}

#[test]
fn sftp_does_what_its_commands_say() {
    let Some(server) = Server::start() else {
        return;
    };
    let root = server.path("root");
    fs::create_dir(&root).unwrap();
    fs::write(server.path("source"), "content").unwrap();
    let batch = server.path("batch");
    let commands = format!(
        "cd {root}\nmkdir folder\nput {source} folder/one\nrename folder/one folder/two\nchmod 600 folder/two\n\
         symlink two folder/link\nln folder/two folder/hard\nget folder/link {got}\nls -l folder\nrm folder/hard\n\
         rename folder/two folder/link\nmkdir gone\nrmdir gone\npwd\n",
        root = root.display(),
        source = server.path("source").display(),
        got = server.path("got").display(),
    );
    fs::write(&batch, commands).unwrap();
    let target = "docker@127.0.0.1".to_owned();
    let output = server.copy(
        "sftp",
        &["-b", batch.to_str().unwrap()],
        std::slice::from_ref(&target),
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(server.path("got")).unwrap(), "content");
    assert!(text.contains(" two"), "{text}");
    assert!(text.contains("lrwxrwxrwx"), "{text}");
    // The second rename replaced the link.
    let link = root.join("folder/link");
    assert!(!fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(
        fs::metadata(&link).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_dir(root.join("folder")).unwrap().count(), 1);
    assert!(!root.join("gone").exists());

    fs::write(&batch, "get /no/such/file\n").unwrap();
    let output = server.copy("sftp", &["-b", batch.to_str().unwrap()], &[target]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("not found"), "{text}");
}

#[test]
fn a_taken_address_and_a_broken_key_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let run = || {
        let output = Command::new(env!("CARGO_BIN_EXE_host-agent"))
            .args([
                "sshd",
                "--listen",
                &address,
                "--authorized-keys",
                "/dev/null",
                "--host-key",
            ])
            .arg(folder.path().join("host_key"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = run();
    assert!(text.contains(&format!("listen on {address}")), "{text}");
    fs::write(folder.path().join("host_key"), "nonsense").unwrap();
    let text = run();
    assert!(text.contains("remove it to have a new one made"), "{text}");
}
