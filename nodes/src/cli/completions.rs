//! `completions`: a script that completes commands and options in a shell.

use clap::Args;
use clap_complete::Shell;

use super::failure::Failure;
use super::session::print;

#[derive(Debug, Args)]
#[command(after_help = "Install, for bash:
  featureops completions bash > ~/.local/share/bash-completion/completions/featureops
For zsh, into a directory of $fpath; for fish:
  featureops completions fish > ~/.config/fish/completions/featureops.fish")]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, mut command: clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "featureops", &mut script);
    print(&String::from_utf8_lossy(&script))
}
