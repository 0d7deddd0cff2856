//! A site: the folder, the port and the variables of one node, over all its lives.
//!
//! A node is configured by `FEATUREOPS_*` variables, its exporters by `OTEL_*` too. Those of the test run itself are taken
//! away from it, so that a developer's own settings never reach a test.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::chance::Chance;
use crate::client::Client;
use crate::line::{COMMAND_PATIENCE, within};
use crate::{binary, http, namespaces};

/// Longest wait for a node to be ready or to end: generous, since a test machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(15);

/// Where a node lives.
#[derive(Debug)]
pub struct Site {
    folder: Option<TempDir>,
    /// The node's data folder.
    pub data: PathBuf,
    /// Its port, the same in every life.
    pub port: u16,
    variables: Vec<(OsString, OsString)>,
    file_blocks_max: Option<u64>,
    namespace: Option<PathBuf>,
}

/// A process that ended instead of serving.
#[derive(Debug, Clone)]
pub struct Ended {
    /// How; nothing when it was still there after [`PATIENCE`], and had to be killed.
    pub status: Option<ExitStatus>,
    /// The last of what it wrote.
    pub output: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status}: {}", self.output.trim()),
            None => write!(f, "neither ready nor ended after {PATIENCE:?}: {}", self.output.trim()),
        }
    }
}

/// A port nobody listens on now, from below those that the system gives to outgoing connections. One of those could be
/// taken by a client that tries to reach the node between two of its lives, even by connecting to itself.
fn free_port() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let own = u64::from(std::process::id()) << 16;
    for _ in 0..1_000 {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(10_000 + Chance::new(own + turn).below(20_000)).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("a thousand ports are taken");
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// An empty site.
    ///
    /// # Panics
    /// There is no room for a temporary folder.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("featureops-site-").tempdir().unwrap();
        let data = folder.path().join("data");
        Self {
            folder: Some(folder),
            data,
            port: free_port(),
            variables: Vec::new(),
            file_blocks_max: None,
            namespace: None,
        }
    }

    /// Sets a variable of the node's process.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.set(name, value);
        self
    }

    /// Sets a variable for the lives to come.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.retain(|(held, _)| held != name);
        self.variables.push((name.into(), value.into()));
    }

    /// Takes a variable away for the lives to come.
    pub fn unset(&mut self, name: &str) {
        self.variables.retain(|(held, _)| held != name);
    }

    /// Bounds the length of the files that the node writes in the lives to come, in blocks of 512 bytes: the unit
    /// of `ulimit -f` in any `sh`, also where that is bash, which by its own name has blocks of 1,024.
    pub fn limit_files(&mut self, blocks_max: Option<u64>) {
        self.file_blocks_max = blocks_max;
    }

    /// A variable of the lives to come.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_os_str())
    }

    /// Puts the lives to come into another network: the one that this file of the system stands for.
    pub fn place(&mut self, namespace: PathBuf) {
        self.namespace = Some(namespace);
    }

    /// A place beside the data folder that goes away with the site.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn path(&self) -> &Path {
        // Gone only while this value is being dropped.
        self.folder.as_ref().unwrap().path()
    }

    /// A client of the node, whichever life it is in.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// Runs the command line against the node, and gives what it printed.
    ///
    /// # Errors
    /// It failed; the text is what it wrote.
    ///
    /// # Panics
    /// The binary cannot be run.
    pub fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let server = format!("http://127.0.0.1:{}", self.port);
        let mut command = self.command();
        command.args(arguments).args(["--server", &server]);
        let ended = within(command, COMMAND_PATIENCE);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if ended.status.success() { Ok(text(&ended.stdout)) } else { Err(text(&ended.stderr)) }
    }

    /// A port that is free now, for what the node listens on besides.
    #[must_use]
    pub fn another_port() -> u16 {
        free_port()
    }

    /// The process of a command line, with the site's variables and none of the test run's.
    #[must_use]
    pub fn command(&self) -> Command {
        self.own(Command::new(binary::featureops()))
    }

    /// Any process, with the site's variables and none of the test run's.
    #[must_use]
    pub fn own(&self, mut command: Command) -> Command {
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("FEATUREOPS_") || text.starts_with("OTEL_") {
                command.env_remove(&name);
            }
        }
        // No configuration file of the person who runs the test either.
        command.env("HOME", self.path()).env_remove("XDG_CONFIG_HOME").stdin(Stdio::null());
        command
    }

    /// Starts the node and waits until it is ready.
    ///
    /// # Errors
    /// It ended, or it hangs.
    ///
    /// # Panics
    /// The binary cannot be run.
    pub async fn start(&self) -> Result<Node, Ended> {
        self.begin("/readyz").await
    }

    /// Starts the node and waits until it answers, ready or not.
    ///
    /// # Errors
    /// It ended, or it hangs.
    ///
    /// # Panics
    /// The binary cannot be run.
    pub async fn start_unready(&self) -> Result<Node, Ended> {
        self.begin("/livez").await
    }

    async fn begin(&self, until: &str) -> Result<Node, Ended> {
        let log = self.beside("node.log");
        let output = File::create(&log).unwrap();
        let mut command = match self.file_blocks_max {
            None => self.command(),
            Some(blocks) => {
                let mut shell = Command::new("sh");
                shell
                    .arg("-c")
                    .arg(format!("ulimit -f {blocks} && exec \"$0\" \"$@\""))
                    .arg(binary::featureops());
                self.own(shell)
            }
        };
        command
            .arg("serve")
            .env("FEATUREOPS_DATA", &self.data)
            .env("FEATUREOPS_LISTEN", format!("127.0.0.1:{}", self.port))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let child = match &self.namespace {
            None => command.spawn(),
            Some(namespace) => namespaces::within(namespace, || command.spawn()),
        };
        let mut node = Node { child: child.unwrap(), log };
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = node.child.try_wait().unwrap() {
                return Err(Ended { status: Some(status), output: node.output() });
            }
            if let Ok(answer) = http::get(self.port, until).await
                && answer.status == 200
            {
                return Ok(node);
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Ended { status: None, output: node.output() })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A failed test leaves its folders: they are the reproduction.
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            println!("kept: {}", folder.keep().display());
        }
    }
}

/// A running process. It is killed when this value goes.
#[derive(Debug)]
pub struct Node {
    child: Child,
    log: PathBuf,
}

impl Node {
    /// What it has written, the last 16 KiB of it.
    #[must_use]
    pub fn output(&self) -> String {
        tail(&self.log)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// The system does not say.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Holds it still, or lets it go on: what it was about to do it does then, as if no time had passed.
    ///
    /// # Panics
    /// The signal cannot be sent.
    pub fn hold(&self, still: bool) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(id, if still { Signal::STOP } else { Signal::CONT }).unwrap();
    }

    /// Asks it to read its certificates again (SIGHUP).
    ///
    /// # Panics
    /// The signal cannot be sent.
    pub fn hang_up(&self) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(id, Signal::HUP).unwrap();
    }

    /// Ends it as a power switch would, without a word.
    pub fn kill(self) {
        drop(self);
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// It did not end.
    ///
    /// # Panics
    /// The signal cannot be sent.
    pub async fn drain(mut self) -> Result<ExitStatus, Ended> {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(id, Signal::TERM).unwrap();
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ok(status);
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Ended { status: None, output: self.output() })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(16 << 10)..]).into_owned()
}
