//! `mount -t fuse.manyfs SOURCE DIR -o OPTIONS` and /etc/fstab: what mount(8) runs when this program is installed (or
//! linked) as /sbin/mount.fuse.manyfs. SOURCE is a credential file. Returns once the mount answers; the mount's process
//! stays behind and ends with `umount`.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Read, Seek, SeekFrom, Write},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use nix::{
    mount::{MsFlags, mount},
    sys::{prctl::set_pdeathsig, signal::Signal},
};

use super::{Failure, mount_options::MountOptions, starter};

/// mount(8): the mount failed, and the command line was wrong.
const EXIT_FAILED: u8 = 32;
const EXIT_USAGE: u8 = 1;
/// Where the mount's process writes its log when standard error is somebody's who waits for its end.
const LOG_FILE: &str = "/var/log/manyfs.log";

/// Settings of `manyfs mount` that may stand in -o as NAME=VALUE.
const SETTINGS: [&str; 9] = [
    "content_cache",
    "kernel_mask",
    "listen_http",
    "log_format",
    "opens",
    "squash",
    "threads",
    "when_disconnected",
    "write_timeout",
];

/// True when the process was started under the name that mount(8) gives a helper.
pub(super) fn is_asked_for(arguments: &[OsString]) -> bool {
    let name = arguments.first().and_then(|program| Path::new(program).file_name());
    name.is_some_and(|name| name == "mount.fuse.manyfs" || name == "mount.manyfs")
}

