//! Waiting until a change is enforced, and who holds it up.

use hauberk_integration_tests::{AgentOptions, MeshBox, binary, dial};
use hauberk_tls::KeyPair;
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::shop::SMALL_SHOP;

/// Runs a command that waits in vain, and checks that it says for whom and what to do.
fn held_up(mesh: &MeshBox, arguments: &[&str], input: &str, instance: &str, acknowledged: &str) {
    let output = mesh.hauberk_with_input(arguments, input);
    assert_eq!(output.code, 1, "{arguments:?}: {output:?}");
    let row = output.stderr.lines().find(|line| line.starts_with(instance));
    let row = row.unwrap_or_else(|| panic!("{instance} is not named:\n{}", output.stderr));
    for words in ["/mesh/shop/node/web", "not connected", acknowledged, "in "] {
        assert!(row.contains(words), "{words:?} is missing: {row}");
    }
    let advice = format!(
        "  {instance}: start it again with its state directory; one that does not come back, `hauberk revoke instance \
         {instance}`, or wait: until "
    );
    let advice = output.stderr.lines().find(|line| line.starts_with(&advice));
    let advice = advice.unwrap_or_else(|| panic!("no advice:\n{}", output.stderr));
    assert!(advice.contains("its certificate expires at 20"), "{advice}");
    assert!(output.stderr.contains("error: after 1s, 0 of 1 instance enforce revision"), "{}", output.stderr);
}

#[test]
fn an_instance_that_never_connected_is_named_with_what_to_do() {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let token = dial::token(&mesh, "web", &[]);
    let key = KeyPair::generate().unwrap();
    let joined = Runtime::new().unwrap().block_on(dial::attest(&mesh, &token, &key)).unwrap();

    let held_up =
        |arguments: &[&str], input| held_up(&mesh, arguments, input, &joined.instance_id, "nothing known");
    held_up(&["wait", "--timeout", "1s"], "");
    // Of a revision it is waited for all, whichever mesh the variable means; of none, for that one.
    let of_bank = |arguments: &[&str]| {
        let mut hauberk = std::process::Command::new(binary("hauberk"));
        hauberk.args(arguments).env("HAUBERK_HOME", mesh.cli_home()).env("HAUBERK_MESH", "bank");
        let output = hauberk.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    mesh.apply("kind: Mesh\nname: bank\nspec: {}\n");
    assert_eq!(of_bank(&["wait", "--revision", "1", "--timeout", "1s"]).0, Some(1));
    assert_eq!(of_bank(&["wait", "--revision", "1", "--mesh", "bank", "--timeout", "1s"]).0, Some(0));
    assert_eq!(of_bank(&["wait", "--timeout", "1s"]).0, Some(0));
    mesh.hauberk(&["delete", "mesh", "bank"]).ok();
    let (code, said) = of_bank(&["wait", "--timeout", "1s"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("mesh bank does not exist, and has no live instances"), "{said}");
    let more = "kind: VirtualNode\nmesh: shop\nname: more\nspec: {}\n";
    held_up(&["apply", "-f", "-", "--wait=1s"], more);
    held_up(&["allow", "intruder", "orders", "--wait=1s"], "");
    // What stands already is waited for all the same.
    held_up(&["allow", "intruder", "orders", "--wait=1s"], "");
    mesh.hauberk(&["allow", "intruder", "orders"]).ok();
    mesh.hauberk(&["get", "policy", "allow-intruder-to-orders"]).ok();

    // It may run somewhere, with a view of a control plane that is no more.
    mesh.hauberk(&["delete", "virtualnode", "web"]).ok();
    not_dismissed(&mesh, &joined.instance_id);
}

#[test]
fn an_authority_is_activated_once_whoever_does_not_come_back_is_revoked() {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let token = dial::token(&mesh, "web", &[]);
    let key = KeyPair::generate().unwrap();
    let joined = Runtime::new().unwrap().block_on(dial::attest(&mesh, &token, &key)).unwrap();
    let prepared = mesh.hauberk(&["authority", "prepare", "root"]).ok().stdout;
    let serial = prepared.split(['/', ' ']).nth(1).unwrap_or_else(|| panic!("{prepared}"));
    let activate = |more: &[&str]| mesh.hauberk(&[&["authority", "activate", serial], more].concat());

    let refused = activate(&[]);
    assert!(refused.code == 1 && !refused.stderr.contains("nothing is activated yet"), "{refused:?}");
    let waited = activate(&["--wait=1s"]);
    assert_eq!(waited.code, 1, "{waited:?}");
    let revoke = format!("`hauberk revoke instance {}`", joined.instance_id);
    for words in ["after 1s, 0 of 1", "waiting for web", "nothing is activated yet", revoke.as_str()] {
        assert!(waited.stderr.contains(words), "{words}: {waited:?}");
    }
    mesh.hauberk(&["revoke", "instance", &joined.instance_id, "--wait=20s"]).ok();
    let activated = activate(&["--wait=60s"]).ok();
    assert!(activated.stdout.contains("active"), "{activated:?}");
}

#[test]
fn one_that_goes_on_by_itself_can_be_activated_by_hand_too() {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let token = dial::token(&mesh, "web", &[]);
    let key = KeyPair::generate().unwrap();
    let joined = Runtime::new().unwrap().block_on(dial::attest(&mesh, &token, &key)).unwrap();
    let rotated = mesh.hauberk(&["authority", "rotate", "root"]).ok().stdout;
    let serial = rotated.split(['/', ' ']).nth(1).unwrap_or_else(|| panic!("{rotated}"));
    // Whichever is faster once nobody is late any longer, the command or the control plane: it is active.
    let activated = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| mesh.hauberk(&["authority", "activate", serial, "--wait=60s"]));
        mesh.hauberk(&["revoke", "instance", &joined.instance_id, "--wait=20s"]).ok();
        waiting.join().unwrap().ok()
    });
    assert!(activated.stdout.contains(&format!("authority/{serial} active")), "{activated:?}");
}

