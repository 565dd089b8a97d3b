//! What of the network an action sees.
use crate::fixture::{Checked, Command, Fixture, check, same};
use crate::registry::{Test, test};
use fulgurite_sandbox::spec::{Network, SandboxSpec};
use libtest_mimic::Failed;

pub fn tests() -> Vec<Test> {
    vec![
        test("network::none_has_only_a_loopback_that_is_down", none_has_only_a_loopback_that_is_down),
        test("network::loopback_works_and_is_all", loopback_works_and_is_all),
        test("network::host_is_the_host", host_is_the_host),
    ]
}

fn spec(fixture: &Fixture, network: Network) -> SandboxSpec {
    SandboxSpec { network, ..fixture.spec() }
}

/// Names of the interfaces in a table of /proc/net/dev.
fn interfaces(table: &str) -> Vec<String> {
    let mut names: Vec<String> = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .collect();
    names.sort();
    names
}

fn seen(fixture: &Fixture, network: Network) -> Result<Vec<String>, Failed> {
    let mut sandbox = fixture.sandbox_of(&spec(fixture, network))?;
    Ok(interfaces(&Command::sh("cat /proc/net/dev").run(&mut sandbox).succeeded()?))
}

fn none_has_only_a_loopback_that_is_down(fixture: &Fixture) -> Checked {
    same(seen(fixture, Network::None)?, vec!["lo".to_owned()], "interfaces")?;
    let mut sandbox = fixture.sandbox_of(&spec(fixture, Network::None))?;
    let ran = Command::probe(&["leave", "port"]).run(&mut sandbox);
    check(!ran.outcome.end.is_success(), format!("a connection was made: {ran:?}"))?;
    check(ran.stdout.to_lowercase().contains("unreachable"), format!("another reason: {ran:?}"))
}

fn loopback_works_and_is_all(fixture: &Fixture) -> Checked {
    same(seen(fixture, Network::Loopback)?, vec!["lo".to_owned()], "interfaces")?;
    let mut sandbox = fixture.sandbox()?;
    let text = Command::probe(&["leave", "port"]).run(&mut sandbox).succeeded()?;
    check(text.contains("connections"), text)
}

fn host_is_the_host(fixture: &Fixture) -> Checked {
    let ours = interfaces(&std::fs::read_to_string("/proc/self/net/dev")?);
    same(seen(fixture, Network::Host)?, ours, "interfaces")
}
