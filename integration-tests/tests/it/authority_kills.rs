//! The control plane is killed (kill -9) in the middle of each step that replaces an authority or a key, and right
//! after its answer: the step was taken or was not, what was answered stands, and the mesh trades on.

use std::{
    fs, thread,
    time::{Duration, Instant, SystemTime},
};

use hauberk_integration_tests::{MeshBox, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    authorities::{Trading, listed},
    shop::PATIENCE,
    upstream::Operator,
};

/// How long a step may take with restarts on its way, after which agents have to come back first.
const WITH_RESTARTS: Duration = Duration::from_secs(60);

/// When the registry was last written to.
fn written(mesh: &MeshBox) -> Option<SystemTime> {
    let files = fs::read_dir(mesh.data_dir().join("registry")).unwrap();
    files.filter_map(|file| file.ok()?.metadata().ok()?.modified().ok()).max()
}

/// What `authority list` has of one kind, by state.
fn in_state(mesh: &MeshBox, kind: &str, state: &str) -> Vec<String> {
    let found = listed(mesh);
    let found = found.iter().filter(|one| one["kind"] == kind && one["state"] == state);
    found.map(|one| one["serial"].as_str().unwrap().to_owned()).collect()
}

fn is_listed(mesh: &MeshBox, serial: &str, state: Option<&str>) -> bool {
    let is = |one: &Value| one["serial"] == serial && state.is_none_or(|state| one["state"] == state);
    listed(mesh).iter().any(is)
}

/// Takes a step with a control plane that is killed as soon as anything is written, and again once the step is taken.
fn killed_around(trading: &mut Trading, arguments: &[&str], is_taken: impl Fn(&MeshBox) -> bool) {
    let step = [&["authority"], arguments].concat();
    let mesh = &mut trading.mesh;
    let process = Pid::from_raw(mesh.control_plane().id().try_into().unwrap()).unwrap();
    let (before, asked) = (written(mesh), &*mesh);
    let answer = thread::scope(|scope| {
        let answer = scope.spawn(|| asked.hauberk(&step));
        let begun = Instant::now();
        while written(asked) == before && !answer.is_finished() && begun.elapsed() < PATIENCE {
            thread::yield_now();
        }
        kill_process(process, Signal::KILL).unwrap();
        answer.join().unwrap()
    });
    mesh.restart_control_plane();
    assert!(answer.code != 0 || is_taken(mesh), "{step:?}: it was answered, and is lost: {}", answer.stdout);
    eventually(&format!("{step:?} is taken"), WITH_RESTARTS, || {
        (is_taken(mesh) || mesh.hauberk(&step).code == 0 && is_taken(mesh)).then_some(())
    });
    mesh.restart_control_plane();
    assert!(is_taken(mesh), "{step:?}: it is lost with the process: {:?}", listed(mesh));
    for kind in ["root", "issuing", "view_key", "jwt_key"] {
        assert_eq!(in_state(mesh, kind, "active").len(), 1, "{kind}: {:?}", listed(mesh));
    }
    trading.load.wait_for(20);
}

/// The one that is in this state.
fn the(trading: &Trading, kind: &str, state: &str) -> String {
    trading.serial(kind, state)
}

#[test]
fn an_authority_is_prepared_activated_tainted_and_revoked_by_a_control_plane_that_is_killed_at_each_step() {
    let mut trading = Trading::start();
    let former = the(&trading, "issuing", "active");
    killed_around(&mut trading, &["prepare", "issuing"], |mesh| {
        in_state(mesh, "issuing", "prepared").len() == 1
    });
    let next = the(&trading, "issuing", "prepared");
    killed_around(&mut trading, &["activate", &next], |mesh| is_listed(mesh, &next, Some("active")));
    killed_around(&mut trading, &["taint", &former], |mesh| is_listed(mesh, &former, Some("tainted")));
    killed_around(&mut trading, &["revoke", &former], |mesh| is_listed(mesh, &former, Some("retired")));
    // In one step another is made, and signs.
    killed_around(&mut trading, &["taint", &next], |mesh| is_listed(mesh, &next, Some("tainted")));
    killed_around(&mut trading, &["revoke", &next], |mesh| is_listed(mesh, &next, Some("retired")));
    trading.authority(&["prepare", "issuing", "--wait=60s"]);
    trading.load.wait_for(50);
    trading.load.finish();
}

#[test]
fn what_somebody_else_signed_is_installed_and_activated_by_a_control_plane_that_is_killed_at_each_step() {
    let mut trading = Trading::start();
    let Some(operator) = Operator::open(trading.mesh.folder()) else { return };
    let out = operator.path("request.pem");
    let request = ["csr", "--out", out.to_str().unwrap()];
    killed_around(&mut trading, &request, |_| out.exists());
    let first = fs::read(&out).unwrap();
    operator.request(&trading.mesh);
    assert_eq!(fs::read(&out).unwrap(), first, "the request and its key are kept");
    operator.sign("root", "-days 90 -copy_extensions copy", "issuing.pem");
    let files = ["issuing.pem", "root.pem"].map(|name| operator.path(name).to_str().unwrap().to_owned());
    killed_around(&mut trading, &["install", &files[0], &files[1]], |mesh| {
        in_state(mesh, "root", "prepared").len() == 1
    });
    let root = the(&trading, "root", "prepared");
    killed_around(&mut trading, &["activate", &root], |mesh| is_listed(mesh, &root, Some("active")));
    operator.verifies_what_is_issued(&trading.mesh);
    trading.load.wait_for(50);
    trading.load.finish();
}

#[test]
fn keys_of_views_and_tokens_follow_and_are_revoked_by_a_control_plane_that_is_killed_at_each_step() {
    let mut trading = Trading::start();
    let former = the(&trading, "view_key", "active");
    killed_around(&mut trading, &["rotate", "view-key"], |mesh| is_listed(mesh, &former, Some("retiring")));
    killed_around(&mut trading, &["revoke", &former], |mesh| !is_listed(mesh, &former, None));

    let former = the(&trading, "jwt_key", "active");
    killed_around(&mut trading, &["prepare", "jwt-key"], |mesh| {
        in_state(mesh, "jwt_key", "prepared").len() == 1
    });
    let next = the(&trading, "jwt_key", "prepared");
    killed_around(&mut trading, &["activate", &next], |mesh| is_listed(mesh, &next, Some("active")));
    killed_around(&mut trading, &["taint", &former], |mesh| is_listed(mesh, &former, Some("tainted")));
    killed_around(&mut trading, &["revoke", &former], |mesh| !is_listed(mesh, &former, None));
    killed_around(&mut trading, &["rotate", "jwt-key"], |mesh| {
        is_listed(mesh, &next, Some("retiring")) || in_state(mesh, "jwt_key", "prepared").len() == 1
    });
    eventually("it signs by itself", WITH_RESTARTS, || {
        is_listed(&trading.mesh, &next, Some("retiring")).then_some(())
    });
    trading.load.wait_for(50);
    trading.load.finish();
}
