//! Converts librdkafka's reports about TLS and SASL to sentences that name the property to set.
//!
//! librdkafka has one error code for most of these cases, so they are distinguished by the text of its report. A report
//! with an unknown text is treated as a report about the network.

use std::fmt;

/// Start of librdkafka's report that a client has no token.
pub(super) const NO_TOKEN: &str = "Failed to acquire SASL OAUTHBEARER token: ";

/// Maximum time until a port that requires SASL closes the connection of a client that does not authenticate: it does
/// so at the client's first request. A connection that ends later was closed for another reason.
const LOGIN_MS: u32 = 2_000;

/// The reason why a connection fails although the broker is reachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The broker's certificate failed the check, and librdkafka does not report why.
    Certificate,
    /// No trusted authority signed the broker's certificate.
    UntrustedCertificate,
    /// The broker's certificate names other hosts.
    WrongHost,
    /// The broker's certificate has expired.
    ExpiredCertificate,
    /// The broker requires a certificate of the client.
    NoClientCertificate,
    /// The broker does not accept the client's certificate.
    ClientCertificate,
    /// The client's certificate has expired.
    ExpiredClientCertificate,
    /// The TLS handshake failed for another reason, for example since the versions or ciphers do not match. Contains
    /// the text of OpenSSL.
    Handshake(String),
    /// The client connects without TLS to a port that requires TLS.
    TlsPort,
    /// The client uses TLS on a port without TLS.
    PlaintextPort,
    /// The client does not authenticate on a port that requires it. The port may require TLS, too.
    SaslPort,
    /// The client authenticates on a port without SASL.
    NoSasl,
    /// The broker does not support the SASL mechanism. Contains the mechanisms that it supports, separated by commas.
    Mechanism(String),
    /// The broker refuses the user name or the password.
    Credentials,
    /// The broker refuses the token. Contains the text of the broker's response.
    Token(String),
    /// The client has no token. Contains the reason.
    NoToken(String),
    /// SASL authentication failed for another reason. Contains the text of librdkafka.
    Sasl(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Certificate => f.write_str(
                "the broker's certificate is not trusted, has expired or is not for this host name; set ssl.ca.location to the CA that signed it, and check the names in --kafka and in the brokers' advertised.listeners",
            ),
            Trouble::UntrustedCertificate => f.write_str(
                "the broker's certificate is not trusted; set ssl.ca.location to a file (PEM) of the CA that signed it",
            ),
            Trouble::WrongHost => f.write_str(
                "the broker's certificate is not for this host name; use a name of the certificate in --kafka and in the brokers' advertised.listeners",
            ),
            Trouble::ExpiredCertificate => {
                f.write_str("the broker's certificate has expired; the broker needs a new one")
            }
            Trouble::NoClientCertificate => f.write_str(
                "the broker requires a client certificate of an authority that it trusts; set ssl.certificate.location and ssl.key.location",
            ),
            Trouble::ClientCertificate => f.write_str(
                "the broker does not accept this client's certificate (ssl.certificate.location); check that it has not expired and that the broker trusts the CA that signed it",
            ),
            Trouble::ExpiredClientCertificate => f.write_str(
                "this client's certificate has expired; put a new one at ssl.certificate.location",
            ),
            Trouble::Handshake(why) => write!(
                f,
                "the TLS handshake fails ({why}); check the broker's TLS versions and ciphers, and the ssl.* properties"
            ),
            Trouble::TlsPort => f.write_str(
                "the broker closes the connection, as a TLS port does when a client does not use TLS; set security.protocol to ssl or sasl_ssl",
            ),
            Trouble::PlaintextPort => f.write_str(
                "the broker does not use TLS on this port; use a TLS port, or set security.protocol to plaintext or sasl_plaintext",
            ),
            Trouble::SaslPort => f.write_str(
                "the broker closes the connection, as a port with SASL does when a client does not authenticate; set security.protocol to sasl_ssl or sasl_plaintext, and sasl.mechanism",
            ),
            Trouble::NoSasl => f.write_str(
                "the broker does not use SASL on this port; set security.protocol to ssl or plaintext, or use a SASL port",
            ),
            Trouble::Mechanism(known) if known.is_empty() => {
                f.write_str("the broker does not support the SASL mechanism of sasl.mechanism; set another")
            }
            Trouble::Mechanism(known) => write!(
                f,
                "the broker does not support the SASL mechanism of sasl.mechanism; set one that it supports: {known}"
            ),
            Trouble::Credentials => f.write_str(
                "SASL authentication failed; check sasl.username, sasl.password and sasl.mechanism",
            ),
            Trouble::Token(why) => write!(
                f,
                "the broker does not accept the token ({why}); check sasl.oauthbearer.scope, and the issuer and the audience that the broker expects"
            ),
            Trouble::NoToken(why) => f.write_str(why),
            Trouble::Sasl(why) => write!(
                f,
                "SASL authentication failed ({why}); check the sasl.* properties"
            ),
        }
    }
}

