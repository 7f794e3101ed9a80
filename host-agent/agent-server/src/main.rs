//! `host-agent`: the engine (`serve`), the owner of one container (`shim`), a guest's PID 1 (`init`) and its `sshd`,
//! the `certificate-request` of a host that gets its certificate from elsewhere, and the `front` of an engine that is not ours.
//!
//! The first argument chooses; `shim` is looked at before anything else because one is started for every container.

// `json!` recurses once for each token of `/info`'s answer.
#![recursion_limit = "512"]

mod certificate_request;
mod front;
mod init;
mod serve;
mod sshd;

use std::process::ExitCode;

/// docs/decisions/0009: musl's own goes to the kernel for every other piece of memory.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    // The kernel starts PID 1 as `/init`, without a verb.
    if std::process::id() == 1 && program.as_encoded_bytes().ends_with(b"init") {
        return init::main(Vec::new());
    }
    let verb = args.next();
    let rest: Vec<std::ffi::OsString> = args.collect();
    match verb.as_deref().and_then(|verb| verb.to_str()) {
        Some("shim") => engine_linux::shim::main(rest),
        Some("init") => init::main(rest),
        Some("sshd") => sshd::main(rest),
        Some("front") => front::main(rest),
        Some("certificate-request") => certificate_request::main(rest),
        // `serve`, `--help`, `--version` and whatever is wrong: clap answers.
        _ => serve::main(),
    }
}
