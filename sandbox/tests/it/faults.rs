//! Every step of a plan failed once: the error names the step, nothing is left, and the next creation works.
use crate::fixture::{Checked, Command, Fixture, PATIENCE, PROBE, Ran, check, contains, nothing, same};
use crate::registry::{Test, alone};
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::plan::{Op, Phase, Plan};
use fulgurite_sandbox::runtime::Template;
use fulgurite_sandbox::sandbox::Sandbox;
use fulgurite_sandbox::seat::Seat;
use fulgurite_sandbox::spec::SandboxSpec;
use fulgurite_sandbox::testing::{Census, Scope};
use libtest_mimic::Failed;
use std::sync::Arc;

pub fn tests() -> Vec<Test> {
    vec![
        alone("faults::every_step_of_a_view", every_step_of_a_view),
        alone("faults::every_step_of_a_creation", every_step_of_a_creation),
        alone("faults::every_step_of_a_reset", every_step_of_a_reset),
        alone("faults::every_step_before_the_action_arrives", every_step_before_the_action_arrives),
        alone("faults::every_step_of_an_action", every_step_of_an_action),
        alone("faults::a_real_failure_names_its_step", a_real_failure_names_its_step),
    ]
}

/// Everything, the mounts of the zygote included.
fn scope(fixture: &Fixture) -> Scope {
    Scope::new().with_zygote(fixture.runtime().zygote_pid())
}

/// The numbers of the steps of these phases for which `wanted` holds.
fn steps(plan: &Plan, phase: Phase, wanted: impl Fn(&Op) -> bool) -> Vec<u32> {
    let numbered = (1u32..).zip(&plan.steps);
    numbered.filter(|(_, step)| step.phase == phase && wanted(&step.op)).map(|(number, _)| number).collect()
}

/// The number of the step at which the process waits for its action.
fn await_step(plan: &Plan) -> u32 {
    plan.number_of(|op| matches!(op, Op::Await)).unwrap_or(u32::MAX)
}

fn names(text: &str, plan: &Plan, number: u32) -> Checked {
    let step = plan.steps.get(number as usize - 1).ok_or("no such step")?;
    contains(text, &format!("cannot {}", step.op))?;
    contains(text, &format!("(step {number} of {})", plan.steps.len()))
}

fn works(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded().map(drop)
}

fn every_step_of_a_view(fixture: &Fixture) -> Checked {
    let runtime = fixture.runtime();
    let plan = fixture.template(&fixture.spec())?.plan.clone();
    // A zygote that is shared stands in the view of its last sandbox; a failure brings it back to its own mounts.
    let spec = SandboxSpec { tenant: "view".to_owned(), ..fixture.spec() };
    check(runtime.template_failing_at(&spec, 1).is_err(), "step 1 did not fail")?;
    let before = Census::at_rest(&scope(fixture), PATIENCE);
    let numbers = steps(&plan, Phase::View, |_| true);
    check(numbers.len() > 30, "hardly any steps")?;
    for number in numbers {
        let spec = SandboxSpec { tenant: format!("view-{number}"), ..fixture.spec() };
        match runtime.template_failing_at(&spec, number) {
            Ok(_) => return Err(format!("step {number} did not fail").into()),
            Err(error) => names(&error.to_string(), &plan, number)?,
        }
        nothing(before.settled(&scope(fixture), PATIENCE), &format!("left by step {number}"))?;
    }
    works(fixture)?;
    // What failed is not kept: the same spec works now.
    let spec = SandboxSpec { tenant: "view-1".to_owned(), ..fixture.spec() };
    let mut sandbox = fixture.sandbox_of(&spec)?;
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded().map(drop)
}

fn fails_to_create(seat: Seat, template: &Arc<Template>, number: u32) -> Result<(String, Seat), Failed> {
    match Sandbox::create_in(seat, template, number) {
        Ok(_) => Err(format!("step {number} did not fail").into()),
        Err((error, seat)) => Ok((error.to_string(), *seat)),
    }
}

fn creates(seat: Seat, template: &Arc<Template>) -> Result<Sandbox, Failed> {
    Sandbox::create_in(seat, template, 0).map_err(|(error, _)| Failed::from(error))
}

fn every_step_of_a_creation(fixture: &Fixture) -> Checked {
    let template = fixture.template(&fixture.spec())?;
    let mut seat = fixture.sandbox()?.release().into_seat();
    let before = Census::at_rest(&scope(fixture), PATIENCE);
    let mut numbers = steps(&template.plan, Phase::Create, |_| true);
    numbers.extend(steps(&template.plan, Phase::Lease, |_| true));
    for number in numbers {
        let (text, empty) = fails_to_create(seat, &template, number)?;
        names(&text, &template.plan, number)?;
        nothing(before.settled(&scope(fixture), PATIENCE), &format!("left by step {number}"))?;
        let mut sandbox = creates(empty, &template)?;
        Command::new(&["/bin/true"]).run(&mut sandbox).succeeded()?;
        seat = sandbox.into_seat();
    }
    nothing(before.settled(&scope(fixture), PATIENCE), "left in the end")?;
    Ok(creates(seat, &template)?.destroy(fixture.runtime())?)
}

