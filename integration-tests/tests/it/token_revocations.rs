//! Tokens of whom everybody refuses: by the Workload API, and as users' tokens.

use hauberk_integration_tests::request;

use crate::{
    jwt_keys::{Issuing, asking, serving, token},
    restored::instance,
    shop,
    workload_tokens::validate,
};

const WAIT: &str = "--wait=20s";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_go_with_the_instance_that_they_were_minted_for_and_with_its_node() {
    let folder = tempfile::tempdir().unwrap();
    let issuing = Issuing::start(folder.path());
    let mesh = &issuing.mesh;
    shop::set_policy(mesh, "others", "permit (principal == Node::\"intruder\", action, resource);");
    let [beside_other, beside_second] =
        ["other.sock", "second.sock"].map(|name| mesh.folder().join("run").join(name));
    let other = serving(mesh, "intruder", &beside_other);
    let answers = |token: &str| request(other.outbound(), &asking(token)).unwrap().status;
    let refusal = async |token: &str| validate(&beside_other, "orders", token).await.err();
    let (first, _) = issuing.token().await;
    assert!(refusal(&first).await.is_none());
    shop::eventually_status(&other, "orders", &asking(&first), 200);

    // Whoever shows it, and wherever: its own agent has nobody to call any longer.
    mesh.hauberk(&["revoke", "instance", &instance(&issuing.web), WAIT]).ok();
    let refused = refusal(&first).await.expect("the instance is revoked");
    assert!(refused.message().contains("revoked"), "{refused}");
    assert_eq!(answers(&first), 403);

    let _second = serving(mesh, "web", &beside_second);
    let another = token(&beside_second).await;
    assert!(refusal(&another).await.is_none(), "of another instance");
    assert_eq!(answers(&another), 200);
    mesh.hauberk(&["quarantine", "node", "web", WAIT]).ok();
    let refused = refusal(&another).await.expect("the node is in quarantine");
    assert!(refused.message().contains("quarantine"), "{refused}");
    assert_eq!(answers(&another), 403);
    mesh.hauberk(&["quarantine", "node", "web", "--undo", WAIT]).ok();
    assert!(refusal(&another).await.is_none(), "until that is undone");
    assert_eq!(answers(&another), 200);
    assert_eq!(answers(&first), 403);
}
