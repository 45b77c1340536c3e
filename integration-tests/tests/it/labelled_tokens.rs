//! Join tokens with labels: what their bearers become is for an enrollment to say.

use std::{collections::HashMap, fs, time::Duration};

use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, dial};
use hauberk_proto::admin::v1::{CreateTokenRequest, identities_client::IdentitiesClient};
use hauberk_tls::KeyPair;
use tonic::Code;

use crate::enrollment::{ORDERS, shop, svid};

fn fleet(rules: &[(&str, &[&str])]) -> String {
    let rules = rules.iter().map(|(node, labels)| {
        let selectors: Vec<_> = labels.iter().map(|label| format!("'join_token:label:{label}'")).collect();
        format!(
            "\n    - {{virtualNode: {node}, selectors: [{}], x509Ttl: {{value: 300, unit: s}}, dnsNames: [{node}.box.example]}}",
            selectors.join(", ")
        )
    });
    let rules: String = rules.collect();
    format!(
        "kind: Enrollment\nmesh: shop\nname: fleet\nspec:\n  attest:\n    joinToken: {{}}\n    rules:{rules}\n"
    )
}

/// A token of the enrollment, in a file.
fn token_file(mesh: &MeshBox, labels: &[&str]) -> std::path::PathBuf {
    let file = mesh.folder().join(format!("token-{}", labels.join("-").replace('=', "_")));
    let mut arguments = vec!["token", "create", "--enrollment", "fleet", "--out", file.to_str().unwrap()];
    arguments.extend(labels.iter().flat_map(|label| ["--label", *label]));
    mesh.hauberk(&arguments).ok();
    file
}

