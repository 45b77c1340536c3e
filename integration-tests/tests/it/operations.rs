//! docs/operations.md against what the programs say of themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hauberk_integration_tests::{binary, get};

use crate::shop;

const PAGE: &str = include_str!("../../../docs/operations.md");

/// Its type, and the names of its labels.
type Shape = (String, BTreeSet<String>);
/// The same of what a program prints; no labels where nothing is counted yet.
type Printed = BTreeMap<String, (String, Option<BTreeSet<String>>)>;

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The page's text under a heading, up to the next one.
fn under(heading: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("# {heading}\n")).unwrap();
    rest.split("\n#").next().unwrap()
}

/// Metrics as the page's table under a heading has them.
fn described(heading: &str) -> BTreeMap<String, Shape> {
    let rows = under(heading).lines().filter(|line| line.starts_with("| `hauberk_"));
    let shape = |row: &str| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        // In parentheses stand values.
        let labels: String = cells[3].split('(').map(|part| part.rsplit(')').next().unwrap()).collect();
        let name = quoted(cells[1]).next().unwrap().to_owned();
        (name, (cells[2].to_owned(), quoted(&labels).map(str::to_owned).collect()))
    };
    rows.map(shape).collect()
}

/// Metrics as a program prints them, counters with their suffix; the labels of the first sample, where there is one.
fn printed(page: &str) -> Printed {
    let mut found = BTreeMap::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let labels = lines.peek().filter(|line| line.starts_with(name)).map(|line| {
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            let names =
                labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            names.filter(|name| name != "le").collect()
        });
        let suffix = if kind == "counter" && !name.ends_with("_total") { "_total" } else { "" };
        found.insert(format!("{name}{suffix}"), (kind.to_owned(), labels));
    }
    found
}

/// Holds what is printed against the table.
fn compare(printed: &Printed, described: &BTreeMap<String, Shape>) {
    for (name, (kind, labels)) in printed {
        let (wanted, named) =
            described.get(name).unwrap_or_else(|| panic!("{name} is not in docs/operations.md"));
        assert_eq!(kind, wanted, "{name}");
        if let Some(labels) = labels {
            assert_eq!(labels, named, "{name}");
        }
    }
}

/// The names that the control plane registers, as its sources have them: a family of which nothing is counted yet is
/// not printed.
fn registered() -> BTreeSet<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut files = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("control-plane/src"), &mut files);
    let texts = files.iter().map(|path| fs::read_to_string(path).unwrap());
    let names = |text: String| {
        let calls = text.split("registry.register(").skip(1);
        calls.map(|call| format!("hauberk_{}", call.split('"').nth(1).unwrap())).collect::<Vec<_>>()
    };
    texts.flat_map(names).collect()
}

#[test]
fn metrics_are_those_that_the_page_lists() {
    let (mesh, _app, orders, _web) = shop::trading();
    let figures = |address| get(address, "health", "/metrics").unwrap().body;

    let (ours, listed) = (printed(&figures(orders.health())), described("Of agents"));
    compare(&ours, &listed);
    assert_eq!(ours.keys().collect::<Vec<_>>(), listed.keys().collect::<Vec<_>>());

    let (ours, listed) =
        (printed(&figures(mesh.health_address().parse().unwrap())), described("Of the control plane"));
    assert!(ours.len() > 12, "{ours:?}");
    compare(&ours, &listed);
    let listed: BTreeSet<_> = listed
        .iter()
        .map(|(name, (kind, _))| if kind == "counter" { name.trim_end_matches("_total") } else { name })
        .map(str::to_owned)
        .collect();
    assert_eq!(registered(), listed);
}

#[test]
fn settings_are_those_that_the_page_lists() {
    for program in ["hauberk-control-plane", "hauberk-agent"] {
        let help = Command::new(binary(program)).args(["run", "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let flags = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
        let flags = flags.map(|line| line.split([' ', '<']).next().unwrap());
        let flags: BTreeSet<_> = flags.filter(|flag| !["config", "help", ""].contains(flag)).collect();
        let row = format!("| `{program}` | ");
        let row = under("Settings").lines().find_map(|line| line.strip_prefix(&row)).unwrap();
        let (file, settings) = row.split_once(" | ").unwrap();
        let settings: BTreeSet<_> = quoted(settings).filter(|name| *name != "command").collect();
        assert_eq!(flags, settings, "{program}");
        let variable = quoted(file).nth(1).unwrap();
        assert!(help.contains(&format!("[env: {variable}")), "{variable}");
    }
}
