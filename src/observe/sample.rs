//! What changes by itself: looked at once in a while, as long as somebody watches or a trace is written.

use super::clock::now_us;
use super::events::{self, What, WorkerTold};
use super::family::Family;
use super::reading::Reading;
use super::trace::{self, Group, Record};
use super::words::{Resource, Word};
use super::{metrics, read};

/// Steps of pressure, in thousandths: who watches is told when one is crossed.
const PRESSURE_STEPS: [u64; 4] = [50, 200, 400, 700];

/// Compares what is with what was.
#[derive(Debug, Default)]
pub struct Sampler {
    pressure: [usize; 3],
    /// Evicted, bytes of that, quarantined, errors.
    store: Option<[u64; 4]>,
}

impl Sampler {
    /// Whether anybody would hear of it.
    #[must_use]
    pub fn is_wanted() -> bool {
        events::is_watched() || trace::is_on()
    }

    /// Looks, and tells what is new. What the kernel says of pressure is brought by [`look_at_pressure`].
    pub fn look(&mut self) {
        let reading = read();
        self.tell_pressure(&reading);
        self.tell_store(&reading);
        let workers = workers(&reading);
        if trace::is_on() {
            record(&reading, &workers);
        }
        for told in workers {
            events::tell(None, || What::Worker(told));
        }
    }

    fn tell_pressure(&mut self, reading: &Reading) {
        for (resource, before) in
            [Resource::Cpu, Resource::Memory, Resource::Io].into_iter().zip(&mut self.pressure)
        {
            let share = reading.get(Family::Pressure, &[resource.word()]).unwrap_or(0);
            let step = PRESSURE_STEPS.partition_point(|step| *step <= share);
            if step != *before {
                *before = step;
                events::tell(None, || What::Pressure(resource, share));
            }
        }
    }

    fn tell_store(&mut self, reading: &Reading) {
        let number = |family| reading.get(family, &[]).unwrap_or(0);
        let errors = reading.all(Family::StoreErrors).map(|(_, count)| count).sum();
        let now = [
            number(Family::StoreEvicted),
            number(Family::StoreBytesEvicted),
            number(Family::StoreQuarantined),
            errors,
        ];
        let before = self.store.replace(now).unwrap_or(now);
        if now != before {
            let more = |at: usize| now[at].saturating_sub(before[at]);
            let (evicted, bytes_evicted, quarantined, errors) = (more(0), more(1), more(2), more(3));
            events::tell(None, || What::Store { evicted, bytes_evicted, quarantined, errors });
        }
    }
}

/// What is told of living workers, one by one.
#[must_use]
pub fn workers(reading: &Reading) -> Vec<WorkerTold> {
    let told = |(labels, requests): (Vec<&str>, u64)| {
        let [number, key, mnemonic] = labels[..] else { return None };
        let of = |family| reading.get(family, &labels).unwrap_or(0);
        Some(WorkerTold {
            number: number.parse().ok()?,
            key: key.to_owned(),
            mnemonic: mnemonic.to_owned(),
            requests,
            memory_kib: of(Family::WorkerMemory),
            cpu_ms: of(Family::WorkerCpu),
        })
    };
    reading.all(Family::WorkerRequests).filter_map(told).collect()
}

fn record(reading: &Reading, workers: &[WorkerTold]) {
    let at_us = now_us();
    let number = |family| reading.get(family, &[]).unwrap_or(0);
    let level = |group, name: String, levels: Vec<(&'static str, u64)>| {
        trace::record(|| Record::Level { group, name, at_us, levels });
    };
    let actions = vec![("running", number(Family::Running)), ("queued", number(Family::Queued))];
    level(Group::Machine, "actions".to_owned(), actions);
    let pressure =
        Resource::ALL.iter().map(|word| (*word, reading.get(Family::Pressure, &[word]).unwrap_or(0)));
    level(Group::Machine, "pressure (thousandths)".to_owned(), pressure.collect());
    level(Group::Machine, "store (MiB)".to_owned(), vec![("bytes", number(Family::StoreBytes) >> 20)]);
    for worker in workers {
        let name = format!("memory of worker {} (KiB)", worker.number);
        level(Group::Workers, name, vec![("memory", worker.memory_kib)]);
    }
}

/// The share of the last 10 s in which some task waited, in thousandths, out of a file of `/proc/pressure`.
#[must_use]
pub(super) fn parse_pressure(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let share = some.split(' ').find_map(|field| field.strip_prefix("avg10="))?;
    let (whole, part) = share.split_once('.').unwrap_or((share, "0"));
    let tenth = part.chars().next().and_then(|digit| digit.to_digit(10)).unwrap_or(0);
    Some(whole.parse::<u64>().ok()?.min(100) * 10 + u64::from(tenth))
}

/// What the kernel says of what tasks wait for, as numbers; nothing where it does not say.
pub fn look_at_pressure() {
    for resource in [Resource::Cpu, Resource::Memory, Resource::Io] {
        let text = std::fs::read_to_string(format!("/proc/pressure/{resource}"));
        if let Some(share) = text.ok().as_deref().and_then(parse_pressure) {
            metrics().pressure.of(resource).set(share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_pressure;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(parse_pressure(text), Some(123));
        assert_eq!(parse_pressure("some avg10=0.00 avg60=0.00"), Some(0));
        assert_eq!(parse_pressure("some avg10=100.00 "), Some(1000));
        for bad in ["", "full avg10=1.00", "some avg10=x"] {
            assert_eq!(parse_pressure(bad), None, "{bad}");
        }
    }
}
