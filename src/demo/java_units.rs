//! Java files to compile: small, alike to what people write, each for itself.
//!
//! Six shapes of classes, with names, fields, numbers and further methods that differ from unit to unit: records,
//! sealed interfaces, generics, lambdas, streams, text blocks of Java 17. A unit needs nothing but the JDK, so that
//! each is an action of its own; the same number gives the same bytes everywhere and always.
use super::error::DemoError;
use std::fs;
use std::path::{Path, PathBuf};

/// How many the demo and the benchmarks compile.
pub const JAVA_UNITS: usize = 200;

const SHAPES: [(&str, &str); 6] = [
    ("Registry", include_str!("java/registry.java")),
    ("Parser", include_str!("java/parser.java")),
    ("Machine", include_str!("java/machine.java")),
    ("Cache", include_str!("java/cache.java")),
    ("Graph", include_str!("java/graph.java")),
    ("Codec", include_str!("java/codec.java")),
];

/// Further methods, apart by lines of `//`.
const METHODS: &str = include_str!("java/methods.java");

const NOUNS: [&str; 15] = [
    "invoice", "parcel", "route", "meter", "ticket", "signal", "ledger", "recipe", "sample", "vessel",
    "contract", "sensor", "voucher", "chapter", "garden",
];
const FIELDS: [&str; 10] =
    ["owner", "region", "color", "city", "label", "title", "origin", "branch", "season", "carrier"];
const OTHERS: [&str; 10] =
    ["amount", "weight", "height", "balance", "priority", "distance", "volume", "revision", "score", "depth"];

/// One Java file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JavaUnit {
    /// Where it goes, relative to the root of the sources: `org/example/p03/ParcelGraph9.java`.
    pub path: PathBuf,
    /// The name of its class, with its package: `org.example.p03.ParcelGraph9`.
    pub class: String,
    /// What is in it.
    pub text: String,
}

impl JavaUnit {
    /// The unit of this number.
    #[must_use]
    pub fn new(number: usize) -> Self {
        let mut dice = Dice::new(number);
        let (shape, text) = SHAPES[number % SHAPES.len()];
        let noun = dice.pick(&NOUNS);
        let (field, other) = (dice.pick(&FIELDS), dice.pick(&OTHERS));
        let simple = format!("{}{shape}{number}", capital(noun));
        let package = format!("org.example.p{:02}", number % 20);
        let with_methods = text.replace("@methods@", &methods(&mut dice));
        let pairs = [
            ("@package@", package.clone()),
            ("@Class@", simple.clone()),
            ("@noun@", noun.to_owned()),
            ("@Noun@", capital(noun)),
            ("@field@", field.to_owned()),
            ("@Field@", capital(field)),
            ("@FIELD@", field.to_uppercase()),
            ("@other@", other.to_owned()),
            ("@Other@", capital(other)),
            ("@number@", (dice.roll(900) + 100).to_string()),
            ("@small@", dice.roll(9).to_string()),
            ("@hex@", format!("{:06x}", dice.roll(1 << 24))),
        ];
        let text = pairs.iter().fold(with_methods, |text, (mark, value)| text.replace(mark, value));
        let path = PathBuf::from(package.replace('.', "/")).join(format!("{simple}.java"));
        JavaUnit { path, class: format!("{package}.{simple}"), text }
    }

    /// Writes it below `root`, with its directories.
    ///
    /// # Errors
    /// [`DemoError::File`].
    pub fn write(&self, root: &Path) -> Result<(), DemoError> {
        let path = root.join(&self.path);
        let failed = || DemoError::file(format!("write {}", path.display()));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed())?;
        }
        fs::write(&path, &self.text).map_err(failed())
    }
}

/// The first `count` units.
#[must_use]
pub fn java_units(count: usize) -> Vec<JavaUnit> {
    (0..count).map(JavaUnit::new).collect()
}

/// Two to five further methods, none twice.
fn methods(dice: &mut Dice) -> String {
    let mut left: Vec<&str> = METHODS.split("//\n").collect();
    let mut chosen = String::new();
    for _ in 0..2 + dice.roll(4) {
        let at = dice.roll(left.len());
        let name = dice.pick(&OTHERS);
        chosen.push_str(&left.swap_remove(at).replace("@method@", name));
        if !chosen.ends_with('\n') {
            chosen.push('\n');
        }
    }
    chosen
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Numbers that look random and are always the same: `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn new(number: usize) -> Self {
        Dice(number as u64)
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % sides as u64).unwrap_or(0)
    }

    fn pick(&mut self, among: &[&'static str]) -> &'static str {
        among[self.roll(among.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_always_and_no_two_alike() {
        let units = java_units(JAVA_UNITS);
        assert_eq!(units, java_units(JAVA_UNITS));
        assert_eq!(units[..50], java_units(50));
        let paths: BTreeSet<&Path> = units.iter().map(|unit| unit.path.as_path()).collect();
        let texts: BTreeSet<&str> = units.iter().map(|unit| unit.text.as_str()).collect();
        assert_eq!((paths.len(), texts.len()), (JAVA_UNITS, JAVA_UNITS));
    }

    /// What it must not be tomorrow either: figures are compared over versions.
    #[test]
    fn the_bytes_are_those_of_yesterday() {
        const HASH: &str = "acf1d20bcad1f53833eb488500c86d5069ca2398183902e7f0ac6bef3e493026";
        let all: String = java_units(JAVA_UNITS).iter().map(|unit| unit.text.as_str()).collect();
        assert_eq!((all.len(), blake3::hash(all.as_bytes()).to_hex().as_str()), (715_465, HASH));
    }

    #[test]
    fn a_unit_is_a_small_file_without_marks() {
        for unit in java_units(JAVA_UNITS) {
            let lines = unit.text.lines().count();
            assert!((70..200).contains(&lines), "{}: {lines} lines", unit.path.display());
            assert!(unit.text.ends_with("}\n"), "{}", unit.path.display());
            let marks: Vec<&str> =
                unit.text.split('@').skip(1).step_by(2).filter(|mark| mark.len() < 12).collect();
            let words: Vec<&&str> = marks.iter().filter(|mark| !mark.contains([' ', '\n'])).collect();
            assert!(words.is_empty(), "{}: {words:?}", unit.path.display());
            let package = format!("package {};\n", unit.class.rsplit_once('.').unwrap().0);
            assert!(unit.text.starts_with(&package), "{}", unit.path.display());
        }
    }
}
