//! The command line, `featureops`.
//!
//! ```text
//! arguments -> Settings (file < environment < flags) -> Session { client, printing } -> one file per command family
//! ```
//!
//! A command family is a file with a clap enum and a `run` that takes the [`Session`]; adding one is a line in [`Command`]
//! and a line in [`dispatch`]. Results go to standard output in the form asked for, progress and errors to standard
//! error, and every way to end has its exit code in [`failure::Exit`]. Nothing here decides anything: what the server
//! would refuse is refused by the server, with `--dry-run` too.

mod alarm;
mod analyze;
mod audit;
mod autonomy;
mod backup;
mod bench;
mod budget;
mod client;
mod cluster;
mod completions;
mod decision;
mod demo;
mod design;
mod doctor;
mod environment;
mod experiment;
mod experiment_ramp;
mod experiment_series;
mod experiment_status;
mod facts;
pub mod failure;
mod flag;
mod layer;
mod listing;
mod metric;
mod page;
mod reading;
mod render;
mod replay;
mod rule;
mod schedule;
mod secrets;
mod segment;
mod serve;
mod session;
mod settings;
mod signals;
mod span;
mod srm;
mod token;
mod trip;
mod unit;
mod upgrade;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use failure::{Exit, Failure};
use session::Session;
use settings::{GlobalArgs, Settings};

/// Feature flags and experiments that optimize themselves, within bounds that people set.
#[derive(Debug, Parser)]
#[command(name = "featureops", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node in this process.
    Serve(Box<serve::ServeArgs>),
    /// See it work: a node in a temporary folder, an experiment that finds its winner, a regression that trips.
    Demo(demo::DemoArgs),
    /// Flags: define, read, explain, revert.
    #[command(subcommand)]
    Flag(flag::FlagCommand),
    /// Environments: what all their flags share.
    #[command(subcommand)]
    Environment(environment::EnvironmentCommand),
    /// Segments: groups of units that many flags ask about.
    #[command(subcommand)]
    Segment(segment::SegmentCommand),
    /// Schedules: changes of a flag at a time to come.
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Metrics: what an outcome means.
    #[command(subcommand)]
    Metric(metric::MetricCommand),
    /// Experiments: arms on a flag, a primary metric, guardrails.
    #[command(subcommand)]
    Experiment(experiment::ExperimentCommand),
    /// Layers: experiments that never share a unit.
    #[command(subcommand)]
    Layer(layer::LayerCommand),
    /// Holdouts: units that are in no experiment.
    #[command(subcommand)]
    Holdout(layer::HoldoutCommand),
    /// Units: erase one.
    #[command(subcommand)]
    Unit(unit::UnitCommand),
    /// Exposures: who saw what.
    #[command(subcommand)]
    Exposure(facts::ExposureCommand),
    /// Outcomes: what came of it.
    #[command(subcommand)]
    Outcome(facts::OutcomeCommand),
    /// Replay a finished experiment's file through the running node and compare the numbers.
    Replay(replay::ReplayArgs),
    /// Serve a flag's safe variant to everybody, until a person resumes it.
    Trip(trip::TripArgs),
    /// Resume a tripped flag.
    Resume(trip::TripArgs),
    /// Raise an outside monitor's alarm about a flag.
    Alarm(alarm::AlarmArgs),
    /// Decisions: read, approve, reject, revert, replay.
    #[command(subcommand)]
    Decision(decision::DecisionCommand),
    /// How far the platform may act alone.
    #[command(subcommand)]
    Autonomy(autonomy::AutonomyCommand),
    /// Windows without autonomous growth.
    #[command(subcommand)]
    Freeze(autonomy::FreezeCommand),
    /// How much the ledgers of experiments may hold.
    #[command(subcommand)]
    Budget(budget::BudgetCommand),
    /// Tokens: who may do what.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// The audit chain.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// The cluster: its members, and who leads.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Backups: a cluster's state in a file.
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Found a new cluster from a backup, in an empty data folder.
    Restore(backup::RestoreArgs),
    /// Upgrades: releases of the members, and the cluster's feature level.
    #[command(subcommand)]
    Upgrade(upgrade::UpgradeCommand),
    /// Analyse an experiment's file or sums: effects, sample ratio, what to do and why. Asks no server.
    Analyze(Box<analyze::AnalyzeArgs>),
    /// Design an experiment: size, power, duration. Asks no server.
    #[command(subcommand)]
    Design(design::DesignCommand),
    /// Test whether units arrived in the planned shares. Asks no server.
    Srm(srm::SrmArgs),
    /// Check the node and print the way out of what is wrong.
    Doctor,
    /// Measure this machine: each figure beside its limit.
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
}

