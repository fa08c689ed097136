//! The shape of the house, proved: which layer may name which, what a core may not touch, how long a file may be.
//! ARCHITECTURE.md, "Layers and arrows", says the same in words.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use manyfs::limits;

/// Lines of a source file, its unit tests included.
const LINES_MAX: usize = 800;

/// Each layer and those it may name: itself never, and nothing that leads back to it. What is missing here does not exist.
const LAYERS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("types", &["limits"]),
    ("namespace", &["limits", "types"]),
    ("message", &["limits", "types", "namespace"]),
    ("replica", &["limits", "types", "message"]),
    ("coordinator", &["limits", "types", "namespace", "message"]),
    ("node", &["limits", "types", "namespace", "message", "replica", "coordinator"]),
    ("client", &["limits", "types", "namespace", "message"]),
    ("mount", &["limits", "types", "namespace", "message", "client"]),
    ("wire", &["limits", "types", "namespace", "message", "replica", "node"]),
    ("clock", &["types"]),
    // Which connections stay, for every shell that listens.
    ("admission", &["limits"]),
    ("telemetry", &["limits", "types", "admission"]),
    ("pki", &["limits", "types"]),
    ("config", &["limits", "types"]),
    ("storage", &["limits", "types", "namespace", "message", "node", "telemetry"]),
    ("transport", &["limits", "types", "message", "mount", "wire", "pki", "telemetry"]),
    // Towards its peers a node is a client: it dials them as mounts dial it. The replica tells it how given voters begin.
    (
        "server",
        &[
            "limits",
            "types",
            "namespace",
            "message",
            "replica",
            "node",
            "storage",
            "wire",
            "pki",
            "config",
            "clock",
            "telemetry",
            "admission",
            "transport",
        ],
    ),
    ("holder", &["limits", "types", "clock"]),
    ("fuse", &["limits", "types", "namespace", "message", "mount", "holder", "transport", "clock", "telemetry"]),
    ("bench", &["limits", "types"]),
    (
        "cli",
        &[
            "limits",
            "types",
            "namespace",
            "message",
            "replica",
            "node",
            "mount",
            "wire",
            "pki",
            "config",
            "clock",
            "telemetry",
            "storage",
            "server",
            "transport",
            "fuse",
            "holder",
            "bench",
        ],
    ),
    ("sim", &["limits", "types", "namespace", "message", "replica", "coordinator", "node", "mount"]),
];

/// Tests of a layer together with another one that it may not name otherwise.
const TOGETHER: &[(&str, &str)] = &[("src/node/tests/hostile", "wire")];

/// Layers without I/O, clocks, threads, async and randomness.
const CORES: &[&str] =
    &["limits", "types", "namespace", "message", "replica", "coordinator", "node", "client", "mount", "sim"];

/// What a core may not name, and why.
const BANNED_IN_CORES: &[(&str, &str)] = &[
    ("tokio", "async belongs to shells"),
    ("async fn", "async belongs to shells"),
    (".await", "async belongs to shells"),
    ("std::fs", "I/O belongs to shells"),
    ("std::net", "I/O belongs to shells"),
    ("std::thread", "threads belong to shells"),
    ("std::sync::Mutex", "locks belong to shells"),
    ("std::time::Instant", "time is an argument (types::Instant)"),
    ("SystemTime", "time is an argument or comes with the entry"),
    ("Instant::now", "time is an argument"),
    ("rand::", "randomness comes from a seed"),
    ("HashMap", "its order is random: BTreeMap or imbl"),
    ("HashSet", "its order is random: BTreeSet or imbl"),
    ("println!", "output belongs to shells"),
    ("tracing::", "a core says things through its outputs"),
];

/// A crate's types stay in the one place that adapts it.
const CRATE_HOMES: &[(&str, &[&str])] = &[
    ("fuser::", &["src/fuse/", "src/fuse.rs"]),
    ("tonic::", &["src/server/", "src/server.rs", "src/transport", "src/wire", "src/cli/"]),
    ("sled::", &["src/storage/", "src/storage.rs"]),
    ("raft::", &["src/replica/", "src/replica.rs"]),
    ("rcgen::", &["src/pki/", "src/pki.rs"]),
];

struct Source {
    path: String,
    layer: String,
    /// Without comments; unit tests are cut off for the checks of cores.
    code: String,
    lines: usize,
}

fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("source folders are readable") {
        let path = entry.expect("source folders are readable").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join("src"), &mut paths);
    paths.sort();
    assert!(paths.len() > 10, "the tidy test looks at the wrong folder: {}", root.display());
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).expect("sources are text");
            let path = path.strip_prefix(root).expect("below the root").display().to_string();
            let layer = path.trim_start_matches("src/").split(['/', '.']).next().expect("a path has a part").to_owned();
            let code = text
                .split("#[cfg(test)]\nmod ")
                .next()
                .expect("split gives one part at least")
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            Source { path, layer, code, lines: text.lines().count() }
        })
        .collect()
}

/// The layers that `code` names as `crate::layer`, also in `use crate::{layer, …}` lists.
fn layers_named(code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut named = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with('$') || code[..at].ends_with("pub(in ") {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut begin = true;
            for (offset, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => begin = true,
                    c if begin && depth == 0 && !c.is_whitespace() => {
                        named.push(word(&list[offset..]));
                        begin = false;
                    }
                    _ => {}
                }
            }
        } else {
            named.push(word(rest));
        }
    }
    named
}

fn report(title: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{title}:\n  {}", faults.join("\n  "));
}

#[test]
fn layers_name_only_those_they_may() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !matches!(source.layer.as_str(), "lib" | "main")) {
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == source.layer) else {
            faults.push(format!("{}: `{}` is not a layer of ARCHITECTURE.md", source.path, source.layer));
            continue;
        };
        for named in layers_named(&source.code) {
            let is_layer = LAYERS.iter().any(|(layer, _)| *layer == named);
            let is_test = TOGETHER.iter().any(|(path, other)| source.path.starts_with(path) && *other == named);
            if is_layer && named != source.layer && !is_test && !allowed.contains(&named.as_str()) {
                faults.push(format!("{}: `{}` may not name `{named}`", source.path, source.layer));
            }
        }
    }
    report("arrows that point the wrong way", &faults);
}

/// The layers of the table that lead back to themselves.
fn cycles(layers: &[(&str, &[&str])]) -> Vec<String> {
    let mut left: Vec<_> = layers.to_vec();
    loop {
        let before = left.len();
        let names: BTreeSet<&str> = left.iter().map(|(layer, _)| *layer).collect();
        left.retain(|(_, named)| named.iter().any(|name| names.contains(name)));
        if left.len() == before {
            return left.iter().map(|(layer, _)| (*layer).to_owned()).collect();
        }
    }
}

#[test]
fn no_layer_leads_back_to_itself() {
    report("layers in a circle", &cycles(LAYERS));
    assert_eq!(cycles(&[("low", &[]), ("left", &["low", "right"]), ("right", &["left"])]), ["left", "right"]);
}

#[test]
fn a_list_of_names_is_read_as_layers() {
    let code = "use crate::{limits, types::{Ino, name::Name},\n    node::Input};\ncrate::mount::Mount";
    assert_eq!(layers_named(code), ["limits", "types", "node", "mount"]);
}

#[test]
fn cores_touch_nothing_outside() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| CORES.contains(&source.layer.as_str())) {
        for (banned, why) in BANNED_IN_CORES {
            // The simulator writes its processes as coroutines and polls them itself, in virtual time: no runtime.
            if source.layer == "sim" && *banned == ".await" {
                continue;
            }
            if source.code.contains(banned) {
                faults.push(format!("{}: `{banned}`: {why}", source.path));
            }
        }
    }
    report("cores that know too much", &faults);
}

#[test]
fn crates_stay_in_their_homes() {
    let mut faults = Vec::new();
    for source in sources() {
        for (name, homes) in CRATE_HOMES {
            let named = source.code.match_indices(name).any(|(at, _)| {
                !source.code[..at].ends_with(|before: char| before.is_alphanumeric() || "_:".contains(before))
            });
            if named && !homes.iter().any(|home| source.path.starts_with(home)) {
                faults.push(format!("{}: `{name}` belongs to {}", source.path, homes.join(", ")));
            }
        }
    }
    report("crates away from home", &faults);
}

#[test]
fn files_are_short() {
    let faults: Vec<_> = sources()
        .iter()
        .filter(|source| source.lines > LINES_MAX)
        .map(|source| format!("{}: {} lines, {LINES_MAX} at most: split it by nouns", source.path, source.lines))
        .collect();
    report("files with more than one noun", &faults);
}

#[test]
fn unsafe_code_is_in_files_of_its_own() {
    let mut faults = Vec::new();
    for source in sources() {
        if source.code.contains("allow(unsafe_code)") && source.lines > 150 {
            faults.push(format!("{}: unsafe code lives in one small file per need", source.path));
        }
    }
    report("unsafe code among other things", &faults);
}

