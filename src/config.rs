//! The config file: TOML, the same settings as the flags of the same names. A flag goes over the environment
//! (`MANYFS_*`), that over the file, that over the default. A key that does not exist is an error, not a surprise.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

/// Read when no other file is named, if it is there.
pub const DEFAULT_PATH: &str = "/etc/manyfs/manyfs.toml";

/// Why there is no config.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    #[error("the config file {} cannot be read: {source}", .path.display())]
    Read { path: PathBuf, source: Arc<io::Error> },
    #[error("the config file {}, line {line}: {reason}", .path.display())]
    Form { path: PathBuf, line: usize, reason: String },
}

/// Everything a config file can say.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Log level, or directives such as `info,manyfs::server=debug`. Default: info.
    pub log: Option<String>,
    /// How log lines look: `text` or `json`. Default: text.
    pub log_format: Option<String>,
    pub serve: ServeSection,
    pub mount: MountSection,
    pub admin: AdminSection,
}

/// `manyfs serve`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServeSection {
    /// The cluster's authority file. Default: /etc/manyfs/authority.toml.
    pub authority: Option<PathBuf>,
    /// The data directory. Default: /var/lib/manyfs.
    pub data: Option<PathBuf>,
    /// Where mounts and administrators are listened for. Default: 0.0.0.0:7440.
    pub listen_client: Option<String>,
    /// Where other storage nodes are listened for. Default: 0.0.0.0:7441.
    pub listen_peer: Option<String>,
    /// Where metrics and health are served over HTTP. Default: 0.0.0.0:7442.
    pub listen_http: Option<String>,
    /// The host by which others reach this node. Default: as `cluster init` names it.
    pub advertise: Option<String>,
    /// `host[:port]` of all storage nodes, which a blank one asks before it is founded; `none` where it is the only one.
    /// Default: none is named, and the node is not founded.
    pub peers: Option<Vec<String>>,
    /// The number of the node that the data directory must be of. Default: any.
    pub node: Option<u64>,
}

/// `manyfs mount`, and the mount of `manyfs serve --mount`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct MountSection {
    /// The credential file. Default: /etc/manyfs/credential.toml.
    pub credential: Option<PathBuf>,
    /// File content kept in memory, in MiB. Default: 64.
    pub content_cache: Option<u32>,
    /// Show all files as owned by `UID:GID`. Default: as they are.
    pub squash: Option<String>,
    /// Seconds after which a change that finds no majority of storage nodes fails. Default: 30.
    pub write_timeout: Option<u32>,
    /// What reads do while no leader answers: `serve` (from what the mount has) or `block` (wait). Default: serve.
    pub when_disconnected: Option<String>,
    /// Whether the kernel tells of opens and closes of files: `tracked` or `untracked`. Default: tracked.
    pub opens: Option<String>,
    /// Threads that read the kernel's requests. Default: 2.
    pub threads: Option<u8>,
    /// Features of newer kernels that are not to be used. Default: none.
    pub kernel_mask: Option<Vec<String>>,
    /// Where metrics and health are served over HTTP. Default: nowhere.
    /// Only of `manyfs mount`.
    pub listen_http: Option<String>,
    /// Store POSIX access control lists and have the kernel enforce them. Default: no.
    pub acl: Option<bool>,
    /// Let the mount be idmapped. Default: no.
    pub idmap: Option<bool>,
    /// Options of mount(8), separated by commas. Default: nosuid,nodev.
    pub options: Option<String>,
}

/// Commands that administer a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct AdminSection {
    /// The cluster's authority file. Default: none; it must be named.
    pub authority: Option<PathBuf>,
    /// `host[:port]` of storage nodes. Default: none; they must be named.
    pub servers: Option<Vec<String>>,
}

/// A setting of the file as the default of a flag: the path of subcommands, the flag's name, the value.
pub type FlagDefault = (&'static [&'static str], &'static str, String);

