//! Layers, mistakes, and that example and documentation say what holds.

use super::*;
use std::path::Path;
use toml::Value;

fn host() -> Host {
    Host { root: true, home: None, state_home: None, runtime_dir: None, cores: 4, architecture: "x86_64" }
}

fn sources() -> Sources {
    Sources { host: host(), files: Vec::new(), file: None, environment: Vec::new(), flags: Vec::new() }
}

fn flag(key: &str, value: &str) -> FlagSetting {
    FlagSetting { flag: "--set".to_owned(), key: key.to_owned(), value: Value::String(value.to_owned()) }
}

/// Loads one file of this text, whose lines begin at 1.
fn load(text: &str) -> Result<Resolved, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&Sources { file: Some(path.clone()), ..sources() }).map_err(|error| {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{error}{hint}").replace(&*path.to_string_lossy(), "FILE")
    })
}

#[test]
fn defaults_depend_on_who_runs_it() {
    let config = Config::load(&sources()).unwrap().config;
    assert_eq!(config, Config::defaults(&host()));
    assert_eq!(config.state_dir, Path::new("/var/lib/fulgurite"));
    assert_eq!(config.listen, [Listen::Unix("/run/fulgurite/fulgurite.sock".into())]);
    assert_eq!(config.execution.slots, 5);
    assert_eq!(config.execution.platform["OSFamily"], ["linux", "Linux"]);
    let user = Host { root: false, home: Some("/home/a".into()), ..host() };
    let config = Config::defaults(&user);
    assert_eq!(config.state_dir, Path::new("/home/a/.local/state/fulgurite"));
    assert_eq!(config.listen, [Listen::Unix("/home/a/.local/state/fulgurite/fulgurite.sock".into())]);
    let user =
        Host { state_home: Some("/state".into()), runtime_dir: Some("/run/user/7".into()), cores: 0, ..user };
    let config = Config::defaults(&user);
    assert_eq!(config.state_dir, Path::new("/state/fulgurite"));
    assert_eq!(config.listen, [Listen::Unix("/run/user/7/fulgurite.sock".into())]);
    assert_eq!(config.execution.slots, 2);
}

#[test]
fn later_layers_override_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    let [system, user, gone] = ["system", "user", "gone"].map(|name| dir.path().join(name));
    std::fs::write(
        &system,
        "log = \"warn\"\n[execution]\nslots = 1\nqueue_max = 1\npids_max = 1\nstdout_bytes_max = 1\n",
    )
    .unwrap();
    std::fs::write(&user, "[execution]\nqueue_max = 2\n\npids_max = 2\nstdout_bytes_max = 2\n").unwrap();
    let environment = [
        ("FULGURITE_EXECUTION_PIDS_MAX", "3"),
        ("FULGURITE_EXECUTION_STDOUT_BYTES_MAX", "3"),
        ("FULGURITE_LISTEN", "unix:/a, localhost:1"),
        ("FULGURITE_TEST_OF_SOMETHING", "not ours"),
        ("PATH", "/bin"),
    ];
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let flags = vec![flag("execution.stdout_bytes_max", "4KiB")];
    let files = vec![system.clone(), gone, user.clone()];
    let resolved = Config::load(&Sources { files, environment, flags, ..sources() }).unwrap();
    let config = &resolved.config;
    assert_eq!(config.log, LogFilter("warn".to_owned()));
    let execution = &config.execution;
    assert_eq!((execution.slots, execution.queue_max, execution.pids_max), (1, 2, 3));
    assert_eq!(execution.stdout_bytes_max, Bytes(4096));
    assert_eq!(config.listen, ["unix:/a", "localhost:1"].map(|listen| listen.parse().unwrap()));
    let origin = |key: &str| resolved.origin(key).to_string();
    assert_eq!(origin("log"), format!("{}:1", system.display()));
    assert_eq!(origin("execution.slots"), format!("{}:3", system.display()));
    assert_eq!(origin("execution.queue_max"), format!("{}:2", user.display()));
    assert_eq!(origin("execution.pids_max"), "env FULGURITE_EXECUTION_PIDS_MAX");
    assert_eq!(origin("execution.stdout_bytes_max"), "flag --set");
    assert_eq!(origin("execution.stage"), "default");
    // Each key is printed, once, with the same origin.
    let printed = resolved.printed();
    let slots: Vec<_> = printed.iter().filter(|value| value.key == "execution.slots").collect();
    assert_eq!((slots.len(), slots[0].value.as_str()), (1, "1"));
    assert_eq!(slots[0].origin.to_string(), origin("execution.slots"));
}

