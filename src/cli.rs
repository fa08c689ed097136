//! The command line: one file per command. Each command says in `--help` what it does, with an example and its
//! defaults, answers programs with `--json`, and ends with 0 only when it did what it was asked.
//!
//! Exit codes: 0 done; 1 refused or failed, with a sentence on standard error; 2 the command line itself is wrong; 128 and
//! the number of the signal for a mount that was ended while it waited.

mod address;
mod admin;
mod allocator;
mod bench;
mod check;
mod cluster;
mod credential;
mod demo;
mod hold;
mod inspect;
mod mount;
mod mount_helper;
mod mount_options;
mod mount_settings;
mod mount_state;
mod mountpoint;
mod report;
mod runfile;
mod scrub;
mod seal;
mod serve;
mod starter;
mod status;
mod sweep;
mod unmount;
mod volume;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    config::Config,
    holder::HolderError,
    telemetry::{self, LogFormat},
};

/// A replicated file system for many pods on one tree.
#[derive(Debug, Parser)]
#[command(name = "manyfs", version, max_term_width = 100)]
struct Cli {
    /// error, warn, info, debug, trace, or directives such as 'info,manyfs::server=debug'.
    #[arg(long, global = true, env = "MANYFS_LOG", default_value = "info", value_name = "LEVEL")]
    log: String,
    /// How log lines look, and with them why a command failed.
    #[arg(long, global = true, env = "MANYFS_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    /// Settings in TOML; a flag or MANYFS_* variable goes over them [default: /etc/manyfs/manyfs.toml if it exists]
    #[arg(long, global = true, env = "MANYFS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    #[command(subcommand)]
    Volume(volume::Volume),
    #[command(subcommand)]
    Credential(credential::CredentialCommand),
    Status(status::Status),
    Mount(mount::Mount),
    Unmount(unmount::Unmount),
    Hold(hold::Hold),
    Inspect(inspect::Inspect),
    Check(check::Check),
    Scrub(scrub::Scrub),
    Bench(bench::Bench),
    Demo(demo::Demo),
}

