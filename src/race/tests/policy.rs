//! What is chosen, for which action.

use crate::race::cold::Cold;
use crate::race::forecast::{Forecast, Key, Measure, Memory};
use crate::race::knobs::{Delay, KnobError, Knobs, LocalStrategy, RemoteStrategy};
use crate::race::limits::SILENCE;
use crate::race::policy::{
    Abilities, Breaker, Choice, Facts, LocalStart, NoStrategy, RemoteAbility, RemoteStart, Situation, choose,
};
use crate::race::sketch::Quantiles;
use crate::race::step::FailureRule;
use std::time::Duration;

const ALL: Abilities<'static> = Abilities {
    local: &[LocalStrategy::Worker, LocalStrategy::Sandboxed, LocalStrategy::Standalone],
    remote: RemoteAbility::Execute,
};
const BOTH: RemoteStart = RemoteStart::AtOnce { execute_after: Duration::ZERO };

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn facts<'a>(mnemonic: &'a str, tags: &[&'static str]) -> Facts<'a> {
    Facts::of_tags(mnemonic, false, tags.iter().copied())
}

fn chosen(facts: &Facts<'_>, knobs: &Knobs, situation: &Situation) -> Choice {
    choose(facts, &ALL, knobs, situation).unwrap()
}

fn sides(tags: &[&'static str]) -> (bool, bool) {
    let choice = chosen(&facts("Javac", tags), &Knobs::bazel(), &Situation::default());
    (choice.rules.plan.local != LocalStart::Never, choice.rules.plan.remote != RemoteStart::Never)
}

#[test]
fn d1_tags_choose_the_side() {
    let check = |tags: &[&'static str], local, remote| assert_eq!(sides(tags), (local, remote), "{tags:?}");
    check(&[], true, true);
    check(&["local"], true, false);
    check(&["no-remote"], true, false);
    check(&["no-remote-exec", "no-remote-cache"], true, false);
    check(&["no-local"], false, true);
    check(&["supports-workers"], true, true);
    // A cache is still asked.
    check(&["no-remote-exec"], true, true);
}

#[test]
fn d1_strategies_go_by_mnemonic_and_the_last_entry_wins() {
    let mut knobs = Knobs::bazel();
    let check = |knobs: &Knobs, mnemonic, expected| {
        let choice = chosen(&facts(mnemonic, &[]), knobs, &Situation::default());
        assert_eq!(choice.strategy, expected, "{mnemonic}");
    };
    check(&knobs, "Javac", Some(LocalStrategy::Worker));
    knobs.set("--dynamic_local_strategy", "sandboxed").unwrap();
    knobs.set("--dynamic_local_strategy", "Javac=worker").unwrap();
    knobs.set("--dynamic_local_strategy", "Javac=standalone,worker").unwrap();
    check(&knobs, "Javac", Some(LocalStrategy::Standalone));
    check(&knobs, "CppCompile", Some(LocalStrategy::Sandboxed));
    knobs.set("dynamic_remote_strategy", "Javac=").unwrap();
    let alone = chosen(&facts("Javac", &[]), &knobs, &Situation::default());
    assert_eq!(alone.rules.plan.remote, RemoteStart::Never);
    assert!(alone.rules.in_place);
    assert_eq!(knobs.remote_strategies("CppCompile"), [RemoteStrategy::Remote]);
    knobs.set("dynamic_local_strategy", "Javac=").unwrap();
    let none = choose(&facts("Javac", &[]), &ALL, &knobs, &Situation::default()).unwrap_err();
    assert_eq!(
        none.to_string(),
        "No usable dynamic_local_strategy or dynamic_remote_strategy found for action Javac"
    );
}

#[test]
fn standalone_is_a_default_only_without_the_lock() {
    let mut knobs = Knobs::bazel();
    assert_eq!(knobs.local_strategies("A").last(), Some(&LocalStrategy::Sandboxed));
    knobs.set("experimental_local_lockfree_output", "true").unwrap();
    assert_eq!(knobs.local_strategies("A").last(), Some(&LocalStrategy::Standalone));
}

#[test]
fn d5_with_no_side_the_error_is_bazels() {
    let check = |tags: &[&'static str], abilities: Abilities<'_>, expected: &str| {
        let found: NoStrategy =
            choose(&facts("Javac", tags), &abilities, &Knobs::bazel(), &Situation::default()).unwrap_err();
        assert_eq!(found.to_string(), expected);
    };
    let nothing = Abilities { local: &[], remote: RemoteAbility::Nothing };
    check(&["no-local", "no-remote"], ALL, "Neither local nor remote execution allowed for action Javac");
    check(
        &["no-remote"],
        Abilities { local: &[], ..ALL },
        "No usable dynamic_local_strategy found (and remote execution disabled) for action Javac",
    );
    check(
        &["no-local"],
        Abilities { remote: RemoteAbility::Nothing, ..ALL },
        "No usable dynamic_remote_strategy found (and local execution disabled) for action Javac",
    );
    check(&[], nothing, "No usable dynamic_local_strategy or dynamic_remote_strategy found for action Javac");
    // A cache alone runs nothing.
    check(
        &["no-local"],
        Abilities { remote: RemoteAbility::CacheOnly, ..ALL },
        "No usable dynamic_remote_strategy found (and local execution disabled) for action Javac",
    );
}

#[test]
fn tools_are_remote_where_they_can_be() {
    let tool = Facts::of_tags("Javac", true, []);
    let mut knobs = Knobs::bazel();
    assert_eq!(chosen(&tool, &knobs, &Situation::default()).strategy, None);
    let cache = Abilities { remote: RemoteAbility::CacheOnly, ..ALL };
    assert!(choose(&tool, &cache, &knobs, &Situation::default()).unwrap().strategy.is_some());
    knobs.set("experimental_dynamic_exclude_tools", "Javac=false").unwrap();
    assert!(chosen(&tool, &knobs, &Situation::default()).strategy.is_some());
}

#[test]
fn bazels_delay_begins_with_the_first_hit() {
    let mut knobs = Knobs::bazel();
    let local = |knobs: &Knobs, any_hit| {
        let situation = Situation { any_hit, ..Situation::default() };
        chosen(&facts("Javac", &[]), knobs, &situation).rules.plan.local
    };
    assert_eq!(local(&knobs, false), LocalStart::AtOnce);
    assert_eq!(local(&knobs, true), LocalStart::After(ms(1000)));
    knobs.set("dynamic_local_execution_delay", "Javac=0").unwrap();
    assert_eq!(local(&knobs, true), LocalStart::AtOnce);
    knobs.set("experimental_local_execution_delay", "Javac=auto").unwrap();
    assert!(matches!(local(&knobs, true), LocalStart::OnAnswer { miss: Duration::ZERO, .. }));
}

#[test]
fn a_remote_that_is_gone_is_not_waited_for() {
    let situation = |breaker| Situation { breaker, ..Situation::default() };
    let plan = |breaker| chosen(&facts("Javac", &[]), &Knobs::default(), &situation(breaker)).rules.plan;
    let open = plan(Breaker::Open);
    assert_eq!((open.local, open.remote), (LocalStart::AtOnce, RemoteStart::Fallback));
    let half = plan(Breaker::HalfOpen);
    assert_eq!((half.local, half.remote), (LocalStart::AtOnce, BOTH));
}

fn foreseen(local: u64, remote: u64, local_wait: u64) -> (Duration, Duration) {
    let exactly = |millis| Some(Quantiles::exactly(ms(millis)));
    let forecast = Forecast { local: exactly(local), remote: exactly(remote), ..Forecast::default() };
    let situation = Situation { forecast, local_wait: ms(local_wait), ..Situation::default() };
    let plan = chosen(&facts("Javac", &[]), &Knobs::default(), &situation).rules.plan;
    match (plan.local, plan.remote) {
        (LocalStart::OnAnswer { miss, .. }, RemoteStart::AtOnce { execute_after }) => (miss, execute_after),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_is_foreseen_to_lose_comes_in_when_the_other_is_late() {
    assert_eq!(foreseen(100, 1000, 0), (ms(0), ms(100)));
    assert_eq!(foreseen(1000, 100, 0), (ms(100), ms(0)));
    // Where local has to wait for its place, remote is held back for longer, or not at all.
    assert_eq!(foreseen(100, 1000, 50), (ms(0), ms(200)));
    assert_eq!(foreseen(100, 1000, 500), (ms(0), ms(0)));
    let nothing_known = chosen(&facts("Javac", &[]), &Knobs::default(), &Situation::default()).rules.plan;
    assert!(matches!(nothing_known.local, LocalStart::OnAnswer { miss: Duration::ZERO, .. }));
    assert_eq!(nothing_known.remote, BOTH);
}

/// Of what is the same work on both sides, a remote that is faster and has begun is not raced until it is late.
#[test]
fn a_faster_remote_is_not_raced_once_it_executes() {
    let spread = |factor: u64| {
        let mut memory = Memory::default();
        let key = Key::new("Javac", None);
        (1..=20).for_each(|value| memory.add(&key, Measure::Local, ms(value * factor)));
        memory.forecast(&key).local
    };
    let plan = |local: u64, begin: Option<u64>, explore: bool| {
        let begin = begin.map(|millis| Quantiles::exactly(ms(millis)));
        // Mostly its queue.
        let (local, remote, run) = (spread(local), spread(40), spread(10));
        let forecast = Forecast { local, remote, begin, run, ..Forecast::default() };
        let situation = Situation { forecast, explore, ..Situation::default() };
        let mut knobs = Knobs::default();
        knobs.set("race_chance", "0.25").unwrap();
        match chosen(&facts("Javac", &[]), &knobs, &situation).rules.plan.local {
            LocalStart::OnAnswer { miss, executing, .. } => (miss, executing),
            other => panic!("{other:?}"),
        }
    };
    let late = Some(spread(10).unwrap().at(1.0));
    // The word of a remote that is free is waited for, for a quarter of what local takes at most.
    assert_eq!(plan(20, Some(3), false), (ms(6), late));
    let (miss, executing) = plan(20, Some(1000), false);
    assert!(miss > ms(50) && miss < ms(60) && executing == late, "{miss:?} {executing:?}");
    assert_eq!(plan(20, None, false), (ms(0), late));
    // Who is as fast may start; and to measure something everybody may.
    assert_eq!(plan(9, Some(3), false), (ms(0), None));
    assert_eq!(plan(20, Some(3), true), (ms(0), None));
}

/// What a worker's start would cost counts where it is not got back; and it is not started to measure something.
#[test]
fn a_worker_is_started_where_that_pays() {
    let exactly = |millis| Some(Quantiles::exactly(ms(millis)));
    let forecast = Forecast { local: exactly(60), remote: exactly(110), ..Forecast::default() };
    let held = |there: u64, so_far: u64, explore: bool| {
        let cold = Cold { start: ms(1200), here: Some(ms(60)), there: Some(ms(there)), so_far };
        let situation = Situation { forecast, explore, cold: Some(cold), ..Situation::default() };
        match chosen(&facts("Javac", &[]), &Knobs::default(), &situation).rules.plan.local {
            LocalStart::OnAnswer { miss, .. } => miss,
            other => panic!("{other:?}"),
        }
    };
    // A fast remote: local comes in when that has taken as long as the start would.
    assert_eq!((held(28, 0, false), held(28, 0, true)), (ms(1200), ms(1200)));
    assert_eq!((held(190, 0, false), held(28, 500, false)), (ms(0), ms(0)));
}

/// Whatever is known of warm workers: nobody waits while one starts.
#[test]
fn a_remote_is_not_held_back_by_a_worker_that_is_not_there() {
    let exactly = |millis| Some(Quantiles::exactly(ms(millis)));
    let forecast = Forecast { local: exactly(60), remote: exactly(900), ..Forecast::default() };
    let held = |cold| {
        let situation = Situation { forecast, cold, ..Situation::default() };
        chosen(&facts("Javac", &[]), &Knobs::default(), &situation).rules.plan
    };
    let cold = Cold { start: ms(1200), here: Some(ms(60)), there: None, so_far: 0 };
    let (warm, cold) = (held(None), held(Some(cold)));
    assert_eq!(warm.remote, RemoteStart::AtOnce { execute_after: ms(60) });
    assert_eq!(cold.remote, BOTH);
    for plan in [warm, cold] {
        assert!(matches!(plan.local, LocalStart::OnAnswer { miss: Duration::ZERO, .. }), "{plan:?}");
    }
}

#[test]
fn a_hit_waits_as_long_as_nine_of_ten_fetches_took_and_as_local_would() {
    let mut memory = Memory::default();
    let key = Key::new("Javac", None);
    for millis in 1..=100 {
        memory.add(&key, Measure::Fetch, ms(millis));
        memory.add(&key, Measure::Hit, ms(2));
    }
    let mut starts = |local: Option<u64>| {
        for _ in 0..100 {
            local.into_iter().for_each(|millis| memory.add(&key, Measure::Local, ms(millis)));
        }
        let situation = Situation { forecast: memory.forecast(&key), ..Situation::default() };
        let plan = chosen(&facts("Javac", &[]), &Knobs::default(), &situation).rules.plan;
        let LocalStart::OnAnswer { hit, silence, .. } = plan.local else { panic!("{plan:?}") };
        (hit, silence)
    };
    // Nothing is known of local.
    assert_eq!(starts(None), (SILENCE, SILENCE));
    let (hit, silence) = starts(Some(10));
    assert!((ms(90)..ms(100)).contains(&hit), "{hit:?}");
    assert!((ms(9)..ms(11)).contains(&silence), "{silence:?}");
    let (hit, silence) = starts(Some(1000));
    assert!(
        (ms(900)..ms(1100)).contains(&hit) && (ms(900)..ms(1100)).contains(&silence),
        "{hit:?} {silence:?}"
    );
}

#[test]
fn a_local_branch_holds_the_outputs_only_where_that_is_said() {
    let here = Abilities { local: &[LocalStrategy::Standalone], ..ALL };
    let holds = |value: Option<&str>| {
        let mut knobs = Knobs::bazel();
        knobs.set("local_strategy", "standalone").unwrap();
        value.into_iter().for_each(|value| knobs.set("local_lockfree_output", value).unwrap());
        let rules = choose(&facts("Javac", &[]), &here, &knobs, &Situation::default()).unwrap().rules;
        (rules.in_place, rules.local_holds)
    };
    assert_eq!(
        [holds(None), holds(Some("true")), holds(Some("false"))],
        [(true, false), (true, false), (true, true)]
    );
}

#[test]
fn what_is_written_wrong_is_said() {
    let mut knobs = Knobs::default();
    let mut check = |name: &str, text: &str, expected: &str| {
        assert_eq!(knobs.set(name, text).unwrap_err().to_string(), expected);
    };
    check("dynamic_ignore_local_signals", "9,-1", "No such signal -1");
    check("dynamic_ignore_local_signals", "KILL", "No such signal KILL");
    check(
        "dynamic_local_strategy",
        "Javac=dynamic",
        "the strategy `dynamic` cannot be one of its own branches",
    );
    check(
        "dynamic_local_strategy",
        "docker",
        "there is no strategy `docker`; there are worker, sandboxed and standalone",
    );
    check("dynamic_remote_strategy", "far", "there is no strategy `far`; there are remote");
    check("dynamic_speed", "1", "there is no setting `dynamic_speed` for races");
    check("local_load_factor", "1.5", "`local_load_factor` was set to `1.5`; it takes a number from 0 to 1");
    check("failure", "=first", "`failure` was set to `=first`, which names no mnemonic before the `=`");
    assert_eq!(KnobError::Cyclic, knobs.set("local_strategy", "worker,dynamic").unwrap_err());
}

#[test]
fn every_knob_can_be_set_for_one_mnemonic() {
    let mut knobs = Knobs::bazel();
    for (name, text) in [
        ("--dynamic_local_execution_delay", "Javac=250"),
        ("--experimental_dynamic_local_load_factor", "Javac=0.5"),
        ("--experimental_dynamic_slow_remote_time", "Javac=30s"),
        ("--experimental_dynamic_ignore_local_signals", "Javac=9,15"),
        ("--experimental_local_lockfree_output", "Javac=1"),
        ("--experimental_debug_spawn_scheduler", "Javac=true"),
        ("--debug_spawn_scheduler", "Java=true"),
        ("race_chance", "Javac=0.1"),
        ("low_pass", "Javac=yes"),
        ("let_remote_finish", "Javac=yes"),
        ("publish_failures", "Javac=yes"),
        ("failure", "Javac=other"),
    ] {
        knobs.set(name, text).unwrap();
    }
    assert_eq!(*knobs.local_execution_delay.of("Javac"), Delay::Fixed(ms(250)));
    assert_eq!(*knobs.local_execution_delay.of("Cpp"), Delay::Fixed(ms(1000)));
    assert_eq!(*knobs.slow_remote_time.of("Javac"), ms(30_000));
    assert!(knobs.ignore_local_signals.of("Javac").contains(15));
    assert!(!knobs.ignore_local_signals.of("Cpp").contains(15));
    let rules = chosen(&facts("Javac", &[]), &knobs, &Situation::default()).rules;
    assert!(rules.let_remote_finish && rules.publish_failures && rules.failure == FailureRule::Other);
}
