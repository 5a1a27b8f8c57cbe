//! The settings that the results of an application depend on.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

/// The name of the setting that holds the size of the windows, milliseconds.
pub const WINDOW_MS: &str = "window_ms";

/// The name of the setting that holds the lateness, milliseconds.
pub const LATENESS_MS: &str = "lateness_ms";

/// The settings that the results depend on. A run cannot continue from progress that a run with other settings has
/// written. The settings are stored as a JSON object, in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub struct Settings(Vec<Setting>);

#[derive(Debug, Clone)]
struct Setting {
    name: String,
    value: Value,
    /// The name of the setting in messages; empty for settings that were read from a record.
    label: &'static str,
}

impl Settings {
    /// Adds a setting. `label` is its name in messages: the flag, or a short description.
    #[must_use]
    pub fn with(mut self, name: &str, label: &'static str, value: impl Into<Value>) -> Settings {
        self.0.push(Setting {
            name: name.to_owned(),
            value: value.into(),
            label,
        });
        self
    }

    /// Appends the settings of `others`.
    #[must_use]
    pub fn followed_by(mut self, others: &Settings) -> Settings {
        self.0.extend_from_slice(&others.0);
        self
    }

    /// Returns the value of a setting, if it is a whole number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.value(name)?.as_u64()
    }

    fn value(&self, name: &str) -> Option<&Value> {
        let setting = self.0.iter().find(|setting| setting.name == name);
        setting.map(|setting| &setting.value)
    }

    /// Returns a description of the first setting whose value in `stored` differs; `None` if there is none.
    pub fn difference(&self, stored: &Settings) -> Option<String> {
        let differs = |setting: &&Setting| stored.value(&setting.name) != Some(&setting.value);
        let Setting { name, value, label } = self.0.iter().find(differs)?;
        let stored = stored
            .value(name)
            .map_or_else(|| "not set".to_owned(), text);
        Some(format!("{label} was {stored} and is now {}", text(value)))
    }
}

/// Returns a value as text for messages: strings without quotes.
fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, Setting { value, label, .. }) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { ", " };
            write!(f, "{comma}{label} {}", text(value))?;
        }
        Ok(())
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Settings) -> bool {
        let pairs = |settings: &Settings| -> Vec<(String, Value)> {
            let pair = |setting: &Setting| (setting.name.clone(), setting.value.clone());
            settings.0.iter().map(pair).collect()
        };
        pairs(self) == pairs(other)
    }
}

impl Eq for Settings {}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|setting| (&setting.name, &setting.value)))
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Settings, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Settings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings by name")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Settings, M::Error> {
                let mut settings = Settings::default();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    settings = settings.with(&name, "", value);
                }
                Ok(settings)
            }
        }
        from.deserialize_map(Read)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    fn settings(window_ms: u64) -> Settings {
        Settings::default()
            .with("topic", "the source topic", "app.source")
            .with(WINDOW_MS, "--window (ms)", window_ms)
    }

    #[test]
    fn settings_name_their_difference() {
        let now = settings(2000);
        assert_eq!(now.difference(&settings(2000)), None);
        let of = |stored: &str| {
            now.difference(&serde_json::from_str(stored).unwrap())
                .unwrap()
        };
        assert_eq!(
            of(r#"{"topic":"app.source","window_ms":1000}"#),
            "--window (ms) was 1000 and is now 2000"
        );
        assert_eq!(
            of(r#"{"topic":"other","window_ms":2000}"#),
            "the source topic was other and is now app.source"
        );
        assert_eq!(
            of("{\"topic\":\"app.source\"}"),
            "--window (ms) was not set and is now 2000"
        );
    }

    #[test]
    fn settings_are_read_as_they_were_written_and_in_their_order() {
        let json = serde_json::to_string(&settings(2000)).unwrap();
        assert_eq!(json, r#"{"topic":"app.source","window_ms":2000}"#);
        assert_eq!(
            serde_json::from_str::<Settings>(&json).unwrap(),
            settings(2000)
        );
    }
}
