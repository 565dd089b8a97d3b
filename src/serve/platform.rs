//! What an instance offers as platform, and whether an action's properties ask for that.
//!
//! An unknown name is refused, since nobody would do what it asks for; a value that is not on offer is refused rather
//! than left waiting for a machine that will never come. Names are compared without regard to case where their own
//! dialect does so (BuildBuddy), `OSFamily`'s and `ISA`'s values because clients send `Linux`.

/// What is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformOffer {
    /// Every property that may be asked for.
    pub properties: Vec<OfferedProperty>,
}

/// A property that may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedProperty {
    /// Its name.
    pub name: String,
    /// Its values.
    pub values: OfferedValues,
}

/// The values of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferedValues {
    /// Any: the executor judges it, or it does not matter here.
    Any,
    /// These, in whatever case.
    OneOf(Vec<String>),
}

/// Why a platform cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// No such property.
    #[error("platform property {name:?} is unknown here: {offered} are on offer")]
    Unknown {
        /// Its name.
        name: String,
        /// Those that are known.
        offered: String,
    },
    /// No such value.
    #[error("platform property {name:?} cannot be {value:?} here: {offered} is on offer")]
    Unmet {
        /// Its name.
        name: String,
        /// What was asked for.
        value: String,
        /// What there is.
        offered: String,
    },
}

/// Properties that ask for nothing which a single machine could fail to give, or that the executor understands.
const UNDERSTOOD: [&str; 21] = [
    "container-image",
    "dockerNetwork",
    "network",
    "block-network",
    "Pool",
    "choose-queue",
    "cores",
    "min-cores",
    "max-cores",
    "min-mem",
    "max-mem",
    "EstimatedComputeUnits",
    "EstimatedCPU",
    "EstimatedMemory",
    "EstimatedFreeDiskBytes",
    "default-timeout",
    "termination-grace-period",
    "fulgurite-memory-bytes",
    "fulgurite-cpu-milli",
    "fulgurite-pids",
    "linux-sandbox",
];

impl PlatformOffer {
    /// What a machine like this one offers.
    #[must_use]
    pub fn of_this_machine() -> Self {
        // Foreign ABIs are refused by the sandbox, so that x86-32 is not among them.
        let (isa, arch): (&[&str], &[&str]) = match std::env::consts::ARCH {
            "x86_64" => (&["x86-64"], &["x86_64", "amd64"]),
            "aarch64" => (&["arm-a64"], &["aarch64", "arm64"]),
            _ => (&[], &[]),
        };
        let any = |name: &&str| OfferedProperty { name: (*name).to_owned(), values: OfferedValues::Any };
        let one_of = |name: &str, values: &[&str]| OfferedProperty {
            name: name.to_owned(),
            values: OfferedValues::OneOf(values.iter().map(|value| (*value).to_owned()).collect()),
        };
        let mut properties = vec![one_of("OSFamily", &["linux"]), one_of("ISA", isa), one_of("Arch", arch)];
        properties.extend(UNDERSTOOD.iter().chain(&crate::worker::wanted::NAMES).map(any));
        PlatformOffer { properties }
    }

    /// Whether a platform can be had.
    ///
    /// # Errors
    /// [`PlatformError`], for the first property that cannot.
    pub fn check(&self, platform: &[(String, String)]) -> Result<(), PlatformError> {
        for (name, value) in platform {
            let offered = self.properties.iter().find(|offered| offered.name.eq_ignore_ascii_case(name));
            let Some(offered) = offered else {
                let names: Vec<&str> =
                    self.properties.iter().map(|property| property.name.as_str()).collect();
                return Err(PlatformError::Unknown { name: cut(name), offered: names.join(", ") });
            };
            if let OfferedValues::OneOf(values) = &offered.values
                && !values.iter().any(|offered| offered.eq_ignore_ascii_case(value))
            {
                return Err(PlatformError::Unmet {
                    name: cut(name),
                    value: cut(value),
                    offered: values.join(" or "),
                });
            }
        }
        Ok(())
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<(), PlatformError> {
        let mut offer = PlatformOffer::of_this_machine();
        offer.properties.retain(|property| property.name != "ISA");
        offer.properties.push(OfferedProperty {
            name: "ISA".to_owned(),
            values: OfferedValues::OneOf(vec!["x86-64".to_owned()]),
        });
        offer.check(&[(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn what_is_on_offer_can_be_had_in_any_case() {
        for (name, value) in
            [("OSFamily", "linux"), ("OSFamily", "Linux"), ("ISA", "X86-64"), ("container-image", "x")]
        {
            assert_eq!(check(name, value), Ok(()), "{name}={value}");
        }
    }

    #[test]
    fn what_is_not_on_offer_is_named() {
        let unknown = check("favourite-colour", "blue").unwrap_err();
        assert!(matches!(&unknown, PlatformError::Unknown { offered, .. } if offered.contains("OSFamily")));
        let unmet = check("ISA", "arm-a64").unwrap_err();
        assert_eq!(
            unmet.to_string(),
            "platform property \"ISA\" cannot be \"arm-a64\" here: x86-64 is on offer"
        );
    }
}
