//! The compiled filter says what the profile says, for every number and for random architectures and
//! arguments.

use crate::interpreter;
use fulgurite_sandbox::harden::seccomp::{Abi, Answer, Profile, Program, SockFilter, SyscallData, Verdict};

/// All profiles that compile.
fn profiles() -> Vec<Profile> {
    let mut profiles = Vec::new();
    for native in [Abi::X86_64, Abi::Aarch64] {
        for allow_i386 in [false, native == Abi::X86_64] {
            for allow_ptrace in [false, true] {
                profiles.push(Profile { native, allow_i386, allow_ptrace });
            }
        }
    }
    profiles
}

/// A deterministic generator (splitmix64), so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.next() % from.len() as u64).unwrap()]
    }
}

/// Argument values around what the rules look at, with and without garbage in the high half.
fn argument(random: &mut Random) -> u64 {
    let interesting = [
        0,
        1,
        2,
        8,
        10,
        16,
        17,
        38,
        40,
        0x11,
        0x80,
        0x5412,
        0x541c,
        0x5413,
        0x2_0000,
        0x2_0008,
        0x4_0000,
        0xffff_ffff,
        0x1000_0000,
        0x0200_0000,
        0x4000_0000,
        0o4755,
        0o2755,
        0o755,
        0o20666,
        0o60660,
        0o10644,
        0o100644,
        0x1_2000,
    ];
    let low = match random.next() % 4 {
        0 => random.next() & 0xffff_ffff,
        1 => 1 << (random.next() % 32),
        _ => random.pick(&interesting),
    };
    match random.next() % 3 {
        0 => low | (random.next() << 32),
        _ => low,
    }
}

fn number(random: &mut Random) -> u32 {
    let low = (random.next() % 600) as u32;
    match random.next() % 8 {
        0 => low | 0x4000_0000,
        1 => random.pick(&[u32::MAX, u32::MAX - 1, 0x3fff_ffff, 0x4000_0000, 0x8000_0000, 469, 470]),
        2 => random.next() as u32,
        _ => low,
    }
}

fn compare(profile: &Profile, program: &[SockFilter], data: &SyscallData) {
    let expected = profile.evaluate(data).as_return_value();
    let got = interpreter::run(program, data).value;
    assert_eq!(got, expected, "{profile:?} {data:x?}");
}

#[test]
fn filter_is_the_profile_for_random_inputs() {
    // The harness of the virtual machines asks for fewer: there each takes twenty times as long.
    let asked = std::env::var("FULGURITE_IT_RUNS").ok().and_then(|text| text.parse().ok());
    let inputs: usize = asked.unwrap_or(60_000);
    let mut random = Random(0xf01d_ab1e);
    for profile in profiles() {
        let program = Program::compile(&profile).unwrap();
        for _ in 0..inputs {
            let arches = [0xc000_003e, 0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0];
            let arch = match random.next() % 16 {
                0 => random.next() as u32,
                1..8 => profile.native.audit_arch(),
                _ => random.pick(&arches),
            };
            let args = std::array::from_fn(|_| argument(&mut random));
            let number = number(&mut random);
            let instruction_pointer = random.next();
            compare(
                &profile,
                program.instructions(),
                &SyscallData { number, arch, instruction_pointer, args },
            );
        }
    }
}

#[test]
fn filter_is_the_profile_for_every_number() {
    let mut random = Random(600);
    for profile in profiles() {
        let program = Program::compile(&profile).unwrap();
        interpreter::check(program.instructions());
        for arch in [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028] {
            for number in (0..=600).chain(0x4000_0000..0x4000_0260) {
                for _ in 0..4 {
                    let args = std::array::from_fn(|_| argument(&mut random));
                    let data = SyscallData { number, arch, instruction_pointer: 0, args };
                    compare(&profile, program.instructions(), &data);
                }
            }
        }
    }
}

