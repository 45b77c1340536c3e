//! What a test does where the machine lacks what it needs: it says so, and does nothing. With `HAUBERK_TEST_ALL=1` it
//! fails, but for the few things that [`Excuse`] lists.
//!
//! Other crates' tests include this file by its path, since they cannot depend on this crate.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What may be lacking even where nothing else may.
pub enum Excuse {
    /// No Docker Engine answers.
    DockerEngine,
    /// No systemd answers.
    Systemd,
    /// The folder of test data that lies beside the checkout in some places.
    SharedFolder,
    /// What the kernel lets nobody do here: a mount, a control group, a core file.
    Kernel,
    /// What takes longer than a few minutes, or needs more than a machine: somebody has to ask for it.
    NotAskedFor,
}

/// Skips a test because a program or package is not installed.
///
/// # Panics
/// Where nothing may be left out.
#[track_caller]
pub fn skip(why: &str) {
    assert!(
        !is_all_wanted(),
        "{why}, and HAUBERK_TEST_ALL=1 leaves nothing out: install it, as .ci/run does, or do without that variable"
    );
    tell(why);
}

/// Skips a test because of something that a machine may always lack.
pub fn excuse(lacking: Excuse, why: &str) {
    let what = match lacking {
        Excuse::DockerEngine => "no Docker Engine",
        Excuse::Systemd => "no systemd",
        Excuse::SharedFolder => "no folder `shared`",
        Excuse::Kernel => "not allowed here",
        Excuse::NotAskedFor => "not asked for",
    };
    tell(&format!("{what}: {why}"));
}

/// A file or folder of the test data that lies beside the checkout in some places; says so and gives nothing where it
/// does not.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if !found.exists() {
        excuse(Excuse::SharedFolder, &format!("shared/{path} is not beside the checkout"));
        return None;
    }
    Some(found)
}

/// Whether tests that wait a minute or three for certificates to age are to run; says so if not.
pub fn wants_long_tests() -> bool {
    let wanted = wants_more().unwrap_or_else(is_all_wanted);
    if !wanted {
        excuse(Excuse::NotAskedFor, "takes a minute or three; set HAUBERK_TEST_LONG=1");
    }
    wanted
}

/// Whether tests that take longer are to run; says so if not.
pub fn wants_longest_tests() -> bool {
    let wanted = wants_more() == Some(true);
    if !wanted {
        excuse(Excuse::NotAskedFor, "takes eleven minutes; set HAUBERK_TEST_LONG=1");
    }
    wanted
}

fn is_all_wanted() -> bool {
    std::env::var_os("HAUBERK_TEST_ALL").is_some_and(|value| value == "1")
}

/// What is said of tests that take long, if anything is.
fn wants_more() -> Option<bool> {
    std::env::var_os("HAUBERK_TEST_LONG").map(|value| value == "1")
}

/// On standard error, by a way that the test harness does not keep to itself, and in the file that `make test` shows at
/// its end.
fn tell(why: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let line = format!("{test}: {why}\n");
    let _told = std::io::stderr().write_all(format!("skipped: {line}").as_bytes());
    if let Some(file) = std::env::var_os("HAUBERK_TEST_SKIPPED") {
        // In one call, so that tests that run at once do not tear each other's lines.
        let opened = OpenOptions::new().create(true).append(true).open(&file);
        let written = opened.and_then(|mut file| file.write_all(line.as_bytes()));
        assert!(written.is_ok(), "{} is not written: {written:?}", file.display());
    }
}
