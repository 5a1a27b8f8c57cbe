//! A spike: for a while the rate is many times what it was. A goal.

use std::{fmt, str::FromStr, time::Duration};

use crate::cli::values;

/// How long a spike is that does not say: what a crowd makes of a goal.
const USUAL_LENGTH: Duration = Duration::from_secs(10);
/// Keeps every rate finite; no crowd grows a millionfold.
const LARGEST_FACTOR: f64 = 1e6;

/// `10x@30s`, or `10x@30s+5s` with a length of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spike {
    /// What the rate is multiplied by.
    pub(super) factor: f64,
    /// When it begins, after the start.
    pub(super) at: Duration,
    /// How long it lasts.
    pub(super) length: Duration,
}

impl Spike {
    /// When it is over, after the start.
    pub(super) fn end(&self) -> Duration {
        self.at + self.length
    }
}

impl FromStr for Spike {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "not a spike; write 10x@30s, or 10x@30s+5s for one of 5 s";
        let (factor, when) = text.split_once("x@").ok_or(EXPECTED)?;
        let factor: f64 = factor.trim().parse().map_err(|_| EXPECTED)?;
        if !(factor > 0.0 && factor <= LARGEST_FACTOR) {
            return Err(format!(
                "the factor must be above 0 and at most {LARGEST_FACTOR}"
            ));
        }
        let (at, length) = match when.split_once('+') {
            Some((at, length)) => (at, values::duration(length)?),
            None => (when, USUAL_LENGTH),
        };
        let at = match at {
            "0s" | "0" => Duration::ZERO,
            _ => values::duration(at)?,
        };
        Ok(Self { factor, at, length })
    }
}

impl fmt::Display for Spike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at_ms, length_ms) = (values::ms(self.at), values::ms(self.length));
        write!(f, "{}x@{at_ms}ms+{length_ms}ms", self.factor)
    }
}

/// In the order of time. Refuses what no schedule can follow.
pub(super) fn in_order(mut spikes: Vec<Spike>, duration: Duration) -> Result<Vec<Spike>, String> {
    spikes.sort_by_key(|spike| spike.at);
    if let Some(spike) = spikes.iter().find(|spike| spike.at >= duration) {
        return Err(format!("{spike} begins when --duration is over"));
    }
    if let Some(pair) = spikes.windows(2).find(|pair| pair[0].end() > pair[1].at) {
        return Err(format!("{} and {} overlap", pair[0], pair[1]));
    }
    Ok(spikes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_spike_is_a_factor_a_moment_and_a_length() {
        let spike = |factor, at, length| Spike {
            factor,
            at: SECOND * at,
            length: SECOND * length,
        };
        for (text, expected) in [
            ("10x@30s", spike(10.0, 30, 10)),
            ("10x@30s+5s", spike(10.0, 30, 5)),
            ("0.5x@1m+2m", spike(0.5, 60, 120)),
            ("2x@0s", spike(2.0, 0, 10)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "", "10", "10x", "10@30s", "x@30s", "0x@3s", "-1x@3s", "NaNx@3s", "infx@3s", "2x@3",
            "2x@3s+", "2x@3s+0s", "1e9x@3s",
        ] {
            assert!(text.parse::<Spike>().is_err(), "{text}");
        }
    }

    #[test]
    fn spikes_begin_within_the_run_and_do_not_overlap() {
        let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let ordered = in_order(parsed(&["2x@20s+5s", "3x@10s+10s"]), SECOND * 30).unwrap();
        assert_eq!(ordered[0].factor, 3.0);
        let late = in_order(parsed(&["2x@30s"]), SECOND * 30);
        assert!(late.unwrap_err().contains("--duration"));
        let overlapping = in_order(parsed(&["2x@20s+5s", "3x@10s+11s"]), SECOND * 30);
        assert!(overlapping.unwrap_err().contains("overlap"));
    }

    proptest! {
        #[test]
        fn what_is_displayed_reads_as_the_same(
            factor in 0.001..1000.0f64, at_ms in 1..10_000_000u64, length_ms in 1..10_000_000u64
        ) {
            let (at, length) = (Duration::from_millis(at_ms), Duration::from_millis(length_ms));
            let spike = Spike { factor, at, length };
            prop_assert_eq!(spike.to_string().parse(), Ok(spike));
        }
    }
}