impl Config {
    /// What the file says, as defaults of flags: so flag and environment go over it.
    #[must_use]
    pub fn flag_defaults(&self) -> Vec<FlagDefault> {
        let mut defaults = Vec::new();
        let mut put = |command: &'static [&'static str], flag: &'static str, value: Option<String>| {
            if let Some(value) = value {
                defaults.push((command, flag, value));
            }
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        put(&[], "log", self.log.clone());
        put(&[], "log_format", self.log_format.clone());
        let serve = &self.serve;
        put(&["serve"], "authority", path(&serve.authority));
        put(&["serve"], "data", path(&serve.data));
        put(&["serve"], "listen_client", serve.listen_client.clone());
        put(&["serve"], "listen_peer", serve.listen_peer.clone());
        put(&["serve"], "listen_http", serve.listen_http.clone());
        put(&["serve"], "advertise", serve.advertise.clone());
        put(&["serve"], "peers", serve.peers.as_ref().map(|peers| peers.join(",")));
        put(&["serve"], "node", serve.node.map(|node| node.to_string()));
        let mount = &self.mount;
        put(&["mount"], "credential", path(&mount.credential));
        put(&["mount"], "listen_http", mount.listen_http.clone());
        for command in [&["mount"], &["serve"]] {
            put(command, "content_cache", number(mount.content_cache));
            put(command, "squash", mount.squash.clone());
            put(command, "write_timeout", number(mount.write_timeout));
            put(command, "when_disconnected", mount.when_disconnected.clone());
            put(command, "opens", mount.opens.clone());
            put(command, "threads", number(mount.threads.map(u32::from)));
            put(command, "kernel_mask", mount.kernel_mask.as_ref().map(|features| features.join(",")));
            put(command, "acl", mount.acl.map(|acl| acl.to_string()));
            put(command, "idmap", mount.idmap.map(|idmap| idmap.to_string()));
            put(command, "options", mount.options.clone());
        }
        const ADMINISTRATION: [&[&str]; 10] = [
            &["status"],
            &["scrub"],
            &["cluster", "status"],
            &["cluster", "init"],
            &["cluster", "transfer-leader"],
            &["volume", "create"],
            &["volume", "list"],
            &["volume", "set"],
            &["volume", "delete"],
            &["credential", "create"],
        ];
        for command in ADMINISTRATION {
            put(command, "authority", path(&self.admin.authority));
            if command != ["cluster", "init"] {
                put(command, "servers", self.admin.servers.as_ref().map(|servers| servers.join(",")));
            }
        }
        defaults
    }

    /// Reads `path`, or the default file if it exists and no other is named.
    ///
    /// # Errors
    /// `Read` where a named file cannot be read, `Form` naming file, line and key.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, is_named) = path.map_or((Path::new(DEFAULT_PATH), false), |path| (path, true));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => Ok(Self::default()),
            Err(error) => Err(ConfigError::Read { path: path.to_owned(), source: Arc::new(error) }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count();
            let reason = error.message().trim().replace('\n', "; ");
            ConfigError::Form { path: path.to_owned(), line, reason }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/x/manyfs.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn all_keys_are_read() {
        let config = parse(
            "log = 'debug'\n\
             [serve]\nauthority = 'a'\ndata = 'd'\nlisten-client = 'c:1'\nlisten-peer = 'p:2'\nlisten-http = 'h:3'\n\
             advertise = 'host'\npeers = ['node1', 'node2:1']\n\
             [mount]\ncredential = 'm'\nlisten-http = 'h:4'\ncontent-cache = 32\nsquash = '1:2'\nthreads = 3\n\
             write-timeout = 9\nwhen-disconnected = 'block'\nopens = 'untracked'\nkernel-mask = ['inc_epoch']\n\
             [admin]\nauthority = 'b'\nservers = ['x', 'y:1']\n",
        )
        .expect("valid");
        assert_eq!(config.log.as_deref(), Some("debug"));
        assert_eq!(config.serve.listen_peer.as_deref(), Some("p:2"));
        assert_eq!(config.mount.content_cache, Some(32));
        assert_eq!(config.admin.servers.as_ref().map(Vec::len), Some(2));
        assert_eq!(parse("").expect("valid"), Config::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_line_and_file() {
        let sentence = parse("log = 'info'\n[serve]\ndatadir = 'x'\n").expect_err("unknown key");
        assert!(sentence.contains("/x/manyfs.toml, line 3"), "{sentence}");
        assert!(sentence.contains("`datadir`") && sentence.contains("`data`"), "{sentence}");
        let sentence = parse("[sevre]\n").expect_err("unknown section");
        assert!(sentence.contains("`sevre`"), "{sentence}");
        let sentence = parse("[mount]\ncontent-cache = 'much'\n").expect_err("wrong type");
        assert!(sentence.contains("line 2"), "{sentence}");
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let missing = Path::new("/nonexistent/manyfs.toml");
        let sentence = Config::load(Some(missing)).expect_err("missing").to_string();
        assert!(sentence.contains("/nonexistent/manyfs.toml"), "{sentence}");
    }
}