impl Trouble {
    /// Returns whether this reason is only a guess about the port, because a connection was closed. A broker that shuts
    /// down closes connections, too. A broker that closed a connection because the token had expired may disconnect
    /// again during the next authentication. So a guess counts only until the client has connected for the first time.
    pub(super) fn is_guess(&self) -> bool {
        matches!(
            self,
            Trouble::TlsPort | Trouble::PlaintextPort | Trouble::SaslPort | Trouble::NoSasl
        )
    }
}

/// Converts librdkafka's report of a failed connection; `None` if it is not about TLS or SASL.
pub(super) fn of(report: &str) -> Option<Trouble> {
    let has = |text: &str| report.contains(text);
    if let Some(why) = after(report, NO_TOKEN) {
        return Some(Trouble::NoToken(why.to_owned()));
    }
    // A report of a failed SASL handshake is about SASL only if it has one of the following texts. Otherwise the
    // connection broke.
    if has("Unsupported SASL mechanism") {
        let known = after(report, "supported mechanisms: ").unwrap_or_default();
        return Some(Trouble::Mechanism(known.replace(',', ", ")));
    }
    if has("not valid in current SASL state") {
        return Some(Trouble::NoSasl);
    }
    if has("SASL authentication error") || has("SASL authentication failure") {
        return Some(sasl(report));
    }
    if is_tls_record(report) {
        return Some(Trouble::TlsPort);
    }
    if let Some(closed) = closed(report) {
        return Some(closed);
    }
    if let Some(alert) = alert(report) {
        return Some(alert);
    }
    handshake(report)
}

/// Converts the report of a failed SASL authentication.
fn sasl(report: &str) -> Trouble {
    let why = [
        "SASL authentication error: ",
        "SASL authentication failure: ",
    ]
    .iter()
    .find_map(|start| after(report, start))
    .unwrap_or(report);
    let is_token = ["OAUTHBEARER", "invalid_token", "token", "\"status\""];
    if is_token.iter().any(|word| why.contains(word)) {
        return Trouble::Token(why.to_owned());
    }
    let is_password = [
        "invalid credentials",
        "Authentication failed",
        "nvalid username",
    ];
    match is_password.iter().any(|words| why.contains(words)) {
        true => Trouble::Credentials,
        false => Trouble::Sasl(why.to_owned()),
    }
}

/// Converts the TLS alert that the broker sent, if the report contains one. Kafka sends `certificate unknown` for most
/// client certificates that it refuses.
fn alert(report: &str) -> Option<Trouble> {
    let alert = report.split("alert ").nth(1)?;
    if !report.contains("SSL") && !report.contains("ssl") {
        return None;
    }
    let is = |names: &[&str]| names.iter().any(|name| alert.starts_with(name));
    // Brokers use Java's TLS, which sends `bad certificate` even to a client without a certificate.
    Some(if is(&["certificate required", "bad certificate"]) {
        Trouble::NoClientCertificate
    } else if is(&["certificate expired"]) {
        Trouble::ExpiredClientCertificate
    } else if is(&["certificate", "unknown ca", "unsupported certificate"]) {
        Trouble::ClientCertificate
    } else {
        Trouble::Handshake(format!("alert {}", first_words(alert)))
    })
}

/// Converts the report of a TLS handshake that failed without an alert of the broker.
fn handshake(report: &str) -> Option<Trouble> {
    if report.contains("certificate verify failed") {
        return Some(Trouble::Certificate);
    }
    let why = after(report, "SSL handshake failed: ")?;
    let has = |text: &str| why.contains(text);
    let plaintext = [
        "PLAINTEXT broker listener",
        "wrong version number",
        "packet length too long",
        "record layer failure",
    ];
    if plaintext.iter().any(|text| has(text)) {
        return Some(Trouble::PlaintextPort);
    }
    if has("client SSL authentication might be required") {
        return Some(Trouble::NoClientCertificate);
    }
    // A connection that breaks during the handshake is a failure of the network, not of TLS.
    (!has("Disconnected") && !has("SSL transport error"))
        .then(|| Trouble::Handshake(first_words(why).to_owned()))
}

