//! What was measured of actions like this one: by family where there is enough, else by mnemonic. Pure.
//!
//! A *family* is whatever the caller thinks alike: the same output of an earlier build, mostly. What lost is measured
//! as well, as what takes longer.
//!
//! Invariants: bounded in mnemonics and families, the least recently used goes; bytes that were kept are any record or
//! none, never a panic.

use super::limits::{
    BUILDS_MAX, EXPLORE_EACH, FAMILIES_MAX, FAMILY_SAMPLES, MNEMONIC_BYTES_MAX, MNEMONIC_SAMPLES,
    MNEMONICS_MAX, SAMPLES_MIN,
};
use super::sketch::{Quantiles, Ring};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// What is expected of an action. `None`: too little is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// From its start to ready, here.
    pub local: Option<Quantiles>,
    /// From the cache's miss to ready, there.
    pub remote: Option<Quantiles>,
    /// From the cache's hit to ready.
    pub fetch: Option<Quantiles>,
    /// From the beginning to the cache's answer.
    pub answer: Option<Quantiles>,
    /// The share of hits among the answers: 0 to 1.
    pub hit_rate: f64,
    /// From the permission to execute until the remote says that it does: uploads, and its queue.
    pub begin: Option<Quantiles>,
    /// From there to ready.
    pub run: Option<Quantiles>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// From its start to ready, here.
    Local,
    /// From the cache's miss to ready, there.
    Remote,
    /// From the cache's hit to ready.
    Fetch,
    /// From the beginning to a hit.
    Hit,
    /// From the beginning to a miss.
    Miss,
    /// From the permission to execute until the remote says that it does.
    Begin,
    /// From there to ready.
    Run,
}

/// Which records an action belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    mnemonic: String,
    family: Option<u64>,
}

impl Key {
    /// Of an action; `family` is a hash of whatever makes actions alike.
    #[must_use]
    pub fn new(mnemonic: &str, family: Option<u64>) -> Self {
        let mut end = mnemonic.len().min(MNEMONIC_BYTES_MAX);
        while !mnemonic.is_char_boundary(end) {
            end -= 1;
        }
        Key { mnemonic: mnemonic.get(..end).unwrap_or_default().to_owned(), family }
    }

    /// For keeping: the family in 16 digits after a NUL, if there is one.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self.family {
            Some(family) => format!("{}\0{family:016x}", self.mnemonic),
            None => self.mnemonic.clone(),
        }
    }

    /// What was kept.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text.split_once('\0') {
            Some((mnemonic, family)) => Some(Key::new(mnemonic, Some(u64::from_str_radix(family, 16).ok()?))),
            None => Some(Key::new(text, None)),
        }
    }

    /// Of the starts of persistent workers of a kind, which are measured as what runs here.
    fn of_starts(kind: &str) -> Self {
        Key::new(&format!("\u{1}start {kind}"), None)
    }

    /// Of what actions of this kind cost there, each: measured as what runs there, by as many as run at a time.
    #[must_use]
    pub fn of_pace(&self) -> Self {
        Key::new(&format!("\u{1}pace {}", self.mnemonic), None)
    }

    fn of_mnemonic(&self) -> Key {
        Key { mnemonic: self.mnemonic.clone(), family: None }
    }

    fn capacity(&self) -> usize {
        if self.family.is_some() { FAMILY_SAMPLES } else { MNEMONIC_SAMPLES }
    }
}

/// What was measured of one mnemonic or family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    local: Ring,
    remote: Ring,
    fetch: Ring,
    answer: Ring,
    begin: Ring,
    run: Ring,
    /// Of the last 32 answers, newest lowest: 1 for a hit.
    hits: u32,
    answers: u32,
}

impl Record {
    fn new(capacity: usize) -> Self {
        let ring = || Ring::new(capacity);
        Record {
            local: ring(),
            remote: ring(),
            fetch: ring(),
            answer: ring(),
            begin: ring(),
            run: ring(),
            hits: 0,
            answers: 0,
        }
    }

