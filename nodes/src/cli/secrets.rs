//! What a client proves itself with: a token, and certificates. Nothing here prints itself.

use std::fmt;
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::failure::Failure;
use super::settings::read_bounded;

/// Largest file with a token.
const TOKEN_FILE_BYTES_MAX: u64 = 4_096;
/// Largest file with certificates: a system's bundle has a quarter of it.
const PEM_BYTES_MAX: u64 = 4 << 20;
/// Where systems keep the authorities that they trust.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Of its text.
    ///
    /// # Errors
    /// It has no form that could be sent. It is not shown.
    pub fn read(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::usage(
                "the token is empty or no token: it looks like fo_0123456789abcdef_...",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// Of the text in a file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no token.
    pub fn of_file(path: &Path) -> Result<Self, Failure> {
        let text = read_bounded(path, TOKEN_FILE_BYTES_MAX)
            .map_err(|error| Failure::usage(format!("token file {}: {error}", path.display())))?;
        Self::read(&text)
    }

    /// As it is sent.
    ///
    /// # Errors
    /// It cannot be.
    pub fn bearer(&self) -> Result<MetadataValue<Ascii>, Failure> {
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {}", self.0).parse().map_err(|_| Failure::usage("the token cannot be sent"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What a server behind TLS is trusted by, and what it may be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    authorities: String,
    own: Option<(String, String)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl Tls {
    /// From files: the authority's (else the system's), one's own certificate and its key.
    ///
    /// # Errors
    /// One cannot be read, or one of two is missing.
    pub fn read([ca_cert, client_cert, client_key]: [Option<PathBuf>; 3]) -> Result<Self, Failure> {
        let text = |option: &str, path: &Path| {
            read_bounded(path, PEM_BYTES_MAX)
                .map_err(|error| Failure::usage(format!("{option} {}: {error}", path.display())))
        };
        let system = || {
            let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
            named.into_iter().chain(SYSTEM_BUNDLES.map(PathBuf::from)).find(|path| path.is_file())
        };
        let Some(ca_cert) = ca_cert.or_else(system) else {
            return Err(Failure::usage(
                "no authority to trust an https server by: name one with --ca-cert FILE",
            ));
        };
        let own = match (client_cert, client_key) {
            (Some(cert), Some(key)) => Some((text("--client-cert", &cert)?, text("--client-key", &key)?)),
            (None, None) => None,
            _ => return Err(Failure::usage("--client-cert and --client-key go together")),
        };
        Ok(Self { authorities: text("--ca-cert", &ca_cert)?, own })
    }

    /// As the transport takes it.
    #[must_use]
    pub fn config(&self) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.authorities));
        match &self.own {
            None => config,
            Some((cert, key)) => config.identity(Identity::from_pem(cert, key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prints_itself() {
        let token = Token::read(" fo_secret\n").unwrap();
        assert_eq!(format!("{token:?} {:?}", token.bearer().unwrap()), "Token(..) Sensitive");
        for bad in ["", "  ", "a b", "é"] {
            assert!(!Token::read(bad).unwrap_err().render().contains('é'));
        }
    }

    #[test]
    fn what_is_named_must_be_there() {
        let missing = || Some(PathBuf::from("no-such-file"));
        assert!(Tls::read([missing(), None, None]).unwrap_err().render().contains("--ca-cert no-such-file"));
        let half = Tls::read([Some(PathBuf::from("/dev/null")), missing(), None]).unwrap_err();
        assert!(half.render().contains("go together"));
    }
}
