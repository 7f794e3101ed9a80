//! The devices a container has and may use: nodes from the host, rules for the device controller, and on cgroup v2
//! the small BPF program that enforces the rules (v2 has no files for that; libcgroups would need libbpf).

use super::protocol::Refusal;
use crate::cgroup::{Cgroup, Version};
use engine::runtime::{DevicePlan, LaunchPlan};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `c` or `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Character,
    Block,
}

/// A node to be made in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub path: PathBuf,
    pub kind: Kind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Leave to use devices; `None` is any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub kind: Option<Kind>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: String,
}

impl Rule {
    fn new(kind: Kind, major: Option<u32>, minor: Option<u32>, access: &str) -> Rule {
        Rule {
            kind: Some(kind),
            major,
            minor,
            access: access.to_owned(),
        }
    }
}

/// As the v1 files and Docker's API have it: `c 10:200 rwm`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            None => 'a',
            Some(Kind::Character) => 'c',
            Some(Kind::Block) => 'b',
        };
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |one| one.to_string());
        let (major, minor) = (number(self.major), number(self.minor));
        write!(f, "{kind} {major}:{minor} {}", self.access)
    }
}

/// What every container may use, as with Docker: making any node, the six standard devices, terminals.
fn default_rules() -> Vec<Rule> {
    let character = |major, minor| Rule::new(Kind::Character, Some(major), Some(minor), "rwm");
    vec![
        Rule::new(Kind::Character, None, None, "m"),
        Rule::new(Kind::Block, None, None, "m"),
        character(1, 3), // null
        character(1, 5), // zero
        character(1, 7), // full
        character(1, 8), // random
        character(1, 9), // urandom
        character(5, 0), // tty
        character(5, 1), // console
        character(5, 2), // ptmx
        Rule::new(Kind::Character, Some(136), None, "rwm"),
    ]
}

/// The nodes and rules of a plan.
pub fn of_plan(plan: &LaunchPlan) -> Result<(Vec<Node>, Vec<Rule>), Refusal> {
    let mut nodes = Vec::new();
    let mut rules = Vec::new();
    if plan.all_devices {
        rules.push(Rule {
            kind: None,
            major: None,
            minor: None,
            access: "rwm".to_owned(),
        });
        host_nodes(Path::new("/dev"), &mut nodes);
    } else {
        rules = default_rules();
    }
    for device in &plan.devices {
        for node in device_nodes(device)? {
            if !plan.all_devices {
                rules.push(Rule::new(
                    node.kind,
                    Some(node.major),
                    Some(node.minor),
                    &device.permissions,
                ));
            }
            nodes.retain(|other: &Node| other.path != node.path);
            nodes.push(node);
        }
    }
    for text in &plan.device_rules {
        rules.push(parse_rule(text).ok_or_else(|| Refusal::Invalid {
            what: "device cgroup rule".to_owned(),
            why: format!("{text:?} is not of the form \"c 10:200 rwm\""),
        })?);
    }
    Ok((nodes, rules))
}

/// `a *:* rwm`, `c 10:200 rwm`, `b 8:* r`.
fn parse_rule(text: &str) -> Option<Rule> {
    let mut words = text.split_whitespace();
    let kind = match words.next()? {
        "a" => None,
        "c" => Some(Kind::Character),
        "b" => Some(Kind::Block),
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |text: &str| match text {
        "*" => Some(None),
        digits => digits.parse().ok().map(Some),
    };
    let access = words.next()?;
    let good = !access.is_empty() && access.chars().all(|one| "rwm".contains(one));
    (good && words.next().is_none()).then_some(Rule {
        kind,
        major: number(major)?,
        minor: number(minor)?,
        access: access.to_owned(),
    })
}

fn node(path_on_host: &Path, path: PathBuf) -> io::Result<Option<Node>> {
    let meta = fs::metadata(path_on_host)?;
    let kind = if meta.file_type().is_char_device() {
        Kind::Character
    } else if meta.file_type().is_block_device() {
        Kind::Block
    } else {
        return Ok(None);
    };
    Ok(Some(Node {
        path,
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    }))
}

/// A device, or all devices of a folder.
fn device_nodes(device: &DevicePlan) -> Result<Vec<Node>, Refusal> {
    let path = &device.path_on_host;
    let refuse = |error: io::Error| {
        Refusal::failed(
            format!(
                "error gathering device information while adding custom device \"{}\"",
                path.display()
            ),
            error,
        )
    };
    if !device.path_in_container.starts_with("/dev") {
        return Err(Refusal::Unsupported {
            what: format!("a device at {}", device.path_in_container.display()),
            why: "device nodes are made under /dev only".to_owned(),
        });
    }
    if let Some(node) = node(path, device.path_in_container.clone()).map_err(refuse)? {
        return Ok(vec![node]);
    }
    let mut nodes = Vec::new();
    if path.is_dir() {
        let mut found = Vec::new();
        host_nodes(path, &mut found);
        for mut node in found {
            if let Ok(rest) = node.path.strip_prefix(path) {
                node.path = device.path_in_container.join(rest);
            }
            nodes.push(node);
        }
    }
    if nodes.is_empty() {
        return Err(refuse(io::Error::other("not a device node")));
    }
    Ok(nodes)
}

/// Every device below a folder, without those a container has of its own.
fn host_nodes(folder: &Path, nodes: &mut Vec<Node>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            let own = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
            if !own.iter().any(|name| entry.file_name() == *name) {
                host_nodes(&path, nodes);
            }
        } else if path != Path::new("/dev/console")
            && (kind.is_char_device() || kind.is_block_device())
            && let Ok(Some(node)) = node(&path, path.clone())
        {
            nodes.push(node);
        }
    }
}

/// An eBPF instruction (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

// linux/bpf.h
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const MOVE_CONSTANT: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// The rules as a program on `struct bpf_cgroup_dev_ctx { access_type, major, minor }`: 1 allows.
///
/// Registers: r2 kind, r3 access wanted, r4 major, r5 minor; r1 is the context, later a spare.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let step = |code, to: u8, from: u8, offset, immediate| Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    };
    let mut code = vec![
        step(LOAD_WORD, 2, 1, 0, 0),
        step(MOVE, 3, 2, 0, 0),
        step(AND, 2, 0, 0, 0xffff),
        step(SHIFT_RIGHT, 3, 0, 0, 16),
        step(LOAD_WORD, 4, 1, 4, 0),
        step(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        // Every test that fails jumps behind the rule; `offset` is filled in below.
        let mut tests = Vec::new();
        if let Some(kind) = rule.kind {
            // BPF_DEVCG_DEV_BLOCK 1, BPF_DEVCG_DEV_CHAR 2
            let number = if kind == Kind::Block { 1 } else { 2 };
            tests.push(step(JUMP_NOT_EQUAL, 2, 0, 1, number));
        }
        // BPF_DEVCG_ACC_MKNOD 1, READ 2, WRITE 4: all that is wanted must be given.
        let mask = rule.access.chars().fold(0, |mask, one| {
            mask | match one {
                'm' => 1,
                'r' => 2,
                _ => 4,
            }
        });
        if mask != 7 {
            tests.push(step(MOVE, 1, 3, 0, 0));
            tests.push(step(AND, 1, 0, 0, mask));
            tests.push(step(JUMP_NOT_EQUAL_REGISTER, 1, 3, 1, 0));
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                tests.push(step(JUMP_NOT_EQUAL, register, 0, 1, number as i32));
            }
        }
        tests.push(step(MOVE_CONSTANT, 0, 0, 0, 1));
        tests.push(step(EXIT, 0, 0, 0, 0));
        let length = tests.len();
        let conditional = !tests[..length - 2].is_empty();
        for (position, test) in tests.iter_mut().enumerate() {
            if matches!(test.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER) {
                test.offset = (length - position - 1) as i16;
            }
        }
        code.extend(tests);
        if !conditional {
            // What follows cannot be reached, which the kernel's verifier refuses.
            return code;
        }
    }
    code.push(step(MOVE_CONSTANT, 0, 0, 0, 0));
    code.push(step(EXIT, 0, 0, 0, 0));
    code
}

/// Puts the rules in force: nothing is allowed in the group but what they say. They stay as long as the group does.
pub fn enforce(group: &Cgroup, rules: &[Rule]) -> io::Result<()> {
    match group.version() {
        Version::V2 => attach(&group.unified(), rules),
        Version::V1 => {
            let folder = group
                .folder("devices")
                .ok_or_else(|| io::Error::other("the host has no devices control group"))?;
            write_rules(&folder, rules)
        }
    }
}

/// On v1 the group's files take the rules one by one.
fn write_rules(folder: &Path, rules: &[Rule]) -> io::Result<()> {
    let open = |name: &str| fs::OpenOptions::new().write(true).open(folder.join(name));
    open("devices.deny")?.write_all(b"a")?;
    let mut allow = open("devices.allow")?;
    for rule in rules {
        allow.write_all(rule.to_string().as_bytes())?;
    }
    Ok(())
}

fn attach(folder: &Path, rules: &[Rule]) -> io::Result<()> {
    let group = fs::File::open(folder)?;
    let code = program(rules);
    let loaded = load(&code)?;
    // union bpf_attr for BPF_PROG_ATTACH (8): target_fd, attach_bpf_fd, attach_type BPF_CGROUP_DEVICE (6), flags
    // BPF_F_ALLOW_MULTI (2): a rule set above this group still counts.
    let attach: [u32; 4] = [group.as_raw_fd() as u32, loaded.as_raw_fd() as u32, 6, 2];
    bpf(8, &attach)?;
    Ok(())
}

fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    let licence = c"Apache-2.0";
    // union bpf_attr for BPF_PROG_LOAD (5): prog_type BPF_PROG_TYPE_CGROUP_DEVICE (15), insn_cnt, insns, license, then
    // log_level and all the rest zero.
    let instructions = (code.as_ptr() as u64).to_ne_bytes();
    let licence_at = (licence.as_ptr() as u64).to_ne_bytes();
    let half = |bytes: [u8; 8], from: usize| {
        u32::from_ne_bytes([
            bytes[from],
            bytes[from + 1],
            bytes[from + 2],
            bytes[from + 3],
        ])
    };
    let attributes: [u32; 12] = [
        15,
        code.len() as u32,
        half(instructions, 0),
        half(instructions, 4),
        half(licence_at, 0),
        half(licence_at, 4),
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let fd = bpf(5, &attributes)?;
    // SAFETY: BPF_PROG_LOAD has just returned this descriptor (close-on-exec); nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2). `attributes` is the beginning of `union bpf_attr`; the kernel takes the rest as zero.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u32; N]);

fn bpf<const N: usize>(command: i32, attributes: &[u32; N]) -> io::Result<i32> {
    let attributes = Aligned(*attributes);
    // SAFETY: the pointer and size describe `attributes`, which outlives the call. Addresses inside it (instructions,
    // licence) are of live slices of the callers `load` and `enforce`; the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const attributes,
            size_of::<Aligned<N>>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evaluates a program as the kernel does.
    fn run(code: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut registers = [0i64; 11];
        let mut at = 0;
        loop {
            let step = code[at];
            at += 1;
            let to = usize::from(step.registers & 15);
            let from = usize::from(step.registers >> 4);
            match step.code {
                LOAD_WORD => registers[to] = i64::from(context[step.offset as usize / 4]),
                MOVE => registers[to] = registers[from],
                MOVE_CONSTANT => registers[to] = i64::from(step.immediate),
                AND => registers[to] &= i64::from(step.immediate),
                SHIFT_RIGHT => registers[to] >>= step.immediate,
                JUMP_NOT_EQUAL if registers[to] != i64::from(step.immediate) => {
                    at += step.offset as usize
                }
                JUMP_NOT_EQUAL_REGISTER if registers[to] != registers[from] => {
                    at += step.offset as usize
                }
                JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER => {}
                EXIT => return registers[0] == 1,
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn the_default_rules_allow_null_and_refuse_kmsg_and_disks() {
        let code = program(&default_rules());
        let (block, character) = (1, 2);
        let (make, read, write) = (1, 2, 4);
        assert!(run(&code, character, read | write, 1, 3));
        assert!(run(&code, character, read, 136, 7));
        assert!(run(&code, character, make, 1, 11));
        assert!(run(&code, block, make, 8, 0));
        assert!(!run(&code, character, read, 1, 11));
        assert!(!run(&code, block, read, 8, 0));
        assert!(!run(&code, block, read | make, 8, 0));
    }

    #[test]
    fn a_rule_for_everything_ends_the_program() {
        let all = parse_rule("a *:* rwm").unwrap();
        let code = program(&[all, default_rules().remove(0)]);
        assert!(run(&code, 1, 7, 8, 0));
        assert_eq!(code.last().unwrap().code, EXIT);
    }

    /// Loads the program and attaches it to a group of the v2 hierarchy, where this host has one; a process in the group
    /// then sees the rules.
    #[test]
    fn the_kernel_takes_the_program_and_enforces_it() {
        let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .map(Path::new)
            .into_iter()
            .find(|root| {
                root.join("cgroup.procs").exists() && root.join("cgroup.controllers").exists()
            });
        let (Some(root), true) = (root, rustix::process::geteuid().is_root()) else {
            println!("skipped: needs root and a cgroup v2 hierarchy");
            return;
        };
        let group = root.join(format!("berth-device-test-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        let mut rules = default_rules();
        rules.push(parse_rule("b 7:* r").unwrap());
        let result = attach(&group, &rules);
        let mut output = String::new();
        if result.is_ok() {
            let script = format!(
                "echo $$ > {}/cgroup.procs; cat /dev/null && echo null; mknod $0/k c 1 11 && echo made; cat $0/k",
                group.display()
            );
            let folder = tempfile::tempdir().unwrap();
            let run = std::process::Command::new("sh")
                .arg("-c")
                .arg(script)
                .arg(folder.path())
                .output()
                .unwrap();
            output = String::from_utf8_lossy(&run.stdout).into_owned()
                + &String::from_utf8_lossy(&run.stderr);
        }
        for _ in 0..100 {
            if fs::remove_dir(&group).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        result.unwrap();
        assert!(output.starts_with("null\nmade\n"), "{output}");
        assert!(output.contains("Operation not permitted"), "{output}");
    }

    #[test]
    fn rules_are_read() {
        let rule = parse_rule("b 8:* r").unwrap();
        assert_eq!(
            (rule.kind, rule.major, rule.minor),
            (Some(Kind::Block), Some(8), None)
        );
        for wrong in [
            "",
            "c",
            "x 1:3 r",
            "c 1 r",
            "c 1:3",
            "c 1:3 x",
            "c 1:3 r more",
        ] {
            assert_eq!(parse_rule(wrong), None, "{wrong}");
        }
    }
}