/// Waits in vain for a live instance of a deleted node, and checks that it is named with what to do.
fn not_dismissed(mesh: &MeshBox, instance: &str) {
    let output = mesh.hauberk(&["wait", "--timeout", "1s"]);
    assert_eq!(output.code, 1, "{output:?}");
    let row = output.stderr.lines().find(|line| line.starts_with(instance));
    assert!(
        row.is_some_and(|row| row.contains("its virtual node or gateway was deleted")),
        "{}",
        output.stderr
    );
    let advice = format!(
        "  {instance}: make sure that its agent is stopped and `hauberk revoke instance {instance}`, or wait: until its \
         certificate expires at 20"
    );
    assert!(output.stderr.lines().any(|line| line.starts_with(&advice)), "{}", output.stderr);
}

#[test]
fn a_deletion_is_enforced_once_its_agents_deny_everything() {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let web = mesh.agent("web", AgentOptions::default());
    mesh.wait_enforced();
    let listed = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    let instance = listed["items"][0]["id"].as_str().unwrap_or_else(|| panic!("{listed}"));
    // It hears nothing.
    web.process.signal(Signal::STOP);
    mesh.hauberk(&["delete", "virtualnode", "web"]).ok();
    not_dismissed(&mesh, instance);
    web.process.signal(Signal::CONT);
    mesh.wait_enforced();
    assert!(web.process.log().contains("node_deleted"), "{}", web.process.log());
}

#[test]
fn after_a_restart_instances_are_unknown_until_they_come_back() {
    let mut mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let web = mesh.agent("web", AgentOptions::default());
    mesh.wait_enforced();
    let before = mesh.hauberk_json(&["get", "instances", "-o", "json"])["items"][0].clone();
    let instance = before["id"].as_str().unwrap_or_else(|| panic!("{before}"));
    web.process.signal(Signal::STOP);
    mesh.restart_control_plane();
    held_up(&mesh, &["wait", "--timeout", "1s"], "", instance, "nothing known");
    // What it holds is what is wanted: it says so, and is sent nothing.
    let accepted = || web.process.log().matches("view_accepted").count();
    let views = accepted();
    web.process.signal(Signal::CONT);
    mesh.wait_enforced();
    let after = mesh.hauberk_json(&["get", "instances", "-o", "json"])["items"][0].clone();
    assert_eq!(after["enforcedRevision"], before["enforcedRevision"]);
    assert_eq!(accepted(), views);
}

#[test]
fn an_instance_that_went_away_is_named_with_what_it_holds() {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let mut web = mesh.agent("web", AgentOptions::default());
    mesh.wait_enforced();
    web.process.kill();
    let listed = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    let instance = listed["items"][0]["id"].as_str().unwrap_or_else(|| panic!("{listed}"));
    let revision = listed["items"][0]["enforcedRevision"].as_u64().unwrap_or_else(|| panic!("{listed}"));

    // It needs nothing new as long as nothing new concerns it.
    mesh.apply("kind: VirtualNode\nmesh: shop\nname: more\nspec: {}\n");
    mesh.wait_enforced();
    // Without its backends.
    let changed = "kind: VirtualNode\nmesh: shop\nname: web\nspec: {}\n";
    let acknowledged = format!("revision {revision} ");
    held_up(&mesh, &["apply", "-f", "-", "--wait=1s"], changed, instance, &acknowledged);
    web.restart(mesh.folder());
    mesh.wait_enforced();
}