#[test]
fn a_file_that_is_asked_for_takes_the_place_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let [asked, other] = ["asked", "other"].map(|name| dir.path().join(name));
    std::fs::write(&other, "log = \"warn\"").unwrap();
    let with = |file: &Path| Sources { files: vec![other.clone()], file: Some(file.to_owned()), ..sources() };
    assert!(matches!(Config::load(&with(&asked)), Err(ConfigError::Read { .. })));
    std::fs::write(&asked, "").unwrap();
    assert_eq!(Config::load(&with(&asked)).unwrap().config, Config::defaults(&host()));
    std::fs::write(&asked, "#".repeat(limits::FILE_BYTES_MAX as usize + 1)).unwrap();
    assert!(Config::load(&with(&asked)).unwrap_err().to_string().contains("larger"));
}

#[test]
fn mistakes_are_told_with_their_place_and_what_was_meant() {
    let check = |text: &str, expected: &str| {
        assert_eq!(load(text).map(|resolved| resolved.config), Err(expected.to_owned()), "{text}");
    };
    check(
        "\n[store]\nsise_bytes_max = 1",
        "FILE:3: there is no key `store.sise_bytes_max` (did you mean `store.size_bytes_max`?)",
    );
    check(
        "[sotre]\nsize_bytes_max = 1",
        "FILE:2: there is no key `sotre.size_bytes_max` (did you mean `store.size_bytes_max`?)",
    );
    check(
        "[instances.a]\nexecutoin = true",
        "FILE:2: there is no key `instances.a.executoin` (did you mean `instances.a.execution`?)",
    );
    check("x.y.z = 1", "FILE:1: there is no key `x.y` (`fulgurite config` prints all keys)");
    check("[store]\nsize_bytes_max = \"much\"", "FILE:2: `store.size_bytes_max`: \"much\": not a number");
    check(
        "[execution]\nslots = 0",
        "FILE:2: `execution.slots`: \"0\" is no count: give a whole number above zero, in range",
    );
    check("state_dir = \"here\"", "FILE:1: `state_dir`: \"here\" is no absolute path");
    check("store = 1", "FILE:1: there is no key `store` (`fulgurite config` prints all keys)");
    check("execution.slots = {}", "FILE:1: `execution.slots`: a table stands where a value should");
    check(
        "[execution]\nstage = \"image\"",
        "FILE:2: `execution.stage`: \"image\" is none of \"auto\", \"composefs\", \"directory-cache\", \"copy\"",
    );
    check("listen = []", "FILE:1: `listen`: the server has to listen somewhere");
    check(
        "\n\ntls.certificate = \"/c\"",
        "FILE:3: `tls.certificate`: a certificate needs its key (`tls.key` is from: default)",
    );
    check(
        "[execution]\ntimeout_max = \"1m\"\ntimeout_default = \"2m\"",
        "FILE:3: `execution.timeout_default`: it is more than the most that is allowed \
         (`execution.timeout_max` is from: FILE:2)",
    );
    check(
        "[instances.a]\ntimeout_default = \"9h\"",
        "FILE:2: `instances.a.timeout_default`: it is more than the most that is allowed \
         (`instances.a.timeout_max` is from: default)",
    );
    for text in ["log = ", "[store", "log = \"a\"\nlog = \"b\""] {
        let error = load(text).unwrap_err();
        assert!(error.starts_with("FILE:1: ") || error.starts_with("FILE:2: "), "{text}: {error}");
    }
    assert!(load("log = \"inof\"").unwrap_err().starts_with("FILE:1: `log`: \"inof\" is no level"));
}

