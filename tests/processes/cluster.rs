//! Clusters of real processes: founded, killed, restarted and steered through the command line alone.

mod clocks;
mod failing;
mod forgetful;
mod foundings;
mod full;
mod gates;
mod mounted;
mod refounded;
mod rotten;
mod verdict;
mod waiting;

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{Cluster, listing, path, refuse, succeed, wait_for};
use manyfs::{
    message::mount::{Hello, MountPlace, ProtocolRange, Refusal, ToLeader, ToMount},
    mount::{Input, Output},
    pki::{self, Authority, Credential},
    transport::{Transport, endpoint},
    types::{
        BlockHash, ConnectionId, FoundingId, FoundingNumber, Generation, Grant, LogIndex, MountId, NodeId, UploadId,
        VolumeId,
    },
    wire::{
        hash_to_bytes,
        proto::{self, block_client::BlockClient},
    },
};
use tonic::Code;

#[test]
fn one_node_is_a_cluster() {
    let mut cluster = Cluster::founded(1);
    assert_eq!(cluster.leader(|_| true), 0);
    assert_eq!(cluster.volumes(), ["main"]);
    cluster.succeed(&["volume", "create", "site2", "--owner", "1000:1000", "--mode", "2775", "--quota", "1G"]);
    assert_eq!(cluster.volumes(), ["main", "site2"]);

    // Whatever was answered outlives a kill.
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.leader(|_| true);
    assert_eq!(cluster.volumes(), ["main", "site2"]);
    assert_eq!(cluster.nodes[0].stop(), Some(0), "{}", cluster.nodes[0].log());
}

#[test]
fn a_blank_node_waits_and_founds_nothing_by_itself() {
    let mut cluster = Cluster::blank(1);
    assert!(!cluster.nodes[0].data.exists(), "a blank node made its directory");
    let status = cluster.status().expect("answers");
    assert_eq!(status["leader"], serde_json::Value::Null);
    assert_eq!(status["quorum"], false);
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    wait_for("the node to be blank again", || cluster.status().filter(|status| status["nodes"][0]["state"] == "blank"));
    assert_eq!(cluster.nodes[0].stop(), Some(0));
}

#[test]
fn founding_can_be_repeated_and_does_not_touch_what_is_founded() {
    let mut cluster = Cluster::founded(3);
    let servers = cluster.servers();
    let init = ["cluster", "init", "--authority", path(&cluster.authority), "--nodes", &servers];
    succeed(&init);
    cluster.agreed();

    let two = format!("{},{}", cluster.nodes[0].client, cluster.nodes[1].client);
    let sentence = refuse(&["cluster", "init", "--authority", path(&cluster.authority), "--nodes", &two]);
    assert!(sentence.contains("1, 3, 5 or 7"), "{sentence}");
    let sentence =
        refuse(&["cluster", "init", "--authority", path(&cluster.authority), "--nodes", &cluster.nodes[2].client]);
    assert!(sentence.contains("node 3 of a cluster of 3 already"), "{sentence}");

    // A node that lost its disk must not come back as if it had never voted.
    cluster.nodes[1].kill();
    fs::remove_dir_all(&cluster.nodes[1].data).expect("deleted");
    cluster.nodes[1].start();
    let sentence = wait_for("the blank node to answer", || {
        let sentence = refuse(&init);
        sentence.contains("blank").then_some(sentence)
    });
    assert!(sentence.contains("the cluster runs already"), "{sentence}");
    assert!(!cluster.nodes[1].data.exists());
}

#[test]
fn the_leader_is_killed_and_another_leads() {
    let mut cluster = Cluster::founded(3);
    let first = cluster.leader(|_| true);
    cluster.succeed(&["volume", "create", "before"]);

    cluster.nodes[first].kill();
    let killed_at = Instant::now();
    let second = cluster.leader(|leader| leader != first);
    // Two seconds are the promise to mounts; here a process is started for each look.
    assert!(killed_at.elapsed() < Duration::from_secs(5), "another led only after {:?}", killed_at.elapsed());
    cluster.succeed(&["volume", "create", "between"]);
    let status = cluster.status().expect("answers");
    assert!(status["nodes"][first]["pid"].is_null());
    assert_eq!(status["nodes"][second]["leader"], true);

    cluster.nodes[first].start();
    wait_for("the killed node to follow", || {
        cluster.status().filter(|status| status["nodes"][first]["state"] == "follower")
    });
    cluster.agreed();
    assert_eq!(cluster.volumes(), ["main", "before", "between"]);
}

