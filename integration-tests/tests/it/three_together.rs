//! What pages show of the demo, command by command: what identities of services, users and classes of data do together
//! (docs/three-together.md), and the guard rail of the README.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hauberk_integration_tests::{Process, binary, bounded, eventually, finished};

const PAGE: &str = include_str!("../../../docs/three-together.md");
const README: &str = include_str!("../../../README.md");
/// The demo counts calls for two seconds before it says what can be tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command of the page, and what it prints there. A line with `…` alone stands for any number of lines.
struct Step {
    command: String,
    printed: Vec<String>,
}

/// All that stand in a page's console fences, in order.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for fence in page.split("```console\n").skip(1) {
        for line in fence.split_once("```").unwrap().0.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.to_owned(), printed: Vec::new() }),
                (None, Some(step)) => step.printed.push(line.to_owned()),
                (None, None) => panic!("{line}: a fence begins with a command"),
            }
        }
    }
    steps
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|one| one.is_ascii_digit() || one == '.')
}

/// Whether it is a length of time, as `4s`, `1.5ms` and `2m5s`.
fn is_time(text: &str) -> bool {
    let mut rest = text;
    while let Some(unit) = rest.find(|one: char| one.is_ascii_alphabetic()) {
        let (number, after) = rest.split_at(unit);
        let after = ["ms", "s", "m", "h", "d"].iter().find_map(|unit| after.strip_prefix(unit));
        let Some(after) = after.filter(|_| is_number(number)) else { return false };
        rest = after;
    }
    rest.is_empty() && !text.is_empty()
}

fn is_decision(word: &str) -> bool {
    let is_of = |part: &str| !part.is_empty() && part.chars().all(|one| one.is_ascii_alphanumeric());
    word.split_once('-')
        .is_some_and(|(instance, number)| instance.len() == 10 && is_of(instance) && is_of(number))
}

/// Whether a word that is shown stands for whatever was counted or measured: a number of three digits or at the
/// beginning of a parenthesis, a length of time, a time of day. Other numbers are what they are.
fn varies(shown: &str, word: &str) -> bool {
    let bare = |word: &str| word.trim_matches(['(', ')', ':']).to_owned();
    let is_aside = shown.starts_with('(');
    let (shown, word) = (bare(shown), bare(word));
    let is_clock = |text: &str| text.split(':').count() == 3 && text.split(':').all(is_number);
    let is_unit = |text: &str| ["ms", "s"].contains(&text);
    (is_decision(&shown) && is_decision(&word))
        || (is_number(&shown) && is_number(&word) && (is_aside || shown.len() > 2))
        || (is_time(&shown) && is_time(&word))
        || (is_clock(&shown) && is_clock(&word))
        || (is_unit(&shown) && is_unit(&word))
}

/// Holds what was printed against the page, and notes for each id of a decision that stands there the real one.
fn compare(step: &Step, found: &str, ids: &mut HashMap<String, String>) {
    let mut lines = found.lines();
    let mut skips = false;
    let complain = |line: &str| panic!("{}: {line:?} is not printed there:\n{found}", step.command);
    for shown in &step.printed {
        if shown.trim() == "…" {
            skips = true;
            continue;
        }
        let is_alike = |line: &&str| {
            let words =
                (shown.split_whitespace().collect::<Vec<_>>(), line.split_whitespace().collect::<Vec<_>>());
            words.0.len() == words.1.len()
                && words.0.iter().zip(&words.1).all(|(shown, word)| shown == word || varies(shown, word))
        };
        let line = if skips { lines.find(is_alike) } else { lines.next().filter(is_alike) };
        let Some(line) = line else { return complain(shown) };
        for (shown, word) in shown.split_whitespace().zip(line.split_whitespace()) {
            let (shown, word) = (shown.trim_end_matches(':'), word.trim_end_matches(':'));
            if is_decision(shown) {
                let known = ids.entry(shown.to_owned()).or_insert_with(|| word.to_owned());
                assert_eq!(known, word, "{shown} stands for one decision");
            }
        }
        skips = false;
    }
    if let Some(more) = lines.next().filter(|_| !skips) {
        panic!("{}: the page does not show {more:?}", step.command);
    }
}

