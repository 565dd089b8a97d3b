//! The few statistics that reports are made of: medians, percentiles, paired ratios.
//!
//! Percentiles are by nearest rank, so that each is a value that was measured; the median of an even number of values
//! is the mean of the middle two. A ratio is taken within each round, where both sides met the same machine, and the
//! median of these is what counts: a machine that is slow for a while slows both.

/// The median; 0 of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(upper), 1) => *upper,
        (Some(upper), _) => {
            let lower = middle.checked_sub(1).and_then(|index| sorted.get(index)).unwrap_or(upper);
            f64::midpoint(*lower, *upper)
        }
    }
}

/// The value that `percent` of all values do not exceed, by nearest rank; 0 of nothing.
#[must_use]
pub fn percentile(values: &[f64], percent: u32) -> f64 {
    let sorted = sorted(values);
    let rank = (sorted.len() * percent as usize).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// The median of the ratios of pairs. Pairs in which either side is missing or the floor is nothing do not count.
#[must_use]
pub fn paired_ratio(values: &[Option<f64>], floors: &[Option<f64>]) -> Option<f64> {
    let ratios: Vec<f64> = values
        .iter()
        .zip(floors)
        .filter_map(|(value, floor)| value.zip(*floor))
        .filter(|(_, floor)| *floor > 0.0)
        .map(|(value, floor)| value / floor)
        .collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

/// Rounds to one decimal: the clocks are no better.
#[must_use]
pub fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Rounds to three decimals, for ratios.
#[must_use]
pub fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The numbers from 0 to `count`, in an order that depends on `round` alone, so that no case always follows the same
/// other one and inherits what that left the kernel to do.
#[must_use]
pub fn shuffled(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = round as u64;
    for last in (1..count).rev() {
        // SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        order.swap(last, usize::try_from(mixed % (last as u64 + 1)).unwrap_or(0));
    }
    order
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_nothing() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn percentiles_are_measured_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 95), 190.0);
        assert_eq!(percentile(&values, 99), 198.0);
        assert_eq!(percentile(&values, 100), 200.0);
        assert_eq!(percentile(&[5.0], 1), 5.0);
        assert_eq!(percentile(&[5.0, 6.0], 99), 6.0);
        assert_eq!(percentile(&[], 50), 0.0);
    }

    #[test]
    fn ratios_are_paired_within_a_round() {
        // The second half of the rounds ran on a machine ten times as slow: the ratio does not notice.
        let floors = [1.0, 1.0, 10.0, 10.0].map(Some);
        let values = [2.0, 2.0, 20.0, 20.0].map(Some);
        assert_eq!(paired_ratio(&values, &floors), Some(2.0));
        assert_eq!(paired_ratio(&[Some(3.0), None, Some(9.0)], &[None, Some(1.0), Some(3.0)]), Some(3.0));
        assert_eq!(paired_ratio(&[Some(3.0)], &[Some(0.0)]), None);
        assert_eq!(paired_ratio(&[], &[]), None);
    }

    #[test]
    fn every_order_is_a_permutation_and_followers_vary() {
        let mut follows_first = [0; 5];
        for round in 0..400 {
            let order = shuffled(5, round);
            let mut seen = order.clone();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4]);
            if let Some(at) = order.iter().position(|case| *case == 0)
                && let Some(next) = order.get(at + 1)
            {
                follows_first[*next] += 1;
            }
        }
        assert!(follows_first[1..].iter().all(|count| (50..110).contains(count)), "{follows_first:?}");
        assert_eq!(shuffled(0, 1), Vec::<usize>::new());
    }

    #[test]
    fn rounding() {
        assert_eq!((tenths(1.26), thousandths(1.23456)), (1.3, 1.235));
    }
}