#[test]
fn argument_rules_by_example() {
    let profile = Profile { native: Abi::X86_64, allow_i386: false, allow_ptrace: true };
    let answer = |name: &str, args: [u64; 6]| {
        let number = Abi::X86_64.number(name).unwrap();
        profile.evaluate(&SyscallData { number, arch: 0xc000_003e, instruction_pointer: 0, args })
    };
    let check = |name, args: &[u64], expected| {
        let mut all = [0xdead_beef_0000_0000; 6];
        all[..args.len()].copy_from_slice(args);
        assert_eq!(answer(name, all), expected, "{name} {args:x?}");
    };
    check("clone", &[0x1200011], Answer::Allow);
    check("clone", &[0x3d0f00], Answer::Allow);
    for flag in [0x80, 0x20000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
    {
        check("clone", &[flag | 17], Answer::Eperm);
        check("clone", &[flag | 17 | 1 << 40], Answer::Eperm);
    }
    for family in [1, 2, 10] {
        check("socket", &[family, 1, 0], Answer::Allow);
        check("socketpair", &[family, 1, 0], Answer::Allow);
    }
    for family in (0..50).filter(|family| ![1, 2, 10, 16].contains(family)) {
        check("socket", &[family, 1, 0], Answer::Eafnosupport);
        check("socket", &[family | 1 << 32, 1, 0], Answer::Eafnosupport);
    }
    check("socket", &[16, 3, 0], Answer::Allow);
    check("socket", &[16, 3, 1 << 32], Answer::Allow);
    check("socket", &[16, 3, 12], Answer::Eafnosupport);
    check("ioctl", &[0, 0x5401], Answer::Allow);
    check("ioctl", &[0, 0x5412], Answer::Eperm);
    check("ioctl", &[0, 0x1_0000_5412], Answer::Eperm);
    check("ioctl", &[0, 0xffff_ffff_0000_541c], Answer::Eperm);
    for allowed in [0, 0xffff_ffff, u64::MAX, 8, 0x20000, 0x20008] {
        check("personality", &[allowed], Answer::Allow);
    }
    check("personality", &[0x40000], Answer::Eperm);
    check("personality", &[0x0400000], Answer::Eperm);
    for (name, at) in [("mknod", 1), ("mknodat", 2)] {
        let with = |mode| [vec![0; at], vec![mode]].concat();
        check(name, &with(0o10644), Answer::Allow);
        check(name, &with(0o140644), Answer::Allow);
        check(name, &with(0o644), Answer::Allow);
        check(name, &with(0o20644), Answer::Eperm);
        check(name, &with(0o60644), Answer::Eperm);
        check(name, &with(0x1_0000 | 0o20644), Answer::Eperm);
    }
    for (name, at) in [("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2)] {
        let with = |mode| [vec![0; at], vec![mode]].concat();
        check(name, &with(0o1755), Answer::Allow);
        check(name, &with(0o4755), Answer::Eperm);
        check(name, &with(0o2755), Answer::Eperm);
        check(name, &with(0x1_0000_0000 | 0o4000), Answer::Eperm);
    }
}

/// Length and steps of the program, beside a chain that compares one number after the other.
#[test]
fn binary_search_beats_a_chain() {
    let profile = Profile { native: Abi::X86_64, allow_i386: false, allow_ptrace: true };
    let program = Program::compile(&profile).unwrap();
    let named: Vec<u32> = Abi::X86_64.assigned().map(|(number, _)| number).collect();
    let steps: Vec<usize> = named
        .iter()
        .map(|&number| {
            let data = SyscallData { number, arch: 0xc000_003e, instruction_pointer: 0, args: [0; 6] };
            interpreter::run(program.instructions(), &data).steps
        })
        .collect();
    // A chain: arch check (3), load (1), then `jeq, ret` for each allowed or checked number.
    let chained = named
        .iter()
        .filter(|&&number| {
            !matches!(profile.rule(Abi::X86_64, number).verdict, Verdict::Always(Answer::Enosys))
        })
        .count();
    let (longest, sum) = (steps.iter().max().unwrap(), steps.iter().sum::<usize>());
    println!(
        "binary search: {} instructions, longest path {longest}, mean {:.1}; chain: {} or more, mean path {}",
        program.instructions().len(),
        sum as f64 / named.len() as f64,
        4 + 2 * chained,
        4 + chained / 2,
    );
    assert!(*longest < 30, "{longest}");
    assert!(program.instructions().len() < 4 + 2 * chained);
}
