//! Log lines on standard error.

use std::{io::IsTerminal, sync::OnceLock};

use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// The filter of the log that this process has begun.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

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
    #[error("the log level cannot be changed: {0}")]
    Change(String),
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line: timestamp, level, fields with the message among them.
    Json,
}

/// Begins to log to standard error. `level` is a level for this program (libraries stay at `warn`), or directives of
/// `tracing_subscriber::EnvFilter`.
///
/// # Errors
/// `Level` for what is neither, `Begin` when the process logs already.
pub fn init_log(level: &str, format: LogFormat) -> Result<(), LogError> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        // Colours are for people, not for files and journals.
        .with_ansi(format == LogFormat::Text && std::io::stderr().is_terminal())
        // A terminal that is closed, or a full disk, ends no process.
        .log_internal_errors(false)
        .with_target(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| LogError::Begin(error.to_string()))?;
    FILTER.get_or_init(|| handle);
    Ok(())
}

/// Changes the level of a log that has begun.
///
/// # Errors
/// `Level` as for `init_log`, `Change` where none has begun.
pub fn set_log_level(level: &str) -> Result<(), LogError> {
    let filter = filter(level)?;
    let begun = FILTER.get().ok_or_else(|| LogError::Change("nothing is logged".to_owned()))?;
    begun.reload(filter).map_err(|error| LogError::Change(error.to_string()))
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let plain = level.bytes().all(|byte| byte.is_ascii_alphabetic());
    let directives = if plain { format!("warn,manyfs={level}") } else { level.to_owned() };
    EnvFilter::try_new(&directives)
        .map_err(|error| LogError::Level { found: level.to_owned(), reason: error.to_string() })
}
