//! Which accelerator runs the machine: proved, remembered, said in one line.
//!
//! That /dev/kvm opens proves nothing: a software KVM inside a virtual machine accepts every call and then never gets
//! anywhere. So the image's own kernel is booted without a root file system and must show its end, or at least be
//! underway, within [`PROOF_LIMIT`]. The answer holds for the same QEMU, kernel and device until the computer restarts.

use super::arguments;
use super::flags::Wanted;
use super::image::Image;
use super::system;
use machine_core::driver::{DriverError, Progress};
use machine_core::store::atomic;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The proof must show its result within this time. With starting and ending QEMU it stays below 3 s.
const PROOF_LIMIT: Duration = Duration::from_millis(2500);
/// A kernel that printed within this time before the limit is slow, not stuck.
const STILL_TALKING: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    Hvf,
    Whpx,
    Tcg,
}

impl Accelerator {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Hvf => "hvf",
            Accelerator::Whpx => "whpx",
            Accelerator::Tcg => "tcg",
        }
    }

    pub fn from_name(name: &str) -> Option<Accelerator> {
        [
            Accelerator::Kvm,
            Accelerator::Hvf,
            Accelerator::Whpx,
            Accelerator::Tcg,
        ]
        .into_iter()
        .find(|accelerator| accelerator.name() == name)
    }
}

/// What was chosen, and the sentence that tells why when it is not the obvious one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    pub accelerator: Accelerator,
    pub why: Option<String>,
}

/// What was found out before.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    version: u32,
    key: String,
    choice: Choice,
}

const MEMORY_VERSION: u32 = 1;

/// Chooses, proving at most once for each [`key`].
pub fn choose(
    wanted: Wanted,
    program: &Path,
    image: &Image,
    store: &Path,
    progress: &dyn Progress,
) -> Result<Choice, DriverError> {
    if let Wanted::Named(accelerator) = wanted {
        if accelerator == Accelerator::Kvm
            && let Err(why) = kvm_opens()
        {
            return Err(DriverError::NotReady {
                what: why,
                hint: "use --accel auto or --accel tcg".into(),
            });
        }
        return Ok(Choice {
            accelerator,
            why: None,
        });
    }
    let memory = store.join("cache").join("accelerator.json");
    let key = key(program, image);
    if let Some(choice) = recall(&memory, &key) {
        return Ok(choice);
    }
    let choice = prove_best(program, image, progress);
    let remembered = atomic::make_private_folder(&store.join("cache")).and_then(|()| {
        let text = serde_json::to_vec(&Memory {
            version: MEMORY_VERSION,
            key,
            choice: choice.clone(),
        })
        .expect("plain data");
        atomic::write(&memory, &text)
    });
    if let Err(error) = remembered {
        // Only the next create is slower for it.
        tracing::warn!(%error, path = %memory.display(), "cannot remember the accelerator");
    }
    Ok(choice)
}

fn recall(memory: &Path, key: &str) -> Option<Choice> {
    let memory: Memory = serde_json::from_slice(&std::fs::read(memory).ok()?).ok()?;
    (memory.version == MEMORY_VERSION && memory.key == key).then_some(memory.choice)
}

/// Everything the answer depends on: QEMU (path, size and time of change: quicker than asking for its version), the
/// guest's kernel, the device, and the boot of this computer.
fn key(program: &Path, image: &Image) -> String {
    let stamp = |path: &Path| {
        std::fs::metadata(path).map_or_else(|_| "none".to_owned(), |found| system::stamp(&found))
    };
    format!(
        "{} {} {} {} {} {}",
        program.display(),
        stamp(program),
        stamp(&image.kernel),
        image.kernel_version,
        stamp(Path::new("/dev/kvm")),
        system::boot_of_this_computer()
    )
}