/// Does what mount(8) asks; its exit codes.
pub(super) fn run(arguments: &[OsString]) -> ExitCode {
    let task = match parse(arguments.iter().skip(1)) {
        Ok(task) => task,
        Err(problem) => {
            eprintln!("mount.fuse.manyfs: {problem}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let done = match &task {
        Task::Nothing => Ok(true),
        Task::Remount { directory, options } => remount(directory, *options).map(|()| true),
        Task::Mount(request) => request.start(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        // The process that could not mount has said why.
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(failure) => {
            eprintln!("mount.fuse.manyfs: {failure}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Task {
    /// `-f`: look whether it could be done.
    Nothing,
    Remount {
        directory: PathBuf,
        options: MountOptions,
    },
    Mount(Request),
}

#[derive(PartialEq, Eq, Debug)]
struct Request {
    source: OsString,
    credential: PathBuf,
    directory: PathBuf,
    log: Option<PathBuf>,
    /// Further arguments of `manyfs mount`.
    arguments: Vec<OsString>,
}

fn parse<'a>(arguments: impl Iterator<Item = &'a OsString>) -> Result<Task, String> {
    let mut arguments = arguments;
    let (mut places, mut lists) = (Vec::new(), Vec::new());
    let (mut fake, mut sloppy) = (false, false);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("-o") => lists.push(arguments.next().ok_or("-o needs options")?),
            // The type is in the program's name.
            Some("-t") => drop(arguments.next()),
            Some("-N") => return Err("-N is not supported; run mount inside the namespace".to_owned()),
            Some(flags) if flags.len() > 1 && flags.starts_with('-') => {
                for flag in flags.chars().skip(1) {
                    match flag {
                        'f' => fake = true,
                        's' => sloppy = true,
                        'n' | 'v' => {}
                        _ => return Err(format!("-{flag} is unknown; expected SOURCE DIR [-sfnv] [-o OPTIONS]")),
                    }
                }
            }
            _ => places.push(argument),
        }
    }
    let [source, directory] = places[..] else {
        return Err(format!("expected a credential file and a directory, found {} of them", places.len()));
    };
    let mut options = MountOptions::of_mount_command();
    let (mut credential, mut log, mut settings, mut is_remount) = (PathBuf::from(source), None, Vec::new(), false);
    for option in lists.iter().flat_map(|list| list.as_bytes().split(|byte| *byte == b',')) {
        let option = OsStr::from_bytes(option);
        let Some(text) = option.to_str() else { return Err(format!("the option {option:?} is no text")) };
        match text.split_once('=') {
            _ if options.take(text) || is_for_mount_itself(text) => {}
            None if text == "remount" => is_remount = true,
            None if text == "acl" || text == "idmap" => settings.push(format!("--{text}")),
            Some(("credential", value)) => credential = value.into(),
            Some(("log", value)) => log = Some(value.into()),
            Some(("kernel_mask", value)) => settings.push(format!("--kernel-mask={}", value.replace(':', ","))),
            Some((name, value)) if SETTINGS.contains(&name) => {
                settings.push(format!("--{}={value}", name.replace('_', "-")));
            }
            _ if sloppy => {}
            _ => {
                return Err(format!(
                    "the option '{text}' is unknown; besides those of mount(8) there are acl, idmap, credential, log, {}",
                    SETTINGS.join(", ")
                ));
            }
        }
    }
    let directory = PathBuf::from(directory);
    if fake {
        return Ok(Task::Nothing);
    }
    if is_remount {
        return Ok(Task::Remount { directory, options });
    }
    settings.push(format!("--options={}", options.to_list()));
    let arguments = settings.into_iter().map(OsString::from).collect();
    Ok(Task::Mount(Request { source: source.clone(), credential, directory, log, arguments }))
}

/// What mount(8) and systemd act on and pass on nevertheless.
fn is_for_mount_itself(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or(option);
    matches!(
        name,
        "" | "auto"
            | "noauto"
            | "fail"
            | "nofail"
            | "_netdev"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "comment"
            | "uhelper"
            | "helper"
            // What the kernel lists of a FUSE mount: a remount gives it back.
            | "fd"
            | "rootmode"
            | "user_id"
            | "group_id"
            | "blksize"
            | "max_read"
    ) || name.starts_with("x-")
        || name.starts_with("X-")
}

/// Changes what the kernel keeps of a mount; its process is not concerned.
fn remount(directory: &Path, options: MountOptions) -> Result<(), Failure> {
    let flags = MsFlags::MS_REMOUNT | options.0;
    mount(None::<&str>, directory, None::<&str>, flags, None::<&str>)
        .map_err(|error| format!("cannot remount {}: {error}", directory.display()).into())
}

impl Request {
    /// Starts the mount's process and waits until it serves; `false` when it ended instead.
    fn start(&self) -> Result<bool, Failure> {
        // mount(8) may be ended alone; the mount's process notices the end of this one.
        set_pdeathsig(Signal::SIGTERM)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("mount")
            .args(["--background", "--credential"])
            .arg(&self.credential)
            .arg("--source")
            .arg(&self.source)
            .args(&self.arguments)
            .arg("--")
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let log = self.log()?;
        if let Some((file, _)) = &log {
            command.stderr(file.try_clone()?);
        }
        let mut child = command.spawn()?;
        let say = |reason: &str| {
            // Nobody may be there to read it.
            writeln!(io::stderr(), "mount.fuse.manyfs: nothing is mounted yet: {reason}").ok();
        };
        if let Some(output) = child.stdout.take()
            && starter::wait(output, say)?
        {
            return Ok(true);
        }
        child.wait()?;
        if let Some((mut file, end)) = log {
            file.seek(SeekFrom::Start(end))?;
            io::copy(&mut file.take(64 * 1024), &mut io::stderr())?;
        }
        Ok(false)
    }

    /// The file that the mount's process logs to, and how long it is; `None` where standard error may be its log: a
    /// journal, a file. A terminal ends, and whoever reads a pipe waits until all that write to it have ended.
    fn log(&self) -> Result<Option<(File, u64)>, Failure> {
        let path = match &self.log {
            Some(path) => path.clone(),
            None if outlives_us()? => return Ok(None),
            None => LOG_FILE.into(),
        };
        let opened = OpenOptions::new().create(true).append(true).read(true).open(&path);
        let file = opened.map_err(|error| format!("cannot write the log {}: {error}", path.display()))?;
        let end = fs::metadata(&path)?.len();
        Ok(Some((file, end)))
    }
}

/// Whether standard error can be a log for as long as a mount lasts.
fn outlives_us() -> io::Result<bool> {
    let error = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let about = error.metadata()?;
    let kind = about.file_type();
    // systemd.exec(5): device and inode of the journal's socket.
    let journal = format!("{}:{}", about.dev(), about.ino());
    Ok(kind.is_file()
        || kind.is_char_device() && !error.is_terminal()
        || std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == journal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Task, String> {
        parse(line.split(' ').map(OsString::from).collect::<Vec<_>>().iter())
    }

    #[test]
    fn the_line_that_mount_gives_is_understood() {
        let line = "/etc/manyfs/main.toml /srv/wp -n -o rw,nosuid,noexec,sync,_netdev,x-systemd.automount,squash=33:33,threads=4,acl,idmap,opens=untracked";
        let Ok(Task::Mount(request)) = parsed(line) else { panic!("a mount") };
        assert_eq!(request.credential, Path::new("/etc/manyfs/main.toml"));
        assert_eq!(request.directory, Path::new("/srv/wp"));
        assert_eq!(
            request.arguments,
            [
                "--squash=33:33",
                "--threads=4",
                "--acl",
                "--idmap",
                "--opens=untracked",
                "--options=rw,nosuid,dev,noexec,sync"
            ]
        );
    }

    #[test]
    fn a_source_may_be_a_name_beside_its_credential() {
        let Ok(Task::Mount(request)) = parsed("shop /srv/wp -o credential=/c.toml,kernel_mask=inc_epoch:resend") else {
            panic!("a mount")
        };
        assert_eq!(
            (request.credential.as_path(), request.source.as_os_str()),
            (Path::new("/c.toml"), OsStr::new("shop"))
        );
        assert_eq!(request.arguments[0], "--kernel-mask=inc_epoch,resend");
    }

    #[test]
    fn a_remount_starts_nothing() {
        let expected = MountOptions(MountOptions::of_mount_command().0 | MsFlags::MS_RDONLY);
        let directory = PathBuf::from("/srv/wp");
        assert_eq!(parsed("main /srv/wp -o remount,ro"), Ok(Task::Remount { directory, options: expected }));
        assert_eq!(parsed("main /srv/wp -f -o ro"), Ok(Task::Nothing));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(parsed("main /srv/wp -o compress=zstd").expect_err("unknown").contains("compress=zstd"));
        assert!(parsed("main /srv/wp -s -o compress=zstd").is_ok(), "-s: tolerated");
        assert!(parsed("main").expect_err("no directory").contains("found 1"));
        assert!(parsed("main /srv/wp -x").is_err());
        assert!(parsed("main /srv/wp -o").is_err());
    }

    #[test]
    fn the_name_decides() {
        assert!(is_asked_for(&["/sbin/mount.fuse.manyfs".into()]));
        assert!(!is_asked_for(&["/usr/bin/manyfs".into(), "mount.fuse.manyfs".into()]));
    }
}
