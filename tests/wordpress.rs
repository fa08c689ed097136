//! Two WordPress pods on one wp-content, for real: MariaDB, two times nginx and php-fpm with code of their own, a
//! balancer that never retries, and `manyfs demo` below wp-content.
//!
//! Promises shown here: README.md "Coherence" (what one pod has done, the other serves at once, caches warm),
//! README.md "Availability" (a killed storage node costs no request), README.md "Identity" (opcache sees every new
//! version of a file by its mtime).
//!
//! Needs root, /dev/fuse and Debian packages (`support/require.rs`). One test is one whole site: steps
//! build on each other, and the machine has two cores.

#[path = "support/address.rs"]
mod address;
#[path = "support/require.rs"]
mod require;
mod wordpress {
    pub(crate) mod admin;
    pub(crate) mod balancer;
    pub(crate) mod cluster;
    pub(crate) mod database;
    pub(crate) mod deadline;
    pub(crate) mod ground;
    pub(crate) mod http;
    pub(crate) mod load;
    pub(crate) mod media;
    pub(crate) mod plugin;
    pub(crate) mod pod;
    pub(crate) mod process;
    pub(crate) mod requirements;
    pub(crate) mod scenario;
    pub(crate) mod site;
    pub(crate) mod theme;
}

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;
use wordpress::http::Client;
use wordpress::load::{Kind, PATIENCE, Request, attempt};
use wordpress::scenario::Scenario;

#[test]
fn two_pods_on_one_wp_content() {
    let Some(mut scenario) = Scenario::begin() else { return };
    let [kept, deleted] = scenario.uploads_are_whole_at_the_other_pod();
    scenario.plugin_is_at_the_other_pod();
    scenario.theme_is_at_both_pods();
    scenario.deleted_media_are_gone_at_the_other_pod(&deleted);
    scenario.killed_storage_nodes_cost_no_request(&kept);
}

/// "Zero failed" is worth as much as the counting: each kind of failure is served to it once.
#[test]
fn every_kind_of_failure_is_counted() {
    let visit = |answer: &'static str, delay: Duration| -> Request {
        let server = answer_once(answer, delay);
        let mut client = Client::new(server, "site.invalid", PATIENCE + Duration::from_secs(5));
        attempt(Kind::FrontPage, || client.get("/"), |_| Ok(())).0
    };
    let at_once = Duration::ZERO;
    let good = visit("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell", at_once);
    assert_eq!(good.failure, None);
    let chunked = visit("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n0\r\n\r\n", at_once);
    assert_eq!(chunked.failure, None);
    for (what, answer) in [
        ("an error of the server", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"),
        ("a missing file", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        ("a body shorter than announced", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nwell"),
        ("chunks without an end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n"),
        ("a connection closed without an answer", ""),
    ] {
        assert!(visit(answer, at_once).failure.is_some(), "{what} was not counted");
    }
    let late = visit("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell", PATIENCE + Duration::from_millis(100));
    assert!(late.failure.is_some_and(|failure| failure.starts_with("took 5.1")), "a late answer was not counted");
    let mut client = Client::new(refusing(), "site.invalid", PATIENCE);
    assert!(attempt(Kind::FrontPage, || client.get("/"), |_| Ok(())).0.failure.is_some(), "a refusal was not counted");
}

/// A server that takes one connection, reads its request, and answers with these bytes after `delay`.
fn answer_once(answer: &'static str, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let server = listener.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        let (mut visitor, _) = listener.accept().expect("the client connects");
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && visitor.read(&mut byte).expect("the client asks") == 1 {
            request.extend(byte);
        }
        // The lateness that is to be counted, not a wait for something.
        std::thread::sleep(delay);
        visitor.write_all(answer.as_bytes()).expect("the client still listens");
    });
    server
}

/// An address where nobody listens any more.
fn refusing() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address")
}
