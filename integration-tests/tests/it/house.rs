//! The rules of the house that a machine can hold: which way dependencies point, how heavy the
//! agent is, whether the documents name files that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dependencies(of: &str) -> BTreeSet<String> {
    let manifest: toml::Table = read(format!("{of}/Cargo.toml")).parse().expect("a manifest is TOML");
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.into_iter().flat_map(|table| table.keys().cloned()).collect()
}

/// Every `.rs` file of the product, without tests and benches.
fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the workspace is readable") {
            let path = entry.expect("an entry is readable").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for package in ["identity", "policy", "tls", "proto", "control-plane", "agent", "cli"] {
        walk(&root().join(package).join("src"), &mut found);
    }
    found.sort();
    found
}

#[test]
fn dependencies_point_down() {
    let floors: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("identity", &[][..]),
        ("policy", &["hauberk-identity"][..]),
        ("tls", &["hauberk-identity"][..]),
        ("proto", &["hauberk-identity", "hauberk-policy"][..]),
        ("control-plane", &["hauberk-identity", "hauberk-policy", "hauberk-proto", "hauberk-tls"][..]),
        ("agent", &["hauberk-identity", "hauberk-policy", "hauberk-proto", "hauberk-tls"][..]),
        ("cli", &["hauberk-identity", "hauberk-policy", "hauberk-proto", "hauberk-tls"][..]),
    ]);
    for (package, allowed) in floors {
        for dependency in dependencies(package) {
            if dependency.starts_with("hauberk-") {
                assert!(allowed.contains(&dependency.as_str()), "{package} must not depend on {dependency}");
            }
        }
    }
}

#[test]
fn pure_crates_stay_pure() {
    let banned: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("identity", &["serde", "prost", "rustls", "tokio", "tracing"][..]),
        ("policy", &["tokio", "tracing", "prost", "parking_lot", "arc-swap"][..]),
        ("tls", &["tonic", "prost", "hauberk-policy"][..]),
        ("proto", &["rustls", "tokio-rustls"][..]),
        ("agent", &["sled", "etcd-client", "cedar-policy"][..]),
    ]);
    for (package, banned) in banned {
        let used = dependencies(package);
        for crate_name in banned {
            assert!(!used.contains(*crate_name), "{package} must not depend on {crate_name}");
        }
    }
}

/// The agent runs beside every service: a crate more is a decision, not an accident. After such a
/// decision, put the list that the failure prints into `agent-dependencies.txt`.
#[test]
fn the_agent_stays_light() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", "hauberk-agent", "-e", "normal", "--prefix", "none"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let now: BTreeSet<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    let recorded: BTreeSet<String> =
        read("integration-tests/agent-dependencies.txt").lines().map(str::to_owned).collect();
    let added: Vec<_> = now.difference(&recorded).collect();
    assert!(added.is_empty(), "new in the agent: {added:?}; the whole list:\n{}", join(&now));
    assert!(now.len() <= 190, "the agent has {} crates; the aim is 190", now.len());
}

fn join(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
}

#[test]
fn documents_name_files_that_exist() {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/authorization.md",
        "docs/identity.md",
        "docs/security-model.md",
        "docs/three-together.md",
    ] {
        let text = read(document);
        for quoted in text.split('`').skip(1).step_by(2) {
            let looks_like_a_file = quoted.contains('/')
                && !quoted.contains(char::is_whitespace)
                && [".rs", ".md", ".toml", ".yaml", ".proto", ".sh", ".txt"]
                    .iter()
                    .any(|end| quoted.ends_with(end))
                && !quoted.starts_with(['/', '~', '<', '$']);
            if looks_like_a_file {
                assert!(root().join(quoted).exists(), "{document} names {quoted}, which does not exist");
            }
        }
    }
}

#[test]
fn decisions_are_numbered_apart() {
    let files = fs::read_dir(root().join("docs/decisions")).unwrap();
    let names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let numbers: BTreeSet<&str> = names.iter().filter_map(|name| name.split('-').next()).collect();
    assert_eq!(numbers.len(), names.len(), "{names:?}");
}

#[test]
fn files_stay_readable() {
    let recorded = read("integration-tests/long-files.txt");
    let allowed: BTreeSet<&str> = recorded.lines().filter(|line| !line.is_empty()).collect();
    let mut long = BTreeSet::new();
    for path in sources() {
        if path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source is readable");
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > 400 {
            long.insert(path.strip_prefix(root()).expect("under the root").display().to_string());
        }
    }
    let added: Vec<_> = long.iter().filter(|path| !allowed.contains(path.as_str())).collect();
    assert!(added.is_empty(), "over 400 lines: {added:?}: what would a second room be called?");
    let gone: Vec<_> = allowed.iter().filter(|path| !long.contains(**path)).collect();
    assert!(gone.is_empty(), "no longer over 400 lines, take them off the list: {gone:?}");
}

#[test]
fn no_room_is_called_misc() {
    for path in sources() {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let folders = path.components().filter_map(|part| part.as_os_str().to_str());
        for word in folders.chain([name]) {
            assert!(!["utils", "util", "helpers", "common", "misc"].contains(&word), "{}", path.display());
        }
    }
}

/// Two small modules need it, each for one system call, and say why; the other crates forbid it at their root.
#[test]
fn unsafe_code_stands_in_two_files() {
    let mut allowing = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source is readable");
        let name = path.strip_prefix(root()).expect("under the root").display().to_string();
        if text.contains("allow(unsafe_code") {
            allowing.push(name);
        } else if name.ends_with("src/lib.rs") && name != "agent/src/lib.rs" || name.ends_with("src/main.rs")
        {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
        }
    }
    assert_eq!(allowing, ["agent/src/resident.rs", "agent/src/workloads/peer.rs"]);
}
