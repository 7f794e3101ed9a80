//! What a Dockerfile's instructions say, before variables are expanded.

/// An instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// First line in the Dockerfile, from 1.
    pub line: usize,
    /// Where it begins in that line, in characters from 1.
    pub column: usize,
    /// It is all in that line.
    pub is_one_line: bool,
    /// As it was written, on one line.
    pub text: String,
    pub instruction: Instruction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    Add(CopyFiles),
    /// Name and default value.
    Arg(Vec<(String, Option<String>)>),
    Cmd(Command),
    Copy(CopyFiles),
    Entrypoint(Command),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Healthcheck(Healthcheck),
    Label(Vec<(String, String)>),
    Maintainer(String),
    /// The instruction for the images built on this one, as written.
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    Stopsignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// A program to run: `["a", "b"]` or a line for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Exec(Vec<String>),
    Shell(String),
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyFiles {
    pub sources: Vec<Source>,
    pub destination: String,
    /// A stage, an image or a named context.
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
    /// `ADD` only: what the digest of a downloaded file must be.
    pub checksum: Option<String>,
    /// `ADD` only: keep the `.git` folder.
    pub keep_git_folder: bool,
    /// `ADD` only: unpack archives; `None` is the instruction's default.
    pub unpack: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path in the context, with wildcards; for `ADD` also an address.
    Path(String),
    Here(Here),
}

/// A here-document as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    pub name: String,
    pub content: String,
    pub expand: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    /// The command was nothing but this document: a script.
    pub script: Option<Here>,
    /// The options of each `--mount`, as written.
    pub mounts: Vec<String>,
    pub network: Option<String>,
    pub security: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    None,
    Command {
        command: Command,
        /// As written: durations in Go's form, a count.
        interval: Option<String>,
        timeout: Option<String>,
        start_period: Option<String>,
        start_interval: Option<String>,
        retries: Option<String>,
    },
}