    fn add(&mut self, what: Measure, took: Duration) {
        match what {
            Measure::Local => self.local.push(took),
            Measure::Remote => self.remote.push(took),
            Measure::Fetch => self.fetch.push(took),
            Measure::Begin => self.begin.push(took),
            Measure::Run => self.run.push(took),
            Measure::Hit | Measure::Miss => {
                self.answer.push(took);
                self.hits = (self.hits << 1) | u32::from(what == Measure::Hit);
                self.answers = (self.answers + 1).min(32);
            }
        }
    }

    fn at_least(&mut self, what: Measure, took: Duration) {
        let ring = match what {
            Measure::Local => &mut self.local,
            Measure::Remote => &mut self.remote,
            Measure::Fetch => &mut self.fetch,
            Measure::Begin => &mut self.begin,
            Measure::Run => &mut self.run,
            Measure::Hit | Measure::Miss => return,
        };
        ring.push_stopped(took);
    }

    fn forecast(&self) -> Forecast {
        let window = 1_u64.checked_shl(self.answers).unwrap_or(0).wrapping_sub(1) as u32;
        let hits = f64::from((self.hits & window).count_ones());
        Forecast {
            local: self.local.quantiles(SAMPLES_MIN),
            remote: self.remote.quantiles(SAMPLES_MIN),
            fetch: self.fetch.quantiles(SAMPLES_MIN),
            answer: self.answer.quantiles(SAMPLES_MIN),
            hit_rate: if self.answers == 0 { 0.0 } else { hits / f64::from(self.answers) },
            begin: self.begin.quantiles(SAMPLES_MIN),
            run: self.run.quantiles(SAMPLES_MIN),
        }
    }

    /// For keeping: a version, the answers, and six rings, each with its length in values.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.answers as u8];
        bytes.extend(self.hits.to_le_bytes());
        for ring in [&self.local, &self.remote, &self.fetch, &self.answer, &self.begin, &self.run] {
            let ring = ring.to_bytes();
            bytes.extend(u16::try_from(ring.len() / 2).unwrap_or(0).to_le_bytes());
            bytes.extend(ring);
        }
        bytes
    }

    /// What was kept, if it can be read.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], key: &Key) -> Option<Self> {
        let (&[version, answers], rest) = bytes.split_first_chunk()?;
        let (hits, mut rest) = rest.split_first_chunk()?;
        if version != VERSION || answers > 32 {
            return None;
        }
        let capacity = key.capacity();
        let mut ring = || {
            let (count, after) = rest.split_first_chunk()?;
            let (values, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*count)) * 2)?;
            rest = after;
            Some(Ring::from_bytes(values, capacity))
        };
        let (local, remote, fetch, answer) = (ring()?, ring()?, ring()?, ring()?);
        let (begin, run) = (ring()?, ring()?);
        Some(Record {
            local,
            remote,
            fetch,
            answer,
            begin,
            run,
            hits: u32::from_le_bytes(*hits),
            answers: answers.into(),
        })
    }
}

/// What an older version wrote is forgotten.
const VERSION: u8 = 3;

#[derive(Debug)]
struct Kept {
    record: Record,
    used: u64,
    changed: bool,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Memory {
    kept: HashMap<Key, Kept>,
    /// When each was last used, by a count: which goes when there are too many. Families and mnemonics apart.
    by_use: [BTreeMap<u64, Key>; 2],
    uses: u64,
    plans: u64,
    /// Actions of builds.
    builds: HashMap<String, u64>,
    removed: Vec<Key>,
}

impl Memory {
    /// What is expected of an action.
    pub fn forecast(&mut self, key: &Key) -> Forecast {
        let general = self.look(&key.of_mnemonic());
        if key.family.is_none() {
            return general;
        }
        let own = self.look(key);
        Forecast {
            local: own.local.or(general.local),
            remote: own.remote.or(general.remote),
            fetch: own.fetch.or(general.fetch),
            answer: own.answer.or(general.answer),
            hit_rate: if own.answer.is_some() { own.hit_rate } else { general.hit_rate },
            begin: own.begin.or(general.begin),
            run: own.run.or(general.run),
        }
    }

