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
    /// Without comments and without test modules that stand in the file. Tests in files of their own are sources, too.
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
            Source::new(path.strip_prefix(root).expect("below the root").display().to_string(), &text)
        })
        .collect()
}

impl Source {
    fn new(path: String, text: &str) -> Self {
        let layer = path.trim_start_matches("src/").split(['/', '.']).next().expect("a path has a part").to_owned();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let code = without_inline_tests(text).into_iter().filter(is_code).collect::<Vec<_>>().join("\n");
        Self { path, layer, code, lines: text.lines().count() }
    }
}

/// The lines of a source but for its `#[cfg(test)] mod … { … }`. rustfmt puts the brace that ends such a module under
/// the line that begins it. Should a string hold such a line too, the module seems to end early, and
/// more is looked at, not less.
fn without_inline_tests(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut kept, mut at) = (Vec::new(), 0);
    while let Some(line) = lines.get(at) {
        match inline_test_ends(&lines[at..]) {
            Some(count) => at += count,
            None => {
                kept.push(*line);
                at += 1;
            }
        }
    }
    kept
}

/// Lines of the test module that begins with the first of these, if one does.
fn inline_test_ends(lines: &[&str]) -> Option<usize> {
    let indent = lines[0].strip_suffix("#[cfg(test)]")?;
    let is_attribute = |line: &&str| line.trim_start().starts_with("#[");
    let attributes = lines.iter().take_while(|line| is_attribute(line)).count();
    let head = lines.get(attributes)?.trim_start();
    let head = head.strip_prefix("pub").map_or(head, |rest| rest.trim_start_matches(|c| c != ' ').trim_start());
    let is_module = head.starts_with("mod ") && head.ends_with('{');
    let end = format!("{indent}}}");
    is_module.then(|| lines.iter().position(|line| *line == end).map_or(lines.len(), |last| last + 1))
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

fn is_core(source: &Source) -> bool {
    CORES.contains(&source.layer.as_str())
}

/// What a core's source names and may not.
fn faults_of_core(source: &Source) -> Vec<String> {
    // The simulator writes its processes as coroutines and polls them itself, in virtual time: no runtime.
    let is_allowed = |banned: &str| source.layer == "sim" && banned == ".await";
    let named = BANNED_IN_CORES.iter().filter(|(banned, _)| source.code.contains(banned) && !is_allowed(banned));
    named.map(|(banned, why)| format!("{}: `{banned}`: {why}", source.path)).collect()
}

#[test]
fn cores_touch_nothing_outside() {
    let faults: Vec<_> = sources().iter().filter(|source| is_core(source)).flat_map(faults_of_core).collect();
    report("cores that know too much", &faults);
}

/// The test above cut each file at its first test module. In node.rs, replica.rs, coordinator.rs, wire.rs and
/// namespace/locks.rs that is declared near the top: hundreds of lines were looked at by nobody.
#[test]
fn a_banned_word_at_the_end_of_each_core_file_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| is_core(source)) {
        let text = fs::read_to_string(root.join(&source.path)).expect("sources are text");
        let late: String = BANNED_IN_CORES.iter().map(|(banned, _)| format!("fn late() {{ {banned} }}\n")).collect();
        let late = Source::new(source.path.clone(), &format!("{text}\n{late}use crate::cli::Late;\n"));
        let found = faults_of_core(&late);
        for (banned, _) in BANNED_IN_CORES.iter().filter(|(banned, _)| source.layer != "sim" || *banned != ".await") {
            if !found.iter().any(|fault| fault.contains(&format!("`{banned}`"))) {
                faults.push(format!("{}: `{banned}` at the end is not found", source.path));
            }
        }
        if !layers_named(&late.code).contains(&"cli".to_owned()) {
            faults.push(format!("{}: an arrow at the end is not found", source.path));
        }
    }
    report("core files whose end nobody looks at", &faults);
}

