//! Log lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Why logging cannot be as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "'{found}' is no log level: {reason}; use error, warn, info, debug, trace, or directives such as \
         'info,manyfs::server=debug'"
    )]
    Level { found: String, reason: String },
    #[error("logging cannot begin: {0}")]
    Begin(String),
}

/// Begins to log to standard error. `level` is a level for this program (libraries stay at `warn`), or directives of
/// `tracing_subscriber::EnvFilter`.
///
/// # Errors
/// `Level` for what is neither, `Begin` when the process logs already.
pub fn init_log(level: &str) -> Result<(), LogError> {
    let plain = level.bytes().all(|byte| byte.is_ascii_alphabetic());
    let directives = if plain { format!("warn,manyfs={level}") } else { level.to_owned() };
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| LogError::Level { found: level.to_owned(), reason: error.to_string() })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Colours are for people, not for files and journals.
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init()
        .map_err(|error| LogError::Begin(error.to_string()))
}
