//! Programs that hold keys, and what they leave behind when they crash.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus},
};

use hauberk_integration_tests::{Excuse, excuse};
use rustix::process::{Resource, Signal, getrlimit, setrlimit};

use crate::shop::{self, PATIENCE};

fn assert_no_core(program: &str, status: ExitStatus) {
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{program}: {status}");
    assert!(!status.core_dumped(), "{program} left a core file, which holds its keys");
}

#[test]
fn nothing_that_holds_keys_leaves_a_core_file() {
    let mut limit = getrlimit(Resource::Core);
    limit.current = limit.maximum;
    setrlimit(Resource::Core, limit).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let crash = Command::new("sh").args(["-c", "kill -ABRT $$"]).current_dir(folder.path()).status().unwrap();
    if !crash.core_dumped() {
        return excuse(Excuse::Kernel, "a core file");
    }
    let mut mesh = shop::open();
    let mut agent = shop::caller(&mesh, "web");
    agent.process.signal(Signal::ABORT);
    assert_no_core("the agent", agent.process.wait(PATIENCE));
    mesh.control_plane().signal(Signal::ABORT);
    assert_no_core("the control plane", mesh.control_plane().wait(PATIENCE));
}
