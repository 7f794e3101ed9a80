//! QEMU's command line for one machine. Pure: what is given decides what comes out.

use super::accelerator::Accelerator;
use super::address::Chosen;
use super::files::Files;
use super::image::Image;
use super::system::PIPES;
use guest_contract::{
    API_PORT, CONTROL_PORT_NAME, DATA_DISK_SERIAL, GUEST_SSH_PORT, SEED_DISK_SERIAL,
};
use std::path::Path;

/// Name of the user network, for `hostfwd_add`.
pub const NETWORK: &str = "net";

/// The processor under emulation. Not `max`: every feature costs boot time in the kernel's tests and the emulator.
/// With SSE 4.2 and POPCNT containers built for x86-64-v2 run; RDRAND seeds the guest's randomness at once.
const EMULATED_PROCESSOR: &str = "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt";

/// Room for translated code. QEMU's own choice is an eighth of the computer's memory: a boot alone fills 100 MB, most of it code
/// that runs once, and a busy machine takes a gigabyte and never gives it back. With this the boot throws it away five times, with
/// 48 twice, with 28 eight times, which is felt.
const TRANSLATED_MIB: u32 = 32;

/// What is booted, apart from the image and the files.
#[derive(Debug, Clone, Copy)]
pub struct Hardware {
    pub accelerator: Accelerator,
    pub cpus: u32,
    pub memory_mib: u64,
    pub address: Chosen,
}

/// `shares` folders get a port each.
pub fn of(hardware: &Hardware, image: &Image, files: &Files, shares: usize) -> Vec<String> {
    let mut arguments = Arguments::default();
    base(&mut arguments, hardware.accelerator, &image.architecture);
    arguments.add("-smp", hardware.cpus);
    arguments.add("-m", hardware.memory_mib);
    arguments.add("-kernel", image.kernel.display());
    arguments.add("-initrd", image.initrd.display());
    arguments.add("-append", &image.command_line);

    // QEMU listens, in a folder that nobody else may enter, so that a second keeper can take over from one that was killed.
    arguments.add("-chardev", listening("qmp", &files.qmp_socket()));
    arguments.add("-mon", "chardev=qmp,mode=control");
    arguments.add(
        "-chardev",
        format!("file,id=console,path={}", option(&files.console())),
    );
    arguments.add("-serial", "chardev:console");

    arguments.add("-device", "virtio-serial-pci");
    arguments.add("-chardev", listening("control", &files.control_socket()));
    arguments.add(
        "-device",
        format!("virtserialport,chardev=control,name={CONTROL_PORT_NAME}"),
    );
    for index in 0..shares {
        let path = files.share_socket(index);
        arguments.add("-chardev", listening(&format!("share{index}"), &path));
        let name = guest_contract::share::port_name(index);
        arguments.add(
            "-device",
            format!("virtserialport,chardev=share{index},name={name}"),
        );
    }

    disk(
        &mut arguments,
        "seed",
        &files.seed(),
        SEED_DISK_SERIAL,
        ",readonly=on",
    );
    disk(
        &mut arguments,
        "data",
        &files.disk(),
        DATA_DISK_SERIAL,
        ",discard=unmap,detect-zeroes=unmap",
    );

    let Chosen {
        ip,
        api_port,
        ssh_port,
    } = hardware.address;
    arguments.add(
        "-netdev",
        format!("user,id={NETWORK},hostfwd=tcp:{ip}:{api_port}-:{API_PORT},hostfwd=tcp:{ip}:{ssh_port}-:{GUEST_SSH_PORT}"),
    );
    arguments.add(
        "-device",
        format!("virtio-net-pci,netdev={NETWORK},romfile="),
    );
    arguments.add("-device", "virtio-rng-pci");
    // What the guest frees goes back to the desktop, without any policy.
    arguments.add("-device", "virtio-balloon-pci,free-page-reporting=on");
    arguments.list
}

