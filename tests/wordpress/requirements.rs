//! What this machine must have. A missing thing fails the test with one sentence that says what to do: a test that
//! skips itself would be green on a machine where nothing was proven.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything the test starts, and the Debian packages that bring it.
const INSTALL: &str = "apt-get install -y --no-install-recommends wordpress php-fpm php-cli php-mysql php-gd php-zip php-xml \
     php-mbstring mariadb-server nginx-light zip util-linux";

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
    /// Finds everything, or panics with a sentence that names what is missing and how to get it.
    pub(crate) fn of_this_machine() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test mounts file systems and starts servers under other users: run it as root"
        );
        assert!(
            Path::new("/dev/fuse").exists(),
            "/dev/fuse is missing: load the kernel module (modprobe fuse) or pass the device into the container"
        );
        let wordpress = PathBuf::from("/usr/share/wordpress");
        assert!(
            wordpress.join("wp-includes/version.php").exists(),
            "WordPress is not in {}: {INSTALL}",
            wordpress.display()
        );
        let found = Self {
            wordpress,
            php: program("php"),
            php_fpm: php_fpm(),
            nginx: program("nginx"),
            mariadbd: program("mariadbd"),
            mariadb_install_db: program("mariadb-install-db"),
            mariadb: program("mariadb"),
            zip: program("zip"),
            setpriv: program("setpriv"),
        };
        found.require_php_modules();
        found
    }

    fn require_php_modules(&self) {
        let output = Command::new(&self.php).arg("-m").output().expect("php was found a moment ago");
        let modules = String::from_utf8_lossy(&output.stdout);
        for module in ["gd", "mysqli", "zip", "Zend OPcache"] {
            assert!(modules.lines().any(|line| line == module), "PHP lacks the module {module}: {INSTALL}");
        }
    }
}

fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("the program {name} is missing: {INSTALL}"))
}

/// PHP-FPM carries PHP's version in its name.
fn php_fpm() -> PathBuf {
    let mut candidates: Vec<PathBuf> = std::fs::read_dir("/usr/sbin")
        .expect("/usr/sbin can be read")
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm")))
        .collect();
    candidates.sort();
    candidates.pop().unwrap_or_else(|| panic!("the program php-fpm is missing: {INSTALL}"))
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"])
        .map(|directory| Path::new(directory).join(name))
        .find(|candidate| candidate.is_file())
}
