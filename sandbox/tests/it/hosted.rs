//! Workers that stay: their view of /work is replaced under them, and nothing of the one before is reached by name.
use crate::fixture::{Checked, Command, Fixture, check, contains, same};
use crate::registry::{Test, alone};
use crate::staging::{Stage, Worker, pool, spec};
use fulgurite_sandbox::hosted::HostedError;
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::sys::{Errno, lease};
use std::os::fd::AsFd;

pub fn tests() -> Vec<Test> {
    vec![
        alone("hosted::the_working_directory_follows", the_working_directory_follows),
        alone("hosted::threads_and_children_follow", threads_and_children_follow),
        alone("hosted::a_directory_below_follows", a_directory_below_follows),
        alone("hosted::between_requests_there_is_nothing", between_requests_there_is_nothing),
        alone("hosted::what_stays_reachable_ends_with_the_seal", what_stays_reachable_ends_with_the_seal),
        alone("hosted::a_seal_waits_for_writers", a_seal_waits_for_writers),
        alone("hosted::a_root_without_permissions_follows", a_root_without_permissions_follows),
        alone("hosted::a_view_without_the_directory_is_refused", a_view_without_the_directory_is_refused),
        alone("hosted::a_thousand_views_leave_nothing", a_thousand_views_leave_nothing),
        alone("hosted::every_part_of_an_exchange_fails_once", every_part_of_an_exchange_fails_once),
    ]
}

fn the_working_directory_follows(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    same(worker.ask("cat name")?.as_str(), "base", "the worker's own view")?;
    for name in ["one", "other", "one"] {
        worker.see(&stage, name)?;
        same(worker.ask("cat name")?.as_str(), name, "relative")?;
        same(worker.ask("cat /work/name")?.as_str(), name, "absolute")?;
        same(worker.ask("cat sub/../sub/deep")?, format!("deep {name}"), "below")?;
        check(worker.ask("list ..")?.contains("proc"), "the root is above")?;
        same(worker.ask("cat ../work/name")?.as_str(), name, "up and down again")?;
        same(worker.ask("cwd")?.as_str(), "/work", "getcwd")?;
        worker.ask(&format!("write out made by {name}"))?;
        worker.ask(&format!("write /work/sub/abs made by {name}"))?;
        same(stage.layer(name, "out")?, format!("made by {name}"), "output")?;
        same(stage.layer(name, "sub/abs")?, format!("made by {name}"), "output by absolute path")?;
    }
    check(stage.layer("base", "out").is_err(), "an output in the worker's own layer")?;
    let init = worker.init();
    drop(worker.end()?);
    // What comes after in this sandbox sees none of it.
    let mut lease = pool.lease(&spec(fixture))?;
    same(crate::pools::init_of(&lease), init, "the same sandbox")?;
    crate::pools::runs(&mut lease, "[ -z \"$(ls -A /work)\" ]")?;
    drop(lease);
    Ok(pool.stop()?)
}

