//! A node with 10,000 flags: what it holds in memory, and how long it takes to be ready again after kill -9.
//!
//! The node is a process of its own, this same program, so that the figures are the node's alone. The same process with
//! an empty folder is the limit beside it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use featureops_proto::v1::{
    Condition, EvaluateAllRequest, Flag, Rule, SetFlagRequest, ValueType, condition::Operator, rule::Serve,
};
use prost_types::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Plan;
use super::report::{Bar, Figure};
use super::world::{ENVIRONMENT, connect, context_of, failed, folder, one_of};
use crate::cli::failure::Failure;
use crate::rpc::evaluation_service_client::EvaluationServiceClient;
use crate::rpc::flag_service_client::FlagServiceClient;

const FLAGS: usize = 10_000;
const WRITERS: usize = 128;
const CONNECTIONS: usize = 4;
/// A snapshot on the way, so that the restart reads one and a rest of the log.
const SNAPSHOT_EVERY: usize = 6_000;
/// How long a start may take at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at /readyz.
const LOOK: Duration = Duration::from_millis(2);
const MIB: f64 = 1_048_576.0;

pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Failure> {
    let folder = folder(&plan.data)?;
    let (empty, first_start) = Process::start(folder.path()).await?;
    let empty_bytes = empty.resident_bytes();
    let began = Instant::now();
    fill(empty.address).await?;
    let filled_in = began.elapsed();
    let full_bytes = empty.resident_bytes();
    drop(empty);

    let (again, restart) = Process::start(folder.path()).await?;
    let restarted_bytes = again.resident_bytes();
    let channel = one_of(&connect(again.address, 1).await?, 0)?;
    let request = EvaluateAllRequest {
        environment: ENVIRONMENT.to_owned(),
        context: Some(context_of("unit-1")),
        no_exposure: true,
    };
    let mut client = EvaluationServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let evaluated = client.evaluate_all(request).await.map_err(failed)?.into_inner().evaluations.len();
    if evaluated != FLAGS {
        return Err(Failure::internal(format!("{evaluated} of {FLAGS} flags are there after the restart")));
    }
    let used_bytes = again.resident_bytes();
    drop(again);

    let mib = |bytes: u64| bytes as f64 / MIB;
    Ok(vec![
        Figure::new("memory, 10,000 flags", "MiB", mib(used_bytes))
            .limit("the empty node", mib(empty_bytes))
            .bar(Bar::AtMost(150.0))
            .note(format!(
                "resident after the restart and an evaluation of all flags; {:.0} MiB when ready, {:.0} MiB in the life \
                 that wrote them ({:.0} flags/s)",
                mib(restarted_bytes),
                mib(full_bytes),
                FLAGS as f64 / filled_in.as_secs_f64()
            )),
        Figure::new("start to ready, 10,000 flags", "s", restart.as_secs_f64())
            .limit("the empty node", first_start.as_secs_f64())
            .bar(Bar::AtMost(2.0))
            .note(format!("after kill -9, from a snapshot at {SNAPSHOT_EVERY} entries and the log behind it")),
    ])
}

/// A node of its own, killed with this value.
pub(super) struct Process {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts a node on `data`; the time runs until it is ready.
    async fn start(data: &Path) -> Result<(Self, Duration), Failure> {
        Self::start_with(data, &[]).await
    }

    /// The same with further arguments.
    pub(super) async fn start_with(data: &Path, more: &[String]) -> Result<(Self, Duration), Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::internal(format!("this program is not found: {error}")))?;
        let began = Instant::now();
        let mut child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(["--set", "log_filter=error", "--set"])
            .arg(format!("snapshot_every_entries={SNAPSHOT_EVERY}"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Failure::internal(format!("the node did not start: {error}")))?;
        let stdout = child.stdout.take();
        // From here on a failure ends the child.
        let mut process = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            if let Some(stdout) = stdout {
                // The pipe stays with this call; the node says nothing after its first line.
                let _ = BufReader::new(stdout).read_line(&mut line);
            }
            line
        });
        let line = tokio::time::timeout(PATIENCE, line).await.ok().and_then(Result::ok).unwrap_or_default();
        let address = line.split_once("http://").and_then(|(_, rest)| rest.split(',').next());
        process.address = address.and_then(|address| address.trim().parse().ok()).ok_or_else(|| {
            Failure::internal(format!("the node did not say where it serves: '{}'", line.trim()))
        })?;
        while !ready(process.address).await {
            if began.elapsed() > PATIENCE {
                return Err(Failure::internal(format!("the node was not ready within {PATIENCE:?}")));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok((process, began.elapsed()))
    }

    /// Memory that the process holds.
    fn resident_bytes(&self) -> u64 {
        std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .ok()
            .and_then(|text| {
                let line = text.lines().find(|line| line.starts_with("VmRSS:"))?.to_owned();
                line.split_whitespace().nth(1)?.parse::<u64>().ok()
            })
            .map_or(0, |kibibytes| kibibytes.saturating_mul(1_024))
    }
}

/// What `/readyz` says.
async fn ready(address: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    matches!(tokio::time::timeout(Duration::from_secs(5), asked).await, Ok(Ok(answer)) if answer.ends_with(b" 200"))
}

/// Writes the flags.
async fn fill(address: SocketAddr) -> Result<(), Failure> {
    let channels = connect(address, CONNECTIONS).await?;
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let mut client = FlagServiceClient::new(one_of(&channels, writer)?);
        tasks.spawn(async move {
            for number in (writer..FLAGS).step_by(WRITERS) {
                let request = SetFlagRequest { flag: Some(flag(number)), ..SetFlagRequest::default() };
                client.set_flag(request).await?;
            }
            Ok(())
        });
    }
    while let Some(joined) = tasks.join_next().await {
        let task: Result<(), tonic::Status> = joined.map_err(|error| Failure::internal(error.to_string()))?;
        task.map_err(failed)?;
    }
    Ok(())
}

/// A flag as services have them: three variants, a rule, a description.
fn flag(number: usize) -> Flag {
    let rule = Rule {
        id: "large-accounts".to_owned(),
        conditions: vec![
            Condition {
                attribute: "country".to_owned(),
                operator: Operator::In.into(),
                values: ["DE", "FR", "NL"].map(Value::from).to_vec(),
            },
            Condition {
                attribute: "plan".to_owned(),
                operator: Operator::Equals.into(),
                values: vec!["enterprise".into()],
            },
        ],
        serve: Some(Serve::Variant("new".to_owned())),
    };
    Flag {
        name: format!("{ENVIRONMENT}/flags/service-{}-feature-{number}", number % 100),
        r#type: ValueType::String.into(),
        variants: ["old", "new", "newest"].map(|variant| (variant.to_owned(), variant.into())).into(),
        default_variant: Some("old".to_owned()),
        safe_variant: Some("old".to_owned()),
        rules: vec![rule],
        description: format!("feature {number} of a service, shown to large accounts first"),
        owner: "team-checkout".to_owned(),
        tags: vec!["checkout".to_owned(), "2026".to_owned()],
        ..Flag::default()
    }
}