/// The commands as clap knows them, with the exit codes below every help.
fn command() -> clap::Command {
    with_exit_codes(Cli::command(), 0)
}

fn with_exit_codes(command: clap::Command, depth: usize) -> clap::Command {
    let command = match command.get_after_help().map(ToString::to_string) {
        Some(own) => command.after_help(format!("{own}\n\n{}", failure::exit_code_help())),
        None => command.after_help(failure::exit_code_help()),
    };
    if depth > 4 {
        return command;
    }
    command.mut_subcommands(|sub| with_exit_codes(sub, depth + 1))
}

/// Runs the command line and says how it ended. Called once, by `main`.
#[must_use]
pub fn run() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are not errors; clap knows which stream each belongs on.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            let _ = error.print();
            return ExitCode::from(exit as u8);
        }
    };
    let outcome =
        Cli::from_arg_matches(&matches).map_err(|error| Failure::usage(error.to_string())).and_then(|cli| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::internal(format!("runtime could not start: {error}")))?;
            let outcome = runtime.block_on(dispatch(cli));
            // A drain that was cut short must not wait for its blocked threads after all.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::from(Exit::Done as u8),
        Err(failure) if failure.quiet => ExitCode::from(Exit::Done as u8),
        Err(failure) => {
            let _ = std::io::stderr().write_all(failure.render().as_bytes());
            ExitCode::from(failure.exit as u8)
        }
    }
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    // These talk to no server that is there already, and a node's configuration file is not the client's.
    let request = match cli.command {
        Command::Completions(args) => return completions::run(&args, command()),
        Command::Demo(args) => return demo::run(args).await,
        Command::Bench(args) => return bench::run(cli.global.output, args).await,
        Command::Serve(args) => return serve::run(cli.global.config.as_deref(), *args).await,
        Command::Analyze(args) => return analyze::run(cli.global.output, &args),
        Command::Design(command) => return design::run(cli.global.output, &command),
        Command::Srm(args) => return srm::run(cli.global.output, &args),
        request => request,
    };
    let session = Session::new(Settings::resolve(&cli.global)?)?;
    match request {
        Command::Flag(command) => flag::run(&session, command).await,
        Command::Environment(command) => environment::run(&session, command).await,
        Command::Segment(command) => segment::run(&session, command).await,
        Command::Schedule(command) => schedule::run(&session, command).await,
        Command::Metric(command) => metric::run(&session, command).await,
        Command::Experiment(command) => experiment::run(&session, command).await,
        Command::Layer(command) => layer::run(&session, command).await,
        Command::Holdout(command) => layer::run_holdout(&session, command).await,
        Command::Unit(command) => unit::run(&session, command).await,
        Command::Exposure(command) => facts::run_exposure(&session, command).await,
        Command::Outcome(command) => facts::run_outcome(&session, command).await,
        Command::Replay(args) => replay::run(&session, args).await,
        Command::Trip(args) => trip::trip(&session, args).await,
        Command::Resume(args) => trip::resume(&session, args).await,
        Command::Alarm(args) => alarm::run(&session, args).await,
        Command::Decision(command) => decision::run(&session, command).await,
        Command::Autonomy(command) => autonomy::run(&session, command).await,
        Command::Freeze(command) => autonomy::run_freeze(&session, command).await,
        Command::Budget(command) => budget::run(&session, command).await,
        Command::Token(command) => token::run(&session, command).await,
        Command::Audit(command) => audit::run(&session, command).await,
        Command::Cluster(command) => cluster::run(&session, command).await,
        Command::Backup(command) => backup::run(&session, command).await,
        Command::Restore(args) => backup::run_restore(&session, args).await,
        Command::Upgrade(command) => upgrade::run(&session, command).await,
        Command::Doctor => doctor::run(&session).await,
        Command::Serve(_)
        | Command::Completions(_)
        | Command::Demo(_)
        | Command::Bench(_)
        | Command::Analyze(_)
        | Command::Design(_)
        | Command::Srm(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_help_ends_with_the_exit_codes() {
        let mut command = command();
        assert!(command.render_long_help().to_string().contains("7  outcome unknown"));
        let flag = command.find_subcommand_mut("flag").unwrap();
        let set = flag.find_subcommand_mut("set").unwrap();
        assert!(set.render_long_help().to_string().contains("7  outcome unknown"));
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = Cli::try_parse_from([
            "featureops",
            "flag",
            "get",
            "checkout",
            "--server",
            "n1:7400",
            "-o",
            "json",
        ]);
        assert_eq!(cli.unwrap().global.server.as_deref(), Some("n1:7400"));
    }
}