    /// What nine of ten workers of a kind needed from their start to their first answer, if any was seen.
    #[must_use]
    pub fn start(&self, kind: &str) -> Option<Duration> {
        let kept = self.kept.get(&Key::of_starts(kind))?;
        Some(kept.record.local.quantiles(1)?.at(0.9))
    }

    /// A worker of a kind has answered for the first time so long after its start, or has not yet.
    pub fn started(&mut self, kind: &str, took: Duration, is_over: bool) {
        // A start that goes on is seen again and again: what it says is said by its last doubling.
        if is_over || self.start(kind).is_none_or(|known| took > 2 * known) {
            self.add(&Key::of_starts(kind), Measure::Local, took);
        }
    }

    /// One more action of a build. Gives how many there were before.
    pub fn count(&mut self, build: &str) -> u64 {
        if self.builds.len() >= BUILDS_MAX && !self.builds.contains_key(build) {
            // A count that begins anew is too low for a while, and nothing worse.
            self.builds.clear();
        }
        let count = self.builds.entry(build.to_owned()).or_default();
        *count += 1;
        *count - 1
    }

    /// Whether the next plan shall measure both sides.
    pub fn explore(&mut self) -> bool {
        self.plans += 1;
        self.plans.is_multiple_of(EXPLORE_EACH)
    }

    /// Something took so long.
    pub fn add(&mut self, key: &Key, what: Measure, took: Duration) {
        self.change(key, |record| record.add(what, took));
    }

    /// Something was stopped, and would have taken longer.
    pub fn at_least(&mut self, key: &Key, what: Measure, took: Duration) {
        self.change(key, |record| record.at_least(what, took));
    }

    /// Puts in what was kept.
    pub fn put(&mut self, key: Key, record: Record) {
        let used = self.used(&key);
        self.kept.insert(key.clone(), Kept { record, used, changed: false });
        self.bound(&key);
    }

    /// What has changed since the last call: `None` for what is gone.
    pub fn changes(&mut self) -> Vec<(Key, Option<Vec<u8>>)> {
        let mut changes: Vec<_> = self.removed.drain(..).map(|key| (key, None)).collect();
        for (key, kept) in self.kept.iter_mut().filter(|(_, kept)| kept.changed) {
            kept.changed = false;
            changes.push((key.clone(), Some(kept.record.to_bytes())));
        }
        changes
    }

    /// How many mnemonics and families are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn look(&self, key: &Key) -> Forecast {
        self.kept.get(key).map(|kept| kept.record.forecast()).unwrap_or_default()
    }

    fn change(&mut self, key: &Key, change: impl Fn(&mut Record)) {
        let mut keys = vec![key.of_mnemonic()];
        if key.family.is_some() {
            keys.push(key.clone());
        }
        for key in keys {
            let used = self.used(&key);
            let new = || Kept { record: Record::new(key.capacity()), used, changed: true };
            let kept = self.kept.entry(key.clone()).or_insert_with(new);
            change(&mut kept.record);
            kept.used = used;
            kept.changed = true;
            self.bound(&key);
        }
    }

    fn used(&mut self, key: &Key) -> u64 {
        self.uses += 1;
        let by_use = &mut self.by_use[usize::from(key.family.is_some())];
        if let Some(kept) = self.kept.get(key) {
            by_use.remove(&kept.used);
        }
        by_use.insert(self.uses, key.clone());
        self.uses
    }