fn every_step_of_a_reset(fixture: &Fixture) -> Checked {
    let template = fixture.template(&fixture.spec())?;
    let mut seat = fixture.sandbox()?.release().into_seat();
    let before = Census::at_rest(&scope(fixture), PATIENCE);
    for number in steps(&template.plan, Phase::Lease, |_| true) {
        let mut sandbox = creates(seat, &template)?;
        Command::sh("echo x > /tmp/x").run(&mut sandbox).succeeded()?;
        sandbox.begin_reset_failing_at(number)?;
        match sandbox.finish_reset() {
            Ok(()) => return Err(format!("step {number} did not fail").into()),
            Err(error) => names(&error.to_string(), &template.plan, number)?,
        }
        check(!sandbox.is_sound(), "a sandbox that could not be reset is not sound")?;
        let ran = Command::new(&["/bin/true"]).run(&mut sandbox);
        check(matches!(ran.outcome.end, End::Lost { .. }), "it ran nevertheless")?;
        check(sandbox.begin_reset().is_err(), "it could be reset nevertheless")?;
        seat = sandbox.into_seat();
        nothing(before.settled(&scope(fixture), PATIENCE), &format!("left by step {number}"))?;
    }
    let mut sandbox = creates(seat, &template)?;
    Command::sh("[ ! -e /tmp/x ]").run(&mut sandbox).succeeded()?;
    Ok(sandbox.destroy(fixture.runtime())?)
}

fn not_started_at(ran: &Ran, plan: &Plan, number: u32) -> Checked {
    let End::NotStarted { failure, is_command } = &ran.outcome.end else {
        return Err(format!("step {number}: expected not to start, got {:?}", ran.outcome.end).into());
    };
    same(failure.step, number, "step")?;
    let is_exec = matches!(plan.steps.get(number as usize - 1).map(|step| &step.op), Some(Op::Exec));
    same(*is_command, is_exec, format!("step {number}: whether the command is to blame"))?;
    same(ran.stdout.as_str(), "", "output of a command that must not run")?;
    names(&ran.outcome.end.to_string(), plan, number)
}

/// The process that waits for the action has failed before it arrived: that is said when it arrives, or at
/// once.
fn every_step_before_the_action_arrives(fixture: &Fixture) -> Checked {
    let template = fixture.template(&fixture.spec())?;
    let plan = &template.plan;
    let mut seat = fixture.sandbox()?.release().into_seat();
    let before = Census::at_rest(&scope(fixture), PATIENCE);
    let numbers = steps(plan, Phase::Action, |_| true);
    for number in numbers.into_iter().filter(|number| *number < await_step(plan)) {
        seat = match Sandbox::create_in(seat, &template, number) {
            Err((error, seat)) => {
                names(&error.to_string(), plan, number)?;
                *seat
            }
            Ok(mut sandbox) => {
                not_started_at(&Command::sh("echo it ran").run(&mut sandbox), plan, number)?;
                sandbox.into_seat()
            }
        };
        nothing(before.settled(&scope(fixture), PATIENCE), &format!("left by step {number}"))?;
        let mut sandbox = creates(seat, &template)?;
        Command::new(&["/bin/true"]).run(&mut sandbox).succeeded()?;
        seat = sandbox.into_seat();
    }
    nothing(before.settled(&scope(fixture), PATIENCE), "left in the end")?;
    Ok(creates(seat, &template)?.destroy(fixture.runtime())?)
}

fn every_step_of_an_action(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let plan = sandbox.template().plan.clone();
    let numbers = steps(&plan, Phase::Action, |_| true);
    for number in numbers.into_iter().filter(|number| *number >= await_step(&plan)) {
        let command = Command { fail_at: number, ..Command::sh("echo it ran") };
        not_started_at(&command.run(&mut sandbox), &plan, number)?;
        // It was the action that could not start; the sandbox is as good as before.
        check(sandbox.is_sound(), format!("step {number} cost the sandbox"))?;
        sandbox.reset()?;
        Command::new(&["/bin/true"]).run(&mut sandbox).succeeded()?;
        sandbox.reset()?;
    }
    Ok(())
}

fn a_real_failure_names_its_step(fixture: &Fixture) -> Checked {
    let mut spec = fixture.spec();
    spec.mounts[0].source = "/surely/no/such/file".into();
    match fixture.runtime().template(&spec) {
        Ok(_) => Err("a mount of nothing was made".into()),
        Err(error) => {
            contains(&error.to_string(), "/surely/no/such/file")?;
            contains(&error.to_string(), PROBE)?;
            contains(&error.to_string(), "No such file or directory")
        }
    }
}