/// A running demo that knows nothing of others.
struct Demo {
    process: Process,
    folder: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary("hauberk"));
        command.args(["demo", "up"]);
        surround(&mut command, folder.path());
        let process = Process::start("demo", folder.path(), command);
        let demo = Self { process, folder };
        eventually("the demo says what can be tried", PATIENCE, || {
            demo.process.log().contains("Try, in another terminal").then_some(())
        });
        demo
    }

    /// Enters a page's commands one after the other, and holds what they print against it.
    fn go_through(&self, steps: &[Step]) {
        let mut ids: HashMap<String, String> = HashMap::new();
        for step in steps {
            let command =
                ids.iter().fold(step.command.clone(), |command, (shown, real)| command.replace(shown, real));
            let found = self.enter(&command);
            eprintln!("$ {command}\n{found}");
            compare(step, &found, &mut ids);
        }
    }

    /// Runs a command as it would be entered in the workspace, and gives all that it prints.
    fn enter(&self, command: &str) -> String {
        let mut shell = bounded(Path::new("sh"), PATIENCE * 2);
        shell.args(["-c", &format!("{command} 2>&1")]);
        shell.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
        surround(&mut shell, self.folder.path());
        let child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        String::from_utf8(finished(command, child).stdout).unwrap()
    }
}

fn surround(command: &mut Command, folder: &Path) {
    let binaries: PathBuf = binary("hauberk").parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([binaries].into_iter().chain(std::env::split_paths(&path))).unwrap();
    command.env("PATH", path).env("HAUBERK_HOME", folder.join("home")).env("TMPDIR", folder);
    command.env("NO_COLOR", "1");
}

#[test]
fn a_record_of_any_age_is_as_the_page_shows_it() {
    for age in ["9s", "120s", "2m", "2m5s", "1h30m", "3d", "1.5ms"] {
        assert!(varies("4s", age) && varies("12s:", &format!("{age}:")), "{age}");
    }
    for other in ["4", "s", "m5", "2m5", "4x", "some"] {
        assert!(!varies("4s", other), "{other}");
    }
}

#[test]
fn iam_cognito_and_verified_permissions_together_as_the_page_shows_it() {
    let steps = steps(PAGE);
    let count = |beginning: &str| steps.iter().filter(|step| step.command.starts_with(beginning)).count();
    assert!(count("hauberk demo call") >= 6 && count("hauberk explain") >= 3, "each denial is explained");
    let mut demo = Demo::start();
    demo.go_through(&steps);
    // No token is in any log, and nothing is left behind.
    let folder = demo.folder.path().to_owned();
    let working = || {
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("hauberk-demo-"))
            .collect::<Vec<_>>()
    };
    for log in std::fs::read_dir(&working()[0]).unwrap().map(|entry| entry.unwrap().path()) {
        if log.extension().is_some_and(|extension| extension == "log") {
            assert!(!std::fs::read_to_string(&log).unwrap().contains("eyJ"), "{}", log.display());
        }
    }
    assert!(demo.process.stop(PATIENCE).success());
    assert_eq!(working(), [""; 0].map(PathBuf::from));
}

#[test]
fn the_readme_s_guard_rail_is_found_wrong_corrected_and_explains_itself() {
    let (_, shown) = README.split_once("What a change would do is seen before it is made.").unwrap();
    let (shown, _) = shown.split_once("\n## ").unwrap();
    let (shown, _) = shown.split_once("`hauberk suggest`").unwrap();
    let mut steps = steps(shown);
    assert_eq!(steps.len(), 5, "the draft, corrected, applied, its denial, why");
    for step in &mut steps {
        // It would watch for ever.
        if step.command.starts_with("hauberk tap") {
            step.command += &format!(" | head -n {}", step.printed.len());
        }
    }
    let mut demo = Demo::start();
    eventually("each caller's calls are recorded", PATIENCE, || {
        demo.enter(&steps[0].command).contains("3 recorded flows of").then_some(())
    });
    demo.go_through(&steps);
    assert!(demo.process.stop(PATIENCE).success());
}
