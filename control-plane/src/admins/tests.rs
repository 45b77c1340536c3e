use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::registry::{REMEMBERED_WRITES, Version};
use crate::revocation::Target;
use crate::testing::{Busy, actor, request, scratch, scratch_over};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

#[tokio::test]
async fn a_login_token_is_good_for_one_key() {
    let scratch = scratch().await;
    let admins = &scratch.control.admins;
    let login =
        admins.create(&name("ada"), &[Role::Editor, Role::Viewer, Role::Editor], &actor()).await.unwrap();
    assert_eq!(login.admin.record.roles, [Role::Viewer, Role::Editor]);
    assert!(matches!(
        admins.create(&name("ada"), &[Role::Viewer], &actor()).await,
        Err(AdminError::Exists(_))
    ));
    assert!(matches!(admins.create(&name("bob"), &[], &actor()).await, Err(AdminError::NoRoles)));
    let (_, csr) = request();
    let credential = admins.login(login.secret.reveal(), &csr, "s").await.unwrap();
    assert_eq!(credential.issued.svid.id().as_str(), "spiffe://shop.local/admin/ada");
    let life = credential.issued.svid.validity().not_after().since(scratch.clock.now());
    assert!(life > CREDENTIAL_TTL - Duration::from_secs(2) && life <= CREDENTIAL_TTL);
    let other = admins.login(login.secret.reveal(), &request().1, "s").await;
    assert!(matches!(other, Err(AdminError::UnknownLogin)));
    // The answer may have been lost.
    let again = admins.login(login.secret.reveal(), &csr, "s").await.unwrap();
    admins.authenticate(&scratch.peer(&again.issued.svid)).await.unwrap();
    let other = admins.login(login.secret.reveal(), &request().1, "s").await;
    assert!(matches!(other, Err(AdminError::UnknownLogin)));
    let peer = scratch.peer(&credential.issued.svid);
    assert_eq!(admins.authenticate(&peer).await.unwrap().name, name("ada"));

    // What was revoked is not given anew.
    let revoked = Target::Serial(again.issued.svid.serial());
    scratch.control.revocations.revoke(&revoked, &actor()).await.unwrap();
    let again = admins.login(login.secret.reveal(), &csr, "s").await;
    assert!(matches!(again, Err(AdminError::UnknownLogin)));

    let late = admins.create(&name("eve"), &[Role::Viewer], &actor()).await.unwrap();
    scratch.clock.advance(Duration::from_secs(601));
    assert!(matches!(admins.login(late.secret.reveal(), &csr, "s").await, Err(AdminError::LoginExpired)));
    assert!(matches!(admins.login(login.secret.reveal(), &csr, "s").await, Err(AdminError::LoginExpired)));
    assert_eq!(admins.prune(scratch.clock.now()).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_hold_a_login_token_one_comes_in() {
    let scratch = Arc::new(scratch().await);
    let login = scratch.control.admins.create(&name("ada"), &[Role::Viewer], &actor()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    let (key, own) = request();
    let again = CertificateRequest::create(&key).unwrap();
    let csrs = (0..64).map(|_| request().1);
    for csr in csrs {
        let (scratch, secret) = (Arc::clone(&scratch), login.secret.reveal().to_owned());
        tasks.spawn(async move { scratch.control.admins.login(&secret, &csr, "s").await });
    }
    let (winners, losers): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((winners.len(), losers.len()), (1, 63));
    assert!(losers.into_iter().all(|loser| matches!(loser, Err(AdminError::UnknownLogin))));
    // All who ask with one key are the same one, and ask only so often.
    let login = scratch.control.admins.create(&name("bob"), &[Role::Viewer], &actor()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for csr in std::iter::repeat_n([own, again], 16).flatten() {
        let (scratch, secret) = (Arc::clone(&scratch), login.secret.reveal().to_owned());
        tasks.spawn(async move { scratch.control.admins.login(&secret, &csr, "s").await });
    }
    let (came_in, refused): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(came_in.len(), 1 + RENEWALS_AT_ONCE as usize);
    assert!(refused.into_iter().all(|refused| matches!(refused, Err(AdminError::TooOften { .. }))));
}

#[tokio::test]
async fn many_credentials_for_one_admin_are_issued_at_once() {
    let scratch = scratch().await;
    let (admins, ada) = (&scratch.control.admins, name("ada"));
    let issue = async || {
        let csr = request().1;
        admins.issue_locally(&ada, &[Role::Viewer], &csr, &actor()).await
    };
    let issued = futures_util::future::join_all((0..12).map(|_| issue())).await;
    let issued: Vec<_> = issued.into_iter().map(Result::unwrap).collect();
    for credential in &issued {
        let peer = scratch.peer(&credential.issued.svid);
        assert_eq!(admins.authenticate(&peer).await.unwrap().record.roles, [Role::Viewer]);
    }
    let renew = async |credential: &Credential| {
        admins.renew(&ada, credential.issued.svid.serial(), &request().1, &actor()).await
    };
    for renewed in futures_util::future::join_all(issued.iter().map(renew)).await {
        renewed.unwrap();
    }
}

#[tokio::test]
async fn a_deleted_admin_is_refused_at_once_and_stays_so_under_the_same_name() {
    let scratch = scratch().await;
    let admins = &scratch.control.admins;
    let (_, csr) = request();
    admins.issue_locally(&name("root"), &[Role::Owner], &csr, &actor()).await.unwrap();
    let credential = admins.issue_locally(&name("ada"), &[Role::Editor], &csr, &actor()).await.unwrap();
    let peer = scratch.peer(&credential.issued.svid);
    admins.authenticate(&peer).await.unwrap();
    let dismissed = admins.dismissal_of(&peer).unwrap();
    assert!(matches!(admins.delete("ada", &actor()).await, Err(AdminError::Oneself)));
    let boss = Actor { name: "spiffe://shop.local/admin/root".into(), source: "s".into() };
    admins.delete("ada", &boss).await.unwrap();
    assert!(dismissed.is_cancelled(), "open connections are cut");
    assert!(matches!(admins.authenticate(&peer).await, Err(AdminError::Stale)));
    assert!(matches!(admins.delete("ada", &boss).await, Err(AdminError::NoSuchAdmin(_))));
    let login = admins.create(&name("ada"), &[Role::Editor], &actor()).await.unwrap();
    assert!(matches!(admins.authenticate(&peer).await, Err(AdminError::Stale)));
    admins.delete("ada", &boss).await.unwrap();
    let after = admins.login(login.secret.reveal(), &csr, "s").await;
    assert!(matches!(after, Err(AdminError::UnknownLogin)));
    assert!(matches!(admins.delete("root", &actor()).await, Err(AdminError::LastOwner(_))));
}

#[tokio::test]
async fn connections_are_cut_once_a_deletion_is_written_whoever_waits_for_its_answer() {
    let scratch = scratch().await;
    let admins = Arc::clone(&scratch.control.admins);
    let mut dismissals = Vec::new();
    for who in ["ada", "bob"] {
        let credential = admins.issue_locally(&name(who), &[], &request().1, &actor()).await.unwrap();
        dismissals.push(admins.dismissal_of(&scratch.peer(&credential.issued.svid)).unwrap());
    }
    let stop = CancellationToken::new();
    let mut following = tokio::task::JoinSet::new();
    following.spawn({
        let (admins, stop) = (Arc::clone(&admins), stop.clone());
        let changes = admins.changes().await.unwrap();
        async move { admins.follow(changes, stop).await }
    });
    // As the call of one who has hung up leaves it.
    scratch.control.store.commit(Commit::new().delete(admin_key(&name("ada")))).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), dismissals[0].cancelled()).await.unwrap();
    assert!(!dismissals[1].is_cancelled(), "nobody else's");

    // One who is made anew before the deletion is followed is another, and stays.
    let boss = Actor { name: "spiffe://shop.local/admin/root".into(), source: "s".into() };
    admins.issue_locally(&name("root"), &[Role::Owner], &request().1, &actor()).await.unwrap();
    let late = admins.changes().await.unwrap();
    stop.cancel();
    following.join_next().await.unwrap().unwrap();
    admins.delete("bob", &boss).await.unwrap();
    assert!(dismissals[1].is_cancelled());
    let anew = admins.issue_locally(&name("bob"), &[], &request().1, &actor()).await.unwrap();
    let anew = admins.dismissal_of(&scratch.peer(&anew.issued.svid)).unwrap();
    let after = admins.issue_locally(&name("eve"), &[], &request().1, &actor()).await.unwrap();
    let after = admins.dismissal_of(&scratch.peer(&after.issued.svid)).unwrap();
    scratch.control.store.commit(Commit::new().delete(admin_key(&name("eve")))).await.unwrap();
    let stop = CancellationToken::new();
    following.spawn({
        let (admins, stop) = (Arc::clone(&admins), stop.clone());
        async move { admins.follow(late, stop).await }
    });
    tokio::time::timeout(Duration::from_secs(30), after.cancelled()).await.unwrap();
    assert!(!anew.is_cancelled());
    stop.cancel();
    following.join_all().await;
}

/// The follower may be faster than whoever has deleted.
#[tokio::test]
async fn one_who_is_made_anew_stays_where_the_deletion_is_obeyed_late() {
    let scratch = scratch().await;
    let admins = &scratch.control.admins;
    admins.issue_locally(&name("ada"), &[], &request().1, &actor()).await.unwrap();
    let mut changes = admins.changes().await.unwrap();
    let deletion = Commit::new().delete(admin_key(&name("ada")));
    let deleted = scratch.control.store.commit(deletion).await.unwrap().version;
    admins.dismissals.follow(&changes.next().await.unwrap());
    let anew = admins.issue_locally(&name("ada"), &[], &request().1, &actor()).await.unwrap();
    let anew = admins.dismissal_of(&scratch.peer(&anew.issued.svid)).unwrap();
    admins.dismissals.dismiss(&name("ada"), deleted);
    assert!(!anew.is_cancelled());
    admins.dismissals.dismiss(&name("ada"), Version(deleted.0 + 2));
    assert!(anew.is_cancelled());
}

#[tokio::test]
async fn where_deletions_may_have_been_missed_whoever_is_an_admin_connects_again() {
    let scratch = scratch().await;
    let admins = Arc::clone(&scratch.control.admins);
    let credential = admins.issue_locally(&name("ada"), &[], &request().1, &actor()).await.unwrap();
    let dismissed = admins.dismissal_of(&scratch.peer(&credential.issued.svid)).unwrap();
    let changes = admins.changes().await.unwrap();
    for _ in 0..2 {
        let numbers = 0..REMEMBERED_WRITES;
        let filler = numbers.fold(Commit::new(), |commit, number| commit.put(format!("x/{number}"), "x"));
        scratch.control.store.commit(filler).await.unwrap();
    }
    let stop = CancellationToken::new();
    let mut following = tokio::task::JoinSet::new();
    following.spawn({
        let (admins, stop) = (Arc::clone(&admins), stop.clone());
        async move { admins.follow(changes, stop).await }
    });
    tokio::time::timeout(Duration::from_secs(30), dismissed.cancelled()).await.unwrap();
    stop.cancel();
    following.join_all().await;
}

#[tokio::test]
async fn who_cannot_be_deleted_for_others_changes_is_said_to_be_there() {
    let mut busy = None;
    let scratch = scratch_over(|store| Arc::clone(busy.insert(Busy::new(store)))).await;
    let (admins, busy) = (&scratch.control.admins, busy.unwrap());
    admins.issue_locally(&name("ada"), &[Role::Viewer], &request().1, &actor()).await.unwrap();
    let key = admin_key(&name("ada"));
    let record = scratch.control.store.get(&key).await.unwrap().unwrap().value;
    let boss = Actor { name: "spiffe://shop.local/admin/root".into(), source: "s".into() };
    for _ in 0..ATTEMPTS {
        busy.before_next(Commit::new().put(key.clone(), record.clone()));
    }
    let contended = admins.delete("ada", &boss).await.unwrap_err();
    assert!(contended.is_conflict(), "{contended}");
    assert_eq!(crate::rpc::status::of_admin(&contended).code(), tonic::Code::Aborted);
    admins.delete("ada", &boss).await.unwrap();
}

#[tokio::test]
async fn who_copies_a_credentials_serial_number_by_another_authority_is_no_admin() {
    let scratch = scratch().await;
    let admins = &scratch.control.admins;
    let credential = admins.issue_locally(&name("ada"), &[], &request().1, &actor()).await.unwrap();
    let peer = scratch.peer(&credential.issued.svid);
    let copied = scratch.copied(&peer).await;
    assert_eq!((copied.id(), copied.serial()), (peer.id(), peer.serial()));
    admins.authenticate(&peer).await.unwrap();
    assert!(matches!(admins.authenticate(&copied).await, Err(AdminError::Stale)));
}

#[tokio::test]
async fn credentials_are_renewed_and_expire() {
    let scratch = scratch().await;
    let admins = &scratch.control.admins;
    let (_, csr) = request();
    let first = admins.issue_locally(&name("ada"), &[], &csr, &actor()).await.unwrap();
    assert_eq!(first.admin.record.roles, [Role::Owner]);
    let roles = admins.issue_locally(&name("ada"), &[Role::Viewer], &csr, &actor()).await;
    assert!(matches!(roles, Err(AdminError::OtherRoles(_))));
    scratch.clock.advance(Duration::from_secs(7 * 3_600));
    let renewed = admins.renew(&name("ada"), former(), &csr, &actor()).await.unwrap();
    admins.authenticate(&scratch.peer(&renewed.issued.svid)).await.unwrap();
    let peer = scratch.peer(&first.issued.svid);
    scratch.clock.advance(Duration::from_secs(6 * 3_600));
    assert!(matches!(admins.authenticate(&peer).await, Err(AdminError::Stale)));
    assert_eq!(
        admins.list().await.unwrap()[0].record.credential_not_after,
        Some(renewed.issued.svid.validity().not_after().0)
    );
}

#[test]
fn a_context_is_added_beside_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("home/contexts.toml");
    let context = |server: &str| Context {
        server: server.into(),
        trust_domain: "shop.local".into(),
        bundle_pem: "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n".into(),
        certificate_pem: "c".into(),
        key_pem: "k".into(),
        admin: "admin".into(),
    };
    add_context(&path, "shop.local", &context("one:1")).unwrap();
    add_context(&path, "demo", &context("two:2")).unwrap();
    add_context(&path, "shop.local", &context("three:3")).unwrap();
    let table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    assert_eq!(table["current"].as_str(), Some("shop.local"));
    assert_eq!(table["contexts"]["demo"]["server"].as_str(), Some("two:2"));
    assert_eq!(table["contexts"]["shop.local"]["server"].as_str(), Some("three:3"));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::write(&path, "current = 1\ncontexts = 2\n").unwrap();
    assert!(matches!(add_context(&path, "demo", &context("x:1")), Err(ContextFileError::NotOurs { .. })));
}

#[tokio::test]
async fn an_admin_renews_only_so_often() {
    let scratch = scratch().await;
    let admins = &scratch.control.admins;
    let (_, csr) = request();
    for who in ["ada", "bob"] {
        admins.issue_locally(&name(who), &[], &csr, &actor()).await.unwrap();
    }
    for _ in 0..20 {
        admins.renew(&name("ada"), former(), &csr, &actor()).await.unwrap();
    }
    let refused = admins.renew(&name("ada"), former(), &csr, &actor()).await;
    assert!(matches!(refused, Err(AdminError::TooOften { .. })));
    admins.renew(&name("bob"), former(), &csr, &actor()).await.unwrap();
    scratch.clock.advance(Duration::from_secs(36 * 60));
    admins.renew(&name("ada"), former(), &csr, &actor()).await.unwrap();
}

fn former() -> Serial {
    Serial::from_random([9; 16])
}
