//! The command line: one file per command. Each command says in `--help` what it does, with an example and its
//! defaults, answers programs with `--json`, and ends with 0 only when it did what it was asked.

mod hold;
mod mount;
mod mountpoint;
mod runfile;
mod unmount;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::telemetry;

/// A replicated file system for many pods on one tree.
#[derive(Debug, Parser)]
#[command(name = "manyfs", version, max_term_width = 100)]
struct Cli {
    /// error, warn, info, debug, trace, or directives such as 'info,manyfs::fuse=debug'.
    #[arg(long, global = true, env = "MANYFS_LOG", default_value = "info", value_name = "LEVEL")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::Mount),
    Unmount(unmount::Unmount),
    Hold(hold::Hold),
}

/// Why a command did not do what it was asked: one sentence, with what to do about it.
type Failure = Box<dyn std::error::Error>;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = telemetry::init_log(&cli.log).map_err(Failure::from).and_then(|()| match cli.command {
        Command::Mount(command) => command.run(),
        Command::Unmount(command) => command.run(),
        Command::Hold(command) => command.run(),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("manyfs: {failure}");
            ExitCode::FAILURE
        }
    }
}
