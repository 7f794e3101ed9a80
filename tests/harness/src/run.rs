//! Runs programs with a limit on their time and keeps what they said.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub words: String,
    /// `None` where a signal ended it or the limit was reached.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Standard output of a program that must succeed.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.report());
        self.stdout
    }

    /// Both outputs of a program that must end with `code`.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}", self.report());
        self.stdout + &self.stderr
    }

    /// Everything, for a message.
    pub fn report(&self) -> String {
        format!(
            "`{}` ended with {:?}\nstdout: {}\nstderr: {}",
            self.words, self.code, self.stdout, self.stderr
        )
    }
}

/// Runs a program for at most `limit` and collects its output.
pub fn run(command: &mut Command, limit: Duration) -> Output {
    run_with_input(command, b"", limit)
}

/// The same with something on its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let words = words(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start `{words}`: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        use std::io::Write;
        // A program that does not read its input is no failure.
        let _ = stdin.write_all(&input);
    });
    let stdout = collect(child.stdout.take().expect("a pipe"));
    let stderr = collect(child.stderr.take().expect("a pipe"));
    let code = wait(&mut child, limit);
    let _ = feeder.join();
    let text = |reader: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    Output {
        words,
        code,
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let end = Instant::now() + limit;
    loop {
        match child.try_wait().expect("our own child can be waited for") {
            Some(status) => return status.code(),
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Tries until it gives something, for at most `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn words(command: &Command) -> String {
    let mut words = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        words.push(' ');
        words.push_str(&argument.to_string_lossy());
    }
    words
}
