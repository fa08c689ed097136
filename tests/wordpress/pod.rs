//! One WordPress pod: its own copy of WordPress's code, its own php-fpm and nginx, wp-content on its mount.
//!
//! What a container would hold is a directory here: `core/` (code), `fpm.conf`, `nginx.conf`, `tmp/`.

use super::deadline::wait_for;
use super::http::Client;
use super::process::{Launch, Process, run};
use super::requirements::Requirements;
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// www-data of Debian, and the owner of a fresh volume's root.
pub(crate) const WWW_DATA: u32 = 33;
const PHP_CHILDREN: u32 = 4;
const START_LIMIT: Duration = Duration::from_secs(30);
const COPY_LIMIT: Duration = Duration::from_secs(120);

/// A running pod. Fields end in the order they stand: first what takes requests, then what serves them.
#[derive(Debug)]
pub(crate) struct Pod {
    name: &'static str,
    server: SocketAddr,
    _nginx: Process,
    _php: Process,
}

/// What a pod is made of.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    pub(crate) name: &'static str,
    /// The pod's own directory, made by [`copy_core`].
    pub(crate) dir: &'a Path,
    pub(crate) logs: &'a Path,
    /// Mount that holds wp-content.
    pub(crate) content: &'a Path,
    pub(crate) database_socket: &'a Path,
    pub(crate) server: SocketAddr,
    /// `host:port` of the site, the balancer's.
    pub(crate) site: &'a str,
}

