//! The command line against one site's node: what it prints, and how it ends.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::site::Site;

/// Longest time of one command; the whole of it ends with it.
pub const COMMAND_PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// Runs a process to its end and hands over what it printed.
///
/// # Panics
/// It cannot be run, or does not end in time; then it is killed.
#[must_use]
pub fn within(mut command: Command, patience: Duration) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Read beside: a full pipe would hold the process up.
    fn read(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            bytes
        })
    }
    let (out, err) = (read(child.stdout.take().unwrap()), read(child.stderr.take().unwrap()));
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > patience {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} did not end within {patience:?}");
        }
        std::thread::sleep(POLL);
    };
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

/// Commands to the node of a site.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a>(pub &'a Site);

impl Line<'_> {
    /// Runs a command to its end, whatever that is.
    ///
    /// # Panics
    /// The binary cannot be run.
    #[must_use]
    pub fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Output {
        let server = format!("127.0.0.1:{}", self.0.port);
        let mut command = self.0.command();
        command.args(["--server", &server]).args(arguments);
        within(command, COMMAND_PATIENCE)
    }

    /// Standard output and standard error of a command that has to end so. One that fails says why, in words for people.
    fn both(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let ended = self.run(arguments);
        let (out, err) = (text(&ended.stdout), text(&ended.stderr));
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
        if code != 0 {
            assert!(err.starts_with("error: "), "{arguments:?}: {err}");
            assert!(!err.contains("Status {") && !err.contains("panicked"), "{arguments:?}: {err}");
        }
        (out, err)
    }

    /// Runs to the exit code expected, and hands over standard output.
    ///
    /// # Panics
    /// It ends otherwise, or without a clear word.
    pub fn ends(&self, code: i32, arguments: &[&str]) -> String {
        self.both(code, arguments).0
    }

    /// Runs to the exit code expected and finds the word in what was printed.
    ///
    /// # Panics
    /// It ends otherwise, or the word is not there.
    pub fn says(&self, code: i32, word: &str, arguments: &[&str]) {
        let (out, err) = self.both(code, arguments);
        assert!(out.contains(word) || err.contains(word), "{arguments:?}: no '{word}' in\n{out}\n{err}");
    }

    /// Runs with `-o json` to the exit code expected, and reads what was printed.
    ///
    /// # Panics
    /// It ends otherwise, or prints no JSON.
    #[must_use]
    pub fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let out = self.ends(code, &[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{out}"))
    }

    /// Writes a file beside the node's folder; its name for a command.
    ///
    /// # Panics
    /// There is no room.
    #[must_use]
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.beside(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// What a process printed.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
