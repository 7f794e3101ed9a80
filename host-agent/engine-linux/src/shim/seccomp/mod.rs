//! System call filters. libcontainer without the C library libseccomp only warns about a profile, so the filter is
//! compiled here, to classic BPF, and installed by [`super::executor`] just before the container's program runs.
//!
//! The program is a binary search over ranges of call numbers: about eight comparisons for any call, where a list
//! would need hundreds. The kernel evaluates it once for every number when it is loaded and then answers calls that
//! do not depend on arguments from a bitmap.

mod default_profile;
pub mod profile;

pub use default_profile::default_profile;
use profile::{Action, Argument, Comparison, Profile, Rule};
use std::collections::BTreeMap;

/// One instruction (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub operand: u32,
}

/// A system call interface of the kernel: its AUDIT_ARCH number and its table of names.
struct Interface {
    audit: u32,
    name: &'static str,
    table: &'static str,
}

#[cfg(target_arch = "x86_64")]
const INTERFACES: &[Interface] = &[
    Interface {
        audit: 0xc000_003e,
        name: "x86_64",
        table: include_str!("syscalls_x86_64.txt"),
    },
    // 32-bit programs run in a 64-bit container, as with Docker.
    Interface {
        audit: 0x4000_0003,
        name: "i386",
        table: include_str!("syscalls_i386.txt"),
    },
];
#[cfg(target_arch = "aarch64")]
const INTERFACES: &[Interface] = &[Interface {
    audit: 0xc000_00b7,
    name: "aarch64",
    table: include_str!("syscalls_aarch64.txt"),
}];

/// x32 calls have this bit in their number and the 64-bit AUDIT_ARCH. Nothing uses them; they are answered as unknown.
#[cfg(target_arch = "x86_64")]
const X32_BIT: Option<u32> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const X32_BIT: Option<u32> = None;

const ENOSYS: Action = Action::Errno(38);

/// Compiles a profile for a process with these capabilities.
pub fn compile(profile: &Profile, capabilities: &[String]) -> Vec<Instruction> {
    let mut code = Assembler::default();
    for interface in INTERFACES {
        let body = interface_code(profile, capabilities, interface);
        code.load(4);
        // Not this interface: on to the next.
        code.push(JUMP_EQUAL, 1, 0, interface.audit);
        code.push(JUMP, 0, 0, body.len() as u32);
        code.instructions.extend(body);
    }
    code.ret(Action::KillProcess);
    code.instructions
}

fn interface_code(
    profile: &Profile,
    capabilities: &[String],
    interface: &Interface,
) -> Vec<Instruction> {
    let numbers: BTreeMap<&str, u32> = interface
        .table
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, number)| Some((name, number.parse().ok()?)))
        .collect();
    let mut calls: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    let mut newest = 0;
    for rule in &profile.rules {
        let holds = rule.holds(capabilities, interface.name);
        for name in &rule.names {
            if let Some(&number) = numbers.get(name.as_str()) {
                newest = newest.max(number);
                if holds {
                    calls.entry(number).or_default().push(rule);
                }
            }
        }
    }
    let answers = calls.into_iter().map(|(number, rules)| {
        // A rule without arguments decides alone; an action equal to the default needs no code.
        let answer = match rules.iter().find(|rule| rule.arguments.is_empty()) {
            Some(rule) => Answer::Plain(rule.action),
            None => Answer::Conditional(rules),
        };
        (number, answer)
    });
    // Ranges: each begins where an answer changes.
    let mut ranges: Vec<(u32, Answer)> = vec![(0, Answer::Plain(profile.default))];
    let mut next = 0;
    for (number, answer) in answers {
        if number > next {
            push_range(&mut ranges, next, Answer::Plain(profile.default));
        }
        push_range(&mut ranges, number, answer);
        next = number + 1;
    }
    push_range(&mut ranges, next, Answer::Plain(profile.default));
    // What is newer than the profile "is not implemented": programs then use what they used before (as runc does).
    if matches!(profile.default, Action::Errno(_)) {
        push_range(&mut ranges, newest + 1, Answer::Plain(ENOSYS));
    }
    if let Some(bit) = X32_BIT.filter(|_| interface.name == "x86_64") {
        push_range(&mut ranges, bit, Answer::Plain(ENOSYS));
    }
    let mut code = Assembler::default();
    code.load(0);
    code.instructions.extend(search(&ranges, profile.default));
    code.instructions
}

