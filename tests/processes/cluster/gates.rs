//! What connections of strangers cost: nothing that a cluster needs.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::mounted::{Mounted, apart};
use crate::support::{self, Cluster, wait_for};

/// Connections to each port of a node.
const CONNECTIONS: usize = 1000;

/// The first bytes of a TLS handshake, as a client of ours sends them.
fn half_a_handshake() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = manyfs::pki::SERVER_NAME.try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("written");
    hello
}

/// Holds this many connections to a port, every second one with a first word that nothing follows; each that the node ends
/// is made again.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
    open: Arc<AtomicUsize>,
}

impl Flood {
    fn of(address: String, word: Vec<u8>) -> Self {
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&open));
        let thread = thread::spawn(move || {
            let mut streams: Vec<Option<TcpStream>> = (0..CONNECTIONS).map(|_| None).collect();
            while !stopped.load(Ordering::Relaxed) {
                for (number, place) in streams.iter_mut().enumerate() {
                    if place.as_mut().is_some_and(has_ended) {
                        *place = None;
                    }
                    if place.is_none() {
                        *place = connect(&address, if number % 2 == 0 { &word } else { &[] });
                    }
                }
                count.store(streams.iter().flatten().count(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(200));
            }
        });
        Self { stop, thread: Some(thread), open }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed.
            let _ = thread.join();
        }
    }
}

fn connect(address: &str, word: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_nonblocking(true).ok()?;
    // Half a word is as good.
    let _ = stream.write(word);
    Some(stream)
}

fn has_ended(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// 234 idle connections to the HTTP port took every descriptor of a node: a small write found none, and the store ended
/// for good. Here each node may have 256 files open, and a thousand strangers stand at each of its ports.
#[test]
fn a_thousand_strangers_at_every_port_stop_no_write() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("as many as may be");
    assert!(hard > 9 * CONNECTIONS as u64 + 1000, "{soft} {hard}: not enough descriptors for this test");
    apart(|| {
        let mut cluster = Cluster::founded(3);
        for node in &mut cluster.nodes {
            node.kill();
            node.start_limited(256);
        }
        cluster.leader(|_| true);
        let mounted = Mounted::new(&cluster);
        mounted.write("before", 1, 10_000).expect("written");
        let hello = half_a_handshake();
        let floods: Vec<_> = cluster
            .nodes
            .iter()
            .flat_map(|node| {
                let peer = node.peer.clone();
                let http = b"GET /healthz HTTP/1.1\r\nHost: ".to_vec();
                [(node.client.clone(), hello.clone()), (peer, hello.clone()), (node.http.clone(), http)]
            })
            .map(|(address, word)| Flood::of(address, word))
            .collect();
        wait_for("strangers at every port", || {
            floods.iter().all(|flood| flood.open.load(Ordering::Relaxed) > 0).then_some(())
        });
        // More than a segment of the log has, and a new pack: the store opens files meanwhile.
        for number in 0..40_u64 {
            mounted.write(&format!("small {number}"), number, 1000).expect("a small write");
            mounted.write(&format!("large {number}"), 100 + number, 1 << 20).expect("a large write");
        }
        for node in &mut cluster.nodes {
            assert!(!node.has_ended(), "a node has ended: {}", node.log());
        }
        wait_for("an answer to a probe", || {
            support::get(&cluster.nodes[0].http, "/healthz").filter(|answer| answer.contains("200")).map(drop)
        });
        wait_for("administrators to be let in", || cluster.status().filter(|status| status["quorum"] == true));
        drop(floods);
        assert!(mounted.holds("small 39", 39, 1000) && mounted.holds("large 39", 139, 1 << 20));
        cluster.agreed();
        for node in &cluster.nodes {
            let log = node.log();
            assert!(!log.contains("no file descriptor was left"), "{log}");
        }
    });
}
