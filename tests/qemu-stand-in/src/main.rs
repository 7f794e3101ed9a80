//! `qemu-system-x86_64.exe` of the tests: reads the command line that the driver gives QEMU on Windows, opens its named
//! pipes in QEMU's way (a server for one client, one after the other), speaks as much QMP as the keeper uses, and plays a
//! guest at the control port and at the shared folders. It runs nothing: the engine at the machine's address is the
//! test's.

#[cfg(windows)]
mod machine;
#[cfg(any(windows, test))]
mod options;

#[cfg(not(windows))]
fn main() -> std::process::ExitCode {
    eprintln!("qemu-stand-in is for Windows");
    std::process::ExitCode::FAILURE
}

#[cfg(windows)]
fn main() -> std::process::ExitCode {
    let options = match options::Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("qemu-system-x86_64: {why}");
            return std::process::ExitCode::FAILURE;
        }
    };
    // What QEMU says where the system's hypervisor is off.
    if options.accelerator.starts_with("whpx") {
        eprintln!("WHPX: No accelerator found, hr=00000000");
        return std::process::ExitCode::FAILURE;
    }
    machine::run(options)
}