enum Answer<'a> {
    Plain(Action),
    Conditional(Vec<&'a Rule>),
}

fn push_range<'a>(ranges: &mut Vec<(u32, Answer<'a>)>, from: u32, answer: Answer<'a>) {
    if let (Some((_, Answer::Plain(last))), Answer::Plain(new)) = (ranges.last(), &answer)
        && last == new
    {
        return;
    }
    if ranges.last().is_some_and(|(start, _)| *start == from) {
        ranges.pop();
        return push_range(ranges, from, answer);
    }
    ranges.push((from, answer));
}

/// Binary search over the ranges; the call's number is in the accumulator.
fn search(ranges: &[(u32, Answer)], default: Action) -> Vec<Instruction> {
    let mut code = Assembler::default();
    match ranges {
        [] => code.ret(default),
        [(_, Answer::Plain(action))] => code.ret(*action),
        [(_, Answer::Conditional(rules))] => {
            for rule in rules {
                code.rule(rule);
            }
            code.ret(default);
        }
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let low = search(low, default);
            code.push(JUMP_GREATER_EQUAL, 0, 1, high[0].0);
            code.push(JUMP, 0, 0, low.len() as u32);
            code.instructions.extend(low);
            code.instructions.extend(search(high, default));
        }
    }
    code.instructions
}

// linux/bpf_common.h
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
}

impl Assembler {
    fn push(&mut self, code: u16, jump_true: u8, jump_false: u8, operand: u32) {
        self.instructions.push(Instruction {
            code,
            jump_true,
            jump_false,
            operand,
        });
    }

    /// Loads 32 bits of `struct seccomp_data` at this offset.
    fn load(&mut self, offset: u32) {
        self.push(LOAD, 0, 0, offset);
    }

    fn ret(&mut self, action: Action) {
        self.push(RETURN, 0, 0, action.value());
    }

    /// Returns the rule's action where all its conditions hold, else goes on behind it.
    fn rule(&mut self, rule: &Rule) {
        let mut blocks: Vec<Vec<Instruction>> = rule.arguments.iter().map(condition).collect();
        let mut last = Assembler::default();
        last.ret(rule.action);
        blocks.push(last.instructions);
        // FAIL marks a jump to behind the whole rule.
        let total: usize = blocks.iter().map(Vec::len).sum();
        for (position, mut instruction) in blocks.into_iter().flatten().enumerate() {
            let distance = (total - position - 1) as u8;
            if instruction.jump_true == FAIL {
                instruction.jump_true = distance;
            }
            if instruction.jump_false == FAIL {
                instruction.jump_false = distance;
            }
            self.instructions.push(instruction);
        }
    }
}

/// A jump target that is filled in by [`Assembler::rule`]. A rule has at most 6 conditions of 7 instructions, so no
/// real distance is this long.
const FAIL: u8 = 255;

