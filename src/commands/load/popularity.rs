//! Popularity: of many things a few are chosen most, by Zipf's law. The kth is chosen k^s times more
//! rarely than the first.

use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};

/// How a choice among so many falls.
#[derive(Debug, Clone)]
pub(super) struct Popularity {
    choices: u64,
    law: Option<Zipf<f64>>,
}

impl Popularity {
    /// `choices` is 1 or more. The exponent 0 makes all alike.
    pub(super) fn new(choices: u64, exponent: f64) -> Self {
        let law = match choices {
            0 | 1 => None,
            _ => Zipf::new(choices as f64, exponent).ok(),
        };
        Self { choices, law }
    }

    /// Chooses, from 0.
    pub(super) fn choose(&self, random: &mut SmallRng) -> u64 {
        let rank = self.law.map_or(1.0, |law| law.sample(random));
        (rank as u64).clamp(1, self.choices.max(1)) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    const DRAWS: usize = 20_000;
    /// A fair draw is further off than so many standard deviations once in a billion.
    const DEVIATIONS: f64 = 6.5;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_kth_is_chosen_by_its_share_of_the_law(
            choices in 1..40u64, exponent in 0.0..2.5f64, seed: u64
        ) {
            let popularity = Popularity::new(choices, exponent);
            let mut random = SmallRng::seed_from_u64(seed);
            let mut chosen = vec![0u64; choices as usize];
            for _ in 0..DRAWS {
                chosen[popularity.choose(&mut random) as usize] += 1;
            }
            let weights: Vec<f64> = (1..=choices).map(|k| (k as f64).powf(-exponent)).collect();
            let sum: f64 = weights.iter().sum();
            for (rank, (count, weight)) in chosen.iter().zip(&weights).enumerate() {
                let share = weight / sum;
                let expected = share * DRAWS as f64;
                let allowed = DEVIATIONS * (expected * (1.0 - share)).sqrt() + 1.0;
                let off = (*count as f64 - expected).abs();
                prop_assert!(off <= allowed, "{rank}: {count}, not {expected}");
            }
        }

        #[test]
        fn a_choice_is_one_of_them_however_many(choices: u64, exponent in 0.0..4.0f64, seed: u64) {
            let choices = choices.max(1);
            let popularity = Popularity::new(choices, exponent);
            let mut random = SmallRng::seed_from_u64(seed);
            for _ in 0..100 {
                prop_assert!(popularity.choose(&mut random) < choices);
            }
        }
    }
}
