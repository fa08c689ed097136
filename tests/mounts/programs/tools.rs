//! Running programs.

use std::{path::Path, process::Command};

use crate::{require, support::succeed};

/// A command of a program that the test asked for.
pub(crate) fn program(name: &str) -> Command {
    Command::new(require::program(name))
}

/// Runs the command to its end, which must be a good one: what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> String {
    String::from_utf8_lossy(&succeed(command).stdout).into_owned()
}

/// What a program is given as one argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}