/// What a volume may have for which nothing else was said ended the pods of the manifests: its default was two million
/// inodes, and a store of 1 GiB or a mount of 384 MiB that reached its limit reached it again at each start.
#[test]
fn what_a_volume_may_have_by_default_fits_the_pods_of_the_manifests() {
    let limit = |file: &str, behind: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes").join(file);
        let text = fs::read_to_string(&path).expect("a manifest");
        let container = text.split_once(behind).unwrap_or_else(|| panic!("{file} has no {behind}")).1;
        let limit = container.split_once("limits: {memory: ").expect("it has a limit").1;
        let (number, unit) = limit.split_at(limit.find(|found: char| !found.is_ascii_digit()).expect("a unit"));
        let shift = if unit.starts_with("Gi") { 30 } else { 20 };
        number.parse::<u64>().expect("a number") << shift
    };
    // The log, queues on their way to the disk, sled; a mount's threads and tables.
    let (node, mount) = (160 << 20, 16 << 20);
    let node = node
        + limits::XATTR_VOLUME_BYTES_MAX
        + limits::INODES_DEFAULT * limits::NODE_BYTES_PER_INODE
        + limits::EXTENTS_PER_VOLUME_MAX * limits::NODE_BYTES_PER_EXTENT;
    let mount = mount
        + (limits::CONTENT_CACHE_BYTES + limits::DIRTY_BYTES_MAX) as u64
        + limits::XATTR_VOLUME_BYTES_MAX
        + limits::INODES_DEFAULT * limits::MOUNT_BYTES_PER_INODE
        + limits::EXTENTS_PER_VOLUME_MAX * limits::MOUNT_BYTES_PER_EXTENT;
    let mut faults = Vec::new();
    for (what, needed, given) in [
        ("storage.yaml", node, limit("storage.yaml", "- serve")),
        ("wordpress.yaml", mount, limit("wordpress.yaml", "--holder=")),
    ] {
        if needed > given {
            faults.push(format!("{what} gives {} MiB, a full volume needs {}", given >> 20, needed >> 20));
        }
    }
    report("pods with too little memory", &faults);
}

#[test]
fn no_module_is_called_mod() {
    let faults: Vec<_> =
        sources().iter().filter(|source| source.path.ends_with("/mod.rs")).map(|source| source.path.clone()).collect();
    report("foo.rs and foo/part.rs, not foo/mod.rs", &faults);
}

/// docs/protocol-rules.md names, for each rule, what fails without it: tests and breaches that there are.
#[test]
fn rules_name_tests_that_there_are() {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let map = text("docs/protocol-rules.md");
    let tests: Vec<String> = ["src", "tests"].into_iter().flat_map(texts_below).collect();
    let tests: BTreeSet<&str> = tests.iter().flat_map(|code| tests_in(code)).collect();
    let (breaches, simulated) = (text("src/sim/options.rs"), text("tests/cores/sim.rs"));
    let mut faults = Vec::new();
    for named in map.split('`').skip(1).step_by(2) {
        let is_there = match named.strip_prefix("Breach::") {
            Some("…") => true,
            Some(breach) => breaches.contains(&format!("    {breach},\n")) && simulated.contains(named),
            None if named.contains('/') => Path::new(named).exists(),
            None => tests.contains(named),
        };
        if !is_there {
            faults.push(format!("`{named}` is no test"));
        }
    }
    for rule in (1..=30).chain([71]) {
        let row = map.lines().find(|line| line.starts_with(&format!("| R{rule} |")));
        if !row.is_some_and(|row| row.contains('`') || row.contains("no test")) {
            faults.push(format!("R{rule} names no test and does not say so"));
        }
    }
    report("rules without what they name", &faults);
}

/// What all files below the folder hold.
fn texts_below(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path());
    let read = |path: PathBuf| match path.is_dir() {
        true => texts_below(path.to_str().expect("a name of ours")),
        false => vec![fs::read_to_string(&path).unwrap_or_default()],
    };
    entries.flat_map(read).collect()
}

/// Names of the functions that are marked as tests.
fn tests_in(code: &str) -> impl Iterator<Item = &str> {
    code.split("test]").skip(1).filter_map(|behind| {
        let name = behind.split_once("fn ")?.1;
        Some(name.split(['(', '<']).next().unwrap_or_default().trim())
    })
}