#[test]
fn without_a_majority_nothing_changes_and_status_still_answers() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader(|_| true);
    let others: Vec<_> = (0..3).filter(|node| *node != leader).collect();
    for node in &others {
        cluster.nodes[*node].kill();
    }
    wait_for("the leader to step down", || {
        cluster.status().filter(|status| status["quorum"] == false && status["leader"].is_null())
    });
    let sentence = cluster.refuse(&["volume", "create", "lost"]);
    assert!(sentence.contains("nothing was changed"), "{sentence}");

    for node in &others {
        cluster.nodes[*node].start();
    }
    cluster.leader(|_| true);
    cluster.agreed();
    assert_eq!(cluster.volumes(), ["main"]);
}

#[test]
fn everything_is_killed_and_comes_back() {
    let mut cluster = Cluster::founded(3);
    cluster.succeed(&["volume", "create", "kept"]);
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.leader(|_| true);
    cluster.agreed();
    assert_eq!(cluster.volumes(), ["main", "kept"]);
}

#[test]
fn leadership_is_handed_over_when_asked_and_at_a_stop() {
    let mut cluster = Cluster::founded(3);
    let first = cluster.leader(|_| true);
    let second = (first + 1) % 3;
    cluster.succeed(&["cluster", "transfer-leader", "--to", &(second + 1).to_string()]);
    assert_eq!(cluster.leader(|_| true), second);
    let sentence = cluster.refuse(&["cluster", "transfer-leader", "--to", "9"]);
    assert!(sentence.contains('9'), "{sentence}");

    assert_eq!(cluster.nodes[second].stop(), Some(0), "{}", cluster.nodes[second].log());
    let log = cluster.nodes[second].log();
    assert!(!log.contains("ERROR") && log.contains("handing leadership over"), "{log}");
    cluster.leader(|leader| leader != second);
}

#[test]
fn volumes_are_made_once_and_deleted_for_good() {
    let cluster = Cluster::founded(1);
    cluster.succeed(&["volume", "create", "a"]);
    let sentence = cluster.refuse(&["volume", "create", "a"]);
    assert!(sentence.contains("manyfs: "), "{sentence}");
    let sentence = cluster.refuse(&["volume", "delete", "a"]);
    assert!(sentence.contains("--yes"), "{sentence}");
    assert_eq!(cluster.volumes().len(), 2);
    cluster.succeed(&["volume", "delete", "a", "--yes"]);
    assert_eq!(cluster.volumes(), ["main"]);
    cluster.refuse(&["volume", "delete", "a", "--yes"]);
}

