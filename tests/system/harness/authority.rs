//! A certificate authority for tests.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap());
        Authority(issuer.unwrap())
    }

    /// Returns the authority's certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate with the name `name`, for a server at `hosts` or for a client.
    pub fn certificate(&self, name: &str, hosts: &[&str]) -> Certificate {
        self.signed(&named(name, hosts))
    }

    /// Issues a client's certificate that was valid for a day in 2020.
    pub fn expired(&self, name: &str) -> Certificate {
        let mut params = named(name, &[]);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 2);
        self.signed(&params)
    }

    fn signed(&self, params: &CertificateParams) -> Certificate {
        let key = KeyPair::generate().unwrap();
        Certificate {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Certificate {
    /// Writes the key and the certificate into one file, in the form that Kafka's brokers and librdkafka read.
    pub fn save(&self, file: &Path) {
        std::fs::write(file, [&*self.key, &*self.certificate].concat()).unwrap();
    }
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
