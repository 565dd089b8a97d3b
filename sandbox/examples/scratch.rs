//! scratch
#![allow(missing_docs, clippy::unwrap_used)]
use fulgurite_sandbox::runtime::*; use fulgurite_sandbox::sandbox::*; use fulgurite_sandbox::spec::*; use fulgurite_sandbox::cgroup::Limits;
use std::ffi::CString; use std::os::fd::AsFd; use std::time::{Instant, Duration};
fn main() {
    let rt = Runtime::start(&RuntimeOptions { without_cgroups: std::env::var("NOCG").is_ok() }).unwrap_or_else(|e| panic!("{e}"));
    let mut spec = SandboxSpec::default();
    let has = |n: &str| std::env::var(n).is_ok();
    if has("NOLL") { spec.hardening.landlock = fulgurite_sandbox::harden::Level::Off; }
    if has("NOSC") { spec.hardening.seccomp = fulgurite_sandbox::harden::Level::Off; }
    let t = rt.template(&spec).unwrap_or_else(|e| panic!("{e}"));
    if std::env::args().nth(1).as_deref() == Some("plan") { println!("{}", t.plan); }
    println!("{}", t.enforcement);
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    let args: Vec<CString> = std::env::args().skip(2).map(|a| CString::new(a).unwrap()).collect();
    let args = if args.is_empty() { vec![c"/bin/true".to_owned()] } else { args };
    let env = [c"PATH=/usr/bin:/bin".to_owned()];
    let limits = Limits::default();
    let t0 = Instant::now();
    let mut sb = Sandbox::create(&rt, &t).unwrap_or_else(|e| panic!("{e}"));
    println!("create {:?}", t0.elapsed());
    let (o, e) = (std::io::stdout(), std::io::stderr());
    let a = Action { arguments: &args, variables: &env, directory: c"/work", stdin: null.as_fd(), stdout: o.as_fd(), stderr: e.as_fd(), work: None, limits: &limits, timeout: Some(Duration::from_secs(5)), kill_delay: Duration::ZERO, terminal: false, fail_at: 0 };
    let out = sb.run(&a); println!("{out:?}");
    let mut v = vec![]; let mut r = vec![]; let mut ts: Vec<[u64;4]> = vec![];
    for _ in 0..300 { let t = Instant::now(); sb.begin_reset().unwrap(); sb.finish_reset().unwrap_or_else(|e| panic!("{e}")); r.push(t.elapsed()); let t = Instant::now(); let o = sb.run(&a); v.push(t.elapsed()); ts.push([o.times.start_us,o.times.run_us,o.times.quiet_us,o.times.collect_us]); if !o.end.is_success() { println!("{:?}", o.end); break; } }
    v.sort(); r.sort(); for k in 0..4 { let mut c: Vec<u64> = ts.iter().map(|t| t[k]).collect(); c.sort(); print!("{} ", c[c.len()/2]); } println!("run p50 {:?} reset p50 {:?}", v[v.len()/2], r[r.len()/2]);
    let mut v = vec![];
    for _ in 0..300 { let t = Instant::now(); std::process::Command::new("/bin/true").env_clear().status().unwrap(); v.push(t.elapsed()); }
    v.sort(); println!("spawn p50 {:?}", v[v.len()/2]);
    sb.destroy(&rt).unwrap();
    rt.stop().unwrap_or_else(|e| panic!("{e}"));
}
