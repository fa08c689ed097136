//! Finding and running programs.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::succeed;

/// A command of the program, which must be there.
pub(crate) fn program(name: &str, installed_by: &str) -> Command {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo = env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin"));
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    let mut places = env::split_paths(&path).chain(cargo).chain(home);
    match places.find(|place| place.join(name).is_file()) {
        Some(place) => Command::new(place.join(name)),
        None => panic!("this test needs {name}, which is not in PATH: {installed_by}"),
    }
}

/// Runs the command to its end, which must be a good one: what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> String {
    String::from_utf8_lossy(&succeed(command).stdout).into_owned()
}

/// What a program is given as one argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}
