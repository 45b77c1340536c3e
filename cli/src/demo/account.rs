//! What the demo tells while it runs.

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anstream::{eprint, println};
use owo_colors::OwoColorize as _;
use tokio::time::Instant;

use super::caller::Answer;
use super::error::DemoError;

/// How many calls are made before the first account of them.
const FIRST_CALLS: u64 = 20;
/// How often the status line is written anew.
const STATUS: Duration = Duration::from_secs(1);
/// What somebody of the shop's people tries.
const PERSON: &str = "hauberk demo call --as bob http://web/orders/1/card";
/// How a command of the story is entered where the shop runs in containers.
const IN_CONTAINERS: &str = "docker compose -f deploy/demo/compose.yaml";

/// Where the shop runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Processes,
    Containers,
}

/// What is known of it.
#[derive(Debug, Clone, Copy)]
enum ControlPlane {
    Awaited,
    /// With its process id, where that is known.
    Here(Option<u32>),
    Away,
}

/// The story so far.
#[derive(Debug)]
pub(super) struct Account {
    place: Place,
    begun: Instant,
    terminal: bool,
    control_plane: ControlPlane,
    allowed: u64,
    failed: u64,
    /// Why the last call of web failed.
    trouble: Option<String>,
    /// What the intruder was last answered.
    intruder: Option<u16>,
    denial: Option<String>,
    introduced: bool,
    last_status: Instant,
}

impl Account {
    /// Nothing has happened yet.
    pub(super) fn new(place: Place) -> Self {
        let now = Instant::now();
        Self {
            place,
            begun: now,
            terminal: std::io::stderr().is_terminal(),
            control_plane: ControlPlane::Awaited,
            allowed: 0,
            failed: 0,
            trouble: None,
            intruder: None,
            denial: None,
            introduced: false,
            last_status: now,
        }
    }

    /// The control plane answers.
    pub(super) fn control_plane(&mut self, admin: &str, pid: Option<u32>) {
        match std::mem::replace(&mut self.control_plane, ControlPlane::Here(pid)) {
            ControlPlane::Awaited => self.good(&format!(
                "control plane ready      {}  spiffe://shop.demo, admin API at {admin}",
                self.elapsed()
            )),
            ControlPlane::Away => self.good("the control plane is back"),
            ControlPlane::Here(_) => {}
        }
    }

    /// The control plane, which answered, does not any longer.
    pub(super) fn control_plane_away(&mut self, reason: &str) {
        if let ControlPlane::Here(_) = self.control_plane {
            self.control_plane = ControlPlane::Away;
            self.bad(&format!("the control plane is away: {reason}"));
            self.say("  The agents go on with what they have.");
            if self.place == Place::Containers {
                // Decisions are heard through the control plane: from here the calls cannot be seen now.
                self.say(&format!(
                    "  See it:        {IN_CONTAINERS} exec web hauberk demo probe call http://orders/orders/1\n  \
                     Bring it back: {IN_CONTAINERS} start control-plane"
                ));
            }
        }
    }

    /// Every agent has its certificate and its view.
    pub(super) fn agents(&self, count: usize) {
        let door = match self.place {
            Place::Processes => "edge → ",
            Place::Containers => "",
        };
        self.good(&format!(
            "{count} agents attested        {}  {door}web → orders → payments, and an intruder",
            self.elapsed()
        ));
    }

    /// What web was answered.
    pub(super) fn web(&mut self, answer: Result<Answer, DemoError>) {
        let trouble = match answer {
            Ok(Answer { status: 200, .. }) => None,
            Ok(Answer { status, decision: Some(id), .. }) => {
                Some(format!("{status}, denied: hauberk explain {id}"))
            }
            Ok(Answer { status, body, .. }) => Some(format!("{status} {}", body.trim())),
            Err(error) => Some(error.in_full()),
        };
        match &trouble {
            None => self.allowed += 1,
            Some(_) => self.failed += 1,
        }
        if trouble.is_some() != self.trouble.is_some() {
            match &trouble {
                Some(trouble) => self.bad(&format!("web → orders             {trouble}")),
                None => self.good("web → orders             goes through again"),
            }
        }
        self.trouble = trouble;
        if !self.introduced && self.allowed >= FIRST_CALLS && self.denial.is_some() {
            self.introduced = true;
            self.introduce();
        }
        self.status();
    }

    /// What the intruder was answered.
    pub(super) fn intruder(&mut self, answer: Result<Answer, DemoError>) {
        let Ok(Answer { status, decision, .. }) = answer else { return };
        let changed = self.intruder.replace(status) != Some(status);
        if let Some(id) = &decision {
            self.denial = Some(id.clone());
        }
        if !changed || !self.introduced {
            return;
        }
        match decision {
            Some(id) => self.bad(&format!("intruder → payments      DENIED again: {id}")),
            None if status == 200 => self.good("intruder → payments      ALLOWED: the call goes through"),
            None => self.bad(&format!("intruder → payments      {status}")),
        }
    }

