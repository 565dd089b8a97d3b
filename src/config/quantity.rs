//! Quantities as people write them, in files and on the command line: sizes, times, cores. Pure.
use std::time::Duration;

/// Bytes: a number, or one with a suffix. `K`, `M`, `G`, `T` and `KiB`… are powers of 1024, `KB`… of 1000.
///
/// # Errors
/// What is wrong with the text.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, suffix) = split(text)?;
    let unit: u64 = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("unknown unit {suffix:?}; use K, M, G or T")),
    };
    let value = number * unit as f64;
    if value < 1.0 || value >= u64::MAX as f64 {
        return Err("out of range".to_owned());
    }
    Ok(value as u64)
}

/// A time: seconds, or a number with `ms`, `s`, `m` or `h`.
///
/// # Errors
/// What is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, suffix) = split(text)?;
    let unit = match suffix {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit {suffix:?}; use ms, s, m or h")),
    };
    let seconds = number * unit;
    if !(0.0..=1e9).contains(&seconds) {
        return Err("out of range".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A time that is not zero.
///
/// # Errors
/// What is wrong with the text.
pub fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        time => Ok(time),
    }
}

/// Cores, as thousandths: `1`, `0.5`, `2.25`.
///
/// # Errors
/// What is wrong with the text.
pub fn cores(text: &str) -> Result<u32, String> {
    let (number, suffix) = split(text)?;
    let milli = number * 1000.0;
    match suffix {
        "" if (1.0..=1e6).contains(&milli) => Ok(milli as u32),
        "" => Err("out of range".to_owned()),
        _ => Err("give a number of cores, such as 0.5 or 2".to_owned()),
    }
}

fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| "not a number".to_owned())?;
    Ok((number, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check =
            |text, value: Result<u64, &str>| assert_eq!(bytes(text), value.map_err(str::to_owned), "{text}");
        check("4096", Ok(4096));
        check("1K", Ok(1024));
        check("1.5M", Ok(1_572_864));
        check("2GiB", Ok(2 << 30));
        check("1kb", Ok(1000));
        check("0", Err("out of range"));
        check("-1", Err("not a number"));
        check("", Err("not a number"));
        check("99999999999T", Err("out of range"));
        check("5X", Err("unknown unit \"X\"; use K, M, G or T"));
    }

    #[test]
    fn times_and_cores() {
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("1e3").is_err() && duration("9d").is_err());
        assert!(timeout("0").is_err());
        assert_eq!(cores("0.5"), Ok(500));
        assert_eq!(cores("2"), Ok(2000));
        assert!(cores("0").is_err() && cores("2x").is_err() && cores("9999999").is_err());
    }
}