    fn bound(&mut self, key: &Key) {
        let (kind, most) = match key.family {
            Some(_) => (1, FAMILIES_MAX),
            None => (0, MNEMONICS_MAX),
        };
        while self.by_use[kind].len() > most {
            let Some((_, oldest)) = self.by_use[kind].pop_first() else { return };
            self.kept.remove(&oldest);
            self.removed.push(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn near(found: Option<Quantiles>, millis: u64) {
        let found = found.unwrap().at(0.5);
        assert!(found > ms(millis * 99 / 100) && found < ms(millis * 101 / 100), "{found:?} for {millis} ms");
    }

    #[test]
    fn a_start_that_goes_on_is_known_by_how_long_it_has() {
        let mut memory = Memory::default();
        assert_eq!(memory.start("javac"), None);
        for millis in 1..=1000 {
            memory.started("javac", ms(millis), false);
        }
        let known = memory.start("javac").unwrap();
        assert!(ms(500) <= known && known <= ms(1000), "{known:?}");
        memory.started("javac", ms(1200), true);
        assert!(memory.start("javac").unwrap() > ms(1190));
        assert_eq!((memory.count("a"), memory.count("a"), memory.count("b")), (0, 1, 0));
    }

    #[test]
    fn a_family_counts_before_its_mnemonic() {
        let mut memory = Memory::default();
        let (one, other) = (Key::new("Javac", Some(1)), Key::new("Javac", Some(2)));
        for _ in 0..SAMPLES_MIN {
            memory.add(&one, Measure::Local, ms(100));
        }
        for _ in 0..SAMPLES_MIN * 4 {
            memory.add(&Key::new("Javac", None), Measure::Local, ms(5000));
        }
        near(memory.forecast(&one).local, 100);
        near(memory.forecast(&other).local, 5000);
        assert_eq!(memory.forecast(&one).remote, None);
        assert_eq!(memory.forecast(&Key::new("CppCompile", Some(1))), Forecast::default());
    }

    #[test]
    fn the_rate_of_hits_is_that_of_the_last_answers() {
        let mut memory = Memory::default();
        let key = Key::new("Javac", None);
        memory.add(&key, Measure::Hit, ms(1));
        assert_eq!(memory.forecast(&key).hit_rate, 1.0);
        memory.add(&key, Measure::Miss, ms(1));
        assert_eq!(memory.forecast(&key).hit_rate, 0.5);
        for _ in 0..40 {
            memory.add(&key, Measure::Miss, ms(1));
        }
        assert_eq!(memory.forecast(&key).hit_rate, 0.0);
    }

    #[test]
    fn what_was_stopped_early_says_nothing() {
        let mut memory = Memory::default();
        let key = Key::new("Javac", None);
        for _ in 0..8 {
            memory.add(&key, Measure::Remote, ms(1000));
            memory.at_least(&key, Measure::Remote, ms(10));
        }
        near(memory.forecast(&key).remote, 1000);
        for _ in 0..20 {
            memory.at_least(&key, Measure::Remote, ms(3000));
        }
        near(memory.forecast(&key).remote, 6000);
    }

    #[test]
    fn changes_survive_their_bytes() {
        let mut memory = Memory::default();
        let key = Key::new("Javac", Some(7));
        for millis in 1..60 {
            memory.add(&key, Measure::Local, ms(millis));
            memory.add(&key, Measure::Hit, ms(millis));
        }
        let mut again = Memory::default();
        let changes = memory.changes();
        assert_eq!(changes.len(), 2);
        for (key, bytes) in changes {
            let back = Key::from_text(&key.to_text()).unwrap();
            assert_eq!(back, key);
            let bytes = bytes.unwrap();
            for cut in 0..bytes.len() {
                assert_eq!(Record::from_bytes(&bytes[..cut], &key), None);
            }
            again.put(back, Record::from_bytes(&bytes, &key).unwrap());
        }
        assert_eq!(again.forecast(&key), memory.forecast(&key));
        assert!(again.changes().is_empty() && memory.changes().is_empty());
    }

    #[test]
    fn the_least_recently_used_is_forgotten() {
        let mut memory = Memory::default();
        for number in 0..=MNEMONICS_MAX {
            memory.add(&Key::new(&format!("M{number}"), None), Measure::Local, ms(1));
            memory.add(&Key::new("M0", None), Measure::Local, ms(1));
        }
        assert_eq!(memory.len(), MNEMONICS_MAX);
        let gone: Vec<Key> =
            memory.changes().into_iter().filter(|change| change.1.is_none()).map(|c| c.0).collect();
        assert_eq!(gone, [Key::new("M1", None)]);
    }

    #[test]
    fn a_mnemonic_of_a_peer_is_cut_between_characters() {
        let key = Key::new(&"ä".repeat(300), None);
        assert_eq!(key.to_text().len(), MNEMONIC_BYTES_MAX);
    }
}