#[test]
fn an_agent_becomes_what_the_labels_of_its_token_say_and_the_admin_sees_all_of_it() {
    let mesh = shop();
    mesh.apply(&fleet(&[("orders", &["role:orders"]), ("web", &["role:web", "env:prod"])]));
    let file = token_file(&mesh, &["role=web", "env=prod"]);
    let options = AgentOptions { token_file: Some(file), ..AgentOptions::default() };
    let _agent = mesh.agent("web", options);

    let listed = mesh.hauberk(&["token", "list"]).ok().stdout;
    assert!(listed.contains("shop/enrollment/fleet") && listed.contains("env=prod,role=web"), "{listed}");
    let listed = mesh.hauberk_json(&["token", "list", "-o", "json"]);
    assert_eq!(listed["items"][0]["labels"]["role"], "web", "{listed}");
    assert_eq!(listed["items"][0]["enrollment"], "fleet", "{listed}");
    let listed = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    assert_eq!(listed["items"][0]["node"], "web", "{listed}");
    let id = listed["items"][0]["id"].as_str().unwrap();
    let described = mesh.hauberk(&["describe", "instance", id]).ok().stdout;
    for fact in [
        "join token ",
        ", enrollment/fleet",
        "join_token:label:env:prod",
        "join_token:label:role:web",
        "DNS NAMES",
        "web.box.example",
    ] {
        assert!(described.contains(fact), "{fact}: {described}");
    }
    let described = mesh.hauberk(&["describe", "enrollment", "fleet"]).ok().stdout;
    for fact in ["join_token", "virtualnode/web, for evidence of which", "300 s", "web.box.example"] {
        assert!(described.contains(fact), "{fact}: {described}");
    }
    // As it is written it is read.
    let written = mesh.hauberk(&["get", "enrollment", "fleet", "-o", "yaml"]).ok().stdout;
    assert!(written.contains("joinToken: {}"), "{written}");
    assert!(mesh.apply(&written).stdout.contains("unchanged"));
    let refused = mesh.hauberk(&["delete", "virtualnode", "web"]);
    assert!(refused.stderr.contains("still used by enrollment \"fleet\""), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bearer_is_told_a_code_and_the_admin_which_label_is_missing() {
    let mesh = shop();
    mesh.apply(&fleet(&[("orders", &["env:prod"])]));
    let token = fs::read_to_string(token_file(&mesh, &["env=prod"])).unwrap().trim().to_owned();
    mesh.apply(&fleet(&[("orders", &["env:prod", "zone:b"])]));
    let key = KeyPair::generate().unwrap();
    let refused = dial::attest(&mesh, &token, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(hauberk_proto::refusal::reason(&refused).as_deref(), Some("NOT_ATTESTED"));
    assert!(!refused.message().contains("zone"), "{refused}");
    let log = mesh.hauberk(&["audit", "list", "--action", "enrollment.attest", "-o", "json"]).ok().stdout;
    assert!(log.contains("it lacks join_token:label:zone:b; it has join_token:label:env:prod"), "{log}");
    mesh.apply(&fleet(&[("orders", &["env:prod"])]));
    let answer = dial::attest(&mesh, &token, &key).await.unwrap();
    assert_eq!(svid(&answer).id().as_str(), ORDERS);
    let issued_at = hauberk_identity::UnixMillis(answer.certificate.as_ref().unwrap().issued_at_unix_ms);
    let life = svid(&answer).validity().not_after().since(issued_at.floor_to_second());
    assert_eq!(life, Duration::from_secs(300));
    // Others in the mesh have no say in it, and the agent's own word counts for nothing.
    mesh.hauberk(&["delete", "enrollment", "fleet"]).ok();
    let refused = dial::attest(&mesh, &token, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[test]
fn tokens_that_would_be_of_no_use_are_not_made() {
    let mesh = shop();
    mesh.apply(&fleet(&[("orders", &["env:prod"])]));
    let refused = |arguments: &[&str], why: &str| {
        let refused = mesh.hauberk(&[&["token", "create"], arguments].concat());
        assert!(refused.code != 0 && refused.stderr.contains(why), "{arguments:?}: {refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
    };
    let of_fleet = |labels: &[&'static str]| -> Vec<&'static str> {
        let labels = labels.iter().flat_map(|label| ["--label", *label]);
        ["--enrollment", "fleet"].into_iter().chain(labels).collect()
    };
    refused(&["--node", "orders", "--label", "env=prod"], "cannot be used with");
    refused(&["--node", "orders", "--enrollment", "fleet", "--label", "env=prod"], "cannot be used with");
    refused(&["--enrollment", "fleet"], "--label");
    refused(&of_fleet(&["env"]), "write NAME=VALUE");
    refused(&of_fleet(&["env=prod", "env=test"]), "is given twice");
    refused(&of_fleet(&["env=test"]), "it lacks join_token:label:env:prod; it has join_token:label:env:test");
    refused(&of_fleet(&["env:prod="]), "a label is NAME:VALUE");
    refused(&of_fleet(&["env=prod\u{1b}[31m"]), "a label is NAME:VALUE");
    refused(&of_fleet(&["env=pr\u{202e}od"]), "a label is NAME:VALUE");
    refused(&["--enrollment", "none", "--label", "env=prod"], "none");
    let many: Vec<String> = (0..33).map(|number| format!("n{number}=x")).collect();
    let many = many.iter().flat_map(|label| ["--label", label.as_str()]);
    let many: Vec<&str> = ["--enrollment", "fleet"].into_iter().chain(many).collect();
    refused(&many, "33 labels are too many: at most 32");
    assert_eq!(
        mesh.hauberk_json(&["token", "list", "-o", "json"])["items"].as_array().map(Vec::len),
        Some(0)
    );
    let log = mesh.hauberk(&["audit", "list", "--action", "token.create", "--refused", "-o", "json"]).ok();
    assert!(log.stdout.contains("enrollment shop/fleet"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_of_a_node_or_of_an_enrollment_whoever_asks() {
    let mesh = shop();
    mesh.apply(&fleet(&[("orders", &["env:prod"])]));
    let mut identities = IdentitiesClient::new(dial::channel(mesh.admin_address(), dial::admin(&mesh)));
    let label = |name: &str| HashMap::from([(name.to_owned(), "prod".to_owned())]);
    let asked = |node: &str, enrollment: &str, labels| CreateTokenRequest {
        mesh: "shop".to_owned(),
        node: node.to_owned(),
        enrollment: enrollment.to_owned(),
        labels,
        ..CreateTokenRequest::default()
    };
    for (wrong, field) in [
        (asked("orders", "fleet", label("env")), "enrollment"),
        (asked("orders", "", label("env")), "labels"),
        (asked("", "", HashMap::new()), "node"),
        (asked("", "../VirtualNode/shop/orders", label("env")), "enrollment"),
        (asked("", "fleet", HashMap::new()), "labels"),
        (asked("", "fleet", label("e\u{0}nv")), "labels"),
    ] {
        let refused = identities.create_token(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused}");
        assert!(refused.message().starts_with(&format!("{field}: ")), "{field}: {refused}");
    }
    let made = identities.create_token(asked("", "fleet", label("env"))).await.unwrap().into_inner();
    let record = made.record.unwrap();
    assert_eq!(
        (made.node.as_str(), record.node.as_str(), record.enrollment.as_str()),
        ("orders", "", "fleet")
    );
    let key = KeyPair::generate().unwrap();
    let (node, token) = (dial::token(&mesh, "orders", &[]), made.token);
    for token in [&node, &token] {
        let answer = dial::attest(&mesh, token, &key).await.unwrap();
        assert_eq!(svid(&answer).id().as_str(), ORDERS);
    }
}

#[test]
fn an_agent_whose_token_fits_nothing_stops_and_says_where_the_reason_is() {
    let mesh = shop();
    mesh.apply(&fleet(&[("orders", &["env:prod"])]));
    let file = token_file(&mesh, &["env=prod"]);
    mesh.apply(&fleet(&[("orders", &["env:test"])]));
    let mut options = AgentOptions { token_file: Some(file), ..AgentOptions::default() };
    let mut agent = Agent::spawn(&mesh, "orders", &mut options);
    let status = agent.process.wait(Duration::from_secs(30));
    assert!(!status.success(), "{}", agent.process.log());
    assert!(agent.process.log().contains("audit log says why"), "{}", agent.process.log());
}