/// Converts the report of a connection that the broker closed. The state of the connection shows the reason.
fn closed(report: &str) -> Option<Trouble> {
    let (what, when) = report.split_once(" (after ")?;
    let protocol = what.split_once("://").map_or("", |(protocol, _)| protocol);
    let (ms, state) = when.split_once("ms in state ")?;
    let is_disconnected = what.contains(": Disconnected");
    let soon = ms.parse::<u32>().is_ok_and(|ms| ms < LOGIN_MS);
    if is_disconnected && state.starts_with("APIVERSION_QUERY") && !protocol.ends_with("ssl") {
        return Some(Trouble::TlsPort);
    }
    let anonymous = !protocol.starts_with("sasl");
    (is_disconnected && soon && anonymous && state.starts_with("UP")).then_some(Trouble::SaslPort)
}

/// Returns whether librdkafka has read the start of a TLS record as the length of a response: an alert (21) of version
/// 3.
fn is_tls_record(report: &str) -> bool {
    let length = after(report, "Invalid response size ");
    let length = length.and_then(|text| text.split(' ').next()?.parse::<u32>().ok());
    length.is_some_and(|length| length >> 16 == 0x1503)
}

/// Returns the text after `start`, without the duration of the state, which librdkafka appends in parentheses.
fn after<'a>(report: &'a str, start: &str) -> Option<&'a str> {
    let (_, rest) = report.split_once(start)?;
    let rest = rest.split(" (after ").next().unwrap_or(rest);
    Some(rest.trim())
}

/// Returns the text up to the hint in parentheses that librdkafka adds.
fn first_words(text: &str) -> &str {
    let end = text.find(" (").unwrap_or(text.len());
    text[..end].trim()
}

