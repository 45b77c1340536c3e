//! A control plane that was restored from a backup, and agents that it knows nothing of.

use std::time::Duration;

use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, eventually, get};
use serde_json::Value;

use crate::{
    attestation::{Machines, showing, written},
    data_directory::{keep, put_back},
    load::Load,
    shop::{self, PATIENCE, WEB_MAY_ALL, get_until},
};

pub(crate) fn instance(agent: &Agent) -> String {
    let config = get(agent.admin(), "localhost", "/config").unwrap().body;
    let config: Value = serde_json::from_str(&config).unwrap();
    config["identity"]["instance"].as_str().unwrap_or_else(|| panic!("{config}")).to_owned()
}

/// The ids of all instances that are listed.
pub(crate) fn listed(mesh: &MeshBox) -> Vec<String> {
    let found = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    let ids = found["items"].as_array().into_iter().flatten();
    ids.map(|instance| instance["id"].as_str().unwrap().to_owned()).collect()
}

/// Says that the data directory was put back from a backup.
fn mark(mesh: &MeshBox) {
    let said =
        mesh.control_plane_command(&["restored", "--data-dir", mesh.data_dir().to_str().unwrap()]).ok();
    assert!(said.stdout.contains("box.test goes on from here as epoch "), "{said:?}");
}

/// What nobody has said to be a restore may be a certificate that somebody else has signed.
#[test]
fn a_certificate_on_no_record_is_worth_nothing_until_it_is_said_that_a_backup_was_put_back() {
    let mut mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    assert!(mesh.control_plane().stop(Duration::from_secs(25)).success());
    let backup = keep(&mesh);
    mesh.restart_control_plane();
    let app = App::start("app");
    let orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);
    let before = [&orders, &web].map(instance);

    mesh.kill_control_plane();
    put_back(&mesh, &backup);
    mesh.restart_control_plane();
    for agent in [&orders, &web] {
        let told = || {
            let log = agent.process.log();
            log.contains("has no record of this certificate") && log.contains("join_delayed")
        };
        eventually("it is told, and cannot join anew by a token that is used", PATIENCE, || {
            told().then_some(())
        });
    }
    assert_eq!(listed(&mesh), Vec::<String>::new());
    assert_eq!(get(web.outbound(), "orders", "/").unwrap().status, 200, "the last good views are in force");
    let refused = mesh.hauberk(&["audit", "list", "--refused"]).ok().stdout;
    assert!(refused.contains("hauberk-control-plane restored") && refused.contains("/node/web"), "{refused}");

    mesh.kill_control_plane();
    mark(&mesh);
    mesh.restart_control_plane();
    for agent in [&orders, &web] {
        let connected = || agent.process.log().matches("control_plane_connected").count() > 1;
        eventually("it is connected again", PATIENCE, || connected().then_some(()));
    }
    shop::remove_policy(&mesh, "all");
    // Where `orders` takes traffic is in no backup: before its agent has told, nobody is there to be called.
    get_until(&web, "orders", "/", 403);
    assert_eq!([&orders, &web].map(instance), before);
}

#[test]
fn whoever_is_on_no_record_joins_anew_at_once_and_serves_meanwhile() {
    let (mut mesh, machines) = (shop::open(), Machines::new());
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    mesh.apply(&machines.enrollment("orders", "x509pop:subject:cn:vm-1"));
    let unused = mesh.token_file("payments", &["--ttl", "1h"]);
    assert!(mesh.control_plane().stop(Duration::from_secs(25)).success());
    let backup = keep(&mesh);
    mesh.restart_control_plane();

    let app = App::start("app");
    let files = written(&mesh, "vm-1", &machines.machine("vm-1"));
    let [certificate, key] = files.each_ref().map(|file| file.to_str().unwrap());
    let mut by_evidence =
        showing("shop/machines", &["--x509pop-certificate", certificate, "--x509pop-key", key]);
    by_evidence.apps = shop::behind_orders(app.address()).apps;
    let orders = mesh.agent("orders", by_evidence);
    let by_token = AgentOptions { token_file: Some(unused), ..AgentOptions::default() };
    let payments = mesh.agent("payments", by_token.app(8080, app.address()));
    // Of this token the backup knows nothing.
    let token = mesh.token_file("web", &[]);
    let web = mesh.agent("web", AgentOptions { token_file: Some(token.clone()), ..AgentOptions::default() });
    get_until(&web, "orders", "/", 200);
    get_until(&web, "payments", "/", 200);
    let before = [&orders, &payments, &web].map(instance);

    mesh.kill_control_plane();
    put_back(&mesh, &backup);
    mark(&mesh);
    mesh.restart_control_plane();
    // Where they take traffic is in no backup either: it is known once they are connected again.
    for agent in [&orders, &payments, &web] {
        let connected = || agent.process.log().matches("control_plane_connected").count() > 1;
        eventually("it is connected again", PATIENCE, || connected().then_some(()));
    }
    let is_answered = |service| get(web.outbound(), service, "/").is_ok_and(|answer| answer.status == 200);
    eventually("a hundred calls in a row are answered", PATIENCE, || {
        (0..50).all(|_| is_answered("orders") && is_answered("payments")).then_some(())
    });
    let loads = ["orders", "payments"].map(|service| Load::start(web.outbound(), service));
    // Whoever hears of it renews its certificate.
    mesh.hauberk(&["authority", "rotate", "issuing"]).ok();
    for (agent, before) in [&orders, &payments].into_iter().zip(&before) {
        let now =
            eventually("it has joined anew", PATIENCE, || Some(instance(agent)).filter(|now| now != before));
        eventually("it is listed", PATIENCE, || listed(&mesh).contains(&now).then_some(()));
        assert!(agent.process.log().contains("joined_anew"));
    }

    let told = || web.process.log().lines().filter(|line| line.contains("join_delayed")).count();
    eventually("it says that it cannot", PATIENCE, || (told() > 0).then_some(()));
    assert_eq!(instance(&web), before[2]);
    loads.iter().for_each(|load| load.wait_for(200));
    let log = web.process.log();
    let advice = format!("hauberk token create --mesh shop --node web --out {}", token.display());
    assert!(
        log.contains(&advice) && log.contains("the control plane has no record of this instance"),
        "{log}"
    );
    assert_eq!(told(), 1, "once: {log}");
    let arguments = ["token", "create", "--mesh", "shop", "--node", "web", "--out", token.to_str().unwrap()];
    mesh.hauberk(&arguments).ok();
    let limit = Duration::from_secs(60);
    let now =
        eventually("it has joined anew", limit, || Some(instance(&web)).filter(|now| *now != before[2]));
    eventually("it is listed", PATIENCE, || listed(&mesh).contains(&now).then_some(()));
    loads.into_iter().for_each(Load::finish);
}