#[test]
fn a_data_directory_belongs_to_one_process_one_node_and_one_cluster() {
    let mut cluster = Cluster::founded(1);
    let data = cluster.nodes[0].data.clone();
    let listen = crate::support::free_addresses();
    let serve = |authority: &str, more: &[&str]| {
        let arguments = [
            "serve",
            "--authority",
            authority,
            "--data",
            path(&data),
            "--listen-client",
            &listen[0],
            "--listen-peer",
            &listen[1],
            "--listen-http",
            &listen[2],
        ];
        refuse(&[&arguments[..], more].concat())
    };
    let sentence = serve(path(&cluster.authority), &[]);
    assert!(sentence.contains(&cluster.nodes[0].pid().to_string()), "{sentence}");
    cluster.leader(|_| true);

    assert_eq!(cluster.nodes[0].stop(), Some(0));
    let before = listing(&data);
    let foreign = cluster.dir.path().join("foreign.toml");
    succeed(&["cluster", "authority", "--out", path(&foreign)]);
    let sentence = serve(path(&foreign), &[]);
    assert!(sentence.contains("belongs to cluster"), "{sentence}");
    let sentence = serve(path(&cluster.authority), &["--node", "2"]);
    assert!(sentence.contains("belongs to node 1") && sentence.contains("to be node 2"), "{sentence}");
    assert_eq!(listing(&data), before);

    // Offline tools read it now.
    let inspected = succeed(&["inspect", path(&data), "--json"]);
    assert!(inspected.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{inspected}");
    assert!(inspected.contains("\"what\":\"identity\""), "{inspected}");
    let checked = succeed(&["check", path(&data)]);
    assert!(checked.trim_end().ends_with("whole"), "{checked}");
}

#[test]
fn probes_and_scrapers_are_answered() {
    let cluster = Cluster::blank(1);
    let get = |path: &str| crate::support::get(&cluster.nodes[0].http, path).expect("listens");
    assert!(get("/healthz").starts_with("HTTP/1.0 200"));
    assert!(get("/readyz").starts_with("HTTP/1.0 503"));
    succeed(&["cluster", "init", "--authority", path(&cluster.authority), "--nodes", &cluster.servers()]);
    wait_for("the node to be ready", || get("/readyz").starts_with("HTTP/1.0 200").then_some(()));
    let page = get("/metrics");
    for name in ["manyfs_syncs_total", "manyfs_log_entries_total", "manyfs_node_leads 1", "manyfs_raft_term"] {
        assert!(page.contains(name), "{name} is missing: {page}");
    }
}

/// A mount's end of the wire, without a mount.
struct Caller {
    mount: MountId,
    transport: Transport,
    inputs: mpsc::Receiver<Input>,
    _runtime: tokio::runtime::Runtime,
}

impl Caller {
    fn new(credential: &Credential) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
        let (sender, inputs) = mpsc::channel();
        let sender = std::sync::Mutex::new(sender);
        let deliver = move |input| drop(sender.lock().expect("no panic").send(input));
        let transport = Transport::new(credential, runtime.handle().clone(), Arc::new(deliver));
        Self { mount: MountId(pki::random().expect("random numbers")), transport, inputs, _runtime: runtime }
    }

    fn execute(&self, output: Output) {
        assert_eq!(self.transport.execute(output), None);
    }

    fn next(&self) -> Input {
        self.inputs.recv_timeout(crate::support::LIMIT).expect("an input")
    }

    /// Attaches at `address` as a new mount; what the node says to that.
    fn attach(&self, connection: u64, address: &str) -> Result<ToMount, String> {
        let connection = ConnectionId(connection);
        self.execute(Output::Connect { connection, address: address.to_owned() });
        match self.next() {
            Input::Connected { .. } => {}
            Input::Disconnected { reason, .. } => return Err(reason),
            other => panic!("{other:?}"),
        }
        let hello = Hello {
            protocol: ProtocolRange { min: 1, max: 1 },
            features: 0,
            level_max: 1,
            mount: self.mount,
            session: None,
            generation: Generation(connection.0),
            applied: LogIndex(0),
            orphans: Vec::new(),
            place: MountPlace::default(),
        };
        self.execute(Output::Send { connection, message: ToLeader::Hello(hello) });
        match self.next() {
            Input::Message { message, .. } => Ok(message),
            Input::Disconnected { reason, .. } => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn store(&self, address: &str, bytes: &'static [u8], hash: BlockHash) -> Result<(), String> {
        self.execute(Output::StoreBlock {
            ticket: 1,
            store: NodeId(1),
            address: address.to_owned(),
            hash,
            bytes: bytes.into(),
            upload: UploadId(1),
        });
        loop {
            if let Input::BlockStored { result, .. } = self.next() {
                return result.map_err(|error| error.to_string());
            }
        }
    }

    fn fetch(&self, address: &str, hash: BlockHash) -> Result<Vec<u8>, String> {
        self.execute(Output::FetchBlock { ticket: 2, store: NodeId(1), address: address.to_owned(), hash });
        loop {
            if let Input::BlockFetched { result, .. } = self.next() {
                return result.map(|bytes| bytes.to_vec()).map_err(|error| error.to_string());
            }
        }
    }
}

/// An address that leads to another, and how often it was dialled.
fn by_way_of_another(address: &str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let own = listener.local_addr().expect("bound").to_string();
    let (to, dialled) = (address.to_owned(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&dialled);
    thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
            let (near, far) = (stream.expect("accepted"), TcpStream::connect(&to).expect("it listens"));
            for (mut from, mut to) in
                [(near.try_clone().expect("cloned"), far.try_clone().expect("cloned")), (far, near)]
            {
                thread::spawn(move || io::copy(&mut from, &mut to));
            }
        }
    });
    (own, dialled)
}

