//! A Kafka with TLS, authentication and ACLs, and the configuration of its clients.
//!
//! ```text
//!  PLAINTEXT   the test itself: a super user
//!  SASL_SSL    PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER
//!  SSL         a client certificate, whose common name is the principal
//!  MISNAMED    as SASL_SSL, with a certificate for another host
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    authority::{Authority, Certificate},
    kafka::Broker,
    key_sets::{Signer, key_set},
    supervised::free_addresses,
    tokens::{AUDIENCE, ISSUER, TokenEndpoint},
};

/// The principals: one for each role that `emostream topics check` names.
pub const ROLES: [&str; 7] = [
    "ingest",
    "dataflow",
    "publisher",
    "up",
    "inspect",
    "reset",
    "topics",
];

/// Returns a principal's password for PLAIN and SCRAM, which is also its secret at the token endpoint.
pub fn secret(role: &str) -> String {
    format!("hunter2-of-{role}")
}

/// The authentication mechanism of a client.
pub enum Login<'a> {
    Plain,
    Scram256,
    Scram512,
    Certificate,
    Token(&'a TokenEndpoint),
}

pub struct SecuredKafka {
    pub broker: Broker,
    pub authority: Authority,
    home: TempDir,
    signer: Arc<Signer>,
    sasl: String,
    ssl: String,
    /// `host:port` of the listener that has a certificate of another host.
    pub misnamed: String,
}

impl SecuredKafka {
    /// Returns the broker that concurrent tests share, since the start of a broker takes seconds.
    pub fn shared() -> Arc<SecuredKafka> {
        static SHARED: Mutex<Weak<SecuredKafka>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let kafka = Arc::new(SecuredKafka::start());
            *shared = Arc::downgrade(&kafka);
            kafka
        })
    }

    fn start() -> SecuredKafka {
        let home = tempfile::tempdir().unwrap();
        let (authority, signer) = (
            Authority::new("the test's authority"),
            Arc::new(Signer::new("k1")),
        );
        let dir = home.path();
        authority
            .certificate("broker", &["127.0.0.1"])
            .save(&dir.join("broker.pem"));
        authority
            .certificate("broker", &["kafka.test"])
            .save(&dir.join("misnamed.pem"));
        fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
        fs::write(dir.join("keys.json"), key_set(&[&signer])).unwrap();
        let settings = dir.join("settings");
        fs::write(&settings, broker_settings(dir)).unwrap();
        let [sasl, ssl, misnamed] = free_addresses(3).try_into().unwrap();
        let listener = |name: &str, address: &str| {
            let port = address.rsplit_once(':').unwrap().1;
            format!("{name}:{port}:{port}")
        };
        let listeners = [
            listener("SASL_SSL", &sasl),
            listener("SSL", &ssl),
            listener("MISNAMED", &misnamed),
        ];
        let environment = [
            ("KAFKA_LISTENERS", listeners.join(" ")),
            ("KAFKA_SETTINGS", settings.to_str().unwrap().to_owned()),
            ("KAFKA_FORMAT", scram_users()),
        ];
        SecuredKafka {
            broker: Broker::start_in(&environment),
            authority,
            home,
            signer,
            sasl,
            ssl,
            misnamed,
        }
    }

    /// Starts an endpoint that issues tokens, which the broker accepts for `life`.
    pub fn token_endpoint(&self, life: Duration) -> TokenEndpoint {
        let certificate = self.authority.certificate("token endpoint", &["127.0.0.1"]);
        TokenEndpoint::start(self.signer.clone(), &certificate, life)
    }

    /// Returns a client that authenticates as `role`. Its files are in `dir`.
    pub fn client(&self, dir: &Path, role: &str, login: &Login<'_>) -> Client {
        let ca = self.home.path().join("ca.pem");
        let mut client = Client {
            brokers: self.sasl.clone(),
            properties: Vec::new(),
            file: dir.join(format!("{role}.properties")),
        };
        client.set("ssl.ca.location", ca.to_str().unwrap());
        let mechanism = match login {
            Login::Plain => "PLAIN",
            Login::Scram256 => "SCRAM-SHA-256",
            Login::Scram512 => "SCRAM-SHA-512",
            Login::Token(_) => "OAUTHBEARER",
            Login::Certificate => {
                client.brokers = self.ssl.clone();
                client.set("security.protocol", "SSL");
                let certificate = self.authority.certificate(role, &[]);
                return client.with_certificate(&dir.join(format!("{role}.pem")), &certificate);
            }
        };
        client.set("security.protocol", "SASL_SSL");
        client.set("sasl.mechanism", mechanism);
        match login {
            Login::Token(endpoint) => {
                client.set("sasl.oauthbearer.method", "oidc");
                client.set("sasl.oauthbearer.token.endpoint.url", &endpoint.url());
                client.set("sasl.oauthbearer.client.id", role);
                client.set("sasl.oauthbearer.client.secret", &secret(role));
                client.set("sasl.oauthbearer.scope", super::tokens::SCOPE);
                client.set("https.ca.location", ca.to_str().unwrap());
            }
            _ => {
                client.set("sasl.username", role);
                client.set("sasl.password", &secret(role));
            }
        }
        client
    }
}