#[test]
fn mistakes_in_the_environment_and_in_flags() {
    let environment = vec![("FULGURITE_STORE_DURABLITY".to_owned(), "power".to_owned())];
    let error = Config::load(&Sources { environment, ..sources() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "env FULGURITE_STORE_DURABLITY: there is no key `FULGURITE_STORE_DURABLITY`"
    );
    assert_eq!(error.hint().unwrap(), "did you mean `FULGURITE_STORE_DURABILITY`?");
    let environment = vec![("FULGURITE_STORE_DURABILITY".to_owned(), "maybe".to_owned())];
    let error = Config::load(&Sources { environment, ..sources() }).unwrap_err();
    assert!(error.to_string().starts_with("env FULGURITE_STORE_DURABILITY: `store.durability`: \"maybe\""));
    let error = Config::load(&Sources { flags: vec![flag("execution.slot", "1")], ..sources() }).unwrap_err();
    assert_eq!(error.to_string(), "flag --set: there is no key `execution.slot`");
    assert_eq!(error.hint().unwrap(), "did you mean `execution.slots`?");
}

#[test]
fn instances_have_their_own_limits() {
    let resolved = load(
        "[execution]\ntimeout_max = \"1h\"\ntimeout_default = \"30m\"\nmemory_max = \"2GiB\"\n\
         [instances.small]\ntimeout_max = \"10m\"\nmemory_default = \"1GiB\"\n\
         [instances.\"cache/only\"]\nexecution = false\naction_cache_writers = \"clients\"\n\
         [instances.plain]\n",
    )
    .unwrap();
    let config = &resolved.config;
    let names: Vec<&str> = config.instances.keys().map(String::as_str).collect();
    assert_eq!(names, ["", "cache/only", "plain", "small"]);
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let gib = |gib: u64| Some(Bytes(gib << 30));
    let of_all = ActionLimits {
        timeout_default: minutes(30),
        timeout_max: minutes(60),
        memory_default: gib(2),
        memory_max: gib(2),
    };
    assert_eq!(config.limits_of(""), Some(of_all));
    assert_eq!(config.limits_of("plain"), Some(of_all));
    let small = ActionLimits {
        timeout_default: minutes(10),
        timeout_max: minutes(10),
        memory_default: gib(1),
        memory_max: gib(2),
    };
    assert_eq!(config.limits_of("small"), Some(small));
    assert_eq!(config.limits_of("cache/only"), None);
    assert_eq!(config.limits_of("unknown"), None);
    assert_eq!(config.instances["cache/only"].action_cache_writers, CacheWriters::Clients);
    assert_eq!(
        resolved.origin("instances.\"cache/only\".execution").to_string().rsplit(':').next(),
        Some("9")
    );
}

#[test]
fn doors_that_are_open_to_everybody_are_told() {
    let warnings = |text: &str| load(text).unwrap().warnings;
    assert!(warnings("listen = [\"unix:/a\", \"localhost:1\", \"127.0.0.1:1\", \"[::1]:1\"]").is_empty());
    for listen in ["0.0.0.0:1", "[::]:1", "build.example:1"] {
        let open = warnings(&format!("listen = [\"{listen}\"]"));
        assert!(open.len() == 1 && open[0].contains("run commands") && open[0].contains(listen), "{open:?}");
    }
    let plain = warnings("listen = [\"0.0.0.0:1\"]\ntokens_file = \"/t\"");
    assert!(plain.len() == 1 && plain[0].contains("not encrypted"));
    let tls = "listen = [\"0.0.0.0:1\"]\ntls = { certificate = \"/c\", key = \"/k\", client_ca = \"/a\" }";
    assert!(warnings(tls).is_empty());
}

#[test]
fn addresses() {
    let check = |text: &str, expected: Option<&str>| {
        let parsed = text.parse::<Listen>().ok().map(|listen| listen.to_string());
        assert_eq!(parsed.as_deref(), expected, "{text}");
    };
    check("unix:/run/a.sock", Some("unix:/run/a.sock"));
    check("unix:///run/a.sock", Some("unix:/run/a.sock"));
    check("localhost:8980", Some("localhost:8980"));
    check("[::1]:0", Some("[::1]:0"));
    for wrong in ["unix:relative", "unix:", "8980", ":8980", "::1:8980", "a:b", "a:70000", "http://a:1", ""] {
        check(wrong, None);
    }
}

/// Uncomments every key of the example.
fn uncommented(example: &str) -> String {
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_equals_the_defaults() {
    let example = std::fs::read_to_string("packaging/config.toml").unwrap();
    assert_eq!(load(&example).unwrap().config, Config::defaults(&host()));
    let resolved = load(&uncommented(&example)).unwrap();
    assert_eq!(resolved.config, Config::defaults(&host()));
    let unsaid: Vec<Printed> =
        resolved.printed().into_iter().filter(|value| value.origin == Origin::Default).collect();
    assert_eq!(unsaid, [], "every key is in the example");
}

/// What stands in a file of the repository is what is made here. `FULGURITE_TEST_WRITE=1` writes it.
fn stands(path: &str, made: impl Fn(&str) -> String) {
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let made = made(&before);
    if std::env::var_os("FULGURITE_TEST_WRITE").is_some() {
        std::fs::write(path, &made).unwrap();
    } else {
        assert!(before == made, "{path} is stale: run this test with FULGURITE_TEST_WRITE=1");
    }
}

#[test]
fn the_example_is_up_to_date() {
    stands("packaging/config.toml", |_| example(&Config::defaults(&host())));
}

#[test]
fn the_documentation_has_every_key() {
    const MARKS: [&str; 2] = ["<!-- keys -->\n", "<!-- end of keys -->\n"];
    stands("docs/configuration.md", |text| {
        let (before, rest) = text.split_once(MARKS[0]).expect("the beginning of the table is marked");
        let (_, after) = rest.split_once(MARKS[1]).expect("the end of the table is marked");
        [before, MARKS[0], &documentation(&Config::defaults(&host())), MARKS[1], after].concat()
    });
}