#[test]
fn a_test_module_is_left_out_and_what_stands_behind_it_is_not() {
    let text = "a\n#[cfg(test)]\nmod declared;\nb\n#[cfg(test)]\n#[allow(x)]\npub(crate) mod tests {\n    {\n    }\n}\n\
                c\nmod other {\n    #[cfg(test)]\n    mod tests {\n        d\n    }\n    e\n}\n\
                #[cfg(test)]\nfn helper() {}\n";
    let kept = without_inline_tests(text).join(" ");
    assert_eq!(kept, "a #[cfg(test)] mod declared; b c mod other {     e } #[cfg(test)] fn helper() {}");
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

/// Whoever opens a file learns from its first lines what it holds.
#[test]
fn files_say_what_they_hold() {
    let texts = texts_below(&["src", "tests", "benches"]);
    let silent = texts.iter().filter(|(path, text)| path.ends_with(".rs") && !text.starts_with("//! "));
    let faults: Vec<_> = silent.map(|(path, _)| format!("{path} does not begin with a line of `//!`")).collect();
    report("files without a word on what they hold", &faults);
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

/// docs/protocol.md says of each rule what goes wrong without it, where it stands and what fails when it is broken:
/// files, tests and breaches that there are.
#[test]
fn rules_name_tests_and_files_that_there_are() {
    let protocol = text_of("docs/protocol.md");
    let tests: Vec<String> = texts_below(&["src", "tests"]).into_iter().map(|(_, text)| text).collect();
    let tests: BTreeSet<&str> = tests.iter().flat_map(|code| tests_in(code)).collect();
    let (breaches, simulated) = (text_of("src/sim/options.rs"), text_of("tests/cores/sim.rs"));
    let is_there = |named: &str| match named.strip_prefix("Breach::") {
        Some("…") => true,
        Some(breach) => breaches.contains(&format!("    {breach},\n")) && simulated.contains(named),
        None if named.contains(['/', '.']) => root().join(named).exists(),
        None => tests.contains(named),
    };
    let mut faults = Vec::new();
    for (rule, section) in sections(&protocol) {
        let part = |title: &str| section.split("\n\n").find_map(|part| part.strip_prefix(&format!("**{title}.** ")));
        let wanted =
            if rule.starts_with('R') { &["Without it", "In the code", "Proved by"][..] } else { &["In the code"] };
        for title in wanted.iter().filter(|title| part(title).is_none()) {
            faults.push(format!("{rule} has no part \"{title}\""));
        }
        let proof = part("Proved by").unwrap_or_default();
        if !proof.contains('`') && !proof.contains("no test") {
            faults.push(format!("{rule} names no test and does not say so"));
        }
        let named = [proof, part("In the code").unwrap_or_default()].into_iter().flat_map(quoted_names);
        for named in named.filter(|named| !is_there(named)) {
            faults.push(format!("{rule}: `{named}` is no test, breach or file"));
        }
    }
    for named in quoted_names(&protocol).filter(|named| named.matches('_').count() > 2 && !tests.contains(named)) {
        faults.push(format!("`{named}` is no test"));
    }
    let breaches =
        breaches.split_once("pub enum Breach {").and_then(|(_, rest)| rest.split_once("\n}")).expect("it is there").0;
    let breaches = breaches.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix(','));
    for breach in breaches.filter(|breach| !protocol.contains(&format!("`Breach::{breach}`"))) {
        faults.push(format!("Breach::{breach} breaks no rule of docs/protocol.md"));
    }
    report("rules without what they name", &faults);
}

/// A comment that cites a rule, a text or a part of it can be followed without leaving the repository.
#[test]
fn references_lead_to_places_in_the_repository() {
    let texts = texts_below(&["src", "tests", "benches", "proto", "deploy", "docs", ".ci", "build.rs", "Cargo.toml"]);
    let pages = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|page| (page.to_owned(), text_of(page)));
    let protocol = text_of("docs/protocol.md");
    let rules: BTreeSet<&str> = sections(&protocol).map(|(rule, _)| rule).collect();
    let faults: Vec<_> = texts.iter().chain(&pages).flat_map(|(path, text)| dangling(path, text, &rules)).collect();
    report("references that lead nowhere", &faults);
}

