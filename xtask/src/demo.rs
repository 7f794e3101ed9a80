//! The main job from nothing: builds everything, creates a machine, runs containers on it, shows each step.

use crate::image;
use crate::process::{self, cargo, target, workspace};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How to run it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Name of the machine
    #[arg(long, default_value = "demo")]
    name: String,
    /// Leave the machine running at the end
    #[arg(long)]
    keep: bool,
}

/// Runs the demo; what it made is gone afterwards unless asked to stay.
pub(crate) fn run(options: &Options) -> Result<()> {
    let image = image::run(&image::Options::default())?;
    step("Building machine and berth");
    process::run(cargo().args([
        "build",
        "--release",
        "--package",
        "machine-cli",
        "--package",
        "client-cli",
    ]))?;
    process::run(cargo().args(["build", "--package", "harness", "--bins"]))?;

    let tools = Tools {
        store: target().join("demo/store"),
        image,
    };
    let reachable = internet();
    let registry = if reachable {
        None
    } else {
        let registry = Registry::start()?;
        println!(
            "No internet here: Debian's busybox is served as library/busybox by a registry on loopback."
        );
        Some(registry)
    };
    let container_image = if reachable { "alpine" } else { "busybox" };

    // A machine of an earlier run that was interrupted.
    if tools.store.join("machines").join(&options.name).exists() {
        step("Removing the machine of an earlier run");
        process::run(tools.machine().args(["rm", "-f", "-y", &options.name]))?;
    }
    let result = scene(options, &tools, registry.as_ref(), container_image);
    if options.keep && result.is_ok() {
        println!("\nThe machine stays. Talk to it with:");
        println!(
            "  eval $({} -s {} env {})",
            tools.program("machine").display(),
            tools.store.display(),
            options.name
        );
        return Ok(());
    }
    if tools.store.join("machines").join(&options.name).exists() {
        step("Removing the machine");
        process::run(tools.machine().args(["rm", "-f", "-y", &options.name]))?;
    }
    result?;
    println!("\nDone: a machine was created, containers ran on it, nothing is left.");
    Ok(())
}

fn scene(options: &Options, tools: &Tools, registry: Option<&Registry>, image: &str) -> Result<()> {
    step("machine create: a small Linux machine with our engine in it");
    let mut create = tools.machine();
    create
        .args(["create", "--driver", "qemu", "--qemu-image"])
        .arg(&tools.image);
    if let Some(registry) = registry {
        create.args([
            "--engine-registry-mirror",
            &format!("http://10.0.2.2:{}", registry.port),
        ]);
    }
    process::run(create.arg(&options.name))?;

    step("machine env: what a shell evaluates");
    let text = process::output(
        tools
            .machine()
            .args(["env", "--shell", "bash", &options.name]),
    )?;
    print!("{text}");
    let environment = parse_environment(&text)?;

    step("berth: our own client");
    let berth = |arguments: &[&str]| tools.client(tools.program("berth"), &environment, arguments);
    process::run(&mut berth(&["version"]))?;
    process::run(&mut berth(&[
        "run",
        "--rm",
        image,
        "echo",
        "hello from a container",
    ]))?;
    process::run(&mut berth(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "8080:8080",
        image,
        "sh",
        "-c",
        WEB_SERVER,
    ]))?;
    process::run(&mut berth(&["ps"]))?;
    fetch(&environment)?;
    process::run(&mut berth(&["rm", "-f", "web"]))?;

    match docker() {
        Some(docker) => {
            step("docker: the stock client");
            let run = |arguments: &[&str]| {
                process::run(&mut tools.client(docker.clone(), &environment, arguments))
            };
            run(&["version"])?;
            run(&["run", "--rm", image, "uname", "-a"])?;
            run(&["images"])?;
        }
        None => println!("\nThere is no docker command here; berth did all of it."),
    }
    step("machine ls");
    process::run(tools.machine().arg("ls"))
}

/// A web server of busybox: what it serves is in the container only.
const WEB_SERVER: &str = "mkdir -p /www && echo 'hello from a published port' > /www/index.html && exec httpd -f -p 8080 -h /www";

/// Fetches the published port at the machine's own loopback address; the port appears within a second. It is a high
/// one: not every user may bind low ports.
fn fetch(environment: &[(String, String)]) -> Result<()> {
    use std::io::{Read, Write};
    let host = environment
        .iter()
        .find(|(name, _)| name == "DOCKER_HOST")
        .context("env names DOCKER_HOST")?;
    let host = host
        .1
        .trim_start_matches("tcp://")
        .rsplit_once(':')
        .context("a host and a port")?
        .0
        .to_owned();
    println!("$ curl http://{host}:8080/");
    for _ in 0..100 {
        if let Ok(mut stream) = TcpStream::connect((host.as_str(), 8080)) {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            // A port that was just taken back resets; the next try tells.
            if stream.read_to_string(&mut answer).is_ok()
                && let Some((_, body)) = answer.split_once("\r\n\r\n")
            {
                print!("{body}");
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("the published port 8080 did not answer at {host} within ten seconds")
}

/// The programs and places of the demo.
struct Tools {
    store: PathBuf,
    image: PathBuf,
}

impl Tools {
    fn program(&self, name: &str) -> PathBuf {
        target().join("release").join(name)
    }

    fn machine(&self) -> Command {
        let mut command = process::command(self.program("machine"));
        command.arg("-s").arg(&self.store);
        command
    }

    fn client(
        &self,
        program: PathBuf,
        environment: &[(String, String)],
        arguments: &[&str],
    ) -> Command {
        let mut command = process::command(program);
        // A docker context of the user must not lead elsewhere.
        command
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_CONFIG", self.store.join("docker-config"));
        command
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .args(arguments);
        command
    }
}

/// The `export NAME="value"` lines of `machine env`.
fn parse_environment(text: &str) -> Result<Vec<(String, String)>> {
    let pairs: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("export "))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    if pairs.is_empty() {
        bail!("machine env printed nothing to export");
    }
    Ok(pairs)
}

fn docker() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("docker"))
        .find(|program| program.is_file())
}

/// Whether Docker Hub can be reached, within three seconds.
fn internet() -> bool {
    let Ok(addresses) = ("registry-1.docker.io", 443).to_socket_addrs() else {
        return false;
    };
    addresses
        .take(2)
        .any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(3)).is_ok())
}

/// A registry on loopback with an image of Debian's busybox in it; ends with this value.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    fn start() -> Result<Registry> {
        let program = target().join("debug/demo-registry");
        let mut child = Command::new(&program)
            .current_dir(workspace())
            .arg("--until-input-ends")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output is a pipe")?)
            .read_line(&mut line)?;
        let port = line
            .trim()
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        let Some(port) = port else {
            let _ = child.kill();
            bail!(
                "{} did not say its address: {line:?}",
                Path::new("demo-registry").display()
            );
        };
        Ok(Registry { child, port })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It ends when its standard input does.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn step(what: &str) {
    println!("\n== {what}");
}
