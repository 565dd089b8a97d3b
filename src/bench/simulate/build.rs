//! Builds: actions, how long they take, and what waits for what.
use super::Condition;

/// An action of a build.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    /// The index of its mnemonic.
    pub kind: u16,
    /// How long it takes here, in microseconds.
    pub local_us: u64,
    /// How many must be done before it.
    pub needs: u32,
}

/// A build.
#[derive(Clone, Debug)]
pub struct Build {
    /// Its name in reports.
    pub name: String,
    /// Mnemonics.
    pub kinds: Vec<String>,
    /// Actions, none before what it needs.
    pub actions: Vec<Action>,
    /// Where in `edges` an action's begin.
    starts: Vec<u32>,
    /// Who waits for it.
    edges: Vec<u32>,
}

/// What an action meets at the remote; the same under every policy.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    /// To the cache's answer.
    pub answer_us: u64,
    /// Whether the cache has it.
    pub hit: bool,
    /// To fetch what it made.
    pub fetch_us: u64,
    /// To execute it.
    pub remote_us: u64,
}

/// Mnemonics of a generated build: share in percent, median in milliseconds, deviation of the logarithm.
const KINDS: [(&str, u64, f64, f64); 5] = [
    ("CppCompile", 60, 2500.0, 0.9),
    ("Javac", 12, 5000.0, 0.7),
    ("Genrule", 15, 250.0, 1.0),
    ("CppArchive", 10, 150.0, 0.5),
    ("CppLink", 3, 6000.0, 0.6),
];

impl Build {
    /// From a seed: mostly wide, with chains, and narrow at its end as real ones are.
    #[must_use]
    pub fn generated(count: usize, seed: u64) -> Self {
        let mut chance = Chance::new(seed, 0);
        let mut pairs = Vec::new();
        let mut actions = Vec::with_capacity(count);
        for index in 0..count {
            let mut share = chance.below(100);
            let found = KINDS.iter().position(|(_, part, ..)| match share.checked_sub(*part) {
                Some(left) => {
                    share = left;
                    false
                }
                None => true,
            });
            let kind = found.unwrap_or(0);
            let (_, _, median, deviation) = KINDS[kind];
            // The last fiftieth is a chain of links, more or less.
            let is_tail = index * 50 >= count * 49;
            let needs = if is_tail { 1 + chance.below(2) } else { chance.below(3) };
            let window = if is_tail { 4 } else { (count / 8).max(8) as u64 };
            for _ in 0..needs.min(index as u64) {
                let back = 1 + chance.below(window.min(index as u64));
                pairs.push((index - back as usize, index));
            }
            let local_us = chance.log_normal(median * 1000.0, deviation);
            actions.push(Action { kind: kind as u16, local_us, needs: 0 });
        }
        let kinds = KINDS.iter().map(|(name, ..)| (*name).to_owned()).collect();
        Build::linked("generated".to_owned(), kinds, actions, pairs)
    }

    /// Of actions, and pairs of who is needed by whom.
    #[must_use]
    pub fn linked(
        name: String,
        kinds: Vec<String>,
        mut actions: Vec<Action>,
        mut pairs: Vec<(usize, usize)>,
    ) -> Self {
        pairs.sort_unstable();
        pairs.dedup();
        let mut starts = vec![0; actions.len() + 1];
        for (from, to) in &pairs {
            starts[from + 1] += 1;
            actions[*to].needs += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let edges = pairs.into_iter().map(|(_, to)| to as u32).collect();
        Build { name, kinds, actions, starts, edges }
    }

    /// How many actions it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.actions.len()
    }

    /// Who waits for an action.
    #[must_use]
    pub fn dependents(&self, action: usize) -> &[u32] {
        &self.edges[self.starts[action] as usize..self.starts[action + 1] as usize]
    }

    /// What an action meets at the remote.
    #[must_use]
    pub fn fate(&self, action: usize, host: usize, seed: u64, condition: &Condition) -> Fate {
        let mut chance = Chance::new(seed ^ 0x5eed, (host * self.len() + action) as u64 + 1);
        let mut spread = |median_us: f64| chance.log_normal(median_us, condition.spread);
        let (answer_us, fetch_us) =
            (spread(condition.answer_ms * 1000.0), spread(condition.fetch_ms * 1000.0));
        let overhead_us = spread(condition.overhead_ms * 1000.0);
        let command = self.actions[action].local_us as f64 * condition.slowness;
        // The command itself varies less than the network and the queue before it.
        let command_us = chance.log_normal(command, condition.spread / 3.0);
        let hit = chance.below(10_000) < (condition.hit_rate * 10_000.0) as u64;
        Fate { answer_us, hit, fetch_us, remote_us: overhead_us + command_us }
    }
}

/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct Chance(u64);

impl Chance {
    fn new(seed: u64, stream: u64) -> Self {
        Chance(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Of a median in microseconds; Box and Muller, 1958.
    fn log_normal(&mut self, median: f64, deviation: f64) -> u64 {
        let normal = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        (median * (deviation * normal).exp()).max(1.0) as u64
    }
}
