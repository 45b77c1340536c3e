//! What identities of services, users and classes of data do together: docs/three-together.md, each of its commands, in the
//! demo that it begins with.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hauberk_integration_tests::{Process, binary, eventually};

const PAGE: &str = include_str!("../../../docs/three-together.md");
/// The demo counts calls for two seconds before it says what can be tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command of the page, and what it prints there. A line with `…` alone stands for any number of lines.
struct Step {
    command: String,
    printed: Vec<String>,
}

/// All that stand in the page's console fences, in order.
fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for fence in PAGE.split("```console\n").skip(1) {
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

fn is_decision(word: &str) -> bool {
    let is_of = |part: &str| !part.is_empty() && part.chars().all(|one| one.is_ascii_alphanumeric());
    word.split_once('-')
        .is_some_and(|(instance, number)| instance.len() == 10 && is_of(instance) && is_of(number))
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
            let bare = |word: &str| word.trim_end_matches(':').to_owned();
            words.0.len() == words.1.len()
                && words.0.iter().zip(&words.1).all(|(shown, word)| {
                    shown == word || (is_decision(&bare(shown)) && is_decision(&bare(word)))
                })
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

    /// Runs a command as it would be entered in the workspace, and gives all that it prints.
    fn enter(&self, command: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{command} 2>&1")]);
        shell.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
        surround(&mut shell, self.folder.path());
        String::from_utf8(shell.output().unwrap().stdout).unwrap()
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
fn iam_cognito_and_verified_permissions_together_as_the_page_shows_it() {
    let steps = steps();
    let count = |beginning: &str| steps.iter().filter(|step| step.command.starts_with(beginning)).count();
    assert!(count("hauberk demo call") >= 6 && count("hauberk explain") >= 3, "each denial is explained");
    let mut demo = Demo::start();
    let mut ids = HashMap::new();
    for step in &steps {
        let command = ids.iter().fold(step.command.clone(), |command, (shown, real): (&String, &String)| {
            command.replace(shown, real)
        });
        let found = demo.enter(&command);
        eprintln!("$ {command}\n{found}");
        compare(step, &found, &mut ids);
    }
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