fn threads_and_children_follow(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    same(worker.ask("hire /work")?.as_str(), "0", "a child at /work")?;
    same(worker.ask("hire /work/sub")?.as_str(), "1", "a child below")?;
    same(worker.ask("hire /tmp")?.as_str(), "2", "a child elsewhere")?;
    for name in ["one", "other"] {
        worker.see(&stage, name)?;
        for who in ["thread", "child 0"] {
            same(worker.ask(&format!("{who} cat name"))?.as_str(), name, who)?;
            same(worker.ask(&format!("{who} cat /work/name"))?.as_str(), name, who)?;
        }
        // Who stands in a directory below stays there: in the first view, and in no other one.
        same(worker.ask("child 1 cat deep")?.as_str(), "deep base", "a child below")?;
        same(worker.ask("child 1 cat ../name")?.as_str(), "base", "a child below, one up")?;
        same(worker.ask("child 1 cat /work/name")?.as_str(), name, "a child below, by absolute path")?;
        same(worker.ask("child 2 cwd")?.as_str(), "/tmp", "a child elsewhere")?;
    }
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn a_directory_below_follows(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work/./sub/")?;
    let mounts = worker.mounts()?;
    for name in ["one", "other", "one"] {
        worker.see(&stage, name)?;
        same(worker.ask("cat deep")?, format!("deep {name}"), "relative")?;
        same(worker.ask("cat ../name")?.as_str(), name, "one up")?;
        same(worker.ask("cat /work/sub/deep")?, format!("deep {name}"), "absolute")?;
        same(worker.ask("cwd")?.as_str(), "/work/sub", "getcwd")?;
        worker.ask(&format!("write out made by {name}"))?;
        same(stage.layer(name, "sub/out")?, format!("made by {name}"), "output")?;
        same(worker.mounts()?, mounts, "mounts")?;
    }
    drop(worker.end()?);
    let mut lease = pool.lease(&spec(fixture))?;
    crate::pools::runs(&mut lease, "[ -z \"$(ls -A /work)\" ]")?;
    drop(lease);
    Ok(pool.stop()?)
}

fn between_requests_there_is_nothing(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let lease = pool.lease(&spec(fixture))?;
    let command = Command::new(&[crate::fixture::PROBE, "probe", "work"]);
    let mut worker = Worker::start_with(lease, &command, None)
        .map_err(|outcome| libtest_mimic::Failed::from(format!("{outcome:?}")))?;
    for name in ["one", "other"] {
        same(worker.ask("list .")?.as_str(), "", "nothing before a request")?;
        same(worker.ask("list /work")?.as_str(), "", "nothing before a request, by absolute path")?;
        check(worker.ask("write x x")?.starts_with("failed"), "it could write into nothing")?;
        worker.see(&stage, name)?;
        same(worker.ask("cat name")?.as_str(), name, "a request")?;
        worker.hosted.clear()?;
    }
    same(worker.ask("list .")?.as_str(), "", "nothing after a request")?;
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn what_stays_reachable_ends_with_the_seal(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    worker.see(&stage, "one")?;
    same(worker.ask("hold .")?.as_str(), "done", "a descriptor of the view")?;
    worker.ask("write early early")?;
    same(worker.hosted.seal()?, true, "seal")?;
    for round in 0..2 {
        for name in ["early", "later", "sub/later", "sub/deep"] {
            contains(&worker.ask(&format!("held-write {name} x"))?, "Read-only file system")?;
        }
        // A descriptor is a way back: reading cannot be taken away, writing ends with the seal.
        same(worker.ask("held-cat name")?.as_str(), "one", "by descriptor")?;
        if round == 0 {
            worker.see(&stage, "other")?;
        }
    }
    same(stage.layer("one", "early")?.as_str(), "early", "what was written before the seal")?;
    check(stage.layer("one", "later").is_err(), "written after the seal")?;
    worker.ask("write out fine")?;
    same(stage.layer("other", "out")?.as_str(), "fine", "the live view is not sealed")?;
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn a_seal_waits_for_writers(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    worker.see(&stage, "one")?;
    worker.ask("write out before")?;
    same(worker.ask("open out")?.as_str(), "done", "open for writing")?;
    same(worker.hosted.seal()?, false, "open for writing")?;
    same(worker.ask("say more!!")?.as_str(), "done", "a refused seal changes nothing")?;
    same(worker.ask("write new new")?.as_str(), "done", "a refused seal changes nothing")?;
    same(worker.ask("map")?.as_str(), "done", "map")?;
    let sealed = worker.hosted.seal()?;
    let layer = std::fs::File::open(stage.in_layer("one", "out"))?;
    // Kernels differ in whose file a mapping of an overlay holds: the lease is the second word.
    same(lease::read(layer.as_fd()), Err(Errno::AGAIN), "a lease on what is mapped writable")?;
    eprintln!("a view with a file that is mapped writable, and not open: sealed {sealed}");
    same(worker.ask("poke X")?.as_str(), "done", "it is writable indeed")?;
    same(stage.layer("one", "out")?.chars().next(), Some('X'), "the first byte")?;
    worker.ask("let-go")?;
    same(worker.hosted.seal()?, true, "nobody writes any more")?;
    same(lease::read(layer.as_fd()), Ok(()), "a lease")?;
    contains(&worker.ask("write out x")?, "Read-only file system")?;
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn a_root_without_permissions_follows(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work/sub")?;
    for name in ["one", "other"] {
        same(worker.ask("mode . 000")?.as_str(), "done", "mode of the directory")?;
        same(worker.ask("mode /work 000")?.as_str(), "done", "mode of the root")?;
        worker.see(&stage, name)?;
        same(worker.ask("cat /work/name")?.as_str(), name, "absolute")?;
        same(worker.ask("cat deep")?, format!("deep {name}"), "relative")?;
    }
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn a_view_without_the_directory_is_refused(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work/sub")?;
    let mounts = worker.mounts()?;
    same(kept(worker.hosted.clear())?, Errno::NOENT, "an empty view")?;
    let null = std::fs::File::open("/dev/null")?;
    check(matches!(worker.hosted.swap(null.as_fd()), Err(HostedError::Kept { .. })), "a file as view")?;
    same(worker.ask("cat deep")?.as_str(), "deep base", "the view it had")?;
    same(worker.mounts()?, mounts, "mounts")?;
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn kept(answer: Result<(), HostedError>) -> Result<Errno, libtest_mimic::Failed> {
    match answer {
        Err(HostedError::Kept { errno, .. }) => Ok(errno),
        other => Err(format!("{other:?}").into()),
    }
}

fn a_thousand_views_leave_nothing(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    let (mounts, started) = (worker.mounts()?, std::time::Instant::now());
    let descriptors = || Ok::<_, std::io::Error>(std::fs::read_dir("/proc/self/fd")?.count());
    let open = descriptors()?;
    let (mut mounting, mut swapping) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    for round in 0..1000 {
        let before = std::time::Instant::now();
        let view = stage.view(worker.action_id(), ["one", "other"][round % 2])?;
        mounting += before.elapsed();
        let before = std::time::Instant::now();
        worker.hosted.swap(view.as_fd())?;
        swapping += before.elapsed();
    }
    eprintln!(
        "1000 views in {:?}: mounting {:?}, swapping {:?} each",
        started.elapsed(),
        mounting / 1000,
        swapping / 1000
    );
    same(worker.mounts()?, mounts, "mounts")?;
    same(descriptors()?, open, "descriptors")?;
    let inits = std::fs::read_dir(format!("/proc/{}/fd", worker.init())).map(Iterator::count);
    check(inits.as_ref().map_or(true, |count| *count < 32), format!("descriptors of init: {inits:?}"))?;
    same(worker.ask("cat name")?.as_str(), "other", "the last view")?;
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn every_part_of_an_exchange_fails_once(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    for (directory, parts) in [("/work", vec![1, 6, 7]), ("/work/sub", (1..=7).collect())] {
        for part in parts {
            let mut worker = Worker::start(&pool, &spec(fixture), &stage, directory)?;
            let (init, mounts) = (worker.init(), worker.mounts()?);
            let view = stage.view(worker.action_id(), "one")?;
            let answer = worker.hosted.swap_failing_at(Some(view.as_fd()), part);
            let moved = if directory == "/work" { part > 6 } else { part > 3 };
            match (moved, answer) {
                (false, Err(HostedError::Kept { errno: Errno::IO, .. })) => {
                    same(worker.mounts()?, mounts, format!("mounts after part {part}"))?;
                    same(worker.ask("cat /work/name")?.as_str(), "base", "absolute")?;
                    worker.see(&stage, "other")?;
                    same(worker.ask("cat /work/name")?.as_str(), "other", "the next view")?;
                    drop(worker.end()?);
                    let lease = pool.lease(&spec(fixture))?;
                    same(crate::pools::init_of(&lease), init, "the sandbox can be reset")?;
                }
                (true, Err(HostedError::Broken { errno: Errno::IO, .. })) => {
                    let (outcome, lease) = worker.stop(crate::fixture::PATIENCE);
                    same(outcome.end, End::Signaled(9), format!("part {part}"))?;
                    check(outcome.quiet, "not quiet")?;
                    drop(lease);
                    let mut lease = pool.lease(&spec(fixture))?;
                    check(crate::pools::init_of(&lease) != init, "a sandbox with a broken view")?;
                    crate::pools::runs(&mut lease, "[ -z \"$(ls -A /work)\" ]")?;
                }
                (_, other) => return Err(format!("part {part} in {directory}: {other:?}").into()),
            }
        }
    }
    Ok(pool.stop()?)
}