/// Why a command did not do what it was asked: one sentence, with what to do about it.
type Failure = Box<dyn std::error::Error>;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    allocator::return_freed_memory();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if mount_helper::is_asked_for(&arguments) {
        return mount_helper::run(&arguments);
    }
    let cli = match parse(arguments) {
        Ok(cli) => cli,
        Err(Refusal::Usage(error)) => error.exit(),
        Err(Refusal::Config(failure)) => return fail(&*failure),
    };
    // Only builds for tests have any; they are set by the environment.
    let _failpoints = ::fail::has_failpoints().then(::fail::FailScenario::setup);
    let is_json = cli.log_format == LogFormat::Json;
    let result =
        telemetry::init_log(&cli.log, cli.log_format).map_err(Failure::from).and_then(|()| match cli.command {
            Command::Serve(command) => command.run(),
            Command::Cluster(command) => command.run(),
            Command::Volume(command) => command.run(),
            Command::Credential(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Mount(command) => command.run(),
            Command::Unmount(command) => command.run(),
            Command::Hold(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::Scrub(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Demo(command) => command.run(),
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if is_json && !failure.is::<status::Unhealthy>() => {
            tracing::error!("{failure}");
            code_of(&*failure)
        }
        Err(failure) => fail(&*failure),
    }
}

/// SIGHUP to a process that stays: its log level is as settings say now.
fn read_again() {
    match level_again() {
        Ok(level) => {
            tracing::info!("SIGHUP: the log level is {level}; all else is read at the start of the process only")
        }
        Err(reason) => tracing::warn!("SIGHUP: everything stays as it is: {reason}"),
    }
}

/// As `read_again`, of a process whose parent writes the same log and says it there.
fn read_again_with_parent() {
    // The parent has come to the same.
    level_again().ok();
}

/// Sets the log level that the settings name now, and returns it.
fn level_again() -> Result<String, Failure> {
    let level = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli.log,
        Err(Refusal::Usage(error)) => return Err(error.into()),
        Err(Refusal::Config(failure)) => return Err(failure),
    };
    telemetry::set_log_level(&level)?;
    Ok(level)
}

fn fail(failure: &(dyn std::error::Error + 'static)) -> ExitCode {
    if let Some(unhealthy) = failure.downcast_ref::<status::Unhealthy>() {
        // What it is has been printed.
        return ExitCode::from(unhealthy.0);
    }
    // Nobody may be there to read it.
    writeln!(io::stderr(), "manyfs: {failure}").ok();
    code_of(failure)
}

/// What a shell has for a command that a signal ended, 1 for all else.
fn code_of(failure: &(dyn std::error::Error + 'static)) -> ExitCode {
    match failure.downcast_ref::<HolderError>() {
        Some(HolderError::Interrupted(signal)) => {
            u8::try_from(128 + *signal as i32).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        _ => ExitCode::FAILURE,
    }
}

enum Refusal {
    Usage(clap::Error),
    Config(Failure),
}

/// Reads the command line over the environment over the config file over the defaults.
fn parse(arguments: Vec<OsString>) -> Result<Cli, Refusal> {
    let named = config_named(&arguments).or_else(|| std::env::var_os("MANYFS_CONFIG"));
    let config = Config::load(named.map(PathBuf::from).as_deref()).map_err(|error| Refusal::Config(error.into()))?;
    let matches = command_with(&config).try_get_matches_from(arguments).map_err(Refusal::Usage)?;
    Cli::from_arg_matches(&matches).map_err(Refusal::Usage)
}

/// The command line, with the settings of the file as defaults of its flags.
fn command_with(config: &Config) -> clap::Command {
    config
        .flag_defaults()
        .into_iter()
        .fold(Cli::command(), |command, (path, flag, value)| with_default(command, path, flag, value))
}

/// The file that `--config` names: it is needed before the command line can be read.
fn config_named(arguments: &[OsString]) -> Option<OsString> {
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--config") => return arguments.next().cloned(),
            Some("--") => return None,
            Some(text) => {
                if let Some(path) = text.strip_prefix("--config=") {
                    return Some(path.into());
                }
            }
            None => {}
        }
    }
    None
}

fn with_default(command: clap::Command, path: &[&'static str], flag: &'static str, value: String) -> clap::Command {
    match path {
        // Settings for commands that this program does not have are none of its business.
        [first, ..] if command.find_subcommand(first).is_none() => command,
        [first, rest @ ..] => command.mut_subcommand(*first, |sub| with_default(sub, rest, flag, value)),
        [] if !command.get_arguments().any(|argument| argument.get_id() == flag) => command,
        // Lives as long as the command line, which is as long as the process.
        // What the file says need not be said again: a default alone does not satisfy `required`.
        [] => command.mut_arg(flag, |argument| argument.required(false).default_value(&*value.leak())),
    }
}

/// A runtime for commands that talk to storage nodes.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("threads cannot be started: {error}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// A file that says everything.
    fn full_config() -> Config {
        Config {
            log: Some("debug".to_owned()),
            log_format: Some("json".to_owned()),
            serve: crate::config::ServeSection {
                authority: Some("/a".into()),
                data: Some("/d".into()),
                listen_client: Some("c:1".to_owned()),
                listen_peer: Some("p:2".to_owned()),
                listen_http: Some("h:3".to_owned()),
                advertise: Some("host".to_owned()),
                peers: Some(vec!["one:1".to_owned(), "two:2".to_owned()]),
                node: Some(1),
            },
            mount: crate::config::MountSection {
                credential: Some("/c".into()),
                content_cache: Some(65),
                squash: Some("1:1".to_owned()),
                write_timeout: Some(29),
                when_disconnected: Some("block".to_owned()),
                opens: Some("untracked".to_owned()),
                threads: Some(3),
                kernel_mask: Some(vec!["inc_epoch".to_owned()]),
                listen_http: Some("127.0.0.1:4".to_owned()),
                acl: Some(true),
                idmap: Some(true),
                options: Some("noexec".to_owned()),
            },
            admin: crate::config::AdminSection {
                authority: Some("/b".into()),
                servers: Some(vec!["x:1".to_owned(), "y:2".to_owned()]),
            },
        }
    }

    /// All commands that do something, by their path.
    fn leaves(command: &clap::Command) -> Vec<(Vec<String>, &clap::Command)> {
        fn walk<'a>(command: &'a clap::Command, path: &[String], found: &mut Vec<(Vec<String>, &'a clap::Command)>) {
            if !command.has_subcommands() {
                found.push((path.to_vec(), command));
            }
            for sub in command.get_subcommands() {
                walk(sub, &[path, &[sub.get_name().to_owned()]].concat(), found);
            }
        }
        let mut found = Vec::new();
        walk(command, &[], &mut found);
        found
    }

    /// The shortest line of a command that says all that the file cannot say.
    fn shortest_line(path: &[String], command: &clap::Command) -> Vec<String> {
        let of_file = |argument: &clap::Arg| ["authority", "servers"].contains(&argument.get_id().as_str());
        let mut line = [&["manyfs".to_owned()], path].concat();
        for argument in command.get_arguments().filter(|argument| argument.is_required_set() && !of_file(argument)) {
            line.push(argument.get_long().map_or_else(|| "1".to_owned(), |long| format!("--{long}=1")));
        }
        match path.join(" ").as_str() {
            "mount" => line.push("/mnt".to_owned()),
            "volume set" => line.push("--quota=1".to_owned()),
            _ => {}
        }
        line
    }

    /// `scrub` was forgotten once; `credential create` and `cluster init` were given the default and refused it.
    #[test]
    fn each_setting_of_the_file_is_obeyed_by_the_parser_of_its_command() {
        let config = full_config();
        let defaults = config.flag_defaults();
        let plain = Cli::command();
        let commands = leaves(&plain);
        assert!(commands.len() > 15);
        let mut obeyed = 0;
        for (path, command) in commands {
            let line = shortest_line(&path, command);
            let parsed = command_with(&config).try_get_matches_from(&line);
            let parsed = parsed.unwrap_or_else(|error| panic!("{line:?}: {error}"));
            Cli::from_arg_matches(&parsed).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            let matches = path.iter().fold(&parsed, |matches, name| matches.subcommand_matches(name).expect("itself"));
            for (_, flag, value) in defaults.iter().filter(|(of, ..)| *of == path.as_slice()) {
                let raw = matches.get_raw(flag).unwrap_or_else(|| panic!("{line:?} has no --{flag}"));
                let found: Vec<_> = raw.map(|value| value.to_string_lossy()).collect();
                assert_eq!(&found.join(","), value, "{line:?} --{flag}");
                obeyed += 1;
            }
        }
        let global = defaults.iter().filter(|(path, ..)| path.is_empty()).count();
        assert_eq!(obeyed + global, defaults.len(), "a setting is for a command that does not exist");
    }

    #[test]
    fn whatever_administers_goes_by_the_files_admin_section() {
        let defaults = full_config().flag_defaults();
        for (path, command) in leaves(&Cli::command()).iter().filter(|(path, _)| path != &["serve"]) {
            let flags = command.get_arguments().map(|argument| argument.get_id().as_str());
            for flag in flags.filter(|flag| ["authority", "servers"].contains(flag)) {
                let is_set = defaults.iter().any(|(of, name, _)| of == path && *name == flag);
                assert!(is_set, "manyfs {} --{flag} is not set by [admin]", path.join(" "));
            }
        }
    }

    #[test]
    fn the_config_file_is_found_before_the_rest_is_read() {
        let find = |line: &str| config_named(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(find("manyfs serve --config a"), Some("a".into()));
        assert_eq!(find("manyfs --config=b serve"), Some("b".into()));
        assert_eq!(find("manyfs serve"), None);
        assert_eq!(find("manyfs serve -- --config a"), None);
    }
}
