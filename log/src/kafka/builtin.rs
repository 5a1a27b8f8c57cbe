//! The features of the librdkafka in this build, as librdkafka reports them.

use rdkafka::ClientConfig;

/// Hint in error messages: the cargo features that include TLS and SASL.
const HINT: &str = "build emostream with its cargo feature kafka-tls (a default one), or kafka-tls-system for the system's OpenSSL";

/// Returns librdkafka's features for TLS and SASL, for example `ssl` and `sasl_scram`.
pub fn security_features() -> Vec<String> {
    let reported = ClientConfig::new()
        .create_native_config()
        .and_then(|config| config.get("builtin.features"))
        .unwrap_or_default();
    parse(&reported)
}

fn parse(reported: &str) -> Vec<String> {
    let names = reported.split(',').map(str::trim);
    // `sasl` alone only means that there is some mechanism, so it is left out.
    names
        .filter(|name| *name == "ssl" || name.starts_with("sasl_"))
        .map(str::to_owned)
        .collect()
}

/// Returns why this build cannot use `property` with `value`; `None` if it can, or if only librdkafka can check this.
pub(super) fn missing(features: &[String], property: &str, value: &str) -> Option<String> {
    let lacks = |feature: &str| !features.iter().any(|known| known == feature);
    let value = value.to_uppercase();
    let (what, needed) = match property {
        "security.protocol" if matches!(value.as_str(), "SSL" | "SASL_SSL") => ("TLS", "ssl"),
        "sasl.mechanisms" => match value.as_str() {
            "PLAIN" => ("SASL PLAIN", "sasl_plain"),
            "SCRAM-SHA-256" | "SCRAM-SHA-512" => ("SASL SCRAM", "sasl_scram"),
            "OAUTHBEARER" => ("SASL OAUTHBEARER", "sasl_oauthbearer"),
            "GSSAPI" => {
                return Some(
                    "this build has no Kerberos (GSSAPI); use PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
                        .to_owned(),
                );
            }
            _ => return None,
        },
        _ if property.starts_with("sasl.oauthbearer.") => ("SASL OAUTHBEARER", "sasl_oauthbearer"),
        "enable.ssl.certificate.verification" => ("TLS", "ssl"),
        _ if property.starts_with("ssl.") || property.starts_with("https.") => ("TLS", "ssl"),
        _ => return None,
    };
    lacks(needed).then(|| format!("this build has no {what} to Kafka; {HINT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_tls_and_sasl() {
        let reported = "gzip,snappy,ssl,sasl,regex,lz4,sasl_plain,sasl_scram,plugins,zstd";
        assert_eq!(parse(reported), ["ssl", "sasl_plain", "sasl_scram"]);
    }

    #[test]
    fn a_build_without_tls_names_the_cargo_feature_for_what_needs_it() {
        let without = parse("gzip,sasl,sasl_plain");
        for (property, value) in [
            ("security.protocol", "ssl"),
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanisms", "SCRAM-SHA-512"),
            ("sasl.oauthbearer.client.id", "x"),
            ("ssl.ca.location", "/ca.pem"),
        ] {
            let why = missing(&without, property, value);
            assert!(
                why.is_some_and(|why| why.contains("kafka-tls")),
                "{property}"
            );
        }
        for (property, value) in [
            ("security.protocol", "sasl_plaintext"),
            ("sasl.mechanisms", "PLAIN"),
            ("sasl.username", "ada"),
            ("linger.ms", "5"),
        ] {
            assert_eq!(missing(&without, property, value), None, "{property}");
        }
    }

    #[test]
    fn kerberos_is_in_no_build() {
        let all = parse("ssl,sasl_plain,sasl_scram,sasl_oauthbearer");
        let why = missing(&all, "sasl.mechanisms", "GSSAPI");
        assert!(why.is_some_and(|why| why.contains("Kerberos")));
        assert_eq!(missing(&all, "security.protocol", "ssl"), None);
    }
}