fn prove_best(program: &Path, image: &Image, progress: &dyn Progress) -> Choice {
    let emulated = |why: String| Choice {
        accelerator: Accelerator::Tcg,
        why: Some(why),
    };
    if image.architecture != std::env::consts::ARCH {
        return emulated(format!(
            "the image is for {}, this computer is not",
            image.architecture
        ));
    }
    let only = match std::env::consts::OS {
        "macos" => Some((
            Accelerator::Hvf,
            "this computer's HVF cannot run the guest's kernel",
        )),
        "windows" => Some((
            Accelerator::Whpx,
            "this computer's WHPX cannot run the guest's kernel, or the feature Windows Hypervisor Platform is off",
        )),
        _ => None,
    };
    if let Some((accelerator, otherwise)) = only {
        return match prove(program, image, accelerator, progress) {
            Ok(()) => Choice {
                accelerator,
                why: None,
            },
            Err(why) => {
                tracing::debug!(why, accelerator = accelerator.name(), "was tried");
                emulated(otherwise.into())
            }
        };
    }
    if let Err(why) = kvm_opens() {
        return emulated(why);
    }
    match prove(program, image, Accelerator::Kvm, progress) {
        Ok(()) => Choice {
            accelerator: Accelerator::Kvm,
            why: None,
        },
        Err(why) => {
            // QEMU's own words are long and help nobody who only wants a machine.
            tracing::debug!(why, "KVM was tried");
            emulated("this computer's /dev/kvm cannot run the guest's kernel".into())
        }
    }
}

fn kvm_opens() -> Result<(), String> {
    match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err("this computer has no /dev/kvm".into())
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err("you may not use /dev/kvm (is your user in the group kvm?)".into())
        }
        Err(error) => Err(format!("/dev/kvm cannot be opened: {error}")),
    }
}