    /// A process ended by itself.
    pub(super) fn ended(&self, name: &str, status: ExitStatus, log: &str) {
        self.bad(&format!("{name} ended: {status}"));
        if name == "control-plane" {
            self.say("  The agents go on with what they have; web's calls are still counted below.");
        } else {
            self.say(log);
        }
    }

    fn introduce(&self) {
        self.good(&format!("{} calls of web answered, agent to agent over mutual TLS 1.3", self.allowed));
        let id = self.denial.as_deref().unwrap_or_default();
        self.bad(&format!("intruder → payments      DENIED by default: no policy permits it ({id})"));
        let (first, stop, end) = match (self.place, self.control_plane) {
            (Place::Containers, _) => (
                format!(":\n\n  hauberk() {{ {IN_CONTAINERS} exec control-plane hauberk \"$@\"; }}\n"),
                Some(format!("{IN_CONTAINERS} stop control-plane")),
                format!("{IN_CONTAINERS} down --volumes ends the demo and leaves nothing behind."),
            ),
            (Place::Processes, known) => (
                format!(" (the context `demo` is set):\n{}", how_to_be_found()),
                if let ControlPlane::Here(Some(pid)) = known { Some(format!("kill {pid}")) } else { None },
                "Ctrl-C ends the demo and leaves nothing behind.".to_owned(),
            ),
        };
        // In containers there is no issuer.
        let person = (self.place == Place::Processes)
            .then(|| (PERSON.to_owned(), "as somebody who may not see cards; alice may"));
        let mut story = format!("\nTry, in another terminal{first}\n");
        for (command, effect) in [
            (format!("hauberk explain {id}"), "why, and what would allow it"),
            (
                "hauberk allow intruder payments --methods POST --path /charge --wait".to_owned(),
                "let it through, and look here",
            ),
            ("hauberk tap".to_owned(), "every decision, as it is made"),
            ("hauberk get instances".to_owned(), "who runs, and what it enforces"),
        ]
        .into_iter()
        .chain(person)
        .chain(stop.map(|command| (command, "stop the control plane: calls go on")))
        {
            story.push_str(&format!("  # {effect}\n  {command}\n"));
        }
        self.say(&format!("{story}\n{end}\n"));
    }

    fn status(&mut self) {
        if !self.terminal || !self.introduced || self.last_status.elapsed() < STATUS {
            return;
        }
        self.last_status = Instant::now();
        let intruder = match self.intruder {
            Some(200) => "allowed".green().to_string(),
            Some(status) => format!("{status}").red().to_string(),
            None => "-".to_owned(),
        };
        eprint!(
            "\r\x1b[2K{}  web → orders → payments: {} answered, {} failed; intruder → payments: {intruder} ",
            self.elapsed(),
            self.allowed,
            self.failed
        );
    }

    fn elapsed(&self) -> String {
        format!("{:>5.1}s", self.begun.elapsed().as_secs_f64())
    }

    fn good(&self, text: &str) {
        self.say(&format!("{} {text}", "✓".green()));
    }

    fn bad(&self, text: &str) {
        self.say(&format!("{} {text}", "✗".red()));
    }

    fn say(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
        println!("{text}");
    }
}

/// What another terminal needs so that its `hauberk` is this program; empty where it is already.
fn how_to_be_found() -> String {
    let Ok(own) = std::env::current_exe() else { return String::new() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    match own.parent() {
        Some(folder) if !is_found(&own, &path) => format!("\n  PATH=\"{}:$PATH\"\n", folder.display()),
        _ => String::new(),
    }
}

/// Whether a shell with this `PATH` takes `hauberk` for the program `own`.
fn is_found(own: &Path, path: &OsStr) -> bool {
    let first =
        std::env::split_paths(path).map(|folder| folder.join("hauberk")).find(|found| found.is_file());
    first.and_then(|found| found.canonicalize().ok()) == own.canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_program_of_the_path_is_the_one_that_a_shell_takes() {
        let folder = tempfile::tempdir().unwrap();
        let own = |name: &str| folder.path().join(name).join("hauberk");
        for name in ["ours", "theirs"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(own(name), name).unwrap();
        }
        let path =
            |names: &[&str]| std::env::join_paths(names.iter().map(|name| folder.path().join(name))).unwrap();
        assert!(is_found(&own("ours"), &path(&["none", "ours", "theirs"])));
        assert!(!is_found(&own("ours"), &path(&["theirs", "ours"])));
        assert!(!is_found(&own("ours"), OsStr::new("")));
    }
}
