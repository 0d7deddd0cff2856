//! Certificates for tests, made by the `openssl` command; where there is none, the stories that need them say so and end.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::line::text;

/// Names that most certificates of tests are of.
const LOCAL: &str = "DNS:localhost,IP:127.0.0.1";

/// Whether certificates can be made here.
#[must_use]
pub fn has_openssl() -> bool {
    let there = Command::new("openssl").arg("version").output().is_ok_and(|ended| ended.status.success());
    if !there {
        println!("skipped: there is no openssl command to make certificates with");
    }
    there
}

/// An authority in a folder of its own, and what it signs.
#[derive(Debug)]
pub struct Authority<'a> {
    folder: &'a Path,
    name: &'static str,
}

impl Authority<'_> {
    fn openssl(&self, arguments: &[&str]) {
        let ended = Command::new("openssl").args(arguments).current_dir(self.folder).output().unwrap();
        assert!(ended.status.success(), "openssl {}: {}", arguments.join(" "), text(&ended.stderr));
    }

    /// A file of its folder.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Makes one.
    ///
    /// # Panics
    /// `openssl` did not do it.
    #[must_use]
    pub fn new<'a>(folder: &'a Path, name: &'static str) -> Authority<'a> {
        let own = Authority { folder, name };
        let (key, cert, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/CN={name}"));
        own.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "400",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &cert,
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ]);
        own
    }

    /// One that was made there before.
    #[must_use]
    pub const fn at<'a>(folder: &'a Path, name: &'static str) -> Authority<'a> {
        Authority { folder, name }
    }

    /// A key of a name and a request for its certificate; the extensions are written beside them.
    fn asked(&self, name: &str, names: &str) {
        std::fs::write(
            self.path(&format!("{name}.ext")),
            format!(
                "subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n"
            ),
        )
        .unwrap();
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &format!("{name}.key"),
            "-out",
            &format!("{name}.csr"),
        ]);
    }

    fn files(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")))
    }

    /// Certificate and key of a name, good for so many days, of this machine.
    ///
    /// # Panics
    /// `openssl` did not do it.
    pub fn sign(&self, name: &str, days: u32) -> (PathBuf, PathBuf) {
        self.sign_for(name, LOCAL, days)
    }

    /// The same of other hosts, as `DNS:node-2,IP:10.0.0.2`.
    ///
    /// # Panics
    /// `openssl` did not do it.
    pub fn sign_for(&self, name: &str, names: &str, days: u32) -> (PathBuf, PathBuf) {
        self.asked(name, names);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &format!("{name}.csr"),
            "-CA",
            &format!("{}.pem", self.name),
            "-CAkey",
            &format!("{}.key", self.name),
            "-CAcreateserial",
            "-days",
            &days.to_string(),
            "-extfile",
            &format!("{name}.ext"),
            "-out",
            &format!("{name}.pem"),
        ]);
        self.files(name)
    }

    /// Certificate and key of a name, of this machine, good from one to another moment, as `20210101000000Z`.
    ///
    /// # Panics
    /// `openssl` did not do it.
    pub fn sign_between(&self, name: &str, from: &str, until: &str) -> (PathBuf, PathBuf) {
        self.asked(name, LOCAL);
        // The one way that every release knows to choose both moments.
        let settings = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n\
                        policy=p\nunique_subject=no\nemail_in_dn=no\n[p]\ncommonName=supplied\n";
        std::fs::write(self.path("ca.cnf"), settings).unwrap();
        std::fs::write(self.path("index.txt"), "").unwrap();
        self.openssl(&[
            "ca",
            "-batch",
            "-notext",
            "-config",
            "ca.cnf",
            "-in",
            &format!("{name}.csr"),
            "-cert",
            &format!("{}.pem", self.name),
            "-keyfile",
            &format!("{}.key", self.name),
            "-startdate",
            from,
            "-enddate",
            until,
            "-extfile",
            &format!("{name}.ext"),
            "-out",
            &format!("{name}.pem"),
        ]);
        self.files(name)
    }
}
