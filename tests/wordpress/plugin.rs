//! A plugin of more than two thousand PHP files, and the page that proves which of them PHP has run.
//!
//! Two versions differ in every file but not in any file's size, so that only mtime tells them apart, and each has a
//! file that the other has not.

use super::http::Client;
use super::process::run;
use super::requirements::Requirements;
use serde::Deserialize;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// PHP files with one class each; the main file comes on top.
pub(crate) const CLASSES: u32 = 2100;
pub(crate) const END_MARK: &str = "<!-- manyfs-end -->";
const ZIP_LIMIT: Duration = Duration::from_secs(60);

const MAIN: &str = r#"<?php
/**
 * Plugin Name: ManyFS Bulk
 * Version: @VERSION@
 */
spl_autoload_register(function ($class) {
    if (preg_match('/^ManyFS_Bulk_(\d{4})$/', $class, $match)) {
        $file = substr($match[1], 0, 2) . "/class-manyfs-bulk-{$match[1]}.php";
        // As many autoloaders do: a place that could override comes first, and never has the file.
        if (is_file(__DIR__ . "/override/$file")) {
            include_once __DIR__ . "/override/$file";
        } else {
            include_once __DIR__ . "/includes/$file";
        }
    }
});
add_action('init', function () {
    if (!isset($_GET['manyfs_bulk'])) {
        return;
    }
    $most = (int) $_GET['manyfs_bulk'];
    $code = hash_init('crc32b');
    $bytes = hash_init('crc32b');
    $files = array_slice(glob(__DIR__ . '/includes/*/class-*.php'), 0, $most);
    $cached = 0;
    foreach ($files as $file) {
        $class = 'ManyFS_Bulk_' . substr($file, -8, 4);
        hash_update($code, $class::TOKEN);
        hash_update($bytes, file_get_contents($file));
        $cached += opcache_is_script_cached($file) ? 1 : 0;
    }
    header('Content-Type: text/html');
    echo json_encode([
        'version' => '@VERSION@',
        'files' => count($files),
        'code' => hash_final($code),
        'bytes' => hash_final($bytes),
        'cached' => $cached,
    ]);
    echo "\n<!-- manyfs-end -->";
    exit;
}, 99);
"#;

/// One version of the plugin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plugin {
    version: &'static str,
    /// Number of the first class; versions overlap in all but one.
    first: u32,
}

/// What the plugin's page says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Proof {
    pub(crate) version: String,
    pub(crate) files: u32,
    /// CRC-32 of what the executed classes hold, as hex.
    pub(crate) code: String,
    /// CRC-32 of the files' bytes, as hex.
    pub(crate) bytes: String,
    /// Files whose compiled form the pod had in its opcache.
    #[serde(default)]
    pub(crate) cached: u32,
}

impl Plugin {
    pub(crate) const FIRST: Self = Self { version: "1.0.0", first: 0 };
    pub(crate) const SECOND: Self = Self { version: "2.0.0", first: 1 };

    /// The plugin as a zip, made in `dir`.
    pub(crate) fn zip(self, requirements: &Requirements, dir: &Path) -> Vec<u8> {
        let root = dir.join(format!("plugin-{}", self.version));
        let plugin = root.join("manyfs-bulk");
        for folder in self.first / 100..=(self.first + CLASSES - 1) / 100 {
            std::fs::create_dir_all(plugin.join(format!("includes/{folder:02}")))
                .expect("the test's directory is writable");
        }
        let main = MAIN.replace("@VERSION@", self.version);
        std::fs::write(plugin.join("manyfs-bulk.php"), main).expect("the test's directory is writable");
        for class in self.classes() {
            let file = plugin.join(format!("includes/{:02}/class-manyfs-bulk-{class:04}.php", class / 100));
            std::fs::write(file, self.source(class)).expect("the test's directory is writable");
        }
        pack(requirements, &root, "manyfs-bulk")
    }

    /// What the page must say when it runs the first `most` files.
    pub(crate) fn proof(self, most: u32) -> Proof {
        let mut code = crc32fast::Hasher::new();
        let mut bytes = crc32fast::Hasher::new();
        for class in self.classes().take(most as usize) {
            code.update(self.token(class).as_bytes());
            bytes.update(self.source(class).as_bytes());
        }
        Proof {
            version: self.version.to_owned(),
            files: most.min(CLASSES),
            code: format!("{:08x}", code.finalize()),
            bytes: format!("{:08x}", bytes.finalize()),
            cached: 0,
        }
    }

    fn classes(self) -> impl Iterator<Item = u32> {
        self.first..self.first + CLASSES
    }

    fn token(self, class: u32) -> String {
        format!("{:08x}", crc32fast::hash(format!("{} {class}", self.version).as_bytes()))
    }

    /// About 4 KiB; the same length in both versions.
    fn source(self, class: u32) -> String {
        let mut source =
            format!("<?php\nclass ManyFS_Bulk_{class:04} {{\n    const TOKEN = '{}';\n", self.token(class));
        for method in 0..24 {
            let number = crc32fast::hash(format!("{class} {method}").as_bytes());
            // A String takes every write.
            let _ = writeln!(
                source,
                "    /** Returns what number {method} of class {class} stands for, or null without an argument. */\n    \
                 public function value_{method}($argument = null) {{ return $argument === null ? null : {number} ^ crc32($argument); }}"
            );
        }
        source.push_str("}\n");
        source
    }
}

/// Path of the page that runs the first `most` files.
pub(crate) fn page(most: u32) -> String {
    format!("/?manyfs_bulk={most}")
}

/// Asks the page; without its plugin (or with half of it) there is a reason instead.
pub(crate) fn ask(client: &mut Client, most: u32) -> Result<Proof, String> {
    let answer = client.get(&page(most)).map_err(|broken| broken.to_string())?;
    read(&answer.body).map_err(|reason| format!("status {}: {reason}", answer.status))
}

/// The page's text as a proof.
pub(crate) fn read(body: &[u8]) -> Result<Proof, String> {
    let text = String::from_utf8_lossy(body);
    let json = text.strip_suffix(END_MARK).ok_or_else(|| "the plugin's page does not end with its mark".to_owned())?;
    serde_json::from_str(json).map_err(|error| format!("not a proof ({error}): {json}"))
}

/// Packs `root/folder` and returns the zip's bytes.
pub(crate) fn pack(requirements: &Requirements, root: &Path, folder: &str) -> Vec<u8> {
    let zip = root.join(format!("{folder}.zip"));
    let script = "cd \"$1\" && exec \"$2\" -q -r -1 \"$3\" \"$4\"";
    run(
        [
            "sh".as_ref(),
            "-c".as_ref(),
            script.as_ref(),
            "sh".as_ref(),
            root.as_os_str(),
            requirements.zip.as_os_str(),
            zip.as_os_str(),
            folder.as_ref(),
        ],
        ZIP_LIMIT,
    );
    std::fs::read(&zip).expect("zip has written its file")
}
