//! The rules of the house that a machine can hold: which way dependencies point, how heavy the
//! agent is, whether the documents name files that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::third_party::installed;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a package is built of, on any platform; under another name too.
fn dependencies(of: &str) -> BTreeSet<String> {
    dependencies_in(&read(format!("{of}/Cargo.toml")).parse().expect("a manifest is TOML"))
}

fn dependencies_in(manifest: &toml::Table) -> BTreeSet<String> {
    let of_platforms = manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten();
    let tables = of_platforms.filter_map(|(_, platform)| platform.as_table()).chain([manifest]);
    let listed = tables.filter_map(|table| table.get("dependencies")?.as_table()).flatten();
    let name = |(key, value): (&String, &toml::Value)| {
        value.get("package").and_then(toml::Value::as_str).unwrap_or(key).to_owned()
    };
    listed.map(name).collect()
}

/// The packages of the product.
const PACKAGES: [&str; 7] = ["identity", "policy", "tls", "proto", "control-plane", "agent", "cli"];

/// A file's path from the workspace on.
fn inside(path: &Path) -> PathBuf {
    path.strip_prefix(root()).expect("it lies under the root").to_owned()
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
    for package in PACKAGES {
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
        ("identity", &["serde", "prost", "tokio", "tracing"][..]),
        ("policy", &["tokio", "tracing", "prost", "parking_lot", "arc-swap"][..]),
        ("tls", &["tonic", "prost", "hauberk-policy"][..]),
        ("agent", &["etcd-client"][..]),
    ]);
    for (package, banned) in banned {
        let used = dependencies(package);
        for crate_name in banned {
            assert!(!used.contains(*crate_name), "{package} must not depend on {crate_name}");
        }
    }
}

/// Crates of others that one package alone depends on, how code names them, and the folder that alone does.
const OWNED: [(&[&str], &str, &str); 3] = [
    (&["rustls", "rustls-pki-types", "rustls-webpki", "tokio-rustls"], "tls", "tls/src"),
    (&["cedar-policy", "cedar-policy-core"], "policy", "policy/src"),
    (&["sled"], "control-plane", "control-plane/src/registry"),
];

#[test]
fn what_others_made_is_named_in_one_place() {
    for (crates, owner, folder) in OWNED {
        for package in PACKAGES.into_iter().filter(|package| *package != owner) {
            let used = dependencies(package);
            let found: Vec<_> = crates.iter().filter(|name| used.contains(**name)).collect();
            assert!(found.is_empty(), "{package} must not depend on {found:?}");
        }
        let words: Vec<String> = crates.iter().map(|name| name.replace('-', "_")).collect();
        for path in sources().iter().filter(|path| !inside(path).starts_with(folder)) {
            let text = fs::read_to_string(path).expect("a source is readable");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
            let named: Vec<_> = code
                .flat_map(|line| {
                    line.split(|letter| !is_word(letter)).filter(|word| words.iter().any(|name| name == word))
                })
                .collect();
            assert!(
                named.is_empty(),
                "{} names {named:?}, which stands under {folder} alone",
                path.display()
            );
        }
    }
}

#[test]
fn dependencies_of_one_platform_and_under_another_name_count() {
    let manifest = "[dependencies]\ntls = {package = \"rustls\", version = \"1\"}\n\
                    [target.'cfg(unix)'.dependencies]\nsled = \"1\"\n[dev-dependencies]\nserde = \"1\"\n";
    let found = dependencies_in(&manifest.parse().unwrap());
    assert_eq!(found, BTreeSet::from(["rustls", "sled"].map(str::to_owned)));
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
    let pages =
        fs::read_dir(root().join("docs")).expect("docs is readable").map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let others = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(PathBuf::from);
    for document in others.into_iter().chain(pages.map(|path| inside(&path))) {
        let (text, document) = (read(&document), document.display());
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
        let name = inside(&path);
        if path.ends_with("tests.rs") || name.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source is readable");
        if lines_before_tests(&text) > 400 {
            long.insert(name.display().to_string());
        }
    }
    let added: Vec<_> = long.iter().filter(|path| !allowed.contains(path.as_str())).collect();
    assert!(added.is_empty(), "over 400 lines: {added:?}: what would a second room be called?");
    let gone: Vec<_> = allowed.iter().filter(|path| !long.contains(**path)).collect();
    assert!(gone.is_empty(), "no longer over 400 lines, take them off the list: {gone:?}");
}

/// How many lines of a file come before its tests. One that names a file of tests first goes on behind that.
fn lines_before_tests(text: &str) -> usize {
    let mut lines = text.lines();
    let mut count = 0;
    while let Some(line) = lines.next() {
        if line.starts_with("#[cfg(test)]") {
            let what = lines.by_ref().find(|line| !line.starts_with("#[")).unwrap_or_default();
            let is_module = what.split_whitespace().any(|word| word == "mod");
            match (is_module, what.ends_with('{')) {
                (true, true) => return count,
                (true, false) => continue,
                (false, _) => count += 1,
            }
        }
        count += 1;
    }
    count
}

#[test]
fn what_follows_the_name_of_a_file_of_tests_counts() {
    let inline = "#[cfg(test)]\n#[allow(x)]\nmod tests {\n    x\n}\n";
    assert_eq!(lines_before_tests(&format!("a\n{inline}b\n")), 1);
    assert_eq!(lines_before_tests("a\n#[cfg(test)]\nmod tests;\n\nb\nc\n"), 4);
    assert_eq!(lines_before_tests("a\n#[cfg(test)]\npub(crate) fn forge() {\n}\n"), 4);
}

/// After a change of the lines that it is about, make it anew against them.
#[test]
fn what_the_benchmark_takes_out_of_the_agent_is_there() {
    let Some(patch) = installed("patch") else { return };
    let changes = fs::File::open(root().join("integration-tests/benches/mesh/undecided.patch"))
        .expect("the benchmark has its patch");
    let output = Command::new(patch)
        .args(["--dry-run", "--strip=1", "--fuzz=0", "--batch", "--directory"])
        .arg(root())
        .stdin(changes)
        .output()
        .expect("patch runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn no_room_is_called_misc() {
    for path in sources() {
        for part in inside(&path.with_extension("")).components() {
            let word = part.as_os_str().to_str().unwrap_or_default();
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
        let name = inside(&path).display().to_string();
        if text.contains("allow(unsafe_code") {
            allowing.push(name);
        } else if name.ends_with("src/lib.rs") && name != "agent/src/lib.rs" || name.ends_with("src/main.rs")
        {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
        }
    }
    assert_eq!(allowing, ["agent/src/resident.rs", "agent/src/workloads/peer.rs"]);
}
