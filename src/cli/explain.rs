//! `fulgurite explain`: what `fulgurite run` would do with these options, before anything is done.
use super::run_args::{RunArgs, RunSettings};
use crate::exec::Strategy;
use crate::failure::Failure;
use fulgurite_sandbox::runtime::{Runtime, RuntimeOptions};

/// Prints the plan.
///
/// # Errors
/// As `fulgurite run`, as far as it gets without running anything.
pub fn explain(args: &RunArgs) -> Result<u8, Failure> {
    let settings = args.settings()?;
    let runtime = Runtime::start(&RuntimeOptions::default())?;
    let template = runtime.template(&settings.spec)?;
    let features = runtime.features();
    let who = if features.privileged { "the host's root" } else { "an ordinary user, in a user namespace" };
    println!("host: Linux {}, as {who}", features.kernel);
    print!("{}", template.plan);
    work(&settings);
    limits(&settings);
    println!("enforced: {}", template.enforcement);
    drop(template);
    runtime.stop()?;
    Ok(0)
}

fn work(settings: &RunSettings) {
    let root = settings.exec_root.display();
    match (&settings.strategy, &settings.inputs) {
        (Strategy::Standalone, _) => println!("/work: {root} itself, writable"),
        (Strategy::Sandboxed, None) => println!("/work: an overlay of {root} and a private layer"),
        (Strategy::Sandboxed, Some(inputs)) => {
            println!("/work: an overlay of {} declared inputs and a private layer", inputs.len());
        }
    }
    for output in settings.outputs.iter() {
        println!("publish: {} to {root}, if the command succeeds", output.path);
    }
}

fn limits(settings: &RunSettings) {
    let limits = &settings.limits;
    let mut texts = Vec::new();
    texts.extend(limits.memory_bytes_max.map(|bytes| format!("memory {bytes} bytes, no swap")));
    texts.extend(limits.cpu_milli_max.map(|milli| format!("cpu {} cores", f64::from(milli) / 1000.0)));
    texts.extend(limits.pids_max.map(|pids| format!("{pids} processes")));
    let text = if texts.is_empty() { "none asked for".to_owned() } else { texts.join(", ") };
    println!("limits: {text}");
}
