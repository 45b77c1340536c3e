//! Another control plane is an admin here.

use super::*;
use crate::admins::{Context, add_context, current_context};

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_signs_for_another_whose_credential_lasts_as_long_as_it_asks() {
    let (running, _) = start().await;
    let file = running.directory.path().join("contexts.toml");
    let (name, context) = current_context(&file).unwrap();
    let server = running.addresses.admin.to_string();
    add_context(&file, &name, &Context { server, ..context }).unwrap();
    let clock = Clock::manual(Clock::system().now());
    let of = |domain| Parent::new(file.clone(), TrustDomain::parse(domain).unwrap(), clock.clone());
    let (parent, other) = (of("shop.local"), of("other.local"));
    let certificate = || current_context(&file).unwrap().1.certificate_pem;

    let told = parent.look().await.unwrap();
    assert_eq!(told.active.to_string(), running.fingerprint);
    assert_eq!(told.roots.len(), 1);
    let signed = parent.sign(&request().1).await.unwrap();
    assert_eq!((signed.len(), &signed[1]), (2, &told.roots[0]));

    let first = certificate();
    clock.advance(3 * HOUR);
    parent.look().await.unwrap();
    assert_eq!(certificate(), first, "not half of its life is over");
    clock.advance(2 * HOUR);
    parent.look().await.unwrap();
    let second = certificate();
    assert_ne!(second, first);
    parent.look().await.unwrap();

    let refused = parent.sign(b"junk").await.unwrap_err();
    assert!(matches!(&refused, ParentError::Refused { .. }), "{refused}");
    let refused = other.sign(&request().1).await.unwrap_err();
    assert!(matches!(&refused, ParentError::TrustDomain { .. }), "{refused}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = parent.look().await.unwrap_err();
    assert!(matches!(&refused, ParentError::Exposed { mode: 0o644, .. }), "{refused}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let _directory = running.stop().await;
    let refused = parent.look().await.unwrap_err();
    assert!(matches!(&refused, ParentError::Unreachable { .. }), "{refused}");
    clock.advance(13 * HOUR);
    let refused = parent.look().await.unwrap_err();
    assert!(refused.to_string().contains("hauberk-control-plane admin issue admin"), "{refused}");
}
