//! The load balancer in front of both pods. It never retries and never takes a pod out: every failure of a pod is a
//! failure that the visitor sees, and the test counts.

use super::deadline::wait_for;
use super::pod::launch_nginx;
use super::process::Process;
use super::requirements::Requirements;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(30);

/// A running balancer.
#[derive(Debug)]
pub(crate) struct Balancer {
    server: SocketAddr,
    _nginx: Process,
}

impl Balancer {
    pub(crate) fn start(
        requirements: &Requirements,
        dir: &Path,
        logs: &Path,
        server: SocketAddr,
        pods: &[SocketAddr],
    ) -> Self {
        let upstream: String = pods.iter().map(|pod| format!("server {pod} max_fails=0;\n")).collect();
        let servers = format!(
            "upstream pods {{\n{upstream}}}\n\
             server {{\n\
               listen {server};\n\
               location / {{\n\
                 proxy_pass http://pods;\n\
                 proxy_next_upstream off;\n\
                 proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\";\n\
                 proxy_set_header Host $http_host;\n\
                 proxy_read_timeout 300s;\n\
               }}\n\
             }}\n"
        );
        let log = logs.join("nginx-balancer.log");
        let mut nginx = launch_nginx(requirements, "nginx of the balancer", dir, &servers, &log);
        wait_for("the balancer to listen", START_LIMIT, || {
            nginx.assert_running(&log);
            TcpStream::connect(server).ok()
        });
        Self { server, _nginx: nginx }
    }

    pub(crate) fn server(&self) -> SocketAddr {
        self.server
    }
}
