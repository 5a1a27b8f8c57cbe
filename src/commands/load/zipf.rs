//! Random choices by Zipf's law: the first choice is the most frequent one, and the kth is chosen k^s times less often,
//! where s is the exponent.

use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};

/// A random generator that chooses one of `choices` by Zipf's law.
#[derive(Debug, Clone)]
pub(super) struct ZipfSampler {
    choices: u64,
    law: Option<Zipf<f64>>,
}

impl ZipfSampler {
    /// Creates a sampler. `choices` must be 1 or more. With the exponent 0 all choices have the same probability.
    pub(super) fn new(choices: u64, exponent: f64) -> Self {
        let law = match choices {
            0 | 1 => None,
            _ => Zipf::new(choices as f64, exponent).ok(),
        };
        Self { choices, law }
    }

    /// Returns the index of a random choice, from 0 to `choices - 1`.
    pub(super) fn choose(&self, rng: &mut SmallRng) -> u64 {
        let rank = self.law.map_or(1.0, |law| law.sample(rng));
        (rank as u64).clamp(1, self.choices.max(1)) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    const DRAWS: usize = 20_000;
    /// Maximum difference from the expected count, in standard deviations. A correct sampler exceeds it about once in a
    /// billion draws.
    const DEVIATIONS: f64 = 6.5;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_kth_is_chosen_with_its_probability(
            choices in 1..40u64, exponent in 0.0..2.5f64, seed: u64
        ) {
            let sampler = ZipfSampler::new(choices, exponent);
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut chosen = vec![0u64; choices as usize];
            for _ in 0..DRAWS {
                chosen[sampler.choose(&mut rng) as usize] += 1;
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
        fn a_choice_is_below_the_number_of_choices(choices: u64, exponent in 0.0..4.0f64, seed: u64) {
            let choices = choices.max(1);
            let sampler = ZipfSampler::new(choices, exponent);
            let mut rng = SmallRng::seed_from_u64(seed);
            for _ in 0..100 {
                prop_assert!(sampler.choose(&mut rng) < choices);
            }
        }
    }
}