#[test]
fn a_connection_that_was_prepared_is_used() {
    let cluster = Cluster::founded(1);
    let address = cluster.nodes[0].client.as_str();
    let credential = cluster.credential("main", &[]);
    let (prepared, dialled) = by_way_of_another(address);
    let caller = Caller::new(&credential);
    caller.execute(Output::Prepare { address: prepared.clone() });
    wait_for("the other address to be dialled", || (dialled.load(Ordering::Relaxed) == 1).then_some(()));
    assert!(matches!(caller.attach(1, &prepared), Ok(ToMount::Welcome(_))));
    assert_eq!(dialled.load(Ordering::Relaxed), 1);
    // What was prepared in vain is in nobody's way.
    for in_vain in ["127.0.0.1:1", "no address"] {
        let caller = Caller::new(&credential);
        caller.execute(Output::Prepare { address: in_vain.to_owned() });
        assert!(matches!(caller.attach(1, address), Ok(ToMount::Welcome(_))), "{in_vain}");
        caller.execute(Output::Prepare { address: in_vain.to_owned() });
    }
    let caller = Caller::new(&credential);
    caller.execute(Output::Prepare { address: "127.0.0.1:1".to_owned() });
    caller.attach(1, "127.0.0.1:1").expect_err("nobody listens there");
}