/// Boots the kernel for a moment. `Err` says what was seen instead of its end.
fn prove(
    program: &Path,
    image: &Image,
    accelerator: Accelerator,
    progress: &dyn Progress,
) -> Result<(), String> {
    let started = Instant::now();
    let mut child = system::in_background(&mut Command::new(program))
        .args(arguments::of_proof(accelerator, image))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("QEMU did not start: {error}"))?;
    let (sender, output) = channel();
    let mut stdout = child.stdout.take().expect("piped");
    std::thread::spawn(move || {
        let mut buffer = [0u8; 4096];
        while let Ok(count) = stdout.read(&mut buffer) {
            if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut console = Console::default();
    let verdict = loop {
        let left = PROOF_LIMIT.saturating_sub(started.elapsed());
        if left.is_zero() || progress.interrupted() {
            break console.at_limit();
        }
        match output.recv_timeout(left.min(Duration::from_millis(100))) {
            Ok(bytes) => {
                if console.saw_the_end(&bytes) {
                    break Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let mut text = String::new();
                if let Some(stderr) = child.stderr.take() {
                    let _ = stderr.take(4096).read_to_string(&mut text);
                }
                let last = text
                    .lines()
                    .last()
                    .unwrap_or("no message")
                    .trim()
                    .to_owned();
                break Err(format!("QEMU ended: {last}"));
            }
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    tracing::debug!(accelerator = accelerator.name(), ?verdict, elapsed = ?started.elapsed(), "accelerator tried");
    verdict
}

/// What the kernel under proof has said.
#[derive(Default)]
struct Console {
    text: Vec<u8>,
    last: Option<Instant>,
}

impl Console {
    /// The kernel ran all its own code when it gives up for want of a root file system.
    fn saw_the_end(&mut self, bytes: &[u8]) -> bool {
        self.text.extend_from_slice(bytes);
        self.last = Some(Instant::now());
        const END: &[u8] = b"Kernel panic - not syncing: VFS";
        self.text.windows(END.len()).any(|window| window == END)
    }

    fn at_limit(&self) -> Result<(), String> {
        match self.last {
            None => Err(format!(
                "it showed no sign of life within {} s",
                PROOF_LIMIT.as_secs_f32()
            )),
            Some(last) if last.elapsed() > STILL_TALKING => {
                Err("it stopped in the middle of its start".into())
            }
            Some(_) => Ok(()),
        }
    }
}

/// QEMU as named, or found on `PATH`.
pub fn find_program(named: Option<&Path>, usual: &str) -> Result<PathBuf, DriverError> {
    if let Some(named) = named {
        return match std::fs::metadata(named) {
            Ok(found) if found.is_file() => Ok(named.to_path_buf()),
            _ => Err(DriverError::NotReady {
                what: format!("there is no program {}", named.display()),
                hint: "give --qemu-program the full path of QEMU".into(),
            }),
        };
    }
    let usual = system::program_name(usual);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(system::program_folders())
        .map(|folder| folder.join(&usual))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| DriverError::NotReady {
            what: format!("QEMU is not installed: no {usual} on PATH"),
            hint: how_to_install().into(),
        })
}

fn how_to_install() -> &'static str {
    if cfg!(target_os = "macos") {
        "install it with `brew install qemu`"
    } else if cfg!(target_os = "windows") {
        "install it with `winget install SoftwareFreedomConservancy.QEMU`"
    } else {
        "install it with `apt-get install qemu-system-x86` (Debian, Ubuntu), `dnf install qemu-kvm` (Fedora) or your system's like"
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::tests as images;
    use super::*;

    struct Silent;
    impl Progress for Silent {
        fn say(&self, _line: &str) {}
        fn interrupted(&self) -> bool {
            false
        }
    }

    /// A program in QEMU's place, and an image.
    fn stage(script: &str) -> (tempfile::TempDir, PathBuf, Image) {
        let folder = tempfile::tempdir().unwrap();
        images::write(folder.path(), |_| {});
        let program = folder.path().join("qemu");
        images::script(&program, script);
        let image = Image::open(folder.path()).unwrap();
        (folder, program, image)
    }

    #[test]
    fn a_kernel_that_reaches_its_end_is_proof() {
        let (_folder, program, image) = stage(
            "echo '[0.5] Kernel panic - not syncing: VFS: Unable to mount root fs'; exec sleep 60",
        );
        assert_eq!(prove(&program, &image, Accelerator::Kvm, &Silent), Ok(()));
    }

    #[test]
    fn silence_is_given_up_within_three_seconds() {
        let (_folder, program, image) = stage("exec sleep 60");
        let since = Instant::now();
        let why = prove(&program, &image, Accelerator::Kvm, &Silent).unwrap_err();
        assert!(why.contains("no sign of life"), "{why}");
        assert!(
            since.elapsed() < Duration::from_secs(6),
            "{:?}",
            since.elapsed()
        );
    }

    #[test]
    fn an_abort_is_told_with_qemus_words() {
        let (_folder, program, image) = stage("echo 'error: failed to set MSR 0x10a' >&2; exit 1");
        let why = prove(&program, &image, Accelerator::Kvm, &Silent).unwrap_err();
        assert!(why.contains("MSR 0x10a"), "{why}");
    }

    #[test]
    fn a_stuck_kernel_is_no_proof() {
        let mut console = Console::default();
        assert!(!console.saw_the_end(b"Linux version 6"));
        assert_eq!(console.at_limit(), Ok(()), "still talking");
        console.last = Some(Instant::now() - Duration::from_secs(2));
        assert!(console.at_limit().is_err());
    }

    #[test]
    fn the_answer_is_remembered_for_the_same_qemu_only() {
        let (folder, program, image) = stage("exit 1");
        let store = folder.path();
        std::fs::create_dir_all(store.join("cache")).unwrap();
        let memory = store.join("cache/accelerator.json");
        let choice = Choice {
            accelerator: Accelerator::Tcg,
            why: Some("once".into()),
        };
        let write = |key: String, version: u32| {
            let text = serde_json::to_vec(&Memory {
                version,
                key,
                choice: choice.clone(),
            });
            std::fs::write(&memory, text.unwrap()).unwrap();
        };
        write(key(&program, &image), MEMORY_VERSION);
        assert_eq!(
            choose(Wanted::Auto, &program, &image, store, &Silent).unwrap(),
            choice
        );
        write(key(&program, &image), MEMORY_VERSION + 1);
        assert_eq!(recall(&memory, &key(&program, &image)), None);
        std::fs::write(&memory, "{broken").unwrap();
        assert_eq!(recall(&memory, &key(&program, &image)), None);
        write(key(&program, &image), MEMORY_VERSION);
        std::fs::write(&program, "#!/bin/sh\n# another QEMU\nexit 1\n").unwrap();
        assert_eq!(recall(&memory, &key(&program, &image)), None);
    }

    #[test]
    fn a_missing_qemu_says_how_to_install_it() {
        let error = find_program(None, "qemu-system-none-such").unwrap_err();
        assert!(error.to_string().contains("QEMU is not installed"));
        assert!(error.hint().unwrap().contains("install"));
        assert!(
            find_program(Some(Path::new("/none/such")), "x")
                .unwrap_err()
                .hint()
                .is_some()
        );
    }
}