/// Code that falls through where the condition holds and jumps to FAIL where not.
fn condition(argument: &Argument) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let low_at = 16 + 8 * u32::from(argument.index);
    let high_at = low_at + 4;
    let (low, high) = (argument.value as u32, (argument.value >> 32) as u32);
    match argument.comparison {
        Comparison::Equal => {
            code.load(high_at);
            code.push(JUMP_EQUAL, 0, FAIL, high);
            code.load(low_at);
            code.push(JUMP_EQUAL, 0, FAIL, low);
        }
        Comparison::NotEqual => {
            code.load(high_at);
            code.push(JUMP_EQUAL, 0, 2, high);
            code.load(low_at);
            code.push(JUMP_EQUAL, FAIL, 0, low);
        }
        Comparison::Greater | Comparison::GreaterOrEqual => {
            let last = if argument.comparison == Comparison::Greater {
                JUMP_GREATER
            } else {
                JUMP_GREATER_EQUAL
            };
            code.load(high_at);
            code.push(JUMP_GREATER, 3, 0, high);
            code.push(JUMP_EQUAL, 0, FAIL, high);
            code.load(low_at);
            code.push(last, 0, FAIL, low);
        }
        Comparison::Less | Comparison::LessOrEqual => {
            let last = if argument.comparison == Comparison::Less {
                JUMP_GREATER_EQUAL
            } else {
                JUMP_GREATER
            };
            code.load(high_at);
            code.push(JUMP_GREATER, FAIL, 0, high);
            code.push(JUMP_EQUAL, 0, 2, high);
            code.load(low_at);
            code.push(last, FAIL, 0, low);
        }
        Comparison::MaskedEqual => {
            let (second_low, second_high) =
                (argument.second as u32, (argument.second >> 32) as u32);
            code.load(high_at);
            code.push(AND, 0, 0, high);
            code.push(JUMP_EQUAL, 0, FAIL, second_high);
            code.load(low_at);
            code.push(AND, 0, 0, low);
            code.push(JUMP_EQUAL, 0, FAIL, second_low);
        }
    }
    code.instructions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evaluates a filter as the kernel does.
    fn run(program: &[Instruction], audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            0 => number,
            4 => audit,
            16..64 => {
                let argument = arguments[((offset - 16) / 8) as usize];
                if offset.is_multiple_of(8) {
                    argument as u32
                } else {
                    (argument >> 32) as u32
                }
            }
            _ => panic!("offset {offset}"),
        };
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let step = program[at];
            at += 1;
            let mut jump = |taken| {
                at += usize::from(if taken {
                    step.jump_true
                } else {
                    step.jump_false
                })
            };
            match step.code {
                LOAD => accumulator = load(step.operand),
                AND => accumulator &= step.operand,
                JUMP => at += step.operand as usize,
                JUMP_EQUAL => jump(accumulator == step.operand),
                JUMP_GREATER => jump(accumulator > step.operand),
                JUMP_GREATER_EQUAL => jump(accumulator >= step.operand),
                RETURN => return step.operand,
                other => panic!("instruction {other}"),
            }
        }
    }

    const HERE: u32 = INTERFACES[0].audit;

    fn number_of(name: &str) -> u32 {
        INTERFACES[0]
            .table
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")))
            .unwrap()
            .parse()
            .unwrap()
    }

    #[track_caller]
    fn check(program: &[Instruction], name: &str, arguments: [u64; 6], wanted: Action) {
        assert_eq!(
            run(program, HERE, number_of(name), arguments),
            wanted.value(),
            "{name}"
        );
    }

    const EPERM: Action = Action::Errno(1);

    #[test]
    fn the_default_profile_allows_and_refuses_as_dockers() {
        let program = compile(
            &default_profile(),
            &["CAP_CHOWN".into(), "CAP_SYS_CHROOT".into()],
        );
        assert!(program.len() < 1200, "{}", program.len());
        for name in [
            "read", "execve", "openat", "futex", "ptrace", "chroot", "mknodat",
        ] {
            check(&program, name, [0; 6], Action::Allow);
        }
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "keyctl",
            "add_key",
            "kexec_load",
            "reboot",
            "io_uring_setup",
        ] {
            check(&program, name, [0; 6], EPERM);
        }
        check(&program, "clone", [0x11, 0, 0, 0, 0, 0], Action::Allow);
        check(&program, "clone", [0x1000_0011, 0, 0, 0, 0, 0], EPERM);
        check(&program, "clone3", [0; 6], ENOSYS);
        check(&program, "socket", [2, 1, 0, 0, 0, 0], Action::Allow);
        check(&program, "socket", [38, 1, 0, 0, 0, 0], EPERM);
        check(&program, "socket", [40, 1, 0, 0, 0, 0], EPERM);
        check(
            &program,
            "personality",
            [0x20008, 0, 0, 0, 0, 0],
            Action::Allow,
        );
        check(&program, "personality", [0x40000, 0, 0, 0, 0, 0], EPERM);
        assert_eq!(run(&program, HERE, 5000, [0; 6]), ENOSYS.value());
        assert_eq!(
            run(&program, 0x1234, 0, [0; 6]),
            Action::KillProcess.value()
        );
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn other_interfaces_are_filtered_too() {
        let program = compile(&default_profile(), &[]);
        // i386: mount is 21, read is 3. x32 has bit 30.
        assert_eq!(run(&program, 0x4000_0003, 21, [0; 6]), EPERM.value());
        assert_eq!(run(&program, 0x4000_0003, 3, [0; 6]), Action::Allow.value());
        assert_eq!(run(&program, HERE, 0x4000_0000, [0; 6]), ENOSYS.value());
    }

    /// Calls (x86_64) that dockerd 20.10.24's filter refused in a container with nothing asked: each was made with all
    /// arguments -1 under its default filter and under none, and came back with EPERM or ENOSYS under the first only.
    #[rustfmt::skip]
    const REFUSED_BY_DOCKERD: &[u32] = &[
        56, 134, 135, 136, 139, 156, 164, 165, 166, 167, 172, 173, 174, 175, 176, 177, 178, 179, 180, 181,
        182, 183, 184, 185, 212, 227, 236, 237, 238, 239, 246, 248, 249, 250, 256, 272, 279, 298, 303, 304,
        308, 310, 311, 312, 313, 320, 321, 323, 329, 330, 331, 428, 431, 435, 438, 440, 442, 443, 450, 451,
        452, 454, 455, 456, 457, 458, 459, 460, 461, 462, 463, 464, 465, 466, 467, 468, 469,
    ];

    /// Those of them that later versions of Docker's profile allow, and ours with them.
    const ALLOWED_LATER: &[&str] = &[
        "name_to_handle_at",
        "process_vm_readv",
        "process_vm_writev",
        "pkey_mprotect",
        "pkey_alloc",
        "pkey_free",
        "cachestat",
        "fchmodat2",
        "futex_wake",
        "futex_wait",
        "futex_requeue",
        "statmount",
        "listmount",
        "mseal",
        "setxattrat",
        "getxattrat",
        "listxattrat",
        "removexattrat",
    ];

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn nothing_is_allowed_that_dockerd_refuses() {
        let capabilities = engine::containers::capabilities::effective(false, &[], &[]);
        let program = compile(&default_profile(), &capabilities);
        let allowed: Vec<u32> = REFUSED_BY_DOCKERD
            .iter()
            .copied()
            .filter(|number| run(&program, HERE, *number, [u64::MAX; 6]) == Action::Allow.value())
            .collect();
        let mut later: Vec<u32> = ALLOWED_LATER.iter().map(|name| number_of(name)).collect();
        later.sort_unstable();
        assert_eq!(allowed, later);
    }

    #[test]
    fn capabilities_open_more() {
        let program = compile(&default_profile(), &["CAP_SYS_ADMIN".into()]);
        for name in ["mount", "unshare", "clone3", "setns"] {
            check(&program, name, [0; 6], Action::Allow);
        }
        check(
            &program,
            "clone",
            [0x1000_0011, 0, 0, 0, 0, 0],
            Action::Allow,
        );
        check(&program, "reboot", [0; 6], EPERM);
    }

    #[test]
    fn every_call_gets_what_a_plain_list_would_give() {
        for capabilities in [vec![], vec!["CAP_SYS_ADMIN".to_owned()]] {
            let profile = default_profile();
            let program = compile(&profile, &capabilities);
            for line in INTERFACES[0].table.lines() {
                let name = line.split(' ').next().unwrap();
                let rules: Vec<_> = profile
                    .rules
                    .iter()
                    .filter(|rule| rule.holds(&capabilities, INTERFACES[0].name))
                    .filter(|rule| rule.names.iter().any(|one| one == name))
                    .collect();
                if rules.iter().any(|rule| !rule.arguments.is_empty()) {
                    continue;
                }
                let wanted = rules.first().map(|rule| rule.action);
                let got = run(&program, HERE, number_of(name), [0; 6]);
                match wanted {
                    Some(action) => assert_eq!(got, action.value(), "{name}"),
                    None => assert!(got == EPERM.value() || got == ENOSYS.value(), "{name}"),
                }
            }
        }
    }

    #[test]
    fn comparisons_look_at_all_64_bits() {
        let big = 1u64 << 40;
        for (comparison, value, holds) in [
            (Comparison::Equal, big, true),
            (Comparison::Equal, 0, false),
            (Comparison::NotEqual, big, false),
            (Comparison::NotEqual, 0, true),
            (Comparison::Greater, big - 1, true),
            (Comparison::Greater, big, false),
            (Comparison::GreaterOrEqual, big, true),
            (Comparison::GreaterOrEqual, big + 1, false),
            (Comparison::Less, big + 1, true),
            (Comparison::Less, big, false),
            (Comparison::LessOrEqual, big, true),
            (Comparison::LessOrEqual, big - 1, false),
        ] {
            let profile = Profile {
                default: EPERM,
                rules: vec![Rule::allow("read").when(Argument::new(2, comparison, value))],
            };
            let got = run(
                &compile(&profile, &[]),
                HERE,
                number_of("read"),
                [0, 0, big, 0, 0, 0],
            );
            let wanted = if holds { Action::Allow } else { EPERM };
            assert_eq!(got, wanted.value(), "{comparison:?} {value:#x}");
        }
    }
}