impl Pod {
    /// Starts php-fpm and nginx over code that [`copy_core`] has laid out.
    pub(crate) fn start(requirements: &Requirements, recipe: &Recipe<'_>) -> Self {
        let core = recipe.dir.join("core");
        let temporary = recipe.dir.join("tmp");
        std::fs::create_dir_all(&temporary).expect("the test's directory is writable");
        std::os::unix::fs::chown(&temporary, Some(WWW_DATA), Some(WWW_DATA)).expect("root may chown");
        std::os::unix::fs::symlink(recipe.content, core.join("wp-content"))
            .expect("wp-content was left out of the code");
        std::fs::write(core.join("wp-config.php"), wp_config(recipe)).expect("the pod's code is writable");

        let socket = recipe.dir.join("fpm.sock");
        let php_log = recipe.logs.join(format!("php-{}.log", recipe.name));
        let php = start_php(requirements, recipe, &socket, &temporary, &php_log);
        let nginx_log = recipe.logs.join(format!("nginx-{}.log", recipe.name));
        let nginx = start_nginx(requirements, recipe, &core, &socket, &nginx_log);

        let server = recipe.server;
        let mut pod = Self { name: recipe.name, server, _nginx: nginx, _php: php };
        wait_for(&format!("pod {} to answer", recipe.name), START_LIMIT, || {
            pod._php.assert_running(&php_log);
            pod._nginx.assert_running(&nginx_log);
            let mut client = Client::new(server, recipe.site, START_LIMIT);
            client.get("/wp-admin/install.php").ok().filter(|response| response.status == 200)
        });
        pod
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn server(&self) -> SocketAddr {
        self.server
    }
}

/// Copies WordPress's code into `dir/core`, Debian's symlinks resolved, and moves wp-content out to `dir/seed`.
pub(crate) fn copy_core(requirements: &Requirements, dir: &Path) -> PathBuf {
    std::fs::create_dir_all(dir).expect("the test's directory is writable");
    let core = dir.join("core");
    run(["cp".as_ref(), "-rL".as_ref(), requirements.wordpress.as_os_str(), core.as_os_str()], COPY_LIMIT);
    let seed = dir.join("seed");
    std::fs::rename(core.join("wp-content"), &seed).expect("Debian's WordPress has wp-content in its tree");
    seed
}

fn wp_config(recipe: &Recipe<'_>) -> String {
    let keys: String = ["AUTH_KEY", "SECURE_AUTH_KEY", "LOGGED_IN_KEY", "NONCE_KEY"]
        .into_iter()
        .chain(["AUTH_SALT", "SECURE_AUTH_SALT", "LOGGED_IN_SALT", "NONCE_SALT"])
        .map(|key| format!("define('{key}', 'the same in both pods: {key}');\n"))
        .collect();
    format!(
        r#"<?php
define('DB_NAME', 'wordpress');
define('DB_USER', 'wordpress');
define('DB_PASSWORD', 'wordpress');
define('DB_HOST', 'localhost:{socket}');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
{keys}
define('WP_HOME', 'http://{site}');
define('WP_SITEURL', 'http://{site}');
define('WP_CONTENT_DIR', '{content}');
define('WP_DEFAULT_THEME', 'manyfs-first');
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('AUTOMATIC_UPDATER_DISABLED', true);
define('DISABLE_WP_CRON', true);
define('FS_METHOD', 'direct');
define('WP_MEMORY_LIMIT', '256M');
$table_prefix = 'wp_';
if (!defined('ABSPATH')) {{
    define('ABSPATH', __DIR__ . '/');
}}
require_once ABSPATH . 'wp-settings.php';
"#,
        socket = recipe.database_socket.display(),
        site = recipe.site,
        content = recipe.content.display(),
    )
}

fn start_php(requirements: &Requirements, recipe: &Recipe<'_>, socket: &Path, temporary: &Path, log: &Path) -> Process {
    let config = recipe.dir.join("fpm.conf");
    let text = format!(
        "[global]\n\
         error_log = {log}\n\
         daemonize = no\n\
         [pod]\n\
         user = www-data\n\
         group = www-data\n\
         listen = {socket}\n\
         listen.owner = www-data\n\
         listen.group = www-data\n\
         pm = static\n\
         pm.max_children = {PHP_CHILDREN}\n\
         catch_workers_output = yes\n\
         php_admin_value[error_log] = {log}\n\
         php_admin_flag[log_errors] = on\n\
         php_admin_flag[display_errors] = off\n\
         php_admin_value[memory_limit] = 256M\n\
         php_admin_value[upload_max_filesize] = 64M\n\
         php_admin_value[post_max_size] = 64M\n\
         php_admin_value[upload_tmp_dir] = {temporary}\n\
         php_admin_value[sys_temp_dir] = {temporary}\n\
         php_admin_value[sendmail_path] = /bin/true\n",
        log = log.display(),
        socket = socket.display(),
        temporary = temporary.display(),
    );
    std::fs::write(&config, text).expect("the pod's directory is writable");
    // Every request compares each file's mtime with the cached one: what a site on one disk has, two pods must have too.
    let settings = [
        "opcache.enable=1",
        "opcache.validate_timestamps=1",
        "opcache.revalidate_freq=0",
        "opcache.memory_consumption=192",
        "opcache.interned_strings_buffer=16",
        "opcache.max_accelerated_files=20000",
        "opcache.max_wasted_percentage=50",
    ];
    let mut argv = vec![requirements.php_fpm.as_os_str().to_owned(), "--nodaemonize".into()];
    argv.extend(["--fpm-config".into(), config.into_os_string()]);
    for setting in settings {
        argv.extend(["-d".into(), setting.into()]);
    }
    Process::start(
        requirements,
        Launch { name: "php-fpm", argv, log, stop_signal: Signal::SIGTERM, user: None, pipe_output: false },
    )
}

fn start_nginx(requirements: &Requirements, recipe: &Recipe<'_>, core: &Path, socket: &Path, log: &Path) -> Process {
    // Written out: Debian's fastcgi_params passes the host without its port, and WordPress redirects to the one with it.
    let parameters: String = [
        "SCRIPT_FILENAME $realpath_root$fastcgi_script_name",
        "SCRIPT_NAME $fastcgi_script_name",
        "QUERY_STRING $query_string",
        "REQUEST_METHOD $request_method",
        "REQUEST_URI $request_uri",
        "REQUEST_SCHEME $scheme",
        "CONTENT_TYPE $content_type",
        "CONTENT_LENGTH $content_length",
        "DOCUMENT_ROOT $document_root",
        "DOCUMENT_URI $document_uri",
        "GATEWAY_INTERFACE CGI/1.1",
        "REMOTE_ADDR $remote_addr",
        "SERVER_PROTOCOL $server_protocol",
        "SERVER_SOFTWARE nginx",
        "REDIRECT_STATUS 200",
    ]
    .into_iter()
    .map(|parameter| format!("fastcgi_param {parameter};\n"))
    .collect();
    let server = format!(
        "server {{\n\
           listen {server};\n\
           root {core};\n\
           index index.php;\n\
           add_header X-Pod {name} always;\n\
           location / {{ try_files $uri $uri/ /index.php?$args; }}\n\
           location ^~ /wp-content/uploads/ {{ try_files $uri =404; }}\n\
           location ~ \\.php$ {{\n\
             try_files $uri =404;\n\
             {parameters}\
             fastcgi_param HTTP_HOST {site};\n\
             fastcgi_pass unix:{socket};\n\
             fastcgi_read_timeout 300s;\n\
           }}\n\
         }}\n",
        server = recipe.server,
        core = core.display(),
        name = recipe.name,
        socket = socket.display(),
        site = recipe.site,
    );
    launch_nginx(requirements, &format!("nginx of pod {}", recipe.name), &recipe.dir.join("nginx"), &server, log)
}

/// Starts one nginx with its own prefix around `servers`, the inside of an `http` block.
pub(crate) fn launch_nginx(
    requirements: &Requirements,
    name: &str,
    prefix: &Path,
    servers: &str,
    log: &Path,
) -> Process {
    std::fs::create_dir_all(prefix).expect("the test's directory is writable");
    let config = prefix.join("nginx.conf");
    let spool: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .into_iter()
        .map(|kind| format!("{kind}_temp_path {};\n", prefix.join(kind).display()))
        .collect();
    let text = format!(
        "daemon off;\n\
         user www-data;\n\
         worker_processes 1;\n\
         pid {prefix}/pid;\n\
         error_log {log};\n\
         events {{ worker_connections 512; }}\n\
         http {{\n\
         include /etc/nginx/mime.types;\n\
         default_type application/octet-stream;\n\
         access_log off;\n\
         sendfile on;\n\
         client_max_body_size 64m;\n\
         {spool}{servers}}}\n",
        prefix = prefix.display(),
        log = log.display(),
    );
    std::fs::write(&config, text).expect("the test's directory is writable");
    let argv = vec![
        requirements.nginx.as_os_str().to_owned(),
        "-p".into(),
        prefix.as_os_str().to_owned(),
        "-c".into(),
        config.into_os_string(),
        "-e".into(),
        log.as_os_str().to_owned(),
    ];
    Process::start(
        requirements,
        Launch { name, argv, log, stop_signal: Signal::SIGTERM, user: None, pipe_output: false },
    )
}
