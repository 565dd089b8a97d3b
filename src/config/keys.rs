//! Every key: its name, its place in [`Config`], and what it is for. The example and the documentation come from here.

use super::value::Field;
use super::{Config, Instance};
use toml::Value;

/// A key of `T`.
pub(super) struct Key<T> {
    /// With the section: `store.durability`.
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) form: fn(&T) -> &'static str,
    pub(super) set: fn(&mut T, &Value) -> Result<(), String>,
    pub(super) show: fn(&T) -> String,
}

fn form_of<F: Field>(_: &F) -> &'static str {
    F::FORM
}

macro_rules! keys {
    ($of:ty: $($name:literal => $($field:ident).+, $about:literal;)*) => {
        &[$(Key::<$of> {
            name: $name,
            about: $about,
            form: |of| form_of(&of.$($field).+),
            set: |of, value| {
                of.$($field).+ = Field::read(value)?;
                Ok(())
            },
            show: |of| of.$($field).+.show(),
        },)*]
    };
}

/// The section of instances: `[instances.NAME]`.
pub(super) const INSTANCES: &str = "instances";

/// Keys of the whole server.
pub(super) const KEYS: &[Key<Config>] = keys! { Config:
    "state_dir" => state_dir,
        "Where the store, the action cache and layers lie: one filesystem, best XFS or btrfs";
    "listen" => listen, "Where clients connect";
    "tokens_file" => tokens_file,
        "Bearer tokens, a line each: `name = token` or `name = sha256:HASH`. Others must not be able to read it";
    "log" => log, "Which events are logged";
    "drain_timeout" => drain_timeout,
        "How long actions may go on after SIGTERM before they are killed. The service manager has to wait longer";
    "tls.certificate" => tls.certificate, "PEM file with the server's certificates; TCP alone is encrypted";
    "tls.key" => tls.key, "PEM file with the key of the first certificate";
    "tls.client_ca" => tls.client_ca,
        "PEM file with the authorities of client certificates; without it, clients need none";
    "store.size_bytes_max" => store.size_bytes_max,
        "Bytes of all blobs, beyond which the least recently used go, but for those in use";
    "store.durability" => store.durability,
        "What the store, and what is published into trees, has outlived when a client gets its answer";
    "store.action_cache_entries_max" => store.action_cache_entries_max,
        "Results that are kept, of all instances together";
    "store.action_cache_bytes_max" => store.action_cache_bytes_max, "Bytes of those results on disk";
    "store.action_cache_memory_bytes_max" => store.action_cache_memory_bytes_max,
        "Bytes of those results in memory";
    "execution.slots" => execution.slots, "Actions at a time, beside which a short one may run. By default, cores + 1";
    "execution.queue_max" => execution.queue_max, "Actions that wait; with more, clients are told to come again";
    "execution.timeout_default" => execution.timeout_default, "Time of an action that does not say how much it needs";
    "execution.timeout_max" => execution.timeout_max, "Most time that an action may ask for";
    "execution.memory_default" => execution.memory_default, "Memory of an action that does not say how much it needs";
    "execution.memory_max" => execution.memory_max, "Most memory that an action may ask for";
    "execution.cpus" => execution.cpus, "Most cores of one action";
    "execution.pids_max" => execution.pids_max, "Most processes and threads of one action";
    "execution.stdout_bytes_max" => execution.stdout_bytes_max,
        "Bytes that are kept of standard output, and as many of standard error";
    "execution.stage" => execution.stage, "How input roots become visible; anything but auto is for tests";
    "execution.handoff" => execution.handoff, "How an output of the local API comes from the store into the tree";
    "execution.network" => execution.network, "What of the network actions see";
    "execution.platform" => execution.platform,
        "Platform properties that this host offers: an action that asks for others is refused";
    "worker.enabled" => worker.enabled, "Whether actions that ask for a persistent worker get one";
    "worker.workers_max" => worker.workers_max, "Live workers in all";
    "worker.per_key_max" => worker.per_key_max, "Live workers that are alike, of those that take one request at a time";
    "worker.per_mnemonic_max" => worker.per_mnemonic_max, "Live workers of one mnemonic";
    "worker.multiplex_slots" => worker.multiplex_slots, "Requests that a multiplex worker has at a time";
    "worker.starting_max" => worker.starting_max, "Workers that start at a time";
    "worker.connect_max" => worker.connect_max,
        "How long a worker of Buck2's protocol may take to serve its socket; what waits for it runs by itself then";
    "worker.memory_max" => worker.memory_max,
        "Memory of all workers: beyond it idle ones are stopped, the largest first, then others when they are done";
    "worker.freeze_after" => worker.freeze_after, "A worker without work is frozen after this";
    "worker.idle_max" => worker.idle_max, "A worker without work is stopped after this";
    "worker.cancel_grace" => worker.cancel_grace, "How long a worker may take to answer a cancel before it is killed";
    "worker.finish_max" => worker.finish_max,
        "How long a worker that knows no cancel may go on with what nobody wants; 0s: it is killed at once";
    "worker.on_crash" => worker.on_crash,
        "What becomes of an action whose worker crashed: retry is once, on a fresh worker; one-shot is after that";
    "worker.cache" => worker.cache,
        "Which results of workers are cached; keyed: those of workers whose tools the client marked or declared";
    "worker.view" => worker.view,
        "What workers see: each request's own view in its time, or one directory that is changed for each";
    "worker.ipc" => worker.ipc, "By what workers are talked to";
    "worker.extra_flags" => worker.extra_flags,
        "More arguments for workers of a mnemonic, after --persistent_worker: Mnemonic=flag, each by itself";
    "worker.strict_flag_files" => worker.strict_flag_files,
        "Whether a worker's action has exactly one flag file, as its last argument; else it runs without a worker";
    "worker.quit_after_build" => worker.quit_after_build,
        "Each build has its own workers, which end this long after its last action; none: they serve later builds too";
    "remote.address" => remote.address,
        "A cluster to race against: grpc://host:port, grpcs://host:port or unix:/path; without it, all runs here";
    "remote.instance" => remote.instance, "Its instance";
    "remote.mode" => remote.mode, "What it is used for";
    "remote.outputs" => remote.outputs,
        "What of its results is fetched at once; lazy: nothing but names, where no local branch could have won";
    "remote.outputs_kept_for" => remote.outputs_kept_for, "How long it is trusted to keep what was not fetched";
    "remote.tls_ca" => remote.tls_ca,
        "PEM file with the authorities of its certificate; without it, those of this machine";
    "remote.tls_certificate" => remote.tls_certificate, "PEM file with our certificate, if it asks for one";
    "remote.tls_key" => remote.tls_key, "PEM file with the key of that";
    "remote.token_file" => remote.token_file, "File with a bearer token. Others must not be able to read it";
    "remote.headers" => remote.headers, "Sent with every call: name=value";
    "remote.jobs" => remote.jobs, "Actions on their way at a time, here and there together";
    "remote.upload_local_results" => remote.upload_local_results, "Whether what ran here fills its cache";
    "remote.connect_timeout" => remote.connect_timeout, "How long connecting may take";
    "remote.call_timeout" => remote.call_timeout, "How long a call that is no stream may take";
    "race.strategy" => race.strategy, "Where actions run that do not say";
    "race.options" => race.options,
        "Bazel's options of dynamic execution by their names, and ours: name=value or name=Mnemonic=value";
    "observe.metrics" => observe.metrics,
        "Where /metrics is, for Prometheus: an address of loopback, since nobody is asked who they are";
    "observe.profile" => observe.profile, "File of a trace for Perfetto, from start to end; what was there goes";
};

