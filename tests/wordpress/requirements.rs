//! What this machine must have. `.ci/run` installs all of it.

use std::path::PathBuf;
use std::process::Command;

use crate::require::{self, program};

/// Modules that WordPress and the test use, and the Debian packages that bring them.
const PHP_MODULES: &[(&str, &str)] =
    &[("gd", "php-gd"), ("mysqli", "php-mysql"), ("zip", "php-zip"), ("Zend OPcache", "php-opcache")];

/// Programs found on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Requirements {
    /// WordPress's own files as Debian lays them out.
    pub(crate) wordpress: PathBuf,
    pub(crate) php: PathBuf,
    pub(crate) php_fpm: PathBuf,
    pub(crate) nginx: PathBuf,
    pub(crate) mariadbd: PathBuf,
    pub(crate) mariadb_install_db: PathBuf,
    pub(crate) mariadb: PathBuf,
    pub(crate) zip: PathBuf,
    /// Ends a child when the test itself is killed.
    pub(crate) setpriv: PathBuf,
}

impl Requirements {
    /// Finds everything. `None`: something is missing, and the test returns.
    pub(crate) fn of_this_machine() -> Option<Self> {
        let wordpress = PathBuf::from("/usr/share/wordpress");
        let is_complete = require::mounts()
            && require::programs(&["php", "nginx", "mariadbd", "mariadb-install-db", "mariadb", "zip", "setpriv"])
            && (wordpress.join("wp-includes/version.php").exists()
                || require::lacks("WordPress (apt install wordpress)"))
            && (php_fpm().is_some() || require::lacks("PHP-FPM (apt install php-fpm)"))
            && has_php_modules();
        if !is_complete {
            return None;
        }
        Some(Self {
            wordpress,
            php: program("php"),
            php_fpm: php_fpm()?,
            nginx: program("nginx"),
            mariadbd: program("mariadbd"),
            mariadb_install_db: program("mariadb-install-db"),
            mariadb: program("mariadb"),
            zip: program("zip"),
            setpriv: program("setpriv"),
        })
    }
}

fn has_php_modules() -> bool {
    let output = Command::new(program("php")).arg("-m").output().expect("php was found a moment ago");
    let modules = String::from_utf8_lossy(&output.stdout);
    PHP_MODULES.iter().all(|(module, package)| {
        modules.lines().any(|line| line == *module)
            || require::lacks(&format!("PHP's {module} (apt install {package})"))
    })
}

/// PHP-FPM carries PHP's version in its name.
fn php_fpm() -> Option<PathBuf> {
    let entries = std::fs::read_dir("/usr/sbin").ok()?;
    let is_fpm = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"));
    entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_fpm).max()
}
