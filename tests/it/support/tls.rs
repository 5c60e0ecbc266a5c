//! Certificates made for one test, as PEM files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// The files of one authority and of what it signed. They exist as long as any clone of this.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) ca: PathBuf,
    pub(crate) server_cert: PathBuf,
    pub(crate) server_key: PathBuf,
    pub(crate) client_cert: PathBuf,
    pub(crate) client_key: PathBuf,
    /// The certificate of an authority that signed none of the others.
    pub(crate) other_ca: PathBuf,
    _dir: Arc<TempDir>,
}

impl TlsFiles {
    /// Makes a server certificate for the names under which the tests reach a server.
    pub(crate) fn for_localhost() -> Self {
        Self::for_names(&["localhost", "127.0.0.1"])
    }

    /// Makes a server certificate for `redis.example.internal` alone: right authority, wrong name.
    pub(crate) fn for_another_name() -> Self {
        Self::for_names(&["redis.example.internal"])
    }

    fn for_names(names: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("it-tls-").tempdir().expect("the temp dir is writable");
        let ca = authority("the test's authority");
        let other_ca = authority("another authority");
        let (server_cert, server_key) = signed(&ca, names, ExtendedKeyUsagePurpose::ServerAuth);
        let (client_cert, client_key) = signed(&ca, &["client"], ExtendedKeyUsagePurpose::ClientAuth);
        Self {
            ca: written(dir.path(), "ca.pem", &ca.pem()),
            server_cert: written(dir.path(), "server.pem", &server_cert),
            server_key: written(dir.path(), "server.key", &server_key),
            client_cert: written(dir.path(), "client.pem", &client_cert),
            client_key: written(dir.path(), "client.key", &client_key),
            other_ca: written(dir.path(), "other-ca.pem", &other_ca.pem()),
            _dir: Arc::new(dir),
        }
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key can be made");
    CertifiedIssuer::self_signed(params, key).expect("an authority can sign itself")
}

/// Returns a certificate and its key.
fn signed(
    ca: &CertifiedIssuer<'_, KeyPair>,
    names: &[&str],
    usage: ExtendedKeyUsagePurpose,
) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("the names are plain");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().expect("a key can be made");
    let cert = params.signed_by(&key, ca).expect("the authority can sign");
    (cert.pem(), key.serialize_pem())
}

fn written(dir: &Path, name: &str, pem: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, pem).expect("the temp dir is writable");
    path
}