/// Keys of one instance.
pub(super) const INSTANCE_KEYS: &[Key<Instance>] = keys! { Instance:
    "action_cache_writers" => action_cache_writers,
        "Who may write results: `clients` for a cache that they fill, where all of them are trusted";
    "execution" => execution, "Whether actions are executed, or only cached";
    "timeout_default" => timeout_default, "In place of execution.timeout_default";
    "timeout_max" => timeout_max, "In place of execution.timeout_max";
    "memory_default" => memory_default, "In place of execution.memory_default";
    "memory_max" => memory_max, "In place of execution.memory_max";
};

/// The variable that gives a key: `store.durability` is `FULGURITE_STORE_DURABILITY`.
pub(super) fn variable(key: &str) -> String {
    format!("FULGURITE_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// The full name of an instance's key.
pub(super) fn instance_key(instance: &str, key: &str) -> String {
    format!("{INSTANCES}.{}.{key}", quoted_name(instance))
}

/// A name as TOML has it in a key.
pub(super) fn quoted_name(name: &str) -> String {
    let bare =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if bare { name.to_owned() } else { format!("\"{}\"", name.escape_default()) }
}

/// The name of those given that is most like `wrong`, if one is like it at all.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = |name: &str| (distance(wrong, name), name.len());
    let best = names.min_by_key(|name| near(name))?;
    (distance(wrong, best) <= 2.max(best.len() / 3)).then_some(best)
}

/// Insertions, removals and replacements of bytes that make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, left) in a.bytes().take(200).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, right) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name() {
        let check = |wrong: &str, expected: Option<&str>| {
            assert_eq!(nearest(wrong, KEYS.iter().map(|key| key.name)), expected, "{wrong}");
        };
        check("store.durabilty", Some("store.durability"));
        check("size_bytes_max", Some("store.size_bytes_max"));
        check("execution.slot", Some("execution.slots"));
        check("sotre.durability", Some("store.durability"));
        check("tls.cert", None);
        check("colour", None);
        check("", None);
    }

    #[test]
    fn names_that_need_quotes_have_them() {
        assert_eq!(instance_key("main", "execution"), "instances.main.execution");
        assert_eq!(instance_key("", "execution"), "instances.\"\".execution");
        assert_eq!(instance_key("a/b", "execution"), "instances.\"a/b\".execution");
    }
}