/// The brokers and the properties file of a process.
#[derive(Clone)]
pub struct Client {
    pub brokers: String,
    properties: Vec<(String, String)>,
    file: PathBuf,
}

impl Client {
    /// Sets a property, or replaces it.
    fn set(&mut self, property: &str, value: &str) {
        self.properties.retain(|(known, _)| known != property);
        self.properties
            .push((property.to_owned(), value.to_owned()));
    }

    /// Returns the client with another value of a property.
    pub fn with(mut self, property: &str, value: &str) -> Client {
        self.set(property, value);
        self
    }

    /// Returns the client with another certificate.
    pub fn with_certificate(mut self, file: &Path, certificate: &Certificate) -> Client {
        certificate.save(file);
        for property in ["ssl.certificate.location", "ssl.key.location"] {
            self.set(property, file.to_str().unwrap());
        }
        self
    }

    /// Returns the client with another properties file.
    pub fn in_file(mut self, file: PathBuf) -> Client {
        self.file = file;
        self
    }

    /// Returns the client with other brokers.
    pub fn at(mut self, brokers: &str) -> Client {
        brokers.clone_into(&mut self.brokers);
        self
    }

    /// Writes the client's properties file, and returns the flags that name the brokers and this file.
    pub fn flags(&self) -> [&str; 4] {
        let lines = self.properties.iter();
        let lines = lines.map(|(property, value)| format!("{property}={value}\n"));
        let text = "# Written by a test.\n".to_owned() + &lines.collect::<String>();
        fs::write(&self.file, text).unwrap();
        let file = self.file.to_str().unwrap();
        ["--kafka", &self.brokers, "--kafka-config", file]
    }
}

/// Returns the arguments of `kafka-storage.sh format` that add every role with both SCRAM mechanisms.
fn scram_users() -> String {
    let user = |role: &&str| {
        let secret = secret(role);
        ["SCRAM-SHA-256", "SCRAM-SHA-512"]
            .map(|mechanism| format!("--add-scram {mechanism}=[name={role},password={secret}]"))
            .join(" ")
    };
    ROLES.iter().map(user).collect::<Vec<_>>().join(" ")
}

fn broker_settings(dir: &Path) -> String {
    const MODULES: &str = "org.apache.kafka.common.security";
    let file = |name: &str| dir.join(name).display().to_string();
    let users = ROLES.map(|role| format!(" user_{role}=\"{}\"", secret(role)));
    let users = users.concat();
    let sasl = ["sasl_ssl", "misnamed"].map(|listener| {
        format!(
            "\
listener.name.{listener}.plain.sasl.jaas.config={MODULES}.plain.PlainLoginModule required{users};
listener.name.{listener}.scram-sha-256.sasl.jaas.config={MODULES}.scram.ScramLoginModule required;
listener.name.{listener}.scram-sha-512.sasl.jaas.config={MODULES}.scram.ScramLoginModule required;
listener.name.{listener}.oauthbearer.sasl.jaas.config={MODULES}.oauthbearer.OAuthBearerLoginModule required;
listener.name.{listener}.oauthbearer.sasl.server.callback.handler.class={MODULES}.oauthbearer.OAuthBearerValidatorCallbackHandler
"
        )
    });
    format!(
        "\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
{}\
sasl.oauthbearer.jwks.endpoint.url=file://{}
sasl.oauthbearer.expected.audience={AUDIENCE}
sasl.oauthbearer.expected.issuer={ISSUER}
# A connection ends with the token that opened it, unless the client sends another one in time.
connections.max.reauth.ms=3600000
ssl.keystore.type=PEM
ssl.keystore.location={}
ssl.truststore.type=PEM
ssl.truststore.location={}
listener.name.misnamed.ssl.keystore.type=PEM
listener.name.misnamed.ssl.keystore.location={}
listener.name.ssl.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^CN=([^,]*)$/$1/
",
        sasl.concat(),
        file("keys.json"),
        file("broker.pem"),
        file("ca.pem"),
        file("misnamed.pem"),
    )
}