/// Goes on with a suspended machine's memory instead of booting.
pub fn incoming(files: &Files) -> [String; 2] {
    let memory = files.memory();
    let from = match cfg!(windows) {
        true => memory_file(&memory),
        false => {
            let memory = machine_core::ssh::shell_word(&memory.display().to_string());
            format!("exec:cat < {memory}")
        }
    };
    ["-incoming".to_owned(), from]
}

/// Where QEMU writes the memory of a machine that is suspended.
pub fn outgoing(to: &Path) -> String {
    if cfg!(windows) {
        return memory_file(to);
    }
    let file = machine_core::ssh::shell_word(&to.display().to_string());
    format!("exec:umask 077; cat > {file} && sync {file}")
}

/// As QEMU since 8.2 knows it; before there was only a shell's command.
fn memory_file(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// The smallest machine that can show that an accelerator runs this kernel: it prints to standard output, finds no
/// root file system and ends.
pub fn of_proof(accelerator: Accelerator, image: &Image) -> Vec<String> {
    let mut arguments = Arguments::default();
    base(&mut arguments, accelerator, &image.architecture);
    arguments.add("-m", 256);
    arguments.add("-kernel", image.kernel.display());
    let console = match image.architecture.as_str() {
        "aarch64" => "ttyAMA0",
        _ => "ttyS0",
    };
    arguments.add(
        "-append",
        format!("console={console} earlyprintk={console} cryptomgr.notests panic=-1"),
    );
    arguments.add("-serial", "stdio");
    arguments.list
}

fn base(arguments: &mut Arguments, accelerator: Accelerator, architecture: &str) {
    arguments.flag("-nodefaults");
    arguments.flag("-no-user-config");
    // The guest's end, a panic included (panic=-1), is QEMU's end.
    arguments.flag("-no-reboot");
    arguments.add("-display", "none");
    arguments.add(
        "-machine",
        match architecture {
            "aarch64" => "virt",
            // Not microvm: without a known TSC rate its kernel hangs under emulation, and it has no power button.
            _ => "q35,vmport=off",
        },
    );
    match accelerator {
        Accelerator::Tcg => {
            let size = TRANSLATED_MIB;
            arguments.add("-accel", format!("tcg,thread=multi,tb-size={size}"));
        }
        // Its own interrupt controller loses interrupts before Windows 11 and QEMU 11.
        Accelerator::Whpx => arguments.add("-accel", "whpx,kernel-irqchip=off"),
        other => arguments.add("-accel", other.name()),
    }
    arguments.add(
        "-cpu",
        match (accelerator, architecture) {
            (Accelerator::Tcg, "aarch64") => "max",
            // WHPX knows no `host`, and some processors not its `max`.
            (Accelerator::Tcg | Accelerator::Whpx, _) => EMULATED_PROCESSOR,
            _ => "host",
        },
    );
}

fn disk(arguments: &mut Arguments, id: &str, path: &Path, serial: &str, more: &str) {
    arguments.add(
        "-drive",
        format!("if=none,id={id},format=raw,file={}{more}", option(path)),
    );
    arguments.add(
        "-device",
        format!("virtio-blk-pci,drive={id},serial={serial}"),
    );
}

fn listening(id: &str, path: &Path) -> String {
    // QEMU makes a named pipe's path of its name, and waits for its client before it goes on to the next option.
    if let Some(name) = path.to_str().and_then(|path| path.strip_prefix(PIPES)) {
        return format!("pipe,id={id},path={name}");
    }
    format!("socket,id={id},path={},server=on,wait=off", option(path))
}

/// A path inside a comma-separated option: QEMU reads `,,` as a comma.
fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[derive(Default)]
struct Arguments {
    list: Vec<String>,
}

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.list.push(name.to_owned());
    }

    fn add(&mut self, name: &str, value: impl ToString) {
        self.flag(name);
        self.list.push(value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn image() -> Image {
        Image {
            kernel: "/image/vmlinux".into(),
            initrd: "/image/initrd".into(),
            command_line: "console=ttyS0 quiet".into(),
            architecture: "x86_64".into(),
            kernel_version: "6".into(),
        }
    }

    fn text(accelerator: Accelerator, folder: &str) -> String {
        let hardware = Hardware {
            accelerator,
            cpus: 2,
            memory_mib: 1024,
            address: Chosen {
                ip: Ipv4Addr::new(127, 20, 3, 4),
                api_port: 2376,
                ssh_port: 2222,
            },
        };
        of(&hardware, &image(), &Files::in_folder(Path::new(folder)), 1)
            .join(" ")
            .replace(" -", "\n-")
    }

    #[test]
    fn the_whole_command_line_under_emulation() {
        assert_eq!(
            text(Accelerator::Tcg, "/m/dev"),
            "-nodefaults\n-no-user-config\n-no-reboot\n-display none\n-machine q35,vmport=off\n\
             -accel tcg,thread=multi,tb-size=32\n-cpu qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt\n-smp 2\n-m 1024\n\
             -kernel /image/vmlinux\n-initrd /image/initrd\n-append console=ttyS0 quiet\n\
             -chardev socket,id=qmp,path=/m/dev/qmp.sock,server=on,wait=off\n-mon chardev=qmp,mode=control\n\
             -chardev file,id=console,path=/m/dev/console.log\n-serial chardev:console\n\
             -device virtio-serial-pci\n-chardev socket,id=control,path=/m/dev/control.sock,server=on,wait=off\n\
             -device virtserialport,chardev=control,name=dev.berth.control\n\
             -chardev socket,id=share0,path=/m/dev/share0.sock,server=on,wait=off\n\
             -device virtserialport,chardev=share0,name=dev.berth.share.0\n\
             -drive if=none,id=seed,format=raw,file=/m/dev/seed.tar,readonly=on\n\
             -device virtio-blk-pci,drive=seed,serial=berth-seed\n\
             -drive if=none,id=data,format=raw,file=/m/dev/data.raw,discard=unmap,detect-zeroes=unmap\n\
             -device virtio-blk-pci,drive=data,serial=berth-data\n\
             -netdev user,id=net,hostfwd=tcp:127.20.3.4:2376-:2376,hostfwd=tcp:127.20.3.4:2222-:22\n\
             -device virtio-net-pci,netdev=net,romfile=\n-device virtio-rng-pci\n\
             -device virtio-balloon-pci,free-page-reporting=on"
        );
    }

    #[test]
    fn hardware_acceleration_uses_the_hosts_processor() {
        let text = text(Accelerator::Kvm, "/m/dev");
        assert!(text.contains("-accel kvm\n-cpu host\n"), "{text}");
    }

    #[test]
    fn whpx_has_a_processor_that_it_knows() {
        let text = text(Accelerator::Whpx, "/m/dev");
        assert!(
            text.contains("-accel whpx,kernel-irqchip=off\n-cpu qemu64,"),
            "{text}"
        );
    }

    #[test]
    fn paths_of_windows_are_one_option_each() {
        let pipe = Path::new(r"\\.\pipe\berth-0f-qmp");
        assert_eq!(listening("qmp", pipe), "pipe,id=qmp,path=berth-0f-qmp");
        let path = Path::new(r"C:\Users\A B, C\data.raw");
        assert_eq!(option(path), r"C:\Users\A B,, C\data.raw");
        assert_eq!(memory_file(path), r"file:C:\Users\A B, C\data.raw");
    }

    #[test]
    fn commas_in_paths_are_doubled_and_nothing_listens_everywhere() {
        let text = text(Accelerator::Tcg, "/m/a,b");
        assert!(text.contains("file=/m/a,,b/seed.tar,readonly=on"), "{text}");
        assert!(!text.contains("hostfwd=tcp::"));
    }
}