#[test]
fn a_reference_that_leads_nowhere_is_found() {
    let protocol = text_of("docs/protocol.md");
    let rules: BTreeSet<&str> = sections(&protocol).map(|(rule, _)| rule).collect();
    let found = |text: &str| dangling("src/a.rs", text, &rules);
    let read = concat!("docs/protocol", ".md");
    let followed = format!(
        "//! Rules ({read} R12-fencing, D3-one-directory). {read} \"Deadlocks\", README.md\n    /// \"Not yet\"; \
         README.md, \"What it promises\" and \"so called\"; README.md \"Locks\". UTF-8, R2D2, {read}."
    );
    assert_eq!(found(&followed), Vec::<String>::new());
    let broken = [
        format!("a rule without a name: R{}", 12),
        format!("a rule by the wrong name: R{}-pages", 12),
        format!("no such rule: R{}-fencing", 999),
        format!("no such deadlock: D{}-fencing", 99),
        format!("a promise by its number: (P{})", 2),
        concat!("a text of elsewhere: DES", "IGN 8").to_owned(),
        concat!("a text of elsewhere: FA", "CTS").to_owned(),
        concat!("docs/protocols", ".md").to_owned(),
        format!("{read} {:?}", "Livelocks"),
        format!("README.md,\n//! {:?}", "What it forgets"),
    ];
    for text in broken {
        assert_eq!(found(&text).len(), 1, "{text}: {:?}", found(&text));
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rules and deadlocks of docs/protocol.md, each by number and name, and what is said of each.
fn sections(protocol: &str) -> impl Iterator<Item = (&str, &str)> {
    protocol.split("\n### ").skip(1).filter_map(|section| {
        let section = section.split("\n## ").next()?;
        Some((section.split_once(": ")?.0, section))
    })
}

/// What stands between backticks.
fn quoted_names(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What the text cites and is not there.
fn dangling(path: &str, text: &str, rules: &BTreeSet<&str>) -> Vec<String> {
    // A citation may go on in the next line of a comment.
    let lines = text.lines().map(|line| line.trim_start().trim_start_matches(['/', '!', '#']).trim());
    let text = lines.collect::<Vec<_>>().join(" ");
    let mut faults = Vec::new();
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || "-_/.".contains(c);
    for (at, word) in words(&text, is_of_word) {
        let word = word.trim_end_matches(['.', '-', '/']);
        let (letter, number) = word.split_at(word.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(word.len()));
        let is_numbered = number.starts_with(|c: char| c.is_ascii_digit())
            && number.split('-').next().is_some_and(|digits| digits.chars().all(|c| c.is_ascii_digit()));
        if is_numbered && matches!(letter, "R" | "D" | "P" | "S") && !rules.contains(word) {
            faults.push(format!("{path}: `{word}` is no rule of docs/protocol.md by number and name"));
        }
        if [concat!("DES", "IGN"), concat!("FA", "CTS"), concat!("PROTO", "COL")].contains(&word) {
            faults.push(format!("{path}: `{word}` is a text that is not in the repository"));
        }
        if !word.ends_with(".md") || word == ".md" {
            continue;
        }
        let beside = Path::new(path).parent().map(|folder| root().join(folder).join(word));
        let Some(page) = [Some(root().join(word)), beside].into_iter().flatten().find(|page| page.is_file()) else {
            faults.push(format!("{path}: there is no {word}"));
            continue;
        };
        // In code a quote right behind the name ends a string.
        let behind = text[at + word.len()..].trim_start_matches('`');
        let title = behind.trim_start_matches([',', ' ']).strip_prefix('"').filter(|_| !behind.starts_with('"'));
        let title = title.and_then(|title| title.split_once('"')).map(|(title, _)| title);
        if let Some(title) = title.filter(|title| !has_part(&fs::read_to_string(&page).unwrap_or_default(), title)) {
            faults.push(format!("{path}: {word} has no part \"{title}\""));
        }
    }
    faults
}

/// Whether the page has a heading or a paragraph of this title.
fn has_part(page: &str, title: &str) -> bool {
    page.lines().any(|line| {
        let line = line.trim_start_matches("- ");
        let heading = line.trim_start_matches('#');
        heading.len() < line.len() && heading.trim() == title
            || [format!("**{title}.**"), format!("**{title}**")].iter().any(|lead| line.starts_with(lead))
    })
}

/// The longest runs of such characters, and where they begin.
fn words(text: &str, is_of_word: impl Fn(char) -> bool) -> Vec<(usize, &str)> {
    let mut found: Vec<(usize, &str)> = Vec::new();
    let mut begin = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (begin, is_of_word(c)) {
            (None, true) => begin = Some(at),
            (Some(from), false) => {
                found.push((from, &text[from..at]));
                begin = None;
            }
            _ => {}
        }
    }
    found
}

/// Path and text of every file that is, or is below, one of these.
fn texts_below(places: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for place in places {
        let full = root().join(place);
        if full.is_dir() {
            let entries = fs::read_dir(&full).expect("the folder is there");
            let names =
                entries.map(|entry| entry.expect("readable").file_name().into_string().expect("a name of ours"));
            let below: Vec<String> = names.map(|name| format!("{place}/{name}")).collect();
            found.extend(texts_below(&below.iter().map(String::as_str).collect::<Vec<_>>()));
        } else if let Ok(text) = fs::read_to_string(&full) {
            found.push(((*place).to_owned(), text));
        }
    }
    found
}

/// Names of the functions that are marked as tests.
fn tests_in(code: &str) -> impl Iterator<Item = &str> {
    code.split("test]").skip(1).filter_map(|behind| {
        let name = behind.split_once("fn ")?.1;
        Some(name.split(['(', '<']).next().unwrap_or_default().trim())
    })
}
