//! Entry point. Everything is in the library, so that tests and the simulation reach it too.

fn main() -> std::process::ExitCode {
    featureops::cli::run()
}
