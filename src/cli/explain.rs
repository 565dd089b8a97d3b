//! `fulgurite explain`: what `fulgurite run` would do with these options, before anything is done.
use super::run_args::{RunArgs, RunSettings};
use crate::exec::Strategy;
use crate::failure::{Failure, put};
use fulgurite_sandbox::runtime::{Runtime, RuntimeOptions};

/// Prints the plan.
///
/// # Errors
/// As `fulgurite run`, as far as it gets without running anything.
pub fn explain(args: &RunArgs) -> Result<u8, Failure> {
    let elsewhere = [
        (args.daemon.is_some(), "--daemon"),
        (args.remote.is_some(), "--remote"),
        (args.worker.protocol.is_some(), "--worker"),
    ];
    if let Some((_, option)) = elsewhere.into_iter().find(|(is_there, _)| *is_there) {
        let hint = Some("leave it out to see the plan of a sandbox of this process");
        return Err(Failure::new(format!("the plan of a run with {option} is not made here")).hint(hint));
    }
    let settings = args.settings()?;
    let runtime = Runtime::start(&RuntimeOptions::default())?;
    let template = runtime.template(&settings.spec)?;
    let features = runtime.features();
    let who = if features.privileged { "the host's root" } else { "an ordinary user, in a user namespace" };
    put(&format!(
        "host: Linux {}, as {who}\n{}{}{}enforced: {}\n",
        features.kernel,
        template.plan,
        work(&settings),
        limits(&settings),
        template.enforcement
    ))?;
    drop(template);
    runtime.stop()?;
    Ok(0)
}

fn work(settings: &RunSettings) -> String {
    let root = settings.exec_root.display();
    let mut text = match (&settings.strategy, &settings.inputs) {
        (Strategy::Standalone, _) => format!("/work: {root} itself, writable\n"),
        (Strategy::Sandboxed, None) => format!("/work: an overlay of {root} and a private layer\n"),
        (Strategy::Sandboxed, Some(inputs)) => {
            format!("/work: an overlay of {} declared inputs and a private layer\n", inputs.len())
        }
    };
    for output in settings.outputs.iter() {
        text += &format!("publish: {} to {root}, if the command succeeds\n", output.path);
    }
    text
}

fn limits(settings: &RunSettings) -> String {
    let limits = &settings.limits;
    let mut texts = Vec::new();
    texts.extend(limits.memory_bytes_max.map(|bytes| format!("memory {bytes} bytes, no swap")));
    texts.extend(limits.cpu_milli_max.map(|milli| format!("cpu {} cores", f64::from(milli) / 1000.0)));
    texts.extend(limits.pids_max.map(|pids| format!("{pids} processes")));
    let text = if texts.is_empty() { "none asked for".to_owned() } else { texts.join(", ") };
    format!("limits: {text}\n")
}
