//! Spikes: spans of time in which the rate is multiplied, as after a goal.

use std::{fmt, str::FromStr, time::Duration};

use emostream_app::flags::parse;

/// Default length of a spike. People react to a goal for about this time.
const USUAL_LENGTH: Duration = Duration::from_secs(10);
/// Maximum factor of a spike, so that no rate is infinite.
const LARGEST_FACTOR: f64 = 1e6;

/// A spike, parsed from `10x@30s`, or with a length from `10x@30s+5s`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spike {
    /// The factor by which the rate is multiplied.
    pub(super) factor: f64,
    /// Time from the start of the load to the spike.
    pub(super) at: Duration,
    /// Length of the spike.
    pub(super) length: Duration,
}

impl Spike {
    /// Returns the time from the start of the load to the end of the spike.
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
            Some((at, length)) => (at, parse::duration(length)?),
            None => (when, USUAL_LENGTH),
        };
        let at = match at {
            "0s" | "0" => Duration::ZERO,
            _ => parse::duration(at)?,
        };
        Ok(Self { factor, at, length })
    }
}

impl fmt::Display for Spike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at_ms, length_ms) = (parse::ms(self.at), parse::ms(self.length));
        write!(f, "{}x@{at_ms}ms+{length_ms}ms", self.factor)
    }
}

/// Sorts spikes by time. Returns an error if they overlap or begin after the end of the load.
pub(super) fn in_order(mut spikes: Vec<Spike>, duration: Duration) -> Result<Vec<Spike>, String> {
    spikes.sort_by_key(|spike| spike.at);
    if let Some(spike) = spikes.iter().find(|spike| spike.at >= duration) {
        return Err(format!("{spike} begins after the end of --duration"));
    }
    if let Some(pair) = spikes.windows(2).find(|pair| pair[0].end() > pair[1].at) {
        return Err(format!("{} and {} overlap", pair[0], pair[1]));
    }
    Ok(spikes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
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
        fn a_displayed_spike_parses_as_the_same(
            factor in 0.001..1000.0f64, at_ms in 1..10_000_000u64, length_ms in 1..10_000_000u64
        ) {
            let (at, length) = (Duration::from_millis(at_ms), Duration::from_millis(length_ms));
            let spike = Spike { factor, at, length };
            prop_assert_eq!(spike.to_string().parse(), Ok(spike));
        }
    }
}
