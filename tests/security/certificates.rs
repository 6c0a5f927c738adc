//! A CA and what it signs, made anew for each test.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A certificate with its key, as files.
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Key and certificate in one file, as Kafka wants them.
    pub(crate) both: PathBuf,
}

/// A CA whose certificate is in a file.
pub(crate) struct Authority {
    folder: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed").pem();
        let file = folder.join(format!("{name}.pem"));
        fs::write(&file, certificate).expect("write the CA's certificate");
        let issuer = Issuer::new(params, key);
        Authority { folder: folder.to_owned(), name: name.to_owned(), issuer, certificate: file }
    }

    /// A certificate for these host names.
    pub(crate) fn sign(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let stem = format!("{}-{}", self.name, names.join("-"));
        let mut params = CertificateParams::new(names.clone()).expect("host names");
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("nobody", String::as_str));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").pem();
        let write = |ending: &str, text: &str| {
            let file = self.folder.join(format!("{stem}.{ending}"));
            fs::write(&file, text).expect("write a certificate");
            file
        };
        let key = key.serialize_pem();
        Identity {
            certificate: write("crt", &certificate),
            both: write("both.pem", &format!("{key}{certificate}")),
            key: write("key", &key),
        }
    }
}
