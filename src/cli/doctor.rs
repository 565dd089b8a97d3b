//! `fulgurite doctor`: what this host can do, what is used instead, and the command or sysctl that would change it.
use crate::failure::{Failure, put};
use clap::Args;
use fulgurite_sandbox::cgroup::{Availability, CgroupHost};
use fulgurite_sandbox::host::{self, Support};
use fulgurite_sandbox::runtime::{Runtime, RuntimeOptions, SandboxError};
use fulgurite_sandbox::sandbox::Sandbox;
use fulgurite_sandbox::spec::SandboxSpec;
use serde::Serialize;

/// What `doctor` takes.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// One thing that the host can or cannot do.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Its name.
    pub name: &'static str,
    /// Whether it is there.
    pub ok: bool,
    /// What is there, or why it is not.
    pub detail: String,
    /// What is used instead.
    pub instead: Option<String>,
    /// What would change it.
    pub remedy: Option<String>,
}

impl Finding {
    fn yes(name: &'static str, detail: impl Into<String>) -> Self {
        Finding { name, ok: true, detail: detail.into(), instead: None, remedy: None }
    }

    fn no(name: &'static str, detail: impl Into<String>, instead: &str, remedy: Option<String>) -> Self {
        let instead = (!instead.is_empty()).then(|| instead.to_owned());
        Finding { name, ok: false, detail: detail.into(), instead, remedy }
    }

    fn of(name: &'static str, support: &Support, instead: &str) -> Self {
        match support {
            Support::Yes => Finding::yes(name, "yes"),
            Support::No { why, remedy } => Finding::no(name, why.clone(), instead, remedy.clone()),
        }
    }

    fn limit(name: &'static str, availability: &Availability, instead: &str) -> Self {
        match availability {
            Availability::Yes => Finding::yes(name, "yes"),
            Availability::No(missing) => {
                Finding::no(name, missing.why.clone(), instead, missing.hint.clone())
            }
        }
    }
}

/// Prints the findings; the exit code is 1 if no sandbox can be made at all.
///
/// # Errors
/// None of its own: what fails is a finding.
pub fn doctor(args: &DoctorArgs) -> Result<u8, Failure> {
    let (findings, works) = examine();
    if args.json {
        let text =
            serde_json::to_string_pretty(&findings).map_err(|error| Failure::new(error.to_string()))?;
        put(&format!("{text}\n"))?;
    } else {
        put(&shown(&findings))?;
    }
    Ok(u8::from(!works))
}

fn shown(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = if finding.ok { "ok     " } else { "missing" };
        text += &format!("{mark} {:<18} {}\n", finding.name, finding.detail);
        if let Some(instead) = &finding.instead {
            text += &format!("{:27}instead: {instead}\n", "");
        }
        if let Some(remedy) = &finding.remedy {
            text += &format!("{:27}to change: {remedy}\n", "");
        }
    }
    text
}

fn examine() -> (Vec<Finding>, bool) {
    let mut findings = vec![Finding::yes("kernel", host::kernel_release())];
    let who = if host::is_administrator() { "the host's root" } else { "an ordinary user" };
    findings.push(Finding::yes("privileges", who));
    let runtime = match Runtime::start(&RuntimeOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            findings.push(sandbox_failed(&error));
            findings.push(Finding::of("user namespaces", &host::user_namespaces(), ""));
            return (findings, false);
        }
    };
    kernel_findings(&mut findings, &runtime);
    cgroup_findings(&mut findings, runtime.cgroup_host());
    let made = runtime
        .template(&SandboxSpec::default())
        .and_then(|template| Sandbox::create(&runtime, &template))
        .and_then(|sandbox| sandbox.destroy(&runtime));
    let works = made.is_ok();
    findings.insert(
        2,
        made.map_or_else(
            |error| sandbox_failed(&error),
            |()| Finding::yes("sandbox", "one was made and removed"),
        ),
    );
    // What could not be removed is found by the next start.
    let _ = runtime.stop();
    (findings, works)
}

fn sandbox_failed(error: &SandboxError) -> Finding {
    Finding::no("sandbox", error.to_string(), "", error.hint())
}

fn kernel_findings(findings: &mut Vec<Finding>, runtime: &Runtime) {
    let features = runtime.features();
    let own_ids = if features.two_ids {
        Finding::yes("ids", "each sandbox has two ids of its own")
    } else {
        let instead = "actions have the caller's id; pid namespace and seccomp keep them apart";
        Finding::no("ids", "only the host's root can map others", instead, Some("run as root".to_owned()))
    };
    findings.push(Finding::of("user namespaces", &features.user_namespaces, ""));
    findings.push(own_ids);
    findings.push(Finding::of("overlay", &features.overlay, "nothing: only --strategy standalone works"));
    let attached = "layers are attached in a private mount namespace while an overlay is mounted";
    findings.push(Finding::of("detached layers", &features.overlay_detached_layers, attached));
    let kept = "files keep their owner; parents of outputs are made writable";
    findings.push(Finding::of("idmapped mounts", &features.idmapped_mounts, kept));
    findings.push(Finding::of("seccomp", &features.seccomp, "nothing: sandboxes that require it fail"));
    findings.push(match &features.landlock_abi {
        Ok(abi) => Finding::yes("landlock", format!("abi {abi}")),
        Err(why) => {
            let remedy = "boot with landlock in the kernel's lsm= list".to_owned();
            Finding::no("landlock", why.clone(), "the mount namespace alone", Some(remedy))
        }
    });
}

fn cgroup_findings(findings: &mut Vec<Finding>, host: &CgroupHost) {
    findings.push(Finding::yes("cgroup layout", format!("{:?}", host.layout).to_lowercase()));
    let error = "nothing: asking for this limit is an error";
    findings.push(Finding::limit("limit: memory", &host.memory, error));
    findings.push(Finding::limit("limit: cpu", &host.cpu, error));
    findings.push(Finding::limit("limit: pids", &host.pids, error));
    findings.push(Finding::limit("cgroup.kill", &host.kill, "pid 1 of the sandbox kills"));
    findings.push(Finding::limit("memory peak", &host.memory_peak, "the largest process, from rusage"));
    let renewed = "the action's cgroup is made anew for each action";
    findings.push(Finding::limit("peak reset", &host.memory_peak_reset, renewed));
    if let Some(hint) = host.dynmods_hint() {
        let why = "moving a process into a v1 cgroup costs milliseconds";
        let instead = "each seat has a process that was moved once";
        findings.push(Finding::no("favordynmods", why, instead, Some(hint)));
    }
}