#[test]
fn a_credential_opens_its_own_volume_of_its_own_cluster_and_no_more() {
    let cluster = Cluster::founded(1);
    let address = cluster.nodes[0].client.as_str();
    let credential = cluster.credential("main", &[]);
    let authority = Authority::load(&cluster.authority).expect("an authority");
    let issue = |grant| authority.issue_mount(grant, vec![address.to_owned()]).expect("issued");

    let caller = Caller::new(&credential);
    let ToMount::Welcome(welcome) = caller.attach(1, address).expect("attached") else { panic!("no welcome") };
    let bytes = b"some bytes";
    let hash = BlockHash::of(bytes);
    assert_eq!(caller.fetch(address, hash), Err("the store does not have the block".to_owned()));
    assert_eq!(caller.store(address, bytes, hash), Ok(()));
    assert_eq!(caller.fetch(address, hash).as_deref(), Ok(bytes.as_slice()));
    let refused = caller.store(address, b"other bytes", hash).expect_err("a wrong name");
    assert!(refused.contains("block"), "{refused}");

    // Another founding with the same authority: neither tree nor blocks.
    let founding = FoundingId { number: FoundingNumber(1), ..credential.grant.founding };
    let stranger = Caller::new(&issue(Grant { founding, ..credential.grant.clone() }));
    match stranger.attach(1, address) {
        Ok(ToMount::Refused { refusal: Refusal::Foreign, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(stranger.fetch(address, hash).is_err_and(|refused| refused.contains("founding")));
    // A volume that does not exist.
    let nowhere = Grant { volume: VolumeId(99), name: "nowhere".to_owned(), ..credential.grant.clone() };
    match Caller::new(&issue(nowhere)).attach(1, address) {
        Ok(ToMount::Refused { refusal: Refusal::Permanent, reason }) => assert!(reason.contains("nowhere"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let sentence = cluster.refuse(&["credential", "create", "--volume", "nowhere", "--out", "/nowhere/x.toml"]);
    assert!(sentence.contains("no volume nowhere"), "{sentence}");
    // Reading only: blocks are given and not taken.
    let reader = Caller::new(&cluster.credential("main", &["--read-only"]));
    assert!(matches!(reader.attach(1, address), Ok(ToMount::Welcome(_))));
    assert_eq!(reader.fetch(address, hash).as_deref(), Ok(bytes.as_slice()));
    let refused = reader.store(address, b"more", BlockHash::of(b"more")).expect_err("read-only");
    assert!(refused.contains("read-only"), "{refused}");
    // Another volume's credential stores nothing for this one.
    cluster.succeed(&["volume", "create", "other"]);
    let other = Caller::new(&cluster.credential("other", &[]));
    let Ok(ToMount::Welcome(elsewhere)) = other.attach(1, address) else { panic!("no welcome") };
    assert_ne!(elsewhere.volume, welcome.volume);
    // It reads nothing of it either, until it has shown that it has the bytes.
    assert_eq!(other.fetch(address, hash), Err("the store does not have the block".to_owned()));
    assert_eq!(other.store(address, bytes, hash), Ok(()));
    assert_eq!(other.fetch(address, hash).as_deref(), Ok(bytes.as_slice()));

    // Another authority, even with this cluster's id in its file.
    let foreign = Authority::create().expect("an authority");
    let mut foreign = foreign.issue_mount(credential.grant.clone(), vec![address.to_owned()]).expect("issued");
    let refused = Caller::new(&foreign).attach(1, address).expect_err("a foreign authority");
    assert!(refused.contains("belongs to another cluster"), "{refused}");
    // It trusts our authority, but ours does not trust it.
    foreign.identity.authority = credential.identity.authority.clone();
    let refused = Caller::new(&foreign).attach(1, address).expect_err("a foreign certificate");
    assert!(refused.contains("does not accept our certificate"), "{refused}");
    wait_for("the refusal to be logged", || cluster.nodes[0].log().contains("refused a connection").then_some(()));

    // A mount administers nothing.
    let admin = cluster.dir.path().join("not-an-authority.toml");
    credential.save(&admin).expect("written");
    let sentence = refuse(&["status", "--authority", path(&admin), "--servers", address]);
    assert!(sentence.contains("is not the authority of a cluster"), "{sentence}");
}

/// An upload could name any number as its session: its blocks were kept for ever.
#[test]
fn an_upload_is_for_a_session_that_is_there() {
    let mut cluster = Cluster::founded(1);
    let address = cluster.nodes[0].client.clone();
    let credential = cluster.credential("main", &[]);
    let caller = Caller::new(&credential);
    let Ok(ToMount::Welcome(welcome)) = caller.attach(1, &address) else { panic!("no welcome") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let channel = endpoint(&address, &credential.identity, None).expect("an address");
    let channel = runtime.block_on(channel.connect()).expect("it listens");
    let put = |session: u64| {
        let request = proto::PutRequest {
            hash: hash_to_bytes(BlockHash::of(b"a block")),
            content: b"a block".as_slice().into(),
            volume: credential.grant.volume.0,
            session,
            upload: 1,
        };
        let put = runtime.block_on(BlockClient::new(channel.clone()).put(request));
        put.map(drop).map_err(|status| status.code())
    };
    let session = welcome.session.0;
    assert_eq!(put(session + 1000), Err(Code::Unavailable));
    assert_eq!(put(session), Ok(()));
    caller.execute(Output::Send { connection: ConnectionId(1), message: ToLeader::Leave });
    wait_for("the session to end", || (put(session) == Err(Code::FailedPrecondition)).then_some(()));
    assert_eq!(cluster.nodes[0].stop(), Some(0));
    let inspected = succeed(&["inspect", path(&cluster.nodes[0].data), "--json"]);
    assert!(!inspected.contains(&format!("\"session\":{}", session + 1000)), "{inspected}");
}

#[test]
fn a_credential_is_never_overwritten_and_can_be_printed() {
    let cluster = Cluster::founded(1);
    let out = cluster.dir.path().join("main.toml");
    let arguments = ["credential", "create", "--json", "--out", path(&out)];
    let made: serde_json::Value = serde_json::from_str(&cluster.succeed(&arguments)).expect("JSON");
    assert_eq!((made["volume"].as_str(), made["access"].as_str()), (Some("main"), Some("read-write")));
    let before = fs::read_to_string(&out).expect("readable");
    assert!(before.contains(&format!("servers = [\"{}\"]", cluster.nodes[0].client)), "{before}");
    let sentence = cluster.refuse(&arguments);
    assert!(sentence.contains("exists already"), "{sentence}");
    assert_eq!(fs::read_to_string(&out).expect("readable"), before);
    let printed = cluster.dir.path().join("printed.toml");
    fs::write(&printed, cluster.succeed(&["credential", "create", "--out", "-"])).expect("written");
    assert_eq!(Credential::load(&printed).expect("a credential").grant, Credential::load(&out).expect("one").grant);
    // One that cannot be written is not made.
    let nowhere = cluster.dir.path().join("none").join("x.toml");
    cluster.refuse(&["credential", "create", "--out", path(&nowhere)]);
    assert!(!nowhere.exists());
}

#[test]
fn a_node_of_another_cluster_is_told_apart() {
    let cluster = Cluster::blank(1);
    let foreign = cluster.dir.path().join("foreign.toml");
    succeed(&["cluster", "authority", "--out", path(&foreign)]);
    let sentence = refuse(&["cluster", "init", "--authority", path(&foreign), "--nodes", &cluster.nodes[0].client]);
    assert!(sentence.contains("belongs to another cluster") && sentence.contains("nothing was changed"), "{sentence}");
    assert!(!cluster.nodes[0].data.exists());
}
