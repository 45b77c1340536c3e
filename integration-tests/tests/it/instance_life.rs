//! `hauberk describe instance`: the whole life of an identity in one place.

use hauberk_integration_tests::dial;
use hauberk_proto::agent::v1::{SignCertificateRequest, enrollment_client::EnrollmentClient};
use hauberk_tls::{CertificateRequest, KeyPair, Svid};
use tonic::Code;

use crate::enrollment::{ORDERS, shop, svid};

#[tokio::test(flavor = "multi_thread")]
async fn a_life_is_told_from_its_token_to_its_revocation() {
    let mesh = shop();
    let token = dial::token(&mesh, "orders", &[]);
    let key = KeyPair::generate().unwrap();
    let joined = dial::attest(&mesh, &token, &key).await.unwrap();
    let (id, first) = (joined.instance_id.clone(), svid(&joined));
    // Somebody else has found the token.
    let stolen = dial::attest(&mesh, &token, &KeyPair::generate().unwrap()).await.unwrap_err();
    assert_eq!(stolen.code(), Code::PermissionDenied);
    let channel = dial::channel(mesh.agent_address(), dial::bearer(&mesh, first.clone(), &key));
    let csr = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
    let renew = async || {
        let request = SignCertificateRequest { csr: csr.clone() };
        EnrollmentClient::new(channel.clone()).sign_certificate(request).await
    };
    let renewed = renew().await.unwrap().into_inner().certificate.unwrap();
    let second = Svid::from_der(renewed.chain).unwrap();
    // Another instance of the same node, whose life is not told here.
    dial::join(&mesh, "orders").await;

    let told = mesh.hauberk(&["describe", "instance", &id]).ok().stdout;
    for part in [
        &id,
        ORDERS,
        "join token",
        "From:       127.0.0.1:",
        &first.serial().to_string(),
        "Renews:     within 3",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(told.matches(" ok ").count(), 3, "its token was made, it joined and renewed: {told}");
    assert!(told.contains("token.create") && told.contains("admin admin"), "{told}");
    assert!(told.contains("certificate.renew") && told.contains(&second.serial().to_string()), "{told}");
    assert!(told.contains("used up"), "who tried its token is told: {told}");
    assert!(!told.contains(token.trim()), "the token itself is not");
    let hash = mesh.hauberk(&["get", "tokens"]).ok().stdout;
    let by = told.lines().find_map(|line| line.strip_prefix("By:")?.split_whitespace().nth(2)).unwrap();
    assert!(hash.contains(by), "{by} of {hash}");

    mesh.hauberk(&["revoke", "instance", &id]).ok();
    let refused = renew().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let told = mesh.hauberk(&["describe", "instance", &id]).ok().stdout;
    assert_eq!(told.matches("   revoked ").count(), 2, "both certificates: {told}");
    assert!(told.contains("revoke.instance"), "{told}");
    let refusal = told.lines().find(|line| line.contains("refused") && line.contains("access.check"));
    assert!(refusal.is_some_and(|line| line.contains("revoked")), "{told}");
}

#[test]
fn nobody_is_invented() {
    let mesh = shop();
    for id in ["0123456789", "nonsense", ""] {
        let refused = mesh.hauberk(&["describe", "instance", id]);
        assert_ne!(refused.code, 0, "{refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
    }
}
