//! The programs under test: where they are, and how they are built when they are not there yet.
//!
//! `FEATUREOPS_BIN` names a binary to test (a release, another machine's build). Otherwise it is the one beside the test
//! executable, `target/<profile>/featureops`, and cargo is asked for it once a process: a stale binary would test the past.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder `target/<profile>` of this test executable, `target/<profile>/deps/<name>-<hash>`.
fn profile_folder() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    executable.ancestors().nth(2).unwrap().to_path_buf()
}

fn cargo(arguments: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The variables of the cargo that runs this test would give the inner one other fingerprints.
    let inherited = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "RUSTFLAGS"
    });
    let mut command = Command::new(cargo);
    for name in inherited {
        command.env_remove(name);
    }
    let ended = command.args(arguments).output().unwrap();
    assert!(
        ended.status.success(),
        "cargo {} failed:\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&ended.stderr)
    );
}

/// The binary `featureops`.
///
/// # Panics
/// It is neither there nor can be built.
pub fn featureops() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Some(named) = std::env::var_os("FEATUREOPS_BIN") {
            let named = PathBuf::from(named);
            assert!(named.is_file(), "FEATUREOPS_BIN={} is no file", named.display());
            return named;
        }
        let folder = profile_folder();
        let target = folder.parent().unwrap().to_str().unwrap().to_owned();
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("Cargo.toml");
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        cargo(&[
            "build",
            "--quiet",
            "--manifest-path",
            manifest.to_str().unwrap(),
            "--package",
            "featureops",
            "--bin",
            "featureops",
            "--profile",
            profile,
            "--target-dir",
            &target,
        ]);
        folder.join("featureops")
    })
}

/// The library that stands between a node and its disk and clock (`tests/mirror`).
///
/// # Panics
/// It cannot be built.
pub fn interposer() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = profile_folder().parent().unwrap().join("mirror");
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/mirror/Cargo.toml");
        cargo(&[
            "build",
            "--quiet",
            "--release",
            "--manifest-path",
            manifest,
            "--target-dir",
            target.to_str().unwrap(),
        ]);
        target.join("release/libfeatureops_mirror.so")
    })
}