/// Returns the broker at the start of a report, as `host:port`. librdkafka writes a protocol before the address and the
/// broker's id after it, or only `TxnCoordinator: ` before it.
pub(super) fn broker(report: &str) -> Option<&str> {
    let mut parts = report.split(": ");
    let about = parts.next()?;
    let about = about.split_once("://").map_or(about, |(_, about)| about);
    let address = match about.rsplit_once('/') {
        Some((address, _)) => address,
        None if about.ends_with("Coordinator") => parts.next()?,
        None => return None,
    };
    let (host, port) = address.rsplit_once(':')?;
    let is_address = !host.contains(' ') && port.parse::<u16>().is_ok();
    is_address.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_librdkafka_are_converted_to_causes() {
        for (report, expected) in [
            (
                "ssl://localhost:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified, verify that ssl.ca.location is correctly configured or root CA certificates are installed (install ca-certificates package) (after 5ms in state SSL_HANDSHAKE)",
                Trouble::Certificate,
            ),
            (
                "sasl_ssl://127.0.0.1:9093/bootstrap: error:0A000086:SSL routines::certificate verify failed (after 4ms in state SSL_HANDSHAKE)",
                Trouble::Certificate,
            ),
            (
                "ssl://localhost:9092/bootstrap: SSL handshake failed: Disconnected: connection closed by peer: connecting to a PLAINTEXT broker listener? (after 1ms in state SSL_HANDSHAKE)",
                Trouble::PlaintextPort,
            ),
            (
                "ssl://localhost:8080/bootstrap: SSL handshake failed: error:0A00010B:SSL routines::wrong version number (after 1ms in state SSL_HANDSHAKE)",
                Trouble::PlaintextPort,
            ),
            (
                "localhost:9093/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 3ms in state APIVERSION_QUERY, 1 identical error(s) suppressed)",
                Trouble::TlsPort,
            ),
            (
                "localhost:9093/bootstrap: Receive failed: Invalid response size 352518912 (0..100000000): increase receive.message.max.bytes (after 3ms in state APIVERSION_QUERY)",
                Trouble::TlsPort,
            ),
            (
                "ssl://localhost:9094/1: Disconnected: SSL connection closed by peer (after 1ms in state UP)",
                Trouble::SaslPort,
            ),
            (
                "sasl_ssl://localhost:9093/bootstrap: SASL authentication error: Authentication failed during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-256 (after 310ms in state AUTH_REQ)",
                Trouble::Credentials,
            ),
            (
                "sasl_ssl://localhost:9093/bootstrap: SASL authentication error: Authentication failed: Invalid username or password (after 310ms in state AUTH_REQ)",
                Trouble::Credentials,
            ),
            (
                "sasl_ssl://localhost:9093/bootstrap: SASL authentication error: {\"status\":\"invalid_token\"} (after 31ms in state AUTH_REQ)",
                Trouble::Token("{\"status\":\"invalid_token\"}".to_owned()),
            ),
            (
                "sasl_ssl://localhost:9093/bootstrap: SASL SCRAM-SHA-512 mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: PLAIN,OAUTHBEARER (after 3ms in state AUTH_HANDSHAKE)",
                Trouble::Mechanism("PLAIN, OAUTHBEARER".to_owned()),
            ),
            (
                "sasl_plaintext://localhost:9092/bootstrap: SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state: broker's supported mechanisms:  (after 3ms in state AUTH_HANDSHAKE)",
                Trouble::NoSasl,
            ),
            (
                "ssl://localhost:9093/bootstrap: Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: SSL alert number 116 (after 2ms in state APIVERSION_QUERY)",
                Trouble::NoClientCertificate,
            ),
            (
                "ssl://localhost:9093/bootstrap: Receive failed: ssl/record/rec_layer_s3.c:918:ssl3_read_bytes error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42 (after 0ms in state APIVERSION_QUERY)",
                Trouble::NoClientCertificate,
            ),
            (
                "ssl://localhost:9093/bootstrap: SSL handshake failed: error:0A000416:SSL routines::ssl/tls alert certificate unknown: SSL alert number 46 (after 2ms in state SSL_HANDSHAKE)",
                Trouble::ClientCertificate,
            ),
            (
                "ssl://localhost:9093/bootstrap: Receive failed: error:0A000415:SSL routines::ssl/tls alert certificate expired: SSL alert number 45 (after 2ms in state APIVERSION_QUERY)",
                Trouble::ExpiredClientCertificate,
            ),
            (
                "Failed to acquire SASL OAUTHBEARER token: the token endpoint auth.example does not answer",
                Trouble::NoToken("the token endpoint auth.example does not answer".to_owned()),
            ),
        ] {
            assert_eq!(of(report), Some(expected), "{report}");
        }
    }

    #[test]
    fn the_network_s_troubles_are_not_about_tls() {
        for report in [
            "localhost:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)",
            "ssl://h:9093/1: Failed to resolve 'h:9093': Name or service not known",
            "ssl://h:9093/1: SSL handshake failed: Disconnected: connection reset by peer (after 9ms in state SSL_HANDSHAKE)",
            "h:9092/1: Disconnected (after 60001ms in state UP)",
            "sasl_ssl://h:9092/1: Disconnected (after 10ms in state UP)",
            "ssl://h:9092/1: Disconnected (after 10ms in state APIVERSION_QUERY)",
            "h:9092/1: Receive failed: Invalid response size 1234567890 (0..100000000): increase receive.message.max.bytes",
            "sasl_ssl://h:9093/1: SASL OAUTHBEARER mechanism handshake failed: Local: Broker transport failure: broker's supported mechanisms: (n/a)",
            "no response within 8s",
        ] {
            assert_eq!(of(report), None, "{report}");
        }
    }

    #[test]
    fn a_sentence_names_what_to_set() {
        for (trouble, names) in [
            (Trouble::UntrustedCertificate, "ssl.ca.location"),
            (Trouble::Credentials, "sasl.password"),
            (Trouble::TlsPort, "security.protocol"),
            (Trouble::NoClientCertificate, "ssl.certificate.location"),
            (Trouble::Mechanism("PLAIN".to_owned()), "PLAIN"),
        ] {
            let sentence = trouble.to_string();
            assert!(sentence.contains(names), "{sentence}");
        }
    }

    #[test]
    fn a_report_names_its_broker() {
        for (report, expected) in [
            ("sasl_ssl://h:9093/bootstrap: SASL", Some("h:9093")),
            ("h:9092/1: Disconnected", Some("h:9092")),
            ("sasl_ssl://TxnCoordinator: h:9093: SASL", Some("h:9093")),
            ("ssl://[::1]:9093/7: no", Some("[::1]:9093")),
            (
                "Failed to acquire SASL OAUTHBEARER token: https://a/b",
                None,
            ),
            ("no response within 8s", None),
        ] {
            assert_eq!(broker(report), expected, "{report}");
        }
    }
}
